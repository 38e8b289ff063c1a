use proptest::prelude::*;

use super::*;
use crate::error::Severity;
use crate::frontend::check_frame;

fn any_frame(_tag: u8, _length: i32) -> Result<(), ErrorResponse> {
    Ok(())
}

fn encoded(messages: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (tag, body) in messages {
        stream.push(*tag);
        stream.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        stream.extend(body);
    }
    stream
}

#[test]
fn input_read_in_pieces_gives_each_message_once() {
    let stream = b"Q\0\0\0\x05\0X\0\0\0\x04d\0\0\0\x07abc";
    for piece in 1..=stream.len() {
        let mut input = InputBuffer::new(check_frame);
        let mut found = Vec::new();
        for bytes in stream.chunks(piece) {
            input.feed(bytes);
            assert_eq!(
                input.has_message(),
                Ok(input.announced().is_ok_and(
                    |found| found.is_some_and(|(_, body)| input.buffered().len() >= HEADER_SIZE + body)
                ))
            );
            while let Some(message) = input.next_message().unwrap() {
                found.push((message.tag, message.body.to_vec()));
            }
        }
        assert_eq!(found, [(b'Q', vec![0]), (b'X', vec![]), (b'd', b"abc".to_vec())]);
        assert!(input.is_empty());
    }
}

#[test]
fn length_out_of_bounds_is_refused_before_the_body_comes() {
    for header in [
        b"Q\0\0\0\x03",
        b"Q\0\0\0\0",
        b"Q\xff\xff\xff\xff",
        b"Q\x80\0\0\0",
        b"Q\x7f\xff\xff\xff",
        b"X\0\0\x27\x15",
        b"Q\x40\0\0\x04",
    ] {
        let mut input = InputBuffer::new(check_frame);
        input.feed(header);
        let error = input.next_message().unwrap_err();
        assert_eq!(
            (error.severity, error.message.as_str()),
            (Severity::CommError, "invalid message length"),
            "{header:x?}"
        );
        let mut input = InputBuffer::new(any_frame);
        input.feed(&header[..4]);
        assert_eq!(input.next_message(), Ok(None), "{header:x?}");
    }
}

#[test]
fn longest_lengths_are_let_in() {
    for header in [b"X\0\0\x27\x14", b"Q\x40\0\0\x02"] {
        let mut input = InputBuffer::new(check_frame);
        input.feed(header);
        assert_eq!(input.next_message(), Ok(None), "{header:x?}");
    }
}

#[test]
fn wrong_tag_is_answered_without_waiting_for_a_length() {
    let mut input = InputBuffer::new(check_frame);
    input.feed(b"!");
    let error = input.next_message().unwrap_err();
    assert_eq!(error.to_string(), "FATAL:  invalid frontend message type 33");
}

#[test]
fn startup_packet_length_is_bounded() {
    for (length, accepted) in [(0u32, false), (7, false), (8, true), (10_004, true), (10_005, false)] {
        let mut input = InputBuffer::new(check_frame);
        input.feed(&length.to_be_bytes());
        let result = input.next_startup_packet();
        assert_eq!(result.is_ok(), accepted, "{length}");
    }
    for length in [-1i32, i32::MIN, i32::MAX] {
        let mut input = InputBuffer::new(check_frame);
        input.feed(&length.to_be_bytes());
        let error = input.next_startup_packet().unwrap_err();
        assert_eq!(error.message, "invalid length of startup packet");
    }
}

#[test]
fn startup_packet_leaves_what_follows_it() {
    let mut input = InputBuffer::new(check_frame);
    input.feed(b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x09abcdeX\0\0\0\x04");
    assert_eq!(input.next_startup_packet(), Ok(Some(b"\x04\xd2\x16\x2f".as_slice())));
    assert_eq!(input.next_startup_packet(), Ok(Some(b"abcde".as_slice())));
    assert_eq!(input.next_message(), Ok(Some(Message { tag: b'X', body: b"", left_out: 0 })));
}

#[test]
fn announced_length_costs_no_memory() {
    let mut input = InputBuffer::new(check_frame);
    input.feed(b"Q\x3f\xff\xff\xff");
    for _ in 0..100 {
        input.feed(&[b'x'; 1000]);
    }
    assert!(input.bytes.len() <= 4 * 100_005, "{} bytes held", input.bytes.len());
}

#[test]
fn memory_of_a_large_message_is_given_back() {
    let mut input = InputBuffer::new(check_frame);
    input.feed(&encoded(&[(b'd', vec![7; 5 << 20])]));
    assert_eq!(input.next_message().unwrap().unwrap().body.len(), 5 << 20);
    assert!(input.spare().len() <= KEPT_MAX);
}

#[test]
fn body_that_is_too_long_is_left_out_and_the_stream_stays_in_step() {
    for piece in [1, 4, 6, 1000, 100_000] {
        let mut input = InputBuffer::new(any_frame);
        input.set_body_max(10);
        let stream =
            encoded(&[(b'a', vec![1; 10]), (b'b', vec![2; 50_000]), (b'c', vec![]), (b'd', vec![4; 11])]);
        let mut found = Vec::new();
        for part in stream.chunks(piece) {
            input.feed(part);
            while let Some(Message { tag, body, left_out }) = input.next_message().unwrap() {
                found.push((tag, body.len(), left_out));
            }
        }
        assert_eq!(
            found,
            [(b'a', 10, 0), (b'b', 0, 50_000), (b'c', 0, 0), (b'd', 0, 11)],
            "pieces of {piece}"
        );
        assert!(input.is_empty());
    }
}

#[test]
fn body_that_is_left_out_is_a_message_under_way_until_its_end() {
    let mut input = InputBuffer::new(any_frame);
    input.set_body_max(10);
    input.feed(b"Q\0\0\0\x40abc");
    assert_eq!((input.has_message(), input.is_empty()), (Ok(false), false));
}

proptest! {
    #[test]
    fn messages_survive_any_split(
        messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..3000)), 0..30),
        sizes in prop::collection::vec(1usize..9000, 1..20),
    ) {
        let stream = encoded(&messages);
        let mut input = InputBuffer::new(any_frame);
        let mut found = Vec::new();
        let (mut rest, mut sizes) = (stream.as_slice(), sizes.iter().cycle());
        while !rest.is_empty() {
            let count = (*sizes.next().unwrap()).min(rest.len()).min(input.spare().len());
            input.spare()[..count].copy_from_slice(&rest[..count]);
            input.filled(count);
            rest = &rest[count..];
            while let Some(message) = input.next_message().unwrap() {
                found.push((message.tag, message.body.to_vec()));
            }
        }
        prop_assert_eq!(found, messages);
    }

    #[test]
    fn truncated_stream_wants_more(body in prop::collection::vec(any::<u8>(), 0..50), cut in 0usize..1000) {
        let stream = encoded(&[(b'd', body)]);
        let mut input = InputBuffer::new(check_frame);
        input.feed(&stream[..cut % stream.len()]);
        prop_assert_eq!(input.next_message(), Ok(None));
    }
}
