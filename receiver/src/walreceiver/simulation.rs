//! Walsender and walreceiver against each other: both real machines, a simulated clock, network and disks.
//!
//! Goal: what no script thinks of. Method: a seed decides how the log grows, how long each message, fsync and commit takes
//! and when the network swallows everything; the bytes of the log are a function of their position, so a byte lost,
//! doubled or moved shows at once. Checked all along: nothing beyond the flush position leaves the primary, the order
//! written <= sent and flushed <= written, no flush reported that is not durable, nothing applied beyond min(own flush,
//! horizon); at the end: all bytes there, the drain completed; and when idle: the number of wake-ups; when cut off: both
//! sides time out.

use std::collections::VecDeque;
use std::time::Duration;

use sender::walsender::WalSndState;
use sender::walsender::session::{Input as SenderInput, Output as SenderOutput, Session};
use sys::clock::MonoTime;
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;

use super::stream::{Input as ReceiverInput, Output as ReceiverOutput, Start, Stream, Timing};

const START: Lsn = Lsn(0x100_0000);
const TIMEOUT: Duration = Duration::from_secs(60);
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// xorshift64*: small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn micros(&mut self, limit: u64) -> Duration {
        Duration::from_micros(self.below(limit))
    }
}

/// The log's byte at a position.
fn byte_at(lsn: Lsn) -> u8 {
    (lsn.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

#[derive(Clone, Debug)]
enum Message {
    Wal { start: Lsn, bytes: Vec<u8>, wal_end: Lsn },
    Keepalive { wal_end: Lsn, reply_requested: bool },
    CopyEnd,
    Reply { write: Lsn, flush: Lsn, apply: Lsn, reply_requested: bool },
}

/// One direction of the connection: in order, each message with its own delay, or swallowed.
#[derive(Default)]
struct Pipe {
    messages: VecDeque<(MonoTime, Message)>,
    cut: bool,
}

impl Pipe {
    fn send(&mut self, arrives: MonoTime, message: Message) {
        if !self.cut {
            let after_last = self.messages.back().map_or(arrives, |(last, _)| arrives.max(*last));
            self.messages.push_back((after_last, message));
        }
    }

    fn receive(&mut self, now: MonoTime) -> Option<Message> {
        if self.messages.front()?.0 > now {
            return None;
        }
        self.messages.pop_front().map(|(_, message)| message)
    }

    fn next_arrival(&self) -> Option<MonoTime> {
        self.messages.front().map(|(at, _)| *at)
    }
}

struct Primary {
    session: Session,
    flush: Lsn,
    horizon: Lsn,
    woken: bool,
    ended: Option<SenderOutput>,
    wakeups: u64,
    /// The socket's buffer frees itself at this time.
    full_until: Option<MonoTime>,
}

struct Standby {
    stream: Stream,
    file: Vec<u8>,
    published_flush: Lsn,
    published_horizon: Lsn,
    applied: Lsn,
    /// The startup process commits at this time.
    applies_at: Option<MonoTime>,
    ended: Option<ReceiverOutput>,
    wakeups: u64,
}

struct World {
    now: MonoTime,
    random: Random,
    delay_max: u64,
    down: Pipe,
    up: Pipe,
    primary: Primary,
    standby: Standby,
    /// What the primary inserts and flushes, and when.
    inserts: VecDeque<(MonoTime, u64)>,
    stop_at: Option<MonoTime>,
    /// The horizon follows what the standby has flushed; else what the primary has.
    quorum: bool,
    /// The primary's socket is full now and then.
    busy_socket: bool,
}

impl World {
    fn new(seed: u64, quorum: bool) -> World {
        let now = MonoTime::ZERO.saturating_add(Duration::from_secs(5));
        let timing = Timing { timeout: Some(TIMEOUT), status_interval: Some(STATUS_INTERVAL) };
        let start = Start { lsn: START, flushed: START, applied: START, horizon: START };
        let mut random = Random::new(seed);
        let delay_max = [50, 1_000, 200_000][random.below(3) as usize];
        World {
            now,
            random,
            delay_max,
            down: Pipe::default(),
            up: Pipe::default(),
            primary: Primary {
                session: Session::new(now, START, Some(TIMEOUT)),
                flush: START,
                horizon: START,
                woken: true,
                ended: None,
                wakeups: 0,
                full_until: None,
            },
            standby: Standby {
                stream: Stream::new(now, start, timing),
                file: Vec::new(),
                published_flush: START,
                published_horizon: START,
                applied: START,
                applies_at: None,
                ended: None,
                wakeups: 0,
            },
            inserts: VecDeque::new(),
            stop_at: None,
            quorum,
            busy_socket: true,
        }
    }

    fn load(&mut self, count: u64) {
        let mut at = self.now;
        for _ in 0..count {
            at = at.saturating_add(self.random.micros(20_000));
            let bytes = match self.random.below(20) {
                0 => self.random.below(600_000),
                1..5 => self.random.below(9_000),
                _ => 8 + self.random.below(200),
            };
            self.inserts.push_back((at, bytes));
        }
    }

    /// Runs until nothing is left to happen before `end`.
    fn run_until(&mut self, end: MonoTime) {
        let mut events = 0u64;
        loop {
            events += 1;
            assert!(events < 2_000_000, "the world never gets to rest");
            self.insert_due();
            self.primary_turn();
            self.standby_turn();
            self.apply_due();
            self.check();
            let Some(next) = self.next_event() else { break };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
        }
        self.now = end.max(self.now);
    }

    fn next_event(&self) -> Option<MonoTime> {
        let primary_up = self.primary.ended.is_none();
        let standby_up = self.standby.ended.is_none();
        let wakes = [
            self.inserts.front().map(|(at, _)| *at),
            self.stop_at.filter(|_| self.inserts.is_empty()),
            self.down.next_arrival().filter(|_| standby_up),
            self.up.next_arrival().filter(|_| primary_up),
            self.primary.full_until.filter(|_| primary_up),
            (self.primary.woken && primary_up).then_some(self.now),
            self.primary.session.next_wakeup(self.now),
            self.standby.stream.next_wakeup(self.now),
            self.standby.applies_at,
        ];
        wakes.into_iter().flatten().min()
    }

    fn insert_due(&mut self) {
        while self.inserts.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, bytes) = self.inserts.pop_front().expect("looked at above");
            self.primary.flush += bytes;
            if !self.quorum {
                self.primary.horizon = self.primary.flush;
            }
            self.primary.woken = true;
        }
        if self.stop_at.is_some_and(|at| at <= self.now) && self.inserts.is_empty() {
            self.stop_at = None;
            self.primary.session.handle(self.now, SenderInput::Stop);
            self.primary.woken = true;
        }
    }

    fn primary_turn(&mut self) {
        let now = self.now;
        let message_is_there = self.up.next_arrival().is_some_and(|at| at <= now);
        let due = self.primary.session.next_wakeup(now).is_some_and(|at| at <= now);
        let drained = self.primary.full_until.is_some_and(|at| at <= now);
        if self.primary.ended.is_some() || !(self.primary.woken || message_is_there || due || drained) {
            return;
        }
        self.primary.woken = false;
        self.primary.wakeups += 1;
        if drained {
            self.primary.full_until = None;
            self.primary.session.handle(now, SenderInput::Outgoing { pending: false });
        }
        self.primary.session.handle(now, SenderInput::Turn);
        while let Some(message) = self.up.receive(now) {
            let Message::Reply { write, flush, apply, reply_requested } = message else {
                panic!("a standby sends only replies: {message:?}")
            };
            let time = Timestamp(0);
            self.primary
                .session
                .handle(now, SenderInput::Status { write, flush, apply, time, reply_requested });
        }
        if self.quorum {
            let confirmed = self.primary.session.reported().flush.min(self.primary.flush);
            self.primary.horizon = self.primary.horizon.max(confirmed);
        }
        let (flush, horizon) = (self.primary.flush, self.primary.horizon);
        self.primary.session.handle(now, SenderInput::Log { flush, horizon, promise: Lsn::INVALID });
        while let Some(output) = self.primary.session.poll(now) {
            self.obey_sender(output);
        }
    }

    fn obey_sender(&mut self, output: SenderOutput) {
        let message = match output {
            SenderOutput::Wal { start, end, wal_end } => {
                assert!(end <= self.primary.flush, "{end} is sent, {} is flushed", self.primary.flush);
                assert!(start < end && end - start <= 131_072);
                let bytes = (start.0..end.0).map(|at| byte_at(Lsn(at))).collect();
                Message::Wal { start, bytes, wal_end }
            }
            SenderOutput::Keepalive { wal_end, reply_requested } => {
                Message::Keepalive { wal_end, reply_requested }
            }
            SenderOutput::Drained => {
                self.primary.ended = Some(output);
                Message::CopyEnd
            }
            SenderOutput::TimedOut => {
                self.primary.ended = Some(output);
                return;
            }
            other => panic!("not in this world: {other:?}"),
        };
        let arrives = self.now.saturating_add(self.random.micros(self.delay_max));
        self.down.send(arrives, message);
        if self.busy_socket && self.random.below(4) == 0 {
            self.primary.full_until = Some(self.now.saturating_add(self.random.micros(5_000)));
        }
        let pending = self.primary.full_until.is_some();
        self.primary.session.handle(self.now, SenderInput::Outgoing { pending });
    }

    fn standby_turn(&mut self) {
        let now = self.now;
        let message_is_there = self.down.next_arrival().is_some_and(|at| at <= now);
        let due = self.standby.stream.next_wakeup(now).is_some_and(|at| at <= now);
        let first = self.standby.wakeups == 0;
        if self.standby.ended.is_some() || !(message_is_there || due || first) {
            return;
        }
        self.standby.wakeups += 1;
        while !self.standby.stream.must_flush() {
            let Some(message) = self.down.receive(now) else { break };
            self.standby_message(message);
        }
        self.standby_outputs();
    }

    fn standby_message(&mut self, message: Message) {
        let stream = &mut self.standby.stream;
        match message {
            Message::Wal { start, bytes, wal_end } => {
                stream.wal(self.now, start, bytes.len(), wal_end).unwrap();
                self.standby.file.extend_from_slice(&bytes);
            }
            Message::Keepalive { wal_end, reply_requested } => {
                stream.handle(self.now, ReceiverInput::Keepalive { wal_end, reply_requested });
            }
            Message::CopyEnd => stream.handle(self.now, ReceiverInput::CopyDone),
            Message::Reply { .. } => panic!("a primary sends no replies"),
        }
    }

    fn standby_outputs(&mut self) {
        let mut durable = self.standby.stream.flushed();
        self.standby.stream.handle(self.now, ReceiverInput::Drained);
        while let Some(output) = self.standby.stream.poll(self.now) {
            match output {
                ReceiverOutput::Fsync => {
                    // The world stands still meanwhile, but for the clock: what comes in waits in the socket.
                    self.now = self.now.saturating_add(self.random.micros(3_000));
                    durable = Lsn(START.0 + self.standby.file.len() as u64);
                    self.standby.stream.handle(self.now, ReceiverInput::Flushed);
                }
                ReceiverOutput::Publish { flush, horizon } => {
                    assert!(flush >= self.standby.published_flush && flush <= durable);
                    assert!(horizon >= self.standby.published_horizon);
                    self.standby.published_flush = flush;
                    self.standby.published_horizon = horizon;
                    let commits = self.now.saturating_add(self.random.micros(2_000));
                    self.standby.applies_at.get_or_insert(commits);
                }
                ReceiverOutput::Reply { write, flush, apply, reply_requested } => {
                    assert!(flush <= durable && flush <= write);
                    let arrives = self.now.saturating_add(self.random.micros(self.delay_max));
                    self.up.send(arrives, Message::Reply { write, flush, apply, reply_requested });
                }
                ReceiverOutput::EndOfTimeline | ReceiverOutput::TimedOut => self.standby.ended = Some(output),
            }
        }
    }

    fn apply_due(&mut self) {
        if self.standby.applies_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.standby.applies_at = None;
        self.standby.applied = self.standby.published_flush.min(self.standby.published_horizon);
        self.standby.stream.handle(self.now, ReceiverInput::Applied(self.standby.applied));
        self.standby.stream.handle(self.now, ReceiverInput::ForceReply { at_once: false });
        if self.standby.ended.is_none() {
            self.standby_outputs();
        }
    }

    fn check(&self) {
        let standby = &self.standby;
        let written = Lsn(START.0 + standby.file.len() as u64);
        let reported = self.primary.session.reported();
        assert!(self.primary.session.sent() <= self.primary.flush);
        assert!(written <= self.primary.session.sent());
        assert!(standby.published_flush <= written);
        assert!(standby.published_horizon <= self.primary.horizon);
        assert!(standby.applied <= standby.published_flush.min(standby.published_horizon));
        assert!(reported.flush <= standby.stream.flushed(), "more is reported than is durable");
        if self.quorum {
            assert!(self.primary.horizon <= standby.stream.flushed().max(START));
        }
    }

    fn after(&self, duration: Duration) -> MonoTime {
        self.now.saturating_add(duration)
    }
}

