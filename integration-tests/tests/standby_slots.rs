//! A standby that streams by a slot: its log is kept while it is away, the setting can be changed by a reload, a temporary
//! slot goes with its walreceiver, and a standby has slots of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

fn fill(node: &Node, segments: usize) {
    let mut client = node.client();
    for number in 0..segments {
        client.query(&format!("INSERT INTO t VALUES ({number})")).unwrap();
        client.query("SELECT pg_switch_wal()").unwrap();
    }
    client.query("SELECT count(*) FROM t").unwrap();
    client.query("CHECKPOINT").unwrap();
}

fn pair(scenario: &Scenario, standby_settings: &[&str]) -> Cluster {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.set("wal_keep_size=0");
    primary.start();
    primary.query("CREATE TABLE t(x)");
    let mut standby = Node::clone_of(scenario, "standby", &primary);
    standby.set("wal_keep_size=0");
    standby_settings.iter().for_each(|setting| standby.set(setting));
    Cluster { primary, standby }
}

#[test]
fn log_is_kept_for_a_standby_that_is_away_and_killed_nodes_come_back_to_it() {
    let scenario = Scenario::new("standby-slot");
    let mut cluster = pair(&scenario, &["primary_slot_name=s"]);
    cluster.standby.start();
    cluster.standby.wait_log("ERROR:  replication slot \"s\" does not exist");
    cluster.primary.query("SELECT pg_create_physical_replication_slot('s', true)");
    cluster.wait_streaming();
    for round in 0..3 {
        cluster.standby.kill_all();
        fill(&cluster.primary, 3);
        if round == 1 {
            cluster.primary.kill_all();
            cluster.primary.start();
            cluster.primary.query("CHECKPOINT");
        }
        cluster.standby.start();
        cluster.wait_streaming();
        cluster.assert_equal(&["t"]);
    }
    assert!(!cluster.standby.log().contains("has already been removed"));
    // What the standby has reported is not needed any more.
    let first = cluster.primary.dir().join("pg_wal/000000010000000000000001");
    wait::until("the first segment to go", || {
        cluster.primary.query("CHECKPOINT");
        (!first.exists()).then_some(())
    });
    cluster.stop();
}

#[test]
fn temporary_slot_is_made_on_request_and_goes_with_the_walreceiver() {
    let scenario = Scenario::new("standby-temporary-slot");
    let mut cluster = pair(&scenario, &["wal_receiver_create_temp_slot=on"]);
    cluster.standby.start();
    cluster.wait_streaming();
    let rows = || {
        cluster
            .primary
            .rows("SELECT slot_name, temporary, active_pid, restart_lsn IS NULL FROM pg_replication_slots")
    };
    let walsender = cluster.primary.process("walsender");
    let name = format!("pg_walreceiver_{walsender}");
    assert_eq!(rows(), [[name.as_str(), "t", &walsender.to_string(), "0"]]);
    assert_eq!(cluster.standby.value("SELECT slot_name FROM pg_stat_wal_receiver"), name);
    cluster.standby.stop();
    wait::until("the slot to go", || rows().is_empty().then_some(()));
    cluster.standby.start();
    cluster.stop();
}

#[test]
fn slots_of_a_standby_keep_its_log() {
    let scenario = Scenario::new("slots-on-standby");
    let mut cluster = pair(&scenario, &[]);
    cluster.primary.query("SELECT pg_create_physical_replication_slot('for_standby', true)");
    cluster.standby.set("primary_slot_name=for_standby");
    cluster.standby.start();
    cluster.wait_streaming();
    cluster.standby.query("SELECT pg_create_physical_replication_slot('s', true)");
    let first = cluster.standby.dir().join("pg_wal/000000010000000000000001");
    fill(&cluster.primary, 3);
    cluster.assert_equal(&["t"]);
    cluster.standby.query("CHECKPOINT");
    assert!(first.exists(), "the slot keeps it");
    cluster.standby.kill_all();
    cluster.standby.start();
    cluster.wait_streaming();
    let end = cluster.standby.lsn("pg_last_wal_replay_lsn");
    let moved = cluster.standby.value("SELECT end_lsn FROM pg_replication_slot_advance('s', 'FFFF/0')");
    assert!(moved.parse::<wal::lsn::Lsn>().unwrap() >= end);
    fill(&cluster.primary, 1);
    cluster.wait_caught_up();
    wait::until("the first segment to go", || {
        cluster.primary.query("CHECKPOINT");
        cluster.wait_caught_up();
        cluster.standby.query("CHECKPOINT");
        (!first.exists()).then_some(())
    });
    cluster.stop();
}
