//! A primary's writer: executes the sessions' writes, logs what they changed, answers, commits.
//!
//! One turn of the loop is a batch: every request that is complete when the turn begins.
//!
//! ```text
//! execute each in its savepoint -> log each -> flush once (the horizon moves) -> send the outcomes -> COMMIT
//! ```
//!
//! The next requests gather meanwhile: group commit. The COMMIT of the tables is put off (up to [`GATHER_MAX`] records,
//! or [`super::COMMIT_DELAY`]): it is needed by readers alone, and a reader that waits is seen at once
//! ([`crate::recovery_state`]). Invariant: COMMIT only when the horizon has passed the last record of the transaction.
//!
//! A statement that runs for long is no reason for a reader to wait: it gives way, the records before it are committed, and
//! it is executed again (nothing of it was logged).
//!
//! A request's notifications (the session's NOTIFYs, then what pg_notify() said in its statements) get their room in the
//! queue before it is logged, and go there between its flush and its outcome, in the order of the log ([`crate::notify`]).
//!
//! An outcome that rests on a record of the same batch is held until the flush, also if it logged nothing itself
//! (`UPDATE 0`); an error is answered at once.
//!
//! **Full disk.** Log: [`Xlog::insert`] refuses before anything is logged, the request is undone and gets 53100. Tables:
//! a COMMIT that finds no room leaves the transaction's changes with the engine; writes are refused with 53100 and
//! the COMMIT is tried again every [`super::NO_ROOM_RETRY`] until it succeeds. Everything acknowledged is in the log all along.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use engine::control::Interruption;
use engine::error::{SqlError, SqlState};
use engine::writer::PutError;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wal::record::{RecordBody, Rmgr};
use wal::timestamp::Timestamp;

use super::recovery::Recovered;
use super::tables_log::TablesLog;
use super::{COMMIT_DELAY, NO_ROOM_RETRY, StartupError, UNCOMMITTED_BYTES_MAX, told_to_end};
use crate::control::NodeState;
use crate::node::Node;
use crate::notify::outgoing::Outgoing;
use crate::notify::{self, Reservation};
use crate::requests::desk::{Desk, Taken};
use crate::wait::wait_latch;
use crate::write_request::{Answer, AnswerRows, WriteControl, WriteMessage, log_error, no_room};
use crate::xlog::Xlog;

/// Requests taken in one turn.
const BATCH_MAX: usize = 64;
/// Records in one transaction of the tables: bounds what has to be put again when the transaction is lost.
const GATHER_MAX: usize = 512;

pub(super) struct Writer {
    node: &'static Node,
    me: Me,
    tables: engine::Writer,
    /// The statement_memory_limit that they have.
    memory_max: u64,
    tables_log: TablesLog,
    /// Of the request that is executed.
    notifications: Rc<RefCell<Outgoing>>,
    xlog: Xlog,
    /// End of the last record in the open transaction; none when nothing is to be committed.
    open_end: Option<Lsn>,
    open_records: usize,
    /// When the open transaction is to be committed although nobody asks.
    commit_due: Option<MonoTime>,
    /// Set while the tables' COMMIT finds no room: when to try again.
    no_room: Option<MonoTime>,
    /// Where the sessions' requests come in and their answers go out.
    desk: Desk,
    /// Where the next scan of the sessions begins, so that nobody is always last.
    next_session: ProcNumber,
}

/// Answers that wait for the flush, and for what.
#[derive(Default)]
struct Held {
    answers: Vec<(ProcNumber, Vec<u8>)>,
    /// Their bytes.
    bytes: usize,
    /// Notifications of the transactions, in their order.
    notifications: Vec<Reservation>,
    /// End of the last record that one of them rests on.
    logged: Option<Lsn>,
}

impl Writer {
    /// Takes over from recovery: the log goes on at its end.
    pub(super) fn start(node: &'static Node, me: Me, recovered: Recovered) -> Result<Writer, StartupError> {
        let mut writer = Writer {
            node,
            me,
            xlog: Xlog::new(node, me),
            open_end: None,
            open_records: 0,
            commit_due: None,
            no_room: None,
            desk: Desk::new(node.requests, me),
            next_session: ProcNumber::FIRST_BACKEND,
            tables: recovered.tables,
            memory_max: node.settings().statement_memory_limit,
            tables_log: recovered.tables_log,
            notifications: recovered.notifications,
        };
        writer
            .xlog
            .start_at(recovered.end, recovered.last_record)
            .map_err(|error| StartupError::new(format!("could not continue the log: {error}")))?;
        if !matches!(recovered.control.state, NodeState::ShutDown | NodeState::StartingUp) {
            writer.log_end_of_recovery()?;
        }
        node.recovery.in_recovery.store(0, Ordering::Release);
        crate::checkpointer::request_checkpoint(node);
        Ok(writer)
    }

