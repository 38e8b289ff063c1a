//! `status`, `stop` and `run` in every situation that a script can bring them into, each with the exit status and the words
//! that it can rely on.
//!
//! Method: the programs as a user starts them. As PostgreSQL's pg_ctl tests 001_start_stop and 002_status.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use integration_tests::client::Client;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

fn on(node: &Node, command: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut arguments = vec![command, "-D", node.dir().to_str().unwrap()];
    arguments.extend(more);
    said(&node.command(&arguments))
}

/// Of `status`.
fn first_line(node: &Node) -> (Option<i32>, String) {
    let (status, text) = on(node, "status", &[]);
    (status, text.lines().next().unwrap_or_default().to_owned())
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8_lossy(&text).trim_end().to_owned())
}

#[test]
fn directories_that_hold_no_node_are_told_apart() {
    let scenario = Scenario::new("commands-no-node");
    let missing = Node::at(&scenario, "missing", integration_tests::node::Role::Primary);
    let why = format!("error: directory \"{}\" does not exist", missing.dir().display());
    assert_eq!(on(&missing, "status", &[]), (Some(4), why.clone()));
    assert_eq!(on(&missing, "stop", &[]), (Some(1), why));
    assert_eq!(on(&missing, "run", &[]).0, Some(1));

    let empty = Node::at(&scenario, "empty", integration_tests::node::Role::Primary);
    std::fs::create_dir(empty.dir()).unwrap();
    let why = format!("error: directory \"{}\" is not a database cluster directory", empty.dir().display());
    assert_eq!(on(&empty, "status", &[]), (Some(4), why.clone()));
    assert_eq!(on(&empty, "stop", &[]), (Some(1), why));
    assert_eq!(on(&empty, "run", &[]).0, Some(1));
    assert_eq!(std::fs::read_dir(empty.dir()).unwrap().count(), 0, "nothing is made in it");
}

#[test]
fn data_directory_that_others_can_read_is_refused() {
    let scenario = Scenario::new("commands-permissions");
    let mut node = Node::init(&scenario, "primary", &[]);
    let mode = |mode| std::fs::set_permissions(node.dir(), std::fs::Permissions::from_mode(mode)).unwrap();
    for open in [0o755, 0o750, 0o701] {
        mode(open);
        let (status, why) = on(&node, "run", &["-c", "port=0"]);
        assert_eq!(status, Some(1));
        let says = format!("FATAL:  data directory \"{}\" has invalid permissions", node.dir().display());
        assert!(why.contains(&says), "{why}");
        assert!(why.contains("DETAIL:  Permissions should be u=rwx (0700)."), "{why}");
        assert_eq!(first_line(&node), (Some(3), "no server running".to_owned()));
    }
    mode(0o700);
    node.start();
    node.stop();
}

#[test]
fn log_of_a_start_and_a_stop_has_the_lines_that_scripts_look_for() {
    let scenario = Scenario::new("commands-log");
    let mut node = Node::init(&scenario, "primary", &[]);
    node.start();
    let (pid, port) = (node.pid(), node.port());
    node.stop();
    let lines = [
        format!("[{pid}] LOG:  starting Walship "),
        format!("[{pid}] LOG:  listening on IPv4 address \"127.0.0.1\", port {port}"),
        format!("[{pid}] LOG:  listening on Unix socket \"{}/.s.PGSQL.{port}\"", node.dir().display()),
        format!("[{pid}] LOG:  database system is ready to accept connections"),
        format!("[{pid}] LOG:  received fast shutdown request"),
        format!("[{pid}] LOG:  aborting any active transactions"),
        format!("[{pid}] LOG:  database system is shut down"),
    ];
    let log = node.log();
    let mut rest = log.as_str();
    for line in &lines {
        rest = rest.split_once(line.as_str()).unwrap_or_else(|| panic!("{line:?} is missing in:\n{log}")).1;
    }
    assert_eq!(rest.trim_end(), "", "nothing comes after it");
}

#[test]
fn node_is_started_once_and_stopped_once() {
    let scenario = Scenario::new("commands-twice");
    let mut node = Node::init(&scenario, "primary", &[]);
    assert_eq!(first_line(&node), (Some(3), "no server running".to_owned()));
    let (status, why) = on(&node, "stop", &[]);
    assert_eq!(status, Some(1));
    assert!(why.contains("no node runs in"), "{why}");
    node.start();
    let (status, line) = on(&node, "status", &[]);
    assert_eq!(status, Some(0));
    assert!(line.contains(&format!("primary is running (PID: {})", node.pid())), "{line}");
    let (status, why) = on(&node, "run", &["-c", "port=0"]);
    assert_eq!(status, Some(1));
    assert!(why.contains("lock file \"postmaster.pid\" already exists"), "{why}");
    assert!(why.contains(&format!("Is another postmaster (PID {}) running", node.pid())), "{why}");
    node.query("SELECT 1");
    node.stop();
    assert_eq!(on(&node, "status", &[]).0, Some(3));
    assert_eq!(on(&node, "stop", &[]).0, Some(1));
}

