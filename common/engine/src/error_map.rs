//! SQLite's failures in PostgreSQL's words.
//!
//! SQLite has one code for most of what is wrong with a statement and puts the rest into its message; so the messages
//! are taken apart here, by a table of beginnings and ends. What no row matches keeps SQLite's own message.

use std::ffi::c_int;

use rusqlite::ffi;

use crate::error::{SqlError, SqlState};
use crate::ffi::{Db, RawError};
use crate::file_error::{Written, file_error};

/// When a statement failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// While it was prepared: it is wrong in itself.
    Prepare,
    /// While it ran.
    Run,
}

/// What a client gets for a failure of its statement: who stopped it, what our own code said, or what SQLite says.
pub(crate) fn client_error(db: &Db, raw: &RawError, phase: Phase) -> SqlError {
    let watch = db.watch();
    let interruption = watch.take_interruption();
    if let Some(failure) = watch.capture.borrow().failure() {
        return failure.clone();
    }
    if let Some(error) = watch.take_function_error() {
        return error;
    }
    if raw.primary_code() == ffi::SQLITE_INTERRUPT
        && let Some(interruption) = interruption
    {
        return interruption.error();
    }
    if let Some(refusal) = watch.authorizer.take_refusal()
        && matches!(raw.primary_code(), ffi::SQLITE_AUTH | ffi::SQLITE_ERROR)
    {
        return refusal;
    }
    let mut error = of_sqlite(raw, phase);
    if error.sqlstate == SqlState::UNIQUE_VIOLATION {
        name_unique_constraint(db, raw, &mut error);
    }
    error.offset = raw.offset.and_then(|offset| u32::try_from(offset).ok());
    error
}

/// A failure of a checkpoint.
pub(crate) fn checkpoint_error(raw: &RawError) -> SqlError {
    match raw.primary_code() {
        ffi::SQLITE_FULL | ffi::SQLITE_IOERR if raw.code != ffi::SQLITE_IOERR_NOMEM => {
            file_error(raw, Written::Tables)
        }
        _ => own_error(raw),
    }
}

/// A failure that no client's statement is to blame for.
pub(crate) fn own_error(raw: &RawError) -> SqlError {
    of_sqlite(raw, Phase::Run)
}

fn of_sqlite(raw: &RawError, phase: Phase) -> SqlError {
    let message = raw.message.as_str();
    match raw.primary_code() {
        ffi::SQLITE_CONSTRAINT => constraint(raw.code, message),
        _ if raw.code == ffi::SQLITE_IOERR_NOMEM => out_of_memory(),
        ffi::SQLITE_NOMEM => out_of_memory(),
        ffi::SQLITE_TOOBIG => SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message),
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => {
            SqlError::new(SqlState::DATA_CORRUPTED, format!("tables are corrupted: {message}"))
        }
        ffi::SQLITE_FULL | ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN => file_error(raw, Written::Log),
        ffi::SQLITE_READONLY => {
            SqlError::new(SqlState::READ_ONLY_SQL_TRANSACTION, "tables are read-only here")
        }
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => SqlError::new(SqlState::LOCK_NOT_AVAILABLE, message),
        ffi::SQLITE_MISMATCH => SqlError::new(SqlState::DATATYPE_MISMATCH, message),
        ffi::SQLITE_INTERRUPT => {
            SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")
        }
        ffi::SQLITE_RANGE => SqlError::new(SqlState::UNDEFINED_PARAMETER, message),
        ffi::SQLITE_ERROR | ffi::SQLITE_SCHEMA => statement(message, phase),
        _ => SqlError::new(SqlState::INTERNAL_ERROR, message),
    }
}

fn out_of_memory() -> SqlError {
    SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory")
        .with_detail("The statement reached the memory limit of its process.")
}

