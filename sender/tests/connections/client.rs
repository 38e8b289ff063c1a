//! An upstream server.

use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::SocketEvents;
use sender::client::{ClientError, QueryResult, ServerConnection, SessionKind, StreamStart, Streamed};
use sys::signal::Signal;
use wire::backend::{self, Column, DataRow, TransactionStatus};
use wire::client as protocol;
use wire::conninfo::Conninfo;
use wire::error::ErrorResponse;
use wire::frontend::sasl_initial_response;
use wire::replication::START_REPLICATION_END_COLUMNS;
use wire::scram::{SALT_BYTES, ServerExchange, Verifier};
use wire::sqlstate::{ADMIN_SHUTDOWN, CANNOT_CONNECT_NOW, UNDEFINED_FILE};
use wire::startup::{CancelRequest, StartupDecoder, StartupPacket};
use wire::types::TEXT;

use crate::harness::{Child, DEADLINE, Node, Peer, Upstream};

fn connect(me: Me, conninfo: &str) -> Result<ServerConnection, ClientError> {
    let conninfo = Conninfo::parse(conninfo).unwrap();
    ServerConnection::connect(Some(me), &conninfo, SessionKind::PhysicalReplication, "standby1")
}

/// Begins a session as a server does.
fn greet(server: &mut Peer) {
    let packet = server.read_startup_packet();
    let Ok(StartupPacket::Startup(startup)) = StartupDecoder::default().decode(&packet) else {
        panic!("not a startup packet")
    };
    assert_eq!(startup.user, "u");
    assert_eq!(startup.settings, [("application_name".to_owned(), "standby1".to_owned())]);
    server.send_with(|out| {
        backend::authentication_ok(out);
        backend::parameter_status(out, "server_version", "15.0 (test)");
        backend::parameter_status(out, "in_hot_standby", "on");
        backend::backend_key_data(out, CancelRequest { pid: 1, key: 2 });
        backend::ready_for_query(out, TransactionStatus::Idle);
    });
}

fn expect_query(server: &mut Peer, text: &str) {
    assert_eq!(server.read_message(), Some((b'Q', format!("{text}\0").into_bytes())));
}

/// A child that connects to the script's server and goes on with `body`.
fn connected(node: &Node, upstream: &Upstream, body: impl FnOnce(Me, ServerConnection)) -> (Child, Peer) {
    let conninfo = upstream.conninfo();
    let child = node.child(|me| {
        let connection = connect(me, &conninfo).unwrap();
        body(me, connection);
    });
    let mut server = upstream.accept();
    greet(&mut server);
    (child, server)
}

/// What the stream brings next, waiting for it: the text of a piece of data, or the kind of end.
fn next_of_stream(me: Me, connection: &mut ServerConnection) -> String {
    loop {
        me.latch().reset();
        match connection.receive().unwrap() {
            Some(Streamed::Data(data)) => return String::from_utf8(data.to_vec()).unwrap(),
            Some(end) => return format!("{end:?}"),
            None => {}
        }
        let happened = connection.wait(SocketEvents::READABLE, Some(DEADLINE), WaitEvent::WalReceiverMain);
        assert!(!happened.unwrap().is_empty(), "nothing comes");
    }
}

fn row(values: &[&str]) -> Vec<Option<Vec<u8>>> {
    values.iter().map(|value| Some(value.as_bytes().to_vec())).collect()
}

