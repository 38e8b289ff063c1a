//! Every kind of record against bytes that were made from the format's description by an independent program (a few lines
//! of Python's struct, and a CRC bit by bit).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log;

use wal::logical_message::LogicalMessage;
use wal::lsn::Lsn;
use wal::record::{
    RECORD_SIZE_MAX, RecordBody, RecordBuilder, RecordHeader, RecordTooLong, Rmgr, crc_is_right,
};
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wal::xact::Commit;
use wal::xlog::{CheckPoint, CheckPointKind, EndOfRecovery, OverwriteContrecord, switch_record};

const TIME: Timestamp = Timestamp(848_543_123_123_456);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn assert_record(mut body: RecordBody, prev: u64, expected: &str) {
    let expected = hex(expected);
    assert_eq!(body.tot_len() as usize, expected.len());
    assert_eq!(body.seal(Lsn(0xFFFF)).len(), expected.len(), "sealing can be repeated");
    assert_eq!(body.seal(Lsn(prev)), expected);
    assert!(crc_is_right(&expected));
}

#[test]
fn checkpoint_bytes() {
    let checkpoint = CheckPoint {
        redo: Lsn(0x10_0028),
        time: 1_795_227_923,
        horizon: Lsn(0x1_0010_0200),
        ..CheckPoint::default()
    };
    let record = "72000000000000000000000000000000000000001b0aa1dbff58280010000000
        0000010000000100000001000000000000000300000000000000102700000100
        00000000000003000000010000000100000001000000000000001301016b0000
        000001000000000210000000000000000000";
    let body = checkpoint.record(CheckPointKind::Shutdown);
    assert_eq!(body.tot_len(), CheckPoint::RECORD_LEN);
    assert_record(body, 0, record);
    assert_eq!(CheckPoint::decode(&hex(record)[26..]), Ok(checkpoint));
    assert_eq!(
        CheckPoint::decode(&hex(record)[27..]).unwrap_err().to_string(),
        "invalid checkpoint record: 87 bytes of data, expected 88"
    );
    let mut online = checkpoint.record(CheckPointKind::Online);
    assert_eq!(online.seal(Lsn(0))[16], 0x10);
}

#[test]
fn commit_bytes() {
    let plain = Commit { time: TIME, apply_feedback: false };
    let record = "22000000df02000028001000000000000001000070c9d593ff08002d6ed7be030300";
    assert_record(plain.record(735), 0x10_0028, record);
    assert_eq!(Commit::decode(0, &hex(record)[26..]), Ok(plain));

    let feedback = Commit { time: TIME, apply_feedback: true };
    let record = "26000000df0200002800100000000000800100001540832aff0c002d6ed7be03
        030000000020";
    assert_record(feedback.record(735), 0x10_0028, record);
    assert_eq!(Commit::decode(0x80, &hex(record)[26..]), Ok(feedback));
    // PostgreSQL's own extras follow the word that announces them.
    assert_eq!(Commit::decode(0x80, &[&hex(record)[26..], b"extras"].concat()), Ok(feedback));

    assert_eq!(
        Commit::decode(0x80, &[0; 11]).unwrap_err().to_string(),
        "invalid commit record: 11 bytes of data, expected at least 12"
    );
    assert!(Commit::decode(0, &[0; 7]).is_err());
    assert!(Commit::is_commit(Rmgr::TRANSACTION, 0x80) && !Commit::is_commit(Rmgr::TRANSACTION, 0x20));
}

