//! Long runs that look for what breaks the law: acknowledged is never lost.
//!
//! `cargo run --release -p integration-tests --bin torture -- images --workloads 200 --seed 1`

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use integration_tests::disk::campaign::{self, Plan};
use integration_tests::disk::recorder;
use integration_tests::programs;

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
}

#[allow(clippy::print_stderr, reason = "why a run failed is for who started it")]
fn main() -> ExitCode {
    let Torture::Images { workloads, seed, images } = Options::parse().torture;
    programs::build();
    if let Some(why) = recorder::unavailable() {
        eprintln!("{why}; integration-tests/install installs it");
        return ExitCode::FAILURE;
    }
    match campaign::run(&Plan { seed, workloads, images }, &mut io::stdout()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
