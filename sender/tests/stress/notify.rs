//! The queue of notifications: many notifiers and listeners, listeners that come and go, one that is killed.
//!
//! A notification says whose it is and which. A listener knows what it must see: after it has registered, everything that a
//! notifier began to publish later, each once and in order. A lost wake-up is a listener that sleeps for ever.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sender::datadir::DataDir;
use sender::notify::outgoing::{Encoded, Outgoing};
use sys::signal::Signal;

use crate::harness::{Child, Random, TestNode, backend, barrier, pass, seed};

const NOTIFIERS: usize = 5;
const LISTENERS: usize = 7;
/// Transactions of each notifier.
const TRANSACTIONS: u64 = 12_000;
/// Most notifications of a transaction.
const NOTIFICATIONS_MAX: u64 = 4;

/// The notifications `from..to` of notifier `own`, of random length.
fn notifications(test: &TestNode, own: usize, from: u64, to: u64, random: &mut Random) -> Encoded {
    let mut outgoing = Outgoing::default();
    for number in from..to {
        let padding = "x".repeat(random.below(if number % 50 == 0 { 7000 } else { 200 }) as usize);
        outgoing.push(format!("c{own}"), format!("{number} {padding}"), test.node.notify.capacity()).unwrap();
    }
    outgoing.encode(sys::process::current_pid().0)
}

/// Publishes as a session does; waits while the queue is full.
fn publish(test: &TestNode, make: impl Fn() -> Encoded) {
    loop {
        if let Ok(reservation) = test.node.notify.reserve(make()) {
            return test.node.notify.publish(reservation);
        }
        pass(Duration::from_millis(1));
    }
}

fn notify(test: &TestNode, me: Me, own: usize, mut random: Random) {
    let count = (NOTIFIERS + LISTENERS) as u32;
    barrier(test, &me, 0, count);
    let mut next = 0;
    for _ in 0..TRANSACTIONS {
        let end = next + 1 + random.below(NOTIFICATIONS_MAX);
        // Begun: who registers from here on may see it, who has registered before must.
        test.board.inserted[own].store(end, Ordering::SeqCst);
        let lengths = random.clone();
        publish(test, || notifications(test, own, next, end, &mut lengths.clone()));
        random.next();
        next = end;
        if random.below(64) == 0 {
            pass(Duration::from_micros(200));
        }
    }
    // The last word, which every listener waits for.
    publish(test, || {
        let mut outgoing = Outgoing::default();
        outgoing.push(format!("c{own}"), format!("{next} end"), 1 << 16).unwrap();
        outgoing.encode(0)
    });
    barrier(test, &me, 1, count);
}

/// What a listener has seen of one notifier: the next number, if it has seen any since it registered.
type Seen = [Option<u64>; NOTIFIERS];

fn listen(test: &TestNode, me: Me, mut random: Random) {
    let queue = test.node.notify;
    queue.register(me);
    let mut seen: Seen = [Some(0); NOTIFIERS];
    // What was begun when it registered; nothing can come between that and the first that it sees.
    let mut begun = [0; NOTIFIERS];
    let mut ended = 0;
    barrier(test, &me, 0, (NOTIFIERS + LISTENERS) as u32);
    while ended < NOTIFIERS {
        me.latch().reset();
        if me.take(Interrupts::NOTIFY).is_empty() {
            ipc::wait_latch(&me, None, WaitEvent::ClientRead).unwrap();
            continue;
        }
        while queue.read(me, |one| ended += usize::from(check(one.channel, one.payload, &mut seen, &begun))) {
        }
        // Not when one may have said its last word already.
        let all_go_on =
            (0..NOTIFIERS).all(|own| test.board.inserted[own].load(Ordering::SeqCst) < TRANSACTIONS);
        if all_go_on && random.below(8) == 0 {
            queue.unregister(me);
            queue.register(me);
            seen = [None; NOTIFIERS];
            begun = std::array::from_fn(|own| test.board.inserted[own].load(Ordering::SeqCst));
        }
    }
    barrier(test, &me, 1, (NOTIFIERS + LISTENERS) as u32);
}

/// Checks one notification; whether it was its notifier's last.
fn check(channel: &str, payload: &str, seen: &mut Seen, begun: &[u64; NOTIFIERS]) -> bool {
    let own: usize = channel[1..].parse().unwrap();
    let (number, rest) = payload.split_once(' ').unwrap();
    let number: u64 = number.parse().unwrap();
    match seen[own] {
        Some(next) => assert_eq!(number, next, "of {own}"),
        None => assert!(number <= begun[own], "{number} of {own}: those from {} on are lost", begun[own]),
    }
    seen[own] = Some(number + 1);
    assert!(rest == "end" || rest.bytes().all(|byte| byte == b'x'), "{rest:?}");
    rest == "end"
}

pub(crate) fn listeners_get_every_notification_once_and_in_order() {
    let seed = seed("notifications");
    let dir = tempfile::tempdir().unwrap();
    let test = TestNode::start(&DataDir::new(dir.path().join("data")), 4);
    let children: Vec<Child> = (0..NOTIFIERS + LISTENERS)
        .map(|index| {
            test.backend(index, |me| {
                let random = Random::new(seed + index as u64);
                if index < NOTIFIERS { notify(&test, me, index, random) } else { listen(&test, me, random) }
            })
        })
        .collect();
    children.iter().for_each(|child| child.join_well("a notifier or listener"));
    assert!(test.node.notify.usage() == 0.0, "those who listened are gone");
}

pub(crate) fn a_killed_listener_holds_up_nobody_and_its_successor_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestNode::start(&DataDir::new(dir.path().join("data")), 4);
    let queue = test.node.notify;
    let one = || {
        let mut outgoing = Outgoing::default();
        outgoing.push("c".to_owned(), "x".repeat(7000), queue.capacity()).unwrap();
        outgoing.encode(1)
    };
    for _ in 0..3 {
        let victim = test.backend(0, |me| {
            assert!(!queue.is_registered(me));
            assert!(!queue.read(me, |_| panic!("a successor reads nothing of its predecessor's")));
            queue.register(me);
            test.board.inserted[0].store(1, Ordering::Release);
            loop {
                me.latch().reset();
                ipc::wait_latch(&me, None, WaitEvent::ClientRead).unwrap();
            }
        });
        while test.board.inserted[0].swap(0, Ordering::Acquire) == 0 {
            pass(Duration::from_millis(1));
        }
        while let Ok(reservation) = queue.reserve(one()) {
            queue.publish(reservation);
        }
        assert!(queue.usage() > 0.99);
        victim.kill(Signal::Kill);
        victim.join("a killed listener");
        assert!(!test.node.procs.release(backend(0)), "it did not detach");
        assert!(queue.usage() == 0.0);
        assert!(queue.reserve(one()).is_ok());
    }
    assert!(queue.usage() == 0.0, "a reservation that is dropped gives its room back");
}
