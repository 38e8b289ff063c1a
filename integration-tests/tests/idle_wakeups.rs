//! Nothing polls: an idle pair wakes only when a computed deadline falls due.
//!
//! Method: the kernel counts how often a process goes to sleep (voluntary_ctxt_switches). Over a window in which nobody
//! writes, each process may have slept as often as deadlines fell due in it, and those without a deadline not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::Pid;

const WINDOW: Duration = Duration::from_secs(12);
/// Time after the last query for what it set off (statistics, replies, keepalives) to be over.
const SETTLE: Duration = Duration::from_secs(2);

/// Every process of a node by name, with the postmaster.
fn processes(node: &Node) -> BTreeMap<String, Pid> {
    let rows = node.rows("SELECT pid, backend_type, application_name FROM pg_stat_activity");
    let mut processes: BTreeMap<String, Pid> = rows
        .iter()
        .filter(|row| row[1] != "client backend" || row[2] == "idle session")
        .map(|row| (row[1].clone(), Pid(row[0].parse().unwrap())))
        .collect();
    processes.insert("postmaster".to_owned(), node.pid());
    processes
}

/// Sleeps of every process within the window.
fn count(cluster: &Cluster) -> BTreeMap<String, u64> {
    let parameters = [("application_name", "idle session")];
    let connect =
        |node: &Node| integration_tests::client::Client::connect(&node.address(), &parameters).unwrap();
    let mut sessions = [connect(&cluster.primary), connect(&cluster.standby)];
    for session in &mut sessions {
        session.value("SELECT count(*) FROM t");
    }
    let mut all = BTreeMap::new();
    for (name, node) in [("primary", &cluster.primary), ("standby", &cluster.standby)] {
        for (backend_type, pid) in processes(node) {
            all.insert(format!("{name} {backend_type}"), pid);
        }
    }
    wait::watch_for(SETTLE);
    let sleeps = |pid: &Pid| procfs::sleeps(*pid).expect("the process is there");
    let before: BTreeMap<&String, u64> = all.iter().map(|(name, pid)| (name, sleeps(pid))).collect();
    wait::watch_for(WINDOW);
    all.iter().map(|(name, pid)| (name.clone(), sleeps(pid) - before[name])).collect()
}

/// `allowed`: most sleeps of walsender and walreceiver in the window; the others get none.
fn check(name: &str, settings: &[&str], allowed: [u64; 2]) {
    let scenario = Scenario::new(name);
    let mut cluster = Cluster::start_with(&scenario, settings);
    cluster.primary.query("CREATE TABLE t(x)");
    cluster.primary.query("INSERT INTO t VALUES (1)");
    cluster.wait_caught_up();
    let counted = count(&cluster);
    for required in ["postmaster", "startup", "checkpointer", "client backend"] {
        for node in ["primary", "standby"] {
            assert!(counted.contains_key(&format!("{node} {required}")), "{counted:?}");
        }
    }
    for (process, sleeps) in &counted {
        let most = match process.as_str() {
            "primary walsender" => allowed[0],
            "standby walreceiver" => allowed[1],
            _ => 0,
        };
        assert!(*sleeps <= most, "{process} woke {sleeps} times, {most} allowed: {counted:?}");
    }
    for process in ["primary walsender", "standby walreceiver"] {
        assert!(counted[process] > 0, "{process} never met its deadline: {counted:?}");
    }
    cluster.stop();
}

#[test]
fn status_reports_are_the_only_wake_ups_when_they_come_before_every_timeout() {
    // A report every 3 s: 4 deadlines, and one more at the edge of the window.
    check(
        "idle-status",
        &["wal_sender_timeout=60s", "wal_receiver_timeout=60s", "wal_receiver_status_interval=3s"],
        [5, 5],
    );
}

#[test]
fn pings_are_the_only_wake_ups_when_there_are_no_status_reports() {
    // A ping after 2 s without a reply: for the walsender a deadline and a reply each time, for the walreceiver the ping.
    check(
        "idle-ping",
        &["wal_sender_timeout=4s", "wal_receiver_timeout=60s", "wal_receiver_status_interval=0"],
        [14, 7],
    );
}
