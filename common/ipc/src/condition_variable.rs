//! Condition variables: processes that wait until another makes something true.
//!
//! A waiter puts itself among the waiters of the variable, looks at its condition, and waits for its *latch*: so
//! it waits for sockets and time-outs in the same wait event set. Who makes the condition true wakes one waiter
//! ([`ConditionVariable::signal`]) or all ([`ConditionVariable::broadcast`]), and nobody who doesn't wait.
//!
//! # How to use it
//!
//! ```no_run
//! # use ipc::{condition_variable::ConditionVariable, process::Me, wait_event::WaitEvent};
//! # fn wait_for_more(me: Me, variable: ConditionVariable, set: &mut ipc::wait_event_set::WaitEventSet)
//! #     -> std::io::Result<()> {
//! # let (more_to_do, other_work) = (|| true, || ());
//! # let mut occurred = Vec::new();
//! let mut sleep = variable.prepare_to_sleep(me);
//! loop {
//!     sleep.enter(); //                    in place of the latch's reset, before any look
//!     if more_to_do() {
//!         break;
//!     }
//!     other_work();
//!     set.wait(None, WaitEvent::CheckpointDone, &mut occurred)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Dropping `sleep` leaves the waiters. Who waits for nothing else calls [`ConditionVariable::sleep`] or
//! [`ConditionVariable::timed_sleep`], which are that loop. A process may wait for several variables at once; it enters
//! all of them before it looks. A wake-up is no promise: look.
//!
//! # The words
//!
//! One per process slot: 0, or the generation of the process that waits. So the variable is bounded and needs no
//! lock, and a waiter that is killed keeps nobody: its word, whose generation is over once the postmaster has
//! released the slot, is passed over and cleared. (A signal that a killed waiter took with it before that is
//! repeated by who reaps it, if the node goes on at all: one signal too many does no harm.)
//!
//! # Why no wake-up is lost
//!
//! ```text
//!   who makes it true                         waiter
//!   S1  make the condition true               W1  reset the latch
//!   S2  full fence "signal before look"       W2  own word = generation
//!   S3  look for a word that isn't 0          W3  full fence "enter before look"
//!   S4  compare-exchange it to 0              W4  condition true? done
//!   S5  set the latch of its slot             W5  sleep; S5 ends it
//! ```
//!
//! 1. *Signaller and waiter can't miss each other.* S1, S2, S3 and W2, W3, W4: store, full fence, load of the
//!    other's variable. S3 sees the word, or W4 the condition.
//! 2. *A waiter whose word is cleared looks again.* S5 comes after S4, which cleared what W2 of this turn had
//!    stored, so after W1: the reset doesn't wipe it out, and the sleep ends. (Entering before the reset would let
//!    S4 and S5 come in between: latch reset, word cleared, and a sleep from which no signal wakes.)
//! 3. *Who waits is there.* W1 ends in a fence, and S4 acquires, so the signaller finds the process attached whose generation
//!    it has found, and doesn't take it for one that is gone.
//! 4. *Every signal is followed by a look.* Who finds its word cleared enters anew and looks, or, if it leaves
//!    ("pass on"), signals once more: so a signal is not lost with a waiter that was cancelled, timed out, or found
//!    its condition true for another reason. The one that it wakes then finds what the first signaller did: S1 comes
//!    before S2, S4, the exchange that found the word cleared, the fence S2 of the second signal; with W3 that is 1. again.
//!
//! common/ipc/tests/loom runs this file through a model checker, and shows that without any one of these a waiter
//! sleeps for ever.
//!
//! Follows PostgreSQL 18 src/backend/storage/lmgr/condition_variable.c; differs in: words instead of a list behind a
//! spinlock; the sleep is the caller's; a signal is passed on (as in PostgreSQL up to 15).

#[cfg(not(loom))]
use std::time::Duration;

#[cfg(loom)]
use crate::model::Me;
use crate::{
    proc::{ProcAddress, ProcArray, ProcNumber},
    sync::{AtomicU32, Ordering, fence, left_out, order},
};
#[cfg(not(loom))]
use crate::{process::Me, shmem::Shmem};

/// A condition variable in shared memory; a handle, the same in every process.
#[derive(Clone, Copy, Debug)]
pub struct ConditionVariable {
    /// Per process slot the generation of the process that waits, 0 for none. Written by that process (generation;
    /// 0 when it leaves), cleared by signallers. Ordered by fences.
    waiters: &'static [AtomicU32],
    /// Where the next signal begins to look, so that no slot is always last. A hint.
    next: &'static AtomicU32,
}

impl ConditionVariable {
    /// A variable of a model, in its own memory.
    #[cfg(loom)]
    pub fn of_model(slots: usize) -> ConditionVariable {
        let waiters = Vec::leak((0..slots).map(|_| AtomicU32::new(0)).collect());
        ConditionVariable { waiters, next: Box::leak(Box::new(AtomicU32::new(0))) }
    }

