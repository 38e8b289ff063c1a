//! Benchmarks, which assert nothing and print what they measured.
//!
//! `cargo run --release -p integration-tests --bin bench -- commit`, or `sync`, `fanout`, `catchup`, `failover`, `latch`, or
//! `recovery`

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use integration_tests::benchmark::{self, SCRIPTS};
use integration_tests::sync_benchmark::{self, LEVELS};
use integration_tests::{
    catchup_benchmark, failover_benchmark, fanout_benchmark, latch_benchmark, programs, recovery_benchmark,
};

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
        #[command(flatten)]
        plan: benchmark::Plan,
        /// Which scripts.
        #[arg(long, value_delimiter = ',', default_values_t = SCRIPTS.map(str::to_owned), value_name = "NAME,…")]
        scripts: Vec<String>,
    },
    /// Commits that wait for a synchronous standby, against both pairs in turn.
    Sync {
        #[command(flatten)]
        plan: benchmark::Plan,
        /// Which levels of synchronous_commit.
        #[arg(long, value_delimiter = ',', default_values_t = LEVELS.map(str::to_owned), value_name = "LEVEL,…")]
        levels: Vec<String>,
    },
    /// Commits while many receivers stream the log, on a Walship primary and a PostgreSQL 15 in turn.
    Fanout(fanout_benchmark::Plan),
    /// A receiver that has missed much of the log: how fast it gets it, and at what cost.
    Catchup(catchup_benchmark::Plan),
    /// How long nobody can write when the primary is lost, or changes by a switchover.
    Failover(failover_benchmark::Plan),
    /// Two processes that wake each other: Walship's latch, the kernel's bare primitives and PostgreSQL 15's own latch.
    Latch(latch_benchmark::Plan),
    /// Starts after a crash, with so much log behind the last checkpoint; beside a PostgreSQL 15 with the same statements.
    Recovery(recovery_benchmark::Plan),
}

fn main() -> ExitCode {
    let benchmark = Options::parse().benchmark;
    if !matches!(benchmark, Benchmark::Latch(_)) {
        programs::build();
    }
    let out = &mut io::stdout();
    let done = match benchmark {
        Benchmark::Commit { plan, scripts } => benchmark::commit(&plan, &scripts, out),
        Benchmark::Sync { plan, levels } => sync_benchmark::sync(&plan, &levels, out),
        Benchmark::Fanout(plan) => fanout_benchmark::fanout(&plan, out),
        Benchmark::Catchup(plan) => catchup_benchmark::catchup(&plan, out),
        Benchmark::Failover(plan) => failover_benchmark::failover(&plan, out),
        Benchmark::Latch(plan) => latch_benchmark::latch(&plan, out),
        Benchmark::Recovery(plan) => recovery_benchmark::recovery(&plan, out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
