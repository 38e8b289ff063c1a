//! Scenario scripts for the walsender's stream.
//!
//! A line `at T: input; input` is one turn of the loop at T seconds; the indented lines below it are all that the machine
//! wants done in that turn, the state when it changed, and when it wants to be woken. Written by hand from PostgreSQL's
//! behaviour, never from the machine's own answers.

use std::fmt::Write as _;
use std::time::Duration;

use sys::clock::MonoTime;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;

use super::super::WalSndState;
use super::{Input, Output, Session};

/// Seconds of the script's clock before its zero, so that a machine which takes 0 for "never" is found out.
const EPOCH: Duration = Duration::from_secs(1000);

struct Script {
    session: Session,
    socket_full: bool,
    state: WalSndState,
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap_or_else(|_| panic!("no LSN: {text}"))
}

fn time(seconds: &str) -> MonoTime {
    let seconds: f64 = seconds.parse().unwrap_or_else(|_| panic!("no time: {seconds}"));
    MonoTime::ZERO.saturating_add(EPOCH + Duration::from_secs_f64(seconds))
}

fn shown(at: MonoTime) -> String {
    format!("{}", at.saturating_since(time("0")).as_secs_f64())
}

impl Script {
    fn input(&mut self, now: MonoTime, text: &str) {
        let words: Vec<&str> = text.split_whitespace().collect();
        let input = match words[..] {
            ["log", flush, horizon] => {
                Input::Log { flush: lsn(flush), horizon: lsn(horizon), promise: Lsn::INVALID }
            }
            ["r", write, flush, apply, ref rest @ ..] => Input::Status {
                write: lsn(write),
                flush: lsn(flush),
                apply: lsn(apply),
                time: Timestamp(7),
                reply_requested: rest == ["reply"],
            },
            ["h"] => Input::Feedback,
            ["c"] => Input::CopyDone,
            ["X"] => Input::Terminate,
            ["stopping"] => Input::InitStopping,
            ["stop"] => Input::Stop,
            ["ended", upto, next] => {
                Input::TimelineEnded { valid_upto: lsn(upto), next: TimelineId(next.parse().unwrap()) }
            }
            ["pace", seconds] => Input::Pace(Duration::from_secs_f64(seconds.parse().unwrap())),
            ["timeout", "off"] => Input::Timeout(None),
            ["timeout", seconds] => Input::Timeout(Some(Duration::from_secs(seconds.parse().unwrap()))),
            ["full"] => {
                self.socket_full = true;
                return;
            }
            ["empty"] => {
                self.socket_full = false;
                Input::Outgoing { pending: false }
            }
            _ => panic!("no input: {text}"),
        };
        self.session.handle(now, input);
    }

    fn turn(&mut self, now: MonoTime, inputs: &str) -> String {
        let mut out = String::new();
        self.session.handle(now, Input::Turn);
        for input in inputs.split(';').map(str::trim).filter(|input| !input.is_empty()) {
            self.input(now, input);
        }
        while let Some(output) = self.session.poll(now) {
            assert!(out.len() < 10_000, "the machine never gets to rest:\n{out}");
            writeln!(out, "    {}", output_text(output)).unwrap();
            self.session.handle(now, Input::Outgoing { pending: self.socket_full });
        }
        if self.session.state() != self.state {
            self.state = self.session.state();
            writeln!(out, "    state {}", self.state.name()).unwrap();
        }
        match self.session.next_wakeup(now) {
            None => writeln!(out, "    sleep").unwrap(),
            Some(at) if at == now => writeln!(out, "    again").unwrap(),
            Some(at) => writeln!(out, "    sleep until {}", shown(at)).unwrap(),
        }
        out
    }
}

fn output_text(output: Output) -> String {
    match output {
        Output::Wal { start, end, wal_end } => format!("w {start}..{end} end {wal_end}"),
        Output::Keepalive { wal_end, reply_requested: false } => format!("k {wal_end}"),
        Output::Keepalive { wal_end, reply_requested: true } => format!("k {wal_end} reply"),
        Output::CopyDone => "c".into(),
        Output::Finished { next: None } => "finished".into(),
        Output::Finished { next: Some((next, at)) } => format!("finished, timeline {next} begins at {at}"),
        Output::Drained => "drained".into(),
        Output::TimedOut => "timed out".into(),
        Output::Disconnected => "disconnected".into(),
    }
}

