//! Where a standby looks for more log when it has put what it has: in the archive, then upstream. Pure.
//!
//! ```text
//!       +-- restored: the next file --+
//!       v                             |
//!   ARCHIVE --not there--> UPSTREAM --> STREAMING --the walreceiver has ended--> PAUSE --time--> ARCHIVE
//!                             +------------ no upstream set -----------------------^
//! ```
//!
//! What lies in pg_wal is no source of its own: recovery has read it, and everything later comes from these two.
//!
//! The pause is 100 ms, and twice the last one each time that nothing came of a round, up to
//! `wal_retrieve_retry_interval`. While the walreceiver streams, and while there is neither archive nor upstream, nothing
//! falls due.
//!
//! Follows PostgreSQL 15 WaitForWALToBecomeAvailable() in src/backend/access/transam/xlogrecovery.c; differs in: the pause
//! begins short.

use std::time::Duration;

use sys::clock::MonoTime;

/// The first pause.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// What is true at the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// There is a restore command.
    pub(super) archive: bool,
    /// There is an upstream to connect to.
    pub(super) upstream: bool,
    /// A walreceiver runs or has been asked for.
    pub(super) walreceiver: bool,
    /// `wal_retrieve_retry_interval`.
    pub(super) interval: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Get the next file from the archive, and say by [`Sources::restored`] what came of it.
    Restore,
    /// Have a walreceiver started.
    Stream,
    /// Wait until something changes, or until that time.
    Wait(Option<MonoTime>),
}

/// Which source is being tried.
#[derive(Debug)]
pub(super) struct Sources {
    state: State,
    /// The next pause.
    retry: Duration,
    /// Something came of this round.
    progress: bool,
    /// The next failure is no reason to pause.
    at_once: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Archive,
    Upstream,
    Streaming,
    Pause { since: MonoTime, length: Duration },
}

impl Sources {
    /// Begins with the archive.
    pub(super) fn new() -> Sources {
        Sources { state: State::Archive, retry: FIRST_RETRY, progress: false, at_once: false }
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: MonoTime, view: View) -> Step {
        if !view.archive && !view.upstream && !view.walreceiver {
            self.state = State::Archive;
            return Step::Wait(None);
        }
        loop {
            self.state = match self.state {
                State::Archive if view.archive => return Step::Restore,
                State::Archive => State::Upstream,
                State::Upstream if view.upstream => {
                    self.state = State::Streaming;
                    return Step::Stream;
                }
                State::Streaming if view.walreceiver => return Step::Wait(None),
                State::Upstream | State::Streaming => self.pause(now, view.interval),
                State::Pause { since, length } => {
                    // The interval may have become shorter.
                    let due = since.saturating_add(length.min(view.interval));
                    if now < due {
                        return Step::Wait(Some(due));
                    }
                    State::Archive
                }
            };
        }
    }

    fn pause(&mut self, now: MonoTime, interval: Duration) -> State {
        if std::mem::take(&mut self.progress) {
            self.retry = FIRST_RETRY;
        }
        if std::mem::take(&mut self.at_once) {
            return State::Archive;
        }
        let length = self.retry;
        self.retry = (self.retry * 2).min(interval.max(FIRST_RETRY));
        State::Pause { since: now, length }
    }

    /// The answer to [`Step::Restore`]: whether the archive had the file.
    pub(super) fn restored(&mut self, was_there: bool) {
        if was_there {
            self.progress = true;
        } else {
            self.state = State::Upstream;
        }
    }

    /// The walreceiver has streamed.
    pub(super) fn streamed(&mut self) {
        self.progress = true;
    }

    /// What came is no record: nothing came of this round, and the source it came from is not asked next.
    pub(super) fn invalid(&mut self) {
        self.progress = false;
        if matches!(self.state, State::Archive) {
            self.state = State::Upstream;
        }
    }

