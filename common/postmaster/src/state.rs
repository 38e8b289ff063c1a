//! The postmaster's state machine, pure: `(now, input, census) -> outputs`.
//!
//! Why pure: the order in which a node starts and stops is where acknowledged data is lost or a shutdown hangs, and it
//! can be tested line by line only when no process is involved. The shell (`server_loop.rs`) owns descriptors, pids and
//! the clock; it passes in what happened together with a census of the children that are left, and carries out the
//! outputs in order.
//!
//! ```text
//!  STARTUP --RECOVERY_STARTED--> RECOVERY --BEGIN_HOT_STANDBY--> HOT_STANDBY      standby
//!     |                             |                                 |
//!     +------------RECOVERY_DONE----+---------------------------------+--> RUN    primary, or promoted
//!
//!  STARTUP, RECOVERY, HOT_STANDBY, RUN:
//!     fast shutdown, or smart shutdown and the last client backend has gone
//!        v
//!  STOP_BACKENDS    SIGTERM client backends, walreceiver;   until they are gone
//!        v
//!  WAIT_BACKENDS    SIGTERM startup, walwriter;             until they are gone   <-- crash, immediate shutdown:
//!        v          (crash, immediate: until all but dead-end children are gone)      SIGQUIT all, SIGKILL after 5 s
//!  SHUTDOWN         SIGUSR2 checkpointer (walsenders go to STOPPING, shutdown checkpoint);    until it exits 0
//!        v
//!  SHUTDOWN_2       SIGUSR2 walsenders, archiver (send, archive what is left);                until they are gone
//!        v
//!  WAIT_DEAD_END    listen sockets closed, SIGQUIT dead-end children;                         until they are gone
//!        v
//!  NO_CHILDREN      exit; after a crash: shared memory made anew, and STARTUP again
//! ```
//!
//! After a crash, as long as nobody has asked for a shutdown, `restart_after_crash` is on and it was not the startup
//! process that failed to recover, the listen sockets stay open (in WAIT_DEAD_END nobody is accepted, so that an end
//! of dead-end children is in sight) and NO_CHILDREN is left again by *reinitializing*: the log is recovered as after a crash
//! of the whole node. A shutdown that is requested meanwhile counts. A startup process that fails before the node serves
//! would fail again, so it ends the node, as does any failure of one that replays as a standby; the writer of a primary
//! is like any other child. There is no limit to how often a node restarts, but two restarts in a row begin at least
//! [`RELAUNCH_AFTER`] apart.
//!
//! | state | runs | new connection |
//! |---|---|---|
//! | STARTUP | startup, checkpointer, walreceiver if asked for | 57P03 starting up |
//! | RECOVERY | the same, the archiver if it is to archive always | 57P03 not yet accepting connections |
//! | HOT_STANDBY | the same, backends, walsenders | let in |
//! | RUN | startup, checkpointer, walwriter, archiver if there is to be one, backends, walsenders | let in |
//! | after a shutdown request | what was not told to stop yet | 57P03 shutting down |
//! | after a crash, until it serves again | nothing, then as in STARTUP | 57P03 in recovery mode |
//!
//! A reload is told of in postmaster.pid, under a number that is written before the file is read:
//!
//! ```text
//! SIGHUP -> reading -> refused
//!              +-----> absorbing (all children have it) -> done
//! ```
//!
//! Invariants:
//! - A shutdown request only escalates: smart, fast, immediate.
//! - Walsenders outlive the checkpointer: the shutdown checkpoint record reaches the standbys. So does the archiver: the
//!   segment that the checkpointer closes reaches the archive.
//! - The startup process outlives the client backends: a session's write is answered before its writer goes.
//! - After a crash nothing is launched before the last child is gone; [`StateMachine::all_children_gone`] is the one place
//!   that decides what follows. No child ever sees both the old and the new shared memory.
//!
//! Follows PostgreSQL 15 PostmasterStateMachine(), reaper(), pmdie() in src/backend/postmaster/postmaster.c; differs in:
//! the startup process stays after recovery and is told to stop on its own, after the backends; STOP_BACKENDS waits; an
//! unrequested exit of the walwriter is a crash even with status 0; a standby that recovers from a crash is in recovery mode
//! until it serves, and a fast shutdown of a node that does goes in order; a standby that lets clients in has the status
//! `standby` (there: only one that doesn't), so that `status` can tell it from a primary.

