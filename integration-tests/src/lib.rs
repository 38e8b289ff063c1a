//! Scenarios with real processes: the harness that starts, watches, kills and asks nodes, and what the tests and the
//! benchmark share.
//!
//! ```no_run
//! use integration_tests::{cluster::Cluster, scenario::Scenario};
//! let scenario = Scenario::new("my_scenario");
//! let mut cluster = Cluster::start(&scenario);
//! cluster.primary.query("CREATE TABLE kv(key text PRIMARY KEY, value text)");
//! cluster.wait_caught_up();
//! assert_eq!(cluster.standby.value("SELECT count(*) FROM kv"), "0");
//! cluster.stop();
//! ```
//!
//! A node is the real program, run as a user runs it; the harness knows of it what a user knows: the command line,
//! postmaster.pid, the log, the wire, /proc. Nothing here forks a process of Walship's or calls into one.
//!
//! Invariants: a test never sleeps, it waits for a condition with a deadline ([`wait::until`], the one place with a
//! pause); every port is one that the kernel chose; a test that fails leaves its data directories and logs behind
//! and says where; nothing that a test started outlives it.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a harness reports what went wrong by panicking, like the tests that it serves"
)]

pub mod backup;
pub mod benchmark;
pub mod cable;
pub mod catchup_benchmark;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod digest;
pub mod disk;
pub mod failover;
pub mod failover_benchmark;
pub mod fanout_benchmark;
pub mod faults;
pub mod kills;
pub mod latch_benchmark;
pub mod load;
pub mod log_surgery;
pub mod node;
pub mod parity;
pub mod postgres;
pub mod procfs;
pub mod programs;
pub mod proxy;
pub mod random;
pub mod receiver;
pub mod recovery_benchmark;
pub mod rounds;
pub mod scenario;
pub mod shim;
pub mod small_disk;
pub mod story;
pub mod sync_benchmark;
pub mod wait;
