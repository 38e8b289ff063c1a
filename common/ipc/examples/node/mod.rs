//! What the examples begin with: a postmaster with shared memory, and children in its process slots.

#![allow(dead_code, reason = "each example uses a part")]

use std::io;

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
    process::{ExitStatus, PidFd},
};

/// The slots that are free for children; those before belong to the auxiliary processes of a database.
pub(crate) fn slot(index: u32) -> ProcNumber {
    ProcNumber(ProcNumber::FIRST_BACKEND.0 + index)
}

pub(crate) struct Node {
    pub(crate) shmem: Shmem,
    pub(crate) procs: &'static ProcArray,
    pub(crate) postmaster: Postmaster,
    death: &'static PostmasterDeath,
}

impl Node {
    /// Makes this process the postmaster of up to `children` children. What they share is to be allocated
    /// before the first of them is started: a child has the memory that its postmaster had at the fork.
    pub(crate) fn new(children: u32) -> io::Result<Node> {
        let shmem = Shmem::create(1 << 20)?;
        let procs = ProcArray::create(&shmem, slot(children).0);
        let death = Box::leak(Box::new(PostmasterDeath::create()?));
        Ok(Node { shmem, procs, death, postmaster: Postmaster::start(procs)? })
    }

    /// Forks a child that takes the slot and runs `body`.
    pub(crate) fn start(
        &self,
        number: ProcNumber,
        body: impl FnOnce(Me) -> io::Result<()>,
    ) -> io::Result<PidFd> {
        self.procs.assign(number).map_err(io::Error::other)?;
        let pid = fork_process(|| {
            self.postmaster.close_in_child();
            let kind = BackendType::ClientBackend;
            let me = Me::attach(self.procs, number, kind, self.death, &SignalTable::STANDARD);
            // A child that ends without detaching has crashed: an error is told by that.
            match me.and_then(|me| body(me).map(|()| me.detach())) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("{number}: {error}");
                    1
                }
            }
        })?;
        PidFd::open(pid)
    }

    /// The postmaster's loop until `done`; whoever makes that true tells by
    /// [`Me::pm_signal`](ipc::process::Me::pm_signal).
    pub(crate) fn wait_until(&self, mut done: impl FnMut() -> bool) -> io::Result<()> {
        let mut set = WaitEventSet::for_postmaster(&self.postmaster, 1)?;
        set.add_latch()?;
        loop {
            self.postmaster.latch().reset();
            if done() {
                return Ok(());
            }
            set.wait(None, WaitEvent::PostmasterMain, &mut Vec::new())?;
        }
    }

    /// Waits for the end of a child and frees its slot.
    pub(crate) fn reap(&self, number: ProcNumber, child: &PidFd) -> io::Result<()> {
        let mut set = WaitEventSet::for_postmaster(&self.postmaster, 1)?;
        set.add_child_exit(child)?;
        set.wait(None, WaitEvent::BackendTermination, &mut Vec::new())?;
        let status = child.wait()?;
        let detached = self.procs.release(number);
        if status == Some(ExitStatus::Exited(0)) && detached {
            return Ok(());
        }
        Err(io::Error::other(format!("child in slot {number}: {status:?}, detached: {detached}")))
    }
}