use std::time::Duration;

use ipc::pm_signal::{PmSignal, QuitReason};
use sys::clock::MonoTime;
use sys::process::ExitStatus;
use sys::signal::Signal;

use crate::child_kind::{Census, ChildEnd, ChildKind, KindSet};
use crate::pid_file::NodeStatus;
use crate::refusal::Refusal;
use crate::reload_line::{ReloadLine, ReloadProgress};

/// How long children have to heed SIGQUIT before SIGKILL.
pub const SIGKILL_AFTER: Duration = Duration::from_secs(5);

/// When a child could not be forked: how long until the next attempt. Also the least time between two restarts after crashes.
pub const RELAUNCH_AFTER: Duration = Duration::from_secs(1);

/// The least time between two births of an archiver: one that gives up at once would be born for ever.
pub const ARCHIVER_RESTART_INTERVAL: Duration = Duration::from_secs(10);

/// When an archiver is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archiving {
    /// Never.
    Off,
    /// While the node writes the log.
    Primary,
    /// While it follows another's log, too.
    Always,
}

/// Where the node is in its life; see the diagram above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PmState {
    /// The startup process has begun.
    Startup,
    /// It replays as a standby, and is not consistent yet.
    Recovery,
    /// It replays as a standby; clients may read.
    HotStandby,
    /// Recovery is over: a primary.
    Run,
    /// Client backends and the walreceiver were told to stop.
    StopBackends,
    /// Startup and walwriter were told to stop; or, after a crash, all children.
    WaitBackends,
    /// The checkpointer writes the shutdown checkpoint.
    Shutdown,
    /// Walsenders send what is left.
    Shutdown2,
    /// Only dead-end children may be left.
    WaitDeadEnd,
    /// All children are gone.
    NoChildren,
}

/// The mode of a requested shutdown; a later one is more severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownMode {
    /// Waits for client backends to leave by themselves.
    Smart,
    /// Ends the client backends, then stops in order.
    Fast,
    /// Ends everything at once; the next start recovers.
    Immediate,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The postmaster is ready to launch its first children. Exactly once, first.
    Start,
    /// A child was reaped; the census doesn't count it any more.
    ChildExited(ChildEnd),
    /// A child of this kind could not be forked.
    ForkFailed(ChildKind),
    /// Children have reported; several messages at once are taken in the order of recovery.
    PmSignal(PmSignal),
    /// Somebody wants the node to stop.
    Shutdown(ShutdownMode),
    /// Somebody wants a standby to become a primary.
    Promote,
    /// Somebody wants the configuration to be read again.
    Reload,
    /// Shared memory is made anew and nobody is attached to it; or why that could not be done.
    Reinitialized(Result<(), String>),
    /// It was read and published, with what is left to say; or there is nothing new, and why.
    ReloadRead(Result<String, String>),
    /// Every child has absorbed what was published last.
    ReloadAbsorbed,
    /// Somebody wants to know which children have not.
    LaggardsWanted,
    /// Those are they.
    Laggards(String),
    /// postmaster.pid is not this postmaster's any more.
    PidFileLost,
    /// Nothing but that time has passed, or that a flag in shared memory may have changed.
    Tick,
}

/// What the shell is to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Fork a child.
    Launch(ChildKind),
    /// Send a signal to every child of the kinds.
    Signal(KindSet, Signal),
    /// Write a line at level LOG.
    Log(String),
    /// Write the status line of postmaster.pid.
    Status(NodeStatus),
    /// Read the configuration again, publish it, and tell the children ([`Input::ReloadRead`]).
    Reload,
    /// Make shared memory anew ([`Input::Reinitialized`]): no child is left. Always the last output.
    Reinitialize,
    /// Accept nobody for now; the listen sockets stay open.
    PauseAccepting,
    /// Accept again.
    ResumeAccepting,
    /// Find out which children have not absorbed it yet ([`Input::Laggards`]).
    NameLaggards,
    /// Write the line of postmaster.pid that tells of reloads.
    ReloadLine(ReloadLine),
    /// Close the listen sockets.
    StopListening,
    /// Leave with this exit status; nothing comes after it.
    Exit(i32),
}

