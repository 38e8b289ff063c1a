//! The latch under a model checker: no order of steps, and no reordering that the memory model allows, loses
//! a wake-up. And the checker bites: with any one of the four fences left out it finds the lost wake-up.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ipc --test loom --release`; without that flag there is
//! nothing here.
//!
//! The code under test is that of latch.rs itself (loom's atomics by its `sync` module). Modelled is the
//! kernel: the wake-up is a flag that stays up until a wait has taken it (a SIGURG until it is read, the edge
//! of an eventfd until it is reported), and a sleep ends when it is up. A lost wake-up is
//! then an owner that sleeps for ever, which loom reports as a deadlock. A mutant runs in a process of its
//! own, since a failing model may abort.

#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a model is a test")]

use std::process::Command;

use ipc::{latch::Latch, mutant};
use loom::{
    model::Builder,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

/// Names the fence to leave out.
const MUTANT: &str = "IPC_LOOM_MUTANT";

const FENCES: [&str; 4] = [
    "latch: set before look",
    "latch: set before wake",
    "latch: sleep before look",
    "latch: reset before work",
];

/// How often the setter makes work and sets the latch.
const SETS: u32 = 2;

/// A blocked SIGURG and the signalfd that reads it.
#[derive(Default)]
struct SignalFd {
    pending: Mutex<bool>,
    readable: Condvar,
}

impl SignalFd {
    fn kill(&self) {
        *self.pending.lock().unwrap() = true;
        self.readable.notify_one();
    }

    /// As the kernel wait: reads the signal, waiting for one if it may.
    fn wait(&self, may_sleep: bool) {
        let mut pending = self.pending.lock().unwrap();
        while may_sleep && !*pending {
            pending = self.readable.wait(pending).unwrap();
        }
        *pending = false;
    }
}

struct Shared {
    latch: Latch,
    work: AtomicU32,
    signal_fd: SignalFd,
}

fn set_and_wait() {
    let shared =
        Arc::new(Shared { latch: Latch::local(), work: AtomicU32::new(0), signal_fd: SignalFd::default() });
    let setter = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for done in 1..=SETS {
                shared.work.store(done, Ordering::Relaxed);
                if shared.latch.set_and_find_sleeper().is_some() {
                    shared.signal_fd.kill();
                }
            }
        })
    };
    loop {
        shared.latch.reset();
        if shared.work.load(Ordering::Relaxed) == SETS {
            break;
        }
        shared.latch.around_sleep(|may_sleep| shared.signal_fd.wait(may_sleep));
    }
    setter.join().unwrap();
}

#[test]
fn latch_set_while_waiting_is_never_lost() {
    if let Ok(name) = std::env::var(MUTANT) {
        mutant::LEFT_OUT.set(name).unwrap();
    }
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(set_and_wait);
}

#[test]
fn latch_without_any_one_fence_loses_a_wakeup() {
    if std::env::var_os(MUTANT).is_some() {
        return;
    }
    for fence in FENCES {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "latch_set_while_waiting_is_never_lost", "--nocapture"])
            .env(MUTANT, fence)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "the model passes without {fence}");
        assert!(said.contains("deadlock"), "without {fence} the model fails of something else:\n{said}");
    }
}
