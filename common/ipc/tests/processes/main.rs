//! Latches, wait event sets and interrupts between real processes.
//!
//! Method: the test is the postmaster of children that it forks; what a child finds out it says by its exit
//! status (0: all as expected; a panic ends it by SIGABRT) or in shared memory. One thread, tests one after
//! another, as fork demands. No test sleeps: it waits for a condition with a deadline. Children that a
//! failing test leaves are killed.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod interrupts;
mod latches;
mod locks;
mod postmaster_death;
mod sets;

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
        interrupts::barrage_of_interrupts_arrives_whole,
        interrupts::crashed_owner_leaves_a_slot_that_tells,
        interrupts::held_interrupt_shows_after_the_last_guard,
        interrupts::interrupt_never_reaches_a_successor_of_the_slot,
        interrupts::pm_signals_reach_the_postmaster_once,
        interrupts::postmaster_reads_its_signals_in_the_wait,
        interrupts::sigquit_ends_a_busy_child_with_status_2,
        interrupts::signals_become_interrupts_inside_the_wait,
        interrupts::signals_are_polled_in_a_long_computation,
        interrupts::slot_states_follow_the_life_of_a_child,
        latches::latch_has_one_owner,
        latches::latch_set_before_wait_ends_it_at_once,
        latches::latch_wait_of_a_stranger_aborts,
        latches::latches_wake_each_other_across_processes,
        locks::lwlock_excludes_other_processes,
        locks::shared_str_shows_nothing_but_what_was_written,
        postmaster_death::busy_child_dies_with_its_postmaster,
        postmaster_death::death_is_reported_to_who_asks,
        postmaster_death::grandchild_of_no_postmaster_is_not_attached,
        postmaster_death::waiting_child_exits_with_its_postmaster,
        sets::child_exit_is_an_event,
        sets::closed_socket_is_told_from_a_readable_one,
        sets::connection_is_accepted_and_connected,
        sets::descriptors_are_close_on_exec,
        sets::modify_changes_what_is_waited_for,
        sets::removed_event_is_silent_and_its_position_stale,
        sets::set_latch_does_not_starve_sockets,
        sets::stray_signals_neither_end_nor_stretch_a_wait,
        sets::timeout_is_kept_and_zero_looks_once,
        sets::wait_event_is_published_while_waiting,
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
