//! A real node with tiny mains, seen through one pipe.
//!
//! Every process of the node writes lines into a pipe: the postmaster's log, and what the children have to say. The test
//! reads the other end, so it waits for a line instead of sleeping; and the end of the pipe says that *all* processes of
//! the node are gone, which nobody else could know after the postmaster is killed.

use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipc::barrier::Absorption;
use ipc::interrupt::Interrupts;
use ipc::pm_signal::PmSignal;
use ipc::postmaster_death::PostmasterDeath;
use ipc::proc::{ProcArray, ProcNumber, SlotState};
use ipc::process::Me;
use ipc::shmem::Shmem;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, SocketEvents, WaitEventSet};
use ipc::{wait_latch, wait_latch_or_socket};
use postmaster::listen::ListenConfig;
use postmaster::pid_file::{FILE_NAME, Inspection, PidFile, PidFileLines, inspect};
use postmaster::refusal::Refusal;
use postmaster::roles::Roles;
use postmaster::server_loop::{Config, run};
use postmaster::state::Archiving;
use sys::clock;
use sys::fork::fork_process;
use sys::inotify::Inotify;
use sys::net::{PeerAddr, Stream};
use sys::process::{ExitStatus, Pid, PidFd, current_pid, kill};
use sys::signal::Signal;

/// Longer than anything here takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What kind of node a test wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Recovery is over at once.
    Primary,
    /// Consistent at once; asks for a walreceiver, and again when one has gone.
    Standby,
    /// Recovery never ends.
    Recovering,
    /// The startup process fails.
    Broken,
}

/// A running node, killed when the test drops it.
pub(crate) struct Node {
    pub(crate) data_dir: PathBuf,
    pub(crate) pid: Pid,
    pidfd: PidFd,
    journal: File,
    text: String,
    ended: bool,
}

impl Node {
    /// Starts a node in a data directory; `backends` is its number of slots for connections.
    pub(crate) fn start(kind: Kind, data_dir: &Path, port: u16, backends: u32) -> Node {
        let (read_end, write_end) = sys::pipe::pipe().expect("a pipe");
        let write_end = Arc::new(File::from(write_end));
        let pid =
            fork_process(|| postmaster_main(kind, data_dir, port, backends, &write_end)).expect("a process");
        Node {
            data_dir: data_dir.to_owned(),
            pid,
            pidfd: PidFd::open(pid).expect("just forked"),
            journal: File::from(read_end),
            text: String::new(),
            ended: false,
        }
    }

    pub(crate) fn primary(data_dir: &Path) -> Node {
        let mut node = Node::start(Kind::Primary, data_dir, 0, 8);
        node.wait_for("walwriter up");
        node
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.pidfd.kill(signal).expect("it lives");
    }

