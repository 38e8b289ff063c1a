//! Benchmarks, which assert nothing and print what they measured.
//!
//! `cargo run --release -p integration-tests --bin bench -- commit`, or `latch`

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use integration_tests::benchmark::{self, Plan, SCRIPTS};
use integration_tests::latch_benchmark;
use integration_tests::programs;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures Walship beside PostgreSQL 15")]
struct Options {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Commits and reads through pgbench, against a Walship pair and a PostgreSQL 15 pair in turn.
    Commit {
        /// Length of one run.
        #[arg(long, default_value_t = 5, value_name = "N")]
        seconds: u32,
        /// Runs of each kind on each system; figures are medians.
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Numbers of clients.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_name = "N,…")]
        clients: Vec<u32>,
        /// Which scripts.
        #[arg(long, value_delimiter = ',', default_values_t = SCRIPTS.map(str::to_owned), value_name = "NAME,…")]
        scripts: Vec<String>,
    },
    /// Two processes that wake each other: Walship's latch, the kernel's bare primitives and PostgreSQL 15's own latch.
    Latch {
        /// Rounds, in each of which all of them play; figures are medians.
        #[arg(long, default_value_t = 15, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Trips there and back in each game.
        #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1_000_000))]
        trips: u32,
    },
}

fn main() -> ExitCode {
    let done = match Options::parse().benchmark {
        Benchmark::Commit { seconds, rounds, clients, scripts } => {
            programs::build();
            let plan = Plan { seconds, rounds: rounds as usize, clients, scripts };
            benchmark::commit(&plan, &mut io::stdout())
        }
        Benchmark::Latch { rounds, trips } => latch_benchmark::latch(rounds, trips, &mut io::stdout()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
