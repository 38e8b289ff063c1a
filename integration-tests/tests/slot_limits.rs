//! How much log a slot may hold: from reserved over extended and unreserved to lost, and who is told of what.
//!
//! PostgreSQL's scenario 019_replslot_limit, with segments of 1 MB.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process;
use sys::signal::Signal;

const STATUS: &str =
    "SELECT wal_status, safe_wal_size IS NULL FROM pg_replication_slots WHERE slot_name = 'rep1'";

/// Fills that many segments.
fn advance(node: &Node, segments: usize) {
    let mut client = node.client();
    for _ in 0..segments {
        client.query("SELECT pg_logical_emit_message(true, 'fill', 'a segment is more than this')").unwrap();
        client.query("SELECT pg_switch_wal()").unwrap();
    }
}

/// Has checkpoints until redo is in the segment that is written to.
fn checkpoint(node: &Node) {
    // A row that a reader has seen is in the tables.
    node.query("INSERT INTO t VALUES (1)");
    node.query("SELECT count(*) FROM t");
    node.query("CHECKPOINT");
}

fn pair(scenario: &Scenario, settings: &str) -> Cluster {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.configure(settings);
    primary.start();
    primary.query("CREATE TABLE t(x)");
    primary.query("SELECT pg_create_physical_replication_slot('rep1')");
    assert_eq!(primary.rows(STATUS), [["NULL", "1"]], "nothing is held yet");
    let mut standby = Node::clone_of(scenario, "standby", &primary);
    standby.set("primary_slot_name=rep1");
    standby.start();
    let cluster = Cluster { primary, standby };
    cluster.wait_streaming();
    cluster
}

/// Waits until the slot has heard from the standby where it is.
fn wait_confirmed(cluster: &Cluster) {
    cluster.wait_caught_up();
    let end = cluster.primary.value("SELECT pg_current_wal_lsn()");
    let restart = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'rep1'";
    wait::until("the standby to report", || (cluster.primary.value(restart) == end).then_some(()));
}

#[test]
fn slot_goes_from_reserved_to_lost_and_its_standby_says_what_is_gone() {
    let scenario = Scenario::new("slot-limits");
    let base = "checkpoint_timeout = '1d'\nwal_keep_size = 0\nmax_wal_size = '2MB'\n";
    let Cluster { primary, mut standby } = {
        let cluster = pair(&scenario, base);
        wait_confirmed(&cluster);
        cluster
    };
    assert_eq!(primary.rows(STATUS), [["reserved", "1"]]);
    assert_eq!(primary.value("SELECT active FROM pg_replication_slots"), "t");
    assert_eq!(standby.value("SELECT slot_name FROM pg_stat_wal_receiver"), "rep1");
    standby.stop();

    // Without a limit it holds whatever it needs, and somebody is told.
    advance(&primary, 4);
    checkpoint(&primary);
    assert_eq!(primary.rows(STATUS), [["extended", "1"]]);
    let told = "WARNING:  replication slot \"rep1\" is not in use and holds back";
    primary.wait_log(told);
    let before = primary.log().matches(told).count();
    checkpoint(&primary);
    assert_eq!(primary.log().matches(told).count(), before, "said once for that much");
    standby.start();
    let cluster = Cluster { primary, standby };
    cluster.wait_streaming();
    wait_confirmed(&cluster);
    let Cluster { primary, mut standby } = cluster;
    checkpoint(&primary);
    wait::until("the slot to be reserved again", || (primary.rows(STATUS)[0][0] == "reserved").then_some(()));
    standby.stop();

    primary.reload(&format!("{base}max_slot_wal_keep_size = '6MB'"));
    let safe = || -> i64 {
        primary.value("SELECT safe_wal_size FROM pg_replication_slots").parse().expect("a number of bytes")
    };
    let before = safe();
    assert!((6 << 20..=7 << 20).contains(&before), "{before}");
    advance(&primary, 4);
    checkpoint(&primary);
    assert_eq!(primary.rows(STATUS), [["extended", "0"]]);
    assert!((2 << 20..=3 << 20).contains(&safe()), "{}", safe());
    // wal_keep_size counts too.
    let keep = base.replace("wal_keep_size = 0", "wal_keep_size = '8MB'");
    primary.reload(&format!("{keep}max_slot_wal_keep_size = '6MB'"));
    assert!((4 << 20..=5 << 20).contains(&safe()), "{}", safe());
    // From here on no checkpoint comes but those that are asked for.
    let quiet = base.replace("max_wal_size = '2MB'", "max_wal_size = '1GB'");
    primary.reload(&format!("{quiet}max_slot_wal_keep_size = '6MB'"));
    advance(&primary, 3);
    assert_eq!(primary.rows(STATUS), [["unreserved", "0"]]);
    assert!(safe() <= 0, "{}", safe());

    // Still there: the standby comes in time.
    standby.start();
    let cluster = Cluster { primary, standby };
    cluster.wait_streaming();
    wait_confirmed(&cluster);
    let Cluster { primary, mut standby } = cluster;
    standby.stop();
    checkpoint(&primary);
    advance(&primary, 7);
    checkpoint(&primary);
    assert_eq!(primary.rows(STATUS), [["lost", "1"]]);
    primary.wait_log("LOG:  invalidating slot \"rep1\" because its restart_lsn ");
    assert!(primary.log().contains("exceeds max_slot_wal_keep_size"));
    standby.start();
    standby.wait_log("has already been removed");
    standby.stop();

    // Lost it stays.
    let mut primary = primary;
    primary.kill_all();
    primary.start();
    assert_eq!(primary.rows(STATUS), [["lost", "1"]]);
    assert_eq!(primary.error("SELECT pg_replication_slot_advance('rep1', '0/FFFFFFF')").sqlstate, "55000");
    primary.query("SELECT pg_drop_replication_slot('rep1')");
    primary.stop();
}

#[test]
fn obsolete_slot_of_a_stopped_walsender_is_invalidated_when_that_is_gone_and_nobody_waits_for_it() {
    let scenario = Scenario::new("slot-of-stopped");
    let cluster = pair(
        &scenario,
        "checkpoint_timeout = '1d'\nwal_keep_size = 0\nmax_wal_size = '2MB'\nmax_slot_wal_keep_size = '1MB'",
    );
    wait_confirmed(&cluster);
    let Cluster { mut primary, mut standby } = cluster;
    let (walsender, walreceiver) = (primary.process("walsender"), standby.process("walreceiver"));
    process::kill(walsender, Signal::Stop).unwrap();
    process::kill(walreceiver, Signal::Stop).unwrap();
    advance(&primary, 4);
    // It ends although the walsender can't.
    checkpoint(&primary);
    primary.wait_log(&format!("LOG:  terminating process {walsender} to release replication slot \"rep1\""));
    assert_eq!(primary.rows(STATUS), [["unreserved", "0"]]);
    assert!(!primary.log().contains("invalidating slot"));
    process::kill(walsender, Signal::Cont).unwrap();
    primary.wait_log("LOG:  invalidating slot \"rep1\"");
    wait::until("the slot to be lost", || (primary.rows(STATUS) == [["lost", "1"]]).then_some(()));
    process::kill(walreceiver, Signal::Cont).unwrap();
    standby.wait_log("has already been removed");
    standby.stop();
    primary.stop();
}
