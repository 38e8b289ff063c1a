//! The walsender's stream as a pure state machine: no descriptor, no clock, no shared memory.
//!
//! A stream is what lies between `START_REPLICATION` and its result set. This machine owns the protocol, the positions
//! and the timers of one; `walsender::process` owns the socket and the clock, and obeys.
//!
//! The loop to write (one pass is a *turn*):
//!
//! ```text
//! reset the latch
//! interrupts              -> InitStopping, Stop, Timeout; Pace
//! Turn                       before the socket is read: timers count up to here
//! while reads() and a message is there: Status / Feedback / CopyDone / Terminate
//! Log { flush, horizon, promise }  (and TimelineEnded)
//! while let Some(output) = poll(): do it, flush what the socket takes, Outgoing { pending }
//! wait for latch, socket (writeable only while something is pending), next_wakeup()
//! ```
//!
//! ```text
//!            start            all sent                 InitStopping (from either)
//!  (Startup) -----> Catchup ------------> Streaming  ------------------------------> Stopping
//!                      |                      |                                          | Stop, and the standby
//!                      |   CopyDone from the client, or the historic timeline is sent     | has all
//!                      +----------------------+------> both sides done: Finished          +--> Drained
//! ```
//!
//! Invariants:
//! - Nothing beyond the flush position last told by `Log` is ever sent, nor beyond the end of a historic timeline.
//! - `sent` only grows, and each WAL message begins where the one before ended.
//! - At most one WAL message per turn, and none while the socket still holds an earlier one: so replies are read
//!   between any two of them, and memory is bounded by one message.
//! - A position that the standby reports counts only up to what was sent: what lies beyond is not known to be our log.
//! - A stream that keeps up rests after each message for as long as `Pace` says, so that what is logged meanwhile goes out
//!   as one message. What was missed while it rests, or while the socket is full, is looked for at the end of that, so nobody
//!   need wake it then: [`Session::wants_wakeups`].
//! - A stall of this process is never charged to the client: the timers are compared with the time at which replies were
//!   last read, not with the time of the comparison.
//!
//! Ends with exactly one of `Finished`, `Drained`, `TimedOut`, `Disconnected`; after it `poll` gives nothing.
//!
//! Follows PostgreSQL `src/backend/replication/walsender.c` (WalSndLoop, XLogSendPhysical, WalSndDone). Differs in: walEnd
//! carries the horizon (for a synchronous standby what it is once that has flushed what it gets), and a keepalive goes out when
//! it has moved and there is no WAL to carry it; without a timeout
//! it sleeps for ever (PostgreSQL: 10 s); a request for a reply during the drain is repeated at once only after an answer
//! that brought news, so that a standby which answers before it has flushed cannot make both sides spin; a horizon on a
//! historic timeline is cut at that timeline's end.

use std::time::Duration;

use sys::clock::MonoTime;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wire::replication::payload;

use super::WalSndState;
use super::lag::{LagTracker, Step};

/// Most bytes of WAL in one 'w' message: 16 pages.
pub const MAX_SEND_SIZE: u64 = payload::MAX_SEND_SIZE as u64;

/// How long the drain waits before it asks again a standby whose last answer brought nothing new.
pub const DRAIN_ASK_AGAIN: Duration = Duration::from_millis(100);

/// What the shell tells the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A turn begins: whatever the socket holds is read after this.
    Turn,
    /// A standby status update ('r').
    Status {
        /// Written, flushed and applied positions; invalid where the standby does not report one.
        write: Lsn,
        /// See `write`.
        flush: Lsn,
        /// See `write`.
        apply: Lsn,
        /// The standby's clock when it sent this.
        time: Timestamp,
        /// The standby wants a keepalive back.
        reply_requested: bool,
    },
    /// Any other message inside the copy (hot standby feedback): a sign of life.
    Feedback,
    /// The client ended its side of the copy ('c').
    CopyDone,
    /// The client says goodbye ('X').
    Terminate,
    /// The log as this node knows it now.
    Log {
        /// How far the log may be sent: flushed here (and on a standby: received on the timeline that is sent).
        flush: Lsn,
        /// How far the log is decided: what walEnd says.
        horizon: Lsn,
        /// How far it is decided once this standby has flushed it; invalid: no further than that.
        promise: Lsn,
    },
    /// What is left unsent in the connection's buffer after an attempt to send.
    Outgoing {
        /// Something is left.
        pending: bool,
    },
    /// The node begins to stop: keep streaming, take no new command after this one.
    InitStopping,
    /// Nothing more will be logged: send the rest, wait until the standby has it, finish.
    Stop,
    /// The timeline that is sent is no longer this node's newest: it ended at `valid_upto` and `next` follows.
    TimelineEnded {
        /// First position that is not part of the timeline that is sent.
        valid_upto: Lsn,
        /// The timeline that continues there.
        next: TimelineId,
    },
    /// `wal_sender_timeout` has changed; none means never.
    Timeout(Option<Duration>),
    /// How long the stream rests after a message if it keeps up and nobody waits for its standby.
    Pace(Duration),
}

