//! Commit records (resource manager 1).
//!
//! ```text
//!   0  i64  when, in microseconds since 2000-01-01 UTC
//!   8  u32  extra information follows (only with INFO_HAS_INFO in the record's info): which
//!  12  …    PostgreSQL's own extras: read over, never written
//! ```
//!
//! Follows PostgreSQL 15 src/include/access/xact.h.

use crate::record::{MalformedMainData, RecordBody, Rmgr};
use crate::timestamp::Timestamp;

/// `info` of a commit.
pub const INFO_COMMIT: u8 = 0x00;
/// The bits of `info` that say which kind of transaction record it is.
pub const INFO_OPERATION_MASK: u8 = 0x70;
/// Bit of `info`: a word of extra information follows the time.
pub const INFO_HAS_INFO: u8 = 0x80;

/// Bit of the extra information: standbys are to report at once that they applied it (synchronous_commit =
/// remote_apply).
const XINFO_APPLY_FEEDBACK: u32 = 1 << 29;
const SIZE_MINIMAL: usize = 8;
const SIZE_WITH_INFO: usize = 12;

/// A transaction has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// When.
    pub time: Timestamp,
    /// Standbys are to report at once that they applied it.
    pub apply_feedback: bool,
}

impl Commit {
    /// Whether a record of this resource manager and info is a commit.
    pub const fn is_commit(rmgr: Rmgr, info: u8) -> bool {
        rmgr.0 == Rmgr::TRANSACTION.0 && info & INFO_OPERATION_MASK == INFO_COMMIT
    }

    /// Reads the main data of a commit record with this `info`.
    pub fn decode(info: u8, main_data: &[u8]) -> Result<Commit, MalformedMainData> {
        let has_info = info & INFO_HAS_INFO != 0;
        let too_short = || {
            let size = if has_info { SIZE_WITH_INFO } else { SIZE_MINIMAL };
            let problem = format!("{} bytes of data, expected at least {size}", main_data.len());
            MalformedMainData { record: "commit", problem }
        };
        let (time, rest) = main_data.split_first_chunk().ok_or_else(too_short)?;
        let xinfo = match rest.first_chunk() {
            Some(word) if has_info => u32::from_le_bytes(*word),
            None if has_info => return Err(too_short()),
            Some(_) | None => 0,
        };
        Ok(Commit {
            time: Timestamp(i64::from_le_bytes(*time)),
            apply_feedback: xinfo & XINFO_APPLY_FEEDBACK != 0,
        })
    }

    /// The whole record of transaction `xid`.
    pub fn record(&self, xid: u32) -> RecordBody {
        let time = self.time.0.to_le_bytes();
        let xinfo = XINFO_APPLY_FEEDBACK.to_le_bytes();
        let (info, main_data): (u8, &[&[u8]]) = if self.apply_feedback {
            (INFO_COMMIT | INFO_HAS_INFO, &[&time, &xinfo])
        } else {
            (INFO_COMMIT, &[&time])
        };
        RecordBody::from_slices(Rmgr::TRANSACTION, info, xid, main_data)
            .expect("the main data of a commit fit into any record")
    }
}
