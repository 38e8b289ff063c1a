//! The processes that are measured: of a small node, or just forked.

use ipc::{
    postmaster_death::PostmasterDeath,
    proc::{BackendType, ProcArray, ProcNumber},
    process::{Me, Postmaster, SignalTable},
    shmem::Shmem,
    wait_event::WaitEvent,
    wait_event_set::WaitEventSet,
};
use sys::{
    fork::fork_process,
    process::{self, ExitStatus, Pid, PidFd},
    signal::Signal,
};

/// Makes this process the postmaster of that many processes, each of which is to [`attach`] to its [`slot`].
pub(crate) fn start_node(count: usize) -> (&'static ProcArray, &'static PostmasterDeath) {
    let slots = slot(count).0;
    let shmem = Shmem::create(ProcArray::size(slots) + 4096).unwrap();
    let procs = ProcArray::create(&shmem, slots);
    let death: &'static PostmasterDeath = Box::leak(Box::new(PostmasterDeath::create().unwrap()));
    Box::leak(Box::new(Postmaster::start(procs).unwrap()));
    (0..count).for_each(|index| procs.assign(slot(index)).unwrap());
    (procs, death)
}

/// The slot of the process of that index.
pub(crate) fn slot(index: usize) -> ProcNumber {
    ProcNumber(ProcNumber::FIRST_BACKEND.0 + u32::try_from(index).unwrap())
}

pub(crate) fn attach(procs: &'static ProcArray, death: &'static PostmasterDeath, number: ProcNumber) -> Me {
    Me::attach(procs, number, BackendType::ClientBackend, death, &SignalTable::STANDARD).unwrap()
}

/// Runs `body` in a process of its own, to its end: what it leaks or installs is gone with it.
pub(crate) fn run_process(body: impl FnOnce()) {
    wait_for_good_end(&PidFd::open(fork_killed_with_parent(body)).unwrap());
}

/// Forks a process that ends with status 0 after `body`.
pub(crate) fn fork_killed_with_parent(body: impl FnOnce()) -> Pid {
    fork_process(|| {
        // None outlives another's panic.
        process::set_parent_death_signal(Signal::Kill).unwrap();
        body();
        0
    })
    .unwrap()
}

pub(crate) fn wait_for_good_end(process: &PidFd) {
    let mut set = WaitEventSet::without_process(1).unwrap();
    set.add_child_exit(process).unwrap();
    set.wait(None, WaitEvent::BackendTermination, &mut Vec::new()).unwrap();
    assert_eq!(process.wait().unwrap(), Some(ExitStatus::Exited(0)));
}
