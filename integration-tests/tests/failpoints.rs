//! At every failpoint that there is, a process that is killed, and a postmaster that is, lose nothing that was
//! acknowledged; nor does a disk that fails there.
//!
//! Method: a primary and a standby with failpoints. One point after the other is armed, and errands are run until
//! somebody has come by: a load, full segments, a crash, a stop, a kill. A point that nobody comes by fails the test, so a new one
//! needs an errand that reaches it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::time::Duration;

use failpoint::{Action, Moment, Point, Process, Site};
use integration_tests::kills::deed::{is_usual, of_promotion};
use integration_tests::kills::points::Walk;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::{procfs, programs, wait};
use sys::process::{self, Pid};
use sys::signal::Signal;

/// Visits points, each for each of its actions, with a pair of these settings.
fn walk(
    name: &str,
    settings: &[&str],
    points: impl Iterator<Item = Point>,
    actions: impl Fn(Point) -> Vec<Action>,
) {
    let scenario = Scenario::new(name);
    let mut walk = Walk::start(&scenario, settings).unwrap_or_else(|what| panic!("{what}"));
    for point in points {
        for action in actions(point) {
            if let Err(what) = walk.visit(point, action, &mut io::stdout()) {
                panic!("{what}");
            }
        }
    }
    walk.end().unwrap_or_else(|what| panic!("{what}"));
}

/// A node restarts within its postmaster once a second at most; one that ends is started again at once.
const ENDS: [&str; 1] = ["restart_after_crash=off"];

/// All but those that other tests visit: two of them here, those of commands in `commands_cut_off.rs`.
fn usual() -> impl Iterator<Item = Point> {
    Point::all().filter(|point| !of_restart(point) && is_usual(*point))
}

/// What only a restart within the postmaster comes by.
fn of_restart(point: &Point) -> bool {
    point.site == Site::Reinitialize
}

#[test]
fn process_that_is_killed_at_any_point_loses_nothing() {
    walk("points-kill", &ENDS, usual(), |_| vec![Action::Kill]);
}

#[test]
fn postmaster_that_is_killed_while_a_process_is_at_any_point_loses_nothing() {
    walk("points-postmaster", &ENDS, usual(), |_| vec![Action::KillPostmaster]);
}

#[test]
fn kill_while_a_node_restarts_loses_nothing() {
    let kills = |_| vec![Action::Kill, Action::KillPostmaster];
    walk("points-restart", &[], Point::all().filter(of_restart), kills);
}

#[test]
fn disk_that_fails_at_any_point_loses_nothing() {
    walk("points-errors", &ENDS, usual(), |point| point.errors().to_vec());
}

/// A standby is killed at each step of its promotion, started, and promoted again if it is still one: it has all rows, and
/// takes more.
#[test]
fn promotion_that_is_cut_off_at_any_point_loses_nothing() {
    let scenario = Scenario::new("points-promotion");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(x); INSERT INTO t VALUES (1), (2), (3)");
    let points = Point::all().filter(|point| of_promotion(*point));
    let actions = [Action::Kill, Action::KillPostmaster];
    for (number, (point, action)) in
        points.flat_map(|point| actions.map(|action| (point, action))).enumerate()
    {
        let mut node = Node::clone_of(&scenario, &format!("standby{number}"), &primary);
        let path = scenario.path(&format!("failpoints{number}"));
        let board = sys::failpoint::map(&path).unwrap();
        node.failpoints = Some(path);
        node.set(ENDS[0]);
        node.start();
        let end = primary.lsn("pg_current_wal_flush_lsn");
        wait::until("the standby to follow", || (node.lsn("pg_last_wal_replay_lsn") >= end).then_some(()));
        board.arm(point, action, 1, &[]);
        let promote = ["promote", "-D", node.dir().to_str().unwrap(), "-t", "5"];
        let _cut_off = node.command(&promote);
        assert!(board.done_by(point).is_some(), "nothing came by {point}");
        node.wait_end();
        let dir = node.dir().display().to_string();
        wait::until("its children to be gone", || {
            procfs::with_argument(&dir).iter().all(|pid| !procfs::runs(*pid)).then_some(())
        });
        node.start();
        if node.value("SELECT pg_is_in_recovery()") == "t" {
            node.promote();
        }
        node.query("INSERT INTO t VALUES (4)");
        assert_eq!(node.value("SELECT group_concat(x) FROM t"), "1,2,3,4", "{action} {point}");
        node.stop();
    }
    primary.stop();
}

#[test]
fn paused_process_does_nothing_until_it_is_released() {
    let scenario = Scenario::new("points-pause");
    let mut node = Node::init(&scenario, "primary", &[]);
    let path = scenario.path("failpoints");
    let board = sys::failpoint::map(&path).unwrap();
    node.failpoints = Some(path);
    node.start();
    node.query("CREATE TABLE t(x)");
    let startup = node.process("startup");
    let before_outcome = Point { site: Site::OutcomeSent, moment: Moment::Before };
    board.arm(before_outcome, Action::Pause, 2, &[Process::Startup]);
    let mut client = node.client();
    client.query("INSERT INTO t VALUES (1)").unwrap();
    client.send_query("INSERT INTO t VALUES (2)").unwrap();
    let pid = wait::until("the second outcome", || board.done_by(before_outcome).map(Pid));
    wait::until("the process to stop", || procfs::stopped(pid).then_some(()));
    assert_eq!(pid, startup);
    client.set_read_timeout(Duration::from_millis(200));
    assert!(client.read_message().is_err(), "an answer of a process that is stopped before it");
    client.set_read_timeout(wait::DEADLINE);
    process::kill(pid, Signal::Cont).unwrap();
    assert!(client.read_answer().unwrap().error.is_none());
    node.stop();
}

#[test]
fn programs_of_users_have_no_failpoints() {
    let has_them = |name: &str| {
        let program = std::fs::read(programs::walship(name)).unwrap();
        program.windows(failpoint::VARIABLE.len()).any(|bytes| bytes == failpoint::VARIABLE.as_bytes())
    };
    for name in ["primary", "standby"] {
        assert!(!has_them(name), "{name}");
        assert!(has_them(&format!("{name}-failpoints")), "{name}");
    }
}
