//! A clone, a demotion and a switchover that are killed at any of their steps, or whose disk fails there, leave a directory that
//! doesn't start, or a node that has everything; the command, given again, does the rest.
//!
//! Method: the failpoints of these commands, every one of them (`failpoints.rs` visits all others).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use failpoint::{Action, Board, Moment, Point, Site};
use integration_tests::kills::deed::of_command;
use integration_tests::node::{Node, Role};
use integration_tests::scenario::Scenario;
use integration_tests::{procfs, programs, wait};
use sys::clock;

/// The points of a command, and what is to happen there: a kill, and the errors that can be met.
fn visits(command: &str) -> Vec<(Point, Action)> {
    let of_this = |point: &Point| of_command(*point) && point.site.name().starts_with(command);
    let visits = Point::all().filter(of_this).flat_map(|point| {
        let actions = [Action::Kill].into_iter().chain(point.errors().iter().copied());
        actions.map(move |action| (point, action))
    });
    let visits: Vec<_> = visits.collect();
    assert!(visits.len() > 2, "{command} has no failpoints");
    visits
}

fn armed(scenario: &Scenario, name: &str, point: Point, action: Action) -> (Board, std::path::PathBuf) {
    let path = scenario.path(name);
    let board = sys::failpoint::map(&path).unwrap();
    board.arm(point, action, 1, &[]);
    (board, path)
}

