//! The report of an error or a notice, as it travels in ErrorResponse and NoticeResponse.
//!
//! The crate has this one error type: whatever is wrong with what a peer sent is said in the form in which it can be
//! answered. A report of [`Severity::CommError`] is for the log alone: the stream is broken or out of step, so
//! nothing more can be said to the peer and the connection ends.
//!
//! How to use it: `ErrorResponse::error(SYNTAX_ERROR, "…").with_hint("…")`, then `backend::error_response`.
//!
//! Follows PostgreSQL 15 src/backend/utils/error/elog.c.

use std::fmt;

use crate::body::Body;
use crate::sqlstate::{INTERNAL_ERROR, SqlState, WARNING};

/// How grave a report is, and with that what ends because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// For the server's log.
    Log,
    /// For the server's log alone: the connection broke, nobody can be told. The connection ends.
    CommError,
    /// For the client's information.
    Notice,
    /// Something the client should look at; its command goes on.
    Warning,
    /// The command failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// Every session ends.
    Panic,
}

impl Severity {
    /// The word in the message's fields S and V.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Log | Severity::CommError => "LOG",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
        }
    }

    /// Words for severities that only other servers send (DEBUG, INFO) count as LOG and NOTICE.
    fn parse(name: &str) -> Option<Severity> {
        Some(match name {
            "LOG" | "DEBUG" => Severity::Log,
            "NOTICE" | "INFO" => Severity::Notice,
            "WARNING" => Severity::Warning,
            "ERROR" => Severity::Error,
            "FATAL" => Severity::Fatal,
            "PANIC" => Severity::Panic,
            _ => return None,
        })
    }
}

/// One report: the fields that a node sends or reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    /// How grave it is.
    pub severity: Severity,
    /// What a program recognises it by.
    pub sqlstate: SqlState,
    /// The primary message, one line.
    pub message: String,
    /// More about it, complete sentences.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the query text, counted in characters from 1.
    pub position: Option<u32>,
}

impl ErrorResponse {
    /// A report of any severity.
    pub fn new(severity: Severity, sqlstate: SqlState, message: impl Into<String>) -> ErrorResponse {
        ErrorResponse {
            severity,
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
        }
    }

    /// The command failed.
    pub fn error(sqlstate: SqlState, message: impl Into<String>) -> ErrorResponse {
        ErrorResponse::new(Severity::Error, sqlstate, message)
    }

    /// The session ends.
    pub fn fatal(sqlstate: SqlState, message: impl Into<String>) -> ErrorResponse {
        ErrorResponse::new(Severity::Fatal, sqlstate, message)
    }

    /// For the client's information.
    pub fn notice(sqlstate: SqlState, message: impl Into<String>) -> ErrorResponse {
        ErrorResponse::new(Severity::Notice, sqlstate, message)
    }

    /// Something to look at.
    pub fn warning(message: impl Into<String>) -> ErrorResponse {
        ErrorResponse::new(Severity::Warning, WARNING, message)
    }

    /// The connection ends and only the log says why.
    pub fn comm_error(sqlstate: SqlState, message: impl Into<String>) -> ErrorResponse {
        ErrorResponse::new(Severity::CommError, sqlstate, message)
    }

    /// The same with a detail.
    pub fn with_detail(mut self, detail: impl Into<String>) -> ErrorResponse {
        self.detail = Some(detail.into());
        self
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> ErrorResponse {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a place in the query text (in characters, from 1).
    pub fn with_position(mut self, position: u32) -> ErrorResponse {
        self.position = Some(position);
        self
    }

    /// The same with another severity.
    pub fn with_severity(mut self, severity: Severity) -> ErrorResponse {
        self.severity = severity;
        self
    }

    /// Whether the connection ends after this report.
    pub fn ends_connection(&self) -> bool {
        matches!(self.severity, Severity::CommError | Severity::Fatal | Severity::Panic)
    }

    /// The fields of an ErrorResponse or NoticeResponse. Unknown fields are skipped, missing ones replaced: a report
    /// must not get lost because it is odd.
    ///
    /// # Errors
    /// The list of fields is cut off.
    pub(crate) fn decode(body: &mut Body<'_>) -> Result<ErrorResponse, ErrorResponse> {
        let mut report = ErrorResponse::error(INTERNAL_ERROR, "");
        loop {
            let field = body.u8()?;
            if field == 0 {
                return Ok(report);
            }
            let value = body.cstr_lossy()?;
            match field {
                // V is S in English; it comes second and thus wins.
                b'S' | b'V' => report.severity = Severity::parse(&value).unwrap_or(report.severity),
                b'C' => report.sqlstate = SqlState::parse(&value).unwrap_or(report.sqlstate),
                b'M' => report.message = value.into_owned(),
                b'D' => report.detail = Some(value.into_owned()),
                b'H' => report.hint = Some(value.into_owned()),
                b'P' => report.position = value.parse().ok(),
                _ => {}
            }
        }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:  {}", self.severity.name(), self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL:  {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nHINT:  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ErrorResponse {}
