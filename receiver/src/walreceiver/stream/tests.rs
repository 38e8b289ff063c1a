//! Scenario scripts for the walreceiver's stream.
//!
//! A line `at T: input; input` is one turn of the loop at T seconds, with every message that was there; the indented
//! lines below it are all that the machine wants done, and when it wants to be woken. Written by hand.

use std::fmt::Write as _;
use std::time::Duration;

use sys::clock::MonoTime;
use wal::lsn::Lsn;

use super::{Input, NotContiguous, Output, Start, Stream, Timing, UNFLUSHED_MAX};

const EPOCH: Duration = Duration::from_secs(1000);

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap_or_else(|_| panic!("no LSN: {text}"))
}

fn time(seconds: &str) -> MonoTime {
    let seconds: f64 = seconds.parse().unwrap_or_else(|_| panic!("no time: {seconds}"));
    MonoTime::ZERO.saturating_add(EPOCH + Duration::from_secs_f64(seconds))
}

fn seconds(text: &str) -> Option<Duration> {
    (text != "off").then(|| Duration::from_secs(text.parse().unwrap()))
}

/// A timeout of 60 seconds, a status interval of 10.
const USUAL: Timing =
    Timing { timeout: Some(Duration::from_secs(60)), status_interval: Some(Duration::from_secs(10)) };

fn start_at(start: &str) -> Start {
    let lsn = lsn(start);
    Start { lsn, flushed: lsn, applied: lsn, horizon: lsn }
}

fn input(stream: &mut Stream, now: MonoTime, text: &str) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let input = match words[..] {
        ["w", start, end, wal_end] => {
            let length = lsn(end) - lsn(start);
            stream.wal(now, lsn(start), length as usize, lsn(wal_end)).unwrap();
            return;
        }
        ["k", wal_end, ref rest @ ..] => {
            Input::Keepalive { wal_end: lsn(wal_end), reply_requested: rest == ["reply"] }
        }
        ["c"] => Input::CopyDone,
        ["applied", position] => Input::Applied(lsn(position)),
        ["force"] => Input::ForceReply { at_once: false },
        ["force", "now"] => Input::ForceReply { at_once: true },
        ["timing", timeout, status] => {
            Input::Timing(Timing { timeout: seconds(timeout), status_interval: seconds(status) })
        }
        _ => panic!("no input: {text}"),
    };
    stream.handle(now, input);
}

/// One turn; an fsync takes `fsync`.
fn turn(stream: &mut Stream, now: MonoTime, inputs: &str, fsync: Duration) -> String {
    let mut out = String::new();
    for text in inputs.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        input(stream, now, text);
    }
    stream.handle(now, Input::Drained);
    let mut now = now;
    while let Some(output) = stream.poll(now) {
        assert!(out.len() < 10_000, "the machine never gets to rest:\n{out}");
        match output {
            Output::Fsync => {
                now = now.saturating_add(fsync);
                stream.handle(now, Input::Flushed);
                writeln!(out, "    fsync").unwrap();
            }
            Output::Publish { flush, horizon } => {
                writeln!(out, "    publish {flush} horizon {horizon}").unwrap();
            }
            Output::Reply { write, flush, apply, reply_requested } => {
                let asks = if reply_requested { " reply" } else { "" };
                writeln!(out, "    r {write} {flush} {apply}{asks}").unwrap();
            }
            Output::EndOfTimeline => writeln!(out, "    end of timeline").unwrap(),
            Output::TimedOut => writeln!(out, "    timed out").unwrap(),
        }
    }
    match stream.next_wakeup(now) {
        None => writeln!(out, "    sleep").unwrap(),
        Some(at) => {
            let at = at.saturating_since(time("0")).as_secs_f64();
            writeln!(out, "    sleep until {at}").unwrap();
        }
    }
    out
}

#[track_caller]
fn script_with(start: Start, timing: Timing, fsync: Duration, text: &str) -> Stream {
    let mut stream = Stream::new(time("0"), start, timing);
    let mut actual = String::new();
    for line in text.lines().filter(|line| line.starts_with("at ")) {
        let (at, inputs) = line[3..].split_once(':').expect("at T: inputs");
        writeln!(actual, "{line}").unwrap();
        actual.push_str(&turn(&mut stream, time(at), inputs, fsync));
    }
    assert!(actual == text.trim_start_matches('\n'), "\nwanted:\n{text}\ngot:\n{actual}");
    stream
}

