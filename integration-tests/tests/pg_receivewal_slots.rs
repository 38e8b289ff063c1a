//! PostgreSQL's own pg_receivewal makes slots here, streams by them, begins where they keep the log from, and drops them.
//!
//! The steps of its test 020_pg_receivewal that are about slots.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use integration_tests::commands::{Said, finish, postgres_command, psql_replication};
use integration_tests::log_surgery::Log;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use wal::lsn::Lsn;

fn receivewal(node: &Node, arguments: &[&str]) -> Said {
    let mut command = postgres_command("pg_receivewal", node);
    command.args(arguments);
    finish(command.spawn().unwrap())
}

fn fill(node: &Node) {
    node.query("INSERT INTO t VALUES (1)");
    node.query("SELECT pg_switch_wal()");
}

fn end(node: &Node) -> String {
    node.value("SELECT pg_current_wal_lsn()")
}

/// Names of complete and incomplete segments, in order.
fn received(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const SLOT: &str = "SELECT restart_lsn IS NULL, active FROM pg_replication_slots WHERE slot_name = 'test'";

fn primary(scenario: &Scenario) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    node.set("wal_keep_size=0");
    node.start();
    node.query("CREATE TABLE t(x)");
    node
}

#[test]
fn pg_receivewal_makes_and_drops_slots() {
    let scenario = Scenario::new("receivewal-makes-slots");
    let mut node = primary(&scenario);
    receivewal(&node, &["--slot", "test", "--create-slot"]).assert_success("--create-slot");
    assert_eq!(node.rows(SLOT), [["1", "f"]]);
    let again = receivewal(&node, &["--slot", "test", "--create-slot"]);
    assert_ne!(again.status, Some(0));
    assert!(again.err.contains("replication slot \"test\" already exists"), "{}", again.err);
    let again = receivewal(&node, &["--slot", "test", "--create-slot", "--if-not-exists"]);
    again.assert_success("--if-not-exists");
    receivewal(&node, &["--slot", "test", "--drop-slot"]).assert_success("--drop-slot");
    assert_eq!(node.value("SELECT count(*) FROM pg_replication_slots"), "0");
    let again = receivewal(&node, &["--slot", "test", "--drop-slot"]);
    assert!(again.err.contains("replication slot \"test\" does not exist"), "{}", again.err);
    node.stop();
}

fn stream_to(node: &Node, dir: &Path, slot: &str, endpos: &str) -> Said {
    let dir = dir.to_str().unwrap();
    receivewal(node, &["-D", dir, "--slot", slot, "--endpos", endpos, "--no-loop", "--synchronous", "-v"])
}

#[test]
fn pg_receivewal_begins_where_its_slot_keeps_the_log_from() {
    let scenario = Scenario::new("receivewal-slots");
    let mut node = primary(&scenario);
    node.query("SELECT pg_create_physical_replication_slot('test')");
    // A slot that keeps nothing yet: from where the log ends.
    let dir = scenario.path("stream");
    fs::create_dir(&dir).unwrap();
    fill(&node);
    let upto = Lsn(end(&node).parse::<Lsn>().unwrap().0 + (1 << 20)).to_string();
    let mut command = postgres_command("pg_receivewal", &node);
    command.args([
        "-D",
        dir.to_str().unwrap(),
        "--slot",
        "test",
        "--endpos",
        &upto,
        "--no-loop",
        "--synchronous",
    ]);
    let mut child = command.spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        fill(&node);
    }
    finish(child).assert_success("a first stream");
    assert_eq!(node.rows(SLOT), [["0", "f"]]);
    let restart: Lsn = node.value("SELECT restart_lsn FROM pg_replication_slots").parse().unwrap();
    assert!(restart > Lsn(0x10_0000), "{restart}");

    // What it needs is kept, and an empty directory is filled from there on.
    (0..3).for_each(|_| fill(&node));
    node.query("SELECT count(*) FROM t");
    node.query("CHECKPOINT");
    let fresh = scenario.path("fresh");
    fs::create_dir(&fresh).unwrap();
    let upto = end(&node);
    fill(&node);
    let missing = stream_to(&node, &fresh, "nobody", &upto);
    assert!(missing.err.contains("replication slot \"nobody\" does not exist"), "{}", missing.err);
    stream_to(&node, &fresh, "test", &upto).assert_success("a stream from the slot");
    let names = received(&fresh);
    assert!(names.len() >= 3, "{names:?}");
    assert!(names[0].starts_with(&Log::segment(restart)), "{names:?} from {restart} on");

    // Resumed where the files end.
    (0..2).for_each(|_| fill(&node));
    let upto = end(&node);
    fill(&node);
    stream_to(&node, &fresh, "test", &upto).assert_success("a stream that goes on");
    assert!(received(&fresh).len() >= names.len() + 2, "{:?} after {names:?}", received(&fresh));
    node.stop();
}

#[test]
fn slot_of_a_standby_is_streamed_from_over_its_promotion() {
    let scenario = Scenario::new("receivewal-slot-promotion");
    let primary = primary(&scenario);
    fill(&primary);
    let standby = {
        let mut standby = Node::clone_of(&scenario, "standby", &primary);
        standby.start();
        standby.wait_level_with(&primary);
        standby
    };
    psql_replication(&standby, "CREATE_REPLICATION_SLOT test PHYSICAL (RESERVE_WAL)")
        .assert_success("a slot");
    fill(&primary);
    standby.wait_level_with(&primary);
    let restart = standby.value("SELECT restart_lsn FROM pg_replication_slots");
    let before = Log::segment(restart.parse().unwrap());
    standby.promote();
    let after = standby.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    fill(&standby);
    let upto = end(&standby);
    standby.query("INSERT INTO t VALUES (2)");
    let dir = scenario.path("stream");
    fs::create_dir(&dir).unwrap();
    stream_to(&standby, &dir, "test", &upto).assert_success("a stream over the switch");
    let names = received(&dir);
    for name in [&before, &after, "00000002.history"] {
        assert!(names.iter().any(|other| other == name), "{name} in {names:?}");
    }
    assert!(before.starts_with("00000001") && after.starts_with("00000002"), "{before} {after}");
    // It keeps the log from where it was told to on the new timeline.
    let kept: Lsn = standby.value("SELECT restart_lsn FROM pg_replication_slots").parse().unwrap();
    assert!(kept > restart.parse().unwrap(), "{kept}");
}
