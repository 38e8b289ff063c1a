//! The end of a log that another history hasn't: how much it is, and its removal.
//!
//! When a node comes to follow a history that left its timeline before the end of its log, what lies behind that place is of
//! no use: nobody will ever have it. It may go if the tables hold nothing of it.
//!
//! Follows what PostgreSQL 15 src/bin/pg_rewind does with blocks; here there is nothing to rewind, as the tables hold only
//! what was decided.

use std::fmt;

use engine::change::ChangeRecord;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::reader::{ReadError, WalReader};
use wal::record::Rmgr;
use wal::segment::SegmentSize;
use wal::source::StoreSource;
use wal::store::{SegmentStore, StoreError};
use wal::timeline::TimelineId;

/// The records of a log behind a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Where it begins: the end of a record.
    pub start: Lsn,
    /// The end of its last whole record.
    pub end: Lsn,
    /// Its records.
    pub records: u64,
    /// Those of them that change tables.
    pub changes: u64,
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tail { start, end, records, changes } = self;
        write!(
            f,
            "{} bytes, {records} records of which {changes} change tables, from {start} to {end}",
            *end - *start
        )
    }
}

/// Reads the tail of a log from `start` on, up to its end or to `limit`.
///
/// # Errors
/// The disk failed.
pub fn measure(
    store: SegmentStore,
    history: &TimelineHistory,
    start: Lsn,
    limit: Lsn,
) -> Result<Tail, StoreError> {
    let size = store.segment_size();
    let mut source = StoreSource::new(store, history.clone());
    source.set_limit(limit);
    let mut reader = WalReader::new(source, start, size).with_history(history.clone());
    let mut tail = Tail { start, end: start, records: 0, changes: 0 };
    loop {
        match reader.next() {
            Ok(record) => {
                tail.records += 1;
                let is_change = record.rmgr == Rmgr::CHANGE && ChangeRecord::decode(record.main_data).is_ok();
                tail.changes += u64::from(is_change);
            }
            Err(ReadError::NotYet | ReadError::EndOfLog { .. }) => break,
            Err(ReadError::Io(error)) => return Err(error),
        }
        tail.end = reader.position();
    }
    Ok(tail)
}

/// Removes everything behind `at` from the log of a node that was on `timeline` there, durably.
///
/// # Errors
/// The disk failed.
pub fn cut(store: &mut SegmentStore, timeline: TimelineId, at: Lsn) -> Result<(), StoreError> {
    store.remove_newer_timelines(timeline)?;
    let last = SegmentSize::number_before(store.segment_size(), at);
    match store.file(timeline, last) {
        Ok(_) => store.clear_after(timeline, at),
        // The segment went to the archive under another name when its timeline was left.
        Err(error) if error.is_not_found() => store.remove_from(timeline, at),
        Err(error) => Err(error),
    }
}
