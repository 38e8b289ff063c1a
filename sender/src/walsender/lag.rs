//! How long ago the standby's write, flush and apply positions were this node's flush LSN: the lags of pg_stat_replication.
//!
//! A sample is a position and when the log was durable here up to there. Each of the three readers goes through the samples in
//! order, as the standby reports positions, and takes the time of the last one that it passes:
//!
//! ```text
//! samples   (10, 1 s) (20, 2 s) (30, 5 s) (40, 6 s)
//!                          ^ apply            ^ write: reported 40 at 7 s, so 1 s behind
//! ```
//!
//! Between two samples the time is interpolated. Before the first of a new burst it is that sample's time: the lag is at least
//! that long. A standby that has passed all samples has none: what it reports next says nothing about time.
//!
//! There are at most [`SAMPLES_MAX`]; when a standby is further behind than that, the newest is overwritten, and the next
//! interpolation spans what is missing. A position that is not reported (pg_receivewal's apply) has no lag and holds no
//! sample.
//!
//! Follows PostgreSQL 15 LagTrackerWrite() and LagTrackerRead() in src/backend/replication/walsender.c; differs in: no lag for
//! what is never reported.

use std::collections::VecDeque;
use std::time::Duration;

use sys::clock::MonoTime;
use wal::lsn::Lsn;

/// Most samples kept.
pub const SAMPLES_MAX: usize = 8192;

/// What the standby does with the log, each with its own lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes it.
    Write,
    /// Makes it durable.
    Flush,
    /// Applies it.
    Apply,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    lsn: Lsn,
    at: MonoTime,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    /// Number of the sample that it passes next.
    next: u64,
    /// The last one that it has passed; none when it has passed all.
    last: Option<Sample>,
}

/// The samples of one stream.
#[derive(Debug, Default)]
pub struct LagTracker {
    samples: VecDeque<Sample>,
    /// Number of the first sample that is kept. Invariant: no reader's `next` is lower.
    first: u64,
    readers: [Reader; 3],
    /// Position of the newest sample ever.
    newest: Lsn,
}

impl LagTracker {
    /// The log is durable here up to `lsn` since `now`.
    pub fn flushed(&mut self, lsn: Lsn, now: MonoTime) {
        if lsn <= self.newest {
            return;
        }
        self.newest = lsn;
        let sample = Sample { lsn, at: now };
        if self.samples.len() == SAMPLES_MAX {
            *self.samples.back_mut().expect("it is full") = sample;
        } else {
            self.samples.push_back(sample);
        }
    }

    /// The standby reports that it has done that up to `lsn`; how far behind it is with it, if that can be told.
    pub fn reported(&mut self, step: Step, lsn: Lsn, now: MonoTime) -> Option<Duration> {
        let end = self.first + self.samples.len() as u64;
        let mut reader = self.readers[step as usize];
        let mut passed = None;
        if !lsn.is_valid() {
            reader = Reader { next: end, last: None };
        }
        while let Some(sample) = self.sample(reader.next).filter(|sample| sample.lsn <= lsn) {
            passed = Some(sample);
            reader = Reader { next: reader.next + 1, last: Some(sample) };
        }
        let next = self.sample(reader.next);
        if next.is_none() {
            reader.last = None;
        }
        self.readers[step as usize] = reader;
        self.forget();
        let since = match (passed, reader.last, next) {
            (Some(passed), ..) => passed.at,
            (None, Some(last), Some(next)) => between(last, next, lsn)?,
            (None, None, Some(next)) => next.at,
            (None, _, None) => return None,
        };
        Some(now.saturating_since(since))
    }

    fn sample(&self, number: u64) -> Option<Sample> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.samples.get(index).copied()
    }

    /// Drops what every reader has passed.
    fn forget(&mut self) {
        let passed = self.readers.iter().map(|reader| reader.next).min().unwrap_or(self.first);
        while self.first < passed && self.samples.pop_front().is_some() {
            self.first += 1;
        }
    }
}

