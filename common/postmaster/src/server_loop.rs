//! The postmaster's shell: one wait event set, and the hands of the state machine.
//!
//! Life: started by the node's `run`, which has laid out shared memory and taken the data directory. Waits for listen
//! sockets, signals, child exits (pidfds), its latch (PMSignals) and the earliest of its deadlines. Ends normally when the
//! last child is gone after a shutdown request. After a crash of a child it ends all others, has shared memory made anew and
//! begins again with the startup process; its listen sockets, its wait event set and its locks stay what they are. When
//! it is killed, the death pipe takes all children along.
//!
//! Never to be added here: reading or writing a client's socket, taking a lock in shared memory, opening the tables,
//! anything that blocks. A postmaster that hangs is a node that can neither be stopped nor joined.
//!
//! Signals: SIGTERM smart, SIGINT fast, SIGQUIT immediate shutdown; SIGHUP reload; SIGUSR1: say in postmaster.pid who has
//! not absorbed it yet; SIGCHLD if it is process 1.
//!
//! Follows PostgreSQL 15 PostmasterMain(), ServerLoop() in src/backend/postmaster/postmaster.c.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use failpoint::Site;
use ipc::barrier::BarrierWait;
use ipc::pm_signal::PmSignal;
use ipc::postmaster_death::PostmasterDeath;
use ipc::proc::ProcArray;
use ipc::process::Postmaster;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, Occurred, Position, SocketEvents, WaitEventSet};
use sys::clock::{self, MonoTime};
use sys::signal::{Signal, SignalSet};
use tracing::{debug, error, info, warn};

use crate::child_kind::KindSet;
use crate::child_table::ChildTable;
use crate::listen::{ListenConfig, ListenError, Listeners};
use crate::pid_file::{LockFileError, PidFile};
use crate::roles::Roles;
use crate::state::{Archiving, Input, Output, ShutdownMode, StateMachine};

/// How often postmaster.pid is looked at.
const PID_FILE_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// How long no connection is accepted after one could not be (no descriptors left, as a rule): the listen socket stays
/// readable, and trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a postmaster is started with. All shared memory is laid out and nothing is forked yet.
#[derive(Debug)]
pub struct Config {
    /// The data directory, taken.
    pub pid_file: PidFile,
    /// Where to listen.
    pub listen: ListenConfig,
    /// Who we are, for the first line of the log: name and version.
    pub version: String,
    /// The slots: the fixed ones, and one for each connection that there may be at once (max_connections,
    /// max_wal_senders, and some for those still starting or only bringing a cancel request).
    pub procs: &'static ProcArray,
    /// The death pipe, made by this process.
    pub death: &'static PostmasterDeath,
    /// When an archiver is to run.
    pub archiving: Archiving,
}

/// How the postmaster is to exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(
    /// 0: shut down as asked; 1: could not start, or a child crashed.
    pub i32,
);

/// Why the postmaster itself can't go on.
#[derive(Debug)]
pub(crate) enum RunError {
    Listen(ListenError),
    LockFile(LockFileError),
    Io { operation: &'static str, source: io::Error },
}

impl RunError {
    /// Makes a closure for `map_err`.
    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> RunError {
        move |source| RunError::Io { operation, source }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RunError::LockFile(error) | RunError::Listen(ListenError::Lock(error)) => error.hint(),
            _ => None,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Listen(error) => error.fmt(f),
            RunError::LockFile(error) => error.fmt(f),
            RunError::Io { operation, source } => write!(f, "could not {operation}: {source}"),
        }
    }
}

/// Runs the node until its last child is gone. To be called once, by a process with one thread; blocks all signals.
///
/// Returns in the postmaster only: children end inside.
pub fn run(config: Config, roles: &Roles<'_>) -> ExitStatus {
    info!("starting {}", config.version);
    match Server::start(config, roles).and_then(Server::serve) {
        Ok(status) => ExitStatus(status),
        Err(error) => {
            match error.hint() {
                Some(hint) => error!(%hint, "{error}"),
                None => error!("{error}"),
            }
            ExitStatus(1)
        }
    }
}

