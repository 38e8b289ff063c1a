//! Condition variables between real processes.

use std::{io, time::Duration};

use ipc::{
    condition_variable::ConditionVariable,
    pm_signal::PmSignal,
    proc::ProcNumber,
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, SocketEvents, WaitEventSet},
};
use sys::{clock, process::ExitStatus, signal::Signal};

use crate::harness::{Child, DEADLINE, FIRST, Node, SECOND, wait};

/// Takes one from a count in the board if there is any.
fn take_one(node: &Node, index: usize) -> bool {
    use std::sync::atomic::Ordering::{AcqRel, Acquire};
    node.board.numbers[index].fetch_update(AcqRel, Acquire, |count| count.checked_sub(1)).is_ok()
}

fn add(node: &Node, index: usize) {
    node.board.numbers[index].fetch_add(1, std::sync::atomic::Ordering::AcqRel);
}

fn slot(index: u32) -> ProcNumber {
    ProcNumber(FIRST.0 + index)
}

fn variable(node: &Node) -> ConditionVariable {
    ConditionVariable::create(&node.shmem, node.procs.len())
}

/// Who waits for at most the deadline: a lost wake-up fails the test.
fn sleep_until(me: Me, variable: ConditionVariable, condition: impl FnMut() -> bool) {
    let held = variable.timed_sleep::<io::Error>(me, DEADLINE, WaitEvent::PgSleep, condition, || Ok(()));
    assert!(held.unwrap(), "a wake-up was lost");
}

/// Makers signal once for each thing that they make; takers take one each time, and some give up now and then: every
/// thing is taken, although nobody is ever woken for nothing but a signal.
pub(crate) fn condition_variable_loses_no_signal_among_many() {
    const TAKERS: u32 = 5;
    const MAKERS: u32 = 2;
    const THINGS: u64 = 4000;
    const MADE: usize = 0;
    const TAKEN: usize = 1;
    let node = Node::start();
    let (variable, all_taken) = (variable(&node), variable(&node));
    let mut takers: Vec<Child> = (0..TAKERS)
        .map(|index| {
            node.child(slot(index), |me| {
                let mut turn = u64::from(index);
                loop {
                    turn += 1;
                    if turn % 7 == 0 {
                        let mut gives_up = variable.prepare_to_sleep(me);
                        gives_up.enter();
                    }
                    let mut over = false;
                    sleep_until(me, variable, || {
                        over = node.board.get(TAKEN) == THINGS * u64::from(MAKERS);
                        over || take_one(&node, MADE)
                    });
                    if over {
                        return;
                    }
                    add(&node, TAKEN);
                    if node.board.get(TAKEN) == THINGS * u64::from(MAKERS) {
                        variable.broadcast(me.procs());
                        all_taken.broadcast(me.procs());
                    }
                }
            })
        })
        .collect();
    let mut makers: Vec<Child> = (0..MAKERS)
        .map(|index| {
            node.child(slot(TAKERS + index), |me| {
                for _ in 0..THINGS {
                    add(&node, MADE);
                    variable.signal(me.procs());
                }
                sleep_until(me, all_taken, || node.board.get(TAKEN) == THINGS * u64::from(MAKERS));
            })
        })
        .collect();
    makers.iter_mut().chain(&mut takers).for_each(Child::join_well);
}

pub(crate) fn condition_variable_wakes_one_or_all() {
    const WAITERS: u32 = 4;
    let node = Node::start();
    let variable = variable(&node);
    let mut children: Vec<Child> = (0..WAITERS)
        .map(|index| {
            node.child(slot(index), |me| {
                let mut sleep = variable.prepare_to_sleep(me);
                let mut wakes = 0;
                loop {
                    sleep.enter();
                    // Number 7 ends it; until then each wake-up is counted.
                    if node.board.get(7) == 1 {
                        return;
                    }
                    node.board.put(index as usize, wakes);
                    add(&node, 6);
                    me.pm_signal(PmSignal::NONE);
                    assert!(ipc::wait_latch(&me, Some(DEADLINE), WaitEvent::PgSleep).unwrap());
                    wakes += 1;
                }
            })
        })
        .collect();
    let woken = || (0..WAITERS as usize).map(|index| node.board.get(index)).collect::<Vec<_>>();
    node.wait_for("all to wait", || node.board.get(6) == u64::from(WAITERS));
    assert_eq!(woken(), [0; 4]);
    for round in 1..=u64::from(WAITERS) {
        variable.signal(node.procs);
        node.wait_for("one to wake", || node.board.get(6) == u64::from(WAITERS) + round);
    }
    assert_eq!(woken(), [1; 4], "each in turn");
    variable.broadcast(node.procs);
    node.wait_for("all to wake", || node.board.get(6) == 3 * u64::from(WAITERS));
    assert_eq!(woken(), [2; 4]);
    node.board.put(7, 1);
    variable.broadcast(node.procs);
    children.iter_mut().for_each(Child::join_well);
    variable.signal(node.procs);
    variable.broadcast(node.procs);
}

