//! Whether the machine was restarted since the log was last known to be all there.
//!
//! A crash of processes takes nothing from the log that was called durable. A restart of the machine may, on a disk that says
//! so too early, and nobody here would notice: the log just ends earlier. Where synchronous standbys are set they know better. So
//! the file `boot_id` in the data directory holds the kernel's id of the boot in which the end of the log was last
//! confirmed: by the quorum, or by this node alone where none is set. A primary that finds another id, or no file, lets no
//! session in until the quorum has confirmed the end that recovery found.
//!
//! Written by the startup process alone.

use std::fs;
use std::io;

use crate::datadir::{DataDir, replace_file};

/// The kernel's name for this boot of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether this is the boot in which the log's end was confirmed.
///
/// # Errors
/// The kernel doesn't tell its id, or the file can't be read.
pub fn is_confirmed(data: &DataDir) -> io::Result<bool> {
    match fs::read(data.boot_id()) {
        Ok(confirmed) => Ok(confirmed == fs::read(BOOT_ID)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Notes that the log's end was confirmed in this boot; nothing if that is known.
///
/// # Errors
/// Those of the file system; the next start asks the quorum again.
pub fn confirm(data: &DataDir) -> io::Result<()> {
    if is_confirmed(data)? {
        return Ok(());
    }
    replace_file(&data.boot_id(), &fs::read(BOOT_ID)?)
}
