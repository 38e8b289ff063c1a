//! What a client's statement may do: an allow-list that SQLite asks while it prepares.
//!
//! This is the guard; `sql::classify` only sorts. Everything that is not named here is refused, so a new feature of
//! SQLite is refused until somebody has thought about it. SQLite itself says only "not authorized"; the reason is kept
//! for the client.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;

use rusqlite::ffi;

use crate::catalog::VIEWS;
use crate::error::{SqlError, SqlState};
use crate::roles::{MEMBERS_VIEW, ROLES_TABLE, ROLES_VIEW, Rights};
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
    /// The innermost view or trigger that asks, if it isn't the statement itself
    pub(crate) inside: &'a str,
}

/// Answers for one connection.
#[derive(Debug)]
pub(crate) struct Authorizer {
    mode: Cell<Mode>,
    rights: Cell<Rights>,
    refusal: RefCell<Option<SqlError>>,
}

impl Authorizer {
    pub(crate) fn new() -> Authorizer {
        Authorizer {
            mode: Cell::new(Mode::Own),
            rights: Cell::new(Rights::default()),
            refusal: RefCell::new(None),
        }
    }

    /// What the client may do whose statements come next; nothing, to begin with.
    pub(crate) fn set_rights(&self, rights: Rights) {
        self.rights.set(rights);
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
        match decide(self.mode.get(), self.rights.get(), action) {
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

fn decide(mode: Mode, rights: Rights, action: &Action<'_>) -> Result<(), SqlError> {
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
        ffi::SQLITE_READ => read(rights, action),
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => row_change(mode, rights, action),
        ffi::SQLITE_CREATE_TABLE | ffi::SQLITE_CREATE_VIEW => schema_change(mode, rights, None),
        ffi::SQLITE_DROP_TABLE => schema_change(mode, rights, Some(("table", action.first))),
        ffi::SQLITE_DROP_VIEW => schema_change(mode, rights, Some(("view", action.first))),
        // Without a name it is for all, our own among them.
        ffi::SQLITE_REINDEX | ffi::SQLITE_ANALYZE if rights.superuser => schema_change(mode, rights, None),
        ffi::SQLITE_REINDEX | ffi::SQLITE_ANALYZE => {
            schema_change(mode, rights, Some(("table", action.first)))
        }
        ffi::SQLITE_CREATE_INDEX
        | ffi::SQLITE_DROP_INDEX
        | ffi::SQLITE_CREATE_TRIGGER
        | ffi::SQLITE_DROP_TRIGGER
        | ffi::SQLITE_ALTER_TABLE => schema_change(mode, rights, Some(("table", action.second))),
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

fn denied(what: &str, name: &str) -> SqlError {
    SqlError::new(SqlState::INSUFFICIENT_PRIVILEGE, format!("permission denied for {what} {name}"))
}

fn is_any(name: &str, names: &[&str]) -> bool {
    names.iter().any(|one| one.eq_ignore_ascii_case(name))
}

/// What no client's statement touches, whatever its rights.
fn not_ours(table: &str) -> Result<(), SqlError> {
    if is_any(table, &[APPLIED_TABLE, ROLES_TABLE, ROLES_VIEW, MEMBERS_VIEW]) {
        return Err(denied("table", &table.to_ascii_lowercase()));
    }
    Ok(())
}

/// Everybody may read what the server says of itself; tables need the right, and with it all of them can be read.
fn read(rights: Rights, action: &Action<'_>) -> Result<(), SqlError> {
    let table = action.first;
    if is_any(table, &[ROLES_VIEW, MEMBERS_VIEW]) {
        return Ok(());
    }
    // The views of roles show what is not secret; and how many there are, for which SQLite looks at no column and doesn't
    // say on whose behalf, isn't either.
    let harmless = action.second.is_empty() || is_any(action.inside, &[ROLES_VIEW, MEMBERS_VIEW]);
    if is_any(table, &[ROLES_TABLE]) && harmless {
        return Ok(());
    }
    not_ours(table)?;
    if rights.read || is_of_the_server(table) { Ok(()) } else { Err(denied("table", table)) }
}

/// The views and SQLite's own tables (the schema, what its functions return).
fn is_of_the_server(table: &str) -> bool {
    let begins = |start: &str| table.get(..start.len()).is_some_and(|with| with.eq_ignore_ascii_case(start));
    begins("sqlite_")
        || begins("pragma_")
        || is_any(table, &["json_each", "json_tree"])
        || VIEWS.iter().any(|row| row.name.eq_ignore_ascii_case(table))
}

fn row_change(mode: Mode, rights: Rights, action: &Action<'_>) -> Result<(), SqlError> {
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
        Mode::Write if rights.write => Ok(()),
        Mode::Write => Err(denied("table", action.first)),
        Mode::Read => Err(SqlError::read_only(verb)),
    }
}

/// A change of what is named, or something new. Everything belongs to the superusers.
fn schema_change(mode: Mode, rights: Rights, what: Option<(&str, &str)>) -> Result<(), SqlError> {
    not_ours(what.map_or("", |(_, name)| name))?;
    match mode {
        Mode::Own | Mode::Explain => Ok(()),
        Mode::Ddl if rights.superuser => Ok(()),
        Mode::Ddl => Err(match what {
            None => denied("schema", "public"),
            Some((kind, name)) => {
                SqlError::new(SqlState::INSUFFICIENT_PRIVILEGE, format!("must be owner of {kind} {name}"))
            }
        }),
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