    /// Waits for a line that contains the words, and returns that line.
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        loop {
            if let Some(line) = self.text.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(self.read(DEADLINE), "the node ended without {words:?}:\n{}", self.text);
        }
    }

    /// The pid at the end of the line that a child writes first.
    pub(crate) fn pid_of(&mut self, name: &str) -> Pid {
        let line = self.wait_for(&format!("{name} up"));
        let word = line.rsplit(' ').next().expect("a word");
        Pid(word.parse().expect("a pid"))
    }

    /// Waits until every process of the node is gone.
    pub(crate) fn wait_all_gone(&mut self, within: Duration) {
        let deadline = clock::now().saturating_add(within);
        while self.read(deadline.saturating_since(clock::now())) {}
    }

    /// Waits for the end of the node and returns the postmaster's exit status.
    pub(crate) fn join(&mut self) -> ExitStatus {
        self.wait_all_gone(DEADLINE);
        self.reap()
    }

    /// Waits for the end of the postmaster alone and returns its exit status.
    pub(crate) fn reap(&mut self) -> ExitStatus {
        let mut set = WaitEventSet::without_process(1).expect("a set");
        set.add_child_exit(&self.pidfd).expect("added");
        let mut occurred = Vec::new();
        set.wait(Some(DEADLINE), WaitEvent::PgSleep, &mut occurred).expect("waited");
        let status = self.pidfd.wait().expect("a child").expect("it has ended");
        self.ended = true;
        status
    }

    /// Everything said so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Asserts that lines with these words came, in this order.
    pub(crate) fn assert_order(&self, words: &[&str]) {
        let mut rest = self.text.as_str();
        for word in words {
            let at = rest.find(word);
            let at = at.unwrap_or_else(|| panic!("{word:?} is missing, or too early, in:\n{}", self.text));
            rest = &rest[at + word.len()..];
        }
    }

    pub(crate) fn lines(&self) -> PidFileLines {
        match inspect(&self.data_dir).expect("readable") {
            Inspection::Running(lines) => lines,
            other => panic!("the node does not run: {other:?}"),
        }
    }

    /// Waits until line 9 of postmaster.pid says so.
    pub(crate) fn wait_for_reload(&self, line: &str) {
        let path = self.data_dir.join(FILE_NAME);
        let mut changes = Inotify::on_changes(&path).expect("a watch");
        let mut set = WaitEventSet::without_process(1).expect("a set");
        set.add_socket(&changes, SocketEvents::READABLE).expect("added");
        let mut occurred = Vec::new();
        loop {
            let text = std::fs::read_to_string(&path).expect("readable");
            if text.lines().nth(8) == Some(line) {
                return;
            }
            set.wait(Some(DEADLINE), WaitEvent::PgSleep, &mut occurred).expect("waited");
            assert!(!occurred.is_empty(), "waited too long for {line:?}; the file says:\n{text}");
            changes.take().expect("readable");
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.lines().port)).expect("the node listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream
    }

    /// Connects, says which kind of backend it wants (see `backend_main`), and waits until it is there.
    pub(crate) fn client(&mut self, wish: char) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(&[wish as u8]).expect("written");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("the backend answers");
        assert_eq!(answer, *b".");
        stream
    }

    /// Reads what is there, waiting for it; false at the end of the pipe.
    fn read(&mut self, timeout: Duration) -> bool {
        let mut set = WaitEventSet::without_process(1).expect("a set");
        set.add_socket(&self.journal, SocketEvents::READABLE).expect("added");
        let mut occurred = Vec::new();
        set.wait(Some(timeout), WaitEvent::PgSleep, &mut occurred).expect("waited");
        assert!(!occurred.is_empty(), "waited too long; so far:\n{}", self.text);
        let mut buffer = [0; 4096];
        match self.journal.read(&mut buffer) {
            Ok(count) => {
                self.text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                count > 0
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                true
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.ended {
            let _gone = self.pidfd.kill(Signal::Kill);
        }
    }
}

/// Everything that a stream has to say until its end.
pub(crate) fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("readable");
    text
}

/// The node's postmaster, in a process of its own.
fn postmaster_main(kind: Kind, data_dir: &Path, port: u16, backends: u32, journal: &Arc<File>) -> i32 {
    tracing_subscriber::fmt()
        .with_writer(Arc::clone(journal))
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
    let say = |text: &str| {
        let line = format!("{text}\n");
        (&**journal).write_all(line.as_bytes()).expect("the pipe has room");
    };
    let pid_file = match PidFile::create(data_dir) {
        Ok(pid_file) => pid_file,
        Err(error) => {
            say(&error.to_string());
            return 1;
        }
    };
    let shmem = Shmem::create(1 << 20).expect("memory");
    let procs = ProcArray::create(&shmem, ProcNumber::FIRST_BACKEND.0 + backends);
    let config = Config {
        pid_file,
        listen: ListenConfig {
            addresses: vec!["127.0.0.1".to_owned()],
            port,
            unix_socket_directory: Some(data_dir.to_owned()),
            unix_socket_permissions: 0o600,
        },
        version: "Testship 1".to_owned(),
        procs,
        death: Box::leak(Box::new(PostmasterDeath::create().expect("a pipe"))),
        archiving: Archiving::Primary,
    };
    let walreceiver = |me| until(me, "walreceiver", Interrupts::TERMINATE, &say);
    let roles = Roles {
        startup: &|me| startup_main(me, kind, &say),
        walwriter: &|me| until(me, "walwriter", Interrupts::TERMINATE, &say),
        checkpointer: &|me| checkpointer_main(me, &say),
        walreceiver: (kind == Kind::Standby).then_some(&walreceiver),
        archiver: &|me| until(me, "archiver", Interrupts::STOP, &say),
        backend: &|me, stream, peer| backend_main(me, stream, peer, &say),
        dead_end: &dead_end_main,
        reinitialize: &|| {
            shmem.renew().map_err(|error| error.to_string())?;
            procs.initialise();
            Ok(())
        },
        activity: &|_| Some("a statement".to_owned()),
        restart_after_crash: &|| !data_dir.join("no-restart").exists(),
        enter: &|_| {},
        reload: &|| {
            say("postmaster reloads");
            match data_dir.join("bad").exists() {
                true => Err("the file is bad".to_owned()),
                false => Ok(String::new()),
            }
        },
    };
    run(config, &roles).0
}

