//! A served client.

use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, SocketEvents};
use sender::connection::{Connection, OUTPUT_FULL, Received, ReceivedPacket};
use sys::clock;
use sys::signal::Signal;
use wire::backend::{self, DataRow, TransactionStatus};
use wire::client;
use wire::error::{ErrorResponse, Severity};
use wire::framing::Message;
use wire::sqlstate::{ADMIN_SHUTDOWN, CONNECTION_FAILURE, PROTOCOL_VIOLATION, QUERY_CANCELED};

use crate::harness::{DEADLINE, Node};

/// More than sockets buffer, in both directions.
const MUCH: usize = 16 << 20;

fn assert_query(received: Received<'_>, text: &[u8]) {
    assert_eq!(received, Received::Message(Message { tag: b'Q', body: text, left_out: 0 }));
}

fn append_row(connection: &mut Connection, text: &str) {
    let mut row = DataRow::begin(connection.output());
    row.text(text);
    row.finish().unwrap();
}

/// Queues more than the client's socket takes.
fn append_much(connection: &mut Connection) {
    for _ in 0..MUCH / (1 << 20) {
        append_row(connection, &"x".repeat(1 << 20));
    }
}

pub(crate) fn message_in_pieces_is_read_whole() {
    let node = Node::start();
    let (child, mut client) = node.session(|_, connection| {
        assert_query(connection.read_message().unwrap(), b"SELECT 1\0");
        assert_query(connection.read_message().unwrap(), b"SELECT 2\0");
        backend::ready_for_query(connection.output(), TransactionStatus::Idle);
        connection.flush().unwrap();
        assert!(!connection.has_pending_output());
        assert_eq!(connection.read_message().unwrap(), Received::Eof);
    });
    client.send(b"Q\0\0\0");
    child.wait_for(WaitEvent::ClientRead);
    client.send(b"\x0dSELECT 1");
    child.wait_for(WaitEvent::ClientRead);
    client.send(b"\0Q\0\0\0\x0dSELECT 2\0");
    assert_eq!(client.read_message(), Some((b'Z', b"I".to_vec())));
    client.close_write();
    child.join_well();
}

pub(crate) fn startup_packets_are_read_one_by_one() {
    let node = Node::start();
    let (child, mut client) = node.session(|_, connection| {
        let ssl: &[u8] = b"\x04\xd2\x16\x2f";
        assert_eq!(connection.read_startup_packet().unwrap(), ReceivedPacket::Packet(ssl));
        connection.output().push(b'N');
        connection.flush().unwrap();
        let startup: &[u8] = b"\0\x03\0\0user\0u\0\0";
        assert_eq!(connection.read_startup_packet().unwrap(), ReceivedPacket::Packet(startup));
        assert_query(connection.read_message().unwrap(), b"\0");
        assert_eq!(connection.read_startup_packet().unwrap(), ReceivedPacket::Eof);
    });
    client.send(b"\0\0\0\x08\x04\xd2\x16\x2f");
    client.send_with(|out| client::startup_message(out, &[("user", "u")]));
    client.send(b"Q\0\0\0\x05\0");
    client.close_write();
    child.join_well();
}

pub(crate) fn stream_cut_inside_a_message_is_told_from_its_end() {
    let node = Node::start();
    let (child, mut client) = node.session(|_, connection| {
        let error = connection.read_message().unwrap_err();
        let expected = ErrorResponse::comm_error(PROTOCOL_VIOLATION, "incomplete message from client");
        assert_eq!(error, expected);
    });
    client.send(b"Q\0\0\0\x0dSEL");
    client.close_write();
    child.join_well();
}

pub(crate) fn interrupt_ends_the_wait_for_a_message() {
    let node = Node::start();
    let (child, mut client) = node.session(|me, connection| {
        assert_eq!(connection.read_message().unwrap(), Received::Interrupted);
        assert_eq!(me.take(me.pending()), Interrupts::QUERY_CANCEL);
        // A latch without an interrupt is not a reason to return.
        assert_query(connection.read_message().unwrap(), b"\0");
    });
    child.wait_for(WaitEvent::ClientRead);
    child.kill(Signal::Int);
    child.set_latch();
    client.send(b"Q\0\0\0\x05\0");
    child.join_well();
}

