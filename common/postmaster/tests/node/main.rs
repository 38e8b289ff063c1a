//! The postmaster with real processes: start, order of shutdown, crashes, its own death.
//!
//! Goal: what the scripts of the state machine say, carried out by the kernel. Method: a node with tiny mains in processes
//! of its own (`harness.rs`); the test sees its log, its clients' ends and its data directory. One thread, tests one after
//! another, as fork demands.
#![forbid(unsafe_code)]

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use postmaster::pid_file::{Inspection, LockFileError, NodeStatus, PidFile, inspect};
use sys::clock;
use sys::process::{ExitStatus, kill};
use sys::signal::Signal;

use harness::{DEADLINE, Kind, Node, freeze, read_all};

/// Names a test after its function.
macro_rules! trials {
    ($($test:ident),* $(,)?) => {
        vec![$( Trial::test(stringify!($test), || { $test(); Ok(()) }) ),*]
    };
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = trials![
        primary_launches_its_children_and_serves,
        standby_launches_walreceiver_and_again_on_request_only,
        child_inherits_nothing_of_the_postmaster_but_the_lock,
        fast_shutdown_goes_in_order_with_walsenders_last,
        smart_shutdown_waits_for_clients_but_not_for_walsenders,
        smart_shutdown_goes_on_when_the_last_client_turns_out_to_be_a_walsender,
        immediate_shutdown_ends_all_at_once,
        immediate_shutdown_kills_who_does_not_listen_after_five_seconds,
        reload_reaches_the_postmaster_and_all_children,
        reload_waits_for_the_last_child_and_names_it,
        reload_doesnt_wait_for_who_leaves,
        reload_of_a_bad_file_is_refused,
        killed_archiver_restarts_the_node,
        killed_backend_stops_the_node_if_it_is_not_to_restart,
        backend_that_ends_attached_restarts_the_node_and_its_slot_is_free,
        backend_that_ends_with_1_is_nobodys_concern_and_frees_its_slot,
        startup_process_that_fails_ends_the_node,
        client_is_told_that_the_node_starts,
        client_is_told_that_there_are_too_many,
        killed_postmaster_takes_all_children_along_and_frees_the_port,
        second_postmaster_is_refused,
        orphans_refuse_a_start,
        port_in_use_refuses_a_start_and_leaves_nothing_behind,
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn data_dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn primary_launches_its_children_and_serves() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    node.wait_for("startup up");
    node.wait_for("checkpointer up");
    let port = node.lines().port;
    assert_ne!(port, 0, "the real port is in postmaster.pid");
    assert_eq!(node.lines().status, NodeStatus::Ready);
    assert_eq!(node.lines().pid, node.pid);
    node.assert_order(&[
        "starting Testship 1",
        &format!("listening on IPv4 address \"127.0.0.1\", port {port}"),
        &format!("listening on Unix socket \"{}/.s.PGSQL.{port}\"", dir.path().display()),
        "database system is ready to accept connections",
    ]);
    let _client = node.client('b');
    let mut local =
        UnixStream::connect(dir.path().join(format!(".s.PGSQL.{port}"))).expect("the node listens");
    local.write_all(b"b").expect("written");
    let mut answer = [0];
    local.read_exact(&mut answer).expect("the backend answers");
}

fn standby_launches_walreceiver_and_again_on_request_only() {
    let dir = data_dir();
    let mut node = Node::start(Kind::Standby, dir.path(), 0, 8);
    let walreceiver = node.pid_of("walreceiver");
    node.wait_for("database system is ready to accept read-only connections");
    assert_eq!(node.lines().status, NodeStatus::Standby);
    kill(walreceiver, Signal::Term).expect("it lives");
    node.wait_for("walreceiver ends");
    let _client = node.client('b');
    node.signal(Signal::Int);
    assert_eq!(node.join(), ExitStatus::Exited(0));
    assert_eq!(node.text().matches("walreceiver up").count(), 1);
}

fn child_inherits_nothing_of_the_postmaster_but_the_lock() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let _client = node.client('f');
    let line = node.wait_for("descriptors:");
    let count = |what: &str| line.matches(what).count();
    assert_eq!(count("[pidfd]"), 0, "{line}");
    assert_eq!(count("socket:"), 1, "the client's, no listener: {line}");
    assert_eq!(count("[signalfd]"), 1, "its own: {line}");
    assert_eq!(count("postmaster.pid"), 1, "the lock: {line}");
}

