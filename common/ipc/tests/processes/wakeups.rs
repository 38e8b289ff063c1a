//! What wakes a sleeping owner, where the back-ends differ.

use std::{fs, time::Duration};

use ipc::{
    backend::{self, Backend},
    pm_signal::PmSignal,
    proc::ProcNumber,
    wait_event::WaitEvent,
    wait_event_set::WaitEventSet,
};
use nix::sys::resource::{Resource, setrlimit};

use crate::harness::{DEADLINE, FIRST, Node, SECOND, wait, wait_until};

const ROUNDS: u64 = 500;

/// What one set has reported, the other must not be left without: they take turns.
pub(crate) fn latch_in_several_sets_ends_the_wait_of_each() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut child = node.child(FIRST, |me| {
        let mut sets = [(); 3].map(|()| {
            let mut set = WaitEventSet::new(&me, 1).unwrap();
            set.add_latch().unwrap();
            set
        });
        for round in 1..=ROUNDS {
            // Also in one set twice and thrice in a row.
            let set = &mut sets[usize::try_from(round / (round % 4 + 1) % 3).unwrap()];
            loop {
                me.latch().reset();
                if board.get(0) >= round {
                    break;
                }
                assert!(!wait(set, DEADLINE).is_empty(), "a wake-up was lost in round {round}");
            }
            board.put(1, round);
            procs.set_latch(SECOND);
        }
        // An event that a set has kept from before is no set latch.
        me.latch().reset();
        for set in &mut sets {
            assert!(wait(set, Duration::from_millis(1)).is_empty());
        }
    });
    let mut setter = node.child(SECOND, |me| {
        for round in 1..=ROUNDS {
            board.put(0, round);
            procs.set_latch(FIRST);
            wait_until(me, || board.get(1) >= round);
        }
    });
    setter.join_well();
    child.join_well();
}

pub(crate) fn successor_of_a_slot_is_woken_as_its_predecessor() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    for life in 1..=5 {
        let mut child = node.child(FIRST, |me| {
            for round in 1..=20 {
                wait_until(me, || board.get(0) >= life * 100 + round);
                board.put(1, life * 100 + round);
                me.pm_signal(PmSignal::NONE);
            }
        });
        for round in 1..=20 {
            board.put(0, life * 100 + round);
            procs.set_latch(FIRST);
            node.wait_for("the child's answer", || board.get(1) >= life * 100 + round);
        }
        child.join_well();
        assert!(procs.release(FIRST));
    }
}

/// More slots than descriptors: who has no eventfd is woken by SIGURG.
pub(crate) fn slot_beyond_the_limit_of_descriptors_is_woken_too() {
    const LIMIT: u64 = 350;
    // Of which 256 are left for whatever may come, and one per latch for the children.
    const LEFT: usize = 350 - 256 - (FIRST.0 as usize + 64 + 1);
    setrlimit(Resource::RLIMIT_NOFILE, LIMIT, LIMIT).unwrap();
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let eventfds = fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
        fs::read_link(entry.as_ref().unwrap().path())
            .is_ok_and(|target| target.to_string_lossy().contains("eventfd"))
    });
    let expected = if backend::chosen() == Backend::Eventfd { LEFT } else { 0 };
    assert_eq!(eventfds.count(), expected);
    let last = ProcNumber(FIRST.0 + 63);
    let mut child = node.child(last, |me| {
        for round in 1..=ROUNDS {
            wait_until(me, || board.get(0) >= round);
            board.put(1, round);
            me.pm_signal(PmSignal::NONE);
        }
    });
    for round in 1..=ROUNDS {
        board.put(0, round);
        procs.set_latch(last);
        node.wait_for("the child's answer", || board.get(1) >= round);
    }
    child.join_well();
}

pub(crate) fn fast_sets_do_not_pile_up() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut child = node.child(FIRST, |me| {
        wait_until(me, || board.get(0) == 1);
        me.latch().reset();
        let slept = ipc::wait_latch(&me, Some(Duration::from_millis(20)), WaitEvent::PgSleep).unwrap();
        assert!(!slept, "an old wake-up is no set latch");
    });
    for _ in 0..20_000 {
        procs.set_latch(FIRST);
    }
    board.put(0, 1);
    procs.set_latch(FIRST);
    child.join_well();
}
