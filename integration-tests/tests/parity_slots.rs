//! Walship's replication slots are PostgreSQL 15's in SQL: functions, their errors, the view and its states.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, parse_error};
use integration_tests::parity::{Kind, Notes, Server, compare, said};
use integration_tests::scenario::Scenario;

const VIEW: &str = "SELECT slot_name, plugin, slot_type, datoid, database, temporary, active, active_pid, xmin, catalog_xmin, \
     CASE WHEN restart_lsn IS NULL THEN 'none' ELSE 'some' END AS restart, confirmed_flush_lsn, wal_status, \
     CASE WHEN safe_wal_size IS NULL THEN 'none' ELSE 'some' END AS safe, two_phase \
     FROM pg_replication_slots ORDER BY slot_name";

const STATEMENTS: &[&str] = &[
    "SELECT pg_create_physical_replication_slot('a')",
    "SELECT * FROM pg_create_physical_replication_slot('b', true)",
    "SELECT slot_name FROM pg_create_physical_replication_slot('c', true, false)",
    "SELECT pg_create_physical_replication_slot('a')",
    "SELECT pg_create_physical_replication_slot('Upper')",
    "SELECT pg_create_physical_replication_slot('')",
    VIEW,
    "SELECT pg_replication_slot_advance('a', '0/1')",
    "SELECT pg_replication_slot_advance('b', '0/0')",
    "SELECT pg_replication_slot_advance('b', '0/1')",
    "SELECT pg_replication_slot_advance('missing', '0/1')",
    "SELECT pg_copy_physical_replication_slot('b', 'd')",
    "SELECT pg_copy_physical_replication_slot('a', 'e')",
    "SELECT pg_copy_physical_replication_slot('missing', 'e')",
    "SELECT pg_drop_replication_slot('missing')",
    "SELECT pg_drop_replication_slot('a')",
    VIEW,
    "SELECT pg_drop_replication_slot('b')",
    "SELECT pg_drop_replication_slot('c')",
    "SELECT pg_drop_replication_slot('d')",
    "SELECT count(*) FROM pg_replication_slots",
];

fn slots(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &["max_replication_slots=4"]);
    let mut client = server.client();
    for statement in STATEMENTS {
        notes.masked(&mut client, statement);
    }
    notes.query(&mut client, "SELECT slot_name FROM pg_replication_slots");
    // All places taken; a temporary one goes with its session.
    for number in 0..4 {
        notes.query(
            &mut client,
            &format!("SELECT slot_name FROM pg_create_physical_replication_slot('s{number}')"),
        );
    }
    notes.query(&mut client, "SELECT pg_create_physical_replication_slot('one_more')");
    notes.query(&mut client, "SELECT pg_drop_replication_slot('s3')");
    let mut other = server.client();
    other.query("SELECT pg_create_physical_replication_slot('mine', false, true)").unwrap();
    notes.query(
        &mut client,
        "SELECT slot_name, temporary, active FROM pg_replication_slots ORDER BY slot_name",
    );
    drop(other);
    let left = "SELECT count(*) FROM pg_replication_slots WHERE temporary";
    integration_tests::wait::until("the slot to be gone", || (server.value(left) == "0").then_some(()));
    notes.query(&mut client, "SELECT slot_name FROM pg_replication_slots ORDER BY slot_name");
}

#[test]
fn slots_are_made_moved_and_dropped_alike() {
    compare("slots", slots);
}

/// Tags and errors up to ReadyForQuery.
fn until_ready(client: &mut Client) -> String {
    let mut came = Vec::new();
    loop {
        let message = client.read_message().unwrap();
        came.push(match message.tag {
            b'E' => said(&parse_error(&message.body)),
            tag => char::from(tag).to_string(),
        });
        if message.tag == b'Z' {
            return came.join(" ");
        }
    }
}

fn limits(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let settings = ["max_slot_wal_keep_size=3MB", "max_wal_size=2MB"];
    let mut server = Server::primary(kind, scenario, &settings);
    server.rows("CREATE TABLE t(id integer)");
    server.rows("SELECT pg_create_physical_replication_slot('s', true)");
    const STATUS: &str = "SELECT slot_name, wal_status, CASE WHEN restart_lsn IS NULL THEN 'none' ELSE 'some' END AS restart FROM pg_replication_slots";
    notes.query(&mut server.client(), STATUS);
    for round in 0..6 {
        let mut client = server.client();
        client.query("INSERT INTO t VALUES (1)").unwrap();
        client.query("SELECT pg_switch_wal()").unwrap();
        client.query("CHECKPOINT").unwrap();
        notes.note(&format!("segment {round}"), "");
        notes.query(&mut client, STATUS);
    }
    let mut stream = server.walsender();
    // It begins, and ends with the error.
    stream.send_query("START_REPLICATION SLOT s 0/100000 TIMELINE 1").unwrap();
    notes.note("START_REPLICATION", until_ready(&mut stream));
    notes.query(&mut stream, "READ_REPLICATION_SLOT s");
    drop(stream);
    server.stop();
    server.start_again();
    notes.query(&mut server.client(), STATUS);
    notes.query(&mut server.client(), "SELECT pg_replication_slot_advance('s', '0/1')");
}

#[test]
fn slots_lose_their_log_alike() {
    compare("slot-limits", limits);
}
