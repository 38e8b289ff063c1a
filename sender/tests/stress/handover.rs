//! Sessions, a stand-in for the startup process, and what they hand over: requests, outcomes, how far the tables are.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::proc::{BackendType, ProcNumber};
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sender::recovery_state::{Waited, wait_applied};
use sender::requests::asked::{Answered, Asked};
use sender::requests::desk::Desk;
use sender::sync_rep::{self, Awaited, Confirmation};
use sys::clock;
use sys::process::ExitStatus;
use sys::signal::Signal;
use wal::lsn::Lsn;

use crate::harness::{Child, DEADLINE, Random, TestNode, backend, pass, pattern, seed};

const REQUESTS: u64 = 4000;
/// One session alone needs each wake-up; several share the writer.
const SESSIONS: [usize; 2] = [1, 5];
/// Longer than the rings of the queues.
const LARGE: u64 = 600_000;

pub(crate) fn requests_and_outcomes_stay_whole_and_nobody_waits_for_ever() {
    let seed = seed("requests");
    for sessions in SESSIONS {
        let dir = tempfile::tempdir().unwrap();
        let test = TestNode::start(&sender::datadir::DataDir::new(dir.path().join("data")), 4);
        let writer = test.child(ProcNumber::STARTUP, BackendType::Startup, |me| answer_requests(&test, me));
        let mover =
            test.child(ProcNumber::WAL_WRITER, BackendType::WalWriter, |me| move_the_horizon(&test, me));
        let children: Vec<Child> = (0..sessions)
            .map(|index| test.backend(index, |me| ask_many(&test, me, Random::new(seed + index as u64))))
            .collect();
        children.iter().for_each(|child| child.join_well("a session"));
        for (process, name) in [(writer, "the writer"), (mover, "who moves the horizon")] {
            process.kill(Signal::Term);
            process.join_well(name);
        }
        assert!(!test.node.requests.any_ready());
    }
}

/// In the place of a walsender whose standby confirms what answers rest on: moves the horizon to the end of the log, and so
/// wakes the sessions that nobody else wakes.
fn move_the_horizon(test: &TestNode, me: Me) -> i32 {
    let (wal, recovery) = (test.node.wal, test.node.recovery);
    recovery.in_recovery.store(0, Ordering::Release);
    loop {
        me.latch().reset();
        if me.take(Interrupts::TERMINATE).contains(Interrupts::TERMINATE) {
            return 0;
        }
        wal.flushed.store(wal.insert_lsn().0, Ordering::Release);
        if !sync_rep::advance(test.node) {
            ipc::wait_latch(&me, None, WaitEvent::WalWriterMain).unwrap();
        }
    }
}

/// A session: each request says which it is, and so must its answer. Some are taken back, at once or in the midst.
fn ask_many(test: &TestNode, me: Me, mut random: Random) {
    let own = u64::from(me.number().0);
    let mut withdrawn = 0;
    for number in 0..REQUESTS {
        let length = 16 + random.below(if number % 20 == 0 { LARGE } else { 300 });
        let request = stamped(own, number, length as usize);
        let mut asked = test.node.requests.submit(me, &request, None);
        let patience = if random.below(6) == 0 { random.below(4) } else { u64::MAX };
        withdrawn += u64::from(wait_for_answer(me, own, number, &mut asked, patience).is_none());
    }
    assert!((1..REQUESTS).contains(&withdrawn), "{withdrawn} of {REQUESTS} were taken back");
}

/// Waits for the answer, which must be right; None: taken back after `patience` looks.
fn wait_for_answer(
    me: Me,
    own: u64,
    number: u64,
    asked: &mut Asked<'_>,
    mut patience: u64,
) -> Option<Vec<u8>> {
    loop {
        me.latch().reset();
        if patience > 0
            && let Some(Answered { answer, .. }) = asked.progress()
        {
            assert!(answer == stamped(own, number, answer.len()), "answer to {number} of {own}");
            return Some(answer);
        }
        if patience == 0 && asked.withdraw() {
            return None;
        }
        // Whoever can't take it back has to wait for the answer.
        let must_wait = patience == 0;
        patience = if must_wait { u64::MAX } else { patience - 1 };
        if must_wait || patience.is_multiple_of(2) {
            continue;
        }
        let woken = ipc::wait_latch(&me, Some(DEADLINE / 2), asked.wait_event()).unwrap();
        assert!(woken, "nobody wakes {asked:?} for {number} of {own}");
    }
}