#[test]
fn logical_message_bytes() {
    let message = LogicalMessage { database: 5, transactional: true, prefix: "pre", payload: b"hello" };
    let record = "3b000000df020000a000100000000000001500006fd815c5ff21050000000100
        0000040000000000000005000000000000007072650068656c6c6f";
    assert_record(message.record(735).unwrap(), 0x10_00A0, record);
    let main_data = &hex(record)[26..];
    assert_eq!(LogicalMessage::decode(main_data), Ok(message));
    let problem = |main_data: &[u8]| LogicalMessage::decode(main_data).unwrap_err().problem;
    assert_eq!(problem(&main_data[..23]), "23 bytes of data, expected at least 24");
    assert_eq!(problem(&main_data[..32]), "prefix of 4 and message of 5 bytes in 8");
    let changed = |at: usize, byte: u8| {
        let mut changed = main_data.to_vec();
        changed[at] = byte;
        problem(&changed)
    };
    assert_eq!(changed(27, b'x'), "the prefix does not end with a NUL");
    assert_eq!(changed(24, 0xFF), "the prefix is not UTF-8");
    let mut empty = vec![0; 24];
    assert_eq!(problem(&empty), "the prefix does not end with a NUL");
    empty[8..24].fill(0xFF);
    assert!(LogicalMessage::decode(&empty).is_err(), "lengths that overflow");
}

#[test]
fn change_record_bytes_short_and_long() {
    let short = RecordBody::new(Rmgr::CHANGE, 0, 736, b"kv").unwrap();
    assert_record(short, 0x10_0100, "1c000000e00200000001100000000000008000003ad8cc51ff026b76");

    let main_data: Vec<u8> = (0..256).map(|i| (i % 251) as u8).collect();
    let mut expected = "1d01000001000000000110000000000000800000c88ea1c4fe00010000".to_owned();
    main_data.iter().for_each(|byte| expected.push_str(&format!("{byte:02x}")));
    assert_record(RecordBody::new(Rmgr::CHANGE, 0, 1, &main_data).unwrap(), 0x10_0100, &expected);

    let (first, rest) = main_data.split_at(100);
    let slices = RecordBody::from_slices(Rmgr::CHANGE, 0, 1, &[first, &[], rest]).unwrap();
    assert_record(slices, 0x10_0100, &expected);

    let mut builder = RecordBuilder::default();
    std::io::Write::write_all(&mut builder, first).unwrap();
    builder.extend(rest);
    assert_eq!(builder.main_data_len(), 256);
    assert_record(builder.finish(Rmgr::CHANGE, 0, 1).unwrap(), 0x10_0100, &expected);
}

#[test]
fn records_about_the_log_bytes() {
    assert_record(switch_record(), 0x10_0100, "1800000000000000000110000000000040000000de035fc8");

    let end = EndOfRecovery { time: TIME, tli: TimelineId(2), prev_tli: TimelineId(1) };
    let record = "2a00000000000000000110000000000090000000c595470dff10002d6ed7be03
        03000200000001000000";
    assert_record(end.record(), 0x10_0100, record);
    assert_eq!(EndOfRecovery::decode(&hex(record)[26..]), Ok(end));
    assert!(EndOfRecovery::decode(&[]).is_err());

    let overwrite = OverwriteContrecord { overwritten: Lsn(0x10_1F00), time: TIME };
    let record = "2a000000000000000001100000000000d0000000efecd67cff10001f10000000
        0000002d6ed7be030300";
    assert_record(overwrite.record(), 0x10_0100, record);
    assert_eq!(OverwriteContrecord::decode(&hex(record)[26..]), Ok(overwrite));
    assert_eq!(
        overwrite.verify(Lsn(0x10_1F00)).unwrap(),
        "successfully skipped missing contrecord at 0/101F00, overwritten at 2026-11-21 02:25:23.123456+00"
    );
    assert_eq!(
        overwrite.verify(Lsn(0x10_1F08)).unwrap_err().to_string(),
        "mismatching overwritten LSN 0/101F00 -> 0/101F08"
    );
}

#[test]
fn record_header_both_ways() {
    let bytes = hex("1c000000e00200000001100000000000f08000003ad8cc51");
    let header = RecordHeader::decode(bytes.first_chunk().unwrap());
    assert_eq!(
        header,
        RecordHeader {
            tot_len: 28,
            xid: 736,
            prev: Lsn(0x10_0100),
            info: 0xF0,
            rmgr: Rmgr(128),
            crc: 0x51CC_D83A,
        }
    );
    assert_eq!(header.encode(), *bytes);
}

