//! The walreceiver's stream as a pure state machine: no descriptor, no clock, no shared memory.
//!
//! A stream is what lies between the upstream's CopyBothResponse and the end of the copy. This machine owns positions,
//! order and timers of one; `walreceiver::process` owns the socket, the segment files and the clock, and obeys.
//!
//! The loop to write:
//!
//! ```text
//! wait for latch, socket readable, next_wakeup()
//! latch   -> reset it; Applied, ForceReply
//! socket  -> while a message is there and !must_flush(): wal() + write the bytes / Keepalive / CopyDone
//! Drained
//! while let Some(output) = poll(): do it; after Fsync tell Flushed
//! ```
//!
//! Invariants:
//! - The stream is contiguous: a message that does not begin where the one before ended is an error.
//! - Durability is never claimed early: flush is reported only after `Flushed`, and only for what *this* stream wrote.
//!   (A stream begins at the start of a segment and writes again what is there already; until the new bytes are durable
//!   the old claim is not repeated, as they need not be the same bytes.)
//! - A request for a reply is answered after the fsync of everything that came before it: a drain that asks is answered
//!   once, with the truth, and does not go back and forth.
//! - The horizon and the published flush position only grow.
//! - Written and flushed are reported together, after the fsync: one reply per batch.
//! - Waiting messages are read before the timers are looked at, and a slow fsync is not charged to the upstream.
//!
//! ```text
//! Streaming --CopyDone--> Ending --everything fsynced, reported--> Ended (EndOfTimeline)
//!     |
//!     +-- no message for wal_receiver_timeout --> Ended (TimedOut)
//! ```
//!
//! Follows PostgreSQL 17 `src/backend/replication/walreceiver.c` (WalReceiverMain, XLogWalRcvProcessMsg,
//! XLogWalRcvFlush). Differs in: a flush is reported whatever the status interval, as commits may wait for it; no report
//! of what is only written; answers come after the fsync; an fsync at the
//! latest every `UNFLUSHED_MAX` bytes, however fast the upstream is; only bytes of this stream count as flushed in
//! replies; walEnd is the upstream's horizon and is published.

use std::fmt;
use std::time::Duration;

use sys::clock::MonoTime;
use wal::lsn::Lsn;

/// Most bytes written and not yet durable before reading stops for an fsync.
pub const UNFLUSHED_MAX: u64 = 4 << 20;

/// Least time between a reply and one that tells of nothing but a larger applied position. Under load the next flush
/// tells it as well, and each reply wakes the walsender.
const APPLY_REPORT_SPACING: Duration = Duration::from_millis(10);

/// The settings that the machine follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `wal_receiver_timeout`; none for never.
    pub timeout: Option<Duration>,
    /// `wal_receiver_status_interval`; none: only when asked, and when there is news.
    pub status_interval: Option<Duration>,
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// First byte asked for: the start of a segment.
    pub lsn: Lsn,
    /// Durable on this node before the stream; may be beyond `lsn`.
    pub flushed: Lsn,
    /// Applied on this node.
    pub applied: Lsn,
    /// Largest horizon known.
    pub horizon: Lsn,
}

/// What the shell tells the machine, beside `wal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A keepalive ('k').
    Keepalive {
        /// The upstream's horizon.
        wal_end: Lsn,
        /// The upstream wants an answer at once.
        reply_requested: bool,
    },
    /// The upstream ended its side of the copy ('c'), or the whole of it (a command tag).
    CopyDone,
    /// Every message that was there has been read (or `must_flush` stopped the reading).
    Drained,
    /// An fsync succeeded: everything written before it is durable.
    Flushed,
    /// The tables are committed up to here.
    Applied(Lsn),
    /// The startup process wants the upstream to know what is applied now.
    ForceReply {
        /// Somebody waits for it there (remote_apply).
        at_once: bool,
    },
    /// The settings have changed.
    Timing(Timing),
}

