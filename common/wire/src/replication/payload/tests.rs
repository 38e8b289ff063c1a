use proptest::prelude::*;

use super::*;
use crate::error::Severity;
use crate::framing::{InputBuffer, Message};

/// The payload of the one CopyData in `bytes`.
fn payload(bytes: &[u8]) -> Vec<u8> {
    let mut input = InputBuffer::new(crate::client::check_frame);
    input.feed(bytes);
    let Message { tag, body, .. } = input.next_message().unwrap().unwrap();
    assert_eq!(tag, b'd');
    body.to_vec()
}

#[test]
fn wal_message_has_postgresqls_form() {
    let mut out = b"before".to_vec();
    let mut message = WalMessage::begin(&mut out, Lsn(0x0102_0304_0506_0708), 3);
    message.wal_mut().copy_from_slice(b"wal");
    message.finish(Lsn(0x1112_1314_1516_1718), Timestamp(-2));
    let expected = b"befored\0\0\0\x20w\x01\x02\x03\x04\x05\x06\x07\x08\x11\x12\x13\x14\x15\x16\x17\x18\
          \xff\xff\xff\xff\xff\xff\xff\xfewal";
    assert_eq!(out, expected);
    let mut out = b"before".to_vec();
    wal_header(&mut out, Lsn(0x0102_0304_0506_0708), 3, Lsn(0x1112_1314_1516_1718), Timestamp(-2));
    out.extend_from_slice(b"wal");
    assert_eq!(out, expected);
}

#[test]
fn wal_message_that_is_not_finished_is_taken_back() {
    let mut out = b"before".to_vec();
    drop(WalMessage::begin(&mut out, Lsn(1), MAX_SEND_SIZE));
    assert_eq!(out, b"before");
}

#[test]
fn keepalive_has_postgresqls_form() {
    let mut out = Vec::new();
    keepalive(&mut out, Lsn(0xA0_2158), Timestamp(5), true);
    assert_eq!(out, b"d\0\0\0\x16k\0\0\0\0\0\xa0\x21\x58\0\0\0\0\0\0\0\x05\x01");
}

#[test]
fn standby_messages_have_postgresqls_form() {
    let update = StandbyMessage::StatusUpdate(StatusUpdate {
        write: Lsn(1),
        flush: Lsn(2),
        apply: Lsn(3),
        time: Timestamp(4),
        reply_requested: true,
    });
    let mut out = Vec::new();
    update.encode(&mut out);
    assert_eq!(
        out,
        b"d\0\0\0\x26r\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\x01"
    );
    assert_eq!(StandbyMessage::decode(&payload(&out)), Ok(update));
    let feedback = StandbyMessage::HotStandbyFeedback(HotStandbyFeedback {
        time: Timestamp(1),
        xmin: 2,
        xmin_epoch: 3,
        catalog_xmin: 4,
        catalog_xmin_epoch: 5,
    });
    out.clear();
    feedback.encode(&mut out);
    assert_eq!(out, b"d\0\0\0\x1dh\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05");
    assert_eq!(StandbyMessage::decode(&payload(&out)), Ok(feedback));
}

#[test]
fn headers_too_short_are_refused() {
    for (bytes, message) in [
        (&b""[..], "no data left in message"),
        (&[b'w'; 24], "invalid WAL message received from primary"),
        (&[b'k'; 17], "invalid keepalive message received from primary"),
        (&[b'k'; 19], "invalid keepalive message received from primary"),
        (b"s", "invalid replication message type 115"),
    ] {
        let error = SenderMessage::decode(bytes).unwrap_err();
        assert_eq!((error.message.as_str(), error.sqlstate), (message, PROTOCOL_VIOLATION));
    }
    assert!(SenderMessage::decode(&[b'w'; 25]).is_ok());
    for (bytes, severity, message) in [
        (&b""[..], Severity::Error, "no data left in message"),
        (&[b'r'; 33], Severity::Error, "no data left in message"),
        (&[b'r'; 30], Severity::Error, "insufficient data left in message"),
        (&[b'r'; 35], Severity::Error, "invalid message format"),
        (&[b'h'; 24], Severity::Error, "insufficient data left in message"),
        (b"p", Severity::CommError, "unexpected message type \"p\""),
    ] {
        let error = StandbyMessage::decode(bytes).unwrap_err();
        assert_eq!((error.severity, error.message.as_str()), (severity, message));
    }
}

#[test]
fn only_copy_messages_come_from_a_standby() {
    use crate::replication::check_standby_frame;
    for (tag, length, accepted) in
        [(b'd', 10_004, true), (b'd', 100_000, false), (b'c', 4, true), (b'X', 4, true), (b'd', 3, false)]
    {
        assert_eq!(check_standby_frame(tag, length).is_ok(), accepted);
    }
    let error = check_standby_frame(b'Q', 5).unwrap_err();
    assert_eq!(error.to_string(), "FATAL:  invalid standby message type \"Q\"");
}

proptest! {
    #[test]
    fn wal_survives(start: u64, wal_end: u64, time: i64, wal in prop::collection::vec(any::<u8>(), 0..500)) {
        let mut out = Vec::new();
        let mut message = WalMessage::begin(&mut out, Lsn(start), wal.len());
        message.wal_mut().copy_from_slice(&wal);
        message.finish(Lsn(wal_end), Timestamp(time));
        let expected =
            SenderMessage::Wal { start: Lsn(start), wal_end: Lsn(wal_end), send_time: Timestamp(time), wal: &wal };
        let payload = payload(&out);
        prop_assert_eq!(SenderMessage::decode(&payload), Ok(expected));
    }

    #[test]
    fn random_payloads_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), kind in 0usize..4) {
        let bytes = [&[b"wkrh"[kind]][..], &bytes].concat();
        let _ = SenderMessage::decode(&bytes);
        let _ = StandbyMessage::decode(&bytes);
    }
}
