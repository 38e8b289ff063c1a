//! Interrupts, signals and the slots' states.

use std::time::Duration;

use ipc::{
    interrupt::Interrupts,
    pm_signal::PmSignal,
    proc::{BackendType, SlotState},
    wait_event::WaitEvent,
};
use sys::{
    process::{self, ExitStatus},
    signal::{Signal, SignalSet},
};

use crate::harness::{FIRST, Node, SECOND, wait_until};

pub(crate) fn signals_become_interrupts_inside_the_wait() {
    let node = Node::start();
    let board = node.board;
    let mut child = node.child(FIRST, |me| {
        for (stage, interrupt) in [
            (1, Interrupts::TERMINATE),
            (2, Interrupts::QUERY_CANCEL),
            (3, Interrupts::CONFIG_RELOAD),
            (4, Interrupts::STOP),
        ] {
            board.put(0, stage);
            me.pm_signal(PmSignal::RECOVERY_STARTED);
            wait_until(me, || !me.pending().is_empty());
            assert_eq!(me.pending(), interrupt);
            assert_eq!(me.take(Interrupts::ALL), interrupt);
            assert_eq!(me.take(Interrupts::ALL), Interrupts::NONE);
        }
    });
    for (stage, signal) in [(1, Signal::Term), (2, Signal::Int), (3, Signal::Hup), (4, Signal::Usr2)] {
        node.wait_for("the child's stage", || board.get(0) == stage);
        child.kill(signal);
    }
    child.join_well();
}

pub(crate) fn signals_are_polled_in_a_long_computation() {
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        process::kill(process::current_pid(), Signal::Int).unwrap();
        assert_eq!(me.pending(), Interrupts::NONE, "blocked until read");
        me.latch().reset();
        me.poll_signals().unwrap();
        assert_eq!(me.pending(), Interrupts::QUERY_CANCEL);
        assert!(me.latch().is_set());
    });
    child.join_well();
}

pub(crate) fn sigquit_ends_a_busy_child_with_status_2() {
    let node = Node::start();
    let board = node.board;
    let mut child = node.child(FIRST, |_| {
        board.put(0, 1);
        loop {
            std::hint::spin_loop();
        }
    });
    node.poll_for("the child", || board.get(0) == 1);
    child.kill(Signal::Quit);
    assert_eq!(child.join(), ExitStatus::Exited(2));
}

pub(crate) fn interrupt_never_reaches_a_successor_of_the_slot() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let body = |me: ipc::process::Me| {
        board.put(0, u64::from(me.address().generation));
        me.pm_signal(PmSignal::RECOVERY_STARTED);
        wait_until(me, || !me.pending().is_empty());
        assert_eq!(me.pending(), Interrupts::STOP);
    };
    let mut first = node.child(FIRST, body);
    node.wait_for("the first owner", || board.get(0) != 0);
    let old = procs.find_pid(first.pidfd.pid()).unwrap();
    assert!(procs.send_interrupt(old, Interrupts::STOP));
    first.join_well();
    assert!(!procs.send_interrupt(old, Interrupts::TERMINATE), "nobody is attached");
    assert!(procs.release(FIRST), "it detached");

    board.put(0, 0);
    let mut second = node.child(FIRST, body);
    node.wait_for("the second owner", || board.get(0) != 0);
    assert!(!procs.send_interrupt(old, Interrupts::TERMINATE), "a successor");
    let new = procs.address(FIRST).unwrap();
    assert_ne!(new, old);
    assert!(procs.send_interrupt(new, Interrupts::STOP));
    second.join_well();
}

pub(crate) fn crashed_owner_leaves_a_slot_that_tells() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut child = node.child(FIRST, |me| {
        board.put(0, 1);
        wait_until(me, || false);
    });
    node.poll_for("the child", || board.get(0) == 1);
    let address = procs.address(FIRST).unwrap();
    child.kill(Signal::Kill);
    assert_eq!(child.join(), ExitStatus::Signaled(9));
    assert_eq!(procs.slot(FIRST).state(), SlotState::Active);
    assert!(!procs.release(FIRST), "a crash");
    assert!(!procs.send_interrupt(address, Interrupts::TERMINATE));
    assert_eq!((procs.slot(FIRST).latch().owner(), procs.address(FIRST)), (None, None));
    node.child(FIRST, |_| {}).join_well();
}

