//! WAIT FOR LSN: who has written on the primary reads it on any node; the wait ends when the position is reached, with its time,
//! with a cancel, and with a promotion, and it is woken, never looked for. PostgreSQL 19's scenario 049_wait_for_lsn.
//!
//! Method: a pair whose standby is held back, by a pause of its replay or by the loss of its upstream, while sessions wait in
//! each mode; psql for what a user sees.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::commands::psql;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use wal::lsn::Lsn;

const STANDBY_MODES: [(&str, &str, &str); 3] = [
    ("standby_replay", "WaitForWalReplay", "replayed"),
    ("standby_write", "WaitForWalWrite", "written"),
    ("standby_flush", "WaitForWalFlush", "flushed"),
];

fn pair(scenario: &Scenario) -> Cluster {
    let cluster = Cluster::start(scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.wait_caught_up();
    cluster
}

/// Inserts a row, and gives where the log is behind it.
fn insert(primary: &Node, id: u32) -> Lsn {
    primary.query(&format!("INSERT INTO t VALUES ({id})"));
    primary.lsn("pg_current_wal_insert_lsn")
}

/// A position that nobody comes to.
fn unreachable(node: &Node) -> Lsn {
    let end = node.value("SELECT COALESCE(pg_last_wal_replay_lsn(), '0/1000000')");
    end.parse::<Lsn>().unwrap() + 10_000_000_000
}

/// A session that waits, seen to.
fn waiter(node: &Node, sql: &str, event: &str) -> Client {
    let mut client = node.client();
    client.send_query(sql).unwrap();
    let activity = format!(
        "SELECT wait_event_type || '/' || wait_event FROM pg_stat_activity WHERE pid = {}",
        client.backend_pid
    );
    wait::until(event, || (node.value(&activity) == format!("Client/{event}")).then_some(()));
    client
}

fn status(client: &mut Client) -> String {
    let answer = client.read_answer().unwrap();
    assert_eq!((answer.error, answer.tags.as_slice()), (None, ["WAIT".to_owned()].as_slice()));
    assert_eq!(
        (answer.columns.as_slice(), answer.types.as_slice()),
        (["status".to_owned()].as_slice(), [25].as_slice())
    );
    answer.rows[0][0].clone().unwrap()
}

#[test]
fn psql_reads_on_the_standby_what_was_written_on_the_primary() {
    let scenario = Scenario::new("wait-for-lsn");
    let mut cluster = pair(&scenario);
    for id in 1..=20 {
        let lsn = insert(&cluster.primary, id);
        let sql = format!("WAIT FOR LSN '{lsn}' WITH (TIMEOUT '1min'); SELECT count(*) FROM t");
        let said = psql(&cluster.standby, &sql).assert_success(&sql);
        assert_eq!(
            said.out,
            format!(" status  \n---------\n success\n(1 row)\n\n count \n-------\n{id:6}\n(1 row)\n\n")
        );
    }
    let lsn = insert(&cluster.primary, 21);
    assert_eq!(cluster.standby.value(&format!("WAIT FOR LSN '{lsn}' TIMEOUT '1min'")), "success");
    assert_eq!(cluster.standby.value("SELECT count(*) FROM t"), "21");
    // Whoever is sent to the primary needn't know it.
    assert_eq!(cluster.primary.value(&format!("WAIT FOR LSN '{lsn}'")), "success");
    let sql = format!("WAIT FOR LSN '{lsn}' WITH (MODE 'primary_flush')");
    assert_eq!(cluster.primary.value(&sql), "success");
    // Inside of a block too, and before a write.
    let sql = format!("BEGIN; WAIT FOR LSN '{lsn}'; SELECT count(*) FROM t; COMMIT");
    assert_eq!(cluster.standby.rows(&sql), [["success"], ["21"]]);
    assert_eq!(
        cluster.primary.rows(&format!("WAIT FOR LSN '{lsn}'; INSERT INTO t VALUES (22)")),
        [["success"]]
    );
    cluster.stop();
}

#[test]
fn each_mode_is_woken_by_what_it_waits_for() {
    let scenario = Scenario::new("wait-for-lsn-modes");
    let mut cluster = pair(&scenario);
    let standby = &cluster.standby;
    standby.query("SELECT pg_wal_replay_pause()");
    let lsn = insert(&cluster.primary, 1);
    let mut replay: Vec<Client> =
        (0..5).map(|_| waiter(standby, &format!("WAIT FOR LSN '{lsn}'"), "WaitForWalReplay")).collect();
    // What is received waits for no replay.
    for mode in ["standby_write", "STANDBY_FLUSH"] {
        assert_eq!(standby.value(&format!("WAIT FOR LSN '{lsn}' WITH (MODE '{mode}')")), "success");
    }
    standby.query("SELECT pg_wal_replay_resume()");
    replay.iter_mut().for_each(|client| assert_eq!(status(client), "success"));

    let upstream = cluster.primary.conninfo("standby");
    standby.reload("primary_conninfo = ''");
    standby.wait_no_walreceiver();
    let lsn = insert(&cluster.primary, 2);
    let mut waiting: Vec<Client> = STANDBY_MODES
        .iter()
        .flat_map(|mode| [mode, mode])
        .map(|(mode, event, _)| waiter(standby, &format!("WAIT FOR LSN '{lsn}' WITH (MODE '{mode}')"), event))
        .collect();
    standby.reload(&format!("primary_conninfo = '{upstream}'"));
    waiting.iter_mut().for_each(|client| assert_eq!(status(client), "success"));

    // What is not even logged yet on the primary itself.
    let next = cluster.primary.lsn("pg_current_wal_insert_lsn") + 1;
    let sql = format!("WAIT FOR LSN '{next}' WITH (MODE 'primary_flush', TIMEOUT '1d')");
    let mut flush = waiter(&cluster.primary, &sql, "WaitForWalFlush");
    insert(&cluster.primary, 3);
    assert_eq!(status(&mut flush), "success");
    cluster.stop();
}

#[test]
fn wait_ends_with_its_time_a_cancel_or_the_session() {
    let scenario = Scenario::new("wait-for-lsn-ends");
    let mut cluster = pair(&scenario);
    let lsn = unreachable(&cluster.standby);
    for (mode, event, done) in STANDBY_MODES {
        let sql = format!("WAIT FOR LSN '{lsn}' WITH (MODE '{mode}', TIMEOUT '10ms')");
        let error = cluster.standby.error(&sql);
        assert_eq!(error.sqlstate, "57014");
        let message =
            format!("timed out while waiting for target LSN {lsn} to be {done}; current {mode} LSN ");
        assert!(error.message.starts_with(&message), "{error}");
        let sql = format!("WAIT FOR LSN '{lsn}' WITH (mode {mode}, timeout 10, no_throw)");
        assert_eq!(cluster.standby.value(&sql), "timeout");
        // 0 is no time-out: it is the cancel that ends it.
        let sql = format!("WAIT FOR LSN '{lsn}' WITH (MODE '{mode}', TIMEOUT 0, NO_THROW)");
        let mut client = waiter(&cluster.standby, &sql, event);
        client.cancel().unwrap();
        let error = client.read_answer().unwrap().error.unwrap();
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("57014", "canceling statement due to user request")
        );
        assert_eq!(client.value("SELECT 1"), "1");
        client.query("SET statement_timeout = '20ms'").unwrap();
        let error = client.error(&sql);
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("57014", "canceling statement due to statement timeout")
        );
        let mut client = waiter(&cluster.standby, &sql, event);
        assert_eq!(
            cluster.standby.value(&format!("SELECT pg_terminate_backend({})", client.backend_pid)),
            "t"
        );
        let error = client.read_answer().unwrap().error.unwrap();
        assert_eq!((error.severity.as_str(), error.sqlstate.as_str()), ("FATAL", "57P01"));
    }
    // Nobody is left among those who wait.
    cluster.primary.query("INSERT INTO t VALUES (1)");
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn promotion_ends_the_wait_for_what_will_not_come() {
    let scenario = Scenario::new("wait-for-lsn-promotion");
    let cluster = pair(&scenario);
    let reached = insert(&cluster.primary, 1);
    cluster.wait_caught_up();
    let lsn = unreachable(&cluster.standby);
    let standby = &cluster.standby;
    let mut waiting: Vec<Client> = STANDBY_MODES
        .iter()
        .map(|(mode, event, _)| waiter(standby, &format!("WAIT FOR LSN '{lsn}' WITH (MODE '{mode}')"), event))
        .collect();
    let mut told = waiter(standby, &format!("WAIT FOR LSN '{lsn}' WITH (NO_THROW)"), "WaitForWalReplay");
    standby.promote();
    for (client, (mode, _, done)) in waiting.iter_mut().zip(STANDBY_MODES) {
        let error = client.read_answer().unwrap().error.unwrap();
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("55000", "recovery is not in progress")
        );
        let detail = format!("Recovery ended before target LSN {lsn} was {done}; last {mode} LSN ");
        assert!(error.detail.starts_with(&detail), "{error}");
        // The session goes on, and writes.
        client.query(&format!("INSERT INTO t VALUES ({})", client.backend_pid)).unwrap();
    }
    assert_eq!(status(&mut told), "not in recovery");
    for (mode, _, _) in STANDBY_MODES {
        assert_eq!(standby.value(&format!("WAIT FOR LSN '{reached}' WITH (MODE '{mode}')")), "success");
        let error = standby.error(&format!("WAIT FOR LSN '{lsn}' WITH (MODE '{mode}')"));
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("55000", "recovery is not in progress")
        );
        assert_eq!(error.hint, format!("Waiting for the {mode} LSN can only be executed during recovery."));
    }
    let sql = format!("WAIT FOR LSN '{lsn}' WITH (TIMEOUT '10ms', NO_THROW)");
    assert_eq!(standby.value(&sql), "not in recovery");
}