fn fast_shutdown_goes_in_order_with_walsenders_last() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let port = node.lines().port;
    let _client = node.client('b');
    let _standby = node.client('w');
    node.signal(Signal::Int);
    assert_eq!(node.join(), ExitStatus::Exited(0));
    node.assert_order(&[
        "received fast shutdown request",
        "aborting any active transactions",
        "backend ends",
        "startup ends",
        "checkpointer ends",
        "shutdown checkpoint",
        "walsender ends",
        "database system is shut down",
    ]);
    node.assert_order(&["backend ends", "walwriter ends", "checkpointer ends"]);
    node.assert_order(&["shutdown checkpoint", "archiver ends"]);
    let left = std::fs::read_dir(dir.path()).expect("readable").count();
    assert_eq!(left, 0, "pid file, socket and its lock file are removed");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

fn smart_shutdown_waits_for_clients_but_not_for_walsenders() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let client = node.client('b');
    let _standby = node.client('w');
    node.signal(Signal::Term);
    node.wait_for("received smart shutdown request");
    assert_eq!(read_all(node.connect()), "57P03 the database system is shutting down");
    assert_eq!(node.lines().status, NodeStatus::Stopping);
    assert!(!node.text().contains("startup ends"));
    drop(client);
    assert_eq!(node.join(), ExitStatus::Exited(0));
    node.assert_order(&["backend's client left", "startup ends", "checkpointer ends", "walsender ends"]);
}

fn smart_shutdown_goes_on_when_the_last_client_turns_out_to_be_a_walsender() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let mut undecided = node.connect();
    node.wait_for("connection accepted");
    node.signal(Signal::Term);
    node.wait_for("received smart shutdown request");
    undecided.write_all(b"w").expect("written");
    assert_eq!(node.join(), ExitStatus::Exited(0));
    // It may say that it is up after the postmaster has seen it and gone on.
    assert!(node.text().contains("walsender up"), "{}", node.text());
    node.assert_order(&["received smart shutdown", "startup ends", "checkpointer ends", "walsender ends"]);
}

fn immediate_shutdown_ends_all_at_once() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let _client = node.client('b');
    let _standby = node.client('w');
    node.signal(Signal::Quit);
    assert_eq!(node.join(), ExitStatus::Exited(0));
    node.assert_order(&["received immediate shutdown request", "database system is shut down"]);
    assert!(!node.text().contains("ends"), "nobody has had the time to end in order:\n{}", node.text());
    assert!(!node.text().contains("SIGKILL"));
}

fn immediate_shutdown_kills_who_does_not_listen_after_five_seconds() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    freeze(node.pid_of("walwriter"));
    node.signal(Signal::Quit);
    assert_eq!(node.join(), ExitStatus::Exited(0));
    node.assert_order(&["issuing SIGKILL to recalcitrant children", "database system is shut down"]);
}

fn reload_reaches_the_postmaster_and_all_children() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let _client = node.client('b');
    let _standby = node.client('w');
    node.signal(Signal::Hup);
    for name in ["postmaster", "startup", "walwriter", "checkpointer", "backend", "walsender"] {
        node.wait_for(&format!("{name} reloads"));
    }
    node.assert_order(&["received SIGHUP, reloading configuration files", "postmaster reloads"]);
    node.wait_for_reload("reload 1 done 1 done");
}

fn reload_waits_for_the_last_child_and_names_it() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let _client = node.client('b');
    let walwriter = node.pid_of("walwriter");
    freeze(walwriter);
    node.signal(Signal::Hup);
    node.wait_for_reload("reload 1 absorbing 1 absorbing");
    node.wait_for("backend reloads");
    node.signal(Signal::Usr1);
    node.wait_for_reload(&format!("reload 1 absorbing PID {walwriter} (WAL writer process) 1 absorbing"));
    node.signal(Signal::Hup);
    node.wait_for_reload("reload 2 absorbing 2 absorbing");
    kill(walwriter, Signal::Cont).expect("it lives");
    node.wait_for("walwriter reloads");
    node.wait_for_reload("reload 2 done 2 done");
}

