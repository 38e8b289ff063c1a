//! What each process does with latches, counted for pg_stat_latch: always on, because it costs next to nothing.
//!
//! Each process counts in its own slot, on a cache line that nobody else writes, with a plain load and store:
//! no locked instruction, no line that travels. A set is counted where it is made, in the *setter's* slot;
//! [`Latch::set`](crate::latch::Latch::set) knows only its target, so the place is kept in a variable of the
//! process ([`adopt`]). A process without a slot counts into a place that nobody reads. To know how long a
//! process sleeps takes two reads of the clock per kernel wait, about 25 ns each.
//!
//! How the figures hang together:
//! * Every [`Latch::set`](crate::latch::Latch::set) is a set, also that of a latch that is set.
//! * A set *sends a wake-up* when its target may be asleep: a system call.
//! * A wake-up is *received* when its owner's wait, or its look for signals, finds it. Several that were sent
//!   meanwhile are received as one.
//! * A *kernel wait* may put the process to sleep. A look at the descriptors that returns at once whatever it
//!   finds (the latch was set already, or the time-out is 0) is none.
//! * A kernel wait is *spurious* when something ended it before its time, and then there was nothing to
//!   report. The latch was not set: the wake-up was for a set that its owner saw in time without it, or for a
//!   former owner of the slot. Or a descriptor was ready without what was asked for. Or the process was
//!   stopped and continued.
//! * *Asleep* is the time inside kernel waits, the present one included.
//!
//! Fields: all are written by the owner of the slot alone (relaxed: each is a fact of its own) and read by who
//! shows them. Not sync.rs's atomics, as no model depends on them. Invariant: only one thread of the owner
//! counts, and no signal handler does.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sys::clock::MonoTime;

crate::shared_struct! {
    /// A process's counters; zero when it attached.
    #[repr(align(64))]
    pub struct LatchStats {
        sets: AtomicU64,
        wakeups_sent: AtomicU64,
        wakeups_received: AtomicU64,
        spurious_wakeups: AtomicU64,
        kernel_waits: AtomicU64,
        /// Nanoseconds in kernel waits, so that one store tells a reader all. Awake: their sum, twice. Asleep:
        /// the sum minus the time when the present sleep began, twice, plus one.
        asleep: AtomicU64,
    }
}

const _: () = assert!(size_of::<LatchStats>() == 64, "a cache line of its own");

/// What the counters say at a moment. A figure may be a moment older than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatchCounts {
    /// Latches set by the process, whether or not they were set already.
    pub sets: u64,
    /// Sets that took a system call, as the owner of the latch might sleep.
    pub wakeups_sent: u64,
    /// Wake-ups that the process found.
    pub wakeups_received: u64,
    /// Kernel waits that ended before their time with nothing to report.
    pub spurious_wakeups: u64,
    /// Times that the process went to the kernel to sleep.
    pub kernel_waits: u64,
    /// Time inside kernel waits, the present one included.
    pub asleep: Duration,
}

/// Counts what has no place in shared memory.
static NOWHERE: LatchStats = LatchStats {
    sets: AtomicU64::new(0),
    wakeups_sent: AtomicU64::new(0),
    wakeups_received: AtomicU64::new(0),
    spurious_wakeups: AtomicU64::new(0),
    kernel_waits: AtomicU64::new(0),
    asleep: AtomicU64::new(0),
};

thread_local! {
    /// Where this process counts. (Of the thread: the processes that wait have one.) Constant and without a
    /// destructor, so reading it is one instruction, in a signal handler too.
    static OWN: Cell<&'static LatchStats> = const { Cell::new(&NOWHERE) };
}

/// Where this process counts.
#[inline]
pub(crate) fn own() -> &'static LatchStats {
    OWN.get()
}

/// From now on this process counts there, beginning with nothing.
pub(crate) fn adopt(stats: &'static LatchStats) {
    stats.restart();
    OWN.set(stats);
}

