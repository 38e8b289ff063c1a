//! From the bytes of a stream to whole messages.
//!
//! Every message but the first packet of a connection is a tag byte, a length that counts itself, and the body.
//! [`InputBuffer`] takes bytes as they come and gives out messages as slices of itself, so the payload of a CopyData
//! is never copied between the socket and who uses it.
//!
//! How to use it:
//! ```text
//! loop {
//!     while let Some(message) = input.next_message()? { … }
//!     let count = socket.read(input.spare())?;
//!     input.filled(count);
//! }
//! ```
//!
//! Invariants: `start <= end <= bytes.len()`; the message under way begins at `start`. Memory grows with the bytes
//! received (by doubling), never with a length that a peer announced; each byte is moved a bounded number of times
//! on average, whatever the sizes of messages and reads. After an error the stream is out of step: close it.
//!
//! A body that is longer than who reads wants to hold ([`InputBuffer::set_body_max`]) is thrown away as it comes, and what
//! is given out then says how long it was: the stream stays in step, and the peer can be told.
//!
//! Follows PostgreSQL 15 src/backend/libpq/pqcomm.c (pq_getmessage, pq_startmsgread).

use crate::error::ErrorResponse;
use crate::sqlstate::PROTOCOL_VIOLATION;

/// Longest startup packet, its length word not counted.
pub const STARTUP_PACKET_MAX: usize = 10_000;
/// Longest message with a small body, in both directions of PostgreSQL's rules for who receives it.
pub const SMALL_MESSAGE_MAX: usize = 10_000;
/// Longest message at all: the largest piece of memory that PostgreSQL allocates.
pub const LARGE_MESSAGE_MAX: usize = 0x3fff_ffff - 1;

/// Decides whether a message of this tag and length (which counts itself: at least 4) may come now.
///
/// The three of this crate are [`crate::frontend::check_frame`], [`crate::replication::check_standby_frame`] and
/// [`crate::client::check_frame`]; a caller with other limits gives its own.
pub type FrameCheck = fn(tag: u8, length: i32) -> Result<(), ErrorResponse>;

/// One whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is.
    pub tag: u8,
    /// What follows the length.
    pub body: &'a [u8],
    /// Bytes of a body that was too long to be kept; 0: `body` is all of it.
    pub left_out: usize,
}

/// A message whose body is thrown away.
#[derive(Debug)]
struct LeftOut {
    tag: u8,
    body: usize,
    to_come: usize,
}

/// Tag and length.
const HEADER_SIZE: usize = 5;
/// The length word, which counts itself.
const LENGTH_SIZE: usize = 4;
/// The least room offered for a read.
const SPARE_MIN: usize = 8192;
/// A buffer that grew beyond this for one large message is given back once it is empty.
const KEPT_MAX: usize = 1 << 20;

/// Bytes received and not yet taken.
#[derive(Debug)]
pub struct InputBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    check: FrameCheck,
    body_max: usize,
    left_out: Option<LeftOut>,
}

impl InputBuffer {
    /// An empty buffer whose messages must pass `check`.
    pub fn new(check: FrameCheck) -> InputBuffer {
        InputBuffer { bytes: Vec::new(), start: 0, end: 0, check, body_max: usize::MAX, left_out: None }
    }

    /// From the next message on, `check` decides.
    pub fn set_check(&mut self, check: FrameCheck) {
        self.check = check;
    }

    /// From the next message on, a body of more bytes is left out.
    pub fn set_body_max(&mut self, bytes: usize) {
        self.body_max = bytes;
    }

