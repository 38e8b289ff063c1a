//! A small node: shared memory, slots, the death pipe, and children that don't outlive their test.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::RawFd,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use ipc::{
    postmaster_death::PostmasterDeath,
    proc::{BackendType, ProcArray, ProcNumber},
    process::{Me, Postmaster, SignalTable},
    shared_struct,
    shmem::Shmem,
    wait_event::WaitEvent,
    wait_event_set::{Occurred, WaitEventSet},
};
use sys::{
    clock,
    fork::fork_process,
    process::{ExitStatus, PidFd},
    signal::Signal,
};

/// Longer than anything here takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Two slots for children of the tests.
pub(crate) const FIRST: ProcNumber = ProcNumber::FIRST_BACKEND;
pub(crate) const SECOND: ProcNumber = ProcNumber(FIRST.0 + 1);

shared_struct! {
    /// What processes of a test tell each other.
    pub(crate) struct Board {
        pub(crate) numbers: [AtomicU64; 8],
        pub(crate) stage: AtomicU32,
    }
}

impl Board {
    pub(crate) fn get(&self, index: usize) -> u64 {
        self.numbers[index].load(Ordering::Acquire)
    }

    pub(crate) fn put(&self, index: usize, value: u64) {
        self.numbers[index].store(value, Ordering::Release);
    }
}

pub(crate) struct Node {
    pub(crate) shmem: Shmem,
    pub(crate) procs: &'static ProcArray,
    pub(crate) death: &'static PostmasterDeath,
    pub(crate) postmaster: Postmaster,
    pub(crate) board: &'static Board,
}

impl Node {
    /// Makes this process the postmaster of a new node.
    pub(crate) fn start() -> Node {
        let shmem = Shmem::create(1 << 20).unwrap();
        let procs = ProcArray::create(&shmem, FIRST.0 + 64);
        let death = Box::leak(Box::new(PostmasterDeath::create().unwrap()));
        let board = shmem.alloc();
        Node { shmem, procs, death, postmaster: Postmaster::start(procs).unwrap(), board }
    }

    /// Forks a child that attaches to slot `number`, runs `body`, detaches and exits with status 0.
    pub(crate) fn child(&self, number: ProcNumber, body: impl FnOnce(Me)) -> Child {
        self.child_with(number, &SignalTable::STANDARD, body)
    }

    pub(crate) fn child_with(
        &self,
        number: ProcNumber,
        signals: &SignalTable,
        body: impl FnOnce(Me),
    ) -> Child {
        self.procs.assign(number).unwrap();
        let pid = fork_process(|| {
            self.postmaster.close_in_child();
            let me = Me::attach(self.procs, number, BackendType::ClientBackend, self.death, signals).unwrap();
            body(me);
            me.detach();
            0
        });
        Child::new(PidFd::open(pid.unwrap()).unwrap())
    }

    /// Waits as the postmaster until `condition` holds. Whoever makes it true sets the postmaster's latch or
    /// raises a signal.
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let mut set = WaitEventSet::for_postmaster(&self.postmaster, 1).unwrap();
        set.add_latch().unwrap();
        let mut occurred = Vec::new();
        loop {
            self.postmaster.latch().reset();
            if condition() {
                return;
            }
            set.wait(Some(DEADLINE), WaitEvent::PostmasterMain, &mut occurred).unwrap();
            assert!(!occurred.is_empty(), "waited too long for: {what}");
        }
    }

    /// Waits until `condition` holds that nobody announces.
    pub(crate) fn poll_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let mut set = WaitEventSet::without_process(1).unwrap();
        let deadline = clock::now().saturating_add(DEADLINE);
        while !condition() {
            assert!(clock::now() < deadline, "waited too long for: {what}");
            set.wait(Some(Duration::from_millis(1)), WaitEvent::PgSleep, &mut Vec::new()).unwrap();
        }
    }
}

/// A child, killed when the test drops it while it runs.
pub(crate) struct Child {
    pub(crate) pidfd: PidFd,
    ended: Option<ExitStatus>,
}

impl Child {
    pub(crate) fn new(pidfd: PidFd) -> Child {
        Child { pidfd, ended: None }
    }

    /// A child of no node.
    pub(crate) fn fork(body: impl FnOnce() -> i32) -> Child {
        Child::new(PidFd::open(fork_process(body).unwrap()).unwrap())
    }

    pub(crate) fn kill(&self, signal: Signal) {
        self.pidfd.kill(signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn join(&mut self) -> ExitStatus {
        if self.ended.is_none() {
            assert!(wait_for_end(&self.pidfd), "child {} goes on for too long", self.pidfd.pid());
            self.ended = self.pidfd.wait().unwrap();
        }
        self.ended.expect("an ended child has a status")
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn join_well(&mut self) {
        assert_eq!(self.join(), ExitStatus::Exited(0));
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _gone = self.pidfd.kill(Signal::Kill);
            wait_for_end(&self.pidfd);
            let _not_ours = self.pidfd.wait();
        }
    }
}

/// Whether the process (a child or not) ends before the deadline.
pub(crate) fn wait_for_end(pidfd: &PidFd) -> bool {
    let mut set = WaitEventSet::without_process(1).unwrap();
    set.add_child_exit(pidfd).unwrap();
    let mut occurred = Vec::new();
    set.wait(Some(DEADLINE), WaitEvent::BackendTermination, &mut occurred).unwrap();
    !occurred.is_empty()
}

/// Waits on a child's own latch with the deadline; the loop of the crate's header with `condition` as the
/// work.
pub(crate) fn wait_until(me: Me, mut condition: impl FnMut() -> bool) {
    loop {
        me.latch().reset();
        if condition() {
            return;
        }
        assert!(ipc::wait_latch(&me, Some(DEADLINE), WaitEvent::PgSleep).unwrap(), "waited too long");
    }
}

/// Waits for one thing and returns what came.
pub(crate) fn wait(set: &mut WaitEventSet, timeout: Duration) -> Vec<Occurred> {
    let mut occurred = Vec::new();
    set.wait(Some(timeout), WaitEvent::PgSleep, &mut occurred).unwrap();
    occurred
}

/// The numbers of this process's descriptors.
pub(crate) fn open_descriptors() -> BTreeSet<RawFd> {
    let numbers = fs::read_dir("/proc/self/fd").unwrap();
    let numbers = numbers.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let mut numbers: BTreeSet<RawFd> = numbers.collect();
    // Gone by now is the one that listed the directory.
    numbers.retain(|number| fs::exists(format!("/proc/self/fdinfo/{number}")).unwrap());
    numbers
}
