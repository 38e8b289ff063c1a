//! Latches between processes.

use std::time::Duration;

use ipc::{latch::Latch, pm_signal::PmSignal, wait_event::WaitEvent};
use sys::{
    process::{self, ExitStatus},
    signal::Signal,
};

use crate::harness::{Child, FIRST, Node, wait_until};

const ROUNDS: u64 = 2_000;

/// Ball 0 is the postmaster's count, ball 1 the child's.
pub(crate) fn latches_wake_each_other_across_processes() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut child = node.child(FIRST, |me| {
        for round in 1..=ROUNDS {
            wait_until(me, || board.get(0) >= round);
            board.put(1, round);
            me.pm_signal(PmSignal::RECOVERY_STARTED);
        }
    });
    for round in 1..=ROUNDS {
        board.put(0, round);
        procs.set_latch(FIRST);
        node.wait_for("the child's answer", || board.get(1) >= round);
    }
    child.join_well();
}

pub(crate) fn latch_set_before_wait_ends_it_at_once() {
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        // Attach has set it.
        assert!(me.latch().is_set());
        assert!(ipc::wait_latch(&me, None, WaitEvent::PgSleep).unwrap());
        me.latch().reset();
        me.latch().set();
        me.latch().set();
        assert!(ipc::wait_latch(&me, None, WaitEvent::PgSleep).unwrap());
        assert!(me.latch().is_set(), "waiting doesn't reset");
        me.latch().reset();
        assert!(
            !ipc::wait_latch(&me, Some(Duration::ZERO), WaitEvent::PgSleep).unwrap(),
            "many sets, one wake-up"
        );
    });
    child.join_well();
}

pub(crate) fn latch_has_one_owner() {
    let latch = Latch::new();
    assert_eq!(latch.owner(), None);
    latch.own().unwrap();
    let me = process::current_pid();
    assert_eq!(latch.own().unwrap_err().to_string(), format!("latch already owned by PID {me}"));
    latch.disown();
    assert_eq!(latch.owner(), None);
    assert_eq!(Latch::local().owner(), Some(me));
}

pub(crate) fn latch_wait_of_a_stranger_aborts() {
    let node = Node::start();
    let latch = node.postmaster.latch();
    let mut child = node.child(FIRST, |_| {
        std::panic::set_hook(Box::new(|_| {}));
        latch.reset();
    });
    assert_eq!(child.join(), ExitStatus::Signaled(6));
    assert!(!node.procs.release(FIRST), "it didn't detach");
}

/// Killed between two steps of its attachment: before it says that it is attached.
pub(crate) fn latch_of_a_child_killed_while_it_attaches_is_free_again() {
    let node = Node::start();
    let latch = node.procs.slot(FIRST).latch();
    node.procs.assign(FIRST);
    let mut child = Child::fork(|| {
        latch.own().unwrap();
        process::kill(process::current_pid(), Signal::Kill).unwrap();
        0
    });
    assert_eq!(child.join(), ExitStatus::Signaled(9));
    assert!(node.procs.release(FIRST), "it had touched nothing yet");
    assert_eq!(latch.owner(), None);
    node.child(FIRST, |_| {}).join_well();
}
