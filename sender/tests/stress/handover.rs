//! Sessions, a stand-in for the startup process, and what they hand over: requests, outcomes, how far the tables are.

use std::sync::atomic::Ordering;

use ipc::interrupt::Interrupts;
use ipc::proc::{BackendType, ProcNumber};
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sender::recovery_state::{Waited, wait_applied};
use sys::signal::Signal;
use wal::lsn::Lsn;

use crate::harness::{Child, Random, TestNode, backend, pattern, seed};

const REQUESTS: u64 = 4000;
/// One session alone needs each wake-up; several share the writer.
const SESSIONS: [usize; 2] = [1, 5];

pub(crate) fn requests_and_outcomes_stay_whole_and_nobody_waits_for_ever() {
    let seed = seed("requests");
    for sessions in SESSIONS {
        let dir = tempfile::tempdir().unwrap();
        let test = TestNode::start(&sender::datadir::DataDir::new(dir.path().join("data")), 4);
        let writer = test.child(ProcNumber::STARTUP, BackendType::Startup, |me| answer_requests(&test, me));
        let children: Vec<Child> = (0..sessions)
            .map(|index| test.backend(index, |me| ask(&test, me, Random::new(seed + index as u64))))
            .collect();
        children.iter().for_each(|child| child.join_well("a session"));
        writer.kill(Signal::Term);
        writer.join_well("the writer");
        assert!(!test.node.requests.any_ready());
    }
}

/// A session: each request says which it is, and so must its answer.
fn ask(test: &TestNode, me: Me, mut random: Random) {
    let requests = test.node.requests;
    let own = u64::from(me.number().0);
    let mut withdrawn = 0;
    for number in 0..REQUESTS {
        let length = 16 + random.below(if number % 100 == 0 { 60_000 } else { 300 });
        assert!(requests.submit(me.number(), &stamped(own, number, length as usize), None));
        test.node.wake_startup();
        if random.below(8) == 0 && requests.withdraw(me.number()) {
            withdrawn += 1;
            continue;
        }
        let answer = loop {
            me.latch().reset();
            if let Some(answer) = requests.outcome(me.number()) {
                break answer;
            }
            ipc::wait_latch(&me, None, WaitEvent::WriterOutcome).unwrap();
        };
        let answered = answer.len();
        assert!(answer == stamped(own, number, answered), "answer to {number} of {own}");
    }
    assert!(withdrawn < REQUESTS, "nothing was ever answered");
}

/// The writer: takes what is there, checks it, answers with as many bytes as the request's number tells.
fn answer_requests(test: &TestNode, me: Me) -> i32 {
    let mut first = ProcNumber::FIRST_BACKEND;
    loop {
        me.latch().reset();
        let batch = test.node.requests.take(first, 3);
        if batch.is_empty() {
            if me.take(Interrupts::TERMINATE).contains(Interrupts::TERMINATE) {
                return 0;
            }
            ipc::wait_latch(&me, None, WaitEvent::StartupMain).unwrap();
        }
        for taken in batch {
            let (own, number) = stamp_of(&taken.request);
            assert_eq!(own, u64::from(taken.session.0));
            assert!(taken.request == stamped(own, number, taken.request.len()), "request {number} of {own}");
            let length = 16 + number * 37 % 2000;
            test.node.requests.answer(taken.session, &stamped(own, number, length as usize));
            test.node.procs.set_latch(taken.session);
            first = ProcNumber(taken.session.0 + 1);
        }
    }
}

/// `length` bytes that begin with owner and number.
fn stamped(owner: u64, number: u64, length: usize) -> Vec<u8> {
    let mut bytes = [owner.to_le_bytes(), number.to_le_bytes()].concat();
    bytes.extend(pattern(owner, number, length - bytes.len()));
    bytes
}

fn stamp_of(bytes: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (word(0), word(8))
}

pub(crate) fn readers_that_wait_for_the_tables_are_all_woken() {
    for readers in SESSIONS {
        let dir = tempfile::tempdir().unwrap();
        let test = TestNode::start(&sender::datadir::DataDir::new(dir.path().join("data")), 4);
        let writer = test.child(ProcNumber::STARTUP, BackendType::Startup, |me| apply(&test, me));
        let children: Vec<Child> = (0..readers)
            .map(|index| {
                test.backend(index, |me| {
                    for _ in 0..REQUESTS {
                        // As a write of one's own: it is acknowledged, then read.
                        let lsn = test.node.recovery.acknowledged.fetch_add(1, Ordering::AcqRel) + 1;
                        let waited = wait_applied(
                            test.node,
                            &me,
                            Lsn(lsn),
                            || false,
                            || drop(ipc::wait_latch(&me, None, WaitEvent::TableApply)),
                        );
                        assert_eq!(waited, Waited::Applied);
                        assert!(test.node.recovery.applied() >= Lsn(lsn));
                    }
                })
            })
            .collect();
        children.iter().for_each(|child| child.join_well("a reader"));
        assert_eq!(test.node.recovery.applied(), Lsn(REQUESTS * readers as u64));
        assert!(
            (0..readers)
                .all(|index| test.node.apply_waits[backend(index).index()].load(Ordering::Relaxed) == 0)
        );
        assert!(!test.node.recovery.has_waiters());
        writer.kill(Signal::Term);
        writer.join_well("the writer");
    }
}

/// The stand-in: commits what is acknowledged as soon as a reader waits for it.
fn apply(test: &TestNode, me: Me) -> i32 {
    let recovery = test.node.recovery;
    loop {
        me.latch().reset();
        let acknowledged = Lsn(recovery.acknowledged.load(Ordering::Acquire));
        if acknowledged > recovery.applied() {
            recovery.publish_applied(test.node, acknowledged);
            continue;
        }
        if me.take(Interrupts::TERMINATE).contains(Interrupts::TERMINATE) {
            return 0;
        }
        ipc::wait_latch(&me, None, WaitEvent::StartupMain).unwrap();
    }
}
