//! Latches, wait event sets and interrupts between real processes.
//!
//! Method: the test is the postmaster of children that it forks; what a child finds out it says by its exit
//! status (0: all as expected; a panic ends it by SIGABRT) or in shared memory. One thread, tests one after
//! another, as fork demands; each in a process of its own, so that none inherits another's descriptors and
//! handlers. No test sleeps: it waits for a condition with a deadline. Children that a failing test leaves are
//! killed. Everything is tested on each back-end; its name is the prefix of the test's.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod barriers;
mod condition_variables;
mod errors;
mod harness;
mod hazards;
mod interrupts;
mod latches;
mod locks;
mod newborns;
mod postmaster_death;
mod queues;
mod sets;
mod stats;
mod subprocess;
mod traps;
mod wakeups;

use ipc::{
    backend::{self, Backend},
    wait_event::WaitEvent,
    wait_event_set::WaitEventSet,
};
use libtest_mimic::{Arguments, Failed, Trial};
use sys::{
    fork::fork_process,
    process::{ExitStatus, PidFd},
};

/// Names each test after its function.
macro_rules! tests {
    ($($module:ident::$test:ident),* $(,)?) => { &[$( (stringify!($test), $module::$test) ),*] };
}

/// A test's name, and what it does.
type Test = (&'static str, fn());

const TESTS: &[Test] = tests![
    barriers::barrier_is_absorbed_by_all_before_the_wait_ends,
    barriers::barrier_emitted_between_fork_and_attach_is_absorbed,
    barriers::barrier_waits_for_nobody_who_detached_or_died,
    barriers::barrier_held_or_not_now_stays_to_be_absorbed,
    barriers::barrier_handler_that_fails_leaves_its_types,
    barriers::barrier_is_served_in_the_way_that_was_said_once,
    barriers::barriers_of_two_who_wait_for_each_other_are_absorbed,
    barriers::barrier_wait_names_a_stopped_process_every_5_s,
    barriers::barrier_wait_of_the_postmaster_ends_with_the_last,
    condition_variables::condition_variable_and_socket_are_waited_for_together,
    condition_variables::condition_variable_loses_no_signal_among_many,
    condition_variables::condition_variable_passes_a_killed_waiter_over,
    condition_variables::condition_variable_sleep_ends_with_its_time_or_an_interrupt,
    condition_variables::condition_variable_wakes_one_or_all,
    errors::misuse_of_a_set_is_told,
    errors::misuse_of_a_slot_is_told,
    errors::set_of_another_process_can_only_be_dropped,
    errors::socket_closed_in_the_set_is_told,
    hazards::child_has_the_handlers_of_its_back_end,
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
    latches::latch_of_a_child_killed_while_it_attaches_is_free_again,
    latches::latch_set_before_wait_ends_it_at_once,
    latches::latch_of_another_is_refused,
    latches::latch_wait_of_a_stranger_aborts,
    latches::latches_wake_each_other_across_processes,
    locks::lwlock_excludes_other_processes,
    locks::shared_str_shows_nothing_but_what_was_written,
    newborns::attach_fails_softly_in_a_slot_that_is_not_ready,
    newborns::newborn_waits_on_a_latch_of_its_own,
    newborns::slot_of_a_child_tells_whether_it_detached,
    newborns::wait_event_set_follows_the_latch_of_its_process,
    postmaster_death::busy_child_dies_with_its_postmaster,
    postmaster_death::death_is_reported_to_who_asks,
    postmaster_death::grandchild_of_no_postmaster_is_not_attached,
    postmaster_death::waiting_child_exits_with_its_postmaster,
    queues::queue_carries_messages_of_every_size,
    queues::queue_whose_ends_are_stopped_for_a_while_loses_nothing,
    queues::leader_reads_many_queues_and_a_socket_in_one_wait,
    queues::queue_sender_learns_that_the_receiver_was_killed,
    queues::queue_receiver_learns_that_the_sender_was_killed,
    queues::queue_end_that_waits_is_woken_when_the_other_detaches,
    queues::queue_end_that_never_comes_counts_as_detached_when_its_process_is_gone,
    queues::queue_is_renewed_when_both_ends_are_free,
    sets::child_exit_is_an_event,
    sets::closed_socket_is_told_from_a_readable_one,
    sets::connection_is_accepted_and_connected,
    sets::descriptors_are_close_on_exec,
    sets::endless_timeouts_are_slept_through_until_a_set,
    sets::modify_without_change_asks_the_kernel_nothing,
    sets::number_of_a_removed_socket_is_used_again,
    sets::modify_changes_what_is_waited_for,
    sets::removed_event_is_silent,
    sets::set_latch_does_not_starve_sockets,
    sets::stray_signals_neither_end_nor_stretch_a_wait,
    sets::timeout_is_kept_and_zero_looks_once,
    sets::timeout_is_kept_to_the_microsecond,
    sets::wait_event_is_published_while_waiting,
    stats::latch_stats_begin_anew_with_each_owner,
    stats::latch_stats_count_sleeps_and_no_looks,
    stats::latch_stats_tell_wakeups_from_sets,
    subprocess::command_ends_with_its_status,
    subprocess::command_past_its_time_is_ended_with_all_it_started,
    subprocess::command_starts_clean_and_speaks_into_the_log,
    subprocess::command_that_ignores_sigterm_is_killed,
    subprocess::killed_keeper_takes_the_command_along,
    subprocess::killed_owner_leaves_no_command_behind,
    subprocess::killed_postmaster_takes_command_of_a_busy_owner_along,
    subprocess::killed_postmaster_takes_owner_and_command_along,
    subprocess::owner_is_served_while_its_command_runs,
    subprocess::owner_that_quits_leaves_no_command_behind,
    subprocess::what_a_command_leaves_behind_ends_with_it,
    traps::look_between_wait_and_reset_misses_a_set,
    traps::ready_death_pipe_is_believed_only_after_a_read,
    traps::setter_need_not_wake_whom_a_wait_has_let_go,
    traps::stray_wakeup_harms_nobody,
    wakeups::latch_in_several_sets_ends_the_wait_of_each,
    wakeups::successor_of_a_slot_is_woken_as_its_predecessor,
    wakeups::slot_beyond_the_limit_of_descriptors_is_woken_too,
    wakeups::fast_sets_do_not_pile_up,
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = Backend::ALL
        .into_iter()
        .flat_map(|backend| TESTS.iter().map(move |(name, test)| trial(backend, name, *test)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(backend: Backend, name: &str, test: fn()) -> Trial {
    Trial::test(format!("{}::{name}", backend.name()), move || {
        let pid = fork_process(|| {
            backend::choose(backend);
            test();
            0
        })?;
        let process = PidFd::open(pid)?;
        let mut set = WaitEventSet::without_process(1)?;
        set.add_child_exit(&process)?;
        set.wait(None, WaitEvent::BackendTermination, &mut Vec::new())?;
        match process.wait()? {
            Some(ExitStatus::Exited(0)) => Ok(()),
            status => Err(Failed::from(format!("the test's process {status:?}"))),
        }
    })
}
