//! The walreceiver process: one connection to the upstream, one stream, then it ends.
//!
//! Started by the postmaster when the startup process asks for it (START_WALRECEIVER), which says where to begin. It
//! connects, checks that the upstream is of the same database, and streams: writes what comes, makes it durable, only
//! then reports it, and tells the startup process after each step.
//!
//! Sleeps on the upstream's socket, its latch, the postmaster's death and the one deadline that `stream` computes. Its latch
//! is set by the startup process when the tables have come further (`force_reply`).
//!
//! Ends with status 1 whatever happens: the upstream is gone, silent, of another database, or at the end of the
//! timeline; SIGTERM. It says why in the log, but a reason that repeats is said once: the startup process tries again
//! for ever, with its own bounded back-off. What was written by then is made durable before it ends. A log file that
//! can't be written or synced is a PANIC, but for a full disk.
//!
//! Must never be added: a report of bytes that are not durable as flushed; a decision about retries.
//!
//! Follows PostgreSQL 17 src/backend/replication/walreceiver.c; differs in: following a new timeline takes a new process.

use std::fmt;
use std::sync::atomic::Ordering;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::SocketEvents;
use sender::archive_status;
use sender::backend_status::cut;
use sender::client::{ClientError, ServerConnection, SessionKind, StreamStart, Streamed};
use sender::log::{fatal, panic_severity};
use sender::node::{Node, take_flag};
use sender::walreceiver_state::WalRcvState;
use sys::clock;
use wal::lsn::Lsn;
use wal::store::{SegmentStore, StoreError};
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wire::conninfo::Conninfo;
use wire::error::ErrorResponse;
use wire::replication::payload::{SenderMessage, StandbyMessage, StatusUpdate};

use super::stream::{Input, NotContiguous, Output, Start, Stream, Timing};
use super::upstream::{identify_system, start_command};

/// As many bytes of the reason as shared memory keeps.
const REASON_BYTES: usize = 512;

/// Why the process ends.
#[derive(Debug)]
enum End {
    /// SIGTERM.
    Terminated,
    /// The upstream said that this is all; said in the log already.
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
    fn of_connection(what: &str) -> impl FnOnce(ClientError) -> End + '_ {
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
    shared.pid.store(sys::process::current_pid().0, Ordering::Release);
    let end = match run(node, me) {
        Err(end) => end,
        Ok(never) => match never {},
    };
    say_why(node, &end);
    shared.pid.store(0, Ordering::Release);
    shared.set_state(WalRcvState::Stopped);
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

    let start = Lsn(shared.start.load(Ordering::Acquire));
    let timeline = TimelineId(shared.start_timeline.load(Ordering::Acquire));
    let results = upstream.query("IDENTIFY_SYSTEM").map_err(End::of_connection(
        "could not receive database system identifier and timeline ID from the primary server",
    ))?;
    let system = identify_system(&results).map_err(|error| End::Failed(error.0))?;
    system.check(node.system_identifier, timeline).map_err(|error| End::Failed(error.0))?;
    let streaming = upstream
        .start_streaming(&start_command(start, timeline))
        .map_err(End::of_connection("could not start WAL streaming"))?;
    if streaming != StreamStart::Streaming {
        tracing::info!("primary server contains no more WAL on requested timeline {timeline}");
        return Err(End::LogEnded);
    }
    tracing::info!("started streaming WAL from primary at {start} on timeline {timeline}");
    WalReceiver::new(node, me, upstream, timeline, start).run()
}

struct WalReceiver {
    node: &'static Node,
    me: Me,
    upstream: ServerConnection,
    store: SegmentStore,
    timeline: TimelineId,
    stream: Stream,
    /// Everything before this is durable, of what this process wrote.
    synced: Lsn,
    /// Segments before this have their archive status.
    noted: Lsn,
    /// Messages may be there that no wait will report: reading was stopped for an fsync.
    more: bool,
}

impl WalReceiver {
    fn new(
        node: &'static Node,
        me: Me,
        upstream: ServerConnection,
        timeline: TimelineId,
        start: Lsn,
    ) -> WalReceiver {
        let begin = Start {
            lsn: start,
            flushed: node.wal.flush_lsn(),
            applied: node.recovery.applied(),
            horizon: node.wal.horizon(),
        };
        let stream = Stream::new(clock::now(), begin, timing(node));
        let store = node.segment_store();
        let noted = start.min(node.wal.horizon());
        WalReceiver { node, me, upstream, store, timeline, stream, synced: start, noted, more: true }
    }

