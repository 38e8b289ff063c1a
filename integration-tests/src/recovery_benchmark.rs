//! The benchmark `recovery`: how long a start takes, and how many rows it puts per second, after a node was killed with so
//! much log behind its last checkpoint; Walship's and PostgreSQL 15's in turn.
//!
//! Method: each system makes the same table and gets the same statements until its own log has grown by the size asked for,
//! without a checkpoint; then SIGKILL to all of its processes at once, and its data directory is copied. Each round starts
//! it on such a copy and measures from the start of the program to the first client that is let in, and the redo alone as
//! its log tells it. A row makes another number of bytes of log in each, so both rates are shown.
//!
//! Walship's tables are committed all the time. After the end of its processes alone there is next to nothing to put
//! (shown as "killed"); after a power loss the tables may be as old as the last checkpoint. That is the case to compare
//! ("power"): they are put back to that.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use sys::clock;

use crate::benchmark::{describe_machine, median};
use crate::client::{Address, Client};
use crate::node::{Node, assert_success};
use crate::postgres::Server;
use crate::scenario::Scenario;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Log since the checkpoint, in MB.
    #[arg(long, default_value_t = 1024, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
    pub size: u64,
    /// Rows in one statement.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..10_000))]
    pub rows: u32,
    /// Starts of each kind; figures are medians.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Which workloads.
    #[arg(long, value_delimiter = ',', default_values_t = WORKLOADS.map(str::to_owned), value_name = "NAME,…")]
    pub workloads: Vec<String>,
}

/// The workloads, by name.
pub const WORKLOADS: [&str; 2] = ["insert", "update"];
/// Rows that `update` changes, one after the other, in steps that don't follow each other in the table.
const UPDATED: u64 = 100_000;
const CREATE_TABLE: &str = "CREATE TABLE item(id integer PRIMARY KEY, value text)";

/// What a system was left with.
struct Left {
    rows: u64,
    bytes: u64,
}

/// What a start took.
#[derive(Clone, Copy)]
struct Start {
    total: Duration,
    redo: Duration,
}

/// Runs the plan and prints the table to `out`.
pub fn recovery(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let scenario = Scenario::new("bench-recovery");
    describe_machine(scenario.root(), out)?;
    writeln!(
        out,
        "{} MB of log, {} rows a statement, medians of {} starts\n",
        plan.size, plan.rows, plan.rounds
    )?;
    writeln!(
        out,
        "{:<8} {:<10} {:>9} {:>7} | {:>8} {:>8} {:>9} {:>7} | {:>6}",
        "", "", "rows", "MB", "start s", "redo s", "rows/s", "MB/s", "ratio"
    )?;
    for workload in &plan.workloads {
        compare(&scenario, plan, workload, out)?;
    }
    Ok(())
}

fn compare(scenario: &Scenario, plan: &Plan, workload: &str, out: &mut impl Write) -> io::Result<()> {
    let mut walship = Walship::load(scenario, plan, workload);
    let mut postgres = Postgres::load(scenario, plan, workload);
    let (mut killed, mut power, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        killed.push(walship.start(false));
        power.push(walship.start(true));
        theirs.extend(postgres.as_mut().map(Postgres::start));
    }
    let rate = |left: &Left, starts: &[Start]| {
        left.rows as f64 / median(starts.iter().map(|s| s.total.as_secs_f64()))
    };
    let ours = rate(&walship.left, &power);
    let ratio = postgres.as_ref().map(|postgres| ours / rate(&postgres.left, &theirs));
    print_row(out, [workload, "killed"], &walship.left, &killed, None)?;
    print_row(out, ["", "power"], &walship.left, &power, ratio)?;
    if let Some(postgres) = &postgres {
        print_row(out, ["", "PostgreSQL"], &postgres.left, &theirs, None)?;
    }
    Ok(())
}

fn print_row(
    out: &mut impl Write,
    names: [&str; 2],
    left: &Left,
    starts: &[Start],
    ratio: Option<f64>,
) -> io::Result<()> {
    let total = median(starts.iter().map(|start| start.total.as_secs_f64()));
    let redo = median(starts.iter().map(|start| start.redo.as_secs_f64()));
    let megabytes = left.bytes as f64 / f64::from(1 << 20);
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    writeln!(
        out,
        "{:<8} {:<10} {:>9} {megabytes:>7.0} | {total:>8.2} {redo:>8.2} {:>9.0} {:>7.0} | {ratio:>6}",
        names[0],
        names[1],
        left.rows,
        left.rows as f64 / total,
        megabytes / total,
    )?;
    out.flush()
}

/// Statements until the log has grown by the plan's size.
fn load(client: &mut Client, plan: &Plan, workload: &str) -> Left {
    let value = "y".repeat(100);
    let lsn = |client: &mut Client| -> u64 {
        client.value("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')").parse().expect("a number")
    };
    let begin = lsn(client);
    let mut rows = 0;
    let mut number = 0_u64;
    loop {
        for _ in 0..100 {
            let sql = statement(plan, workload, &value, rows, number);
            client.query(&sql).unwrap_or_else(|error| panic!("{error}"));
            rows += u64::from(plan.rows);
            number += 1;
        }
        let bytes = lsn(client) - begin;
        if bytes >= plan.size << 20 {
            return Left { rows, bytes };
        }
    }
}

