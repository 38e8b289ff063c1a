//! Who is let in, in every state of a node, and what the others are told: PostgreSQL's messages and SQLSTATEs, by which
//! drivers decide whether to come back.
//!
//! Method: real nodes, held in a state by what holds nodes up in life as well: a disk that doesn't sync. The answer
//! during a crash is in `crash_restart.rs`; beside what is here, the state machine's own scripts ask for each state (`common/postmaster/tests/state.txt`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, ClientError, ServerError, parse_error};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::shim::Shim;
use integration_tests::wait;

const REPLICATION: [(&str, &str); 1] = [("replication", "true")];

/// What a client is told that is not let in. The node may not listen yet, or its answer be on the way.
fn refusal(node: &Node, parameters: &[(&str, &str)]) -> ServerError {
    match Client::connect(&node.address(), parameters) {
        Err(ClientError::Server(error)) => error,
        Err(error) => panic!("no answer: {error}"),
        Ok(_) => panic!("it was let in"),
    }
}

fn said(error: &ServerError) -> String {
    error.to_string().trim_end().to_owned()
}

/// A node with a port of its own that is known before it starts.
fn started_once(node: &mut Node) {
    node.start();
    node.query("CREATE TABLE t(x)");
    node.stop();
}

fn wait_to_listen(node: &Node) {
    wait::until("the node to listen", || Client::connect_raw(&node.address()).ok());
}

#[test]
fn while_the_log_is_recovered_everybody_is_told_that_the_node_starts() {
    let scenario = Scenario::new("admission-starting");
    let shim = Shim::new(&scenario);
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    started_once(&mut node);
    shim.put_under(&mut node);
    shim.hold_syncs();
    node.spawn();
    wait_to_listen(&node);
    for parameters in [&[][..], &REPLICATION] {
        assert_eq!(said(&refusal(&node, parameters)), "FATAL 57P03: the database system is starting up");
    }
    let status = node.command(&["status", "-D", node.dir().to_str().unwrap()]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.lines().next().is_some_and(|line| line.ends_with(", starting")), "{status}");
    shim.release_syncs();
    wait::until("the node to serve", || node.try_client().ok());
    node.stop();
}

#[test]
fn standby_that_is_not_consistent_says_so() {
    let scenario = Scenario::new("admission-standby");
    let cluster = Cluster::start(&scenario);
    let Cluster { mut primary, mut standby, .. } = cluster;
    standby.stop();
    let shim = Shim::new(&scenario);
    shim.put_under(&mut standby);
    shim.hold_syncs();
    standby.spawn();
    wait_to_listen(&standby);
    let error = wait::until("the standby to replay", || {
        let error = refusal(&standby, &[]);
        (!said(&error).ends_with("starting up")).then_some(error)
    });
    assert_eq!(error.sqlstate, "57P03");
    assert_eq!(error.message, "the database system is not yet accepting connections");
    assert_eq!(error.detail, "Consistent recovery state has not been yet reached.");
    shim.release_syncs();
    wait::until("the standby to serve", || standby.try_client().ok());
    standby.stop();
    primary.stop();
}

#[test]
fn sessions_are_counted_to_one_and_walsenders_and_cancel_requests_beside_them() {
    let scenario = Scenario::new("admission-count");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    for setting in ["max_connections=3", "max_wal_senders=1"] {
        node.set(setting);
    }
    node.start();
    // The one by which the start was noticed may be on its way out.
    let mut clients: Vec<Client> =
        (0..3).map(|_| wait::until("a place", || node.try_client().ok())).collect();
    for _ in 0..3 {
        assert_eq!(said(&refusal(&node, &[])), "FATAL 53300: sorry, too many clients already");
    }
    let walsender = Client::connect(&node.address(), &REPLICATION).unwrap();
    assert_eq!(
        said(&refusal(&node, &REPLICATION)),
        "FATAL 53300: number of requested standby connections exceeds max_wal_senders (currently 1)"
    );
    clients[0].send_query("SELECT pg_sleep(1000)").unwrap();
    let pid = clients[0].backend_pid;
    let sleeps = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
    wait::until("the statement to run", || (!clients[1].rows(&sleeps).is_empty()).then_some(()));
    clients[0].cancel().unwrap();
    assert_eq!(clients[0].read_answer().unwrap().error.unwrap().sqlstate, "57014");
    clients.pop();
    clients.push(wait::until("a place", || node.try_client().ok()));
    drop((clients, walsender));
    node.stop();
}

#[test]
fn connections_beyond_every_slot_are_told_so_or_closed_and_the_node_stays_usable() {
    let scenario = Scenario::new("admission-flood");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    for setting in ["max_connections=3", "max_wal_senders=1", "authentication_timeout=2s"] {
        node.set(setting);
    }
    node.start();
    let mut session = node.client();
    // Who says nothing takes a slot until authentication_timeout.
    let mut silent: Vec<Client> = (0..60).map(|_| Client::connect_raw(&node.address()).unwrap()).collect();
    session.query("SELECT 1").unwrap();
    let mut told = [0, 0];
    for client in &mut silent {
        let bytes = client.read_to_end().expect("closed in time");
        match bytes.first() {
            Some(b'E') => {
                assert_eq!(parse_error(&bytes[5..]).message, "canceling authentication due to timeout");
                told[0] += 1;
            }
            _ => told[1] += 1,
        }
    }
    assert!(told[0] > 0 && told[1] > 0, "timed out, closed: {told:?}");
    wait::until("the node to let somebody in", || node.try_client().ok());
    node.stop();
}
