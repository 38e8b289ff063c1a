//! pg_log_backend_memory_contexts(): every kind of process says in the log what memory it has, idle or busy.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

/// What the process `pid` says when it is asked: two lines after the one that names it.
fn report(node: &Node, pid: &str) -> Vec<String> {
    let before = node.log().len();
    assert_eq!(node.value(&format!("SELECT pg_log_backend_memory_contexts({pid})")), "t");
    wait::until(&format!("the report of {pid}"), || {
        let log = node.log();
        let of_process = |line: &&str| line.contains(&format!("[{pid}] LOG:"));
        let lines: Vec<_> = log[before..].lines().filter(of_process).map(str::to_owned).collect();
        let start =
            lines.iter().position(|line| line.contains(&format!("logging memory contexts of PID {pid}")))?;
        Some(lines.get(start + 1..start + 3)?.to_vec())
    })
}

#[test]
fn every_process_reports_its_memory() {
    let scenario = Scenario::new("memory-report");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE kv(key text PRIMARY KEY, value text)");
    cluster.wait_caught_up();
    for (node, kinds) in [
        (&cluster.primary, &["startup", "walwriter", "checkpointer", "walsender"][..]),
        (&cluster.standby, &["startup", "walreceiver", "checkpointer"][..]),
    ] {
        for kind in kinds {
            let pid = node.process(kind).to_string();
            let lines = report(node, &pid);
            assert!(
                lines[0].contains(&format!("{kind}: ")) && lines[0].contains(" kB resident"),
                "{lines:?}"
            );
            assert!(lines[1].contains("; log inserted to 0/"), "{lines:?}");
        }
    }
    let node = &cluster.primary;
    // An idle session, one in SQLite, one that waits, and the writer in the middle of a statement.
    let mut idle = node.client();
    idle.value("SELECT count(*) FROM kv");
    let lines = report(node, &idle.backend_pid.to_string());
    assert!(lines[1].contains("client backend: idle; "), "{lines:?}");
    let used = lines[0].split("SQLite ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(used > 10_000, "SQLite's cache is counted: {lines:?}");
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";
    for (sql, writes) in [
        (format!("{endless} SELECT count(*) FROM c"), false),
        ("SELECT pg_sleep(600)".to_owned(), false),
        (format!("INSERT INTO kv {endless} SELECT x, '' FROM c"), true),
    ] {
        let mut busy = node.client();
        busy.send_query(&sql).unwrap();
        let active = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{}'",
            sql.replace('\'', "''")
        );
        wait::until("the statement to run", || (node.value(&active) == "1").then_some(()));
        let lines = report(node, &busy.backend_pid.to_string());
        assert!(lines[1].contains("client backend: active; "), "{lines:?}");
        if writes {
            report(node, &node.process("startup").to_string());
        }
        busy.cancel().unwrap();
        let error = busy.read_answer().unwrap().error.unwrap();
        assert_eq!(error.sqlstate, "57014");
    }
    assert_eq!(node.value("SELECT pg_log_backend_memory_contexts(1)"), "f");
    node.wait_log("PID 1 is not a PostgreSQL server process");
    cluster.stop();
}
