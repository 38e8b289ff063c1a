//! Commands: how they end and start, that their owner is served meanwhile, and that nothing of them outlives it.
//!
//! A command tells the pids of its processes by a file; that they are gone is seen through pidfds, as nobody here is
//! their parent.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use ipc::{
    interrupt::Interrupts,
    process::{Me, SignalTable},
    subprocess::{self, Outcome},
    wait_event::WaitEvent,
};
use sys::{
    clock,
    fork::fork_process,
    process::{self, ExitStatus, Pid, PidFd},
    signal::Signal,
};

use crate::harness::{Board, Child, FIRST, Node, wait_for_end};

const SERVED: usize = 0;

/// A directory of the running test; removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let path = std::env::temp_dir().join(format!("subprocess-{}", process::current_pid()));
        fs::create_dir(&path).unwrap();
        Dir(path)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }

    /// The processes that a command has named in a file, once it has.
    fn pids(&self, node: &Node, name: &str) -> Vec<PidFd> {
        node.poll_for("the command's pids", || self.read(name).is_some());
        let text = self.read(name).unwrap();
        text.split_whitespace().map(|pid| PidFd::open(Pid(pid.parse().unwrap())).unwrap()).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// A shell with a process of its own in the background; both, and the keeper, are named in the file `pids`.
const FAMILY: &str = "sleep 1000 & echo $$ $! $PPID > new; mv new pids; wait";

fn forever(me: Me, text: &str, directory: &Path) -> Outcome {
    subprocess::run(&me, text, directory, WaitEvent::ArchiveCommand, || None).unwrap()
}

fn all_end(pids: &[PidFd]) {
    for pid in pids {
        assert!(wait_for_end(pid), "process {} of the command goes on", pid.pid());
    }
}

pub(crate) fn command_ends_with_its_status() {
    let node = Node::start();
    let dir = Dir::new();
    fs::write(dir.0.join("no-program"), "").unwrap();
    let mut child = node.child(FIRST, |me| {
        let table = [
            ("true", ExitStatus::Exited(0)),
            ("exit 3", ExitStatus::Exited(3)),
            ("kill -TERM $$; sleep 1000", ExitStatus::Signaled(15)),
            ("no-such-program-anywhere", ExitStatus::Exited(127)),
            ("./no-program", ExitStatus::Exited(126)),
            ("true; (exit 255)", ExitStatus::Exited(255)),
        ];
        for (text, status) in table {
            me.latch().reset();
            assert_eq!(forever(me, text, &dir.0), Outcome::Ended(status), "{text}");
            assert!(!me.latch().is_set(), "a set that nobody made");
            me.latch().set();
            assert_eq!(forever(me, text, &dir.0), Outcome::Ended(status), "{text}");
            assert!(me.latch().is_set(), "a set that was meant for the caller is lost");
        }
        let missing = dir.0.join("missing");
        assert_eq!(forever(me, "true", &missing), Outcome::Ended(ExitStatus::Exited(126)));
        assert!(subprocess::run(&me, "a\0b", &dir.0, WaitEvent::ArchiveCommand, || None).is_err());
    });
    child.join_well();
}

pub(crate) fn command_starts_clean_and_speaks_into_the_log() {
    let node = Node::start();
    let dir = Dir::new();
    let log = fs::File::create(dir.0.join("log")).unwrap();
    let mut child = node.child(FIRST, |me| {
        // A descriptor that is not close-on-exec, as a library might leave one.
        let _inheritable = nix::unistd::dup(log.as_fd()).unwrap();
        nix::unistd::dup2_stderr(&log).unwrap();
        let text = "pwd; cat; echo error >&2; ls /proc/self/fd; cat /proc/self/status";
        assert_eq!(forever(me, text, &dir.0), Outcome::Ended(ExitStatus::Exited(0)));
    });
    child.join_well();
    let said = dir.read("log").unwrap();
    // 3 is the directory that ls reads.
    let expected = format!("{}\nerror\n0\n1\n2\n3\n", dir.0.display());
    assert!(said.starts_with(&expected), "{said}");
    for field in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let line = said.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        // The C library keeps two signals for its threads and lets nobody change them.
        let threads = 1 << (32 - 1) | 1 << (33 - 1);
        assert_eq!(u64::from_str_radix(line.trim(), 16).unwrap() & !threads, 0, "{field} {line}");
    }
}

pub(crate) fn owner_is_served_while_its_command_runs() {
    let node = Node::start();
    let dir = Dir::new();
    let mut child = node.child(FIRST, |me| {
        let text = "mkfifo go; touch up; cat go > read";
        let outcome = subprocess::run(&me, text, &dir.0, WaitEvent::ArchiveCommand, || {
            if !me.take(Interrupts::BARRIER | Interrupts::CONFIG_RELOAD).is_empty() {
                node.board.put(SERVED, node.board.get(SERVED) + 1);
                me.pm_signal(ipc::pm_signal::PmSignal::NONE);
            }
            None
        });
        assert_eq!(outcome.unwrap(), Outcome::Ended(ExitStatus::Exited(0)));
    });
    node.poll_for("the command", || dir.0.join("up").exists());
    for round in 1..=20 {
        let address = node.procs.address(FIRST).unwrap();
        if round % 2 == 0 {
            child.kill(Signal::Hup);
        } else {
            assert!(node.procs.send_interrupt(address, Interrupts::BARRIER));
        }
        node.wait_for("the owner to serve", || node.board.get(SERVED) == round);
    }
    node.poll_for("the wait to be published", || {
        node.procs.slot(FIRST).wait_event() == Some(WaitEvent::ArchiveCommand)
    });
    fs::write(dir.0.join("go"), "now").unwrap();
    child.join_well();
}

