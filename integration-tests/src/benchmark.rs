//! The benchmark `commit`: pgbench against a Walship pair and, in turn, against a PostgreSQL 15 pair on the same machine
//! and disk.
//!
//! Method: three scripts (put: an upsert of one of 100,000 keys; emit: a transactional logical message of 100 bytes; get:
//! a row by key), each with several numbers of clients, asynchronous replication, every commit flushed locally. Runs of
//! the two systems alternate, so that a machine that slows down slows both; figures are medians over the rounds. What a
//! transaction took comes from pgbench's log of every transaction.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::Args;
use sys::clock;

use crate::client::{Address, Client};
use crate::cluster::Cluster;
use crate::commands;
use crate::node::assert_success;
use crate::postgres::PostgresPair;
use crate::programs;
use crate::scenario::Scenario;
use crate::wait;

/// Runs of pgbench: what to run, beside the scripts.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Length of one run.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub seconds: u32,
    /// Runs of each kind on each system; figures are medians.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_name = "N,…")]
    pub clients: Vec<u32>,
}

/// The scripts, by name.
pub const SCRIPTS: [&str; 3] = ["put", "emit", "get"];
/// Rows that every run starts with.
const KEYS: usize = 100_000;

/// Figures of one run, or medians over runs. Times in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    tps: f64,
    p50: f64,
    p95: f64,
    p99: f64,
}

impl Figures {
    /// Transactions per second.
    pub(crate) fn tps(&self) -> f64 {
        self.tps
    }
}

/// The ratio to aim at, of PostgreSQL's tps.
fn aim(script: &str, clients: u32) -> Option<f64> {
    Some(match (script, clients) {
        ("put", 1) => 0.9,
        ("put", 8) => 1.3,
        ("put", 32) => 1.8,
        ("emit", 1) => 1.0,
        ("emit", 8 | 32) => 1.2,
        ("get", _) => 1.3,
        _ => return None,
    })
}

/// The text of one of [`SCRIPTS`].
pub(crate) fn script_text(name: &str) -> String {
    let message = "x".repeat(100);
    match name {
        "put" => commands::put_script(),
        "emit" => format!("SELECT pg_logical_emit_message(true, 'bench', '{message}');\n"),
        "get" => "\\set k random(1, 100000)\nSELECT value FROM kv WHERE key = ':k';\n".to_owned(),
        other => panic!("no script {other}; there are {SCRIPTS:?}"),
    }
}

/// Runs these scripts and prints the table to `out`.
///
/// # Errors
/// Those of writing to `out`.
pub fn commit(plan: &Plan, scripts: &[String], out: &mut impl Write) -> io::Result<()> {
    let scenario = Scenario::new("bench");
    describe_machine(scenario.root(), out)?;
    let mut cluster = start_walship(&scenario);
    let postgres = PostgresPair::start(&scenario);
    match &postgres {
        Some(pair) => prepare(pair.port()),
        None => writeln!(
            out,
            "PostgreSQL 15 is not installed (integration-tests/run installs it): Walship alone"
        )?,
    }
    prepare(cluster.primary.port());
    print_head(plan, out)?;
    for script in scripts {
        let path = scenario.write(&format!("{script}.sql"), &script_text(script));
        for clients in &plan.clients {
            let ports = [Some(cluster.primary.port()), postgres.as_ref().map(PostgresPair::port)];
            let figures = compare(plan, &scenario, &path, *clients, ports);
            print_row(out, script, *clients, figures, aim(script, *clients))?;
        }
    }
    cluster.stop();
    Ok(())
}

/// What stands above the rows.
pub(crate) fn print_head(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} s a run, medians of {} rounds, latencies in ms\n", plan.seconds, plan.rounds)?;
    writeln!(
        out,
        "{:<12} {:>7} | {:>8} {:>7} {:>7} {:>7} | {:>8} {:>7} {:>7} {:>7} | {:>5} {:>5}",
        "", "clients", "Walship", "p50", "p95", "p99", "Postgres", "p50", "p95", "p99", "ratio", "aim"
    )
}

/// Runs on both systems in turn; the medians.
pub(crate) fn compare(
    plan: &Plan,
    scenario: &Scenario,
    script: &Path,
    clients: u32,
    ports: [Option<u16>; 2],
) -> [Option<Figures>; 2] {
    let mut runs = [Vec::new(), Vec::new()];
    for round in 0..plan.rounds {
        // Who goes first changes, lest one always run on what the other left of the machine.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for system in order {
            if let Some(port) = ports[system] {
                wait_level(port);
                let bench = PgBench::start(scenario, port, script, clients, plan.seconds);
                runs[system].push(bench.finish());
            }
        }
    }
    runs.map(|runs| medians(&runs))
}

pub(crate) fn print_row(
    out: &mut impl Write,
    script: &str,
    clients: u32,
    [walship, postgres]: [Option<Figures>; 2],
    aim: Option<f64>,
) -> io::Result<()> {
    let cells = |figures: Option<Figures>| match figures {
        Some(f) => format!("{:>8.0} {:>7.3} {:>7.3} {:>7.3}", f.tps, f.p50, f.p95, f.p99),
        None => format!("{:>8} {:>7} {:>7} {:>7}", "-", "-", "-", "-"),
    };
    let ratio = match (walship, postgres) {
        (Some(walship), Some(postgres)) => format!("{:.2}", walship.tps / postgres.tps),
        _ => "-".to_owned(),
    };
    let aim = aim.map_or_else(|| "-".to_owned(), |aim| format!("{aim:.1}"));
    writeln!(
        out,
        "{script:<12} {clients:>7} | {} | {} | {ratio:>5} {aim:>5}",
        cells(walship),
        cells(postgres)
    )?;
    out.flush()
}

