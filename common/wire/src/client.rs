//! The client's side: encodes what a client sends, decodes what a server sends.
//!
//! For the walreceiver, `clone` and test programs. Encoders append to the end of a `Vec<u8>`.
//!
//! Follows PostgreSQL 15 src/interfaces/libpq/fe-protocol3.c.

use crate::backend::{Column, TransactionStatus, begin, end, put_cstr};
use crate::body::{Body, violation};
use crate::error::ErrorResponse;
use crate::framing::{LARGE_MESSAGE_MAX, Message};
use crate::startup::{CANCEL_REQUEST_CODE, CancelRequest, Negotiation, PROTOCOL_3_0, STATUS_REQUEST_CODE};
use crate::types::Type;

/// The first packet of a session: parameters by name, such as `user`, `database`, `replication`.
pub fn startup_message(out: &mut Vec<u8>, parameters: &[(&str, &str)]) {
    let at = begin_packet(out);
    out.extend_from_slice(&PROTOCOL_3_0.to_be_bytes());
    for (name, value) in parameters {
        put_cstr(out, name);
        put_cstr(out, value);
    }
    out.push(0);
    end(out, at);
}

/// The only packet of a connection that asks how the node is.
pub fn status_request(out: &mut Vec<u8>) {
    let at = begin_packet(out);
    out.extend_from_slice(&STATUS_REQUEST_CODE.to_be_bytes());
    end(out, at);
}

/// The only packet of a connection that cancels another session's command.
pub fn cancel_request(out: &mut Vec<u8>, request: CancelRequest) {
    let at = begin_packet(out);
    out.extend_from_slice(&CANCEL_REQUEST_CODE.to_be_bytes());
    out.extend_from_slice(&request.pid.to_be_bytes());
    out.extend_from_slice(&request.key.to_be_bytes());
    end(out, at);
}

/// A message without a tag.
fn begin_packet(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    at
}

