//! Barriers: a process makes a change and learns when every process has taken note of it.
//!
//! A change is made visible first (a file is replaced, a word in shared memory is stored); then it is
//! *emitted*, which raises [`Interrupts::BARRIER`] in every process and returns a generation. Each process
//! *absorbs* it where it looks at its interrupts. Once all have absorbed that generation, nobody acts on the
//! old state any more.
//!
//! ```no_run
//! # use ipc::{barrier::{Absorption, BarrierTypes}, process::Me};
//! # fn reread_settings() {}
//! # fn serve(me: Me) -> std::io::Result<()> {
//! // Every process, beside CHECK_FOR_INTERRUPTS:
//! me.absorb_barriers(|barrier| {
//!     if barrier == BarrierTypes::CONFIG_RELOAD {
//!         reread_settings();
//!     }
//!     Ok(Absorption::Done)
//! })
//! # }
//! # fn change(me: Me) -> std::io::Result<()> {
//! // Who has changed something:
//! let generation = me.emit_barrier(BarrierTypes::CONFIG_RELOAD);
//! me.wait_for_barrier(generation, serve, |laggard| eprintln!("{laggard}"))
//! # }
//! ```
//!
//! Who waits for sockets too, or is the postmaster and never blocks, takes a [`BarrierWait`] into its own
//! loop. What waits for a barrier must go on absorbing, lest two wait for each other.
//!
//! # Who takes part
//!
//! Every slot from the moment at which the postmaster assigns it, before the fork: a child inherits the
//! postmaster's memory as it was then, so it has to absorb what is emitted from then on, even if it attaches
//! later. A slot takes no part (generation [`NOT_THERE`]) from its process's detaching, or from the postmaster's
//! reaping of a process that died attached. So nobody waits for the dead.
//!
//! # Why nothing is missed
//!
//! ```text
//!   emitter                        assign (postmaster)            attach (child)
//!   E0  make the change visible    P1  own mask = 0               C1  publish address
//!   E1  OR type into all masks     P2  own gen = global gen       C2  fence "attach before look"
//!   E2  global gen += 1            P3  fence "assign before fork" C3  own gen is behind global?
//!   E3  fence "emit before send"   P4  fork                           raise BARRIER in oneself
//!   E4  raise BARRIER in those
//!       with an address            absorber                       waiter
//!                                  A0  BARRIER = 0                W1  own awaited = gen
//!                                  A1  seen = global gen          W2  fence "wait before look"
//!                                  A2  types = own mask, = 0      W3  a slot's gen is below?
//!                                  A3  act on types               W4      sleep; A6 ends it
//!                                  A4  own gen = seen
//!                                  A5  fence "absorb before wake"
//!                                  A6  set the latches of those whose awaited gen all have reached
//! ```
//!
//! 1. *Whoever is behind is told.* C1, C2, C3 and E2, E3, E4 are each a store, a full fence, a load of the
//!    other's variable: E4 finds the child's address, or C3 the new generation. (An address that E4 finds and
//!    that is no longer valid when it sends belongs to a process that has left; its successor runs C1 later
//!    than E4's look, so C3 finds the new generation.)
//! 2. *Who has reached a generation has acted on its types.* E1 comes before E2, so who reads a generation at A1
//!    finds its types at A2. If A1 came after A2 or A3, it could take note of a generation whose type came
//!    too late for A2. A4 comes after A3, since a waiter relies on it. If acting fails, the types go back into
//!    the mask and the generation stays.
//! 3. *What assigning wipes out is known to the child.* P1 is an exchange, and P3 a fence after it: a type that
//!    it wipes out was released at E1, so E0 happened before the fork. A type that comes after it stays in
//!    the mask; if its generation is missed at P2, C3 finds it.
//! 4. *Who is not there yet needn't be waited for.* If W3 finds a slot not there that is being assigned, it
//!    missed the store of P2; the fences E3 or W2, and P3, then make the change E0 visible to the child from its
//!    first step.
//! 5. *The last one wakes.* W1, W2, W3 and A4, A5, A6: the waiter sees the generation, or the absorber the
//!    waiter. Among several absorbers it is A4, A5, A6 on both sides: at least one sees that all are done. The
//!    same goes for leaving instead of absorbing.
//!
//! common/ipc/tests/loom/barrier.rs runs this very code through a model checker, and shows that without any one
//! of the fences and orders above, and without most of the releases and acquires, something is missed. (It lets an
//! exchange read nothing but the newest value, so it can't miss the acquire of A1.)
//!
//! The postmaster emits and waits by these words alone: it takes no lock, never blocks, and believes nothing
//! that could harm it; a child that scribbles over them can make its wait too short or too long.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/procsignal.c (EmitProcSignalBarrier and its like); differs
//! in: slots take part from before the fork, as what is inherited is state, too; only the last absorber
//! wakes; the postmaster emits and waits; waiting is a part of any wait loop.
//!
//! [`Interrupts::BARRIER`]: crate::interrupt::Interrupts::BARRIER

