//! This process: the handle through which it waits, is interrupted and is seen.
//!
//! [`Postmaster`] is the parent's, made once the shared memory is laid out. [`Me`] is a child's, made first
//! thing after the fork by [`Me::attach`] in the slot that the postmaster chose. Both read their signals
//! inside the wait (all are blocked), where `Me` turns them into its pending interrupt bits by its
//! [`SignalTable`], and `Postmaster` keeps them until [`Postmaster::take_signals`]. SIGQUIT ends a child
//! wherever it is, with status 2.
//!
//! A child's life: attach; the wait loop of the crate's header; [`Me::detach`]; exit. A child that ends
//! without detaching has crashed as far as the postmaster is concerned.
//!
//! Process-private state is leaked on purpose: it lasts as long as the process, and makes the handles `Copy`.
//! They can't leave their thread.
//!
//! Follows PostgreSQL 18 src/backend/storage/lmgr/proc.c (InitProcess, ProcKill), utils/init/miscinit.c
//! (InitPostmasterChild).

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sys::{
    clock, process,
    signal::{self, Signal, SignalSet},
};

use crate::{
    barrier::{Absorption, BarrierGeneration, BarrierTypes, BarrierWait, Laggard},
    interrupt::Interrupts,
    latch::Latch,
    latch_stats,
    pm_signal::PmSignal,
    postmaster_death::PostmasterDeath,
    proc::{BackendType, Proc, ProcAddress, ProcArray, ProcNumber, SlotState},
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, OnPostmasterDeath, SocketEvents, WaitEventSet},
    waiter::{SignalSource, Sink, Waiter},
};

/// What a child makes of its signals.
#[derive(Clone, Copy, Debug)]
pub struct SignalTable {
    /// The interrupts that a signal raises. Signals that are not listed stay blocked and unread; SIGQUIT
    /// can't be listed.
    pub raises: &'static [(Signal, Interrupts)],
    /// The signal to get when the postmaster ends, besides the wait event. SIGQUIT for processes that may be
    /// away from their wait for long.
    pub on_postmaster_death: Option<Signal>,
}

impl SignalTable {
    /// SIGTERM, SIGINT, SIGHUP and SIGUSR2 as their interrupts.
    pub const STANDARD: SignalTable = SignalTable {
        raises: &[
            (Signal::Term, Interrupts::TERMINATE),
            (Signal::Int, Interrupts::QUERY_CANCEL),
            (Signal::Hup, Interrupts::CONFIG_RELOAD),
            (Signal::Usr2, Interrupts::STOP),
        ],
        on_postmaster_death: None,
    };

    /// The standard, for processes that run SQLite: the postmaster's death ends them at once.
    pub const INSIDE_SQLITE: SignalTable =
        SignalTable { on_postmaster_death: Some(Signal::Quit), ..SignalTable::STANDARD };

    fn signals(&self) -> SignalSet {
        let mut set = SignalSet::of(&[Signal::Urg]);
        for (signal, _) in self.raises {
            assert!(*signal != Signal::Quit, "SIGQUIT has its handler");
            set.insert(*signal);
        }
        set
    }
}

/// The postmaster's handle.
pub struct Postmaster {
    waiter: &'static Waiter,
    procs: &'static ProcArray,
}

impl std::fmt::Debug for Postmaster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Postmaster")
    }
}

impl Postmaster {
    /// The signals that the postmaster reads.
    const SIGNALS: SignalSet = SignalSet::of(&[
        Signal::Hup,
        Signal::Int,
        Signal::Quit,
        Signal::Usr1,
        Signal::Usr2,
        Signal::Term,
        Signal::Urg,
    ]);

    /// Makes this process the postmaster of `procs`: takes charge of its signals, takes its latch (and sets
    /// it, so that the first look comes before the first wait).
    pub fn start(procs: &'static ProcArray) -> io::Result<Postmaster> {
        signal::block_all();
        let signals = SignalSource::new(procs.backend(), Postmaster::SIGNALS)?;
        latch_stats::adopt(&procs.postmaster.stats);
        procs.postmaster.latch.own().map_err(io::Error::other)?;
        procs.postmaster.latch.set();
        let waiter = Box::leak(Box::new(Waiter {
            latch: &procs.postmaster.latch,
            // The postmaster has no slot to be seen in.
            wait_event: Box::leak(Box::new(AtomicU32::new(0))),
            postmaster_death: None,
            backend: procs.backend(),
            signals: RefCell::new(Some(signals)),
            sink: Sink::Kept(Cell::new(SignalSet::EMPTY)),
        }));
        Ok(Postmaster { waiter, procs })
    }

