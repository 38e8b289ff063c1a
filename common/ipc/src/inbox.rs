//! A process's own end of its interrupts: which latch and which pending word are in force, and what it holds.
//!
//! A fresh child has a latch and a pending word in its own memory: its signals are kept there, and it can
//! wait. When it [attaches](Inbox::attach), those of its slot come into force, and others can reach it; when it
//! [detaches](Inbox::detach), its own ones again, until it exits. At each switch what was pending goes along,
//! and the latch that comes into force is set: what was seen of the old one is no wake-up of the new one.
//! Whoever asks the inbox at the time of its wait can't get hold of the wrong latch; wait event sets do.
//!
//! Invariants, checked by loom (tests/loom/interrupts.rs):
//!
//! * *An interrupt that was sent (not refused) is found by the process it was sent to*: in the slot's word
//!   until the process takes it, or in its own after the switch. It never reaches a successor, since the word
//!   that a successor finds has another generation and no bits, and sending is one compare-exchange of both.
//! * *Nothing that is pending is slept over*: who clears the bit does so before it acts ([`Inbox::take`]); the
//!   end of the last hold and each switch set the latch if, or as, there may be something to look for.
//!
//! Follows PostgreSQL 18 src/backend/utils/init/miscinit.c (InitProcessLocalLatch, SwitchToSharedLatch,
//! SwitchBackToLocalLatch); differs in: pending interrupts are switched, too, and holds are per bit.

use std::{cell::Cell, error::Error, fmt};

use crate::{
    barrier::{Absorption, BarrierTypes},
    interrupt::{Interrupts, PendingWord},
    latch::{Latch, LatchOwned},
    latch_stats,
    proc::{BackendType, Proc, ProcAddress, ProcArray, ProcNumber, SlotState},
    sync::{AtomicU32, AtomicU64, Ordering, current_pid, left_out},
};

/// What is in force before attach and after detach. Leaked, so that it may be referred to like a slot.
#[derive(Debug)]
struct Own {
    latch: Latch,
    pending: AtomicU64,
    wait_event: AtomicU32,
}

/// See the file's header.
pub struct Inbox {
    own: &'static Own,
    latch: Cell<&'static Latch>,
    pending: Cell<&'static AtomicU64>,
    wait_event: Cell<&'static AtomicU32>,
    /// From attach to detach.
    attached: Cell<Option<(&'static ProcArray, ProcAddress)>>,
    /// The bits that are held by at least one guard.
    held: Cell<u32>,
    /// How many guards hold each bit.
    holds: [Cell<u16>; 32],
}

/// Why a child can't attach: an error of slot handling, or of who wrote wildly over shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The slot was not assigned to a child, or somebody is attached.
    NotAssigned(ProcNumber),
    /// The slot's latch has an owner.
    LatchOwned(LatchOwned),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::NotAssigned(number) => {
                write!(f, "process slot {number} is not assigned to a new child")
            }
            AttachError::LatchOwned(owned) => owned.fmt(f),
        }
    }
}

impl Error for AttachError {}

