//! Walship's walsender answers every replication command as PostgreSQL 15's: columns and their types, rows, tags, errors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::parse_error;
use integration_tests::parity::{Kind, Notes, Server, compare, said};
use integration_tests::scenario::Scenario;

const COMMANDS: &[&str] = &[
    "IDENTIFY_SYSTEM",
    "SHOW wal_segment_size",
    "SHOW data_directory_mode",
    "SHOW no_such_setting",
    "READ_REPLICATION_SLOT missing",
    "CREATE_REPLICATION_SLOT first PHYSICAL",
    "CREATE_REPLICATION_SLOT first PHYSICAL",
    "READ_REPLICATION_SLOT first",
    "CREATE_REPLICATION_SLOT second PHYSICAL RESERVE_WAL",
    "CREATE_REPLICATION_SLOT third PHYSICAL (RESERVE_WAL)",
    "CREATE_REPLICATION_SLOT fourth PHYSICAL (RESERVE_WAL false)",
    "CREATE_REPLICATION_SLOT fifth PHYSICAL (no_such_option)",
    "CREATE_REPLICATION_SLOT fifth PHYSICAL (RESERVE_WAL, RESERVE_WAL)",
    "READ_REPLICATION_SLOT second",
    "READ_REPLICATION_SLOT \"third\";",
    "CREATE_REPLICATION_SLOT \"Bad Name\" PHYSICAL",
    "CREATE_REPLICATION_SLOT \"\" PHYSICAL",
    "CREATE_REPLICATION_SLOT temp TEMPORARY PHYSICAL",
    "DROP_REPLICATION_SLOT first",
    "DROP_REPLICATION_SLOT first",
    "DROP_REPLICATION_SLOT third WAIT",
    "DROP_REPLICATION_SLOT second",
    "TIMELINE_HISTORY 7",
    "TIMELINE_HISTORY 0",
    "START_REPLICATION 0/100000 TIMELINE 9",
    "START_REPLICATION SLOT missing 0/100000 TIMELINE 1",
    "START_REPLICATION 0/100000 TIMELINE 0",
    "START_REPLICATION nonsense",
    "start_replication 0/100000",
    "IDENTIFY_SYSTEM extra",
    "DROP_REPLICATION_SLOT",
    "SELECT 1",
    "",
    "BASE_BACKUP (no_such_option)",
    "BASE_BACKUP (MAX_RATE 1)",
    "BASE_BACKUP (CHECKPOINT 'never')",
];

fn commands(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    let mut client = server.walsender();
    for command in COMMANDS {
        notes.masked(&mut client, command);
    }
    for command in
        ["IDENTIFY_SYSTEM", "SHOW port", "READ_REPLICATION_SLOT x", "CREATE_REPLICATION_SLOT y PHYSICAL"]
    {
        notes.columns(&mut client, command);
    }
    let shown: Vec<&String> = client.parameters.keys().collect();
    notes.note("parameters reported", format!("{shown:?}"));
    for name in ["in_hot_standby", "default_transaction_read_only", "integer_datetimes", "is_superuser"] {
        notes.note(name, &client.parameters[name]);
    }
}

#[test]
fn commands_are_answered_alike() {
    compare("replication-commands", commands);
}

/// The first message of the answer, which ends the connection or doesn't.
fn first(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    // Ahead of the log: refused after CopyBothResponse.
    let mut client = server.walsender();
    client.send_query("START_REPLICATION 7/0 TIMELINE 1").unwrap();
    let mut tags = Vec::new();
    for _ in 0..3 {
        let message = client.read_message().unwrap();
        if message.tag == b'E' {
            let error = parse_error(&message.body);
            tags.push(integration_tests::parity::mask(&said(&error)));
        } else {
            tags.push(char::from(message.tag).to_string());
        }
    }
    notes.note("ahead of the log", tags.join(" "));
    // The extended protocol, and a function call.
    for tag in [b'P', b'F'] {
        let mut client = server.walsender();
        client.send_message(tag, b"\0SELECT 1\0\0\0").unwrap();
        let message = client.read_message().unwrap();
        notes.note(&format!("message {}", char::from(tag)), said(&parse_error(&message.body)));
    }
    // A slot in use.
    let mut holder = server.walsender();
    holder.query("CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL").unwrap();
    let start = server.end();
    holder.send_query(&format!("START_REPLICATION SLOT s {start} TIMELINE 1")).unwrap();
    assert_eq!(holder.read_message().unwrap().tag, b'W');
    let pid = holder.backend_pid.to_string();
    let mut client = server.walsender();
    for command in ["DROP_REPLICATION_SLOT s", &format!("START_REPLICATION SLOT s {start} TIMELINE 1")] {
        let error = client.answer(command).unwrap().error.unwrap();
        notes.note("slot in use", said(&error).replace(&pid, "PID"));
    }
    // What no standby says.
    holder.send_message(b'd', b"z").unwrap();
    notes.note("unknown message", holder.read_to_end().is_ok());
}

#[test]
fn streams_are_refused_and_ended_alike() {
    compare("replication-streams", first);
}