pub(crate) fn slot_states_follow_the_life_of_a_child() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let proc = procs.slot(FIRST);
    assert_eq!((proc.state(), proc.pid(), procs.active().count()), (SlotState::Unused, None, 0));
    let mut child = node.child(FIRST, |me| {
        let stage = |stage| {
            board.put(0, stage);
            me.pm_signal(PmSignal::RECOVERY_STARTED);
            wait_until(me, || board.get(1) == stage);
        };
        stage(1);
        me.become_walsender();
        stage(2);
    });
    let pid = child.pidfd.pid();
    let go_on = |stage| {
        board.put(1, stage);
        procs.set_latch(FIRST);
    };
    node.wait_for("stage 1", || board.get(0) == 1);
    assert_eq!((proc.state(), proc.pid()), (SlotState::Active, Some(pid)));
    assert_eq!(proc.backend_type().map(BackendType::name), Some("client backend"));
    assert!(proc.start_time() > 1_700_000_000_000_000);
    assert_eq!(procs.active().map(|(address, _)| address.number).collect::<Vec<_>>(), [FIRST]);
    go_on(1);
    node.wait_for("stage 2", || board.get(0) == 2);
    assert_eq!((proc.state(), proc.backend_type()), (SlotState::WalSender, Some(BackendType::WalSender)));
    go_on(2);
    child.join_well();
    assert_eq!((proc.state(), proc.pid(), procs.find_pid(pid)), (SlotState::Assigned, None, None));
    assert!(procs.release(FIRST));
    assert_eq!(proc.state(), SlotState::Unused);
}

pub(crate) fn held_interrupt_shows_after_the_last_guard() {
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        let both = Interrupts::QUERY_CANCEL | Interrupts::TERMINATE;
        let outer = me.hold(both);
        let inner = me.hold(Interrupts::QUERY_CANCEL);
        me.raise(both | Interrupts::CONFIG_RELOAD);
        assert_eq!(me.pending(), Interrupts::CONFIG_RELOAD);
        assert_eq!(me.take(Interrupts::ALL), Interrupts::CONFIG_RELOAD);
        me.latch().reset();
        drop(outer);
        assert_eq!(me.pending(), Interrupts::TERMINATE, "cancel is held by the inner guard still");
        assert!(me.latch().is_set(), "a freed bit must not be slept over");
        me.take(both);
        me.latch().reset();
        drop(inner);
        assert!(me.latch().is_set());
        assert_eq!(me.take(both), Interrupts::QUERY_CANCEL);
        me.latch().reset();
        drop(me.hold(both));
        assert!(!me.latch().is_set(), "nothing was freed");
    });
    child.join_well();
}

/// Two senders OR different bits again and again; the owner takes them; none may be lost.
pub(crate) fn barrage_of_interrupts_arrives_whole() {
    const ROUNDS: u64 = 5_000;
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut target = node.child(FIRST, |me| {
        board.put(7, 1);
        for (bit, index) in [(Interrupts::CONFIG_RELOAD, 0), (Interrupts::BARRIER, 1)].iter().cycle() {
            // The count is on the board before the bit is sent, so a taken bit shows it.
            if !me.take(*bit).is_empty() {
                board.put(2 + index, board.get(*index));
            }
            if board.get(2) == ROUNDS && board.get(3) == ROUNDS {
                break;
            }
            if *index == 1 {
                me.latch().reset();
                if me.pending().is_empty() {
                    let woken = ipc::wait_latch(&me, Some(Duration::from_secs(20)), WaitEvent::PgSleep);
                    assert!(woken.unwrap(), "an interrupt was lost");
                }
            }
        }
    });
    node.poll_for("the target", || board.get(7) == 1);
    let to = procs.address(FIRST).unwrap();
    let mut sender = node.child(SECOND, |_| {
        for round in 1..=ROUNDS {
            board.put(1, round);
            assert!(procs.send_interrupt(to, Interrupts::BARRIER) || round == ROUNDS);
        }
    });
    for round in 1..=ROUNDS {
        board.put(0, round);
        assert!(procs.send_interrupt(to, Interrupts::CONFIG_RELOAD) || round == ROUNDS);
    }
    sender.join_well();
    target.join_well();
}

pub(crate) fn pm_signals_reach_the_postmaster_once() {
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        me.pm_signal(PmSignal::BEGIN_HOT_STANDBY | PmSignal::START_WALRECEIVER);
        me.pm_signal(PmSignal::START_WALRECEIVER);
    });
    child.join_well();
    node.wait_for("the signals", || {
        node.postmaster.take_pm_signals() == PmSignal::BEGIN_HOT_STANDBY | PmSignal::START_WALRECEIVER
    });
    assert_eq!(node.postmaster.take_pm_signals(), PmSignal::NONE);
}

pub(crate) fn postmaster_reads_its_signals_in_the_wait() {
    let node = Node::start();
    let postmaster = process::current_pid();
    let mut child = node.child(FIRST, |_| {
        process::kill(postmaster, Signal::Term).unwrap();
        process::kill(postmaster, Signal::Quit).unwrap();
        process::kill(postmaster, Signal::Urg).unwrap();
    });
    let mut signals = SignalSet::EMPTY;
    node.wait_for("the signals", || {
        signals = signals.union(node.postmaster.take_signals());
        signals.contains(Signal::Quit)
    });
    assert_eq!(signals, SignalSet::of(&[Signal::Term, Signal::Quit]));
    child.join_well();
}
