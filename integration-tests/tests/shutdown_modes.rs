//! Smart, fast and immediate shutdown, each with clients that are idle, busy, or take nothing, and from one mode to the next:
//! who is waited for, who is told what, how the node ends, and that nothing acknowledged is lost by it.
//!
//! Method: real nodes, stopped by signals and by `stop -m`. As PostgreSQL's pg_ctl does it; its words are in `commands.rs`.
//!
//! | | idle client | busy client | client that takes nothing | process that doesn't answer |
//! |---|---|---|---|---|
//! | smart | waits for it to leave | statement goes on | waits | waits |
//! | fast | FATAL 57P01 | FATAL 57P01 | closed | waits |
//! | immediate | WARNING 57P01 | WARNING 57P01 | closed | SIGKILL after 5 s |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, ServerError, parse_error};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

fn node(scenario: &Scenario) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    node.set("max_statement_size=64MB");
    node.set("write_statement_timeout=10min");
    node.start();
    node.query("CREATE TABLE t(x)");
    node.query("INSERT INTO t VALUES (1)");
    node
}

fn wait_for_event(node: &Node, client: &Client, event: &str) {
    let pid = client.backend_pid;
    let sql = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = '{event}'");
    wait::until(event, || (!node.rows(&sql).is_empty()).then_some(()));
}

fn idle(node: &Node) -> Client {
    let client = node.client();
    wait_for_event(node, &client, "ClientRead");
    client
}

fn sleeping(node: &Node) -> Client {
    let mut client = node.client();
    client.send_query("SELECT pg_sleep(1000)").unwrap();
    wait_for_event(node, &client, "PgSleep");
    client
}

/// The startup process executes what never ends.
fn writing(node: &Node) -> Client {
    let mut client = node.client();
    let endless = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                   SELECT i FROM n WHERE i < 0";
    client.send_query(endless).unwrap();
    wait_for_event(node, &client, "WriterOutcome");
    client
}

/// Gets a row that is larger than what the kernel takes, and reads nothing of it.
fn taking_nothing(node: &Node) -> Client {
    let mut client = node.client();
    client.send_query("SELECT zeroblob(30000000)").unwrap();
    wait_for_event(node, &client, "ClientWrite");
    client
}

fn stop_process(pid: Pid) {
    process::kill(pid, Signal::Stop).unwrap();
    wait::until("the process to be stopped", || procfs::stopped(pid).then_some(()));
}

/// The last message before the end of the connection.
fn last_words(client: &mut Client) -> ServerError {
    let message = client.read_message().expect("a word before the end");
    assert!(matches!(message.tag, b'E' | b'N'), "{message:?}");
    assert_eq!(client.read_to_end().unwrap(), b"", "and nothing after it");
    parse_error(&message.body)
}

fn said(error: &ServerError) -> String {
    format!("{} {}: {}", error.severity, error.sqlstate, error.message)
}

const FAST: &str = "FATAL 57P01: terminating connection due to administrator command";
const IMMEDIATE: &str = "WARNING 57P01: terminating connection due to immediate shutdown command";

#[test]
fn smart_shutdown_waits_for_whatever_clients_do_and_lets_them_cancel() {
    let scenario = Scenario::new("shutdown-smart");
    let mut node = node(&scenario);
    let walsender = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    let (mut idle, mut sleeping, mut silent) = (idle(&node), sleeping(&node), taking_nothing(&node));
    node.signal(Signal::Term);
    node.wait_log("received smart shutdown request");
    idle.query("INSERT INTO t VALUES (2)").expect("a session goes on");
    // Nobody is let in; a cancel request is no session.
    sleeping.cancel().unwrap();
    assert_eq!(sleeping.read_answer().unwrap().error.unwrap().sqlstate, "57014");
    assert_eq!(idle.value("SELECT count(*) FROM t"), "2");
    drop((idle, sleeping));
    assert!(!silent.read_answer().unwrap().rows.is_empty(), "all of the row comes");
    drop(silent);
    assert_eq!(node.wait_end(), Some(0), "the walsender's client is not waited for");
    drop(walsender);
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM t"), "2");
    assert!(!node.log().contains("automatic recovery"), "{}", node.log_tail());
    node.stop();
}

