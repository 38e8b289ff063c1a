//! Standbys and commands with several hosts in their connection string and `target_session_attrs`, as libpq has them.
//!
//! Goal: a standby that is told of all nodes once finds the one that is the primary, before and after a failover, without
//! being told again. How: it lists the other standby first, so one that took what answers would stream from that.

use std::process::{Command, Stdio};

use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::{programs, wait};

fn hosts(ports: [u16; 2], wanted: &str) -> String {
    let [first, second] = ports;
    format!("host=127.0.0.1,127.0.0.1 port={first},{second} user=postgres target_session_attrs={wanted}")
}

fn wait_streams_from(standby: &Node, port: u16) {
    wait::until(&format!("a stream from port {port}"), || {
        let rows = standby.rows("SELECT sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'");
        (rows == [[port.to_string()]]).then_some(())
    });
}

#[test]
fn a_standby_finds_the_primary_among_its_hosts() {
    let scenario = Scenario::new("attrs-standby");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    let mut first = Node::clone_of(&scenario, "first", &primary);
    first.start();
    let mut second = Node::clone_of(&scenario, "second", &primary);
    second.start();
    let upstreams = hosts([first.port(), primary.port()], "primary");
    second.reload(&format!("primary_conninfo = '{upstreams} application_name=second'"));
    wait_streams_from(&second, primary.port());

    primary.query("INSERT INTO t VALUES (1)");
    first.wait_level_with(&primary);
    primary.kill_all();
    first.promote();
    first.query("INSERT INTO t VALUES (2)");
    wait_streams_from(&second, first.port());
    second.wait_level_with(&first);
    assert_eq!(second.rows("SELECT id FROM t"), [["1"], ["2"]]);
}

#[test]
fn a_clone_is_made_of_the_node_that_is_asked_for() {
    let scenario = Scenario::new("attrs-clone");
    let mut primary = Node::init(&scenario, "primary", &[]);
    primary.start();
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    standby.start();
    let ports = [primary.port(), standby.port()];
    let dir = scenario.path("copy");
    let clone = |wanted: &str| {
        let from = hosts(ports, wanted);
        let arguments =
            ["clone", "-D", dir.to_str().unwrap(), "--from", &from, "--slot", "s", "--create-slot"];
        Command::new(programs::walship("standby")).args(arguments).output().unwrap()
    };

    let refused = clone("sideways");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("invalid target_session_attrs value: \"sideways\""), "{said}");

    standby.stop();
    // libpq's own words for the same two hosts: one is no standby, one is not there.
    let mut psql = Command::new(programs::postgres("psql"));
    psql.args(["-X", "-c", "SELECT 1", &format!("{} dbname=postgres", hosts(ports, "standby"))]);
    let psql = psql.stdin(Stdio::null()).output().unwrap();
    let expected = String::from_utf8_lossy(&psql.stderr).into_owned();
    let unfit = "failed: server is not in hot standby mode";
    let expected = expected.lines().find(|line| line.contains(unfit)).expect("psql names the reason");
    let refused = clone("standby");
    let said = String::from_utf8_lossy(&refused.stderr);
    let expected = expected.trim_start_matches("psql: error: ");
    assert!(said.contains(expected), "{said:?} lacks {expected:?}");
    assert!(!dir.exists());

    standby.start();
    let made = clone("standby");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // The slot is where the copy came from.
    let slots = |node: &Node| node.rows("SELECT slot_name FROM pg_replication_slots");
    assert_eq!((slots(&primary).len(), slots(&standby)), (0, vec![vec!["s".to_owned()]]));
}
