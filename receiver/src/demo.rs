//! The main job, shown: a primary and its standbys in a temporary directory, a workload of several clients, a live view
//! of what happens, and then the proof: the same rows on every node, every acknowledged write among them.
//!
//! The demo is a client like any other: it knows its nodes through their command line, postmaster.pid and the wire. It
//! is one process with one wait event set, over the sockets of all its clients. It leaves nothing behind: when it ends,
//! however it ends, its nodes are told to stop (unless `--keep` was given).
//!
//! | module | what |
//! |---|---|
//! | [`node`] | starts and stops the nodes |
//! | `connection` | a client's connection, never blocking |
//! | `workload` | what the clients write, and what they remember of the answers |
//! | `run` | the loop that serves all connections |
//! | `view` | what the views of the nodes tell, and the lines that show it |
//! | `proof` | the comparison at the end |
//! | `latency` | percentiles |

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use self::connection::Connection;
use self::node::{Cluster, NodeProcess};
use self::view::View;
use self::workload::Workload;

mod connection;
mod latency;
pub mod node;
mod proof;
mod run;
mod view;
mod workload;

/// Runs a primary and a standby under load, and proves that both hold the same rows.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Options {
    /// How long the clients write.
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u32,
    /// How many standbys stream from the primary.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    standbys: u32,
    /// How many clients write.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// Writes each line of this text file as a row (key = line number) in place of the built-in workload.
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Leaves the nodes running and says how to connect to them and how to stop them.
    #[arg(long)]
    keep: bool,
}

/// Why the demo did not come to its end.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Failure {
    fn new(what: impl Into<String>) -> Failure {
        Failure(what.into())
    }

    /// For `map_err`: an operation that failed, and on what.
    fn io(operation: impl fmt::Display) -> impl FnOnce(io::Error) -> Failure {
        move |error| Failure(format!("could not {operation}: {error}"))
    }
}

/// Runs the demo. Exit status 0 only when every row was found where it must be.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            let _unwritable = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let mut out = io::stdout();
    match demonstrate(&options, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            let _unwritable = writeln!(io::stderr(), "demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn say(out: &mut impl Write, text: impl fmt::Display) -> Result<(), Failure> {
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::io("write to standard output"))
}

/// The whole of it; whether the proof held.
fn demonstrate(options: &Options, out: &mut impl Write) -> Result<bool, Failure> {
    let mut workload = match &options.load {
        Some(file) => Workload::of_file(file, options.clients)?,
        None => Workload::mixed(options.clients),
    };
    let mut cluster = Cluster::create(options.keep)?;
    say(
        out,
        format!("Starting a primary and {} standby(s) in {}", options.standbys, cluster.dir().display()),
    )?;
    cluster.start(options.standbys)?;
    for node in cluster.nodes() {
        say(out, format!("  {:<10} port {:<6} pid {}", node.name, node.port, node.pid()))?;
    }
    let result = prove(options, &cluster, &mut workload, out);
    let ended = cluster.end();
    let proven = match result {
        Ok(proven) => proven,
        Err(failure) => {
            cluster.leave();
            let dir = cluster.dir().display();
            return Err(Failure::new(format!("{failure}\nData directories and logs are left in {dir}")));
        }
    };
    ended?;
    if !proven {
        cluster.leave();
        say(out, format!("Data directories and logs are left in {}", cluster.dir().display()))?;
    } else if options.keep {
        say_how_to_connect(&cluster, out)?;
    }
    Ok(proven)
}

fn prove(
    options: &Options,
    cluster: &Cluster,
    workload: &mut Workload,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let mut primary = Connection::open(cluster.primary())?;
    for sql in workload.tables() {
        primary.ask(sql)?;
    }
    let limit = options.load.is_none().then(|| Duration::from_secs(u64::from(options.seconds)));
    say(out, workload.describe(limit))?;
    let mut view = View::new(cluster, io::stdout().is_terminal())?;
    let ran = run::run(cluster, workload, limit, &mut view, out)?;
    say(out, "")?;
    for line in ran.summary(workload) {
        say(out, format!("  {line}"))?;
    }
    if let Some(error) = &ran.error {
        say(out, format!("FAILED: {error}"))?;
        return Ok(false);
    }
    say(out, "Checking every row on every node")?;
    let proof = proof::check(cluster, workload)?;
    for line in &proof.lines {
        say(out, format!("  {line}"))?;
    }
    let verdict = match (proof.holds, ran.interrupted) {
        (true, false) => "PASSED: all nodes hold the same rows, and every acknowledged write is among them.",
        (true, true) => "Interrupted, but what was written until then is the same on all nodes.",
        (false, _) => "FAILED: see above.",
    };
    say(out, verdict)?;
    Ok(proof.holds && !ran.interrupted)
}

fn say_how_to_connect(cluster: &Cluster, out: &mut impl Write) -> Result<(), Failure> {
    say(out, "The nodes go on running. To connect:")?;
    for node in cluster.nodes() {
        say(out, format!("  psql -h 127.0.0.1 -p {} -U postgres postgres    # {}", node.port, node.name))?;
    }
    let pids: Vec<String> = cluster.nodes().map(|node: &NodeProcess| node.pid().to_string()).collect();
    say(out, "To stop them and remove everything:")?;
    say(out, format!("  kill -INT {}; rm -r {}", pids.join(" "), cluster.dir().display()))
}
