//! Endless and hostile SQL: answered with an error, nothing of it logged, the writer free again, rows acknowledged
//! before, beside and after it there on both nodes.
//!
//! Method: each hostile statement is sent together with inserts on other connections, so that it shares its batch with
//! innocent ones; afterwards the pair is compared.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, ClientError};
use integration_tests::cluster::Cluster;
use integration_tests::load;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

/// Three innocent clients, and the one id counter that they share.
struct Beside {
    clients: Vec<Client>,
    next_id: u64,
}

impl Beside {
    fn new(node: &Node) -> Beside {
        Beside { clients: (0..3).map(|_| node.client()).collect(), next_id: 1 }
    }

    /// Runs `sql` on `hostile` with inserts sent just before and just after it; every insert must be acknowledged.
    fn run(&mut self, hostile: &mut Client, sql: &str) -> Result<(), ClientError> {
        let (before, after) = self.clients.split_at_mut(1);
        let mut send = |client: &mut Client| {
            client.send_query(&format!("INSERT INTO acked VALUES ({}, 0, '')", self.next_id)).unwrap();
            self.next_id += 1;
        };
        before.iter_mut().for_each(&mut send);
        let sent = hostile.send_query(sql);
        after.iter_mut().for_each(&mut send);
        let answer = sent.and_then(|()| hostile.read_answer());
        for client in &mut self.clients {
            let answer = client.read_answer().unwrap();
            assert_eq!(answer.error, None, "beside {}", excerpt(sql));
        }
        match answer?.error {
            Some(error) => Err(ClientError::Server(error)),
            None => Ok(()),
        }
    }

    fn rows(&self) -> usize {
        usize::try_from(self.next_id - 1).unwrap()
    }
}

fn excerpt(sql: &str) -> String {
    sql.chars().take(120).collect()
}

/// What makes a statement fail, and the SQLSTATEs that say so.
fn hostile_statements() -> Vec<(String, &'static [&'static str])> {
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    let wide = vec!["1"; 5000].join(" UNION ALL SELECT ");
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    let columns: Vec<String> = (0..5000).map(|number| format!("c{number}")).collect();
    let timeout: &[&str] = &["57014"];
    let memory: &[&str] = &["53200", "54000", "57014"];
    let limit: &[&str] = &["54000", "54001", "54011", "42601"];
    let unsupported: &[&str] = &["0A000", "42501"];
    vec![
        (format!("INSERT INTO t {endless} SELECT x FROM c"), timeout),
        (format!("UPDATE one SET x = ({endless} SELECT count(*) FROM c)"), timeout),
        (format!("INSERT INTO t {endless} SELECT DISTINCT x || zeroblob(1000000) FROM c"), memory),
        ("INSERT INTO t SELECT zeroblob(2000000000)".to_owned(), memory),
        (
            "INSERT INTO t SELECT replace(hex(zeroblob(500000)), '0', hex(zeroblob(500000)))".to_owned(),
            memory,
        ),
        (format!("INSERT INTO t VALUES ('{}')", "z".repeat(12_000_000)), &["54000"]),
        (format!("INSERT INTO t SELECT {wide}"), limit),
        (format!("INSERT INTO t SELECT {deep}"), limit),
        (format!("CREATE TABLE too_wide({})", columns.join(", ")), limit),
        ("INSERT OR ROLLBACK INTO one VALUES (1)".to_owned(), &["23505"]),
        ("INSERT INTO rolls VALUES (1)".to_owned(), &["P0001", "23000", "40000"]),
        ("INSERT INTO aborts VALUES (1)".to_owned(), &["P0001", "23000"]),
        ("INSERT INTO child VALUES (1, 99)".to_owned(), &["23503"]),
        ("INSERT INTO deferred VALUES (1, 99)".to_owned(), &["23503"]),
        (
            "BEGIN; INSERT INTO deferred VALUES (1, 99); INSERT INTO t VALUES (1); COMMIT".to_owned(),
            &["23503"],
        ),
        ("INSERT INTO t VALUES (1); INSERT OR ROLLBACK INTO one VALUES (1)".to_owned(), &["23505"]),
        ("ATTACH '/tmp/hostile.db' AS hostile".to_owned(), unsupported),
        ("VACUUM INTO '/tmp/hostile.db'".to_owned(), unsupported),
        ("PRAGMA writable_schema = 1".to_owned(), unsupported),
        ("PRAGMA journal_mode = DELETE".to_owned(), unsupported),
        ("PRAGMA foreign_keys = OFF".to_owned(), unsupported),
        ("CREATE TEMP TABLE here(x)".to_owned(), unsupported),
        ("CREATE VIRTUAL TABLE v USING fts5(x)".to_owned(), unsupported),
        ("CREATE TABLE copy AS SELECT * FROM one".to_owned(), unsupported),
        ("SELECT load_extension('/tmp/hostile.so')".to_owned(), &["0A000", "42501", "42883"]),
        ("DELETE FROM sqlite_master".to_owned(), &["42501", "0A000", "42809"]),
        ("DROP TABLE sqlite_master".to_owned(), &["42501", "0A000", "42601"]),
        ("INSERT INTO t SELECT pg_sleep(600)".to_owned(), &["57014", "0A000"]),
    ]
}

