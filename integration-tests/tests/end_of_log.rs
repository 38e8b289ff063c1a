//! A primary recovers over every kind of broken tail, says what is wrong with it and where, and goes on writing; a
//! standby, pg_receivewal and pg_waldump see one log without a contradiction.
//!
//! Method: a killed primary's log is brought to a chosen place in its page and broken by hand behind it. The ideas are
//! those of PostgreSQL's src/test/recovery/t/039_end_of_wal.pl and 026_overwrite_contrecord.pl; a record
//! whose rest is missing is cut off here (nothing of it was ever streamed), so there is no overwriting record.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Child;

use integration_tests::cluster::Cluster;
use integration_tests::commands;
use integration_tests::log_surgery::{Log, SEGMENT, page_header, record_header};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;
use wal::lsn::Lsn;
use wal::record::{RecordBody, Rmgr};

const TWO_GIB: u32 = 2 << 30;

fn noop(len: usize) -> RecordBody {
    RecordBody::new(Rmgr::XLOG, 0x20, 0, &vec![5; len]).unwrap()
}

/// Appends records until the log ends `offset` bytes into a page.
fn fill_page_to(log: &mut Log, offset: usize) {
    loop {
        let start = wal::layout::record_start(log.end, SEGMENT);
        // A record of n bytes of data (1 to 255) takes 26 + n, padded.
        match offset.checked_sub(start.page_offset()) {
            Some(0) => return,
            Some(gap @ 32..=256) => log.append(noop(gap - 26)),
            Some(257..=512) => log.append(noop(100)),
            Some(_) | None => log.append(noop(250)),
        };
    }
}

/// Where the log is to end before it is broken.
#[derive(Clone, Copy)]
enum At {
    Middle,
    /// Sixteen bytes before the end of a page: the next header is split.
    Split,
    PageEnd,
}

/// What stands at the end of the log, given the place and the last record; what is behind the page.
struct Tail {
    name: &'static str,
    at: At,
    record: fn(&Log) -> Vec<u8>,
    page: Option<fn(Lsn) -> Vec<u8>>,
    /// With END, SEGMENT and OFFSET (of the page behind) in it.
    message: &'static str,
}

const PAGE: &str = "in log segment SEGMENT, offset OFFSET";

fn no_record(_: &Log) -> Vec<u8> {
    Vec::new()
}

