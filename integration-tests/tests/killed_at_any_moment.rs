//! A primary whose processes are all killed at a random moment, thirty times, keeps every acknowledged row: in the middle
//! of writes, of records that are larger than the ring of WAL buffers or than a segment, of segment switches, of
//! recovery itself.
//!
//! Method: clients send many statements ahead and read nothing; after a random time every process is killed; only
//! then the answers are read. What was answered must be there, once; what was not may be there or not. In some
//! rounds the next start is killed too, while it recovers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::random::{self, Random};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

const KILLS: usize = 30;
const CLIENTS: usize = 6;
/// Statements that each client sends ahead: few enough for the sockets' buffers.
const AHEAD: usize = 60;

/// What is known of each row: whether its INSERT was acknowledged.
type Rows = BTreeMap<u64, bool>;

#[test]
fn a_primary_killed_thirty_times_at_random_moments_keeps_every_acknowledged_row() {
    for seed in random::seeds(&[7]) {
        let scenario = Scenario::new("killed-at-any-moment");
        let mut random = Random::new(seed);
        let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
        primary.set("wal_buffers=128kB");
        primary.set("max_statement_size=4MB");
        primary.set("state_wal_limit=1MB");
        primary.start();
        primary.query("CREATE TABLE acked(id integer PRIMARY KEY, length integer, filler text)");
        let mut rows = Rows::new();
        for kill in 0..KILLS {
            let mut clients: Vec<Client> = (0..CLIENTS).map(|_| primary.client()).collect();
            let sent: Vec<Vec<Option<u64>>> =
                clients.iter_mut().map(|client| send_ahead(client, &mut random, &mut rows)).collect();
            wait::watch_for(Duration::from_micros(random.below(150_000)));
            primary.kill_all();
            for (client, sent) in clients.iter_mut().zip(sent) {
                read_what_came(client, &sent, &mut rows);
            }
            for _ in 0..random.below(3) {
                primary.spawn();
                wait::watch_for(Duration::from_micros(random.below(40_000)));
                primary.kill_all();
            }
            primary.start();
            check(&primary, &mut rows, &format!("seed {seed}, kill {kill}"));
        }
        let acknowledged = rows.values().filter(|acknowledged| **acknowledged).count();
        assert!(acknowledged > 10 * KILLS, "only {acknowledged} rows were acknowledged between the kills");
        let mut standby = Node::clone_of(&scenario, "standby", &primary);
        standby.set("max_statement_size=4MB");
        standby.start();
        let mut cluster = Cluster { primary, standby };
        cluster.assert_equal(&["acked"]);
        cluster.stop();
    }
}

/// Sends statements without reading; the ids of the rows that they insert.
fn send_ahead(client: &mut Client, random: &mut Random, rows: &mut Rows) -> Vec<Option<u64>> {
    let mut sent = Vec::new();
    for _ in 0..AHEAD {
        let id = rows.last_key_value().map_or(1, |(last, _)| last + 1);
        let (id, sql) = match random.below(60) {
            0 => (None, "SELECT pg_switch_wal()".to_owned()),
            1 => (None, "SELECT pg_logical_emit_message(true, 'test', hex(zeroblob(5000)))".to_owned()),
            2 => (Some(id), insert(id, 1_200_000)),
            3 => (Some(id), insert(id, 200_000)),
            4..10 => (Some(id), insert(id, random.below(30_000))),
            _ => (Some(id), insert(id, random.below(200))),
        };
        if let Some(id) = id {
            rows.insert(id, false);
        }
        client.send_query(&sql).unwrap();
        sent.push(id);
    }
    sent
}

fn insert(id: u64, length: u64) -> String {
    format!(
        "INSERT INTO acked VALUES ({id}, {length}, substr(hex(zeroblob({})), 1, {length}))",
        length / 2 + 1
    )
}

/// Reads the answers that came before the end, in the order of the statements.
fn read_what_came(client: &mut Client, sent: &[Option<u64>], rows: &mut Rows) {
    for id in sent {
        let Ok(answer) = client.read_answer() else { return };
        match (&answer.error, id) {
            (Some(error), _) if error.severity == "FATAL" => return,
            (Some(error), _) => panic!("{error}"),
            (None, Some(id)) => rows.insert(*id, true),
            (None, None) => None,
        };
    }
}

/// Checks that each acknowledged row is there and whole, and that there is none that nobody sent.
fn check(primary: &Node, rows: &mut Rows, context: &str) {
    let damaged = primary.value("SELECT count(*) FROM acked WHERE length(filler) <> length");
    assert_eq!(damaged, "0", "{context}");
    let found = primary.rows("SELECT id FROM acked");
    let found: Vec<u64> = found.iter().map(|row| row[0].parse().unwrap()).collect();
    for (id, acknowledged) in rows.iter() {
        assert!(!acknowledged || found.contains(id), "{context}: row {id} was acknowledged and is lost");
    }
    for id in found {
        // From here on it is known to be there: it must not vanish later.
        let known = rows.insert(id, true);
        assert!(known.is_some(), "{context}: nobody sent row {id}");
    }
}
