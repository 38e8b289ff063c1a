//! The walreceiver process: one connection to the upstream, one stream after the other, each of a timeline.
//!
//! Started by the postmaster when the startup process asks for it (START_WALRECEIVER), which says where to begin. It
//! connects, checks that the upstream is of the same database and history, and streams: writes what comes, makes it durable,
//! only then reports it, and tells the startup process after each step. At the end of a timeline it waits to be told where the
//! log goes on, and streams from there, over the same connection.
//!
//! Sleeps on the upstream's socket, its latch, the postmaster's death and the one deadline that `stream` computes. Its latch
//! is set by the startup process when the tables have come further (`force_reply`), and when it is told where to go on.
//!
//! Ends with status 1 whatever happens: the upstream is gone, silent, of another database; the startup process has
//! revoked its request; SIGTERM. It says why in the log, but a reason that repeats is said once: the startup process tries
//! again for ever, with its own bounded back-off. What was written by then is made durable before it ends. A log file that
//! can't be written or synced is a PANIC, but for a full disk.
//!
//! A request that is revoked ([`sender::walreceiver_state`]) takes effect at each step from one state to another; so nothing
//! of the log, and no history, is written by a walreceiver that isn't wanted any more.
//!
//! Must never be added: a report of bytes that are not durable as flushed; a decision about retries.
//!
//! Follows PostgreSQL 17 src/backend/replication/walreceiver.c.

use std::fmt;
use std::sync::atomic::Ordering;

use failpoint::Site;
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::SocketEvents;
use sender::archive_status;
use sender::backend_status::cut;
use sender::client::{ClientError, ServerConnection, SessionKind, StreamStart, Streamed};
use sender::log::{fatal, panic_severity};
use sender::node::Node;
use sender::replication_slots::check_name;
use sender::wait::wait_latch;
use sender::walreceiver_state::{FORCE_AT_ONCE, WalRcvState};
use settings::Settings;
use sys::clock;
use wal::lsn::Lsn;
use wal::store::{SegmentStore, StoreError};
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wire::conninfo::Conninfo;
use wire::error::ErrorResponse;
use wire::replication::payload::{SenderMessage, StandbyMessage, StatusUpdate};

use super::histories;
use super::stream::{Input, NotContiguous, Output, Start, Stream, Timing};
use super::upstream::{UpstreamSystem, identify_system, next_timeline, start_command};

/// As many bytes of the reason as shared memory keeps.
const REASON_BYTES: usize = 512;

/// Why the process ends.
#[derive(Debug)]
pub(super) enum End {
    /// SIGTERM, or the request was revoked.
    Terminated,
    /// The upstream shuts down; said in the log already.
    LogEnded,
    /// The disk is full: what the stream counts as written is not. The text of the FATAL.
    Unwritten(String),
    /// Anything else: the text of the FATAL.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Terminated => "terminating walreceiver process due to administrator command",
            End::LogEnded => "replication terminated by primary server",
            End::Unwritten(text) | End::Failed(text) => text,
        })
    }
}

impl std::error::Error for End {}

impl End {
    /// A failure of the connection, introduced by what was being done.
    pub(super) fn of_connection(what: &str) -> impl FnOnce(ClientError) -> End + '_ {
        move |error| match error {
            ClientError::Interrupted => End::Terminated,
            error => End::Failed(format!("{what}: {error}")),
        }
    }

    /// A message that is none.
    fn of_report(report: ErrorResponse) -> End {
        End::Failed(report.message)
    }

    fn of_gap(gap: NotContiguous) -> End {
        End::Failed(gap.to_string())
    }
}

const STREAM_FAILED: &str = "could not receive data from WAL stream";

/// Main function of the walreceiver; returns its exit status.
pub fn walreceiver_main(node: &'static Node, me: Me) -> i32 {
    let shared = node.walreceiver;
    if !shared.step(WalRcvState::Starting, WalRcvState::Connecting) {
        return 1;
    }
    shared.pid.store(sys::process::current_pid().0, Ordering::Release);
    let end = match run(node, me) {
        Err(end) => end,
        Ok(never) => match never {},
    };
    say_why(node, &end);
    shared.pid.store(0, Ordering::Release);
    shared.stopped();
    node.wake_startup();
    1
}

