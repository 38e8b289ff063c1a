//! The orders between processes under a model checker: no order of steps, and no reordering that the memory model
//! allows, loses a wake-up, a claim of the ring or a byte that was handed over. And the checker bites: with any one of
//! the named orders left out it finds the loss. (On the machines that run the other tests most of them cost nothing, as
//! the processor keeps that order by itself, so no test there could miss them.)
//!
//! The code under test is src/ordering.rs itself, compiled here a second time on top of the checker's atomics. Modelled
//! is what is around it: a latch (set or not, its owner sleeps), the write lock, bytes in shared memory. A lost
//! wake-up is a waiter that sleeps for ever, which the checker reports as a deadlock. A mutant runs in a process of its own,
//! since a failing model may abort.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a model is a test")]

use std::process::Command;

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use sync::{AtomicU32, AtomicU64, Order, Ordering};

#[path = "../src/ordering.rs"]
mod ordering;

/// The twin of src/sync.rs: the checker's atomics, and one order that may be left out.
mod sync {
    use std::sync::OnceLock;

    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Order {
        AnnounceBeforeLook,
        PublishBeforeLook,
        ClaimBeforeChange,
        CopyBeforeCheck,
        GiveAway,
        TakeOver,
        TakeBeforeLeave,
        SenderBeforeState,
    }

    pub(crate) const ALL: [Order; 8] = [
        Order::AnnounceBeforeLook,
        Order::PublishBeforeLook,
        Order::ClaimBeforeChange,
        Order::CopyBeforeCheck,
        Order::GiveAway,
        Order::TakeOver,
        Order::TakeBeforeLeave,
        Order::SenderBeforeState,
    ];

    /// The order that the code lacks in this process; unset in the real models.
    pub(crate) static LEFT_OUT: OnceLock<Order> = OnceLock::new();

    impl Order {
        pub(crate) fn get(self) -> Ordering {
            match self {
                _ if LEFT_OUT.get() == Some(&self) => Ordering::Relaxed,
                Order::AnnounceBeforeLook | Order::PublishBeforeLook => Ordering::SeqCst,
                Order::ClaimBeforeChange | Order::GiveAway => Ordering::Release,
                Order::CopyBeforeCheck | Order::TakeOver => Ordering::Acquire,
                Order::TakeBeforeLeave | Order::SenderBeforeState => Ordering::AcqRel,
            }
        }

        pub(crate) fn is_kept(self) -> bool {
            LEFT_OUT.get() != Some(&self)
        }
    }

    pub(crate) fn fence(order: Order) {
        if LEFT_OUT.get() != Some(&order) {
            loom::sync::atomic::fence(order.get());
        }
    }
}

/// Names the order to leave out.
const MUTANT: &str = "SENDER_ORDERS_MUTANT";

/// A latch as its owner sees it.
#[derive(Default)]
struct Latch {
    set: Mutex<bool>,
    woken: Condvar,
}

impl Latch {
    fn set(&self) {
        *self.set.lock().unwrap() = true;
        self.woken.notify_one();
    }

    fn wait_and_reset(&self) {
        let mut set = self.set.lock().unwrap();
        while !*set {
            set = self.woken.wait(set).unwrap();
        }
        *set = false;
    }
}

/// A flush under way, and one who waits for more than it brings: who finds the lock free flushes itself.
#[derive(Default)]
struct Flush {
    write_lock: AtomicU32,
    waiting: AtomicU64,
    latch: Latch,
}

impl Flush {
    fn try_lock(&self) -> bool {
        self.write_lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn unlock_and_wake(&self) {
        self.write_lock.swap(0, Ordering::Release);
        ordering::before_looking_for_waiters();
        if ordering::awaited(&self.waiting).is_some() {
            self.latch.set();
        }
    }
}

fn flush_waiter_is_woken_or_finds_the_lock_free() {
    let flush = Arc::new(Flush::default());
    assert!(flush.try_lock());
    let holder = {
        let flush = Arc::clone(&flush);
        thread::spawn(move || flush.unlock_and_wake())
    };
    while !flush.try_lock() {
        ordering::announce_wait(&flush.waiting, 100);
        if flush.try_lock() {
            break;
        }
        flush.latch.wait_and_reset();
        ordering::end_wait(&flush.waiting);
    }
    holder.join().unwrap();
}

fn reader_of_the_tables_is_woken_or_sees_them() {
    let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0), Latch::default()));
    let startup = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (applied, waiting, latch) = &*shared;
            ordering::publish_position(applied, 100);
            ordering::before_looking_for_waiters();
            if ordering::awaited(waiting).is_some_and(|wanted| wanted <= 100) {
                latch.set();
            }
        })
    };
    let (applied, waiting, latch) = &*shared;
    ordering::announce_wait(waiting, 100);
    while ordering::published_position(applied) < 100 {
        latch.wait_and_reset();
    }
    ordering::end_wait(waiting);
    startup.join().unwrap();
}

