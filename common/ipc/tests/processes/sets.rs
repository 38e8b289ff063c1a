//! Wait event sets: sockets, time-outs, removal, child exits.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    time::Duration,
};

use ipc::{
    backend::{self, Backend},
    pm_signal::PmSignal,
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, OnPostmasterDeath, SocketEvents, WaitEventSet},
};
use nix::unistd::close;
use sys::{
    clock, epoll,
    net::{Endpoint, Listener, PeerAddr, Stream},
    process::ExitStatus,
    signal::Signal,
};

use crate::harness::{DEADLINE, FIRST, Node, SECOND, open_descriptors, wait, wait_until};

pub(crate) fn set_latch_does_not_starve_sockets() {
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        let (mut here, there) = Stream::pair().unwrap();
        let mut set = WaitEventSet::new(&me, 3).unwrap();
        let socket = set.add_socket(&there, SocketEvents::READABLE).unwrap();
        let latch = set.add_latch().unwrap();
        set.add_postmaster_death(OnPostmasterDeath::Exit).unwrap();
        here.write_all(b"x").unwrap();
        me.latch().set();
        let both = [
            Occurred { position: socket, events: Events::SOCKET_READABLE },
            Occurred { position: latch, events: Events::LATCH_SET },
        ];
        // Twice: both are levels, and neither is reported twice at a time.
        assert_eq!(wait(&mut set, DEADLINE), both);
        assert_eq!(wait(&mut set, DEADLINE), both);
        me.latch().reset();
        assert_eq!(wait(&mut set, DEADLINE), both[..1]);
    });
    child.join_well();
}

pub(crate) fn timeout_is_kept_and_zero_looks_once() {
    let (mut here, there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::without_process(1).unwrap();
    set.add_socket(&there, SocketEvents::READABLE).unwrap();
    for timeout in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(30)] {
        let start = clock::now();
        assert!(wait(&mut set, timeout).is_empty());
        assert!(clock::now().saturating_since(start) >= timeout);
    }
    here.write_all(b"x").unwrap();
    assert_eq!(wait(&mut set, Duration::ZERO).len(), 1, "0 looks at the kernel");
    assert_eq!(wait(&mut set, Duration::MAX).len(), 1);
}

/// Only lateness depends on the machine, so one punctual wait of many will do.
pub(crate) fn timeout_is_kept_to_the_microsecond() {
    const TIMEOUT: Duration = Duration::from_micros(300);
    let mut set = WaitEventSet::without_process(1).unwrap();
    let punctual = (0..2_000).any(|_| {
        let start = clock::now();
        assert!(wait(&mut set, TIMEOUT).is_empty());
        let slept = clock::now().saturating_since(start);
        assert!(slept >= TIMEOUT, "slept {slept:?}");
        slept < TIMEOUT * 2
    });
    assert!(punctual || !epoll::waits_in_micros(), "a time-out of {TIMEOUT:?} takes longer than twice that");
}

pub(crate) fn stray_signals_neither_end_nor_stretch_a_wait() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let node = Node::start();
    let board = node.board;
    let mut child = node.child(FIRST, |me| {
        me.latch().reset();
        board.put(0, 1);
        let start = clock::now();
        assert!(!ipc::wait_latch(&me, Some(TIMEOUT), WaitEvent::PgSleep).unwrap(), "a signal is no latch");
        let slept = clock::now().saturating_since(start);
        assert!(slept >= TIMEOUT && slept < TIMEOUT + Duration::from_secs(5), "slept {slept:?}");
        board.put(0, 2);
    });
    node.poll_for("the wait", || board.get(0) == 1);
    let mut round = 0;
    node.poll_for("its end", || {
        // Ended, perhaps, between look and kill.
        let stray = if round % 2 == 0 { Signal::Urg } else { Signal::Stop };
        let _gone = child.pidfd.kill(stray);
        let _gone = child.pidfd.kill(Signal::Cont);
        round += 1;
        board.get(0) == 2
    });
    child.join_well();
}

pub(crate) fn wait_event_is_published_while_waiting() {
    let node = Node::start();
    let proc = node.procs.slot(FIRST);
    let board = node.board;
    let mut child = node.child(FIRST, |me| {
        me.latch().reset();
        ipc::wait_latch(&me, Some(DEADLINE), WaitEvent::WalWriterMain).unwrap();
        assert_eq!(me.proc().wait_event(), None, "cleared afterwards");
        let published = me.publish_wait(WaitEvent::WalSync);
        assert_eq!(me.proc().wait_event(), Some(WaitEvent::WalSync));
        drop(published);
        assert_eq!(me.proc().wait_event(), None);
        me.latch().reset();
        wait_until(me, || board.get(0) == 1);
    });
    node.poll_for("the wait event", || proc.wait_event() == Some(WaitEvent::WalWriterMain));
    node.procs.set_latch(FIRST);
    node.poll_for("the next one", || proc.wait_event() == Some(WaitEvent::PgSleep));
    board.put(0, 1);
    node.procs.set_latch(FIRST);
    child.join_well();
}

