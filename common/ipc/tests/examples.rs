//! The examples run, and say what the README says they do.
//!
//! Method: each by `cargo run`, so that it is what its source says now.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{env, process::Command};

fn output_of(example: &str) -> String {
    // Its processes end with the first of them, even by SIGKILL.
    let mut cargo = Command::new("timeout");
    cargo.args(["--signal=KILL", "300"]).arg(env::var_os("CARGO").expect("run by cargo test"));
    cargo.args(["run", "--quiet", "--package", "ipc", "--example", example]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn ping_pong_counts_every_stroke() {
    assert_eq!(output_of("ping_pong"), "10000 strokes\n");
}

#[test]
fn server_answers_sends_the_silent_away_and_ends_when_told() {
    assert_eq!(output_of("server"), "HELLO\na client was silent for too long\nterminated\n");
}

#[test]
fn hold_lets_one_interrupt_through_and_shows_the_other_afterwards() {
    assert_eq!(output_of("hold"), "in the section: read the settings again\nafter the section: cancel\n");
}

#[test]
fn barrier_is_over_when_all_know_the_new_value() {
    assert_eq!(output_of("barrier"), "[7, 7, 7]\n[8, 8, 8]\n");
}

#[test]
fn queue_carries_messages_longer_than_itself() {
    assert_eq!(output_of("queue"), "100 bytes\n10000 bytes\n0 bytes\nthat was all\n");
}