pub(crate) fn condition_variable_and_socket_are_waited_for_together() {
    let node = Node::start();
    let variable = variable(&node);
    let (theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut child = node.child(FIRST, |me| {
        let mut set = WaitEventSet::new(&me, 2).unwrap();
        set.add_latch().unwrap();
        let socket = set.add_socket(&theirs, SocketEvents::READABLE).unwrap();
        let readable = Occurred { position: socket, events: Events::SOCKET_READABLE };
        let mut sleep = variable.prepare_to_sleep(me);
        let mut heard = false;
        loop {
            sleep.enter();
            if node.board.get(0) == 1 && heard {
                return;
            }
            let occurred = wait(&mut set, DEADLINE);
            assert!(!occurred.is_empty());
            if occurred.contains(&readable) {
                heard = true;
                set.modify(socket, SocketEvents::NONE).unwrap();
                node.board.put(1, 1);
                me.pm_signal(PmSignal::NONE);
            }
        }
    });
    io::Write::write_all(&mut &ours, b"x").unwrap();
    node.wait_for("the socket", || node.board.get(1) == 1);
    node.board.put(0, 1);
    variable.signal(node.procs);
    child.join_well();
}

pub(crate) fn condition_variable_passes_a_killed_waiter_over() {
    let node = Node::start();
    let variable = variable(&node);
    let waits = |me: Me, index: usize| {
        let mut sleep = variable.prepare_to_sleep(me);
        loop {
            sleep.enter();
            if node.board.get(7) == 1 {
                return;
            }
            node.board.put(index, 1);
            me.pm_signal(PmSignal::NONE);
            assert!(ipc::wait_latch(&me, Some(DEADLINE), WaitEvent::PgSleep).unwrap());
        }
    };
    let mut killed = node.child(FIRST, |me| waits(me, 0));
    node.wait_for("the first to wait", || node.board.get(0) == 1);
    let mut other = node.child(SECOND, |me| waits(me, 1));
    node.wait_for("the second to wait", || node.board.get(1) == 1);
    killed.kill(Signal::Kill);
    assert_eq!(killed.join(), ExitStatus::Signaled(9));
    assert!(!node.procs.release(FIRST));
    // Its slot has a successor, which waits for nothing.
    let mut successor = node.child(FIRST, |me| {
        me.latch().reset();
        node.board.put(2, 1);
        me.pm_signal(PmSignal::NONE);
        assert!(ipc::wait_latch(&me, Some(DEADLINE), WaitEvent::PgSleep).unwrap());
        assert_eq!(node.board.get(3), 1, "woken by a signal for its predecessor");
    });
    node.wait_for("the successor", || node.board.get(2) == 1);
    node.board.put(7, 1);
    variable.signal(node.procs);
    other.join_well();
    node.board.put(3, 1);
    node.procs.set_latch(FIRST);
    successor.join_well();
}

pub(crate) fn condition_variable_sleep_ends_with_its_time_or_an_interrupt() {
    let node = Node::start();
    let variable = variable(&node);
    let mut child = node.child(FIRST, |me| {
        let start = clock::now();
        let time = Duration::from_millis(30);
        let timed = variable.timed_sleep::<io::Error>(me, time, WaitEvent::PgSleep, || false, || Ok(()));
        assert!(!timed.unwrap());
        assert!(clock::now().saturating_since(start) >= time);
        assert!(
            variable
                .timed_sleep::<io::Error>(me, Duration::ZERO, WaitEvent::PgSleep, || true, || Ok(()))
                .unwrap()
        );
        node.board.put(0, 1);
        me.pm_signal(PmSignal::NONE);
        let ended = variable.sleep(
            me,
            WaitEvent::PgSleep,
            || false,
            || match me.pending().contains(ipc::interrupt::Interrupts::TERMINATE) {
                true => Err(io::Error::other("terminated")),
                false => Ok(()),
            },
        );
        assert_eq!(ended.unwrap_err().to_string(), "terminated");
        assert!(me.latch().is_set(), "what else the set was for is looked at afterwards");
    });
    node.wait_for("the sleep", || node.board.get(0) == 1);
    child.kill(Signal::Term);
    child.join_well();
}