/// The postmaster's own state; a child inherits a copy, and lets go of it.
pub(crate) struct Server<'a> {
    pub(crate) roles: &'a Roles<'a>,
    pub(crate) procs: &'static ProcArray,
    pub(crate) death: &'static PostmasterDeath,
    pub(crate) postmaster: Postmaster,
    pub(crate) machine: StateMachine,
    pub(crate) children: ChildTable,
    pub(crate) listeners: Listeners,
    /// `None` in a child only.
    pub(crate) wait_set: Option<WaitEventSet>,
    /// The listen sockets' places in the wait event set, in their order; empty once listening is over.
    listen_positions: Vec<Position>,
    pid_file: PidFile,
    next_pid_file_check: MonoTime,
    accept_again_at: Option<MonoTime>,
    /// Nobody is accepted until shared memory is made anew.
    accepting_paused: bool,
    /// While there is a child that has not absorbed the last configuration.
    pub(crate) reload_wait: Option<BarrierWait>,
    exit: Option<i32>,
}

impl<'a> Server<'a> {
    fn start(config: Config, roles: &'a Roles<'a>) -> Result<Server<'a>, RunError> {
        let Config { mut pid_file, listen, procs, death, archiving, .. } = config;
        let children = ChildTable::new(procs);
        let Waiting { postmaster, listeners, wait_set, listen_positions } =
            match Waiting::open(&listen, &mut pid_file, procs, children.children_max()) {
                Ok(waiting) => waiting,
                Err(error) => {
                    // Nothing was forked, so the file stands for nothing any more.
                    pid_file.remove().map_err(RunError::LockFile)?;
                    return Err(error);
                }
            };
        Ok(Server {
            roles,
            procs,
            death,
            postmaster,
            machine: StateMachine::new(archiving),
            children,
            listeners,
            wait_set: Some(wait_set),
            listen_positions,
            pid_file,
            next_pid_file_check: clock::now().saturating_add(PID_FILE_CHECK_INTERVAL),
            accept_again_at: None,
            accepting_paused: false,
            reload_wait: None,
            exit: None,
        })
    }

    /// The loop: reset the latch, look at everything that may have changed, wait.
    fn serve(mut self) -> Result<i32, RunError> {
        self.feed(Input::Start)?;
        let mut occurred = Vec::new();
        loop {
            self.postmaster.latch().reset();
            self.take_signals()?;
            self.take_pm_signals()?;
            self.check_deadlines()?;
            self.look_after_reload(clock::now())?;
            if self.exit.is_none() {
                self.wait(&mut occurred)?;
                for event in &occurred {
                    self.occurred(*event)?;
                }
            }
            // Before the latch is touched again: if shared memory could not be made anew, it is nobody's.
            if let Some(status) = self.exit {
                self.pid_file.remove().map_err(RunError::LockFile)?;
                return Ok(status);
            }
        }
    }

    fn wait(&mut self, occurred: &mut Vec<Occurred>) -> Result<(), RunError> {
        let deadlines = [self.machine.deadline(), Some(self.next_pid_file_check), self.accept_again_at];
        let next = deadlines.into_iter().flatten().min();
        let now = clock::now();
        let timeout = next.map(|deadline| deadline.saturating_since(now));
        let timeout = [timeout, self.reload_timeout(now)].into_iter().flatten().min();
        let wait_set = self.wait_set.as_mut().expect("the postmaster has its wait event set");
        wait_set.wait(timeout, WaitEvent::PostmasterMain, occurred).map_err(RunError::io("wait for events"))
    }

    fn occurred(&mut self, event: Occurred) -> Result<(), RunError> {
        if event.events.contains(Events::CHILD_EXIT) {
            if let Some(end) = self.reap(event.position)? {
                self.feed(Input::ChildExited(end))?;
            }
        } else if event.events.contains(Events::SOCKET_ACCEPT) {
            self.accept(event.position)?;
        }
        Ok(())
    }

    /// Of several shutdown requests the most severe counts.
    fn take_signals(&mut self) -> Result<(), RunError> {
        let signals = self.postmaster.take_signals();
        if let Some(mode) = shutdown_mode(signals) {
            self.feed(Input::Shutdown(mode))?;
        }
        if signals.contains(Signal::Chld) {
            self.reap_all()?;
        }
        if signals.contains(Signal::Hup) {
            self.feed(Input::Reload)?;
        }
        if signals.contains(Signal::Usr1) {
            self.feed(Input::LaggardsWanted)?;
        }
        if signals.contains(Signal::Usr2) {
            self.feed(Input::Promote)?;
        }
        Ok(())
    }

    fn take_pm_signals(&mut self) -> Result<(), RunError> {
        let mut signals = self.postmaster.take_pm_signals();
        if self.roles.walreceiver.is_none() {
            // What is not there can't be asked for; the word may have been scribbled over.
            signals = signals.without(PmSignal::START_WALRECEIVER);
        }
        if signals.is_empty() { Ok(()) } else { self.feed(Input::PmSignal(signals)) }
    }

    /// The deadlines, and (whatever woke us) a look at the flags in shared memory: a client backend may have become a
    /// walsender.
    fn check_deadlines(&mut self) -> Result<(), RunError> {
        let now = clock::now();
        if self.next_pid_file_check <= now {
            self.next_pid_file_check = now.saturating_add(PID_FILE_CHECK_INTERVAL);
            if !self.pid_file.is_ours() {
                self.pid_file.give_up();
                self.feed(Input::PidFileLost)?;
            }
        }
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.listen_for(SocketEvents::ACCEPT)?;
        }
        self.feed(Input::Tick)
    }

    /// Gives the state machine an input and carries out what it says; a launch that fails is the next input.
    pub(crate) fn feed(&mut self, input: Input) -> Result<(), RunError> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let before = self.machine.state();
            self.machine.set_restart_after_crash((self.roles.restart_after_crash)());
            let outputs = self.machine.step(clock::now(), input, &self.children.census());
            if self.machine.state() != before {
                debug!("postmaster state {before:?} -> {:?}", self.machine.state());
            }
            for output in outputs {
                inputs.extend(self.carry_out(output)?);
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output) -> Result<Option<Input>, RunError> {
        match output {
            Output::Launch(kind) => return self.launch(kind),
            Output::Signal(kinds, signal) => self.signal_children(kinds, signal),
            Output::Log(text) => info!("{text}"),
            Output::Status(status) => {
                if let Err(error) = self.pid_file.set_status(status) {
                    warn!("{error}");
                }
            }
            Output::Reinitialize => return Ok(Some(Input::Reinitialized(self.reinitialize()))),
            Output::PauseAccepting => self.pause_accepting(true)?,
            Output::ResumeAccepting => self.pause_accepting(false)?,
            Output::Reload => return Ok(Some(self.reload())),
            Output::NameLaggards => return Ok(Some(self.laggards())),
            Output::ReloadLine(line) => {
                if let Err(error) = self.pid_file.set_reload(line) {
                    warn!("{error}");
                }
            }
            Output::StopListening => self.stop_listening()?,
            Output::Exit(status) => {
                self.stop_listening()?;
                self.exit = Some(status);
            }
        }
        Ok(None)
    }

    /// Signals children. A command that one of them runs ends with it (`sys::command`), so nobody else has to be told.
    fn signal_children(&self, kinds: KindSet, signal: Signal) {
        if signal == Signal::Quit {
            self.postmaster.announce_quit(self.machine.quit_reason());
        }
        for (kind, child) in self.children.iter().filter(|(kind, _)| kinds.contains(*kind)) {
            if let Err(error) = child.pidfd.kill(signal) {
                debug!("could not send {signal:?} to {} (PID {}): {error}", kind.row().log_name, child.pid());
            }
        }
    }

    /// Makes shared memory anew, as it was before the first fork. No child is left that could see the old one. The
    /// postmaster's wait event set watches the same descriptor for its latch as before.
    fn reinitialize(&mut self) -> Result<(), String> {
        // Its words are zeroed, and nobody is left to wait for.
        self.reload_wait = None;
        failpoint::step(Site::Reinitialize, self.roles.reinitialize)?;
        self.postmaster
            .take_latch()
            .map_err(|error| format!("could not take the postmaster's latch: {error}"))?;
        self.children = ChildTable::new(self.procs);
        Ok(())
    }

    /// Accepts one connection; the event comes back if there are more, after the other events had their turn.
    fn accept(&mut self, position: Position) -> Result<(), RunError> {
        if self.accepting_paused {
            return Ok(());
        }
        let index = self.listen_positions.iter().position(|listening| *listening == position);
        let Some(listener) = index.and_then(|index| self.listeners.sockets().get(index)) else {
            return Ok(());
        };
        match listener.accept() {
            Ok((stream, peer)) => self.launch_for_client(stream, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => {
                warn!("could not accept new connection: {error}");
                self.accept_again_at = Some(clock::now().saturating_add(ACCEPT_PAUSE));
                self.listen_for(SocketEvents::NONE)
            }
        }
    }

    fn pause_accepting(&mut self, paused: bool) -> Result<(), RunError> {
        self.accepting_paused = paused;
        self.accept_again_at = None;
        self.listen_for(if paused { SocketEvents::NONE } else { SocketEvents::ACCEPT })
    }

    fn listen_for(&mut self, events: SocketEvents) -> Result<(), RunError> {
        let wait_set = self.wait_set.as_mut().expect("the postmaster has its wait event set");
        for position in &self.listen_positions {
            wait_set.modify(*position, events).map_err(RunError::io("wait for connections"))?;
        }
        Ok(())
    }

    fn stop_listening(&mut self) -> Result<(), RunError> {
        let wait_set = self.wait_set.as_mut().expect("the postmaster has its wait event set");
        for position in self.listen_positions.drain(..) {
            wait_set.remove(position).map_err(RunError::io("stop listening"))?;
        }
        self.accept_again_at = None;
        self.listeners.close();
        Ok(())
    }
}