#[track_caller]
fn script(text: &str) -> Stream {
    script_with(start_at("0/1000000"), USUAL, Duration::ZERO, text)
}

#[test]
fn a_batch_is_fsynced_then_published_then_reported() {
    script(
        "
at 0:
    r 0/1000000 0/1000000 0/1000000
    sleep until 10
at 1: w 0/1000000 0/1000100 0/1000100; w 0/1000100 0/1000200 0/1000180
    fsync
    publish 0/1000200 horizon 0/1000180
    r 0/1000200 0/1000200 0/1000000
    sleep until 11
at 2: applied 0/1000180; force
    r 0/1000200 0/1000200 0/1000180
    sleep until 12
at 3: applied 0/1000200
    sleep until 12
",
    );
}

#[test]
fn applied_positions_that_follow_each_other_closely_are_told_once() {
    script(
        "
at 0:
    r 0/1000000 0/1000000 0/1000000
    sleep until 10
at 1: w 0/1000000 0/1000100 0/1000100
    fsync
    publish 0/1000100 horizon 0/1000100
    r 0/1000100 0/1000100 0/1000000
    sleep until 11
at 1.004: applied 0/1000080; force
    sleep until 1.01
at 1.006: applied 0/1000100; force
    sleep until 1.01
at 1.01:
    r 0/1000100 0/1000100 0/1000100
    sleep until 11.01
at 1.012: applied 0/1000100; force
    sleep until 1.02
at 1.013: w 0/1000100 0/1000200 0/1000200
    fsync
    publish 0/1000200 horizon 0/1000200
    r 0/1000200 0/1000200 0/1000100
    sleep until 11.013
",
    );
}

#[test]
fn a_horizon_alone_is_published_and_never_goes_back() {
    let stream = script(
        "
at 0: k 0/1000080
    publish 0/1000000 horizon 0/1000080
    r 0/1000000 0/1000000 0/1000000
    sleep until 10
at 1: k 0/1000040; k 0/1000100; k 0/10000C0
    publish 0/1000000 horizon 0/1000100
    sleep until 10
at 2: k 0/1000000; k 0/0
    sleep until 10
",
    );
    assert_eq!(stream.horizon(), lsn("0/1000100"));
}

#[test]
fn a_request_for_a_reply_is_answered_after_the_fsync() {
    // The upstream drains: an answer with the old flush position would make it ask again.
    script(
        "
at 0:
    r 0/1000000 0/1000000 0/1000000
    sleep until 10
at 1: w 0/1000000 0/1000078 0/1000078; k 0/1000078 reply
    fsync
    publish 0/1000078 horizon 0/1000078
    r 0/1000078 0/1000078 0/1000000
    sleep until 11
at 2: k 0/1000078 reply; k 0/1000078 reply
    r 0/1000078 0/1000078 0/1000000
    sleep until 12
",
    );
}

#[test]
fn silence_is_asked_about_at_half_and_ends_at_the_whole() {
    script_with(
        start_at("0/1000000"),
        Timing { timeout: Some(Duration::from_secs(60)), status_interval: None },
        Duration::ZERO,
        "
at 0:
    r 0/1000000 0/1000000 0/1000000
    sleep until 30
at 29:
    sleep until 30
at 30:
    r 0/1000000 0/1000000 0/1000000 reply
    sleep until 60
at 40: k 0/1000000
    sleep until 70
at 70:
    r 0/1000000 0/1000000 0/1000000 reply
    sleep until 100
at 99.9:
    sleep until 100
at 100:
    timed out
    sleep
at 101: k 0/1000000
    sleep
",
    );
}

#[test]
fn status_goes_out_every_interval_since_the_last_reply() {
    script_with(
        start_at("0/1000000"),
        Timing { timeout: None, status_interval: Some(Duration::from_secs(10)) },
        Duration::ZERO,
        "
at 0:
    r 0/1000000 0/1000000 0/1000000
    sleep until 10
at 10:
    r 0/1000000 0/1000000 0/1000000
    sleep until 20
at 15: k 0/1000000 reply
    r 0/1000000 0/1000000 0/1000000
    sleep until 25
at 16: timing 4 off
    sleep until 17
at 17:
    r 0/1000000 0/1000000 0/1000000 reply
    sleep until 19
",
    );
}

