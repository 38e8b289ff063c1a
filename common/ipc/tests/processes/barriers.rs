//! Barriers: who absorbs them, who is waited for, who is woken.

use std::{convert::Infallible, io, time::Duration};

use ipc::{
    barrier::{Absorption, BarrierGeneration, BarrierTypes, REMINDER},
    interrupt::Interrupts,
    pm_signal::PmSignal,
    proc::{BackendType, ProcNumber},
    process::{Me, SignalTable},
};
use sys::{clock, fork::fork_process, process::PidFd, signal::Signal};

use crate::harness::{Board, Child, FIRST, Node, SECOND, wait_until};

const RELOAD: BarrierTypes = BarrierTypes::CONFIG_RELOAD;

/// Board 0 is the state that emitters change; each process has the value that it knows at its slot's index.
const STATE: usize = 0;

fn seat(number: ProcNumber) -> usize {
    number.index() - FIRST.index() + 1
}

/// Takes note of the state.
fn absorb(me: Me, board: &Board) {
    let absorbed = me.absorb_barriers::<Infallible>(|barrier| {
        assert_eq!(barrier, RELOAD);
        board.put(seat(me.number()), board.get(STATE));
        Ok(Absorption::Done)
    });
    absorbed.unwrap();
}

/// Serves barriers until SIGTERM.
fn serve(me: Me, board: &Board) {
    board.put(seat(me.number()), board.get(STATE));
    me.pm_signal(PmSignal::RECOVERY_STARTED);
    wait_until(me, || {
        absorb(me, board);
        me.pending().contains(Interrupts::TERMINATE)
    });
}

fn wait_for_barrier(me: Me, generation: BarrierGeneration, board: &Board) {
    let serve = |me: Me| {
        absorb(me, board);
        Ok::<(), io::Error>(())
    };
    me.wait_for_barrier(generation, serve, |laggard| panic!("{laggard}")).unwrap();
}

/// The postmaster's wait.
fn wait_as_postmaster(node: &Node, generation: BarrierGeneration) {
    let wait = node.postmaster.barrier_wait(generation);
    node.wait_for("the barrier", || wait.is_over());
}

fn end(mut child: Child) {
    child.kill(Signal::Term);
    child.join_well();
}

pub(crate) fn barrier_is_absorbed_by_all_before_the_wait_ends() {
    const CHANGES: u64 = 500;
    let node = Node::start();
    let board = node.board;
    let numbers: Vec<ProcNumber> = (1..6).map(|index| ProcNumber(FIRST.0 + index)).collect();
    let servers: Vec<Child> =
        numbers.iter().map(|number| node.child(*number, |me| serve(me, board))).collect();
    node.wait_for("the servers", || {
        numbers.iter().all(|number| node.procs.address(*number).is_some()) && board.get(STATE) == 0
    });
    let mut emitter = node.child(FIRST, |me| {
        for change in 1..=CHANGES {
            board.put(STATE, change);
            let generation = me.emit_barrier(RELOAD);
            wait_for_barrier(me, generation, board);
            for number in numbers.iter().chain(&[FIRST]) {
                assert_eq!(board.get(seat(*number)), change, "slot {number}");
            }
        }
    });
    emitter.join_well();
    servers.into_iter().for_each(end);
}

pub(crate) fn barrier_emitted_between_fork_and_attach_is_absorbed() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    procs.assign(FIRST).unwrap();
    let pid = fork_process(|| {
        node.postmaster.close_in_child();
        node.poll_for("the emission", || board.get(7) == 1);
        let signals = &SignalTable::STANDARD;
        let me = Me::attach(procs, FIRST, BackendType::ClientBackend, node.death, signals).unwrap();
        assert_eq!(me.pending(), Interrupts::BARRIER, "it knows only what was so at the fork");
        wait_until(me, || {
            absorb(me, board);
            board.get(seat(FIRST)) == 1
        });
        me.detach();
        0
    });
    let mut child = Child::new(PidFd::open(pid.unwrap()).unwrap());
    board.put(STATE, 1);
    let generation = node.postmaster.emit_barrier(RELOAD);
    assert!(!procs.absorbed_by_all(generation));
    let mut wait = node.postmaster.barrier_wait(generation);
    let laggard = wait.reminder(clock::now().saturating_add(REMINDER)).unwrap();
    assert_eq!(
        laggard.to_string(),
        format!("still waiting for starting process in slot {FIRST} to accept ProcSignalBarrier")
    );
    board.put(7, 1);
    node.wait_for("the barrier", || wait.is_over());
    assert_eq!(board.get(seat(FIRST)), 1);
    child.join_well();
}