/// Says in the log why this process ends, unless the last one ended for the same reason.
fn say_why(node: &Node, end: &End) {
    let text = end.to_string();
    let reason = cut(&text, REASON_BYTES);
    match end {
        End::LogEnded => {}
        End::Terminated => fatal(reason),
        _ if node.walreceiver.last_error.get() == reason => tracing::debug!("{text}"),
        End::Unwritten(_) | End::Failed(_) => fatal(&text),
    }
    node.walreceiver.last_error.set(reason);
}

/// There is no value of it: the walreceiver never ends well.
enum Never {}

fn run(node: &'static Node, me: Me) -> Result<Never, End> {
    let shared = node.walreceiver;
    let settings = node.settings();
    let conninfo = Conninfo::parse(&settings.primary_conninfo)
        .map_err(|error| End::Failed(format!("invalid connection string syntax: {error}")))?;
    let name = match settings.cluster_name.as_str() {
        "" => "walreceiver",
        name => name,
    };
    // A server that is stopped or cut off must not hold this process for longer than one that falls silent later.
    let patience = settings.wal_receiver_timeout;
    let kind = SessionKind::PhysicalReplication;
    let mut upstream = ServerConnection::connect_within(Some(me), &conninfo, kind, name, patience)
        .map_err(End::of_connection("could not connect to the primary server"))?;
    shared.sender_host.set(&upstream.target().host);
    shared.sender_port.store(i32::from(upstream.target().port), Ordering::Relaxed);
    shared.conninfo.set(&conninfo.redacted());

    let slot = use_slot(node, &mut upstream, &settings)?;

    let mut started = "started streaming WAL from primary";
    loop {
        let start = Lsn(shared.start.load(Ordering::Acquire));
        let timeline = TimelineId(shared.start_timeline.load(Ordering::Acquire));
        let system = reach(node, me, &mut upstream, start, timeline)?;
        let theirs = histories::fetch(node, &mut upstream, system.timeline)?;
        // A tail that the upstream has not: where to go on instead is for the startup process to say.
        let left = theirs.switch_point(timeline).is_some_and(|switch_point| switch_point < start);
        match if left {
            Ok(StreamStart::Ended(Vec::new()))
        } else {
            upstream.start_streaming(&start_command(&slot, start, timeline))
        } {
            Ok(StreamStart::Streaming) => {
                tracing::info!("{started} at {start} on timeline {timeline}");
                stream(node, me, &mut upstream, timeline, start)?;
            }
            Ok(StreamStart::Ended(_)) => {
                tracing::info!("primary server contains no more WAL on requested timeline {timeline}");
            }
            Err(error) => return Err(End::of_connection("could not start WAL streaming")(error)),
        }
        await_restart(node, me)?;
        started = "restarted WAL streaming";
    }
}

/// The slot to stream by; empty: none. A temporary one is made here, and goes with the connection.
fn use_slot(node: &Node, upstream: &mut ServerConnection, settings: &Settings) -> Result<String, End> {
    let mut slot = settings.primary_slot_name.clone();
    if !slot.is_empty() {
        // What is no name is no identifier of the command either.
        check_name(&slot).map_err(|report| {
            End::Failed(format!("invalid value for parameter \"primary_slot_name\": {}", report.message))
        })?;
    } else if settings.wal_receiver_create_temp_slot {
        slot = format!("pg_walreceiver_{}", upstream.backend_pid());
        let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY PHYSICAL RESERVE_WAL");
        let what = format!("could not create replication slot \"{slot}\"");
        upstream.query(&command).map_err(End::of_connection(&what))?;
    }
    node.walreceiver.slot_name.set(&slot);
    Ok(slot)
}