fn create_tables(client: &mut Client) {
    for sql in [
        load::CREATE_TABLE,
        "CREATE TABLE t(x)",
        "CREATE TABLE one(x integer PRIMARY KEY)",
        "INSERT INTO one VALUES (1)",
        "CREATE TABLE rolls(x)",
        "CREATE TRIGGER rolls_back BEFORE INSERT ON rolls BEGIN SELECT RAISE(ROLLBACK, 'rolled back'); END",
        "CREATE TABLE aborts(x)",
        "CREATE TRIGGER aborts_it BEFORE INSERT ON aborts BEGIN SELECT RAISE(ABORT, 'aborted'); END",
        "CREATE TABLE parent(id integer PRIMARY KEY)",
        "CREATE TABLE child(id integer PRIMARY KEY, parent integer REFERENCES parent(id))",
        "CREATE TABLE deferred(id integer PRIMARY KEY,
             parent integer REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)",
    ] {
        client.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[test]
fn hostile_statements_fail_alone() {
    let scenario = Scenario::new("hostile");
    let mut cluster = Cluster::start_with(
        &scenario,
        &["write_statement_timeout=500ms", "statement_memory_limit=64MB", "max_statement_size=8MB"],
    );
    create_tables(&mut cluster.primary.client());
    let mut beside = Beside::new(&cluster.primary);
    let mut hostile = cluster.primary.client();
    for (sql, sqlstates) in hostile_statements() {
        match beside.run(&mut hostile, &sql) {
            Ok(()) => panic!("accepted: {}", excerpt(&sql)),
            Err(ClientError::Server(error)) => {
                let sqlstate = error.sqlstate.as_str();
                assert!(sqlstates.contains(&sqlstate), "{}: {error}, not {sqlstates:?}", excerpt(&sql));
                if error.severity == "FATAL" {
                    hostile = cluster.primary.client();
                }
            }
            Err(ClientError::Connection(error)) => panic!("{}: {error}", excerpt(&sql)),
        }
    }
    let tables = ["acked", "t", "one", "rolls", "aborts", "parent", "child", "deferred"];
    let digests = cluster.assert_equal(&tables);
    let rows: Vec<usize> = digests.iter().map(|digest| digest.rows).collect();
    assert_eq!(rows, [beside.rows(), 0, 1, 0, 0, 0, 0, 0]);

    // And again after recovery, which reads what was logged.
    cluster.primary.kill();
    cluster.primary.start();
    cluster.wait_streaming();
    assert_eq!(cluster.assert_equal(&tables), digests);
    cluster.stop();
}

#[test]
fn an_endless_write_holds_the_others_no_longer_than_the_limit_and_a_cancel_frees_them_at_once() {
    let scenario = Scenario::new("endless");
    let mut cluster = Cluster::start_with(&scenario, &["write_statement_timeout=600s"]);
    create_tables(&mut cluster.primary.client());
    let endless = "INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT 1 FROM c) SELECT x FROM c LIMIT 1e18";
    let mut hostile = cluster.primary.client();
    hostile.send_query(endless).unwrap();
    wait::until("the write to run", || {
        let rows = cluster.primary.rows("SELECT query FROM pg_stat_activity WHERE state = 'active'");
        rows.iter().any(|row| row[0] == endless).then_some(())
    });
    let mut other = cluster.primary.client();
    other.send_query("INSERT INTO acked VALUES (1, 0, '')").unwrap();
    // Reads don't wait for the writer.
    assert_eq!(cluster.primary.value("SELECT count(*) FROM acked"), "0");
    hostile.cancel().unwrap();
    let error = hostile.read_answer().unwrap().error.unwrap();
    assert_eq!((error.sqlstate.as_str(), error.severity.as_str()), ("57014", "ERROR"));
    assert_eq!(other.read_answer().unwrap().error, None);
    // The session that is gone doesn't hold the writer either.
    hostile.send_query(endless).unwrap();
    wait::until("the write to run again", || {
        let rows = cluster.primary.rows("SELECT query FROM pg_stat_activity WHERE state = 'active'");
        rows.iter().any(|row| row[0] == endless).then_some(())
    });
    let pid = hostile.backend_pid;
    drop(hostile);
    cluster.primary.query(&format!("SELECT pg_terminate_backend({pid})"));
    other.query("INSERT INTO acked VALUES (2, 0, '')").unwrap();
    let digests = cluster.assert_equal(&["acked", "t"]);
    assert_eq!((digests[0].rows, digests[1].rows), (2, 0));
    cluster.stop();
}

#[test]
fn hostile_reads_end_and_leave_the_node_in_service() {
    let scenario = Scenario::new("hostile-reads");
    let mut node = Node::init(&scenario, "primary", &[]);
    node.set("statement_memory_limit=64MB");
    node.start();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    let mut client = node.client();
    client.query("SET statement_timeout = '5s'").unwrap();
    for sql in [
        format!("{endless} SELECT x FROM c ORDER BY x || zeroblob(100000)"),
        "SELECT zeroblob(2000000000)".to_owned(),
        format!("{endless} SELECT group_concat(hex(zeroblob(100000))) FROM c"),
        format!("SELECT '{}' LIKE '{}'", "a".repeat(50_000), "%a".repeat(40_000)),
        format!("SELECT {}1{}", "abs(".repeat(10_000), ")".repeat(10_000)),
    ] {
        let error = client.error(&sql);
        assert_eq!(error.severity, "ERROR", "{}: {error}", excerpt(&sql));
    }
    // More rows than a slow client takes: the server holds few of them and goes on with others.
    let mut slow = node.client();
    slow.send_query(&format!("{endless} SELECT x, hex(zeroblob(1000)) FROM c")).unwrap();
    slow.read_message().unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    slow.cancel().unwrap();
    assert_eq!(slow.read_answer().unwrap().error.unwrap().sqlstate, "57014");
    node.stop();
}