#[test]
fn fast_shutdown_ends_sessions_in_order_whatever_they_do() {
    let scenario = Scenario::new("shutdown-fast");
    let mut node = node(&scenario);
    let mut told = [idle(&node), sleeping(&node), writing(&node)];
    let mut silent = taking_nothing(&node);
    node.stop();
    for client in &mut told {
        assert_eq!(said(&last_words(client)), FAST);
    }
    assert!(silent.read_answer().is_err(), "half a row is no row");
    assert!(node.log().contains("aborting any active transactions"));
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM t"), "1");
    assert!(!node.log().contains("automatic recovery"), "{}", node.log_tail());
    node.stop();
}

#[test]
fn immediate_shutdown_ends_at_once_whatever_sessions_do_and_the_next_start_recovers() {
    let scenario = Scenario::new("shutdown-immediate");
    let mut node = node(&scenario);
    let mut told = [idle(&node), sleeping(&node), writing(&node)];
    let mut silent = taking_nothing(&node);
    let output = node.command(&["stop", "-D", node.dir().to_str().unwrap(), "-m", "immediate"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "server stopped");
    assert_eq!(node.wait_end(), Some(0));
    for client in &mut told {
        assert_eq!(said(&last_words(client)), IMMEDIATE);
    }
    assert!(silent.read_answer().is_err(), "half a row is no row");
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM t"), "1");
    node.stop();
}

#[test]
fn shutdown_only_escalates_and_the_last_resort_is_sigkill() {
    let scenario = Scenario::new("shutdown-escalates");
    let mut node = node(&scenario);
    let mut bystander = idle(&node);
    let hung = idle(&node);
    stop_process(Pid(hung.backend_pid));
    let stop = |node: &Node, mode: &str| {
        let output = node.command(&["stop", "-D", node.dir().to_str().unwrap(), "-m", mode, "-t", "1"]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(stop(&node, "smart").contains("server does not shut down"));
    bystander.query("SELECT 1").expect("a smart shutdown leaves sessions alone");
    assert!(stop(&node, "fast").contains("server does not shut down"), "one doesn't answer");
    assert_eq!(said(&last_words(&mut bystander)), FAST);
    node.signal(Signal::Term);
    assert!(stop(&node, "smart").contains("server does not shut down"));
    assert_eq!(node.log().matches("received smart shutdown request").count(), 1, "it is no smart one again");
    node.signal(Signal::Quit);
    assert_eq!(node.wait_end(), Some(0));
    node.wait_log("issuing SIGKILL to recalcitrant children");
    assert!(!procfs::runs(Pid(hung.backend_pid)));
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM t"), "1");
    node.stop();
}

#[test]
fn standby_stops_in_every_mode_whatever_its_readers_do() {
    let scenario = Scenario::new("shutdown-standby");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(x)");
    cluster.wait_caught_up();
    let mut reader = idle(&cluster.standby);
    cluster.standby.signal(Signal::Term);
    cluster.standby.wait_log("received smart shutdown request");
    assert_eq!(reader.value("SELECT count(*) FROM t"), "0");
    drop(reader);
    assert_eq!(cluster.standby.wait_end(), Some(0));
    for (mode, words) in [(Signal::Int, FAST), (Signal::Quit, IMMEDIATE)] {
        cluster.standby.start();
        let mut told = [idle(&cluster.standby), sleeping(&cluster.standby)];
        cluster.standby.signal(mode);
        assert_eq!(cluster.standby.wait_end(), Some(0));
        for client in &mut told {
            assert_eq!(said(&last_words(client)), words);
        }
    }
    cluster.primary.query("INSERT INTO t VALUES (1)");
    cluster.standby.start();
    cluster.assert_equal(&["t"]);
    cluster.stop();
}
