//! The latch: one bit by which any process tells another that there is something to look at.
//!
//! Set by anyone, any number of times; waited for and reset by its owner alone; not counting: many sets, one
//! wake-up. How to wait is told in the crate's header. Latches live in shared memory, one per process slot
//! and one for the postmaster.
//!
//! # Why no wake-up is lost
//!
//! Setting must be cheap, so the setter wakes the owner only when it may be asleep. Two flags do it:
//! `is_set`, and `maybe_sleeping`, which the owner raises around its sleep. All accesses are relaxed; four
//! full fences order them.
//!
//! ```text
//!   setter                                   owner
//!   S1  store the work                       O1  is_set = 0                       (reset)
//!   S2  fence "set before look"              O2  fence "reset before work"
//!   S3  is_set already 1? done               O3  look for work; none: wait
//!   S4  is_set = 1                           O4  maybe_sleeping = 1               (prepare_to_sleep)
//!   S5  fence "set before wake"              O5  fence "sleep before look"
//!   S6  maybe_sleeping 0? done               O6  is_set 1? don't sleep
//!   S7  wake the owner                       O7  sleep; S7 ends it
//! ```
//!
//! 1. *Setter and sleeper can't miss each other.* S4, S5, S6 and O4, O5, O6 are each a store, a full fence,
//!    and a load of the other's variable. With full fences on both sides at least one load sees the other
//!    side's store: the setter sees `maybe_sleeping` and wakes, or the owner sees `is_set` and doesn't
//!    sleep. (Release and acquire are not enough: they let the load overtake the store before it, on both
//!    sides.)
//! 2. *A wake-up can't come too early.* All that S7 may be, on the back-end at hand (wakeup.rs), leaves a
//!    descriptor ready that the kernel wait watches: SIGURG is read from a signalfd or left in a pipe by its
//!    handler, or an eventfd is written to. If it comes between O6 and O7, the sleep ends at once.
//! 3. *"Already set" may be believed.* A setter that stops at S3 relies on the owner's coming look: it has
//!    read the 1 that the owner will clear at O1. S1, S2, S3 and O1, O2, O3 are again store, fence, load on
//!    both sides: if S3 saw the old 1 rather than O1's 0, then O3 sees the work of S1.
//! 4. *And whoever set it first wakes.* If S3 sees a 1 that isn't cleared yet, its setter is on the way to
//!    S6, or the owner has already seen it (at O6 or after waking) and is on the way to O1.
//!
//! common/ipc/tests/loom/latch.rs runs this very code through a model checker, and shows that with any one of the
//! four fences left out a wake-up is lost.
//!
//! `owner_pid` is read once by the setter. The owner may change meanwhile: then a former owner gets a SIGURG,
//! which every process ignores, and the new owner needs none, because who takes a latch looks for work
//! afterwards (an eventfd is the slot's: it may wake the new owner in vain). Should even the pid be somebody else's
//! by now: the default action of SIGURG is to be ignored.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/latch.c; differs in: no handler ever sets a latch, so the
//! owner never has to wake itself.

use std::fmt;
#[cfg(not(loom))]
use std::os::fd::RawFd;

use failpoint::Site;
use sys::process::Pid;

use crate::{
    latch_stats,
    sync::{AtomicI32, AtomicU32, Ordering, Wakeup, current_pid, fence},
};

/// A latch; all zero bytes are one that is not set and has no owner.
///
/// Fields: `is_set` is written by anyone (1) and the owner (0). `maybe_sleeping` is written by the owner,
/// read by setters. `owner_pid` is written by who takes or gives back ownership, under the interlock of the
/// process slot. `wakeup` says how the owner is woken (see wakeup.rs); it is written before the first fork.
/// Invariant: `maybe_sleeping` is 0 whenever the owner is not inside its kernel wait.
///
/// What may be done to a latch whose owner is dead and reaped, one by one (a slot is freed) or for all (the
/// node starts over after a crash): [`Latch::init_shared`], which clears the first three. `wakeup` must stay: the
/// eventfds are made once, before the first fork, and every later child inherits the same ones. So shared
/// memory with latches in it is never zeroed as a whole.
#[repr(C)]
pub struct Latch {
    is_set: AtomicU32,
    maybe_sleeping: AtomicU32,
    owner_pid: AtomicI32,
    wakeup: Wakeup,
}

/// Somebody owns the latch already: an error of slot handling, never of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatchOwned(
    /// The owner.
    pub Pid,
);

impl fmt::Display for LatchOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "latch already owned by PID {}", self.0)
    }
}

impl std::error::Error for LatchOwned {}

impl Latch {
    /// A latch without an owner, to be shared. SIGURG wakes its owner.
    #[cfg(not(loom))]
    pub const fn new() -> Latch {
        Latch {
            is_set: AtomicU32::new(0),
            maybe_sleeping: AtomicU32::new(0),
            owner_pid: AtomicI32::new(0),
            wakeup: Wakeup::new(),
        }
    }

