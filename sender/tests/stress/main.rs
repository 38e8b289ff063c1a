//! The log and the places where processes hand things over, under many real processes at once.
//!
//! Goal: lost wake-ups, lost, doubled or torn records, and bytes that a reader takes from the ring after they were
//! overwritten. Method: the test is the postmaster of a small node whose ring holds a few pages and whose segments have
//! 1 MiB; it forks inserters, readers, a walwriter, sessions and a writer that is a stand-in. Everything that is inserted
//! or handed over says whose it is and which, in every byte, so whoever reads can tell. A lost wake-up is a process that
//! doesn't end before the deadline. What the memory model allows and this machine never does is for tests/loom.rs.
//!
//! Seeds are printed; `WALSHIP_SEED` repeats one. One thread, tests one after another, as fork demands.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its seed"
)]

mod configuration;
mod handover;
mod harness;
mod log_check;
mod notify;
mod restore;
mod xlog;

use libtest_mimic::{Arguments, Trial};

/// Names a test after its function.
macro_rules! trials {
    ($($module:ident::$test:ident),* $(,)?) => {
        vec![$( Trial::test(stringify!($test), || { $module::$test(); Ok(()) }) ),*]
    };
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = trials![
        configuration::changes_reach_who_was_forked_before_meanwhile_and_after,
        configuration::texts_are_taken_over_whole_however_fast_they_change,
        handover::readers_that_wait_for_the_tables_are_all_woken,
        handover::requests_and_outcomes_stay_whole_and_nobody_waits_for_ever,
        handover::session_that_stands_still_in_the_midst_delays_nobody,
        notify::a_killed_listener_holds_up_nobody_and_its_successor_starts_anew,
        notify::listeners_get_every_notification_once_and_in_order,
        restore::history_is_restored_once_and_checked,
        xlog::flush_waiters_are_all_woken_round_after_round,
        xlog::killed_inserters_leave_a_log_with_every_flushed_record,
        xlog::log_that_ends_at_every_kind_of_boundary_goes_on,
        xlog::many_inserters_and_readers_leave_every_record_exactly_once,
        xlog::walwriter_sleeps_while_another_flushes,
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