    fn run(mut self) -> Result<Never, End> {
        let shared = self.node.walreceiver;
        // From here on a failure is a new one.
        shared.last_error.set("");
        shared.streamed.store(1, Ordering::Release);
        shared.set_state(WalRcvState::Streaming);
        let result = self.receive_for_ever();
        // What came in is worth keeping, whatever ended the stream; but to call durable what could not be written
        // would lose it.
        if self.stream.write() > self.synced && !matches!(result, Err(End::Unwritten(_))) {
            self.sync();
            self.publish(self.stream.flushed(), self.stream.horizon());
        }
        if matches!(result, Err(End::Terminated)) {
            self.upstream.close();
        }
        result
    }

    /// The loop; see the header of [`super::stream`].
    fn receive_for_ever(&mut self) -> Result<Never, End> {
        loop {
            self.me.latch().reset();
            self.take_interrupts()?;
            self.stream.handle(clock::now(), Input::Timing(timing(self.node)));
            self.hear_startup();
            self.receive()?;
            while let Some(output) = self.stream.poll(clock::now()) {
                self.obey(output)?;
                self.upstream.flush_if_writable().map_err(End::of_connection(STREAM_FAILED))?;
            }
            self.sleep()?;
        }
    }

    fn take_interrupts(&self) -> Result<(), End> {
        if self.me.pending().is_empty() {
            return Ok(());
        }
        self.node.attend(&self.me);
        let taken = self.me.take(self.me.pending().without(Interrupts::BARRIER));
        if taken.contains(Interrupts::TERMINATE) { Err(End::Terminated) } else { Ok(()) }
    }

    /// What the startup process has applied, and whether the upstream is to hear of it now.
    fn hear_startup(&mut self) {
        let now = clock::now();
        // The flag first: what it stands for was applied before it was raised.
        let force = take_flag(&self.node.walreceiver.force_reply);
        self.stream.handle(now, Input::Applied(self.node.recovery.replayed()));
        if force {
            self.stream.handle(now, Input::ForceReply);
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
            let now = clock::now();
            let Streamed::Data(payload) = received else {
                self.stream.handle(now, Input::CopyDone);
                break;
            };
            match SenderMessage::decode(payload).map_err(End::of_report)? {
                SenderMessage::Wal { start, wal_end, send_time, wal } => {
                    self.stream.wal(now, start, wal.len(), wal_end).map_err(End::of_gap)?;
                    write(&mut self.store, self.timeline, start, wal)?;
                    self.node.walreceiver.written.fetch_max(self.stream.write().0, Ordering::Release);
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

    fn obey(&mut self, output: Output) -> Result<(), End> {
        match output {
            Output::Fsync => self.sync(),
            Output::Publish { flush, horizon } => self.publish(flush, horizon),
            Output::Reply { write, flush, apply, reply_requested } => {
                let time = Timestamp::from_unix_micros(clock::unix_micros());
                let update = StatusUpdate { write, flush, apply, time, reply_requested };
                StandbyMessage::StatusUpdate(update).encode(self.upstream.output());
            }
            Output::TimedOut => return Err(End::Failed("terminating walreceiver due to timeout".into())),
            Output::EndOfTimeline => {
                tracing::info!(
                    "replication terminated by primary server\nDETAIL:  End of WAL reached on timeline {} at {}.",
                    self.timeline,
                    self.stream.write()
                );
                return Err(End::LogEnded);
            }
        }
        Ok(())
    }

    /// Makes durable what was written. One segment as a rule; more when a batch crossed into the next.
    fn sync(&mut self) {
        let _published = self.me.publish_wait(WaitEvent::WalSync);
        let size = self.node.segment_size;
        let upto = self.stream.write();
        let mut segment = size.number_of(self.synced);
        while segment <= size.number_before(upto) {
            if let Err(error) = self.store.sync(self.timeline, segment) {
                panic_severity(&error.to_string());
            }
            segment = segment.next();
        }
        self.synced = upto;
        self.stream.handle(clock::now(), Input::Flushed);
    }

    /// Tells the node how far its log is durable and decided.
    fn publish(&mut self, flush: Lsn, horizon: Lsn) {
        let wal = self.node.wal;
        wal.flushed.fetch_max(flush.0, Ordering::AcqRel);
        wal.advance_horizon(horizon);
        let decided = flush.min(horizon);
        if decided > self.noted {
            archive_status::note_complete(self.node, self.noted, decided);
            self.noted = decided;
        }
        self.node.wake_startup();
        self.node.wake_walsenders();
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
    store.write_at(timeline, at, bytes).map_err(|error: StoreError| {
        if !error.is_full_disk() {
            panic_severity(&error.to_string());
        }
        End::Unwritten(error.to_string())
    })
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
