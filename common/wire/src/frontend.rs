//! Decodes what a client sends after the startup packet.
//!
//! Simple queries and the copy sub-protocol are decoded; the messages of the extended protocol are recognised, so
//! that a session can refuse them and skip to Sync, as PostgreSQL does after an error in them.
//!
//! Follows PostgreSQL 15 src/backend/tcop/postgres.c (SocketBackend, PostgresMain).

use crate::body::Body;
use crate::error::{ErrorResponse, Severity};
use crate::framing::{LARGE_MESSAGE_MAX, Message, SMALL_MESSAGE_MAX};
use crate::sqlstate::PROTOCOL_VIOLATION;

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontendMessage<'a> {
    /// Simple query.
    Query(&'a str),
    /// The client leaves.
    Terminate,
    /// A piece of copy data.
    CopyData(&'a [u8]),
    /// End of copy data.
    CopyDone,
    /// The client gives the copy up, for this reason.
    CopyFail(&'a str),
    /// A message of the extended protocol other than Sync and Flush.
    Extended(ExtendedMessage),
    /// Send what you have.
    Flush,
    /// End of a series of extended messages: to be answered by ReadyForQuery.
    Sync,
    /// The fast-path function call.
    FunctionCall,
    /// Any of the above, with more in it than is taken ([`crate::framing::InputBuffer::set_body_max`]).
    TooLong {
        /// What it would have been.
        tag: u8,
        /// Bytes of its body.
        bytes: usize,
    },
}

/// The messages of the extended protocol that work on statements and portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendedMessage {
    /// Bind.
    Bind,
    /// Close.
    Close,
    /// Describe.
    Describe,
    /// Execute.
    Execute,
    /// Parse.
    Parse,
}

impl<'a> FrontendMessage<'a> {
    /// What `message` says.
    ///
    /// # Errors
    /// ERROR 08P01 or 22021 when its fields are wrong (the stream is still in step); FATAL 08P01 for an unknown tag.
    pub fn decode(message: Message<'a>) -> Result<FrontendMessage<'a>, ErrorResponse> {
        if message.left_out > 0 {
            return Ok(FrontendMessage::TooLong { tag: message.tag, bytes: message.left_out });
        }
        let mut body = Body::new(message.body);
        let decoded = match message.tag {
            b'Q' => FrontendMessage::Query(body.cstr()?),
            b'X' => return Ok(FrontendMessage::Terminate),
            b'd' => return Ok(FrontendMessage::CopyData(message.body)),
            b'c' => FrontendMessage::CopyDone,
            b'f' => FrontendMessage::CopyFail(body.cstr()?),
            b'B' => return Ok(FrontendMessage::Extended(ExtendedMessage::Bind)),
            b'C' => return Ok(FrontendMessage::Extended(ExtendedMessage::Close)),
            b'D' => return Ok(FrontendMessage::Extended(ExtendedMessage::Describe)),
            b'E' => return Ok(FrontendMessage::Extended(ExtendedMessage::Execute)),
            b'P' => return Ok(FrontendMessage::Extended(ExtendedMessage::Parse)),
            b'F' => return Ok(FrontendMessage::FunctionCall),
            b'H' => FrontendMessage::Flush,
            b'S' => FrontendMessage::Sync,
            tag => return Err(invalid_tag(tag)),
        };
        body.end()?;
        Ok(decoded)
    }
}

/// What may come from a client outside of a replication stream.
///
/// # Errors
/// FATAL 08P01 for a tag that is none; 08P01 for the log alone for a length out of bounds.
pub fn check_frame(tag: u8, length: i32) -> Result<(), ErrorResponse> {
    let body_max = match tag {
        b'Q' | b'F' | b'B' | b'P' | b'd' => LARGE_MESSAGE_MAX,
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => SMALL_MESSAGE_MAX,
        _ => return Err(invalid_tag(tag)),
    };
    check_length(length, body_max)
}

/// What may come from a client that is being authenticated.
///
/// # Errors
/// FATAL 08P01 for any other message.
pub fn check_authentication_frame(tag: u8, length: i32) -> Result<(), ErrorResponse> {
    if tag != b'p' {
        let message = format!("expected SASL response, got message type {tag}");
        return Err(ErrorResponse::fatal(PROTOCOL_VIOLATION, message));
    }
    check_length(length, SMALL_MESSAGE_MAX)
}

/// The mechanism that a client has picked, and its first part of the exchange: the body of a SASLInitialResponse.
///
/// # Errors
/// FATAL 08P01.
pub fn sasl_initial_response(body: &[u8]) -> Result<(&str, &[u8]), ErrorResponse> {
    let mut body = Body::new(body);
    let fatal = |error: ErrorResponse| error.with_severity(Severity::Fatal);
    let mechanism = body.cstr().map_err(fatal)?;
    // -1 would be "I have nothing to say before you": not in this mechanism.
    let length = usize::try_from(body.i32().map_err(fatal)?).unwrap_or(0);
    let data = body.bytes(length).map_err(fatal)?;
    body.end().map_err(fatal)?;
    Ok((mechanism, data))
}

/// A length that counts itself must leave a body of at most `body_max` bytes.
pub(crate) fn check_length(length: i32, body_max: usize) -> Result<(), ErrorResponse> {
    let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    if body.is_some_and(|body| body <= body_max) {
        return Ok(());
    }
    Err(ErrorResponse::comm_error(PROTOCOL_VIOLATION, "invalid message length"))
}

fn invalid_tag(tag: u8) -> ErrorResponse {
    ErrorResponse::fatal(PROTOCOL_VIOLATION, format!("invalid frontend message type {tag}"))
}

#[cfg(test)]
mod tests;