/// Runs a script: a stream that begins at second 0 at `start` with a timeout of 60 seconds.
#[track_caller]
fn script(start: &str, text: &str) -> Session {
    let now = time("0");
    let session = Session::new(now, lsn(start), Some(Duration::from_secs(60)));
    let mut script = Script { session, socket_full: false, state: WalSndState::Catchup };
    let mut actual = String::new();
    for line in text.lines().filter(|line| line.starts_with("at ")) {
        let (at, inputs) = line[3..].split_once(':').expect("at T: inputs");
        writeln!(actual, "{line}").unwrap();
        actual.push_str(&script.turn(time(at), inputs));
    }
    assert!(actual == text.trim_start_matches('\n'), "\nwanted:\n{text}\ngot:\n{actual}");
    script.session
}

#[test]
fn wal_is_sent_up_to_flush_and_a_moved_horizon_alone_by_keepalive() {
    let session = script(
        "0/1000000",
        "
at 0: log 0/1000000 0/1000000
    k 0/1000000
    state streaming
    sleep until 30
at 1: log 0/1000100 0/1000000
    w 0/1000000..0/1000100 end 0/1000000
    sleep until 30
at 1: log 0/1000100 0/1000100; r 0/1000100 0/1000100 0/1000000
    k 0/1000100
    sleep until 31
at 2: log 0/1000100 0/1000100
    sleep until 31
at 3: log 0/1000200 0/1000200
    w 0/1000100..0/1000200 end 0/1000200
    sleep until 31
",
    );
    assert_eq!(session.sent(), lsn("0/1000200"));
    let reported = session.reported();
    assert_eq!((reported.flush, reported.apply), (lsn("0/1000100"), lsn("0/1000000")));
    assert_eq!(reported.reply_time, Some(Timestamp(7)));
}

#[test]
fn stream_that_keeps_up_rests_between_messages_and_wants_no_wakeup_meanwhile() {
    let session = script(
        "0/1000000",
        "
at 0: pace 0.5; log 0/1000100 0/1000100
    w 0/1000000..0/1000100 end 0/1000100
    state streaming
    sleep until 0.5
at 0.2: log 0/1000200 0/1000100
    sleep until 0.5
at 0.3: log 0/1000300 0/1000200
    sleep until 0.5
at 0.5: log 0/1000300 0/1000200
    w 0/1000100..0/1000300 end 0/1000200
    sleep until 1
at 1:
    sleep until 30
at 2: log 0/1000300 0/1000300
    k 0/1000300
    sleep until 2.5
at 2.1: log 0/1020301 0/1020301
    w 0/1000300..0/1020000 end 0/1020301
    sleep until 2.6
at 2.2: r 0/1020000 0/1020000 0/0 reply
    k 0/1020301
    sleep until 2.6
at 2.3: stopping; log 0/1020400 0/1020400
    w 0/1020000..0/1020400 end 0/1020400
    state stopping
    sleep until 32.2
",
    );
    assert!(session.wants_wakeups(time("2.3")));

    let mut session = Session::new(time("0"), lsn("0/1000000"), None);
    session.handle(time("0"), Input::Pace(Duration::from_secs(1)));
    let log = |end| Input::Log { flush: lsn(end), horizon: lsn(end), promise: Lsn::INVALID };
    session.handle(time("0"), log("0/1000100"));
    while session.poll(time("0")).is_some() {
        session.handle(time("0"), Input::Outgoing { pending: false });
    }
    assert!(!session.wants_wakeups(time("0.9")));
    assert!(session.wants_wakeups(time("1")));
    session.handle(time("1"), Input::Outgoing { pending: true });
    assert!(!session.wants_wakeups(time("1")));
}

#[test]
fn horizon_keepalives_are_coalesced_while_the_socket_is_full() {
    script(
        "0/1000000",
        "
at 0: log 0/1000100 0/1000000
    w 0/1000000..0/1000100 end 0/1000000
    state streaming
    sleep until 30
at 1: full; log 0/1000100 0/1000040
    k 0/1000040
    sleep until 30
at 2: log 0/1000100 0/1000080
    sleep until 30
at 3: log 0/1000100 0/10000C0
    sleep until 30
at 4: empty; log 0/1000100 0/1000100
    k 0/1000100
    sleep until 30
",
    );
}