pub(crate) fn start_walship(scenario: &Scenario) -> Cluster {
    let mut primary = crate::node::Node::init(scenario, "primary", &[]);
    primary.start();
    let mut standby = crate::node::Node::clone_of(scenario, "standby", &primary);
    standby.start();
    let cluster = Cluster { primary, standby };
    cluster.wait_streaming();
    cluster
}

/// The table, with a row for every key.
pub(crate) fn prepare(port: u16) {
    let mut client = connect(port);
    client.query(commands::CREATE_KV).unwrap_or_else(|error| panic!("{error}"));
    let value = "y".repeat(100);
    for first in (1..=KEYS).step_by(1000) {
        let rows: Vec<String> = (first..first + 1000).map(|key| format!("('{key}', '{value}')")).collect();
        let sql = format!("INSERT INTO kv VALUES {}", rows.join(", "));
        client.query(&sql).unwrap_or_else(|error| panic!("{error}"));
    }
}

pub(crate) fn connect(port: u16) -> Client {
    Client::connect(&Address::Tcp(port), &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until the standby has replayed all, so that no run pays for the one before it.
fn wait_level(port: u16) {
    let mut client = connect(port);
    let sql = "SELECT count(*) FROM pg_stat_replication \
               WHERE pg_wal_lsn_diff(pg_current_wal_flush_lsn(), replay_lsn) <= 0";
    wait::until("the standby to be level", || (client.value(sql) == "1").then_some(()));
}

/// A run of pgbench.
#[derive(Debug)]
pub(crate) struct PgBench {
    child: Child,
    /// Where it writes what every transaction took.
    logs: PathBuf,
}

impl PgBench {
    /// Starts one against the server at that port.
    pub(crate) fn start(
        scenario: &Scenario,
        port: u16,
        script: &Path,
        clients: u32,
        seconds: u32,
    ) -> PgBench {
        let logs = scenario.path("pgbench");
        let _none_yet = fs::remove_dir_all(&logs);
        fs::create_dir(&logs).unwrap();
        let threads = clients.min(u32::try_from(cores()).unwrap_or(1));
        let mut command = Command::new(programs::postgres("pgbench"));
        command
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string(), "-n", "-l"])
            .args(["-c", &clients.to_string(), "-j", &threads.to_string(), "-T", &seconds.to_string()])
            .arg("--log-prefix")
            .arg(logs.join("log"))
            .arg("-f")
            .arg(script)
            .arg("postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        PgBench { child: command.spawn().unwrap(), logs }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; what it measured.
    pub(crate) fn finish(self) -> Figures {
        let output = self.child.wait_with_output().unwrap();
        assert_success(&output, "pgbench");
        let said = String::from_utf8_lossy(&output.stdout);
        let tps = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        let mut latencies = read_logs(&self.logs);
        latencies.sort_unstable();
        Figures {
            tps: tps.unwrap_or_else(|| panic!("pgbench told no tps: {said}")),
            p50: percentile(&latencies, 50),
            p95: percentile(&latencies, 95),
            p99: percentile(&latencies, 99),
        }
    }
}

/// Microseconds of every transaction: the third field of each line of pgbench's logs.
fn read_logs(dir: &Path) -> Vec<u32> {
    let paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let texts = paths.iter().map(|path| fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| {
            let micros = |line: &str| line.split(' ').nth(2)?.parse().ok();
            text.lines().filter_map(micros).collect::<Vec<u32>>()
        })
        .collect()
}

/// Milliseconds, of sorted microseconds; NaN of none.
pub(crate) fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1e3)
}

/// The median; NaN of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn medians(runs: &[Figures]) -> Option<Figures> {
    let of = |field: fn(&Figures) -> f64| median(runs.iter().map(field));
    (!runs.is_empty()).then(|| Figures {
        tps: of(|run| run.tps),
        p50: of(|run| run.p50),
        p95: of(|run| run.p95),
        p99: of(|run| run.p99),
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the figures depend on most: the processor, the kernel, and how long the disk takes to make 8 KiB durable.
pub(crate) fn describe_machine(dir: &Path, out: &mut impl Write) -> io::Result<()> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    writeln!(out, "{} x {}, Linux {}", cores(), model.map_or("?", |(_, name)| name), kernel.trim())?;
    let path = dir.join("fdatasync");
    let file = fs::File::create(&path)?;
    let mut times = Vec::new();
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    file.sync_all()?;
    for round in 0..200 {
        let page = [round; 8192];
        let start = clock::now();
        file.write_all_at(&page, u64::from(round % 128) * 8192)?;
        file.sync_data()?;
        times.push(u32::try_from(clock::now().saturating_since(start).as_micros()).unwrap_or(u32::MAX));
    }
    fs::remove_file(&path)?;
    times.sort_unstable();
    writeln!(out, "write and fdatasync of 8 KiB: p50 {} µs, p99 {} µs", times[99], times[197])
}
