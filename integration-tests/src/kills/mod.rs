//! The kill loop: a primary and a standby under load; in every round something random is done to something random, and
//! then nothing that was acknowledged may be missing. Checkpoints remove the log that nobody needs, slots come and go, and every
//! few rounds commits begin or cease to wait for the standby.
//!
//! After each round, once both nodes serve again:
//!
//! 1. every acknowledged row is on the primary, once; no row that nobody sent; no transaction in halves ([`ledger`]);
//! 2. the standby has caught up, and both nodes give the same rows and the same schema;
//! 3. nothing runs on either data directory but its postmaster and that one's children;
//! 4. each slot has the log that it promises to keep; pg_waldump reads, on both nodes, all that the log has got since the round
//!    before; the whole log, from the oldest segment that is not removed, every [`WHOLE_LOG`] rounds and at the end.
//!
//! Deeds, delays and statements follow from the seed; what they meet is up to the scheduler. On a failure everything is
//! left: data directories, logs, and in `deeds` the list of what was done.

pub mod deed;
pub mod ledger;
mod pair;
pub mod points;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

use failpoint::Point;
use sys::clock;

use self::deed::{Deed, Side, of_backup};
use self::ledger::{AHEAD_MAX, Ledger};
use self::pair::Pair;
use crate::backup;
use crate::random::Random;
use crate::rounds::{self, Failure, Plan};
use crate::scenario::Scenario;
use crate::wait;

/// How often the whole log is read, in rounds.
const WHOLE_LOG: u64 = 25;
/// Commits begin or cease to wait for the standby once in so many rounds.
const CHANGE_EVERY: u64 = 8;
/// Within this time after the statements were sent something is done. They take about as long.
const DELAY_MAX: Duration = Duration::from_millis(60);

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Rounds that passed.
    pub rounds: u64,
    /// Rows that were acknowledged.
    pub acknowledged: u64,
    /// Rows that were sent, and nobody said what became of them.
    pub unanswered: u64,
    /// Rounds by what was done.
    pub deeds: BTreeMap<&'static str, u64>,
    /// Rounds by whom it was done to.
    pub victims: BTreeMap<String, u64>,
    /// Rounds in which commits waited for the standby.
    pub synchronous: u64,
    /// How often an armed failpoint was met.
    pub failpoints: BTreeMap<Point, u64>,
    /// Crash restarts of both nodes.
    pub crash_restarts: usize,
    /// Time that it took.
    pub time: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { rounds, acknowledged, unanswered, deeds, victims, failpoints, .. } = self;
        let Tally { synchronous, crash_restarts, time, .. } = self;
        writeln!(
            f,
            "{rounds} rounds in {:.0} s, {synchronous} of them synchronous: {acknowledged} rows acknowledged, {unanswered} \
             not answered, {crash_restarts} crash restarts",
            time.as_secs_f64()
        )?;
        deeds.iter().try_for_each(|(deed, count)| writeln!(f, "  {count:5} {deed}"))?;
        writeln!(f, "to:")?;
        victims.iter().try_for_each(|(victim, count)| writeln!(f, "  {count:5} {victim}"))?;
        let met: u64 = failpoints.values().sum();
        let points = failpoints.values().filter(|count| **count > 0).count();
        writeln!(f, "{met} times a failpoint was met, {points} of {} points", Point::all().count())
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
    rounds::run("kill", plan, |scenario, tally: &mut Tally| {
        let mut run = Run::new(scenario, plan.seed)?;
        let deeds = scenario.path("deeds");
        run.rounds(plan.rounds, tally, out)
            .map_err(|what| format!("{what}\nWhat was done: {}", deeds.display()))
    })
}

/// A run under way.
struct Run {
    random: Random,
    pair: Pair,
    ledger: Ledger,
    deeds: File,
    /// Commits wait for the standby.
    synchronous: bool,
}