/// Asks who the upstream is, until its log has come to where this node's goes on: one that was restarted itself may be
/// a little behind what it had sent.
fn reach(
    node: &Node,
    me: Me,
    upstream: &mut ServerConnection,
    start: Lsn,
    timeline: TimelineId,
) -> Result<UpstreamSystem, End> {
    let mut said = false;
    loop {
        let results = upstream.query("IDENTIFY_SYSTEM").map_err(End::of_connection(
            "could not receive database system identifier and timeline ID from the primary server",
        ))?;
        let system = identify_system(&results).map_err(|error| End::Failed(error.0))?;
        system
            .check(node.system_identifier, timeline.max(node.wal.timeline()))
            .map_err(|error| End::Failed(error.0))?;
        let missing = start.saturating_since(system.flush);
        if system.timeline != timeline || missing == 0 || missing > node.segment_size.bytes() {
            return Ok(system);
        }
        if !said {
            said = true;
            tracing::info!("waiting for the primary, whose log ends at {}, to reach {start}", system.flush);
        }
        let until = clock::now().saturating_add(node.settings().wal_retrieve_retry_interval);
        while clock::now() < until {
            me.latch().reset();
            take_interrupts(node, me)?;
            let left = until.saturating_since(clock::now());
            wait_latch(&me, Some(left), WaitEvent::WalReceiverUpstreamCatchup);
        }
    }
}

/// One stream, to the end of its timeline.
fn stream(
    node: &'static Node,
    me: Me,
    upstream: &mut ServerConnection,
    timeline: TimelineId,
    start: Lsn,
) -> Result<(), End> {
    let shared = node.walreceiver;
    if !shared.step(WalRcvState::Connecting, WalRcvState::Streaming) {
        return Err(End::Terminated);
    }
    shared.upstream_is_shut_down.store(0, Ordering::Release);
    let end = WalReceiver::new(node, me, upstream, timeline, start).run()?;
    tracing::info!(
        "replication terminated by primary server\nDETAIL:  End of WAL reached on timeline {timeline} at {end}."
    );
    let results =
        upstream.end_streaming().map_err(End::of_connection("error while shutting down streaming COPY"))?;
    let next = next_timeline(&results).map_err(|error| End::Failed(error.0))?;
    histories::fetch(node, upstream, next).map(|_| ())
}

/// Waits until the startup process has told where the log goes on.
fn await_restart(node: &Node, me: Me) -> Result<(), End> {
    let shared = node.walreceiver;
    let was = shared.state();
    if was == WalRcvState::Stopped || !shared.step(was, WalRcvState::Waiting) {
        return Err(End::Terminated);
    }
    node.wake_startup();
    loop {
        me.latch().reset();
        take_interrupts(node, me)?;
        if shared.step(WalRcvState::Restarting, WalRcvState::Connecting) {
            return Ok(());
        }
        wait_latch(&me, None, WaitEvent::WalReceiverWaitStart);
    }
}

fn take_interrupts(node: &Node, me: Me) -> Result<(), End> {
    if me.pending().is_empty() {
        return Ok(());
    }
    node.attend(&me);
    let taken = me.take(me.pending().without(Interrupts::BARRIER));
    if taken.contains(Interrupts::TERMINATE) { Err(End::Terminated) } else { Ok(()) }
}

struct WalReceiver<'a> {
    node: &'static Node,
    me: Me,
    upstream: &'a mut ServerConnection,
    store: SegmentStore,
    timeline: TimelineId,
    stream: Stream,
    /// Everything before this is durable, of what this process wrote.
    synced: Lsn,
    /// Segments before this have their archive status.
    noted: Lsn,
    /// More is durable or decided than the startup process and the walsenders were woken for.
    has_published: bool,
    /// Commits of the primary wait for what is applied here (as of the last report), so the reply had better tell of that, too.
    applies_at_once: bool,
    /// The upstream has ended the stream because it shuts down.
    shuts_down: bool,
    /// Anything has come.
    has_received: bool,
    /// Messages may be there that no wait will report: reading was stopped for an fsync.
    more: bool,
}