#[test]
fn stop_escalates_from_smart_to_fast_and_gives_up_waiting_in_time() {
    let scenario = Scenario::new("commands-escalate");
    let mut node = Node::init(&scenario, "primary", &[]);
    node.start();
    let mut client = node.client();
    let (status, why) = on(&node, "stop", &["-m", "smart", "-t", "1"]);
    assert_eq!(status, Some(1));
    assert!(why.contains("server does not shut down"), "{why}");
    client.query("SELECT 1").expect("a smart shutdown leaves sessions alone");
    let refused = node.try_client().expect_err("nobody is let in");
    assert_eq!(refused.to_string().trim_end(), "FATAL 57P03: the database system is shutting down");
    let (status, line) = on(&node, "status", &[]);
    assert!(status == Some(0) && line.lines().next().unwrap().ends_with(", stopping"), "{line}");
    node.stop();
}

#[test]
fn pid_file_of_a_dead_node_is_no_obstacle_whoever_has_its_pid_now() {
    let scenario = Scenario::new("commands-stale");
    let mut node = Node::init(&scenario, "primary", &[]);
    node.start();
    node.kill();
    let path = node.dir().join("postmaster.pid");
    let text = std::fs::read_to_string(&path).unwrap();
    // The pid of a living process that is no node: this one.
    let (_, rest) = text.split_once('\n').unwrap();
    std::fs::write(&path, format!("{}\n{rest}", std::process::id())).unwrap();
    assert_eq!(first_line(&node), (Some(3), "no server running".to_owned()));
    assert_eq!(on(&node, "stop", &[]).0, Some(1));
    node.start();
    node.stop();
}

#[test]
fn replication_connection_beyond_the_limit_and_a_client_that_says_nothing_are_sent_away() {
    let scenario = Scenario::new("commands-admission");
    let mut node = Node::init(&scenario, "primary", &[]);
    node.set("max_wal_senders=1");
    node.set("authentication_timeout=1s");
    node.start();
    let replication = [("replication", "true")];
    let first = Client::connect(&node.address(), &replication).unwrap();
    let refused = Client::connect(&node.address(), &replication).expect_err("one is enough");
    assert_eq!(
        refused.to_string().trim_end(),
        "FATAL 53300: number of requested standby connections exceeds max_wal_senders (currently 1)"
    );
    let walsender = Pid(first.backend_pid);
    drop(first);
    wait::until("the place to be free again", || Client::connect(&node.address(), &replication).ok());
    // It gives its place back a moment before it ends.
    wait::until("the first to be gone", || process::kill(walsender, Signal::Cont).err());
    for half_a_packet in [&b""[..], &[0, 0], &[0, 0, 0, 40, 0, 3, 0, 0, b'u']] {
        let mut silent = Client::connect_raw(&node.address()).unwrap();
        silent.send_bytes(half_a_packet).unwrap();
        let told = silent.read_to_end().expect("it is closed in time");
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("canceling authentication due to timeout"), "{told}");
    }
    node.query("SELECT 1");
    node.stop();
}

#[test]
fn settings_given_to_init_are_in_the_file_that_it_makes() {
    let scenario = Scenario::new("commands-init-settings");
    let dir = scenario.path("primary");
    let init = |setting: &str| {
        let node = Node::at(&scenario, "primary", integration_tests::node::Role::Primary);
        on(&node, "init", &["-c", setting, "--set", "wal_keep_size=512MB"])
    };
    for (wrong, status) in [("no_such_setting=1", 2), ("wal_sender_timeout=soon", 2), ("port", 2)] {
        assert_eq!(init(wrong).0, Some(status), "{wrong}");
        assert!(!dir.exists(), "{wrong}");
    }
    assert_eq!(init("synchronous_standby_names=FIRST 1 (a, b)").0, Some(0));
    let mut node = Node::at(&scenario, "primary", integration_tests::node::Role::Primary);
    node.start();
    assert_eq!(node.value("SHOW synchronous_standby_names"), "FIRST 1 (a, b)");
    assert_eq!(node.value("SHOW wal_keep_size"), "512MB");
}