/// What the machine wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// fsync what was written, then tell `Flushed`.
    Fsync,
    /// Store both positions in shared memory, then wake the startup process and the walsenders of this node.
    Publish {
        /// Durable on this node.
        flush: Lsn,
        /// Decided, as the upstream says.
        horizon: Lsn,
    },
    /// Send a status update ('r').
    Reply {
        /// Written by this stream.
        write: Lsn,
        /// Durable, of what this stream wrote.
        flush: Lsn,
        /// Applied on this node.
        apply: Lsn,
        /// Ask for an answer at once.
        reply_requested: bool,
    },
    /// The copy has ended, and what it brought is durable and reported: end our side.
    EndOfTimeline,
    /// The upstream has been silent for too long: exit with "terminating walreceiver due to timeout".
    TimedOut,
}

/// WAL that does not continue what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotContiguous {
    /// Where the stream stands.
    pub expected: Lsn,
    /// Where the message began.
    pub got: Lsn,
}

impl fmt::Display for NotContiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WAL data from the primary begins at {}, but {} was expected", self.got, self.expected)
    }
}

impl std::error::Error for NotContiguous {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Streaming,
    Ending,
    Ended,
}

/// One stream. See the module's header for the loop around it.
#[derive(Debug)]
pub struct Stream {
    state: State,
    timing: Timing,
    write: Lsn,
    /// Durable, of what this stream wrote.
    flush: Lsn,
    /// Durable before this stream.
    flushed_before: Lsn,
    apply: Lsn,
    horizon: Lsn,
    published: (Lsn, Lsn),
    /// Write and flush positions of the last reply.
    reported: (Lsn, Lsn),
    reply_owed: bool,
    /// When to tell that the tables have come further; any reply before that tells it.
    apply_report: Option<MonoTime>,
    /// When the messages that were there had all been read.
    drained: MonoTime,
    last_message: MonoTime,
    pinged: bool,
    last_reply: MonoTime,
}

impl Stream {
    /// A stream whose CopyBothResponse has just come. The first `poll` gives a reply, so that the upstream knows at once
    /// where this node stands.
    pub fn new(now: MonoTime, start: Start, timing: Timing) -> Stream {
        Stream {
            state: State::Streaming,
            timing,
            write: start.lsn,
            flush: start.lsn,
            flushed_before: start.flushed,
            apply: start.applied,
            horizon: start.horizon,
            published: (start.flushed.max(start.lsn), start.horizon),
            reported: (Lsn::INVALID, Lsn::INVALID),
            reply_owed: true,
            apply_report: None,
            drained: now,
            last_message: now,
            pinged: false,
            last_reply: now,
        }
    }

    /// Takes a WAL message of `length` bytes at `start`; when it is accepted the caller writes the bytes to the segment
    /// file at `start` before the next call.
    ///
    /// # Errors
    /// The message does not begin where the one before ended; the stream must be given up.
    pub fn wal(
        &mut self,
        now: MonoTime,
        start: Lsn,
        length: usize,
        wal_end: Lsn,
    ) -> Result<(), NotContiguous> {
        let end = start.checked_add(length as u64);
        let Some(end) = end.filter(|_| start == self.write && self.state == State::Streaming) else {
            return Err(NotContiguous { expected: self.write, got: start });
        };
        self.note_message(now, wal_end);
        self.write = end;
        Ok(())
    }

    /// Takes one input. Its consequences come out of `poll`.
    pub fn handle(&mut self, now: MonoTime, input: Input) {
        match input {
            Input::Keepalive { wal_end, reply_requested } => {
                self.note_message(now, wal_end);
                self.reply_owed |= reply_requested;
            }
            Input::CopyDone => {
                self.note_message(now, Lsn::INVALID);
                if self.state == State::Streaming {
                    self.state = State::Ending;
                }
            }
            Input::Drained => self.drained = now,
            Input::Flushed => self.flush = self.write,
            Input::Applied(lsn) => self.apply = self.apply.max(lsn),
            Input::ForceReply { at_once } => {
                let due =
                    if at_once { now } else { now.max(self.last_reply.saturating_add(APPLY_REPORT_SPACING)) };
                self.apply_report = Some(self.apply_report.map_or(due, |earlier| earlier.min(due)));
            }
            Input::Timing(timing) => self.timing = timing,
        }
    }

