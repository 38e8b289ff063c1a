//! Process slots: who runs, what it is, what it waits for, how to reach it.
//!
//! One table, laid out by the postmaster before the first fork. A slot's index, its [`ProcNumber`], is chosen
//! by the postmaster before it forks: the first ones belong to the auxiliary processes, each to its own, the
//! others to connections. The child attaches itself ([`Me::attach`](crate::process::Me::attach)) and detaches
//! at a clean exit; a slot that is found attached when the child is reaped tells of a crash, whatever its
//! exit status.
//!
//! ```text
//!   UNUSED --assign (postmaster, before fork)--> ASSIGNED --attach (child)--> ACTIVE [--> WALSENDER]
//!   UNUSED <--release (postmaster, on reap)----- ASSIGNED <--detach (child)--------------------+
//! ```
//!
//! A [`ProcAddress`] is number and generation. The generation is odd while somebody is attached and grows at
//! every attach and detach, so an address never means a successor.
//!
//! Reading another's slot is always a racy look, good for views: a text or number may be a moment old.
//!
//! Follows PostgreSQL 18 src/backend/storage/lmgr/proc.c, storage/ipc/{procarray,procsignal,pmsignal}.c;
//! differs in: one table for all four.

use std::fmt;

use sys::process::Pid;

#[cfg(not(loom))]
use crate::{backend, shmem::Shmem, wakeup};
use crate::{
    backend::Backend,
    barrier::{BarrierHeader, BarrierSlot},
    interrupt::{Interrupts, PendingWord},
    latch::Latch,
    latch_stats::LatchStats,
    pm_signal::{PmSignal, PmSignalBox},
    sync::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering},
    wait_event::WaitEvent,
};

/// The index of a process slot; the same as the postmaster's child slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcNumber(pub u32);

impl ProcNumber {
    /// The startup process.
    pub const STARTUP: ProcNumber = ProcNumber(0);
    /// The walwriter.
    pub const WAL_WRITER: ProcNumber = ProcNumber(1);
    /// The checkpointer.
    pub const CHECKPOINTER: ProcNumber = ProcNumber(2);
    /// The walreceiver.
    pub const WAL_RECEIVER: ProcNumber = ProcNumber(3);
    /// The archiver.
    pub const ARCHIVER: ProcNumber = ProcNumber(4);
    /// The first slot for connections.
    pub const FIRST_BACKEND: ProcNumber = ProcNumber(5);

    /// As an index into arrays with an element per slot.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ProcNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One process during one life of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcAddress {
    /// The slot.
    pub number: ProcNumber,
    /// Which of its lives.
    pub generation: u32,
}

/// What kind of process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum BackendType {
    /// Serves one client.
    ClientBackend = 1,
    /// Serves one replication connection.
    WalSender = 2,
    /// Writes the tables.
    Startup = 3,
    /// Makes the log durable in the background.
    WalWriter = 4,
    /// Moves the redo point.
    Checkpointer = 5,
    /// Receives the log.
    WalReceiver = 6,
    /// Hands finished segments to the archive command.
    Archiver = 7,
    /// The parent of all.
    Postmaster = 8,
}

impl BackendType {
    const ALL: [BackendType; 8] = [
        BackendType::ClientBackend,
        BackendType::WalSender,
        BackendType::Startup,
        BackendType::WalWriter,
        BackendType::Checkpointer,
        BackendType::WalReceiver,
        BackendType::Archiver,
        BackendType::Postmaster,
    ];

    /// As pg_stat_activity.backend_type says it.
    pub const fn name(self) -> &'static str {
        match self {
            BackendType::ClientBackend => "client backend",
            BackendType::WalSender => "walsender",
            BackendType::Startup => "startup",
            BackendType::WalWriter => "walwriter",
            BackendType::Checkpointer => "checkpointer",
            BackendType::WalReceiver => "walreceiver",
            BackendType::Archiver => "archiver",
            BackendType::Postmaster => "postmaster",
        }
    }

    fn from_code(code: u32) -> Option<BackendType> {
        BackendType::ALL.into_iter().find(|kind| *kind as u32 == code)
    }
}

/// Where a child slot is in its life; see the file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotState {
    /// Nobody's.
    Unused = 0,
    /// A child is about to be forked, or has detached.
    Assigned = 1,
    /// A child is attached.
    Active = 2,
    /// A child is attached and is a walsender.
    WalSender = 3,
}

impl SlotState {
    fn from_code(code: u32) -> SlotState {
        match code {
            0 => SlotState::Unused,
            1 => SlotState::Assigned,
            3 => SlotState::WalSender,
            // What a scribbling child may have left counts as attached: it was no clean exit.
            _ => SlotState::Active,
        }
    }
}

/// A slot that the postmaster wants to assign is not unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotInUse(
    /// The slot.
    pub ProcNumber,
);