pub(crate) fn modify_changes_what_is_waited_for() {
    let (mut here, there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::without_process(1).unwrap();
    let position = set.add_socket(&there, SocketEvents::WRITEABLE).unwrap();
    assert_eq!(wait(&mut set, DEADLINE)[0].events, Events::SOCKET_WRITEABLE);
    set.modify(position, SocketEvents::READABLE).unwrap();
    assert!(wait(&mut set, Duration::ZERO).is_empty());
    here.write_all(b"x").unwrap();
    set.modify(position, SocketEvents::READABLE | SocketEvents::WRITEABLE).unwrap();
    set.modify(position, SocketEvents::READABLE | SocketEvents::WRITEABLE).unwrap();
    assert_eq!(wait(&mut set, DEADLINE)[0].events, Events::SOCKET_READABLE | Events::SOCKET_WRITEABLE);
    set.modify(position, SocketEvents::NONE).unwrap();
    drop(here);
    assert!(wait(&mut set, Duration::from_millis(1)).is_empty(), "not even the hang-up");
    set.modify(position, SocketEvents::WRITEABLE).unwrap();
    assert_eq!(
        wait(&mut set, DEADLINE)[0].events,
        Events::SOCKET_WRITEABLE,
        "a hang-up is readiness for anything"
    );
    set.modify(position, SocketEvents::NONE).unwrap();
    set.remove(position).unwrap();
}

/// The kernel's set is closed behind its back: who asks it for something gets an error.
pub(crate) fn modify_without_change_asks_the_kernel_nothing() {
    let (_here, there) = Stream::pair().unwrap();
    let before = open_descriptors();
    let mut set = WaitEventSet::without_process(1).unwrap();
    let position = set.add_socket(&there, SocketEvents::READABLE).unwrap();
    for number in open_descriptors().difference(&before) {
        close(*number).unwrap();
    }
    set.modify(position, SocketEvents::READABLE).unwrap();
    let changed = set.modify(position, SocketEvents::WRITEABLE).map_err(|error| error.raw_os_error());
    assert_eq!(changed, if backend::chosen() == Backend::Poll { Ok(()) } else { Err(Some(9)) });
    std::mem::forget(set);
}

/// A connection is replaced by another that gets its number, as when one is lost and made again.
pub(crate) fn number_of_a_removed_socket_is_used_again() {
    let mut set = WaitEventSet::without_process(1).unwrap();
    let mut former = None;
    for round in 0..3 {
        let (mut here, there) = Stream::pair().unwrap();
        assert!(former.is_none_or(|former| former == there.raw()), "the lowest number that is free");
        former = Some(there.raw());
        let position = set.add_socket(&there, SocketEvents::READABLE).unwrap();
        assert!(wait(&mut set, Duration::ZERO).is_empty(), "round {round}");
        here.write_all(b"x").unwrap();
        assert_eq!(wait(&mut set, DEADLINE), [Occurred { position, events: Events::SOCKET_READABLE }]);
        set.remove(position).unwrap();
        // Open still, and forgotten.
        let again = set.add_socket(&there, SocketEvents::READABLE).unwrap();
        assert_ne!(again, position);
        set.remove(again).unwrap();
    }
}

/// As if 2^31 milliseconds weren't a limit: no error, no early end, and a set ends it.
pub(crate) fn endless_timeouts_are_slept_through_until_a_set() {
    let node = Node::start();
    let board = node.board;
    let timeouts = [
        Duration::from_millis(1 << 31),
        Duration::from_millis((1 << 32) + 1),
        Duration::from_secs(u64::MAX),
        Duration::MAX,
    ];
    let mut child = node.child(FIRST, |me| {
        for (timeout, round) in timeouts.into_iter().zip(1..) {
            me.latch().reset();
            board.put(0, round);
            assert!(ipc::wait_latch(&me, Some(timeout), WaitEvent::PgSleep).unwrap(), "{timeout:?}");
        }
    });
    let proc = node.procs.slot(FIRST);
    for round in 1..=4 {
        let asleep = || proc.latch_stats().counts(clock::now()).kernel_waits == round;
        node.poll_for("its sleep", || board.get(0) == round && asleep());
        node.procs.set_latch(FIRST);
    }
    child.join_well();
}

pub(crate) fn closed_socket_is_told_from_a_readable_one() {
    let (mut here, mut there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::without_process(1).unwrap();
    set.add_socket(&there, SocketEvents::READABLE | SocketEvents::CLOSED).unwrap();
    here.write_all(b"bye").unwrap();
    assert_eq!(wait(&mut set, DEADLINE)[0].events, Events::SOCKET_READABLE);
    here.shutdown_write().unwrap();
    assert_eq!(wait(&mut set, DEADLINE)[0].events, Events::SOCKET_READABLE | Events::SOCKET_CLOSED);
    let mut all = Vec::new();
    there.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");
}

pub(crate) fn connection_is_accepted_and_connected() {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap().unwrap();
    let mut set = WaitEventSet::without_process(3).unwrap();
    let accepting = set.add_socket(&listener, SocketEvents::ACCEPT).unwrap();
    assert!(wait(&mut set, Duration::ZERO).is_empty());
    let client = Stream::connect_start(&Endpoint::Tcp(addr)).unwrap();
    let connecting = set.add_socket(&client, SocketEvents::CONNECTED).unwrap();
    let (mut accepted, mut connected) = (None, false);
    while accepted.is_none() || !connected {
        for occurred in wait(&mut set, DEADLINE) {
            if occurred.position == connecting {
                assert_eq!(occurred.events, Events::SOCKET_CONNECTED);
                client.take_error().unwrap();
                connected = true;
            } else {
                assert_eq!((occurred.position, occurred.events), (accepting, Events::SOCKET_ACCEPT));
                accepted = Some(listener.accept().unwrap());
            }
        }
    }
    assert!(matches!(accepted, Some((_, PeerAddr::Tcp(_)))));

    set.remove(accepting).unwrap();
    set.remove(connecting).unwrap();
    drop((listener, accepted));
    let refused = Stream::connect_start(&Endpoint::Tcp(addr)).unwrap();
    let refusing = set.add_socket(&refused, SocketEvents::CONNECTED).unwrap();
    assert_eq!(wait(&mut set, DEADLINE), [Occurred { position: refusing, events: Events::SOCKET_CONNECTED }]);
    assert_eq!(refused.take_error().unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

pub(crate) fn removed_event_is_silent() {
    let (mut here, there) = Stream::pair().unwrap();
    let (mut other_here, other_there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::without_process(2).unwrap();
    let first = set.add_socket(&there, SocketEvents::READABLE).unwrap();
    here.write_all(b"x").unwrap();
    assert_eq!(wait(&mut set, DEADLINE)[0].position, first);
    set.remove(first).unwrap();
    // The descriptor is open still: only the removal keeps it silent.
    assert!(wait(&mut set, Duration::from_millis(1)).is_empty());
    let second = set.add_socket(&other_there, SocketEvents::READABLE).unwrap();
    assert_ne!(first, second);
    other_here.write_all(b"x").unwrap();
    assert_eq!(wait(&mut set, DEADLINE)[0].position, second);
    assert_eq!(
        set.add_socket(&other_there, SocketEvents::READABLE).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
}

pub(crate) fn child_exit_is_an_event() {
    let node = Node::start();
    let board = node.board;
    let mut set = WaitEventSet::for_postmaster(&node.postmaster, 3).unwrap();
    set.add_latch().unwrap();
    let first = node.child(FIRST, |me| wait_until(me, || board.get(0) == 1));
    let second = node.child(SECOND, |me| wait_until(me, || board.get(0) == 2));
    let first_exit = set.add_child_exit(&first.pidfd).unwrap();
    let second_exit = set.add_child_exit(&second.pidfd).unwrap();
    assert_eq!(first.pidfd.wait().unwrap(), None);
    node.postmaster.latch().reset();
    for (stage, child, exit) in [(1, &first, first_exit), (2, &second, second_exit)] {
        board.put(0, stage);
        node.procs.set_latch(FIRST);
        node.procs.set_latch(SECOND);
        let occurred = wait(&mut set, DEADLINE);
        assert_eq!(occurred, [Occurred { position: exit, events: Events::CHILD_EXIT }]);
        assert_eq!(child.pidfd.wait().unwrap(), Some(ExitStatus::Exited(0)));
        set.remove(exit).unwrap();
        assert!(wait(&mut set, Duration::ZERO).is_empty());
    }
    assert!(node.procs.release(FIRST) && node.procs.release(SECOND));
}

pub(crate) fn descriptors_are_close_on_exec() {
    // Those of the environment are none of ours.
    let before = open_descriptors();
    let node = Node::start();
    let mut child = node.child(FIRST, |me| {
        let mut set = WaitEventSet::new(&me, 3).unwrap();
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap().unwrap();
        let client = Stream::connect_start(&Endpoint::Tcp(addr)).unwrap();
        set.add_socket(&listener, SocketEvents::ACCEPT).unwrap();
        wait(&mut set, DEADLINE);
        let _accepted = listener.accept().unwrap();
        let _kept = (Stream::pair().unwrap(), client);
        let mut checked = 0;
        for number in open_descriptors().difference(&before) {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            assert_ne!(flags & 0o2_000_000, 0, "descriptor {number} would survive exec");
            checked += 1;
        }
        assert!(checked >= 7, "only {checked} descriptors found");
        me.pm_signal(PmSignal::RECOVERY_DONE);
    });
    child.join_well();
}