#[test]
fn catchup_goes_in_whole_pages_one_message_a_turn_and_none_behind_a_full_socket() {
    script(
        "0/1000028",
        "
at 0: log 0/1050010 0/1050010
    w 0/1000028..0/1020000 end 0/1050010
    again
at 0: full
    w 0/1020000..0/1040000 end 0/1050010
    sleep until 30
at 1:
    sleep until 30
at 2: empty
    w 0/1040000..0/1050010 end 0/1050010
    state streaming
    sleep until 30
",
    );
}

#[test]
fn exactly_the_largest_message_is_one_message() {
    script(
        "0/1000000",
        "
at 0: log 0/1020000 0/1020000
    w 0/1000000..0/1020000 end 0/1020000
    state streaming
    sleep until 30
at 0: log 0/1040008 0/1040008
    w 0/1020000..0/1040000 end 0/1040008
    again
at 0:
    w 0/1040000..0/1040008 end 0/1040008
    sleep until 30
",
    );
}

#[test]
fn silence_is_pinged_at_half_and_ends_at_the_whole() {
    script(
        "0/1000000",
        "
at 0: log 0/1000000 0/1000000
    k 0/1000000
    state streaming
    sleep until 30
at 29.999:
    sleep until 30
at 30:
    k 0/1000000 reply
    sleep until 60
at 30.5: r 0/1000000 0/1000000 0/1000000
    sleep until 60.5
at 60.5:
    k 0/1000000 reply
    sleep until 90.5
at 61: log 0/1000100 0/1000100
    w 0/1000000..0/1000100 end 0/1000100
    sleep until 90.5
at 90.5:
    timed out
    sleep
",
    );
}

#[test]
fn replies_that_waited_through_our_own_stall_are_read_before_the_timer_counts() {
    script(
        "0/1000000",
        "
at 0: log 0/1000000 0/1000000
    k 0/1000000
    state streaming
    sleep until 30
at 500: h
    sleep until 530
at 530: full
    k 0/1000000 reply
    sleep until 560
at 559:
    sleep until 560
at 560: h
    sleep until 590
",
    );
}

#[test]
fn a_ping_goes_out_once_even_behind_a_full_socket_and_silence_still_ends() {
    script(
        "0/1000000",
        "
at 0: full; log 0/1000100 0/1000100
    w 0/1000000..0/1000100 end 0/1000100
    sleep until 30
at 30:
    k 0/1000100 reply
    sleep until 60
at 60:
    timed out
    sleep
",
    );
}

#[test]
fn without_a_timeout_it_sleeps_for_ever_and_a_new_one_counts_from_the_last_reply() {
    script(
        "0/1000000",
        "
at 0: timeout off; log 0/1000000 0/1000000
    k 0/1000000
    state streaming
    sleep
at 1000: r 0/1000000 0/1000000 0/0
    sleep
at 1001: timeout 10
    sleep until 1005
",
    );
}

#[test]
fn requested_replies_are_answered_once_per_turn_and_before_more_wal() {
    script(
        "0/1000000",
        "
at 0: log 0/1050000 0/1050000; r 0/0 0/0 0/0 reply; r 0/0 0/0 0/0 reply
    k 0/1050000
    w 0/1000000..0/1020000 end 0/1050000
    again
",
    );
}

#[test]
fn positions_count_only_up_to_what_was_sent() {
    let session = script(
        "0/1000000",
        "
at 0: log 0/1000100 0/1000100; r 0/5000000 0/5000000 0/5000000
    w 0/1000000..0/1000100 end 0/1000100
    state streaming
    sleep until 30
",
    );
    assert_eq!(session.reported().flush, lsn("0/1000000"));
    assert_eq!(session.reported().apply, lsn("0/1000000"));
}

#[test]
fn drain_asks_and_ends_when_all_is_flushed_there() {
    // The order that a real PostgreSQL 15 shows: 'w', 'k' with a request, 'r', end.
    script(
        "0/1000000",
        "
at 0: log 0/1000000 0/1000000
    k 0/1000000
    state streaming
    sleep until 30
at 1: stopping; log 0/1000000 0/1000000
    state stopping
    sleep until 30
at 2: stop; log 0/1000078 0/1000078
    w 0/1000000..0/1000078 end 0/1000078
    k 0/1000078 reply
    sleep until 60
at 2.1: r 0/1000078 0/1000000 0/1000000
    k 0/1000078 reply
    sleep until 62.1
at 2.2: r 0/1000078 0/1000078 0/1000000
    drained
    sleep
at 3:
    sleep
",
    );
}