    /// The slots of the children.
    pub fn procs(&self) -> &'static ProcArray {
        self.procs
    }

    /// The postmaster's latch; children set it with [`Me::pm_signal`].
    pub fn latch(&self) -> &'static Latch {
        self.waiter.latch
    }

    /// The signals that came since the last call; each is reported once. Never SIGURG.
    pub fn take_signals(&self) -> SignalSet {
        match &self.waiter.sink {
            Sink::Kept(kept) => kept.take(),
            Sink::Pending(..) => unreachable!("the postmaster keeps its signals"),
        }
    }

    /// What children said since the last call.
    pub fn take_pm_signals(&self) -> PmSignal {
        self.procs.postmaster.take()
    }

    /// In a fresh child: closes the inherited signal descriptors. (Wait event sets are closed by dropping
    /// them.)
    pub fn close_in_child(&self) {
        latch_stats::forget();
        drop(self.waiter.signals.take());
    }

    /// Emits barriers to all children; see [`crate::barrier`].
    pub fn emit_barrier(&self, types: BarrierTypes) -> BarrierGeneration {
        self.procs.emit_barrier(types)
    }

    /// Begins to wait until all children have absorbed what was emitted up to `generation`: the postmaster's
    /// latch is set when the last one has.
    pub fn barrier_wait(&self, generation: BarrierGeneration) -> BarrierWait {
        BarrierWait::new(self.procs, &self.procs.barrier.postmaster_awaits, generation)
    }

    pub(crate) fn waiter(&self) -> &'static Waiter {
        self.waiter
    }
}

/// A child's handle; cheap to copy, valid from attach to detach.
#[derive(Clone, Copy)]
pub struct Me {
    state: &'static State,
}

struct State {
    waiter: &'static Waiter,
    procs: &'static ProcArray,
    proc: &'static Proc,
    address: ProcAddress,
    /// The bits that are held by at least one guard.
    held: Cell<u32>,
    /// How many guards hold each bit.
    holds: [Cell<u16>; 32],
    /// The latch and the postmaster's death, for [`wait_latch`].
    latch_set: RefCell<(WaitEventSet, Vec<Occurred>)>,
}

impl std::fmt::Debug for Me {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Me({:?})", self.state.address)
    }
}

