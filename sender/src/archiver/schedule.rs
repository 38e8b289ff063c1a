//! What the archiver does next, pure: `(what has happened, now) -> step`.
//!
//! ```text
//!          +---------------- woken, pause over ----------------+
//!          v                                                   |
//!        LOOK --names--> WORK --all archived--> LOOK --none--> IDLE
//!                        |  ^ failed: again after 1 s, 3 times  ^
//!                        |  +--+                                | then after 60 s,
//!                        +--------------------------------------+ or when woken
//! ```
//!
//! Being told to stop takes the way through LOOK once more and ends in the next IDLE: what has become ready by then is
//! archived, unless it fails. SIGTERM, which init sends to every process when the machine goes down, begins nothing new:
//! the order to stop is to come, and if it doesn't come in a minute the archiver ends by itself.
//!
//! Follows PostgreSQL 15 pgarch_MainLoop() and pgarch_ArchiverCopyLoop() in src/backend/postmaster/pgarch.c; differs in:
//! nothing falls due while there is nothing to archive (there: a look every minute).

use std::collections::VecDeque;
use std::time::Duration;

use sys::clock::MonoTime;

/// Attempts at one file before a longer pause.
const RETRIES: u32 = 3;
/// Between two of them.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longer pause.
const PAUSE: Duration = Duration::from_secs(60);
/// From SIGTERM to the end, if nobody says to stop.
const TERM_GRACE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look what is ready and say so by [`Schedule::found`]. Whoever makes something ready after that wakes.
    Look,
    /// Archive this file, and say by [`Schedule::attempted`] what came of it.
    Archive(String),
    /// Sleep until woken, or until that time.
    Sleep(Option<MonoTime>),
    /// End.
    Exit,
}

/// What came of an attempt to archive a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is in the archive; or not in pg_wal any more, and forgotten.
    Over,
    /// It is not.
    Failed,
    /// There is no archive command.
    NotConfigured,
    /// The command took longer than there is time for at shutdown.
    CutOff,
}

/// Where the archiver stands.
#[derive(Debug)]
pub(super) struct Schedule {
    state: State,
    /// Something may have become ready since the last look.
    woken: bool,
    stopping: bool,
    terminated_at: Option<MonoTime>,
}

#[derive(Debug)]
enum State {
    Look,
    /// Never empty.
    Work {
        queue: VecDeque<String>,
        failures: u32,
        not_before: MonoTime,
    },
    Idle {
        until: Option<MonoTime>,
    },
    /// Nothing more.
    Over,
}

impl Schedule {
    /// Begins with a look.
    pub(super) fn new() -> Schedule {
        Schedule { state: State::Look, woken: false, stopping: false, terminated_at: None }
    }

    /// The latch was set.
    pub(super) fn woken(&mut self) {
        self.woken = true;
    }

