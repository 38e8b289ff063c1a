//! A primary and a standby that streams from it.

use wal::lsn::Lsn;

use crate::digest::{self, Digest};
use crate::node::Node;
use crate::scenario::Scenario;
use crate::wait;

/// The pair.
#[derive(Debug)]
pub struct Cluster {
    /// Executes the writes.
    pub primary: Node,
    /// Streams them.
    pub standby: Node,
}

impl Cluster {
    /// Both nodes with segments of 1 MB (so that tests cross many), started and streaming.
    pub fn start(scenario: &Scenario) -> Cluster {
        Cluster::start_with(scenario, &[])
    }

    /// As [`Cluster::start`], with settings (`name=value`) for both.
    pub fn start_with(scenario: &Scenario, settings: &[&str]) -> Cluster {
        let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
        settings.iter().for_each(|setting| primary.set(setting));
        primary.start();
        let mut standby = Node::clone_of(scenario, "standby", &primary);
        settings.iter().for_each(|setting| standby.set(setting));
        standby.start();
        let cluster = Cluster { primary, standby };
        cluster.wait_streaming();
        cluster
    }

    /// Waits until the primary sees the standby stream.
    pub fn wait_streaming(&self) {
        wait::until("the standby to stream", || {
            let rows = self.primary.rows("SELECT state FROM pg_stat_replication");
            rows.iter().any(|row| row[0] == "streaming").then_some(())
        });
    }

    /// Waits until the standby's tables hold all that is durable on the primary now.
    pub fn wait_caught_up(&self) {
        self.wait_replayed(self.primary.lsn("pg_current_wal_flush_lsn"));
    }

    /// Waits until the standby has replayed up to `lsn`.
    pub fn wait_replayed(&self, lsn: Lsn) {
        wait::until(&format!("the standby to replay {lsn}"), || {
            (self.standby.lsn("pg_last_wal_replay_lsn") >= lsn).then_some(())
        });
    }

    /// Waits until the standby is level and checks that both nodes give the same rows; the digest.
    pub fn assert_equal(&self, tables: &[&str]) -> Vec<Digest> {
        self.wait_caught_up();
        let digests = |node: &Node| -> Vec<Digest> {
            let mut client = node.client();
            tables.iter().map(|table| digest::of_table(&mut client, table)).collect()
        };
        let expected = digests(&self.primary);
        let found = digests(&self.standby);
        assert_eq!(expected, found, "primary and standby differ in {tables:?}");
        expected
    }

    /// Fast shutdown of both, the standby first; checks that each ended as it should.
    pub fn stop(&mut self) {
        self.standby.stop();
        self.primary.stop();
    }
}
