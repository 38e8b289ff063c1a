//! What a client's statement may do: an allow-list that SQLite asks while it prepares.
//!
//! This is the guard; `sql::classify` only sorts. Everything that is not named here is refused, so a new feature of
//! SQLite is refused until somebody has thought about it. SQLite itself says only "not authorized"; the reason is kept
//! for the client.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;

use rusqlite::ffi;

use crate::error::{SqlError, SqlState};
use crate::schema::APPLIED_TABLE;
use crate::sql::is_readable_pragma;

/// Whose statement is being prepared or run, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Ours: anything goes
    Own,
    /// A client's read
    Read,
    /// A client's EXPLAIN: compiled, never run
    Explain,
    /// A client's INSERT, UPDATE, DELETE
    Write,
    /// A client's CREATE, DROP, ALTER, ANALYZE, REINDEX
    Ddl,
}

/// A question of SQLite's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Action<'a> {
    /// SQLITE_READ and the like
    pub(crate) code: c_int,
    pub(crate) first: &'a str,
    pub(crate) second: &'a str,
    /// `main` or `temp`
    pub(crate) database: &'a str,
}

/// Answers for one connection.
#[derive(Debug)]
pub(crate) struct Authorizer {
    mode: Cell<Mode>,
    refusal: RefCell<Option<SqlError>>,
}

impl Authorizer {
    pub(crate) fn new() -> Authorizer {
        Authorizer { mode: Cell::new(Mode::Own), refusal: RefCell::new(None) }
    }

    /// Guards statements as those of a client until the guard is dropped.
    pub(crate) fn enter(&self, mode: Mode) -> Guard<'_> {
        self.refusal.replace(None);
        Guard { authorizer: self, before: self.mode.replace(mode) }
    }

    /// Why the last refused statement was refused; forgets it.
    pub(crate) fn take_refusal(&self) -> Option<SqlError> {
        self.refusal.take()
    }

    pub(crate) fn allows(&self, action: &Action<'_>) -> bool {
        match decide(self.mode.get(), action) {
            Ok(()) => true,
            Err(refusal) => {
                self.refusal.borrow_mut().get_or_insert(refusal);
                false
            }
        }
    }
}

/// Gives the mode back that was there before.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    authorizer: &'a Authorizer,
    before: Mode,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.authorizer.mode.set(self.before);
    }
}

fn decide(mode: Mode, action: &Action<'_>) -> Result<(), SqlError> {
    if mode == Mode::Own {
        return Ok(());
    }
    match action.code {
        // `CREATE TABLE temp.x` comes as an ordinary CREATE.
        ffi::SQLITE_CREATE_TABLE
        | ffi::SQLITE_CREATE_VIEW
        | ffi::SQLITE_CREATE_INDEX
        | ffi::SQLITE_CREATE_TRIGGER
            if action.database.eq_ignore_ascii_case("temp") =>
        {
            Err(temporary())
        }
        ffi::SQLITE_SELECT | ffi::SQLITE_RECURSIVE => Ok(()),
        ffi::SQLITE_FUNCTION => function(action.second),
        ffi::SQLITE_READ => not_ours(action.first),
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => row_change(mode, action),
        ffi::SQLITE_CREATE_TABLE
        | ffi::SQLITE_CREATE_VIEW
        | ffi::SQLITE_DROP_VIEW
        | ffi::SQLITE_REINDEX
        | ffi::SQLITE_ANALYZE => schema_change(mode, ""),
        ffi::SQLITE_DROP_TABLE => schema_change(mode, action.first),
        ffi::SQLITE_CREATE_INDEX
        | ffi::SQLITE_DROP_INDEX
        | ffi::SQLITE_CREATE_TRIGGER
        | ffi::SQLITE_DROP_TRIGGER
        | ffi::SQLITE_ALTER_TABLE => schema_change(mode, action.second),
        ffi::SQLITE_PRAGMA if is_readable_pragma(action.first) => Ok(()),
        _ => Err(unsupported(action)),
    }
}

fn function(name: &str) -> Result<(), SqlError> {
    if ["load_extension", "fts3_tokenizer"].iter().any(|refused| refused.eq_ignore_ascii_case(name)) {
        return Err(SqlError::new(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied for function {name}"),
        ));
    }
    Ok(())
}

fn not_ours(table: &str) -> Result<(), SqlError> {
    if table.eq_ignore_ascii_case(APPLIED_TABLE) {
        return Err(SqlError::new(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied for table {APPLIED_TABLE}"),
        ));
    }
    Ok(())
}

fn row_change(mode: Mode, action: &Action<'_>) -> Result<(), SqlError> {
    not_ours(action.first)?;
    let verb = match action.code {
        ffi::SQLITE_INSERT => "INSERT",
        ffi::SQLITE_UPDATE => "UPDATE",
        _ => "DELETE",
    };
    let system = action.first.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"));
    match mode {
        // The schema's own rows: a CREATE inserts one.
        Mode::Own | Mode::Ddl | Mode::Explain => Ok(()),
        Mode::Write if system => Err(SqlError::new(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied: \"{}\" is a system catalog", action.first),
        )),
        Mode::Write => Ok(()),
        Mode::Read => Err(SqlError::read_only(verb)),
    }
}

fn schema_change(mode: Mode, table: &str) -> Result<(), SqlError> {
    not_ours(table)?;
    match mode {
        Mode::Own | Mode::Ddl | Mode::Explain => Ok(()),
        Mode::Read | Mode::Write => Err(SqlError::read_only("DDL")),
    }
}

fn temporary() -> SqlError {
    SqlError::unsupported("a temporary object", "Use an ordinary table and delete its rows.")
}

fn unsupported(action: &Action<'_>) -> SqlError {
    match action.code {
        ffi::SQLITE_CREATE_TEMP_TABLE
        | ffi::SQLITE_CREATE_TEMP_INDEX
        | ffi::SQLITE_CREATE_TEMP_TRIGGER
        | ffi::SQLITE_CREATE_TEMP_VIEW
        | ffi::SQLITE_DROP_TEMP_TABLE
        | ffi::SQLITE_DROP_TEMP_INDEX
        | ffi::SQLITE_DROP_TEMP_TRIGGER
        | ffi::SQLITE_DROP_TEMP_VIEW => temporary(),
        ffi::SQLITE_CREATE_VTABLE | ffi::SQLITE_DROP_VTABLE => {
            SqlError::unsupported("a virtual table", "Use an ordinary table.")
        }
        ffi::SQLITE_ATTACH | ffi::SQLITE_DETACH => {
            SqlError::unsupported("a second database", "A node has one database.")
        }
        ffi::SQLITE_PRAGMA => SqlError::unsupported(
            &format!("PRAGMA {}", action.first),
            "Use SHOW and SET; table_info and its kin can be read.",
        ),
        _ => SqlError::unsupported("this command", "It would bypass the log."),
    }
}
