//! The comparison at the end: every row of every table on every node, and every acknowledged write among them.
//!
//! Rows are fetched from all nodes in pages by key, so that a table of any size is compared in little memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::WaitEventSet;
use sys::clock;
use wal::lsn::Lsn;

use super::Failure;
use super::connection::Connection;
use super::node::Cluster;
use super::workload::{self, Workload};

/// Rows fetched at once.
const PAGE: usize = 2000;
/// A standby that has not replayed what is durable within this time hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long to leave a standby alone between two looks at its progress.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

type Row = Vec<Option<String>>;

/// What was found.
#[derive(Debug)]
pub(super) struct Proof {
    /// Whether all is as it must be.
    pub(super) holds: bool,
    /// What was compared, and what differs.
    pub(super) lines: Vec<String>,
}

/// Compares all nodes.
pub(super) fn check(cluster: &Cluster, workload: &Workload) -> Result<Proof, Failure> {
    let mut primary = Connection::open(cluster.primary())?;
    let mut standbys = Vec::new();
    for node in cluster.standbys() {
        standbys.push((node.name.as_str(), Connection::open(node)?));
    }
    let end = lsn(&mut primary, "pg_current_wal_flush_lsn")?;
    for (name, standby) in &mut standbys {
        wait_replayed(name, standby, end)?;
    }
    let mut compared = Compared { primary, standbys, lines: Vec::new(), differences: 0 };
    if let Some(path) = workload.file() {
        compared.check_lines(path, workload.written_lines)?;
    } else {
        compared.check_values(&workload.values)?;
        compared.check_events(&workload.events)?;
    }
    Ok(Proof { holds: compared.differences == 0, lines: compared.lines })
}

fn lsn(node: &mut Connection, function: &str) -> Result<Lsn, Failure> {
    let text = node.ask_value(&format!("SELECT {function}()"))?;
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID))
}

fn wait_replayed(name: &str, standby: &mut Connection, end: Lsn) -> Result<(), Failure> {
    let mut pause = WaitEventSet::without_process(1).map_err(Failure::io("wait"))?;
    let mut nothing = Vec::new();
    let deadline = clock::now().saturating_add(DEADLINE);
    loop {
        let replayed = lsn(standby, "pg_last_wal_replay_lsn")?;
        if replayed >= end {
            return Ok(());
        }
        if clock::now() >= deadline {
            return Err(Failure::new(format!("{name} has replayed {replayed} and not yet {end}")));
        }
        pause.wait(Some(LOOK_AGAIN), WaitEvent::PgSleep, &mut nothing).map_err(Failure::io("wait"))?;
    }
}

/// A table, and how to walk through it.
struct Table {
    name: &'static str,
    columns: &'static str,
    /// Whether the first column is a number.
    numbered: bool,
}

struct Compared<'a> {
    primary: Connection,
    standbys: Vec<(&'a str, Connection)>,
    lines: Vec<String>,
    differences: u64,
}

