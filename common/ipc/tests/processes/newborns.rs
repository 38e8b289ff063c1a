//! A child before it attaches and after it has detached, and what keeps a child from attaching.

use std::time::Duration;

use ipc::{
    interrupt::Interrupts,
    pm_signal::PmSignal,
    proc::{BackendType, ProcNumber, SlotState},
    process::{Newborn, SignalTable},
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, SocketEvents, WaitEventSet},
};
use sys::{
    fork::fork_process,
    net::Stream,
    process::{self, ExitStatus, PidFd},
    signal::Signal,
};

use crate::harness::{Child, DEADLINE, FIRST, Node, SECOND, wait};

const MOMENT: Duration = Duration::from_millis(5);

/// A child that has not attached, in a slot that is assigned.
fn newborn(node: &Node, number: ProcNumber, body: impl FnOnce(Newborn)) -> Child {
    node.procs.assign(number).unwrap();
    let pid = fork_process(|| {
        node.postmaster.close_in_child();
        body(Newborn::enter(node.procs, node.death, &SignalTable::STANDARD).unwrap());
        0
    });
    Child::new(PidFd::open(pid.unwrap()).unwrap())
}

fn kill_myself(signal: Signal) {
    process::kill(process::current_pid(), signal).unwrap();
}

fn events(occurred: &[Occurred]) -> Vec<Events> {
    occurred.iter().map(|one| one.events).collect()
}

pub(crate) fn newborn_waits_on_a_latch_of_its_own() {
    let node = Node::start();
    let procs = node.procs;
    let mut child = newborn(&node, FIRST, |newborn| {
        let sleep = |timeout| newborn.wait_latch(Some(timeout), WaitEvent::PgSleep).unwrap();
        assert!(sleep(DEADLINE), "the first look comes before the first wait");
        newborn.latch().reset();
        assert!(!sleep(MOMENT));
        // Whoever sets the slot's latch doesn't mean this process yet.
        procs.set_latch(FIRST);
        assert!(!sleep(MOMENT));
        assert_eq!((procs.address(FIRST), procs.slot(FIRST).wait_event()), (None, None));
        kill_myself(Signal::Term);
        assert!(sleep(DEADLINE));
        assert_eq!(newborn.pending(), Interrupts::TERMINATE);
        assert_eq!(newborn.take(Interrupts::TERMINATE), Interrupts::TERMINATE);
        kill_myself(Signal::Hup);
        newborn.latch().reset();
        assert!(sleep(DEADLINE));
        newborn.latch().reset();

        let me = newborn.attach(FIRST, BackendType::ClientBackend).unwrap();
        assert!(me.latch().is_set(), "what was seen of the old latch is no wake-up of the new one");
        assert_eq!(me.pending(), Interrupts::CONFIG_RELOAD, "it came along");
        me.raise(Interrupts::NOTIFY);
        assert_eq!(procs.slot(FIRST).interrupts(), Interrupts::CONFIG_RELOAD | Interrupts::NOTIFY);
        me.latch().reset();
        me.detach();
        assert!(me.latch().is_set());
        assert_eq!(me.take(Interrupts::ALL), Interrupts::CONFIG_RELOAD | Interrupts::NOTIFY);
        me.latch().reset();
        assert!(!ipc::wait_latch(&me, Some(MOMENT), WaitEvent::PgSleep).unwrap());
        me.detach();
        assert_eq!(procs.slot(FIRST).state(), SlotState::Assigned, "the second time does nothing");
    });
    child.join_well();
    assert!(procs.release(FIRST));
}