impl Me {
    /// Makes this fresh child the process of slot `number`, which the postmaster has assigned.
    ///
    /// Closes the write end of the death pipe first of all, leads a session of its own, takes charge of
    /// its signals, installs SIGQUIT's handler, takes slot and latch; the latch is set, so that the first look comes
    /// before the first wait. Fails when the postmaster is gone already, when the latch has an owner, or for
    /// lack of descriptors. The postmaster's own descriptors (listeners, wait event set, pidfds,
    /// [`Postmaster::close_in_child`]) are the caller's to close.
    pub fn attach(
        procs: &'static ProcArray,
        number: ProcNumber,
        backend_type: BackendType,
        death: &'static PostmasterDeath,
        table: &SignalTable,
    ) -> io::Result<Me> {
        death.enter_child(table.on_postmaster_death)?;
        // After asking for the signal: a death before it would not be told.
        if !death.is_alive() {
            return Err(io::Error::other("the postmaster is gone"));
        }
        signal::block_all();
        let signals = SignalSource::new(procs.backend(), table.signals())?;
        signal::install_quit_handler()?;
        process::setsid();
        let proc = procs.slot(number);
        assert_eq!(proc.state(), SlotState::Assigned, "the postmaster assigns a slot before it forks");
        proc.latch.own().map_err(io::Error::other)?;
        proc.set_state(SlotState::Active);
        proc.set_backend_type(backend_type);
        proc.set_identity(Some(process::current_pid()), clock::unix_micros());
        let generation = proc.pending().advance();
        latch_stats::adopt(&proc.stats);
        procs.catch_up_with_barriers(ProcAddress { number, generation });
        // Sets of the time before found no owner to wake.
        proc.latch.set();
        let waiter: &'static Waiter = Box::leak(Box::new(Waiter {
            latch: &proc.latch,
            wait_event: &proc.wait_event,
            postmaster_death: Some(death),
            backend: procs.backend(),
            signals: RefCell::new(Some(signals)),
            sink: Sink::Pending(proc, *table),
        }));
        let mut latch_set = WaitEventSet::of_waiter(Some(waiter), 2)?;
        latch_set.add_latch()?;
        latch_set.add_postmaster_death(OnPostmasterDeath::Exit)?;
        let state = State {
            waiter,
            procs,
            proc,
            address: ProcAddress { number, generation },
            held: Cell::new(0),
            holds: [const { Cell::new(0) }; 32],
            latch_set: RefCell::new((latch_set, Vec::with_capacity(1))),
        };
        Ok(Me { state: Box::leak(Box::new(state)) })
    }

    /// Leaves the slot at a clean exit; the process must end right after. From now on no interrupt reaches
    /// it.
    pub fn detach(self) {
        let proc = self.state.proc;
        self.state.procs.leave_barriers(self.number());
        proc.pending().advance();
        proc.wait_event.store(0, Ordering::Relaxed);
        proc.set_identity(None, 0);
        proc.latch.disown();
        proc.set_state(SlotState::Assigned);
    }

    /// The slot's number.
    pub fn number(self) -> ProcNumber {
        self.state.address.number
    }

    /// This process's address, for others to send interrupts to.
    pub fn address(self) -> ProcAddress {
        self.state.address
    }

    /// All slots.
    pub fn procs(self) -> &'static ProcArray {
        self.state.procs
    }

    /// The own slot.
    pub fn proc(self) -> &'static Proc {
        self.state.proc
    }

    /// The own latch.
    pub fn latch(self) -> &'static Latch {
        &self.state.proc.latch
    }

    /// Turns a client backend into a walsender: its connection has asked for replication. The postmaster is woken to see it.
    pub fn become_walsender(self) {
        self.state.proc.set_backend_type(BackendType::WalSender);
        self.state.proc.set_state(SlotState::WalSender);
        // No message, but a look: a smart shutdown may have waited for this one as its last client.
        self.pm_signal(PmSignal::NONE);
    }

    /// The interrupts that have come and are not held: CHECK_FOR_INTERRUPTS, one load.
    pub fn pending(self) -> Interrupts {
        self.state.proc.pending().bits().without(Interrupts::from_bits(self.state.held.get()))
    }

    /// Clears those of `interrupts` that are pending and not held, and returns them. To be called just before
    /// acting on them, one by one where acting may fail.
    pub fn take(self, interrupts: Interrupts) -> Interrupts {
        self.state.proc.pending().take(interrupts.without(Interrupts::from_bits(self.state.held.get())))
    }

    /// Raises interrupts of this process itself, and sets its latch.
    pub fn raise(self, interrupts: Interrupts) {
        self.state.procs.send_interrupt(self.state.address, interrupts);
    }

    /// Hides `interrupts` from [`Me::pending`] and [`Me::take`] until the guard is dropped. Guards may
    /// overlap.
    pub fn hold(self, interrupts: Interrupts) -> HoldGuard {
        for (bit, count) in self.state.holds.iter().enumerate() {
            if interrupts.bits() >> bit & 1 == 1 {
                count.set(count.get() + 1);
            }
        }
        self.state.held.set(self.state.held.get() | interrupts.bits());
        HoldGuard { me: self, interrupts }
    }

    /// Emits barriers to all attached processes, this one too; see [`crate::barrier`].
    pub fn emit_barrier(self, types: BarrierTypes) -> BarrierGeneration {
        self.state.procs.emit_barrier(types)
    }

    /// Absorbs the barriers that have come, if they are not held: calls `handler` for each type. For where the
    /// process looks at its interrupts. Costs one load when there is nothing.
    ///
    /// If a handler says [`Absorption::NotNow`] or fails, its type stays to be absorbed and
    /// [`Interrupts::BARRIER`] stays pending, but the latch isn't set for it: who says "not now" looks again,
    /// by itself, when the time has come. The first error ends the round and is returned.
    pub fn absorb_barriers<E>(
        self,
        handler: impl FnMut(BarrierTypes) -> Result<Absorption, E>,
    ) -> Result<(), E> {
        if self.take(Interrupts::BARRIER).is_empty() {
            return Ok(());
        }
        self.state.procs.absorb_barriers(self.state.address, handler)
    }

    /// Begins to wait until all processes have absorbed what was emitted up to `generation`: the own latch is
    /// set when the last one has. For who waits for sockets too; see [`BarrierWait`].
    pub fn barrier_wait(self, generation: BarrierGeneration) -> BarrierWait {
        BarrierWait::new(self.state.procs, self.state.proc.barrier.awaited(), generation)
    }

    /// Waits until all processes, this one too, have absorbed what was emitted up to `generation`.
    ///
    /// `serve` is called before each look: it does what the process does about its interrupts, barriers
    /// among them (two who wait for each other would wait for ever otherwise), and ends the wait by an error.
    /// `still_waiting` is told who is late, every [`REMINDER`](crate::barrier::REMINDER). An io error means
    /// that the descriptors are broken.
    pub fn wait_for_barrier<E: From<io::Error>>(
        self,
        generation: BarrierGeneration,
        mut serve: impl FnMut(Me) -> Result<(), E>,
        mut still_waiting: impl FnMut(Laggard),
    ) -> Result<(), E> {
        let mut wait = self.barrier_wait(generation);
        loop {
            self.latch().reset();
            serve(self)?;
            if wait.is_over() {
                return Ok(());
            }
            if let Some(laggard) = wait.reminder(clock::now()) {
                still_waiting(laggard);
            }
            wait_latch(&self, Some(wait.timeout(clock::now())), WaitEvent::ProcSignalBarrier)?;
        }
    }

    /// Reads pending signals without waiting; for long computations, which look at [`Me::pending`]
    /// afterwards. An error means that the descriptor is broken.
    pub fn poll_signals(self) -> io::Result<()> {
        self.state.waiter.poll_signals()
    }

    /// Tells the postmaster something.
    pub fn pm_signal(self, signals: PmSignal) {
        self.state.procs.send_postmaster(signals);
    }

    /// Whether the postmaster lives, by a real read.
    pub fn postmaster_is_alive(self) -> bool {
        self.state.waiter.postmaster_death.is_none_or(PostmasterDeath::is_alive)
    }

    /// Publishes what this process is busy waiting for outside of a wait event set (a sync, a lock) until the
    /// guard is dropped. Not to be nested.
    pub fn publish_wait(self, event: WaitEvent) -> PublishedWait {
        self.state.proc.wait_event.store(event.code(), Ordering::Relaxed);
        PublishedWait { word: &self.state.proc.wait_event }
    }

    pub(crate) fn waiter(self) -> &'static Waiter {
        self.state.waiter
    }
}