    /// Where to look has changed: looks at once. A walreceiver that runs is for the caller to end.
    pub(super) fn changed(&mut self) {
        self.retry = FIRST_RETRY;
        match self.state {
            State::Streaming => self.at_once = true,
            _ => self.state = State::Archive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script: `what is true | input = step`. Times are in ms from the start. The view's words: archive, upstream,
    /// walreceiver, and the interval in ms.
    fn check(view: &str, script: &str) {
        let start = MonoTime::from_nanos(7_000_000_000);
        let mut now = start;
        let mut sources = Sources::new();
        let mut view = parse(view);
        for (number, line) in script.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
            let (input, expected) = line.split_once('=').unwrap();
            let (words, changed) = input.split_once('|').map_or((input, None), |(words, v)| (words, Some(v)));
            if let Some(changed) = changed {
                view = parse(changed);
            }
            match words.split_whitespace().collect::<Vec<_>>()[..] {
                [] => {}
                ["at", ms] => now = start.saturating_add(Duration::from_millis(ms.parse().unwrap())),
                ["restored"] => sources.restored(true),
                ["missing"] => sources.restored(false),
                ["streamed"] => sources.streamed(),
                ["invalid"] => sources.invalid(),
                ["changed"] => sources.changed(),
                _ => panic!("unknown input {words}"),
            }
            let step = match sources.next(now, view) {
                Step::Restore => "restore".to_owned(),
                Step::Stream => "stream".to_owned(),
                Step::Wait(None) => "wait".to_owned(),
                Step::Wait(Some(due)) => format!("wait {}", due.saturating_since(start).as_millis()),
            };
            assert_eq!(step, expected.trim(), "line {}: {line}", number + 1);
        }
    }

    fn parse(view: &str) -> View {
        let has = |word: &str| view.split_whitespace().any(|found| found == word);
        let interval = view.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(5000);
        View {
            archive: has("archive"),
            upstream: has("upstream"),
            walreceiver: has("walreceiver"),
            interval: Duration::from_millis(interval),
        }
    }

    #[test]
    fn archive_is_emptied_then_streamed_and_looked_at_again_when_the_stream_ends() {
        check(
            "archive upstream",
            "= restore
             restored = restore
             restored = restore
             missing = stream
             | archive upstream walreceiver = wait
             at 1000 = wait
             streamed | archive upstream = wait 1100
             at 1099 = wait 1100
             at 1100 = restore
             restored = restore
             missing = stream",
        );
    }

    #[test]
    fn pauses_grow_up_to_the_interval_until_something_comes() {
        check(
            "upstream 500",
            "= stream
             = wait 100
             at 100 = stream
             at 101 = wait 301
             at 301 = stream
             = wait 701
             at 701 = stream
             at 800 = wait 1300
             at 1300 = stream
             streamed = wait 1400
             at 1400 = stream
             = wait 1600",
        );
    }

    #[test]
    fn archive_alone_is_looked_at_with_pauses() {
        check(
            "archive",
            "= restore
             missing = wait 100
             at 100 = restore
             missing = wait 300
             at 300 = restore
             restored = restore
             missing = wait 400",
        );
    }

    #[test]
    fn file_that_is_no_log_sends_to_the_upstream_and_lengthens_the_pause() {
        check("archive upstream", "= restore\n restored = restore\n invalid = stream");
        check(
            "archive",
            "= restore\n restored = restore\n invalid = wait 100\n at 100 = restore\n restored = restore\n \
             invalid = wait 300",
        );
    }

    #[test]
    fn what_is_streamed_and_invalid_sends_to_the_archive_after_a_pause() {
        check(
            "archive upstream",
            "= restore\n missing = stream\n | archive upstream walreceiver = wait\n invalid = wait\n \
             | archive upstream = wait 100",
        );
    }

    #[test]
    fn without_a_source_nothing_falls_due_until_there_is_one() {
        check(
            "",
            "= wait\n at 100000 = wait\n changed | archive = restore\n missing | = wait\n changed | upstream = stream",
        );
    }

    #[test]
    fn change_is_heeded_at_once() {
        check("upstream", "= stream\n = wait 100\n changed = stream");
        check(
            "upstream",
            "= stream\n | upstream walreceiver = wait\n changed = wait\n | upstream = stream\n = wait 100",
        );
        check(
            "upstream 60000",
            "= stream\n = wait 100\n at 100 = stream\n = wait 300\n | upstream 50 = wait 150",
        );
    }
}
