//! Walship's standbys do as PostgreSQL 15's: what they refuse and how, what they show of rows that are not committed, that
//! they are promoted, that a cascade follows, and that a crash right after the promotion loses nothing.
//!
//! The scenarios of PostgreSQL's recovery tests 001_stream_rep, 004_timeline_switch, 021_row_visibility and 041_checkpoint_at_promote as
//! far as both run them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::Client;
use integration_tests::parity::{Kind, Notes, Server, compare};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

const REFUSED: &[&str] = &[
    "INSERT INTO t VALUES (9)",
    "UPDATE t SET id = 9",
    "DELETE FROM t",
    "CREATE TABLE u(id integer)",
    "DROP TABLE t",
    "CREATE INDEX i ON t(id)",
    "TRUNCATE t",
    "LISTEN a",
    "NOTIFY a",
    "UNLISTEN *",
    "SELECT pg_current_wal_lsn()",
    "SELECT pg_current_wal_insert_lsn()",
    "SELECT pg_current_wal_flush_lsn()",
    "SELECT pg_switch_wal()",
    "SELECT pg_walfile_name('0/100000')",
    "SHOW in_hot_standby",
    "SHOW transaction_read_only",
    "SELECT pg_is_in_recovery()",
    "BEGIN",
    "INSERT INTO t VALUES (9)",
    "ROLLBACK",
    "BEGIN READ WRITE",
    "ROLLBACK",
    "CHECKPOINT",
    "SELECT pg_is_wal_replay_paused()",
    "SELECT pg_get_wal_replay_pause_state()",
    "SELECT count(*) FROM t",
];

fn refusals(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let primary = Server::primary(kind, scenario, &[]);
    primary.rows("CREATE TABLE t(id integer PRIMARY KEY)");
    primary.rows("INSERT INTO t VALUES (1), (2)");
    let standby = primary.standby(scenario, "standby", &[]);
    standby.wait_level_with(&primary);
    let mut client = standby.client();
    for name in ["in_hot_standby", "default_transaction_read_only"] {
        notes.note(name, &client.parameters[name]);
    }
    REFUSED.iter().for_each(|sql| notes.query(&mut client, sql));
    let mut walsender = standby.walsender();
    notes.masked(&mut walsender, "IDENTIFY_SYSTEM");
    notes.masked(&mut walsender, "CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL)");
    notes.masked(&mut walsender, "READ_REPLICATION_SLOT s");
    notes.masked(&mut walsender, "DROP_REPLICATION_SLOT s");
}

#[test]
fn standby_refuses_alike() {
    compare("standby-refuses", refusals);
}

fn visibility(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let mut primary = Server::primary(kind, scenario, &[]);
    primary.rows("CREATE TABLE t(data text)");
    let mut standby = primary.standby(scenario, "standby", &[]);
    let look = |standby: &Server, notes: &mut Notes, when: &str| {
        notes.note(when, format!("{:?}", standby.rows("SELECT data FROM t ORDER BY data")));
    };
    look(&standby, notes, "nothing is there");
    primary.rows("INSERT INTO t VALUES ('first insert')");
    standby.wait_level_with(&primary);
    look(&standby, notes, "a row is there");
    // Not committed: not to be seen, whatever else is logged.
    let mut open = primary.client();
    open.query("BEGIN").unwrap();
    open.query("UPDATE t SET data = 'first update' WHERE data = 'first insert'").unwrap();
    primary.rows("INSERT INTO t VALUES ('second insert')");
    standby.wait_level_with(&primary);
    look(&standby, notes, "an update is not committed");
    open.query("COMMIT").unwrap();
    standby.wait_level_with(&primary);
    look(&standby, notes, "it is committed");
    // Rolled back: never.
    open.query("BEGIN").unwrap();
    open.query("INSERT INTO t VALUES ('aborted')").unwrap();
    open.query("ROLLBACK").unwrap();
    primary.rows("INSERT INTO t VALUES ('third insert')");
    standby.wait_level_with(&primary);
    look(&standby, notes, "a transaction was rolled back");
    // The same after either has been killed.
    standby.kill_all();
    standby.start_again();
    look(&standby, notes, "the standby was killed");
    drop(open);
    primary.kill_all();
    primary.start_again();
    primary.rows("INSERT INTO t VALUES ('fourth insert')");
    standby.wait_level_with(&primary);
    look(&standby, notes, "the primary was killed");
}

#[test]
fn rows_are_shown_when_they_are_committed_and_not_before() {
    compare("standby-visibility", visibility);
}

