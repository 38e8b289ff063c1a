//! The one connection that writes: the startup process' own.

use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bincode::{Decode, Encode};
use wal::lsn::Lsn;

use crate::catalog::SystemInfo;
use crate::change::ChangeRecord;
use crate::control::Control;
use crate::error::SqlError;
use crate::rows::RowSink;

/// How the writer's connection is to be.
#[derive(Clone)]
pub struct WriterOptions {
    /// How long SQLite waits for a lock of another process (a checkpoint, recovery of its log).
    pub busy_timeout: Duration,
    /// Largest value and largest row, bytes (54000 beyond it).
    pub value_size_max: usize,
    /// Most bytes of memory that SQLite may use in this process (53200 beyond it).
    pub memory_max: usize,
    /// Most bytes that one request's change record may have (54000 beyond it, before anything is logged).
    pub record_size_max: usize,
    /// Who answers functions and views inside statements that are executed here.
    pub system: Rc<dyn SystemInfo>,
}

/// What a client wants written: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct WriteRequest {
    /// `sql::Statement::sql` of each statement, in order; reads among them return their rows too.
    pub statements: Vec<String>,
}

/// A request that was executed; its savepoint stays open until the next request, `commit` or `rollback_last`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// The record's main data, to be stamped (`change::stamp`) and logged; empty: nothing changed, nothing to log.
    pub record: Vec<u8>,
    /// Rows that its statements changed directly.
    pub rows_affected: u64,
}

/// Why a record could not be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutError {
    /// The tables are not those that the record was made from.
    Diverged {
        /// What was found instead
        found: String,
    },
    /// The record is malformed.
    Malformed(String),
    /// SQLite could not (a full disk, no memory): nothing is wrong with the tables; the transaction is rolled back.
    Failed(SqlError),
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutError::Diverged { found } => write!(f, "tables diverge: {found}"),
            PutError::Malformed(what) => f.write_str(what),
            PutError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PutError {}

/// What a SQLite checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointResult {
    /// Frames in the tables' own log.
    pub log_frames: u32,
    /// Of these, frames that are in the database file now.
    pub checkpointed_frames: u32,
    /// Somebody (a reader's snapshot) kept it from doing all.
    pub busy: bool,
}

/// The read-write connection.
#[derive(Debug)]
pub struct Writer {}

impl Writer {
    /// Opens the tables, creating the file if there is none.
    pub fn open(path: &Path, options: &WriterOptions) -> Result<Writer, SqlError> {
        unimplemented!("{path:?} {:?}", options.busy_timeout)
    }
    /// Everything up to here is committed in the tables; `Lsn::INVALID` for new ones.
    pub fn applied_lsn(&self) -> Lsn {
        unimplemented!()
    }
    /// Opens the transaction if it isn't open, and puts again what was executed or put since the last commit (after a
    /// transaction was lost). Idempotent.
    pub fn begin(&mut self) -> Result<(), PutError> {
        unimplemented!()
    }
    /// Whether the transaction is open; if not (a full disk kept it from being restored), `begin` tries again.
    pub fn transaction_open(&self) -> bool {
        unimplemented!()
    }
    /// Executes a request. On an error nothing of it remains.
    pub fn execute(
        &mut self,
        request: &WriteRequest,
        control: &dyn Control,
        sink: &mut dyn RowSink,
    ) -> Result<Executed, SqlError> {
        let _ = (request, control, sink);
        unimplemented!()
    }
    /// Undoes the request executed last, when it could not be logged.
    pub fn rollback_last(&mut self) -> Result<(), PutError> {
        unimplemented!()
    }
    /// Puts the rows of a record (recovery, standby).
    pub fn put(&mut self, lsn: Lsn, record: &ChangeRecord<'_>) -> Result<(), PutError> {
        let _ = (lsn, record);
        unimplemented!()
    }
    /// Bytes of records executed or put since the last commit, kept in memory until it.
    pub fn uncommitted_bytes(&self) -> usize {
        unimplemented!()
    }
    /// Commits with this applied LSN. On an error the transaction is lost and `begin` restores it.
    pub fn commit(&mut self, applied: Lsn) -> Result<(), SqlError> {
        let _ = applied;
        unimplemented!()
    }
    /// Rolls back and forgets all since the last commit: the caller reads the log again from `applied_lsn`.
    pub fn abandon(&mut self) {
        unimplemented!()
    }
    /// Between two transactions: moves all of the tables' own log into the file so that it is written from its start
    /// again.
    pub fn checkpoint_restart(&mut self) -> Result<CheckpointResult, SqlError> {
        unimplemented!()
    }
}
