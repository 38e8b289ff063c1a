//! The log's records about itself (resource manager 0): checkpoints, end of recovery, overwritten rests, switches.
//!
//! Each type is the main data of one kind of record: `encode` gives the bytes, `decode` reads them, `record` makes the
//! whole record. A field that Walship has no use for is written as a fresh PostgreSQL 15 would.
//!
//! The checkpoint record also carries the horizon known at its insertion, in the two fields for the oldest and newest
//! transaction with a commit timestamp (high and low 32 bits), which PostgreSQL leaves zero unless track_commit_timestamp
//! is on. So the record stays PostgreSQL's, and pg_waldump shows the horizon.
//!
//! Follows PostgreSQL 15 src/include/catalog/pg_control.h, src/include/access/xlog_internal.h.

use std::fmt;

use crate::lsn::Lsn;
use crate::record::{INFO_RMGR_MASK, MalformedMainData, RecordBody, Rmgr};
use crate::timeline::TimelineId;
use crate::timestamp::Timestamp;

/// `info` of a checkpoint at shutdown: the last record of a log that was closed in order.
pub const INFO_CHECKPOINT_SHUTDOWN: u8 = 0x00;
/// `info` of a checkpoint while running.
pub const INFO_CHECKPOINT_ONLINE: u8 = 0x10;
/// `info` of a switch: the rest of its segment is unused. It has no main data.
pub const INFO_SWITCH: u8 = 0x40;
/// `info` of the end of a base backup that was taken from a primary. Its main data is where the backup started.
pub const INFO_BACKUP_END: u8 = 0x50;
/// `info` of the first record of a new timeline.
pub const INFO_END_OF_RECOVERY: u8 = 0x90;
/// `info` of the record that stands where the rest of a record was lost.
pub const INFO_OVERWRITE_CONTRECORD: u8 = 0xD0;

const XLOG_RECORD_IS_SHORT: &str = "the main data of a record of the log fit into any record";

/// Whether a record of this kind is a switch.
pub const fn is_switch(rmgr: Rmgr, info: u8) -> bool {
    rmgr.0 == Rmgr::XLOG.0 && info & INFO_RMGR_MASK == INFO_SWITCH
}

/// A switch record. Its place is [`crate::layout::place_switch`]'s to tell.
pub fn switch_record() -> RecordBody {
    RecordBody::new(Rmgr::XLOG, INFO_SWITCH, 0, &[]).expect(XLOG_RECORD_IS_SHORT)
}

/// The record at the end of a base backup that started at `start`.
pub fn backup_end_record(start: Lsn) -> RecordBody {
    RecordBody::new(Rmgr::XLOG, INFO_BACKUP_END, 0, &start.0.to_le_bytes()).expect(XLOG_RECORD_IS_SHORT)
}

/// When a checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckPointKind {
    /// While running.
    Online,
    /// As the last record before the node stopped; its redo position is its own.
    Shutdown,
}

/// A checkpoint: recovery that starts here needs nothing of the log before [`CheckPoint::redo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckPoint {
    /// Where recovery starts to read. For a shutdown checkpoint the position of its own record.
    pub redo: Lsn,
    /// The timeline on which it was taken.
    pub tli: TimelineId,
    /// The timeline before, if the record begins a new one; else the same.
    pub prev_tli: TimelineId,
    /// PostgreSQL's full_page_writes.
    pub full_page_writes: bool,
    /// The next transaction id, with its epoch in the high 32 bits.
    pub next_xid: u64,
    /// The next object id.
    pub next_oid: u32,
    /// The next multixact id.
    pub next_multi: u32,
    /// The next multixact member offset.
    pub next_multi_offset: u32,
    /// The oldest transaction id in use, and in which database.
    pub oldest_xid: u32,
    /// See `oldest_xid`.
    pub oldest_xid_db: u32,
    /// The oldest multixact id in use, and in which database.
    pub oldest_multi: u32,
    /// See `oldest_multi`.
    pub oldest_multi_db: u32,
    /// When it was taken, in seconds since the Unix epoch.
    pub time: i64,
    /// The horizon known when the record was inserted.
    pub horizon: Lsn,
    /// The oldest transaction still running; 0 at shutdown.
    pub oldest_active_xid: u32,
}