/// In a fresh child, as what it inherited is its parent's, and when a process leaves its slot.
pub(crate) fn forget() {
    OWN.set(&NOWHERE);
}

/// Adds to a counter that only this process writes. It may hold anything: another may have scribbled over it.
#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl LatchStats {
    fn restart(&self) {
        for counter in [
            &self.sets,
            &self.wakeups_sent,
            &self.wakeups_received,
            &self.spurious_wakeups,
            &self.kernel_waits,
            &self.asleep,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// A latch was set, and its owner woken if it might sleep.
    #[inline]
    pub(crate) fn count_set(&self, wakes: bool) {
        add(&self.sets, 1);
        if wakes {
            add(&self.wakeups_sent, 1);
        }
    }

    /// The process found that it was woken.
    pub(crate) fn count_wakeup_received(&self) {
        add(&self.wakeups_received, 1);
    }

    /// A kernel wait was ended for nothing.
    pub(crate) fn count_spurious(&self) {
        add(&self.spurious_wakeups, 1);
    }

    /// A kernel wait begins.
    pub(crate) fn fall_asleep(&self, now: MonoTime) {
        add(&self.kernel_waits, 1);
        let slept = self.asleep.load(Ordering::Relaxed) >> 1;
        self.asleep.store(slept.wrapping_sub(now.as_nanos()) << 1 | 1, Ordering::Relaxed);
    }

    /// The kernel wait that began last is over.
    pub(crate) fn wake_up(&self, now: MonoTime) {
        let begun = self.asleep.load(Ordering::Relaxed) >> 1;
        self.asleep.store(begun.wrapping_add(now.as_nanos()) << 1, Ordering::Relaxed);
    }

    /// The counters at `now`.
    pub fn counts(&self, now: MonoTime) -> LatchCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let asleep = match read(&self.asleep) {
            word if word & 1 == 0 => word >> 1,
            // Of 63 bits; a sleep that began after `now` was read has lasted for nothing yet.
            word => (word >> 1).wrapping_add(now.as_nanos()) << 1 >> 1,
        };
        LatchCounts {
            sets: read(&self.sets),
            wakeups_sent: read(&self.wakeups_sent),
            wakeups_received: read(&self.wakeups_received),
            spurious_wakeups: read(&self.spurious_wakeups),
            kernel_waits: read(&self.kernel_waits),
            asleep: Duration::from_nanos(asleep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shmem::Shmem;

    const fn at(nanos: u64) -> MonoTime {
        MonoTime::from_nanos(nanos)
    }

    #[test]
    fn latch_stats_count_the_present_sleep() {
        let stats: &LatchStats = Shmem::create(4096).unwrap().alloc();
        let asleep = |now| stats.counts(at(now)).asleep.as_nanos();
        assert_eq!(asleep(900), 0);
        stats.fall_asleep(at(1_000));
        assert_eq!((asleep(1_000), asleep(1_007)), (0, 7));
        stats.wake_up(at(1_010));
        assert_eq!((asleep(1_010), asleep(5_000)), (10, 10));
        stats.fall_asleep(at(6_000));
        assert_eq!(asleep(6_100), 110);
        stats.wake_up(at(6_200));
        assert_eq!((asleep(9_999), stats.counts(at(0)).kernel_waits), (210, 2));
    }

    #[test]
    fn latch_stats_survive_what_others_scribble() {
        let stats: &LatchStats = Shmem::create(4096).unwrap().alloc();
        stats.sets.store(u64::MAX, Ordering::Relaxed);
        stats.asleep.store(u64::MAX, Ordering::Relaxed);
        stats.count_set(true);
        stats.fall_asleep(at(5));
        stats.wake_up(at(3));
        let counts = stats.counts(at(u64::MAX));
        assert_eq!((counts.sets, counts.wakeups_sent), (0, 1));
    }
}
