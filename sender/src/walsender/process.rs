//! The walsender process: serves one replication connection.
//!
//! It begins as a client backend whose startup packet asked for replication. It takes replication commands one after
//! the other, and streams.
//!
//! Sleeps on its socket, its latch, the postmaster's death and, while it streams, the one deadline that `session`
//! computes. Woken by whoever flushed the log or moved the horizon ([`Node::wake_walsenders`]).
//!
//! Normal stop: the client leaves (exit 0); or the node does: the checkpointer says WALSND_INIT_STOPPING (without a stream
//! the process ends at once, with one it goes on until everything is sent), the postmaster says STOP when the
//! shutdown checkpoint is in the log, and the stream drains. SIGTERM ends it at any time (FATAL 57P01, exit 1); it
//! holds nothing durable, so no way to end it harms the node.
//!
//! Must never be added: a wait in which the stream's timers don't count, or a read of the log beyond the flush LSN.
//!
//! Follows PostgreSQL 15 src/backend/replication/walsender.c.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::roles::Rights;
use failpoint::Site;
use ipc::interrupt::Interrupts;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, SocketEvents};
use settings::session::SessionSettings;
use sys::clock::{self, MonoTime};
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::segment::history_file_name;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wire::backend::{self, TransactionStatus};
use wire::error::{ErrorResponse, Severity};
use wire::frontend::{self, FrontendMessage};
use wire::replication::check_standby_frame;
use wire::replication::command::{
    self, Command, CommandOption, CreateReplicationSlot, ReplicationCommand, SlotKind, StartReplication,
};
use wire::replication::payload::{self, StandbyMessage, WalMessage};
use wire::sqlstate::{self, SqlState};
use wire::startup::StartupMessage;

use super::WalSndState;
use super::commands;
use super::log_source::LogSource;
use super::session::{Input, Output, Session};
use super::slot::WalSndSlot;
use super::start::{Plan, plan};
use crate::backend_status::BackendState;
use crate::base_backup::{self, BackupOptions};
use crate::connection::{Connection, Received};
use crate::node::Node;
use crate::replication_slots::{HeldSlot, Lifetime, Reserve, is_held_by_others};
use crate::session::{SettingsVersion, base_settings, greet, message_too_long, terminated};
use crate::sync_rep::standing::Standing;
use crate::wait::wait_latch;

/// What ends a walsender that has no stream to finish.
const ENDS_IDLE: Interrupts =
    Interrupts::TERMINATE.union(Interrupts::WALSND_INIT_STOPPING).union(Interrupts::STOP);

/// How long a stream rests after a message for each other one that there is: all together send no more than one message in
/// that time, while they keep up.
const REST_PER_STREAM: Duration = Duration::from_micros(50);
/// However many there are: what a standby may be behind by that.
const REST_MAX: Duration = Duration::from_millis(5);

/// What comes after a command.
enum Next {
    Command,
    Exit,
}

/// What the client said between two commands.
enum Request {
    Query(String),
    /// Nothing that needs an answer but ReadyForQuery.
    Nothing,
    /// The end of a series of messages of the extended protocol.
    Sync,
    Leave,
}

struct WalSender<'a> {
    node: &'static Node,
    me: Me,
    connection: &'a mut Connection,
    settings: SessionSettings,
    /// Which of the node's settings they lie over.
    settings_version: SettingsVersion,
    rights: Rights,
    slot: &'static WalSndSlot,
    /// What the stream keeps the log by.
    held: Option<HeldSlot>,
    /// A message of the extended protocol was refused: what follows is skipped up to the next Sync.
    skip_to_sync: bool,
}

/// Serves a replication connection from its startup packet on, until it ends. `Err`: it ended with a FATAL, which the client
/// was told if that was possible.
pub(crate) fn serve(
    node: &'static Node,
    me: Me,
    mut connection: Connection,
    startup: &StartupMessage,
    rights: Rights,
) -> Result<(), ()> {
    let Some(slot) = WalSndSlot::acquire(node.walsenders, me.number()) else {
        let message = format!(
            "number of requested standby connections exceeds max_wal_senders (currently {})",
            node.walsenders.len()
        );
        return farewell(&mut connection, &ErrorResponse::fatal(sqlstate::TOO_MANY_CONNECTIONS, message));
    };
    me.become_walsender();
    crate::quit_messages::announce(&connection);
    connection.set_read_deadline(None);
    let settings_version = SettingsVersion::now(node);
    let served = greet(node, me, &mut connection, startup, rights).and_then(|settings| {
        let connection = &mut connection;
        WalSender {
            node,
            me,
            connection,
            settings,
            settings_version,
            rights,
            slot,
            held: None,
            skip_to_sync: false,
        }
        .serve()
    });
    let result = served.or_else(|report| farewell(&mut connection, &report));
    node.replication_slots.drop_temporary(node, &me);
    slot.release();
    // At shutdown it waits until no walsender is left that has not begun to stop.
    node.procs.set_latch(ProcNumber::CHECKPOINTER);
    result
}

