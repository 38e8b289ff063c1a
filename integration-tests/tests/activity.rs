//! What every process is doing, as pg_stat_activity tells it: asleep on what, or at work; and pg_stat_latch beside it.
//!
//! Method: each kind of process is brought into the situation by real clients, and the row is waited for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::commands::{self, finish, pgbench_spawn};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process;
use sys::signal::Signal;

/// backend_type, state, wait_event_type, wait_event.
type Row = [&'static str; 4];

const ON_PRIMARY: [Row; 6] = [
    ["checkpointer", "NULL", "Activity", "CheckpointerMain"],
    ["client backend", "active", "NULL", "NULL"],
    ["client backend", "idle", "Client", "ClientRead"],
    ["startup", "NULL", "Activity", "StartupMain"],
    ["walsender", "active", "Activity", "WalSenderMain"],
    ["walwriter", "NULL", "Activity", "WalWriterMain"],
];

const ON_STANDBY: [Row; 5] = [
    ["checkpointer", "NULL", "Activity", "CheckpointerMain"],
    ["client backend", "active", "NULL", "NULL"],
    ["client backend", "idle", "Client", "ClientRead"],
    ["startup", "NULL", "Activity", "RecoveryWalStream"],
    ["walreceiver", "NULL", "Activity", "WalReceiverMain"],
];

const ACTIVITY: &str = "SELECT backend_type, state, wait_event_type, wait_event FROM pg_stat_activity";

#[test]
fn idle_processes_show_what_they_sleep_on() {
    let scenario = Scenario::new("activity-idle");
    let mut cluster = Cluster::start(&scenario);
    for (node, expected) in [(&cluster.primary, &ON_PRIMARY[..]), (&cluster.standby, &ON_STANDBY)] {
        let _idle = node.client();
        let mut looking = node.client();
        let sql = format!("{ACTIVITY} ORDER BY 1, 2");
        let found = wait::within(wait::DEADLINE, || (looking.rows(&sql) == expected).then_some(()));
        assert!(found.is_some(), "{:?} instead of {expected:?}", looking.rows(&sql));
    }
    cluster.stop();
}

/// A session that is given something to do, and a look at it from another one.
struct Session<'a> {
    node: &'a Node,
    client: Client,
    pid: String,
}

impl<'a> Session<'a> {
    fn new(node: &'a Node) -> Session<'a> {
        let mut client = node.client();
        let pid = client.value("SELECT pg_backend_pid()");
        Session { node, client, pid }
    }

    fn wait_for(&self, expected: Row) {
        let sql = format!("{ACTIVITY} WHERE pid = {}", self.pid);
        let found = wait::within(wait::DEADLINE, || (self.node.rows(&sql) == [expected]).then_some(()));
        assert!(found.is_some(), "{:?} instead of {expected:?}", self.node.rows(&sql));
    }
}

#[test]
fn sessions_show_what_they_wait_for() {
    let scenario = Scenario::new("activity-sessions");
    let mut primary = Node::init(&scenario, "primary", &[]);
    primary.start();
    primary.query(commands::CREATE_KV);

    let mut session = Session::new(&primary);
    session.client.send_query("SELECT pg_sleep(1000)").unwrap();
    session.wait_for(["client backend", "active", "Timeout", "PgSleep"]);
    session.client.cancel().unwrap();
    assert_eq!(session.client.read_answer().unwrap().error.unwrap().sqlstate, "57014");

    session.client.query("BEGIN").unwrap();
    session.wait_for(["client backend", "idle in transaction", "Client", "ClientRead"]);
    session.client.query("SELECT nothing").unwrap_err();
    session.wait_for(["client backend", "idle in transaction (aborted)", "Client", "ClientRead"]);
    session.client.query("ROLLBACK").unwrap();

    // Who is to execute the write stands still.
    let startup = primary.process("startup");
    let mut looking = primary.client();
    process::kill(startup, Signal::Stop).unwrap();
    session.client.send_query("INSERT INTO kv VALUES ('1', 'one')").unwrap();
    let sql = format!("{ACTIVITY} WHERE pid = {}", session.pid);
    let expected = ["client backend", "active", "IPC", "WriterOutcome"];
    let found = wait::within(wait::DEADLINE, || (looking.rows(&sql) == [expected]).then_some(()));
    process::kill(startup, Signal::Cont).unwrap();
    assert!(found.is_some(), "{:?} instead of {expected:?}", looking.rows(&sql));
    assert_eq!(session.client.read_answer().unwrap().tags, ["INSERT 0 1"]);

    // A client that takes nothing.
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c";
    session.client.send_query(endless).unwrap();
    session.wait_for(["client backend", "active", "Client", "ClientWrite"]);
    drop(session);
    primary.stop();
}

#[test]
fn sessions_that_commit_show_the_flush_they_wait_for() {
    let scenario = Scenario::new("activity-flush");
    let mut primary = Node::init(&scenario, "primary", &[]);
    primary.start();
    let script = scenario.write("emit.sql", "SELECT pg_logical_emit_message(true, 'x', 'y');\n");
    let mut looking = primary.client();
    for event in ["WALSync", "WalFlush"] {
        let load = pgbench_spawn(&primary, &script, 8, 3);
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = '{event}' AND state = 'active' \
             AND backend_type = 'client backend' AND wait_event_type = {}",
            if event == "WALSync" { "'IO'" } else { "'IPC'" }
        );
        wait::until(event, || (looking.value(&sql) != "0").then_some(()));
        finish(load).assert_success("pgbench");
    }
    primary.stop();
}