/// Lives until one of the interrupts comes; says what becomes of it.
fn until(me: Me, name: &str, end: Interrupts, say: &dyn Fn(&str)) -> i32 {
    say(&format!("{name} up {}", current_pid()));
    loop {
        me.latch().reset();
        absorb(me, name, say);
        if me.pending().intersects(end) {
            say(&format!("{name} ends"));
            return 0;
        }
        wait_latch(&me, None, WaitEvent::PgSleep).expect("waited");
    }
}

fn absorb(me: Me, name: &str, say: &dyn Fn(&str)) {
    let handler = |_| {
        say(&format!("{name} reloads"));
        Ok::<_, Infallible>(Absorption::Done)
    };
    me.absorb_barriers(handler).expect("it doesn't fail");
}

fn startup_main(me: Me, kind: Kind, say: &dyn Fn(&str)) -> i32 {
    match kind {
        Kind::Primary => me.pm_signal(PmSignal::RECOVERY_DONE),
        Kind::Standby => {
            me.pm_signal(
                PmSignal::RECOVERY_STARTED | PmSignal::BEGIN_HOT_STANDBY | PmSignal::START_WALRECEIVER,
            );
        }
        Kind::Recovering => {}
        Kind::Broken => return 1,
    }
    until(me, "startup", Interrupts::TERMINATE, say)
}

/// Ends like PostgreSQL's: tells the walsenders that they are about to stop.
fn checkpointer_main(me: Me, say: &dyn Fn(&str)) -> i32 {
    let status = until(me, "checkpointer", Interrupts::STOP, say);
    for (address, proc) in me.procs().active() {
        if proc.state() == SlotState::WalSender {
            me.procs().send_interrupt(address, Interrupts::WALSND_INIT_STOPPING);
        }
    }
    say("shutdown checkpoint");
    status
}

/// Does what the client's first byte says: `b` an ordinary backend, `w` a walsender, `f` the descriptors that it has, `1`
/// and `2` exit with that status, `a` an orderly exit that forgets to detach.
fn backend_main(me: Me, mut stream: Stream, peer: PeerAddr, say: &dyn Fn(&str)) -> i32 {
    say("connection accepted");
    let mut wish = [0];
    while stream.read(&mut wish).is_err() {
        let timeout = Some(DEADLINE);
        let events =
            wait_latch_or_socket(&me, &stream, SocketEvents::READABLE, timeout, WaitEvent::ClientRead);
        if !events.expect("waited").intersects(Events::SOCKET_READABLE)
            && me.pending().contains(Interrupts::TERMINATE)
        {
            return 1;
        }
        me.latch().reset();
    }
    let name = match wish[0] {
        b'w' => "walsender",
        _ => "backend",
    };
    if wish == *b"w" {
        me.become_walsender();
    }
    say(&format!("{name} up {}", current_pid()));
    stream.write_all(b".").expect("a new stream has room");
    match wish[0] {
        b'b' => serve_until_close(me, stream, say),
        b'w' => until(me, name, Interrupts::STOP, say),
        b'f' => {
            say(&format!("{peer} descriptors: {}.", descriptors().join(" ")));
            0
        }
        b'a' => {
            // As a process that ends behind the epilogue's back.
            sys::process::exit_immediately(0)
        }
        digit => i32::from(digit - b'0'),
    }
}

/// A backend whose client may leave.
fn serve_until_close(me: Me, mut stream: Stream, say: &dyn Fn(&str)) -> i32 {
    loop {
        me.latch().reset();
        absorb(me, "backend", say);
        if me.pending().contains(Interrupts::TERMINATE) {
            say("backend ends");
            return 1;
        }
        if matches!(stream.read(&mut [0]), Ok(0)) {
            say("backend's client left");
            return 0;
        }
        wait_latch_or_socket(&me, &stream, SocketEvents::READABLE, None, WaitEvent::ClientRead)
            .expect("waited");
    }
}

fn dead_end_main(mut stream: Stream, _peer: PeerAddr, refusal: Refusal) -> i32 {
    let text = format!("{} {}", refusal.sqlstate(), refusal.message());
    stream.write_all(text.as_bytes()).expect("a new stream has room");
    0
}

/// What this process's descriptors are.
fn descriptors() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("proc");
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

/// Stops a process where it is, and goes on once it stands still.
pub(crate) fn freeze(pid: Pid) {
    kill(pid, Signal::Stop).expect("it lives");
    let stat = format!("/proc/{pid}/stat");
    let mut set = WaitEventSet::without_process(1).expect("a set");
    let deadline = clock::now().saturating_add(DEADLINE);
    while !std::fs::read_to_string(&stat).expect("it lives").contains(") T ") {
        assert!(clock::now() < deadline, "it does not stop");
        set.wait(Some(Duration::from_millis(1)), WaitEvent::PgSleep, &mut Vec::new()).expect("waited");
    }
}
