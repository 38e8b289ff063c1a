//! The benchmark `failover`: how long nobody can write when the primary is lost or changes, beside a real PostgreSQL 15 pair.
//!
//! Method: *failover* is from SIGKILL to all of the primary's processes, with the promotion asked for at once, to the first
//! write that the promoted standby acknowledges, in a session that was there before. *Switchover* is from the last write that
//! the old primary acknowledged to the first one of the new: by `standby promote --switchover`, and for PostgreSQL by a fast
//! shutdown of the primary and `pg_ctl promote` after it. The two systems take turns.

use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use sys::clock::{self, MonoTime};
use sys::process;
use sys::signal::Signal;

use crate::benchmark::{connect, describe_machine, percentile};
use crate::client::Client;
use crate::node::{Node, Role, assert_success};
use crate::postgres::PostgresPair;
use crate::scenario::Scenario;
use crate::{procfs, programs, wait};

const CREATE: &str = "CREATE TABLE rows(id integer PRIMARY KEY)";

/// How long a client whose write was refused leaves the node alone.
const RETRY: Duration = Duration::from_micros(500);

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// Rounds of each.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

/// Milliseconds of the rounds of one kind: Walship's, PostgreSQL's.
type Times = [Vec<Duration>; 2];

/// Runs so many rounds of each and prints the table to `out`.
///
/// # Errors
/// Those of writing to `out`.
pub fn failover(plan: &Plan, out: &mut impl Write) -> io::Result<()> {
    let scenario = Scenario::new("bench-failover");
    describe_machine(scenario.root(), out)?;
    let mut walship = Walship::start(&scenario);
    let (mut failovers, mut switchovers) = (Times::default(), Times::default());
    for _ in 0..plan.rounds {
        failovers[0].push(walship.failover());
        switchovers[0].push(walship.switchover());
        failovers[1].extend(with_postgres(failover_of));
        switchovers[1].extend(with_postgres(switchover_of));
    }
    writeln!(out, "{} rounds, ms until the next write is acknowledged\n", plan.rounds)?;
    writeln!(
        out,
        "{:<11} | {:>8} {:>8} {:>8} | {:>8} {:>8} {:>8} | {:>6}",
        "", "Walship", "p99", "best", "Postgres", "p99", "best", "ratio"
    )?;
    for (name, times) in [("failover", failovers), ("switchover", switchovers)] {
        print_row(out, name, times)?;
    }
    Ok(())
}

/// A pair of its own for each round, as a PostgreSQL that has lost its primary has no simple way back.
fn with_postgres(round: impl Fn(PostgresPair) -> Duration) -> Option<Duration> {
    PostgresPair::start(&Scenario::new("bench-failover-postgres")).map(round)
}

