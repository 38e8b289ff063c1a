//! A node whose postmaster.pid is removed or replaced ends at once: somebody may be about to start another one.
//!
//! Method: it looks once a minute. Nobody waits for that here, and there is no setting for it: the node's clock is put
//! forward from below (`integration_tests::shim`), and a client wakes the postmaster, which finds that its minute is over.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::Client;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::shim::Shim;

/// Whatever a client is told: the postmaster has woken.
fn knock(node: &Node) {
    let _told = Client::connect_raw(&node.address());
}

fn watched(name: &str, tamper: impl Fn(&std::path::Path)) -> Option<String> {
    let scenario = Scenario::new(name);
    let shim = Shim::new(&scenario);
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    shim.put_under(&mut node);
    node.start();
    node.query("CREATE TABLE t(x)");
    let path = node.dir().join("postmaster.pid");
    tamper(&path);
    shim.put_clock_forward(1);
    knock(&node);
    assert!(!node.log().contains("immediate shutdown"), "a second is no minute");
    shim.put_clock_forward(61);
    knock(&node);
    assert_eq!(node.wait_end(), Some(0));
    let log = node.log();
    let left = std::fs::read_to_string(&path).ok();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text:?} is not in:\n{log}"));
    let order = [
        at("performing immediate shutdown because data directory lock file is invalid"),
        at("received immediate shutdown request"),
        at("database system is shut down"),
    ];
    assert!(order.is_sorted(), "{log}");
    node.start();
    assert_eq!(node.value("SELECT count(*) FROM t"), "0");
    node.stop();
    left
}

#[test]
fn node_whose_pid_file_is_removed_ends() {
    assert_eq!(watched("pid-file-removed", |path| std::fs::remove_file(path).unwrap()), None);
}

#[test]
fn node_whose_pid_file_names_another_process_ends_and_leaves_it_alone() {
    let other = format!("{}\n/elsewhere\n", std::process::id());
    let left = watched("pid-file-replaced", |path| std::fs::write(path, &other).unwrap());
    assert_eq!(left.as_deref(), Some(other.as_str()));
}

#[test]
fn node_whose_pid_file_is_its_own_goes_on() {
    let scenario = Scenario::new("pid-file-kept");
    let shim = Shim::new(&scenario);
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    shim.put_under(&mut node);
    node.start();
    shim.put_clock_forward(61);
    node.query("SELECT 1");
    shim.put_clock_forward(122);
    node.query("SELECT 1");
    assert!(!node.log().contains("lock file is invalid"));
    node.stop();
}
