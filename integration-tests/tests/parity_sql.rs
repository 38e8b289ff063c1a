//! A psql user is answered alike by Walship and PostgreSQL 15: tags, rows, transaction states, SQLSTATEs and the texts of errors.
//!
//! Statements that both can run; SQL itself is SQLite's here, so expressions are not what is compared. Known to differ: notices of
//! what IF EXISTS skips, SET LOCAL outside of a block (no warning here), and the values in the details of broken constraints.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::parity::{Kind, Notes, Server, compare};
use integration_tests::scenario::Scenario;

const STATEMENTS: &[&str] = &[
    "",
    ";",
    "CREATE TABLE kv(key text PRIMARY KEY, value text NOT NULL)",
    "INSERT INTO kv VALUES ('a', '1')",
    "INSERT INTO kv VALUES ('b', '2'), ('c', '3')",
    "INSERT INTO kv VALUES ('d', '4') RETURNING key, value",
    "SELECT key, value FROM kv ORDER BY key",
    "SELECT key AS k FROM kv WHERE key > 'b' ORDER BY 1 DESC",
    "SELECT count(*) FROM kv",
    "SELECT NULL AS absent",
    "UPDATE kv SET value = 'x' WHERE key IN ('a', 'b')",
    "DELETE FROM kv WHERE key = 'c'",
    "DELETE FROM kv WHERE key = 'c'",
    "INSERT INTO kv VALUES ('a', 'y') ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    "INSERT INTO kv VALUES ('a', 'z') ON CONFLICT DO NOTHING",
    "VALUES ('one', 'two')",
    "CREATE INDEX kv_value ON kv(value)",
    "DROP INDEX kv_value",
    "CREATE TABLE IF NOT EXISTS other(id integer)",
    "DROP TABLE other",
    // Errors.
    "SELEC 1",
    "SELECT * FROM nowhere",
    "INSERT INTO nowhere VALUES (1)",
    "CREATE TABLE kv(key text)",
    "SELECT absent FROM kv",
    "SELECT 1 FROM",
    // Settings.
    "SHOW server_encoding",
    "SHOW transaction_isolation",
    "SHOW no_such_setting",
    "SET no_such_setting = 1",
    "SET statement_timeout = 'soon'",
    "SET statement_timeout = '1min'",
    "SHOW statement_timeout",
    "RESET statement_timeout",
    "SHOW statement_timeout",
    "SET statement_timeout = -2",
    "SET port = 1",
    "SET application_name = 'parity'",
    "SHOW application_name",
    "SELECT current_setting('application_name')",
    "SELECT set_config('application_name', 'other', false)",
    "SELECT current_setting('no_such_setting', true)",
    "SELECT current_setting('no_such_setting')",
    "DISCARD ALL",
    // Functions.
    "SELECT pg_is_in_recovery()",
    "SELECT pg_wal_lsn_diff('0/3000060', '0/3000000')",
    "SELECT pg_wal_lsn_diff('nonsense', '0/3000000')",
    "SELECT pg_walfile_name('0/300000')",
    "SELECT pg_cancel_backend(0)",
    "SELECT pg_promote()",
    "SELECT pg_wal_replay_pause()",
    "SELECT pg_is_wal_replay_paused()",
    "SELECT pg_get_wal_replay_pause_state()",
    "SELECT pg_terminate_backend(0)",
    // Notifications.
    "LISTEN parity",
    "SELECT pg_listening_channels()",
    "UNLISTEN *",
    "NOTIFY parity, 'nobody'",
    // Commands of the log.
    "CHECKPOINT",
    "CHECKPOINT now",
    "ABORT",
    "COMMIT",
    "SAVEPOINT a",
    "RELEASE a",
    "ROLLBACK TO a",
    "END",
];

/// Statements of one session inside of blocks. (Tags of writes inside of a block say 0 in Walship, with a notice: none here.)
const BLOCKS: &[&str] = &[
    "BEGIN",
    "BEGIN",
    "SELECT count(*) FROM kv",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE SAVEPOINT a",
    "COMMIT",
    "BEGIN READ ONLY",
    "INSERT INTO kv VALUES ('r', 'o')",
    "SELECT 1",
    "ROLLBACK",
    "START TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SELEC",
    "SELECT 1",
    "COMMIT",
    "BEGIN",
    "RELEASE nothing",
    "END AND CHAIN",
    "ROLLBACK",
    "SET default_transaction_read_only = on",
    "DELETE FROM kv",
    "SET default_transaction_read_only = off",
    "SELECT 1; SELECT 2; SELEC; SELECT 3",
    "SELECT 1; SELECT 1 FROM nowhere; SELECT 3",
    "BEGIN; SET LOCAL statement_timeout = '5s'; SHOW statement_timeout; COMMIT; SHOW statement_timeout",
    "SELECT count(*) FROM kv",
];

fn statements(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    let mut client = server.client();
    STATEMENTS.iter().for_each(|sql| notes.query(&mut client, sql));
    for broken in ["INSERT INTO kv VALUES ('e', NULL)", "INSERT INTO kv VALUES ('a', 'again')"] {
        let error = client.error(broken);
        notes.note(broken, format!("{} {} {}", error.severity, error.sqlstate, error.message));
    }
    BLOCKS.iter().for_each(|sql| notes.query(&mut client, sql));
}

#[test]
fn statements_are_answered_alike() {
    compare("sql", statements);
}

fn cancels(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    let mut client = server.client();
    let asleep = |pid: i32| {
        let sql =
            format!("SELECT wait_event_type || '/' || wait_event FROM pg_stat_activity WHERE pid = {pid}");
        integration_tests::wait::until("the statement to sleep", || {
            (server.rows(&sql) == [["Timeout/PgSleep"]]).then_some(())
        });
    };
    client.send_query("SELECT pg_sleep(1000)").unwrap();
    asleep(client.backend_pid);
    client.cancel().unwrap();
    notes.note("cancelled", integration_tests::parity::shown(&client.read_answer().unwrap()));
    notes.query(&mut client, "SET statement_timeout = '10ms'");
    notes.query(&mut client, "SELECT pg_sleep(1000)");
    notes.query(&mut client, "SET statement_timeout = 0");
    client.send_query("SELECT pg_sleep(1000)").unwrap();
    asleep(client.backend_pid);
    let terminate = format!("SELECT pg_terminate_backend({})", client.backend_pid);
    server.value(&terminate);
    notes.note("terminated", integration_tests::parity::shown(&client.read_answer().unwrap()));
    for parameters in
        [&[("no_such_setting", "1")][..], &[("replication", "perhaps")], &[("statement_timeout", "x")]]
    {
        let address = integration_tests::client::Address::Tcp(server.port());
        let refused = integration_tests::client::Client::connect(&address, parameters).map(|_| ());
        notes.note(&format!("{parameters:?}"), format!("{:?}", refused.map_err(|error| error.to_string())));
    }
}

#[test]
fn cancels_and_refusals_are_told_alike() {
    compare("sql-cancels", cancels);
}