impl Default for CheckPoint {
    /// What a PostgreSQL 15 writes that has just been initialised, without position and time.
    fn default() -> CheckPoint {
        CheckPoint {
            redo: Lsn::INVALID,
            tli: TimelineId::FIRST,
            prev_tli: TimelineId::FIRST,
            full_page_writes: true,
            next_xid: 3,
            next_oid: 10_000,
            next_multi: 1,
            next_multi_offset: 0,
            oldest_xid: 3,
            oldest_xid_db: 1,
            oldest_multi: 1,
            oldest_multi_db: 1,
            time: 0,
            horizon: Lsn::INVALID,
            oldest_active_xid: 0,
        }
    }
}

impl CheckPoint {
    /// Bytes of the main data.
    pub const SIZE: usize = 88;
    /// Bytes of the whole record: what places a shutdown checkpoint before it is made.
    pub const RECORD_LEN: u32 = 24 + 2 + 88;

    /// The main data of the record.
    pub fn encode(&self) -> [u8; CheckPoint::SIZE] {
        let mut out = Out { bytes: [0; CheckPoint::SIZE], at: 0 };
        out.put(&self.redo.0.to_le_bytes());
        out.put(&self.tli.0.to_le_bytes());
        out.put(&self.prev_tli.0.to_le_bytes());
        out.put(&[u8::from(self.full_page_writes), 0, 0, 0, 0, 0, 0, 0]);
        out.put(&self.next_xid.to_le_bytes());
        for word in [
            self.next_oid,
            self.next_multi,
            self.next_multi_offset,
            self.oldest_xid,
            self.oldest_xid_db,
            self.oldest_multi,
            self.oldest_multi_db,
            0,
        ] {
            out.put(&word.to_le_bytes());
        }
        out.put(&self.time.to_le_bytes());
        let horizon = self.horizon.0.to_le_bytes();
        out.put(&horizon[4..]);
        out.put(&horizon[..4]);
        out.put(&self.oldest_active_xid.to_le_bytes());
        out.bytes
    }

    /// Reads the main data of a checkpoint record.
    pub fn decode(main_data: &[u8]) -> Result<CheckPoint, MalformedMainData> {
        let mut fields = In::new("checkpoint", main_data, CheckPoint::SIZE)?;
        let redo = Lsn(fields.u64());
        let tli = TimelineId(fields.u32());
        let prev_tli = TimelineId(fields.u32());
        let full_page_writes = fields.u64() & 0xFF != 0;
        let next_xid = fields.u64();
        let mut words = [0; 8];
        for word in &mut words {
            *word = fields.u32();
        }
        let [
            next_oid,
            next_multi,
            next_multi_offset,
            oldest_xid,
            oldest_xid_db,
            oldest_multi,
            oldest_multi_db,
            _,
        ] = words;
        let time = fields.i64();
        let horizon_high = u64::from(fields.u32());
        let horizon_low = u64::from(fields.u32());
        let oldest_active_xid = fields.u32();
        Ok(CheckPoint {
            redo,
            tli,
            prev_tli,
            full_page_writes,
            next_xid,
            next_oid,
            next_multi,
            next_multi_offset,
            oldest_xid,
            oldest_xid_db,
            oldest_multi,
            oldest_multi_db,
            time,
            horizon: Lsn(horizon_high << 32 | horizon_low),
            oldest_active_xid,
        })
    }

    /// The whole record.
    pub fn record(&self, kind: CheckPointKind) -> RecordBody {
        let info = match kind {
            CheckPointKind::Online => INFO_CHECKPOINT_ONLINE,
            CheckPointKind::Shutdown => INFO_CHECKPOINT_SHUTDOWN,
        };
        RecordBody::new(Rmgr::XLOG, info, 0, &self.encode()).expect(XLOG_RECORD_IS_SHORT)
    }
}

/// The end of recovery by promotion: the first record of a new timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfRecovery {
    /// When recovery ended.
    pub time: Timestamp,
    /// The new timeline.
    pub tli: TimelineId,
    /// The timeline that it forked off.
    pub prev_tli: TimelineId,
}

impl EndOfRecovery {
    /// Bytes of the main data.
    pub const SIZE: usize = 16;