impl Inbox {
    /// The inbox of a process without a slot. To be made once per process: it is never freed.
    pub fn new() -> &'static Inbox {
        let own: &'static Own = Box::leak(Box::new(Own {
            latch: Latch::local(),
            pending: AtomicU64::new(0),
            wait_event: AtomicU32::new(0),
        }));
        Box::leak(Box::new(Inbox {
            own,
            latch: Cell::new(&own.latch),
            pending: Cell::new(&own.pending),
            wait_event: Cell::new(&own.wait_event),
            attached: Cell::new(None),
            held: Cell::new(0),
            holds: [const { Cell::new(0) }; 32],
        }))
    }

    /// The latch in force.
    pub fn latch(&self) -> &'static Latch {
        self.latch.get()
    }

    /// Where to publish what the process waits for.
    pub(crate) fn wait_event(&self) -> &'static AtomicU32 {
        self.wait_event.get()
    }

    /// The interrupts that have come and are not held.
    #[inline]
    pub fn pending(&self) -> Interrupts {
        self.word().bits().without(Interrupts::from_bits(self.held.get()))
    }

    /// Clears those of `interrupts` that are pending and not held, and returns them.
    pub fn take(&self, interrupts: Interrupts) -> Interrupts {
        self.word().take(interrupts.without(Interrupts::from_bits(self.held.get())))
    }

    /// Raises interrupts of this process itself, and sets its latch.
    pub fn raise(&self, interrupts: Interrupts) {
        self.word().raise(interrupts);
        self.latch().set();
    }

    /// Hides `interrupts` from [`Inbox::pending`] and [`Inbox::take`] until the guard is dropped.
    pub fn hold(&'static self, interrupts: Interrupts) -> HoldGuard {
        for count in self.counts_of(interrupts) {
            count.set(count.get() + 1);
        }
        self.held.set(self.held.get() | interrupts.bits());
        HoldGuard { inbox: self, interrupts }
    }

    /// Makes this the process of slot `number`; `now` is the wall clock in microseconds since 1970. An error
    /// changes nothing.
    pub fn attach(
        &self,
        procs: &'static ProcArray,
        number: ProcNumber,
        backend_type: BackendType,
        now: i64,
    ) -> Result<ProcAddress, AttachError> {
        let proc = procs.slot(number);
        if proc.state() != SlotState::Assigned {
            return Err(AttachError::NotAssigned(number));
        }
        proc.latch.own().map_err(AttachError::LatchOwned)?;
        latch_stats::adopt(&proc.stats);
        proc.set_state(SlotState::Active);
        proc.set_backend_type(backend_type);
        proc.set_identity(Some(current_pid()), now);
        let generation = proc.pending().advance().generation;
        let address = ProcAddress { number, generation };
        procs.catch_up_with_barriers(number);
        self.attached.set(Some((procs, address)));
        let old = self.word().take(Interrupts::ALL);
        self.switch(&proc.latch, proc.pending().0, &proc.wait_event, old);
        Ok(address)
    }

    /// Leaves the slot. From now on no interrupt reaches this process, but what did is kept. Nothing happens
    /// when it has none.
    pub fn detach(&self) {
        let Some((procs, address)) = self.attached.take() else {
            return;
        };
        let proc: &Proc = procs.slot(address.number);
        procs.leave_barriers(address.number);
        latch_stats::forget();
        let old = proc.pending().advance().left;
        self.switch(&self.own.latch, &self.own.pending, &self.own.wait_event, old);
        proc.wait_event.store(0, Ordering::Relaxed);
        proc.set_identity(None, 0);
        proc.latch.disown();
        proc.set_state(SlotState::Assigned);
    }

    /// Absorbs the barriers that have come; see [`Me::absorb_barriers`](crate::process::Me::absorb_barriers).
    pub fn absorb_barriers<E>(
        &self,
        handler: impl FnMut(BarrierTypes) -> Result<Absorption, E>,
    ) -> Result<(), E> {
        if self.take(Interrupts::BARRIER).is_empty() {
            return Ok(());
        }
        match self.attached.get() {
            Some((procs, address)) => procs.absorb_barriers(address.number, handler),
            // It came too late: nobody waits for this process any more.
            None => Ok(()),
        }
    }

    fn word(&self) -> PendingWord<'static> {
        PendingWord(self.pending.get())
    }

    /// Brings another latch and another word into force, to which `moved` was pending in the old one.
    fn switch(
        &self,
        latch: &'static Latch,
        pending: &'static AtomicU64,
        wait_event: &'static AtomicU32,
        moved: Interrupts,
    ) {
        self.latch.set(latch);
        self.pending.set(pending);
        self.wait_event.set(wait_event);
        if !left_out("switch: moves what is pending") {
            self.word().raise(moved);
        }
        if !left_out("switch: sets the latch") {
            latch.set();
        }
    }

    fn counts_of(&self, interrupts: Interrupts) -> impl Iterator<Item = &Cell<u16>> {
        let of = move |(bit, _): &(usize, _)| interrupts.bits() >> bit & 1 == 1;
        self.holds.iter().enumerate().filter(of).map(|(_, count)| count)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("pending", &self.pending()).finish_non_exhaustive()
    }
}

/// Hides interrupts while it lives; see [`Me::hold`](crate::process::Me::hold).
#[derive(Debug)]
#[must_use = "the interrupts are held as long as the guard lives"]
pub struct HoldGuard {
    inbox: &'static Inbox,
    interrupts: Interrupts,
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let inbox = self.inbox;
        for count in inbox.counts_of(self.interrupts) {
            count.set(count.get() - 1);
        }
        let held_by_others = inbox.holds.iter().enumerate().filter(|(_, count)| count.get() > 0);
        let held = held_by_others.fold(0, |bits, (bit, _)| bits | 1 << bit);
        let freed = Interrupts::from_bits(inbox.held.replace(held) & !held);
        // The latch may have been reset while it was hidden: the next wait must not sleep over it. What comes
        // from now on sets the latch by itself.
        if inbox.pending().intersects(freed) && !left_out("hold: its end sets the latch") {
            inbox.latch().set();
        }
    }
}