pub(crate) fn wait_event_set_follows_the_latch_of_its_process() {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let mut child = newborn(&node, FIRST, |newborn| {
        let (here, there) = Stream::pair().unwrap();
        let mut set = WaitEventSet::for_newborn(&newborn, 2).unwrap();
        let latch = set.add_latch().unwrap();
        set.add_socket(&there, SocketEvents::READABLE).unwrap();
        assert_eq!(events(&wait(&mut set, DEADLINE)), [Events::LATCH_SET]);
        newborn.latch().reset();
        assert!(wait(&mut set, MOMENT).is_empty());

        let me = newborn.attach(FIRST, BackendType::ClientBackend).unwrap();
        assert_eq!(events(&wait(&mut set, DEADLINE)), [Events::LATCH_SET]);
        for round in 1..=3 {
            me.latch().reset();
            board.put(0, round);
            me.pm_signal(PmSignal::RECOVERY_STARTED);
            let occurred = wait(&mut set, DEADLINE);
            assert_eq!(events(&occurred), [Events::LATCH_SET], "set by another process");
            assert_eq!(occurred[0].position, latch);
        }
        me.latch().reset();
        assert!(wait(&mut set, MOMENT).is_empty());

        me.detach();
        assert_eq!(events(&wait(&mut set, DEADLINE)), [Events::LATCH_SET]);
        me.latch().reset();
        procs.set_latch(FIRST);
        assert!(wait(&mut set, MOMENT).is_empty(), "the slot is no longer its own");
        drop(here);
        assert_eq!(events(&wait(&mut set, DEADLINE)), [Events::SOCKET_READABLE]);
        kill_myself(Signal::Int);
        assert!(events(&wait(&mut set, DEADLINE)).contains(&Events::LATCH_SET));
        assert_eq!(me.pending(), Interrupts::QUERY_CANCEL);
        set.remove(latch).unwrap();
        assert_eq!(events(&wait(&mut set, DEADLINE)), [Events::SOCKET_READABLE]);
    });
    for round in 1..=3 {
        node.wait_for("a round", || board.get(0) == round);
        // Asleep, or about to be.
        node.poll_for("its wait", || procs.slot(FIRST).wait_event().is_some());
        procs.set_latch(FIRST);
    }
    child.join_well();
    assert!(procs.release(FIRST));
}

pub(crate) fn attach_fails_softly_in_a_slot_that_is_not_ready() {
    let node = Node::start();
    let procs = node.procs;
    let mut child = newborn(&node, FIRST, |newborn| {
        let error = newborn.attach(SECOND, BackendType::ClientBackend).unwrap_err();
        assert_eq!(error.to_string(), format!("process slot {SECOND} is not assigned to a new child"));
    });
    child.join_well();
    assert!(procs.release(FIRST));

    // As if it had been forgotten to release it.
    procs.slot(FIRST).latch().own().unwrap();
    let postmaster = process::current_pid();
    let mut child = newborn(&node, FIRST, |newborn| {
        let error = newborn.attach(FIRST, BackendType::ClientBackend).unwrap_err();
        assert_eq!(error.to_string(), format!("latch already owned by PID {postmaster}"));
        assert_eq!((procs.slot(FIRST).state(), procs.address(FIRST)), (SlotState::Assigned, None));
    });
    child.join_well();
    assert!(procs.release(FIRST));
    assert_eq!(procs.slot(FIRST).latch().owner(), None);
}

/// What decides is whether the child detached, not how it ended.
pub(crate) fn slot_of_a_child_tells_whether_it_detached() {
    let node = Node::start();
    let procs = node.procs;
    let dies = || kill_myself(Signal::Kill);
    let killed = ExitStatus::Signaled(9);
    let well = ExitStatus::Exited(0);
    let attach = |newborn: Newborn| newborn.attach(FIRST, BackendType::ClientBackend).unwrap();
    type Body<'a> = &'a dyn Fn(Newborn);
    let lives: [(&str, Body<'_>, ExitStatus, SlotState, bool); 6] = [
        ("never attached", &|_| {}, well, SlotState::Assigned, true),
        ("killed before attach", &|_| dies(), killed, SlotState::Assigned, true),
        ("exits attached", &|newborn| _ = attach(newborn), well, SlotState::Active, false),
        (
            "killed as a walsender",
            &|newborn| {
                attach(newborn).become_walsender();
                dies();
            },
            killed,
            SlotState::WalSender,
            false,
        ),
        (
            "killed after detach",
            &|newborn| {
                attach(newborn).detach();
                dies();
            },
            killed,
            SlotState::Assigned,
            true,
        ),
        ("detached", &|newborn| attach(newborn).detach(), well, SlotState::Assigned, true),
    ];
    for (life, body, status, state, detached) in lives {
        let mut child = newborn(&node, FIRST, body);
        let in_use = procs.assign(FIRST).unwrap_err();
        assert_eq!(in_use.to_string(), format!("postmaster child slot {FIRST} is already in use"));
        assert_eq!(child.join(), status, "{life}");
        assert_eq!(procs.slot(FIRST).state(), state, "{life}");
        assert_eq!(procs.release(FIRST), detached, "{life}");
        let after = (procs.slot(FIRST).state(), procs.address(FIRST), procs.slot(FIRST).latch().owner());
        assert_eq!(after, (SlotState::Unused, None, None), "{life}");
    }
}