impl<'a> WalReceiver<'a> {
    fn new(
        node: &'static Node,
        me: Me,
        upstream: &'a mut ServerConnection,
        timeline: TimelineId,
        start: Lsn,
    ) -> WalReceiver<'a> {
        let begin = Start {
            lsn: start,
            flushed: node.wal.flush_lsn(),
            applied: node.recovery.applied(),
            horizon: node.wal.horizon(),
        };
        let stream = Stream::new(clock::now(), begin, timing(node));
        let store = node.segment_store();
        let noted = start.min(node.wal.horizon());
        let synced = start;
        WalReceiver {
            node,
            me,
            upstream,
            store,
            timeline,
            stream,
            synced,
            noted,
            has_published: false,
            applies_at_once: false,
            shuts_down: false,
            has_received: false,
            more: true,
        }
    }

    /// Receives until the timeline ends; where that is.
    fn run(mut self) -> Result<Lsn, End> {
        let result = self.receive_to_the_end();
        // What came in is worth keeping, whatever ended the stream; but to call durable what could not be written
        // would lose it.
        if self.stream.write() > self.synced && !matches!(result, Err(End::Unwritten(_))) {
            self.sync();
            self.publish(self.stream.flushed(), self.stream.horizon());
        }
        self.wake();
        if matches!(result, Err(End::Terminated)) {
            self.upstream.say_goodbye();
        }
        result.map(|()| self.stream.write())
    }

    /// The loop; see the header of [`super::stream`].
    fn receive_to_the_end(&mut self) -> Result<(), End> {
        loop {
            self.me.latch().reset();
            take_interrupts(self.node, self.me)?;
            self.stream.handle(clock::now(), Input::Timing(timing(self.node)));
            self.hear_startup();
            self.receive()?;
            while let Some(output) = self.stream.poll(clock::now()) {
                if !self.obey(output)? {
                    return self.ended();
                }
                self.upstream.flush_if_writable().map_err(End::of_connection(STREAM_FAILED))?;
            }
            self.wake();
            self.sleep()?;
        }
    }

    /// All of the stream is durable and reported.
    fn ended(&self) -> Result<(), End> {
        if !self.shuts_down {
            return Ok(());
        }
        tracing::info!(
            "replication terminated by primary server\nDETAIL:  End of WAL reached on timeline {} at {}.",
            self.timeline,
            self.stream.write()
        );
        self.node.walreceiver.upstream_is_shut_down.store(1, Ordering::Release);
        Err(End::LogEnded)
    }

    /// What the startup process has applied, and whether the upstream is to hear of it now.
    fn hear_startup(&mut self) {
        let now = clock::now();
        // The flag first: what it stands for was applied before it was raised.
        let force = self.node.walreceiver.force_reply.swap(0, Ordering::AcqRel);
        // What who begins to read here waits for.
        let applied = self.node.recovery.acknowledged();
        self.stream.handle(now, Input::Applied(applied));
        if force != 0 {
            self.applies_at_once = force == FORCE_AT_ONCE;
            self.stream.handle(now, Input::ForceReply { at_once: self.applies_at_once });
        }
    }

    /// Takes every message that is there, and writes the log that they bring.
    fn receive(&mut self) -> Result<(), End> {
        while !self.stream.must_flush() {
            let received = self.upstream.receive().map_err(End::of_connection(STREAM_FAILED))?;
            let Some(received) = received else {
                self.more = false;
                break;
            };
            note_progress(self.node, &mut self.has_received);
            let now = clock::now();
            let Streamed::Data(payload) = received else {
                self.shuts_down = received == Streamed::EndOfCommand;
                self.stream.handle(now, Input::CopyDone);
                break;
            };
            match SenderMessage::decode(payload).map_err(End::of_report)? {
                SenderMessage::Wal { start, wal_end, send_time, wal } => {
                    self.stream.wal(now, start, wal.len(), wal_end).map_err(End::of_gap)?;
                    write(&mut self.store, self.timeline, start, wal)?;
                    let written = self.stream.write();
                    self.node.walreceiver.written.fetch_max(written.0, Ordering::Release);
                    self.node.log_waits.written(self.node.procs, written);
                    note_message(self.node, wal_end, send_time);
                }
                SenderMessage::Keepalive { wal_end, send_time, reply_requested } => {
                    self.stream.handle(now, Input::Keepalive { wal_end, reply_requested });
                    note_message(self.node, wal_end, send_time);
                }
            }
        }
        self.stream.handle(clock::now(), Input::Drained);
        Ok(())
    }

    /// False: the stream has ended.
    fn obey(&mut self, output: Output) -> Result<bool, End> {
        match output {
            Output::Fsync => self.sync(),
            Output::Publish { flush, horizon } => self.publish(flush, horizon),
            Output::Reply { write, flush, apply, reply_requested } => {
                let time = Timestamp::from_unix_micros(clock::unix_micros());
                let update = StatusUpdate { write, flush, apply, time, reply_requested };
                failpoint::step(Site::WalReceiverReport, || {
                    StandbyMessage::StatusUpdate(update).encode(self.upstream.output());
                });
            }
            Output::TimedOut => return Err(End::Failed("terminating walreceiver due to timeout".into())),
            Output::EndOfTimeline => return Ok(false),
        }
        Ok(true)
    }

    /// Makes durable what was written. One segment as a rule; more when a batch crossed into the next.
    fn sync(&mut self) {
        let _published = self.me.publish_wait(WaitEvent::WalSync);
        let size = self.node.segment_size;
        let upto = self.stream.write();
        let mut segment = size.number_of(self.synced);
        while segment <= size.number_before(upto) {
            let began = clock::now();
            let synced = failpoint::step(Site::WalReceiverSync, || self.store.sync(self.timeline, segment));
            if let Err(error) = synced {
                panic_severity(&format!("{error}{}", error.hint()));
            }
            self.node.wal.count_sync(began);
            segment = segment.next();
        }
        self.synced = upto;
        self.stream.handle(clock::now(), Input::Flushed);
    }

    /// Tells the node how far its log is durable and decided.
    fn publish(&mut self, flush: Lsn, horizon: Lsn) {
        let wal = self.node.wal;
        failpoint::step(Site::WalReceiverPublish, || {
            wal.flushed.fetch_max(flush.0, Ordering::AcqRel);
            wal.advance_horizon(horizon);
        });
        let decided = flush.min(horizon);
        if decided > self.noted {
            archive_status::note_complete(self.node, self.timeline, self.noted, decided);
            self.noted = decided;
        }
        self.node.log_waits.flushed(self.node.procs, flush);
        self.has_published = true;
        if self.applies_at_once {
            self.wake();
            self.hear_startup();
        }
    }

    /// Wakes who goes on with what was published. After the reply, if no more than that is waited for: who is woken may take
    /// this processor.
    fn wake(&mut self) {
        if std::mem::take(&mut self.has_published) {
            self.node.wake_startup();
            self.node.wake_walsenders();
        }
    }

    fn sleep(&mut self) -> Result<(), End> {
        let mut events = SocketEvents::READABLE;
        if self.upstream.has_pending_output() {
            events |= SocketEvents::WRITEABLE;
        }
        let now = clock::now();
        // Also with more to read: signals are seen only in a wait.
        let next = if self.more { Some(now) } else { self.stream.next_wakeup(now) };
        let timeout = next.map(|at| at.saturating_since(now));
        self.more = true;
        self.upstream
            .wait(events, timeout, WaitEvent::WalReceiverMain)
            .map(|_| ())
            .map_err(End::of_connection(STREAM_FAILED))
    }
}

