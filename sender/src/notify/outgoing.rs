//! The notifications of one transaction, until it ends, and their form in the queue.
//!
//! An entry, little-endian, padded to a multiple of 8:
//!
//! ```text
//! | 0 | 4 | bytes of the whole entry | 4 | 4 | pid | 8 | 2 | bytes of the channel | 10 | 2 | bytes of the payload |
//! | 12 .. | channel | payload | padding |
//! ```
//!
//! Pure: the session and the startup process gather into an [`Outgoing`], the queue carries an [`Encoded`].
//!
//! Follows PostgreSQL 15 Async_Notify() in src/backend/commands/async.c.

use std::collections::HashSet;

use engine::error::{SqlError, SqlState};

use super::too_many;

/// Most bytes of a channel's name.
pub const CHANNEL_BYTES_MAX: usize = 63;
/// A payload must be shorter than this, in bytes.
const PAYLOAD_BYTES: usize = 8000;

const HEADER: usize = 12;
const ALIGN: usize = 8;

/// What a transaction will notify, in order and each only once.
#[derive(Debug, Default)]
pub struct Outgoing {
    list: Vec<(String, String)>,
    seen: HashSet<(String, String)>,
    /// Bytes that the entries will have.
    bytes: usize,
}

impl Outgoing {
    /// Adds one, unless the same is there already. The entries may take up to `bytes_max` bytes.
    ///
    /// # Errors
    /// 22023: the channel's name is empty or too long, or the payload is; 22021: a zero byte; 54000: too many.
    pub fn push(&mut self, channel: String, payload: String, bytes_max: usize) -> Result<(), SqlError> {
        let invalid = |what: &str| Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, what));
        if channel.is_empty() {
            return invalid("channel name cannot be empty");
        }
        if channel.len() > CHANNEL_BYTES_MAX {
            return invalid("channel name too long");
        }
        if payload.len() >= PAYLOAD_BYTES {
            return invalid("payload string too long");
        }
        if channel.contains('\0') || payload.contains('\0') {
            let message = "invalid byte sequence for encoding \"UTF8\": 0x00";
            return Err(SqlError::new(SqlState(*b"22021"), message));
        }
        let length = entry_bytes(&channel, &payload);
        let notification = (channel, payload);
        if self.seen.contains(&notification) {
            return Ok(());
        }
        if self.bytes + length > bytes_max {
            return Err(too_many());
        }
        self.bytes += length;
        self.seen.insert(notification.clone());
        self.list.push(notification);
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are: what [`Outgoing::truncate`] goes back to.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Forgets all but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        for notification in self.list.drain(count.min(self.list.len())..) {
            self.bytes -= entry_bytes(&notification.0, &notification.1);
            self.seen.remove(&notification);
        }
    }

    /// Channels and payloads in order; nothing is left.
    pub fn take(&mut self) -> Vec<(String, String)> {
        self.seen.clear();
        self.bytes = 0;
        std::mem::take(&mut self.list)
    }

    /// What goes into the queue, from the process `pid`; nothing is left.
    pub fn encode(&mut self, pid: i32) -> Encoded {
        let mut bytes = Vec::with_capacity(self.bytes);
        for (channel, payload) in self.take() {
            let end = bytes.len() + entry_bytes(&channel, &payload);
            let length = u32::try_from(end - bytes.len()).expect("an entry is short");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&pid.to_le_bytes());
            for text in [&channel, &payload] {
                let length = u16::try_from(text.len()).expect("checked when it was added");
                bytes.extend_from_slice(&length.to_le_bytes());
            }
            bytes.extend_from_slice(channel.as_bytes());
            bytes.extend_from_slice(payload.as_bytes());
            bytes.resize(end, 0);
        }
        Encoded { bytes }
    }
}

fn entry_bytes(channel: &str, payload: &str) -> usize {
    (HEADER + channel.len() + payload.len()).next_multiple_of(ALIGN)
}

/// A transaction's notifications as the queue has them.
#[derive(Debug, Default)]
pub struct Encoded {
    pub(super) bytes: Vec<u8>,
}

/// One notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The process whose session sent it.
    pub pid: i32,
    /// The channel.
    pub channel: &'a str,
    /// What it said; empty for nothing.
    pub payload: &'a str,
}

/// Bytes of the entries at the start of `bytes` that are there as a whole.
pub(super) fn whole_entries(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = entry_length(&bytes[at..]) {
        at += length;
    }
    at
}

fn entry_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (length <= bytes.len()).then_some(length)
}

/// The notifications in `bytes`, which end with an entry.
pub(super) fn decode(bytes: &[u8]) -> impl Iterator<Item = Notification<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (entry, after) = rest.split_at(entry_length(rest)?);
        rest = after;
        let word = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]) as usize;
        let (channel, payload) = entry[HEADER..].split_at(word(8));
        let text = |bytes| std::str::from_utf8(bytes).expect("the queue holds what `encode` made");
        Some(Notification {
            pid: i32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]),
            channel: text(channel),
            payload: text(&payload[..word(10)]),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(notifications: &[(&str, &str)]) -> Outgoing {
        let mut outgoing = Outgoing::default();
        for (channel, payload) in notifications {
            outgoing.push((*channel).to_owned(), (*payload).to_owned(), 1 << 20).unwrap();
        }
        outgoing
    }

    #[test]
    fn equal_notifications_are_one_and_the_order_stays() {
        let mut outgoing = outgoing(&[("a", "1"), ("b", ""), ("a", "2"), ("a", "1"), ("b", "")]);
        let own = |(channel, payload): (&str, &str)| (channel.to_owned(), payload.to_owned());
        assert_eq!(outgoing.take(), [("a", "1"), ("b", ""), ("a", "2")].map(own));
        assert!(outgoing.is_empty());
    }

    #[test]
    fn what_is_taken_back_may_come_again() {
        let mut all = outgoing(&[("a", "1"), ("a", "2")]);
        all.truncate(1);
        all.push("a".into(), "2".into(), 40).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all.push("a".into(), "3".into(), 40).unwrap_err(), too_many());
    }

    #[test]
    fn limits_are_postgresqls() {
        let push = |channel: &str, payload: usize| {
            let pushed = Outgoing::default().push(channel.to_owned(), "x".repeat(payload), 1 << 20);
            pushed.map_err(|error| format!("{}: {}", error.sqlstate, error.message))
        };
        assert_eq!(push(&"c".repeat(63), 7999), Ok(()));
        assert_eq!(push("", 0), Err("22023: channel name cannot be empty".into()));
        assert_eq!(push(&"c".repeat(64), 0), Err("22023: channel name too long".into()));
        assert_eq!(push("c", 8000), Err("22023: payload string too long".into()));
        assert_eq!(push("c\0", 0), Err("22021: invalid byte sequence for encoding \"UTF8\": 0x00".into()));
    }

    #[test]
    fn entries_come_back_as_they_were_and_a_cut_one_is_left() {
        let long = "ü".repeat(3000);
        let encoded = outgoing(&[("a", ""), ("Foo Bar", &long), ("c", "x")]).encode(77).bytes;
        assert_eq!(encoded.len() % ALIGN, 0);
        let cut = encoded.len() - 1;
        let whole = whole_entries(&encoded[..cut]);
        let read: Vec<_> = decode(&encoded[..whole]).map(|one| (one.pid, one.channel, one.payload)).collect();
        assert_eq!(read, [(77, "a", ""), (77, "Foo Bar", long.as_str())]);
        assert_eq!(whole_entries(&encoded), encoded.len());
        assert_eq!(whole_entries(&encoded[..3]), 0);
    }
}
