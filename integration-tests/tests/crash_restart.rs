//! A process of a node is killed: all others end, tell their clients why, and the node recovers and goes on, without anybody's
//! help and without a trace; unless it is not to, or somebody has asked it to shut down, or it can't recover.
//!
//! Method: real nodes, kill -9 of each kind of process in turn, clients that read what they are told, and a look from
//! outside at what the postmaster holds. As PostgreSQL's 013_crash_restart and 058.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use integration_tests::client::{Client, ServerError, parse_error};
use integration_tests::cluster::Cluster;
use integration_tests::load::{CREATE_TABLE, Load};
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

fn node(scenario: &Scenario, settings: &[&str]) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    settings.iter().for_each(|setting| node.set(setting));
    node.start();
    node.query(CREATE_TABLE);
    node
}

fn stop_process(pid: Pid) {
    process::kill(pid, Signal::Stop).unwrap();
    wait::until("the process to be stopped", || procfs::stopped(pid).then_some(()));
}

/// A client whose backend waits for it: one that has just sent something may not know yet that it is all sent.
fn idle_client(node: &Node) -> Client {
    let client = node.client();
    let pid = client.backend_pid;
    wait::until("the backend to wait for its client", || {
        let sql = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'ClientRead'");
        (!node.rows(&sql).is_empty()).then_some(())
    });
    client
}

/// The notice that is all that an idle client gets before the end of its connection.
fn last_words(client: &mut Client) -> ServerError {
    let message = client.read_message().expect("a notice before the end");
    assert_eq!(message.tag, b'N');
    assert_eq!(client.read_to_end().unwrap(), b"", "and nothing after it");
    parse_error(&message.body)
}

fn assert_told_of_crash(client: &mut Client) {
    let notice = last_words(client);
    assert_eq!((notice.severity.as_str(), notice.sqlstate.as_str()), ("WARNING", "57P02"));
    assert_eq!(notice.message, "terminating connection because of crash of another server process");
    assert!(notice.detail.contains("possibly corrupted shared memory"), "{notice}");
    assert!(notice.hint.contains("you should be able to reconnect"), "{notice}");
}

#[test]
fn whichever_process_of_a_primary_is_killed_it_goes_on_with_all_that_was_acknowledged() {
    let scenario = Scenario::new("crash-primary");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(CREATE_TABLE);
    let mut load = Load::new(4);
    for (number, victim) in
        ["walwriter", "startup", "checkpointer", "client backend", "walsender"].into_iter().enumerate()
    {
        load.connect(&cluster.primary);
        load.rounds(3);
        let mut bystander = idle_client(&cluster.primary);
        let _killed = cluster.primary.client();
        let pid = match victim {
            // Not the one that asks.
            "client backend" => Pid(_killed.backend_pid),
            _ => cluster.primary.process(victim),
        };
        load.round(2, || process::kill(pid, Signal::Kill).unwrap());
        assert_told_of_crash(&mut bystander);
        wait::until("the node to reinitialize", || {
            (cluster.primary.crash_restarts() == number + 1).then_some(())
        });
        wait::until("the node to serve again", || cluster.primary.try_client().ok());
        let line = cluster.primary.wait_log(&format!("(PID {pid}) was terminated by signal 9: Killed"));
        assert!(line.contains("process"), "{line}");
        load.assert_all_on(&cluster.primary);
        cluster.wait_streaming();
        cluster.assert_equal(&["acked"]);
    }
    load.disconnect();
    cluster.stop();
}

#[test]
fn statement_of_the_killed_backend_is_in_the_log() {
    let scenario = Scenario::new("crash-detail");
    let mut node = node(&scenario, &[]);
    let mut busy = node.client();
    busy.send_query("SELECT pg_sleep(1000),\n'two lines'").unwrap();
    let pid = busy.backend_pid;
    let sleeps = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
    wait::until("the statement to run", || (!node.rows(&sleeps).is_empty()).then_some(()));
    node.crash(Pid(pid));
    let report = format!(
        "server process (PID {pid}) was terminated by signal 9: Killed\n\
         \tDETAIL:  Failed process was running: SELECT pg_sleep(1000),\n\t'two lines'\n"
    );
    assert!(node.log().contains(&report), "{}", node.log_tail());
    // One that serves nobody has none.
    let walwriter = node.process("walwriter");
    node.crash(walwriter);
    let line =
        node.wait_log(&format!("WAL writer process (PID {walwriter}) was terminated by signal 9: Killed"));
    let log = node.log();
    let after = log.split_once(&line).unwrap().1;
    assert!(!after.lines().nth(1).unwrap().contains("DETAIL"), "{}", node.log_tail());
    node.stop();
}

