//! What of the log may go, and its removal.
//!
//! A checkpoint ends with it, once the control file that names the checkpoint is durable: recovery begins at that file's
//! positions, so nothing may go that an older one still needs (`ControlBeforeRemoval` in ARCHITECTURE.md).
//!
//! Kept is, from the earliest of these on:
//! - redo, and the last checkpoint record: a recovery reads from the earlier of the two. On a standby that record is the last one
//!   that was replayed: should it become a primary, it needs the record before its end of log.
//! - where the earliest base backup that runs has started;
//! - what replication slots need; those that need more than `max_slot_wal_keep_size` are invalidated before;
//! - as much as `wal_keep_size` says, counted back from the segment that is written to; everything when that is -1.
//!
//! and everything from the first segment on that the archiver doesn't have yet. The segments are taken in ascending order,
//! whatever their timeline, so that what is left has no gap.
//!
//! **Segments are removed, never recycled** under a future name as PostgreSQL does. A segment that is written to is zeros (who
//! receives a log writes parts of pages, and a standby's recovery may begin in the middle of one, where an old
//! record of the right length would pass for the next one); to zero a file again costs what making one costs, and
//! the walwriter makes them ahead of need anyway. And a file that is never renamed can be read on by who has it open:
//! a walsender in the middle of a removed segment finishes it. So there is no `min_wal_size` either.
//!
//! Follows PostgreSQL 15 KeepLogSeg() and RemoveOldXlogFiles() in src/backend/access/transam/xlog.c.

use std::io;

use wal::lsn::Lsn;
use wal::segment::{SegmentNumber, file_name};
use wal::store::{SegmentFile, SegmentStore};

use crate::archive_status;
use crate::control::ControlFile;
use crate::node::Node;
use crate::replication_slots::retention::Limits;

/// The first segment that has to stay: for recovery from there on, for slots that need the log from `slots` on, and for
/// `wal_keep_size`.
fn keep_from(recovery: Lsn, slots: Option<Lsn>, limits: &Limits) -> SegmentNumber {
    limits.segment_size.number_of(recovery).min(limits.kept_for(slots)).max(SegmentNumber(1))
}

/// The first segment that stays although slots need it: those that need an earlier one are obsolete.
fn promised_from(recovery: Lsn, slots: Option<Lsn>, limits: &Limits) -> SegmentNumber {
    limits.segment_size.number_of(recovery).min(limits.promised_to(slots)).max(SegmentNumber(1))
}

/// Removes what no one needs; how many segments. `control` is durable, `end` that of the log, or of what a standby has
/// received.
///
/// # Errors
/// Those of the file system: what is left goes next time.
pub(super) fn remove_old_segments(node: &Node, control: &ControlFile, end: Lsn) -> io::Result<usize> {
    let limits = Limits::now(node, end);
    let recovery = Lsn(control.redo.min(control.checkpoint)).min(earliest_backup(node));
    let slots = node.replication_slots;
    slots.save(node);
    let promised = promised_from(recovery, slots.needed_lsn(), &limits);
    let needed = slots.invalidate_before(node, limits.segment_size.first_byte(promised));
    slots.tell_of_idle(&limits);
    let keep_from = keep_from(recovery, needed, &limits);
    let mut store = node.segment_store();
    let files = store.list().map_err(io::Error::other)?;
    let mut removed = Vec::new();
    for file in files.into_iter().take_while(|file| file.segment < keep_from) {
        let name = file_name(file.tli, file.segment, node.segment_size);
        if archive_status::is_archiving(node) && !archive_status::is_archived(&node.data, &name)? {
            // Those behind it wait with it. (If its status was lost it gets a new one at the next start.)
            break;
        }
        tracing::debug!("removing write-ahead log file \"{name}\"");
        // Before it is gone, so that nobody is promised a log from there on.
        node.wal.note_removed(file.segment);
        store.remove(file.tli, file.segment).map_err(io::Error::other)?;
        removed.push(name);
    }
    forget(node, &store, &removed)?;
    Ok(removed.len())
}

