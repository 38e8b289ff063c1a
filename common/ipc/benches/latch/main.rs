//! What a latch costs, beside the kernel's bare primitives in the same run.
//!
//! ```text
//! cargo bench -p ipc --bench latch [-- [--samples] ROUNDS [TRIPS]]
//! ```
//!
//! * Ping-pong: two processes wake each other in turn, TRIPS times there and back; on one CPU, then on two. The
//!   bare primitives have nothing to look at before they sleep or wake, and each serves one purpose only; a
//!   latch waits for signals, its postmaster and a deadline besides.
//! * A barrier over 64 processes that sleep.
//! * The paths without a system call, in one process.
//!
//! Machines are noisy, so a figure is the median of ROUNDS rounds, in each of which all contenders play one
//! after another, beginning with another one each time. The ratio is the median of the rounds' own ratios to
//! the edge-triggered eventfd, the best primitive that can be waited for together with sockets. With --samples
//! every sample is printed instead, for the comparison with PostgreSQL's own latch
//! (`cargo run --release -p integration-tests --bin bench -- latch`).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement fails by panicking, and prints")]

mod barrier;
mod fast_paths;
mod node;
mod ping_pong;
mod table;

use table::Form;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    // As a test (cargo test --benches) there is nothing to find out.
    if !given("--bench") {
        return;
    }
    let form = if given("--samples") { Form::Samples } else { Form::Medians };
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
    let rounds = numbers.next().unwrap_or(15);
    let trips = numbers.next().unwrap_or(4_000);
    ping_pong::run(rounds, u64::try_from(trips).unwrap(), form);
    barrier::run(rounds, form);
    fast_paths::run(rounds, form);
}