pub(crate) fn failed_statement_leaves_the_session_usable() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let (child, mut server) = connected(&node, &upstream, |_, mut connection| {
        assert_eq!(connection.parameter("server_version"), Some("15.0 (test)"));
        assert_eq!(connection.target().host, "127.0.0.1");
        let error = connection.query("TIMELINE_HISTORY 7").unwrap_err();
        assert_eq!(error, ClientError::Server(ErrorResponse::error(UNDEFINED_FILE, "no such file")));
        let results = connection.query("SHOW x").unwrap();
        let columns = vec!["x".to_owned(), "y".to_owned()];
        let rows = vec![vec![Some(b"\xff".to_vec()), None]];
        assert_eq!(results, [QueryResult { columns, rows, tag: "SHOW".to_owned() }]);
        assert_eq!(connection.parameter("in_hot_standby"), Some("off"));
        connection.close();
    });
    expect_query(&mut server, "TIMELINE_HISTORY 7");
    server.send_with(|out| {
        backend::error_response(out, &ErrorResponse::error(UNDEFINED_FILE, "no such file"));
        backend::ready_for_query(out, TransactionStatus::Idle);
    });
    expect_query(&mut server, "SHOW x");
    server.send_with(|out| {
        backend::notice_response(out, &ErrorResponse::warning("listen"));
        backend::row_description(out, &[Column::new("x", TEXT), Column::new("y", TEXT)]);
        let mut row = DataRow::begin(out);
        row.bytes(b"\xff");
        row.null();
        row.finish().unwrap();
        backend::command_complete(out, "SHOW");
        backend::parameter_status(out, "in_hot_standby", "off");
        backend::ready_for_query(out, TransactionStatus::Idle);
    });
    assert_eq!(server.read_message(), Some((b'X', vec![])));
    assert_eq!(server.read_message(), None);
    child.join_well();
}

pub(crate) fn stream_carries_data_both_ways() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let (child, mut server) = connected(&node, &upstream, |me, mut connection| {
        assert_eq!(connection.start_streaming("START_REPLICATION 0/0"), Ok(StreamStart::Streaming));
        assert_eq!(next_of_stream(me, &mut connection), "one");
        protocol::copy_data(connection.output(), b"reply");
        assert_eq!(connection.flush_if_writable(), Ok(true));
        assert!(!connection.has_pending_output());
        assert_eq!(next_of_stream(me, &mut connection), "two");
        // Ended from here: what is on its way is skipped.
        assert_eq!(connection.end_streaming().unwrap().len(), 1);
        assert_eq!(connection.query("SHOW x").unwrap(), []);
    });
    expect_query(&mut server, "START_REPLICATION 0/0");
    server.send_with(|out| {
        backend::copy_both_response(out);
        protocol::copy_data(out, b"one");
    });
    assert_eq!(server.read_message(), Some((b'd', b"reply".to_vec())));
    server.send_with(|out| {
        protocol::copy_data(out, b"two");
        protocol::copy_data(out, b"three");
    });
    assert_eq!(server.read_message(), Some((b'c', vec![])));
    server.send_with(|out| {
        protocol::copy_data(out, b"four");
        backend::copy_done(out);
        backend::command_complete(out, "START_REPLICATION");
        backend::ready_for_query(out, TransactionStatus::Idle);
    });
    expect_query(&mut server, "SHOW x");
    server.send_with(|out| backend::ready_for_query(out, TransactionStatus::Idle));
    child.join_well();
}

pub(crate) fn end_of_timeline_is_followed_by_the_next_one() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let (child, mut server) = connected(&node, &upstream, |me, mut connection| {
        assert_eq!(
            connection.start_streaming("START_REPLICATION 0/0 TIMELINE 1"),
            Ok(StreamStart::Streaming)
        );
        assert_eq!(next_of_stream(me, &mut connection), "EndOfTimeline");
        let results = connection.end_streaming().unwrap();
        assert_eq!(results[0].rows, [row(&["2", "0/A02040"])]);
        assert_eq!(results[0].columns, ["next_tli", "next_tli_startpos"]);
        // Already at the end of it: no stream at all.
        let start = connection.start_streaming("START_REPLICATION 0/A02040 TIMELINE 1").unwrap();
        let StreamStart::Ended(results) = start else { panic!("{start:?}") };
        assert_eq!(results[0].rows, [row(&["2", "0/A02040"])]);
    });
    let answer = |out: &mut Vec<u8>| {
        backend::row_description(out, &START_REPLICATION_END_COLUMNS);
        let mut row = DataRow::begin(out);
        row.display(2);
        row.text("0/A02040");
        row.finish().unwrap();
        backend::command_complete(out, "START_STREAMING");
        backend::command_complete(out, "START_REPLICATION");
        backend::ready_for_query(out, TransactionStatus::Idle);
    };
    expect_query(&mut server, "START_REPLICATION 0/0 TIMELINE 1");
    server.send_with(|out| {
        backend::copy_both_response(out);
        backend::copy_done(out);
    });
    assert_eq!(server.read_message(), Some((b'c', vec![])));
    server.send_with(answer);
    expect_query(&mut server, "START_REPLICATION 0/A02040 TIMELINE 1");
    server.send_with(answer);
    child.join_well();
}