    /// The node stops: one more look, then the end.
    pub(super) fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.woken = true;
        }
    }

    /// Whether the node stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// SIGTERM.
    pub(super) fn terminate(&mut self, now: MonoTime) {
        self.terminated_at.get_or_insert(now);
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: MonoTime) -> Step {
        if let Some(at) = self.terminated_at {
            let end = at.saturating_add(TERM_GRACE);
            return if self.stopping || now >= end { Step::Exit } else { Step::Sleep(Some(end)) };
        }
        match &self.state {
            State::Work { failures: 0, .. } if self.woken => self.state = State::Look,
            State::Idle { until } if self.woken || until.is_some_and(|until| until <= now) => {
                self.state = State::Look;
            }
            _ => {}
        }
        match &self.state {
            State::Look => Step::Look,
            State::Work { not_before, .. } if now < *not_before => Step::Sleep(Some(*not_before)),
            State::Work { queue, .. } => Step::Archive(queue.front().expect("never empty").clone()),
            State::Idle { .. } if self.stopping => Step::Exit,
            State::Idle { until } => Step::Sleep(*until),
            State::Over => Step::Exit,
        }
    }

    /// The answer to [`Step::Look`]: what is ready, in order.
    pub(super) fn found(&mut self, names: Vec<String>) {
        self.woken = false;
        self.state = if names.is_empty() {
            State::Idle { until: None }
        } else {
            State::Work { queue: names.into(), failures: 0, not_before: MonoTime::ZERO }
        };
    }

    /// The answer to [`Step::Archive`]. Returns whether the file is given up for now, which the log is to say.
    pub(super) fn attempted(&mut self, now: MonoTime, attempt: Attempt) -> bool {
        let State::Work { queue, failures, not_before } = &mut self.state else {
            unreachable!("a file is archived in this state alone")
        };
        match attempt {
            Attempt::Over => {
                queue.pop_front();
                *failures = 0;
                *not_before = MonoTime::ZERO;
                if queue.is_empty() {
                    self.state = State::Look;
                }
            }
            Attempt::Failed => {
                *failures += 1;
                *not_before = now.saturating_add(RETRY_DELAY);
                if *failures >= RETRIES {
                    self.state = State::Idle { until: Some(now.saturating_add(PAUSE)) };
                    return true;
                }
            }
            Attempt::NotConfigured => {
                self.woken = false;
                self.state = State::Idle { until: None };
            }
            Attempt::CutOff => self.state = State::Over,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script: inputs, and after `=` the step that is due then. Times are in seconds from the start.
    fn check(script: &str) {
        let start = MonoTime::from_nanos(1_000_000_000_000);
        let mut now = start;
        let mut schedule = Schedule::new();
        for (number, line) in script.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let (input, expected) = line.split_once('=').expect("input = step");
            let words: Vec<&str> = input.split_whitespace().collect();
            match words[..] {
                [] => {}
                ["at", seconds] => {
                    now = start.saturating_add(Duration::from_secs_f64(seconds.parse().unwrap()));
                }
                ["woken"] => schedule.woken(),
                ["stop"] => schedule.stop(),
                ["term"] => schedule.terminate(now),
                ["found", ref names @ ..] => {
                    schedule.found(names.iter().map(|&name| name.to_owned()).collect());
                }
                ["over"] => assert!(!schedule.attempted(now, Attempt::Over)),
                ["failed"] => assert!(!schedule.attempted(now, Attempt::Failed)),
                ["gives-up"] => assert!(schedule.attempted(now, Attempt::Failed)),
                ["unset"] => assert!(!schedule.attempted(now, Attempt::NotConfigured)),
                ["cut-off"] => assert!(!schedule.attempted(now, Attempt::CutOff)),
                _ => panic!("unknown input {input}"),
            }
            let step = match schedule.next(now) {
                Step::Look => "look".to_owned(),
                Step::Archive(name) => name,
                Step::Sleep(None) => "sleep".to_owned(),
                Step::Sleep(Some(until)) => format!("sleep {}", until.saturating_since(start).as_secs_f64()),
                Step::Exit => "exit".to_owned(),
            };
            assert_eq!(step, expected.trim(), "line {}: {line}", number + 1);
        }
    }

    #[test]
    fn files_are_archived_in_order_until_none_is_left() {
        check(
            "= look\n found a b = a\n over = b\n over = look\n found = sleep\n woken = look\n found = sleep",
        );
    }

    #[test]
    fn what_becomes_ready_meanwhile_is_looked_at_before_the_next_file() {
        check("= look\n found b c = b\n woken = look\n found a b c = a\n over = b");
    }

    #[test]
    fn failures_are_tried_three_times_then_after_a_minute_or_when_woken() {
        let failing = "= look
            found a b = a
            failed = sleep 1
            woken = sleep 1
            at 1 = a
            failed = sleep 2
            at 2 = a
        ";
        // It was woken meanwhile, so it looks at once; three more failures, and nobody wakes.
        let pausing = "gives-up = look
            found a b = a
            failed = sleep 3
            at 3 = a
            failed = sleep 4
            at 4 = a
            gives-up = sleep 64
        ";
        check(&format!("{failing}{pausing} at 63.9 = sleep 64\n at 64 = look\n found a b = a"));
        check(&format!("{failing}{pausing} at 5 = sleep 64\n woken = look"));
        check(&format!("{failing} over = look\n found b = b\n failed = sleep 3"));
    }

    #[test]
    fn success_forgets_earlier_failures() {
        check(
            "= look\n found a b = a\n failed = sleep 1\n at 1 = a\n failed = sleep 2\n at 2 = a\n over = b\n \
             failed = sleep 3\n at 3 = b\n failed = sleep 4\n at 4 = b\n over = look",
        );
    }

    #[test]
    fn without_a_command_nothing_is_done_until_woken() {
        check("= look\n found a = a\n unset = sleep\n at 1000 = sleep\n woken = look");
    }

    #[test]
    fn stop_archives_what_is_left_and_ends() {
        check("= look\n found = sleep\n stop = look\n found = exit");
        check("= look\n found a = a\n stop = look\n found a b = a\n over = b\n over = look\n found = exit");
        check(
            "= look\n found a = a\n failed = sleep 1\n stop = sleep 1\n at 1 = a\n over = look\n found = exit",
        );
        check(
            "stop = look\n found a = a\n failed = sleep 1\n at 1 = a\n failed = sleep 2\n at 2 = a\n gives-up = exit",
        );
        check("stop = look\n found a = a\n unset = exit");
        check("= look\n found a = a\n stop = look\n found a b = a\n cut-off = exit");
    }

    #[test]
    fn sigterm_begins_nothing_new_and_ends_after_a_minute() {
        check(
            "= look\n found a b = a\n term = sleep 60\n over = sleep 60\n woken = sleep 60\n at 59 = sleep 60\n at 60 = exit",
        );
        check("= look\n found = sleep\n term = sleep 60\n at 1 = sleep 60\n stop = exit");
    }
}