/// The machine. `census` always says which children live at the time of the input.
#[derive(Debug)]
pub struct StateMachine {
    state: PmState,
    shutdown: Option<ShutdownMode>,
    /// A child has crashed, and shared memory was not made anew since.
    crashed: bool,
    /// From a restart after a crash until the node serves again.
    recovering: bool,
    /// `restart_after_crash`, as it is now.
    restart_after_crash: bool,
    /// When shared memory was last made anew.
    reinitialized_at: Option<MonoTime>,
    /// The crash was the startup process's own.
    startup_failed: bool,
    walreceiver_requested: bool,
    /// When children that still live get SIGKILL.
    sigkill_at: Option<MonoTime>,
    /// Until when nothing is launched because a fork has failed.
    relaunch_at: Option<MonoTime>,
    archiving: Archiving,
    /// When the last archiver was launched.
    archiver_launched_at: Option<MonoTime>,
    /// Until when no archiver is launched because the last one ended too soon.
    archiver_again_at: Option<MonoTime>,
    /// The last reload.
    reload: ReloadLine,
    /// What is left to say when every child has absorbed the last reload; none: it is over.
    reload_note: Option<String>,
}

impl StateMachine {
    /// A machine in STARTUP; its first input is [`Input::Start`].
    pub fn new(archiving: Archiving) -> StateMachine {
        StateMachine {
            state: PmState::Startup,
            shutdown: None,
            crashed: false,
            recovering: false,
            restart_after_crash: true,
            reinitialized_at: None,
            startup_failed: false,
            walreceiver_requested: false,
            sigkill_at: None,
            relaunch_at: None,
            archiving,
            archiver_launched_at: None,
            archiver_again_at: None,
            reload: ReloadLine::none_yet(),
            reload_note: None,
        }
    }

    /// The state.
    pub fn state(&self) -> PmState {
        self.state
    }

    /// Why SIGQUIT is sent, if it is.
    pub fn quit_reason(&self) -> QuitReason {
        if self.crashed { QuitReason::Crash } else { QuitReason::Stop }
    }

    /// Takes note of the setting `restart_after_crash`, which is on otherwise.
    pub fn set_restart_after_crash(&mut self, on: bool) {
        self.restart_after_crash = on;
    }

    /// When [`Input::Tick`] is due even if nothing happens.
    pub fn deadline(&self) -> Option<MonoTime> {
        [self.sigkill_at, self.relaunch_at, self.archiver_again_at].into_iter().flatten().min()
    }

    /// Whether a new client may come in, as far as the state is concerned (slots are the child table's concern).
    pub fn admit(&self) -> Result<(), Refusal> {
        match self.state {
            _ if self.shutdown.is_some() => Err(Refusal::ShuttingDown),
            _ if self.crashed || self.recovering => Err(Refusal::InRecoveryMode),
            PmState::HotStandby | PmState::Run => Ok(()),
            PmState::Startup => Err(Refusal::StartingUp),
            PmState::Recovery => Err(Refusal::NotConsistent),
            _ => Err(Refusal::ShuttingDown),
        }
    }

