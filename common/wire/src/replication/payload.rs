//! What CopyData carries between a walsender and a walreceiver.
//!
//! Numbers are big-endian; a time is in microseconds since 2000-01-01.
//!
//! ```text
//! server to client
//!   'w'  start i64 | end of the server's log i64 | send time i64 | bytes of the log
//!   'k'  end of the server's log i64 | send time i64 | reply requested u8
//! client to server
//!   'r'  written i64 | flushed i64 | applied i64 | time i64 | reply requested u8
//!   'h'  time i64 | xmin u32 | its epoch u32 | catalog xmin u32 | its epoch u32
//! ```
//!
//! Between Walship's own nodes the end of the server's log is the horizon (design: what is durable on a quorum);
//! PostgreSQL's receivers only show it.
//!
//! Follows PostgreSQL 15 src/backend/replication/walsender.c (XLogSendPhysical, ProcessStandbyMessage), walreceiver.c
//! (XLogWalRcvProcessMsg).

use wal::lsn::Lsn;
use wal::timestamp::Timestamp;

use crate::backend::{begin, end};
use crate::body::{Body, violation};
use crate::error::ErrorResponse;
use crate::sqlstate::PROTOCOL_VIOLATION;

/// Most bytes of the log in one message: 16 pages.
pub const MAX_SEND_SIZE: usize = 16 * 8192;

/// Bytes before the log's own in a 'w', the kind included.
const WAL_HEADER_SIZE: usize = 25;
/// The kind and the start position: `end of log` follows them.
const WAL_END_OFFSET: usize = 9;

/// A 'w' under construction in an output buffer: reserve, read the log straight into it, complete.
///
/// The times and positions that should be as fresh as can be are given last. Dropped unfinished, it takes itself out
/// of the buffer again.
#[derive(Debug)]
#[must_use = "a message that is not finished is taken back"]
pub struct WalMessage<'a> {
    out: &'a mut Vec<u8>,
    /// Where the length of the CopyData stands.
    at: usize,
    finished: bool,
}

impl<'a> WalMessage<'a> {
    /// Begins a message at the end of `out` with room for `length` bytes of the log from `start` on.
    pub fn begin(out: &'a mut Vec<u8>, start: Lsn, length: usize) -> WalMessage<'a> {
        let at = begin(out, b'd');
        out.push(b'w');
        out.extend_from_slice(&start.0.to_be_bytes());
        out.resize(at + 4 + WAL_HEADER_SIZE + length, 0);
        WalMessage { out, at, finished: false }
    }

    /// The room for the log's bytes.
    pub fn wal_mut(&mut self) -> &mut [u8] {
        &mut self.out[self.at + 4 + WAL_HEADER_SIZE..]
    }

    /// Completes the message.
    pub fn finish(mut self, wal_end: Lsn, send_time: Timestamp) {
        let fields = self.at + 4 + WAL_END_OFFSET;
        self.out[fields..fields + 8].copy_from_slice(&wal_end.0.to_be_bytes());
        self.out[fields + 8..fields + 16].copy_from_slice(&send_time.0.to_be_bytes());
        end(self.out, self.at);
        self.finished = true;
    }
}

impl Drop for WalMessage<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.at - 1);
        }
    }
}

/// Appends the beginning of a 'w': what stands before the `length` bytes of the log, which are to follow.
pub fn wal_header(out: &mut Vec<u8>, start: Lsn, length: usize, wal_end: Lsn, send_time: Timestamp) {
    let at = begin(out, b'd');
    out.push(b'w');
    for number in [start.0, wal_end.0, send_time.0.cast_unsigned()] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let length = i32::try_from(out.len() - at + length).expect("a message is shorter than 2 GiB");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a 'k'.
pub fn keepalive(out: &mut Vec<u8>, wal_end: Lsn, send_time: Timestamp, reply_requested: bool) {
    let at = begin(out, b'd');
    out.push(b'k');
    out.extend_from_slice(&wal_end.0.to_be_bytes());
    out.extend_from_slice(&send_time.0.to_be_bytes());
    out.push(u8::from(reply_requested));
    end(out, at);
}

/// What a walsender sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderMessage<'a> {
    /// 'w'.
    Wal {
        /// Where its first byte belongs.
        start: Lsn,
        /// End of the sender's log.
        wal_end: Lsn,
        /// When it was sent, by the sender's clock.
        send_time: Timestamp,
        /// The bytes.
        wal: &'a [u8],
    },
    /// 'k'.
    Keepalive {
        /// End of the sender's log.
        wal_end: Lsn,
        /// When it was sent, by the sender's clock.
        send_time: Timestamp,
        /// Whether to report back at once.
        reply_requested: bool,
    },
}