#[test]
fn drain_does_not_play_ping_pong_with_a_standby_that_answers_before_it_flushes() {
    script(
        "0/1000000",
        "
at 0: log 0/1000078 0/1000078; stop
    w 0/1000000..0/1000078 end 0/1000078
    k 0/1000078 reply
    state stopping
    sleep until 60
at 0.01: r 0/1000078 0/1000000 0/0
    k 0/1000078 reply
    sleep until 60.01
at 0.02: r 0/1000078 0/1000000 0/0
    sleep until 0.11
at 0.11:
    k 0/1000078 reply
    sleep until 60.02
at 0.12: r 0/1000078 0/1000078 0/0
    drained
    sleep
",
    );
}

#[test]
fn drain_takes_write_where_flush_is_not_reported() {
    script(
        "0/1000000",
        "
at 0: log 0/1000078 0/1000078; stop
    w 0/1000000..0/1000078 end 0/1000078
    k 0/1000078 reply
    state stopping
    sleep until 60
at 0.1: r 0/1000078 0/0 0/0
    drained
    sleep
",
    );
}

#[test]
fn drain_tells_the_last_horizon_before_it_ends() {
    script(
        "0/1000000",
        "
at 0: log 0/1000078 0/1000000; stop
    w 0/1000000..0/1000078 end 0/1000000
    k 0/1000000 reply
    state stopping
    sleep until 60
at 0.1: r 0/1000078 0/1000078 0/0; log 0/1000078 0/1000078
    k 0/1000078
    drained
    sleep
",
    );
}

#[test]
fn drain_of_a_dead_standby_ends_by_timeout() {
    script(
        "0/1000000",
        "
at 0: log 0/1000078 0/1000078; stop
    w 0/1000000..0/1000078 end 0/1000078
    k 0/1000078 reply
    state stopping
    sleep until 60
at 30:
    sleep until 60
at 60:
    timed out
    sleep
",
    );
}

#[test]
fn drain_waits_for_the_socket_to_empty() {
    script(
        "0/1000000",
        "
at 0: full; log 0/1000078 0/1000078; stop; r 0/1000000 0/1000000 0/0
    w 0/1000000..0/1000078 end 0/1000078
    state stopping
    sleep until 30
at 1: r 0/1000078 0/1000078 0/0
    sleep until 31
at 2: empty
    drained
    sleep
",
    );
}

#[test]
fn client_copy_done_is_answered_and_ends_the_copy() {
    let session = script(
        "0/1000000",
        "
at 0: log 0/1050000 0/1050000
    w 0/1000000..0/1020000 end 0/1050000
    again
at 1: full; c
    c
    sleep until 61
at 2: empty
    finished
    sleep
",
    );
    assert!(!session.reads());
}

#[test]
fn historic_timeline_is_sent_to_its_end_and_then_handed_over() {
    // Replies that were on their way when our CopyDone went out are no error.
    script(
        "0/1000000",
        "
at 0: ended 0/1000100 2; log 0/1050000 0/1050000
    w 0/1000000..0/1000100 end 0/1000100
    c
    sleep until 60
at 1: r 0/1000100 0/1000100 0/0 reply
    sleep until 61
at 2: c
    finished, timeline 2 begins at 0/1000100
    sleep
",
    );
}

#[test]
fn copy_dones_that_cross_are_not_answered_twice() {
    script(
        "0/1000000",
        "
at 0: log 0/1000100 0/1000100
    w 0/1000000..0/1000100 end 0/1000100
    state streaming
    sleep until 30
at 1: ended 0/1000100 2; c
    c
    finished, timeline 2 begins at 0/1000100
    sleep
",
    );
}

#[test]
fn timeline_that_ended_before_what_was_sent_ends_the_copy_at_once() {
    script(
        "0/1000000",
        "
at 0: log 0/1000100 0/1000000
    w 0/1000000..0/1000100 end 0/1000000
    state streaming
    sleep until 30
at 1: ended 0/1000080 2; log 0/1000200 0/1000200
    c
    sleep until 60
at 60:
    timed out
    sleep
",
    );
}

#[test]
fn terminate_ends_at_once() {
    let session = script(
        "0/1000000",
        "
at 0: full; log 0/1000100 0/1000100; X
    disconnected
    sleep
",
    );
    assert!(session.ended() && !session.reads());
}

#[test]
fn nothing_is_decided_before_the_log_is_known() {
    script(
        "0/1000000",
        "
at 0: stop
    state stopping
    sleep until 30
",
    );
}