/// Runs `standby` with failpoints to its end.
fn run(board: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(programs::walship("standby-failpoints"));
    command.env(failpoint::VARIABLE, board).args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn primary(scenario: &Scenario) -> Node {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(x); INSERT INTO t VALUES (1), (2), (3)");
    primary
}

fn rows(node: &Node) -> String {
    node.value("SELECT group_concat(x) FROM t")
}

#[test]
fn clone_that_is_cut_off_anywhere_leaves_nothing_that_starts_without_its_rows() {
    let scenario = Scenario::new("cut-off-clone");
    let mut primary = primary(&scenario);
    for (number, (point, action)) in visits("clone").into_iter().enumerate() {
        let (board, path) = armed(&scenario, &format!("points{number}"), point, action);
        let mut node = Node::at(&scenario, &format!("standby{number}"), Role::Standby);
        let dir = node.dir().display().to_string();
        let conninfo = primary.conninfo("standby");
        let output = run(&path, &["clone", "-D", &dir, "--from", &conninfo]);
        assert!(board.done_by(point).is_some(), "nothing came by {point}");
        assert!(!output.status.success(), "{action} {point}");
        let complete = node.dir().join("control").exists();
        if action == Action::Kill {
            let start = node.try_start();
            assert_eq!(start.is_ok(), complete, "{action} {point}: {start:?}");
            if complete {
                node.wait_level_with(&primary);
                assert_eq!(rows(&node), "1,2,3", "{action} {point}");
                node.stop();
                continue;
            }
            fs::remove_dir_all(node.dir()).unwrap();
        } else {
            assert!(said(&output).contains("could not"), "{action} {point}: {}", said(&output));
            assert!(!node.dir().exists(), "{action} {point}: a directory is left");
        }
        let again = node.command(&["clone", "-D", &dir, "--from", &conninfo]);
        assert!(again.status.success(), "after {action} {point}: {}", said(&again));
    }
    primary.stop();
}

#[test]
fn demotion_that_is_cut_off_anywhere_is_completed_by_the_next_one() {
    let scenario = Scenario::new("cut-off-demotion");
    let mut primary = primary(&scenario);
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    standby.start();
    standby.wait_level_with(&primary);
    standby.stop();
    // Messages change no table; but in another segment the tables note that they have come so far.
    for _ in 0..4 {
        primary.query("SELECT pg_logical_emit_message(true, 'x', hex(zeroblob(400000)))");
    }
    primary.query("CHECKPOINT");
    primary.stop();
    standby.start();
    standby.promote();
    standby.query("INSERT INTO t VALUES (4)");
    for (number, (point, action)) in visits("demote").into_iter().enumerate() {
        let mut former = Node::at(&scenario, &format!("former{number}"), Role::Standby);
        let copied = Command::new("cp").arg("-a").arg(primary.dir()).arg(former.dir()).status().unwrap();
        assert!(copied.success());
        let (board, path) = armed(&scenario, &format!("points{number}"), point, action);
        let (dir, conninfo) = (former.dir().display().to_string(), standby.conninfo("former"));
        let demote = ["demote", "-D", &dir, "--from", &conninfo];
        let output = run(&path, &demote);
        assert!(board.done_by(point).is_some(), "nothing came by {point}: {}", said(&output));
        let again = former.command(&demote);
        assert!(again.status.success(), "after {action} {point}: {}", said(&again));
        former.start();
        former.wait_level_with(&standby);
        assert_eq!(rows(&former), "1,2,3,4", "{action} {point}");
        former.stop();
    }
    standby.stop();
}

/// There is one primary at the end of it, with all rows: the one that was, and then the switchover can be done again, or the one
/// that was to be, and then the other can be made its standby.
#[test]
fn switchover_that_is_cut_off_anywhere_leaves_one_primary() {
    let scenario = Scenario::new("cut-off-switchover");
    for (number, (point, action)) in visits("switchover").into_iter().enumerate() {
        let scenario_name = |name: &str| format!("{name}{number}");
        let mut old = Node::init(&scenario, &scenario_name("primary"), &["--wal-segsize", "1MB"]);
        old.set("restart_after_crash=off");
        let (board, path) = armed(&scenario, &scenario_name("points"), point, action);
        old.failpoints = Some(path.clone());
        old.start();
        // With the port that it has from now on.
        old.restart();
        old.query("CREATE TABLE t(x); INSERT INTO t VALUES (1), (2), (3)");
        let mut new = Node::clone_of(&scenario, &scenario_name("standby"), &old);
        new.start();
        old.wait_streams(1);
        new.wait_level_with(&old);
        let dir = new.dir().display().to_string();
        let command = ["promote", "-D", &dir, "--switchover", "-t", "2"];
        let output = run(&path, &command);
        assert!(board.done_by(point).is_some(), "nothing came by {point}: {}", said(&output));
        old.failpoints = None;
        let is_primary = |node: &Node| {
            let mut client = node.try_client().ok()?;
            let answer = client.query("SELECT pg_is_in_recovery()").ok()?;
            (answer.rows[0][0].as_deref() == Some("f")).then_some(())
        };
        let promoted = wait::until("one primary", || {
            if is_primary(&new).is_some() {
                return Some(true);
            }
            // One that was killed in the midst of it starts as what it is: a primary, unless it had done its part.
            if old.has_ended() && !has_ended_well(&old) {
                old.set("restart_after_crash=on");
                old.start();
            }
            (is_primary(&old).is_some() && !old.dir().join("hand_over").exists()).then_some(false)
        });
        if promoted {
            assert!(is_primary(&old).is_none(), "{action} {point}: two primaries");
            let follows = wait::within(wait::DEADLINE, || {
                (old.has_ended() || old.dir().join("standby.signal").exists()).then_some(())
            });
            assert!(follows.is_some(), "{action} {point}: the old primary does nothing");
            if old.has_ended() {
                old.run_as(Role::Standby);
                let dir = old.dir().display().to_string();
                let demoted = old.command(&["demote", "-D", &dir, "--from", &new.conninfo("old")]);
                assert!(demoted.status.success(), "after {action} {point}: {}", said(&demoted));
                old.start();
            }
            new.query("INSERT INTO t VALUES (4)");
            wait::until("the old primary to follow", || (old.try_client().is_ok()).then_some(()));
            old.wait_level_with(&new);
        } else {
            old.query("INSERT INTO t VALUES (4)");
            wait::until("the standby to stream", || {
                (old.rows("SELECT state FROM pg_stat_replication") == [["streaming"]]).then_some(())
            });
            let again = new.command(&command[..4]);
            assert!(again.status.success(), "after {action} {point}: {}", said(&again));
        }
        assert_eq!(rows(&new), "1,2,3,4", "{action} {point}");
        new.stop();
        old.kill_all();
        assert!(procfs::with_argument(&dir).is_empty(), "{action} {point}");
    }
}

/// A command that is killed can't withdraw what it asked of its node, but that counts no longer than it would have waited.
#[test]
fn switchover_that_was_asked_for_by_a_killed_command_expires() {
    let scenario = Scenario::new("expired-switchover");
    let mut old = primary(&scenario);
    let mut new = Node::clone_of(&scenario, "standby", &old);
    new.start();
    new.wait_level_with(&old);
    let point = Point { site: Site::SwitchoverAsk, moment: Moment::Before };
    let (board, path) = armed(&scenario, "points", point, Action::Kill);
    run(&path, &["promote", "-D", new.dir().to_str().unwrap(), "--switchover", "-t", "1"]);
    assert!(board.done_by(point).is_some(), "nothing came by {point}");
    let until: i64 = fs::read_to_string(new.dir().join("switchover")).unwrap().parse().unwrap();
    wait::until("the request to expire", || (clock::unix_micros() >= until).then_some(()));
    old.stop();
    new.wait_log("the switchover request has expired");
    assert_eq!(new.value("SELECT pg_is_in_recovery()"), "t");
    new.stop();
}

/// Whether a node's last life ended with all of its log sent.
fn has_ended_well(node: &Node) -> bool {
    !node.log().contains("because restart_after_crash is off")
}
