//! The orders between processes under a model checker: no order of steps, and no reordering that the memory
//! model allows, loses a wake-up, an interrupt or a barrier. And the checker bites: with any one of the named
//! orders left out it finds what is lost.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ipc --test loom --release`; without that flag there is
//! nothing here.
//!
//! The code under test is that of the crate itself, on loom's atomics (its `sync` module). Modelled is the
//! kernel (its `model` module): what wakes a sleeper stays until a wait has taken it. A lost wake-up is then a
//! process that sleeps for ever, which loom reports as a deadlock.
//!
//! # To add a model
//!
//! 1. Let the code use the atomics, `fence`, `order`, `left_out` of `crate::sync`, and `shared_struct!`. Take
//!    `cfg(not(loom))` off its module in lib.rs. Whatever maps memory or calls the kernel stays apart from it.
//! 2. Give a name to each fence, each access and each step on which the argument in its header rests.
//! 3. Write a function here that makes the shared structures (in a `loom::sync::Arc`, or leaked), spawns
//!    loom's threads, and says in each which process it is (`become_process`). Keep it small: at most three
//!    threads that run at once, two rounds; loops only around a wait.
//! 4. Declare it by [`models!`] with its mutants, and by what each is found.
//!
//! Each run is a process of its own, since a failing model may abort. A name that no code has is found
//! too: the model passes with it.
//!
//! What the checker can't see: SeqCst accesses are only AcqRel to it (use fences); more than the bounded
//! number of preemptions; what the kernel really does.

#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a model is a test")]

mod barrier;
mod condition_variable;
mod interrupts;
mod latch;
mod shm_mq;

use std::process::Command;

use ipc::model::LEFT_OUT;
use loom::model::Builder;

/// Names the mutant to a process that runs a model; empty for the code as it is.
const MUTANT: &str = "IPC_LOOM_MUTANT";

/// What loom says of threads that wait for each other, or for what nobody will do: a lost wake-up.
const DEADLOCK: &str = "deadlock";

/// Declares models: what holds, the function that shows it, and the mutants of which it does not hold, with a
/// part of what the failure says.
macro_rules! models {
    ($( $(#[$meta:meta])* $name:ident: $model:expr, without { $($mutant:literal => $found:expr),* $(,)? } )+) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports, reason = "some have no mutant")]
                use super::*;

                #[test]
                fn holds() {
                    $crate::check(concat!(module_path!(), "::holds"), $model);
                }

                #[test]
                fn fails_when_broken() {
                    $crate::check_mutants(concat!(module_path!(), "::holds"), &[$(($mutant, $found)),*]);
                }
            }
        )+
    };
}
use models;

/// Runs a model in a process of its own; this is the process already if it was told so.
fn check(test: &str, model: fn()) {
    match std::env::var(MUTANT) {
        Ok(mutant) => {
            LEFT_OUT.set(mutant).unwrap();
            let mut builder = Builder::new();
            builder.preemption_bound = Some(3);
            builder.check(model);
        }
        Err(_) => {
            let (holds, said) = run(test, "");
            assert!(holds, "{said}");
        }
    }
}

/// Runs the test of that path as each mutant, which must fail as said.
fn check_mutants(test: &str, mutants: &[(&str, &str)]) {
    for (mutant, found) in mutants {
        let (holds, said) = run(test, mutant);
        assert!(!holds, "{test} passes without {mutant:?}");
        assert!(said.contains(found), "without {mutant:?} {test} fails of something else:\n{said}");
    }
}

/// Whether the test passes in a process of its own, and what it says.
fn run(test: &str, mutant: &str) -> (bool, String) {
    let (_crate, test) = test.split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(MUTANT, mutant)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("running 1 test"), "{test} is no test");
    (output.status.success(), said.into_owned())
}