/// Begins the exchange that AuthenticationSASL asked for.
pub fn sasl_initial_response(out: &mut Vec<u8>, data: &str) {
    let at = begin(out, b'p');
    put_cstr(out, crate::scram::MECHANISM);
    let length = i32::try_from(data.len()).expect("a first message is short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data.as_bytes());
    end(out, at);
}

/// Goes on with it.
pub fn sasl_response(out: &mut Vec<u8>, data: &str) {
    let at = begin(out, b'p');
    out.extend_from_slice(data.as_bytes());
    end(out, at);
}

/// A simple query.
pub fn query(out: &mut Vec<u8>, text: &str) {
    put_text_message(out, b'Q', text);
}

fn put_text_message(out: &mut Vec<u8>, tag: u8, text: &str) {
    let at = begin(out, tag);
    put_cstr(out, text);
    end(out, at);
}

/// The client leaves.
pub fn terminate(out: &mut Vec<u8>) {
    let at = begin(out, b'X');
    end(out, at);
}

/// A piece of copy data.
pub fn copy_data(out: &mut Vec<u8>, data: &[u8]) {
    let at = begin(out, b'd');
    out.extend_from_slice(data);
    end(out, at);
}

/// The client's side of the copy is over.
pub fn copy_done(out: &mut Vec<u8>) {
    let at = begin(out, b'c');
    end(out, at);
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendMessage<'a> {
    /// The server wants to know, or knows, who the client is.
    Authentication(Authentication<'a>),
    /// The value of a setting.
    ParameterStatus {
        /// The setting.
        name: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// What is needed to cancel this session's command.
    BackendKeyData(CancelRequest),
    /// The server waits for a command.
    ReadyForQuery(TransactionStatus),
    /// The columns of the rows that follow.
    RowDescription(RowDescription<'a>),
    /// A row.
    DataRow(DataRow<'a>),
    /// A command is done; its tag.
    CommandComplete(&'a str),
    /// The query text was empty.
    EmptyQueryResponse,
    /// Something failed.
    ErrorResponse(ErrorResponse),
    /// Something to know.
    NoticeResponse(ErrorResponse),
    /// Somebody notified a channel that this session listens to.
    NotificationResponse {
        /// The process that did.
        pid: i32,
        /// The channel.
        channel: &'a str,
        /// What came with it; empty for nothing.
        payload: &'a str,
    },
    /// Copy data goes from the server to the client.
    CopyOutResponse,
    /// Copy data is expected from the client.
    CopyInResponse,
    /// Copy data goes both ways.
    CopyBothResponse,
    /// A piece of copy data.
    CopyData(&'a [u8]),
    /// The server's side of the copy is over.
    CopyDone,
    /// The server speaks an older protocol, or does not know some options.
    NegotiateProtocolVersion(Negotiation),
}

/// An authentication message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// All is well.
    Ok,
    /// Prove that you know the password; whether by SCRAM-SHA-256, the one mechanism that this client has.
    Sasl {
        /// Whether that is among those that the server offers.
        scram: bool,
    },
    /// The server's next part of that.
    SaslContinue(&'a [u8]),
    /// The server's last part of that.
    SaslFinal(&'a [u8]),
    /// Some other method, by its code. Not least the password as it is, which this client tells nobody.
    Other(i32),
}

impl<'a> BackendMessage<'a> {
    /// What `message` says.
    ///
    /// # Errors
    /// 08P01: its fields are wrong, or its tag is unknown. The connection is of no more use.
    pub fn decode(message: Message<'a>) -> Result<BackendMessage<'a>, ErrorResponse> {
        let mut body = Body::new(message.body);
        let decoded = match message.tag {
            b'R' => return decode_authentication(body),
            b'S' => BackendMessage::ParameterStatus { name: body.cstr()?, value: body.cstr()? },
            b'K' => BackendMessage::BackendKeyData(CancelRequest { pid: body.i32()?, key: body.i32()? }),
            b'Z' => BackendMessage::ReadyForQuery(decode_status(body.u8()?)?),
            b'T' => BackendMessage::RowDescription(RowDescription::decode(&mut body)?),
            b'D' => BackendMessage::DataRow(DataRow::decode(&mut body)?),
            b'C' => BackendMessage::CommandComplete(body.cstr()?),
            b'I' => BackendMessage::EmptyQueryResponse,
            b'E' => BackendMessage::ErrorResponse(ErrorResponse::decode(&mut body)?),
            b'N' => BackendMessage::NoticeResponse(ErrorResponse::decode(&mut body)?),
            b'A' => BackendMessage::NotificationResponse {
                pid: body.i32()?,
                channel: body.cstr()?,
                payload: body.cstr()?,
            },
            b'H' => return Ok(BackendMessage::CopyOutResponse),
            b'G' => return Ok(BackendMessage::CopyInResponse),
            b'W' => return Ok(BackendMessage::CopyBothResponse),
            b'd' => return Ok(BackendMessage::CopyData(message.body)),
            b'c' => BackendMessage::CopyDone,
            b'v' => BackendMessage::NegotiateProtocolVersion(decode_negotiation(&mut body)?),
            tag => {
                return Err(violation(format!(
                    "unexpected message type \"{}\" from server",
                    char::from(tag)
                )));
            }
        };
        body.end()?;
        Ok(decoded)
    }
}

fn decode_authentication<'a>(mut body: Body<'a>) -> Result<BackendMessage<'a>, ErrorResponse> {
    Ok(BackendMessage::Authentication(match body.i32()? {
        0 => Authentication::Ok,
        10 => {
            let mut scram = false;
            loop {
                match body.cstr()? {
                    "" => break Authentication::Sasl { scram },
                    mechanism => scram |= mechanism == crate::scram::MECHANISM,
                }
            }
        }
        11 => Authentication::SaslContinue(body.rest()),
        12 => Authentication::SaslFinal(body.rest()),
        other => Authentication::Other(other),
    }))
}

fn decode_status(byte: u8) -> Result<TransactionStatus, ErrorResponse> {
    [TransactionStatus::Idle, TransactionStatus::InTransaction, TransactionStatus::Failed]
        .into_iter()
        .find(|status| status.byte() == byte)
        .ok_or_else(|| violation(format!("invalid transaction status {byte} in message")))
}

fn decode_negotiation(body: &mut Body<'_>) -> Result<Negotiation, ErrorResponse> {
    body.u32()?;
    let count = body.i32()?;
    let unrecognized =
        (0..count).map(|_| Ok(body.cstr()?.to_owned())).collect::<Result<_, ErrorResponse>>()?;
    Ok(Negotiation { unrecognized })
}

/// The columns of a result set. Checked as a whole when decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDescription<'a> {
    count: i16,
    fields: &'a [u8],
}

impl<'a> RowDescription<'a> {
    fn decode(body: &mut Body<'a>) -> Result<RowDescription<'a>, ErrorResponse> {
        let count = body.i16()?;
        let fields = body.rest();
        for _ in 0..count {
            decode_column(body)?;
        }
        Ok(RowDescription { count, fields })
    }

    /// The columns in order.
    pub fn columns(&self) -> impl Iterator<Item = Column<'a>> + use<'a> {
        let mut body = Body::new(self.fields);
        (0..self.count).map(move |_| decode_column(&mut body).expect("the columns were checked when decoded"))
    }
}

fn decode_column<'a>(body: &mut Body<'a>) -> Result<Column<'a>, ErrorResponse> {
    let name = body.cstr()?;
    // The table and the number of the column in it.
    body.bytes(6)?;
    let column_type = Type { oid: body.u32()?, length: body.i16()? };
    let typmod = body.i32()?;
    // The format of the values: text, as nothing else was asked for.
    body.bytes(2)?;
    Ok(Column { name, column_type, typmod })
}

/// A row. Checked as a whole when decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRow<'a> {
    count: i16,
    values: &'a [u8],
}

impl<'a> DataRow<'a> {
    fn decode(body: &mut Body<'a>) -> Result<DataRow<'a>, ErrorResponse> {
        let count = body.i16()?;
        let values = body.rest();
        for _ in 0..count {
            decode_value(body)?;
        }
        Ok(DataRow { count, values })
    }

    /// The values in order; `None` is NULL.
    pub fn values(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut body = Body::new(self.values);
        (0..self.count).map(move |_| decode_value(&mut body).expect("the values were checked when decoded"))
    }
}

fn decode_value<'a>(body: &mut Body<'a>) -> Result<Option<&'a [u8]>, ErrorResponse> {
    match body.i32()? {
        -1 => Ok(None),
        length => {
            let length =
                usize::try_from(length).map_err(|_| violation("invalid length of a value in message"))?;
            body.bytes(length).map(Some)
        }
    }
}

/// What may come from a server. Messages other than those that carry data or reports are short.
///
/// # Errors
/// 08P01: a length out of bounds; the tag is as wrong as the length then, for the stream is out of step.
pub fn check_frame(tag: u8, length: i32) -> Result<(), ErrorResponse> {
    const SHORT_MAX: usize = 30_000;
    let body_max = match tag {
        b'T' | b'D' | b'd' | b'V' | b'E' | b'N' | b'A' => LARGE_MESSAGE_MAX,
        _ => SHORT_MAX,
    };
    let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    if body.is_some_and(|body| body <= body_max) {
        return Ok(());
    }
    Err(violation(format!(
        "lost synchronization with server: got message type \"{}\", length {length}",
        char::from(tag)
    )))
}

#[cfg(test)]
mod tests;
