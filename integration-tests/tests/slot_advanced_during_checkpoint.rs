//! A slot finds the log that it needs after a crash, also when it moved on while a checkpoint was saving it: what is kept is
//! counted from what the disk says.
//!
//! PostgreSQL's scenario 047_checkpoint_physical_slot. The checkpointer's fsyncs are made slow (by strace), so that the slot
//! can be moved after its old position has been written, and before the checkpoint removes log.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use integration_tests::disk::recorder;
use integration_tests::log_surgery::Log;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::{Scenario, skip};
use integration_tests::wait;
use sys::process::Pid;
use wal::lsn::Lsn;

fn fill(node: &Node, segments: usize) {
    let mut client = node.client();
    for _ in 0..segments {
        client.query("INSERT INTO t VALUES (1)").unwrap();
        client.query("SELECT pg_switch_wal()").unwrap();
    }
    // What a reader has seen is in the tables, so redo can pass it.
    client.query("SELECT count(*) FROM t").unwrap();
}

fn segment(node: &Node, at: Lsn) -> PathBuf {
    node.dir().join("pg_wal").join(Log::segment(at))
}

/// Makes each fsync of the process take half a second longer.
fn slow_down(pid: Pid) -> Child {
    let mut command = Command::new("strace");
    command.args(["-q", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=500000", "-o", "/dev/null"]);
    command.args(["-p", &pid.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    wait::until("strace to attach", || procfs::tracer(pid).map(|_| ()));
    child
}

#[test]
fn slot_that_moves_while_it_is_saved_finds_its_log_after_a_crash() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let scenario = Scenario::new("slot-advanced");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    for setting in ["wal_keep_size=0", "checkpoint_timeout=1d"] {
        node.set(setting);
    }
    node.start();
    node.query("CREATE TABLE t(x)");
    node.query("SELECT pg_create_physical_replication_slot('s', true)");
    fill(&node, 2);
    let advance = |node: &Node| -> Lsn {
        node.value("SELECT end_lsn FROM pg_replication_slot_advance('s', 'FFFF/0')").parse().unwrap()
    };
    let old = advance(&node);
    fill(&node, 4);

    let checkpointer = node.process("checkpointer");
    let mut strace = slow_down(checkpointer);
    let mut client = node.client();
    client.send_query("CHECKPOINT").unwrap();
    wait::until("the slot to be written", || {
        let files = fs::read_dir(node.dir().join("pg_replslot/s")).unwrap();
        (files.count() > 1).then_some(())
    });
    let new = advance(&node);
    assert!(new.0 >> 20 > (old.0 >> 20) + 2, "{old}, {new}");
    assert_eq!(client.read_answer().unwrap().tags, ["CHECKPOINT"]);
    assert!(!node.dir().join("pg_wal/000000010000000000000001").exists(), "log is removed");
    node.kill_all();
    let _gone = strace.kill();
    strace.wait().unwrap();

    node.start();
    let row = node.rows("SELECT restart_lsn, wal_status FROM pg_replication_slots").concat();
    assert_eq!(row[0], old.to_string(), "what was written");
    assert!(segment(&node, old).exists(), "{old} is needed");
    assert_ne!(row[1], "lost");
    // The next checkpoint may go on to where the slot is then.
    advance(&node);
    node.query("CHECKPOINT");
    assert!(!segment(&node, old).exists());
    node.stop();
}
