//! A session's own connection, which only reads.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::catalog::SystemInfo;
use crate::control::Control;
use crate::error::SqlError;
use crate::rows::{Column, RowSink};

/// How a session's connection is to be.
#[derive(Clone)]
pub struct ReaderOptions {
    /// How long SQLite waits for a lock of another process.
    pub busy_timeout: Duration,
    /// Largest value, bytes (54000 beyond it).
    pub value_size_max: usize,
    /// Most bytes of memory that SQLite may use in this process (53200 beyond it).
    pub memory_max: usize,
    /// Who answers functions and views.
    pub system: Rc<dyn SystemInfo>,
}

/// The read-only connection.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// Opens existing tables.
    pub fn open(path: &Path, options: &ReaderOptions) -> Result<Reader, SqlError> {
        let _ = (path, options);
        unimplemented!()
    }
    /// The columns that a statement would return, without running it.
    pub fn describe(&mut self, sql: &str) -> Result<Vec<Column>, SqlError> {
        let _ = sql;
        unimplemented!()
    }
    /// Runs a statement (`sql::Kind::Read` or `Explain`); returns the number of rows. Nothing of it stays open.
    pub fn query(
        &mut self,
        sql: &str,
        control: &dyn Control,
        sink: &mut dyn RowSink,
    ) -> Result<u64, SqlError> {
        let _ = (sql, control, sink);
        unimplemented!()
    }
}