#[test]
fn record_that_is_too_long_is_refused() {
    let mebibyte = vec![0; 1 << 20];
    let slices: Vec<&[u8]> = vec![&mebibyte; 1021];
    let refused = RecordBody::from_slices(Rmgr::CHANGE, 0, 1, &slices).map(|body| body.tot_len());
    assert_eq!(refused, Err(RecordTooLong(1021 << 20)));
    assert_eq!(RECORD_SIZE_MAX, 1020 << 20);
}

/// A record of PostgreSQL's, after one that ended at 0/100050, with this header list and payload and a right CRC; gives
/// what the reader makes of it.
fn read_foreign(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut log = log::MemoryLog::new();
    log.append_change(10);
    let mut record = Vec::new();
    record.extend((24 + body.len() as u32).to_le_bytes());
    record.extend([0; 4]);
    record.extend(log.prev.0.to_le_bytes());
    record.extend([0, 10, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
    record.extend(crc.to_le_bytes());
    record.extend(body);
    log.write(log.position, &record);
    let mut reader = log.reader(log.prev);
    reader.next().unwrap();
    reader.next().map(|record| record.main_data.to_vec()).map_err(|error| error.to_string())
}

#[test]
fn block_references_are_stepped_over() {
    let relation = [0x7F, 6, 0, 0, 5, 0, 0, 0, 0x10, 0x27, 0, 0];
    let block_number = [9, 0, 0, 0];
    // Block 0 with two bytes of data; block 1 of the same relation with an image of 100 bytes and a hole; an origin; a
    // top-level transaction; main data.
    let mut body = vec![0, 0x20, 2, 0];
    body.extend(relation);
    body.extend(block_number);
    body.extend([1, 0x90, 0, 0, 100, 0, 50, 0, 0x03]);
    body.extend(block_number);
    body.extend([0xFD, 1, 0, 0xFC, 7, 0, 0, 0, 0xFF, 4]);
    body.extend([0xD0, 0xD1]);
    body.extend([0x11; 100]);
    body.extend(b"main");
    assert_eq!(read_foreign(&body), Ok(b"main".to_vec()));
    body.push(0);
    assert_eq!(read_foreign(&body), Err("record with invalid length at 0/100050".into()));

    assert_eq!(read_foreign(&[]), Ok(Vec::new()));
    let table: [(&[u8], &str); 9] = [
        (&[33, 0, 0, 0], "invalid block_id 33"),
        (&[0, 0x20, 0, 0, 0], "BKPBLOCK_HAS_DATA set, but no data included"),
        (&[0, 0, 3, 0, 0], "BKPBLOCK_HAS_DATA not set, but data length is 3"),
        (&[0, 0x80, 0, 0, 0], "BKPBLOCK_SAME_REL set but no previous rel"),
        (
            &[0, 0x10, 0, 0, 0, 1, 0, 0, 1, 0],
            "BKPIMAGE_HAS_HOLE set, but hole offset 0 length 7936 block image length 256",
        ),
        (&[0, 0x10, 0, 0, 0, 1, 0, 0, 0, 0], "BKPIMAGE_HAS_HOLE not set, but hole offset 0 length 7936"),
        (&[0, 0x10, 0, 0, 0, 0x20, 0, 0, 4, 0], "BKPIMAGE_COMPRESSED set, but block image length 8192"),
        (&[0xFF, 1], "record with invalid length"),
        (&[0xFE, 1, 0, 0], "record with invalid length"),
    ];
    for (body, message) in table {
        assert_eq!(read_foreign(body), Err(format!("{message} at 0/100050")));
    }
    let block = [0, 0, 0, 0];
    let twice = [&block[..], &relation, &block_number, &block, &relation, &block_number, &[0xFF, 1, 0]];
    assert_eq!(read_foreign(&twice.concat()), Err("out-of-order block_id 0 at 0/100050".into()));
}
