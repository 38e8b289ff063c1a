//! A primary tells a log that was damaged from one that ends: it doesn't start on the first, cuts nothing off, and says what
//! to do; a write that was torn by a power failure stops nobody.
//!
//! Method: the files of a killed primary are changed by hand. Its tables are taken away, so that they don't prove how
//! far the log had been; recovery then reads all of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use integration_tests::cluster::Cluster;
use integration_tests::log_surgery::{Log, SEGMENT, flip_bit, page_header};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use wal::lsn::Lsn;
use wal::record::{RecordBody, Rmgr};
use wal::timeline::TimelineId;
use wal::xlog::{CheckPoint, CheckPointKind};

fn insert_rows(node: &Node, from: u64, to: u64) {
    let mut client = node.client();
    for id in from..to {
        client.query(&format!("INSERT INTO t VALUES ({id}, hex(zeroblob(200)))")).unwrap();
    }
}

fn primary(scenario: &Scenario) -> Node {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    primary
}

fn remove_tables(node: &Node) {
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let path = node.dir().join("state").join(name);
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The bytes of all segments.
fn segments(node: &Node) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(node.dir().join("pg_wal")).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let mut files: Vec<_> = files
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// The node doesn't start, says each of `texts`, and has changed nothing in its log.
fn assert_refused(node: &mut Node, texts: &[&str]) {
    let before = segments(node);
    let logged = node.log().len();
    node.try_start().unwrap_err();
    let log = node.log()[logged..].to_owned();
    for text in texts {
        assert!(log.contains(text), "no {text:?} in {log}");
    }
    assert!(segments(node) == before, "a segment was changed");
}

#[test]
fn flipped_bit_of_an_old_record_stops_the_primary_until_a_standbys_segment_takes_its_place() {
    let scenario = Scenario::new("old-record");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    insert_rows(&cluster.primary, 0, 200);
    let old = cluster.primary.lsn("pg_current_wal_flush_lsn");
    insert_rows(&cluster.primary, 200, 400);
    cluster.wait_caught_up();
    cluster.standby.stop();
    cluster.primary.kill_all();
    let Log { end, .. } = Log::of(&cluster.primary);
    remove_tables(&cluster.primary);
    flip_bit(&cluster.primary, old + 40);
    let name = Log::segment(old);
    assert_refused(
        &mut cluster.primary,
        &[
            &format!(
                "FATAL:  the log is damaged at {old}: incorrect resource manager data checksum in record at {old}"
            ),
            "was inserted when the log was durable up to",
            &format!("Valid records go on until {end}; to end the log here would lose {} bytes", end - old),
            &format!("HINT:  Replace segment {name} in pg_wal"),
        ],
    );
    let copy = |node: &Node| node.dir().join("pg_wal").join(&name);
    fs::copy(copy(&cluster.standby), copy(&cluster.primary)).unwrap();
    cluster.primary.start();
    assert_eq!(cluster.primary.value("SELECT count(*) FROM t"), "400");
    cluster.standby.start();
    insert_rows(&cluster.primary, 400, 410);
    cluster.wait_streaming();
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn header_that_was_zeroed_on_the_very_last_page_stops_the_primary() {
    let scenario = Scenario::new("last-page");
    let mut primary = primary(&scenario);
    let mut client = primary.client();
    let mut id = 0;
    let mut insert = |node: &Node| {
        id += 1;
        client.query(&format!("INSERT INTO t VALUES ({id}, 'x')")).unwrap();
        node.lsn("pg_current_wal_flush_lsn")
    };
    while !(1000..3000).contains(&insert(&primary).page_offset()) {}
    let broken = insert(&primary);
    // Two flushes more: the last record knows only of those before its own.
    let ends = [insert(&primary), insert(&primary), insert(&primary)];
    assert_eq!(ends[2].page_start(), broken.page_start());
    primary.kill_all();
    remove_tables(&primary);
    let mut log = Log::of(&primary);
    let mut header = [0; 24];
    let segment = primary.dir().join("pg_wal").join(Log::segment(broken));
    let offset = usize::try_from(SEGMENT.offset_of(broken)).unwrap();
    header.copy_from_slice(&fs::read(segment).unwrap()[offset..offset + 24]);
    log.zero(broken, broken + 24);
    let damaged =
        format!("the log is damaged at {broken}: invalid record length at {broken}: wanted 24, got 0");
    assert_refused(
        &mut primary,
        &[&damaged, &format!("inserted when the log was durable up to {}", ends[0])],
    );
    log.write(broken, &header);
    primary.start();
    assert_eq!(primary.value("SELECT count(*) FROM t"), id.to_string());
    primary.stop();
}

#[test]
fn missing_segment_is_a_refusal_with_its_name() {
    let scenario = Scenario::new("missing-segment");
    let mut primary = primary(&scenario);
    insert_rows(&primary, 0, 8000);
    let end = primary.lsn("pg_current_wal_flush_lsn");
    assert!(SEGMENT.number_of(end).0 >= 4, "{end}");
    primary.kill_all();
    remove_tables(&primary);
    for number in 1..4 {
        let name = Log::segment(Lsn(number << 20));
        let path = primary.dir().join("pg_wal").join(&name);
        let away = scenario.path("away");
        fs::rename(&path, &away).unwrap();
        let missing = format!("could not open file \"pg_wal/{name}\": No such file or directory");
        assert_refused(&mut primary, &[&missing, "FATAL", "HINT"]);
        fs::rename(&away, &path).unwrap();
    }
    primary.start();
    assert_eq!(primary.value("SELECT count(*) FROM t"), "8000");
    primary.stop();
}

/// A message of several pages, and behind it a checkpoint record that was inserted when the log was durable up to
/// `horizon` (which is given where both end and begin).
fn append_two_records(log: &mut Log, horizon: impl Fn(Lsn, Lsn) -> Lsn) -> Lsn {
    let from = log.end;
    log.append(RecordBody::new(Rmgr::XLOG, 0x20, 0, &[9; 30_000]).unwrap());
    let checkpoint = CheckPoint {
        redo: SEGMENT.log_start(),
        tli: TimelineId(1),
        prev_tli: TimelineId(1),
        horizon: horizon(from, log.end),
        ..CheckPoint::default()
    };
    log.append(checkpoint.record(CheckPointKind::Online))
}

#[test]
fn torn_write_of_many_pages_is_the_end_of_the_log_unless_a_later_record_knows_that_it_was_durable() {
    let scenario = Scenario::new("torn-write");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    insert_rows(&cluster.primary, 0, 20);
    for page in 0..3 {
        cluster.wait_caught_up();
        cluster.primary.kill_all();
        let mut log = Log::of(&cluster.primary);
        let from = log.end;
        // Neither record was flushed: page after page of the first may be missing, the second is there.
        append_two_records(&mut log, |from, _| from);
        let first = (from.page_start() + 8192 * page).max(from);
        log.zero(first, from.page_start() + 8192 * (page + 1));
        cluster.primary.start();
        cluster.primary.wait_log(&format!("end of the log at {from}: "));
        insert_rows(&cluster.primary, 100 * (page + 1), 100 * (page + 1) + 20);
        cluster.wait_streaming();
        cluster.assert_equal(&["t"]);
    }
    cluster.primary.kill_all();
    let mut log = Log::of(&cluster.primary);
    let from = log.end;
    let checkpoint = append_two_records(&mut log, |_, end| end);
    log.zero(from, from.page_start() + 8192);
    let proof = format!("the record at {checkpoint} was inserted when the log was durable up to");
    assert_refused(&mut cluster.primary, &[&format!("the log is damaged at {from}"), &proof]);
}

#[test]
fn record_torn_behind_the_end_of_its_segment_is_the_end_of_the_log() {
    let scenario = Scenario::new("torn-segment");
    let mut primary = primary(&scenario);
    insert_rows(&primary, 0, 20);
    primary.kill_all();
    let mut log = Log::of(&primary);
    let segment_end = SEGMENT.first_byte(SEGMENT.number_of(log.end).next());
    while segment_end - log.end > 30_000 {
        log.append(RecordBody::new(Rmgr::XLOG, 0x20, 0, &[1; 9000]).unwrap());
    }
    let from = log.end;
    log.append(RecordBody::new(Rmgr::XLOG, 0x20, 0, &[2; 60_000]).unwrap());
    assert!(log.end > segment_end + 3 * 8192);
    // Of the second segment the first page is missing, those behind it are there.
    log.zero(segment_end, segment_end + 8192);
    primary.start();
    primary.wait_log(&format!("end of the log at {from}: invalid magic number 0000"));
    insert_rows(&primary, 100, 120);
    primary.kill_all();

    // The same in the segment that was full when the next was begun is damage.
    remove_tables(&primary);
    let mut log = Log::of(&primary);
    while log.end < segment_end + 3 * 8192 {
        log.append(RecordBody::new(Rmgr::XLOG, 0x20, 0, &[3; 9000]).unwrap());
    }
    log.zero(segment_end, log.end);
    log.write(segment_end + 8192, &page_header(0xD110, 0, 1, segment_end.0 + 8192, 0));
    log.zero(Lsn(segment_end.0 - 8192), segment_end);
    let begun = format!("segment {} was begun, at {}", Log::segment(segment_end), segment_end + 8192);
    assert_refused(&mut primary, &[&begun]);
}
