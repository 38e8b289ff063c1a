//! Workloads by seed: each is recorded over a few lives of a node, and each life is cut at many moments.
//!
//! A life ends as lives do: by a stop, by SIGKILL to a process, to the postmaster or to all; or by a power loss, and then
//! the node goes on with one of the images. In some workloads a standby follows; its images are cut and tried as well.
//!
//! A failure leaves the scenario's directory behind: the image as it was (`failed`), what became of each change that was
//! not durable (`fates`), the traces, the logs. The same seed makes the same statements, not the same interleaving.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use super::lives::Run;
use super::orders::Found;
use super::recorder::LOST;
use crate::scenario::Scenario;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of the first workload; the next ones follow from it.
    pub seed: u64,
    /// How many.
    pub workloads: u64,
    /// Images of each node in each life.
    pub images: usize,
}

/// What was run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Workloads.
    pub workloads: u64,
    /// More workloads that were given up, as strace lost the node: one in twenty at most, else the run fails.
    pub lost: u64,
    /// Recorded lives of nodes.
    pub lives: u64,
    /// Images on which a node was started.
    pub images: u64,
    /// Images that were like one tried before.
    pub repeated: u64,
    /// Syncs in the recordings.
    pub syncs: u64,
    /// Looks at the orders.
    pub orders: Found,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { workloads, lost, lives, images, repeated, syncs, orders } = self;
        let orders: usize = orders.looked.values().sum();
        write!(
            f,
            "{workloads} workloads ({lost} lost), {lives} lives, {syncs} syncs, {orders} orders held, {images} images tried, \
             {repeated} more seen before"
        )
    }
}

/// An image that broke the law, or a workload that failed.
#[derive(Debug)]
pub struct Failure {
    /// Of the workload.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
    /// Where everything is left.
    pub directory: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, what, directory } = self;
        write!(
            f,
            "seed {seed}: {what}\nLeft in {}. Again: torture images --workloads 1 --seed {seed}",
            directory.display()
        )
    }
}

/// Runs the plan; stops at the first failure.
pub fn run(plan: &Plan, out: &mut dyn Write) -> Result<Tally, Box<Failure>> {
    let mut tally = Tally::default();
    for number in 0..plan.workloads {
        let seed = plan.seed.wrapping_add(number);
        let scenario = Scenario::in_memory("images");
        let result = Run::new(&scenario, seed, plan.images, &mut tally).and_then(Run::workload);
        if let Err(what) = result {
            if what.contains(LOST) && tally.lost * 20 <= number {
                tally.lost += 1;
                continue;
            }
            return Err(Box::new(Failure { seed, what, directory: scenario.keep() }));
        }
        tally.workloads += 1;
        // Who watches has gone if this fails, which is no reason to stop.
        let _ = writeln!(out, "seed {seed} passed: so far {tally}");
    }
    Ok(tally)
}