/// What the machine wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Read this range of the log and send it as 'w'.
    Wal {
        /// First byte.
        start: Lsn,
        /// One past the last byte.
        end: Lsn,
        /// The message's walEnd.
        wal_end: Lsn,
    },
    /// Send 'k'.
    Keepalive {
        /// The message's walEnd.
        wal_end: Lsn,
        /// Ask for an answer at once.
        reply_requested: bool,
    },
    /// Send CopyDone ('c').
    CopyDone,
    /// The copy is over on both sides: send the result set (one row when a next timeline is given), then the command tags.
    Finished {
        /// The timeline that continues, and where it begins.
        next: Option<(TimelineId, Lsn)>,
    },
    /// The drain is complete: send the tag `COPY 0` and exit.
    Drained,
    /// The client has been silent for too long: log it and exit, tell the client nothing.
    TimedOut,
    /// The client said goodbye: exit.
    Disconnected,
}

/// What the standby said last, each position cut at what had been sent by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Written by the standby; invalid when not reported.
    pub write: Lsn,
    /// Durable on the standby; invalid when not reported.
    pub flush: Lsn,
    /// Applied by the standby; invalid when not reported.
    pub apply: Lsn,
    /// The standby's clock at its last status update.
    pub reply_time: Option<Timestamp>,
    /// How far behind its position is each, as far as it could be told.
    pub lags: Lags,
}

/// How long ago the standby's positions were this node's flush LSN; none when that can't be told, or there is nothing to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lags {
    /// Of the written position.
    pub write: Option<Duration>,
    /// Of the flushed position.
    pub flush: Option<Duration>,
    /// Of the applied position.
    pub apply: Option<Duration>,
}

/// How far along the stream's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shutdown {
    /// The node is up.
    No,
    /// The node stops, but the log still grows.
    Announced,
    /// The log is complete.
    Draining,
}

/// One stream. See the module's header for the loop around it.
#[derive(Debug)]
pub struct Session {
    state: WalSndState,
    shutdown: Shutdown,
    historic: Option<(Lsn, TimelineId)>,
    flush: Lsn,
    horizon: Lsn,
    promise: Lsn,
    /// Everything before this is handed to the connection.
    sent: Lsn,
    /// The largest walEnd handed to the connection.
    told: Lsn,
    reported: Reported,
    lag: LagTracker,
    /// The last report said that everything sent was applied.
    had_all: bool,
    pending: bool,
    sent_this_turn: bool,
    keepalive_owed: bool,
    done_sending: bool,
    done_receiving: bool,
    disconnected: bool,
    ended: bool,
    timeout: Option<Duration>,
    pace: Duration,
    /// When the last message with news went out.
    news_sent: MonoTime,
    /// When replies were last read.
    turn: MonoTime,
    last_reply: MonoTime,
    /// A reply was asked for and has not come yet.
    ping_outstanding: bool,
    /// The drain asks no earlier than this.
    drain_ask_at: MonoTime,
}

impl Session {
    /// A stream that begins at `start` on the node's newest timeline. `timeout` is `wal_sender_timeout`, none for never.
    pub fn new(now: MonoTime, start: Lsn, timeout: Option<Duration>) -> Session {
        Session {
            state: WalSndState::Catchup,
            shutdown: Shutdown::No,
            historic: None,
            flush: Lsn::INVALID,
            horizon: Lsn::INVALID,
            promise: Lsn::INVALID,
            sent: start,
            told: Lsn::INVALID,
            reported: Reported::default(),
            lag: LagTracker::default(),
            had_all: false,
            pending: false,
            sent_this_turn: false,
            keepalive_owed: false,
            done_sending: false,
            done_receiving: false,
            disconnected: false,
            ended: false,
            timeout,
            pace: Duration::ZERO,
            news_sent: now,
            turn: now,
            last_reply: now,
            ping_outstanding: false,
            drain_ask_at: now,
        }
    }

