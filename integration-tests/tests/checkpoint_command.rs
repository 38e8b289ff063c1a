//! CHECKPOINT returns when a checkpoint is done that began after it was asked for, on a primary and on a standby; the wait is
//! seen, and can be cancelled.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use integration_tests::cluster::Cluster;
use integration_tests::disk::verify::control_numbers;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process;
use sys::signal::Signal;
use wal::lsn::Lsn;

fn control(node: &Node) -> (Lsn, Lsn) {
    control_numbers(&fs::read(node.dir().join("control")).unwrap()).unwrap()
}

#[test]
fn a_checkpoint_is_done_when_the_command_returns() {
    let scenario = Scenario::new("checkpoint-command");
    let mut cluster = Cluster::start_with(&scenario, &["checkpoint_timeout=1d"]);
    let Cluster { primary, standby } = &cluster;
    primary.query("CREATE TABLE t(x)");
    for round in 0..5 {
        primary.query(&format!("INSERT INTO t VALUES ({round})"));
        let inserted = primary.lsn("pg_current_wal_flush_lsn");
        // Seen by a reader, so committed in the tables.
        primary.query("SELECT count(*) FROM t");
        assert_eq!(primary.client().tag("CHECKPOINT"), "CHECKPOINT");
        let (checkpoint, redo) = control(primary);
        assert!(checkpoint >= inserted && redo >= inserted, "{checkpoint}, {redo} after {inserted}");

        cluster.wait_caught_up();
        standby.query("SELECT count(*) FROM t");
        assert_eq!(standby.client().tag("CHECKPOINT"), "CHECKPOINT");
        let (replayed, redo) = control(standby);
        assert!(redo >= inserted, "{redo} after {inserted}");
        assert_eq!(replayed, checkpoint, "the last checkpoint record that was replayed");
    }
    primary.wait_log("LOG:  checkpoint starting: immediate force wait");
    standby.wait_log("LOG:  restartpoint starting: immediate force wait");
    cluster.stop();
}

#[test]
fn waiting_for_a_checkpoint_is_seen_and_can_be_cancelled() {
    let scenario = Scenario::new("checkpoint-cancelled");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CHECKPOINT");
    let checkpointer = primary.process("checkpointer");
    process::kill(checkpointer, Signal::Stop).unwrap();
    let mut client = primary.client();
    client.send_query("CHECKPOINT").unwrap();
    let waits = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE query = 'CHECKPOINT'";
    wait::until("the wait to be seen", || {
        (primary.rows(waits) == [["IPC", "CheckpointStart"]]).then_some(())
    });
    client.cancel().unwrap();
    let error = client.read_answer().unwrap().error.expect("an error");
    assert_eq!(error.sqlstate, "57014");
    let timed_out = {
        client.query("SET statement_timeout = 100").unwrap();
        client.error("CHECKPOINT")
    };
    assert_eq!(timed_out.message, "canceling statement due to statement timeout");
    client.query("RESET statement_timeout").unwrap();
    client.send_query("CHECKPOINT").unwrap();
    process::kill(checkpointer, Signal::Cont).unwrap();
    assert_eq!(client.read_answer().unwrap().tags, ["CHECKPOINT"]);
    primary.stop();
}

#[test]
fn checkpoint_that_fails_is_told_to_who_waits_for_it() {
    let scenario = Scenario::new("checkpoint-fails");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CHECKPOINT");
    let control = primary.dir().join("control");
    let good = fs::read(&control).unwrap();
    fs::write(&control, "damaged").unwrap();
    let failed = primary.error("CHECKPOINT");
    assert_eq!((failed.sqlstate.as_str(), failed.message.as_str()), ("XX000", "checkpoint request failed"));
    assert_eq!(failed.hint, "Consult recent messages in the server log for details.");
    primary.wait_log("ERROR:  checkpoint failed: control file");
    fs::write(&control, good).unwrap();
    primary.query("CHECKPOINT");
    primary.stop();
}
