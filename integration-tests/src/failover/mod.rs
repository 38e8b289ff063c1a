//! The failover loop: one primary and two synchronous standbys under load; in every round the primary is lost, the standby
//! that is further is promoted, the other follows, and the old primary comes back as a standby.
//!
//! After each round:
//!
//! 1. nothing that was acknowledged is lost, and nothing that any reader on any node has seen;
//! 2. the old primary has rejoined without a clone;
//! 3. all three nodes give the same rows.
//!
//! The primary is killed, shut down, stands still as if its machine had, or is cut off from the other nodes while its clients
//! go on to talk to it ([`crate::cable`]). One that goes on, with no standby listening to it any more, must acknowledge
//! nothing and show nothing that is not on the promoted one. Before the standbys are compared they are told to receive no
//! more, as whoever fails over must do: what a standby flushes later its readers might see.

mod clients;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::time::Duration;

use sys::clock;
use sys::process;
use sys::signal::Signal;
use wal::lsn::Lsn;

use self::clients::Clients;
use crate::cable::Cable;
use crate::digest;
use crate::node::{Node, Role};
use crate::random::Random;
use crate::rounds::{self, Failure, Plan};
use crate::scenario::Scenario;
use crate::{procfs, wait};

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Rounds that passed.
    pub rounds: u64,
    /// Rows that were acknowledged.
    pub acknowledged: u64,
    /// Rows that a reader saw although nobody was told that they are there.
    pub seen_first: u64,
    /// Rounds by how the primary was lost.
    pub losses: BTreeMap<&'static str, u64>,
    /// Rounds in which the old primary's log was cut to rejoin.
    pub cut: u64,
    /// Time that it took.
    pub time: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { rounds, acknowledged, seen_first, losses, cut, time } = self;
        writeln!(
            f,
            "{rounds} rounds in {:.0} s: {acknowledged} rows acknowledged, {seen_first} seen before that, none lost; \
             {cut} old primaries had a tail to be cut",
            time.as_secs_f64()
        )?;
        losses.iter().try_for_each(|(loss, count)| writeln!(f, "  {count:5} {loss}"))
    }
}

impl rounds::Tally for Tally {
    fn rounds(&self) -> u64 {
        self.rounds
    }

    fn end(&mut self, time: Duration) {
        self.time = time;
    }
}

/// Runs the plan, with a line per round; stops at the first failure.
pub fn run(plan: &Plan, out: &mut dyn Write) -> Result<Tally, Box<Failure>> {
    rounds::run("failover", plan, |scenario, tally: &mut Tally| {
        let mut trio = Trio::start(scenario, plan.seed)?;
        while tally.rounds < plan.rounds {
            trio.round(tally, out)?;
        }
        Ok(())
    })
}

/// How a primary is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Killed,
    ShutDown,
    DroppedAll,
    StoodStill,
    CutOff,
}

/// Half of the losses are the two in which the old primary doesn't know that it is one.
const LOSSES: [Loss; 6] =
    [Loss::Killed, Loss::ShutDown, Loss::DroppedAll, Loss::StoodStill, Loss::CutOff, Loss::CutOff];

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Loss::Killed => "killed",
            Loss::ShutDown => "shut down",
            Loss::DroppedAll => "shut down immediately",
            Loss::StoodStill => "stood still",
            Loss::CutOff => "cut off",
        }
    }

    /// Whether the old primary is there when the new one is made.
    fn leaves_it_running(self) -> bool {
        matches!(self, Loss::StoodStill | Loss::CutOff)
    }
}

/// Who has to confirm a commit.
const NAMES: [&str; 2] = ["ANY 1 (n0, n1, n2)", "FIRST 1 (n0, n1, n2)"];

struct Trio {
    random: Random,
    nodes: Vec<Node>,
    /// By which the nodes reach each other: one to each of them.
    cables: Vec<Cable>,
    /// Which one is the primary.
    primary: usize,
    names: &'static str,
    clients: Clients,
}

impl Trio {
    fn start(scenario: &Scenario, seed: u64) -> Result<Trio, String> {
        let mut nodes = vec![Node::init(scenario, "n0", &["--wal-segsize", "1MB"])];
        nodes[0].set("checkpoint_timeout=1s");
        nodes[0].start();
        nodes[0].query(clients::CREATE);
        for name in ["n1", "n2"] {
            let mut node = Node::clone_of(scenario, name, &nodes[0]);
            node.set("checkpoint_timeout=1s");
            node.start();
            nodes.push(node);
        }
        let cables = nodes.iter().map(|node| Cable::to(node.port())).collect();
        let random = Random::new(seed);
        let mut trio =
            Trio { random, nodes, cables, primary: 0, names: NAMES[0], clients: Clients::default() };
        trio.settle()?;
        Ok(trio)
    }

