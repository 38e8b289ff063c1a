use bytes::BytesMut;
use postgres_protocol::message::frontend as oracle;
use proptest::prelude::*;

use super::*;
use crate::backend;
use crate::framing::InputBuffer;
use crate::sqlstate::{INTERNAL_ERROR, UNDEFINED_TABLE};
use crate::types::{INT4, TEXT};

fn decode(tag: u8, body: &[u8]) -> Result<BackendMessage<'_>, ErrorResponse> {
    BackendMessage::decode(Message { tag, body, left_out: 0 })
}

#[test]
fn client_writes_what_another_implementation_writes() {
    let mut expected = BytesMut::new();
    oracle::query("SELECT 'ä'", &mut expected).unwrap();
    oracle::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x", &mut expected).unwrap();
    oracle::sasl_response(b"c=biws,r=xy,p=z", &mut expected).unwrap();
    oracle::CopyData::new(&b"\0data"[..]).unwrap().write(&mut expected);
    oracle::copy_done(&mut expected);
    oracle::terminate(&mut expected);
    let mut written = Vec::new();
    query(&mut written, "SELECT 'ä'");
    sasl_initial_response(&mut written, "n,,n=,r=x");
    sasl_response(&mut written, "c=biws,r=xy,p=z");
    copy_data(&mut written, b"\0data");
    copy_done(&mut written);
    terminate(&mut written);
    assert_eq!(written, expected);
}

