//! When the tables' open transaction is committed although nobody waits for it.
//!
//! The log makes records durable; a COMMIT of the tables only shows their rows to readers, and a reader that waits for one is
//! served at once ([`crate::recovery_state`]). So a COMMIT is put off: it costs a write of SQLite's log for every page that
//! its records have touched, which many records share, and the writer does nothing else meanwhile.
//!
//! What bounds it:
//! - [`DELAY`], so that a node that is left alone soon has nothing open;
//! - where readers come every now and then, [`DELAY_WHILE_READ`], so that each finds little that is left to be committed for him;
//! - [`RECORDS_MAX`] and [`BYTES_MAX`]: what a reader waits for at most, and what has to be put again when
//!   the transaction is lost (to a cancelled write, for instance). After such a loss it is committed as soon as it may
//!   be ([`CommitTimer::hurry`]), so that nothing is put again twice: who loses transactions all the time pays for his
//!   own, not for everybody's of the last second. What it adds to SQLite's log is to fit into `disk_reserve`: a page and
//!   more for each record, and what the records hold.

use std::time::Duration;

use sys::clock::MonoTime;

/// Records in one transaction of the tables, at most.
const RECORDS_MAX: usize = 4096;
/// Bytes of their changes, at most: they are kept in memory until the transaction is committed.
pub(super) const BYTES_MAX: usize = 2 << 20;
/// After the first record of the transaction.
const DELAY: Duration = Duration::from_secs(1);
/// As long as a reader has waited within the last [`DELAY`].
const DELAY_WHILE_READ: Duration = Duration::from_millis(20);

/// Whether a transaction of so many records, with changes of so many bytes, must not grow any more.
pub(super) fn is_full(records: usize, bytes: usize) -> bool {
    records >= RECORDS_MAX || bytes >= BYTES_MAX
}

/// Of one connection that writes.
#[derive(Debug, Default)]
pub(super) struct CommitTimer {
    due: Option<MonoTime>,
    /// When a COMMIT was made last that readers waited for.
    read: Option<MonoTime>,
}

impl CommitTimer {
    /// There is a record in the transaction.
    pub(super) fn start(&mut self, now: impl FnOnce() -> MonoTime) {
        if self.due.is_some() {
            return;
        }
        let now = now();
        let is_read = self.read.is_some_and(|read| now < read.saturating_add(DELAY));
        self.due = Some(now.saturating_add(if is_read { DELAY_WHILE_READ } else { DELAY }));
    }

    /// Some records of it are committed; others, that could not be yet, are put off once more.
    pub(super) fn restart(&mut self, now: MonoTime) {
        self.due = None;
        self.start(|| now);
    }

    /// It is to be committed now.
    pub(super) fn hurry(&mut self) {
        self.due = Some(MonoTime::ZERO);
    }

    /// It was dropped.
    pub(super) fn stop(&mut self) {
        self.due = None;
    }

    /// It was committed; whether readers waited for that.
    pub(super) fn committed(&mut self, for_readers: bool, now: impl FnOnce() -> MonoTime) {
        self.stop();
        if for_readers {
            self.read = Some(now());
        }
    }

    /// When it is to be committed; none: nothing is open.
    pub(super) fn due(&self) -> Option<MonoTime> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::ZERO.saturating_add(Duration::from_secs(100) + Duration::from_millis(millis))
    }

    #[test]
    fn first_record_says_when() {
        let mut timer = CommitTimer::default();
        assert_eq!(timer.due(), None);
        timer.start(|| at(0));
        timer.start(|| unreachable!("the clock is read for the first record alone"));
        assert_eq!(timer.due(), Some(at(1000)));
        timer.committed(false, || unreachable!("nobody has read"));
        assert_eq!(timer.due(), None);
        timer.start(|| at(5000));
        assert_eq!(timer.due(), Some(at(6000)));
    }

    #[test]
    fn where_readers_come_little_is_left_open() {
        let mut timer = CommitTimer::default();
        timer.start(|| at(0));
        timer.committed(true, || at(10));
        timer.start(|| at(1009));
        assert_eq!(timer.due(), Some(at(1029)));
        timer.restart(at(1010));
        assert_eq!(timer.due(), Some(at(2010)), "that was long ago");
    }

    #[test]
    fn lost_transaction_is_committed_at_once() {
        let mut timer = CommitTimer::default();
        timer.start(|| at(0));
        timer.hurry();
        assert!(timer.due().is_some_and(|due| due <= at(0)));
        timer.start(|| unreachable!("it is due already"));
    }
}