pub(crate) fn server_that_shuts_down_ends_the_command() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let (child, mut server) = connected(&node, &upstream, |me, mut connection| {
        assert_eq!(connection.start_streaming("START_REPLICATION 0/0"), Ok(StreamStart::Streaming));
        assert_eq!(next_of_stream(me, &mut connection), "EndOfCommand");
        let closed = ClientError::Lost("server closed the connection unexpectedly".to_owned());
        assert_eq!(connection.end_streaming(), Err(closed));
    });
    expect_query(&mut server, "START_REPLICATION 0/0");
    server.send_with(|out| {
        backend::copy_both_response(out);
        backend::command_complete(out, "COPY 0");
    });
    drop(server);
    child.join_well();
}

pub(crate) fn fatal_error_in_a_query_is_what_the_server_said() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let fatal = ErrorResponse::fatal(ADMIN_SHUTDOWN, "terminating connection due to administrator command");
    let expected = ClientError::Server(fatal.clone());
    let (child, mut server) = connected(&node, &upstream, |_, mut connection| {
        assert_eq!(connection.query("SHOW x"), Err(expected));
    });
    expect_query(&mut server, "SHOW x");
    server.send_with(|out| backend::error_response(out, &fatal));
    drop(server);
    child.join_well();
}

pub(crate) fn long_answer_is_refused() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let (child, mut server) = connected(&node, &upstream, |_, mut connection| {
        let error = connection.query("SHOW x").unwrap_err();
        assert_eq!(error.to_string(), "the server's answer is longer than 67108864 bytes");
    });
    expect_query(&mut server, "SHOW x");
    let mut message = Vec::new();
    let mut row = DataRow::begin(&mut message);
    row.text(&"x".repeat(1 << 20));
    row.finish().unwrap();
    for _ in 0..64 {
        server.send(&message);
    }
    child.join_well();
}

pub(crate) fn password_is_proved_and_never_sent() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let conninfo = upstream.conninfo();
    let child = node.child(|me| {
        let connection = connect(me, &conninfo).expect("both know the password");
        assert!(connection.by_password());
        let refused = |conninfo: &str, why: &str| {
            let error = connect(me, conninfo).unwrap_err().to_string();
            assert!(error.ends_with(&format!("failed: {why}")), "{error}");
        };
        let without = conninfo.replace("password=secret", "passfile=/nonexistent");
        refused(&without, "fe_sendauth: no password supplied");
        refused(&conninfo, "authentication method 3 not supported");
        refused(&conninfo, "none of the server's SASL authentication mechanisms are supported");
        refused(&conninfo, "server broke off the exchange that is to prove the password");
        refused(&conninfo, "incorrect server signature");
    });
    let request: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    let mut server = upstream.accept();
    server.read_startup_packet();
    prove(&mut server, None);
    server.send_with(|out| {
        backend::authentication_ok(out);
        backend::ready_for_query(out, TransactionStatus::Idle);
    });
    upstream.accept().send(request);
    upstream.accept().send(b"R\0\0\0\x08\0\0\0\x03");
    upstream.accept().send(b"R\0\0\0\x0f\0\0\0\x0aOTHER\0\0");
    // A server that has begun the exchange and leaves its own proof out.
    let mut impostor = upstream.accept();
    impostor.read_startup_packet();
    impostor.send(request);
    assert!(impostor.read_message().is_some());
    impostor.send_with(backend::authentication_ok);
    let mut impostor = upstream.accept();
    impostor.read_startup_packet();
    prove(&mut impostor, Some("v=AAAA"));
    child.join_well();
}

/// The server's side of an exchange with who knows `secret`; its last word, if that is to be another one.
fn prove(server: &mut Peer, last_word: Option<&str>) {
    let verifier = Verifier::of_password("secret", &[7; SALT_BYTES]);
    let mut exchange = ServerExchange::new(verifier, "nonce".to_owned());
    server.send_with(backend::authentication_sasl);
    let (_, body) = server.read_message().unwrap();
    let (mechanism, data) = sasl_initial_response(&body).unwrap();
    assert_eq!(mechanism, "SCRAM-SHA-256");
    let first = exchange.first(data).unwrap();
    server.send_with(|out| backend::authentication_sasl_continue(out, &first));
    let (_, body) = server.read_message().unwrap();
    assert!(!body.windows(6).any(|window| window == b"secret"));
    let last = exchange.last(&body).unwrap().expect("it knows the password");
    server.send_with(|out| backend::authentication_sasl_final(out, last_word.unwrap_or(&last)));
}

