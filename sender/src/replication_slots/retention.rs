//! How much of the log a slot holds, may hold and will lose. Pure, but for [`Limits::now`].
//!
//! Segments count as whole ones, back from the one that is written to ([`Limits::end`]), as everywhere in the removal of the
//! log: a slot with `max_slot_wal_keep_size` of 3 segments holds its own segment while that is one of the last 4.
//!
//! Follows PostgreSQL 15 GetWALAvailability() and KeepLogSeg() in src/backend/access/transam/xlog.c, and
//! pg_get_replication_slots() in src/backend/replication/slotfuncs.c.

use wal::lsn::Lsn;
use wal::segment::{SegmentNumber, SegmentSize};

use crate::node::Node;

/// Where the log is, and what the settings allow; sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The size of a segment.
    pub(crate) segment_size: SegmentSize,
    /// End of the log.
    pub(crate) end: Lsn,
    /// The last segment that was removed.
    pub(crate) removed: SegmentNumber,
    /// `max_wal_size`.
    pub(crate) max_wal_size: u64,
    /// `wal_keep_size`; none: everything is kept.
    pub(crate) wal_keep_size: Option<u64>,
    /// `max_slot_wal_keep_size`; none: whatever slots need is kept.
    pub(crate) max_slot_wal_keep_size: Option<u64>,
}

/// What has become of the log that a slot needs. `pg_replication_slots.wal_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalStatus {
    /// It is within `max_wal_size`.
    Reserved,
    /// It is beyond that, and kept by the slot or by `wal_keep_size`.
    Extended,
    /// The next checkpoint may remove it.
    Unreserved,
    /// Some of it is gone.
    Lost,
}

impl WalStatus {
    /// Whether the log is there.
    pub(crate) fn is_there(self) -> bool {
        self != WalStatus::Lost
    }

    /// The text of the view.
    pub(crate) fn name(self) -> &'static str {
        match self {
            WalStatus::Reserved => "reserved",
            WalStatus::Extended => "extended",
            WalStatus::Unreserved => "unreserved",
            WalStatus::Lost => "lost",
        }
    }
}

impl Limits {
    /// As they are now, for a log that ends at `end`.
    pub(crate) fn now(node: &Node, end: Lsn) -> Limits {
        let settings = node.settings();
        Limits {
            segment_size: node.segment_size,
            end,
            removed: node.wal.removed(),
            max_wal_size: settings.max_wal_size,
            wal_keep_size: settings.wal_keep_size,
            max_slot_wal_keep_size: settings.max_slot_wal_keep_size,
        }
    }

    fn current(&self) -> SegmentNumber {
        self.segment_size.number_of(self.end)
    }

    fn back(&self, bytes: u64) -> SegmentNumber {
        SegmentNumber(self.current().0.saturating_sub(bytes / self.segment_size.bytes()).max(1))
    }

    /// The first segment that stays for slots that need the log from `slots` on, or for `wal_keep_size`.
    pub(crate) fn kept_for(&self, slots: Option<Lsn>) -> SegmentNumber {
        self.kept(slots.map_or(self.current(), |needed| self.segment_size.number_of(needed)))
    }

    /// The first segment that may stay for them: less than they need, if that is more than `max_slot_wal_keep_size`.
    pub(crate) fn promised_to(&self, slots: Option<Lsn>) -> SegmentNumber {
        let most = self.max_slot_wal_keep_size.map_or(SegmentNumber(1), |most| self.back(most));
        self.kept(slots.map_or(self.current(), |needed| self.segment_size.number_of(needed).max(most)))
    }

    fn kept(&self, from: SegmentNumber) -> SegmentNumber {
        let Some(wal_keep_size) = self.wal_keep_size else { return SegmentNumber(1) };
        from.min(self.current()).min(self.back(wal_keep_size))
    }

    /// What a slot that is valid and needs the log from `restart` on can rely on. `is_active`: somebody streams by it, who may
    /// still have the file open that is gone. `slots`: what all slots need.
    pub(crate) fn wal_status(&self, restart: Lsn, slots: Option<Lsn>, is_active: bool) -> WalStatus {
        let target = self.segment_size.number_of(restart);
        if target >= self.promised_to(slots) {
            // One more than max_wal_size: the segment that is written to.
            let within = self.back(self.max_wal_size + self.segment_size.bytes());
            return if target >= within { WalStatus::Reserved } else { WalStatus::Extended };
        }
        if target > self.removed || is_active { WalStatus::Unreserved } else { WalStatus::Lost }
    }

    /// How many bytes can still be logged before a slot that needs the log from `restart` on loses it; below 0 when it may at
    /// any moment. None: without a limit, there is no such number.
    pub(crate) fn safe_wal_size(&self, restart: Lsn) -> Option<i64> {
        let segment = self.segment_size.bytes();
        let slots_keep = self.max_slot_wal_keep_size? / segment;
        let keep = slots_keep.max(self.wal_keep_size? / segment);
        let fails = self.segment_size.number_of(restart).0 + keep + 1;
        let fails_at = i128::from(fails) * i128::from(segment);
        i64::try_from(fails_at - i128::from(self.end.0)).ok()
    }

