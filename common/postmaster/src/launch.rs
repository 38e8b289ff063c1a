//! Forking a child, and what a child does before and after its main.
//!
//! The prologue makes a process of its own of what is a copy of the postmaster:
//!
//! 1. close what belongs to the postmaster: listen sockets, pidfds, wait event set, signalfd. A listen socket kept open
//!    would hold the port after the postmaster's death.
//! 2. [`Me::attach`]: close the write end of the death pipe, ask for the parent-death signal, look whether the
//!    postmaster lives, own signalfd, SIGQUIT's handler, own session, slot and latch. Signals sent since the fork are
//!    pending: all are blocked across it.
//! 3. [`Roles::enter`], then the main.
//!
//! The epilogue detaches from the slot; the status then goes to the postmaster by `_exit`. The lock on the data directory
//! is inherited and kept on purpose (see `pid_file.rs`).
//!
//! Follows PostgreSQL 18 postmaster_child_launch() in src/backend/postmaster/launch_backend.c, InitPostmasterChild() in
//! miscinit.c.

use std::io;

use failpoint::Site;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use sys::fork::fork_process;
use sys::net::{PeerAddr, Stream};
use sys::process::{self, Pid, PidFd};
use sys::signal::{self, Signal};
use tracing::{debug, error, warn};

use crate::child_kind::ChildKind;
use crate::child_table::Child;
use crate::refusal::Refusal;
use crate::roles::{AuxiliaryMain, Roles};
use crate::server_loop::{RunError, Server};
use crate::state::Input;

/// The exit status of a child whose prologue failed: as after FATAL.
const PROLOGUE_FAILED: i32 = 1;

impl Server<'_> {
    /// Launches an auxiliary process; a failed fork comes back as an input to the state machine.
    pub(crate) fn launch(&mut self, kind: ChildKind) -> Result<Option<Input>, RunError> {
        let main = auxiliary_main(self.roles, kind).expect("only what has a main is ever wanted");
        // It is free, as its child is gone; if a wild child has made it look otherwise, that is logged.
        let Some(number) = self.children.assign(kind) else {
            return Ok(Some(Input::ForkFailed(kind)));
        };
        match fork_process(|| self.child(kind, number, main)) {
            Ok(pid) => self.watch(kind, Some(number), pid).map(|()| None),
            Err(error) => {
                self.children.release(number);
                error!("could not fork {}: {error}", kind.row().log_name);
                Ok(Some(Input::ForkFailed(kind)))
            }
        }
    }

    /// Launches a backend for a client, or a dead-end child when it may not come in.
    pub(crate) fn launch_for_client(&mut self, stream: Stream, peer: PeerAddr) -> Result<(), RunError> {
        if let Err(refusal) = self.machine.admit() {
            return self.launch_dead_end(refusal, stream, peer);
        }
        match self.children.assign(ChildKind::Backend) {
            Some(number) => self.launch_backend(number, stream, peer),
            None => self.launch_dead_end(Refusal::TooManyClients, stream, peer),
        }
    }

    fn launch_backend(&mut self, number: ProcNumber, stream: Stream, peer: PeerAddr) -> Result<(), RunError> {
        let kind = ChildKind::Backend;
        let main = self.roles.backend;
        let server = &mut *self;
        // The closure owns the stream, so in the postmaster it is closed when the fork returns.
        match fork_process(move || server.child(kind, number, |me| main(me, stream, peer))) {
            Ok(pid) => self.watch(kind, Some(number), pid),
            Err(error) => {
                self.children.release(number);
                error!("could not fork new process for connection: {error}");
                Ok(())
            }
        }
    }

    fn launch_dead_end(&mut self, refusal: Refusal, stream: Stream, peer: PeerAddr) -> Result<(), RunError> {
        if !self.children.dead_end_allowed() {
            debug!("connection from {peer} closed: {} and too many are being told so", refusal.message());
            return Ok(());
        }
        let main = self.roles.dead_end;
        let server = &mut *self;
        match fork_process(move || server.dead_end_child(|| main(stream, peer, refusal))) {
            Ok(pid) => self.watch(ChildKind::DeadEnd, None, pid),
            Err(error) => {
                error!("could not fork new process for connection: {error}");
                Ok(())
            }
        }
    }

    /// Enters a forked child into table and wait event set.
    ///
    /// A child that can't be watched can't be reaped and may outlive its own crash unseen, so failing here ends the
    /// postmaster, and with it (by the death pipe) all children.
    fn watch(&mut self, kind: ChildKind, number: Option<ProcNumber>, pid: Pid) -> Result<(), RunError> {
        failpoint::pass(Site::Forked);
        let pidfd = PidFd::open(pid).map_err(RunError::io("open pidfd of child process"))?;
        let wait_set = self.wait_set.as_mut().expect("the postmaster has its wait event set");
        let position = wait_set.add_child_exit(&pidfd).map_err(RunError::io("watch child process"))?;
        self.children.insert(Child { kind, number, pidfd, position });
        Ok(())
    }

    /// The whole life of a child with a slot; returns its exit status.
    fn child(&mut self, kind: ChildKind, number: ProcNumber, main: impl FnOnce(Me) -> i32) -> i32 {
        failpoint::enter(kind.failpoint_process());
        self.release_in_child();
        let row = kind.row();
        let backend_type = row.backend_type.expect("a kind with a slot has a backend type");
        let attach = || Me::attach(self.procs, number, backend_type, self.death, &row.signals);
        let me = match failpoint::step(Site::Attach, attach) {
            Ok(me) => me,
            Err(error) => {
                warn!("{} could not start: {error}", row.log_name);
                return PROLOGUE_FAILED;
            }
        };
        (self.roles.enter)(me);
        let status = main(me);
        // Does nothing if the main has done so at its clean end already.
        me.detach();
        status
    }

    /// The whole life of a dead-end child; returns its exit status.
    fn dead_end_child(&mut self, main: impl FnOnce() -> i32) -> i32 {
        failpoint::enter(ChildKind::DeadEnd.failpoint_process());
        self.release_in_child();
        match self.enter_dead_end() {
            Ok(()) => main(),
            Err(error) => {
                warn!("dead-end child could not start: {error}");
                PROLOGUE_FAILED
            }
        }
    }

    /// A dead-end child waits for its client alone, so the postmaster's death comes as a signal.
    fn enter_dead_end(&self) -> io::Result<()> {
        signal::install_quit_handler()?;
        self.death.enter_child(Some(Signal::Quit))?;
        process::setsid();
        // After asking for the signal: a death before it would not be told.
        if self.death.is_alive() { Ok(()) } else { Err(io::Error::other("the postmaster is gone")) }
    }

    /// Closes what belongs to the postmaster, in a forked child.
    fn release_in_child(&mut self) {
        self.listeners.release_in_child();
        self.children.release_in_child();
        self.wait_set = None;
        self.postmaster.close_in_child();
    }
}

fn auxiliary_main<'a>(roles: &Roles<'a>, kind: ChildKind) -> Option<AuxiliaryMain<'a>> {
    match kind {
        ChildKind::Startup => Some(roles.startup),
        ChildKind::WalWriter => Some(roles.walwriter),
        ChildKind::Checkpointer => Some(roles.checkpointer),
        ChildKind::WalReceiver => roles.walreceiver,
        ChildKind::Archiver => Some(roles.archiver),
        ChildKind::Backend | ChildKind::WalSender | ChildKind::DeadEnd => None,
    }
}