pub(crate) fn interrupt_comes_before_a_message_that_is_there() {
    let node = Node::start();
    let (child, mut client) = node.session(|me, connection| {
        assert_query(connection.read_message().unwrap(), b"1\0");
        sys::process::kill(sys::process::current_pid(), Signal::Term).unwrap();
        assert_eq!(connection.read_message().unwrap(), Received::Interrupted);
        assert_eq!(me.take(Interrupts::ALL), Interrupts::TERMINATE);
        assert_query(connection.read_message().unwrap(), b"2\0");
    });
    client.send(b"Q\0\0\0\x061\0Q\0\0\0\x062\0");
    child.join_well();
}

pub(crate) fn read_deadline_ends_the_wait_for_half_a_message() {
    let node = Node::start();
    let (child, mut client) = node.session(|_, connection| {
        connection.set_read_deadline(Some(clock::now().saturating_add(Duration::from_millis(50))));
        assert_eq!(connection.read_message().unwrap(), Received::TimedOut);
        backend::ready_for_query(connection.output(), TransactionStatus::Idle);
        connection.flush().unwrap();
        connection.set_read_deadline(None);
        assert_query(connection.read_message().unwrap(), b"\0");
    });
    client.send(b"Q\0\0");
    assert_eq!(client.read_message(), Some((b'Z', b"I".to_vec())));
    client.send(b"\0\x05\0");
    child.join_well();
}

pub(crate) fn large_result_goes_through_a_bounded_buffer() {
    let node = Node::start();
    let (child, mut client) = node.session(|_, connection| {
        let text = "x".repeat(1000);
        for _ in 0..MUCH / text.len() {
            append_row(connection, &text);
            assert_eq!(connection.flush_when_full(Interrupts::NONE), Ok(true));
            assert!(connection.output().capacity() <= 2 * (OUTPUT_FULL + 2000));
        }
        backend::ready_for_query(connection.output(), TransactionStatus::Idle);
        connection.flush().unwrap();
    });
    child.wait_for(WaitEvent::ClientWrite);
    let mut rows = 0;
    while let Some((b'D', body)) = client.read_message() {
        assert_eq!(body.len(), 2 + 4 + 1000);
        rows += 1;
    }
    assert_eq!(rows, MUCH / 1000);
    child.join_well();
}

pub(crate) fn terminate_ends_a_blocked_write() {
    let node = Node::start();
    let (child, mut client) = node.session(|me, connection| {
        append_much(connection);
        let error = connection.flush().unwrap_err();
        let expected =
            ErrorResponse::comm_error(ADMIN_SHUTDOWN, "terminating connection due to administrator command");
        assert_eq!(error, expected);
        assert!(me.pending().contains(Interrupts::TERMINATE));
        assert!(!connection.has_pending_output());
    });
    child.wait_for(WaitEvent::ClientWrite);
    child.kill(Signal::Int);
    child.kill(Signal::Term);
    child.join_well();
    client.send(b"X\0\0\0\x04");
}

pub(crate) fn write_gives_way_and_the_stream_stays_in_step() {
    let node = Node::start();
    let (child, mut client) = node.session(|me, connection| {
        append_much(connection);
        assert_eq!(connection.flush_unless(Interrupts::READ_HOLDS_LOG | Interrupts::QUERY_CANCEL), Ok(false));
        assert!(connection.has_pending_output());
        // What the wait may have used up is given back.
        assert!(me.latch().is_set());
        assert_eq!(me.take(Interrupts::ALL), Interrupts::QUERY_CANCEL);
        let report = ErrorResponse::error(QUERY_CANCELED, "canceling statement due to user request");
        backend::error_response(connection.output(), &report);
        connection.flush().unwrap();
    });
    child.wait_for(WaitEvent::ClientWrite);
    child.kill(Signal::Int);
    for _ in 0..MUCH / (1 << 20) {
        let (tag, body) = client.read_message().unwrap();
        assert_eq!((tag, body.len()), (b'D', 2 + 4 + (1 << 20)));
    }
    assert_eq!(client.read_message().unwrap().0, b'E');
    assert_eq!(client.read_message(), None);
    child.join_well();
}