use std::{fmt, time::Duration};

use sys::{
    clock::{self, MonoTime},
    process::Pid,
};

use crate::{
    bit_set::bit_set,
    interrupt::Interrupts,
    proc::{ProcArray, ProcNumber},
    sync::{AtomicU32, AtomicU64, Ordering, fence, left_out, order},
};

/// How often a wait tells who is late.
pub const REMINDER: Duration = Duration::from_secs(5);

/// The generation of a slot that takes no part.
const NOT_THERE: u64 = u64::MAX;

bit_set! {
    /// What has changed.
    pub struct BarrierTypes: u32 {
        /// The configuration: read it again.
        const CONFIG_RELOAD = 1 << 0;
        /// Recovery has ended: the node takes writes.
        const RECOVERY_ENDED = 1 << 1;
    }
}

/// How many barriers had been emitted when one was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BarrierGeneration(u64);

/// What came of a handler's attempt to absorb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorption {
    /// It is absorbed.
    Done,
    /// It can't be absorbed right now.
    NotNow,
}

/// Who has not absorbed a barrier for too long. Its text is the line to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laggard {
    /// Its slot.
    pub number: ProcNumber,
    /// Its process id; None: it has not attached yet.
    pub pid: Option<Pid>,
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "still waiting for backend with PID {pid} to accept ProcSignalBarrier"),
            None => {
                write!(
                    f,
                    "still waiting for starting process in slot {} to accept ProcSignalBarrier",
                    self.number
                )
            }
        }
    }
}

crate::shared_struct! {
    /// What is common to all slots.
    pub(crate) struct BarrierHeader {
        /// How many barriers were emitted. Written by emitters (fetch-add, releases their masks), read by
        /// absorbers and by who takes part anew (acquire).
        generation: AtomicU64,
        /// What the postmaster waits for, 0 for nothing. Written by it, read by absorbers; ordered by fences.
        pub(crate) postmaster_awaits: AtomicU64,
    }

    /// What belongs to a slot.
    pub(crate) struct BarrierSlot {
        /// All types up to this generation are absorbed; [`NOT_THERE`] when nobody is. Written by the
        /// postmaster until the fork and after the reaping, in between by the process (release: what it did
        /// before comes before); read by waiters (acquire).
        generation: AtomicU64,
        /// The generation that this process waits for, 0 for none. As `postmaster_awaits`.
        awaited: AtomicU64,
        /// The types to be absorbed. Written by emitters (OR, release) and by who absorbs or assigns (exchange,
        /// acquire).
        mask: AtomicU32,
    }
}

impl BarrierSlot {
    /// Takes no part any more. Release: what the process did before comes before.
    pub(crate) fn leave(&self) {
        self.awaited.store(0, Ordering::Relaxed);
        if !left_out("barrier: leave is not there") {
            self.generation.store(NOT_THERE, order("barrier: leave releases", Ordering::Release));
        }
    }

    pub(crate) fn awaited(&self) -> &AtomicU64 {
        &self.awaited
    }

    /// Whether this slot lets nobody wait for `generation`.
    fn has_reached(&self, generation: u64) -> bool {
        self.generation.load(order("barrier: look acquires", Ordering::Acquire)) >= generation
    }
}