    fn round(&mut self, tally: &mut Tally, out: &mut dyn Write) -> Result<(), String> {
        let begin = clock::now();
        // The round's own: however many numbers the scheduler makes it draw, the next round is the same.
        let mut random = Random::new(self.random.bits());
        let loss = *random.pick(&LOSSES);
        self.clients.connect(&self.nodes[self.primary], self.nodes.iter())?;
        self.clients.send(&mut random);
        wait::watch_for(Duration::from_micros(random.below(120_000)));
        self.lose(loss)?;
        let old = self.primary;
        let failed_over = self.fail_over()?;
        // Who stands still says no more than what it has said.
        let patience = if loss.leaves_it_running() { Duration::from_millis(200) } else { wait::DEADLINE };
        self.clients.read(patience)?;
        self.clients.check(&self.nodes[self.primary])?;
        let cut = self.rejoin(old, loss)?;
        self.names = NAMES[usize::from(random.below(2) == 1)];
        self.settle()?;
        tally.rounds += 1;
        tally.cut += u64::from(cut);
        *tally.losses.entry(loss.name()).or_default() += 1;
        (tally.acknowledged, tally.seen_first) = (self.clients.acknowledged, self.clients.seen_first);
        let (number, time) = (tally.rounds, clock::now().saturating_since(begin).as_millis());
        // Who watches has gone if this fails, which is no reason to stop.
        let _ = writeln!(
            out,
            "{number}: n{old} {}, n{} promoted in {} ms; {} rows acknowledged so far; {time} ms",
            loss.name(),
            self.primary,
            failed_over.as_millis(),
            tally.acknowledged
        );
        Ok(())
    }

    fn lose(&mut self, loss: Loss) -> Result<(), String> {
        let node = &mut self.nodes[self.primary];
        let mode = match loss {
            Loss::Killed => {
                node.kill_all();
                return Ok(());
            }
            Loss::StoodStill => {
                signal_all(node, Signal::Stop);
                return Ok(());
            }
            Loss::CutOff => {
                self.cables[self.primary].cut();
                return Ok(());
            }
            Loss::ShutDown => "fast",
            Loss::DroppedAll => "immediate",
        };
        let output = node.command(&["stop", "-D", node.dir().to_str().unwrap_or_default(), "-m", mode]);
        if !output.status.success() {
            return Err(format!("stop -m {mode}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        node.wait_end();
        Ok(())
    }

    /// Promotes the standby that is further, and has the other follow it; how long the promotion took.
    fn fail_over(&mut self) -> Result<Duration, String> {
        let standbys: Vec<usize> = (0..self.nodes.len()).filter(|number| *number != self.primary).collect();
        for number in &standbys {
            self.configure(*number, None);
            self.nodes[*number].wait_no_walreceiver();
        }
        let further = standbys.iter().copied().max_by_key(|number| received(&self.nodes[*number]));
        let new = further.expect("there are two standbys");
        let begin = clock::now();
        self.nodes[new].promote();
        let took = clock::now().saturating_since(begin);
        self.primary = new;
        for number in standbys.into_iter().filter(|number| *number != new) {
            self.configure(number, Some(new));
        }
        Ok(took)
    }

    /// Has the old primary come back as a standby; whether something of its log had to go.
    fn rejoin(&mut self, old: usize, loss: Loss) -> Result<bool, String> {
        if loss.leaves_it_running() {
            self.go_on_alone(old)?;
            self.nodes[old].kill_all();
            self.cables[old].mend();
        }
        let conninfo = self.conninfo(old, self.primary);
        self.nodes[old].run_as(Role::Standby);
        let node = &mut self.nodes[old];
        let output =
            node.command(&["demote", "-D", node.dir().to_str().unwrap_or_default(), "--from", &conninfo]);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(format!("n{old} can't rejoin: {said}"));
        }
        node.try_start().map_err(|why| format!("n{old} does not start: {why}\n{}", node.log_tail()))?;
        Ok(said.starts_with("Cut off"))
    }

    /// What was not ended goes on: it may think that it is the primary, but nobody confirms anything to it.
    fn go_on_alone(&mut self, old: usize) -> Result<(), String> {
        let node = &self.nodes[old];
        signal_all(node, Signal::Cont);
        let Ok(mut client) = node.try_client() else { return Ok(()) };
        // Its reads are of the past; a write waits for a quorum that has left it.
        client.set_read_timeout(Duration::from_millis(300));
        match client.query("INSERT INTO rows VALUES (-1, 'nobody confirms this')") {
            Ok(_) => Err(format!("n{old} acknowledged a write although nobody follows it")),
            Err(_) => Ok(()),
        }
    }

    /// Everybody has the settings of the next round; waits until both standbys are level, and compares all three.
    fn settle(&mut self) -> Result<(), String> {
        for number in 0..self.nodes.len() {
            self.configure(number, (number != self.primary).then_some(self.primary));
        }
        let primary = &self.nodes[self.primary];
        primary.wait_streams(2);
        let digest = |node: &Node| digest::of_table(&mut node.client(), "rows");
        let expected = digest(primary);
        for node in &self.nodes {
            if !std::ptr::eq(node, primary) {
                node.wait_level_with(primary);
                let found = digest(node);
                if found != expected {
                    return Err(format!("the nodes differ: {expected:?} and {found:?}"));
                }
            }
        }
        Ok(())
    }

    /// How one node reaches another.
    fn conninfo(&self, from: usize, to: usize) -> String {
        let port = self.cables[to].port();
        format!("host=127.0.0.1 port={port} user=postgres application_name=n{from}")
    }

    /// A node's settings: who has to confirm, if it is the primary, and whom it follows, if it doesn't.
    fn configure(&self, number: usize, upstream: Option<usize>) {
        let conninfo = upstream.map_or(String::new(), |to| self.conninfo(number, to));
        self.nodes[number].reload(&format!(
            "primary_conninfo = '{conninfo}'\nsynchronous_standby_names = '{}'",
            self.names
        ));
    }
}

fn received(node: &Node) -> Lsn {
    node.lsn("pg_last_wal_receive_lsn")
}

fn signal_all(node: &Node, signal: Signal) {
    let postmaster = node.pid();
    for pid in procfs::children(postmaster).into_iter().chain([postmaster]) {
        let _gone = process::kill(pid, signal);
    }
}
