//! What the tortures of many rounds share: a plan that can be run again, a tally, and a failure that says how.
//!
//! A torture is a closure that does round after round and counts the rounds that passed in its tally; [`run`] gives it a
//! scenario, stops the time, and, when a round fails, leaves everything where it is and names the round.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sys::clock;

use crate::scenario::Scenario;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// How many rounds.
    pub rounds: u64,
}

/// What was done in the rounds that passed.
pub trait Tally: Default {
    /// Rounds that passed.
    fn rounds(&self) -> u64;

    /// The run is over, after `time`.
    fn end(&mut self, time: Duration);
}

/// A round that failed.
#[derive(Debug)]
pub struct Failure {
    /// The torture's name, as `torture` knows it.
    pub torture: &'static str,
    /// Of the run.
    pub seed: u64,
    /// Which round, from 1.
    pub round: u64,
    /// What was wrong.
    pub what: String,
    /// Where everything is left.
    pub directory: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { torture, seed, round, what, directory } = self;
        write!(
            f,
            "seed {seed}, round {round}: {what}\nLeft in {}. Again: torture {torture} --rounds {round} --seed {seed}",
            directory.display()
        )
    }
}

/// Runs the torture of that name in a scenario of its own; `rounds` ends at the first round that fails, and says why.
pub fn run<T: Tally>(
    torture: &'static str,
    plan: &Plan,
    rounds: impl FnOnce(&Scenario, &mut T) -> Result<(), String>,
) -> Result<T, Box<Failure>> {
    let scenario = Scenario::new(torture);
    let begin = clock::now();
    let mut tally = T::default();
    let result = rounds(&scenario, &mut tally);
    tally.end(clock::now().saturating_since(begin));
    match result {
        Ok(()) => Ok(tally),
        Err(what) => {
            let (seed, round) = (plan.seed, tally.rounds() + 1);
            Err(Box::new(Failure { torture, seed, round, what, directory: scenario.keep() }))
        }
    }
}
