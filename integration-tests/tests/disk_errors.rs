//! A disk that fails, or that may not be written to any more, is an error that names the file and what to do: nothing that was
//! acknowledged is lost, nothing hangs, no sync is tried twice on the same data, and what can go on does.
//!
//! Method: system calls that fail in one process or from the start on (strace), and real file systems that the kernel makes
//! read-only.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use integration_tests::client::{Client, ClientError, ServerError};
use integration_tests::cluster::Cluster;
use integration_tests::commands::pg_receivewal;
use integration_tests::disk::recorder;
use integration_tests::faults::Fault;
use integration_tests::node::Node;
use integration_tests::scenario::{Scenario, skip};
use integration_tests::small_disk::SmallDisk;
use integration_tests::wait;
use sys::process::Pid;

const CREATE_TABLE: &str = "CREATE TABLE t(id integer PRIMARY KEY, filler text)";

/// What became of a statement.
#[derive(Debug)]
enum Outcome {
    Done,
    Refused(ServerError),
    /// The connection ended.
    Unknown,
}

fn insert(client: &mut Client, id: u64) -> Outcome {
    match client.query(&format!("INSERT INTO t VALUES ({id}, hex(zeroblob(50000)))")) {
        Ok(_) => Outcome::Done,
        Err(ClientError::Server(error)) if error.severity == "ERROR" => Outcome::Refused(error),
        Err(_) => Outcome::Unknown,
    }
}

/// Inserts rows until one gets no answer; ids of those that were acknowledged.
fn insert_until_lost(node: &Node, first: u64) -> Vec<u64> {
    let mut client = node.client();
    let mut acknowledged = Vec::new();
    for id in first..first + 10_000 {
        match insert(&mut client, id) {
            Outcome::Done => acknowledged.push(id),
            Outcome::Refused(error) => panic!("{error}"),
            Outcome::Unknown => return acknowledged,
        }
    }
    panic!("nothing failed\n{}", node.log_tail());
}

/// What the harness has written into walship.conf it has not synced: a disk that gives up would lose it.
fn settle_conf(node: &Node) {
    fs::File::open(node.dir().join("walship.conf")).unwrap().sync_all().unwrap();
}

fn assert_has(node: &Node, ids: &[u64]) {
    let found: Vec<u64> =
        node.rows("SELECT id FROM t ORDER BY id").iter().map(|row| row[0].parse().unwrap()).collect();
    let lost: Vec<&u64> = ids.iter().filter(|id| !found.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged rows lost: {lost:?}");
}

/// A primary with a table and so many rows of 100 kB.
fn primary(scenario: &Scenario, rows: u64) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    node.set("disk_reserve=0");
    node.start();
    node.query(CREATE_TABLE);
    let mut client = node.client();
    for id in 0..rows {
        assert!(matches!(insert(&mut client, id), Outcome::Done));
    }
    node
}

fn segment(node: &Node, number: u64) -> PathBuf {
    node.dir().join(format!("pg_wal/00000001000000000000{number:04X}"))
}

/// The segment that is written now.
fn present_segment(node: &Node) -> PathBuf {
    let name = node.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    node.dir().join("pg_wal").join(name)
}

fn can_inject() -> bool {
    recorder::unavailable().inspect(|why| skip(why)).is_none()
}

#[test]
fn a_log_that_can_not_be_synced_is_a_panic_and_never_synced_again() {
    if !can_inject() {
        return;
    }
    let scenario = Scenario::new("fsync-log");
    let mut node = primary(&scenario, 3);
    let path = present_segment(&node);
    let fault = Fault::new(&path, "fdatasync", "error=EIO").in_process(node.process("startup"));
    let acknowledged = insert_until_lost(&node, 100);
    assert!(acknowledged.is_empty(), "{acknowledged:?}");
    let name = path.file_name().unwrap().to_str().unwrap();
    node.wait_log(&format!("PANIC:  could not fsync file \"pg_wal/{name}\": Input/output error"));
    assert!(node.log().contains("HINT:  Check the disk"), "{}", node.log_tail());
    drop(fault);
    // By itself: what had reached the page cache alone is written again before anything is called durable.
    wait::until("the node to serve again", || node.try_client().ok());
    assert_eq!(node.crash_restarts(), 1);
    assert_has(&node, &[0, 1, 2]);
    assert!(matches!(insert(&mut node.client(), 200), Outcome::Done));
    node.stop();
}

