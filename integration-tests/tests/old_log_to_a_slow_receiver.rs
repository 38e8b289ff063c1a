//! A receiver that asks for log which is in files alone gets every byte of it, also if it stands still meanwhile, so that the
//! kernel takes messages in part.
//!
//! Method: a client of the replication protocol that reads nothing until its walsender is stuck, then everything; what it got is
//! compared with the segments.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::Duration;

use integration_tests::client::Client;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use wal::lsn::Lsn;

const SEGMENT: u64 = 1 << 20;
/// More than the ring and all buffers between the two processes hold.
const LOG: u64 = 40 * SEGMENT;

/// A message of the stream as its start, the log in it, and nothing of a keepalive.
fn next_wal(client: &mut Client) -> Option<(Lsn, Vec<u8>)> {
    let message = client.read_message().unwrap();
    assert_eq!(message.tag, b'd', "{:?}", String::from_utf8_lossy(&message.body));
    let start = Lsn(u64::from_be_bytes(message.body[1..9].try_into().unwrap()));
    (message.body[0] == b'w').then(|| (start, message.body[25..].to_vec()))
}

/// Waits until the walsender has come to where it can't send more for now.
fn wait_stuck(node: &Node) {
    let mut before = Lsn::INVALID;
    wait::until("the walsender to be stuck", || {
        wait::watch_for(Duration::from_millis(100));
        let rows = node.rows("SELECT sent_lsn FROM pg_stat_replication");
        let sent: Lsn = rows[0][0].parse().unwrap();
        (sent == std::mem::replace(&mut before, sent)).then_some(())
    });
}

#[test]
fn every_byte_of_an_old_log_comes_to_a_receiver_that_stands_still_now_and_then() {
    let scenario = Scenario::new("old-log");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    // No two pages of it are the same.
    let mut number = 0;
    let start = Lsn(node.lsn("pg_current_wal_flush_lsn").0 / SEGMENT * SEGMENT);
    while node.lsn("pg_current_wal_flush_lsn") < start + LOG {
        let text: String = (number..number + 20_000).map(|number| format!("{number:07}")).collect();
        node.query(&format!("SELECT pg_logical_emit_message(true, 'old', '{text}')"));
        number += 20_000;
    }
    let end = node.lsn("pg_current_wal_flush_lsn");
    let mut client = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    client.send_query(&format!("START_REPLICATION {start} TIMELINE 1")).unwrap();
    assert_eq!(client.read_message().unwrap().tag, b'W');
    let mut received = Vec::new();
    while start + (received.len() as u64) < end {
        // About four times.
        if received.len() % (10 << 20) < 128 << 10 {
            wait_stuck(&node);
        }
        let Some((at, wal)) = next_wal(&mut client) else { continue };
        assert_eq!(at, start + received.len() as u64, "the stream has a gap");
        received.extend(wal);
    }
    for (index, part) in received.chunks(1 << 20).enumerate() {
        let name = format!("0000000100000000{:08X}", start.0 / SEGMENT + index as u64);
        let file = fs::read(node.dir().join("pg_wal").join(&name)).unwrap();
        let differs = part.iter().zip(&file).position(|(got, there)| got != there);
        assert_eq!(differs, None, "{name} differs");
    }
    drop(client);
    node.stop();
}
