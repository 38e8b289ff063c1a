//! What a user does first, with PostgreSQL's own psql: tables, rows, command tags, errors with their SQLSTATE, Ctrl-C,
//! and the views that show the stream.
//!
//! Method: a real pair, psql 15 against it; what psql prints is compared with what it prints for PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::ClientError;
use integration_tests::cluster::Cluster;
use integration_tests::commands::{finish, psql, psql_spawn, psql_values};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

fn primary(scenario: &Scenario) -> Node {
    let mut node = Node::init(scenario, "primary", &[]);
    node.start();
    node
}

#[test]
fn statements_give_postgresqls_tags_and_errors() {
    let scenario = Scenario::new("psql");
    let mut node = primary(&scenario);
    for (sql, expected) in [
        ("CREATE TABLE kv(key text PRIMARY KEY, value text)", "CREATE TABLE\n"),
        ("INSERT INTO kv VALUES ('a', '1')", "INSERT 0 1\n"),
        ("INSERT INTO kv VALUES ('b', '2'), ('c', NULL)", "INSERT 0 2\n"),
        ("UPDATE kv SET value = 'x' WHERE key > 'a'", "UPDATE 2\n"),
        ("DELETE FROM kv WHERE key = 'c'", "DELETE 1\n"),
        ("DELETE FROM kv WHERE key = 'c'", "DELETE 0\n"),
        ("SELECT * FROM kv ORDER BY key", " key | value \n-----+-------\n a   | 1\n b   | x\n(2 rows)\n\n"),
        ("INSERT INTO kv VALUES ('d', '4') RETURNING key", " key \n-----\n d\n(1 row)\n\nINSERT 0 1\n"),
        ("CREATE INDEX kv_value ON kv(value)", "CREATE INDEX\n"),
        ("DROP TABLE kv", "DROP TABLE\n"),
    ] {
        let said = psql(&node, sql).assert_success(sql);
        assert_eq!(said.out, expected, "{sql}");
    }
    node.stop();
}

