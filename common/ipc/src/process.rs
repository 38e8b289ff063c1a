//! This process: the handle through which it waits, is interrupted and is seen.
//!
//! [`Postmaster`] is the parent's, made once the shared memory is laid out. [`Me`] is a child's, made after the
//! fork in the slot that the postmaster chose; before that it is a [`Newborn`]. They read their signals inside
//! the wait (all are blocked), where a child turns them into its pending interrupt bits by its
//! [`SignalTable`], and `Postmaster` keeps them until [`Postmaster::take_signals`]. SIGQUIT ends a child
//! wherever it is, with status 2.
//!
//! A child's life: [`Newborn::enter`], first thing after the fork; [`Newborn::attach`] (both in one:
//! [`Me::attach`]); the wait loop of the crate's header; [`Me::detach`]; exit. Before it attaches and after it
//! has detached it can wait, on a latch and with interrupts of its own (inbox.rs), but nobody reaches it except
//! by signals. A child that ends without detaching has crashed as far as the postmaster is concerned.
//!
//! Process-private state is leaked on purpose: it lasts as long as the process, and makes the handles `Copy`.
//! They can't leave their thread.
//!
//! Follows PostgreSQL 18 src/backend/storage/lmgr/proc.c (InitProcess, ProcKill), utils/init/miscinit.c
//! (InitPostmasterChild).

use std::{
    cell::{Cell, OnceCell, RefCell},
    convert::Infallible,
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use failpoint::Site;
use sys::{
    clock, process,
    signal::{self, Signal, SignalSet},
};

use crate::{
    barrier::{Absorption, BarrierGeneration, BarrierTypes, BarrierWait, Laggard},
    inbox::{HoldGuard, Inbox},
    interrupt::Interrupts,
    latch::Latch,
    latch_stats,
    pm_signal::{PmSignal, QuitReason},
    postmaster_death::PostmasterDeath,
    proc::{BackendType, Proc, ProcAddress, ProcArray, ProcNumber, SlotState},
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, OnPostmasterDeath, SocketEvents, WaitEventSet},
    waiter::{SignalSource, Waiter, Who},
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

    /// As [`SignalTable::INSIDE_SQLITE`], but SIGUSR2 says that promotion is wanted: that of the startup process.
    pub const STARTUP: SignalTable = SignalTable {
        raises: &[
            (Signal::Term, Interrupts::TERMINATE),
            (Signal::Int, Interrupts::QUERY_CANCEL),
            (Signal::Hup, Interrupts::CONFIG_RELOAD),
            (Signal::Usr2, Interrupts::PROMOTE),
        ],
        on_postmaster_death: Some(Signal::Quit),
    };

    fn signals(&self) -> SignalSet {
        let mut set = SignalSet::of(&[Signal::Urg]);
        for (signal, _) in self.raises {
            assert!(*signal != Signal::Quit, "SIGQUIT has its handler");
            set.insert(*signal);
        }
        set
    }
}

