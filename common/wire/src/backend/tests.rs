use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend as oracle;
use proptest::prelude::*;

use super::*;
use crate::sqlstate::{SYNTAX_ERROR, UNDEFINED_TABLE};
use crate::types::{INT4, TEXT};

fn written(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    encode(&mut out);
    out.split_off(6)
}

// Recorded from PostgreSQL 15.18.
#[test]
fn messages_are_postgresqls_byte_for_byte() {
    let negotiation = Negotiation { unrecognized: vec!["_pq_.x".to_owned()] };
    let key = CancelRequest { pid: 0x2f66, key: 0xb08f_1d6c_u32.cast_signed() };
    let columns = [Column::new("a", INT4), Column::new("b", TEXT), Column::new("c", TEXT)];
    let table: [(Vec<u8>, &[u8]); 13] = [
        (
            written(|out| negotiate_protocol_version(out, &negotiation)),
            b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0",
        ),
        (written(authentication_ok), b"R\0\0\0\x08\0\0\0\0"),
        (written(|out| parameter_status(out, "application_name", "")), b"S\0\0\0\x16application_name\0\0"),
        (written(|out| backend_key_data(out, key)), b"K\0\0\0\x0c\0\0/f\xb0\x8f\x1dl"),
        (written(|out| ready_for_query(out, TransactionStatus::Idle)), b"Z\0\0\0\x05I"),
        (written(|out| ready_for_query(out, TransactionStatus::InTransaction)), b"Z\0\0\0\x05T"),
        (
            written(|out| row_description(out, &columns)),
            b"T\0\0\0B\0\x03a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0\
              b\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0\
              c\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0",
        ),
        (
            written(|out| {
                let mut row = DataRow::begin(out);
                row.display(1);
                row.null();
                row.text("x");
                row.finish().unwrap();
            }),
            b"D\0\0\0\x14\0\x03\0\0\0\x011\xff\xff\xff\xff\0\0\0\x01x",
        ),
        (written(|out| command_complete(out, "SELECT 1")), b"C\0\0\0\rSELECT 1\0"),
        (written(copy_both_response), b"W\0\0\0\x07\0\0\0"),
        (written(copy_done), b"c\0\0\0\x04"),
        (written(empty_query_response), b"I\0\0\0\x04"),
        (
            written(|out| notification_response(out, 0x3039, "foo", "it's")),
            b"A\0\0\0\x11\0\x00\x30\x39foo\0it's\0",
        ),
    ];
    for (written, expected) in table {
        assert_eq!(written, expected);
    }
}

#[test]
fn error_response_has_the_fields_that_are_set() {
    let plain = ErrorResponse::fatal(SYNTAX_ERROR, "no");
    assert_eq!(written(|out| error_response(out, &plain)), b"E\0\0\0\x1eSFATAL\0VFATAL\0C42601\0Mno\0\0");
    let full = ErrorResponse::error(UNDEFINED_TABLE, "m").with_detail("d").with_hint("h").with_position(15);
    assert_eq!(
        written(|out| notice_response(out, &full)),
        b"N\0\0\0\x27SERROR\0VERROR\0C42P01\0Mm\0Dd\0Hh\0P15\0\0"
    );
}

#[test]
fn text_in_a_terminated_field_is_cut_at_a_zero_byte() {
    assert_eq!(written(|out| command_complete(out, "a\0b")), b"C\0\0\0\x06a\0");
}

#[test]
fn values_in_postgresqls_text_form() {
    let mut out = Vec::new();
    let mut row = DataRow::begin(&mut out);
    row.boolean(true);
    row.boolean(false);
    row.bytea(b"\0\x7f\xab");
    row.bytes(b"\xff");
    row.display(i64::MIN);
    row.finish().unwrap();
    assert_eq!(
        out,
        b"D\0\0\0\x39\0\x05\0\0\0\x01t\0\0\0\x01f\0\0\0\x08\\x007fab\0\0\0\x01\xff\0\0\0\x14-9223372036854775808"
    );
}