    /// Takes one input and says what to do.
    pub fn step(&mut self, now: MonoTime, input: Input, census: &Census) -> Vec<Output> {
        let mut step = Step { now, census, outputs: Vec::new() };
        match input {
            Input::Start => step.push(Output::Status(NodeStatus::Starting)),
            Input::Tick => {}
            Input::ChildExited(end) => self.child_exited(&mut step, &end),
            Input::ForkFailed(kind) => self.fork_failed(&mut step, kind),
            Input::PmSignal(signal) => self.pm_signal(&mut step, signal),
            Input::Shutdown(mode) => self.shutdown_requested(&mut step, mode),
            Input::Promote => self.promotion_requested(&mut step),
            Input::Reload => self.reload_requested(&mut step),
            Input::Reinitialized(result) => self.reinitialized(&mut step, result),
            Input::ReloadRead(read) => self.reload_read(&mut step, read),
            Input::ReloadAbsorbed => self.reload_absorbed(&mut step),
            Input::LaggardsWanted if self.reload_note.is_some() => step.push(Output::NameLaggards),
            Input::LaggardsWanted => {}
            Input::Laggards(late) => self.reload_progress(&mut step, ReloadProgress::Absorbing(late)),
            Input::PidFileLost => {
                step.log("performing immediate shutdown because data directory lock file is invalid");
                self.shutdown_requested(&mut step, ShutdownMode::Immediate);
            }
        }
        self.timers(&mut step);
        self.advance(&mut step);
        self.launch_missing(&mut step);
        step.outputs
    }

    /// Whether a child of this kind is to run now. (Backends and dead-end children come with their clients.)
    pub fn wants(&self, kind: ChildKind) -> bool {
        let serving = self.state <= PmState::Run;
        match kind {
            ChildKind::Startup | ChildKind::Checkpointer => serving,
            ChildKind::WalWriter => self.state == PmState::Run,
            ChildKind::WalReceiver => serving && self.state != PmState::Run && self.walreceiver_requested,
            ChildKind::Archiver => self.archives() && self.archiver_again_at.is_none(),
            ChildKind::Backend | ChildKind::WalSender | ChildKind::DeadEnd => false,
        }
    }

    /// Whether the state is one in which the node archives.
    fn archives(&self) -> bool {
        match self.archiving {
            Archiving::Off => false,
            Archiving::Primary => self.state == PmState::Run,
            Archiving::Always => (PmState::Recovery..=PmState::Run).contains(&self.state),
        }
    }

    fn child_exited(&mut self, step: &mut Step<'_>, end: &ChildEnd) {
        let in_order = match (end.kind, end.status) {
            // They were all told to go, so how they went says nothing.
            _ if self.quitting() => true,
            (ChildKind::DeadEnd, _) if self.state >= PmState::WaitDeadEnd => true,
            (_, ExitStatus::Signaled(_)) => false,
            (ChildKind::Startup, ExitStatus::Exited(code)) => {
                self.state == PmState::WaitBackends && matches!(code, 0 | 1)
            }
            (ChildKind::WalWriter, ExitStatus::Exited(code)) => {
                self.state == PmState::WaitBackends && code == 0
            }
            (ChildKind::Checkpointer, ExitStatus::Exited(code)) => {
                self.state == PmState::Shutdown && code == 0
            }
            (_, ExitStatus::Exited(code)) => matches!(code, 0 | 1),
        };
        if end.kind == ChildKind::Archiver {
            let again = self.archiver_launched_at.map(|at| at.saturating_add(ARCHIVER_RESTART_INTERVAL));
            self.archiver_again_at = again.filter(|again| *again > step.now);
        }
        if in_order && (end.detached || self.quitting()) {
            if end.kind == ChildKind::Checkpointer && self.state == PmState::Shutdown {
                self.enter(step, PmState::Shutdown2);
            }
            return;
        }
        if end.kind == ChildKind::Startup && self.state != PmState::Run {
            self.startup_failed = true;
        }
        self.crash(step, end.crash_report());
        if self.startup_failed && self.state <= PmState::Recovery {
            step.log("aborting startup due to startup process failure");
        }
        self.enter(step, PmState::WaitBackends);
    }

    fn fork_failed(&mut self, step: &mut Step<'_>, kind: ChildKind) {
        match kind {
            ChildKind::Startup => {
                self.startup_failed = true;
                self.crash(step, "aborting startup due to startup process failure".to_owned());
                self.enter(step, PmState::WaitBackends);
            }
            // Without it there is no shutdown checkpoint; the next start recovers.
            ChildKind::Checkpointer if self.state == PmState::Shutdown => {
                self.crash(
                    step,
                    "could not launch checkpointer process for the shutdown checkpoint".to_owned(),
                );
                self.enter(step, PmState::WaitBackends);
            }
            _ => {
                self.walreceiver_requested |= kind == ChildKind::WalReceiver;
                self.relaunch_at = Some(step.now.saturating_add(RELAUNCH_AFTER));
            }
        }
    }

