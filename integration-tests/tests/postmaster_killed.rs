//! What is left after kill -9 of the postmaster: nothing, within a second. The next start recovers.
//!
//! Method: real nodes, real signals, the processes and the port looked at from outside. As PostgreSQL's 017_shm, whose other half,
//! a pid file of a process that is another one now, is in `commands.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::time::Duration;

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::clock;
use sys::process;
use sys::signal::Signal;

/// Children of a killed postmaster are gone within this time.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// Kills the postmaster alone, and checks that its children are gone in time and the port is free.
fn kill_and_check(node: &mut Node) {
    let children = procfs::children(node.pid());
    assert!(children.len() >= 3, "{children:?}");
    node.signal(Signal::Kill);
    let killed = clock::now();
    let left = wait::within(GONE_WITHIN, || children.iter().all(|child| !procfs::runs(*child)).then_some(()));
    let took = clock::now().saturating_since(killed);
    assert!(left.is_some(), "children still there after {took:?}: {children:?}");
    node.wait_end();
    TcpListener::bind(("127.0.0.1", node.port())).expect("the port of a dead node is free");
}

fn start_query(node: &Node, sql: &str) -> Client {
    let mut client = node.client();
    client.send_query(sql).unwrap();
    wait::until("the query to run", || {
        let rows = node.rows("SELECT query FROM pg_stat_activity WHERE state = 'active'");
        rows.iter().any(|row| row[0] == sql).then_some(())
    });
    client
}

#[test]
fn a_killed_postmaster_leaves_no_child_behind_and_the_next_start_recovers() {
    let scenario = Scenario::new("postmaster-killed");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(x)");
    cluster.primary.query("INSERT INTO t VALUES (1)");
    cluster.wait_caught_up();
    // Children that are busy in SQLite, asleep in a query, and idle.
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";
    let mut clients = Vec::new();
    for node in [&cluster.primary, &cluster.standby] {
        clients.push(start_query(node, endless));
        clients.push(start_query(node, "SELECT pg_sleep(600)"));
        clients.push(node.client());
    }
    kill_and_check(&mut cluster.primary);
    kill_and_check(&mut cluster.standby);
    cluster.primary.start();
    cluster.standby.start();
    cluster.primary.query("INSERT INTO t VALUES (2)");
    cluster.wait_streaming();
    let digests = cluster.assert_equal(&["t"]);
    assert_eq!(digests[0].rows, 2);
    cluster.stop();
}

#[test]
fn an_orphan_keeps_a_new_postmaster_from_starting() {
    let scenario = Scenario::new("orphan");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    node.query("CREATE TABLE t(x)");
    let orphan = node.process("walwriter");
    process::kill(orphan, Signal::Stop).unwrap();
    wait::until("the child to be stopped", || procfs::stopped(orphan).then_some(()));
    node.signal(Signal::Kill);
    node.wait_end();
    let why = node.try_start().expect_err("a start beside an orphan");
    assert!(why.contains("exit status: 1"), "{why}");
    let log = node.log();
    assert!(log.contains("FATAL:  pre-existing shared memory block is still in use"), "{log}");
    let hint = "HINT:  Terminate any old server processes associated with data directory";
    assert!(log.contains(hint), "{log}");
    // Nor does somebody's removal of the file that names the dead one let a second node in.
    std::fs::remove_file(node.dir().join("postmaster.pid")).unwrap();
    node.try_start().expect_err("a start beside an orphan, without the file");
    process::kill(orphan, Signal::Cont).unwrap();
    wait::until("the orphan to be gone", || (!procfs::runs(orphan)).then_some(()));
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM t"), "0");
    node.stop();
}