impl<'a> SenderMessage<'a> {
    /// What the payload of a CopyData says.
    ///
    /// # Errors
    /// 08P01: the header is cut off, or the kind is unknown.
    pub fn decode(payload: &'a [u8]) -> Result<SenderMessage<'a>, ErrorResponse> {
        let mut body = Body::new(payload);
        let kind = body.u8()?;
        match kind {
            b'w' => {
                Self::decode_wal(body).map_err(|_| violation("invalid WAL message received from primary"))
            }
            b'k' => Self::decode_keepalive(body)
                .map_err(|_| violation("invalid keepalive message received from primary")),
            _ => Err(violation(format!("invalid replication message type {kind}"))),
        }
    }

    fn decode_wal(mut body: Body<'a>) -> Result<SenderMessage<'a>, ErrorResponse> {
        Ok(SenderMessage::Wal {
            start: Lsn(body.u64()?),
            wal_end: Lsn(body.u64()?),
            send_time: Timestamp(body.i64()?),
            wal: body.rest(),
        })
    }

    fn decode_keepalive(mut body: Body<'a>) -> Result<SenderMessage<'a>, ErrorResponse> {
        let message = SenderMessage::Keepalive {
            wal_end: Lsn(body.u64()?),
            send_time: Timestamp(body.i64()?),
            reply_requested: body.u8()? != 0,
        };
        body.end()?;
        Ok(message)
    }
}

/// 'r': how far a standby is. A position of zero is "not reported".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Written to the standby's log.
    pub write: Lsn,
    /// Durable in the standby's log.
    pub flush: Lsn,
    /// Put into the standby's tables.
    pub apply: Lsn,
    /// When it was sent, by the standby's clock.
    pub time: Timestamp,
    /// Whether the sender is to answer with a keepalive at once.
    pub reply_requested: bool,
}

/// 'h': the oldest transactions that a standby's queries need. All zero takes back what was said before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    /// When it was sent, by the standby's clock.
    pub time: Timestamp,
    /// Oldest transaction needed.
    pub xmin: u32,
    /// How often transaction ids had wrapped around at `xmin`.
    pub xmin_epoch: u32,
    /// Oldest transaction needed for catalogs.
    pub catalog_xmin: u32,
    /// How often transaction ids had wrapped around at `catalog_xmin`.
    pub catalog_xmin_epoch: u32,
}

/// What a standby sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandbyMessage {
    /// 'r'.
    StatusUpdate(StatusUpdate),
    /// 'h'.
    HotStandbyFeedback(HotStandbyFeedback),
}

impl StandbyMessage {
    /// What the payload of a CopyData says.
    ///
    /// # Errors
    /// 08P01: cut off, or (for the log alone: the connection ends) of an unknown kind.
    pub fn decode(payload: &[u8]) -> Result<StandbyMessage, ErrorResponse> {
        let mut body = Body::new(payload);
        let kind = body.u8()?;
        let message = match kind {
            b'r' => StandbyMessage::StatusUpdate(StatusUpdate {
                write: Lsn(body.u64()?),
                flush: Lsn(body.u64()?),
                apply: Lsn(body.u64()?),
                time: Timestamp(body.i64()?),
                reply_requested: body.u8()? != 0,
            }),
            b'h' => StandbyMessage::HotStandbyFeedback(HotStandbyFeedback {
                time: Timestamp(body.i64()?),
                xmin: body.u32()?,
                xmin_epoch: body.u32()?,
                catalog_xmin: body.u32()?,
                catalog_xmin_epoch: body.u32()?,
            }),
            _ => {
                let message = format!("unexpected message type \"{}\"", char::from(kind));
                return Err(ErrorResponse::comm_error(PROTOCOL_VIOLATION, message));
            }
        };
        body.end()?;
        Ok(message)
    }

    /// Appends the message as a CopyData.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = begin(out, b'd');
        match self {
            StandbyMessage::StatusUpdate(update) => {
                out.push(b'r');
                for position in [update.write, update.flush, update.apply] {
                    out.extend_from_slice(&position.0.to_be_bytes());
                }
                out.extend_from_slice(&update.time.0.to_be_bytes());
                out.push(u8::from(update.reply_requested));
            }
            StandbyMessage::HotStandbyFeedback(feedback) => {
                out.push(b'h');
                out.extend_from_slice(&feedback.time.0.to_be_bytes());
                let words =
                    [feedback.xmin, feedback.xmin_epoch, feedback.catalog_xmin, feedback.catalog_xmin_epoch];
                for word in words {
                    out.extend_from_slice(&word.to_be_bytes());
                }
            }
        }
        end(out, at);
    }
}

#[cfg(test)]
mod tests;
