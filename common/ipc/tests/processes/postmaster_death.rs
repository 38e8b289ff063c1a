//! The postmaster is killed with SIGKILL: every child is gone, or told if it asked for that.
//!
//! The postmaster of these tests is a child itself, its child a grandchild, whose pid comes over the board.

use ipc::{
    proc::BackendType,
    process::{Me, SignalTable},
    wait_event::WaitEvent,
    wait_event_set::{Events, OnPostmasterDeath, WaitEventSet},
};
use sys::{
    fork::fork_process,
    process::{self, ExitStatus, Pid, PidFd},
    signal::Signal,
};

use crate::harness::{Board, Child, DEADLINE, FIRST, Node, wait, wait_for_end};

const PID: usize = 0;
const FOUND: usize = 1;

/// Runs `body` in a child of a postmaster, kills the postmaster when `body` has said that it is ready by
/// putting its pid on the board, and waits for the child's end.
fn kill_postmaster_of(signals: &'static SignalTable, body: fn(Me, &'static Board)) -> &'static Board {
    let outer = Node::start();
    let board = outer.board;
    let pid = fork_process(|| {
        outer.postmaster.close_in_child();
        let node = Node::start();
        let _child = node.child_with(FIRST, signals, |me| body(me, board));
        node.wait_for("its own death", || false);
        1
    });
    let mut postmaster = Child::new(PidFd::open(pid.unwrap()).unwrap());
    outer.poll_for("the grandchild", || board.get(PID) != 0);
    let grandchild = PidFd::open(Pid(i32::try_from(board.get(PID)).unwrap())).unwrap();
    postmaster.kill(Signal::Kill);
    assert_eq!(postmaster.join(), ExitStatus::Signaled(9));
    assert!(wait_for_end(&grandchild), "the child outlives its postmaster");
    board
}

fn ready(board: &Board) {
    board.put(PID, u64::from(process::current_pid().0.unsigned_abs()));
}

pub(crate) fn waiting_child_exits_with_its_postmaster() {
    let board = kill_postmaster_of(&SignalTable::STANDARD, |me, board| {
        ready(board);
        me.latch().reset();
        let _ = ipc::wait_latch(&me, None, WaitEvent::PgSleep);
        board.put(FOUND, 1);
    });
    assert_eq!(board.get(FOUND), 0, "the wait returned");
}

pub(crate) fn death_is_reported_to_who_asks() {
    let board = kill_postmaster_of(&SignalTable::STANDARD, |me, board| {
        assert!(me.postmaster_is_alive());
        let mut set = WaitEventSet::new(&me, 1).unwrap();
        let position = set.add_postmaster_death(OnPostmasterDeath::Report).unwrap();
        assert!(wait(&mut set, std::time::Duration::ZERO).is_empty());
        ready(board);
        let occurred = wait(&mut set, DEADLINE);
        assert_eq!((occurred[0].position, occurred[0].events), (position, Events::POSTMASTER_DEATH));
        assert!(!me.postmaster_is_alive());
        board.put(FOUND, 1);
    });
    assert_eq!(board.get(FOUND), 1);
}

pub(crate) fn busy_child_dies_with_its_postmaster() {
    kill_postmaster_of(&SignalTable::INSIDE_SQLITE, |_, board| {
        ready(board);
        loop {
            std::hint::spin_loop();
        }
    });
}

pub(crate) fn grandchild_of_no_postmaster_is_not_attached() {
    let outer = Node::start();
    let board = outer.board;
    let mut postmaster = {
        let pid = fork_process(|| {
            outer.postmaster.close_in_child();
            let node = Node::start();
            node.procs.assign(FIRST).unwrap();
            let pid = fork_process(|| {
                node.postmaster.close_in_child();
                outer.poll_for("the postmaster's end", || board.get(FOUND) == 1);
                let table = &SignalTable::INSIDE_SQLITE;
                match Me::attach(node.procs, FIRST, BackendType::Startup, node.death, table) {
                    Err(error) if error.to_string() == "the postmaster is gone" => board.put(FOUND, 2),
                    _ => board.put(FOUND, 3),
                }
                0
            });
            board.put(PID, u64::from(pid.unwrap().0.unsigned_abs()));
            node.wait_for("its own death", || false);
            1
        });
        Child::new(PidFd::open(pid.unwrap()).unwrap())
    };
    outer.poll_for("the grandchild", || board.get(PID) != 0);
    let grandchild = PidFd::open(Pid(i32::try_from(board.get(PID)).unwrap())).unwrap();
    postmaster.kill(Signal::Kill);
    postmaster.join();
    board.put(FOUND, 1);
    assert!(wait_for_end(&grandchild));
    assert_eq!(board.get(FOUND), 2);
}
