//! A node: everything its processes share.
//!
//! The postmaster builds one [`Node`] before the first fork and leaks it; every child inherits it at the same address.
//! It holds settings, paths and handles into the one shared mapping; it owns no descriptor, no lock and no SQLite
//! connection, so a child may use any part of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use engine::writer::WriterOptions;
use ipc::barrier::Absorption;
use ipc::condition_variable::ConditionVariable;
use ipc::interrupt::Interrupts;
use ipc::lwlock::LwLock;
use ipc::proc::{ProcArray, ProcNumber};
use ipc::process::Me;
use ipc::shmem::Shmem;
use settings::Settings;
use sys::clock;
use wal::layout::{self, Placement, SwitchPlacement};
use wal::lsn::Lsn;
use wal::segment::{self, SegmentNumber, SegmentSize};
use wal::store::SegmentStore;
use wal::timestamp::Timestamp;
use wire::hba::Rules;

use crate::archiver::ArchiverCtl;
use crate::backend_status::BackendStatus;
use crate::configuration::Configuration;
use crate::control::ControlFile;
use crate::datadir::DataDir;
use crate::log_waits::LogWaits;
use crate::memory_report::report_if_asked;
use crate::notify::NotifyQueue;
use crate::notify::outgoing::Outgoing;
use crate::ordering;
use crate::recovery_state::RecoveryCtl;
use crate::replication_slots::ReplicationSlots;
use crate::requests::Requests;
use crate::session::system_info::WriterInfo;
use crate::session_count::SessionCount;
use crate::sync_rep::{SyncRepCtl, SyncWait};
use crate::wal_buffers::WalBuffers;
use crate::walreceiver_state::WalRcvCtl;
use crate::walsender::slot::WalSndSlot;
use crate::xlog::WalCtl;

/// How long SQLite waits for another process of the node that holds one of its locks (a checkpoint's last step).
pub const TABLES_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of one change record: what one transaction may change.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// Everything the processes of a node share.
#[derive(Debug)]
pub struct Node {
    /// Paths.
    pub data: DataDir,
    /// The settings of this process.
    pub configuration: Configuration,
    /// From the control file.
    pub system_identifier: u64,
    /// From the control file.
    pub segment_size: SegmentSize,
    /// Process slots.
    pub procs: &'static ProcArray,
    /// The log's positions and locks.
    pub wal: &'static WalCtl,
    /// The newest pages of the log.
    pub buffers: WalBuffers,
    /// Where each process waits for a flush (0: it doesn't); one word per process slot.
    flush_waits: &'static [AtomicU64],
    /// Who waits for the log to be here, without being able to do anything for it.
    pub log_waits: LogWaits,
    /// How far the tables are, and who waits for them.
    pub recovery: &'static RecoveryCtl,
    /// LSN up to which each process waits for the tables (0: it doesn't); one word per process slot.
    pub apply_waits: &'static [AtomicU64],
    /// Who waits for synchronous standbys, and for what.
    pub sync_rep: &'static SyncRepCtl,
    /// What each process waits for by itself; one per process slot.
    pub sync_waits: &'static [SyncWait],
    /// Since when each process has been reading the tables (monotonic clock, ns; 0: it isn't); one word per process slot.
    pub reading_since: &'static [AtomicU64],
    /// Writes on their way from sessions to the startup process.
    pub requests: Requests,
    /// Notifications on their way to the sessions that listen.
    pub notify: NotifyQueue,
    /// What each process shows of itself in pg_stat_activity; one per process slot.
    pub statuses: &'static [BackendStatus],
    /// Positions of the walsenders.
    pub walsenders: &'static [WalSndSlot],
    /// Promises to keep the log.
    pub replication_slots: ReplicationSlots,
    /// The walreceiver's state (a standby's).
    pub walreceiver: &'static WalRcvCtl,
    /// What the archiver has done.
    pub archiver: &'static ArchiverCtl,
    /// Grows with every change of roles: sessions look at theirs again.
    pub roles_version: &'static AtomicU64,
    /// How many sessions there are.
    pub sessions: &'static SessionCount,
    /// Held by who changes the control file ([`Node::update_control`]).
    pub control_lock: &'static LwLock,
    /// Requests to the checkpointer; see [`crate::checkpointer`].
    pub checkpointer: &'static crate::checkpointer::CheckpointerCtl,
    /// Who waits for a checkpoint to begin or to end.
    pub checkpoint_progress: ConditionVariable,
}

