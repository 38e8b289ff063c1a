//! What a statement's failure tells a client: PostgreSQL's SQLSTATE and wording.
//!
//! Every refusal of this crate is a [`SqlError`]; how SQLite's own messages become one stands in `error_map`. Nothing
//! here ends a process: the caller decides about severities.

use std::fmt;

use bincode::{Decode, Encode};

/// A five-letter error class as PostgreSQL's errcodes.txt lists it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// 08006
    pub const CONNECTION_FAILURE: SqlState = SqlState(*b"08006");
    /// 0A000
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");
    /// 22000
    pub const DATA_EXCEPTION: SqlState = SqlState(*b"22000");
    /// 22003
    pub const NUMERIC_VALUE_OUT_OF_RANGE: SqlState = SqlState(*b"22003");
    /// 22023
    pub const INVALID_PARAMETER_VALUE: SqlState = SqlState(*b"22023");
    /// 22P02
    pub const INVALID_TEXT_REPRESENTATION: SqlState = SqlState(*b"22P02");
    /// 23502
    pub const NOT_NULL_VIOLATION: SqlState = SqlState(*b"23502");
    /// 23503
    pub const FOREIGN_KEY_VIOLATION: SqlState = SqlState(*b"23503");
    /// 23505
    pub const UNIQUE_VIOLATION: SqlState = SqlState(*b"23505");
    /// 23514
    pub const CHECK_VIOLATION: SqlState = SqlState(*b"23514");
    /// 23000
    pub const INTEGRITY_CONSTRAINT_VIOLATION: SqlState = SqlState(*b"23000");
    /// 25001
    pub const ACTIVE_SQL_TRANSACTION: SqlState = SqlState(*b"25001");
    /// 25006
    pub const READ_ONLY_SQL_TRANSACTION: SqlState = SqlState(*b"25006");
    /// 25P01
    pub const NO_ACTIVE_SQL_TRANSACTION: SqlState = SqlState(*b"25P01");
    /// 25P02
    pub const IN_FAILED_SQL_TRANSACTION: SqlState = SqlState(*b"25P02");
    /// 40000: an `OR ROLLBACK` or `RAISE(ROLLBACK)` took the whole transaction.
    pub const TRANSACTION_ROLLBACK: SqlState = SqlState(*b"40000");
    /// 42501
    pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState(*b"42501");
    /// 42601
    pub const SYNTAX_ERROR: SqlState = SqlState(*b"42601");
    /// 42701
    pub const DUPLICATE_COLUMN: SqlState = SqlState(*b"42701");
    /// 42702
    pub const AMBIGUOUS_COLUMN: SqlState = SqlState(*b"42702");
    /// 42703
    pub const UNDEFINED_COLUMN: SqlState = SqlState(*b"42703");
    /// 42704
    pub const UNDEFINED_OBJECT: SqlState = SqlState(*b"42704");
    /// 42710
    pub const DUPLICATE_OBJECT: SqlState = SqlState(*b"42710");
    /// 42803
    pub const GROUPING_ERROR: SqlState = SqlState(*b"42803");
    /// 42804
    pub const DATATYPE_MISMATCH: SqlState = SqlState(*b"42804");
    /// 42809
    pub const WRONG_OBJECT_TYPE: SqlState = SqlState(*b"42809");
    /// 42830
    pub const INVALID_FOREIGN_KEY: SqlState = SqlState(*b"42830");
    /// 42883
    pub const UNDEFINED_FUNCTION: SqlState = SqlState(*b"42883");
    /// 42939
    pub const RESERVED_NAME: SqlState = SqlState(*b"42939");
    /// 42P01
    pub const UNDEFINED_TABLE: SqlState = SqlState(*b"42P01");
    /// 42P02
    pub const UNDEFINED_PARAMETER: SqlState = SqlState(*b"42P02");
    /// 42P07
    pub const DUPLICATE_TABLE: SqlState = SqlState(*b"42P07");
    /// 53100
    pub const DISK_FULL: SqlState = SqlState(*b"53100");
    /// 53200
    pub const OUT_OF_MEMORY: SqlState = SqlState(*b"53200");
    /// 54000
    pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState(*b"54000");
    /// 54001
    pub const STATEMENT_TOO_COMPLEX: SqlState = SqlState(*b"54001");
    /// 55P03
    pub const LOCK_NOT_AVAILABLE: SqlState = SqlState(*b"55P03");
    /// 57014
    pub const QUERY_CANCELED: SqlState = SqlState(*b"57014");
    /// 57P01
    pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
    /// 58030
    pub const IO_ERROR: SqlState = SqlState(*b"58030");
    /// P0001
    pub const RAISE_EXCEPTION: SqlState = SqlState(*b"P0001");
    /// XX000
    pub const INTERNAL_ERROR: SqlState = SqlState(*b"XX000");
    /// XX001
    pub const DATA_CORRUPTED: SqlState = SqlState(*b"XX001");

    /// The five letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A statement that failed, in the words its client gets.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SqlError {
    /// PostgreSQL's class.
    pub sqlstate: SqlState,
    /// The primary message, without a trailing period.
    pub message: String,
    /// DETAIL, a whole sentence.
    pub detail: Option<String>,
    /// HINT, a whole sentence.
    pub hint: Option<String>,
    /// Where the statement is wrong: byte offset into the SQL text that the engine was given (the rewritten one;
    /// `sql::Statement::position` turns it into the client's character position).
    pub offset: Option<u32>,
    /// Which statement of a request failed, from 0.
    pub statement: u32,
}

impl SqlError {
    /// An error of a class with a message; details are added by the `with_` functions.
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> SqlError {
        SqlError { sqlstate, message: message.into(), detail: None, hint: None, offset: None, statement: 0 }
    }

    /// Adds DETAIL.
    pub fn with_detail(mut self, detail: impl Into<String>) -> SqlError {
        self.detail = Some(detail.into());
        self
    }

    /// Adds HINT.
    pub fn with_hint(mut self, hint: impl Into<String>) -> SqlError {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the byte offset of the culprit in the statement's SQL text.
    pub fn at(mut self, offset: usize) -> SqlError {
        self.offset = u32::try_from(offset).ok();
        self
    }

    /// 0A000 with a hint that says what to do instead.
    pub fn unsupported(what: &str, hint: &str) -> SqlError {
        SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("{what} is not supported")).with_hint(hint)
    }

    /// 25006, what a standby answers to a write; `command` is the command tag's verb, as in `INSERT`.
    pub fn read_only(command: &str) -> SqlError {
        SqlError::new(
            SqlState::READ_ONLY_SQL_TRANSACTION,
            format!("cannot execute {command} in a read-only transaction"),
        )
    }

    /// 42601 at the token that surprised.
    pub fn syntax(near: &str) -> SqlError {
        SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{near}\""))
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)?;
        if let Some(detail) = &self.detail {
            write!(f, " DETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " HINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SqlError {}
