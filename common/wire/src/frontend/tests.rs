use bytes::BytesMut;
use postgres_protocol::message::frontend as oracle;
use proptest::prelude::*;

use super::*;
use crate::error::Severity;
use crate::framing::InputBuffer;

fn decode(tag: u8, body: &[u8]) -> Result<FrontendMessage<'_>, ErrorResponse> {
    FrontendMessage::decode(Message { tag, body, left_out: 0 })
}

#[test]
fn messages_decoded() {
    use ExtendedMessage::{Bind, Close, Describe, Execute, Parse};
    let table: [(u8, &[u8], FrontendMessage<'_>); 15] = [
        (b'Q', b"SELECT 1\0", FrontendMessage::Query("SELECT 1")),
        (b'Q', b"\0", FrontendMessage::Query("")),
        (b'X', b"", FrontendMessage::Terminate),
        (b'd', b"\0abc", FrontendMessage::CopyData(b"\0abc")),
        (b'c', b"", FrontendMessage::CopyDone),
        (b'f', b"enough\0", FrontendMessage::CopyFail("enough")),
        (b'B', b"\0\0", FrontendMessage::Extended(Bind)),
        (b'C', b"S\0", FrontendMessage::Extended(Close)),
        (b'D', b"S\0", FrontendMessage::Extended(Describe)),
        (b'E', b"\0\0\0\0\0", FrontendMessage::Extended(Execute)),
        (b'P', b"\0SELECT 1\0\0\0", FrontendMessage::Extended(Parse)),
        (b'F', b"", FrontendMessage::FunctionCall),
        (b'H', b"", FrontendMessage::Flush),
        (b'S', b"", FrontendMessage::Sync),
        (b'Q', "SELECT 'ä'\0".as_bytes(), FrontendMessage::Query("SELECT 'ä'")),
    ];
    for (tag, body, expected) in table {
        assert_eq!(decode(tag, body), Ok(expected));
    }
}

// The texts are what PostgreSQL 15.18 answers to the same bytes.
#[test]
fn wrong_bodies_named_as_postgresql_does() {
    let table: [(u8, &[u8], Severity, &str, &str); 7] = [
        (b'Q', b"SELECT 1", Severity::Error, "08P01", "invalid string in message"),
        (b'Q', b"", Severity::Error, "08P01", "invalid string in message"),
        (b'Q', b"SELECT 1\0x", Severity::Error, "08P01", "invalid message format"),
        (b'S', b"x", Severity::Error, "08P01", "invalid message format"),
        (
            b'Q',
            b"select '\xe4b\xc3'\0",
            Severity::Error,
            "22021",
            "invalid byte sequence for encoding \"UTF8\": 0xe4 0x62 0xc3",
        ),
        (b'Q', b"\xff\0", Severity::Error, "22021", "invalid byte sequence for encoding \"UTF8\": 0xff"),
        (b'p', b"secret\0", Severity::Fatal, "08P01", "invalid frontend message type 112"),
    ];
    for (tag, body, severity, sqlstate, message) in table {
        let error = decode(tag, body).unwrap_err();
        assert_eq!((error.severity, error.sqlstate.as_str()), (severity, sqlstate), "{body:?}");
        assert_eq!(error.message, message);
    }
}

#[test]
fn messages_of_another_implementation_decoded() {
    let mut bytes = BytesMut::new();
    oracle::query("SELECT 'ä'", &mut bytes).unwrap();
    oracle::parse("s", "SELECT $1", [25], &mut bytes).unwrap();
    oracle::describe(b'S', "s", &mut bytes).unwrap();
    oracle::execute("", 0, &mut bytes).unwrap();
    oracle::close(b'S', "s", &mut bytes).unwrap();
    oracle::flush(&mut bytes);
    oracle::sync(&mut bytes);
    oracle::CopyData::new(&b"data"[..]).unwrap().write(&mut bytes);
    oracle::copy_done(&mut bytes);
    oracle::copy_fail("why", &mut bytes).unwrap();
    oracle::terminate(&mut bytes);
    let mut input = InputBuffer::new(check_frame);
    input.feed(&bytes);
    for expected in [
        FrontendMessage::Query("SELECT 'ä'"),
        FrontendMessage::Extended(ExtendedMessage::Parse),
        FrontendMessage::Extended(ExtendedMessage::Describe),
        FrontendMessage::Extended(ExtendedMessage::Execute),
        FrontendMessage::Extended(ExtendedMessage::Close),
        FrontendMessage::Flush,
        FrontendMessage::Sync,
        FrontendMessage::CopyData(b"data"),
        FrontendMessage::CopyDone,
        FrontendMessage::CopyFail("why"),
        FrontendMessage::Terminate,
    ] {
        let message = input.next_message().unwrap().unwrap();
        assert_eq!(FrontendMessage::decode(message), Ok(expected));
    }
    assert!(input.is_empty());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut input = InputBuffer::new(check_frame);
        input.feed(&bytes);
        while let Ok(Some(message)) = input.next_message() {
            let _ = FrontendMessage::decode(message);
        }
    }

    #[test]
    fn random_bodies_never_panic(tag in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode(tag, &body);
    }
}
