//! SQLite's own log in front of the tables stays bounded, whatever readers do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;

/// More rows than fit into the buffers between server and client, so that a reader who takes none is stuck.
const ENDLESS: &str = "SELECT a.id, a.filler FROM t a, t b, t c";

fn tables_log_bytes(node: &Node) -> u64 {
    std::fs::metadata(node.dir().join("state/state.db-wal")).map_or(0, |metadata| metadata.len())
}

/// New rows, so that all of it passes through the log (of a row that is changed again before the COMMIT one state does).
fn write(client: &mut Client, megabytes: u64) {
    for _ in 0..megabytes * 10 {
        client.query("INSERT INTO big(filler) VALUES (hex(randomblob(50000)))").unwrap();
    }
}

fn create_tables(client: &mut Client) {
    client.query("CREATE TABLE big(id integer PRIMARY KEY, filler text)").unwrap();
    client.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)").unwrap();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO t SELECT i, hex(zeroblob(100)) FROM n";
    client.query(rows).unwrap();
}

/// Twice the limit of the tests, a transaction of the tables at its largest, and some for what is written meanwhile.
const BOUND: u64 = 24 << 20;

/// Reads the answer to the end; the SQLSTATE of its error.
fn sqlstate(client: &mut Client) -> Option<String> {
    client.read_answer().unwrap().error.map(|error| error.sqlstate)
}

#[test]
fn a_reader_that_is_stuck_on_its_client_is_cancelled_when_it_holds_the_log_up() {
    let scenario = Scenario::new("tables-log-primary");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.set("state_wal_limit=1MB");
    primary.start();
    let mut writer = primary.client();
    create_tables(&mut writer);

    let mut slow = primary.client();
    slow.send_query(ENDLESS).unwrap();
    // Statements that change nothing leave an empty transaction, which a restart of the log must not stumble over.
    let mut idle: Vec<Client> = (0..3).map(|_| primary.client()).collect();
    for client in &mut idle {
        (0..2000).for_each(|_| client.send_query("UPDATE t SET filler = '' WHERE id = -1").unwrap());
    }
    write(&mut writer, 40);
    for client in &mut idle {
        (0..2000).for_each(|_| assert_eq!(sqlstate(client), None));
    }
    assert_eq!(sqlstate(&mut slow).as_deref(), Some("40001"));
    assert_eq!(slow.value("SELECT count(*) FROM t"), "200");
    let before = tables_log_bytes(&primary);
    assert!(before < BOUND, "{before} bytes of state.db-wal");
    // A reader that comes later and is quick is left alone, and the log doesn't grow any more.
    for _ in 0..10 {
        assert_eq!(slow.value("SELECT count(*) FROM t"), "200");
        write(&mut writer, 4);
    }
    let after = tables_log_bytes(&primary);
    assert!(after < BOUND, "{after} bytes of state.db-wal");
    primary.stop();
}

#[test]
fn a_standby_cancels_its_readers_too_and_bounds_the_log_while_it_catches_up() {
    let scenario = Scenario::new("tables-log-standby");
    let mut cluster = Cluster::start_with(&scenario, &["state_wal_limit=1MB"]);
    let mut writer = cluster.primary.client();
    create_tables(&mut writer);
    cluster.wait_caught_up();
    let mut slow = cluster.standby.client();
    slow.send_query(ENDLESS).unwrap();
    write(&mut writer, 40);
    cluster.wait_caught_up();
    assert_eq!(sqlstate(&mut slow).as_deref(), Some("40001"));

    cluster.standby.stop();
    write(&mut writer, 100);
    cluster.standby.start();
    cluster.wait_streaming();
    cluster.assert_equal(&["t", "big"]);
    let bytes = tables_log_bytes(&cluster.standby);
    assert!(bytes < BOUND, "{bytes} bytes of state.db-wal after catching up");
    cluster.stop();
}
