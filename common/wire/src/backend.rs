//! Encodes what a server sends, into the end of a `Vec<u8>`.
//!
//! Lengths are patched in when a message is complete, so nothing is built twice and values go straight to their place.
//! A [`DataRow`] that is dropped before [`DataRow::finish`] takes itself out of the buffer again: an error in the
//! middle of a row leaves the stream in step.
//!
//! Text that goes into a zero-terminated field is cut at its first zero byte.
//!
//! Follows PostgreSQL 15 src/backend/libpq/pqformat.c, src/backend/access/common/printtup.c.

use std::fmt::Display;
use std::io::Write;

use crate::error::ErrorResponse;
use crate::framing::LARGE_MESSAGE_MAX;
use crate::sqlstate::PROGRAM_LIMIT_EXCEEDED;
use crate::startup::{CancelRequest, Negotiation, PROTOCOL_3_0};
use crate::types::Type;

/// What ReadyForQuery says about the session's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a transaction block that failed: everything is refused until it ends.
    Failed,
}

impl TransactionStatus {
    /// The byte of the message.
    pub const fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }
}

/// A column of a result set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub column_type: Type,
    /// The type's modifier; -1 is none.
    pub typmod: i32,
}

impl<'a> Column<'a> {
    /// A column whose type has no modifier.
    pub const fn new(name: &'a str, column_type: Type) -> Column<'a> {
        Column { name, column_type, typmod: -1 }
    }
}

/// Begins a message; the result is where it stands, for [`end`].
pub(crate) fn begin(out: &mut Vec<u8>, tag: u8) -> usize {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    at
}

/// Patches the length of the message that began at `at`.
pub(crate) fn end(out: &mut [u8], at: usize) {
    let length = i32::try_from(out.len() - at).expect("a message is shorter than 2 GiB");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn put_cstr(out: &mut Vec<u8>, text: &str) {
    let text = text.as_bytes();
    let length = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    out.extend_from_slice(&text[..length]);
    out.push(0);
}

/// The client is who it says: AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    let at = begin_authentication(out, 0);
    end(out, at);
}

/// The client is to prove that it knows the password: AuthenticationSASL, with the one mechanism there is.
pub fn authentication_sasl(out: &mut Vec<u8>) {
    let at = begin_authentication(out, 10);
    put_cstr(out, crate::scram::MECHANISM);
    out.push(0);
    end(out, at);
}

/// The server's part of a SASL exchange that goes on.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &str) {
    let at = begin_authentication(out, 11);
    out.extend_from_slice(data.as_bytes());
    end(out, at);
}

/// The server's last part of a SASL exchange that has succeeded.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &str) {
    let at = begin_authentication(out, 12);
    out.extend_from_slice(data.as_bytes());
    end(out, at);
}

fn begin_authentication(out: &mut Vec<u8>, code: i32) -> usize {
    let at = begin(out, b'R');
    out.extend_from_slice(&code.to_be_bytes());
    at
}

/// The server speaks 3.0 and knows none of the options named.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, negotiation: &Negotiation) {
    let at = begin(out, b'v');
    out.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
    let count = i32::try_from(negotiation.unrecognized.len()).expect("the names fit into a startup packet");
    out.extend_from_slice(&count.to_be_bytes());
    for name in &negotiation.unrecognized {
        put_cstr(out, name);
    }
    end(out, at);
}

/// The value of a setting that clients follow.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    let at = begin(out, b'S');
    put_cstr(out, name);
    put_cstr(out, value);
    end(out, at);
}

/// What a client needs to cancel this session's command.
pub fn backend_key_data(out: &mut Vec<u8>, key: CancelRequest) {
    let at = begin(out, b'K');
    out.extend_from_slice(&key.pid.to_be_bytes());
    out.extend_from_slice(&key.key.to_be_bytes());
    end(out, at);
}

/// The session waits for a command.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    let at = begin(out, b'Z');
    out.push(status.byte());
    end(out, at);
}

/// The columns of the rows that follow; all of no table and in text form.
///
/// # Panics
/// There are more than 32,767 columns (SQLite's limit is lower).
pub fn row_description(out: &mut Vec<u8>, columns: &[Column<'_>]) {
    let at = begin(out, b'T');
    let count = i16::try_from(columns.len()).expect("a result set has at most 32,767 columns");
    out.extend_from_slice(&count.to_be_bytes());
    for column in columns {
        put_cstr(out, column.name);
        // No table, and no column of it.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&column.column_type.oid.to_be_bytes());
        out.extend_from_slice(&column.column_type.length.to_be_bytes());
        out.extend_from_slice(&column.typmod.to_be_bytes());
        // Text form.
        out.extend_from_slice(&[0; 2]);
    }
    end(out, at);
}

/// The command is done; `tag` is what the client shows (`INSERT 0 1`).
pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    let at = begin(out, b'C');
    put_cstr(out, tag);
    end(out, at);
}

/// The query text was empty.
pub fn empty_query_response(out: &mut Vec<u8>) {
    let at = begin(out, b'I');
    end(out, at);
}

/// The command failed, or the session ends.
pub fn error_response(out: &mut Vec<u8>, report: &ErrorResponse) {
    put_report(out, b'E', report);
}

/// Something the client may want to know.
pub fn notice_response(out: &mut Vec<u8>, report: &ErrorResponse) {
    put_report(out, b'N', report);
}

