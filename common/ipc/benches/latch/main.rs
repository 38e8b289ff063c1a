//! What a latch costs, beside the kernel's bare primitives in the same run.
//!
//! ```text
//! cargo bench -p ipc --bench latch [-- ROUNDS [TRIPS]]
//! ```
//!
//! * Ping-pong: two processes wake each other in turn, TRIPS times there and back; on one CPU, then on two. The
//!   bare primitives have nothing to look at before they sleep or wake, and each serves one purpose only; a
//!   latch waits for signals, its postmaster and a deadline besides.
//! * The paths without a system call, in one process.
//!
//! Machines are noisy, so a figure is the median of ROUNDS rounds, in each of which all contenders play one
//! after another, beginning with another one each time. The ratio is the median of the rounds' own ratios to
//! the edge-triggered eventfd, the best primitive that can be waited for together with sockets.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement fails by panicking, and prints")]

mod fast_paths;
mod ping_pong;

/// Prints a row of a table.
fn row(name: &str, samples: &[f64], unit: &str, ratio: Option<f64>) {
    let spread = (percentile(samples, 25), percentile(samples, 75));
    let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:8.2}"));
    println!(
        "  {name:34} {:8.2} {unit} ({:.2} to {:.2}){ratio}",
        percentile(samples, 50),
        spread.0,
        spread.1
    );
}

/// The sample that `percent` of them are not above.
fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // As a test (cargo test --benches) there is nothing to find out.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
    let rounds = numbers.next().unwrap_or(15);
    let trips = numbers.next().unwrap_or(4_000);
    ping_pong::run(rounds, u64::try_from(trips).unwrap());
    fast_paths::run(rounds);
}
