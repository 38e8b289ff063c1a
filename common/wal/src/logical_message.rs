//! Messages emitted by a client, pg_logical_emit_message() (resource manager 21).
//!
//! ```text
//!   0  u32  database                          8  u64  bytes of the prefix, its final NUL included
//!   4  u8   1 when part of a transaction     16  u64  bytes of the message
//!   5  …    padding, zero                    24  the prefix, NUL, the message
//! ```
//!
//! Follows PostgreSQL 15 src/include/replication/message.h.

use crate::record::{MalformedMainData, RecordBody, RecordTooLong, Rmgr};

/// `info` of a message.
pub const INFO_MESSAGE: u8 = 0x00;

const HEADER_SIZE: usize = 24;

/// An emitted message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// The database in which it was emitted.
    pub database: u32,
    /// Whether it counts only if its transaction commits.
    pub transactional: bool,
    /// Says whose message it is. Holds no NUL.
    pub prefix: &'a str,
    /// The message: any bytes.
    pub payload: &'a [u8],
}

impl<'a> LogicalMessage<'a> {
    /// Whether a record of this resource manager and info is an emitted message.
    pub const fn is_message(rmgr: Rmgr, info: u8) -> bool {
        rmgr.0 == Rmgr::LOGICAL_MESSAGE.0 && info & crate::record::INFO_RMGR_MASK == INFO_MESSAGE
    }

    /// Reads the main data of a message record.
    pub fn decode(main_data: &'a [u8]) -> Result<LogicalMessage<'a>, MalformedMainData> {
        let wrong = |problem: String| MalformedMainData { record: "logical message", problem };
        let Some((header, rest)) = main_data.split_first_chunk::<HEADER_SIZE>() else {
            let problem = format!("{} bytes of data, expected at least {HEADER_SIZE}", main_data.len());
            return Err(wrong(problem));
        };
        let [d0, d1, d2, d3, transactional, _, _, _, p @ .., m0, m1, m2, m3, m4, m5, m6, m7] = *header;
        let prefix_size = u64::from_le_bytes(p);
        let message_size = u64::from_le_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
        if prefix_size.checked_add(message_size) != Some(rest.len() as u64) {
            let held = rest.len();
            let problem = format!("prefix of {prefix_size} and message of {message_size} bytes in {held}");
            return Err(wrong(problem));
        }
        let prefix_size = usize::try_from(prefix_size).map_err(|_| wrong("prefix too long".into()))?;
        let (prefix, payload) = rest.split_at(prefix_size);
        let Some((0, prefix)) = prefix.split_last() else {
            return Err(wrong("the prefix does not end with a NUL".into()));
        };
        let prefix = std::str::from_utf8(prefix).map_err(|_| wrong("the prefix is not UTF-8".into()))?;
        let database = u32::from_le_bytes([d0, d1, d2, d3]);
        Ok(LogicalMessage { database, transactional: transactional != 0, prefix, payload })
    }

    /// The whole record of transaction `xid` (0 when not transactional). The payload is copied once.
    ///
    /// Fails if the record would be longer than a record may be. Panics if the prefix holds a NUL.
    pub fn record(&self, xid: u32) -> Result<RecordBody, RecordTooLong> {
        assert!(!self.prefix.contains('\0'), "the prefix of a message ends with its first NUL");
        let mut header = [0; HEADER_SIZE];
        header[..4].copy_from_slice(&self.database.to_le_bytes());
        header[4] = u8::from(self.transactional);
        header[8..16].copy_from_slice(&(self.prefix.len() as u64 + 1).to_le_bytes());
        header[16..].copy_from_slice(&(self.payload.len() as u64).to_le_bytes());
        let slices = [&header, self.prefix.as_bytes(), b"\0", self.payload];
        RecordBody::from_slices(Rmgr::LOGICAL_MESSAGE, INFO_MESSAGE, xid, &slices)
    }
}