#[test]
fn a_segment_whose_name_can_not_be_synced_is_a_panic() {
    if !can_inject() {
        return;
    }
    let scenario = Scenario::new("fsync-name");
    let mut node = primary(&scenario, 3);
    let directory = node.dir().join("pg_wal");
    let fault = Fault::new(&directory, "fsync", "error=EIO").in_process(node.process("walwriter"));
    let acknowledged = insert_until_lost(&node, 100);
    node.wait_log("PANIC:  could not fsync file \"pg_wal\": Input/output error");
    drop(fault);
    wait::until("the node to serve again", || node.try_client().ok());
    assert_has(&node, &acknowledged);
    node.stop();
}

#[test]
fn a_log_that_can_not_be_written_is_a_panic() {
    if !can_inject() {
        return;
    }
    let scenario = Scenario::new("write-log");
    let mut node = primary(&scenario, 3);
    let fault =
        Fault::new(present_segment(&node), "pwrite64", "error=EIO").in_process(node.process("startup"));
    assert!(insert_until_lost(&node, 100).is_empty());
    node.wait_log("PANIC:  could not write to log file 0000");
    drop(fault);
    wait::until("the node to serve again", || node.try_client().ok());
    assert_has(&node, &[0, 1, 2]);
    node.stop();
}

#[test]
fn tables_that_a_checkpoint_can_not_sync_are_a_panic() {
    if !can_inject() {
        return;
    }
    for name in ["state.db", "state.db-wal"] {
        let scenario = Scenario::new("fsync-tables");
        let mut node = primary(&scenario, 20);
        let path = node.dir().join("state").join(name);
        let fault = Fault::new(path, "fsync,fdatasync", "error=EIO").in_process(node.process("checkpointer"));
        // The session that asks may be ended with the others, or its checkpoint be done by the next life.
        let _ended = node.client().query("CHECKPOINT");
        node.wait_log("PANIC:  could not ");
        let log = node.log();
        assert!(log.contains("fsync file \"") || log.contains("fdatasync file \""), "{}", node.log_tail());
        assert!(log.contains(name), "{}", node.log_tail());
        drop(fault);
        wait::until("the node to serve again", || node.try_client().ok());
        assert_has(&node, &(0..20).collect::<Vec<_>>());
        node.stop();
    }
}

#[test]
fn a_segment_that_can_not_be_read_ends_the_stream_that_wants_it_alone() {
    if !can_inject() {
        return;
    }
    let scenario = Scenario::new("read-segment");
    let mut node = primary(&scenario, 40);
    node.stop();
    let path = segment(&node, 2);
    // Recovery doesn't come here: it begins at the checkpoint.
    Fault::new(&path, "pread64,sendfile", "error=EIO").from_start(&mut node);
    node.start();
    let copy = scenario.path("copy");
    fs::create_dir(&copy).unwrap();
    // It goes on behind what it has.
    fs::write(copy.join(segment(&node, 1).file_name().unwrap()), vec![0; 1 << 20]).unwrap();
    let end = node.value("SELECT pg_current_wal_flush_lsn()");
    let said = pg_receivewal(&node, &copy, &end);
    assert_ne!(said.status, Some(0), "{}", said.err);
    let text = "could not read from log segment 000000010000000000000002, offset ";
    // The client had the head of a message by then, so it can't be told.
    let log = node.log();
    let line = log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("Input/output error"), "{line}");
    assert!(matches!(insert(&mut node.client(), 1000), Outcome::Done));
    assert_eq!(node.crash_restarts(), 0);
    node.stop();
}

#[test]
fn a_segment_that_recovery_can_not_read_is_named_and_nothing_is_cut() {
    if !can_inject() {
        return;
    }
    let scenario = Scenario::new("read-recovery");
    let mut node = primary(&scenario, 30);
    let path = present_segment(&node);
    node.kill_all();
    Fault::new(&path, "pread64", "error=EIO").from_start(&mut node);
    assert!(node.try_start().is_err());
    let name = path.file_name().unwrap().to_str().unwrap();
    let log = node.log_tail();
    assert!(log.contains(&format!("FATAL:  could not read from log segment {name}, offset ")), "{log}");
    assert!(log.contains("Input/output error"), "{log}");
    assert!(log.contains("HINT:  Check the disk"), "{log}");
    node.wrapper.clear();
    node.start();
    assert_has(&node, &(0..30).collect::<Vec<_>>());
    node.stop();
}

