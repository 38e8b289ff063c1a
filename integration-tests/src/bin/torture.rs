//! Long runs that look for what breaks the law: acknowledged is never lost.
//!
//! `cargo run --release -p integration-tests --bin torture -- images --workloads 200 --seed 1`
//! `cargo run --release -p integration-tests --bin torture -- kill --rounds 1000 --seed 1`
//! `cargo run --release -p integration-tests --bin torture -- failover --rounds 300 --seed 1`

use std::process::ExitCode;
use std::{fmt, io};

use clap::{Parser, Subcommand};
use integration_tests::disk::campaign;
use integration_tests::disk::recorder;
use integration_tests::rounds::{Failure, Plan};
use integration_tests::{failover, kills, programs};

#[derive(Debug, Parser)]
#[command(name = "torture", about = "Breaks Walship in every way and looks whether it held")]
struct Options {
    #[command(subcommand)]
    torture: Torture,
}

#[derive(Debug, Subcommand)]
enum Torture {
    /// Records workloads and starts nodes on the disks that a power loss could have left.
    Images {
        /// How many workloads.
        #[arg(long, default_value_t = 200, value_name = "N")]
        workloads: u64,
        /// Of the first workload.
        #[arg(long, default_value_t = 1, value_name = "S")]
        seed: u64,
        /// Images of each node in each of its lives.
        #[arg(long, default_value_t = 40, value_name = "N")]
        images: usize,
    },
    /// Loses the primary of three nodes under load, again and again, and fails over.
    Failover {
        /// How many rounds.
        #[arg(long, default_value_t = 20, value_name = "N")]
        rounds: u64,
        /// How the primary is lost, and when, follows from it.
        #[arg(long, default_value_t = 1, value_name = "S")]
        seed: u64,
    },
    /// Does something random to something random of a primary and a standby under load, again and again.
    Kill {
        /// How many rounds.
        #[arg(long, default_value_t = 60, value_name = "N")]
        rounds: u64,
        /// What is done, when, and to whom follows from it.
        #[arg(long, default_value_t = 1, value_name = "S")]
        seed: u64,
    },
}

#[allow(clippy::print_stderr, reason = "why a run failed is for who started it")]
fn main() -> ExitCode {
    let torture = Options::parse().torture;
    programs::build_with_failpoints();
    let failure = match torture {
        Torture::Images { seed, workloads, images } => {
            run_images(&campaign::Plan { seed, workloads, images })
        }
        Torture::Failover { rounds, seed } => tell(failover::run(&Plan { seed, rounds }, &mut io::stdout())),
        Torture::Kill { rounds, seed } => tell(kills::run(&Plan { seed, rounds }, &mut io::stdout())),
    };
    match failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run_images(plan: &campaign::Plan) -> Option<String> {
    if let Some(why) = recorder::unavailable() {
        return Some(format!("{why}; integration-tests/install installs it"));
    }
    campaign::run(plan, &mut io::stdout()).err().map(|failure| failure.to_string())
}

#[allow(clippy::print_stdout, reason = "the summary is what the run is for")]
fn tell<T: fmt::Display>(result: Result<T, Box<Failure>>) -> Option<String> {
    match result {
        Ok(tally) => {
            print!("{tally}");
            None
        }
        Err(failure) => Some(failure.to_string()),
    }
}
