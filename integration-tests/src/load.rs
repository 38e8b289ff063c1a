//! Several clients that insert numbered rows and remember which were acknowledged.
//!
//! One process serves all clients: it sends on each and then reads from each, so that every round has as many writes
//! in flight as there are clients and a kill between two reads hits some of them half-way.

use std::collections::BTreeSet;

use crate::client::{Client, ClientError};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::scenario::Scenario;

/// The table that the load writes to.
pub const CREATE_TABLE: &str = "CREATE TABLE acked(id integer PRIMARY KEY, client integer, filler text)";

/// The clients and what they know.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Client>,
    width: usize,
    next_id: u64,
    /// Ids whose INSERT was acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// Ids whose INSERT ended without an answer: the row may be there or not.
    pub unknown: BTreeSet<u64>,
}

impl Load {
    /// `width` clients, not yet connected.
    pub fn new(width: usize) -> Load {
        Load {
            clients: Vec::new(),
            width,
            next_id: 1,
            acknowledged: BTreeSet::new(),
            unknown: BTreeSet::new(),
        }
    }

    /// Connects all clients anew.
    pub fn connect(&mut self, node: &Node) {
        self.clients = (0..self.width).map(|_| node.client()).collect();
    }

    /// One insert on every client; between the `kill_after`-th answer and the next, `kill` is called.
    pub fn round(&mut self, kill_after: usize, mut kill: impl FnMut()) {
        let first_id = self.next_id;
        self.next_id += self.clients.len() as u64;
        let ids = first_id..self.next_id;
        let mut sent = Vec::new();
        for ((number, client), id) in self.clients.iter_mut().enumerate().zip(ids) {
            let filler = "x".repeat(usize::try_from(id % 700).unwrap());
            let sql = format!("INSERT INTO acked VALUES ({id}, {number}, '{filler}')");
            sent.push((id, client.send_query(&sql).is_ok()));
        }
        for (number, (id, sent)) in sent.into_iter().enumerate() {
            if number == kill_after {
                kill();
            }
            let answer = if sent { self.clients[number].read_answer().ok() } else { None };
            match answer {
                Some(answer) if answer.error.is_none() => self.acknowledged.insert(id),
                Some(answer) if answer.error.as_ref().is_some_and(|error| error.severity == "ERROR") => {
                    panic!("insert {id}: {:?}", answer.error)
                }
                // No answer, or a FATAL one of a server that goes down.
                _ => self.unknown.insert(id),
            };
        }
    }

    /// Rounds until every client has met an error or the end of its connection; those. `look` is called in each round.
    pub fn until_ended(&mut self, mut look: impl FnMut()) -> Vec<ClientError> {
        let mut ends = Vec::new();
        while !self.clients.is_empty() {
            look();
            let mut left = Vec::new();
            for mut client in std::mem::take(&mut self.clients) {
                let id = self.next_id;
                self.next_id += 1;
                match insert(&mut client, id) {
                    Ok(()) => {
                        self.acknowledged.insert(id);
                        left.push(client);
                    }
                    Err(end) => {
                        self.unknown.insert(id);
                        ends.push(end);
                    }
                }
            }
            self.clients = left;
        }
        ends
    }

    /// Rounds without a kill.
    pub fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round(usize::MAX, || {});
        }
    }

    /// Checks that every acknowledged row is on the node, and that there is none that nobody sent.
    pub fn assert_all_on(&self, node: &Node) {
        let rows = node.rows("SELECT id FROM acked ORDER BY id");
        let found: BTreeSet<u64> = rows.iter().map(|row| row[0].parse().expect("an id")).collect();
        let lost: Vec<&u64> = self.acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "acknowledged rows lost: {lost:?}");
        let invented: Vec<&u64> =
            found.iter().filter(|id| !self.acknowledged.contains(id) && !self.unknown.contains(id)).collect();
        assert!(invented.is_empty(), "rows that nobody sent: {invented:?}");
    }

    /// Drops the connections.
    pub fn disconnect(&mut self) {
        self.clients.clear();
    }
}

/// A primary whose small segments hold 100 rounds of a load of eight clients, who are still connected.
pub fn on_primary(scenario: &Scenario, settings: &[&str]) -> (Node, Load) {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    settings.iter().for_each(|setting| node.set(setting));
    node.start();
    node.query(CREATE_TABLE);
    let mut load = Load::new(8);
    load.connect(&node);
    load.rounds(100);
    (node, load)
}

/// A primary and a standby that has all of the load's rows, both stopped.
pub fn on_stopped_pair(scenario: &Scenario) -> (Cluster, Load) {
    let mut cluster = Cluster::start(scenario);
    cluster.primary.query(CREATE_TABLE);
    let mut load = Load::new(4);
    load.connect(&cluster.primary);
    load.rounds(30);
    load.disconnect();
    cluster.wait_caught_up();
    cluster.stop();
    (cluster, load)
}

/// Inserts one row and says whether that was acknowledged.
pub fn insert(client: &mut Client, id: u64) -> Result<(), ClientError> {
    client.query(&format!("INSERT INTO acked VALUES ({id}, 0, '')")).map(|_| ())
}
