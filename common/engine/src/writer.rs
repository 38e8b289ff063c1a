//! The one connection that writes: the startup process' own.
//!
//! On a primary it executes requests, each in a savepoint of an open transaction, and says what they changed; on a
//! standby and in recovery it puts the rows of records. Both ways the transaction is committed by the caller, when the
//! horizon has passed its last record.
//!
//! ```text
//! writer.begin()?;
//! for each request {
//!     match writer.execute(&request, &control, &mut sink) {
//!         Ok(executed) if executed.record.is_empty() => …answer…
//!         Ok(executed) => log it (change::stamp first); if that fails: writer.rollback_last()?
//!         Err(error) => …answer; nothing of it is there…
//!     }
//!     if !writer.transaction_open() { …try writer.begin() again later; refuse writes meanwhile… }
//! }
//! …horizon passes…
//! writer.commit(lsn)?; writer.begin()?;
//! ```
//!
//! **Lost transactions.** `INSERT OR ROLLBACK`, `RAISE(ROLLBACK)`, an interrupted write and a full disk end the whole
//! SQLite transaction, with requests of others in it that are logged already. So the records since the last commit are
//! kept in memory and put again into a new transaction; the culprit alone gets its error. If even that fails (the disk
//! stays full), the transaction stays closed and `begin` tries again when the caller calls it.
//!
//! Invariant: what is in the open transaction is exactly what the kept records say, in their order.

mod execute;

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bincode::{Decode, Encode};
use failpoint::Site;
use rusqlite::ffi;
use wal::lsn::Lsn;

use crate::catalog::SystemInfo;
use crate::change::{ChangeRecord, Value};
use crate::checkpoint::{CheckpointResult, checkpoint};
use crate::error::SqlError;
use crate::error_map::own_error;
use crate::ffi::hooks::Watch;
use crate::ffi::statement::Statement;
use crate::ffi::{Access, Db, RawError, limit_memory};
use crate::functions;
use crate::kept::Kept;
use crate::put::Putter;
use crate::roles::{self, Asker};
use crate::schema::{self, APPLIED_TABLE, Shapes};

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

impl fmt::Debug for WriterOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterOptions")
            .field("busy_timeout", &self.busy_timeout)
            .field("value_size_max", &self.value_size_max)
            .field("memory_max", &self.memory_max)
            .field("record_size_max", &self.record_size_max)
            .finish_non_exhaustive()
    }
}

/// What a client wants written: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct WriteRequest {
    /// `sql::Statement::sql` of each statement, in order; reads among them return their rows too.
    pub statements: Vec<String>,
    /// Whose it is.
    pub asker: Asker,
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

/// Whether the connection is set for rows or for statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Triggers, foreign keys and checks off
    Put,
    /// All on, changes captured
    Execute,
}

/// Of the request executed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Savepoint {
    /// Released, rolled back or lost
    Gone,
    /// Still there
    Open {
        /// The request changed something: its record is the last one kept.
        kept: bool,
    },
}

/// The read-write connection.
#[derive(Debug)]
pub struct Writer {
    own: OwnStatements,
    putter: Putter,
    shapes: Option<Rc<Shapes>>,
    /// sqlite_sequence as it was after the last request.
    sequences: BTreeMap<String, i64>,
    kept: Kept,
    savepoint: Savepoint,
    /// The request under way or executed last has changed the schema.
    schema_changed: bool,
    /// Roles may be others since somebody asked.
    roles_changed: bool,
    /// What is kept has been put again since somebody asked.
    restored: bool,
    work: Work,
    applied: Lsn,
    record_size_max: usize,
    value_size_max: usize,
    busy_timeout: Duration,
    /// Of the tables' file, bytes.
    page_size: u64,
    db: Db,
}

/// Prepared once: they frame every request.
#[derive(Debug)]
struct OwnStatements {
    begin: Statement,
    commit: Statement,
    savepoint: Statement,
    release: Statement,
    rollback_to: Statement,
    set_applied: Statement,
    schema_version: Statement,
}