fn constraint(code: c_int, message: &str) -> SqlError {
    let subject = message.split_once(": ").map_or(message, |(_, subject)| subject);
    match code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            SqlError::new(
                SqlState::UNIQUE_VIOLATION,
                format!("duplicate key value violates unique constraint \"{subject}\""),
            )
        }
        ffi::SQLITE_CONSTRAINT_NOTNULL => {
            let (table, column) = subject.rsplit_once('.').unwrap_or(("", subject));
            SqlError::new(
                SqlState::NOT_NULL_VIOLATION,
                format!(
                    "null value in column \"{column}\" of relation \"{table}\" violates not-null constraint"
                ),
            )
        }
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => foreign_key_violation(),
        ffi::SQLITE_CONSTRAINT_CHECK => SqlError::new(
            SqlState::CHECK_VIOLATION,
            format!("new row violates check constraint \"{subject}\""),
        ),
        ffi::SQLITE_CONSTRAINT_TRIGGER => SqlError::new(SqlState::RAISE_EXCEPTION, message),
        ffi::SQLITE_CONSTRAINT_DATATYPE => SqlError::new(SqlState::DATATYPE_MISMATCH, message),
        _ => SqlError::new(SqlState::INTEGRITY_CONSTRAINT_VIOLATION, message),
    }
}

/// 23503. SQLite doesn't say which key.
pub(crate) fn foreign_key_violation() -> SqlError {
    SqlError::new(
        SqlState::FOREIGN_KEY_VIOLATION,
        "insert, update or delete violates a foreign key constraint",
    )
    .with_detail("A row refers to a key that is not there.")
}

/// How a message of SQLite's is recognized and said again; `{}` is what stands between the beginning and the end.
struct Rule {
    begins: &'static str,
    ends: &'static str,
    sqlstate: SqlState,
    says: &'static str,
}

const fn rule(begins: &'static str, ends: &'static str, sqlstate: SqlState, says: &'static str) -> Rule {
    Rule { begins, ends, sqlstate, says }
}