/// Sets and wake-ups by backend type, one process of each.
fn latches(client: &mut Client) -> BTreeMap<String, Vec<f64>> {
    let columns = "sets, wakeups_sent, wakeups_received, spurious_wakeups, kernel_waits, time_asleep";
    let rows = client.rows(&format!("SELECT backend_type, {columns} FROM pg_stat_latch"));
    rows.iter()
        .map(|row| (row[0].clone(), row[1..].iter().map(|value| value.parse().unwrap()).collect()))
        .collect()
}

#[test]
fn pg_stat_latch_counts_the_wakeups_of_a_write() {
    let scenario = Scenario::new("activity-latch");
    let mut cluster = Cluster::start(&scenario);
    let mut client = cluster.primary.client();
    client.query(commands::CREATE_KV).unwrap();
    let answer = client.query("SELECT * FROM pg_stat_latch").unwrap();
    let columns = ["pid", "backend_type", "sets", "wakeups_sent", "wakeups_received", "spurious_wakeups"];
    assert_eq!(answer.columns[..6], columns);
    assert_eq!(answer.columns[6..], ["kernel_waits", "time_asleep"]);
    assert_eq!(answer.types, [23, 25, 20, 20, 20, 20, 20, 701]);

    let before = latches(&mut client);
    let kinds: Vec<&str> = before.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["checkpointer", "client backend", "postmaster", "startup", "walsender", "walwriter"]);
    for key in 0..20 {
        client.query(&format!("INSERT INTO kv VALUES ('{key}', 'x')")).unwrap();
    }
    let after = latches(&mut client);
    let grown = |kind: &str, column: usize| after[kind][column] - before[kind][column];
    // A session wakes the startup process for each; that answers each and wakes the walsender for each flush.
    assert!(grown("client backend", 0) >= 20.0 && grown("startup", 0) >= 40.0, "{before:?} {after:?}");
    assert!(grown("client backend", 4) >= 20.0, "a session sleeps for each: {before:?} {after:?}");
    for (kind, counts) in &after {
        let [sets, sent, _, spurious, waits, asleep] = counts[..] else { panic!("{kind}: {counts:?}") };
        assert!(sent <= sets && spurious <= waits && waits > 0.0 && asleep > 0.0, "{kind}: {counts:?}");
    }
    cluster.stop();
}
