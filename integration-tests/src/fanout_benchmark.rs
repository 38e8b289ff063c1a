//! The benchmark `fanout`: what many receivers of the log cost those who write it, on a Walship primary and a PostgreSQL 15
//! in turn.
//!
//! Method: so many receivers ([`crate::receiver`]) stream from a server, all served by this process, while pgbench writes
//! with a few clients. The machine is shared: the receivers and the walsenders take the processors that the
//! commits would have, on both systems. So beside tps there is what a receiver costs: the time that a commit took longer
//! than with the first number of receivers, per receiver more. Memory is what a walsender shares with nobody, the largest of
//! all.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use sys::poll::{self, PollFd};
use sys::process::Pid;
use wal::lsn::Lsn;

use crate::benchmark::{Figures, PgBench, connect, describe_machine, median, prepare, script_text};
use crate::client::Address;
use crate::node::Node;
use crate::postgres::Server;
use crate::receiver::Receiver;
use crate::scenario::Scenario;
use crate::{procfs, wait};

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Length of one run.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub seconds: u32,
    /// Runs of each kind on each system; figures are medians.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Clients that write.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Numbers of receivers, the first of which the others are compared with.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 8, 32, 64], value_name = "N,…")]
    pub receivers: Vec<usize>,
    /// What the clients write.
    #[arg(long, default_value = "put", value_name = "NAME")]
    pub script: String,
}

/// How often this process looks whether pgbench has ended, while receivers are quiet.
const LOOK: Duration = Duration::from_millis(50);

/// What one run showed.
struct Run {
    figures: Figures,
    /// Bytes of the largest walsender; none without any.
    memory: Option<u64>,
}

/// Runs the plan and prints the table to `out`.
///
/// # Errors
/// Those of writing to `out`.
pub fn fanout(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let scenario = Scenario::new("bench-fanout");
    describe_machine(scenario.root(), out)?;
    let most = plan.receivers.iter().max().copied().unwrap_or(0);
    let senders = format!("max_wal_senders={}", most + 1);
    let mut primary = Node::init(&scenario, "primary", &[]);
    primary.set(&senders);
    primary.start();
    let postgres = Server::new(&scenario, &[&senders]);
    let ports = [Some(primary.port()), postgres.as_ref().map(Server::port)];
    ports.into_iter().flatten().for_each(prepare);
    let script = scenario.write("script.sql", &script_text(&plan.script));
    let mut runs: Vec<[Vec<Run>; 2]> = plan.receivers.iter().map(|_| Default::default()).collect();
    for round in 0..plan.rounds {
        for (receivers, runs) in plan.receivers.iter().zip(&mut runs) {
            // Who goes first changes.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for system in order {
                let Some(port) = ports[system] else { continue };
                runs[system].push(run(plan, &scenario, &script, port, *receivers));
            }
        }
    }
    print_table(plan, &runs, out)?;
    drop(postgres);
    primary.stop();
    Ok(())
}

fn run(plan: &Plan, scenario: &Scenario, script: &Path, port: u16, count: usize) -> Run {
    let mut client = connect(port);
    let start: Lsn = client.value("SELECT pg_current_wal_flush_lsn()").parse().expect("an LSN");
    let start = Lsn(start.0 - start.0 % (16 << 20));
    let address = Address::Tcp(port);
    let receiver = |_| Receiver::start(&address, start).unwrap_or_else(|error| panic!("{error}"));
    let mut receivers: Vec<Receiver> = (0..count).map(receiver).collect();
    let mut bench = PgBench::start(scenario, port, script, plan.clients, plan.seconds);
    while !bench.has_ended() {
        serve(&mut receivers);
    }
    let pids = client.rows("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'");
    let pids = pids.iter().map(|row| Pid(row[0].parse().expect("a process id")));
    let memory = pids.filter_map(procfs::private_bytes).max();
    drop(receivers);
    let left = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
    wait::until("the walsenders to end", || (client.value(left) == "0").then_some(()));
    Run { figures: bench.finish(), memory }
}

/// Takes what has come for any of the receivers, waiting a little for it.
fn serve(receivers: &mut [Receiver]) {
    let mut sockets: Vec<PollFd> =
        receivers.iter().map(|receiver| PollFd::new(receiver.as_fd().as_raw_fd(), poll::IN)).collect();
    poll::poll(&mut sockets, Some(LOOK)).expect("sockets can be waited for");
    for (receiver, socket) in receivers.iter_mut().zip(&sockets) {
        if socket.found() != 0 {
            receiver.take().unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

fn print_table(plan: &Plan, runs: &[[Vec<Run>; 2]], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{} with {} clients, {} s a run, medians of {} rounds\n",
        plan.script, plan.clients, plan.seconds, plan.rounds
    )?;
    writeln!(
        out,
        "{:>9} | {:>8} {:>11} {:>8} | {:>8} {:>11} {:>8} | {:>5} {:>5}",
        "receivers",
        "Walship",
        "us/receiver",
        "KiB each",
        "Postgres",
        "us/receiver",
        "KiB each",
        "ratio",
        "cost"
    )?;
    let tps = |runs: &[Run]| median(runs.iter().map(|run| run.figures.tps()));
    for (receivers, systems) in plan.receivers.iter().zip(runs) {
        let cost = |system: usize| {
            let base = tps(&runs[0][system]);
            let more = receivers.checked_sub(plan.receivers[0]).filter(|more| *more > 0);
            more.map_or(f64::NAN, |more| 1e6 * (1.0 / tps(&systems[system]) - 1.0 / base) / more as f64)
        };
        let cells = |system: usize| {
            let memory =
                median(systems[system].iter().filter_map(|run| run.memory.map(|bytes| bytes as f64)));
            format!("{:>8.0} {:>11.2} {:>8.0}", tps(&systems[system]), cost(system), memory / 1024.0)
        };
        let ratio = tps(&systems[0]) / tps(&systems[1]);
        writeln!(
            out,
            "{receivers:>9} | {} | {} | {ratio:>5.2} {:>5.2}",
            cells(0),
            cells(1),
            cost(0) / cost(1)
        )?;
    }
    Ok(())
}
