//! A standby and a standby of it hold the first part of a record that spans segments, and the rest never comes: the one is
//! promoted and ends the log before that record, the other follows; or the one is restarted, falls back behind the other, and
//! that waits for it.
//!
//! Method: a relay between primary and standby that stops in the middle of a record of 3 MB. The ideas are those of
//! PostgreSQL's recovery tests 043_no_contrecord_switch and 055_cascade_reconnect.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use integration_tests::digest;
use integration_tests::node::Node;
use integration_tests::proxy::Proxy;
use integration_tests::scenario::Scenario;
use wal::lsn::Lsn;

const RECORD: usize = 3 << 20;

struct Chain {
    primary: Node,
    proxy: Proxy,
    middle: Node,
    last: Node,
}

/// A primary, a standby behind a relay, a standby of that; both have replayed `whole` and received more.
fn cut_chain(scenario: &Scenario) -> (Chain, Lsn) {
    let large = "max_statement_size=8MB";
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.set(large);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    primary.query("INSERT INTO t VALUES (1, 'whole')");
    let mut proxy = Proxy::new(primary.port());
    let mut middle = Node::clone_of(scenario, "middle", &primary);
    middle.set(large);
    middle.set(&format!("primary_conninfo=host=127.0.0.1 port={} user=postgres", proxy.port()));
    middle.start();
    let mut last = Node::clone_of(scenario, "last", &middle);
    last.set(large);
    last.start();
    let whole = primary.lsn("pg_current_wal_flush_lsn");
    for node in [&middle, &last] {
        proxy.until("the first row", || (node.lsn("pg_last_wal_replay_lsn") >= whole).then_some(()));
    }
    proxy.stop_after(RECORD / 2);
    primary.query(&format!("INSERT INTO t VALUES (2, '{}')", "l".repeat(RECORD)));
    // A part of it has come, durably, to both, in another segment than it began in.
    let far = whole + (1 << 20);
    for node in [&middle, &last] {
        proxy.until("a part of the record", || (node.lsn("pg_last_wal_receive_lsn") >= far).then_some(()));
        assert!(node.lsn("pg_last_wal_replay_lsn") < far);
    }
    (Chain { primary, proxy, middle, last }, whole)
}

fn assert_same(one: &Node, other: &Node) {
    let digest = |node: &Node| digest::of_table(&mut node.client(), "t");
    assert_eq!(digest(one), digest(other));
}

#[test]
fn promoted_within_a_record_the_log_ends_before_it_and_the_cascade_follows() {
    let scenario = Scenario::new("cut-promotion");
    let (Chain { mut primary, proxy, mut middle, mut last }, whole) = cut_chain(&scenario);
    primary.kill_all();
    drop(proxy);
    let receiver = last.process("walreceiver");
    middle.promote();
    let history = fs::read_to_string(middle.dir().join("pg_wal/00000002.history")).unwrap();
    let switch: Lsn = history.split('\t').nth(1).unwrap().parse().unwrap();
    assert!(switch >= whole && switch < whole + (1 << 20), "{history}");
    assert_eq!(middle.value("SELECT count(*) FROM t"), "1");
    middle.query("INSERT INTO t VALUES (3, 'after')");
    last.wait_level_with(&middle);
    assert_eq!(last.process("walreceiver"), receiver);
    assert_same(&middle, &last);
    // What there was of the record is in no log any more.
    for node in [&mut middle, &mut last] {
        node.kill_all();
        node.start();
    }
    middle.query("INSERT INTO t VALUES (4, 'later')");
    last.wait_level_with(&middle);
    assert_same(&middle, &last);
    last.promote();
    last.query("INSERT INTO t VALUES (5, 'last')");
    assert_eq!(last.value("SELECT count(*) FROM t"), "4");
}

#[test]
fn cascade_that_is_ahead_of_its_restarted_upstream_waits_for_it() {
    let scenario = Scenario::new("cut-restart");
    let (Chain { primary, mut proxy, mut middle, last }, _) = cut_chain(&scenario);
    proxy.stop_after(0);
    middle.kill_all();
    middle.start();
    last.wait_log("waiting for the primary, whose log ends at");
    let receiver = last.process("walreceiver");
    let shown = last
        .rows("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'walreceiver'");
    assert_eq!(shown, [["IPC", "WalReceiverUpstreamCatchup"]]);
    proxy.stop_after(usize::MAX);
    let end = primary.lsn("pg_current_wal_flush_lsn");
    proxy.until("the rest", || (last.lsn("pg_last_wal_replay_lsn") >= end).then_some(()));
    assert_eq!(last.process("walreceiver"), receiver);
    assert!(!last.log().contains("is ahead of the WAL flush position"), "{}", last.log_tail());
    assert_same(&primary, &last);
}