impl OwnStatements {
    fn prepare(db: &Db) -> Result<OwnStatements, RawError> {
        Ok(OwnStatements {
            begin: db.prepare_own("BEGIN IMMEDIATE")?,
            commit: db.prepare_own("COMMIT")?,
            savepoint: db.prepare_own("SAVEPOINT walship_request")?,
            release: db.prepare_own("RELEASE walship_request")?,
            rollback_to: db.prepare_own("ROLLBACK TO walship_request")?,
            set_applied: db.prepare_own(&format!("UPDATE {APPLIED_TABLE} SET lsn = ?1"))?,
            schema_version: db.prepare_own("PRAGMA schema_version")?,
        })
    }
}

impl Writer {
    /// Opens the tables, creating the file if there is none. The process opens them before any session does.
    pub fn open(path: &Path, options: &WriterOptions) -> Result<Writer, SqlError> {
        limit_memory(options.memory_max);
        Writer::open_raw(path, options).map_err(|raw| own_error(&raw))
    }

    /// From now on this process may use so many bytes for SQLite.
    ///
    /// # Errors
    /// SQLite's.
    pub fn limit_memory(&self, memory_max: usize) -> Result<(), SqlError> {
        limit_memory(memory_max);
        self.db.limit_cache(memory_max).map_err(|raw| own_error(&raw))
    }

    fn open_raw(path: &Path, options: &WriterOptions) -> Result<Writer, RawError> {
        let db = Db::open(path, Access::ReadWrite, Watch::new())?;
        db.busy_timeout(options.busy_timeout);
        db.configure_safely()?;
        for pragma in ["journal_mode = WAL", "synchronous = NORMAL"] {
            db.execute(&format!("PRAGMA {pragma}"))?;
        }
        db.limit_cache(options.memory_max)?;
        functions::register(&db, &options.system)?;
        db.execute(&format!(
            "CREATE TABLE IF NOT EXISTS {APPLIED_TABLE} (id INTEGER PRIMARY KEY CHECK (id = 1), lsn INTEGER NOT NULL)"
        ))?;
        db.execute(&format!("INSERT OR IGNORE INTO {APPLIED_TABLE} VALUES (1, 0)"))?;
        for statement in roles::SCHEMA {
            db.execute(statement)?;
        }
        let applied = schema::applied_lsn(&db)?;
        let page_size = integer(&db, "PRAGMA page_size")?;
        set_work(&db, Work::Put, options.value_size_max)?;
        Ok(Writer {
            own: OwnStatements::prepare(&db)?,
            putter: Putter::new(),
            shapes: None,
            sequences: BTreeMap::new(),
            kept: Kept::default(),
            savepoint: Savepoint::Gone,
            schema_changed: false,
            roles_changed: false,
            restored: false,
            work: Work::Put,
            applied,
            record_size_max: options.record_size_max,
            value_size_max: options.value_size_max,
            busy_timeout: options.busy_timeout,
            page_size: page_size.cast_unsigned(),
            db,
        })
    }

    /// Everything up to here is committed in the tables; `Lsn::INVALID` for new ones.
    pub fn applied_lsn(&self) -> Lsn {
        self.applied
    }

    /// Bytes of records executed or put since the last commit; they are kept in memory until it, so the caller bounds
    /// them by committing (or by not going on while it can't commit).
    pub fn uncommitted_bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// Whether roles have been executed or put, or were rolled back, since this was asked last.
    pub fn take_roles_changed(&mut self) -> bool {
        std::mem::take(&mut self.roles_changed)
    }

    /// Whether the records since the last commit have been put again, for their transaction was lost, since this was asked
    /// last. Until they are committed the next loss costs as much again.
    pub fn take_restored(&mut self) -> bool {
        std::mem::take(&mut self.restored)
    }