impl fmt::Display for SlotInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postmaster child slot {} is already in use", self.0)
    }
}

impl std::error::Error for SlotInUse {}

crate::shared_struct! {
    /// A process slot.
    #[repr(align(64))]
    pub struct Proc {
        /// Owned by the attached process, set by anyone.
        pub(crate) latch: Latch,
        /// Written by the attached process (0 when it detaches), read by all.
        pid: AtomicI32,
        /// See `PendingWord`.
        pending: AtomicU64,
        /// What the process waits for ([`WaitEvent::code`]), 0 for nothing. Plain stores of the attached
        /// process.
        pub(crate) wait_event: AtomicU32,
        /// A [`BackendType`]. Written by the attached process.
        backend_type: AtomicU32,
        /// A [`SlotState`]. Written by the postmaster while nobody is attached, else by the attached process.
        state: AtomicU32,
        /// Microseconds since 1970, written at attach.
        start_time: AtomicI64,
        /// See `barrier.rs`.
        pub(crate) barrier: BarrierSlot,
        /// Written by the attached process, on a cache line of its own.
        pub(crate) stats: LatchStats,
    }
}

impl Proc {
    /// The process's latch.
    pub fn latch(&self) -> &Latch {
        &self.latch
    }

    /// The attached process's id.
    pub fn pid(&self) -> Option<Pid> {
        match self.pid.load(Ordering::Relaxed) {
            0 => None,
            pid => Some(Pid(pid)),
        }
    }

    /// What kind of process is attached.
    pub fn backend_type(&self) -> Option<BackendType> {
        BackendType::from_code(self.backend_type.load(Ordering::Relaxed))
    }

    /// What it waits for right now.
    pub fn wait_event(&self) -> Option<WaitEvent> {
        WaitEvent::from_code(self.wait_event.load(Ordering::Relaxed))
    }

    /// The interrupts that it has still to attend to: a look, for who works on its behalf.
    pub fn interrupts(&self) -> Interrupts {
        PendingWord(&self.pending).bits()
    }

    /// When it attached, in microseconds since 1970.
    pub fn start_time(&self) -> i64 {
        self.start_time.load(Ordering::Relaxed)
    }

    /// What it does with latches.
    pub fn latch_stats(&self) -> &LatchStats {
        &self.stats
    }

    /// Where the slot is in its life.
    pub fn state(&self) -> SlotState {
        SlotState::from_code(self.state.load(Ordering::Relaxed))
    }

    pub(crate) fn pending(&self) -> PendingWord<'_> {
        PendingWord(&self.pending)
    }

    pub(crate) fn set_state(&self, state: SlotState) {
        self.state.store(state as u32, Ordering::Relaxed);
    }

    pub(crate) fn set_backend_type(&self, backend_type: BackendType) {
        self.backend_type.store(backend_type as u32, Ordering::Relaxed);
    }

    pub(crate) fn set_identity(&self, pid: Option<Pid>, start_time: i64) {
        self.start_time.store(start_time, Ordering::Relaxed);
        self.pid.store(pid.map_or(0, |pid| pid.0), Ordering::Relaxed);
    }
}

/// All slots, and the postmaster's letter box. The same in every process: made before the first fork.
#[derive(Debug)]
pub struct ProcArray {
    slots: &'static [Proc],
    pub(crate) postmaster: &'static PmSignalBox,
    pub(crate) barrier: &'static BarrierHeader,
    backend: Backend,
    /// The eventfds: of the postmaster's latch, then of the slots'. Private memory, so that no child can change it.
    #[cfg(not(loom))]
    wakeups: std::ops::Range<u32>,
}

