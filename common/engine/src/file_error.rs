//! What SQLite could not do with a file, by the file's name.
//!
//! SQLite tells what it was doing (its extended code) and, as far as the system was asked, what the system said; which of
//! its files it was at follows from that: statements and commits write `state.db-wal` alone, a checkpoint writes
//! `state.db`, and both read both. A full disk (or quota) is told apart from everything else, whatever SQLite calls it: the
//! index of its log can't grow either, which is no `SQLITE_FULL`.

use std::ffi::c_int;
use std::io;

use rusqlite::ffi;
use wal::store::reason;

use crate::error::{SqlError, SqlState};
use crate::ffi::RawError;

/// The file that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// By a statement or a commit: the tables' own log.
    Log,
    /// By a checkpoint: the tables.
    Tables,
}

impl Written {
    fn name(self) -> &'static str {
        match self {
            Written::Log => "file \"state/state.db-wal\"",
            Written::Tables => "file \"state/state.db\"",
        }
    }
}

const INDEX: &str = "file \"state/state.db-shm\"";
const EITHER: &str = "file \"state/state.db\" or \"state/state.db-wal\"";

/// The error for SQLITE_FULL, SQLITE_IOERR and SQLITE_CANTOPEN.
pub(crate) fn file_error(raw: &RawError, written: Written) -> SqlError {
    let is_full = raw.primary_code() == ffi::SQLITE_FULL;
    let system = (raw.errno != 0).then(|| io::Error::from_raw_os_error(raw.errno));
    let kind = system.as_ref().map(io::Error::kind);
    let (operation, file) = if is_full { ("extend", written.name()) } else { failed(raw.code, written) };
    if is_full || matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
        let says = system
            .filter(|_| !is_full)
            .map_or_else(|| "No space left on device".to_owned(), |error| reason(&error));
        return SqlError::new(SqlState::DISK_FULL, format!("could not extend {file}: {says}"))
            .with_hint("Check free disk space.");
    }
    let says = system.map_or_else(|| raw.message.clone(), |error| reason(&error));
    SqlError::new(SqlState::IO_ERROR, format!("could not {operation} {file}: {says}"))
        .with_hint("Check the disk, its mount and the messages of the system's kernel.")
}

/// What was being done, to what.
fn failed(code: c_int, written: Written) -> (&'static str, &'static str) {
    match code {
        ffi::SQLITE_IOERR_WRITE => ("write to", written.name()),
        ffi::SQLITE_IOERR_TRUNCATE => ("truncate", written.name()),
        // CORRUPTFS is SQLite's name for a read that gives EIO.
        ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS => {
            ("read", EITHER)
        }
        ffi::SQLITE_IOERR_FSYNC => ("fsync", EITHER),
        ffi::SQLITE_IOERR_DIR_FSYNC => ("fsync", "directory \"state\""),
        ffi::SQLITE_IOERR_FSTAT => ("stat", EITHER),
        ffi::SQLITE_IOERR_SHMOPEN => ("open", INDEX),
        ffi::SQLITE_IOERR_SHMSIZE => ("extend", INDEX),
        ffi::SQLITE_IOERR_SHMMAP => ("map", INDEX),
        ffi::SQLITE_IOERR_SHMLOCK => ("lock", INDEX),
        code if code & 0xff == ffi::SQLITE_CANTOPEN => ("open", EITHER),
        _ => ("read or write", EITHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the system's errors, as on every Linux.
    const EIO: c_int = 5;
    const ENOSPC: c_int = 28;
    const EROFS: c_int = 30;
    const EDQUOT: c_int = 122;

    #[test]
    fn files_are_named_and_full_disks_told_apart() {
        let log = Written::Log;
        for (code, errno, written, expected) in [
            (
                ffi::SQLITE_FULL,
                0,
                log,
                "could not extend file \"state/state.db-wal\": No space left on device (53100)",
            ),
            (
                ffi::SQLITE_FULL,
                0,
                Written::Tables,
                "could not extend file \"state/state.db\": No space left on device (53100)",
            ),
            (
                ffi::SQLITE_IOERR_SHMSIZE,
                ENOSPC,
                log,
                "could not extend file \"state/state.db-shm\": No space left on device (53100)",
            ),
            (
                ffi::SQLITE_IOERR_WRITE,
                EDQUOT,
                log,
                "could not extend file \"state/state.db-wal\": Disk quota exceeded (53100)",
            ),
            (
                ffi::SQLITE_IOERR_WRITE,
                EROFS,
                log,
                "could not write to file \"state/state.db-wal\": Read-only file system (58030)",
            ),
            (
                ffi::SQLITE_IOERR_READ,
                EIO,
                log,
                "could not read file \"state/state.db\" or \"state/state.db-wal\": Input/output error (58030)",
            ),
            (
                ffi::SQLITE_IOERR_CORRUPTFS,
                0,
                log,
                "could not read file \"state/state.db\" or \"state/state.db-wal\": disk I/O error (58030)",
            ),
        ] {
            let raw = RawError { errno, ..RawError::new(code, "disk I/O error") };
            let mut error = file_error(&raw, written);
            assert!(error.hint.take().is_some());
            assert_eq!(error.to_string(), expected);
        }
    }
}