#[test]
fn whichever_process_of_a_standby_is_killed_it_follows_again() {
    let scenario = Scenario::new("crash-standby");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(CREATE_TABLE);
    let mut load = Load::new(2);
    load.connect(&cluster.primary);
    for victim in ["walreceiver", "checkpointer", "client backend"] {
        load.rounds(3);
        let mut bystander = idle_client(&cluster.standby);
        let other = cluster.standby.client();
        let pid = match victim {
            "client backend" => Pid(other.backend_pid),
            _ => cluster.standby.process(victim),
        };
        cluster.standby.crash(pid);
        assert_told_of_crash(&mut bystander);
        load.rounds(3);
        cluster.assert_equal(&["acked"]);
        load.assert_all_on(&cluster.standby);
    }
    load.disconnect();
    cluster.stop();
}

#[test]
fn startup_process_of_a_standby_that_is_killed_ends_the_node_and_the_next_start_goes_on() {
    let scenario = Scenario::new("crash-replay");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(x)");
    process::kill(cluster.standby.process("startup"), Signal::Kill).unwrap();
    assert_eq!(cluster.standby.wait_end(), Some(1));
    cluster.standby.wait_log("shutting down due to startup process failure");
    cluster.primary.query("INSERT INTO t VALUES (1)");
    cluster.standby.start();
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn twenty_crashes_leave_nothing_behind_in_the_postmaster() {
    let scenario = Scenario::new("crash-leaks");
    let mut node = node(&scenario, &[]);
    // The first crash may bring what stays (a lazily made table, a page of the heap).
    node.crash(node.process("walwriter"));
    let holds = |node: &Node| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", node.pid())).unwrap();
        let shared = maps.lines().filter(|line| line.contains("rw-s")).count();
        [procfs::descriptors(node.pid()), shared, maps.lines().count()]
    };
    // Startup, checkpointer, walwriter: a session that is not reaped yet would count.
    let only_auxiliary = |node: &Node| (procfs::children(node.pid()).len() == 3).then_some(());
    wait::until("the sessions to be gone", || only_auxiliary(&node));
    let before = holds(&node);
    let mut session = node.client();
    for round in 0..20 {
        node.crash(Pid(session.backend_pid));
        session = node.client();
        session.query(&format!("INSERT INTO acked VALUES ({round}, 0, '')")).unwrap();
    }
    drop(session);
    assert_eq!(node.value("SELECT count(*) FROM acked"), "20");
    let no_more = |now: [usize; 3]| now.iter().zip(before).all(|(now, before)| *now <= before);
    let after = wait::within(wait::DEADLINE, || {
        (only_auxiliary(&node).is_some() && no_more(holds(&node))).then_some(())
    });
    assert!(after.is_some(), "descriptors, shared mappings, mappings: {before:?}, then {:?}", holds(&node));
    node.stop();
}

#[test]
fn node_that_is_not_to_restart_ends_with_status_1() {
    let scenario = Scenario::new("crash-no-restart");
    let mut node = node(&scenario, &["restart_after_crash=off"]);
    let mut bystander = idle_client(&node);
    process::kill(node.process("walwriter"), Signal::Kill).unwrap();
    assert_told_of_crash(&mut bystander);
    assert_eq!(node.wait_end(), Some(1));
    node.wait_log("shutting down because restart_after_crash is off");
    assert_eq!(node.crash_restarts(), 0);
    node.start();
    node.stop();
}

#[test]
fn node_that_cannot_recover_after_a_crash_ends_with_status_1() {
    let scenario = Scenario::new("crash-no-recovery");
    let mut node = node(&scenario, &[]);
    let victim = node.process("walwriter");
    let (pg_wal, away) = (node.dir().join("pg_wal"), node.dir().join("away"));
    std::fs::rename(&pg_wal, &away).unwrap();
    process::kill(victim, Signal::Kill).unwrap();
    assert_eq!(node.wait_end(), Some(1));
    node.wait_log("all server processes terminated; reinitializing");
    node.wait_log("aborting startup due to startup process failure");
    std::fs::rename(&away, &pg_wal).unwrap();
    node.start();
    node.stop();
}