impl Node {
    /// Bytes of shared memory beside the process slots.
    pub fn shmem_size(settings: &Settings, slots: usize) -> usize {
        let per_slot = 3 * size_of::<AtomicU64>() + size_of::<SyncWait>() + size_of::<BackendStatus>();
        Configuration::SHMEM_SIZE
            + WalBuffers::shmem_size(settings.wal_buffers)
            + slots * per_slot
            + LogWaits::shmem_size(slots)
            + Requests::shmem_size(slots)
            + NotifyQueue::shmem_size(settings, slots)
            + settings.max_wal_senders * size_of::<WalSndSlot>()
            + ReplicationSlots::shmem_size(settings.max_replication_slots, slots)
            + ConditionVariable::size(slots)
            + 64 * 1024
    }

    /// Writes what isn't zero into shared memory that is all zero: at its making, and again by the postmaster when a crash
    /// has ended all children and shared memory was made anew. Everything else lies where it did.
    pub fn initialise(&self, control: &ControlFile) {
        self.buffers.initialise();
        self.wal.timeline.store(control.timeline, Ordering::Relaxed);
        self.wal.redo.store(control.redo, Ordering::Relaxed);
        self.recovery.in_recovery.store(1, Ordering::Relaxed);
        self.archiver
            .reset_time
            .store(Timestamp::from_unix_micros(clock::unix_micros()).0, Ordering::Relaxed);
    }

