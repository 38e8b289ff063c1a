//! The clocks. The only place that reads one: everything else is handed `now`, so that simulations can drive
//! it.

use std::time::Duration;

/// A point of the monotonic clock in nanoseconds; comparable between the processes of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonoTime(u64);

impl MonoTime {
    /// The clock's origin; before every time that [`now`] returns.
    pub const ZERO: MonoTime = MonoTime(0);

    /// The point `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> MonoTime {
        MonoTime(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This point plus `duration`, or the last representable point.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> MonoTime {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        MonoTime(self.0.saturating_add(nanos))
    }

    /// The time from `earlier` to this point, or zero when `earlier` is later.
    #[must_use]
    pub fn saturating_since(self, earlier: MonoTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The monotonic clock now. Never goes back, doesn't count while the machine is suspended.
pub fn now() -> MonoTime {
    let time = read(libc::CLOCK_MONOTONIC);
    MonoTime(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

/// The processor time that this process has used up, in and out of the kernel.
pub fn process_cpu() -> Duration {
    let time = read(libc::CLOCK_PROCESS_CPUTIME_ID);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

/// The wall clock now, in microseconds since 1970-01-01 00:00 UTC.
pub fn unix_micros() -> i64 {
    let time = read(libc::CLOCK_REALTIME);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the call to write to.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "Linux always has this clock");
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mono_time_saturates_at_both_ends() {
        let late = MonoTime::from_nanos(u64::MAX - 1);
        assert_eq!(late.saturating_add(Duration::MAX).as_nanos(), u64::MAX);
        assert_eq!(MonoTime::ZERO.saturating_since(late), Duration::ZERO);
        assert_eq!(
            MonoTime::from_nanos(5).saturating_since(MonoTime::from_nanos(2)),
            Duration::from_nanos(3)
        );
    }

    #[test]
    fn clocks_advance_from_a_sane_start() {
        let first = now();
        assert!(first > MonoTime::ZERO && now() >= first);
        assert!(unix_micros() > 1_700_000_000_000_000);
        let used = process_cpu();
        while process_cpu() == used {}
        assert!(process_cpu() > used);
    }
}