    /// Whether there is any role.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has_roles(&self) -> Result<bool, SqlError> {
        let count = integer(&self.db, "SELECT count(*) FROM walship_roles").map_err(|raw| own_error(&raw))?;
        Ok(count > 0)
    }

    /// Whether the transaction is open; if not (a full disk kept it from being restored), `begin` tries again.
    pub fn transaction_open(&self) -> bool {
        !self.db.autocommit()
    }

    /// Opens the transaction if it isn't open, and puts again what was executed or put since the last commit.
    pub fn begin(&mut self) -> Result<(), PutError> {
        if self.transaction_open() {
            return Ok(());
        }
        self.savepoint = Savepoint::Gone;
        self.own.begin.run(&[]).map_err(|raw| PutError::Failed(own_error(&raw)))?;
        let restored = self.put_kept();
        if restored.is_err() {
            self.rollback();
        }
        restored
    }

    fn put_kept(&mut self) -> Result<(), PutError> {
        if self.kept.is_empty() {
            return Ok(());
        }
        self.set_work(Work::Put).map_err(|raw| PutError::Failed(own_error(&raw)))?;
        self.forget_schema();
        self.restored = true;
        for changes in self.kept.iter() {
            self.putter.put(&self.db, changes)?;
        }
        Ok(())
    }

    /// Puts the rows of a record (recovery, standby). On an error the transaction is rolled back: after
    /// `PutError::Failed` the caller may `begin` again and put this record again; the others end the node.
    ///
    /// # Panics
    /// If the record is applied already, or no transaction is open.
    pub fn put(&mut self, lsn: Lsn, record: &ChangeRecord<'_>) -> Result<(), PutError> {
        assert!(lsn > self.applied, "record at {lsn} is applied already (up to {})", self.applied);
        assert!(self.transaction_open(), "begin before put");
        let put = self
            .release_last()
            .and_then(|()| self.set_work(Work::Put))
            .map_err(|raw| PutError::Failed(own_error(&raw)))
            .and_then(|()| failpoint::step(Site::TablesPut, || self.putter.put(&self.db, record.items())));
        match put {
            Ok(()) => {
                self.shapes = None;
                self.roles_changed |= self.putter.take_roles_put();
                self.kept.push(record.encoded_changes());
                Ok(())
            }
            Err(error) => {
                self.rollback();
                Err(error)
            }
        }
    }

    /// Takes back what a failed request did; if it took the transaction with it, puts the others' records again.
    fn undo_request(&mut self) {
        if self.schema_changed {
            self.forget_schema();
        }
        if self.transaction_open()
            && self.savepoint != Savepoint::Gone
            && self.rollback_to_savepoint().is_err()
        {
            self.rollback();
        }
        if !self.transaction_open() {
            // A failure leaves the transaction closed, which the caller sees and tries again.
            let _ = self.begin();
        }
    }

    fn rollback_to_savepoint(&mut self) -> Result<(), RawError> {
        self.own.rollback_to.run(&[])?;
        self.own.release.run(&[])?;
        self.savepoint = Savepoint::Gone;
        Ok(())
    }

    /// Undoes the request executed last, when it could not be logged.
    ///
    /// # Panics
    /// If the last thing done was not an `execute` that returned a record.
    pub fn rollback_last(&mut self) -> Result<(), PutError> {
        let kept = self.savepoint == Savepoint::Open { kept: true };
        assert!(kept, "only a request that was executed last and changed something can be undone");
        self.kept.pop();
        // AUTOINCREMENT's numbers go back too.
        self.forget_schema();
        self.undo_request();
        self.begin()
    }

    /// Commits with this applied LSN. On an error the transaction is lost, the tables are as after the last commit, and
    /// `begin` puts everything again.
    pub fn commit(&mut self, applied: Lsn) -> Result<(), SqlError> {
        assert!(applied >= self.applied, "applied LSN {applied} would go back from {}", self.applied);
        let commit = self
            .release_last()
            .and_then(|()| self.own.set_applied.run(&[Value::Integer(applied.0.cast_signed())]))
            .and_then(|()| failpoint::step(Site::TablesCommit, || self.own.commit.run(&[])));
        if let Err(raw) = commit {
            self.rollback();
            return Err(own_error(&raw));
        }
        self.kept.clear();
        self.applied = applied;
        Ok(())
    }

    /// Commits only the first `count` of the records since the last commit, with this applied LSN, and puts the others again
    /// into a new transaction. For when the horizon stays between them while somebody has to see the first ones.
    ///
    /// On an error nothing is committed, or only the first ones are; the transaction may be lost, and `begin` puts again
    /// what is not committed.
    ///
    /// # Errors
    /// [`PutError::Failed`]: SQLite could not (a full disk). Others end the node.
    pub fn commit_first(&mut self, count: usize, applied: Lsn) -> Result<(), PutError> {
        let later = self.kept.split_off(count);
        self.rollback();
        let committed = self.begin().and_then(|()| self.commit(applied).map_err(PutError::Failed));
        // After a commit nothing is kept, so the later ones are all.
        self.kept.append(&later);
        match committed {
            Ok(()) => self.begin(),
            Err(error) => {
                self.rollback();
                Err(error)
            }
        }
    }

    /// Rolls back and forgets all since the last commit: the caller reads the log again from `applied_lsn`.
    pub fn abandon(&mut self) {
        self.rollback();
        self.kept.clear();
    }

    fn rollback(&mut self) {
        self.savepoint = Savepoint::Gone;
        self.forget_schema();
        if self.transaction_open() {
            // ROLLBACK itself doesn't fail but for a broken connection, and then the next BEGIN says so.
            let _ = self.db.execute("ROLLBACK");
        }
    }

    /// What was known of the tables may not be so any more: it is read again when it is needed.
    fn forget_schema(&mut self) {
        self.schema_changed = false;
        self.shapes = None;
        self.putter.forget();
    }

    fn release_last(&mut self) -> Result<(), RawError> {
        if self.savepoint != Savepoint::Gone {
            self.own.release.run(&[])?;
            self.savepoint = Savepoint::Gone;
        }
        Ok(())
    }

    fn set_work(&mut self, work: Work) -> Result<(), RawError> {
        if self.work != work {
            set_work(&self.db, work, self.value_size_max)?;
            self.work = work;
        }
        Ok(())
    }

    /// Between two transactions: moves all of the tables' own log into the file so that it is written from its start
    /// again. Doesn't wait for readers: `busy` says that one was in the way.
    pub fn checkpoint_restart(&mut self) -> Result<CheckpointResult, SqlError> {
        self.checkpoint(ffi::SQLITE_CHECKPOINT_RESTART)
    }

    /// As [`Writer::checkpoint_restart`], and gives the room that the log had back to the disk.
    pub fn checkpoint_truncate(&mut self) -> Result<CheckpointResult, SqlError> {
        self.checkpoint(ffi::SQLITE_CHECKPOINT_TRUNCATE)
    }

    /// From now on the file of the tables' own log is cut to so many bytes when it starts over: what one huge transaction
    /// made of it does not keep its room for ever.
    pub fn limit_log_file(&self, bytes: u64) -> Result<(), SqlError> {
        self.db
            .execute(&format!("PRAGMA journal_size_limit = {}", bytes.min(i64::MAX.cast_unsigned())))
            .map_err(|raw| own_error(&raw))
    }

    fn checkpoint(&mut self, mode: c_int) -> Result<CheckpointResult, SqlError> {
        assert!(!self.transaction_open(), "checkpoint between two transactions");
        self.db.busy_timeout(Duration::ZERO);
        let result = failpoint::step(Site::TablesRestart, || checkpoint(&self.db, mode));
        self.db.busy_timeout(self.busy_timeout);
        if result.as_ref().is_ok_and(|result| !result.busy) {
            self.db.watch().set_wal_frames(0);
        }
        result
    }

    /// Bytes of the tables' own log that are in use as of the last commit. (The file may be larger: see
    /// [`Writer::limit_log_file`].)
    pub fn wal_size(&self) -> u64 {
        u64::from(self.db.watch().wal_frames()) * (self.page_size + WAL_FRAME_HEADER_SIZE)
    }
}

/// What precedes each page in SQLite's log.
const WAL_FRAME_HEADER_SIZE: u64 = 24;

/// The number that a query of ours gives; 0 for none.
fn integer(db: &Db, sql: &str) -> Result<i64, RawError> {
    let mut statement = db.prepare_own(sql)?;
    statement.step()?;
    Ok(match statement.column(0) {
        Value::Integer(number) => number,
        _ => 0,
    })
}

/// Sets the connection for rows or for statements. What was prepared is prepared again by SQLite when it is used next.
fn set_work(db: &Db, work: Work, value_size_max: usize) -> Result<(), RawError> {
    let execute = work == Work::Execute;
    db.configure(ffi::SQLITE_DBCONFIG_ENABLE_FKEY, execute)?;
    db.configure(ffi::SQLITE_DBCONFIG_ENABLE_TRIGGER, execute)?;
    db.execute(if execute {
        "PRAGMA ignore_check_constraints = OFF"
    } else {
        "PRAGMA ignore_check_constraints = ON"
    })?;
    // What another node's limit let into the log has to be put.
    db.limit(ffi::SQLITE_LIMIT_LENGTH, if execute { value_size_max } else { usize::MAX });
    if execute {
        db.install_capture();
    }
    Ok(())
}