/// The writer: takes what is there, checks it, answers with as many bytes as the request's number tells.
fn answer_requests(test: &TestNode, me: Me) -> i32 {
    let mut desk = Desk::new(test.node, me);
    let mut first = ProcNumber::FIRST_BACKEND;
    loop {
        me.latch().reset();
        let batch = desk.take(first, 3);
        if batch.is_empty() {
            if me.take(Interrupts::TERMINATE).contains(Interrupts::TERMINATE) {
                let left = format!("{desk:?}");
                assert!(left.contains("incoming: [], outgoing: [], held: 0"), "{left}");
                return 0;
            }
            ipc::wait_latch(&me, None, WaitEvent::StartupMain).unwrap();
        }
        for taken in batch {
            let (own, number) = stamp_of(&taken.request);
            assert_eq!(own, u64::from(taken.session.0));
            assert!(taken.request == stamped(own, number, taken.request.len()), "request {number} of {own}");
            let most = if number % 25 == 0 { LARGE } else { 2000 };
            let length = 16 + number * 3637 % most;
            let mut lsn = Lsn::INVALID;
            if number.is_multiple_of(3) {
                lsn = Lsn(test.node.wal.insert_end.fetch_add(8, Ordering::AcqRel) + 8);
                // Often behind the answer, so that the session has to be woken for it.
                if number.is_multiple_of(2) {
                    me.procs().set_latch(ProcNumber::WAL_WRITER);
                }
            }
            let confirmation = if number % 2 == 0 { Confirmation::Durable } else { Confirmation::Applied };
            let rests_on = Awaited { lsn, confirmation };
            desk.answer(taken.session, stamped(own, number, length as usize), rests_on);
            me.procs().set_latch(ProcNumber::WAL_WRITER);
            first = ProcNumber(taken.session.0 + 1);
        }
    }
}

/// Goes on with what was asked until it waits in `midst`; false: the answer was whole before that was seen.
fn stands_in_the_midst(me: Me, asked: &mut Asked<'_>, midst: WaitEvent) -> bool {
    loop {
        me.latch().reset();
        if asked.progress().is_some() {
            return false;
        }
        if asked.wait_event() == midst {
            return true;
        }
        assert!(ipc::wait_latch(&me, Some(DEADLINE), midst).unwrap(), "nobody wakes {asked:?}");
    }
}

/// Two sessions are stopped in the midst of a large request and of a large answer, and one is killed: the others are served,
/// what the stopped ones wait for is whole when they go on, and nothing is kept for the dead one.
pub(crate) fn session_that_stands_still_in_the_midst_delays_nobody() {
    const SENDS: usize = 0;
    const TAKES: usize = 1;
    const DIES: usize = 2;
    const OTHER: usize = 3;
    let dir = tempfile::tempdir().unwrap();
    let test = TestNode::start(&sender::datadir::DataDir::new(dir.path().join("data")), 4);
    let writer = test.child(ProcNumber::STARTUP, BackendType::Startup, |me| answer_requests(&test, me));
    let mover = test.child(ProcNumber::WAL_WRITER, BackendType::WalWriter, |me| move_the_horizon(&test, me));
    // Numbers whose answers `answer_requests` makes larger than a ring.
    let large_answers = (1..).map(|round| round * 25).filter(|number| 16 + number * 3637 % LARGE > LARGE / 2);
    let in_the_midst = |index: usize, stop: Option<Signal>| {
        let mut large_answers = large_answers.clone();
        test.backend(index, move |me| {
            let own = u64::from(me.number().0);
            let sends = index != TAKES;
            let midst = if sends { WaitEvent::MessageQueueSend } else { WaitEvent::MessageQueueReceive };
            // A writer that is quick enough leaves no moment at which a request is half way: another one, then.
            loop {
                let number = if sends { 1 } else { large_answers.next().unwrap() };
                let request = stamped(own, number, if sends { LARGE as usize } else { 100 });
                let mut asked = test.node.requests.submit(me, &request, None);
                if !stands_in_the_midst(me, &mut asked, midst) {
                    continue;
                }
                test.board.arrived.fetch_add(1, Ordering::AcqRel);
                if let Some(signal) = stop {
                    sys::process::kill(sys::process::current_pid(), signal).unwrap();
                }
                assert!(wait_for_answer(me, own, number, &mut asked, u64::MAX).is_some());
                return;
            }
        })
    };
    let sends = in_the_midst(SENDS, Some(Signal::Stop));
    let takes = in_the_midst(TAKES, Some(Signal::Stop));
    let dies = in_the_midst(DIES, Some(Signal::Kill));
    let patience = clock::now().saturating_add(DEADLINE);
    while test.board.arrived.load(Ordering::Acquire) < 3 {
        assert!(clock::now() < patience, "a session doesn't come to the midst of its request");
        pass(Duration::from_millis(1));
    }
    assert_eq!(dies.join("the killed session"), ExitStatus::Signaled(9));
    test.node.procs.release(backend(DIES));
    let other = test.backend(OTHER, |me| ask_many(&test, me, Random::new(7)));
    other.join_well("a session that goes on");
    sends.kill(Signal::Cont);
    takes.kill(Signal::Cont);
    sends.join_well("the session whose request was half way");
    takes.join_well("the session whose answer was half way");
    for (process, name) in [(writer, "the writer"), (mover, "who moves the horizon")] {
        process.kill(Signal::Term);
        process.join_well(name);
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
        let acknowledged = recovery.acknowledged();
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