impl ProcArray {
    /// Slots of a model, in its own memory.
    #[cfg(loom)]
    pub fn of_model(slots: usize) -> &'static ProcArray {
        let slots: &'static [Proc] = Vec::leak((0..slots).map(|_| Proc::default()).collect());
        slots.iter().for_each(|proc| proc.barrier.leave());
        let (postmaster, barrier) = (Box::leak(Box::default()), Box::leak(Box::default()));
        Box::leak(Box::new(ProcArray { slots, postmaster, barrier, backend: Backend::DEFAULT }))
    }

    /// Lays out `slots` slots ([`ProcNumber::FIRST_BACKEND`] plus the connections) in shared memory, for the
    /// back-end that is [chosen](backend::choose) now. Call before the first fork.
    #[cfg(not(loom))]
    pub fn create(shmem: &Shmem, slots: u32) -> &'static ProcArray {
        assert!(slots >= ProcNumber::FIRST_BACKEND.0, "the auxiliary processes need their slots");
        let slots: &'static [Proc] = shmem.alloc_array(slots as usize);
        let postmaster: &'static PmSignalBox = shmem.alloc();
        let barrier = shmem.alloc();
        let backend = backend::chosen();
        let wakeups = if backend == Backend::Eventfd { wakeup::make(slots.len() + 1) } else { 0..0 };
        let procs = Box::leak(Box::new(ProcArray { slots, postmaster, barrier, backend, wakeups }));
        procs.initialise();
        procs
    }

    /// Writes what isn't zero into slots that are all zero: at their making, and again by the postmaster when it has
    /// made shared memory anew ([`Shmem::renew`]). Each latch gets the eventfd that it has always had, so wait event
    /// sets that watch it, the postmaster's, stay good. Its owner has to take it again.
    #[cfg(not(loom))]
    pub fn initialise(&self) {
        self.slots.iter().for_each(|proc| proc.barrier.leave());
        // The postmaster and the auxiliary processes first, should there not be enough for all.
        let latches = std::iter::once(&self.postmaster.latch).chain(self.slots.iter().map(Proc::latch));
        latches.zip(self.wakeups.clone()).for_each(|(latch, kept)| latch.wake_by(kept));
    }

    /// What its processes wait with.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The shared memory that [`ProcArray::create`] takes for that many slots, in bytes.
    pub const fn size(slots: u32) -> usize {
        slots as usize * size_of::<Proc>() + 256
    }

    /// How many slots there are.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot of that number. Panics when there is none: numbers come from this table.
    pub fn slot(&self, number: ProcNumber) -> &'static Proc {
        &self.slots[number.index()]
    }

    /// All slots.
    pub fn iter(&self) -> impl Iterator<Item = (ProcNumber, &'static Proc)> + use<> {
        (0..).map(ProcNumber).zip(self.slots)
    }

    /// The slots with somebody attached.
    pub fn active(&self) -> impl Iterator<Item = (ProcAddress, &'static Proc)> + use<> {
        self.iter().filter_map(|(number, proc)| {
            let generation = proc.pending().generation();
            (generation % 2 == 1).then_some((ProcAddress { number, generation }, proc))
        })
    }

    /// The address of the process with that id, if it is attached.
    pub fn find_pid(&self, pid: Pid) -> Option<ProcAddress> {
        // The pid is published before the generation that `active` read (Acquire), so it is this life's or a
        // later one's; in the latter case sending fails.
        self.active().find(|(_, proc)| proc.pid() == Some(pid)).map(|(address, _)| address)
    }

    /// The address of who is attached to the slot now.
    pub fn address(&self, number: ProcNumber) -> Option<ProcAddress> {
        let generation = self.slot(number).pending().generation();
        (generation % 2 == 1).then_some(ProcAddress { number, generation })
    }

    /// Sends interrupts to that very process and sets its latch. False: it is gone (its successor gets
    /// nothing).
    pub fn send_interrupt(&self, to: ProcAddress, interrupts: Interrupts) -> bool {
        let proc = self.slot(to.number);
        let sent = proc.pending().send(to.generation, interrupts);
        if sent {
            proc.latch.set();
        }
        sent
    }

    /// The postmaster, if there is one, and what it does with latches.
    pub fn postmaster_latch_stats(&self) -> Option<(Pid, &'static LatchStats)> {
        self.postmaster.latch.owner().map(|pid| (pid, &self.postmaster.stats))
    }

    /// Sets the latch of whoever is attached to the slot.
    pub fn set_latch(&self, number: ProcNumber) {
        self.slot(number).latch.set();
    }

    /// For the postmaster, before it forks a child for the slot. Fails unless it is unused; as the postmaster
    /// knows by itself which slots are free, that means that somebody wrote wildly over shared memory.
    pub fn assign(&self, number: ProcNumber) -> Result<(), SlotInUse> {
        let proc = self.slot(number);
        if proc.state() != SlotState::Unused {
            return Err(SlotInUse(number));
        }
        proc.set_state(SlotState::Assigned);
        self.enter_barriers(number);
        Ok(())
    }

    /// For the postmaster, after it has reaped the slot's child (or could not fork it): frees the slot.
    /// False: the child had not detached, which is a crash whatever its exit status.
    pub fn release(&self, number: ProcNumber) -> bool {
        let proc = self.slot(number);
        let detached = proc.state() == SlotState::Assigned;
        if !detached {
            proc.set_identity(None, 0);
            proc.wait_event.store(0, Ordering::Relaxed);
            if proc.pending().generation() % 2 == 1 {
                proc.pending().advance();
            }
        }
        self.leave_barriers(number);
        // In either case: a child may die when it has taken the latch and not yet said that it is attached.
        proc.latch.init_shared();
        proc.set_state(SlotState::Unused);
        detached
    }

    /// Sends messages to the postmaster and wakes it.
    pub fn send_postmaster(&self, signals: PmSignal) {
        self.postmaster.send(signals);
    }
}
