//! The traps of latches, wait event sets and process slots: what a rewrite of these easily gets wrong, each held
//! by a test that has been seen to fail with the mistake made.
//!
//! | trap | test |
//! |---|---|
//! | 1 looking between the wait's return and the reset | `look_between_wait_and_reset_misses_a_set`; stress |
//! | 2 a full fence on both sides, four times | loom (latch); `set_that_meets_reset_and_sleep_is_not_lost` (stress) |
//! | 3 maybe_sleeping cleared however a wait ends | `setter_need_not_wake_whom_a_wait_has_let_go` |
//! | 4 a child changing the set it inherited | `set_of_another_process_can_only_be_dropped` |
//! | 5 write end of the death pipe kept by a child | `waiting_child_exits_with_its_postmaster` |
//! | 6 first look for the postmaster no real read | `grandchild_of_no_postmaster_is_not_attached` |
//! | 7 readiness of the death pipe believed | `ready_death_pipe_is_believed_only_after_a_read` |
//! | 8 a latch that is always set starving sockets | `set_latch_does_not_starve_sockets` |
//! | 9 time-outs after EINTR; a time-out of 0 | `repeated_kernel_waits_share_one_timeout` (wait.rs); `stray_signals_neither_end_nor_stretch_a_wait`, `timeout_is_kept_and_zero_looks_once` |
//! | 10 a latch taken, or changed for another, and not set | `newborn_waits_on_a_latch_of_its_own` |
//! | 11 a wake-up for a pid that is another's by now | `stray_wakeup_harms_nobody` |
//! | 12 generation of a barrier read after its types; left behind at exit | loom (barrier); `barrier_waits_for_nobody_who_detached_or_died` |
//! | 13 exit status 0 of a child that didn't detach | `slot_of_a_child_tells_whether_it_detached`; postmaster's `backend_that_ends_attached_stops_the_node` |

use std::{
    fs::{self, File},
    io::Write,
    os::fd::{AsRawFd, RawFd},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use ipc::{
    backend::{self, Backend},
    latch::Latch,
    postmaster_death::PostmasterDeath,
    proc::BackendType,
    process::{Me, SignalTable},
    wait_event::WaitEvent,
    wait_event_set::{OnPostmasterDeath, SocketEvents, WaitEventSet},
};
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::close,
};
use sys::{
    fork::fork_process,
    net::Stream,
    process::{self, ExitStatus, PidFd},
    signal::{self, Signal, SignalSet},
};

use crate::harness::{Child, DEADLINE, FIRST, Node, open_descriptors, wait, wait_until};

/// A round of the wait loop with a set at each of its points: one order of the three loses the set.
pub(crate) fn look_between_wait_and_reset_misses_a_set() {
    #[derive(Clone, Copy)]
    enum Step {
        Look,
        Reset,
        /// By somebody else: makes work and sets the latch.
        Set,
    }
    use Step::{Look, Reset, Set};
    let node = Node::start();
    let board = node.board;
    let mut child = node.child(FIRST, |me| {
        let sleeps = || !ipc::wait_latch(&me, Some(Duration::ZERO), WaitEvent::PgSleep).unwrap();
        let sleeps_over_work = |steps: [Step; 3]| {
            me.latch().set();
            assert!(!sleeps(), "woken");
            let mut seen = None;
            for step in steps {
                match step {
                    Look => seen = Some(board.get(0)),
                    Reset => me.latch().reset(),
                    Set => {
                        board.put(0, board.get(0) + 1);
                        me.latch().set();
                    }
                }
            }
            sleeps() && seen != Some(board.get(0))
        };
        assert!(sleeps_over_work([Look, Set, Reset]));
        assert!(!sleeps_over_work([Reset, Look, Set]));
        assert!(!sleeps_over_work([Reset, Set, Look]));
        assert!(!sleeps_over_work([Set, Reset, Look]));
    });
    child.join_well();
}

/// A flag left up costs a system call per set; worse, the wake-up ends some later wait in vain.
pub(crate) fn setter_need_not_wake_whom_a_wait_has_let_go() {
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        let awake = |after: &str| {
            me.latch().reset();
            assert_eq!(me.latch().set_and_find_sleeper(), None, "{after}");
            assert!(me.latch().is_set());
            me.latch().reset();
        };
        let (mut here, there) = Stream::pair().unwrap();
        let mut set = WaitEventSet::new(&me, 2).unwrap();
        set.add_latch().unwrap();
        awake("attach");
        assert!(wait(&mut set, Duration::ZERO).is_empty());
        awake("a look");
        assert!(wait(&mut set, Duration::from_millis(1)).is_empty());
        awake("the end of the time");
        me.latch().set();
        assert_eq!(wait(&mut set, DEADLINE).len(), 1);
        awake("a latch that was set");
        let socket = set.add_socket(&there, SocketEvents::READABLE).unwrap();
        here.write_all(b"x").unwrap();
        assert_eq!(wait(&mut set, DEADLINE).len(), 1);
        awake("a socket");
        set.remove(socket).unwrap();
        process::kill(process::current_pid(), Signal::Int).unwrap();
        assert_eq!(wait(&mut set, DEADLINE).len(), 1);
        awake("a signal");
        break_kernel_waits();
        set.wait(Some(DEADLINE), WaitEvent::PgSleep, &mut Vec::new()).unwrap_err();
        awake("an error");
        // Its descriptor is closed already.
        std::mem::forget(set);
    });
    child.join_well();
}

