//! A switchover: the primary hands over to its standby and follows it, in the same process; clients see their connections end
//! and nothing lost, and it goes back the same way.
//!
//! Method: a pair under load; `standby promote --switchover` on the one and later on the other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};

use integration_tests::client::ClientError;
use integration_tests::cluster::Cluster;
use integration_tests::digest;
use integration_tests::load::{self, Load};
use integration_tests::node::Node;
use integration_tests::programs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

fn spawn_switchover(to: &Node) -> Child {
    let mut command = Command::new(programs::walship("standby"));
    command.arg("promote").arg("-D").arg(to.dir()).arg("--switchover");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8_lossy(&text).trim_end().to_owned())
}

fn assert_follows(node: &Node, primary: &Node) {
    wait::until("the old primary to stream", || {
        let rows = primary.rows("SELECT state FROM pg_stat_replication");
        rows.iter().any(|row| row[0] == "streaming").then_some(())
    });
    node.wait_level_with(primary);
    let digest = |node: &Node| digest::of_table(&mut node.client(), "acked");
    assert_eq!(digest(node), digest(primary));
}

#[test]
fn switchover_under_load_loses_nothing_and_goes_back() {
    let scenario = Scenario::new("switchover");
    let mut cluster = Cluster::start(&scenario);
    // With the ports that they have from now on.
    cluster.primary.restart();
    cluster.standby.restart();
    cluster.wait_streaming();
    cluster.primary.query(load::CREATE_TABLE);
    let (primary, standby) = (&cluster.primary, &cluster.standby);
    let process = primary.pid();
    let mut load = Load::new(4);
    for (from, to) in [(primary, standby), (standby, primary), (primary, standby)] {
        load.connect(from);
        load.rounds(10);
        let mut command = spawn_switchover(to);
        let look = || assert!(command.try_wait().unwrap().is_none_or(|status| status.success()));
        for end in load.until_ended(look) {
            match end {
                ClientError::Connection(_) => {}
                ClientError::Server(error) => {
                    assert!(["57P01", "25006", "57P03"].contains(&error.sqlstate.as_str()), "{error}")
                }
            }
        }
        let (status, said) = finish(command);
        assert_eq!(
            (status, said.as_str()),
            (Some(0), "server promoted, and the old primary follows it"),
            "{}",
            to.log_tail()
        );
        load.assert_all_on(to);
        to.query("SELECT 1");
        assert_eq!(to.value("SELECT pg_is_in_recovery()"), "f");
        wait::until("the old primary to serve", || from.try_client().ok());
        assert_eq!(from.value("SELECT pg_is_in_recovery()"), "t");
        assert_follows(from, to);
        load.disconnect();
    }
    assert_eq!(primary.pid(), process, "the process goes on");
    assert!(primary.log().contains("handing over to standby \"standby\""), "{}", primary.log_tail());
}

#[test]
fn switchover_that_the_primary_refuses_changes_nothing() {
    let scenario = Scenario::new("switchover-refused");
    let cluster = Cluster::start(&scenario);
    let Cluster { mut primary, standby } = cluster;
    // It streams under another name than the file says.
    let conninfo = primary.conninfo("somebody");
    standby.configure(&format!("primary_conninfo = '{conninfo}'"));
    let (status, why) = finish(spawn_switchover(&standby));
    assert_eq!(status, Some(1));
    assert!(why.contains("standby \"somebody\" does not stream from this node"), "{why}");
    assert!(!standby.dir().join("switchover").exists() && !primary.dir().join("hand_over").exists());
    for (node, recovery) in [(&primary, "f"), (&standby, "t")] {
        assert_eq!(node.value("SELECT pg_is_in_recovery()"), recovery);
    }
    let error = standby.error("SELECT walship_hand_over('host=a', 'b')");
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("55000", "recovery is in progress"));
    let error = primary.error("SELECT walship_hand_over('hosst=a', 'standby')");
    assert_eq!(error.sqlstate, "22023");
    // The standby has forgotten that it was to take over.
    primary.stop();
    standby.wait_log("replication terminated by primary server");
    assert_eq!(standby.value("SELECT pg_is_in_recovery()"), "t");
    let (status, why) = finish(spawn_switchover(&primary));
    assert_eq!(status, Some(1));
    assert!(why.contains("no node runs in"), "{why}");
    standby.promote();
}
