//! Benchmarks, which assert nothing and print what they measured.
//!
//! `cargo run --release -p integration-tests --bin bench -- commit`, or `sync`, `failover`, `latch`, or `recovery`

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use integration_tests::benchmark::{self, Plan, SCRIPTS};
use integration_tests::programs;
use integration_tests::recovery_benchmark::{self, WORKLOADS};
use integration_tests::sync_benchmark::{self, LEVELS};
use integration_tests::{failover_benchmark, latch_benchmark};

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
    /// Commits that wait for a synchronous standby, against both pairs in turn.
    Sync {
        /// Length of one run.
        #[arg(long, default_value_t = 5, value_name = "N")]
        seconds: u32,
        /// Runs of each kind on each system; figures are medians.
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Numbers of clients.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32], value_name = "N,…")]
        clients: Vec<u32>,
        /// Which levels of synchronous_commit.
        #[arg(long, value_delimiter = ',', default_values_t = LEVELS.map(str::to_owned), value_name = "LEVEL,…")]
        levels: Vec<String>,
    },
    /// How long nobody can write when the primary is lost, or changes by a switchover.
    Failover {
        /// Rounds of each.
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
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
    /// Starts after a crash, with so much log behind the last checkpoint; beside a PostgreSQL 15 with the same statements.
    Recovery {
        /// Log since the checkpoint, in MB.
        #[arg(long, default_value_t = 1024, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
        size: u64,
        /// Rows in one statement.
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..10_000))]
        rows: u32,
        /// Starts of each kind; figures are medians.
        #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Which workloads.
        #[arg(long, value_delimiter = ',', default_values_t = WORKLOADS.map(str::to_owned), value_name = "NAME,…")]
        workloads: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Options::parse().benchmark {
        Benchmark::Commit { seconds, rounds, clients, scripts } => {
            programs::build();
            let plan = Plan { seconds, rounds: rounds as usize, clients, scripts };
            benchmark::commit(&plan, &mut io::stdout())
        }
        Benchmark::Recovery { size, rows, rounds, workloads } => {
            programs::build();
            let plan =
                recovery_benchmark::Plan { size: size << 20, rows, rounds: rounds as usize, workloads };
            recovery_benchmark::recovery(&plan, &mut io::stdout())
        }
        Benchmark::Sync { seconds, rounds, clients, levels } => {
            programs::build();
            let plan = Plan { seconds, rounds: rounds as usize, clients, scripts: levels };
            sync_benchmark::sync(&plan, &mut io::stdout())
        }
        Benchmark::Failover { rounds } => {
            programs::build();
            failover_benchmark::failover(rounds as usize, &mut io::stdout())
        }
        Benchmark::Latch { rounds, trips } => latch_benchmark::latch(rounds, trips, &mut io::stdout()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