    /// Lays a variable out for the processes of so many slots; before the first fork.
    #[cfg(not(loom))]
    pub fn create(shmem: &Shmem, slots: usize) -> ConditionVariable {
        ConditionVariable { waiters: shmem.alloc_array(slots), next: shmem.alloc() }
    }

    /// The shared memory that [`ConditionVariable::create`] takes, in bytes.
    pub const fn size(slots: usize) -> usize {
        (slots * size_of::<AtomicU32>()).next_multiple_of(64) + 64
    }

    /// Begins a wait. Nothing wakes this process before [`Sleep::enter`].
    pub fn prepare_to_sleep(self, me: Me) -> Sleep {
        Sleep { variable: self, me, entered: false }
    }

    /// Wakes one waiter, if there is any. Make the condition true before.
    pub fn signal(self, procs: &ProcArray) {
        fence("cv: signal before look");
        let start = self.next.load(Ordering::Relaxed) as usize;
        for step in 0..self.waiters.len() {
            let index = (start + step) % self.waiters.len();
            if self.wake(procs, index) {
                self.next.store(index as u32 + 1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Wakes all waiters. Make the condition true before.
    pub fn broadcast(self, procs: &ProcArray) {
        fence("cv: signal before look");
        for index in 0..self.waiters.len() {
            self.wake(procs, index);
        }
    }

    /// Takes whoever waits in that slot from the waiters and sets its latch. False: nobody does (any more).
    fn wake(self, procs: &ProcArray, index: usize) -> bool {
        let word = &self.waiters[index];
        let generation = word.load(Ordering::Relaxed);
        // Acquire: pairs with the fence and the store in `enter`; who is found waiting is found attached.
        let see = order("cv: see waiter", Ordering::Acquire);
        if generation == 0 || word.compare_exchange(generation, 0, see, Ordering::Relaxed).is_err() {
            // Cleared or entered anew meanwhile by others: another signal's, or a look's that comes after ours.
            return false;
        }
        let number = ProcNumber(index as u32);
        let waits = procs.address(number) == Some(ProcAddress { number, generation });
        if waits {
            procs.set_latch(number);
        }
        waits
    }

    /// Sleeps until `condition` holds. `serve` acts on interrupts, before each look; an error of it ends the wait.
    #[cfg(not(loom))]
    pub fn sleep<E: From<std::io::Error>>(
        self,
        me: Me,
        event: crate::wait_event::WaitEvent,
        condition: impl FnMut() -> bool,
        serve: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        self.sleep_for(me, None, event, condition, serve).map(|_held| ())
    }

    /// As [`ConditionVariable::sleep`], for at most `timeout`. False: the time is over, and the condition doesn't hold.
    #[cfg(not(loom))]
    pub fn timed_sleep<E: From<std::io::Error>>(
        self,
        me: Me,
        timeout: Duration,
        event: crate::wait_event::WaitEvent,
        condition: impl FnMut() -> bool,
        serve: impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        self.sleep_for(me, Some(timeout), event, condition, serve)
    }

    #[cfg(not(loom))]
    fn sleep_for<E: From<std::io::Error>>(
        self,
        me: Me,
        timeout: Option<Duration>,
        event: crate::wait_event::WaitEvent,
        mut condition: impl FnMut() -> bool,
        mut serve: impl FnMut() -> Result<(), E>,
    ) -> Result<bool, E> {
        let deadline = timeout.map(|timeout| sys::clock::now().saturating_add(timeout));
        let mut sleep = self.prepare_to_sleep(me);
        loop {
            sleep.enter();
            serve()?;
            if condition() {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_since(sys::clock::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            crate::wait_latch(&me, left, event)?;
        }
    }
}

/// A wait for a condition variable; dropping it ends it.
#[derive(Debug)]
pub struct Sleep {
    variable: ConditionVariable,
    me: Me,
    entered: bool,
}

impl Sleep {
    fn word(&self) -> &'static AtomicU32 {
        &self.variable.waiters[self.me.address().number.index()]
    }

    /// Resets the latch and is among the waiters (again, if a signal came since). The first step of each turn of
    /// the wait loop: look for whatever there may be to do after it.
    pub fn enter(&mut self) {
        if !left_out("cv: reset before enter") {
            self.me.latch().reset();
        }
        self.entered = true;
        // With the fence of the reset a release.
        self.word().store(self.me.address().generation, Ordering::Relaxed);
        if left_out("cv: reset before enter") {
            self.me.latch().reset();
        }
        fence("cv: enter before look");
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let signalled = self.entered && self.word().swap(0, Ordering::Relaxed) == 0;
        if signalled && !left_out("cv: pass on") {
            self.variable.signal(self.me.procs());
        }
        // The reset of the last turn may have been of a set that others meant.
        self.me.latch().set();
    }
}