pub(crate) fn refused_session_says_why() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let conninfo = upstream.conninfo();
    let expected = format!(
        "connection to server at \"127.0.0.1\", port {} failed: FATAL:  the database system is starting up",
        upstream.port()
    );
    let child = node.child(|me| {
        assert_eq!(connect(me, &conninfo).unwrap_err(), ClientError::Connect(expected));
    });
    let mut server = upstream.accept();
    server.read_startup_packet();
    let report = ErrorResponse::fatal(CANNOT_CONNECT_NOW, "the database system is starting up");
    server.send_with(|out| backend::error_response(out, &report));
    drop(server);
    child.join_well();
}

pub(crate) fn failed_attempts_are_all_named() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let port = upstream.port();
    drop(upstream);
    let node_child = node.child(|me| {
        let conninfo = format!("host=127.0.0.1,localhost,/nonexistent hostaddr=127.0.0.1,127.0.0.1, port={port}");
        let error = connect(me, &conninfo).unwrap_err().to_string();
        let expected = [
            format!("connection to server at \"127.0.0.1\", port {port} failed: Connection refused"),
            format!("connection to server at \"localhost\" (127.0.0.1), port {port} failed: Connection refused"),
            format!(
                "connection to server on socket \"/nonexistent/.s.PGSQL.{port}\" failed: No such file or directory"
            ),
        ];
        assert_eq!(error, expected.join("\n"));
    });
    node_child.join_well();
}

pub(crate) fn silent_server_is_given_up_after_connect_timeout() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let conninfo = format!("{} connect_timeout=1", upstream.conninfo());
    let child = node.child(|me| {
        let before = sys::clock::now();
        let error = connect(me, &conninfo).unwrap_err().to_string();
        assert!(error.ends_with("failed: timeout expired"), "{error}");
        let taken = sys::clock::now().saturating_since(before);
        assert!(taken >= Duration::from_secs(2), "one second counts as two");
    });
    let _silent = upstream.accept();
    child.join_well();
}

pub(crate) fn terminate_ends_the_wait_for_a_silent_server() {
    let (node, upstream) = (Node::start(), Upstream::start());
    let conninfo = upstream.conninfo();
    let child = node.child(|me| {
        assert_eq!(connect(me, &conninfo).unwrap_err(), ClientError::Interrupted);
        assert_eq!(me.take(Interrupts::TERMINATE), Interrupts::TERMINATE);
        let mut connection = connect(me, &conninfo).unwrap();
        assert_eq!(connection.query("SHOW x"), Err(ClientError::Interrupted));
    });
    let _silent = upstream.accept();
    child.wait_for(WaitEvent::WalReceiverConnect);
    // Other interrupts and the latch alone don't end the wait.
    child.set_latch();
    child.kill(Signal::Term);
    let mut server = upstream.accept();
    greet(&mut server);
    expect_query(&mut server, "SHOW x");
    child.wait_for(WaitEvent::WalReceiverReceive);
    child.kill(Signal::Term);
    child.join_well();
}

pub(crate) fn program_without_a_node_connects() {
    let upstream = Upstream::start();
    let conninfo = Conninfo::parse(&upstream.conninfo()).unwrap();
    let node = Node::start();
    // The child is the server this time.
    let child = node.child(|_| {
        let mut server = upstream.accept();
        greet(&mut server);
        expect_query(&mut server, "IDENTIFY_SYSTEM");
        server.send_with(|out| backend::ready_for_query(out, TransactionStatus::Idle));
        assert_eq!(server.read_message(), Some((b'X', vec![])));
    });
    let mut connection =
        ServerConnection::connect(None, &conninfo, SessionKind::PhysicalReplication, "standby1").unwrap();
    assert_eq!(connection.query("IDENTIFY_SYSTEM"), Ok(vec![]));
    connection.close();
    child.join_well();
}
