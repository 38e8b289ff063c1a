//! A slot that is made, dropped or saved while its process is killed at any step is there whole or not at all, what it
//! keeps is there too, and nothing half made is left.
//!
//! Method: strace is attached to the one process that does it, and kills it as it enters the n-th call of a kind, for every
//! kind that touches the disk and every n, until it gets through. The node restarts after each such crash.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Child, Command, Stdio};

use integration_tests::client::Client;
use integration_tests::disk::recorder;
use integration_tests::log_surgery::Log;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::{Scenario, skip};
use integration_tests::wait;
use sys::process::Pid;
use wal::lsn::Lsn;

/// More than any of the commands makes of one kind of call.
const CALLS_MAX: usize = 40;

/// Has `pid` killed at its n-th `call` from now on.
fn kill_at(pid: Pid, call: &str, number: usize) -> Child {
    let mut command = Command::new("strace");
    command.args(["-q", "-e", &format!("trace={call}"), "-o", "/dev/null"]);
    command.args(["-e", &format!("inject={call}:signal=KILL:when={number}"), "-p", &pid.to_string()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait::until("strace to attach", || procfs::tracer(pid).map(|_| ()));
    child
}

/// Has the process killed at each of its calls of these kinds, one per round: `act` does what it is to be killed in, on a
/// client, and `check` looks at the node that has restarted. How many rounds had a kill.
fn kill_at_every_call(
    node: &Node,
    calls: &[&str],
    mut act: impl FnMut(&Node) -> (Client, Pid, String),
    mut check: impl FnMut(&Node, &str),
) -> usize {
    let mut kills = 0;
    for call in calls {
        for number in 1..=CALLS_MAX {
            let restarts = node.crash_restarts();
            let (mut client, pid, command) = act(node);
            let mut strace = kill_at(pid, call, number);
            let answer = client.query(&command);
            let _gone = strace.kill();
            strace.wait().unwrap();
            if answer.is_ok() {
                break;
            }
            kills += 1;
            wait::until("the node to reinitialize", || (node.crash_restarts() > restarts).then_some(()));
            wait::until("the node to serve again", || node.try_client().ok());
            check(node, &format!("killed at {call} number {number} of {command}"));
        }
    }
    kills
}

fn replication(node: &Node) -> (Client, Pid) {
    let client = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    let pid = Pid(client.backend_pid);
    (client, pid)
}

/// What is in pg_replslot is what the node says there is.
fn slots(node: &Node, when: &str) -> Vec<String> {
    let names = node.rows("SELECT slot_name FROM pg_replication_slots ORDER BY slot_name").concat();
    let directory = node.dir().join("pg_replslot");
    let mut found: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, names, "{when}");
    for name in &names {
        let files: Vec<_> =
            fs::read_dir(directory.join(name)).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["state"], "{when}");
    }
    names
}

#[test]
fn slot_that_is_made_or_dropped_is_there_or_not() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let scenario = Scenario::new("slots-killed");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    let (mut with, mut without) = (0, 0);
    let mut look = |node: &Node, when: &str| match slots(node, when).is_empty() {
        true => without += 1,
        false => with += 1,
    };
    let exists = |node: &Node| node.value("SELECT count(*) FROM pg_replication_slots") == "1";
    let calls = ["mkdir", "openat", "fsync", "rename", "unlinkat"];
    let made = kill_at_every_call(
        &node,
        &calls,
        |node| {
            if exists(node) {
                node.query("SELECT pg_drop_replication_slot('s')");
            }
            let (client, pid) = replication(node);
            (client, pid, "CREATE_REPLICATION_SLOT s PHYSICAL RESERVE_WAL".to_owned())
        },
        &mut look,
    );
    let dropped = kill_at_every_call(
        &node,
        &calls,
        |node| {
            if !exists(node) {
                node.query("SELECT pg_create_physical_replication_slot('s', true)");
            }
            let (client, pid) = replication(node);
            (client, pid, "DROP_REPLICATION_SLOT s".to_owned())
        },
        &mut look,
    );
    assert!(made >= 7 && dropped >= 4, "{made} and {dropped} kills");
    assert!(with > 0 && without > 0, "found {with} times, not found {without} times");
    node.stop();
}

#[test]
fn slot_that_moves_finds_its_log_when_the_checkpointer_is_killed() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let scenario = Scenario::new("slot-saved-killed");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    for setting in ["wal_keep_size=0", "checkpoint_timeout=1d"] {
        node.set(setting);
    }
    node.start();
    node.query("CREATE TABLE t(x)");
    node.query("SELECT pg_create_physical_replication_slot('s', true)");
    let restart =
        |node: &Node| -> Lsn { node.value("SELECT restart_lsn FROM pg_replication_slots").parse().unwrap() };
    let mut last = restart(&node);
    let kills = kill_at_every_call(
        &node,
        &["openat", "fsync", "fdatasync", "rename", "unlink"],
        |node| {
            node.query("INSERT INTO t VALUES (1)");
            node.query("SELECT pg_switch_wal()");
            node.query("INSERT INTO t VALUES (1)");
            node.query("SELECT count(*) FROM t");
            node.query("SELECT pg_replication_slot_advance('s', 'FFFF/0')");
            (node.client(), node.process("checkpointer"), "CHECKPOINT".to_owned())
        },
        |node, when| {
            assert_eq!(slots(node, when), ["s"]);
            let now = restart(node);
            assert!(now >= last, "{now} after {last}: {when}");
            last = now;
            let name = Log::segment(now);
            assert!(node.dir().join("pg_wal").join(&name).exists(), "{name} is needed: {when}");
            assert_ne!(node.value("SELECT wal_status FROM pg_replication_slots"), "lost", "{when}");
        },
    );
    assert!(kills >= 10, "{kills} kills");
    assert!(!node.dir().join("pg_wal/000000010000000000000001").exists());
    node.stop();
}