fn print_row(out: &mut impl Write, name: &str, times: Times) -> io::Result<()> {
    let times = times.map(|times| {
        let micros = times.iter().map(|time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        let mut micros: Vec<u32> = micros.collect();
        micros.sort_unstable();
        micros
    });
    let cells = |times: &[u32]| {
        let [half, most, least] = [50, 99, 0].map(|percent| percentile(times, percent));
        format!("{half:>8.1} {most:>8.1} {least:>8.1}")
    };
    let ratio = percentile(&times[0], 50) / percentile(&times[1], 50);
    writeln!(out, "{name:<11} | {} | {} | {ratio:>6.2}", cells(&times[0]), cells(&times[1]))?;
    out.flush()
}

/// A pair whose roles change with every round.
struct Walship {
    nodes: [Node; 2],
    primary: usize,
}

impl Walship {
    fn start(scenario: &Scenario) -> Walship {
        let mut first = Node::init(scenario, "first", &[]);
        first.start();
        first.query(CREATE);
        // With the port that it has from now on.
        first.restart();
        let mut second = Node::clone_of(scenario, "second", &first);
        second.start();
        second.restart();
        Walship { nodes: [first, second], primary: 0 }
    }

    /// Both are level, with some rows more.
    fn get_level(&self) {
        let (primary, standby) = (&self.nodes[self.primary], &self.nodes[1 - self.primary]);
        primary.wait_streams(1);
        let mut client = primary.client();
        (0..50).for_each(|_| insert(&mut client).unwrap_or_else(|error| panic!("{error}")));
        standby.wait_level_with(primary);
    }

    fn failover(&mut self) -> Duration {
        self.get_level();
        let old = self.primary;
        self.primary = 1 - old;
        let new = &self.nodes[self.primary];
        let mut client = new.client();
        let begin = clock::now();
        kill_all_at_once(self.nodes[old].pid());
        let command = spawn_promote(new, &[]);
        let took = until_written(&mut client, begin);
        finish(command, "standby promote");
        let conninfo = new.conninfo("standby");
        let node = &mut self.nodes[old];
        node.wait_end();
        node.run_as(Role::Standby);
        let dir = node.dir().to_str().expect("a path of ours").to_owned();
        assert_success(
            &node.command(&["demote", "-D", &dir, "--from", &conninfo, "--reclone"]),
            "standby demote",
        );
        node.start();
        took
    }

    fn switchover(&mut self) -> Duration {
        self.get_level();
        let old = self.primary;
        self.primary = 1 - old;
        let (from, to) = (&self.nodes[old], &self.nodes[self.primary]);
        let (mut before, mut after) = (from.client(), to.client());
        let command = spawn_promote(to, &["--switchover"]);
        let last = last_written(&mut before);
        let took = until_written(&mut after, last);
        finish(command, "standby promote --switchover");
        wait::until("the old primary to serve", || from.try_client().ok());
        took
    }
}

fn spawn_promote(node: &Node, more: &[&str]) -> Child {
    let mut command = Command::new(programs::walship("standby"));
    command.arg("promote").arg("-D").arg(node.dir()).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be run")
}

fn finish(command: Child, what: &str) {
    assert_success(&command.wait_with_output().expect("a child can be waited for"), what);
}

fn kill_all_at_once(postmaster: process::Pid) {
    let children = procfs::children(postmaster);
    for pid in [postmaster].into_iter().chain(children) {
        let _gone = process::kill(pid, Signal::Kill);
    }
}

fn insert(client: &mut Client) -> Result<(), crate::client::ClientError> {
    client.query("INSERT INTO rows SELECT coalesce(max(id), 0) + 1 FROM rows").map(|_| ())
}

/// Writes until that succeeds; how long after `begin` that was.
fn until_written(client: &mut Client, begin: MonoTime) -> Duration {
    while insert(client).is_err() {
        wait::watch_for(RETRY);
    }
    clock::now().saturating_since(begin)
}

/// Writes until that fails; when the last success was.
fn last_written(client: &mut Client) -> MonoTime {
    let mut last = clock::now();
    while insert(client).is_ok() {
        last = clock::now();
    }
    last
}

fn failover_of(pair: PostgresPair) -> Duration {
    let mut client = prepare(&pair);
    let begin = clock::now();
    kill_all_at_once(pair.pid());
    let command = pair.spawn_promote();
    let took = until_written(&mut client, begin);
    finish(command, "pg_ctl promote");
    took
}

fn switchover_of(mut pair: PostgresPair) -> Duration {
    let mut after = prepare(&pair);
    let mut before = connect(pair.port());
    process::kill(pair.pid(), Signal::Int).expect("the primary runs");
    let last = last_written(&mut before);
    pair.wait_stopped();
    let command = pair.spawn_promote();
    let took = until_written(&mut after, last);
    finish(command, "pg_ctl promote");
    took
}

/// Fills both; a session on the standby.
fn prepare(pair: &PostgresPair) -> Client {
    let mut client = connect(pair.port());
    client.query(CREATE).unwrap_or_else(|error| panic!("{error}"));
    (0..50).for_each(|_| insert(&mut client).unwrap_or_else(|error| panic!("{error}")));
    let level = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_flush_lsn()";
    wait::until("the standby to be level", || (client.value(level) == "1").then_some(()));
    connect(pair.standby_port())
}