fn bytes_of_a_claimed_page_are_thrown_away() {
    const OLD: u64 = 1;
    const NEW: u64 = 2;
    let (start, size, claimed) = (1000, 64, 1064);
    let shared = Arc::new((AtomicU64::new(claimed), AtomicU64::new(OLD)));
    let inserter = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            ordering::claim_page(&shared.0, claimed + 8);
            shared.1.store(NEW, Ordering::Relaxed);
        })
    };
    let (claimed, byte) = &*shared;
    if ordering::in_ring(claimed, start, size) {
        let copy = byte.load(Ordering::Relaxed);
        assert!(
            !ordering::copy_is_good(claimed, start, size) || copy == OLD,
            "a changed byte was taken for good"
        );
    }
    inserter.join().unwrap();
}

fn complete_record_is_seen_whole() {
    let shared = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let inserter = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.0.store(7, Ordering::Relaxed);
            ordering::publish_position(&shared.1, 100);
        })
    };
    if ordering::published_position(&shared.1) == 100 {
        assert_eq!(shared.0.load(Ordering::Relaxed), 7, "a byte below the end of the log");
    }
    inserter.join().unwrap();
}

/// The states of a session's place.
const IDLE: u32 = 0;
const READY: u32 = 1;
const TAKEN: u32 = 2;
const DONE: u32 = 3;

#[derive(Default)]
struct Place {
    state: AtomicU32,
    request: AtomicU64,
    answer: AtomicU64,
}

fn request_and_answer_arrive_or_are_withdrawn() {
    let place = Arc::new(Place::default());
    let startup = {
        let place = Arc::clone(&place);
        thread::spawn(move || {
            if ordering::take_place(&place.state, READY, TAKEN) {
                assert_eq!(place.request.load(Ordering::Relaxed), 7, "the request");
                place.answer.store(8, Ordering::Relaxed);
                ordering::give_away(&place.state, DONE);
            }
        })
    };
    place.request.store(7, Ordering::Relaxed);
    ordering::give_away(&place.state, READY);
    if !ordering::take_place(&place.state, READY, IDLE) {
        while !ordering::is_given(&place.state, DONE) {
            thread::yield_now();
        }
        assert_eq!(place.answer.load(Ordering::Relaxed), 8, "the answer");
    }
    startup.join().unwrap();
}

/// The place's answer is there, and waits for the horizon.
const WAITING: u32 = 4;

fn session_is_woken_for_an_answer_that_waits_for_the_horizon() {
    #[derive(Default)]
    struct Shared {
        horizon: AtomicU64,
        lsn: AtomicU64,
        place: Place,
        latch: Latch,
    }
    impl Shared {
        fn is_reached(&self) -> bool {
            ordering::published_position(&self.horizon) >= self.lsn.load(Ordering::Relaxed)
        }
    }
    let shared = Arc::new(Shared::default());
    let startup = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.place.answer.store(8, Ordering::Relaxed);
            shared.lsn.store(100, Ordering::Relaxed);
            ordering::give_away_waiting(&shared.place.state, WAITING);
            if shared.is_reached() {
                shared.latch.set();
            }
        })
    };
    let walsender = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            ordering::raise_position(&shared.horizon, 100);
            ordering::before_looking_for_waiters();
            if ordering::is_given(&shared.place.state, WAITING) && shared.is_reached() {
                shared.latch.set();
            }
        })
    };
    shared.latch.wait_and_reset();
    assert!(ordering::is_given(&shared.place.state, WAITING), "woken for nothing");
    assert_eq!(shared.place.answer.load(Ordering::Relaxed), 8, "the answer");
    assert!(shared.is_reached(), "woken too early");
    startup.join().unwrap();
    walsender.join().unwrap();
}

/// What a queue is to who sends and receives one message: its ends, and the message. (The queue itself has its own model.)
#[derive(Default)]
struct Queue {
    ends: AtomicU32,
    message: AtomicU64,
}

impl Queue {
    const SENDER: u32 = 1;
    const SENDER_LEFT: u32 = 2;
    const RECEIVER: u32 = 4;
    const RECEIVER_LEFT: u32 = 8;
    const RENEWING: u32 = 16;