// Recorded from PostgreSQL 15.18.
#[test]
fn messages_of_postgresql_decoded() {
    let key = CancelRequest { pid: 0x2f66, key: 0xb08f_1d6c_u32.cast_signed() };
    let negotiation = Negotiation { unrecognized: vec!["_pq_.x".to_owned()] };
    let error = ErrorResponse::error(UNDEFINED_TABLE, "relation \"nope\" does not exist").with_position(15);
    let table: [(u8, &[u8], BackendMessage<'_>); 18] = [
        (b'R', b"\0\0\0\0", BackendMessage::Authentication(Authentication::Ok)),
        (b'R', b"\0\0\0\x03", BackendMessage::Authentication(Authentication::Other(3))),
        (
            b'R',
            b"\0\0\0\nSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
            BackendMessage::Authentication(Authentication::Sasl { scram: true }),
        ),
        (b'R', b"\0\0\0\nOTHER\0\0", BackendMessage::Authentication(Authentication::Sasl { scram: false })),
        (b'R', b"\0\0\0\x0br=x", BackendMessage::Authentication(Authentication::SaslContinue(b"r=x"))),
        (b'R', b"\0\0\0\x0cv=x", BackendMessage::Authentication(Authentication::SaslFinal(b"v=x"))),
        (
            b'S',
            b"TimeZone\0Etc/UTC\0",
            BackendMessage::ParameterStatus { name: "TimeZone", value: "Etc/UTC" },
        ),
        (b'K', b"\0\0/f\xb0\x8f\x1dl", BackendMessage::BackendKeyData(key)),
        (b'Z', b"E", BackendMessage::ReadyForQuery(TransactionStatus::Failed)),
        (b'C', b"SELECT 1\0", BackendMessage::CommandComplete("SELECT 1")),
        (b'I', b"", BackendMessage::EmptyQueryResponse),
        (
            b'E',
            b"SERROR\0VERROR\0C42P01\0Mrelation \"nope\" does not exist\0P15\0Fparse_relation.c\0L1392\0R\
              parserOpenTable\0\0",
            BackendMessage::ErrorResponse(error),
        ),
        (
            b'A',
            b"\0\0\0\x05c\0p\0",
            BackendMessage::NotificationResponse { pid: 5, channel: "c", payload: "p" },
        ),
        (b'H', b"\0\0\0", BackendMessage::CopyOutResponse),
        (b'W', b"\0\0\0", BackendMessage::CopyBothResponse),
        (b'd', b"\0x", BackendMessage::CopyData(b"\0x")),
        (b'c', b"", BackendMessage::CopyDone),
        (b'v', b"\0\x03\0\0\0\0\0\x01_pq_.x\0", BackendMessage::NegotiateProtocolVersion(negotiation)),
    ];
    for (tag, body, expected) in table {
        assert_eq!(decode(tag, body), Ok(expected));
    }
}

#[test]
fn odd_reports_are_not_lost() {
    let report = |body| match decode(b'N', body) {
        Ok(BackendMessage::NoticeResponse(report)) => report,
        other => panic!("{other:?}"),
    };
    assert_eq!(report(b"\0"), ErrorResponse::error(INTERNAL_ERROR, ""));
    // A localised severity, another encoding, an unknown field.
    let odd = report(b"SHINWEIS\0VINFO\0Mgr\xfc\xdfe\0?x\0Pzwei\0\0");
    assert_eq!(odd, ErrorResponse::notice(INTERNAL_ERROR, "gr\u{fffd}\u{fffd}e"));
}

#[test]
fn wrong_messages_are_errors() {
    let table: [(u8, &[u8], &str); 10] = [
        (b'R', b"\0\0\0", "insufficient data left in message"),
        (b'Z', b"", "no data left in message"),
        (b'Z', b"X", "invalid transaction status 88 in message"),
        (b'Z', b"II", "invalid message format"),
        (b'T', b"\0\x01a\0\0\0", "insufficient data left in message"),
        (b'D', b"\0\x01\0\0\0\x02x", "insufficient data left in message"),
        (b'D', b"\0\x01\xff\xff\xff\xfe", "invalid length of a value in message"),
        (b'E', b"Sx\0", "no data left in message"),
        (b'v', b"\0\x03\0\0\x7f\xff\xff\xffa\0", "invalid string in message"),
        (b'?', b"", "unexpected message type \"?\" from server"),
    ];
    for (tag, body, message) in table {
        assert_eq!(decode(tag, body).unwrap_err().message, message, "{body:?}");
    }
}

#[test]
fn stream_out_of_step_is_named_as_libpq_does() {
    let mut input = InputBuffer::new(check_frame);
    input.feed(b"HTTP/1.1 400 Bad Request");
    let error = input.next_message().unwrap_err();
    assert_eq!(error.message, "lost synchronization with server: got message type \"H\", length 1414811695");
}

#[test]
fn columns_and_values_of_the_own_encoder_read_back() {
    let columns = [Column::new("a", INT4), Column { name: "ä", column_type: TEXT, typmod: 7 }];
    let mut out = Vec::new();
    backend::row_description(&mut out, &columns);
    let mut row = backend::DataRow::begin(&mut out);
    row.null();
    row.text("");
    row.finish().unwrap();
    let mut input = InputBuffer::new(check_frame);
    input.feed(&out);
    let BackendMessage::RowDescription(description) =
        BackendMessage::decode(input.next_message().unwrap().unwrap()).unwrap()
    else {
        panic!("not columns")
    };
    assert_eq!(description.columns().collect::<Vec<_>>(), columns);
    let BackendMessage::DataRow(row) =
        BackendMessage::decode(input.next_message().unwrap().unwrap()).unwrap()
    else {
        panic!("not a row")
    };
    assert_eq!(row.values().collect::<Vec<_>>(), [None, Some(&b""[..])]);
}

proptest! {
    #[test]
    fn random_bodies_never_panic(tag in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..100)) {
        match decode(tag, &body) {
            Ok(BackendMessage::RowDescription(description)) => drop(description.columns().count()),
            Ok(BackendMessage::DataRow(row)) => drop(row.values().count()),
            _ => {}
        }
    }

    #[test]
    fn random_rows_never_panic(body in prop::collection::vec(0u8..4, 0..60)) {
        if let Ok(BackendMessage::DataRow(row)) = decode(b'D', &body) {
            prop_assert!(row.values().all(|value| value.is_none_or(|value| value.len() <= body.len())));
        }
        let _ = decode(b'T', &body);
    }

    #[test]
    fn truncated_messages_are_errors(message in "[^\0]{0,20}", cut in any::<prop::sample::Index>()) {
        let mut out = Vec::new();
        let report = ErrorResponse::error(UNDEFINED_TABLE, message).with_hint("h");
        backend::error_response(&mut out, &report);
        let body = &out[5..];
        prop_assert_eq!(decode(b'E', body), Ok(BackendMessage::ErrorResponse(report)));
        prop_assert!(decode(b'E', &body[..cut.index(body.len())]).is_err());
    }
}
