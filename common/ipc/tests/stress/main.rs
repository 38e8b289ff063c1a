//! 64 processes that set each other's latches and send each other interrupts at random, and nothing is lost.
//!
//! Goal: no wake-up is lost, and no interrupt reaches a successor of its slot, whatever the processes do:
//! wait with and without time-outs, in several sets, take latches out and put them back, hold interrupts, are
//! stopped and continued, killed with SIGKILL and replaced, leave and are replaced, all that while others are
//! setting their latches.
//!
//! Method: storms of a random number of sets among some or all of the processes, and calm after each
//! (storms.rs). In the calm each process must have seen all that was sent to it (ledger.rs); who sleeps
//! although there is something unseen, when nobody is left who could wake it, has lost a wake-up
//! (watchdog.rs). A bit of an interrupt tells for which life of the slot it was meant.
//! Besides, a duel of two processes (duel.rs) goes for the moment that decides.
//!
//! The usual run is a few seconds. A long one, on each back-end:
//!
//! ```text
//! WALSHIP_STRESS_SETS=1000000 cargo test -p ipc --release --test stress -- --nocapture
//! ```
//!
//! `WALSHIP_SEED=n` repeats the choices of a run (not the order in which its processes ran); an argument is
//! a filter (`eventfd`).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a run says its seed and what it did")]

mod duel;
mod ledger;
mod member;
mod random;
mod storms;
mod watchdog;

use std::time::Duration;

use ipc::{
    backend::{self, Backend},
    wait_event::WaitEvent,
    wait_event_set::WaitEventSet,
};
use libtest_mimic::{Arguments, Failed, Trial};
use sys::{
    clock,
    fork::fork_process,
    process::{ExitStatus, PidFd},
};

use crate::storms::Storms;

/// Sets of a usual run, per back-end.
const SETS: u64 = 30_000;

/// When a usual run ends in any case: on a machine that is busy with something else a duel is slow.
const TIME: Duration = Duration::from_secs(5);

/// How much stress.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    sets: u64,
    seed: u64,
    /// Ends earlier when this is over.
    time: Option<Duration>,
}

/// A way to put latches under stress. Says what it did, or what was lost.
type Stress = fn(Amount) -> Result<String, String>;

const TESTS: [(&str, Stress); 2] = [
    ("no_wakeup_is_lost_and_no_interrupt_goes_astray", |amount| Storms::new(amount.seed).run(amount)),
    ("set_that_meets_reset_and_sleep_is_not_lost", duel::run),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let sets = number_from("WALSHIP_STRESS_SETS");
    let seed = number_from("WALSHIP_SEED").unwrap_or_else(|| clock::now().as_nanos());
    let time = sets.is_none().then_some(TIME);
    let amount = Amount { sets: sets.unwrap_or(SETS), seed, time };
    let trial = |backend: Backend, (name, stress): (&str, Stress)| {
        Trial::test(format!("{}::{name}", backend.name()), move || run(backend, stress, amount))
    };
    let trials = Backend::ALL.iter().flat_map(|backend| TESTS.iter().map(|test| trial(*backend, *test)));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// In a process of its own: the node of a back-end leaves descriptors and handlers behind.
fn run(backend: Backend, stress: Stress, amount: Amount) -> Result<(), Failed> {
    let seed = amount.seed;
    let pid = fork_process(|| {
        backend::choose(backend);
        let start = clock::now();
        let result = stress(amount);
        let seconds = clock::now().saturating_since(start).as_secs_f64();
        let failed = result.is_err();
        let said = result.unwrap_or_else(|lost| lost);
        println!("{}, seed {seed}, {seconds:.1} s: {said}", backend.name());
        i32::from(failed)
    })?;
    let process = PidFd::open(pid)?;
    let mut set = WaitEventSet::without_process(1)?;
    set.add_child_exit(&process)?;
    set.wait(None, WaitEvent::BackendTermination, &mut Vec::new())?;
    match process.wait()? {
        Some(ExitStatus::Exited(0)) => Ok(()),
        status => Err(Failed::from(format!("seed {seed}: the postmaster's process {status:?}"))),
    }
}