    fn log_end_of_recovery(&mut self) -> Result<(), StartupError> {
        let tli = self.node.wal.timeline();
        let time = Timestamp::from_unix_micros(clock::unix_micros());
        let mut record = wal::xlog::EndOfRecovery { time, tli, prev_tli: tli }.record();
        let inserted = self
            .xlog
            .insert(&mut record)
            .map_err(|error| StartupError::new(format!("could not log the end of recovery: {error}")))?;
        self.xlog.flush(inserted.end);
        Ok(())
    }

    /// Serves the sessions until told to end.
    pub(super) fn run(mut self) -> Result<(), StartupError> {
        loop {
            self.me.latch().reset();
            self.node.attend(&self.me);
            self.heed_settings();
            let batch = self.desk.take(self.next_session, BATCH_MAX);
            let idle = batch.is_empty();
            if let Some(last) = batch.last() {
                self.next_session = ProcNumber(last.session.0 + 1);
            }
            self.execute_batch(batch)?;
            if self.must_commit() || self.commit_due.is_some_and(|due| due <= clock::now()) {
                self.commit()?;
            }
            if idle {
                if told_to_end(&self.me) {
                    return self.commit();
                }
                if self.open_end.is_none() {
                    self.commit()?;
                }
                let due = self.no_room.or(self.commit_due);
                let timeout = due.map(|due| due.saturating_since(clock::now()));
                wait_latch(&self.me, timeout, WaitEvent::StartupMain);
            }
        }
    }

    /// What is not asked for anew at each use.
    fn heed_settings(&mut self) {
        let memory_max = self.node.settings().statement_memory_limit;
        if memory_max == self.memory_max {
            return;
        }
        match self.tables.limit_memory(memory_max as usize) {
            Ok(()) => self.memory_max = memory_max,
            Err(error) => tracing::error!("could not change the memory of the tables: {error}"),
        }
    }

    /// Whether the transaction must not grow any more, or somebody waits for its end.
    fn must_commit(&self) -> bool {
        self.open_records >= GATHER_MAX
            || self.tables.uncommitted_bytes() >= UNCOMMITTED_BYTES_MAX
            || self.node.recovery.has_waiters()
            || self.tables_log.restart_wanted()
    }

    fn execute_batch(&mut self, batch: Vec<Taken>) -> Result<(), StartupError> {
        let mut held = Held::default();
        for taken in batch {
            let executed = match self.execute(&taken, held.bytes)? {
                Some(executed) => executed,
                None => {
                    self.settle(&mut held);
                    self.commit()?;
                    let again = self.execute(&taken, held.bytes)?;
                    again.unwrap_or_else(|| Err(Interruption::GiveWay.error()))
                }
            };
            match executed {
                Ok(executed) => {
                    held.logged = executed.end.or(held.logged);
                    held.bytes += executed.answer.len();
                    held.answers.push((taken.session, executed.answer));
                    held.notifications.extend(executed.notifications);
                }
                Err(error) => self.desk.answer(taken.session, Answer::error(&error)),
            }
            if self.tables.uncommitted_bytes() >= UNCOMMITTED_BYTES_MAX {
                self.settle(&mut held);
                self.commit()?;
            }
        }
        self.settle(&mut held);
        Ok(())
    }

    /// Makes durable what the answers rest on, and sends them.
    fn settle(&mut self, held: &mut Held) {
        if let Some(end) = held.logged.take() {
            self.xlog.flush(end);
            self.node.recovery.acknowledged.fetch_max(end.0, Ordering::AcqRel);
        }
        // Before the answers: a session that listens to itself tells its client before it is ready for the next query.
        for notifications in held.notifications.drain(..) {
            self.node.notify.publish(notifications);
        }
        held.bytes = 0;
        for (session, answer) in held.answers.drain(..) {
            self.desk.answer(session, answer);
        }
    }

    /// Executes and logs one request, while so many bytes of answers are held. None: it gave way to a reader that
    /// waits for earlier records of the transaction, and is to be executed again when they are committed.
    fn execute(&mut self, taken: &Taken, held: usize) -> Result<Option<Outcome>, StartupError> {
        if self.no_room.is_some() {
            return Ok(Some(Err(no_room("the tables' last changes are in the log only"))));
        }
        let mut message = match WriteMessage::decode(&taken.request) {
            Ok(message) => message,
            Err(error) => return Ok(Some(Err(error))),
        };
        if let Err(error) = self.take_notifications(&mut message) {
            return Ok(Some(Err(error)));
        }
        let mut control = WriteControl::new(self.node, self.me, taken.session, taken.deadline);
        if self.open_end.is_some() {
            control = control.giving_way();
        }
        let mut rows = AnswerRows::new(message.replies, self.desk.room(held));
        if let Err(error) = self.tables.begin() {
            return into_sql_error(error).map(|error| Some(Err(error)));
        }
        let executed = self.tables.execute(&message.into_request(), &control, &mut rows);
        if executed.is_err() && control.gave_way() {
            return Ok(None);
        }
        let record = match executed {
            Ok(executed) => executed.record,
            Err(error) => return Ok(Some(Err(error))),
        };
        let notifications = self.reserve_notifications(taken.session);
        self.log_executed(record, notifications, rows).map(Some)
    }