#[test]
fn child_that_does_not_heed_the_end_is_killed_and_the_node_restarts() {
    let scenario = Scenario::new("crash-stopped-child");
    let mut node = node(&scenario, &[]);
    stop_process(node.process("checkpointer"));
    node.crash(node.process("walwriter"));
    node.wait_log("issuing SIGKILL to recalcitrant children");
    node.query("INSERT INTO acked VALUES (1, 0, '')");
    node.stop();
}

#[test]
fn client_is_told_of_recovery_mode_while_a_crash_is_cleaned_up() {
    let scenario = Scenario::new("crash-refusal");
    let mut node = node(&scenario, &[]);
    let stopped = node.process("checkpointer");
    stop_process(stopped);
    process::kill(node.process("walwriter"), Signal::Kill).unwrap();
    node.wait_log("terminating any other active server processes");
    let error = node.try_client().expect_err("nobody is let in");
    assert_eq!(error.to_string().trim_end(), "FATAL 57P03: the database system is in recovery mode");
    process::kill(stopped, Signal::Cont).unwrap();
    wait::until("the node to serve again", || node.try_client().ok());
    node.stop();
}

#[test]
fn shutdown_that_comes_during_a_crash_is_honoured() {
    for (mode, signal) in [("smart", Signal::Term), ("fast", Signal::Int), ("immediate", Signal::Quit)] {
        let scenario = Scenario::new("crash-shutdown");
        let mut node = node(&scenario, &[]);
        let stopped = node.process("checkpointer");
        stop_process(stopped);
        process::kill(node.process("walwriter"), Signal::Kill).unwrap();
        node.wait_log("terminating any other active server processes");
        node.signal(signal);
        node.wait_log(&format!("received {mode} shutdown request"));
        process::kill(stopped, Signal::Cont).unwrap();
        assert_eq!(node.wait_end(), Some(1));
        node.wait_log("abnormal database system shutdown");
        assert_eq!(node.crash_restarts(), 0);
        assert!(!node.dir().join("postmaster.pid").exists());
    }
}

/// What SIGQUIT's handler sent would be taken for the rest of the row, or by a standby for a piece of the log.
#[test]
fn client_that_has_got_half_a_message_is_told_nothing() {
    let scenario = Scenario::new("quit-half-message");
    let mut node = node(&scenario, &["max_statement_size=64MB"]);
    let mut client = node.client();
    let backend = Pid(client.backend_pid);
    client.send_query("SELECT zeroblob(30000000)").unwrap();
    wait::until("the socket to be full", || {
        let sql =
            format!("SELECT 1 FROM pg_stat_activity WHERE pid = {backend} AND wait_event = 'ClientWrite'");
        (!node.rows(&sql).is_empty()).then_some(())
    });
    stop_process(backend);
    // All that is on the way: from now on there is room in the socket.
    client.set_read_timeout(Duration::from_millis(500));
    assert!(client.read_to_end().is_err(), "the row is not complete");
    process::kill(backend, Signal::Quit).unwrap();
    process::kill(backend, Signal::Cont).unwrap();
    client.set_read_timeout(wait::DEADLINE);
    assert_eq!(client.read_to_end().unwrap(), b"");
    wait::until("the node to reinitialize", || (node.crash_restarts() == 1).then_some(()));
    wait::until("the node to serve again", || node.try_client().ok());
    node.stop();
}

#[test]
fn immediate_shutdown_and_a_stray_sigquit_are_told_as_what_they_are() {
    let scenario = Scenario::new("quit-messages");
    let mut node = node(&scenario, &[]);
    let mut quit = idle_client(&node);
    let mut bystander = idle_client(&node);
    let before = node.crash_restarts();
    process::kill(Pid(quit.backend_pid), Signal::Quit).unwrap();
    let notice = last_words(&mut quit);
    assert_eq!(notice.sqlstate, "57P01");
    assert_eq!(notice.message, "terminating connection because of unexpected SIGQUIT signal");
    // It ended without detaching, so for the others it was a crash.
    assert_told_of_crash(&mut bystander);
    wait::until("the node to reinitialize", || (node.crash_restarts() == before + 1).then_some(()));
    wait::until("the node to serve again", || node.try_client().ok());
    let mut client = idle_client(&node);
    node.signal(Signal::Quit);
    let notice = last_words(&mut client);
    assert_eq!((notice.severity.as_str(), notice.sqlstate.as_str()), ("WARNING", "57P01"));
    assert_eq!(notice.message, "terminating connection due to immediate shutdown command");
    assert_eq!(node.wait_end(), Some(0));
}
