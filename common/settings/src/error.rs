//! What can be wrong with a setting: a message as PostgreSQL words it, its SQLSTATE, and at times a detail or a hint.

use std::fmt;

/// A value, name or file that was refused. The setting in question keeps the value it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Five characters, as in `ErrorResponse`: 22023, 42704, 55P02 or F0000 (configuration file).
    pub sqlstate: &'static str,
    /// The primary message.
    pub message: String,
    /// What in the value is wrong, when that can be told.
    pub detail: Option<String>,
    /// What to write instead, when that can be told.
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        [&self.detail, &self.hint].into_iter().flatten().try_for_each(|more| write!(f, " ({more})"))
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn invalid(name: &str, value: &str, hint: Option<String>) -> Error {
        Error {
            sqlstate: "22023",
            message: format!("invalid value for parameter \"{name}\": \"{value}\""),
            detail: None,
            hint,
        }
    }

    pub(crate) fn plain(sqlstate: &'static str, message: String) -> Error {
        Error { sqlstate, message, detail: None, hint: None }
    }

    pub(crate) fn unknown(name: &str) -> Error {
        Error::plain("42704", format!("unrecognized configuration parameter \"{name}\""))
    }
}