    /// Messages that the state doesn't expect are late news from a child that is being stopped.
    fn pm_signal(&mut self, step: &mut Step<'_>, signals: PmSignal) {
        if signals.contains(PmSignal::RECOVERY_STARTED) && self.state == PmState::Startup {
            self.state = PmState::Recovery;
        }
        if signals.contains(PmSignal::BEGIN_HOT_STANDBY) && self.state == PmState::Recovery {
            step.log("database system is ready to accept read-only connections");
            self.state = PmState::HotStandby;
            self.recovering = false;
            self.serving_status(step, NodeStatus::Standby);
        }
        if signals.contains(PmSignal::START_WALRECEIVER) && self.state < PmState::Run {
            self.walreceiver_requested = true;
        }
        if signals.contains(PmSignal::RECOVERY_DONE) && self.state < PmState::Run {
            step.log("database system is ready to accept connections");
            self.state = PmState::Run;
            self.recovering = false;
            self.walreceiver_requested = false;
            self.serving_status(step, NodeStatus::Ready);
        }
    }

    /// The status line, unless it says "stopping" already (smart shutdown).
    fn serving_status(&self, step: &mut Step<'_>, status: NodeStatus) {
        if self.shutdown.is_none() {
            step.push(Output::Status(status));
        }
    }

    fn shutdown_requested(&mut self, step: &mut Step<'_>, mode: ShutdownMode) {
        if self.shutdown >= Some(mode) {
            return;
        }
        self.shutdown = Some(mode);
        step.push(Output::Status(NodeStatus::Stopping));
        match mode {
            ShutdownMode::Smart => step.log("received smart shutdown request"),
            ShutdownMode::Fast => {
                step.log("received fast shutdown request");
                if matches!(self.state, PmState::HotStandby | PmState::Run) {
                    step.log("aborting any active transactions");
                }
                if self.state <= PmState::Run {
                    self.enter(step, PmState::StopBackends);
                }
            }
            ShutdownMode::Immediate => {
                step.log("received immediate shutdown request");
                self.quit_all(step);
                self.enter(step, PmState::WaitBackends);
            }
        }
    }

    /// For the startup process to decide, which alone knows whether there is something to promote.
    fn promotion_requested(&self, step: &mut Step<'_>) {
        if self.state < PmState::Run {
            step.signal(KindSet::of(&[ChildKind::Startup]), Signal::Usr2);
        }
    }

    fn reload_requested(&mut self, step: &mut Step<'_>) {
        self.reload.number += 1;
        if self.shutdown > Some(ShutdownMode::Smart) {
            return self.reload_read(step, Err(Refusal::ShuttingDown.message().to_owned()));
        }
        step.log("received SIGHUP, reloading configuration files");
        self.reload_progress(step, ReloadProgress::Reading);
        step.push(Output::Reload);
    }

    /// A refused one ends there and then, whether or not everybody has the one before it.
    fn reload_read(&mut self, step: &mut Step<'_>, read: Result<String, String>) {
        let (note, progress) = match read {
            Ok(note) => (Some(note), ReloadProgress::Absorbing(String::new())),
            Err(why) => (None, ReloadProgress::Refused(why)),
        };
        self.reload_note = note;
        self.reload_progress(step, progress);
    }

    /// After SIGQUIT everybody is gone soon, which is no answer: there will be others who have it, or the end of the
    /// postmaster, which who waits for an answer sees.
    fn reload_absorbed(&mut self, step: &mut Step<'_>) {
        if self.quitting() {
            return;
        }
        if let Some(note) = self.reload_note.take() {
            self.reload_progress(step, ReloadProgress::Done(note));
        }
    }