    /// Makes the request's NOTIFYs the notifications that pg_notify() adds to.
    fn take_notifications(&mut self, message: &mut WriteMessage) -> Result<(), SqlError> {
        let mut notifications = self.notifications.borrow_mut();
        notifications.truncate(0);
        for (channel, payload) in message.notifications.drain(..) {
            notifications.push(channel, payload, self.node.notify.capacity())?;
        }
        Ok(())
    }

    /// Room for the notifications of the request that was executed.
    fn reserve_notifications(&mut self, session: ProcNumber) -> Result<Option<Reservation>, SqlError> {
        let mut notifications = self.notifications.borrow_mut();
        if notifications.is_empty() {
            return Ok(None);
        }
        let pid = self.node.procs.slot(session).pid().map_or(0, |pid| pid.0);
        let (reserved, warning) = match self.node.notify.reserve(notifications.encode(pid)) {
            Ok(reservation) => {
                let warning = reservation.warning();
                (Ok(Some(reservation)), warning)
            }
            Err(full) => (Err(notify::too_many()), full.warning),
        };
        if let Some(warning) = warning {
            warning.log();
        }
        reserved
    }

    fn log_executed(
        &mut self,
        record: Vec<u8>,
        notifications: Result<Option<Reservation>, SqlError>,
        rows: AnswerRows,
    ) -> Result<Outcome, StartupError> {
        if record.is_empty() {
            let answer = Answer::success(Lsn::INVALID, rows);
            return Ok(notifications.map(|notifications| Executed { answer, end: None, notifications }));
        }
        let logged = notifications.and_then(|reserved| Ok((self.log(record)?, reserved)));
        let (end, notifications) = match logged {
            Ok(logged) => logged,
            Err(error) => {
                if let Err(error) = self.tables.rollback_last() {
                    return into_sql_error(error).map(Err);
                }
                return Ok(Err(error));
            }
        };
        self.open_end = Some(end);
        self.open_records += 1;
        self.commit_due.get_or_insert_with(|| clock::now().saturating_add(COMMIT_DELAY));
        Ok(Ok(Executed { answer: Answer::success(end, rows), end: Some(end), notifications }))
    }

    fn log(&mut self, mut changes: Vec<u8>) -> Result<Lsn, SqlError> {
        let now = Timestamp::from_unix_micros(clock::unix_micros());
        engine::change::stamp(&mut changes, self.node.wal.horizon(), now);
        let mut body = RecordBody::new(Rmgr::CHANGE, 0, 0, &changes)
            .map_err(|error| SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, error.to_string()))?;
        match self.xlog.insert(&mut body) {
            Ok(inserted) => Ok(inserted.end),
            Err(error) => Err(log_error(&error)),
        }
    }

    /// Commits the open transaction, whose records are durable, and uses the time between two transactions.
    fn commit(&mut self) -> Result<(), StartupError> {
        if let Some(end) = self.open_end {
            self.commit_to(end)?;
        } else if self.tables.transaction_open() {
            // Statements that changed nothing have left an empty transaction.
            self.tables.abandon();
        }
        if self.open_end.is_none() {
            self.tables_log.restart_if_wanted(&mut self.tables);
        }
        Ok(())
    }

    fn commit_to(&mut self, end: Lsn) -> Result<(), StartupError> {
        if self.no_room.is_some_and(|due| clock::now() < due) {
            return Ok(());
        }
        debug_assert!(self.node.wal.horizon() >= end);
        match self.tables.begin().and_then(|()| self.tables.commit(end).map_err(PutError::Failed)) {
            Ok(()) => {
                if self.no_room.take().is_some() {
                    tracing::info!("there is room for the tables again");
                    self.node.recovery.set_no_room(self.node, false);
                }
                self.open_end = None;
                self.open_records = 0;
                self.commit_due = None;
                self.node.recovery.replayed.store(end.0, Ordering::Release);
                self.node.recovery.note_committed(end);
                self.node.recovery.publish_applied(self.node, end);
                self.tables_log.committed(&mut self.tables);
                Ok(())
            }
            Err(PutError::Failed(error)) if error.sqlstate == SqlState::DISK_FULL => {
                if self.no_room.is_none() {
                    tracing::error!(
                        "could not commit the tables: {error}; writes are refused until there is room"
                    );
                }
                self.no_room = Some(clock::now().saturating_add(NO_ROOM_RETRY));
                self.node.recovery.set_no_room(self.node, true);
                Ok(())
            }
            Err(error) => Err(StartupError::new(format!("could not commit the tables: {error}"))),
        }
    }
}

/// A request that succeeded.
struct Executed {
    answer: Vec<u8>,
    /// End of its record, if it changed anything.
    end: Option<Lsn>,
    notifications: Option<Reservation>,
}

/// What came of a request.
type Outcome = Result<Executed, SqlError>;

/// What the asking session is told. Records that can't be put again are no business of its: the tables are not what the
/// log says, so the node ends.
fn into_sql_error(error: PutError) -> Result<SqlError, StartupError> {
    match error {
        PutError::Failed(error) => Ok(error),
        other => Err(StartupError::new(other)),
    }
}