    fn renew(&self) -> bool {
        let ends = self.ends.load(Ordering::Acquire);
        let in_use = ends & Queue::RECEIVER != 0 && ends & Queue::RECEIVER_LEFT == 0;
        if in_use
            || self.ends.compare_exchange(ends, Queue::RENEWING, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return false;
        }
        self.message.store(0, Ordering::Relaxed);
        self.ends.store(Queue::SENDER, Ordering::Release);
        true
    }

    fn attach_receiver(&self) -> bool {
        let barred = Queue::RECEIVER | Queue::RECEIVER_LEFT | Queue::RENEWING;
        let attach = |ends: u32| (ends & barred == 0).then_some(ends | Queue::RECEIVER);
        self.ends.fetch_update(Ordering::AcqRel, Ordering::Acquire, attach).is_ok()
    }

    fn leave(&self, end: u32) {
        self.ends.fetch_or(end, Ordering::Release);
    }

    fn sender_has_left(&self) -> bool {
        self.ends.load(Ordering::Acquire) & Queue::SENDER_LEFT != 0
    }
}

/// A session that sends a large request, takes it back if it still can, and then sends another.
#[derive(Default)]
struct LargePlace {
    state: AtomicU32,
    queue: Queue,
    session: Latch,
    startup: Latch,
    /// What the startup process has taken.
    taken: AtomicU64,
}

impl LargePlace {
    fn send(&self, request: u64) {
        while !self.queue.renew() {
            self.session.wait_and_reset();
        }
        ordering::give_away(&self.state, READY);
        self.queue.message.store(request, Ordering::Release);
        self.queue.leave(Queue::SENDER_LEFT);
        self.startup.set();
    }

    /// The startup process' turns, until it has taken a request.
    fn serve(&self) {
        let mut attached = false;
        loop {
            if ordering::is_given(&self.state, READY) {
                attached = attached || self.queue.attach_receiver();
                let request = if attached { self.queue.message.load(Ordering::Acquire) } else { 0 };
                let leave = || {
                    self.queue.leave(Queue::RECEIVER_LEFT);
                    self.session.set();
                };
                if request != 0 {
                    attached = false;
                    if ordering::take_whole(&self.state, READY, TAKEN, leave) {
                        self.taken.store(request, Ordering::Relaxed);
                        ordering::give_away(&self.state, DONE);
                        self.session.set();
                        return;
                    }
                }
            }
            if attached && ordering::is_taken_back(&self.state, READY, || self.queue.sender_has_left()) {
                attached = false;
                self.queue.leave(Queue::RECEIVER_LEFT);
                self.session.set();
            }
            self.startup.wait_and_reset();
        }
    }
}

fn large_request_is_never_taken_for_the_next_nor_left_alone() {
    let place = Arc::new(LargePlace::default());
    let startup = {
        let place = Arc::clone(&place);
        thread::spawn(move || place.serve())
    };
    place.send(1);
    let mut last = 1;
    if ordering::take_place(&place.state, READY, IDLE) {
        place.startup.set();
        last = 2;
        place.send(last);
    }
    while !ordering::is_given(&place.state, DONE) {
        place.session.wait_and_reset();
    }
    assert_eq!(place.taken.load(Ordering::Relaxed), last, "an older request was taken for this one");
    startup.join().unwrap();
}

const MODELS: [fn(); 6] = [
    flush_waiter_is_woken_or_finds_the_lock_free,
    reader_of_the_tables_is_woken_or_sees_them,
    bytes_of_a_claimed_page_are_thrown_away,
    complete_record_is_seen_whole,
    request_and_answer_arrive_or_are_withdrawn,
    session_is_woken_for_an_answer_that_waits_for_the_horizon,
];

/// The real code; in the process of a mutant, the mutant.
#[test]
fn nothing_is_lost_in_any_order() {
    if let Ok(name) = std::env::var(MUTANT) {
        let order = sync::ALL.into_iter().find(|order| format!("{order:?}") == name).unwrap();
        sync::LEFT_OUT.set(order).unwrap();
    }
    MODELS.into_iter().for_each(loom::model);
    // Too many orders of its steps for all of them; with two preemptions every mutant is found.
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(large_request_is_never_taken_for_the_next_nor_left_alone);
}

#[test]
fn checker_finds_every_order_that_is_left_out() {
    for order in sync::ALL {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_is_lost_in_any_order"])
            .env(MUTANT, format!("{order:?}"))
            .output()
            .unwrap();
        assert!(!output.status.success(), "nothing is lost without {order:?}");
    }
}

/// So that the twin stays one.
#[test]
fn every_order_has_its_strength() {
    let weak: Vec<Order> = sync::ALL.into_iter().filter(|order| order.get() == Ordering::Relaxed).collect();
    assert!(weak.is_empty(), "{weak:?}");
}
