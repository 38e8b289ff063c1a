//! A standby that is to lag: by recovery_min_apply_delay, or paused until it is told to go on. What it receives meanwhile
//! is durable there, and a promotion applies it. PostgreSQL's scenario 005_replay_delay.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::clock;

fn pair(scenario: &Scenario) -> Cluster {
    let cluster = Cluster::start(scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.wait_caught_up();
    cluster
}

fn count(node: &Node) -> String {
    node.value("SELECT count(*) FROM t")
}

fn wait_pause_state(node: &Node, state: &str) {
    wait::until(state, || (node.value("SELECT pg_get_wal_replay_pause_state()") == state).then_some(()));
}

#[test]
fn delayed_standby_shows_rows_no_earlier_and_has_their_log_at_once() {
    let scenario = Scenario::new("replay-delay");
    let mut cluster = pair(&scenario);
    cluster.standby.reload("recovery_min_apply_delay = '2s'");
    let began = clock::now();
    cluster.primary.query("INSERT INTO t VALUES (1)");
    let end = cluster.primary.lsn("pg_current_wal_flush_lsn");
    wait::until("the log", || (cluster.standby.lsn("pg_last_wal_receive_lsn") >= end).then_some(()));
    wait::until("the row", || (count(&cluster.standby) == "1").then_some(()));
    assert!(clock::now().saturating_since(began) >= Duration::from_secs(2));
    cluster.stop();
}

#[test]
fn paused_standby_applies_nothing_until_it_is_resumed_or_promoted() {
    let scenario = Scenario::new("replay-pause");
    let mut cluster = pair(&scenario);
    for function in ["pg_wal_replay_pause", "pg_wal_replay_resume", "pg_is_wal_replay_paused"] {
        let error = cluster.primary.error(&format!("SELECT {function}()"));
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("55000", "recovery is not in progress")
        );
        assert_eq!(error.hint, "Recovery control functions can only be executed during recovery.");
    }
    let standby = &cluster.standby;
    assert_eq!(standby.value("SELECT pg_is_wal_replay_paused()"), "f");
    assert_eq!(standby.value("SELECT pg_get_wal_replay_pause_state()"), "not paused");
    for expected in ["1", "2"] {
        standby.query("SELECT pg_wal_replay_pause()");
        assert_eq!(standby.value("SELECT pg_is_wal_replay_paused()"), "t");
        wait_pause_state(standby, "paused");
        let before = standby.lsn("pg_last_wal_replay_lsn");
        cluster.primary.query(&format!("INSERT INTO t VALUES ({expected})"));
        let end = cluster.primary.lsn("pg_current_wal_flush_lsn");
        wait::until("the log", || (standby.lsn("pg_last_wal_receive_lsn") >= end).then_some(()));
        wait::watch_for(Duration::from_millis(200));
        assert_eq!(standby.lsn("pg_last_wal_replay_lsn"), before);
        if expected == "1" {
            standby.query("SELECT pg_wal_replay_resume()");
            wait::until("the row", || (count(standby) == expected).then_some(()));
            assert_eq!(standby.value("SELECT pg_get_wal_replay_pause_state()"), "not paused");
        }
    }
    // Promotion ends the pause, and keeps what was received.
    assert_eq!(standby.value("SELECT pg_promote()"), "t");
    assert_eq!(count(standby), "2");
    standby.query("INSERT INTO t VALUES (3)");
    cluster.stop();
}
