//! Random logs: what was placed is read back, however much of it is there at a time; and whatever happens to the bytes
//! behind or within it, no wrong record comes and nothing panics.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log;

use log::{Got, MemoryLog, SIZE, START, SYSTEM_IDENTIFIER, TLI};
use proptest::prelude::*;
use wal::history::TimelineHistory;
use wal::layout;
use wal::logical_message::LogicalMessage;
use wal::lsn::Lsn;
use wal::page::{Expected, PageHeader};
use wal::reader::{ReadError, WalReader};
use wal::record::Rmgr;
use wal::timeline::TimelineId;
use wal::xact::Commit;
use wal::xlog::{CheckPoint, EndOfRecovery, OverwriteContrecord};

/// One thing appended to a log: a record of so many bytes, or a switch.
#[derive(Debug, Clone)]
enum Entry {
    Record {
        len: usize,
        rmgr: u8,
        xid: u32,
    },
    /// A record that leaves this many multiples of 8 of its page.
    FillPage {
        left: usize,
    },
    Switch,
}

fn entry() -> impl Strategy<Value = Entry> {
    let len = prop_oneof![8 => 0..400_usize, 2 => 400..20_000_usize, 1 => 100_000..1_300_000_usize];
    prop_oneof![
        12 => (len, prop_oneof![Just(0_u8), Just(1), Just(21), Just(128)], any::<u32>())
            .prop_map(|(len, rmgr, xid)| Entry::Record { len, rmgr, xid }),
        3 => (0..6_usize).prop_map(|left| Entry::FillPage { left }),
        1 => Just(Entry::Switch),
    ]
}

fn build(entries: &[Entry]) -> MemoryLog {
    let mut log = MemoryLog::new();
    for (index, entry) in entries.iter().enumerate() {
        match *entry {
            Entry::Record { len, rmgr, xid } => {
                let main_data: Vec<u8> = (0..len).map(|i| (i * 31 + index) as u8).collect();
                // Not a switch: those are made by `switch`.
                log.append(Rmgr(rmgr), 0x20, xid, &main_data);
            }
            Entry::FillPage { left } => log.fill_page_to(8192 - 8 * left.max(1)),
            Entry::Switch => {
                log.switch();
            }
        }
    }
    log
}

/// Where the bytes of a record end that make it whole: without padding, and without what a switch takes.
fn bytes_end(record: &Got) -> Lsn {
    let header_list = match record.main_data.len() {
        0 => 0,
        1..=255 => 2,
        _ => 5,
    };
    let tot_len = (24 + header_list + record.main_data.len()) as u32;
    let placement = layout::place(record.start, tot_len, SIZE, TLI, SYSTEM_IDENTIFIER);
    Lsn(placement.end.0 - u64::from(tot_len.next_multiple_of(8) - tot_len))
}

/// How many records were whole in the log before `at`.
fn whole_before(log: &MemoryLog, at: Lsn) -> usize {
    log.written.iter().take_while(|record| bytes_end(record) <= at).count()
}

