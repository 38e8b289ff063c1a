//! No process of a node has a signal handler but SIGQUIT's, and the postmaster has none: so none can interrupt a lock, an
//! allocation or errno.
//!
//! Method: a pair with everything that can run: archivers with a command that hangs, idle clients, clients that are
//! not let in, replication connections. The kernel tells of each process below the postmaster which signals it
//! catches. On the default back-end; tests/wait_backends.rs has the others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use integration_tests::client::{Client, ClientError};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::Pid;
use sys::signal::Signal;

const QUIT: u64 = 1 << (Signal::Quit.number() - 1);

/// Everybody below `pid` that runs the node's program, not what it starts in its turn (a shell).
fn processes_below(pid: Pid, program: &PathBuf) -> Vec<Pid> {
    let mut found = Vec::new();
    for child in procfs::children(pid) {
        if procfs::program(child).as_ref() == Some(program) {
            found.push(child);
            found.extend(processes_below(child, program));
        }
    }
    found
}

/// Sessions until no more are let in, one that isn't let in and waits to be told so, and a replication connection.
fn fill(node: &Node) -> (Vec<Client>, Client) {
    let parameters = [("user", "postgres"), ("database", "postgres"), ("replication", "true")];
    let mut clients = vec![Client::connect(&node.address(), &parameters).unwrap()];
    loop {
        match node.try_client() {
            Ok(client) => clients.push(client),
            Err(ClientError::Server(error)) if error.sqlstate == "53300" => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    // It says nothing, so nobody can tell it anything yet.
    (clients, Client::connect_raw(&node.address()).unwrap())
}

fn check(node: &Node, expected: &[&str]) {
    let (mut clients, _refused) = fill(node);
    let view = clients.last_mut().unwrap().rows("SELECT pid, backend_type FROM pg_stat_activity");
    let kinds: BTreeSet<&str> = view.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(kinds, expected.iter().copied().collect());
    let seen: BTreeSet<Pid> = view.iter().map(|row| Pid(row[0].parse().unwrap())).collect();
    let program = procfs::program(node.pid()).unwrap();
    // Who is in no view: the keeper of the archive command, and who has a client that has not said yet who it is.
    let processes = wait::until("one in no view", || {
        let all: BTreeSet<Pid> = processes_below(node.pid(), &program).into_iter().collect();
        all.difference(&seen).next().is_some().then_some(all)
    });
    assert_eq!(procfs::handlers(node.pid()), Some(0), "postmaster");
    for pid in processes.union(&seen) {
        let kind = view.iter().find(|row| row[0] == pid.to_string()).map_or("in no view", |row| &row[1]);
        // The one that refused the last client may have been seen on its way out.
        let Some(handlers) = procfs::handlers(*pid) else { continue };
        assert_eq!(handlers & !QUIT, 0, "{kind}, {pid}: {handlers:#x}");
        assert!(handlers == QUIT || kind == "in no view", "{kind}, {pid}: no handler for SIGQUIT");
    }
}

#[test]
fn no_process_has_a_handler_but_that_of_sigquit() {
    let scenario = Scenario::new("signal-handlers");
    let fifo = scenario.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let command = format!("archive_command=cat {}", fifo.display());
    let settings = ["max_connections=6", "archive_mode=always", "archiver_shutdown_timeout=100ms", &command];
    let mut cluster = Cluster::start_with(&scenario, &settings);
    cluster.primary.query("SELECT pg_switch_wal()");
    cluster.wait_caught_up();
    let common = ["archiver", "checkpointer", "client backend", "startup", "walsender"];
    check(&cluster.primary, &[&common[..], &["walwriter"]].concat());
    check(&cluster.standby, &[&common[..], &["walreceiver"]].concat());
    cluster.stop();
}