    /// Takes one input. Its consequences come out of `poll`.
    pub fn handle(&mut self, now: MonoTime, input: Input) {
        match input {
            Input::Turn => {
                self.turn = now;
                self.sent_this_turn = false;
            }
            Input::Status { write, flush, apply, time, reply_requested } => {
                self.note_sign_of_life();
                self.note_status(now, write, flush, apply, time);
                self.keepalive_owed |= reply_requested;
            }
            Input::Feedback => self.note_sign_of_life(),
            Input::CopyDone => {
                self.note_sign_of_life();
                self.done_receiving = true;
            }
            Input::Terminate => self.disconnected = true,
            Input::Log { flush, horizon, promise } => {
                self.flush = self.flush.max(flush);
                self.horizon = self.horizon.max(horizon);
                self.promise = promise;
                self.lag.flushed(self.limit(), now);
            }
            Input::Outgoing { pending } => self.pending = pending,
            Input::InitStopping => {
                self.state = WalSndState::Stopping;
                if self.shutdown == Shutdown::No {
                    self.shutdown = Shutdown::Announced;
                }
            }
            Input::Stop => {
                self.state = WalSndState::Stopping;
                self.shutdown = Shutdown::Draining;
            }
            Input::TimelineEnded { valid_upto, next } => {
                // A timeline ends once; a stream of an older one does not care that the newest has ended too.
                self.historic.get_or_insert((valid_upto, next));
            }
            Input::Timeout(timeout) => self.timeout = timeout,
            Input::Pace(pace) => self.pace = pace,
        }
    }

    /// What to do next, or none when this turn is over.
    pub fn poll(&mut self, now: MonoTime) -> Option<Output> {
        if self.ended {
            return None;
        }
        if self.disconnected {
            return self.end(Output::Disconnected);
        }
        if self.done_receiving && self.done_sending && !self.pending {
            return self.end(Output::Finished { next: self.historic.map(|(upto, next)| (next, upto)) });
        }
        if self.copy_is_over() {
            // Goes out even behind pending data: it happens once, and nothing follows it.
            self.done_sending = true;
            self.pending = true;
            return Some(Output::CopyDone);
        }
        if !self.pending
            && let Some(output) = self.poll_stream(now)
        {
            return Some(output);
        }
        if self.timeout.is_some_and(|timeout| self.turn >= self.last_reply.saturating_add(timeout)) {
            return self.end(Output::TimedOut);
        }
        if self.ping_time().is_some_and(|at| self.turn >= at) {
            return Some(self.ping());
        }
        None
    }

    /// When the next turn is due even if nothing happens: `now` when there is more to send at once, none for never.
    pub fn next_wakeup(&self, now: MonoTime) -> Option<MonoTime> {
        if self.ended {
            return None;
        }
        let rest = self.rests_until(now);
        if !self.pending && self.sent < self.limit() && !self.done_sending && rest.is_none() {
            return Some(now);
        }
        let silence = self.timeout.map(|timeout| self.last_reply.saturating_add(timeout));
        let drain = self.drain_waits_to_ask().then_some(self.drain_ask_at);
        [silence, self.ping_time(), drain, rest].into_iter().flatten().min()
    }

    /// Whether news of the log end the sleep that begins now. If not it ends by itself, and the log is looked at then.
    pub fn wants_wakeups(&self, now: MonoTime) -> bool {
        !self.pending && self.rests_until(now).is_none()
    }

    /// Whether to read from the client: after its CopyDone the next message belongs to the next command.
    pub fn reads(&self) -> bool {
        !self.done_receiving && !self.disconnected && !self.ended
    }

    /// The state that the node's views show.
    pub fn state(&self) -> WalSndState {
        self.state
    }

    /// Everything before this position has been handed to the connection.
    pub fn sent(&self) -> Lsn {
        self.sent
    }

    /// What the standby said last.
    pub fn reported(&self) -> Reported {
        self.reported
    }

    /// Whether the stream has ended; a new one needs a new machine.
    pub fn ended(&self) -> bool {
        self.ended
    }

    fn poll_stream(&mut self, now: MonoTime) -> Option<Output> {
        // Before the first `Log` nothing is known: "nothing to send" would be taken for "caught up".
        if self.done_sending || !self.flush.is_valid() {
            return None;
        }
        if self.keepalive_owed {
            return Some(self.keepalive(false));
        }
        if self.rests_until(now).is_some() {
            return None;
        }
        if !self.caught_up() {
            return if self.sent_this_turn { None } else { Some(self.next_wal(now)) };
        }
        if self.state == WalSndState::Catchup {
            self.state = WalSndState::Streaming;
        }
        if self.wal_end(self.sent) > self.told {
            self.news_sent = now;
            return Some(self.keepalive(false));
        }
        if self.shutdown != Shutdown::Draining {
            return None;
        }
        if self.standby_has_all() {
            return self.end(Output::Drained);
        }
        if !self.ping_outstanding && now >= self.drain_ask_at {
            self.drain_ask_at = now.saturating_add(DRAIN_ASK_AGAIN);
            return Some(self.ping());
        }
        None
    }