fn statement(plan: &Plan, workload: &str, value: &str, rows: u64, number: u64) -> String {
    let ids = rows..rows + u64::from(plan.rows);
    if workload == "update" {
        let ids: Vec<String> = ids.map(|id| (id * 7919 % UPDATED).to_string()).collect();
        return format!("UPDATE item SET value = '{number:0>100}' WHERE id IN ({})", ids.join(", "));
    }
    let rows: Vec<String> = ids.map(|id| format!("({id}, '{value}')")).collect();
    format!("INSERT INTO item VALUES {}", rows.join(", "))
}

struct Walship<'a> {
    scenario: &'a Scenario,
    node: Node,
    name: String,
    left: Left,
}

impl<'a> Walship<'a> {
    fn load(scenario: &'a Scenario, plan: &Plan, workload: &str) -> Walship<'a> {
        let name = format!("walship-{workload}");
        let mut node = Node::init(scenario, &name, &[]);
        node.set("checkpoint_timeout=1d");
        node.set("max_wal_size=100GB");
        node.patience = Duration::from_secs(600);
        node.start();
        node.query(CREATE_TABLE);
        if workload == "update" {
            prefill(&mut node.client());
        }
        // The tables as of the checkpoint.
        node.restart();
        copy(&node.dir().join("state"), &scenario.path(&format!("{name}-tables")));
        let left = load(&mut node.client(), plan, workload);
        node.kill_all();
        copy(node.dir(), &scenario.path(&format!("{name}-left")));
        Walship { scenario, node, name, left }
    }

    fn start(&mut self, power_loss: bool) -> Start {
        let dir = self.node.dir().to_owned();
        fs::remove_dir_all(&dir).unwrap();
        copy(&self.scenario.path(&format!("{}-left", self.name)), &dir);
        if power_loss {
            fs::remove_dir_all(dir.join("state")).unwrap();
            copy(&self.scenario.path(&format!("{}-tables", self.name)), &dir.join("state"));
        }
        settle();
        let before = self.node.log().len();
        let began = clock::now();
        self.node.start();
        let total = clock::now().saturating_since(began);
        let log = self.node.log();
        let at = |text: &str| log[before..].lines().find(|line| line.contains(text)).and_then(time_of_day);
        let redo = match (at("redo starts at"), at("redo done at")) {
            (Some(start), Some(end)) => end.saturating_sub(start),
            _ => Duration::ZERO,
        };
        self.node.kill_all();
        Start { total, redo }
    }
}

fn prefill(client: &mut Client) {
    let value = "y".repeat(100);
    for first in (0..UPDATED).step_by(1000) {
        let rows: Vec<String> = (first..first + 1000).map(|id| format!("({id}, '{value}')")).collect();
        let sql = format!("INSERT INTO item VALUES {}", rows.join(", "));
        client.query(&sql).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Of a line of Walship's log: `2026-11-21 15:10:06.415 UTC [1] LOG: …`.
fn time_of_day(line: &str) -> Option<Duration> {
    let mut parts = line.split(' ').nth(1)?.split([':', '.']).map(|part| part.parse::<u64>().ok());
    let mut next = || parts.next().flatten();
    let seconds = (next()? * 60 + next()?) * 60 + next()?;
    Some(Duration::from_secs(seconds) + Duration::from_millis(next()?))
}

struct Postgres {
    server: Server,
    left: Left,
    copy: std::path::PathBuf,
}

impl Postgres {
    fn load(scenario: &Scenario, plan: &Plan, workload: &str) -> Option<Postgres> {
        let settings = ["checkpoint_timeout=1d", "max_wal_size=100GB", "log_checkpoints=off"];
        let mut server = Server::named(scenario, &format!("postgres-{workload}"), &settings)?;
        let mut client = connect(&server);
        client.query(CREATE_TABLE).unwrap_or_else(|error| panic!("{error}"));
        if workload == "update" {
            prefill(&mut client);
        }
        client.query("CHECKPOINT").unwrap_or_else(|error| panic!("{error}"));
        let left = load(&mut client, plan, workload);
        server.kill_all();
        let copied = scenario.path(&format!("postgres-{workload}-left"));
        copy(server.data(), &copied);
        Some(Postgres { server, left, copy: copied })
    }

    fn start(&mut self) -> Start {
        let data = self.server.data().to_owned();
        fs::remove_dir_all(&data).unwrap();
        copy(&self.copy, &data);
        settle();
        let before = self.server.log().len();
        let began = clock::now();
        self.server.start_again();
        let total = clock::now().saturating_since(began);
        let log = self.server.log();
        let done = log[before..].lines().find(|line| line.contains("redo done at"));
        let seconds = done.and_then(|line| line.rsplit_once("elapsed: ")?.1.split(' ').next()?.parse().ok());
        self.server.kill_all();
        Start { total, redo: Duration::from_secs_f64(seconds.unwrap_or(0.0)) }
    }
}

fn connect(server: &Server) -> Client {
    Client::connect(&Address::Tcp(server.port()), &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert_success(&output, "cp");
}

/// What was copied is on disk before the clock starts: nobody pays for it in a sync of his own.
fn settle() {
    assert_success(&Command::new("sync").output().unwrap(), "sync");
}