impl ProcArray {
    /// Tells all processes to absorb `types`. The change must be visible already.
    pub fn emit_barrier(&self, types: BarrierTypes) -> BarrierGeneration {
        for (_, proc) in self.iter() {
            proc.barrier.mask.fetch_or(types.bits(), order("barrier: emit releases", Ordering::Release));
        }
        // Release: who sees the generation sees the masks. Acquire: and those of the generations before.
        let generation = self.barrier.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        fence("barrier: emit before send");
        for (address, _) in self.active() {
            // False: it has left; what comes after it looks at the generation by itself.
            self.send_interrupt(address, Interrupts::BARRIER);
        }
        BarrierGeneration(generation)
    }

    /// Whether every process has absorbed what was emitted up to `generation`. A look, for views and tests;
    /// who waits uses a [`BarrierWait`].
    pub fn absorbed_by_all(&self, generation: BarrierGeneration) -> bool {
        fence("barrier: wait before look");
        self.all_have_reached(generation.0)
    }

    /// For the postmaster, when it assigns the slot.
    pub(crate) fn enter_barriers(&self, number: ProcNumber) {
        let slot = &self.slot(number).barrier;
        // Relaxed: the fence acquires what they read, and orders what they store.
        slot.mask.swap(0, Ordering::Relaxed);
        slot.generation.store(self.barrier.generation.load(Ordering::Relaxed), Ordering::Relaxed);
        fence("barrier: assign before fork");
    }

    /// For a process that has just become reachable in this slot.
    pub(crate) fn catch_up_with_barriers(&self, number: ProcNumber) {
        if left_out("barrier: attach looks") {
            return;
        }
        fence("barrier: attach before look");
        let slot = self.slot(number);
        // Relaxed: only whether to look; `absorb_barriers` reads again.
        if !slot.barrier.has_reached(self.barrier.generation.load(Ordering::Relaxed)) {
            slot.pending().raise(Interrupts::BARRIER);
        }
    }

    /// Lets nobody wait for the slot any more: its process leaves, or has died.
    pub(crate) fn leave_barriers(&self, number: ProcNumber) {
        self.slot(number).barrier.leave();
        self.wake_barrier_waiters();
    }

    /// Absorbs what has come for this process, whose slot it is, and which has just taken its interrupt.
    pub(crate) fn absorb_barriers<E>(
        &self,
        number: ProcNumber,
        handler: impl FnMut(BarrierTypes) -> Result<Absorption, E>,
    ) -> Result<(), E> {
        let proc = self.slot(number);
        let slot = &proc.barrier;
        // Before the mask: see point 2 above.
        // Acquire: pairs with the AcqRel in `emit_barrier`, so that the masks of that generation are seen, too.
        let mut seen = self.barrier.generation.load(Ordering::Acquire);
        if slot.has_reached(seen) {
            return Ok(());
        }
        if left_out("barrier: generation stored after acting") {
            slot.generation.store(seen, Ordering::Release);
        }
        let acquire = order("barrier: absorb acquires", Ordering::Acquire);
        let types = BarrierTypes::from_bits(slot.mask.swap(0, acquire));
        let (left, result) = act_on(types, handler);
        if !left.is_empty() {
            slot.mask.fetch_or(left.bits(), Ordering::Relaxed);
            proc.pending().raise(Interrupts::BARRIER);
            return result;
        }
        if left_out("barrier: generation read before acting") {
            seen = self.barrier.generation.load(Ordering::Acquire);
        }
        slot.generation.store(seen, order("barrier: absorb releases", Ordering::Release));
        self.wake_barrier_waiters();
        Ok(())
    }

    /// Sets the latches of those who wait for a generation that all have reached now.
    fn wake_barrier_waiters(&self) {
        fence("barrier: absorb before wake");
        for (_, proc) in self.iter() {
            if self.is_awaited_and_reached(&proc.barrier.awaited) {
                proc.latch().set();
            }
        }
        if self.is_awaited_and_reached(&self.barrier.postmaster_awaits) {
            self.postmaster.latch.set();
        }
    }

