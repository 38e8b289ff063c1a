//! What all connections have in common: hostile SQL finds nothing to lean on.

use rusqlite::ffi;

use crate::ffi::{Db, RawError};

impl Db {
    /// Turns off everything that could change the file behind SQL's back, load code or run what the schema hides.
    pub(crate) fn configure_safely(&self) -> Result<(), RawError> {
        for (option, on) in [
            (ffi::SQLITE_DBCONFIG_DEFENSIVE, true),
            (ffi::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (ffi::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
            (ffi::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, false),
            (ffi::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
            (ffi::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
            // In PostgreSQL "x" is a column, never a string.
            (ffi::SQLITE_DBCONFIG_DQS_DML, false),
            (ffi::SQLITE_DBCONFIG_DQS_DDL, false),
            // The checkpointer alone says when the tables' log is copied; redo depends on it.
            (ffi::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        ] {
            self.configure(option, on)?;
        }
        self.limit(ffi::SQLITE_LIMIT_ATTACHED, 0);
        self.limit(ffi::SQLITE_LIMIT_WORKER_THREADS, 0);
        Ok(())
    }

    /// Lets the page cache have a quarter of the process' memory, at most 64 MiB: the rest is for sorting and values.
    pub(crate) fn limit_cache(&self, memory_max: usize) -> Result<(), RawError> {
        let kibibytes = (memory_max / 4 / 1024).min(64 * 1024);
        self.execute(&format!("PRAGMA cache_size = -{kibibytes}"))
    }
}