    fn reload_progress(&mut self, step: &mut Step<'_>, progress: ReloadProgress) {
        self.reload.progress = progress;
        step.push(Output::ReloadLine(self.reload.clone()));
    }

    /// A child died in a way that leaves shared memory in doubt: nobody may go on using it.
    fn crash(&mut self, step: &mut Step<'_>, what: String) {
        step.push(Output::Log(what));
        if step.census.count_in(KindSet::ALL) > 0 {
            step.log("terminating any other active server processes");
        }
        self.crashed = true;
        let status = if self.restarts() { NodeStatus::Starting } else { NodeStatus::Stopping };
        step.push(Output::Status(status));
        self.quit_all(step);
    }

    fn quit_all(&mut self, step: &mut Step<'_>) {
        step.signal(KindSet::ALL, Signal::Quit);
        self.sigkill_at = Some(step.now.saturating_add(SIGKILL_AFTER));
    }

    /// Whether all children have been sent SIGQUIT: the orderly sequence is off.
    fn quitting(&self) -> bool {
        self.crashed || self.shutdown == Some(ShutdownMode::Immediate)
    }

    /// Whether the node goes on when the last child is gone.
    fn restarts(&self) -> bool {
        self.crashed && self.shutdown.is_none() && !self.startup_failed && self.restart_after_crash
    }

    fn timers(&mut self, step: &mut Step<'_>) {
        if self.sigkill_at.is_some_and(|at| at <= step.now) {
            self.sigkill_at = None;
            if step.census.count_in(KindSet::ALL) > 0 {
                step.log("issuing SIGKILL to recalcitrant children");
                step.signal(KindSet::ALL, Signal::Kill);
            }
        }
        if self.relaunch_at.is_some_and(|at| at <= step.now) {
            self.relaunch_at = None;
        }
        if self.archiver_again_at.is_some_and(|at| at <= step.now) {
            self.archiver_again_at = None;
        }
    }

    /// Goes on to the next state for as long as nobody is left to wait for.
    fn advance(&mut self, step: &mut Step<'_>) {
        while let Some(next) = self.next_state(step.census) {
            self.enter(step, next);
        }
    }

    fn next_state(&self, census: &Census) -> Option<PmState> {
        let gone = |set: KindSet| census.count_in(set) == 0;
        let (ready, next) = match self.state {
            PmState::Startup | PmState::Recovery | PmState::HotStandby | PmState::Run => {
                let smart = self.shutdown == Some(ShutdownMode::Smart);
                (smart && gone(KindSet::of(&[ChildKind::Backend])), PmState::StopBackends)
            }
            PmState::StopBackends => (gone(STOPPED_FIRST), PmState::WaitBackends),
            PmState::WaitBackends if self.quitting() => (gone(ALL_BUT_DEAD_END), PmState::WaitDeadEnd),
            PmState::WaitBackends => (gone(STOPPED_SECOND), PmState::Shutdown),
            // Left by the checkpointer's exit, not by its absence: it may have to be launched first.
            PmState::Shutdown => (false, PmState::Shutdown2),
            PmState::Shutdown2 => (gone(ALL_BUT_DEAD_END), PmState::WaitDeadEnd),
            PmState::WaitDeadEnd => (gone(KindSet::ALL), PmState::NoChildren),
            PmState::NoChildren => (false, PmState::NoChildren),
        };
        ready.then_some(next)
    }