impl Compared<'_> {
    /// Calls `row` with every row of the primary's table; the number of rows. Rows that differ on a standby are noted.
    fn walk(
        &mut self,
        table: &Table,
        mut row: impl FnMut(&Row) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let key = table.columns.split(',').next().expect("a table has columns");
        let mut after = if table.numbered { "-1".to_owned() } else { "''".to_owned() };
        let mut rows = 0;
        loop {
            let sql = format!(
                "SELECT {} FROM {} WHERE {key} > {after} ORDER BY {key} LIMIT {PAGE}",
                table.columns, table.name
            );
            let page = self.primary.ask(&sql)?;
            for (name, standby) in &mut self.standbys {
                let theirs = standby.ask(&sql)?;
                if let Some(difference) = first_difference(&page, &theirs) {
                    self.lines.push(format!("{} differs on {name}: {difference}", table.name));
                    self.differences += 1;
                }
            }
            page.iter().try_for_each(&mut row)?;
            rows += page.len() as u64;
            let Some(Some(last)) = page.last().map(|row| row[0].clone()) else { return Ok(rows) };
            after = if table.numbered { last } else { format!("'{}'", last.replace('\'', "''")) };
        }
    }

    fn missing(&mut self, what: String) {
        self.lines.push(format!("NOT FOUND: {what}"));
        self.differences += 1;
    }

    fn done(&mut self, what: String) {
        let nodes = 1 + self.standbys.len();
        self.lines.push(format!("{what}, compared on {nodes} nodes"));
    }

    fn check_values(&mut self, acknowledged: &HashMap<String, String>) -> Result<(), Failure> {
        let table = Table { name: "kv", columns: "key, value", numbered: false };
        let mut right = 0;
        let mut wrong = Vec::new();
        let rows = self.walk(&table, |row| {
            let key = row[0].clone().unwrap_or_default();
            if acknowledged.get(&key) == row[1].as_ref() {
                right += 1
            } else {
                wrong.push(key)
            }
            Ok(())
        })?;
        for key in wrong.iter().take(10) {
            self.missing(format!("the acknowledged value of key {key}"));
        }
        if right != acknowledged.len() {
            self.missing(format!("{} acknowledged keys", acknowledged.len() - right));
        }
        self.done(format!("kv: {rows} rows, {right} acknowledged values"));
        Ok(())
    }

    fn check_events(&mut self, acknowledged: &[u64]) -> Result<(), Failure> {
        let table = Table { name: "events", columns: "id, client, number, at, dice", numbered: true };
        let mut seen: Vec<Vec<u64>> = acknowledged.iter().map(|_| Vec::new()).collect();
        let rows = self.walk(&table, |row| {
            let number = |at: usize| row[at].as_deref().and_then(|text| text.parse::<u64>().ok());
            let client = number(1).and_then(|client| usize::try_from(client).ok());
            if let (Some(of_client), Some(number)) = (client.and_then(|at| seen.get_mut(at)), number(2)) {
                of_client.push(number);
            }
            Ok(())
        })?;
        for (client, (numbers, count)) in seen.iter_mut().zip(acknowledged).enumerate() {
            numbers.sort_unstable();
            if !numbers.iter().copied().eq(1..=*count) {
                self.missing(format!("some of the {count} acknowledged events of client {client}"));
            }
        }
        let total: u64 = acknowledged.iter().sum();
        self.done(format!("events: {rows} rows with random() and the clock, {total} acknowledged"));
        Ok(())
    }

    fn check_lines(&mut self, path: &Path, written: u64) -> Result<(), Failure> {
        let table = Table { name: "lines", columns: "line, text", numbered: true };
        let mut file: BufReader<File> = workload::open(path)?;
        let mut expected_number = 0u64;
        let mut wrong = Vec::new();
        let rows = self.walk(&table, |row| {
            expected_number += 1;
            let line = workload::read_line(&mut file, path)?.map(|line| line.text);
            let number = row[0].as_deref().and_then(|number| number.parse().ok());
            if number != Some(expected_number) || row[1] != line {
                wrong.push(expected_number);
            }
            Ok(())
        })?;
        for number in wrong.iter().take(10) {
            self.missing(format!("line {number} as the file has it"));
        }
        if rows != written {
            self.missing(format!("{written} acknowledged lines: there are {rows} rows"));
        }
        self.done(format!("lines: {rows} rows, each as the file has it"));
        Ok(())
    }
}

/// Where two pages part, in words.
fn first_difference(ours: &[Row], theirs: &[Row]) -> Option<String> {
    let at = ours.iter().zip(theirs).position(|(our, their)| our != their);
    match at {
        Some(at) => Some(format!("{:?} here, {:?} there", ours[at], theirs[at])),
        None if ours.len() == theirs.len() => None,
        None => Some(format!("{} rows here, {} there, from {:?} on", ours.len(), theirs.len(), ours.first())),
    }
}
