//! Reads the fields of one message.
//!
//! Every read checks what is left; a message that ends early, or goes on after its last field, is an error in
//! PostgreSQL's words. Follows PostgreSQL 15 src/backend/libpq/pqformat.c.

use std::borrow::Cow;

use crate::error::ErrorResponse;
use crate::sqlstate::{CHARACTER_NOT_IN_REPERTOIRE, PROTOCOL_VIOLATION};

/// The part of a message that has not been read yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Body<'a> {
        Body { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], ErrorResponse> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| violation("insufficient data left in message"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ErrorResponse> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ErrorResponse> {
        let [byte] = self.array().map_err(|_| violation("no data left in message"))?;
        Ok(byte)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, ErrorResponse> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, ErrorResponse> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ErrorResponse> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, ErrorResponse> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ErrorResponse> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// The bytes up to a zero byte, which is consumed too.
    fn cstr_bytes(&mut self) -> Result<&'a [u8], ErrorResponse> {
        let end = self.rest.iter().position(|&byte| byte == 0);
        let end = end.ok_or_else(|| violation("invalid string in message"))?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// A string that ends in a zero byte and must be UTF-8.
    pub(crate) fn cstr(&mut self) -> Result<&'a str, ErrorResponse> {
        utf8(self.cstr_bytes()?)
    }

    /// The same from a peer whose encoding is unknown (an error report before the encoding is agreed).
    pub(crate) fn cstr_lossy(&mut self) -> Result<Cow<'a, str>, ErrorResponse> {
        Ok(String::from_utf8_lossy(self.cstr_bytes()?))
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The message must end here.
    pub(crate) fn end(self) -> Result<(), ErrorResponse> {
        if self.rest.is_empty() { Ok(()) } else { Err(violation("invalid message format")) }
    }
}

/// The text of bytes that must be UTF-8.
///
/// # Errors
/// 22021, naming the first wrong bytes as PostgreSQL does.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, ErrorResponse> {
    std::str::from_utf8(bytes).map_err(|error| {
        let wrong = &bytes[error.valid_up_to()..];
        // PostgreSQL shows as many bytes as the first one says that the character has.
        let announced = match wrong[0] {
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        let shown: Vec<String> = wrong.iter().take(announced).map(|byte| format!("0x{byte:02x}")).collect();
        ErrorResponse::error(
            CHARACTER_NOT_IN_REPERTOIRE,
            format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" ")),
        )
    })
}

/// A message whose form is wrong: the command fails, the stream is still in step.
pub(crate) fn violation(message: impl Into<String>) -> ErrorResponse {
    ErrorResponse::error(PROTOCOL_VIOLATION, message)
}
