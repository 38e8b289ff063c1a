//! What recovery does with a log that is cut, damaged or long: on a primary and on a standby.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;
use wal::history::TimelineHistory;
use wal::layout::{self, Chunk};
use wal::logical_message::LogicalMessage;
use wal::lsn::Lsn;
use wal::page::PageHeader;
use wal::reader::WalReader;
use wal::segment::{SegmentSize, file_name};
use wal::source::StoreSource;
use wal::store::SegmentStore;
use wal::timeline::TimelineId;

const TIMELINE: TimelineId = TimelineId(1);

fn segment_size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn store(node: &Node) -> SegmentStore {
    SegmentStore::new(node.dir().join("pg_wal"), segment_size())
}

/// Where the log of a node that doesn't run ends, and where its last record starts.
fn end_of_log(node: &Node) -> (Lsn, Lsn) {
    let source = StoreSource::new(store(node), TimelineHistory::without_file(TIMELINE));
    let mut reader = WalReader::new(source, segment_size().log_start(), segment_size());
    while reader.next().is_ok() {}
    (reader.position(), reader.last_record().unwrap())
}

/// Flips a bit of the log.
fn damage(node: &Node, at: Lsn) {
    let name = file_name(TIMELINE, segment_size().number_of(at), segment_size());
    let file = OpenOptions::new().read(true).write(true).open(node.dir().join("pg_wal").join(name)).unwrap();
    let mut byte = [0];
    let offset = segment_size().offset_of(at);
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

fn insert_rows(node: &Node, from: u64, to: u64) {
    let mut client = node.client();
    for id in from..to {
        client.query(&format!("INSERT INTO t VALUES ({id}, hex(zeroblob(400)))")).unwrap();
    }
}

fn primary_with_rows(scenario: &Scenario, rows: u64) -> Node {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    insert_rows(&primary, 0, rows);
    primary
}

#[test]
fn a_record_whose_rest_is_missing_is_cut_off_and_the_log_goes_on() {
    let scenario = Scenario::new("missing-rest");
    let primary = primary_with_rows(&scenario, 300);
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    standby.start();
    let mut cluster = Cluster { primary, standby };
    cluster.wait_caught_up();
    for parts in 1..4 {
        cluster.primary.kill_all();
        let (end, last_record) = end_of_log(&cluster.primary);
        write_parts_of_a_record(&cluster.primary, end, last_record, parts);
        cluster.primary.start();
        insert_rows(&cluster.primary, 1000 * parts, 1000 * parts + 20);
        cluster.wait_streaming();
        cluster.assert_equal(&["t"]);
    }
    assert_eq!(cluster.primary.value("SELECT count(*) FROM t"), "360");
    cluster.stop();
}

/// The first pages of a record of many pages, as a primary leaves it that dies while it writes.
fn write_parts_of_a_record(node: &Node, end: Lsn, last_record: Lsn, pages: u64) {
    let payload = vec![7; 50_000];
    let message = LogicalMessage { database: 0, transactional: false, prefix: "lost", payload: &payload };
    let mut body = message.record(0).unwrap();
    let mut store = store(node);
    let mut first = vec![0; 40];
    store.read_at(TIMELINE, segment_size().log_start(), &mut first).unwrap();
    let system_identifier = PageHeader::decode(&first).unwrap().long.unwrap().system_identifier;
    let placement = layout::place(end, body.tot_len(), segment_size(), TIMELINE, system_identifier);
    let record = body.seal(last_record);
    for chunk in placement.chunks() {
        let (at, bytes) = match chunk {
            Chunk::PageHeader { at, header } => (at, header.encode().as_bytes().to_vec()),
            Chunk::Record { at, range } => (at, record[range].to_vec()),
            Chunk::Zeros { .. } => continue,
        };
        if at >= end.page_start() + pages * 8192 {
            return;
        }
        store.write_at(TIMELINE, at, &bytes).unwrap();
    }
    panic!("the record was to be longer");
}

#[test]
fn a_primary_whose_log_lost_its_last_checkpoint_is_not_started() {
    let scenario = Scenario::new("lost-checkpoint");
    let mut primary = primary_with_rows(&scenario, 50);
    primary.stop();
    let (_, last_record) = end_of_log(&primary);
    damage(&primary, last_record + 30);
    primary.try_start().unwrap_err();
    let log = primary.log();
    assert!(log.contains("before the end of the last checkpoint record at"), "{log}");
    // Nothing was cleared: with the bit mended it starts.
    damage(&primary, last_record + 30);
    primary.start();
    assert_eq!(primary.value("SELECT count(*) FROM t"), "50");
    primary.stop();
}

#[test]
fn a_primary_that_lost_its_tables_has_them_again_from_the_log_and_can_be_stopped_meanwhile() {
    let scenario = Scenario::new("stopped-in-recovery");
    let mut primary = primary_with_rows(&scenario, 0);
    let mut client = primary.client();
    for part in 0..200 {
        let rows = format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999) INSERT INTO t SELECT {part} * 1000 + i, hex(zeroblob(20)) FROM n"
        );
        client.query(&rows).unwrap();
    }
    drop(client);
    primary.kill_all();
    remove_tables(&primary);
    let ready = |node: &Node| node.log().matches("ready to accept connections").count();
    let before = ready(&primary);

    primary.spawn();
    primary.wait_log("redo starts at");
    let children = procfs::children(primary.pid());
    children.iter().for_each(|child| process::kill(*child, Signal::Stop).unwrap());
    let finished = primary.log().contains("redo done at");
    primary.signal(Signal::Int);
    // Else recovery might go on, and end, before the postmaster has got round to it.
    primary.wait_log("received fast shutdown request");
    children.iter().for_each(|child| process::kill(*child, Signal::Cont).unwrap());
    assert_eq!(primary.wait_end(), Some(0), "{}", primary.log_tail());
    assert!(!finished, "recovery was over before the stop; this machine needs a longer log");
    assert!(!primary.log().contains("redo done at"), "{}", primary.log_tail());
    assert_eq!(ready(&primary), before, "{}", primary.log_tail());

    primary.start();
    assert_eq!(primary.value("SELECT count(*) FROM t"), "200000");
    primary.stop();
}

