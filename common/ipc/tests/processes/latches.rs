//! Latches between processes.

use std::time::Duration;

use ipc::{latch::Latch, pm_signal::PmSignal, wait_event::WaitEvent, wait_event_set::WaitEventSet};
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

/// Each use of somebody else's latch that only its owner may make, and what comes of it.
pub(crate) fn latch_of_another_is_refused() {
    let node = Node::start();
    let postmaster = process::current_pid();
    let mut child = node.child(FIRST, |me| {
        let latch = node.postmaster.latch();
        latch.set();
        assert_eq!(latch.own().unwrap_err().to_string(), format!("latch already owned by PID {postmaster}"));
        assert_eq!(panic_of(|| latch.reset()), "cannot reset a latch owned by another process");
        assert_eq!(panic_of(|| latch.disown()), "cannot disown a latch owned by another process");
        assert!(latch.is_set() && latch.owner() == Some(postmaster));
        // A child of the child has its handle, but not its latch.
        let mut grandchild = Child::fork(|| {
            let mut set = WaitEventSet::new(&me, 1).unwrap();
            let panic = panic_of(|| drop(set.add_latch()));
            assert_eq!(panic, "cannot wait on a latch owned by another process");
            0
        });
        grandchild.join_well();
    });
    child.join_well();
}

fn panic_of(action: impl FnOnce()) -> String {
    std::panic::set_hook(Box::new(|_| {}));
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(action)).unwrap_err();
    let _own_hook = std::panic::take_hook();
    panic.downcast_ref::<&str>().map(ToString::to_string).unwrap()
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
    node.procs.assign(FIRST).unwrap();
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