pub(crate) fn barrier_waits_for_nobody_who_detached_or_died() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let deaf = |me: Me| {
        board.put(seat(me.number()), 1);
        me.pm_signal(PmSignal::RECOVERY_STARTED);
        wait_until(me, || me.pending().contains(Interrupts::TERMINATE));
    };
    let mut dies = node.child(FIRST, deaf);
    let mut leaves = node.child(SECOND, deaf);
    node.wait_for("both", || board.get(1) == 1 && board.get(2) == 1);
    // A slot whose child could not be forked.
    let third = ProcNumber(SECOND.0 + 1);
    procs.assign(third).unwrap();
    let generation = node.postmaster.emit_barrier(RELOAD);
    let wait = node.postmaster.barrier_wait(generation);

    leaves.kill(Signal::Term);
    leaves.join_well();
    dies.kill(Signal::Kill);
    dies.join();
    assert!(!wait.is_over(), "a death counts when the postmaster knows of it");
    assert!(!procs.release(FIRST), "a crash");
    assert!(!wait.is_over(), "one slot is assigned still");
    node.postmaster.latch().reset();
    assert!(procs.release(third));
    assert!(node.postmaster.latch().is_set(), "leaving wakes");
    assert!(wait.is_over());
    assert!(procs.release(SECOND));

    // A successor has nothing to do with it.
    let mut successor = node.child(FIRST, |me| assert_eq!(me.pending(), Interrupts::NONE));
    successor.join_well();
}

pub(crate) fn barrier_held_or_not_now_stays_to_be_absorbed() {
    let node = Node::start();
    let procs = node.procs;
    let mut child = node.child(FIRST, |me| {
        let generation = me.emit_barrier(RELOAD);
        let wait = me.barrier_wait(generation);
        let hold = me.hold(Interrupts::BARRIER);
        me.absorb_barriers::<Infallible>(|_| panic!("it is held")).unwrap();
        assert!(!wait.is_over());
        me.latch().reset();
        drop(hold);
        assert!(me.latch().is_set(), "the wait must not sleep over it");

        me.latch().reset();
        me.absorb_barriers::<Infallible>(|_| Ok(Absorption::NotNow)).unwrap();
        assert!(!wait.is_over() && !procs.absorbed_by_all(generation));
        assert_eq!(me.pending(), Interrupts::BARRIER);
        assert!(!me.latch().is_set(), "who says not now looks again by itself");

        let mut calls = 0;
        let mut count = |_| {
            calls += 1;
            Ok::<_, Infallible>(Absorption::Done)
        };
        me.absorb_barriers(&mut count).unwrap();
        assert!(me.latch().is_set(), "the last one wakes, even itself");
        assert!(wait.is_over() && procs.absorbed_by_all(generation));
        me.absorb_barriers(&mut count).unwrap();
        me.raise(Interrupts::BARRIER);
        me.absorb_barriers(&mut count).unwrap();
        assert_eq!(calls, 1, "nothing is absorbed twice");
    });
    child.join_well();
}