fn reload_doesnt_wait_for_who_leaves() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let client = node.client('b');
    let backend = node.pid_of("backend");
    freeze(backend);
    node.signal(Signal::Hup);
    node.wait_for_reload("reload 1 absorbing 1 absorbing");
    for name in ["startup", "walwriter", "checkpointer"] {
        node.wait_for(&format!("{name} reloads"));
    }
    drop(client);
    kill(backend, Signal::Term).expect("it lives");
    kill(backend, Signal::Cont).expect("it lives");
    node.wait_for_reload("reload 1 done 1 done");
}

fn reload_of_a_bad_file_is_refused() {
    let dir = data_dir();
    let node = Node::primary(dir.path());
    std::fs::write(dir.path().join("bad"), "").expect("written");
    node.signal(Signal::Hup);
    node.wait_for_reload("reload 1 refused the file is bad 1 refused");
    std::fs::remove_file(dir.path().join("bad")).expect("removed");
    node.signal(Signal::Hup);
    node.wait_for_reload("reload 2 done 2 done");
}

fn killed_backend_stops_the_node_if_it_is_not_to_restart() {
    let dir = data_dir();
    std::fs::write(dir.path().join("no-restart"), "").expect("written");
    let mut node = Node::primary(dir.path());
    let _client = node.client('b');
    let _standby = node.client('w');
    let backend = node.pid_of("backend");
    kill(backend, Signal::Kill).expect("it lives");
    assert_eq!(node.join(), ExitStatus::Exited(1));
    node.assert_order(&[
        &format!("server process (PID {backend}) was terminated by signal 9: Killed"),
        "DETAIL:  Failed process was running: a statement",
        "terminating any other active server processes",
        "shutting down because restart_after_crash is off",
        "database system is shut down",
    ]);
    assert!(!node.text().contains("ends"));
    assert_eq!(inspect(dir.path()).expect("readable"), Inspection::NoFile);
    Node::primary(dir.path());
}

fn killed_archiver_restarts_the_node() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let archiver = node.pid_of("archiver");
    kill(archiver, Signal::Kill).expect("it lives");
    node.wait_for("all server processes terminated; reinitializing");
    serves_again(&mut node);
    node.assert_order(&[
        &format!("archiver process (PID {archiver}) was terminated by signal 9: Killed"),
        "terminating any other active server processes",
        "reinitializing",
        "startup up",
        "walwriter up",
    ]);
}

fn backend_that_ends_attached_restarts_the_node_and_its_slot_is_free() {
    let dir = data_dir();
    let mut node = Node::start(Kind::Primary, dir.path(), 0, 1);
    node.wait_for("walwriter up");
    let _client = node.client('a');
    node.wait_for("all server processes terminated; reinitializing");
    serves_again(&mut node);
    node.assert_order(&[
        "exited with exit code 0 without detaching from shared memory",
        "terminating any other active server processes",
        "reinitializing",
    ]);
}

/// A backend can be had, and the node shuts down in order.
fn serves_again(node: &mut Node) {
    let deadline = clock::now().saturating_add(DEADLINE);
    while !exits_with_1(node) {
        assert!(clock::now() < deadline, "it does not serve again");
    }
    node.signal(Signal::Int);
    assert_eq!(node.join(), ExitStatus::Exited(0));
}

fn backend_that_ends_with_1_is_nobodys_concern_and_frees_its_slot() {
    let dir = data_dir();
    let mut node = Node::start(Kind::Primary, dir.path(), 0, 1);
    node.wait_for("walwriter up");
    for _ in 0..5 {
        // The end of a stream may be seen before the postmaster has reaped: then the one slot is still taken.
        let deadline = clock::now().saturating_add(DEADLINE);
        while !exits_with_1(&node) {
            assert!(clock::now() < deadline, "the slot is not freed");
        }
    }
    node.signal(Signal::Int);
    assert_eq!(node.join(), ExitStatus::Exited(0));
    assert_eq!(node.text().matches("backend up").count(), 5);
}

