//! Starts the real program on an image and looks at what it says: the rows, the log, and that it goes on.
//!
//! The checks, in this order:
//! 1. The node starts and gives rows that the history allows ([`super::history`]).
//! 2. Each of its slots has the log that it promises to keep.
//! 3. It takes a write, if it is a primary.
//! 4. It stops, and pg_waldump reads the log up to where the node said that it ends.
//! 5. Sometimes: it starts again, with the same rows.
//! 6. Sometimes: its tables are removed, so that recovery builds them from the log alone, if no checkpoint has removed any
//!    of it, with the same rows: the log and the tables say the same.
//!
//! Segments that a checkpoint would be free to remove (all before the redo and the checkpoint of the control file) are
//! sometimes removed before, if there are no slots: recovery must not need them.

use std::fs;
use std::path::{Path, PathBuf};

use wal::layout;
use wal::lsn::Lsn;
use wal::segment::{SegmentSize, parse_file_name};
use wal::store::SegmentStore;
use wal::timeline::TimelineId;

use super::history::Rows;
use super::image::Image;
use super::workload::read_rows;
use crate::client::Client;
use crate::commands::pg_waldump_segments;
use crate::node::{Node, Role};
use crate::programs;
use crate::scenario::Scenario;

/// Bytes of a segment in every recorded node.
pub const SEGMENT_SIZE: u64 = 1 << 20;

/// More bytes than a checkpoint's record takes, page headers included.
const CHECKPOINT_MAX: u64 = 200;

/// What is to be looked at beyond the rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depth {
    /// Remove the segments before redo first.
    pub prune: bool,
    /// Start a second time.
    pub again: bool,
    /// Build the tables from the log alone.
    pub rebuild: bool,
}

/// A node on an image.
#[derive(Debug)]
pub struct Trial<'a> {
    scenario: &'a Scenario,
    role: Role,
    depth: Depth,
}

/// Where the data directory is in a scope.
pub const DATA: &str = "data";