#[test]
fn tables_that_can_not_be_read_are_named_to_who_reads_them() {
    if !can_inject() {
        return;
    }
    let scenario = Scenario::new("read-tables");
    let mut node = primary(&scenario, 30);
    node.restart();
    let path = node.dir().join("state/state.db");
    let mut client = node.client();
    let fault = Fault::new(&path, "pread64", "error=EIO").in_process(Pid(client.backend_pid));
    // More than the session may have in its cache.
    let error = client.error("SELECT sum(length(filler)) FROM t");
    drop(fault);
    assert_eq!(error.sqlstate, "58030", "{error}");
    assert!(error.message.starts_with("could not read file \"state/state.db\""), "{error}");
    assert!(error.message.ends_with("Input/output error"), "{error}");
    assert!(error.hint.starts_with("Check the disk"), "{error}");
    assert_eq!(client.value("SELECT count(*) FROM t"), "30");
    drop(client);
    node.stop();

    Fault::new(&path, "pread64", "error=EIO").from_start(&mut node);
    assert!(node.try_start().is_err());
    let log = node.log_tail();
    assert!(log.contains("could not open the tables: could not read file \"state/state.db\""), "{log}");
    node.wrapper.clear();
    node.start();
    assert_has(&node, &(0..30).collect::<Vec<_>>());
    node.stop();
}

#[test]
fn a_disk_that_becomes_read_only_ends_the_node_by_name_and_loses_nothing() {
    let scenario = Scenario::new("read-only");
    let Some(mut disk) = SmallDisk::mount_ext4(&scenario.path("disk"), 64) else { return };
    let mut node = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    node.start();
    node.query(CREATE_TABLE);
    let mut client = node.client();
    let acknowledged: Vec<u64> =
        (0..20).filter(|id| matches!(insert(&mut client, *id), Outcome::Done)).collect();
    assert_eq!(acknowledged.len(), 20);
    // Has the tables committed: a COMMIT still to come would end the node at once.
    assert_eq!(client.value("SELECT count(*) FROM t"), "20");
    settle_conf(&node);
    disk.abort();
    // Reads don't mind.
    assert_eq!(client.value("SELECT count(*) FROM t"), "20");
    assert!(insert_until_lost(&node, 100).is_empty());
    assert_eq!(node.wait_end(), Some(1));
    let log = node.log();
    assert!(log.contains("PANIC:  could not "), "{}", node.log_tail());
    assert!(log.contains("could not fsync directory \""), "{}", node.log_tail());
    assert!(log.contains("Read-only file system"), "{}", node.log_tail());
    assert!(log.contains("HINT:  Mount the file system"), "{}", node.log_tail());

    // Nor does it start there.
    assert!(node.try_start().is_err());
    assert!(node.log_tail().contains("postmaster.pid\": Read-only file system"), "{}", node.log_tail());
    disk.mount_again();
    node.start();
    assert_has(&node, &acknowledged);
    assert!(matches!(insert(&mut node.client(), 1000), Outcome::Done));
    node.stop();
}

#[test]
fn a_standby_whose_disk_becomes_read_only_goes_alone_and_comes_back() {
    let scenario = Scenario::new("read-only-standby");
    let Some(mut disk) = SmallDisk::mount_ext4(&scenario.path("disk"), 64) else { return };
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query(CREATE_TABLE);
    let mut standby = Node::clone_of(&scenario, "disk/standby", &primary);
    standby.start();
    let mut client = primary.client();
    assert!(matches!(insert(&mut client, 0), Outcome::Done));
    settle_conf(&standby);
    disk.abort();
    for id in 1..10 {
        assert!(matches!(insert(&mut client, id), Outcome::Done));
    }
    assert_eq!(standby.wait_end(), Some(1));
    assert!(standby.log().contains("Read-only file system"), "{}", standby.log_tail());
    disk.mount_again();
    standby.start();
    let mut cluster = Cluster { primary, standby };
    cluster.assert_equal(&["t"]);
    cluster.stop();
}
