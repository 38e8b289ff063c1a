//! Every way to misuse latches, wait event sets and slots: what is said, in PostgreSQL's words where it has some.
//!
//! Method: a table per handle. A row is a name, what is done with a fresh set, and what comes of it: `panic:` the
//! message of a caller's mistake, `error:` what the kernel or the set refuses, `ok`. What PostgreSQL checks and
//! has no row here can't be written down: a latch event waits for nothing but the latch being set, a socket event has a
//! socket, the latch of a set is that of its process, the room for what occurred is never too small.
//! What attaching to a slot refuses is in newborns.rs.

use std::{
    cell::Cell,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use ipc::{
    backend::{self, Backend},
    proc::ProcNumber,
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, OnPostmasterDeath, Position, SocketEvents, WaitEventSet},
};
use sys::{
    net::Stream,
    process::{self, PidFd},
};

use crate::harness::{Child, DEADLINE, FIRST, Node, SECOND, wait};

/// What a row's misuse has at hand: a set for two events of this child, and sockets.
struct Case {
    me: Me,
    set: WaitEventSet,
    here: Stream,
    there: Stream,
}

/// What is misused, how, and what is said.
type Row<T> = (&'static str, fn(&mut T) -> io::Result<()>, &'static str);

const READABLE: SocketEvents = SocketEvents::READABLE;

const SETS: &[Row<Case>] = &[
    (
        "second latch",
        |case| {
            case.set.add_latch()?;
            case.set.add_latch().map(drop)
        },
        "panic: cannot wait on more than one latch",
    ),
    (
        "latch of nobody",
        |_| WaitEventSet::without_process(1)?.add_latch().map(drop),
        "panic: cannot wait on latch without a process",
    ),
    (
        "latch modified",
        |case| {
            let latch = case.set.add_latch()?;
            case.set.modify(latch, READABLE)
        },
        "panic: cannot modify latch event",
    ),
    (
        "postmaster's death modified",
        |case| {
            let death = case.set.add_postmaster_death(OnPostmasterDeath::Exit)?;
            case.set.modify(death, READABLE)
        },
        "panic: cannot modify postmaster death event",
    ),
    (
        "child's exit modified",
        |case| {
            let exit = case.set.add_child_exit(&PidFd::open(process::current_pid())?)?;
            case.set.modify(exit, READABLE)
        },
        "panic: cannot modify child exit event",
    ),
    (
        "postmaster's death twice",
        |case| {
            case.set.add_postmaster_death(OnPostmasterDeath::Exit)?;
            case.set.add_postmaster_death(OnPostmasterDeath::Report).map(drop)
        },
        "error: entity already exists",
    ),
    (
        "postmaster's death without a postmaster",
        |_| WaitEventSet::without_process(1)?.add_postmaster_death(OnPostmasterDeath::Exit).map(drop),
        "panic: only a child has a postmaster",
    ),
    (
        "socket twice",
        |case| {
            case.set.add_socket(&case.there, READABLE)?;
            case.set.add_socket(&case.there, SocketEvents::WRITEABLE).map(drop)
        },
        "error: entity already exists",
    ),
    (
        "socket twice, the first time for nothing",
        |case| {
            case.set.add_socket(&case.there, SocketEvents::NONE)?;
            case.set.add_socket(&case.there, READABLE).map(drop)
        },
        "error: entity already exists",
    ),
    (
        "child's exit twice",
        |case| {
            let myself = PidFd::open(process::current_pid())?;
            case.set.add_child_exit(&myself)?;
            case.set.add_child_exit(&myself).map(drop)
        },
        "error: entity already exists",
    ),
    (
        "socket that is in another set too",
        |case| {
            WaitEventSet::without_process(1)?.add_socket(&case.there, READABLE)?;
            case.set.add_socket(&case.there, READABLE).map(drop)
        },
        "ok",
    ),
    (
        "one event too many",
        |case| {
            case.set.add_latch()?;
            case.set.add_socket(&case.here, READABLE)?;
            case.set.add_socket(&case.there, READABLE).map(drop)
        },
        "panic: a wait event set for 2 events is full",
    ),
    (
        "as many events as fit, after one was removed",
        |case| {
            case.set.add_latch()?;
            let here = case.set.add_socket(&case.here, READABLE)?;
            case.set.remove(here)?;
            case.set.add_socket(&case.there, READABLE).map(drop)
        },
        "ok",
    ),
    (
        "removed twice",
        |case| {
            let there = case.set.add_socket(&case.there, READABLE)?;
            case.set.remove(there)?;
            case.set.remove(there)
        },
        "panic: the event was removed",
    ),
    (
        "modified after it was removed, its place taken by another",
        |case| {
            let there = case.set.add_socket(&case.there, READABLE)?;
            case.set.remove(there)?;
            case.set.add_socket(&case.here, READABLE)?;
            case.set.modify(there, SocketEvents::WRITEABLE)
        },
        "panic: the event was removed",
    ),
    (
        "wait for ever for nothing",
        |case| case.set.wait(None, WaitEvent::PgSleep, &mut Vec::new()),
        "panic: cannot wait for nothing without a time-out",
    ),
    (
        "wait for ever for a socket that is waited for nothing",
        |case| {
            case.set.add_socket(&case.there, SocketEvents::NONE)?;
            case.set.wait(None, WaitEvent::PgSleep, &mut Vec::new())
        },
        "panic: cannot wait for nothing without a time-out",
    ),
    (
        "wait a while for nothing",
        |case| case.set.wait(Some(Duration::from_millis(1)), WaitEvent::PgSleep, &mut Vec::new()),
        "ok",
    ),
    (
        "latch after the slot was left",
        |case| {
            case.me.detach();
            case.set.add_latch().map(drop)
        },
        "ok",
    ),
];