    /// Room to read into, at least 8 KiB. Say with [`InputBuffer::filled`] how much of it was used.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.bytes.len() > KEPT_MAX {
                self.bytes = Vec::new();
            }
        }
        if self.bytes.len() - self.end < SPARE_MIN {
            self.make_room();
        }
        &mut self.bytes[self.end..]
    }

    /// Moves what is left to the front, in a larger buffer when it is more than half of this one: so the bytes moved
    /// are never more than the bytes that came since the last move.
    fn make_room(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let wanted = (2 * self.end).max(self.end + SPARE_MIN).next_power_of_two();
        if wanted > self.bytes.len() {
            self.bytes.resize(wanted, 0);
        }
    }

    /// `count` bytes were read into the room that [`InputBuffer::spare`] gave.
    ///
    /// # Panics
    /// There was not that much room.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "more bytes were read than there was room for");
        self.end += count;
    }

    /// Appends bytes that are at hand.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = self.spare();
            let count = bytes.len().min(spare.len());
            spare[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
    }

    /// Whether every byte received was taken: the stream stands between two messages.
    pub fn is_empty(&self) -> bool {
        self.start == self.end && self.left_out.is_none()
    }

    fn buffered(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The tag of the next message, as soon as its first byte is there.
    pub fn next_tag(&self) -> Option<u8> {
        self.buffered().first().copied()
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let from = self.start;
        self.start += count;
        &self.bytes[from..from + count]
    }

    /// Whether a whole message is there for [`InputBuffer::next_message`].
    ///
    /// # Errors
    /// As [`InputBuffer::next_message`].
    pub fn has_message(&mut self) -> Result<bool, ErrorResponse> {
        self.leave_out()?;
        Ok(match &self.left_out {
            Some(left_out) => left_out.to_come == 0,
            None => self.announced()?.is_some_and(|(_, body)| self.buffered().len() >= HEADER_SIZE + body),
        })
    }

    /// Throws away what is there of a body that is too long.
    fn leave_out(&mut self) -> Result<(), ErrorResponse> {
        if self.left_out.is_none()
            && let Some((tag, body)) = self.announced()?
            && body > self.body_max
        {
            self.start += HEADER_SIZE;
            self.left_out = Some(LeftOut { tag, body, to_come: body });
        }
        if let Some(left_out) = &mut self.left_out {
            let count = left_out.to_come.min(self.end - self.start);
            left_out.to_come -= count;
            self.start += count;
        }
        Ok(())
    }

    /// Tag of the next message and bytes of its body, when its header is there.
    fn announced(&self) -> Result<Option<(u8, usize)>, ErrorResponse> {
        let buffered = self.buffered();
        let Some(&[tag, a, b, c, d]) = buffered.first_chunk::<HEADER_SIZE>() else {
            // A wrong tag is answered at once: whoever sent it may be waiting and never send more.
            return buffered.first().map_or(Ok(None), |&tag| (self.check)(tag, 4).map(|()| None));
        };
        let length = i32::from_be_bytes([a, b, c, d]);
        (self.check)(tag, length)?;
        let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(LENGTH_SIZE));
        let body =
            body.ok_or_else(|| ErrorResponse::comm_error(PROTOCOL_VIOLATION, "invalid message length"))?;
        Ok(Some((tag, body)))
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// 08P01: a tag that is none, or a length out of bounds. The stream is out of step and must be closed.
    pub fn next_message(&mut self) -> Result<Option<Message<'_>>, ErrorResponse> {
        if !self.has_message()? {
            return Ok(None);
        }
        if let Some(left_out) = self.left_out.take() {
            return Ok(Some(Message { tag: left_out.tag, body: &[], left_out: left_out.body }));
        }
        let Some((tag, body)) = self.announced()? else {
            return Ok(None);
        };
        let bytes = self.take(HEADER_SIZE + body);
        Ok(Some(Message { tag, body: &bytes[HEADER_SIZE..], left_out: 0 }))
    }

    /// Whether a whole packet is there for [`InputBuffer::next_startup_packet`].
    ///
    /// # Errors
    /// As [`InputBuffer::next_startup_packet`].
    pub fn has_startup_packet(&self) -> Result<bool, ErrorResponse> {
        Ok(self.startup_packet_size()?.is_some())
    }

    /// Size of the next packet, length word included, when all of it is there.
    fn startup_packet_size(&self) -> Result<Option<usize>, ErrorResponse> {
        let Some(length) = self.buffered().first_chunk::<LENGTH_SIZE>() else {
            return Ok(None);
        };
        let size = usize::try_from(i32::from_be_bytes(*length)).ok();
        let shortest = LENGTH_SIZE + LENGTH_SIZE;
        let size = size.filter(|size| (shortest..=LENGTH_SIZE + STARTUP_PACKET_MAX).contains(size));
        let size = size.ok_or_else(|| {
            ErrorResponse::comm_error(PROTOCOL_VIOLATION, "invalid length of startup packet")
        })?;
        Ok((self.buffered().len() >= size).then_some(size))
    }

    /// The first packet of a connection (and the one after an answer to SSLRequest or GSSENCRequest), without its
    /// length word, if all of it is there. [`crate::startup::StartupDecoder`] reads it.
    ///
    /// # Errors
    /// 08P01: its length is out of bounds.
    pub fn next_startup_packet(&mut self) -> Result<Option<&[u8]>, ErrorResponse> {
        let Some(size) = self.startup_packet_size()? else {
            return Ok(None);
        };
        Ok(Some(&self.take(size)[LENGTH_SIZE..]))
    }
}

#[cfg(test)]
mod tests;