    /// The main data of the record.
    pub fn encode(&self) -> [u8; EndOfRecovery::SIZE] {
        let mut out = Out { bytes: [0; EndOfRecovery::SIZE], at: 0 };
        out.put(&self.time.0.to_le_bytes());
        out.put(&self.tli.0.to_le_bytes());
        out.put(&self.prev_tli.0.to_le_bytes());
        out.bytes
    }

    /// Reads the main data of an end-of-recovery record.
    pub fn decode(main_data: &[u8]) -> Result<EndOfRecovery, MalformedMainData> {
        let mut fields = In::new("end-of-recovery", main_data, EndOfRecovery::SIZE)?;
        Ok(EndOfRecovery {
            time: Timestamp(fields.i64()),
            tli: TimelineId(fields.u32()),
            prev_tli: TimelineId(fields.u32()),
        })
    }

    /// The whole record.
    pub fn record(&self) -> RecordBody {
        RecordBody::new(Rmgr::XLOG, INFO_END_OF_RECOVERY, 0, &self.encode()).expect(XLOG_RECORD_IS_SHORT)
    }
}

/// Stands at the start of the page where the rest of a record was lost in a crash, and says which record that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverwriteContrecord {
    /// Where the record starts whose rest was lost.
    pub overwritten: Lsn,
    /// When this was written.
    pub time: Timestamp,
}

impl OverwriteContrecord {
    /// Bytes of the main data.
    pub const SIZE: usize = 16;
    /// Bytes of the whole record.
    pub const RECORD_LEN: u32 = 24 + 2 + 16;

    /// The main data of the record.
    pub fn encode(&self) -> [u8; OverwriteContrecord::SIZE] {
        let mut out = Out { bytes: [0; OverwriteContrecord::SIZE], at: 0 };
        out.put(&self.overwritten.0.to_le_bytes());
        out.put(&self.time.0.to_le_bytes());
        out.bytes
    }

    /// Reads the main data of an overwrite-contrecord record.
    pub fn decode(main_data: &[u8]) -> Result<OverwriteContrecord, MalformedMainData> {
        let mut fields = In::new("overwrite-contrecord", main_data, OverwriteContrecord::SIZE)?;
        Ok(OverwriteContrecord { overwritten: Lsn(fields.u64()), time: Timestamp(fields.i64()) })
    }

    /// Checks that the record which the reader gave up (`Record::overwritten`) is the one that this one replaces. The
    /// message on success is for the log.
    pub fn verify(&self, given_up: Lsn) -> Result<String, OverwriteMismatch> {
        if self.overwritten != given_up {
            return Err(OverwriteMismatch { recorded: self.overwritten, given_up });
        }
        Ok(format!(
            "successfully skipped missing contrecord at {}, overwritten at {}",
            self.overwritten, self.time
        ))
    }

    /// The whole record.
    pub fn record(&self) -> RecordBody {
        RecordBody::new(Rmgr::XLOG, INFO_OVERWRITE_CONTRECORD, 0, &self.encode()).expect(XLOG_RECORD_IS_SHORT)
    }
}

/// An overwrite-contrecord record that replaces another record than the one that could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverwriteMismatch {
    /// The record it says it replaces.
    pub recorded: Lsn,
    /// The record whose rest is missing.
    pub given_up: Lsn,
}

impl fmt::Display for OverwriteMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mismatching overwritten LSN {} -> {}", self.recorded, self.given_up)
    }
}

impl std::error::Error for OverwriteMismatch {}

/// Fields of fixed size, written one after the other.
struct Out<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Out<N> {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}

/// Fields of fixed size, read one after the other, of main data whose length was checked.
struct In<'a> {
    rest: &'a [u8],
}

impl<'a> In<'a> {
    fn new(record: &'static str, main_data: &'a [u8], size: usize) -> Result<In<'a>, MalformedMainData> {
        if main_data.len() != size {
            let problem = format!("{} bytes of data, expected {size}", main_data.len());
            return Err(MalformedMainData { record, problem });
        }
        Ok(In { rest: main_data })
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.rest.split_first_chunk().expect("the fields add up to the length checked");
        self.rest = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.take())
    }
}