#[test]
fn without_a_status_interval_requests_are_answered_and_news_are_told() {
    script_with(
        start_at("0/1000000"),
        Timing { timeout: None, status_interval: None },
        Duration::ZERO,
        "
at 0:
    r 0/1000000 0/1000000 0/1000000
    sleep
at 1: w 0/1000000 0/1000100 0/1000100
    fsync
    publish 0/1000100 horizon 0/1000100
    r 0/1000100 0/1000100 0/1000000
    sleep
at 1.001: applied 0/1000100; force now
    r 0/1000100 0/1000100 0/1000100
    sleep
at 20: k 0/1000100
    sleep
at 30: k 0/1000100 reply
    r 0/1000100 0/1000100 0/1000100
    sleep
",
    );
}

#[test]
fn a_slow_fsync_is_not_charged_to_the_upstream() {
    script_with(
        start_at("0/1000000"),
        USUAL,
        Duration::from_secs(100),
        "
at 0: w 0/1000000 0/1000100 0/1000000
    fsync
    publish 0/1000100 horizon 0/1000000
    r 0/1000100 0/1000100 0/1000000
    sleep until 30
at 100: k 0/1000100
    publish 0/1000100 horizon 0/1000100
    sleep until 110
",
    );
}

#[test]
fn a_segment_received_again_is_not_called_flushed_before_it_is() {
    // This node had 0/1000200 durable; the stream begins at the start of the segment.
    let start = Start { flushed: lsn("0/1000200"), applied: lsn("0/1000180"), ..start_at("0/1000000") };
    let stream = script_with(
        start,
        USUAL,
        Duration::ZERO,
        "
at 0:
    r 0/1000000 0/1000000 0/1000180
    sleep until 10
at 1: w 0/1000000 0/1000100 0/1000300
    fsync
    publish 0/1000200 horizon 0/1000300
    r 0/1000100 0/1000100 0/1000180
    sleep until 11
at 2: w 0/1000100 0/1000300 0/1000300
    fsync
    publish 0/1000300 horizon 0/1000300
    r 0/1000300 0/1000300 0/1000180
    sleep until 12
",
    );
    assert_eq!(stream.flushed(), lsn("0/1000300"));
}

#[test]
fn end_of_the_copy_comes_after_everything_is_durable_and_reported() {
    let stream = script(
        "
at 0: w 0/1000000 0/1000100 0/1000100; c
    fsync
    publish 0/1000100 horizon 0/1000100
    r 0/1000100 0/1000100 0/1000000
    end of timeline
    sleep
",
    );
    assert!(stream.must_flush(), "nothing is read after the end");
}

#[test]
fn wal_that_does_not_continue_is_refused_and_names_both_positions() {
    let mut stream = Stream::new(time("0"), start_at("0/1000000"), USUAL);
    stream.wal(time("0"), lsn("0/1000000"), 0x100, lsn("0/0")).unwrap();
    for got in ["0/1000000", "0/10000FF", "0/1000101", "FFFFFFFF/FFFFFFFF"] {
        let error = stream.wal(time("0"), lsn(got), 1, lsn("0/0")).unwrap_err();
        assert_eq!(error, NotContiguous { expected: lsn("0/1000100"), got: lsn(got) });
        assert_eq!(
            error.to_string(),
            format!("WAL data from the primary begins at {got}, but 0/1000100 was expected")
        );
    }
    stream.handle(time("0"), Input::CopyDone);
    assert!(stream.wal(time("0"), lsn("0/1000100"), 1, lsn("0/0")).is_err(), "nothing may follow the end");
}

#[test]
fn reading_stops_for_an_fsync_when_much_is_not_durable() {
    let mut stream = Stream::new(time("0"), start_at("0/1000000"), USUAL);
    stream.wal(time("0"), lsn("0/1000000"), UNFLUSHED_MAX as usize - 1, lsn("0/0")).unwrap();
    assert!(!stream.must_flush());
    stream.wal(time("0"), stream.write(), 1, lsn("0/0")).unwrap();
    assert!(stream.must_flush());
    turn(&mut stream, time("0"), "", Duration::ZERO);
    assert!(!stream.must_flush());
}