/// The process that inherits orphans, of a machine or of a container.
const INIT: process::Pid = process::Pid(1);

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
    /// The signals that the postmaster reads. SIGCHLD only where orphans become its children: its own are watched otherwise.
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
        let mut read = Postmaster::SIGNALS;
        if process::current_pid() == INIT {
            read.insert(Signal::Chld);
        }
        let signals = SignalSource::new(procs.backend(), read)?;
        latch_stats::adopt(&procs.postmaster.stats);
        let waiter = Box::leak(Box::new(Waiter {
            who: Who::Postmaster {
                latch: &procs.postmaster.latch,
                wait_event: AtomicU32::new(0),
                kept: Cell::new(SignalSet::EMPTY),
            },
            postmaster_death: None,
            backend: procs.backend(),
            signals: RefCell::new(Some(signals)),
        }));
        let postmaster = Postmaster { waiter, procs };
        postmaster.take_latch()?;
        Ok(postmaster)
    }

    /// Takes the latch, and sets it, so that the first look comes before the first wait. Again after shared memory
    /// was made anew; [`Postmaster::start`] has done it for the first time.
    pub fn take_latch(&self) -> io::Result<()> {
        self.latch().own().map_err(io::Error::other)?;
        self.latch().set();
        Ok(())
    }

    /// Tells the children why SIGQUIT comes next; it is what they tell their clients.
    pub fn announce_quit(&self, reason: QuitReason) {
        self.procs.postmaster.announce_quit(reason);
    }

    /// The slots of the children.
    pub fn procs(&self) -> &'static ProcArray {
        self.procs
    }

    /// The postmaster's latch; children set it with [`Me::pm_signal`].
    pub fn latch(&self) -> &'static Latch {
        self.waiter.latch()
    }

    /// The signals that came since the last call; each is reported once. Never SIGURG.
    pub fn take_signals(&self) -> SignalSet {
        match &self.waiter.who {
            Who::Postmaster { kept, .. } => kept.take(),
            Who::Child(..) => unreachable!("the postmaster is no child"),
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

/// A child that has no slot yet.
#[derive(Debug)]
pub struct Newborn {
    state: &'static State,
}

impl Newborn {
    /// Makes a process of its own of this fresh child of the postmaster of `procs`.
    ///
    /// Closes the write end of the death pipe first of all, leads a session of its own, takes charge of its
    /// signals, installs SIGQUIT's handler, and has a latch, which is set, so that the first look comes before
    /// the first wait. Fails when the postmaster is gone already, or for lack of descriptors. The
    /// postmaster's own descriptors (listeners, wait event set, pidfds, [`Postmaster::close_in_child`]) are
    /// the caller's to close.
    pub fn enter(
        procs: &'static ProcArray,
        death: &'static PostmasterDeath,
        table: &SignalTable,
    ) -> io::Result<Newborn> {
        death.enter_child(table.on_postmaster_death)?;
        // After asking for the signal: a death before it would not be told.
        if !death.is_alive() {
            return Err(io::Error::other("the postmaster is gone"));
        }
        signal::block_all();
        let signals = SignalSource::new(procs.backend(), table.signals())?;
        signal::install_quit_handler()?;
        process::setsid();
        let inbox = Inbox::new();
        inbox.latch().set();
        let waiter: &'static Waiter = Box::leak(Box::new(Waiter {
            who: Who::Child(inbox, *table),
            postmaster_death: Some(death),
            backend: procs.backend(),
            signals: RefCell::new(Some(signals)),
        }));
        let mut latch_set = WaitEventSet::of_waiter(Some(waiter), 2)?;
        latch_set.add_latch()?;
        latch_set.add_postmaster_death(OnPostmasterDeath::Exit)?;
        let latch_set = RefCell::new((latch_set, Vec::with_capacity(1)));
        let barrier_handler = OnceCell::new();
        Ok(Newborn { state: Box::leak(Box::new(State { waiter, procs, inbox, latch_set, barrier_handler })) })
    }

    /// The latch: set by this process's signals alone.
    pub fn latch(&self) -> &'static Latch {
        self.state.inbox.latch()
    }

    /// The interrupts that signals have raised.
    pub fn pending(&self) -> Interrupts {
        self.state.inbox.pending()
    }

    /// Clears those of `interrupts` that are pending, and returns them.
    pub fn take(&self, interrupts: Interrupts) -> Interrupts {
        self.state.inbox.take(interrupts)
    }

    /// As [`wait_latch`].
    pub fn wait_latch(&self, timeout: Option<Duration>, event: WaitEvent) -> io::Result<bool> {
        self.state.wait_latch(timeout, event)
    }

    /// Makes this the process of slot `number`, which the postmaster has assigned: takes slot and latch, and
    /// sets the latch. What is pending stays so. Fails with an [`AttachError`](crate::inbox::AttachError)
    /// inside when the slot is not assigned or the latch has an owner.
    pub fn attach(self, number: ProcNumber, backend_type: BackendType) -> io::Result<Me> {
        let State { procs, inbox, .. } = *self.state;
        let address =
            inbox.attach(procs, number, backend_type, clock::unix_micros()).map_err(io::Error::other)?;
        Ok(Me { state: self.state, address })
    }

    pub(crate) fn waiter(&self) -> &'static Waiter {
        self.state.waiter
    }
}

/// What a client is told when SIGQUIT ends its process; see [`Me::set_quit_messages`].
#[derive(Debug)]
pub struct QuitMessages {
    /// Because another process has crashed.
    pub crash: Vec<u8>,
    /// Because the node shuts down at once.
    pub stop: Vec<u8>,
    /// Because somebody else than the postmaster has sent it.
    pub unexpected: Vec<u8>,
    /// Because the postmaster has ended.
    pub postmaster_gone: Vec<u8>,
}

/// A child's handle, cheap to copy.
#[derive(Clone, Copy)]
pub struct Me {
    state: &'static State,
    address: ProcAddress,
}

/// What a child has from its birth.
struct State {
    waiter: &'static Waiter,
    procs: &'static ProcArray,
    inbox: &'static Inbox,
    /// The latch and the postmaster's death, for [`wait_latch`].
    latch_set: RefCell<(WaitEventSet, Vec<Occurred>)>,
    barrier_handler: OnceCell<Box<dyn Fn(BarrierTypes) -> Absorption>>,
}

impl State {
    fn wait_latch(&self, timeout: Option<Duration>, event: WaitEvent) -> io::Result<bool> {
        let (set, occurred) = &mut *self.latch_set.borrow_mut();
        set.wait(timeout, event, occurred)?;
        Ok(!occurred.is_empty())
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inbox.fmt(f)
    }
}

impl std::fmt::Debug for Me {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Me({:?})", self.address)
    }
}

impl Me {
    /// [`Newborn::enter`] and [`Newborn::attach`].
    pub fn attach(
        procs: &'static ProcArray,
        number: ProcNumber,
        backend_type: BackendType,
        death: &'static PostmasterDeath,
        table: &SignalTable,
    ) -> io::Result<Me> {
        Newborn::enter(procs, death, table)?.attach(number, backend_type)
    }