/// Logs why the connection ends, and tells the client if that is possible at once.
fn farewell(connection: &mut Connection, report: &ErrorResponse) -> Result<(), ()> {
    if report.severity == Severity::CommError {
        tracing::info!("{}", report.message);
        return Ok(());
    }
    crate::log::fatal(&report.message);
    backend::error_response(connection.output(), report);
    // A client that takes nothing must not keep this process.
    let _ = connection.flush_if_writable();
    Err(())
}

fn canceled() -> ErrorResponse {
    ErrorResponse::error(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

fn now_timestamp() -> Timestamp {
    Timestamp::from_unix_micros(clock::unix_micros())
}

impl WalSender<'_> {
    /// Takes commands until the connection ends. An error here ends it.
    fn serve(&mut self) -> Result<(), ErrorResponse> {
        loop {
            let status = &self.node.statuses[self.me.number().index()];
            status.set_state(BackendState::Idle, now_timestamp());
            self.heed_settings();
            if !self.skip_to_sync {
                self.report_settings();
                backend::ready_for_query(self.connection.output(), TransactionStatus::Idle);
            }
            self.flush_answer()?;
            let done = match self.next_request() {
                Ok(Request::Sync) => {
                    self.skip_to_sync = false;
                    continue;
                }
                Ok(Request::Query(_)) if self.skip_to_sync => continue,
                Ok(Request::Query(query)) => {
                    status.set_query(&query, now_timestamp());
                    self.execute(&query)
                }
                Ok(Request::Nothing) => continue,
                Ok(Request::Leave) => return Ok(()),
                Err(report) => Err(report),
            };
            match done {
                Ok(Next::Command) => {}
                Ok(Next::Exit) => return Ok(()),
                Err(report) if report.ends_connection() => return Err(report),
                Err(report) => {
                    self.node.replication_slots.drop_temporary(self.node, &self.me);
                    tracing::error!("{}", report.message);
                    backend::error_response(self.connection.output(), &report);
                }
            }
        }
    }

    /// Sends the answer to a command. A client that does not take it must not hold the node's end up.
    fn flush_answer(&mut self) -> Result<(), ErrorResponse> {
        if self.connection.flush_unless(ENDS_IDLE)? {
            return Ok(());
        }
        Err(terminated().with_severity(Severity::CommError))
    }

    fn next_request(&mut self) -> Result<Request, ErrorResponse> {
        let message = loop {
            match self.connection.read_message()? {
                Received::Message(message) => break message,
                Received::Interrupted => {}
                Received::TimedOut => unreachable!("no read deadline is set"),
                Received::Eof => {
                    let message = "unexpected EOF on standby connection";
                    return Err(ErrorResponse::comm_error(sqlstate::CONNECTION_FAILURE, message));
                }
            }
            self.take_idle_interrupts()?;
        };
        let refused = |message| Err(ErrorResponse::error(sqlstate::PROTOCOL_VIOLATION, message));
        match FrontendMessage::decode(message)? {
            FrontendMessage::Query(text) => Ok(Request::Query(text.to_owned())),
            FrontendMessage::Terminate => Ok(Request::Leave),
            FrontendMessage::Extended(_) | FrontendMessage::FunctionCall if self.skip_to_sync => {
                Ok(Request::Nothing)
            }
            FrontendMessage::Extended(_) => {
                self.skip_to_sync = true;
                refused("extended query protocol not supported in a replication connection")
            }
            FrontendMessage::FunctionCall => {
                refused("fastpath function calls not supported in a replication connection")
            }
            // Left over from a copy that an error ended on our side first.
            FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => {
                self.next_request()
            }
            FrontendMessage::TooLong { tag: b'd', .. } => self.next_request(),
            FrontendMessage::TooLong { bytes, .. } => Err(message_too_long(self.node, bytes)),
            FrontendMessage::Flush => Ok(Request::Nothing),
            FrontendMessage::Sync => Ok(Request::Sync),
        }
    }

    /// Between two commands everything that ends the node ends this process: nothing is lost by it.
    fn take_idle_interrupts(&mut self) -> Result<(), ErrorResponse> {
        let taken = self.take_interrupts();
        if taken.intersects(ENDS_IDLE) { Err(terminated()) } else { Ok(()) }
    }

    /// Takes the interrupts; the settings may be others afterwards.
    fn take_interrupts(&mut self) -> Interrupts {
        self.node.attend(&self.me);
        self.heed_settings();
        self.me.take(self.me.pending().without(Interrupts::BARRIER))
    }

    /// Takes over new settings of the node; whether there were any. A walsender has no statement in whose middle a
    /// setting must not change.
    fn heed_settings(&mut self) -> bool {
        let version = SettingsVersion::now(self.node);
        if version == self.settings_version {
            return false;
        }
        self.settings_version = version;
        self.settings.reload(&base_settings(self.node, self.me, self.rights));
        true
    }

    /// Between two commands: tells the client of what has changed.
    fn report_settings(&mut self) {
        for (name, value) in self.settings.take_reports() {
            backend::parameter_status(self.connection.output(), name, &value);
        }
    }

    fn execute(&mut self, query: &str) -> Result<Next, ErrorResponse> {
        self.heed_settings();
        if self.slot.state() == WalSndState::Stopping {
            return Err(ErrorResponse::error(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "cannot execute new commands while WAL sender is in stopping mode",
            ));
        }
        let Command::Replication(command) = command::parse(query)? else {
            return Err(ErrorResponse::error(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "cannot execute SQL commands in WAL sender for physical replication",
            ));
        };
        if self.settings.current().log_replication_commands {
            tracing::info!("received replication command: {query}");
        }
        let out = self.connection.output();
        match &command {
            ReplicationCommand::IdentifySystem => {
                let wal = self.node.wal;
                commands::identify_system(out, self.node.system_identifier, wal.timeline(), wal.flush_lsn())?;
            }
            ReplicationCommand::Show { name } => {
                let value = self.settings.show(name).map_err(|error| {
                    let code = SqlState::parse(error.sqlstate).unwrap_or(sqlstate::INTERNAL_ERROR);
                    ErrorResponse::error(code, error.message)
                })?;
                commands::show(out, name, &value)?;
            }
            ReplicationCommand::TimelineHistory { timeline } => {
                let content = self.history_file(*timeline)?;
                commands::timeline_history(self.connection.output(), *timeline, &content)?;
            }
            ReplicationCommand::StartReplication(request) => return self.start_replication(request),
            ReplicationCommand::BaseBackup { options } => self.base_backup(options)?,
            ReplicationCommand::ReadReplicationSlot { slot } => {
                let found = self.read_slot(slot)?;
                commands::read_slot(self.connection.output(), found)?;
            }
            ReplicationCommand::CreateReplicationSlot(CreateReplicationSlot {
                slot,
                temporary,
                kind: SlotKind::Physical { reserve_wal },
            }) => {
                let reserve = if *reserve_wal { Reserve::Now } else { Reserve::Later };
                let lifetime = if *temporary { Lifetime::Temporary } else { Lifetime::Persistent };
                drop(self.node.replication_slots.create(self.node, self.me, slot, reserve, lifetime)?);
                commands::create_slot(out, slot)?;
            }
            ReplicationCommand::DropReplicationSlot { slot, wait } => {
                self.acquire_slot(slot, *wait)?.drop_slot()?;
                backend::command_complete(self.connection.output(), command.name());
            }
            other => return Err(commands::not_supported(other)),
        }
        Ok(Next::Command)
    }

    fn base_backup(&mut self, options: &[CommandOption]) -> Result<(), ErrorResponse> {
        let options = BackupOptions::parse(options)?;
        self.slot.set_state(WalSndState::Backup);
        let sent = base_backup::send(self.node, self.me, self.connection, self.slot, &options);
        self.slot.set_state(WalSndState::Startup);
        sent
    }

    fn history_file(&self, timeline: TimelineId) -> Result<Vec<u8>, ErrorResponse> {
        let name = history_file_name(timeline);
        let _published = self.me.publish_wait(WaitEvent::WalSenderTimelineHistoryRead);
        fs::read(self.node.data.pg_wal().join(&name)).map_err(|error| {
            let (code, reason) = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    (sqlstate::UNDEFINED_FILE, "No such file or directory".into())
                }
                _ => (sqlstate::INTERNAL_ERROR, error.to_string()),
            };
            ErrorResponse::error(code, format!("could not open file \"pg_wal/{name}\": {reason}"))
        })
    }

    /// The history of this node's newest timeline.
    fn own_history(&self) -> Result<TimelineHistory, ErrorResponse> {
        let timeline = self.node.wal.timeline();
        let read = self.node.segment_store().read_history(timeline);
        let found =
            read.map_err(|error| ErrorResponse::error(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        Ok(found.unwrap_or_else(|| TimelineHistory::without_file(timeline)))
    }

    /// What there is to say of a slot, and of the log that it keeps.
    fn read_slot(&self, name: &str) -> Result<Option<Option<(Lsn, TimelineId)>>, ErrorResponse> {
        let Ok(slot) = self.node.replication_slots.view(name) else { return Ok(None) };
        if !slot.restart_lsn.is_valid() {
            return Ok(Some(None));
        }
        Ok(Some(Some((slot.restart_lsn, self.own_history()?.tli_of_point(slot.restart_lsn)))))
    }

    /// Holds a slot; with `wait` once nobody else does.
    fn acquire_slot(&mut self, name: &str, wait: bool) -> Result<HeldSlot, ErrorResponse> {
        let slots = self.node.replication_slots;
        let mut sleep = slots.freed().prepare_to_sleep(self.me);
        loop {
            sleep.enter();
            match slots.acquire(self.node, self.me, name) {
                Err(report) if wait && is_held_by_others(&report) => {}
                result => return result,
            }
            let taken = self.take_interrupts();
            if taken.intersects(ENDS_IDLE) {
                return Err(terminated());
            }
            if taken.contains(Interrupts::QUERY_CANCEL) {
                return Err(canceled());
            }
            wait_latch(&self.me, None, WaitEvent::ReplicationSlotDrop);
        }
    }

    fn start_replication(&mut self, request: &StartReplication) -> Result<Next, ErrorResponse> {
        if let Some(name) = &request.slot {
            self.held = Some(self.acquire_slot(name, false)?);
        }
        let result = self.replicate(request);
        self.held = None;
        result
    }

    fn replicate(&mut self, request: &StartReplication) -> Result<Next, ErrorResponse> {
        let history = self.own_history()?;
        let plan = plan(request, &history)?;
        if plan.is_empty() {
            commands::stream_end(self.connection.output(), plan.ended.map(|(upto, next)| (next, upto)))?;
            return Ok(Next::Command);
        }
        backend::copy_both_response(self.connection.output());
        self.flush_answer()?;
        plan.check_flushed(self.node.wal.flush_lsn())?;
        let source = LogSource::new(self.node, self.me, history, plan.timeline);
        self.connection.set_check(check_standby_frame);
        let mut standing = Standing::new(self.node, self.me, self.slot);
        let result = self.stream(&plan, source, &mut standing);
        self.slot.await_news();
        standing.leave();
        self.connection.set_check(frontend::check_frame);
        if result.is_err() && self.slot.state() == WalSndState::Stopping {
            // The node ends; a client that comes back would be refused.
            return result.map_err(|report| report.with_severity(Severity::Fatal));
        }
        if self.slot.state() != WalSndState::Stopping {
            self.slot.set_state(WalSndState::Startup);
        }
        result
    }

    /// The loop of a stream; see the header of [`super::session`].
    fn stream(
        &mut self,
        plan: &Plan,
        mut source: LogSource,
        standing: &mut Standing,
    ) -> Result<Next, ErrorResponse> {
        let timeout = self.settings.current().wal_sender_timeout;
        let mut session = Session::new(clock::now(), plan.start, timeout);
        if let Some((valid_upto, next)) = plan.ended {
            session.handle(clock::now(), Input::TimelineEnded { valid_upto, next });
        }
        let mut counts = plan.ended.is_none();
        standing.settle(&self.settings.current().application_name, counts);
        // A message may have come along with the command.
        let mut readable = true;
        loop {
            self.me.latch().reset();
            self.slot.await_news();
            self.take_stream_interrupts(&mut session)?;
            let now = clock::now();
            if self.heed_settings() {
                let timeout = self.settings.current().wal_sender_timeout;
                session.handle(now, Input::Timeout(timeout));
                standing.settle(&self.settings.current().application_name, counts);
            }
            session.handle(now, Input::Turn);
            session.handle(now, Input::Pace(self.pace(standing)));
            if readable {
                self.read_standby(&mut session, now)?;
            }
            let pending = !self.connection.flush_if_writable()?;
            session.handle(now, Input::Outgoing { pending });
            self.publish(&session);
            standing.update(&self.settings.current().application_name);
            let flush = self.node.wal.flush_lsn();
            let horizon = self.node.wal.horizon().min(flush);
            // After the flush LSN: what is flushed behind a switch point must not be taken for the old timeline's.
            if plan.ended.is_none() && self.node.wal.timeline() != source.newest_timeline() {
                self.end_timeline(plan, &mut session, &mut source)?;
                counts = false;
                standing.leave();
            }
            session.handle(now, Input::Log { flush, horizon, promise: standing.promise() });
            let state = session.state();
            while let Some(output) = session.poll(now) {
                if let Some(next) = self.obey(output, &mut source)? {
                    self.publish(&session);
                    return Ok(next);
                }
                let pending = !self.connection.flush_if_writable()?;
                session.handle(now, Input::Outgoing { pending });
            }
            self.publish(&session);
            if session.state() != state {
                // From now on its standby may count.
                self.me.latch().set();
            }
            readable = self.sleep(&session)?;
        }
    }

    /// How long this stream may rest: the more there are the longer, so that what all of them together take of the processors
    /// that others log with stays about the same. None of them if commits may wait for its standby, or if it is alone.
    fn pace(&self, standing: &Standing) -> Duration {
        if standing.is_asked() {
            return Duration::ZERO;
        }
        let streams = self.node.walsenders.iter().filter(|slot| slot.state() == WalSndState::Streaming);
        REST_PER_STREAM
            .saturating_mul(u32::try_from(streams.count().saturating_sub(1)).unwrap_or(u32::MAX))
            .min(REST_MAX)
    }

    /// The node has gone over to another timeline: the one that is streamed has ended.
    fn end_timeline(
        &self,
        plan: &Plan,
        session: &mut Session,
        source: &mut LogSource,
    ) -> Result<(), ErrorResponse> {
        let history = self.own_history()?;
        if let Some((valid_upto, next)) = super::start::end_of(plan.timeline, &history)? {
            session.handle(clock::now(), Input::TimelineEnded { valid_upto, next });
        }
        source.set_history(history);
        Ok(())
    }

    /// Sleeps until there may be something to do; whether the socket is readable.
    fn sleep(&mut self, session: &Session) -> Result<bool, ErrorResponse> {
        let mut events = SocketEvents::NONE;
        if session.reads() {
            events |= SocketEvents::READABLE;
        }
        if self.connection.has_pending_output() {
            events |= SocketEvents::WRITEABLE;
        }
        let now = clock::now();
        if !session.wants_wakeups(now) {
            self.slot.ignore_news();
        } else if session.next_wakeup(now) != Some(now) && self.connection.holds_much() {
            // It has caught up again.
            self.connection.give_memory_back();
        }
        // Also with more to send: signals and replies are seen only in a wait.
        let timeout = session.next_wakeup(now).map(|at| at.saturating_since(now));
        let happened = self.connection.wait(events, timeout, WaitEvent::WalSenderMain)?;
        Ok(happened.contains(Events::SOCKET_READABLE))
    }

    fn take_stream_interrupts(&mut self, session: &mut Session) -> Result<(), ErrorResponse> {
        if self.me.pending().is_empty() {
            return Ok(());
        }
        self.node.attend(&self.me);
        let taken = self.me.take(self.me.pending().without(Interrupts::BARRIER));
        let now = clock::now();
        if taken.contains(Interrupts::TERMINATE) {
            return Err(terminated());
        }
        if taken.contains(Interrupts::WALSND_INIT_STOPPING) {
            session.handle(now, Input::InitStopping);
        }
        if taken.contains(Interrupts::STOP) {
            session.handle(now, Input::Stop);
        }
        if taken.contains(Interrupts::QUERY_CANCEL) {
            return Err(canceled());
        }
        Ok(())
    }

    /// Hands everything that the standby has said to the machine.
    fn read_standby(&mut self, session: &mut Session, now: MonoTime) -> Result<(), ErrorResponse> {
        while session.reads() {
            let message = match self.connection.try_read_message()? {
                Some(Received::Message(message)) => message,
                Some(Received::Eof) => {
                    let message = "unexpected EOF on standby connection";
                    return Err(ErrorResponse::comm_error(sqlstate::CONNECTION_FAILURE, message));
                }
                Some(Received::Interrupted | Received::TimedOut) | None => return Ok(()),
            };
            let input = match message.tag {
                b'd' => match StandbyMessage::decode(message.body)? {
                    StandbyMessage::StatusUpdate(update) => Input::Status {
                        write: update.write,
                        flush: update.flush,
                        apply: update.apply,
                        time: update.time,
                        reply_requested: update.reply_requested,
                    },
                    StandbyMessage::HotStandbyFeedback(feedback) => {
                        // Nothing is ever taken from under a query here, so there is nothing to hold back: it is shown.
                        self.slot.feedback_xmin.store(feedback.xmin, Ordering::Relaxed);
                        Input::Feedback
                    }
                },
                b'c' => Input::CopyDone,
                // The frame check lets nothing else through.
                _ => Input::Terminate,
            };
            session.handle(now, input);
        }
        Ok(())
    }

    /// Queues what the machine wants sent; what comes next when the stream is over.
    fn obey(&mut self, output: Output, source: &mut LogSource) -> Result<Option<Next>, ErrorResponse> {
        let out = self.connection.output();
        match output {
            Output::Wal { start, end, wal_end } => {
                self.send_wal(start, end, wal_end, source)?;
                failpoint::pass(Site::WalSenderSend);
            }
            Output::Keepalive { wal_end, reply_requested } => {
                payload::keepalive(out, wal_end, now_timestamp(), reply_requested);
            }
            Output::CopyDone => backend::copy_done(out),
            Output::Finished { next } => {
                commands::stream_end(out, next)?;
                return Ok(Some(Next::Command));
            }
            Output::Drained => {
                backend::command_complete(out, "COPY 0");
                // The standby has everything, so there is room for this.
                self.connection.flush_if_writable()?;
                return Ok(Some(Next::Exit));
            }
            Output::TimedOut => {
                tracing::info!("terminating walsender process due to replication timeout");
                return Ok(Some(Next::Exit));
            }
            Output::Disconnected => return Ok(Some(Next::Exit)),
        }
        Ok(None)
    }

    /// Queues the log from `start` to `end`; what is in a file alone goes from there to the kernel, as far as it takes it
    /// now.
    fn send_wal(
        &mut self,
        start: Lsn,
        end: Lsn,
        wal_end: Lsn,
        source: &mut LogSource,
    ) -> Result<(), ErrorResponse> {
        let length = usize::try_from(end - start).expect("at most MAX_SEND_SIZE");
        let Some((file, offset)) = source.file(start, length, self.connection.peer().is_on_this_machine())?
        else {
            let mut message = WalMessage::begin(self.connection.output(), start, length);
            source.read(start, message.wal_mut())?;
            message.finish(wal_end, now_timestamp());
            return Ok(());
        };
        payload::wal_header(self.connection.output(), start, length, wal_end, now_timestamp());
        let taken = {
            let _published = self.me.publish_wait(WaitEvent::WalRead);
            self.connection.send_from_file(file, offset, length)?
        };
        let out = self.connection.output();
        let rest = out.len();
        out.resize(rest + length - taken, 0);
        // The client has a part of the message already, so nothing else can be said to it.
        let read = source.read(start + taken as u64, &mut out[rest..]);
        read.map_err(|report| report.with_severity(Severity::CommError))
    }

    /// Shows the stream in shared memory.
    fn publish(&mut self, session: &Session) {
        let reported = session.reported();
        self.slot.set_sent(session.sent());
        self.slot.set_reported(reported.write, reported.flush, reported.apply);
        self.slot.set_lags(reported.lags);
        if let Some(slot) = self.held.as_ref().filter(|_| reported.flush.is_valid()) {
            slot.confirm(reported.flush);
        }
        if let Some(time) = reported.reply_time {
            self.slot.reply_time.store(time.0, Ordering::Relaxed);
        }
        if self.slot.state() == session.state() {
            return;
        }
        self.slot.set_state(session.state());
        match session.state() {
            WalSndState::Streaming => {
                let name = &self.settings.current().application_name;
                tracing::debug!("\"{name}\" has now caught up with upstream server");
                self.connection.give_memory_back();
            }
            // The checkpointer waits for it before it writes the last record.
            WalSndState::Stopping => self.node.procs.set_latch(ProcNumber::CHECKPOINTER),
            _ => {}
        }
    }
}
