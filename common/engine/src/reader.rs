//! A session's own connection, which only reads.
//!
//! It is opened after the fork and never writes a byte: read-only for SQLite, `query_only`, an authorizer that knows no
//! write, no checkpoint when it closes. A statement's snapshot ends with the statement.

use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rusqlite::ffi;

use crate::authorizer::Mode;
use crate::catalog::SystemInfo;
use crate::control::Control;
use crate::error::SqlError;
use crate::error_map::own_error;
use crate::ffi::hooks::Watch;
use crate::ffi::{Access, Db, RawError, limit_memory};
use crate::functions;
use crate::roles::{self, Rights, Role};
use crate::rows::{Column, CommandTag, RowSink};
use crate::run;
use crate::sql::{self, Kind};

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

impl fmt::Debug for ReaderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderOptions")
            .field("busy_timeout", &self.busy_timeout)
            .field("value_size_max", &self.value_size_max)
            .field("memory_max", &self.memory_max)
            .finish_non_exhaustive()
    }
}

/// The read-only connection.
#[derive(Debug)]
pub struct Reader {
    db: Db,
}

impl Reader {
    /// Opens existing tables; the startup process has opened them before.
    pub fn open(path: &Path, options: &ReaderOptions) -> Result<Reader, SqlError> {
        limit_memory(options.memory_max);
        let open = || -> Result<Reader, RawError> {
            let db = Db::open(path, Access::ReadOnly, Watch::new())?;
            db.busy_timeout(options.busy_timeout);
            db.configure_safely()?;
            db.limit(ffi::SQLITE_LIMIT_LENGTH, options.value_size_max);
            db.execute("PRAGMA query_only = ON")?;
            db.limit_cache(options.memory_max)?;
            functions::register(&db, &options.system)?;
            Ok(Reader { db })
        };
        open().map_err(|raw| own_error(&raw))
    }

    /// From now on this process may use so many bytes for SQLite.
    ///
    /// # Errors
    /// SQLite's.
    pub fn limit_memory(&self, memory_max: usize) -> Result<(), SqlError> {
        limit_memory(memory_max);
        self.db.limit_cache(memory_max).map_err(|raw| own_error(&raw))
    }

    /// From now on statements are those of a client that may do this; a new connection's may do nothing.
    pub fn set_rights(&self, rights: Rights) {
        self.db.watch().authorizer.set_rights(rights);
    }

    /// The role of that name, as it is now.
    ///
    /// # Errors
    /// SQLite's.
    pub fn role(&self, name: &str) -> Result<Option<Role>, SqlError> {
        roles::find(&self.db, name).map_err(|raw| own_error(&raw))
    }

    /// The columns that a statement would return, without running it. An expression's type is not known before its
    /// first value is: text stands for it.
    pub fn describe(&mut self, sql: &str) -> Result<Vec<Column>, SqlError> {
        let mode = mode_of(sql)?;
        let statement = run::prepare(&self.db, sql, mode)?;
        Ok(match mode {
            Mode::Explain => vec![run::plan_column()],
            _ => run::describe(&statement, false),
        })
    }

    /// Runs a statement (`sql::Kind::Read` or `Explain`) and returns its number of rows. Nothing of it stays open.
    pub fn query(
        &mut self,
        sql: &str,
        control: &dyn Control,
        sink: &mut dyn RowSink,
    ) -> Result<u64, SqlError> {
        let mode = mode_of(sql)?;
        let rows = self.db.controlled(control, || {
            let mut statement = run::prepare(&self.db, sql, mode)?;
            run::deliver(&self.db, &mut statement, mode, sink)
        })?;
        let tag = if mode == Mode::Explain { CommandTag::Plain("EXPLAIN") } else { CommandTag::Select(rows) };
        sink.complete(tag)?;
        Ok(rows)
    }
}

fn mode_of(sql: &str) -> Result<Mode, SqlError> {
    match sql::executable(sql)?.0 {
        Kind::Read => Ok(Mode::Read),
        Kind::Explain => Ok(Mode::Explain),
        other => Err(SqlError::read_only(other.tag().verb())),
    }
}