    /// Enters a state and does what is due on entry.
    fn enter(&mut self, step: &mut Step<'_>, state: PmState) {
        // A crash or an immediate shutdown while the last children are on their way out changes nothing any more.
        if self.state >= PmState::WaitDeadEnd && state < self.state {
            return;
        }
        self.state = state;
        match state {
            PmState::StopBackends => step.signal(STOPPED_FIRST, Signal::Term),
            PmState::WaitBackends if !self.quitting() => step.signal(STOPPED_SECOND, Signal::Term),
            PmState::Shutdown => {
                // A signal to a child just forked waits for it: all signals are blocked across the fork.
                if step.census.count(ChildKind::Checkpointer) == 0 {
                    step.push(Output::Launch(ChildKind::Checkpointer));
                }
                step.push(Output::Signal(KindSet::of(&[ChildKind::Checkpointer]), Signal::Usr2));
            }
            PmState::Shutdown2 => step.signal(STOPPED_LAST, Signal::Usr2),
            PmState::WaitDeadEnd => {
                step.push(if self.restarts() { Output::PauseAccepting } else { Output::StopListening });
                step.signal(KindSet::of(&[ChildKind::DeadEnd]), Signal::Quit);
                self.sigkill_at.get_or_insert(step.now.saturating_add(SIGKILL_AFTER));
            }
            PmState::NoChildren => self.all_children_gone(step),
            _ => {}
        }
    }

    /// What follows when the last child is gone. A shutdown request goes before a restart.
    fn all_children_gone(&mut self, step: &mut Step<'_>) {
        self.sigkill_at = None;
        if self.restarts() {
            step.log("all server processes terminated; reinitializing");
            step.push(Output::Reinitialize);
            return;
        }
        if self.shutdown.is_some() {
            if self.crashed {
                step.log("abnormal database system shutdown");
            }
        } else if self.startup_failed {
            step.log("shutting down due to startup process failure");
        } else {
            step.log("shutting down because restart_after_crash is off");
        }
        self.exit(step);
    }

    fn exit(&self, step: &mut Step<'_>) {
        step.log("database system is shut down");
        step.push(Output::Exit(i32::from(self.crashed)));
    }

    /// Begins anew, as at the start; but clients are told of the crash.
    fn reinitialized(&mut self, step: &mut Step<'_>, result: Result<(), String>) {
        if let Err(why) = result {
            step.push(Output::Log(why));
            return self.exit(step);
        }
        self.state = PmState::Startup;
        self.crashed = false;
        // The children to come inherit the configuration.
        self.reload_absorbed(step);
        self.recovering = true;
        self.walreceiver_requested = false;
        // A crash that recurs at once must not keep the machine busy.
        let earliest = self.reinitialized_at.map(|last| last.saturating_add(RELAUNCH_AFTER));
        self.relaunch_at = earliest.filter(|earliest| *earliest > step.now);
        self.reinitialized_at = Some(self.relaunch_at.unwrap_or(step.now));
        step.push(Output::ResumeAccepting);
    }

    fn launch_missing(&mut self, step: &mut Step<'_>) {
        if self.relaunch_at.is_some() {
            return;
        }
        for kind in ChildKind::all() {
            if self.wants(kind) && step.census.count(kind) == 0 {
                step.push(Output::Launch(kind));
                match kind {
                    ChildKind::WalReceiver => self.walreceiver_requested = false,
                    ChildKind::Archiver => self.archiver_launched_at = Some(step.now),
                    _ => {}
                }
            }
        }
    }
}

/// Told to stop on entry to STOP_BACKENDS.
const STOPPED_FIRST: KindSet = KindSet::of(&[ChildKind::Backend, ChildKind::WalReceiver]);

/// Told to stop on entry to WAIT_BACKENDS.
const STOPPED_SECOND: KindSet = KindSet::of(&[ChildKind::Startup, ChildKind::WalWriter]);

/// Told to stop on entry to SHUTDOWN_2.
const STOPPED_LAST: KindSet = KindSet::of(&[ChildKind::WalSender, ChildKind::Archiver]);

const ALL_BUT_DEAD_END: KindSet = KindSet::ALL.without(ChildKind::DeadEnd);

/// What one step sees and says.
struct Step<'a> {
    now: MonoTime,
    census: &'a Census,
    outputs: Vec<Output>,
}

impl Step<'_> {
    fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    fn log(&mut self, message: &str) {
        self.push(Output::Log(message.to_owned()));
    }

    /// Signals the kinds, unless there is nobody to hear it.
    fn signal(&mut self, kinds: KindSet, signal: Signal) {
        if self.census.count_in(kinds) > 0 {
            self.push(Output::Signal(kinds, signal));
        }
    }
}