fn shutdown_mode(signals: SignalSet) -> Option<ShutdownMode> {
    [
        (Signal::Quit, ShutdownMode::Immediate),
        (Signal::Int, ShutdownMode::Fast),
        (Signal::Term, ShutdownMode::Smart),
    ]
    .into_iter()
    .find_map(|(signal, mode)| signals.contains(signal).then_some(mode))
}

/// What the postmaster waits for.
struct Waiting {
    postmaster: Postmaster,
    listeners: Listeners,
    wait_set: WaitEventSet,
    listen_positions: Vec<Position>,
}

impl Waiting {
    fn open(
        listen: &ListenConfig,
        pid_file: &mut PidFile,
        procs: &'static ProcArray,
        children_max: usize,
    ) -> Result<Waiting, RunError> {
        // First of all: from here on no signal is lost, or kills us with the socket's file in place.
        let postmaster = Postmaster::start(procs).map_err(RunError::io("open signalfd"))?;
        let mut listeners = Listeners::open(listen, pid_file).map_err(RunError::Listen)?;
        let address = pid_file
            .set_address(listeners.port(), &listeners.socket_directory(), listeners.first_address())
            .map_err(RunError::LockFile);
        let wait_set = build_wait_set(&postmaster, &listeners, children_max)
            .map_err(RunError::io("set up wait event set"));
        match address.and(wait_set) {
            Ok((wait_set, listen_positions)) => {
                Ok(Waiting { postmaster, listeners, wait_set, listen_positions })
            }
            Err(error) => {
                listeners.close();
                Err(error)
            }
        }
    }
}

fn build_wait_set(
    postmaster: &Postmaster,
    listeners: &Listeners,
    children_max: usize,
) -> io::Result<(WaitEventSet, Vec<Position>)> {
    let latch = 1;
    let capacity = latch + listeners.sockets().len() + children_max;
    let mut set = WaitEventSet::for_postmaster(postmaster, capacity)?;
    set.add_latch()?;
    let positions = listeners
        .sockets()
        .iter()
        .map(|listener| set.add_socket(listener, SocketEvents::ACCEPT))
        .collect::<io::Result<_>>()?;
    Ok((set, positions))
}
