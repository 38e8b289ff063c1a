//! `status` tells role, positions, who follows whom, what is waited for and what is wrong, in every state that a node can be
//! in; its first line and its exit status are those that scripts rely on.
//!
//! Method: the programs as a user starts them, on nodes that are brought into each state: stopped, killed, starting, without a
//! standby that counts, without an upstream, paused, on a full disk, standing still.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, parse_error};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::shim::Shim;
use integration_tests::small_disk::SmallDisk;
use integration_tests::wait;
use sys::signal::Signal;

/// What `status` prints, and its exit status.
fn status(node: &Node) -> (Option<i32>, String) {
    let output = node.command(&["status", "-D", node.dir().to_str().unwrap()]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The text behind a label.
#[track_caller]
fn told(text: &str, label: &str) -> String {
    let begin = format!("{label}:");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&begin));
    let first = lines.next().unwrap_or_else(|| panic!("no {label} in:\n{text}"));
    let rest = lines.take_while(|line| line.starts_with(' ')).map(str::trim);
    std::iter::once(first[begin.len()..].trim()).chain(rest).collect::<Vec<_>>().join("\n")
}

fn wrong(node: &Node) -> String {
    told(&status(node).1, "What is wrong")
}

fn wait_wrong(node: &Node, text: &str) {
    let found = wait::within(wait::DEADLINE, || wrong(node).contains(text).then_some(()));
    assert!(found.is_some(), "never said {text:?}:\n{}", status(node).1);
}

#[test]
fn pair_that_is_well_says_who_follows_whom() {
    let scenario = Scenario::new("status-pair");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.wait_caught_up();
    let end = cluster.primary.lsn("pg_current_wal_flush_lsn");
    wait::until("the standby's report", || {
        let applied = cluster.primary.value("SELECT replay_lsn FROM pg_stat_replication");
        (applied == end.to_string()).then_some(())
    });
    let (code, text) = status(&cluster.primary);
    assert_eq!(code, Some(0));
    let first = format!(
        "primary is running (PID: {}), port {}, ready",
        cluster.primary.pid(),
        cluster.primary.port()
    );
    assert_eq!(text.lines().next(), Some(first.as_str()));
    assert_eq!((told(&text, "Role").as_str(), told(&text, "Timeline").as_str()), ("primary", "1"));
    assert_eq!(told(&text, "State"), "takes writes");
    assert_eq!(told(&text, "Log"), format!("inserted {end}, durable {end}"));
    let standby =
        format!("standby (127.0.0.1): streaming, async, has durable {end}, applied {end}, 0 bytes behind");
    assert!(told(&text, "Standbys").starts_with(&standby), "{text}");
    assert_eq!((told(&text, "Slots").as_str(), told(&text, "What is wrong").as_str()), ("none", "none"));

    let (code, text) = status(&cluster.standby);
    assert_eq!(code, Some(0));
    assert!(
        text.lines().next().unwrap().ends_with(&format!("port {}, standby", cluster.standby.port())),
        "{text}"
    );
    assert_eq!(told(&text, "Role"), "standby");
    assert_eq!(told(&text, "Log"), format!("received {end}, durable {end}, safe to show {end}"));
    let upstream =
        format!("streaming from 127.0.0.1 port {} without a slot, 0 bytes behind it", cluster.primary.port());
    assert!(told(&text, "Upstream").starts_with(&upstream), "{text}");
    assert_eq!(told(&text, "What is wrong"), "none");

    cluster.standby.promote();
    let text = status(&cluster.standby).1;
    assert_eq!((told(&text, "Role").as_str(), told(&text, "Timeline").as_str()), ("primary", "2"));
    cluster.stop();
}

#[test]
fn node_that_does_not_run_says_what_it_was_at() {
    let scenario = Scenario::new("status-stopped");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    let (code, text) = status(&node);
    assert_eq!((code, text.lines().next()), (Some(3), Some("no server running")));
    assert_eq!(told(&text, "State"), "stopped; the control file says \"starting up\"");
    assert!(!text.contains("What is wrong"), "{text}");
    node.start();
    node.stop();
    let (code, text) = status(&node);
    assert_eq!((code, text.lines().next()), (Some(3), Some("no server running")));
    assert_eq!(told(&text, "State"), "stopped; the control file says \"shut down\"");
    assert_eq!((told(&text, "Role").as_str(), told(&text, "Timeline").as_str()), ("primary", "1"));
    assert!(told(&text, "Last checkpoint").contains(", redo from 0/1"), "{text}");
    node.start();
    node.query("CHECKPOINT");
    node.kill_all();
    let (code, text) = status(&node);
    assert_eq!(code, Some(3));
    assert_eq!(told(&text, "State"), "stopped; the control file says \"in production\"");
    assert_eq!(told(&text, "What is wrong"), "the node was not shut down in order; the next start recovers");
    std::fs::write(node.dir().join("control"), b"no control file").unwrap();
    let (code, text) = status(&node);
    assert_eq!(code, Some(3));
    assert!(told(&text, "What is wrong").contains("control"), "{text}");
}

#[test]
fn node_that_starts_is_asked_as_well() {
    let scenario = Scenario::new("status-starting");
    let shim = Shim::new(&scenario);
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    node.query("CREATE TABLE t(x)");
    node.kill_all();
    shim.put_under(&mut node);
    shim.hold_syncs();
    node.spawn();
    wait::until("the node to listen", || Client::connect_raw(&node.address()).ok());
    let (code, text) = status(&node);
    assert_eq!(code, Some(0));
    assert!(text.lines().next().unwrap().ends_with(", starting"), "{text}");
    assert_eq!(told(&text, "State"), "the database system is starting up");
    assert_eq!((told(&text, "Role").as_str(), told(&text, "What is wrong").as_str()), ("primary", "none"));
    shim.release_syncs();
    wait::until("the node to serve", || node.try_client().ok());
    assert_eq!(told(&status(&node).1, "State"), "takes writes");
    node.stop();
}

