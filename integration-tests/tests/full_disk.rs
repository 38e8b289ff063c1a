//! A full disk is neither an outcome nor the end of the node: writes are refused with 53100, reads go on, nothing that was
//! acknowledged is lost, and when there is room again writes are taken again.
//!
//! Method: the data directory of one node on a small tmpfs, which is then made larger. Mounting needs root; where it isn't
//! possible the tests say so and pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::client::ClientError;
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::{Scenario, skip};
use integration_tests::wait;

/// A mounted tmpfs; unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one, or says why that is impossible.
    fn mount(path: &Path, megabytes: u32) -> Option<SmallDisk> {
        fs::create_dir(path).unwrap();
        let size = format!("size={megabytes}m,mode=0700");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output().unwrap();
        if output.status.success() {
            return Some(SmallDisk { path: path.to_owned() });
        }
        skip(&format!("no tmpfs can be mounted: {}", String::from_utf8_lossy(&output.stderr).trim()));
        None
    }

    fn resize(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        let status = Command::new("mount").args(["-o", &size]).arg(&self.path).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _best_effort = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Inserts rows of 100 kB until one is refused; how many were acknowledged.
fn fill(node: &Node, first_id: u64) -> u64 {
    let mut client = node.client();
    let filler = "f".repeat(100_000);
    for id in first_id..first_id + 100_000 {
        match client.query(&format!("INSERT INTO big VALUES ({id}, '{filler}')")) {
            Ok(_) => {}
            Err(ClientError::Server(error)) => {
                assert_eq!(error.sqlstate, "53100", "{error}");
                return id - first_id;
            }
            Err(error) => panic!("{error}\n{}", node.log_tail()),
        }
    }
    panic!("the disk never filled up");
}

#[test]
fn a_full_disk_on_the_primary_refuses_writes_until_there_is_room() {
    let scenario = Scenario::new("full-primary");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 48) else { return };
    let mut primary = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE big(id integer PRIMARY KEY, filler text)");
    let acknowledged = fill(&primary, 1);
    assert!(acknowledged > 10, "{acknowledged}");
    let count = |node: &Node| -> u64 { node.value("SELECT count(*) FROM big").parse().unwrap() };
    // Reads go on; they may not show yet what is in the log alone.
    assert!(count(&primary) > 0);
    assert_eq!(primary.error("INSERT INTO big VALUES (-1, hex(zeroblob(100000)))").sqlstate, "53100");

    disk.resize(160);
    let mut client = primary.client();
    wait::until("writes to be taken again", || {
        client.query("INSERT INTO big VALUES (1000000, 'room') ON CONFLICT DO NOTHING").ok()
    });
    assert!(count(&primary) > acknowledged);

    // Full again, and killed there: the next start has all of it.
    let more = fill(&primary, 2_000_000);
    primary.kill_all();
    disk.resize(1000);
    primary.start();
    assert!(count(&primary) > acknowledged + more);
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    standby.start();
    let mut cluster = Cluster { primary, standby };
    cluster.assert_equal(&["big"]);
    cluster.stop();
}

#[test]
fn a_full_disk_on_the_standby_holds_up_the_standby_alone() {
    let scenario = Scenario::new("full-standby");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 48) else { return };
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE big(id integer PRIMARY KEY, filler text)");
    let mut standby = Node::clone_of(&scenario, "disk/standby", &primary);
    standby.start();
    let mut client = primary.client();
    let filler = "f".repeat(100_000);
    for id in 0..600 {
        client.query(&format!("INSERT INTO big VALUES ({id}, '{filler}')")).unwrap();
    }
    wait::until("the standby to tell that its disk is full", || {
        (!standby.started() || standby.log().contains("No space left on device")).then_some(())
    });
    assert_eq!(primary.value("SELECT count(*) FROM big"), "600");
    standby.query("SELECT count(*) FROM big");
    disk.resize(400);
    let mut cluster = Cluster { primary, standby };
    cluster.assert_equal(&["big"]);
    cluster.stop();
}