fn put_report(out: &mut Vec<u8>, tag: u8, report: &ErrorResponse) {
    let at = begin(out, tag);
    let mut field = |field: u8, text: &str| {
        out.push(field);
        put_cstr(out, text);
    };
    field(b'S', report.severity.name());
    field(b'V', report.severity.name());
    field(b'C', report.sqlstate.as_str());
    field(b'M', &report.message);
    if let Some(detail) = &report.detail {
        field(b'D', detail);
    }
    if let Some(hint) = &report.hint {
        field(b'H', hint);
    }
    if let Some(position) = report.position {
        field(b'P', &position.to_string());
    }
    out.push(0);
    end(out, at);
}

/// Somebody, the process `pid`, notified a channel that this session listens to.
pub fn notification_response(out: &mut Vec<u8>, pid: i32, channel: &str, payload: &str) {
    let at = begin(out, b'A');
    out.extend_from_slice(&pid.to_be_bytes());
    put_cstr(out, channel);
    put_cstr(out, payload);
    end(out, at);
}

/// From here on both sides send copy data: the answer to START_REPLICATION.
pub fn copy_both_response(out: &mut Vec<u8>) {
    let at = begin(out, b'W');
    // Text form, no columns.
    out.extend_from_slice(&[0; 3]);
    end(out, at);
}

/// From here on the server sends copy data: a base backup.
pub fn copy_out_response(out: &mut Vec<u8>) {
    let at = begin(out, b'H');
    // Text form, no columns.
    out.extend_from_slice(&[0; 3]);
    end(out, at);
}

/// The server's side of the copy is over.
pub fn copy_done(out: &mut Vec<u8>) {
    let at = begin(out, b'c');
    end(out, at);
}

/// A row under construction: append a value for each column, then [`DataRow::finish`].
#[derive(Debug)]
#[must_use = "a row that is not finished is taken back"]
pub struct DataRow<'a> {
    out: &'a mut Vec<u8>,
    /// Where the length stands; the column count follows it.
    at: usize,
    columns: i16,
    finished: bool,
}

impl<'a> DataRow<'a> {
    /// Begins a row at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> DataRow<'a> {
        let at = begin(out, b'D');
        out.extend_from_slice(&[0; 2]);
        DataRow { out, at, columns: 0, finished: false }
    }

    /// Appends NULL.
    pub fn null(&mut self) {
        self.count_column();
        self.out.extend_from_slice(&(-1i32).to_be_bytes());
    }

    /// Appends text.
    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// Appends bytes as they are (text that need not be UTF-8, such as the contents of a file).
    pub fn bytes(&mut self, value: &[u8]) {
        self.value_with(|out| out.extend_from_slice(value));
    }

    /// Appends what `value` displays.
    pub fn display(&mut self, value: impl Display) {
        self.value_with(|out| write!(out, "{value}").expect("writing to a Vec cannot fail"));
    }

    /// Appends a boolean in PostgreSQL's form, `t` or `f`.
    pub fn boolean(&mut self, value: bool) {
        self.bytes(if value { b"t" } else { b"f" });
    }

    /// Appends a `bytea` in its hexadecimal form.
    pub fn bytea(&mut self, value: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.value_with(|out| {
            out.reserve(2 + 2 * value.len());
            out.extend_from_slice(b"\\x");
            for byte in value {
                out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
        });
    }

    /// Appends a `double precision`: the shortest digits that read back the same, in PostgreSQL's notation.
    pub fn float8(&mut self, value: f64) {
        self.value_with(|out| put_float8(out, value));
    }

    /// Appends the value that `put` appends to the buffer.
    pub fn value_with(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        self.count_column();
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        put(self.out);
        // A value that does not fit makes the row too long: `finish` refuses it, so that no one sees this length.
        let length = i32::try_from(self.out.len() - at - 4).unwrap_or(i32::MAX);
        self.out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn count_column(&mut self) {
        self.columns = self.columns.checked_add(1).expect("a result set has at most 32,767 columns");
    }

    /// Completes the row.
    ///
    /// # Errors
    /// 54000 when it is longer than a message may be; the row is taken back.
    pub fn finish(mut self) -> Result<(), ErrorResponse> {
        let body = self.out.len() - self.at - 4;
        if body > LARGE_MESSAGE_MAX {
            return Err(ErrorResponse::error(
                PROGRAM_LIMIT_EXCEEDED,
                format!("row is too long for a message ({body} bytes, at most {LARGE_MESSAGE_MAX})"),
            ));
        }
        let columns = self.columns.to_be_bytes();
        self.out[self.at + 4..self.at + 6].copy_from_slice(&columns);
        end(self.out, self.at);
        self.finished = true;
        Ok(())
    }
}

impl Drop for DataRow<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.at - 1);
        }
    }
}

/// PostgreSQL writes an exponent where it is below -4 or above 14, with a sign and at least two digits.
fn put_float8(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
    const WRITES: &str = "writing to a Vec cannot fail";
    let start = out.len();
    write!(out, "{value:e}").expect(WRITES);
    let e = start + out[start..].iter().position(|&byte| byte == b'e').expect("the form has an exponent");
    let exponent = std::str::from_utf8(&out[e + 1..]).expect("digits are ASCII");
    let exponent: i32 = exponent.parse().expect("an exponent is a small number");
    if (-4..15).contains(&exponent) {
        out.truncate(start);
        write!(out, "{value}").expect(WRITES);
    } else {
        out.truncate(e);
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "e{sign}{:02}", exponent.unsigned_abs()).expect(WRITES);
    }
}

#[cfg(test)]
mod tests;