/// Hides interrupts while it lives; see [`Me::hold`].
#[derive(Debug)]
#[must_use = "the interrupts are held as long as the guard lives"]
pub struct HoldGuard {
    me: Me,
    interrupts: Interrupts,
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let state = self.me.state;
        let mut freed = Interrupts::NONE;
        for (bit, count) in state.holds.iter().enumerate() {
            if self.interrupts.bits() >> bit & 1 == 1 {
                count.set(count.get() - 1);
                if count.get() == 0 {
                    freed |= Interrupts::from_bits(1 << bit);
                }
            }
        }
        state.held.set(state.held.get() & !freed.bits());
        // Its latch may have been reset while it was hidden: the next wait must not sleep over it.
        if state.proc.pending().bits().intersects(freed) {
            state.proc.latch.set();
        }
    }
}

/// Keeps a wait event published while it lives; see [`Me::publish_wait`].
#[derive(Debug)]
pub struct PublishedWait {
    word: &'static AtomicU32,
}

impl Drop for PublishedWait {
    fn drop(&mut self) {
        self.word.store(0, Ordering::Relaxed);
    }
}

/// Sleeps until the own latch is set (true) or `timeout` is over (false); for ever without one. The process
/// exits with status 1 when the postmaster is gone. Doesn't reset the latch.
pub fn wait_latch(me: &Me, timeout: Option<Duration>, event: WaitEvent) -> io::Result<bool> {
    let (set, occurred) = &mut *me.state.latch_set.borrow_mut();
    set.wait(timeout, event, occurred)?;
    Ok(!occurred.is_empty())
}

/// As [`wait_latch`], and for `events` of one socket; returns what happened (nothing: the time is over).
/// Builds a set for the occasion: for waits that are rare.
pub fn wait_latch_or_socket(
    me: &Me,
    socket: impl AsFd,
    events: SocketEvents,
    timeout: Option<Duration>,
    event: WaitEvent,
) -> io::Result<Events> {
    let mut set = WaitEventSet::new(me, 3)?;
    set.add_latch()?;
    set.add_postmaster_death(OnPostmasterDeath::Exit)?;
    set.add_socket(socket, events)?;
    let mut occurred = Vec::new();
    set.wait(timeout, event, &mut occurred)?;
    Ok(occurred.iter().fold(Events::NONE, |all, one| all | one.events))
}
