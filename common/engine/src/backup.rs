//! A copy of the tables as they are at one moment, for a base backup.
//!
//! SQLite copies page by page into a file of its own ([`TablesCopy::step`]). A read transaction is held from the first
//! page to the last, so all pages are of one snapshot, whatever is written meanwhile; the copy holds the LSN that its
//! rows were applied up to, as every state of the tables does. Between two steps the caller may look at its
//! interrupts, or give up.
//!
//! The file itself is never opened but by SQLite: closing any other descriptor of it would drop the locks that this
//! process's connection holds.
//!
//! While the read transaction lasts, the tables' own log can't start over. So the copy goes to a file at the disk's
//! speed, and not to a client at the client's.

use std::path::Path;
use std::time::Duration;

use wal::lsn::Lsn;

use crate::error::SqlError;
use crate::error_map::own_error;
use crate::ffi::backup::Backup;
use crate::ffi::hooks::Watch;
use crate::ffi::{Access, Db, RawError};
use crate::schema;

/// A copy under way.
#[derive(Debug)]
pub struct TablesCopy {
    backup: Backup,
    source: Db,
    destination: Db,
}

impl TablesCopy {
    /// Takes the snapshot of existing tables that is to be copied to `destination`, an empty file.
    ///
    /// # Errors
    /// SQLite's.
    pub fn begin(source: &Path, destination: &Path, busy_timeout: Duration) -> Result<TablesCopy, SqlError> {
        let begin = || -> Result<TablesCopy, RawError> {
            let source = Db::open(source, Access::ReadOnly, Watch::new())?;
            source.busy_timeout(busy_timeout);
            source.configure_safely()?;
            source.execute("BEGIN")?;
            // The snapshot is taken by the first read.
            source.execute("SELECT count(*) FROM sqlite_schema")?;
            let destination = Db::open(destination, Access::ReadWrite, Watch::new())?;
            // Whoever needs the copy syncs it; one that a crash leaves behind is removed.
            destination.execute("PRAGMA synchronous = OFF")?;
            destination.execute("PRAGMA journal_mode = OFF")?;
            let backup = Backup::begin(&source, &destination)?;
            Ok(TablesCopy { backup, source, destination })
        };
        begin().map_err(|raw| own_error(&raw))
    }

    /// Copies up to `pages` more; whether the copy is complete.
    ///
    /// # Errors
    /// SQLite's; a full disk has the SQLSTATE of one.
    pub fn step(&mut self, pages: u16) -> Result<bool, SqlError> {
        self.backup.step(pages).map_err(|raw| own_error(&raw))
    }

    /// Ends the copying, and gives the LSN that the copy's rows were applied up to.
    ///
    /// # Errors
    /// SQLite's: the copy is of no use.
    pub fn finish(self) -> Result<Lsn, SqlError> {
        let finish = || -> Result<Lsn, RawError> {
            let applied = schema::applied_lsn(&self.source)?;
            self.backup.finish(&self.destination)?;
            self.source.execute("COMMIT")?;
            Ok(applied)
        };
        finish().map_err(|raw| own_error(&raw))
    }
}