    /// Leaves the slot at a clean exit; the process must end soon after. From now on no interrupt reaches it;
    /// those that did, and its signals, are still pending. Does nothing the second time.
    pub fn detach(self) {
        failpoint::step(Site::Detach, || self.state.inbox.detach());
    }

    /// The slot's number.
    pub fn number(self) -> ProcNumber {
        self.address.number
    }

    /// This process's address, for others to send interrupts to.
    pub fn address(self) -> ProcAddress {
        self.address
    }

    /// All slots.
    pub fn procs(self) -> &'static ProcArray {
        self.state.procs
    }

    /// The own slot; after [`Me::detach`] perhaps somebody else's.
    pub fn proc(self) -> &'static Proc {
        self.state.procs.slot(self.address.number)
    }

    /// The own latch: that of the slot; after [`Me::detach`] one that others can't set.
    pub fn latch(self) -> &'static Latch {
        self.state.inbox.latch()
    }

    /// Turns a client backend into a walsender: its connection has asked for replication. The postmaster is woken to see it.
    pub fn become_walsender(self) {
        self.proc().set_backend_type(BackendType::WalSender);
        self.proc().set_state(SlotState::WalSender);
        // No message, but a look: a smart shutdown may have waited for this one as its last client.
        self.pm_signal(PmSignal::NONE);
    }

    /// The interrupts that have come and are not held: CHECK_FOR_INTERRUPTS, one load.
    #[inline]
    pub fn pending(self) -> Interrupts {
        self.state.inbox.pending()
    }

    /// Clears those of `interrupts` that are pending and not held, and returns them. To be called just before
    /// acting on them, one by one where acting may fail.
    pub fn take(self, interrupts: Interrupts) -> Interrupts {
        self.state.inbox.take(interrupts)
    }

    /// Raises interrupts of this process itself, and sets its latch.
    pub fn raise(self, interrupts: Interrupts) {
        self.state.inbox.raise(interrupts);
    }

    /// Hides `interrupts` from [`Me::pending`] and [`Me::take`] until the guard is dropped. Guards may
    /// overlap.
    pub fn hold(self, interrupts: Interrupts) -> HoldGuard {
        self.state.inbox.hold(interrupts)
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
        self.state.inbox.absorb_barriers(handler)
    }

    /// Says once how this process absorbs barriers, so that each of its waits can ([`Me::serve_barriers`]), also
    /// one that knows nothing of what they are about. Panics when it was said already.
    pub fn on_barriers(self, handler: impl Fn(BarrierTypes) -> Absorption + 'static) {
        let said = self.state.barrier_handler.set(Box::new(handler));
        assert!(said.is_ok(), "barriers have one handler");
    }

    /// [`Me::absorb_barriers`] in the way that [`Me::on_barriers`] said; until then they stay pending.
    pub fn serve_barriers(self) {
        if let Some(handler) = self.state.barrier_handler.get() {
            let absorbed = self.absorb_barriers(|types| Ok::<_, Infallible>(handler(types)));
            absorbed.unwrap_or_else(|never| match never {});
        }
    }

    /// Begins to wait until all processes have absorbed what was emitted up to `generation`: the own latch is
    /// set when the last one has. For who waits for sockets too; see [`BarrierWait`].
    pub fn barrier_wait(self, generation: BarrierGeneration) -> BarrierWait {
        BarrierWait::new(self.state.procs, self.proc().barrier.awaited(), generation)
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

    /// From now on SIGQUIT's handler tells the client on `socket` why the process ends: one of `messages` (each a
    /// whole one), chosen by the postmaster's [`QuitReason`]. To be called once.
    pub fn set_quit_messages(self, socket: impl AsFd, messages: QuitMessages) {
        let reason = self.state.procs.postmaster.quit_reason();
        let QuitMessages { crash, stop, unexpected, postmaster_gone } = messages;
        // In the order of QuitReason's codes.
        let by_reason = [unexpected, crash, stop];
        signal::set_quit_messages(
            socket.as_fd(),
            signal::QuitMessages { reason, by_reason, parent_gone: postmaster_gone },
        );
    }

    /// Whether the postmaster lives, by a real read.
    pub fn postmaster_is_alive(self) -> bool {
        self.state.waiter.postmaster_death.is_none_or(PostmasterDeath::is_alive)
    }

    /// Publishes what this process is busy waiting for outside of a wait event set (a sync, a lock) until the
    /// guard is dropped. Not to be nested.
    pub fn publish_wait(self, event: WaitEvent) -> PublishedWait {
        let word = self.state.inbox.wait_event();
        word.store(event.code(), Ordering::Relaxed);
        PublishedWait { word }
    }

    pub(crate) fn waiter(self) -> &'static Waiter {
        self.state.waiter
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
    me.state.wait_latch(timeout, event)
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