fn timing(node: &Node) -> Timing {
    let settings = node.settings();
    Timing { timeout: settings.wal_receiver_timeout, status_interval: settings.wal_receiver_status_interval }
}

/// Writes received bytes to their place.
fn write(store: &mut SegmentStore, timeline: TimelineId, at: Lsn, bytes: &[u8]) -> Result<(), End> {
    let written = failpoint::step(Site::WalReceiverWrite, || store.write_at(timeline, at, bytes));
    written.map_err(|error: StoreError| {
        if !error.is_full_disk() {
            panic_severity(&format!("{error}{}", error.hint()));
        }
        End::Unwritten(error.to_string())
    })
}

/// With the first message the stream has come further than those before it: a failure is a new one from here on. An upstream
/// that has removed what it is asked for takes the command, and says so when it should send.
fn note_progress(node: &Node, has_received: &mut bool) {
    if !std::mem::replace(has_received, true) {
        node.walreceiver.last_error.set("");
        node.walreceiver.streamed.store(1, Ordering::Release);
    }
}

/// What pg_stat_wal_receiver shows of the last message.
fn note_message(node: &Node, wal_end: Lsn, send_time: Timestamp) {
    let shared = node.walreceiver;
    shared.last_msg_send_time.store(send_time.0, Ordering::Relaxed);
    let now = Timestamp::from_unix_micros(clock::unix_micros());
    shared.last_msg_receipt_time.store(now.0, Ordering::Relaxed);
    if shared.latest_end.fetch_max(wal_end.0, Ordering::Relaxed) < wal_end.0 {
        shared.latest_end_time.store(send_time.0, Ordering::Relaxed);
    }
}