/// Connects and asks the backend to exit with status 1; false: refused, also by a reset of a client that had not been
/// listened to.
fn exits_with_1(node: &Node) -> bool {
    let mut stream = node.connect();
    let mut answer = [0];
    stream.write_all(b"1").is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"."
}

fn startup_process_that_fails_ends_the_node() {
    let dir = data_dir();
    let mut node = Node::start(Kind::Broken, dir.path(), 0, 8);
    assert_eq!(node.join(), ExitStatus::Exited(1));
    node.assert_order(&[
        "exited with exit code 1",
        "aborting startup due to startup process failure",
        "database system is shut down",
    ]);
}

fn client_is_told_that_the_node_starts() {
    let dir = data_dir();
    let mut node = Node::start(Kind::Recovering, dir.path(), 0, 8);
    node.wait_for("startup up");
    assert_eq!(node.lines().status, NodeStatus::Starting);
    assert_eq!(read_all(node.connect()), "57P03 the database system is starting up");
    node.signal(Signal::Int);
    assert_eq!(node.join(), ExitStatus::Exited(0));
}

fn client_is_told_that_there_are_too_many() {
    let dir = data_dir();
    let mut node = Node::start(Kind::Primary, dir.path(), 0, 2);
    node.wait_for("walwriter up");
    let _first = node.client('b');
    let _second = node.client('w');
    assert_eq!(read_all(node.connect()), "53300 sorry, too many clients already");
}

fn killed_postmaster_takes_all_children_along_and_frees_the_port() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let _client = node.client('b');
    let _standby = node.client('w');
    node.wait_for("startup up");
    node.wait_for("checkpointer up");
    let port = node.lines().port;
    node.signal(Signal::Kill);
    node.wait_all_gone(Duration::from_secs(1));
    assert!(matches!(inspect(dir.path()), Ok(Inspection::Stale(_))));
    let mut next = Node::start(Kind::Primary, dir.path(), port, 8);
    next.wait_for("database system is ready to accept connections");
    let _client = next.client('b');
}

fn second_postmaster_is_refused() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let error = PidFile::create(dir.path()).expect_err("it is taken");
    assert_eq!(error.to_string(), "lock file \"postmaster.pid\" already exists");
    assert!(
        error
            .hint()
            .expect("a hint")
            .starts_with(&format!("Is another postmaster (PID {}) running", node.pid))
    );
    let mut second = Node::start(Kind::Primary, dir.path(), 0, 8);
    assert_eq!(second.join(), ExitStatus::Exited(1));
    let _still_serves = node.client('b');
}

fn orphans_refuse_a_start() {
    let dir = data_dir();
    let mut node = Node::primary(dir.path());
    let walwriter = node.pid_of("walwriter");
    freeze(walwriter);
    node.signal(Signal::Kill);
    assert_eq!(node.reap(), ExitStatus::Signaled(9));
    assert!(matches!(inspect(dir.path()), Ok(Inspection::Orphans(_))));
    let error = PidFile::create(dir.path()).expect_err("the walwriter lives");
    assert!(matches!(error, LockFileError::Orphans { .. }), "{error}");
    assert!(error.to_string().contains("pre-existing") && error.to_string().ends_with("still in use"));
    kill(walwriter, Signal::Cont).expect("it lives");
    node.wait_all_gone(DEADLINE);
    PidFile::create(dir.path()).expect("all are gone");
}

fn port_in_use_refuses_a_start_and_leaves_nothing_behind() {
    let (first_dir, second_dir) = (data_dir(), data_dir());
    let first = Node::primary(first_dir.path());
    let mut second = Node::start(Kind::Primary, second_dir.path(), first.lines().port, 8);
    assert_eq!(second.join(), ExitStatus::Exited(1));
    second
        .assert_order(&["could not bind IPv4 address \"127.0.0.1\"", "could not create any TCP/IP sockets"]);
    assert_eq!(std::fs::read_dir(second_dir.path()).expect("readable").count(), 0);
}