    fn next_wal(&mut self, now: MonoTime) -> Output {
        self.news_sent = now;
        let start = self.sent;
        let limit = self.limit();
        // A message ends at a page boundary or at the end of what is flushed, so that a record is never cut elsewhere.
        let end = if limit - start > MAX_SEND_SIZE { (start + MAX_SEND_SIZE).page_start() } else { limit };
        let wal_end = self.wal_end(end);
        self.sent = end;
        self.told = self.told.max(wal_end);
        self.sent_this_turn = true;
        self.pending = true;
        Output::Wal { start, end, wal_end }
    }

    fn keepalive(&mut self, reply_requested: bool) -> Output {
        let wal_end = self.wal_end(self.sent);
        self.told = self.told.max(wal_end);
        self.keepalive_owed = false;
        self.pending = true;
        Output::Keepalive { wal_end, reply_requested }
    }

    fn ping(&mut self) -> Output {
        self.ping_outstanding = true;
        self.keepalive(true)
    }

    fn end(&mut self, output: Output) -> Option<Output> {
        self.ended = true;
        Some(output)
    }

    /// Our side of the copy has nothing more to say, and has not said so yet.
    fn copy_is_over(&self) -> bool {
        let timeline_sent = self.historic.is_some_and(|(valid_upto, _)| self.sent >= valid_upto);
        !self.done_sending && (self.done_receiving || (timeline_sent && !self.pending))
    }

    fn caught_up(&self) -> bool {
        self.sent >= self.limit()
    }

    /// The end of what may be sent now.
    fn limit(&self) -> Lsn {
        self.cut_at_timeline_end(self.flush)
    }

    /// What walEnd says to a standby to which everything before `sent` goes: a promise is kept by flushing that. A receiver of
    /// a historic timeline may hold bytes beyond its end that are not ours; a horizon cut there keeps it from taking them for
    /// decided.
    fn wal_end(&self, sent: Lsn) -> Lsn {
        self.cut_at_timeline_end(self.horizon.max(self.promise.min(sent)))
    }

    /// The end of the rest, if there is one now. Who lags has none, nor has the end of a stream.
    fn rests_until(&self, now: MonoTime) -> Option<MonoTime> {
        let keeps_up = self.limit().saturating_since(self.sent) <= MAX_SEND_SIZE;
        let rests = self.state == WalSndState::Streaming && self.historic.is_none() && keeps_up;
        Some(self.news_sent.saturating_add(self.pace)).filter(|end| rests && now < *end)
    }

    fn cut_at_timeline_end(&self, lsn: Lsn) -> Lsn {
        self.historic.map_or(lsn, |(valid_upto, _)| lsn.min(valid_upto))
    }

    fn standby_has_all(&self) -> bool {
        // A client that reports no flush (pg_receivewal without a slot) is taken at its written position.
        let has = if self.reported.flush.is_valid() { self.reported.flush } else { self.reported.write };
        has == self.sent
    }

    fn drain_waits_to_ask(&self) -> bool {
        let asking = !self.ping_outstanding && !self.pending && !self.done_sending;
        self.shutdown == Shutdown::Draining && self.flush.is_valid() && asking
    }

    /// When to ask for a sign of life: half of the timeout after the last one. After our CopyDone nothing may be asked.
    fn ping_time(&self) -> Option<MonoTime> {
        if self.ping_outstanding || self.done_sending {
            return None;
        }
        self.timeout.map(|timeout| self.last_reply.saturating_add(timeout / 2))
    }

    fn note_sign_of_life(&mut self) {
        self.last_reply = self.turn;
        self.ping_outstanding = false;
    }

    fn note_status(&mut self, now: MonoTime, write: Lsn, flush: Lsn, apply: Lsn, time: Timestamp) {
        let before = self.reported;
        self.reported = Reported {
            write: write.min(self.sent),
            flush: flush.min(self.sent),
            apply: apply.min(self.sent),
            reply_time: Some(time),
            lags: before.lags,
        };
        self.note_lags(now);
        if (self.reported.write, self.reported.flush) != (before.write, before.flush) {
            self.drain_ask_at = self.turn;
        }
    }

    /// A lag that can't be told now stays, unless the standby has had everything for two reports: an idle stream has none.
    fn note_lags(&mut self, now: MonoTime) {
        let had_all = std::mem::replace(&mut self.had_all, self.reported.apply == self.sent);
        let idle = had_all && self.had_all;
        let Reported { write, flush, apply, .. } = self.reported;
        let lags = &mut self.reported.lags;
        for (step, lsn, lag) in [
            (Step::Write, write, &mut lags.write),
            (Step::Flush, flush, &mut lags.flush),
            (Step::Apply, apply, &mut lags.apply),
        ] {
            let told = self.lag.reported(step, lsn, now);
            if told.is_some() || idle {
                *lag = told;
            }
        }
    }
}

#[cfg(test)]
mod tests;