fn long_record(log: &Log) -> Vec<u8> {
    record_header(TWO_GIB, log.last_record, 128)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn tails() -> Vec<Tail> {
    let tail = |name, at, record, page, message| Tail { name, at, record, page, message };
    use At::{Middle, PageEnd, Split};
    vec![
        tail("nothing", Middle, no_record, None, "invalid record length at END: wanted 24, got 0"),
        tail(
            "short length",
            Middle,
            |_| record_header(23, Lsn(0), 0),
            None,
            "invalid record length at END: wanted 24, got 23",
        ),
        tail(
            "wrong link",
            Middle,
            |_| record_header(40, Lsn(0xDEAD_BEEF), 0),
            None,
            "record with incorrect prev-link 0/DEADBEEF at END",
        ),
        tail(
            "no manager",
            Middle,
            |log| record_header(40, log.last_record, 22),
            None,
            "invalid resource manager ID 22 at END",
        ),
        tail(
            "wrong checksum",
            Middle,
            |log| record_header(40, log.last_record, 128),
            None,
            "incorrect resource manager data checksum in record at END",
        ),
        tail("long length, nothing behind", Middle, long_record, None, "invalid magic number 0000 PAGE"),
        tail(
            "wrong magic",
            Middle,
            long_record,
            Some(|_| page_header(0xCAFE, 0, 1, 0, 0)),
            "invalid magic number CAFE PAGE",
        ),
        tail(
            "wrong flags",
            Middle,
            long_record,
            Some(|at| page_header(0xD110, 0x1234, 1, at.0, 0)),
            "invalid info bits 1234 PAGE",
        ),
        tail(
            "wrong position",
            Middle,
            long_record,
            Some(|_| page_header(0xD110, 0, 1, 0xBAAA_AAAD, 0)),
            "unexpected pageaddr 0/BAAAAAAD PAGE",
        ),
        tail(
            "wrong timeline",
            Middle,
            long_record,
            Some(|at| page_header(0xD110, 0, 2, at.0, 0)),
            "unexpected timeline ID 2 PAGE",
        ),
        tail(
            "no continuation",
            Middle,
            long_record,
            Some(|at| page_header(0xD110, 0, 1, at.0, 0)),
            "there is no contrecord flag at END",
        ),
        tail(
            "wrong continuation",
            Middle,
            long_record,
            Some(|at| page_header(0xD110, 1, 1, at.0, 123_456)),
            "invalid contrecord length 123456 (expected LEFT) at END",
        ),
        tail(
            "split header, short length",
            Split,
            |_| record_header(1, Lsn(0), 0)[..16].to_vec(),
            None,
            "invalid record length at END: wanted 24, got 1",
        ),
        tail(
            "split header, nothing behind",
            Split,
            |log| long_record(log)[..16].to_vec(),
            None,
            "invalid magic number 0000 PAGE",
        ),
        tail(
            "split header, wrong position",
            Split,
            |log| long_record(log)[..16].to_vec(),
            Some(|_| page_header(0xD110, 1, 1, 0xBAAA_AAAD, 0)),
            "unexpected pageaddr 0/BAAAAAAD PAGE",
        ),
        tail(
            "split header, wrong link",
            Split,
            |_| record_header(40, Lsn(0xDEAD_BEEF), 0)[..16].to_vec(),
            Some(|at| page_header(0xD110, 1, 1, at.0, 24)),
            "record with incorrect prev-link 0/DEADBEEF at END",
        ),
        tail(
            "continuation of nothing",
            PageEnd,
            no_record,
            Some(|at| page_header(0xD110, 1, 1, at.0, 100)),
            "contrecord is requested by START",
        ),
        tail("page end, zeros", PageEnd, no_record, None, "invalid magic number 0000 PAGE"),
    ]
}

/// Breaks the log; the message that recovery is to say.
fn break_log(log: &mut Log, tail: &Tail) -> String {
    let offset = match tail.at {
        At::Middle => 4096,
        At::Split => 8192 - 16,
        At::PageEnd => 8192 - 40,
    };
    fill_page_to(log, offset);
    if matches!(tail.at, At::PageEnd) {
        log.append(noop(14));
        assert_eq!(log.end.page_offset(), 0);
    }
    let end = log.end;
    let behind = if end.page_offset() == 0 { end } else { log.next_page() };
    let record = (tail.record)(log);
    log.write(end, &record);
    if let Some(page) = tail.page {
        log.write(behind, &page(behind));
    }
    let left = u64::from(TWO_GIB) - (behind - end);
    let message = tail.message.replace("PAGE", PAGE).replace("START", &(end + 24).to_string());
    let message = message.replace("END", &end.to_string()).replace("SEGMENT", &Log::segment(behind));
    let message = message.replace("OFFSET", &SEGMENT.offset_of(behind).to_string());
    format!("end of the log at {end}: {}", message.replace("LEFT", &left.to_string()))
}

fn insert_rows(node: &Node, from: usize, to: usize) {
    let mut client = node.client();
    for id in from..to {
        client.query(&format!("INSERT INTO t VALUES ({id}, hex(zeroblob(150)))")).unwrap();
    }
}

fn assert_waldump_reads_to_the_end(node: &Node, log: &Log) {
    let (first, last) = (Log::segment(SEGMENT.log_start()), Log::segment(log.end));
    let said = commands::pg_waldump_segments(&node.dir().join("pg_wal"), &first, &last);
    let end = wal::layout::record_start(log.end, SEGMENT);
    assert!(said.err.contains(&format!("error in WAL record at {}: ", log.last_record)), "{}", said.err);
    assert!(said.err.contains(&format!("at {end}: wanted 24, got 0")), "{}", said.err);
}

#[test]
fn every_broken_tail_is_told_and_cut_off_and_the_log_goes_on() {
    let scenario = Scenario::new("end-of-log");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    for (number, tail) in tails().iter().enumerate() {
        cluster.primary.kill_all();
        let mut log = Log::of(&cluster.primary);
        let message = break_log(&mut log, tail);
        cluster.primary.start();
        assert!(
            cluster.primary.log().contains(&message),
            "{}: no {message:?} in\n{}",
            tail.name,
            cluster.primary.log_tail()
        );
        insert_rows(&cluster.primary, number * 100, number * 100 + 30);
        cluster.wait_streaming();
        cluster.wait_caught_up();
    }
    cluster.assert_equal(&["t"]);
    assert_eq!(cluster.primary.value("SELECT count(*) FROM t"), (30 * tails().len()).to_string());
    let (primary, standby) = (cluster.primary.dir().to_owned(), cluster.standby.dir().to_owned());
    cluster.primary.kill_all();
    let log = Log::of(&cluster.primary);
    assert_waldump_reads_to_the_end(&cluster.primary, &log);
    cluster.standby.stop();
    let used = usize::try_from(SEGMENT.offset_of(log.end)).unwrap();
    let bytes = |dir: &std::path::Path| fs::read(dir.join("pg_wal").join(Log::segment(log.end))).unwrap();
    assert!(bytes(&primary)[..used] == bytes(&standby)[..used], "the standby's log differs");
}

#[test]
fn pages_of_a_recycled_segment_are_no_log() {
    let scenario = Scenario::new("recycled-tail");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    insert_rows(&primary, 0, 3500);
    primary.kill_all();
    let old = fs::read(primary.dir().join("pg_wal").join(Log::segment(SEGMENT.log_start()))).unwrap();
    for record in [no_record, long_record] {
        let mut log = Log::of(&primary);
        assert!(SEGMENT.number_of(log.end).0 >= 2, "{}", log.end);
        fill_page_to(&mut log, 4096);
        if record(&log).is_empty() {
            fill_page_to(&mut log, 8192 - 40);
            log.append(noop(14));
        }
        let end = log.end;
        let behind = if end.page_offset() == 0 { end } else { log.next_page() };
        let header = record(&log);
        log.write(end, &header);
        // What the segment held under its old name.
        let offset = usize::try_from(SEGMENT.offset_of(behind)).unwrap();
        log.write(behind, &old[offset..]);
        let stale = SEGMENT.log_start() + SEGMENT.offset_of(behind);
        let name = Log::segment(behind);
        primary.start();
        let log = primary.log();
        let message = format!(
            "end of the log at {end}: unexpected pageaddr {stale} in log segment {name}, offset {offset}"
        );
        assert!(log.contains(&message), "no {message} in\n{log}");
        let rows: usize = primary.value("SELECT count(*) FROM t").parse().unwrap();
        insert_rows(&primary, rows, rows + 30);
        primary.kill_all();
    }
    let log = Log::of(&primary);
    assert_waldump_reads_to_the_end(&primary, &log);
    primary.start();
    assert_eq!(primary.value("SELECT count(*) FROM t"), "3560");
    primary.stop();
}

/// The first pages of a record of many pages, as a primary leaves it that dies while it writes.
fn append_first_pages(log: &mut Log, pages: u64) {
    let end = log.end;
    let keep = end.page_start() + pages * 8192;
    log.append(noop(50_000));
    let lost = log.end.page_start() + 8192;
    log.zero(keep, lost);
}

#[test]
fn what_pg_receivewal_and_a_standby_were_sent_is_never_contradicted() {
    let scenario = Scenario::new("never-contradicted");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    let dir = scenario.path("received");
    fs::create_dir(&dir).unwrap();
    let mut command = commands::postgres_command("pg_receivewal", &cluster.primary);
    command.arg("-D").arg(&dir).args(["--synchronous", "-s", "1"]);
    let receivewal = command.spawn().unwrap();
    for round in 1..4 {
        // The record that is lost next was begun before both were level, and both stay attached.
        insert_rows(&cluster.primary, round * 1000, round * 1000 + 100);
        wait_received(&cluster.primary);
        cluster.primary.kill_all();
        let mut log = Log::of(&cluster.primary);
        append_first_pages(&mut log, round as u64);
        cluster.primary.start();
        insert_rows(&cluster.primary, round * 1000 + 100, round * 1000 + 200);
    }
    wait_received(&cluster.primary);
    cluster.assert_equal(&["t"]);
    cluster.primary.kill_all();
    end(receivewal);
    let Log { end, .. } = Log::of(&cluster.primary);
    for number in 1..=SEGMENT.number_before(end).0 {
        let name = Log::segment(Lsn(number << 20));
        let used = usize::try_from((end.0 - (number << 20)).min(1 << 20)).unwrap();
        let ours = fs::read(cluster.primary.dir().join("pg_wal").join(&name)).unwrap();
        let complete = fs::read(dir.join(&name));
        let received = complete.or_else(|_| fs::read(dir.join(format!("{name}.partial")))).unwrap();
        let standbys = fs::read(cluster.standby.dir().join("pg_wal").join(&name)).unwrap();
        assert!(received[..used] == ours[..used], "pg_receivewal has other bytes in {name}");
        assert!(standbys[..used] == ours[..used], "the standby has other bytes in {name}");
    }
    cluster.standby.stop();
}

/// Waits until both walsenders' clients have flushed all there is.
fn wait_received(primary: &Node) {
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_flush_lsn()";
    wait::until("both receivers to be level", || (primary.value(sql) == "2").then_some(()));
}

fn end(mut child: Child) {
    process::kill(Pid(i32::try_from(child.id()).unwrap()), Signal::Int).unwrap();
    child.wait().unwrap();
}
