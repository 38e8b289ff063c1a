//! The configuration on its way from the postmaster to everybody else.

use std::sync::atomic::Ordering;

use ipc::barrier::BarrierTypes;
use ipc::interrupt::Interrupts;
use ipc::pm_signal::PmSignal;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::WaitEventSet;
use sender::configuration::Files;
use sender::datadir::DataDir;
use sender::node::Node;
use settings::Settings;
use settings::file::BYTES_MAX;
use sys::clock;
use sys::signal::Signal;
use wal::timestamp::Timestamp;
use wire::hba::{Applicant, Rules};

use crate::harness::{Child, DEADLINE, TestNode, backend};

/// Versions published one after the other, and who reads them.
const PUBLISHED: u64 = 30_000;
const READERS: usize = 3;
/// Changes whose absorption is waited for.
const CHANGES: u32 = 300;

fn start(dir: &tempfile::TempDir) -> TestNode {
    TestNode::start(&DataDir::new(dir.path().join("data")), 4)
}

/// A text that says at both of its ends which it is, as long as one may be.
fn text(mark: u64) -> String {
    let (first, last) = (format!("application_name = 'v{mark}'\n#"), format!("\nsearch_path = 'v{mark}'\n"));
    let filler = "x".repeat(BYTES_MAX - first.len() - last.len());
    format!("{first}{filler}{last}")
}

/// Rules that say which text they belong to, if it says, as many as fit.
fn rules(text: &str) -> String {
    let mark = text.split('\'').nth(1).unwrap_or("all");
    let one = format!("local {mark} all trust\n");
    one.repeat(BYTES_MAX / 64 / one.len())
}

fn publish(node: &Node, settings: Settings, text: &str) {
    let hba = rules(text);
    let rules = Rules::parse(&hba).unwrap();
    node.configuration.publish(settings, rules, Files { conf: text, hba: &hba }, Timestamp(0));
}

pub(crate) fn texts_are_taken_over_whole_however_fast_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let test = start(&dir);
    let node = test.node;
    let readers: Vec<Child> = (0..READERS)
        .map(|index| {
            test.backend(index, |_| {
                let mut seen = 0;
                while node.configuration.version() < PUBLISHED {
                    node.configuration.refresh();
                    let (version, settings) = (node.configuration.version(), node.settings());
                    assert!(version >= seen, "{version} after {seen}");
                    seen = version;
                    if version > 0 {
                        let mark = format!("v{}", version % 4);
                        assert_eq!([&settings.application_name, &settings.search_path], [&mark, &mark]);
                        let who = Applicant {
                            address: None,
                            database: &mark,
                            physical_replication: false,
                            user: "x",
                        };
                        assert!(node.configuration.hba().find(&who, &Vec::new).is_some(), "{mark}");
                    }
                }
            })
        })
        .collect();
    let versions: Vec<(Settings, String)> = (0..4)
        .map(|mark| {
            let text = text(mark);
            (node.settings().reload(&text, &[]).unwrap().settings, text)
        })
        .collect();
    for version in 1..=PUBLISHED {
        let (settings, text) = &versions[usize::try_from(version % 4).unwrap()];
        publish(node, settings.clone(), text);
    }
    readers.iter().for_each(|child| child.join_well("a reader"));
}

/// Absorbs until SIGTERM. Asked after a change, it says which version it has had by then; the questions up to `answered` were
/// for others.
fn answer(test: &TestNode, me: Me, index: usize, mut answered: u32) {
    test.node.enter(me);
    loop {
        me.latch().reset();
        let round = test.board.round.load(Ordering::Acquire);
        if round > answered {
            // Before this turn absorbs anything.
            test.board.inserted[index].store(test.node.configuration.version(), Ordering::Relaxed);
            test.board.arrived.fetch_add(1, Ordering::Release);
            me.pm_signal(PmSignal::NONE);
            answered = round;
        }
        test.node.attend(&me);
        if me.pending().contains(Interrupts::TERMINATE) {
            return;
        }
        sender::wait::wait_latch(&me, None, WaitEvent::PgSleep);
    }
}

/// Waits as the postmaster does, until `over`.
fn wait(test: &TestNode, mut over: impl FnMut() -> bool) {
    let mut set = WaitEventSet::for_postmaster(&test.postmaster, 1).unwrap();
    set.add_latch().unwrap();
    let deadline = clock::now().saturating_add(DEADLINE);
    loop {
        test.postmaster.latch().reset();
        if over() {
            return;
        }
        let left = deadline.saturating_since(clock::now());
        let mut occurred = Vec::new();
        set.wait(Some(left), WaitEvent::PostmasterMain, &mut occurred).unwrap();
        assert!(!occurred.is_empty(), "waited too long");
    }
}

pub(crate) fn changes_reach_who_was_forked_before_meanwhile_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let test = start(&dir);
    let node = test.node;
    let stays = test.backend(0, |me| answer(&test, me, 0, 0));
    for change in 1..=CHANGES {
        let text = format!("statement_timeout = {change}");
        let settings = node.settings().reload(&text, &[]).unwrap().settings;
        // It knows the version before, and attaches whenever it may.
        let before = test.backend(1, |me| answer(&test, me, 1, change - 1));
        publish(node, settings, &text);
        let meanwhile = test.backend(2, |me| answer(&test, me, 2, change - 1));
        let barrier = test.postmaster.barrier_wait(test.postmaster.emit_barrier(BarrierTypes::CONFIG_RELOAD));
        let after = test.backend(3, |me| answer(&test, me, 3, change - 1));
        wait(&test, || barrier.is_over());
        test.board.arrived.store(0, Ordering::Relaxed);
        test.board.round.store(change, Ordering::Release);
        let children = [&stays, &before, &meanwhile, &after];
        (0..children.len()).for_each(|index| node.procs.set_latch(backend(index)));
        wait(&test, || test.board.arrived.load(Ordering::Acquire) as usize == children.len());
        let versions = [0, 1, 2, 3].map(|index: usize| test.board.inserted[index].load(Ordering::Relaxed));
        assert_eq!(versions, [u64::from(change); 4]);
        for (index, child) in children.iter().enumerate().skip(1) {
            child.kill(Signal::Term);
            child.join_well("a child");
            assert!(node.procs.release(backend(index)));
        }
    }
    stays.kill(Signal::Term);
    stays.join_well("the child that stays");
}