    /// A latch without an owner (the model's atomics can't be made in constants).
    #[cfg(loom)]
    pub fn new() -> Latch {
        Latch {
            is_set: AtomicU32::new(0),
            maybe_sleeping: AtomicU32::new(0),
            owner_pid: AtomicI32::new(0),
            wakeup: Wakeup::new(),
        }
    }

    /// A latch of this process alone, for the time before it has a slot.
    pub fn local() -> Latch {
        let latch = Latch::new();
        latch.owner_pid.store(current_pid().0, Ordering::Relaxed);
        latch
    }

    /// Makes this process the owner. Look for work afterwards: sets of the time before may have woken nobody.
    pub fn own(&self) -> Result<(), LatchOwned> {
        let me = current_pid().0;
        // Relaxed: owners hand over under the interlock of the slot; setters may see either.
        match self.owner_pid.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(owner) => Err(LatchOwned(Pid(owner))),
        }
    }

    /// Gives it back. The caller must be the owner, and not be asleep: panics otherwise.
    pub fn disown(&self) {
        assert!(self.is_own(), "cannot disown a latch owned by another process");
        self.owner_pid.store(0, Ordering::Relaxed);
    }

    /// Gives the latch its eventfd; before the first fork.
    #[cfg(not(loom))]
    pub(crate) fn wake_by(&self, kept: u32) {
        self.wakeup.keep(kept);
    }

    /// The descriptor that the owner must watch, edge-triggered; None: SIGURG wakes it.
    #[cfg(not(loom))]
    pub(crate) fn wakeup_descriptor(&self) -> Option<RawFd> {
        self.wakeup.descriptor()
    }

    /// Makes it as new: not set, without an owner. For the postmaster, when it has reaped who owned it, if
    /// anybody did.
    pub(crate) fn init_shared(&self) {
        self.owner_pid.store(0, Ordering::Relaxed);
        self.maybe_sleeping.store(0, Ordering::Relaxed);
        self.is_set.store(0, Ordering::Relaxed);
    }

    /// Sets the latch and wakes its owner if it sleeps. Any process may; make the work visible before. Costs
    /// a fence and a load when it is set already, no system call unless the owner sleeps.
    pub fn set(&self) {
        failpoint::step(Site::SetLatch, || {
            let sleeper = self.set_and_find_sleeper();
            latch_stats::own().count_set(sleeper.is_some());
            if let Some(owner) = sleeper {
                self.wakeup.wake(owner);
            }
        });
    }

    /// The part of [`Latch::set`] without a system call: the owner to be woken, if it may be asleep.
    pub fn set_and_find_sleeper(&self) -> Option<Pid> {
        fence("latch: set before look");
        if self.is_set.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.is_set.store(1, Ordering::Relaxed);
        fence("latch: set before wake");
        if self.maybe_sleeping.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // Once: the owner may change under us, and 0 must not reach kill.
        self.owner()
    }

    /// Clears the latch; look for work after it. The caller must be the owner, and not be asleep: panics
    /// otherwise.
    pub fn reset(&self) {
        assert!(self.is_own(), "cannot reset a latch owned by another process");
        debug_assert_eq!(self.maybe_sleeping.load(Ordering::Relaxed), 0, "reset inside a wait");
        self.is_set.store(0, Ordering::Relaxed);
        fence("latch: reset before work");
    }

    /// Whether it is set. Says nothing about work: that must be looked for after a reset.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed) != 0
    }

    /// The process that may wait for it.
    pub fn owner(&self) -> Option<Pid> {
        match self.owner_pid.load(Ordering::Relaxed) {
            // Negative is what only a child that scribbles can have left.
            ..=0 => None,
            pid => Some(Pid(pid)),
        }
    }

    /// The owner's sleep: calls `sleep` with whether it may sleep (false: the latch is set, so only look),
    /// and sees to it that setters wake it meanwhile. For the wait event set and the model; others wait
    /// through a set.
    pub fn around_sleep<R>(&self, sleep: impl FnOnce(bool) -> R) -> R {
        let may_sleep = !self.is_set() && self.prepare_to_sleep();
        let result = sleep(may_sleep);
        // Before anything else, errors included: from now on setters need not wake us. Late would be harmless.
        self.maybe_sleeping.store(0, Ordering::Relaxed);
        result
    }

    /// Sleeps in the model until it is set.
    #[cfg(loom)]
    pub fn wait(&self) {
        assert!(self.is_own(), "cannot wait on a latch owned by another process");
        self.around_sleep(|may_sleep| self.wakeup.sleep(may_sleep));
    }

    /// Announces that the owner is about to sleep. False: the latch is set, so don't.
    fn prepare_to_sleep(&self) -> bool {
        self.maybe_sleeping.store(1, Ordering::Relaxed);
        fence("latch: sleep before look");
        !self.is_set()
    }

    /// Whether this process owns it.
    pub(crate) fn is_own(&self) -> bool {
        self.owner_pid.load(Ordering::Relaxed) == current_pid().0
    }
}

impl Default for Latch {
    fn default() -> Latch {
        Latch::new()
    }
}

impl fmt::Debug for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latch")
            .field("is_set", &self.is_set())
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}