/// Where the earliest base backup has started of those that run; behind everything when none does. What they copy
/// recovers from there. See [`crate::walsender::slot::WalSndSlot::hold_log`].
fn earliest_backup(node: &Node) -> Lsn {
    let starts = node.walsenders.iter().map(|slot| slot.backup_start()).filter(|start| start.is_valid());
    starts.min().unwrap_or(Lsn::MAX)
}

/// The archive status of removed segments goes once they can't come back: one that did, without it, would be archived again.
fn forget(node: &Node, store: &SegmentStore, removed: &[String]) -> io::Result<()> {
    if removed.is_empty() {
        return Ok(());
    }
    store.sync_directory().map_err(io::Error::other)?;
    removed.iter().try_for_each(|name| archive_status::forget_archived(&node.data, name))
}

/// The last segment before the first one that is there: what was removed in earlier lives.
///
/// # Errors
/// The directory can't be read.
pub(super) fn removed_before(node: &Node) -> io::Result<SegmentNumber> {
    let files = node.segment_store().list().map_err(io::Error::other)?;
    let first = files.first().map(|SegmentFile { segment, .. }| segment.0);
    Ok(SegmentNumber(first.unwrap_or(1).saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use wal::segment::SegmentSize;

    use super::*;

    /// For segments of 1 MiB, a position in the middle of the segment of that number.
    fn within(segment: u64) -> Lsn {
        Lsn((segment << 20) + 0x8000)
    }

    fn limits(wal_keep_size: Option<u64>, max_slot_wal_keep_size: Option<u64>) -> Limits {
        Limits {
            segment_size: SegmentSize::MIN,
            end: within(90),
            removed: SegmentNumber(0),
            max_wal_size: 1 << 30,
            wal_keep_size: wal_keep_size.map(|size| size << 20),
            max_slot_wal_keep_size: max_slot_wal_keep_size.map(|size| size << 20),
        }
    }

    #[test]
    fn what_may_go_is_what_nobody_needs() {
        // recovery, slots, wal_keep_size, first that stays
        let table = [
            // Everything, by default.
            (within(80), None, None, 1),
            (within(80), Some(within(70)), None, 1),
            // Recovery's needs.
            (within(80), None, Some(0), 80),
            (Lsn(80 << 20), None, Some(0), 80),
            (Lsn((80 << 20) - 1), None, Some(0), 79),
            // wal_keep_size goes beyond them, or doesn't matter.
            (within(80), None, Some(10), 80),
            (within(80), None, Some(11), 79),
            (within(80), None, Some(9), 80),
            (within(80), None, Some(1000), 1),
            // So do slots.
            (within(80), Some(within(81)), Some(0), 80),
            (within(80), Some(within(79)), Some(0), 79),
            (within(80), Some(within(79)), Some(12), 78),
            // No checkpoint yet.
            (Lsn::INVALID, None, Some(0), 1),
        ];
        for (recovery, slots, wal_keep_size, expected) in table {
            let found = keep_from(recovery, slots, &limits(wal_keep_size, None));
            assert_eq!(found, SegmentNumber(expected), "{recovery}, {slots:?}, {wal_keep_size:?}");
        }
    }

    #[test]
    fn slots_are_promised_what_stays_anyhow_and_max_slot_wal_keep_size_beyond_it() {
        // recovery, slots, wal_keep_size, max_slot_wal_keep_size, first that is promised
        let table = [
            (within(80), Some(within(20)), Some(0), None, 20),
            (within(80), Some(within(20)), Some(0), Some(30), 60),
            (within(80), Some(within(20)), Some(40), Some(30), 50),
            (within(80), Some(within(20)), None, Some(30), 1),
            (within(55), Some(within(20)), Some(0), Some(30), 55),
            (within(80), Some(within(85)), Some(0), Some(30), 80),
            (within(80), None, Some(0), Some(0), 80),
        ];
        for (recovery, slots, wal_keep_size, most, expected) in table {
            let found = promised_from(recovery, slots, &limits(wal_keep_size, most));
            assert_eq!(found, SegmentNumber(expected), "{recovery}, {slots:?}, {wal_keep_size:?}, {most:?}");
        }
    }
}
