//! What can be wrong with a setting: a message as PostgreSQL words it, its SQLSTATE and at times a hint.

use std::fmt;

/// A value, name or file that was refused. The setting in question keeps the value it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Five characters, as in `ErrorResponse`: 22023, 42704, 55P02 or F0000 (configuration file).
    pub sqlstate: &'static str,
    /// The primary message.
    pub message: String,
    /// What to write instead, when that can be told.
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn invalid(name: &str, value: &str, hint: Option<String>) -> Error {
        Error {
            sqlstate: "22023",
            message: format!("invalid value for parameter \"{name}\": \"{value}\""),
            hint,
        }
    }

    pub(crate) fn plain(sqlstate: &'static str, message: String) -> Error {
        Error { sqlstate, message, hint: None }
    }

    pub(crate) fn unknown(name: &str) -> Error {
        Error::plain("42704", format!("unrecognized configuration parameter \"{name}\""))
    }
}