fn remove_tables(node: &Node) {
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let path = node.dir().join("state").join(name);
        if Path::new(&path).exists() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// A pair whose standby has received rows that its stopped startup process has not read; the first of their bytes.
fn standby_with_unread_log(scenario: &Scenario) -> (Cluster, Pid, Lsn) {
    let cluster = Cluster::start(scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    insert_rows(&cluster.primary, 0, 100);
    cluster.wait_caught_up();
    let startup = cluster.standby.process("startup");
    process::kill(startup, Signal::Stop).unwrap();
    wait::until("the startup process to stand", || procfs::stopped(startup).then_some(()));
    let unread = cluster.primary.lsn("pg_current_wal_flush_lsn");
    insert_rows(&cluster.primary, 100, 3000);
    let end = cluster.primary.lsn("pg_current_wal_flush_lsn");
    wait::until("the standby to receive", || {
        (cluster.standby.lsn("pg_last_wal_receive_lsn") >= end).then_some(())
    });
    (cluster, startup, unread)
}

#[test]
fn a_bit_that_flips_in_the_log_of_a_standby_is_fetched_again_while_it_runs() {
    let scenario = Scenario::new("flipped-bit-running");
    let (mut cluster, startup, unread) = standby_with_unread_log(&scenario);
    damage(&cluster.standby, unread + 5000);
    damage(&cluster.standby, unread + (1 << 20));
    process::kill(startup, Signal::Cont).unwrap();
    cluster.standby.wait_log("fetching it again");
    cluster.assert_equal(&["t"]);
    assert_eq!(cluster.standby.value("SELECT count(*) FROM t"), "3000");
    cluster.stop();
}

#[test]
fn a_bit_that_flips_in_the_log_of_a_stopped_standby_is_fetched_again() {
    let scenario = Scenario::new("flipped-bit-stopped");
    let (mut cluster, _, unread) = standby_with_unread_log(&scenario);
    cluster.standby.kill_all();
    damage(&cluster.standby, unread + 5000);
    // Behind what the tables hold, as well: nothing reads it again, and the segment is fetched as a whole.
    damage(&cluster.standby, Lsn(unread.0 - 5000));
    cluster.standby.start();
    cluster.assert_equal(&["t"]);
    assert_eq!(cluster.standby.value("SELECT count(*) FROM t"), "3000");
    cluster.standby.restart();
    cluster.wait_streaming();
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn a_standby_starts_from_what_it_has_applied_however_long_its_log_is() {
    let scenario = Scenario::new("standby-start");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    insert_rows(&cluster.primary, 0, 3000);
    cluster.wait_caught_up();
    // Records that change no table count as well: the tables follow them segment by segment.
    for _ in 0..4 {
        cluster.primary.query("SELECT pg_switch_wal()");
        cluster.primary.query("SELECT pg_logical_emit_message(true, 'test', 'nothing')");
    }
    cluster.wait_caught_up();
    cluster.standby.stop();
    let applied = cluster.primary.lsn("pg_current_wal_flush_lsn");
    let segments = store(&cluster.standby).list().unwrap();
    for old in segments.iter().filter(|file| file.segment.0 + 2 < segment_size().number_of(applied).0) {
        store(&cluster.standby).remove(TIMELINE, old.segment).unwrap();
    }
    cluster.standby.start();
    insert_rows(&cluster.primary, 3000, 3100);
    cluster.wait_streaming();
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn a_standby_reports_what_it_has_applied_although_its_commit_was_put_off() {
    let scenario = Scenario::new("applied-reported");
    let mut cluster = Cluster::start_with(&scenario, &["wal_receiver_status_interval=60s"]);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    for round in 0..10 {
        insert_rows(&cluster.primary, round, round + 1);
        let end = cluster.primary.lsn("pg_current_wal_flush_lsn");
        let reported = wait::within(Duration::from_secs(5), || {
            let applied = cluster.primary.value("SELECT replay_lsn FROM pg_stat_replication");
            // NULL until its first report.
            applied.parse::<Lsn>().is_ok_and(|applied| applied >= end).then_some(())
        });
        assert!(reported.is_some(), "round {round}: {end} was not reported as applied");
    }
    cluster.stop();
}
