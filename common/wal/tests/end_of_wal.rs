//! Logs that end in every way a log can end, each with PostgreSQL's message: hand-made headers behind good records.
//!
//! The ideas are those of PostgreSQL's src/test/recovery/t/039_end_of_wal.pl and 026_overwrite_contrecord.pl.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log;

use log::{MemoryLog, SIZE, START, SYSTEM_IDENTIFIER, TLI};
use wal::history::TimelineHistory;
use wal::layout;
use wal::lsn::Lsn;
use wal::reader::{AbortedContrecord, ReadError, WalReader};
use wal::record::Rmgr;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wal::xlog::OverwriteContrecord;

const TWO_GIB: u32 = 2 << 30;

/// A record header by hand: as the format's description has it.
fn record_header(tot_len: u32, prev: u64, rmgr: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(tot_len.to_le_bytes());
    bytes.extend(42_u32.to_le_bytes());
    bytes.extend(prev.to_le_bytes());
    bytes.extend([0, rmgr, 0, 0]);
    bytes.extend(0_u32.to_le_bytes());
    bytes
}

/// A short page header by hand.
fn page_header(magic: u16, flags: u16, tli: u32, address: u64, rem_len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(magic.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(tli.to_le_bytes());
    bytes.extend(address.to_le_bytes());
    bytes.extend(rem_len.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// A log whose last record ends at 0/102400, or so near the end of its page (0/103FF0) that a header is split.
fn log_to(end: u64) -> MemoryLog {
    let mut log = MemoryLog::new();
    log.append_change(40);
    log.append_change(9000);
    log.fill_page_to((end % 8192) as usize);
    while log.position < Lsn(end) {
        log.append_change(300);
        log.fill_page_to((end % 8192) as usize);
    }
    assert_eq!(log.position, Lsn(end));
    log
}

/// Reads the log: every record written must come, then this end.
fn assert_ends(log: &MemoryLog, lsn: u64, message: &str, aborted: Option<(u64, u64)>) {
    let (got, error) = log.read_all(START);
    assert_eq!(got, log.written);
    let ReadError::EndOfLog { lsn: found_lsn, message: found, aborted: found_aborted } = error else {
        panic!("{error:?}, expected {message}");
    };
    assert_eq!(found, message);
    assert_eq!(found_lsn, Lsn(lsn));
    let aborted =
        aborted.map(|(start, missing)| AbortedContrecord { start: Lsn(start), missing_page: Lsn(missing) });
    assert_eq!(found_aborted, aborted);
}

const MID: u64 = 0x10_2400;
const NEXT_PAGE: u64 = 0x10_4000;
const SPLIT: u64 = 0x10_3FF0;

#[test]
fn single_page_ends() {
    let mut log = log_to(MID);
    assert_ends(&log, MID, "invalid record length at 0/102400: wanted 24, got 0", None);
    log.write(Lsn(MID), &record_header(23, 0, 0));
    assert_ends(&log, MID, "invalid record length at 0/102400: wanted 24, got 23", None);
    log.write(Lsn(MID), &record_header(TWO_GIB, 0xDEAD_BEEF, 0));
    assert_ends(&log, MID, "record with incorrect prev-link 0/DEADBEEF at 0/102400", None);
    for rmgr in [22, 127] {
        log.write(Lsn(MID), &record_header(30, log.prev.0, rmgr));
        assert_ends(&log, MID, &format!("invalid resource manager ID {rmgr} at 0/102400"), None);
    }
    log.write(Lsn(MID), &record_header(30, log.prev.0, 128));
    assert_ends(&log, MID, "incorrect resource manager data checksum in record at 0/102400", None);
}

#[test]
fn flipped_byte_of_the_last_record_is_a_wrong_checksum() {
    let mut log = log_to(MID);
    log.append_change(10);
    let last = log.written.pop().unwrap();
    log.write(Lsn(last.end.0 - 8), b"!");
    let message = format!("incorrect resource manager data checksum in record at {}", last.start);
    assert_ends(&log, last.start.0, &message, None);
}

#[test]
fn length_too_short_at_the_very_end_of_a_page() {
    let mut log = log_to(SPLIT);
    log.write(Lsn(SPLIT), &record_header(1, 0, 0)[..16]);
    assert_ends(&log, SPLIT, "invalid record length at 0/103FF0: wanted 24, got 1", None);
}

#[test]
fn next_page_is_no_continuation() {
    let prev = log_to(MID).prev.0;
    let place = "in log segment 000000010000000000000001, offset 16384";
    let table: [(Option<Vec<u8>>, String); 8] = [
        (None, format!("invalid magic number 0000 {place}")),
        (Some(page_header(0xCAFE, 0, 1, 0, 0)), format!("invalid magic number CAFE {place}")),
        (Some(page_header(0xD110, 0, 1, 0xBAAA_AAAD, 0)), format!("unexpected pageaddr 0/BAAAAAAD {place}")),
        (Some(page_header(0xD110, 0x1234, 1, NEXT_PAGE, 0)), format!("invalid info bits 1234 {place}")),
        (
            Some(page_header(0xD110, 0, 0, NEXT_PAGE, 0)),
            format!("out-of-sequence timeline ID 0 (after 1) {place}"),
        ),
        (Some(page_header(0xD110, 0, 2, NEXT_PAGE, 0)), format!("unexpected timeline ID 2 {place}")),
        (Some(page_header(0xD110, 0, 1, NEXT_PAGE, 0)), "there is no contrecord flag at 0/102400".into()),
        (
            Some(page_header(0xD110, 1, 1, NEXT_PAGE, 123_456)),
            // 2 GiB less the 7168 bytes that the first page holds.
            "invalid contrecord length 123456 (expected 2147476480) at 0/102400".into(),
        ),
    ];
    for (header, message) in table {
        let mut log = log_to(MID);
        log.write(Lsn(MID), &record_header(TWO_GIB, prev, 128));
        if let Some(header) = header {
            log.write(Lsn(NEXT_PAGE), &header);
        }
        assert_ends(&log, MID, &message, Some((MID, NEXT_PAGE)));
    }
    let mut log = log_to(MID);
    log.write(Lsn(MID), &record_header(TWO_GIB, prev, 128));
    log.write(Lsn(NEXT_PAGE), &page_header(0xD110, 1, 1, NEXT_PAGE, 2_147_476_480));
    let message = "record length 2147483648 at 0/102400 too long";
    assert_ends(&log, MID, message, Some((MID, NEXT_PAGE)));
}

#[test]
fn page_checks_come_first_when_the_header_is_split() {
    let place = "in log segment 000000010000000000000001, offset 16384";
    let table: [(Option<Vec<u8>>, String); 3] = [
        (None, format!("invalid magic number 0000 {place}")),
        (Some(page_header(0xD110, 1, 1, 0xBAAA_AAAD, 0)), format!("unexpected pageaddr 0/BAAAAAAD {place}")),
        (
            Some(page_header(0xD110, 1, 1, NEXT_PAGE, 123_456)),
            "invalid contrecord length 123456 (expected 2147483632) at 0/103FF0".into(),
        ),
    ];
    for (header, message) in table {
        let mut log = log_to(SPLIT);
        log.write(Lsn(SPLIT), &record_header(TWO_GIB, 0xDEAD_BEEF, 0)[..16]);
        if let Some(header) = header {
            log.write(Lsn(NEXT_PAGE), &header);
        }
        assert_ends(&log, SPLIT, &message, Some((SPLIT, NEXT_PAGE)));
    }
    // The page is right: then the header is looked at.
    let mut log = log_to(SPLIT);
    log.write(Lsn(SPLIT), &record_header(40, 0xDEAD_BEEF, 0)[..16]);
    log.write(Lsn(NEXT_PAGE), &page_header(0xD110, 1, 1, NEXT_PAGE, 24));
    let message = "record with incorrect prev-link 0/DEADBEEF at 0/103FF0";
    assert_ends(&log, SPLIT, message, Some((SPLIT, NEXT_PAGE)));
}

#[test]
fn log_ends_with_its_page_or_segment() {
    let mut log = MemoryLog::new();
    log.append_change(40);
    log.fill_page_to(8192 - 32);
    log.append_change(6);
    assert_eq!(log.position.page_offset(), 0);
    let end = log.position.0;
    // PostgreSQL names the page that is none.
    let place = format!("in log segment 000000010000000000000001, offset {}", end - START.0);
    assert_ends(&log, end, &format!("invalid magic number 0000 {place}"), None);

    log.switch();
    assert_ends(&log, 0x20_0000, "no such segment", None);
}

#[test]
fn wrong_starts_are_told() {
    let log = log_to(MID);
    let end_at = |start: u64| match log.reader(Lsn(start)).next() {
        Err(error) => error.to_string(),
        Ok(record) => format!("{record:?}"),
    };
    assert_eq!(end_at(0x10_0010), "invalid record offset at 0/100010");
    // The record of 9000 bytes runs on to the second page.
    assert_eq!(end_at(0x10_2000), "contrecord is requested by 0/102018");
    assert_eq!(end_at(0x10_2018), "contrecord is requested by 0/102018");
}

#[test]
fn other_database_is_told() {
    let log = log_to(MID);
    let mut reader = WalReader::new(log.source(), Lsn(MID), SIZE).with_system_identifier(99);
    let error = reader.next().unwrap_err().to_string();
    let ids = format!(
        "WAL file database system identifier is {SYSTEM_IDENTIFIER}, pg_control database system identifier is 99"
    );
    assert_eq!(error, format!("WAL file is from different database system: {ids}"));
}

/// A log whose last record lost its rest in a crash: the page of the rest is zero.
fn log_with_lost_rest() -> (MemoryLog, Lsn) {
    let mut log = log_to(MID);
    let broken = log.append_change(9000);
    log.written.pop();
    log.bytes.truncate((NEXT_PAGE - START.0) as usize);
    let intact = log.written.last().unwrap();
    (log.prev, log.position) = (intact.start, intact.end);
    (log, broken)
}

#[test]
fn lost_rest_is_overwritten_and_skipped() {
    let (mut log, broken) = log_with_lost_rest();
    let place = "in log segment 000000010000000000000001, offset 16384";
    let zero_page = format!("invalid magic number 0000 {place}");
    assert_ends(&log, MID, &zero_page, Some((broken.0, NEXT_PAGE)));

    let overwrite = OverwriteContrecord { overwritten: broken, time: Timestamp(0) };
    let placement = layout::place_overwrite_contrecord(
        Lsn(NEXT_PAGE),
        OverwriteContrecord::RECORD_LEN,
        SIZE,
        TLI,
        SYSTEM_IDENTIFIER,
    );
    log.put(&placement, overwrite.record());
    let mut reader = log.reader(log.written.last().unwrap().start);
    reader.next().unwrap();
    let record = reader.next().unwrap();
    assert_eq!(record.overwritten, Some(broken));
    assert_eq!(record.start, Lsn(NEXT_PAGE + 24));
    assert!(OverwriteContrecord::decode(record.main_data).unwrap().verify(broken).is_ok());

    // The log goes on behind it.
    let after = log.append_change(5);
    let mut reader = log.reader(START);
    let (got, _) = log::read_to_end(&mut reader);
    assert_eq!(got.last().unwrap().start, after);
    assert_eq!(reader.last_record(), Some(after));
}

#[test]
fn lost_overwriting_record_is_to_be_written_again() {
    let (mut log, broken) = log_with_lost_rest();
    log.write(Lsn(NEXT_PAGE), &page_header(0xD110, 8, 1, NEXT_PAGE, 0));
    let message = "invalid record length at 0/104018: wanted 24, got 0";
    assert_ends(&log, NEXT_PAGE + 24, message, Some((broken.0, NEXT_PAGE)));
}

#[test]
fn stale_record_behind_the_end_is_refused_by_its_link() {
    // The log was once longer; a shorter record now stands where the stale one's predecessor was.
    let mut log = log_to(MID);
    log.append_change(100);
    let stale = log.append_change(100);
    log.written.truncate(log.written.len() - 2);
    let last = log.written.last().unwrap();
    (log.prev, log.position) = (last.start, last.end);
    log.append_change(40);
    let between = log.append_change(30);
    assert_eq!(log.position, stale, "the stale record follows at once");
    let prev = log.written[log.written.len() - 2].start;
    assert!(prev < between);
    let message = format!("record with incorrect prev-link {prev} at {stale}");
    assert_ends(&log, stale.0, &message, None);
}

#[test]
fn first_record_is_found_behind_a_rest() {
    let mut log = MemoryLog::new();
    log.append_change(40);
    let long = log.append_change(40_000);
    let after = log.append_change(10);
    let last = log.append(Rmgr::CHANGE, 0, 1, b"x");
    let mut reader = log.reader(START);
    for (from, first) in [
        (START, log.written[0].start),
        (Lsn(0x10_2000), after),
        (Lsn(0x10_6000), after),
        (long, long),
        (Lsn(long.0 + 8), after),
        (Lsn(after.0 + 1), last),
    ] {
        assert_eq!(reader.find_first_record(from).unwrap(), first, "from {from}");
        assert_eq!(reader.next().unwrap().start, first);
    }
    assert!(matches!(reader.find_first_record(Lsn(last.0 + 1)), Err(ReadError::EndOfLog { .. })));
}

#[test]
fn timeline_rises_with_its_pages() {
    let mut log = MemoryLog::new();
    log.append_change(40);
    log.append_change(9000);
    let switch_point = log.position;
    log.tli = TimelineId(2);
    log.append_change(10);
    log.append_change(9000);
    log.append_change(9000);
    let history = TimelineHistory::without_file(TLI).child(TimelineId(2), switch_point, "test");
    let mut reader = WalReader::new(log.source(), START, SIZE).with_history(history);
    let (got, _) = log::read_to_end(&mut reader);
    assert_eq!(got, log.written);

    // A page of the old timeline behind one of the new.
    log.write(Lsn(0x10_6004), &1_u32.to_le_bytes());
    let (got, error) = log::read_to_end(&mut WalReader::new(log.source(), START, SIZE));
    assert!(got.len() < log.written.len());
    let place = "in log segment 000000020000000000000001, offset 24576";
    assert_eq!(error.to_string(), format!("out-of-sequence timeline ID 1 (after 2) {place}"));
}
