//! PostgreSQL's own pg_waldump reads what we write: every kind of record, one over several pages and segments, and a
//! switch; it lists each at our position and stops only where the log ends.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log;

use std::path::Path;
use std::process::Command;

use log::{MemoryLog, SIZE, START};
use wal::layout;
use wal::logical_message::LogicalMessage;
use wal::lsn::Lsn;
use wal::record::{RecordBody, Rmgr};
use wal::store::SegmentStore;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wal::xact::Commit;
use wal::xlog::{CheckPoint, CheckPointKind, EndOfRecovery, OverwriteContrecord};

const PG_WALDUMP: &str = "/usr/lib/postgresql/15/bin/pg_waldump";
const TIME: Timestamp = Timestamp(848_543_123_123_456);

/// Appends a finished record; gives the line that pg_waldump must show for it, up to `desc:`.
fn append(log: &mut MemoryLog, name: &str, xid: u32, body: RecordBody) -> String {
    let tot_len = body.tot_len();
    let prev = log.prev;
    let placement = layout::place(log.position, tot_len, SIZE, log.tli, log::SYSTEM_IDENTIFIER);
    log.put(&placement, body);
    line(name, tot_len, xid, placement.start, prev)
}

fn line(name: &str, tot_len: u32, xid: u32, start: Lsn, prev: Lsn) -> String {
    let (high, low) = (start.0 >> 32, start.0 & 0xFFFF_FFFF);
    let (prev_high, prev_low) = (prev.0 >> 32, prev.0 & 0xFFFF_FFFF);
    format!(
        "rmgr: {name:<11} len (rec/tot): {tot_len:>6}/{tot_len:>6}, tx: {xid:>10}, \
         lsn: {high:X}/{low:08X}, prev {prev_high:X}/{prev_low:08X}, desc: "
    )
}

fn change(xid: u32, len: usize) -> RecordBody {
    RecordBody::new(Rmgr::CHANGE, 0, xid, &vec![0xA5; len]).unwrap()
}

fn message(transactional: bool) -> RecordBody {
    let message = LogicalMessage { database: 5, transactional, prefix: "pre", payload: b"hello" };
    message.record(u32::from(transactional) * 736).unwrap()
}

/// Runs pg_waldump over the log in `directory`, from its start on; gives what it lists and what it says at the end.
fn pg_waldump(directory: &Path, timeline: TimelineId, start: Lsn) -> (Vec<String>, String) {
    assert!(
        Path::new(PG_WALDUMP).exists(),
        "{PG_WALDUMP} is missing: install Debian's package postgresql-15 (apt-get install postgresql-15)"
    );
    let output = Command::new(PG_WALDUMP)
        .arg("-p")
        .arg(directory)
        .args(["-t", &timeline.to_string(), "-s", &start.to_string()])
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    (listed, String::from_utf8(output.stderr).unwrap())
}

/// The log's bytes as a directory of segments.
fn directory_of(log: &MemoryLog) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut store = SegmentStore::new(directory.path(), SIZE);
    store.write_at(log.tli, START, &log.bytes).unwrap();
    directory
}

fn assert_listed(listed: &[String], expected: &[(String, &str)]) {
    for (found, (line, description)) in listed.iter().zip(expected) {
        assert_eq!(found, &format!("{line}{description}"));
    }
    assert_eq!(listed.len(), expected.len());
}

