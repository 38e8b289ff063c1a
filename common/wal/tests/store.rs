//! A directory of segments: what appears in it, what is read back, and what an error says.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use log::{Got, MemoryLog, SIZE, START, SYSTEM_IDENTIFIER, TLI};
use wal::history::TimelineHistory;
use wal::last_record::find_last_record;
use wal::lsn::Lsn;
use wal::reader::{ReadError, WalReader};
use wal::segment::{SegmentNumber, SegmentSize};
use wal::source::StoreSource;
use wal::store::{Adopted, SegmentFile, SegmentStore, StoreError};
use wal::timeline::TimelineId;

const SEGMENT: u64 = 1 << 20;
const CHILD: TimelineId = TimelineId(2);

/// A data directory with an empty pg_wal.
fn data_directory() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("pg_wal")).unwrap();
    data
}

fn store(data: &tempfile::TempDir) -> SegmentStore {
    SegmentStore::new(data.path().join("pg_wal"), SIZE)
}

fn names(store: &SegmentStore) -> Vec<String> {
    let entries = fs::read_dir(store.directory()).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Writes the log from `from` on into the store.
fn write(store: &mut SegmentStore, log: &MemoryLog, from: Lsn) {
    store.write_at(log.tli, from, &log.bytes[(from - START) as usize..]).unwrap();
}

fn read_all(store: SegmentStore, history: TimelineHistory) -> (Vec<Got>, ReadError) {
    let reader = WalReader::new(StoreSource::new(store, history.clone()), START, SIZE);
    log::read_to_end(&mut reader.with_system_identifier(SYSTEM_IDENTIFIER).with_history(history))
}

fn message<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn segment_appears_whole_and_zero() {
    let data = data_directory();
    let mut store = store(&data);
    assert!(store.prepare_ahead(TLI, SegmentNumber(1)).unwrap());
    assert!(!store.prepare_ahead(TLI, SegmentNumber(1)).unwrap(), "it is there already");
    assert_eq!(names(&store), ["000000010000000000000001"]);
    let path = store.directory().join("000000010000000000000001");
    assert_eq!(fs::read(&path).unwrap(), vec![0; SEGMENT as usize]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Not a hole: a full disk is noticed now, not when records come.
    assert!(std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap()) * 512 >= SEGMENT);

    let file = store.open_or_create(TLI, SegmentNumber(1)).unwrap();
    file.write_all_at(b"record", 40).unwrap();
    store.sync(TLI, SegmentNumber(1)).unwrap();
    assert!(!store.prepare_ahead(TLI, SegmentNumber(1)).unwrap());
    let mut buffer = [0; 6];
    store.read_at(TLI, Lsn(SEGMENT + 40), &mut buffer).unwrap();
    assert_eq!(&buffer, b"record", "a segment that is there is never replaced");
}

#[test]
fn log_written_is_read_back_over_segments() {
    let data = data_directory();
    let mut store = store(&data);
    let mut log = MemoryLog::new();
    for _ in 0..3 {
        log.append_change(100);
        log.append_change(700_000);
        log.append_change(9_000);
    }
    log.switch();
    log.append_change(10);
    write(&mut store, &log, START);
    let segments: Vec<_> = (1..=4).map(|n| SegmentFile { segment: SegmentNumber(n), tli: TLI }).collect();
    assert_eq!(store.list().unwrap(), segments);
    assert_eq!(store.highest(TLI).unwrap(), Some(SegmentNumber(4)));
    assert_eq!(store.highest(CHILD).unwrap(), None);
    let history = TimelineHistory::without_file(TLI);
    store.make_durable(&history, log.written[1].start, log.position).unwrap();

    let (got, error) = read_all(store, history);
    assert_eq!(got, log.written);
    let end = log.position;
    assert_eq!(error.to_string(), format!("invalid record length at {end}: wanted 24, got 0"));
}

#[test]
fn reader_stops_at_the_limit_and_goes_on() {
    let data = data_directory();
    let mut store = store(&data);
    let mut log = MemoryLog::new();
    let first = log.append_change(100);
    log.append_change(20_000);
    // Behind the limit is garbage, as in a standby's segment that was once another's.
    let limit = Lsn(log.position.0 - 5_000);
    write(&mut store, &log, START);
    store.write_at(TLI, limit, &[0xEE; 9_000]).unwrap();

    let mut source = StoreSource::new(store, TimelineHistory::without_file(TLI));
    source.set_limit(START);
    let mut reader = WalReader::new(source, START, SIZE);
    assert!(matches!(reader.next(), Err(ReadError::NotYet)), "nothing is there yet");
    reader.source_mut().set_limit(limit);
    assert_eq!(reader.next().unwrap().start, first);
    assert!(matches!(reader.next(), Err(ReadError::NotYet)));

    let mut writer = SegmentStore::new(data.path().join("pg_wal"), SIZE);
    write(&mut writer, &log, limit);
    reader.source_mut().set_limit(log.position);
    assert_eq!(reader.next().unwrap().main_data, log.written[1].main_data);
    assert!(matches!(reader.next(), Err(ReadError::NotYet)));
    assert_eq!(reader.position(), log.position);
    assert_eq!(reader.into_source().into_store().highest(TLI).unwrap(), Some(SegmentNumber(1)));
}

#[test]
fn missing_or_short_segment_ends_the_log() {
    let data = data_directory();
    let mut store = store(&data);
    let mut log = MemoryLog::new();
    log.append_change(100);
    log.switch();
    write(&mut store, &log, START);
    let history = TimelineHistory::without_file(TLI);
    let (got, error) = read_all(store, history.clone());
    assert_eq!(got, log.written);
    let missing = "could not open file \"pg_wal/000000010000000000000002\": No such file or directory";
    assert_eq!(error.to_string(), missing);
    assert!(matches!(error, ReadError::EndOfLog { lsn: Lsn(0x20_0000), aborted: None, .. }));

    fs::write(data.path().join("pg_wal/000000010000000000000002"), [0; 100]).unwrap();
    let (_, error) = read_all(SegmentStore::new(data.path().join("pg_wal"), SIZE), history);
    let short = "could not read from log segment 000000010000000000000002, offset 0: read 100 of 8192";
    assert_eq!(error.to_string(), short);
}

#[test]
fn nothing_stale_is_left_after_the_end() {
    let data = data_directory();
    let mut store = store(&data);
    let mut log = MemoryLog::new();
    log.append_change(100);
    let end = log.position;
    log.append_change(2_500_000);
    write(&mut store, &log, START);
    store.write_at(CHILD, Lsn(4 * SEGMENT), b"another timeline's").unwrap();

    store.clear_after(TLI, end).unwrap();
    assert_eq!(names(&store), ["000000010000000000000001", "000000020000000000000004"]);
    let bytes = fs::read(data.path().join("pg_wal/000000010000000000000001")).unwrap();
    let kept = (end - START) as usize;
    assert_eq!(bytes[..kept], log.bytes[..kept]);
    assert!(bytes[kept..].iter().all(|byte| *byte == 0));

    // An end at a segment's end leaves that segment whole.
    let whole = Lsn(2 * SEGMENT);
    store.write_at(TLI, Lsn(whole.0 - 1), b"xy").unwrap();
    store.clear_after(TLI, whole).unwrap();
    assert_eq!(names(&store), ["000000010000000000000001", "000000020000000000000004"]);
    assert_eq!(fs::read(data.path().join("pg_wal/000000010000000000000001")).unwrap().last(), Some(&b'x'));
}

#[test]
fn new_timeline_begins_with_the_old_ones_bytes() {
    let data = data_directory();
    let mut store = store(&data);
    let mut log = MemoryLog::new();
    log.append_change(1_200_000);
    log.append_change(50);
    let switch_point = log.position;
    // The old primary went on for a while.
    let mut old = log.clone();
    old.append_change(30_000);
    write(&mut store, &old, START);

    for _ in 0..2 {
        // Again, as after a crash within a promotion: what the first attempt left must not stay.
        store.begin_timeline(TLI, CHILD, switch_point).unwrap();
        let bytes = fs::read(data.path().join("pg_wal/000000020000000000000002")).unwrap();
        let kept = (switch_point.0 - 2 * SEGMENT) as usize;
        assert_eq!(bytes[..kept], log.bytes[SEGMENT as usize..][..kept]);
        assert!(bytes[kept..].iter().all(|byte| *byte == 0));
        store.write_at(CHILD, switch_point, b"left behind").unwrap();
    }
    store.begin_timeline(TLI, CHILD, switch_point).unwrap();
    let history = TimelineHistory::without_file(TLI).child(CHILD, switch_point, "test");
    store.write_history(&history).unwrap();
    log.tli = CHILD;
    log.append_change(80_000);
    write(&mut store, &log, switch_point);

    let (got, _) = read_all(store, history);
    assert_eq!(got, log.written);

    // On a boundary there is nothing to copy.
    let mut store = SegmentStore::new(data.path().join("pg_wal"), SIZE);
    store.begin_timeline(CHILD, TimelineId(3), Lsn(7 * SEGMENT)).unwrap();
    assert_eq!(
        fs::read(data.path().join("pg_wal/000000030000000000000007")).unwrap(),
        vec![0; SEGMENT as usize]
    );
}

#[test]
fn older_timeline_counts_up_to_its_switch_point_until_the_newer_ones_file_is_there() {
    let data = data_directory();
    let mut store = store(&data);
    let mut log = MemoryLog::new();
    log.append_change(50_000);
    let switch_point = log.position;
    let before = log.written.len();
    log.append_change(500);
    log.append_change(30_000);
    write(&mut store, &log, START);
    let history = TimelineHistory::without_file(TLI).child(CHILD, switch_point, "test");
    let mut reader = WalReader::new(StoreSource::new(store, history), START, SIZE);
    for _ in 0..before {
        reader.next().unwrap();
    }
    assert!(matches!(reader.next(), Err(ReadError::NotYet)));
    assert_eq!(reader.position(), switch_point);
}

#[test]
fn what_an_aborted_switch_left_is_removed() {
    let data = data_directory();
    let mut store = store(&data);
    for (tli, segment) in [(TLI, 1), (TLI, 2), (TLI, 3), (CHILD, 2), (TimelineId(3), 2)] {
        store.prepare_ahead(tli, SegmentNumber(segment)).unwrap();
    }
    store.remove_newer_timelines(CHILD).unwrap();
    store.remove_from(TLI, Lsn(3 * SEGMENT - 8)).unwrap();
    let left = ["000000010000000000000001", "000000010000000000000002", "000000020000000000000002"];
    assert_eq!(names(&store), left);
    // A switch on a boundary leaves nothing of the segment that would have begun there.
    store.remove_from(TLI, Lsn(2 * SEGMENT)).unwrap();
    assert_eq!(names(&store), [left[0], left[2]]);
}

#[test]
fn last_record_is_found_from_the_end_alone() {
    let data = data_directory();
    let mut store = store(&data);
    let mut log = MemoryLog::new();
    let mut ends = Vec::new();
    // Within a page, over pages, over a segment, and ending on a page's end.
    for size in [100, 100, 20_000, 2_200_000, 30, 8_000] {
        log.append_change(size);
        ends.push((log.position, log.prev));
    }
    write(&mut store, &log, START);
    let history = TimelineHistory::without_file(TLI);
    let mut reader = WalReader::new(StoreSource::new(store, history), START, SIZE);
    for (end, start) in ends {
        assert_eq!(find_last_record(&mut reader, end).unwrap(), Some(start), "{end}");
        assert_eq!(find_last_record(&mut reader, end + 8).unwrap(), None);
    }
    assert_eq!(find_last_record(&mut reader, START).unwrap(), None);
}

#[test]
fn restored_segment_is_adopted_whole_or_not_at_all() {
    let data = data_directory();
    let mut store = store(&data);
    let restored = store.directory().join("RECOVERYXLOG");
    let content: Vec<u8> = (0..SEGMENT).map(|at| (at % 251) as u8).collect();
    let (first, second) = (SegmentNumber(1), SegmentNumber(2));
    let own =
        |segment| fs::read(data.path().join("pg_wal").join(wal::segment::file_name(TLI, segment, SIZE)));

    // None is here: the file itself becomes the segment.
    fs::write(&restored, &content).unwrap();
    assert_eq!(store.adopt(&restored, TLI, first, START).unwrap(), Adopted::Whole);
    assert!(own(first).unwrap() == content && !restored.exists());

    // One is here in part, and open: it is completed in place.
    let start = START + SEGMENT;
    let have = start + 700_001;
    store.write_at(TLI, start, &content[..700_001]).unwrap();
    let open = fs::File::open(data.path().join("pg_wal/000000010000000000000002")).unwrap();
    fs::write(&restored, &content).unwrap();
    assert_eq!(store.adopt(&restored, TLI, second, have).unwrap(), Adopted::Whole);
    assert!(own(second).unwrap() == content && !restored.exists());
    let mut tail = [0; 8];
    open.read_exact_at(&mut tail, SEGMENT - 8).unwrap();
    assert_eq!(tail, content[content.len() - 8..]);

    // What is here before `have` differs: nothing changes.
    let mut other = content.clone();
    other[700_000] ^= 1;
    other[800_000] ^= 1;
    fs::write(&restored, &other).unwrap();
    assert_eq!(store.adopt(&restored, TLI, second, have).unwrap(), Adopted::Differs(start + 700_000));
    assert!(own(second).unwrap() == content);
}

#[test]
fn history_files_are_kept() {
    let data = data_directory();
    let store = store(&data);
    assert_eq!(store.read_history(CHILD).unwrap(), None);
    assert_eq!(store.newest_timeline(TLI).unwrap(), TLI);
    let second = TimelineHistory::without_file(TLI).child(CHILD, Lsn(0xA0_2040), "first");
    store.write_history(&second).unwrap();
    store.write_history(&second.child(TimelineId(3), Lsn(0xB0_0000), "second")).unwrap();
    assert_eq!(names(&store), ["00000002.history", "00000003.history"]);
    assert_eq!(
        fs::read_to_string(data.path().join("pg_wal/00000003.history")).unwrap(),
        "1\t0/A02040\tfirst\n2\t0/B00000\tsecond\n"
    );
    assert_eq!(store.read_history(CHILD).unwrap(), Some(second));
    assert_eq!(store.newest_timeline(TLI).unwrap(), TimelineId(3));

    fs::write(data.path().join("pg_wal/00000002.history"), "garbage").unwrap();
    let error = store.read_history(CHILD).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(
        error.to_string(),
        "could not read file \"pg_wal/00000002.history\": \
         syntax error in history file: garbage (Expected a numeric timeline ID.)"
    );
}

#[test]
fn files_of_dead_processes_are_in_nobodys_way() {
    let data = data_directory();
    let mut store = store(&data);
    let own = store.directory().join(format!("xlogtemp.{}", std::process::id()));
    fs::write(&own, "left by a process that had this number").unwrap();
    fs::write(store.directory().join("xlogtemp.99999999"), "left by another").unwrap();
    assert!(store.prepare_ahead(TLI, SegmentNumber(1)).unwrap());
    assert_eq!(names(&store), ["000000010000000000000001", "xlogtemp.99999999"]);
    store.remove_temporary().unwrap();
    store.remove(TLI, SegmentNumber(1)).unwrap();
    assert!(names(&store).is_empty());
}

#[test]
fn errors_have_postgresql_words() {
    let data = data_directory();
    let mut store = store(&data);
    let no_segment = store.file(TLI, SegmentNumber(1)).map(|_| ()).unwrap_err();
    assert!(no_segment.is_not_found() && !no_segment.is_full_disk());
    assert_eq!(
        no_segment.to_string(),
        "could not open file \"pg_wal/000000010000000000000001\": No such file or directory"
    );
    assert_eq!(
        message(store.remove(TLI, SegmentNumber(1))),
        "could not remove file \"pg_wal/000000010000000000000001\": No such file or directory"
    );
    let history = TimelineHistory::without_file(TLI);
    assert_eq!(
        message(store.make_durable(&history, START, Lsn(START.0 + 1))),
        "could not open file \"pg_wal/000000010000000000000001\": No such file or directory"
    );
    fs::remove_dir(store.directory()).unwrap();
    assert_eq!(message(store.list()), "could not read directory \"pg_wal\": No such file or directory");
    let pid = std::process::id();
    assert_eq!(
        message(store.prepare_ahead(TLI, SegmentNumber(1))),
        format!("could not create file \"pg_wal/xlogtemp.{pid}\": No such file or directory")
    );
}

#[test]
fn full_disk_is_recognised() {
    // /dev/full answers every write with "no space left".
    let full = Path::new("/dev/full");
    let data = data_directory();
    let segment = data.path().join("pg_wal/000000010000000000000001");
    std::os::unix::fs::symlink(full, &segment).unwrap();
    let mut store = SegmentStore::new(data.path().join("pg_wal"), SegmentSize::MIN);
    let error = store.write_at(TLI, Lsn(SEGMENT + 8), b"record").unwrap_err();
    assert!(error.is_full_disk());
    assert_eq!(
        error.to_string(),
        "could not write to log file 000000010000000000000001 at offset 8, length 6: No space left on device"
    );
}