    fn is_awaited_and_reached(&self, awaited: &AtomicU64) -> bool {
        match awaited.load(Ordering::Relaxed) {
            0 => false,
            generation => self.all_have_reached(generation),
        }
    }

    fn all_have_reached(&self, generation: u64) -> bool {
        self.iter().all(|(_, proc)| proc.barrier.has_reached(generation))
    }

    fn laggards(&self, generation: u64) -> impl Iterator<Item = Laggard> + use<> {
        let late = self.iter().filter(move |(_, proc)| !proc.barrier.has_reached(generation));
        late.map(|(number, proc)| Laggard { number, pid: proc.pid() })
    }
}

/// Acts on each of `types`; returns those that are left, and the error that ended it.
fn act_on<E>(
    types: BarrierTypes,
    mut handler: impl FnMut(BarrierTypes) -> Result<Absorption, E>,
) -> (BarrierTypes, Result<(), E>) {
    let mut left = types;
    for one in types.iter() {
        match handler(one) {
            Ok(Absorption::Done) => left = left.without(one),
            Ok(Absorption::NotNow) => {}
            Err(error) => return (left, Err(error)),
        }
    }
    (left, Ok(()))
}

/// A wait for a barrier, as a part of a wait loop:
///
/// ```no_run
/// # use ipc::{barrier::BarrierGeneration, process::Me};
/// # use ipc::{wait_event::WaitEvent, wait_event_set::WaitEventSet};
/// # use sys::clock;
/// # fn wait(me: Me, generation: BarrierGeneration, set: &mut WaitEventSet) -> std::io::Result<()> {
/// let mut barrier = me.barrier_wait(generation);
/// let mut occurred = Vec::new();
/// loop {
///     me.latch().reset();
///     // Interrupts and barriers of this process, its sockets.
///     if barrier.is_over() {
///         return Ok(());
///     }
///     if let Some(laggard) = barrier.reminder(clock::now()) {
///         eprintln!("{laggard}");
///     }
///     let timeout = barrier.timeout(clock::now());
///     set.wait(Some(timeout), WaitEvent::ProcSignalBarrier, &mut occurred)?;
/// }
/// # }
/// ```
///
/// The latch is set when the last process has absorbed. A process may wait for several one inside the other,
/// as long as the outer loop looks again before it sleeps. Dropping it ends the wait.
#[derive(Debug)]
pub struct BarrierWait {
    procs: &'static ProcArray,
    awaited: &'static AtomicU64,
    generation: BarrierGeneration,
    remind_at: MonoTime,
}

impl BarrierWait {
    pub(crate) fn new(
        procs: &'static ProcArray,
        awaited: &'static AtomicU64,
        generation: BarrierGeneration,
    ) -> BarrierWait {
        BarrierWait { procs, awaited, generation, remind_at: clock::now().saturating_add(REMINDER) }
    }

    /// Whether all have absorbed. To be asked between a reset of the latch and the sleep.
    pub fn is_over(&self) -> bool {
        // Each time: a wait inside this one may have used the word. Relaxed: the fence orders it.
        self.awaited.store(self.generation.0, Ordering::Relaxed);
        self.procs.absorbed_by_all(self.generation)
    }

    /// The longest time to sleep from `now`: until the next reminder.
    pub fn timeout(&self, now: MonoTime) -> Duration {
        self.remind_at.saturating_since(now)
    }

    /// Who is late, if it is time to say so.
    pub fn reminder(&mut self, now: MonoTime) -> Option<Laggard> {
        if now < self.remind_at {
            return None;
        }
        self.remind_at = now.saturating_add(REMINDER);
        self.laggards().next()
    }

    /// Who has not absorbed it yet.
    pub fn laggards(&self) -> impl Iterator<Item = Laggard> + use<> {
        self.procs.laggards(self.generation.0)
    }
}

impl Drop for BarrierWait {
    fn drop(&mut self) {
        // Whoever still sees the old word sets a latch once more, which does no harm.
        self.awaited.store(0, Ordering::Relaxed);
    }
}