#[test]
fn every_kind_of_record_is_listed() {
    let mut log = MemoryLog::new();
    let mut expected = Vec::new();
    let checkpoint = CheckPoint {
        redo: Lsn(0x10_0028),
        time: 1_795_227_923,
        next_xid: 735,
        horizon: Lsn(0x1_0010_0200),
        ..CheckPoint::default()
    };
    let described = "tli 1; prev tli 1; fpw true; xid 0:735; oid 10000; multi 1; offset 0; oldest xid 3 in DB 1; \
                     oldest multi 1 in DB 1; oldest/newest commit timestamp xid: 1/1049088; oldest running xid 0";
    let shutdown = format!("CHECKPOINT_SHUTDOWN redo 0/100028; {described}; shutdown");
    let online = format!("CHECKPOINT_ONLINE redo 0/100028; {described}; online");
    let committed = "COMMIT 2026-11-21 02:25:23.123456 UTC";
    let feedback = "COMMIT 2026-11-21 02:25:23.123456 UTC; apply_feedback";
    let payload = "payload (5 bytes): 68 65 6C 6C 6F";
    let transactional = format!("MESSAGE transactional, prefix \"pre\"; {payload}");
    let plain = format!("MESSAGE non-transactional, prefix \"pre\"; {payload}");
    let unknown = "UNKNOWN (0) rmid: 128";
    let mut push = |log: &mut MemoryLog, name: &str, xid, body, described| {
        expected.push((append(log, name, xid, body), described));
    };

    push(&mut log, "XLOG", 0, checkpoint.record(CheckPointKind::Shutdown), shutdown.as_str());
    push(&mut log, "custom128", 735, change(735, 11), unknown);
    let commit = Commit { time: TIME, apply_feedback: false };
    push(&mut log, "Transaction", 735, commit.record(735), committed);
    push(&mut log, "LogicalMessage", 736, message(true), transactional.as_str());
    let commit = Commit { time: TIME, apply_feedback: true };
    push(&mut log, "Transaction", 736, commit.record(736), feedback);
    push(&mut log, "LogicalMessage", 0, message(false), plain.as_str());
    // Over pages: 255 and 256 bytes are the longest short and the shortest long main data.
    for len in [0, 255, 256, 8_000, 30_000] {
        push(&mut log, "custom128", 737, change(737, len), unknown);
    }
    // Over segments.
    push(&mut log, "custom128", 738, change(738, 2_500_000), unknown);
    push(&mut log, "XLOG", 0, checkpoint.record(CheckPointKind::Online), online.as_str());
    // A split header, and a record that ends its page.
    let gap = 8192 - log.position.page_offset() - 8;
    push(&mut log, "custom128", 739, change(739, gap - 29), unknown);
    assert_eq!(log.position.page_offset(), 8184);
    push(&mut log, "custom128", 740, change(740, 3), unknown);
    let gap = 8192 - log.position.page_offset();
    push(&mut log, "custom128", 741, change(741, gap - 29), unknown);
    assert_eq!(log.position.page_offset(), 0);
    push(&mut log, "custom128", 742, change(742, 3), unknown);
    let switch = line("XLOG", 24, 0, layout::record_start(log.position, SIZE), log.prev);
    assert!(log.switch());
    expected.push((switch, "SWITCH "));
    expected.push((append(&mut log, "custom128", 743, change(743, 3)), unknown));
    let end = EndOfRecovery { time: TIME, tli: TimelineId(1), prev_tli: TimelineId(1) };
    let ended = "END_OF_RECOVERY tli 1; prev tli 1; time 2026-11-21 02:25:23.123456 UTC";
    expected.push((append(&mut log, "XLOG", 0, end.record()), ended));

    let directory = directory_of(&log);
    let (listed, said) = pg_waldump(directory.path(), log.tli, START);
    assert_listed(&listed, &expected);
    let (last, end) = (log.prev, log.position);
    let message = format!("invalid record length at {end}: wanted 24, got 0");
    // The start asked for is the page's; it says so first, on stdout or stderr by its version.
    let said: Vec<_> = said.lines().filter(|line| line.contains("error")).collect();
    assert_eq!(said, [format!("pg_waldump: error: error in WAL record at {last}: {message}")]);
}

#[test]
fn overwritten_rest_is_stepped_over() {
    let mut log = MemoryLog::new();
    let mut lines = vec![append(&mut log, "custom128", 1, change(1, 100))];
    let (intact, intact_end) = (log.prev, log.position);
    let broken = layout::record_start(log.position, SIZE);
    append(&mut log, "custom128", 2, change(2, 20_000));
    log.bytes.truncate(8192);
    (log.prev, log.position) = (intact, intact_end);

    let page = Lsn(START.0 + 8192);
    let overwrite = OverwriteContrecord { overwritten: broken, time: TIME };
    let tot_len = OverwriteContrecord::RECORD_LEN;
    let placement = layout::place_overwrite_contrecord(page, tot_len, SIZE, log.tli, log::SYSTEM_IDENTIFIER);
    log.put(&placement, overwrite.record());
    lines.push(line("XLOG", tot_len, 0, placement.start, intact));
    lines.push(append(&mut log, "custom128", 3, change(3, 5)));

    let directory = directory_of(&log);
    let (listed, _) = pg_waldump(directory.path(), log.tli, START);
    let found = format!("OVERWRITE_CONTRECORD lsn {broken}; time 2026-11-21 02:25:23.123456 UTC");
    let described = ["UNKNOWN (0) rmid: 128", &found, "UNKNOWN (0) rmid: 128"];
    assert_listed(&listed, &lines.into_iter().zip(described).collect::<Vec<_>>());
}