fn each_seed(test: impl Fn(u64)) {
    let seeds = match std::env::var("WALSHIP_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("WALSHIP_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..60,
    };
    for seed in seeds {
        println!("seed {seed}: run again with WALSHIP_SEED={seed}");
        test(seed);
    }
}

#[test]
fn under_load_every_byte_arrives_once_and_the_drain_ends() {
    each_seed(|seed| {
        let mut world = World::new(seed, seed % 2 == 0);
        world.load(400);
        world.stop_at = Some(world.after(Duration::from_secs(1)));
        world.run_until(world.after(Duration::from_secs(600)));
        let written = &world.standby.file;
        assert_eq!(START + written.len() as u64, world.primary.flush);
        let expected = (START.0..).map(|at| byte_at(Lsn(at)));
        assert!(written.iter().copied().eq(expected.take(written.len())), "the bytes differ");
        assert_eq!(world.primary.session.state(), WalSndState::Stopping);
        assert_eq!(world.primary.ended, Some(SenderOutput::Drained));
        assert_eq!(world.standby.ended, Some(ReceiverOutput::EndOfTimeline));
        assert_eq!(world.standby.applied, world.primary.flush, "the last horizon came over");
    });
}

#[test]
fn idle_machines_wake_only_when_a_deadline_falls_due() {
    each_seed(|seed| {
        let mut world = World::new(seed, seed % 2 == 0);
        world.load(20);
        world.run_until(world.after(Duration::from_secs(20)));
        assert_eq!(world.standby.applied, world.primary.flush);
        world.busy_socket = false;
        let (sender_before, receiver_before) = (world.primary.wakeups, world.standby.wakeups);
        world.run_until(world.after(Duration::from_secs(600)));
        // One status each ten seconds keeps the walsender from ever asking, but the walreceiver hears nothing and asks
        // every 30 seconds; the answer is one more wake-up.
        let sender = world.primary.wakeups - sender_before;
        let receiver = world.standby.wakeups - receiver_before;
        assert!(sender <= 61 + 20, "walsender woke {sender} times in 600 s");
        assert!(receiver <= 61 + 2 * 20, "walreceiver woke {receiver} times in 600 s");
        assert_eq!((world.primary.ended, world.standby.ended), (None, None));
    });
}

#[test]
fn a_network_that_swallows_everything_times_out_both_sides() {
    each_seed(|seed| {
        let mut world = World::new(seed, seed % 2 == 0);
        world.load(50);
        let moment = world.random.micros(500_000);
        let cut = world.after(moment);
        world.run_until(cut);
        world.down.cut = true;
        world.up.cut = true;
        world.run_until(world.after(TIMEOUT.saturating_sub(Duration::from_secs(1))));
        assert_eq!((world.primary.ended, world.standby.ended), (None, None));
        world.run_until(world.after(Duration::from_secs(3)));
        assert_eq!(world.primary.ended, Some(SenderOutput::TimedOut));
        assert_eq!(world.standby.ended, Some(ReceiverOutput::TimedOut));
    });
}
