//! A primary that another node was promoted over becomes a standby of that one: the end of its log that nobody else has is cut
//! off, if its tables hold nothing of it; else it says what they hold, and is cloned again when told so. So does a standby that
//! is further than what was promoted.
//!
//! Method: a pair whose standby is stopped or cut off at a chosen moment, and promoted; then `standby demote` on the other
//! directory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::cluster::Cluster;
use integration_tests::digest;
use integration_tests::log_surgery::Log;
use integration_tests::node::{Node, Role};
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use wal::record::{RecordBody, Rmgr};

fn pair(scenario: &Scenario) -> (Node, Node) {
    let cluster = Cluster::start(scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    insert(&cluster.primary, 1);
    cluster.wait_caught_up();
    (cluster.primary, cluster.standby)
}

fn insert(node: &Node, id: u32) {
    node.query(&format!("INSERT INTO t VALUES ({id}, '{}')", "f".repeat(3000)));
}

/// The directory of a former primary, as a standby's.
fn as_standby(scenario: &Scenario, name: &str, former: &Node) -> Node {
    let mut node = Node::at(scenario, name, Role::Standby);
    node.settings.clone_from(&former.settings);
    node
}

fn demote(node: &Node, new: &Node, more: &[&str]) -> (Option<i32>, String) {
    let conninfo = new.conninfo("rejoined");
    let arguments = [&["demote", "-D", node.dir().to_str().unwrap(), "--from", &conninfo], more].concat();
    let output = node.command(&arguments);
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8_lossy(&text).trim_end().to_owned())
}

fn assert_follows(node: &Node, primary: &Node) {
    node.wait_level_with(primary);
    let digest = |node: &Node| digest::of_table(&mut node.client(), "t");
    assert_eq!(digest(node), digest(primary));
}

#[test]
fn old_primary_that_was_stopped_or_killed_follows_the_new_one_and_back() {
    let scenario = Scenario::new("rejoin-round");
    let (mut primary, mut standby) = pair(&scenario);
    let (status, why) = demote(&as_standby(&scenario, "primary", &primary), &standby, &[]);
    assert_eq!(status, Some(1));
    assert!(why.contains("cannot demote: the node runs (PID"), "{why}");
    primary.stop();
    standby.promote();
    insert(&standby, 2);
    let mut former = as_standby(&scenario, "primary", &primary);
    let (status, said) = demote(&former, &standby, &[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("standby run -D"), "{said}");
    former.start();
    assert_eq!(former.value("SELECT pg_is_in_recovery()"), "t");
    assert_follows(&former, &standby);

    // And back, the other one killed.
    standby.kill_all();
    former.promote();
    insert(&former, 3);
    let (status, said) = demote(&standby, &former, &[]);
    assert_eq!(status, Some(0), "{said}");
    standby.start();
    assert_follows(&standby, &former);
    assert_eq!(standby.value("SELECT received_tli FROM pg_stat_wal_receiver"), "3");
    // Once more, without need: nothing happens to it.
    standby.stop();
    let (status, said) = demote(&standby, &former, &[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("which has all of its log"), "{said}");
    standby.start();
    insert(&former, 4);
    assert_follows(&standby, &former);
}

#[test]
fn end_of_the_log_that_the_tables_hold_nothing_of_is_cut_off() {
    let scenario = Scenario::new("rejoin-cut");
    let (mut primary, mut standby) = pair(&scenario);
    standby.stop();
    // Messages change no table; nor does the checkpoint at the end.
    for _ in 0..3 {
        primary.query("SELECT pg_logical_emit_message(true, 'x', 'nobody has this')");
    }
    let before = primary.lsn("pg_current_wal_flush_lsn");
    primary.stop();
    // And a record that was logged, and not applied.
    let mut log = Log::of(&primary);
    log.append(RecordBody::new(Rmgr::XLOG, 0x20, 0, &[7; 200]).unwrap());
    assert!(log.end > before);
    standby.start();
    standby.promote();
    insert(&standby, 2);

    let mut former = as_standby(&scenario, "primary", &primary);
    let (status, said) = demote(&former, &standby, &[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.starts_with("Cut off the end of the log, which timeline 2 has not"), "{said}");
    assert!(said.contains("records of which 0 change tables"), "{said}");
    assert!(Log::of(&former).end < before, "it is gone from the files");
    former.start();
    assert_follows(&former, &standby);
    former.kill_all();
    former.start();
    insert(&standby, 3);
    assert_follows(&former, &standby);
    former.promote();
    insert(&former, 4);
    assert_eq!(former.value("SELECT count(*) FROM t"), "4");
}

#[test]
fn rows_that_the_new_primary_has_not_are_named_and_given_up_on_demand_alone() {
    let scenario = Scenario::new("rejoin-refused");
    let (mut primary, mut standby) = pair(&scenario);
    standby.stop();
    (2..5).for_each(|id| insert(&primary, id));
    wait::until("the rows to be committed", || {
        (primary.value("SELECT count(*) FROM t") == "4").then_some(())
    });
    primary.kill_all();
    standby.start();
    standby.promote();
    insert(&standby, 10);

    let mut former = as_standby(&scenario, "primary", &primary);
    let (status, why) = demote(&former, &standby, &[]);
    assert_eq!(status, Some(1), "{why}");
    assert!(why.contains("the tables hold 3 changes that timeline 2 of the primary has not"), "{why}");
    assert!(why.contains("it left timeline 1 at 0/") && why.contains("--reclone"), "{why}");
    assert!(!former.dir().join("standby.signal").exists(), "nothing was changed");
    // It still starts as what it was, for whoever wants to see those rows.
    primary.start();
    assert_eq!(primary.value("SELECT count(*) FROM t"), "4");
    primary.stop();

    let (status, said) = demote(&former, &standby, &["--reclone"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.starts_with("Cloned the node again, without what it had: the tables hold 3 changes"),
        "{said}"
    );
    former.start();
    assert_follows(&former, &standby);
}

#[test]
fn node_of_another_system_and_an_upstream_that_is_behind_are_refused() {
    let scenario = Scenario::new("rejoin-other");
    let (mut primary, mut standby) = pair(&scenario);
    let mut other = Node::init(&scenario, "other", &["--wal-segsize", "1MB"]);
    other.start();
    standby.stop();
    insert(&primary, 2);
    primary.stop();
    let former = as_standby(&scenario, "primary", &primary);
    let (status, why) = demote(&former, &other, &[]);
    assert_eq!(status, Some(1));
    assert!(why.contains("database system identifier differs"), "{why}");
    standby.start();
    let (status, why) = demote(&former, &standby, &[]);
    assert_eq!(status, Some(1));
    assert!(why.contains("Promote that node first"), "{why}");
    assert!(!former.dir().join("standby.signal").exists());
}
