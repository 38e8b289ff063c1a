//! The benchmark `catchup`: a receiver that has missed much of the log gets it, from Walship and from PostgreSQL 15 in turn.
//!
//! Method: both log the same messages until their log is as long as asked for, and keep it. Then it is drained from its second
//! segment on, by pg_receivewal into an empty directory (its own writing is the limit) and by a client that throws it
//! away ([`crate::receiver`]). Shown are bytes per second and the processor time that the walsender took per GB: of the
//! children that the postmaster has reaped meanwhile, as nothing else ends there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use sys::clock;
use sys::process::Pid;
use wal::lsn::Lsn;

use crate::benchmark::{connect, describe_machine, median};
use crate::client::{Address, Client};
use crate::node::{Node, assert_success};
use crate::postgres::Server;
use crate::receiver::Receiver;
use crate::scenario::Scenario;
use crate::{procfs, programs, wait};

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Log to be drained, in MB.
    #[arg(long, default_value_t = 2048, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
    pub size: u64,
    /// Drains of each kind from each system; figures are medians.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

/// Bytes of one message in the log.
const MESSAGE: usize = 256 << 10;
/// The segments of both.
const SEGMENT: u64 = 16 << 20;
/// Where they are drained from: behind the segment that pg_receivewal is made to find.
const START: Lsn = Lsn(2 * SEGMENT);

/// A server whose log is drained.
struct Source {
    name: &'static str,
    port: u16,
    postmaster: Pid,
    /// Its children without a walsender.
    children: Vec<Pid>,
    end: Lsn,
    /// So that its session's end falls into no drain.
    _client: Client,
    drains: [Vec<Drain>; 2],
}

/// What a drain took.
struct Drain {
    bytes: u64,
    time: Duration,
    processor: Duration,
}

const SINKS: [(&str, f64); 2] = [("pg_receivewal", 1.0), ("discarded", 1.3)];

/// Drains both and prints the table to `out`.
///
/// # Errors
/// Those of writing to `out`.
pub fn catchup(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let scenario = Scenario::new("bench-catchup");
    describe_machine(scenario.root(), out)?;
    let mut primary = Node::init(&scenario, "primary", &[]);
    // A checkpoint in the midst of a round would be an unequal burden.
    ["checkpoint_timeout=1d", "max_wal_size=100GB"].iter().for_each(|setting| primary.set(setting));
    primary.start();
    let settings = ["checkpoint_timeout=1d", "max_wal_size=100GB", "wal_keep_size=100GB", "autovacuum=off"];
    let postgres = Server::new(&scenario, &settings);
    let mut sources = vec![Source::fill("Walship", primary.port(), primary.pid(), plan)];
    sources.extend(
        postgres.as_ref().map(|server| Source::fill("PostgreSQL", server.port(), server.pid(), plan)),
    );
    for _ in 0..plan.rounds {
        // Who goes first changes.
        sources.rotate_left(1);
        for sink in 0..SINKS.len() {
            sources.iter_mut().for_each(|source| source.drain(sink, &scenario.path("received")));
        }
    }
    sources.sort_by_key(|source| std::cmp::Reverse(source.name));
    print_table(plan, &sources, out)?;
    drop(postgres);
    primary.stop();
    Ok(())
}

fn print_table(plan: &Plan, sources: &[Source], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{} MB of log, medians of {} drains\n", plan.size, plan.rounds)?;
    writeln!(
        out,
        "{:<14} {:<11} {:>8} {:>10} | {:>5} {:>4} {:>5}",
        "", "", "MB/s", "CPU s/GB", "ratio", "aim", "CPU"
    )?;
    for (sink, (name, aim)) in SINKS.iter().enumerate() {
        let figures = |source: &Source| {
            let of = |value: fn(&Drain) -> f64| median(source.drains[sink].iter().map(value));
            (of(Drain::rate), of(Drain::cost))
        };
        let theirs = sources.get(1).map(figures);
        for source in sources {
            let (rate, cost) = figures(source);
            write!(out, "{name:<14} {:<11} {:>8.0} {cost:>10.3} |", source.name, rate / 1e6)?;
            match theirs.filter(|_| source.name != "PostgreSQL") {
                Some((their_rate, their_cost)) => {
                    writeln!(out, " {:>5.2} {aim:>4.1} {:>5.2}", rate / their_rate, cost / their_cost)?;
                }
                None => writeln!(out)?,
            }
        }
    }
    Ok(())
}

impl Drain {
    /// Bytes per second.
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }

    /// Seconds of processor time per GB.
    fn cost(&self) -> f64 {
        self.processor.as_secs_f64() / (self.bytes as f64 / 1e9)
    }
}

impl Source {
    /// Of a server that gets its log now.
    fn fill(name: &'static str, port: u16, postmaster: Pid, plan: &Plan) -> Source {
        let mut client = connect(port);
        let emit = format!("SELECT pg_logical_emit_message(false, 'bench', '{}')", "x".repeat(MESSAGE));
        let end = START + (plan.size << 20);
        while lsn(&mut client) < end {
            client.query(&emit).unwrap_or_else(|error| panic!("{error}"));
        }
        let children = procfs::children(postmaster);
        Source { name, port, postmaster, children, end, _client: client, drains: Default::default() }
    }

    fn drain(&mut self, sink: usize, dir: &Path) {
        let before = procfs::reaped_cpu(self.postmaster);
        let begin = clock::now();
        let end = match sink {
            0 => self.receive_into(dir),
            _ => self.discard(),
        };
        let time = clock::now().saturating_since(begin);
        let _none_but_of_a_file = fs::remove_dir_all(dir);
        wait::until("the walsender to be reaped", || {
            (procfs::children(self.postmaster) == self.children).then_some(())
        });
        let processor = procfs::reaped_cpu(self.postmaster).saturating_sub(before);
        self.drains[sink].push(Drain { bytes: end - START, time, processor });
    }

    fn receive_into(&self, dir: &Path) -> Lsn {
        fs::create_dir(dir).unwrap();
        // It goes on behind the last segment that it finds.
        File::create(dir.join("000000010000000000000001")).unwrap().set_len(SEGMENT).unwrap();
        let mut command = Command::new(programs::postgres("pg_receivewal"));
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string(), "--no-loop"]);
        command.arg("-D").arg(dir).args(["--endpos", &self.end.to_string()]).stdin(Stdio::null());
        assert_success(&command.output().unwrap(), "pg_receivewal");
        self.end
    }

    fn discard(&self) -> Lsn {
        let started = Receiver::start(&Address::Tcp(self.port), START);
        let mut receiver = started.unwrap_or_else(|error| panic!("{error}"));
        while receiver.position() < self.end {
            receiver.take().unwrap_or_else(|error| panic!("{error}"));
        }
        receiver.position()
    }
}

fn lsn(client: &mut Client) -> Lsn {
    client.value("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN")
}