#[test]
fn missing_standbys_and_who_waits_for_them_are_named() {
    let scenario = Scenario::new("status-quorum");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.primary.reload("synchronous_standby_names = 'absent, standby'");
    cluster.primary.query("INSERT INTO t VALUES (1)");
    wait::until("nothing to be wrong", || (wrong(&cluster.primary) == "none").then_some(()));
    assert!(told(&status(&cluster.primary).1, "Standbys").contains(": streaming, sync, "));
    cluster.standby.stop();
    let mut client = cluster.primary.client();
    client.send_query("INSERT INTO t VALUES (2)").unwrap();
    wait_wrong(
        &cluster.primary,
        "Commits need synchronous standbys ('absent, standby') that are missing: \"absent\" is not connected, \"standby\" is not connected.",
    );
    wait::until("the commit to wait", || {
        let text = status(&cluster.primary).1;
        told(&text, "Waits").contains("client backend (1): SyncRep, ").then_some(())
    });
    assert_eq!(told(&status(&cluster.primary).1, "Standbys"), "none");
    cluster.standby.start();
    assert_eq!(client.read_answer().unwrap().error, None);
    cluster.stop();
}

#[test]
fn standby_says_why_it_does_not_follow() {
    let scenario = Scenario::new("status-standby");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.wait_caught_up();
    let standby = &cluster.standby;
    standby.query("SELECT pg_wal_replay_pause()");
    assert_eq!(wrong(standby), "Replay is paused: SELECT pg_wal_replay_resume() lets it go on.");
    standby.query("SELECT pg_wal_replay_resume()");
    let port = cluster.primary.port();
    cluster.primary.stop();
    wait_wrong(standby, "The standby does not stream: could not connect to the primary server: ");
    assert!(
        wrong(standby).contains(&format!("port {port} failed: Connection refused")),
        "{}",
        wrong(standby)
    );
    standby.reload("primary_conninfo = ''");
    wait_wrong(standby, "Neither primary_conninfo nor restore_command is set");
    assert_eq!(told(&status(standby).1, "Upstream"), "none set (primary_conninfo)");
    cluster.standby.stop();
}

#[test]
fn full_disk_lost_slot_and_failing_archive_are_said() {
    let scenario = Scenario::new("status-full");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 24) else { return };
    let mut node = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    for setting in [
        "archive_mode=on",
        "archive_command=false",
        "disk_reserve=1MB",
        "max_slot_wal_keep_size=1MB",
        "wal_keep_size=0",
    ] {
        node.set(setting);
    }
    node.start();
    node.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    node.query("SELECT pg_create_physical_replication_slot('left', true)");
    node.query("SELECT pg_switch_wal()");
    wait_wrong(&node, "archive_command has failed ");
    let mut client = node.client();
    let mut id = 0;
    while client
        .answer(&format!("INSERT INTO t VALUES ({id}, '{}')", "f".repeat(100_000)))
        .unwrap()
        .error
        .is_none()
    {
        id += 1;
        assert!(id < 10_000, "the disk never fills up");
    }
    let (code, text) = status(&node);
    assert_eq!(code, Some(0));
    assert!(told(&text, "What is wrong").contains(" is full: "), "{text}");
    assert!(told(&text, "What is wrong").contains("Slot \"left\" "), "{text}");
    disk.resize(64);
    wait::until("room", || (!wrong(&node).contains(" is full: ")).then_some(()));
    node.stop();
}

#[test]
fn node_that_stands_still_is_told_from_one_that_answers() {
    let scenario = Scenario::new("status-still");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    node.signal(Signal::Stop);
    let (code, text) = status(&node);
    assert_eq!(code, Some(0));
    assert!(told(&text, "What is wrong").starts_with("the node does not answer on socket "), "{text}");
    assert!(told(&text, "State").ends_with("the control file says \"in production\""), "{text}");
    node.signal(Signal::Cont);
    node.stop();
    // Without a Unix socket nobody can be asked who he is.
    node.set("unix_socket_directories=");
    node.start();
    let (code, text) = status(&node);
    assert_eq!(code, Some(0));
    assert!(told(&text, "What is wrong").starts_with("the node has no Unix socket "), "{text}");
    node.stop();
}

#[test]
fn nobody_is_told_over_tcp() {
    let scenario = Scenario::new("status-tcp");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    const REQUEST: u32 = (1234 << 16) | 5900;
    let mut client = Client::connect_raw(&node.address()).unwrap();
    client.send_packet(&REQUEST.to_be_bytes()).unwrap();
    let message = client.read_message().unwrap();
    assert_eq!(message.tag, b'E');
    let error = parse_error(&message.body);
    assert_eq!((error.severity.as_str(), error.sqlstate.as_str()), ("FATAL", "28000"));
    let mut client = Client::connect_raw(&node.unix_address()).unwrap();
    client.send_packet(&REQUEST.to_be_bytes()).unwrap();
    assert_eq!(client.read_message().unwrap().tag, b'T');
    // What follows the code is no part of it.
    let mut client = Client::connect_raw(&node.unix_address()).unwrap();
    client.send_packet(&[&REQUEST.to_be_bytes()[..], b"x"].concat()).unwrap();
    client.read_to_end().unwrap();
    node.query("SELECT 1");
    node.stop();
}