    /// Whether an idle slot that needs the log from `restart` on holds so much that somebody should be told: more than
    /// `wal_keep_size` and `max_wal_size`, and twice as much as when it was last told (`told`, bytes). How much it holds,
    /// then.
    pub(crate) fn worth_telling(&self, restart: Lsn, told: u64) -> Option<u64> {
        if self.segment_size.number_of(restart) >= self.kept_for(None) {
            return None;
        }
        let held = self.end.saturating_since(restart);
        (held > self.max_wal_size.max(told.saturating_mul(2))).then_some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    /// Segments of 1 MiB; the log ends in the middle of segment 100.
    fn limits(max_wal_size: u64, wal_keep_size: i64, max_slot_wal_keep_size: i64) -> Limits {
        Limits {
            segment_size: SegmentSize::MIN,
            end: within(100),
            removed: SegmentNumber(50),
            max_wal_size: max_wal_size << 20,
            wal_keep_size: u64::try_from(wal_keep_size << 20).ok(),
            max_slot_wal_keep_size: u64::try_from(max_slot_wal_keep_size << 20).ok(),
        }
    }

    fn within(segment: u64) -> Lsn {
        Lsn(segment * SEGMENT + SEGMENT / 2)
    }

    #[test]
    fn what_slots_are_promised() {
        // wal_keep_size, max_slot_wal_keep_size, what the slots need, first segment that stays
        let table = [
            (0, -1, None, 100),
            (0, -1, Some(60), 60),
            (0, -1, Some(100), 100),
            (0, -1, Some(101), 100),
            (0, 10, Some(60), 90),
            (0, 10, Some(90), 90),
            (0, 10, Some(91), 91),
            (0, 0, Some(91), 100),
            (20, 10, Some(60), 80),
            (20, -1, Some(60), 60),
            (20, -1, None, 80),
            (500, -1, None, 1),
            (-1, -1, None, 1),
            (-1, 10, Some(60), 1),
        ];
        for (keep, slot_keep, slots, expected) in table {
            let found = limits(2, keep, slot_keep).promised_to(slots.map(within));
            assert_eq!(found, SegmentNumber(expected), "{keep}, {slot_keep}, {slots:?}");
        }
    }

    #[test]
    fn status_goes_from_reserved_over_extended_and_unreserved_to_lost() {
        let limits = limits(4, 0, 10);
        let status = |restart| limits.wal_status(within(restart), Some(within(restart)), false);
        for (restart, expected) in [
            (100, WalStatus::Reserved),
            (95, WalStatus::Reserved),
            (94, WalStatus::Extended),
            (90, WalStatus::Extended),
            (89, WalStatus::Unreserved),
            (51, WalStatus::Unreserved),
            (50, WalStatus::Lost),
        ] {
            assert_eq!(status(restart), expected, "{restart}");
        }
        assert_eq!(limits.wal_status(within(50), Some(within(50)), true), WalStatus::Unreserved);
    }

    #[test]
    fn without_a_limit_nothing_that_a_slot_needs_is_ever_unreserved() {
        let limits = limits(4, 0, -1);
        assert_eq!(limits.wal_status(within(51), Some(within(51)), false), WalStatus::Extended);
        assert_eq!(limits.safe_wal_size(within(51)), None);
    }

    #[test]
    fn safe_wal_size_is_what_is_left_until_the_slot_loses_its_segment() {
        let half = (SEGMENT / 2).cast_signed();
        let mib = SEGMENT.cast_signed();
        assert_eq!(limits(4, 0, 10).safe_wal_size(within(100)), Some(10 * mib + half));
        assert_eq!(limits(4, 0, 10).safe_wal_size(within(90)), Some(half));
        assert_eq!(limits(4, 0, 10).safe_wal_size(within(89)), Some(half - mib));
        assert_eq!(limits(4, 20, 10).safe_wal_size(within(90)), Some(10 * mib + half));
        assert_eq!(limits(4, -1, 10).safe_wal_size(within(90)), None);
    }

    #[test]
    fn idle_slots_are_told_of_beyond_max_wal_size_and_whenever_they_hold_twice_as_much() {
        let limits = limits(4, 0, -1);
        assert_eq!(limits.worth_telling(within(96), 0), None);
        assert_eq!(limits.worth_telling(within(95), 0), Some(5 * SEGMENT));
        assert_eq!(limits.worth_telling(within(91), 5 * SEGMENT), None);
        assert_eq!(limits.worth_telling(within(89), 5 * SEGMENT), Some(11 * SEGMENT));
        // What stays anyhow is not held back by the slot.
        assert_eq!(self::limits(4, 20, -1).worth_telling(within(80), 0), None);
        assert_eq!(self::limits(4, 20, -1).worth_telling(within(79), 0), Some(21 * SEGMENT));
        assert_eq!(self::limits(4, -1, -1).worth_telling(within(2), 0), None);
    }
}