pub(crate) fn client_that_closes_is_noticed_during_a_command() {
    let node = Node::start();
    let (child, mut client) = node.session(|me, connection| {
        assert_query(connection.read_message().unwrap(), b"1\0");
        assert_eq!(connection.client_is_gone(), Ok(false));
        loop {
            me.latch().reset();
            let happened =
                connection.wait(SocketEvents::CLOSED, Some(DEADLINE), WaitEvent::WriterOutcome).unwrap();
            assert!(!happened.is_empty(), "the end of the client is not noticed");
            if happened.contains(Events::SOCKET_CLOSED) {
                break;
            }
        }
        assert_eq!(connection.client_is_gone(), Ok(true));
        // What it sent before is still there.
        assert_query(connection.read_message().unwrap(), b"2\0");
        assert_eq!(connection.read_message().unwrap(), Received::Eof);
    });
    client.send(b"Q\0\0\0\x061\0Q\0\0\0\x062\0");
    child.wait_for(WaitEvent::WriterOutcome);
    client.close_write();
    child.join_well();
}

pub(crate) fn output_for_a_client_that_left_is_an_error() {
    let node = Node::start();
    let (child, client) = node.session(|_, connection| {
        let error = loop {
            append_much(connection);
            if let Err(error) = connection.flush() {
                break error;
            }
        };
        assert_eq!((error.severity, error.sqlstate), (Severity::CommError, CONNECTION_FAILURE));
        assert!(
            ["Broken pipe", "Connection reset by peer"]
                .iter()
                .any(|reason| error.message == format!("could not send data to client: {reason}")),
            "{error}"
        );
        assert!(!connection.has_pending_output());
    });
    drop(client);
    child.join_well();
}

pub(crate) fn walsender_reads_and_writes_without_blocking() {
    let node = Node::start();
    let (child, mut client) = node.session(|me, connection| {
        connection.set_check(wire::replication::check_standby_frame);
        assert_eq!(connection.try_read_message().unwrap(), None);
        append_much(connection);
        let mut replies = 0;
        // The client answers before it reads: who sends must read meanwhile.
        while replies < 2 || connection.has_pending_output() {
            me.latch().reset();
            while let Some(received) = connection.try_read_message().unwrap() {
                assert_eq!(received, Received::Message(Message { tag: b'd', body: b"reply", left_out: 0 }));
                replies += 1;
            }
            let mut events = SocketEvents::READABLE;
            if !connection.flush_if_writable().unwrap() {
                events |= SocketEvents::WRITEABLE;
            }
            if replies < 2 || connection.has_pending_output() {
                let happened = connection.wait(events, Some(DEADLINE), WaitEvent::WalSenderMain).unwrap();
                assert!(!happened.is_empty(), "nothing goes on");
            }
        }
        let error = loop {
            match connection.try_read_message() {
                Ok(None) => {
                    drop(connection.wait(SocketEvents::READABLE, Some(DEADLINE), WaitEvent::WalSenderMain))
                }
                Ok(Some(other)) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.to_string(), "FATAL:  invalid standby message type \"Q\"");
    });
    child.wait_for(WaitEvent::WalSenderMain);
    for _ in 0..2 {
        client.send_with(|out| client::copy_data(out, b"reply"));
        child.wait_for(WaitEvent::WalSenderMain);
    }
    for _ in 0..MUCH / (1 << 20) {
        assert_eq!(client.read_message().unwrap().0, b'D');
    }
    client.send(b"Q\0\0\0\x05\0");
    child.join_well();
}