fn promotion(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let mut primary = Server::primary(kind, scenario, &[]);
    primary.rows("CREATE TABLE t(id integer PRIMARY KEY)");
    primary.rows("INSERT INTO t VALUES (1)");
    let mut standby = primary.standby(scenario, "standby", &[]);
    let cascade = standby.standby(scenario, "cascade", &["wal_retrieve_retry_interval=100ms"]);
    standby.wait_level_with(&primary);
    cascade.wait_level_with(&primary);
    let receiver = cascade.value("SELECT pid FROM pg_stat_wal_receiver");
    let mut idle = standby.client();
    let mut streaming = standby.walsender();
    primary.kill_all();
    notes.query(&mut standby.client(), "SELECT pg_promote(true, 60)");
    notes.query(&mut standby.client(), "SELECT pg_promote()");
    notes.query(&mut standby.client(), "SELECT pg_is_in_recovery()");
    // Sessions from before write, and are told.
    notes.query(&mut idle, "INSERT INTO t VALUES (2)");
    notes.note("in_hot_standby", &idle.parameters["in_hot_standby"]);
    notes.masked(&mut streaming, "IDENTIFY_SYSTEM");
    let history = |client: &mut Client| {
        let answer = client.answer("TIMELINE_HISTORY 2").unwrap();
        let content = answer.rows[0][1].clone().unwrap();
        let fields: Vec<&str> = content.trim_end().split('\t').collect();
        format!("{:?} {} fields, from timeline {}", answer.rows[0][0], fields.len(), fields[0])
    };
    notes.note("history", history(&mut streaming));
    cascade.wait_level_with(&standby);
    notes.query(&mut cascade.client(), "SELECT id FROM t ORDER BY id");
    notes.query(&mut cascade.client(), "SELECT status, received_tli FROM pg_stat_wal_receiver");
    notes.note("in the same process", cascade.value("SELECT pid FROM pg_stat_wal_receiver") == receiver);
    // A crash right after it.
    standby.rows("INSERT INTO t VALUES (3)");
    standby.kill_all();
    standby.start_again();
    notes.query(&mut standby.client(), "SELECT id FROM t ORDER BY id");
    notes.query(&mut standby.client(), "SELECT pg_is_in_recovery()");
    notes.query(&mut standby.client(), "INSERT INTO t VALUES (4)");
    notes.masked(&mut standby.walsender(), "IDENTIFY_SYSTEM");
    wait::until("the cascade to stream again", || {
        (cascade.rows("SELECT status FROM pg_stat_wal_receiver") == [["streaming"]]).then_some(())
    });
    cascade.wait_level_with(&standby);
    notes.query(&mut cascade.client(), "SELECT id FROM t ORDER BY id");
}

#[test]
fn promotion_goes_alike() {
    compare("standby-promotion", promotion);
}

fn pause(kind: Kind, scenario: &Scenario, notes: &mut Notes) {
    let primary = Server::primary(kind, scenario, &[]);
    primary.rows("CREATE TABLE t(id integer PRIMARY KEY)");
    let standby = primary.standby(scenario, "standby", &[]);
    standby.wait_level_with(&primary);
    let state = || standby.value("SELECT pg_get_wal_replay_pause_state()");
    let mut client = standby.client();
    notes.query(&mut client, "SELECT pg_wal_replay_pause()");
    wait::until("the pause", || (state() == "paused").then_some(()));
    primary.rows("INSERT INTO t VALUES (1)");
    notes.query(&mut client, "SELECT pg_is_wal_replay_paused()");
    notes.query(&mut client, "SELECT count(*) FROM t");
    notes.query(&mut client, "SELECT pg_wal_replay_resume()");
    standby.wait_level_with(&primary);
    notes.query(&mut client, "SELECT pg_get_wal_replay_pause_state()");
    notes.query(&mut client, "SELECT count(*) FROM t");
    notes.query(&mut client, "SELECT pg_wal_replay_pause()");
    wait::until("the pause", || (state() == "paused").then_some(()));
    let end = {
        primary.rows("INSERT INTO t VALUES (2)");
        primary.end()
    };
    wait::until("the log", || {
        let received = standby.value("SELECT pg_last_wal_receive_lsn()").parse::<wal::lsn::Lsn>();
        received.is_ok_and(|received| received >= end).then_some(())
    });
    // A promotion ends the pause, and applies what was received.
    notes.query(&mut client, "SELECT pg_promote()");
    notes.query(&mut client, "SELECT count(*) FROM t");
    notes.query(&mut client, "SELECT pg_get_wal_replay_pause_state()");
}

#[test]
fn pauses_go_alike() {
    compare("standby-pause", pause);
}