impl<'a> Trial<'a> {
    /// How to look.
    pub fn new(scenario: &'a Scenario, role: Role, depth: Depth) -> Trial<'a> {
        Trial { scenario, role, depth }
    }

    /// Puts the image into an empty directory of the scenario and runs the node on it. `allowed` judges the rows,
    /// `log_end` is what the log must reach. The directory is left behind when the result is an error.
    pub fn run(
        &self,
        image: &Image,
        allowed: &dyn Fn(&Rows) -> Result<(), String>,
        log_end: Lsn,
    ) -> Result<(), String> {
        let root = self.scenario.path("image");
        let io = |error: std::io::Error| format!("could not write the image: {error}");
        if root.exists() {
            fs::remove_dir_all(&root).map_err(io)?;
        }
        image.write_to(&root).map_err(io)?;
        if self.depth.prune && !has_slots(&root.join(DATA)) {
            prune(&root.join(DATA))?;
        }
        let mut node = self.node();
        self.run_node(&mut node, allowed, log_end)
            .map_err(|error| format!("{error}\n--- end of the node's log:\n{}", node.log_tail()))
    }

    fn node(&self) -> Node {
        let mut node = Node::at(self.scenario, "image/data", self.role);
        node.set("wal_buffers=16");
        if self.role == Role::Standby {
            // Its upstream is gone for good.
            node.set("primary_conninfo=");
        }
        node
    }

    fn run_node(
        &self,
        node: &mut Node,
        allowed: &dyn Fn(&Rows) -> Result<(), String>,
        log_end: Lsn,
    ) -> Result<(), String> {
        node.try_start()?;
        let mut client = connect(node)?;
        let (rows, _) = read_rows(&mut client)?;
        allowed(&rows)?;
        check_slots(&mut client, node.dir())?;
        let end = self.go_on(&mut client)?;
        if end < log_end && !is_within_record(node.dir(), end, log_end)? {
            return Err(format!("the log ends at {end}, it was called durable up to {log_end}"));
        }
        drop(client);
        stop(node)?;
        if self.role == Role::Primary {
            self.check_log(node.dir(), end)?;
        }
        if self.depth.again {
            self.expect_same(node, &rows, "after another start")?;
        }
        let is_whole = || {
            segments(&node.dir().join("pg_wal"))
                .is_ok_and(|found| found.iter().any(|(number, _)| *number == 1))
        };
        if self.depth.rebuild && self.role == Role::Primary && !self.depth.prune && is_whole() {
            remove_tables(node.dir())?;
            self.expect_same(node, &rows, "when built from the log alone")?;
        }
        Ok(())
    }

    /// A primary writes; the end of the log, then.
    fn go_on(&self, client: &mut Client) -> Result<Lsn, String> {
        let function = match self.role {
            Role::Standby => "pg_last_wal_receive_lsn()",
            Role::Primary => {
                let sql = "CREATE TABLE after_the_loss(x); INSERT INTO after_the_loss VALUES (1); DROP TABLE after_the_loss";
                client.query(sql).map_err(|error| format!("{sql}: {error}"))?;
                "pg_current_wal_flush_lsn()"
            }
        };
        let answer = client.query(&format!("SELECT {function}")).map_err(|error| error.to_string())?;
        let text = answer.rows.into_iter().flatten().flatten().next().unwrap_or_else(|| "0/0".to_owned());
        text.parse().map_err(|_| format!("{function} is {text}"))
    }

    /// After a stop the log ends with a shutdown checkpoint, and pg_waldump sees that end.
    fn check_log(&self, data: &Path, end: Lsn) -> Result<(), String> {
        let segments = segments(&data.join("pg_wal"))?;
        let Some((_, first)) = segments.first() else { return Err("no segment is there".to_owned()) };
        let holding = |lsn: u64| segments.iter().find(|(number, _)| *number == lsn / SEGMENT_SIZE);
        // The checkpoint's record may go on in the next one.
        let Some((_, last)) = holding(end.0 + CHECKPOINT_MAX).or_else(|| holding(end.0)) else {
            return Err("the last segment is not there".to_owned());
        };
        if programs::find_postgres("pg_waldump").is_none() {
            return Ok(());
        }
        // By name: those made ahead tell it no segment size.
        let said = pg_waldump_segments(&data.join("pg_wal"), first, last);
        let record = said.out.lines().last().unwrap_or_default();
        let start =
            record.split_once("lsn: ").and_then(|(_, rest)| rest.split(',').next()?.parse::<Lsn>().ok());
        let is_last = start.is_some_and(|start| start >= end && start.0 - end.0 < 8192);
        let ends = ["invalid record length at", "invalid magic number 0000"];
        let nothing_more = said.status == Some(0) || ends.iter().any(|end| said.err.contains(end));
        if record.contains("CHECKPOINT_SHUTDOWN") && is_last && nothing_more {
            Ok(())
        } else {
            Err(format!("pg_waldump from {first} on, which should end behind {end}: {record}\n{}", said.err))
        }
    }

    fn expect_same(&self, node: &mut Node, rows: &Rows, when: &str) -> Result<(), String> {
        node.try_start().map_err(|error| format!("{when}: {error}"))?;
        let (found, _) = read_rows(&mut connect(node)?)?;
        stop(node)?;
        let differs = |key: &&super::history::Key| found.get(*key) != rows.get(*key);
        match rows.keys().chain(found.keys()).find(differs) {
            Some(key) => Err(format!("{key:?} is another {when}")),
            None => Ok(()),
        }
    }
}

/// Whether the log up to `upto` ends within the record that begins at `end`: a standby receives (and reports) parts of
/// records, but only whole ones count.
fn is_within_record(data: &Path, end: Lsn, upto: Lsn) -> Result<bool, String> {
    let size = segment_size();
    let mut store = SegmentStore::new(data.join("pg_wal"), size);
    let mut length = [0; 4];
    let start = layout::record_start(end, size);
    store.read_at(TimelineId(1), start, &mut length).map_err(|error| error.to_string())?;
    let length = u32::from_le_bytes(length);
    Ok(length >= 24 && layout::place(end, length, size, TimelineId(1), 0).end > upto)
}

/// The size of their segments.
pub fn segment_size() -> SegmentSize {
    SegmentSize::new(SEGMENT_SIZE).expect("1 MiB is a segment size")
}

fn connect(node: &Node) -> Result<Client, String> {
    node.try_client().map_err(|error| format!("could not connect: {error}"))
}

fn stop(node: &mut Node) -> Result<(), String> {
    let output = node.command(&["stop", "-D", node.dir().to_str().unwrap_or_default(), "-m", "fast"]);
    let status = node.wait_end();
    match (output.status.success(), status) {
        (true, Some(0)) => Ok(()),
        _ => Err(format!("the stop ended with {}, the node with {status:?}", output.status)),
    }
}

fn has_slots(data: &Path) -> bool {
    fs::read_dir(data.join("pg_replslot")).is_ok_and(|mut entries| entries.next().is_some())
}

/// The log is there from where each slot wants it.
fn check_slots(client: &mut Client, data: &Path) -> Result<(), String> {
    let sql =
        "SELECT slot_name, restart_lsn, wal_status FROM pg_replication_slots WHERE restart_lsn IS NOT NULL";
    let slots = client.query(sql).map_err(|error| format!("{sql}: {error}"))?.rows;
    let oldest = segments(&data.join("pg_wal"))?.first().map_or(0, |(number, _)| number * SEGMENT_SIZE);
    for slot in slots {
        let [Some(name), Some(restart), Some(status)] = &slot[..] else {
            return Err(format!("a slot without a state: {slot:?}"));
        };
        let restart: Lsn =
            restart.parse().map_err(|_| format!("slot {name} wants the log from {restart}"))?;
        if !["reserved", "extended"].contains(&status.as_str()) || restart.0 < oldest {
            return Err(format!(
                "slot {name} wants the log from {restart}, which is {status}: it begins at {}",
                Lsn(oldest)
            ));
        }
    }
    Ok(())
}

/// Removes the tables of a stopped node: recovery builds them from the log alone.
pub fn remove_tables(data: &Path) -> Result<(), String> {
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        match fs::remove_file(data.join("state").join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(())
}

/// Segments of timeline 1 by number, with their names.
fn segments(pg_wal: &Path) -> Result<Vec<(u64, String)>, String> {
    let size = segment_size();
    let entries = fs::read_dir(pg_wal).map_err(|error| error.to_string())?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<(u64, String)> =
        names.filter_map(|name| Some((parse_file_name(&name, size)?.1.0, name))).collect();
    found.sort();
    Ok(found)
}

/// Removes what a checkpoint may.
fn prune(data: &Path) -> Result<(), String> {
    let Ok(control) = fs::read(data.join("control")) else { return Ok(()) };
    let (checkpoint, redo) = control_numbers(&control).ok_or("the control file can't be read")?;
    for (number, name) in segments(&data.join("pg_wal"))? {
        if (number + 1) * SEGMENT_SIZE <= redo.min(checkpoint).0 {
            fs::remove_file(data.join("pg_wal").join(name)).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Checkpoint and redo in the bytes of a control file: magic, version, checksum, then numbers of variable length: system
/// identifier, segment size, timeline, state, checkpoint, redo.
pub fn control_numbers(control: &[u8]) -> Option<(Lsn, Lsn)> {
    let mut rest = control.strip_prefix(b"WSCF")?.get(8..)?;
    let mut numbers = Vec::new();
    for _ in 0..6 {
        let (first, after) = rest.split_first()?;
        let length = match first {
            251 => 2,
            252 => 4,
            253 => 8,
            _ => 0,
        };
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(after.get(..length)?);
        numbers.push(Lsn(if length == 0 { u64::from(*first) } else { u64::from_le_bytes(bytes) }));
        rest = &after[length..];
    }
    Some((numbers[4], numbers[5]))
}

/// The data directory in a scope.
pub fn data_directory(scope: &Path) -> PathBuf {
    scope.join(DATA)
}
