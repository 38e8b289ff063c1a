//! `target_session_attrs`: several scripted servers, and which of them a connection ends up with.

use sender::client::{ClientError, ServerConnection, SessionKind};
use wire::backend::{self, Column, DataRow, TransactionStatus};
use wire::conninfo::Conninfo;
use wire::startup::CancelRequest;
use wire::types::TEXT;

use crate::harness::{Node, Peer, Upstream};

/// What a server says of itself at the start of a session.
struct Server {
    in_hot_standby: Option<&'static str>,
    read_only: Option<&'static str>,
}

const PRIMARY: Server = Server { in_hot_standby: Some("off"), read_only: Some("off") };
const READ_ONLY: Server = Server { in_hot_standby: Some("off"), read_only: Some("on") };
const STANDBY: Server = Server { in_hot_standby: Some("on"), read_only: Some("off") };
const OLD: Server = Server { in_hot_standby: None, read_only: None };

impl Server {
    fn greet(&self, upstream: &Upstream) -> Peer {
        let mut peer = upstream.accept();
        peer.read_startup_packet();
        peer.send_with(|out| {
            backend::authentication_ok(out);
            for (name, value) in
                [("in_hot_standby", self.in_hot_standby), ("default_transaction_read_only", self.read_only)]
            {
                value.into_iter().for_each(|value| backend::parameter_status(out, name, value));
            }
            backend::backend_key_data(out, CancelRequest { pid: 1, key: 2 });
            backend::ready_for_query(out, TransactionStatus::Idle);
        });
        peer
    }
}

fn expect_goodbye(peer: &mut Peer) {
    assert_eq!(peer.read_message(), Some((b'X', vec![])));
}

/// Connects to both upstreams, the first one first; the port that it ended up with, or libpq's words.
fn connect(upstreams: [&Upstream; 2], wanted: &str) -> Result<u16, String> {
    let text = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=u target_session_attrs={wanted}",
        upstreams[0].port(),
        upstreams[1].port()
    );
    let conninfo = Conninfo::parse(&text).unwrap();
    match ServerConnection::connect(None, &conninfo, SessionKind::PhysicalReplication, "standby1") {
        Ok(connection) => {
            let port = connection.target().port;
            connection.close();
            Ok(port)
        }
        Err(ClientError::Connect(text)) => Err(text),
        Err(other) => panic!("{other}"),
    }
}

pub(crate) fn the_first_server_that_is_fit_is_taken() {
    for (wanted, first, second) in [
        ("read-write", STANDBY, PRIMARY),
        ("read-write", READ_ONLY, PRIMARY),
        ("read-only", PRIMARY, STANDBY),
        ("primary", STANDBY, READ_ONLY),
        ("standby", PRIMARY, STANDBY),
        ("prefer-standby", PRIMARY, STANDBY),
    ] {
        let (node, upstreams) = (Node::start(), [Upstream::start(), Upstream::start()]);
        // The child is both servers.
        let child = node.child(|_| {
            expect_goodbye(&mut first.greet(&upstreams[0]));
            expect_goodbye(&mut second.greet(&upstreams[1]));
        });
        assert_eq!(connect([&upstreams[0], &upstreams[1]], wanted), Ok(upstreams[1].port()), "{wanted}");
        child.join_well();
    }
}

pub(crate) fn without_a_standby_prefer_standby_takes_what_there_is() {
    let (node, upstreams) = (Node::start(), [Upstream::start(), Upstream::start()]);
    let child = node.child(|_| {
        for number in [0, 1, 0] {
            expect_goodbye(&mut PRIMARY.greet(&upstreams[number]));
        }
    });
    assert_eq!(connect([&upstreams[0], &upstreams[1]], "prefer-standby"), Ok(upstreams[0].port()));
    child.join_well();
}

pub(crate) fn servers_that_are_not_fit_are_named_in_libpqs_words() {
    let (node, upstreams) = (Node::start(), [Upstream::start(), Upstream::start()]);
    let child = node.child(|_| {
        expect_goodbye(&mut STANDBY.greet(&upstreams[0]));
        expect_goodbye(&mut READ_ONLY.greet(&upstreams[1]));
    });
    let ports = [upstreams[0].port(), upstreams[1].port()];
    let line =
        |port| format!("connection to server at \"127.0.0.1\", port {port} failed: session is read-only");
    let expected = format!("{}\n{}", line(ports[0]), line(ports[1]));
    assert_eq!(connect([&upstreams[0], &upstreams[1]], "read-write"), Err(expected));
    child.join_well();
}

pub(crate) fn a_server_that_reports_nothing_is_asked() {
    let (node, upstreams) = (Node::start(), [Upstream::start(), Upstream::start()]);
    let child = node.child(|_| {
        for (upstream, value) in upstreams.iter().zip(["on", "off"]) {
            let mut peer = OLD.greet(upstream);
            assert_eq!(peer.read_message(), Some((b'Q', b"SHOW transaction_read_only\0".to_vec())));
            peer.send_with(|out| {
                backend::row_description(out, &[Column::new("transaction_read_only", TEXT)]);
                let mut row = DataRow::begin(out);
                row.bytes(value.as_bytes());
                row.finish().unwrap();
                backend::command_complete(out, "SHOW");
                backend::ready_for_query(out, TransactionStatus::Idle);
            });
            expect_goodbye(&mut peer);
        }
    });
    assert_eq!(connect([&upstreams[0], &upstreams[1]], "read-write"), Ok(upstreams[1].port()));
    child.join_well();
}