pub(crate) fn barrier_handler_that_fails_leaves_its_types() {
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        let generation = me.emit_barrier(RELOAD);
        assert_eq!(me.absorb_barriers(|_| Err("out of luck")), Err("out of luck"));
        assert_eq!(me.pending(), Interrupts::BARRIER);
        assert!(!me.procs().absorbed_by_all(generation));
        let mut absorbed = BarrierTypes::NONE;
        me.absorb_barriers::<Infallible>(|barrier| {
            absorbed |= barrier;
            Ok(Absorption::Done)
        })
        .unwrap();
        assert_eq!((absorbed, me.pending()), (RELOAD, Interrupts::NONE));
        assert!(me.procs().absorbed_by_all(generation));
    });
    child.join_well();
}

pub(crate) fn barrier_is_served_in_the_way_that_was_said_once() {
    let node = Node::start();
    let board = node.board;
    let mut child = node.child(FIRST, |me| {
        let generation = me.emit_barrier(RELOAD);
        let wait = me.barrier_wait(generation);
        me.serve_barriers();
        assert_eq!(me.pending(), Interrupts::BARRIER, "nobody has said how");
        let late: Vec<ProcNumber> = wait.laggards().map(|laggard| laggard.number).collect();
        assert_eq!(late, [FIRST]);
        me.on_barriers(|types| {
            assert_eq!(types, RELOAD);
            board.put(STATE, board.get(STATE) + 1);
            Absorption::Done
        });
        me.serve_barriers();
        me.serve_barriers();
        assert_eq!((board.get(STATE), me.pending()), (1, Interrupts::NONE));
        assert!(wait.is_over() && wait.laggards().next().is_none());
    });
    child.join_well();
}

pub(crate) fn barriers_of_two_who_wait_for_each_other_are_absorbed() {
    const ROUNDS: u64 = 300;
    let node = Node::start();
    let board = node.board;
    let body = |me: Me| {
        for _ in 0..ROUNDS {
            let generation = me.emit_barrier(RELOAD);
            wait_for_barrier(me, generation, board);
        }
    };
    let mut both = [node.child(FIRST, body), node.child(SECOND, body)];
    both.iter_mut().for_each(Child::join_well);
}

pub(crate) fn barrier_wait_names_a_stopped_process_every_5_s() {
    let node = Node::start();
    let board = node.board;
    let child = node.child(FIRST, |me| serve(me, board));
    let pid = child.pidfd.pid();
    node.wait_for("the child", || node.procs.find_pid(pid).is_some());
    child.kill(Signal::Stop);
    board.put(STATE, 1);
    let generation = node.postmaster.emit_barrier(RELOAD);
    let mut wait = node.postmaster.barrier_wait(generation);
    let start = clock::now();
    assert_eq!(wait.reminder(start), None);
    let timeout = wait.timeout(start);
    assert!(timeout <= REMINDER && timeout > REMINDER - Duration::from_secs(1), "{timeout:?}");
    for round in 1..=3 {
        let now = start.saturating_add(REMINDER * round);
        assert_eq!(
            wait.reminder(now).unwrap().to_string(),
            format!("still waiting for backend with PID {pid} to accept ProcSignalBarrier")
        );
        assert_eq!((wait.reminder(now), wait.timeout(now)), (None, REMINDER));
    }
    assert!(!wait.is_over());
    child.kill(Signal::Cont);
    node.wait_for("the barrier", || wait.is_over());
    assert_eq!(wait.reminder(start.saturating_add(REMINDER * 9)), None, "nobody is late");
    end(child);
}

pub(crate) fn barrier_wait_of_the_postmaster_ends_with_the_last() {
    let node = Node::start();
    let board = node.board;
    let wait = node.postmaster.barrier_wait(node.postmaster.emit_barrier(RELOAD));
    assert!(wait.is_over(), "there is nobody to wait for");
    drop(wait);
    let children = [node.child(FIRST, |me| serve(me, board)), node.child(SECOND, |me| serve(me, board))];
    for change in 1..=200 {
        board.put(STATE, change);
        wait_as_postmaster(&node, node.postmaster.emit_barrier(RELOAD));
        assert_eq!([board.get(1), board.get(2)], [change; 2]);
    }
    children.into_iter().for_each(end);
}
