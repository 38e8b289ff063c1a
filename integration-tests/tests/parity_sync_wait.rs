//! Walship and PostgreSQL 15 tell a client the same when its commit waits for synchronous standbys: while it does, when it is
//! cancelled or terminated, when a standby confirms, and when the names are emptied.
//!
//! Not compared, as Walship differs on purpose: who sees a row before the quorum has it (nobody), and what `local` and
//! `remote_write` wait for (the quorum).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, parse_error};
use integration_tests::parity::standby::FakeStandby;
use integration_tests::parity::{Kind, Notes, Server, compare, said, shown};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

/// A session that has sent `sql` and is seen to wait for standbys.
fn waiting(server: &Server, sql: &str) -> Client {
    let mut client = server.client();
    client.send_query(sql).unwrap();
    let activity = format!(
        "SELECT wait_event_type || '/' || wait_event, state FROM pg_stat_activity WHERE pid = {}",
        client.backend_pid
    );
    wait::until("the commit to wait", || {
        (server.rows(&activity) == [["IPC/SyncRep", "active"]]).then_some(())
    });
    client
}

/// What comes until the connection ends: tags, and the text of errors and notices.
fn until_the_end(client: &mut Client) -> String {
    let mut came = Vec::new();
    while let Ok(message) = client.read_message() {
        came.push(match message.tag {
            b'E' | b'N' => said(&parse_error(&message.body)),
            tag => char::from(tag).to_string(),
        });
    }
    came.join(" ")
}

fn waits(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    server.rows("CREATE TABLE t(id integer PRIMARY KEY)");
    server.reload("synchronous_standby_names = 's'");

    let mut client = waiting(&server, "INSERT INTO t VALUES (1)");
    client.cancel().unwrap();
    notes.note("cancelled", shown(&client.read_answer().unwrap()));
    // The session goes on.
    notes.query(&mut client, "SHOW synchronous_standby_names");

    let mut client = waiting(&server, "INSERT INTO t VALUES (2)");
    server.value(&format!("SELECT pg_terminate_backend({})", client.backend_pid));
    notes.note("terminated", until_the_end(&mut client));

    let mut client = waiting(&server, "INSERT INTO t VALUES (3)");
    let mut standby = FakeStandby::connect(&server, "s");
    standby.confirm(server.end());
    notes.note("confirmed", shown(&client.read_answer().unwrap()));

    let mut client = waiting(&server, "INSERT INTO t VALUES (4), (5)");
    server.reload("synchronous_standby_names = ''");
    notes.note("names emptied", shown(&client.read_answer().unwrap()));
    notes.query(&mut client, "SELECT id FROM t ORDER BY id");

    // A read waits for nobody, nor does a statement that changes nothing.
    server.reload("synchronous_standby_names = 'absent'");
    notes.query(&mut client, "UPDATE t SET id = 9 WHERE id = 8");
    notes.query(&mut client, "SELECT count(*) FROM t");
    notes.query(&mut client, "BEGIN; COMMIT");
}

#[test]
fn clients_are_told_the_same_of_their_waits() {
    compare("sync-wait", waits);
}

fn names(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    let mut client = server.client();
    for wrong in ["0 (a)", "ANY (a", "a,,b", "FIRST 1", "1", "ANY 1 ()", "-1 (a)", "a b"] {
        // By SET: what is wrong with the value is found before that it can't be set so.
        notes.query(&mut client, &format!("SET synchronous_standby_names = '{wrong}'"));
    }
    notes.query(&mut client, "SHOW synchronous_standby_names");
}

#[test]
fn names_that_make_no_sense_are_refused_alike() {
    compare("sync-names", names);
}
