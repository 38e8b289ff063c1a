//! A pair works on every wait_backend, and has the signal handlers of that one and no others.
//!
//! Method: a short load from several sessions, level nodes, a cancelled statement, fast shutdown: what processes wake
//! each other for. What handlers a process has the kernel tells.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::cluster::Cluster;
use integration_tests::commands::{self, finish, pgbench_spawn};
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::Pid;
use sys::signal::Signal;

/// The back-end's name, the postmaster's handlers and those of its children.
type Row = (&'static str, &'static [Signal], &'static [Signal]);

const BACKENDS: [Row; 3] =
    [("eventfd", &[], &[Signal::Quit]), ("epoll", &[], &[Signal::Quit]), ("poll", &ALL, &ALL)];

const ALL: [Signal; 7] =
    [Signal::Hup, Signal::Int, Signal::Quit, Signal::Usr1, Signal::Usr2, Signal::Term, Signal::Urg];

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT 1 FROM c) SELECT count(*) FROM c";

fn check_handlers(node: &Node, backend: &str, of_postmaster: &[Signal], of_child: &[Signal]) {
    let mask = |signals: &[Signal]| signals.iter().fold(0, |mask, signal| mask | 1 << (signal.number() - 1));
    assert_eq!(procfs::handlers(node.pid()), Some(mask(of_postmaster)), "postmaster on {backend}");
    let rows = node.rows("SELECT pid, backend_type FROM pg_stat_activity");
    assert!(rows.len() >= 4, "{rows:?}");
    for row in rows {
        let found = procfs::handlers(Pid(row[0].parse().unwrap()));
        // The session that just answered has ended, perhaps.
        assert!(found.is_none_or(|found| found == mask(of_child)), "{} on {backend}: {found:#x?}", row[1]);
    }
}

#[test]
fn a_pair_works_on_every_wait_backend() {
    for (backend, of_postmaster, of_child) in BACKENDS {
        let scenario = Scenario::new(&format!("wait-backend-{backend}"));
        let mut cluster = Cluster::start_with(&scenario, &[&format!("wait_backend={backend}")]);
        assert_eq!(cluster.standby.value("SHOW wait_backend"), backend);
        for node in [&cluster.primary, &cluster.standby] {
            check_handlers(node, backend, of_postmaster, of_child);
        }
        cluster.primary.query(commands::CREATE_KV);
        let script = scenario.write("put.sql", &commands::put_script());
        finish(pgbench_spawn(&cluster.primary, &script, 4, 2)).assert_success("pgbench");
        assert!(cluster.assert_equal(&["kv"])[0].rows > 0);

        // On both: a cancel request is a signal from the process that takes it.
        for node in [&cluster.primary, &cluster.standby] {
            let mut session = node.client();
            session.send_query(ENDLESS).unwrap();
            wait::until("the read to run", || {
                let rows = node.rows("SELECT query FROM pg_stat_activity WHERE state = 'active'");
                rows.iter().any(|row| row[0] == ENDLESS).then_some(())
            });
            session.cancel().unwrap();
            assert_eq!(session.read_answer().unwrap().error.unwrap().sqlstate, "57014");
        }
        cluster.stop();
    }
}