/// From now on each kernel wait of this process fails.
fn break_kernel_waits() {
    match backend::chosen() {
        Backend::Epoll | Backend::Eventfd => {
            let is_epoll = |number: &RawFd| {
                let target = fs::read_link(format!("/proc/self/fd/{number}"));
                target.is_ok_and(|target| target.to_string_lossy().contains("eventpoll"))
            };
            let epolls: Vec<RawFd> = open_descriptors().into_iter().filter(is_epoll).collect();
            assert!(!epolls.is_empty());
            epolls.into_iter().for_each(|number| close(number).unwrap());
        }
        // More descriptors in the array than there may be.
        Backend::Poll => setrlimit(Resource::RLIMIT_NOFILE, 0, 0).unwrap(),
    }
}

/// The set of epoll knows the open pipe, the read is by number: so another pipe under that number plays the
/// one that is not at its end although it was ready.
pub(crate) fn ready_death_pipe_is_believed_only_after_a_read() {
    let node = Node::start();
    let before = open_descriptors();
    let death: &PostmasterDeath = Box::leak(Box::new(PostmasterDeath::create().unwrap()));
    let pipe: Vec<RawFd> = open_descriptors().difference(&before).copied().collect();
    let [read_end, write_end] = pipe[..] else { panic!("{pipe:?}") };
    node.procs.assign(FIRST).unwrap();
    let pid = fork_process(|| {
        node.postmaster.close_in_child();
        let kind = BackendType::ClientBackend;
        let me = Me::attach(node.procs, FIRST, kind, death, &SignalTable::STANDARD).unwrap();
        let mut set = WaitEventSet::new(&me, 2).unwrap();
        set.add_postmaster_death(OnPostmasterDeath::Exit).unwrap();
        // The postmaster holds both ends: its pipe is ready from now on.
        let mut inherited = File::options()
            .write(true)
            .open(format!("/proc/{}/fd/{write_end}", process::parent_pid()))
            .unwrap();
        inherited.write_all(b"x").unwrap();
        close(read_end).unwrap();
        let (other, _other_write_end) = sys::pipe::pipe().unwrap();
        assert_eq!(other.as_raw_fd(), read_end, "the lowest number that is free");
        assert!(wait(&mut set, Duration::from_millis(20)).is_empty(), "the postmaster lives");
        me.detach();
        0
    });
    Child::new(PidFd::open(pid.unwrap()).unwrap()).join_well();
}

/// A dead owner's pid, and SIGURG to a program that has never heard of it.
pub(crate) fn stray_wakeup_harms_nobody() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut child = node.child(FIRST, |me| {
        board.put(0, 1);
        wait_until(me, || false);
    });
    node.poll_for("its sleep", || {
        board.get(0) == 1 && procs.slot(FIRST).wait_event() == Some(WaitEvent::PgSleep)
    });
    child.kill(Signal::Kill);
    assert_eq!(child.join(), ExitStatus::Signaled(9));
    assert_eq!(procs.slot(FIRST).latch().owner(), Some(child.pidfd.pid()), "not released yet");
    procs.set_latch(FIRST);
    procs.release(FIRST);

    // The owner turns into another program while it sleeps, by its latches.
    let latches: &'static [Latch] = node.shmem.alloc_array(2);
    let (read_end, write_end) = std::io::pipe().unwrap();
    let mut stranger = Child::fork(|| {
        latches.iter().for_each(|latch| latch.own().unwrap());
        // Whatever the wake-up is, the program takes it as any program does.
        signal::unblock(SignalSet::of(&[Signal::Urg, Signal::Usr1, Signal::Usr2]));
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::from(read_end));
        let error = latches[0].around_sleep(|_| latches[1].around_sleep(|_| cat.exec()));
        panic!("cat: {error}");
    });
    let pid = stranger.pidfd.pid();
    node.poll_for("the program", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "cat\n")
    });
    assert_eq!(latches[0].set_and_find_sleeper(), Some(pid));
    latches[1].set();
    drop(write_end);
    assert_eq!(stranger.join(), ExitStatus::Exited(0), "it reads to the end");
}