    /// Builds the node in `shmem`, with settings and rules just read, under the `flags` of the command line; before the first
    /// fork.
    pub fn create(
        data: DataDir,
        (settings, rules): (Settings, Rules),
        flags: Vec<(String, String)>,
        control: &ControlFile,
        procs: &'static ProcArray,
        shmem: &mut Shmem,
    ) -> &'static Node {
        let slots = procs.len();
        let sync_rep: &'static SyncRepCtl = shmem.alloc();
        let node = Node {
            system_identifier: control.system_identifier,
            segment_size: SegmentSize::new(u64::from(control.segment_size))
                .expect("checked with the control file"),
            wal: shmem.alloc(),
            buffers: WalBuffers::create(shmem, settings.wal_buffers),
            flush_waits: shmem.alloc_array(slots),
            log_waits: LogWaits::create(shmem, slots),
            recovery: shmem.alloc(),
            apply_waits: shmem.alloc_array(slots),
            sync_rep,
            sync_waits: shmem.alloc_array(slots),
            reading_since: shmem.alloc_array(slots),
            requests: Requests::create(shmem, &settings, slots, sync_rep),
            notify: NotifyQueue::create(shmem, &settings, procs),
            statuses: shmem.alloc_array(slots),
            walsenders: shmem.alloc_array(settings.max_wal_senders),
            replication_slots: ReplicationSlots::create_all(shmem, settings.max_replication_slots, slots),
            walreceiver: shmem.alloc(),
            archiver: shmem.alloc(),
            control_lock: shmem.alloc(),
            checkpointer: shmem.alloc(),
            checkpoint_progress: ConditionVariable::create(shmem, slots),
            sessions: shmem.alloc(),
            roles_version: shmem.alloc(),
            procs,
            data,
            configuration: Configuration::create(
                shmem,
                settings,
                rules,
                flags,
                Timestamp::from_unix_micros(clock::unix_micros()),
            ),
        };
        node.initialise(control);
        Box::leak(Box::new(node))
    }

    /// This process's settings as they are now (a session lays its own SETs over them).
    pub fn settings(&self) -> Rc<Settings> {
        self.configuration.settings()
    }

    /// For a child, before anything else: from now on it takes over each configuration that the postmaster publishes,
    /// wherever it looks at its interrupts ([`Node::attend`], [`Me::serve_barriers`], [`crate::wait`]).
    pub fn enter(&'static self, me: Me) {
        me.on_barriers(|_| {
            self.configuration.refresh();
            Absorption::Done
        });
        me.serve_barriers();
    }

    /// What every process does about itself in each turn of its loop. The settings may be others afterwards.
    pub fn attend(&self, me: &Me) {
        // The postmaster alone reads the file, so a SIGHUP to this process alone brings nothing that a barrier doesn't.
        me.take(Interrupts::CONFIG_RELOAD);
        me.serve_barriers();
        report_if_asked(self, me);
    }

    /// Asks the process of slot `number`, if there is one, to end; false when there is none.
    pub(crate) fn terminate(&self, number: ProcNumber) -> bool {
        let address = self.procs.address(number);
        address.is_some_and(|address| self.procs.send_interrupt(address, Interrupts::TERMINATE))
    }

    /// The startup process has committed changes of the roles, if `changed`: sessions look them up again.
    pub(crate) fn note_roles(&self, changed: bool) {
        if changed {
            self.roles_version.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The log's directory, with files of the calling process; after fork.
    pub fn segment_store(&self) -> SegmentStore {
        SegmentStore::new(self.data.pg_wal(), self.segment_size).leaving_room(sys::file::available_bytes)
    }

    /// How the startup process opens the tables. Its statements' pg_notify() adds to `notifications`.
    pub fn writer_options(&'static self, notifications: Rc<RefCell<Outgoing>>) -> WriterOptions {
        WriterOptions {
            busy_timeout: TABLES_BUSY_TIMEOUT,
            value_size_max: self.settings().max_statement_size as usize,
            memory_max: self.settings().statement_memory_limit as usize,
            record_size_max: RECORD_BYTES_MAX,
            system: Rc::new(WriterInfo { node: self, notifications }),
        }
    }

    /// Where a record of `total_len` bytes goes that follows one which ends at `end`.
    pub fn place(&self, end: Lsn, total_len: u32) -> Placement {
        layout::place(end, total_len, self.segment_size, self.wal.timeline(), self.system_identifier)
    }

    /// Where a switch record goes that follows a record which ends at `end`; none at the start of a segment.
    pub fn place_switch(&self, end: Lsn) -> Option<SwitchPlacement> {
        layout::place_switch(end, self.segment_size, self.wal.timeline(), self.system_identifier)
    }

    /// File name of a segment of the present timeline, for messages.
    pub fn segment_name(&self, number: SegmentNumber) -> String {
        segment::file_name(self.wal.timeline(), number, self.segment_size)
    }

    /// Where this process says what it waits to see flushed.
    pub fn flush_wait(&self, number: ProcNumber) -> &'static AtomicU64 {
        &self.flush_waits[number.0 as usize]
    }

    /// All of those.
    pub fn flush_waits(&self) -> impl Iterator<Item = (ProcNumber, &'static AtomicU64)> + use<> {
        (0u32..).map(ProcNumber).zip(self.flush_waits)
    }

    /// Sets the latch of each walsender that has to be told: there is more to send, or the horizon moved. One that rests, or
    /// whose socket is full, looks by itself later.
    ///
    /// None misses it. Whoever calls this has published the news; then (full fence) looks whether the walsender wants to be
    /// woken. The walsender says that it does; then (full fence) looks for news, and only then sleeps. At least one sees
    /// the other ([`crate::ordering`]); and a sleep without that word ends by itself.
    pub fn wake_walsenders(&self) {
        ordering::before_looking_for_waiters();
        self.walsenders
            .iter()
            .filter_map(WalSndSlot::awakened)
            .for_each(|number| self.procs.set_latch(number));
    }

    /// As [`Node::wake_walsenders`], but for the walsender that does it.
    pub fn wake_walsenders_but(&self, me: ProcNumber) {
        ordering::before_looking_for_waiters();
        let others = self.walsenders.iter().filter_map(WalSndSlot::awakened).filter(|number| *number != me);
        others.for_each(|number| self.procs.set_latch(number));
    }

    /// Sets the startup process' latch: a write waits, WAL came in, the horizon moved.
    pub fn wake_startup(&self) {
        self.procs.set_latch(ProcNumber::STARTUP);
    }
}

/// A word of flags in shared memory whose reader clears what it takes.
pub fn take_flag(word: &AtomicU32) -> bool {
    word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::AcqRel) != 0
}