    /// What to do next, or none when it is time to wait. Call after `Drained`.
    pub fn poll(&mut self, now: MonoTime) -> Option<Output> {
        if self.state == State::Ended {
            return None;
        }
        if self.write > self.flush {
            return Some(Output::Fsync);
        }
        if self.published != (self.flushed(), self.horizon) {
            self.published = (self.flushed(), self.horizon);
            return Some(Output::Publish { flush: self.flushed(), horizon: self.horizon });
        }
        if self.state == State::Streaming && self.is_silent_for(self.timing.timeout) {
            return self.end(Output::TimedOut);
        }
        if self.ping_time().is_some_and(|at| self.drained >= at) {
            self.pinged = true;
            self.reply_owed = false;
            return Some(self.reply(now, true));
        }
        let due = |at: MonoTime| now >= at;
        if self.reply_owed
            || self.has_news()
            || self.apply_report.is_some_and(due)
            || self.status_time().is_some_and(due)
        {
            self.reply_owed = false;
            return Some(self.reply(now, false));
        }
        if self.state == State::Ending {
            return self.end(Output::EndOfTimeline);
        }
        None
    }

    /// When to call `Drained` and `poll` again even if nothing happens; none for never.
    pub fn next_wakeup(&self, _now: MonoTime) -> Option<MonoTime> {
        if self.state == State::Ended {
            return None;
        }
        let terminate = self.timing.timeout.map(|timeout| self.last_message.saturating_add(timeout));
        [terminate, self.ping_time(), self.status_time(), self.apply_report].into_iter().flatten().min()
    }

    /// Whether to stop reading and go through `Drained` and `poll` first.
    pub fn must_flush(&self) -> bool {
        self.state != State::Streaming || self.write - self.flush >= UNFLUSHED_MAX
    }

    /// One past the last byte received.
    pub fn write(&self) -> Lsn {
        self.write
    }

    /// One past the last durable byte on this node.
    pub fn flushed(&self) -> Lsn {
        self.flush.max(self.flushed_before)
    }

    /// The largest horizon known.
    pub fn horizon(&self) -> Lsn {
        self.horizon
    }

    fn reply(&mut self, now: MonoTime, reply_requested: bool) -> Output {
        self.reported = (self.write, self.flush);
        self.last_reply = now;
        self.apply_report = None;
        Output::Reply { write: self.write, flush: self.flush, apply: self.apply, reply_requested }
    }

    fn end(&mut self, output: Output) -> Option<Output> {
        self.state = State::Ended;
        Some(output)
    }

    fn has_news(&self) -> bool {
        self.reported != (self.write, self.flush)
    }

    fn is_silent_for(&self, timeout: Option<Duration>) -> bool {
        timeout.is_some_and(|timeout| self.drained >= self.last_message.saturating_add(timeout))
    }

    fn ping_time(&self) -> Option<MonoTime> {
        let timeout = self.timing.timeout.filter(|_| !self.pinged && self.state == State::Streaming)?;
        Some(self.last_message.saturating_add(timeout / 2))
    }

    fn status_time(&self) -> Option<MonoTime> {
        self.timing.status_interval.map(|interval| self.last_reply.saturating_add(interval))
    }

    fn note_message(&mut self, now: MonoTime, wal_end: Lsn) {
        self.last_message = now;
        self.pinged = false;
        self.horizon = self.horizon.max(wal_end);
    }
}

#[cfg(test)]
mod tests;
