//! The log is PostgreSQL's: pg_receivewal 15 copies it byte for byte, pg_waldump 15 reads all of it, and a replication
//! connection answers psql.
//!
//! Method: PostgreSQL's own programs against a primary with segments of 1 MB; the files are compared with the primary's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use integration_tests::commands::{self, pg_waldump, psql_replication};
use integration_tests::load::{self, Load};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use wal::lsn::Lsn;

/// Names of the finished segments in a directory, in order.
fn segments(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries
        .filter(|name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .collect();
    names.sort();
    names
}

/// A primary whose log is being written to, with all kinds of records.
fn primary(scenario: &Scenario) -> (Node, Load) {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    node.set("max_statement_size=8MB");
    node.start();
    node.query(load::CREATE_TABLE);
    node.query("SELECT pg_logical_emit_message(true, 'test', 'transactional')");
    node.query("SELECT pg_logical_emit_message(false, 'test', 'not transactional')");
    let mut load = Load::new(8);
    load.connect(&node);
    (node, load)
}

#[test]
fn pg_receivewal_copies_every_segment_byte_for_byte() {
    let scenario = Scenario::new("receivewal");
    let (mut node, mut load) = primary(&scenario);
    let dir = scenario.path("received");
    fs::create_dir(&dir).unwrap();
    let end = node.lsn("pg_current_wal_flush_lsn") + (4 << 20);
    let mut command = commands::postgres_command("pg_receivewal", &node);
    command.arg("-D").arg(&dir).args(["--endpos", &end.to_string(), "--no-loop", "-s", "1", "-v"]);
    let mut child = command.spawn().unwrap();
    let mut switched = false;
    while child.try_wait().unwrap().is_none() {
        load.rounds(20);
        if !switched && segments(&dir).len() == 2 {
            node.query("SELECT pg_switch_wal()");
            switched = true;
        }
    }
    let said = commands::finish(child).assert_success("pg_receivewal");
    let received = segments(&dir);
    assert!(received.len() >= 4, "{received:?} {}", said.err);
    for name in &received {
        let theirs = fs::read(dir.join(name)).unwrap();
        let ours = fs::read(node.dir().join("pg_wal").join(name)).unwrap();
        let differs = theirs.iter().zip(&ours).position(|(a, b)| a != b);
        assert!(theirs.len() == ours.len() && differs.is_none(), "{name} differs at byte {differs:?}");
    }
    load.disconnect();
    node.stop();
}

#[test]
fn pg_waldump_reads_the_log_from_the_first_record_to_the_last() {
    let scenario = Scenario::new("waldump");
    let (mut node, mut load) = primary(&scenario);
    load.rounds(1000);
    // A record longer than a page, and one longer than a segment.
    for bytes in [20_000, 1_500_000] {
        node.query(&format!("SELECT pg_logical_emit_message(true, 'long', '{}')", "y".repeat(bytes)));
    }
    node.query("SELECT pg_switch_wal()");
    load.rounds(10);
    load.disconnect();
    let flushed = node.lsn("pg_current_wal_flush_lsn");
    let wal = node.dir().join("pg_wal");
    let first = first_record(&wal);
    check_dump(&wal, &first, flushed);

    // After a crash the log goes on where it ended, and still reads from end to end.
    node.kill_all();
    node.start();
    load.connect(&node);
    load.rounds(100);
    load.disconnect();
    node.stop();
    let output = pg_waldump(&wal, &first);
    assert!(output.out.contains("CHECKPOINT_SHUTDOWN"), "{}", output.out);
    check_dump(&wal, &first, flushed);
}

/// pg_waldump takes only the start of a record; the first one stands behind the long header of the first page.
fn first_record(wal: &Path) -> String {
    let name = &segments(wal)[0];
    let number = u64::from_str_radix(&name[8..16], 16).unwrap() << 32
        | u64::from_str_radix(&name[16..], 16).unwrap() << 20;
    format!("{:X}/{:X}", number >> 32, (number & 0xffff_ffff) + 40)
}

/// Reads the log from `first` on: the only complaint may be the end of the log, at or after `flushed`.
fn check_dump(wal: &Path, first: &str, flushed: Lsn) {
    let said = pg_waldump(wal, first);
    assert!(said.out.lines().filter(|line| line.contains("custom128")).count() > 1000, "{}", said.err);
    assert!(said.out.contains("LogicalMessage"), "{}", said.err);
    assert!(said.out.contains("SWITCH"), "{}", said.err);
    let last = said.out.lines().last().expect("records");
    let complaint = said.err.trim();
    assert_eq!(complaint.lines().count(), 1, "{complaint}\nafter: {last}");
    assert!(complaint.contains("error in WAL record at"), "{complaint}\nafter: {last}");
    let end: Lsn = last.split("lsn: ").nth(1).unwrap().split(',').next().unwrap().trim().parse().unwrap();
    assert!(
        end < flushed + (1 << 20) && end + 8192 > flushed || end > flushed,
        "{last}\n{complaint}\n{flushed}"
    );
}

#[test]
fn a_replication_connection_answers_psql() {
    let scenario = Scenario::new("replication-psql");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    let identity = psql_replication(&node, "IDENTIFY_SYSTEM").assert_success("IDENTIFY_SYSTEM").out;
    let fields: Vec<&str> = identity.trim_end_matches('\n').split('|').collect();
    assert_eq!(fields.len(), 4, "{identity}");
    assert!(fields[0].parse::<u64>().unwrap() > 0);
    assert_eq!((fields[1], fields[3]), ("1", ""));
    fields[2].parse::<Lsn>().unwrap();
    assert_eq!(psql_replication(&node, "SHOW wal_segment_size").out, "1MB\n");
    assert_eq!(psql_replication(&node, "SHOW data_directory_mode").out, "0700\n");
    let said = psql_replication(&node, "TIMELINE_HISTORY 7");
    assert!(said.err.contains("pg_wal/00000007.history"), "{}", said.err);
    let said = psql_replication(&node, "SELECT 1");
    assert!(
        said.err.contains("cannot execute SQL commands in WAL sender for physical replication"),
        "{}",
        said.err
    );
    node.stop();
}