const SLOTS: &[Row<Node>] = &[
    (
        "slot assigned twice",
        |node| {
            node.procs.assign(SECOND).unwrap();
            node.procs.assign(SECOND).map_err(io::Error::other)
        },
        "error: postmaster child slot 6 is already in use",
    ),
    (
        "slot that there is not",
        |node| {
            node.procs.set_latch(ProcNumber(1_000));
            Ok(())
        },
        "panic: the len is 69 but the index is 1000",
    ),
    (
        "second postmaster",
        |node| ipc::process::Postmaster::start(node.procs).map(drop),
        "error: latch already owned by PID",
    ),
    (
        "latch reset by who doesn't own it",
        |node| {
            node.procs.slot(FIRST).latch().reset();
            Ok(())
        },
        "panic: cannot reset a latch owned by another process",
    ),
    (
        "latch given back by who doesn't own it",
        |node| {
            node.procs.slot(FIRST).latch().disown();
            Ok(())
        },
        "panic: cannot disown a latch owned by another process",
    ),
];

/// What comes of it, as the tables say it.
fn outcome(body: impl FnOnce() -> io::Result<()>) -> String {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(body));
    std::panic::set_hook(loud);
    match result {
        Ok(Ok(())) => "ok".to_owned(),
        Ok(Err(error)) => format!("error: {error}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panic: {}", text.unwrap_or_default())
        }
    }
}

/// The prefix and the message, whatever a failed assertion says around it.
fn says(outcome: &str, expected: &str) -> bool {
    let (kind, message) = expected.split_once(": ").unwrap_or((expected, ""));
    outcome.starts_with(kind) && outcome.contains(message)
}

pub(crate) fn misuse_of_a_set_is_told() {
    let node = Node::start();
    for (name, misuse, expected) in SETS {
        let mut child = node.child(FIRST, |me| {
            let (here, there) = Stream::pair().unwrap();
            let set = WaitEventSet::new(&me, 2).unwrap();
            let mut case = Case { me, set, here, there };
            let said = outcome(|| misuse(&mut case));
            assert!(says(&said, expected), "{name}: {said}");
        });
        child.join_well();
        node.procs.release(FIRST);
    }
}

pub(crate) fn misuse_of_a_slot_is_told() {
    for (name, misuse, expected) in SLOTS {
        let mut child = Child::fork(|| {
            let said = outcome(|| misuse(&mut Node::start()));
            assert!(says(&said, expected), "{name}: {said}");
            0
        });
        child.join_well();
    }
}

/// A set belongs to the process that made it: another may only drop it, which changes nothing.
pub(crate) fn set_of_another_process_can_only_be_dropped() {
    let node = Node::start();
    let (mut here, there) = Stream::pair().unwrap();
    let (other, _other_end) = Stream::pair().unwrap();
    let mut set = WaitEventSet::for_postmaster(&node.postmaster, 3).unwrap();
    let position = set.add_socket(&there, READABLE).unwrap();
    set.add_latch().unwrap();
    let set = Cell::new(Some(set));
    type Use = fn(&mut WaitEventSet, &Stream, Position) -> io::Result<()>;
    let uses: [Use; 5] = [
        |set, _, position| set.modify(position, SocketEvents::NONE),
        |set, _, position| set.remove(position),
        |set, other, _| set.add_socket(other, READABLE).map(drop),
        |set, _, _| set.add_latch().map(drop),
        |set, _, _| set.wait(Some(Duration::ZERO), WaitEvent::PgSleep, &mut Vec::new()),
    ];
    for misuse in uses {
        let mut child = node.child(FIRST, |_| {
            let mut inherited = set.take().unwrap();
            let said = outcome(|| misuse(&mut inherited, &other, position));
            assert!(says(&said, "panic: cannot use a wait event set of another process"), "{said}");
            drop(inherited);
        });
        child.join_well();
        node.procs.release(FIRST);
    }
    let mut set = set.take().unwrap();
    node.postmaster.latch().reset();
    assert!(wait(&mut set, Duration::ZERO).is_empty());
    here.write_all(b"x").unwrap();
    assert_eq!(wait(&mut set, DEADLINE), [Occurred { position, events: Events::SOCKET_READABLE }]);
}

/// Closed before it was removed: the set keeps its place until then. (Epoll has forgotten it, and says so; poll tells of
/// a descriptor that isn't open as of one that is ready.)
pub(crate) fn socket_closed_in_the_set_is_told() {
    let (_here, there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::without_process(2).unwrap();
    let number = there.raw();
    let closed = set.add_socket(&there, READABLE).unwrap();
    drop(there);
    let poll = backend::chosen() == Backend::Poll;
    let occurred = wait(&mut set, Duration::from_millis(1));
    if poll {
        assert_eq!(occurred, [Occurred { position: closed, events: Events::SOCKET_READABLE }]);
    } else {
        assert_eq!(occurred, []);
    }
    // The number's next owner is not mistaken for the former one on any back-end.
    let (next, _far) = Stream::pair().unwrap();
    assert_eq!(next.raw(), number, "the lowest free number");
    assert_eq!(set.add_socket(&next, READABLE).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    drop(next);
    let removed = set.remove(closed);
    assert_eq!(removed.map_err(|error| error.raw_os_error()), if poll { Ok(()) } else { Err(Some(9)) });
}
