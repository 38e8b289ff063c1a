//! What ends a statement or a session without anybody asking for it: statement_timeout, idle_session_timeout,
//! idle_in_transaction_session_timeout, and a client that is gone while its statement runs.
//!
//! Method: real sessions; that something happens is waited for with a deadline, that something doesn't is shown by a thing
//! that happens later.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, ClientError, ServerError};
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::Pid;

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";

fn primary(scenario: &Scenario, settings: &[&str]) -> Node {
    let mut node = Node::init(scenario, "primary", &[]);
    settings.iter().for_each(|setting| node.set(setting));
    node.start();
    node
}

/// The FATAL that the server sends to an idle client.
fn fatal(client: &mut Client) -> ServerError {
    let error = match client.read_answer() {
        Ok(answer) => answer.error.expect("an answer without a question is an error"),
        Err(ClientError::Server(error)) => error,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(error.severity, "FATAL");
    error
}

fn wait_for_activity(node: &Node, pid: i32, what: &str, value: &str) {
    let sql = format!("SELECT {what} FROM pg_stat_activity WHERE pid = {pid}");
    wait::until(value, || node.rows(&sql).iter().any(|row| row[0] == value).then_some(()));
}

#[test]
fn an_idle_session_ends_by_the_timeout_that_concerns_it() {
    let scenario = Scenario::new("idle-timeouts");
    let mut node = primary(&scenario, &[]);
    let mut in_block = node.client();
    in_block.query("SET idle_session_timeout = '100ms'; BEGIN").unwrap();
    let mut listening = node.client();
    listening
        .query(
            "LISTEN x; SET idle_in_transaction_session_timeout = '1ms'; SET idle_session_timeout = '400ms'",
        )
        .unwrap();
    // A notification is no sign of life of the client.
    node.query("NOTIFY x");
    listening.notification().unwrap();
    let error = fatal(&mut listening);
    assert_eq!(
        (error.sqlstate.as_str(), error.message.as_str()),
        ("57P05", "terminating connection due to idle-session timeout")
    );
    assert!(listening.read_message().is_err(), "the connection is closed");
    // By now the other one would be over if its block didn't count.
    assert_eq!(in_block.value("SELECT 1"), "1");
    in_block.query("COMMIT").unwrap();
    assert_eq!(fatal(&mut in_block).sqlstate, "57P05");

    for failed in [false, true] {
        let mut client = node.client();
        client.query("SET idle_in_transaction_session_timeout = '200ms'").unwrap();
        client.query("BEGIN").unwrap();
        if failed {
            client.error("SELECT nonsense");
        }
        let error = fatal(&mut client);
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("25P03", "terminating connection due to idle-in-transaction timeout")
        );
    }
    node.wait_log("terminating connection due to idle-session timeout");
    node.stop();
}

#[test]
fn statement_timeout_counts_for_each_statement_and_for_a_slow_client() {
    let scenario = Scenario::new("statement-timeout-each");
    let mut node = primary(&scenario, &[]);
    let mut client = node.client();
    let sql = "SET statement_timeout = '2s'; SELECT pg_sleep(1.2); SELECT pg_sleep(1.2)";
    assert_eq!(client.query(sql).unwrap().tags, ["SET", "SELECT 1", "SELECT 1"]);
    assert_eq!(client.error("SELECT 1; SET statement_timeout = 50; SELECT pg_sleep(600)").sqlstate, "57014");
    // SET of a query that failed is undone.
    assert_eq!(client.value("SHOW statement_timeout"), "2s");
    client.query("SET statement_timeout = '300ms'").unwrap();
    // Endless rows for a client that takes none: the statement is over although the client still has to be told.
    client.send_query(&format!("{ENDLESS} SELECT x, hex(zeroblob(50000)) FROM c")).unwrap();
    wait_for_activity(&node, client.backend_pid, "state || ' ' || wait_event", "active ClientWrite");
    wait_for_activity(&node, client.backend_pid, "state || ' ' || wait_event", "idle ClientWrite");
    let error = client.read_answer().unwrap().error.unwrap();
    assert_eq!(
        (error.sqlstate.as_str(), error.message.as_str()),
        ("57014", "canceling statement due to statement timeout")
    );
    assert_eq!(client.value("SELECT 1"), "1");
    node.stop();
}

#[test]
fn a_statement_ends_with_its_client() {
    let scenario = Scenario::new("client-lost");
    let mut node = primary(&scenario, &["write_statement_timeout=1h"]);
    node.query("CREATE TABLE t(x)");
    // Waits see the client go at once, however long the interval is; computing looks every interval.
    for (interval, sql) in [
        ("1h", "SELECT pg_sleep(600)".to_owned()),
        ("50ms", format!("{ENDLESS} SELECT count(*) FROM c")),
        ("1h", format!("INSERT INTO t {ENDLESS} SELECT x FROM c")),
        ("1h", format!("BEGIN; INSERT INTO t {ENDLESS} SELECT x FROM c; COMMIT")),
    ] {
        let mut client = node.client();
        client.query(&format!("SET client_connection_check_interval = '{interval}'")).unwrap();
        client.send_query(&sql).unwrap();
        let pid = client.backend_pid;
        wait_for_activity(&node, pid, "query", &sql);
        drop(client);
        wait::until(&format!("the end of {sql}"), || (!procfs::runs(Pid(pid))).then_some(()));
        let lost = node.log().matches("connection to client lost").count();
        assert!(lost > 0, "{}", node.log_tail());
    }
    assert_eq!(node.log().matches("connection to client lost").count(), 4);
    // Nothing of the writes is there, and the writer is free.
    node.query("INSERT INTO t VALUES (1)");
    assert_eq!(node.value("SELECT count(*) FROM t"), "1");
    node.stop();
}

#[test]
fn without_the_interval_a_statement_outlives_its_client() {
    let scenario = Scenario::new("client-lost-unseen");
    let mut node = primary(&scenario, &[]);
    let (mut unwatched, mut watched) = (node.client(), node.client());
    watched.query("SET client_connection_check_interval = '10s'").unwrap();
    unwatched.send_query("SELECT pg_sleep(601)").unwrap();
    watched.send_query("SELECT pg_sleep(602)").unwrap();
    let (left, ends) = (Pid(unwatched.backend_pid), Pid(watched.backend_pid));
    wait_for_activity(&node, left.0, "wait_event", "PgSleep");
    wait_for_activity(&node, ends.0, "wait_event", "PgSleep");
    drop(unwatched);
    drop(watched);
    wait::until("the end of the session that looks", || (!procfs::runs(ends)).then_some(()));
    assert!(procfs::runs(left));
    // What a client sent and nobody has read yet is no sign that it is gone.
    let mut client = node.client();
    client.query("SET client_connection_check_interval = '1ms'").unwrap();
    client.send_query("SELECT pg_sleep(0.3)").unwrap();
    client.send_query("SELECT 2").unwrap();
    assert!(client.read_answer().unwrap().error.is_none());
    assert_eq!(client.read_answer().unwrap().rows, [[Some("2".to_owned())]]);
    assert_eq!(node.value(&format!("SELECT pg_terminate_backend({left})")), "t");
    node.stop();
}
