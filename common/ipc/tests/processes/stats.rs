//! What is counted of sets, wake-ups and waits.
//!
//! Method: a process that has begun its kernel wait (its count says so) has announced its sleep before, so the
//! next set must wake it. That makes every count exact.

use std::time::Duration;

use ipc::{
    latch_stats::LatchCounts,
    proc::ProcNumber,
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{SocketEvents, WaitEventSet},
};
use sys::{clock, net::Stream, signal::Signal};

use crate::harness::{FIRST, Node, SECOND, wait, wait_until};

fn counts(node: &Node, number: ProcNumber) -> LatchCounts {
    node.procs.slot(number).latch_stats().counts(clock::now())
}

fn own_counts(me: Me) -> LatchCounts {
    me.proc().latch_stats().counts(clock::now())
}

fn postmaster_counts(node: &Node) -> LatchCounts {
    let (pid, stats) = node.procs.postmaster_latch_stats().unwrap();
    assert_eq!(pid, sys::process::current_pid());
    stats.counts(clock::now())
}

pub(crate) fn latch_stats_tell_wakeups_from_sets() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut child = node.child(FIRST, |me| {
        wait_until(me, || board.get(0) == 1);
        me.latch().set();
        me.latch().set();
    });
    let asleep_for_the = |time| node.poll_for("its sleep", || counts(&node, FIRST).kernel_waits == time);
    asleep_for_the(1);
    // The one set is that of attach, before the first look.
    let at_first = LatchCounts { sets: 1, kernel_waits: 1, ..LatchCounts::default() };
    assert_eq!(LatchCounts { asleep: Duration::ZERO, ..counts(&node, FIRST) }, at_first);

    let before = postmaster_counts(&node);
    procs.set_latch(FIRST);
    asleep_for_the(2);
    let (after, child_counts) = (postmaster_counts(&node), counts(&node, FIRST));
    assert_eq!((after.sets - before.sets, after.wakeups_sent - before.wakeups_sent), (1, 1));
    assert_eq!((child_counts.wakeups_received, child_counts.spurious_wakeups), (1, 0));

    // A wake-up of nobody's latch.
    child.kill(Signal::Urg);
    asleep_for_the(3);
    let child_counts = counts(&node, FIRST);
    assert_eq!((child_counts.wakeups_received, child_counts.spurious_wakeups), (2, 1));

    board.put(0, 1);
    procs.set_latch(FIRST);
    child.join_well();
    let at_last = LatchCounts {
        sets: 3,
        wakeups_sent: 0,
        wakeups_received: 3,
        spurious_wakeups: 1,
        kernel_waits: 3,
        asleep: Duration::ZERO,
    };
    assert_eq!(LatchCounts { asleep: Duration::ZERO, ..counts(&node, FIRST) }, at_last);
}

pub(crate) fn latch_stats_begin_anew_with_each_owner() {
    let node = Node::start();
    for _life in 1..=2 {
        let mut child = node.child(FIRST, |me| {
            assert_eq!(own_counts(me), LatchCounts { sets: 1, ..LatchCounts::default() });
            me.latch().set();
            me.procs().set_latch(FIRST);
        });
        child.join_well();
        assert_eq!(counts(&node, FIRST).sets, 3);
        assert!(node.procs.release(FIRST));
    }
}

pub(crate) fn latch_stats_count_sleeps_and_no_looks() {
    const SLEEP: Duration = Duration::from_millis(20);
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        let (_here, there) = Stream::pair().unwrap();
        let mut set = WaitEventSet::new(&me, 2).unwrap();
        set.add_latch().unwrap();
        let socket = set.add_socket(&there, SocketEvents::READABLE).unwrap();
        // Looks: the latch is set; then there is no time.
        assert_eq!(wait(&mut set, SLEEP).len(), 1);
        me.latch().reset();
        assert!(wait(&mut set, Duration::ZERO).is_empty());
        assert_eq!((own_counts(me).kernel_waits, own_counts(me).asleep), (0, Duration::ZERO));

        assert!(wait(&mut set, SLEEP).is_empty());
        let first = own_counts(me);
        assert!(first.asleep >= SLEEP && first.asleep < SLEEP * 100, "{first:?}");
        set.modify(socket, SocketEvents::WRITEABLE).unwrap();
        // It would sleep, but needn't.
        assert_eq!(wait(&mut set, SLEEP).len(), 1);
        let second = own_counts(me);
        assert_eq!((first.kernel_waits, second.kernel_waits), (1, 2));
        assert_eq!((second.spurious_wakeups, second.wakeups_received), (0, 0));
    });
    child.join_well();
    // The present sleep counts before it is over.
    let mut sleeper = node.child(SECOND, |me| {
        me.latch().reset();
        ipc::wait_latch(&me, None, WaitEvent::PgSleep).unwrap();
    });
    node.poll_for("a long sleep", || counts(&node, SECOND).asleep >= SLEEP);
    node.procs.set_latch(SECOND);
    sleeper.join_well();
}
