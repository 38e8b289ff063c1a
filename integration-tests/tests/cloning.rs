//! `standby clone` makes a standby of a node that is being written to, quickly or not at all: whatever interrupts it, nothing
//! is left that could start, and the message says what to do.
//!
//! Method: clones from a primary (and a standby) under load, and clones slowed down by a rate that are then killed or
//! whose upstream goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Child, Command, Stdio};

use integration_tests::cluster::Cluster;
use integration_tests::commands::{Said, finish};
use integration_tests::load;
use integration_tests::node::{Node, Role};
use integration_tests::programs;
use integration_tests::scenario::Scenario;
use integration_tests::small_disk::SmallDisk;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;
fn spawn_clone(scenario: &Scenario, name: &str, upstream: &Node, arguments: &[&str]) -> Child {
    let mut command = Command::new(programs::walship("standby"));
    command
        .args(["clone", "--from", &upstream.conninfo(name), "-D"])
        .arg(scenario.path(name))
        .args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// A clone so slow that it is still at work when it is interrupted, and has begun to write.
fn slow_clone(scenario: &Scenario, name: &str, upstream: &Node) -> Child {
    slow_clone_with(scenario, name, upstream, &[])
}

fn slow_clone_with(scenario: &Scenario, name: &str, upstream: &Node, arguments: &[&str]) -> Child {
    let child = spawn_clone(scenario, name, upstream, &[&["--max-rate", "32"], arguments].concat());
    wait::until("the clone to begin", || scenario.path(name).join("state").exists().then_some(()));
    child
}

/// The walsender that serves a backup; waits until there is one.
fn backup_walsender(node: &Node) -> String {
    wait::until("a backup to be sent", || {
        let rows = node.rows("SELECT pid FROM pg_stat_replication WHERE state = 'backup'");
        rows.first().map(|row| row[0].clone())
    })
}

fn assert_failed(said: &Said, message: &str) {
    assert_eq!(said.status, Some(1), "{}", said.err);
    assert!(said.err.contains(message), "{}", said.err);
}

#[test]
fn a_clone_under_load_is_equal_also_when_old_log_is_gone() {
    let scenario = Scenario::new("clone-load");
    let (primary, mut load) = load::on_primary(&scenario, &["wal_keep_size=0"]);
    for _ in 0..3 {
        primary.query("SELECT pg_switch_wal()");
        load.rounds(20);
    }
    primary.query("CHECKPOINT");
    let first = primary.dir().join("pg_wal/000000010000000000000001");
    assert!(!first.exists(), "the first segment is still there");
    let mut child = spawn_clone(&scenario, "standby", &primary, &[]);
    while child.try_wait().unwrap().is_none() {
        load.rounds(1);
    }
    finish(child).assert_success("standby clone");
    let mut standby = Node::at(&scenario, "standby", Role::Standby);
    standby.start();
    let mut pair = Cluster { primary, standby };
    pair.wait_streaming();
    load.rounds(50);
    pair.assert_equal(&["acked"]);
    load.assert_all_on(&pair.standby);

    // A clone of the clone follows it.
    let mut cascade = Node::clone_of(&scenario, "cascade", &pair.standby);
    cascade.start();
    load.rounds(50);
    load.disconnect();
    pair.standby.process("walsender");
    let lsn = pair.primary.lsn("pg_current_wal_flush_lsn");
    wait::until("the cascade to replay", || (cascade.lsn("pg_last_wal_replay_lsn") >= lsn).then_some(()));
    load.assert_all_on(&cascade);
    cascade.stop();
    pair.stop();
}

#[test]
fn a_slot_keeps_the_log_from_the_clone_on() {
    let scenario = Scenario::new("clone-slot");
    let (primary, mut load) = load::on_primary(&scenario, &["wal_keep_size=0"]);
    let missing = finish(spawn_clone(&scenario, "standby", &primary, &["--slot", "s"]));
    assert_failed(&missing, "replication slot \"s\" does not exist\nHINT:  Make it with --create-slot.");
    let made = finish(spawn_clone(&scenario, "standby", &primary, &["--slot", "s", "--create-slot"]));
    made.assert_success("standby clone");
    // The standby doesn't run yet, and what it needs would go.
    for _ in 0..3 {
        load.rounds(20);
        primary.query("SELECT pg_switch_wal()");
    }
    primary.query("CHECKPOINT");
    let mut standby = Node::at(&scenario, "standby", Role::Standby);
    standby.start();
    let mut pair = Cluster { primary, standby };
    pair.wait_streaming();
    let slots = pair.primary.rows("SELECT slot_name, active FROM pg_replication_slots");
    assert_eq!(slots, [["s", "t"]]);
    pair.assert_equal(&["acked"]);

    // The slot of a clone that failed goes with it.
    let child = slow_clone_with(&scenario, "failed", &pair.primary, &["--slot", "f", "--create-slot"]);
    let walsender = backup_walsender(&pair.primary);
    pair.primary.query(&format!("SELECT pg_terminate_backend({walsender})"));
    assert_failed(&finish(child), "terminating connection");
    assert_eq!(pair.primary.rows("SELECT slot_name FROM pg_replication_slots"), [["s"]]);
    let again = finish(spawn_clone(&scenario, "again", &pair.primary, &["--slot", "s", "--create-slot"]));
    assert_failed(&again, "replication slot \"s\" already exists");
    load.disconnect();
    pair.stop();
}

#[test]
fn a_killed_clone_leaves_what_does_not_start_and_says_so() {
    let scenario = Scenario::new("clone-killed");
    let (mut primary, mut load) = load::on_primary(&scenario, &["wal_keep_size=0"]);
    let mut child = slow_clone(&scenario, "standby", &primary);
    child.kill().unwrap();
    child.wait().unwrap();
    let dir = scenario.path("standby");
    assert!(dir.join("backup_label").exists() && !dir.join("control").exists());
    let mut standby = Node::at(&scenario, "standby", Role::Standby);
    standby.try_start().unwrap_err();
    assert!(standby.log().contains("holds a base backup that was interrupted"), "{}", standby.log());
    let again = finish(spawn_clone(&scenario, "standby", &primary, &[]));
    assert_failed(
        &again,
        "holds a base backup that was interrupted\nHINT:  Remove the directory and begin again.",
    );
    fs::remove_dir_all(&dir).unwrap();
    // The walsender has noticed, and holds no log any more.
    wait::until("the walsender to end", || {
        primary.rows("SELECT pid FROM pg_stat_replication").is_empty().then_some(())
    });
    assert!(fs::read_dir(primary.dir().join("pgsql_tmp")).unwrap().next().is_none());
    finish(spawn_clone(&scenario, "standby", &primary, &[])).assert_success("standby clone");
    load.rounds(10);
    load.disconnect();
    standby.start();
    let mut pair = Cluster { primary, standby };
    pair.assert_equal(&["acked"]);
    pair.standby.stop();
    primary = pair.primary;
    primary.stop();
}

#[test]
fn a_clone_whose_upstream_ends_it_leaves_nothing() {
    let scenario = Scenario::new("clone-upstream");
    let (mut primary, mut load) = load::on_primary(&scenario, &["wal_keep_size=0"]);
    load.disconnect();

    let child = slow_clone(&scenario, "terminated", &primary);
    primary.query(&format!("SELECT pg_terminate_backend({})", backup_walsender(&primary)));
    assert_failed(&finish(child), "terminating connection due to administrator command");
    assert!(!scenario.path("terminated").exists());

    let child = slow_clone(&scenario, "cancelled", &primary);
    primary.query(&format!("SELECT pg_cancel_backend({})", backup_walsender(&primary)));
    assert_failed(&finish(child), "canceling statement due to user request");
    assert!(!scenario.path("cancelled").exists());

    // A directory that was there stays, empty.
    fs::create_dir(scenario.path("stopped")).unwrap();
    let child = slow_clone(&scenario, "stopped", &primary);
    primary.stop();
    assert_failed(&finish(child), "terminating connection due to administrator command");
    assert!(fs::read_dir(scenario.path("stopped")).unwrap().next().is_none());

    primary.start();
    let child = slow_clone(&scenario, "killed", &primary);
    let walsender = Pid(backup_walsender(&primary).parse().unwrap());
    process::kill(walsender, Signal::Kill).unwrap();
    assert_failed(&finish(child), "the base backup was interrupted");
    assert!(!scenario.path("killed").exists());
    // The crash's recovery has removed the copy of the tables.
    wait::until("the primary to recover", || primary.try_client().ok());
    assert!(!primary.dir().join("pgsql_tmp").exists());
    primary.stop();
}

#[test]
fn a_slow_backup_is_seen_to_wait_and_keeps_the_log_that_it_needs() {
    let scenario = Scenario::new("clone-slow");
    let (mut primary, mut load) = load::on_primary(&scenario, &["wal_keep_size=0"]);
    let mut child = slow_clone(&scenario, "standby", &primary);
    let walsender = backup_walsender(&primary);
    wait::until("the backup to wait for its rate", || {
        let sql = format!("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = {walsender}");
        (primary.rows(&sql) == [["Timeout", "BaseBackupThrottle"]]).then_some(())
    });
    let label = fs::read_to_string(scenario.path("standby").join("backup_label")).unwrap();
    let first = label.split("(file ").nth(1).unwrap().split(')').next().unwrap().to_owned();
    let segment = primary.dir().join("pg_wal").join(first);
    for _ in 0..3 {
        primary.query("SELECT pg_switch_wal()");
        load.rounds(10);
    }
    // Not held up by a client that reads so slowly: neither checkpoints, nor the tables' log, nor a reload.
    primary.query("CHECKPOINT");
    primary.reload("wal_keep_size = 0");
    assert!(segment.exists(), "the backup's first segment was removed");
    child.kill().unwrap();
    child.wait().unwrap();
    wait::until("the walsender to end", || {
        primary.rows("SELECT pid FROM pg_stat_replication").is_empty().then_some(())
    });
    primary.query("CHECKPOINT");
    assert!(!segment.exists(), "nobody needs the segment any more");
    load.disconnect();
    primary.stop();
}

#[test]
fn a_full_disk_on_either_side_ends_the_clone_and_nothing_else() {
    let scenario = Scenario::new("clone-full");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 160) else { return };
    let mut primary = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    primary.set("wal_keep_size=0");
    primary.start();
    primary.query("CREATE TABLE big(id integer PRIMARY KEY, filler text)");
    for id in 0..300 {
        primary.query(&format!("INSERT INTO big VALUES ({id}, hex(zeroblob(50000)))"));
    }
    primary.query("CHECKPOINT");

    // The clone's disk.
    let Some(small) = SmallDisk::mount(&scenario.path("small"), 4) else { return };
    let said = finish(spawn_clone(&scenario, "small/standby", &primary, &[]));
    assert_failed(&said, "No space left on device");
    assert!(!scenario.path("small/standby").exists());
    drop(small);

    // The primary's: there is no room for the copy of the tables.
    let foreign = disk.fill();
    let said = finish(spawn_clone(&scenario, "standby", &primary, &[]));
    assert_failed(&said, "could not copy the tables: no room in the data directory");
    assert!(!scenario.path("standby").exists());
    assert_eq!(primary.value("SELECT count(*) FROM big"), "300");
    fs::remove_file(foreign).unwrap();
    wait::until("writes to be taken", || primary.client().query("INSERT INTO big VALUES (-1, '')").ok());
    finish(spawn_clone(&scenario, "standby", &primary, &[])).assert_success("standby clone");
    primary.stop();
}

#[test]
fn what_can_be_told_beforehand_is() {
    let scenario = Scenario::new("clone-refused");
    let (mut primary, mut load) = load::on_primary(&scenario, &["wal_keep_size=0"]);
    load.disconnect();
    let dir = scenario.path("occupied");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "x").unwrap();
    assert_failed(&finish(spawn_clone(&scenario, "occupied", &primary, &[])), "exists but is not empty");
    assert_eq!(fs::read_to_string(dir.join("mine")).unwrap(), "x");
    let said = finish(spawn_clone(&scenario, "rate", &primary, &["--max-rate", "31"]));
    assert_eq!(said.status, Some(2), "{}", said.err);
    assert!(said.err.contains("between 32 and 1048576 kilobytes per second"), "{}", said.err);
    assert!(!scenario.path("rate").exists());
    primary.stop();
}
