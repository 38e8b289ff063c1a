//! The clients of the failover loop: writers of unique rows on the primary, readers on every node, and what both know.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::client::Client;
use crate::node::Node;
use crate::random::Random;

/// The table.
pub(super) const CREATE: &str = "CREATE TABLE rows(id integer PRIMARY KEY, filler text)";
const WRITERS: u64 = 6;
/// Most statements that a client sends ahead.
const AHEAD: u64 = 60;
/// With so many rows or more, all are deleted, so that a look at all of them stays short.
const ROWS_MAX: usize = 5_000;

/// What the clients know.
#[derive(Debug, Default)]
pub(super) struct Clients {
    next_id: u64,
    /// Rows that were acknowledged, or that a reader has seen: they must be there for ever.
    known: BTreeSet<u64>,
    /// Rows that were sent, and may be there.
    open: BTreeSet<u64>,
    writers: Vec<(Client, Vec<u64>)>,
    readers: Vec<(Client, u64)>,
    /// How many rows were acknowledged.
    pub(super) acknowledged: u64,
    /// How many rows a reader saw before anybody was told that they are there.
    pub(super) seen_first: u64,
}

impl Clients {
    /// Connects the writers to the primary and a reader to each node.
    pub(super) fn connect<'a>(
        &mut self,
        primary: &Node,
        nodes: impl Iterator<Item = &'a Node>,
    ) -> Result<(), String> {
        if self.known.len() >= ROWS_MAX {
            let mut client = connect(primary)?;
            client.query("DELETE FROM rows").map_err(|error| format!("DELETE: {error}"))?;
            self.known.clear();
            self.open.clear();
        }
        for _ in 0..WRITERS {
            self.writers.push((connect(primary)?, Vec::new()));
        }
        for node in nodes {
            self.readers.push((connect(node)?, 0));
        }
        Ok(())
    }

    /// Every client sends statements and reads nothing.
    pub(super) fn send(&mut self, random: &mut Random) {
        for (client, sent) in &mut self.writers {
            for _ in 0..random.below(AHEAD) {
                self.next_id += 1;
                let filler = "x".repeat(usize::try_from(self.next_id % 500).expect("below 500"));
                let sql = format!("INSERT INTO rows VALUES ({}, '{filler}')", self.next_id);
                self.open.insert(self.next_id);
                sent.push(self.next_id);
                if client.send_query(&sql).is_err() {
                    break;
                }
            }
        }
        for (client, sent) in &mut self.readers {
            for _ in 0..random.below(20) {
                *sent += u64::from(client.send_query("SELECT id FROM rows").is_ok());
            }
        }
    }

    /// Reads all that is answered, as long as something comes within `patience`, and disconnects.
    pub(super) fn read(&mut self, patience: Duration) -> Result<(), String> {
        for (mut client, sent) in std::mem::take(&mut self.writers) {
            client.set_read_timeout(patience);
            for id in sent {
                let Ok(answer) = client.read_answer() else { break };
                match answer.error {
                    None => {
                        self.known.insert(id);
                        self.open.remove(&id);
                        self.acknowledged += 1;
                    }
                    // A wait that was broken off, a node that ends, or one that is a standby now.
                    Some(error)
                        if ["57P01", "57P02", "57P03", "25006"].contains(&error.sqlstate.as_str()) => {}
                    Some(error) => return Err(format!("a writer was told {error}")),
                }
            }
        }
        for (mut client, sent) in std::mem::take(&mut self.readers) {
            client.set_read_timeout(patience);
            for _ in 0..sent {
                let Ok(answer) = client.read_answer() else { break };
                for id in answer.rows.iter().flatten().flatten().filter_map(|id| id.parse().ok()) {
                    self.seen_first += u64::from(self.open.remove(&id));
                    self.known.insert(id);
                }
            }
        }
        Ok(())
    }

    /// Checks a node's rows against what is known; what is found from now on must stay.
    pub(super) fn check(&mut self, node: &Node) -> Result<(), String> {
        let answer = connect(node)?
            .query("SELECT id FROM rows")
            .map_err(|error| format!("a look at all rows: {error}"))?;
        let found: BTreeSet<u64> =
            answer.rows.iter().flatten().flatten().filter_map(|id| id.parse().ok()).collect();
        let lost: Vec<_> = self.known.difference(&found).collect();
        if !lost.is_empty() {
            return Err(format!("rows that were acknowledged or seen are lost: {lost:?}"));
        }
        let invented: Vec<_> =
            found.iter().filter(|id| !self.known.contains(id) && !self.open.contains(id)).collect();
        if !invented.is_empty() {
            return Err(format!("rows that nobody sent, or that were gone: {invented:?}"));
        }
        self.known = found;
        self.open.clear();
        Ok(())
    }
}

fn connect(node: &Node) -> Result<Client, String> {
    node.try_client().map_err(|error| format!("could not connect: {error}\n{}", node.log_tail()))
}
