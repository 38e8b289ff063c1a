//! A small node: shared memory, slots, a data directory, and children that don't outlive their test.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ipc::postmaster_death::PostmasterDeath;
use ipc::proc::{BackendType, ProcArray, ProcNumber};
use ipc::process::{Me, Postmaster, SignalTable};
use ipc::shmem::Shmem;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::WaitEventSet;
use sender::control::ControlFile;
use sender::datadir::{DataDir, NewFiles};
use sender::node::Node;
use settings::Settings;
use sys::clock;
use sys::fork::fork_process;
use sys::process::{ExitStatus, PidFd};
use sys::signal::Signal;
use wire::hba::Rules;

/// Longer than anything here takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const SEGMENT_BYTES: u32 = 1 << 20;
pub(crate) const SYSTEM_IDENTIFIER: u64 = 0x5741_4c53_4849_5001;
const SLOTS: u32 = ProcNumber::FIRST_BACKEND.0 + 24;

/// Number of the n-th child that is no auxiliary process.
pub(crate) fn backend(index: usize) -> ProcNumber {
    ProcNumber(ProcNumber::FIRST_BACKEND.0 + u32::try_from(index).unwrap())
}

ipc::shared_struct! {
    /// What processes of a test tell each other.
    pub(crate) struct Board {
        /// Per inserter: records inserted.
        pub(crate) inserted: [AtomicU64; 16],
        /// Per inserter: of these, records that a flush has returned for.
        pub(crate) flushed: [AtomicU64; 16],
        /// Chunks that readers took from the ring, and from files.
        pub(crate) from_ring: AtomicU64,
        pub(crate) from_files: AtomicU64,
        /// Everything is inserted: readers end when they have read it.
        pub(crate) finished: AtomicU32,
        /// Rounds of a barrier that are over, and who has come to the present one.
        pub(crate) round: AtomicU32,
        pub(crate) arrived: AtomicU32,
    }
}

pub(crate) struct TestNode {
    pub(crate) node: &'static Node,
    pub(crate) board: &'static Board,
    death: &'static PostmasterDeath,
    pub(crate) postmaster: Postmaster,
}

impl TestNode {
    /// Makes this process the postmaster of a node in `data`, which is made if it isn't there; its ring has `pages`.
    pub(crate) fn start(data: &DataDir, pages: usize) -> TestNode {
        TestNode::start_with(data, pages, |_| {})
    }

    /// As [`TestNode::start`], with settings changed by `change`.
    pub(crate) fn start_with(data: &DataDir, pages: usize, change: impl FnOnce(&mut Settings)) -> TestNode {
        let control = ControlFile::new(SYSTEM_IDENTIFIER, SEGMENT_BYTES, 1);
        if !data.control().exists() {
            data.create(&NewFiles { conf: "", hba: Some(""), first_role: Some("") }, &control).unwrap();
        }
        let mut settings = Settings::default();
        settings.wal_buffers = pages * wal::page::PAGE_SIZE;
        settings.max_statement_size = 256 << 10;
        settings.max_notify_queue_pages = 64;
        settings.wal_writer_delay = Duration::from_millis(5);
        change(&mut settings);
        let bytes = ProcArray::size(SLOTS) + Node::shmem_size(&settings, SLOTS as usize) + (1 << 20);
        let mut shmem = Shmem::create(bytes).unwrap();
        let procs = ProcArray::create(&shmem, SLOTS);
        let death = Box::leak(Box::new(PostmasterDeath::create().unwrap()));
        let board = shmem.alloc();
        let node =
            Node::create(data.clone(), (settings, Rules::default()), Vec::new(), &control, procs, &mut shmem);
        TestNode { node, board, death, postmaster: Postmaster::start(procs).unwrap() }
    }

    /// Forks a child that attaches to slot `number`, runs `body`, detaches and exits with the status it returns.
    pub(crate) fn child(
        &self,
        number: ProcNumber,
        backend_type: BackendType,
        body: impl FnOnce(Me) -> i32,
    ) -> Child {
        self.node.procs.assign(number).unwrap();
        let pid = fork_process(|| {
            self.postmaster.close_in_child();
            let signals = &SignalTable::STANDARD;
            let me = Me::attach(self.node.procs, number, backend_type, self.death, signals).unwrap();
            let status = body(me);
            me.detach();
            status
        });
        Child { pidfd: PidFd::open(pid.unwrap()).unwrap(), ended: RefCell::new(None) }
    }

    /// A client backend that ends well.
    pub(crate) fn backend(&self, index: usize, body: impl FnOnce(Me)) -> Child {
        self.child(backend(index), BackendType::ClientBackend, |me| {
            body(me);
            0
        })
    }

    /// Lets readers end, and wakes them.
    pub(crate) fn finish(&self) {
        self.board.finished.store(1, Ordering::Release);
        for number in (0..SLOTS).map(ProcNumber) {
            self.node.procs.set_latch(number);
        }
    }
}

/// Waits until `count` processes have come here `round + 1` times, without a poll.
pub(crate) fn barrier(test: &TestNode, me: &Me, round: u32, count: u32) {
    if test.board.arrived.fetch_add(1, Ordering::AcqRel) + 1 == count {
        test.board.arrived.store(0, Ordering::Relaxed);
        test.board.round.store(round + 1, Ordering::Release);
        (0..count as usize).for_each(|index| test.node.procs.set_latch(backend(index)));
    }
    loop {
        me.latch().reset();
        if test.board.round.load(Ordering::Acquire) > round {
            return;
        }
        ipc::wait_latch(me, None, WaitEvent::PgSleep).unwrap();
    }
}

/// A child, killed when the test drops it while it runs.
pub(crate) struct Child {
    pidfd: PidFd,
    ended: RefCell<Option<ExitStatus>>,
}

impl Child {
    pub(crate) fn kill(&self, signal: Signal) {
        self.pidfd.kill(signal).unwrap();
    }

    pub(crate) fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Waits for its end.
    pub(crate) fn join(&self, what: &str) -> ExitStatus {
        let mut ended = self.ended.borrow_mut();
        *ended.get_or_insert_with(|| {
            let mut set = WaitEventSet::without_process(1).unwrap();
            set.add_child_exit(&self.pidfd).unwrap();
            let mut occurred = Vec::new();
            set.wait(Some(DEADLINE), WaitEvent::BackendTermination, &mut occurred).unwrap();
            assert!(!occurred.is_empty(), "{what} (pid {}) goes on for too long", self.pidfd.pid());
            self.pidfd.wait().unwrap().expect("an ended child has a status")
        })
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn join_well(&self, what: &str) {
        assert_eq!(self.join(what), ExitStatus::Exited(0), "{what}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.get_mut().is_none() {
            let _gone = self.pidfd.kill(Signal::Kill);
            let _ended = self.pidfd.wait();
        }
    }
}

/// Lets `duration` pass.
pub(crate) fn pass(duration: Duration) {
    let mut set = WaitEventSet::without_process(1).unwrap();
    let end = clock::now().saturating_add(duration);
    while clock::now() < end {
        let left = end.saturating_since(clock::now());
        set.wait(Some(left), WaitEvent::PgSleep, &mut Vec::new()).unwrap();
    }
}

/// xorshift64*: small, seeded, and the same everywhere.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// The seed to use, printed: that of `WALSHIP_SEED`, or a new one.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("WALSHIP_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| clock::now().as_nanos() % 1_000_000);
    println!("{test}: WALSHIP_SEED={seed}");
    seed
}

/// Bytes that say whose they are and which: a function of owner, number and place.
pub(crate) fn pattern(owner: u64, number: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(owner << 48 | number);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