/// Reads what there is, the limit rising by the steps given, then to the end.
fn read_in_steps(log: &MemoryLog, steps: &[usize]) -> (Vec<Got>, ReadError) {
    let mut reader = log.reader(START);
    reader.source_mut().limit = START;
    let mut got = Vec::new();
    for step in steps {
        let limit = reader.source().limit + *step as u64;
        reader.source_mut().limit = limit;
        let (more, error) = log::read_to_end(&mut reader);
        assert!(more.iter().all(|record| bytes_end(record) <= limit), "a record that is not there");
        got.extend(more);
        if !matches!(error, ReadError::NotYet) {
            return (got, error);
        }
    }
    reader.source_mut().limit = Lsn::MAX;
    let (more, error) = log::read_to_end(&mut reader);
    got.extend(more);
    (got, error)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_was_placed_is_read_back(entries in prop::collection::vec(entry(), 1..40)) {
        let log = build(&entries);
        let (got, error) = log.read_all(START);
        prop_assert_eq!(&got, &log.written);
        let at_end = matches!(&error, ReadError::EndOfLog { aborted: None, .. });
        prop_assert!(at_end, "{:?}", error);
    }

    #[test]
    fn reading_as_it_comes_gives_the_same(
        entries in prop::collection::vec(entry(), 1..12),
        steps in prop::collection::vec(prop_oneof![1..40_usize, 1..9000_usize, Just(131_072_usize)], 0..200),
    ) {
        let log = build(&entries);
        // A receiver's limit never passes what was sent.
        let sent = (log.position - START) as usize;
        let mut total = 0;
        let steps: Vec<_> = steps.into_iter().take_while(|step| { total += step; total <= sent }).collect();
        let (got, _) = read_in_steps(&log, &steps);
        prop_assert_eq!(&got, &log.written);
    }

    #[test]
    fn reading_from_any_record_gives_the_rest(entries in prop::collection::vec(entry(), 1..20), from in any::<prop::sample::Index>()) {
        let log = build(&entries);
        prop_assume!(!log.written.is_empty());
        let from = from.index(log.written.len());
        let (got, _) = log.read_all(log.written[from].start);
        prop_assert_eq!(&got, &log.written[from..]);
        // The end of a record is as good a start as the start of the next.
        let (got, _) = log.read_all(log.written[from].end);
        prop_assert_eq!(&got, &log.written[from + 1..]);
    }

    #[test]
    fn damage_never_gives_a_wrong_record(
        entries in prop::collection::vec(entry(), 1..12),
        at in any::<prop::sample::Index>(),
        damage in prop_oneof![
            prop::collection::vec(1..=255_u8, 1..4),
            prop::collection::vec(any::<u8>(), 4..600),
        ],
        flip in any::<bool>(),
    ) {
        let mut log = build(&entries);
        prop_assume!(!log.bytes.is_empty());
        let at = at.index(log.bytes.len());
        for (byte, damage) in log.bytes[at..].iter_mut().zip(&damage) {
            *byte = if flip { *byte ^ damage } else { *damage };
        }
        let (got, _) = log.read_all(START);
        // What comes is a prefix of what was written: damage is noticed, or is where nothing is (padding, the rest of
        // a switched segment).
        prop_assert!(got.len() <= log.written.len());
        prop_assert_eq!(&got[..], &log.written[..got.len()]);
        prop_assert!(got.len() >= whole_before(&log, START + at as u64));
    }

    #[test]
    fn torn_tail_never_gives_a_wrong_record(
        entries in prop::collection::vec(entry(), 1..12),
        cut in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut log = build(&entries);
        prop_assume!(!log.bytes.is_empty());
        let cut = cut.index(log.bytes.len());
        log.bytes[cut..].fill(0);
        let len = garbage.len().min(log.bytes.len() - cut);
        log.bytes[cut..cut + len].copy_from_slice(&garbage[..len]);
        let (got, _) = log.read_all(START);
        prop_assert!(got.len() >= whole_before(&log, START + cut as u64));
        prop_assert_eq!(&got[..], &log.written[..got.len()]);
    }

    #[test]
    fn decoders_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120), info in any::<u8>(), text in ".{0,80}") {
        let _ = PageHeader::decode(&bytes).map(|header| header.check(&Expected {
            page: Lsn(0x10_0000), segment_size: SIZE, system_identifier: None, file_tli: TimelineId(1),
        }));
        let _ = CheckPoint::decode(&bytes);
        let _ = EndOfRecovery::decode(&bytes);
        let _ = OverwriteContrecord::decode(&bytes);
        let _ = Commit::decode(info, &bytes);
        let _ = LogicalMessage::decode(&bytes);
        let _ = TimelineHistory::parse(TimelineId(9), &text);
        let _ = text.parse::<Lsn>();
        let _ = wal::segment::parse_file_name(&text, SIZE);
    }

    #[test]
    fn header_lists_of_any_bytes_are_no_panic(body in prop::collection::vec(any::<u8>(), 0..80), first in prop_oneof![Just(0_u8), Just(0xFF), Just(0xFE), Just(0xFD), Just(0xFC), any::<u8>()]) {
        // A record with a right CRC over a senseless header list.
        let mut body = body;
        if let Some(id) = body.first_mut() {
            *id = first;
        }
        let mut log = MemoryLog::new();
        log.append_change(10);
        let mut header = Vec::new();
        header.extend((24 + body.len() as u32).to_le_bytes());
        header.extend([0; 4]);
        header.extend(log.prev.0.to_le_bytes());
        header.extend([0, 10, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &header);
        header.extend(crc.to_le_bytes());
        log.write(log.position, &[header, body].concat());
        let (got, error) = log.read_all(START);
        prop_assert!(!got.is_empty());
        let at_end = matches!(error, ReadError::EndOfLog { .. });
        prop_assert!(at_end);
    }
}

#[test]
fn position_at_the_end_of_the_address_space_is_no_panic() {
    let log = build(&[Entry::Switch]);
    for start in [Lsn::MAX, Lsn(u64::MAX - 7), Lsn(u64::MAX - 8191)] {
        let mut reader = WalReader::new(log.source(), start, SIZE);
        assert!(matches!(reader.next(), Err(ReadError::EndOfLog { .. })));
    }
}
