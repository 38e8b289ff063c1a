//! Keeps a base backup below a rate. Pure: the caller tells the time and sleeps.
//!
//! Every eighth of a second's worth of bytes must take at least an eighth of a second. What a slow client has left unused
//! is not made up for later, so there is no burst.
//!
//! Follows PostgreSQL 15 src/backend/backup/basebackup_throttle.c.

use std::time::Duration;

use sys::clock::MonoTime;

/// Looks at the clock that often in a second.
const SAMPLES_PER_SECOND: u64 = 8;

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    /// Bytes in one sample.
    sample: u64,
    /// Bytes sent since the last full sample.
    sent: u64,
    /// When that was.
    since: MonoTime,
}

impl Throttle {
    /// For `rate` KiB per second (above zero), from `now` on.
    pub fn new(rate: u32, now: MonoTime) -> Throttle {
        Throttle { sample: u64::from(rate) * 1024 / SAMPLES_PER_SECOND, sent: 0, since: now }
    }

    /// After `bytes` more were sent by `now`: until when nothing may be sent, if that is later.
    pub fn sent(&mut self, now: MonoTime, bytes: usize) -> Option<MonoTime> {
        self.sent += bytes as u64;
        let samples = self.sent / self.sample;
        if samples == 0 {
            return None;
        }
        let least = Duration::from_secs(samples) / u32::try_from(SAMPLES_PER_SECOND).expect("a small number");
        self.sent %= self.sample;
        let until = self.since.saturating_add(least);
        self.since = until.max(now);
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn rate_is_kept_over_many_pieces() {
        // 64 KiB/s: a sample has 8 KiB and takes 125 ms.
        let mut throttle = Throttle::new(64, at(0));
        let mut now = at(0);
        for _ in 0..64 {
            if let Some(until) = throttle.sent(now, 1024) {
                now = until;
            }
        }
        assert_eq!(now, at(1000));
    }

    #[test]
    fn piece_of_many_samples_waits_for_all_of_them() {
        let mut throttle = Throttle::new(64, at(0));
        assert_eq!(throttle.sent(at(10), 33 * 1024), Some(at(500)));
        // The one KiB beyond the samples counts for the next.
        assert_eq!(throttle.sent(at(500), 7 * 1024), Some(at(625)));
    }

    #[test]
    fn time_that_was_not_used_is_not_made_up_for() {
        let mut throttle = Throttle::new(64, at(0));
        assert_eq!(throttle.sent(at(5000), 8 * 1024), None);
        assert_eq!(throttle.sent(at(5001), 8 * 1024), Some(at(5125)));
        assert_eq!(throttle.sent(at(5125), 1), None);
    }
}