const RULES: &[Rule] = &[
    rule("near \"", "\": syntax error", SqlState::SYNTAX_ERROR, "syntax error at or near \"{}\""),
    rule("unrecognized token: \"", "\"", SqlState::SYNTAX_ERROR, "syntax error at or near \"{}\""),
    rule("incomplete input", "", SqlState::SYNTAX_ERROR, "syntax error at end of input"),
    rule("no such table: ", "", SqlState::UNDEFINED_TABLE, "relation \"{}\" does not exist"),
    rule("no such view: ", "", SqlState::UNDEFINED_TABLE, "view \"{}\" does not exist"),
    rule("no such index: ", "", SqlState::UNDEFINED_OBJECT, "index \"{}\" does not exist"),
    rule("no such trigger: ", "", SqlState::UNDEFINED_OBJECT, "trigger \"{}\" does not exist"),
    rule(
        "no such column: \"",
        "\" - should this be a string literal in single-quotes?",
        SqlState::UNDEFINED_COLUMN,
        "column \"{}\" does not exist",
    ),
    rule("no such column: ", "", SqlState::UNDEFINED_COLUMN, "column \"{}\" does not exist"),
    rule("no such function: ", "", SqlState::UNDEFINED_FUNCTION, "function {}() does not exist"),
    rule(
        "wrong number of arguments to function ",
        "",
        SqlState::UNDEFINED_FUNCTION,
        "function {} does not exist with this number of arguments",
    ),
    rule("no such collation sequence: ", "", SqlState::UNDEFINED_OBJECT, "collation \"{}\" does not exist"),
    rule("there is already a table named ", "", SqlState::DUPLICATE_TABLE, "relation \"{}\" already exists"),
    rule("there is already an index named ", "", SqlState::DUPLICATE_TABLE, "relation \"{}\" already exists"),
    rule(
        "there is already another table or index with this name: ",
        "",
        SqlState::DUPLICATE_TABLE,
        "relation \"{}\" already exists",
    ),
    rule("table ", " already exists", SqlState::DUPLICATE_TABLE, "relation \"{}\" already exists"),
    rule("view ", " already exists", SqlState::DUPLICATE_TABLE, "relation \"{}\" already exists"),
    rule("index ", " already exists", SqlState::DUPLICATE_TABLE, "relation \"{}\" already exists"),
    rule("trigger ", " already exists", SqlState::DUPLICATE_OBJECT, "trigger \"{}\" already exists"),
    rule(
        "object name reserved for internal use: ",
        "",
        SqlState::RESERVED_NAME,
        "unacceptable relation name \"{}\"",
    ),
    rule("duplicate column name: ", "", SqlState::DUPLICATE_COLUMN, "column \"{}\" specified more than once"),
    rule("ambiguous column name: ", "", SqlState::AMBIGUOUS_COLUMN, "column reference \"{}\" is ambiguous"),
    rule("misuse of aggregate", "", SqlState::GROUPING_ERROR, "aggregate functions are not allowed here"),
    rule(
        "misuse of window function ",
        "",
        SqlState::GROUPING_ERROR,
        "window function {} is not allowed here",
    ),
    rule("unsafe use of ", "", SqlState::INSUFFICIENT_PRIVILEGE, "{} cannot be used in the schema"),
    rule("table ", " may not be modified", SqlState::WRONG_OBJECT_TYPE, "cannot modify system view \"{}\""),
    rule("cannot modify ", " because it is a view", SqlState::WRONG_OBJECT_TYPE, "cannot modify view \"{}\""),
    rule("use DROP VIEW to delete view ", "", SqlState::WRONG_OBJECT_TYPE, "\"{}\" is not a table"),
    rule("use DROP TABLE to delete table ", "", SqlState::WRONG_OBJECT_TYPE, "\"{}\" is not a view"),
    rule(
        "foreign key mismatch",
        "",
        SqlState::INVALID_FOREIGN_KEY,
        "there is no unique constraint matching given keys for referenced table",
    ),
    rule(
        "ON CONFLICT clause does not match any PRIMARY KEY or UNIQUE constraint",
        "",
        SqlState(*b"42P10"),
        "there is no unique or exclusion constraint matching the ON CONFLICT specification",
    ),
    rule("integer overflow", "", SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range"),
    rule("malformed JSON", "", SqlState::INVALID_TEXT_REPRESENTATION, "invalid input syntax for type json"),
    rule("string or blob too big", "", SqlState::PROGRAM_LIMIT_EXCEEDED, "value too big"),
    rule("parser stack overflow", "", SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex"),
    rule("Expression tree is too large", "", SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex"),
    rule("too many ", "", SqlState::STATEMENT_TOO_COMPLEX, "too many {}"),
];

fn statement(message: &str, phase: Phase) -> SqlError {
    for rule in RULES {
        let Some(rest) = message.strip_prefix(rule.begins) else { continue };
        let Some(subject) = rest.strip_suffix(rule.ends) else { continue };
        // "main.kv" for a table that a schema name led to.
        let subject = subject.strip_prefix("main.").unwrap_or(subject).trim_matches('"');
        return SqlError::new(rule.sqlstate, rule.says.replace("{}", subject));
    }
    if let Some((table, column)) =
        message.strip_prefix("table ").and_then(|rest| rest.split_once(" has no column named "))
    {
        let says = format!("column \"{column}\" of relation \"{table}\" does not exist");
        return SqlError::new(SqlState::UNDEFINED_COLUMN, says);
    }
    if message.contains(" values for ") || message.contains(" values were supplied") {
        return SqlError::new(SqlState::SYNTAX_ERROR, message);
    }
    let sqlstate = if phase == Phase::Prepare { SqlState::SYNTAX_ERROR } else { SqlState::DATA_EXCEPTION };
    SqlError::new(sqlstate, message)
}

/// SQLite names the columns (`t.a, t.b`) or, for an index on expressions, the index; PostgreSQL names the constraint.
/// Its own indexes have no name of their own there: they get the one that PostgreSQL would give.
fn name_unique_constraint(db: &Db, raw: &RawError, error: &mut SqlError) {
    let subject = raw.message.split_once(": ").map_or("", |(_, subject)| subject);
    if let Some(index) = subject.strip_prefix("index '").and_then(|rest| rest.strip_suffix('\'')) {
        error.message = format!("duplicate key value violates unique constraint \"{index}\"");
        return;
    }
    let columns: Vec<&str> =
        subject.split(", ").map(|part| part.rsplit_once('.').map_or(part, |(_, column)| column)).collect();
    let Some((table, _)) = subject.split(", ").next().and_then(|first| first.rsplit_once('.')) else {
        return;
    };
    let name = match raw.code {
        ffi::SQLITE_CONSTRAINT_UNIQUE => {
            unique_index(db, table, &columns).unwrap_or_else(|| format!("{table}_{}_key", columns.join("_")))
        }
        _ => format!("{table}_pkey"),
    };
    error.message = format!("duplicate key value violates unique constraint \"{name}\"");
    error.detail = Some(format!("Key ({}) already exists.", columns.join(", ")));
}

/// The index that CREATE UNIQUE INDEX made over these columns.
fn unique_index(db: &Db, table: &str, columns: &[&str]) -> Option<String> {
    use crate::change::Value;
    let sql = "SELECT l.name FROM pragma_index_list(?1) AS l WHERE l.origin = 'c' AND l.\"unique\" \
               AND (SELECT group_concat(i.name, ', ') FROM pragma_index_info(l.name) AS i) = ?2";
    let mut statement = db.prepare_own(sql).ok()?;
    let columns = columns.join(", ");
    statement.first_text(&[Value::Text(table.as_bytes()), Value::Text(columns.as_bytes())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlites_messages_become_postgresqls() {
        for (code, message, expected) in [
            (ffi::SQLITE_ERROR, "near \"FORM\": syntax error", "syntax error at or near \"FORM\" (42601)"),
            (ffi::SQLITE_ERROR, "incomplete input", "syntax error at end of input (42601)"),
            (ffi::SQLITE_ERROR, "no such table: main.kv", "relation \"kv\" does not exist (42P01)"),
            (ffi::SQLITE_ERROR, "no such column: x.y", "column \"x.y\" does not exist (42703)"),
            (
                ffi::SQLITE_ERROR,
                "no such column: \"a\" - should this be a string literal in single-quotes?",
                "column \"a\" does not exist (42703)",
            ),
            (
                ffi::SQLITE_ERROR,
                "table kv has no column named z",
                "column \"z\" of relation \"kv\" does not exist (42703)",
            ),
            (ffi::SQLITE_ERROR, "no such function: f", "function f() does not exist (42883)"),
            (ffi::SQLITE_ERROR, "table kv already exists", "relation \"kv\" already exists (42P07)"),
            (ffi::SQLITE_ERROR, "table \"k v\" already exists", "relation \"k v\" already exists (42P07)"),
            (ffi::SQLITE_ERROR, "ambiguous column name: a", "column reference \"a\" is ambiguous (42702)"),
            (ffi::SQLITE_ERROR, "what else", "what else (42601)"),
            (
                ffi::SQLITE_CONSTRAINT_NOTNULL,
                "NOT NULL constraint failed: kv.a",
                "null value in column \"a\" of relation \"kv\" violates not-null constraint (23502)",
            ),
            (
                ffi::SQLITE_CONSTRAINT_CHECK,
                "CHECK constraint failed: positive",
                "new row violates check constraint \"positive\" (23514)",
            ),
            (ffi::SQLITE_CONSTRAINT_TRIGGER, "no, thanks", "no, thanks (P0001)"),
            (
                ffi::SQLITE_NOMEM,
                "out of memory",
                "out of memory (53200) DETAIL: The statement reached the memory limit of its process.",
            ),
            (
                ffi::SQLITE_FULL,
                "database or disk is full",
                "could not extend file \"state/state.db-wal\": No space left on device (53100) HINT: Check free disk space.",
            ),
            (ffi::SQLITE_TOOBIG, "string or blob too big", "string or blob too big (54000)"),
            (
                ffi::SQLITE_CORRUPT,
                "database disk image is malformed",
                "tables are corrupted: database disk image is malformed (XX001)",
            ),
        ] {
            let raw = RawError::new(code, message);
            assert_eq!(of_sqlite(&raw, Phase::Prepare).to_string(), expected, "{message}");
        }
    }
}