// Recorded from PostgreSQL 15.18, `SELECT x::float8`.
#[test]
fn float8_in_postgresqls_notation() {
    for (value, expected) in [
        (1e15, "1e+15"),
        (1e14, "100000000000000"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (123_456_789_012_345_678.0, "1.2345678901234568e+17"),
        (-0.0, "-0"),
        (1.5e-300, "1.5e-300"),
        (999_999_999_999_999.9, "999999999999999.9"),
        (100.0, "100"),
        (-123_456.789, "-123456.789"),
        (0.0, "0"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "Infinity"),
        (f64::NEG_INFINITY, "-Infinity"),
    ] {
        let out = written(|out| put_float8(out, value));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn row_that_is_not_finished_is_taken_back() {
    let mut out = Vec::new();
    ready_for_query(&mut out, TransactionStatus::Failed);
    let mut row = DataRow::begin(&mut out);
    row.text("lost");
    drop(row);
    assert_eq!(out, b"Z\0\0\0\x05E");
}

fn parse(bytes: &[u8]) -> Vec<oracle::Message> {
    let mut buffer = BytesMut::from(bytes);
    let mut messages = Vec::new();
    while let Some(message) = oracle::Message::parse(&mut buffer).unwrap() {
        messages.push(message);
    }
    assert!(buffer.is_empty());
    messages
}

proptest! {
    #[test]
    fn rows_are_read_by_another_implementation(
        values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..40)), 0..20)
    ) {
        let mut out = Vec::new();
        let mut row = DataRow::begin(&mut out);
        for value in &values {
            match value {
                Some(value) => row.bytes(value),
                None => row.null(),
            }
        }
        row.finish().unwrap();
        let messages = parse(&out);
        let [oracle::Message::DataRow(row)] = &messages[..] else { panic!("not a row") };
        let read: Vec<_> = row.ranges().map(|range| Ok(range.map(|range| row.buffer()[range].to_vec()))).collect().unwrap();
        prop_assert_eq!(read, values);
    }

    #[test]
    fn columns_are_read_by_another_implementation(names in prop::collection::vec("[^\0]{0,10}", 0..10)) {
        let mut out = Vec::new();
        let columns: Vec<_> = names.iter().map(|name| Column::new(name, INT4)).collect();
        row_description(&mut out, &columns);
        let messages = parse(&out);
        let [oracle::Message::RowDescription(description)] = &messages[..] else { panic!("not columns") };
        let read: Vec<_> = description
            .fields()
            .map(|field| Ok((field.name().to_owned(), field.type_oid(), field.type_size(), field.type_modifier(), field.format())))
            .collect()
            .unwrap();
        let expected: Vec<_> = names.into_iter().map(|name| (name, 23, 4, -1, 0)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn reports_are_read_by_another_implementation(message in "[^\0]{0,30}", hint in prop::option::of("[^\0]{0,30}")) {
        let mut report = ErrorResponse::error(SYNTAX_ERROR, message.clone());
        report.hint = hint.clone();
        let mut out = Vec::new();
        error_response(&mut out, &report);
        let messages = parse(&out);
        let [oracle::Message::ErrorResponse(body)] = &messages[..] else { panic!("not a report") };
        let fields: Vec<_> = body
            .fields()
            .map(|field| Ok((field.type_(), String::from_utf8(field.value_bytes().to_vec()).unwrap())))
            .collect()
            .unwrap();
        let mut expected = vec![(b'S', "ERROR".to_owned()), (b'V', "ERROR".to_owned()), (b'C', "42601".to_owned()), (b'M', message)];
        expected.extend(hint.map(|hint| (b'H', hint)));
        prop_assert_eq!(fields, expected);
    }
}

#[test]
fn session_start_is_read_by_another_implementation() {
    let mut out = Vec::new();
    authentication_ok(&mut out);
    parameter_status(&mut out, "server_version", "15.0");
    backend_key_data(&mut out, CancelRequest { pid: 5, key: -6 });
    ready_for_query(&mut out, TransactionStatus::Idle);
    empty_query_response(&mut out);
    command_complete(&mut out, "SET");
    copy_done(&mut out);
    let messages = parse(&out);
    let [
        oracle::Message::AuthenticationOk,
        oracle::Message::ParameterStatus(status),
        oracle::Message::BackendKeyData(key),
        oracle::Message::ReadyForQuery(ready),
        oracle::Message::EmptyQueryResponse,
        oracle::Message::CommandComplete(complete),
        oracle::Message::CopyDone,
    ] = &messages[..]
    else {
        panic!("other messages")
    };
    assert_eq!((status.name().unwrap(), status.value().unwrap()), ("server_version", "15.0"));
    assert_eq!((key.process_id(), key.secret_key()), (5, -6));
    assert_eq!(ready.status(), b'I');
    assert_eq!(complete.tag().unwrap(), "SET");
}
