//! Connections between real processes: a served client, and an upstream server.
//!
//! Method: the test is the postmaster of a child that owns the connection; the other end is a plain socket of the
//! test itself, which plays the client or, from a script, the server. What the child finds wrong ends it by a panic.
//! One thread, one test after another, as fork demands. Nothing sleeps: conditions have a deadline.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod connection;
mod harness;
mod session_attrs;

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
        client::end_of_timeline_is_followed_by_the_next_one,
        client::failed_attempts_are_all_named,
        client::fatal_error_in_a_query_is_what_the_server_said,
        client::failed_statement_leaves_the_session_usable,
        client::long_answer_is_refused,
        client::password_is_proved_and_never_sent,
        client::program_without_a_node_connects,
        client::refused_session_says_why,
        client::server_that_shuts_down_ends_the_command,
        client::silent_server_is_given_up_after_connect_timeout,
        client::stream_carries_data_both_ways,
        client::terminate_ends_the_wait_for_a_silent_server,
        connection::client_that_closes_is_noticed_during_a_command,
        connection::interrupt_comes_before_a_message_that_is_there,
        connection::interrupt_ends_the_wait_for_a_message,
        connection::large_result_goes_through_a_bounded_buffer,
        connection::message_in_pieces_is_read_whole,
        connection::output_for_a_client_that_left_is_an_error,
        connection::read_deadline_ends_the_wait_for_half_a_message,
        connection::startup_packets_are_read_one_by_one,
        connection::stream_cut_inside_a_message_is_told_from_its_end,
        connection::terminate_ends_a_blocked_write,
        connection::walsender_reads_and_writes_without_blocking,
        connection::write_gives_way_and_the_stream_stays_in_step,
        session_attrs::a_server_that_reports_nothing_is_asked,
        session_attrs::servers_that_are_not_fit_are_named_in_libpqs_words,
        session_attrs::the_first_server_that_is_fit_is_taken,
        session_attrs::without_a_standby_prefer_standby_takes_what_there_is,
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