/// When the log was durable here up to `lsn`, as a straight line from one sample to the other tells it. None: it lies before
/// both, as the standby has gone back.
fn between(last: Sample, next: Sample, lsn: Lsn) -> Option<MonoTime> {
    if lsn < last.lsn {
        return None;
    }
    let part = (lsn - last.lsn) as f64 / (next.lsn - last.lsn) as f64;
    Some(last.at.saturating_add(next.at.saturating_since(last.at).mul_f64(part)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> MonoTime {
        MonoTime::ZERO.saturating_add(Duration::from_secs(1000 + seconds))
    }

    fn tracker(samples: &[(u64, u64)]) -> LagTracker {
        let mut tracker = LagTracker::default();
        samples.iter().for_each(|(lsn, seconds)| tracker.flushed(Lsn(*lsn), at(*seconds)));
        tracker
    }

    fn lag(tracker: &mut LagTracker, step: Step, lsn: u64, seconds: u64) -> Option<f64> {
        tracker.reported(step, Lsn(lsn), at(seconds)).map(|lag| lag.as_secs_f64())
    }

    #[test]
    fn lag_is_the_age_of_the_last_sample_that_was_passed() {
        let mut tracker = tracker(&[(10, 1), (20, 2), (30, 5), (40, 6)]);
        assert_eq!(lag(&mut tracker, Step::Write, 40, 7), Some(1.0));
        assert_eq!(lag(&mut tracker, Step::Flush, 20, 7), Some(5.0));
        assert_eq!(lag(&mut tracker, Step::Apply, 10, 8), Some(7.0));
        // Half way between two samples of 2 s and 5 s.
        assert_eq!(lag(&mut tracker, Step::Flush, 25, 9), Some(5.5));
        assert_eq!(lag(&mut tracker, Step::Flush, 40, 9), Some(3.0));
    }

    #[test]
    fn standby_that_has_all_has_no_lag_until_there_is_more() {
        let mut tracker = tracker(&[(10, 1)]);
        assert_eq!(lag(&mut tracker, Step::Apply, 10, 2), Some(1.0));
        assert_eq!(lag(&mut tracker, Step::Apply, 10, 3), None);
        tracker.flushed(Lsn(20), at(100));
        // Nothing of the burst is passed yet: as old as its first sample, not as old as the last report.
        assert_eq!(lag(&mut tracker, Step::Apply, 10, 101), Some(1.0));
        assert_eq!(lag(&mut tracker, Step::Apply, 20, 104), Some(4.0));
    }

    #[test]
    fn position_that_is_not_reported_or_goes_back_has_no_lag() {
        let mut tracker = tracker(&[(10, 1), (20, 2), (30, 3)]);
        assert_eq!(lag(&mut tracker, Step::Apply, 0, 4), None);
        assert_eq!(lag(&mut tracker, Step::Write, 20, 4), Some(2.0));
        assert_eq!(lag(&mut tracker, Step::Write, 5, 5), None);
        assert_eq!(lag(&mut tracker, Step::Write, 30, 6), Some(3.0));
    }

    #[test]
    fn samples_are_bounded_and_the_newest_gives_way() {
        let mut tracker = LagTracker::default();
        for number in 1..=SAMPLES_MAX as u64 + 1000 {
            tracker.flushed(Lsn(number), at(number));
        }
        assert_eq!(tracker.samples.len(), SAMPLES_MAX);
        let end = SAMPLES_MAX as u64 + 1000;
        assert_eq!(lag(&mut tracker, Step::Write, 1, end), Some((end - 1) as f64));
        assert_eq!(lag(&mut tracker, Step::Write, end, end), Some(0.0));
        // Held by the other two; then by nobody.
        assert_eq!(tracker.samples.len(), SAMPLES_MAX);
        for step in [Step::Flush, Step::Apply] {
            assert_eq!(lag(&mut tracker, step, end, end + 2), Some(2.0));
        }
        assert!(tracker.samples.is_empty());
    }
}