#[test]
fn errors_carry_their_sqlstate() {
    let scenario = Scenario::new("psql-errors");
    let mut node = primary(&scenario);
    node.query("CREATE TABLE kv(key text PRIMARY KEY, value text NOT NULL, n integer CHECK (n > 0))");
    node.query("INSERT INTO kv VALUES ('a', '1', 1)");
    for (sql, sqlstate) in [
        ("INSERT INTO kv VALUES ('a', '2', 1)", "23505"),
        ("INSERT INTO kv VALUES ('b', NULL, 1)", "23502"),
        ("INSERT INTO kv VALUES ('b', '2', 0)", "23514"),
        ("INSRT INTO kv VALUES (1)", "42601"),
        ("SELECT * FROM", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("INSERT INTO nowhere VALUES (1)", "42P01"),
        ("SELECT absent FROM kv", "42703"),
        ("SELECT no_such_function()", "42883"),
        ("CREATE TABLE kv(key text)", "42P07"),
        ("SHOW no_such_setting", "42704"),
        ("SET no_such_setting = 1", "42704"),
        ("SET statement_timeout = 'soon'", "22023"),
        ("SET port = 1", "55P02"),
    ] {
        let said = psql(&node, sql);
        assert_eq!(said.status, Some(1), "{sql}: {}", said.out);
        assert!(said.err.starts_with(&format!("ERROR:  {sqlstate}: ")), "{sql}: {}", said.err);
    }
    assert_eq!(node.value("SELECT count(*) FROM kv"), "1");
    node.stop();
}

#[test]
fn several_statements_in_one_query_are_one_transaction() {
    let scenario = Scenario::new("psql-multi");
    let mut node = primary(&scenario);
    node.query("CREATE TABLE kv(key text PRIMARY KEY, value text)");
    let mut client = node.client();
    let answer = client.query("INSERT INTO kv VALUES ('a', 1); INSERT INTO kv VALUES ('b', 2)").unwrap();
    assert_eq!(answer.tags.len(), 2);
    let error = client.error("INSERT INTO kv VALUES ('c', 3); INSERT INTO kv VALUES ('a', 4)");
    assert_eq!(error.sqlstate, "23505");
    assert_eq!(client.value("SELECT count(*) FROM kv"), "2");

    // BEGIN … COMMIT: all or nothing.
    client.query("BEGIN").unwrap();
    client.query("INSERT INTO kv VALUES ('c', 3)").unwrap();
    let answer = client.query("INSERT INTO kv VALUES ('d', 4)").unwrap();
    assert_eq!(answer.status, 'T');
    assert_eq!(node.value("SELECT count(*) FROM kv"), "2");
    let answer = client.query("COMMIT").unwrap();
    assert_eq!((answer.tags.as_slice(), answer.status), (["COMMIT".to_owned()].as_slice(), 'I'));
    assert_eq!(client.value("SELECT count(*) FROM kv"), "4");
    client.query("BEGIN").unwrap();
    client.query("DELETE FROM kv").unwrap();
    assert_eq!(client.tag("ROLLBACK"), "ROLLBACK");
    assert_eq!(client.value("SELECT count(*) FROM kv"), "4");
    client.query("BEGIN").unwrap();
    client.query("INSERT INTO kv VALUES ('e', 5)").unwrap();
    client.query("INSERT INTO kv VALUES ('a', 5)").unwrap();
    assert_eq!(client.error("COMMIT").sqlstate, "23505");
    assert_eq!(client.value("SELECT count(*) FROM kv"), "4");
    node.stop();
}

#[test]
fn control_c_ends_a_long_query() {
    let scenario = Scenario::new("psql-cancel");
    let mut node = primary(&scenario);
    node.query("CREATE TABLE t(x)");
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    for sql in [
        "SELECT pg_sleep(600)".to_owned(),
        format!("{endless} SELECT count(*) FROM c"),
        format!("INSERT INTO t {endless} SELECT x FROM c"),
    ] {
        let child = psql_spawn(&node, &sql);
        wait::until("the query to run", || {
            let rows = node.rows("SELECT query FROM pg_stat_activity WHERE state = 'active'");
            rows.iter().any(|row| row[0] == sql).then_some(())
        });
        process::kill(Pid(i32::try_from(child.id()).unwrap()), Signal::Int).unwrap();
        let said = finish(child);
        assert!(
            said.err.contains("ERROR:  57014: canceling statement due to user request"),
            "{sql}: {}{}",
            said.out,
            said.err
        );
    }
    assert_eq!(node.value("SELECT count(*) FROM t"), "0");
    node.stop();
}

#[test]
fn statement_timeout_ends_reads_and_writes() {
    let scenario = Scenario::new("statement-timeout");
    let mut node = primary(&scenario);
    let mut client = node.client();
    client.query("CREATE TABLE t(x)").unwrap();
    client.query("SET statement_timeout = '200ms'").unwrap();
    assert_eq!(client.value("SHOW statement_timeout"), "200ms");
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    for sql in [
        "SELECT pg_sleep(600)".to_owned(),
        format!("{endless} SELECT count(*) FROM c"),
        format!("INSERT INTO t {endless} SELECT x FROM c"),
    ] {
        let error = client.error(&sql);
        assert_eq!(error.sqlstate, "57014", "{sql}: {error}");
        assert_eq!(error.message, "canceling statement due to statement timeout", "{sql}");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    node.stop();
}

#[test]
fn views_and_functions_show_the_stream() {
    let scenario = Scenario::new("views");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE kv(key text PRIMARY KEY, value text)");
    cluster.wait_caught_up();

    let sql = "SELECT application_name, state, sync_state, pg_wal_lsn_diff(sent_lsn, replay_lsn) FROM pg_stat_replication";
    let row = wait::until("the standby's reply", || {
        let row = psql_values(&cluster.primary, sql).assert_success(sql).out;
        row.ends_with("|0\n").then_some(row)
    });
    assert_eq!(row, "standby|streaming|async|0\n");
    let sql = "SELECT status, sender_host, sender_port FROM pg_stat_wal_receiver";
    let expected = format!("streaming|127.0.0.1|{}\n", cluster.primary.port());
    assert_eq!(psql_values(&cluster.standby, sql).assert_success(sql).out, expected);
    // `SELECT *` too, as the README shows it.
    assert!(psql(&cluster.primary, "SELECT * FROM pg_stat_replication").out.contains("(1 row)"));
    assert!(psql(&cluster.standby, "SELECT * FROM pg_stat_wal_receiver").out.contains("(1 row)"));

    for (node, sql, expected) in [
        (&cluster.primary, "SELECT pg_is_in_recovery()", "f\n"),
        (&cluster.standby, "SELECT pg_is_in_recovery()", "t\n"),
        (&cluster.standby, "SHOW in_hot_standby", "on\n"),
        (&cluster.primary, "SELECT pg_wal_lsn_diff('0/2000', '0/1FFF')", "1\n"),
        (&cluster.primary, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'", "1048576\n"),
        (&cluster.primary, "SELECT 1 + 1 WHERE '7'::int = 7", "2\n"),
        (&cluster.primary, "SELECT pg_terminate_backend(pg_backend_pid() + 1000000)", "f\n"),
        (
            &cluster.standby,
            "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())",
            "0\n",
        ),
    ] {
        assert_eq!(psql_values(node, sql).assert_success(sql).out, expected, "{sql}");
    }
    for node in [&cluster.primary, &cluster.standby] {
        let version = node.value("SELECT version()");
        assert!(version.starts_with("PostgreSQL 15.") && version.contains("Walship"), "{version}");
    }
    for backend_type in ["walsender", "walwriter", "checkpointer", "startup", "client backend"] {
        cluster.primary.process(backend_type);
    }
    cluster.standby.process("walreceiver");
    cluster.stop();
}

#[test]
fn a_standby_refuses_writes() {
    let scenario = Scenario::new("read-only");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE kv(key text PRIMARY KEY, value text)");
    cluster.wait_caught_up();
    let said = psql(&cluster.standby, "INSERT INTO kv VALUES ('a', '1')");
    let expected = "ERROR:  25006: cannot execute INSERT in a read-only transaction";
    assert!(said.err.starts_with(expected), "{}", said.err);
    let error = cluster.standby.error("SELECT pg_current_wal_lsn()");
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("55000", "recovery is in progress"));
    cluster.stop();
}

#[test]
fn pg_terminate_backend_ends_a_session() {
    let scenario = Scenario::new("terminate");
    let mut node = primary(&scenario);
    let mut victim = node.client();
    assert_eq!(node.value(&format!("SELECT pg_terminate_backend({})", victim.backend_pid)), "t");
    match victim.read_answer() {
        Ok(answer) => assert_eq!(answer.error.unwrap().sqlstate, "57P01"),
        Err(ClientError::Server(error)) => assert_eq!(error.sqlstate, "57P01"),
        Err(other) => panic!("{other}"),
    }
    node.stop();
}

#[test]
fn the_command_line_answers_as_design_says() {
    let scenario = Scenario::new("cli");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    let dir = node.dir().to_str().unwrap().to_owned();
    let status = |node: &Node, arguments: &[&str]| node.command(arguments).status.code();
    assert_eq!(status(&node, &["status", "-D", &dir]), Some(3));
    assert_eq!(status(&node, &["stop", "-D", &dir]), Some(1));
    assert_eq!(status(&node, &["init", "-D", &dir]), Some(1), "a directory in use");
    assert_eq!(status(&node, &["init"]), Some(2));
    assert_eq!(status(&node, &["run", "-D", &dir, "-c", "no_such=1"]), Some(2));
    node.start();
    assert_eq!(status(&node, &["status", "-D", &dir]), Some(0));
    let second = node.command(&["run", "-D", &dir]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("postmaster.pid"), "{second:?}");
    assert_eq!(status(&node, &["stop", "-D", &dir, "-m", "fast"]), Some(0));
    node.wait_end();
    assert_eq!(status(&node, &["status", "-D", &dir]), Some(3));
}