pub(crate) fn command_past_its_time_is_ended_with_all_it_started() {
    let node = Node::start();
    let dir = Dir::new();
    let mut child = node.child(FIRST, |me| {
        let mut until = None;
        let outcome = subprocess::run(&me, FAMILY, &dir.0, WaitEvent::ArchiveCommand, || {
            let in_ms = |ms| clock::now().saturating_add(Duration::from_millis(ms));
            if until.is_none() && dir.0.join("pids").exists() {
                until = Some(in_ms(50));
            }
            // Nobody sets a latch when a file appears.
            until.or_else(|| Some(in_ms(1)))
        });
        assert_eq!(outcome.unwrap(), Outcome::Stopped(ExitStatus::Signaled(15)));
        assert!(clock::now() >= until.unwrap());
    });
    let pids = dir.pids(&node, "pids");
    all_end(&pids);
    child.join_well();
}

pub(crate) fn command_that_ignores_sigterm_is_killed() {
    let node = Node::start();
    let dir = Dir::new();
    let mut child = node.child(FIRST, |me| {
        let text = format!("trap '' TERM; {FAMILY}");
        let outcome = subprocess::run(&me, &text, &dir.0, WaitEvent::ArchiveCommand, || {
            dir.0.join("pids").exists().then(clock::now).or(Some(
                // Nobody sets a latch when a file appears.
                clock::now().saturating_add(Duration::from_millis(1)),
            ))
        });
        assert_eq!(outcome.unwrap(), Outcome::Stopped(ExitStatus::Signaled(9)));
    });
    let pids = dir.pids(&node, "pids");
    all_end(&pids);
    child.join_well();
}

pub(crate) fn what_a_command_leaves_behind_ends_with_it() {
    let node = Node::start();
    let dir = Dir::new();
    let mut child = node.child(FIRST, |me| {
        let text = "sleep 1000 & echo $! > new; mv new pids";
        assert_eq!(forever(me, text, &dir.0), Outcome::Ended(ExitStatus::Exited(0)));
    });
    child.join_well();
    // It may be gone altogether.
    let left = dir.read("pids").unwrap();
    if let Ok(left) = PidFd::open(Pid(left.trim().parse().unwrap())) {
        all_end(&[left]);
    }
}

/// Starts a command in a child, ends the child by `signal`, and sees every process of the command end.
fn owner_ended_by(signal: Signal) {
    let node = Node::start();
    let dir = Dir::new();
    let mut child = node.child(FIRST, |me| {
        forever(me, FAMILY, &dir.0);
    });
    let pids = dir.pids(&node, "pids");
    assert_eq!(pids.len(), 3);
    child.kill(signal);
    assert_ne!(child.join(), ExitStatus::Exited(0));
    all_end(&pids);
}

pub(crate) fn killed_owner_leaves_no_command_behind() {
    owner_ended_by(Signal::Kill);
}

pub(crate) fn owner_that_quits_leaves_no_command_behind() {
    owner_ended_by(Signal::Quit);
}

pub(crate) fn killed_keeper_takes_the_command_along() {
    let node = Node::start();
    let dir = Dir::new();
    let mut child = node.child(FIRST, |me| {
        assert_eq!(forever(me, FAMILY, &dir.0), Outcome::Ended(ExitStatus::Signaled(9)));
    });
    let pids = dir.pids(&node, "pids");
    pids[2].kill(Signal::Kill).unwrap();
    all_end(&pids);
    child.join_well();
}

/// The owner is a grandchild: its postmaster, a child of the test, is killed.
fn postmaster_killed(signals: &'static SignalTable) {
    let outer = Node::start();
    let dir = Dir::new();
    let board: &'static Board = outer.board;
    let pid = fork_process(|| {
        outer.postmaster.close_in_child();
        let node = Node::start();
        let _child = node.child_with(FIRST, signals, |me| {
            board.put(SERVED, u64::from(process::current_pid().0.unsigned_abs()));
            forever(me, FAMILY, &dir.0);
        });
        node.wait_for("its own death", || false);
        1
    });
    let mut postmaster = Child::new(PidFd::open(pid.unwrap()).unwrap());
    let mut pids = dir.pids(&outer, "pids");
    pids.push(PidFd::open(Pid(i32::try_from(board.get(SERVED)).unwrap())).unwrap());
    postmaster.kill(Signal::Kill);
    assert_eq!(postmaster.join(), ExitStatus::Signaled(9));
    all_end(&pids);
}

pub(crate) fn killed_postmaster_takes_owner_and_command_along() {
    postmaster_killed(&SignalTable::STANDARD);
}

pub(crate) fn killed_postmaster_takes_command_of_a_busy_owner_along() {
    postmaster_killed(&SignalTable::INSIDE_SQLITE);
}
