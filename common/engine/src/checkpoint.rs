//! SQLite's checkpoints: copying the tables' own log (`state.db-wal`) into the file.
//!
//! The checkpointer process copies what it can without disturbing anybody ([`Checkpointer::passive`]); only the writer
//! may start the log over ([`crate::Writer::checkpoint_restart`]). A passive checkpoint may sync nothing: who moves
//! redo afterwards syncs the log itself.

use std::path::Path;
use std::time::Duration;

use rusqlite::ffi;

use crate::error::SqlError;
use crate::error_map::{checkpoint_error, own_error};
use crate::ffi::hooks::Watch;
use crate::ffi::{Access, Db, RawError};

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointResult {
    /// Frames (pages) in the tables' own log.
    pub log_frames: u32,
    /// Of these, frames that are in the database file now.
    pub checkpointed_frames: u32,
    /// Somebody (a reader's snapshot, the writer) kept it from doing all.
    pub busy: bool,
}

/// How long the opening waits for a lock; a passive checkpoint itself waits for nobody.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The checkpointer's connection. Opened after the startup process has opened the tables.
#[derive(Debug)]
pub struct Checkpointer {
    db: Db,
}

impl Checkpointer {
    /// Opens existing tables.
    pub fn open(path: &Path) -> Result<Checkpointer, SqlError> {
        let open = || -> Result<Db, RawError> {
            let db = Db::open(path, Access::ReadWrite, Watch::new())?;
            db.busy_timeout(BUSY_TIMEOUT);
            db.configure_safely()?;
            db.execute("PRAGMA synchronous = NORMAL")?;
            Ok(db)
        };
        let db = open().map_err(|raw| own_error(&raw))?;
        Ok(Checkpointer { db })
    }

    /// Copies what no reader and no writer holds up.
    pub fn passive(&mut self) -> Result<CheckpointResult, SqlError> {
        checkpoint(&self.db, ffi::SQLITE_CHECKPOINT_PASSIVE)
    }
}

pub(crate) fn checkpoint(db: &Db, mode: std::ffi::c_int) -> Result<CheckpointResult, SqlError> {
    let (code, log, done) = db.checkpoint(mode);
    let busy = code & 0xff == ffi::SQLITE_BUSY;
    if code != ffi::SQLITE_OK && !busy {
        return Err(checkpoint_error(&db.last_error(code)));
    }
    let frames = |count| u32::try_from(count).unwrap_or(0);
    Ok(CheckpointResult {
        log_frames: frames(log),
        checkpointed_frames: frames(done),
        busy: busy || done < log,
    })
}
