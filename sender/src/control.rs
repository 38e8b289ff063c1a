//! The control file: who this node is and where recovery may begin.
//!
//! ```text
//! | 0 | 4 | magic "WSCF" | 4 | 4 | version | 8 | 4 | CRC-32C of what follows | 12.. | bincode |
//! ```
//!
//! Written whole by temporary file and rename, by one process at a time: `init` and `clone`, then the startup process
//! until recovery has ended, after that the checkpointer. Read once at start by the postmaster.
//!
//! Follows PostgreSQL 15 src/include/catalog/pg_control.h; differs in: the applied LSN is not here but in the tables
//! themselves, in the transaction that it belongs to.

use std::fs;
use std::io;
use std::path::Path;

use bincode::{Decode, Encode};

use crate::datadir::replace_file;

/// What the node was doing when the file was written. `pg_control`'s DBState.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, PartialEq)]
pub enum NodeState {
    /// Made by `init` or `clone`, never started.
    StartingUp,
    /// A primary that was shut down; its last record is a shutdown checkpoint.
    ShutDown,
    /// A standby that was shut down.
    ShutDownInRecovery,
    /// A primary whose recovery hasn't ended.
    InCrashRecovery,
    /// A standby at work.
    InArchiveRecovery,
    /// A primary at work.
    InProduction,
}

impl NodeState {
    /// The text of pg_controldata.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::StartingUp => "starting up",
            NodeState::ShutDown => "shut down",
            NodeState::ShutDownInRecovery => "shut down in recovery",
            NodeState::InCrashRecovery => "in crash recovery",
            NodeState::InArchiveRecovery => "in archive recovery",
            NodeState::InProduction => "in production",
        }
    }
}

/// Content of the control file.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub struct ControlFile {
    /// Same on a primary and all its standbys; made by `init`.
    pub system_identifier: u64,
    /// Bytes in a log segment; fixed by `init`.
    pub segment_size: u32,
    /// Timeline that the log is written (or followed) on.
    pub timeline: u32,
    /// See [`NodeState`].
    pub state: NodeState,
    /// Start LSN of the last checkpoint record; 0 before the first.
    pub checkpoint: u64,
    /// Redo LSN of that checkpoint: nothing at or after it may be removed. 0 = the start of the log.
    pub redo: u64,
    /// When the file was written, µs since 2000-01-01 UTC.
    pub time: i64,
}

const MAGIC: &[u8; 4] = b"WSCF";
const VERSION: u32 = 1;
const HEADER: usize = 12;
/// More than a control file of any version will need; a longer file is not one.
const SIZE_MAX: u64 = 4096;

impl ControlFile {
    /// That of a node which has never been started.
    pub fn new(system_identifier: u64, segment_size: u32, timeline: u32) -> ControlFile {
        ControlFile {
            system_identifier,
            segment_size,
            timeline,
            state: NodeState::StartingUp,
            checkpoint: 0,
            redo: 0,
            time: 0,
        }
    }

    /// Reads and checks the file.
    ///
    /// # Errors
    /// It can't be read, or isn't one (magic, version, CRC); the text names the path.
    pub fn read(path: &Path) -> io::Result<ControlFile> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("could not read file \"{}\": {error}", path.display()))
        };
        if fs::metadata(path).map_err(named)?.len() > SIZE_MAX {
            return Err(invalid(path, "it is too long"));
        }
        let bytes = fs::read(path).map_err(named)?;
        if bytes.len() < HEADER || &bytes[..4] != MAGIC {
            return Err(invalid(path, "it does not begin as one"));
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if word(4) != VERSION {
            return Err(invalid(path, &format!("its version is {}, this program knows {VERSION}", word(4))));
        }
        if word(8) != crc32c::crc32c(&bytes[HEADER..]) {
            return Err(invalid(path, "its checksum is wrong"));
        }
        let config = bincode::config::standard().with_limit::<4096>();
        match bincode::decode_from_slice(&bytes[HEADER..], config) {
            Ok((control, used)) if used == bytes.len() - HEADER => Ok(control),
            _ => Err(invalid(path, "its content can't be decoded")),
        }
    }

    /// Replaces the file durably.
    ///
    /// # Errors
    /// Those of the file system; the old file is then still there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let body =
            bincode::encode_to_vec(self, bincode::config::standard()).expect("fixed fields always encode");
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        replace_file(path, &bytes).map_err(|error| {
            io::Error::new(error.kind(), format!("could not write file \"{}\": {error}", path.display()))
        })
    }
}

fn invalid(path: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("control file \"{}\" is damaged or not a control file: {why}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_then_read_gives_the_same_and_a_flipped_bit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let mut control = ControlFile::new(0x1234_5678_9abc_def0, 1 << 20, 3);
        control.state = NodeState::InProduction;
        control.redo = 0x0100_0028;
        control.write(&path).unwrap();
        assert_eq!(ControlFile::read(&path).unwrap(), control);

        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            assert!(ControlFile::read(&path).is_err(), "byte {at}");
            fs::write(&path, &bytes[..at]).unwrap();
            assert!(ControlFile::read(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn read_of_a_missing_file_names_it() {
        let error = ControlFile::read(Path::new("/nonexistent/control")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/control"), "{error}");
    }
}
