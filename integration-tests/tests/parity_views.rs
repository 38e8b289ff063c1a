//! Walship's views of replication have PostgreSQL 15's columns, in order and type, and the same values where they don't depend on
//! the machine: on a primary, a standby and a cascade that stream, and after a promotion.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::parity::{Kind, Notes, Server, compare};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

// pg_settings and pg_hba_file_rules are not here: what is an array in PostgreSQL is its text in Walship.
const VIEWS: &[&str] = &[
    "pg_stat_activity",
    "pg_stat_replication",
    "pg_stat_wal_receiver",
    "pg_replication_slots",
    "pg_stat_archiver",
    "pg_stat_wal",
    "pg_stat_progress_basebackup",
    "pg_file_settings",
];

fn columns(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let server = Server::primary(kind, scenario, &[]);
    let mut client = server.client();
    for view in VIEWS {
        notes.columns(&mut client, &format!("SELECT * FROM {view} LIMIT 0"));
    }
}

#[test]
fn views_have_the_same_columns() {
    compare("views-columns", columns);
}

/// Which values there are: `?` for what differs between two runs of one server.
fn values(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let primary = Server::primary(kind, scenario, &["wal_receiver_status_interval=1s"]);
    primary.rows("CREATE TABLE t(id integer PRIMARY KEY)");
    let standby = primary.standby(scenario, "first", &["wal_receiver_status_interval=1s"]);
    let cascade = standby.standby(scenario, "second", &[]);
    primary.rows("INSERT INTO t VALUES (1)");
    standby.wait_level_with(&primary);
    cascade.wait_level_with(&primary);
    const REPLICATION: &str = "SELECT usename, application_name, client_addr, client_hostname, backend_xmin, state, \
         CASE WHEN sent_lsn = write_lsn AND write_lsn = flush_lsn AND flush_lsn = replay_lsn THEN 'level' ELSE 'not' END AS positions, \
         write_lag, flush_lag, replay_lag, sync_priority, sync_state, \
         CASE WHEN reply_time IS NULL THEN 'never' ELSE 'some' END AS reply FROM pg_stat_replication";
    const RECEIVER: &str = "SELECT status, receive_start_tli, received_tli, \
         CASE WHEN written_lsn = flushed_lsn THEN 'level' ELSE 'not' END AS positions, \
         CASE WHEN last_msg_send_time IS NULL THEN 'never' ELSE 'some' END AS sent, \
         CASE WHEN last_msg_receipt_time IS NULL THEN 'never' ELSE 'some' END AS received, \
         CASE WHEN latest_end_lsn IS NULL THEN 'none' ELSE 'some' END AS latest, \
         CASE WHEN latest_end_time IS NULL THEN 'never' ELSE 'some' END AS latest_time, \
         slot_name, sender_host FROM pg_stat_wal_receiver";
    for (name, server) in [("primary", &primary), ("standby", &standby)] {
        // Idle: no lags.
        wait::until("lags to go", || {
            let row = server.rows("SELECT replay_lag, state FROM pg_stat_replication");
            (row == [["NULL", "streaming"]]).then_some(())
        });
        notes.note(name, "");
        notes.query(&mut server.client(), REPLICATION);
    }
    for (name, server) in [("primary", &primary), ("standby", &standby), ("cascade", &cascade)] {
        notes.note(name, "");
        notes.query(&mut server.client(), RECEIVER);
        for function in
            ["pg_last_wal_receive_lsn()", "pg_last_wal_replay_lsn()", "pg_last_xact_replay_timestamp()"]
        {
            let sql = format!("SELECT CASE WHEN {function} IS NULL THEN 'none' ELSE 'some' END AS answer");
            notes.query(&mut server.client(), &sql);
        }
    }
    let last = |server: &Server| {
        server.rows(
            "SELECT pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), pg_last_xact_replay_timestamp()",
        )
    };
    let before = last(&standby);
    notes.query(&mut standby.client(), "SELECT pg_promote()");
    standby.rows("INSERT INTO t VALUES (2)");
    notes.note("last positions stay", before == last(&standby));
    notes.query(&mut standby.client(), RECEIVER);
    const PROCESSES: &str = "SELECT DISTINCT backend_type FROM pg_stat_activity WHERE backend_type IN ('walsender', 'walreceiver', 'checkpointer', 'walwriter', 'client backend') ORDER BY backend_type";
    notes.query(&mut primary.client(), PROCESSES);
    notes.query(&mut cascade.client(), PROCESSES);
}

#[test]
fn views_have_the_same_values() {
    compare("views-values", values);
}