#[test]
fn what_makes_no_sense_is_refused_in_postgresqls_words() {
    let scenario = Scenario::new("wait-for-lsn-refused");
    let mut cluster = pair(&scenario);
    for (rest, sqlstate, message) in [
        ("WITH (TIMEOUT '-1000ms')", "22023", "timeout cannot be negative"),
        ("WITH (TIMEOUT 'invalid')", "22023", "invalid timeout value: \"invalid\""),
        ("WITH (TIMEOUT '25d')", "22003", "timeout value is out of range"),
        ("WITH (TIMEOUT)", "42601", "timeout requires a parameter"),
        ("WITH (unknown_param 'value')", "42601", "option \"unknown_param\" not recognized"),
        ("WITH (TIMEOUT '1000', TIMEOUT '2000')", "42601", "conflicting or redundant options"),
        ("WITH (NO_THROW, NO_THROW)", "42601", "conflicting or redundant options"),
        ("WITH (NO_THROW 'perhaps')", "42601", "no_throw requires a Boolean value"),
        ("WITH (MODE 'invalid')", "22023", "unrecognized value for WAIT option \"mode\": \"invalid\""),
        ("(TIMEOUT '100ms')", "42601", "syntax error at or near \"(\""),
    ] {
        let error = cluster.standby.error(&format!("WAIT FOR LSN '0/1' {rest}"));
        assert_eq!((error.sqlstate.as_str(), error.message.as_str()), (sqlstate, message), "{rest}");
    }
    let error = cluster.standby.error("WAIT FOR LSN 'invalid_lsn'");
    assert_eq!(error.sqlstate, "22P02");
    assert_eq!(error.message, "invalid input syntax for type pg_lsn: \"invalid_lsn\"");
    let error = cluster.standby.error("WAIT FOR LSN '0/1' WITH (MODE 'primary_flush')");
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("55000", "recovery is in progress"));
    // What came before it in the query is done.
    let mut client = cluster.standby.client();
    let answer = client.answer("SELECT 1; WAIT FOR LSN 'x'; SELECT 2").unwrap();
    assert_eq!(answer.rows, [[Some("1".to_owned())]]);
    assert_eq!(client.value("SELECT 3"), "3");
    cluster.stop();
}