impl Run {
    fn new(scenario: &Scenario, seed: u64) -> Result<Run, String> {
        let pair = Pair::start(scenario, &[])?;
        let ledger = Ledger::create(&pair.cluster.primary)?;
        let deeds = File::create(scenario.path("deeds")).map_err(|error| error.to_string())?;
        Ok(Run { random: Random::new(seed), pair, ledger, deeds, synchronous: false })
    }

    fn rounds(&mut self, count: u64, tally: &mut Tally, out: &mut dyn Write) -> Result<(), String> {
        while tally.rounds < count {
            self.round(tally, out)?;
        }
        self.end()
    }

    fn round(&mut self, tally: &mut Tally, out: &mut dyn Write) -> Result<(), String> {
        let begin = clock::now();
        // The round's own: however many numbers the scheduler makes it draw, the next round is the same.
        let mut random = Random::new(self.random.bits());
        let deed = Deed::draw(&mut random);
        let delay = Duration::from_micros(random.below(DELAY_MAX.as_micros() as u64));
        let number = tally.rounds + 1;
        if random.below(CHANGE_EVERY) == 0 {
            self.synchronous = !self.synchronous;
            self.pair.set_synchronous(self.synchronous)?;
        }
        let waits = if self.synchronous { ", commits wait for the standby" } else { "" };
        writeln!(self.deeds, "round {number}: {delay:?} after the load began: {deed}{waits}")
            .map_err(|error| error.to_string())?;
        let acknowledged = self.ledger.acknowledged;
        self.ledger.connect(&self.pair.cluster.primary, &self.pair.cluster.standby)?;
        let processes = self.pair.processes()?;
        self.pair.arm(&deed);
        let backup = match deed {
            Deed::Failpoint(armed) if of_backup(armed.point) => {
                Some(backup::begin(self.pair.node(armed.side)).map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        self.ledger.send(&mut random, AHEAD_MAX);
        wait::watch_for(delay);
        self.pair.commit(&deed, &processes, &mut random)?;
        if self.synchronous {
            // Without it there may be no answer, so nothing happens to it any more.
            if matches!(deed, Deed::Failpoint(armed) if armed.side == Side::Standby) {
                self.pair.met(&deed);
            }
            self.pair.serve(Side::Standby)?;
            tally.synchronous += 1;
        }
        self.ledger.read()?;
        // Whatever becomes of it: what it meets is what counts.
        let _taken = backup.map(backup::take);
        // It may be a start, or the end of a session, that meets a failpoint.
        self.pair.heal()?;
        let met = self.pair.met(&deed);
        self.pair.steady(|pair, end| {
            self.ledger.check(&pair.cluster.primary)?;
            pair.check(end, number.is_multiple_of(WHOLE_LOG))
        })?;
        tally.rounds = number;
        *tally.deeds.entry(deed.kind()).or_default() += 1;
        *tally.victims.entry(deed.victim()).or_default() += 1;
        if let Deed::Failpoint(armed) = deed {
            tally.failpoints.insert(
                armed.point,
                tally.failpoints.get(&armed.point).unwrap_or(&0) + u64::from(met.is_some()),
            );
        }
        (tally.acknowledged, tally.unanswered) = (self.ledger.acknowledged, self.ledger.unanswered);
        tally.crash_restarts = self.pair.crash_restarts();
        let met = match (&deed, met) {
            (Deed::Failpoint(_), Some(pid)) => format!(" (met by {pid})"),
            (Deed::Failpoint(_), None) => " (not met)".to_owned(),
            _ => String::new(),
        };
        let new = self.ledger.acknowledged - acknowledged;
        let time = clock::now().saturating_since(begin).as_millis();
        // Who watches has gone if this fails, which is no reason to stop.
        let _ = writeln!(out, "{number}: {deed}{met}: {new} more rows acknowledged, none lost; {time} ms");
        Ok(())
    }

    /// A last look at all of the log, and the end.
    fn end(&mut self) -> Result<(), String> {
        let end = self.pair.heal()?;
        self.pair.check(end, true)?;
        self.pair.stop_both()
    }
}
