//! A primary's writer: executes the sessions' writes, logs what they changed, answers, commits.
//!
//! One turn of the loop is a batch: every request that is complete when the turn begins.
//!
//! ```text
//! execute each in its savepoint -> log each -> flush once (the horizon moves) -> send the outcomes -> COMMIT
//! ```
//!
//! The next requests gather meanwhile: group commit. While they keep coming, the COMMIT of the tables is put off (up to
//! [`GATHER_MAX`] records): it is needed by readers alone, and a reader that waits is seen at once
//! ([`crate::recovery_state`]). Invariant: COMMIT only when the horizon has passed the last record of the transaction.
//!
//! An outcome that rests on a record of the same batch is held until the flush, also if it logged nothing itself
//! (`UPDATE 0`); an error is answered at once.
//!
//! **Full disk.** Log: [`Xlog::insert`] refuses before anything is logged, the request is undone and gets 53100. Tables:
//! a COMMIT that finds no room leaves the transaction's changes with the engine; writes are refused with 53100 and
//! the COMMIT is tried again every [`super::NO_ROOM_RETRY`] until it succeeds. Everything acknowledged is in the log all along.

use std::sync::atomic::Ordering;

use engine::error::{SqlError, SqlState};
use engine::writer::PutError;
use ipc::interrupt::Interrupts;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wal::record::{RecordBody, Rmgr};
use wal::timestamp::Timestamp;

use super::follow::restart_tables_log;
use super::recovery::Recovered;
use super::{NO_ROOM_RETRY, StartupError, told_to_end};
use crate::control::NodeState;
use crate::node::{Node, take_flag};
use crate::requests::Taken;
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
    xlog: Xlog,
    /// End of the last record in the open transaction; none when nothing is to be committed.
    open_end: Option<Lsn>,
    open_records: usize,
    /// Set while the tables' COMMIT finds no room: when to try again.
    no_room: Option<MonoTime>,
    /// Where the next scan of the sessions begins, so that nobody is always last.
    next_session: usize,
}

/// An answer that waits for the flush.
struct Held {
    session: ProcNumber,
    answer: Vec<u8>,
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
            no_room: None,
            next_session: 0,
            tables: recovered.tables,
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
            self.me.take(Interrupts::CONFIG_RELOAD);
            let batch = self.node.requests.take(self.next_session, BATCH_MAX);
            let idle = batch.is_empty();
            if let Some(last) = batch.last() {
                self.next_session = last.session.0 as usize + 1;
            }
            self.execute_batch(batch)?;
            if idle || self.open_records >= GATHER_MAX || self.node.recovery.has_waiters() {
                self.commit()?;
            }
            if take_flag(&self.node.checkpointer.restart_wanted) && self.open_end.is_none() {
                restart_tables_log(&mut self.tables);
            }
            if idle {
                if told_to_end(&self.me) {
                    return Ok(());
                }
                let timeout = self.no_room.map(|due| due.saturating_since(clock::now()));
                wait_latch(&self.me, timeout, WaitEvent::StartupMain);
            }
        }
    }

    fn execute_batch(&mut self, batch: Vec<Taken>) -> Result<(), StartupError> {
        let mut held = Vec::with_capacity(batch.len());
        let mut logged = None;
        for taken in batch {
            let session = taken.session;
            match self.execute(taken) {
                Ok((answer, end)) => {
                    logged = end.or(logged);
                    held.push(Held { session, answer });
                }
                Err(error) => self.send(session, &Answer::error(&error)),
            }
        }
        if let Some(end) = logged {
            self.xlog.flush(end);
            self.node.recovery.acknowledged.fetch_max(end.0, Ordering::AcqRel);
        }
        for Held { session, answer } in held {
            self.send(session, &answer);
        }
        Ok(())
    }

    /// Executes and logs one request; its answer, and the end of its record if it changed anything.
    fn execute(&mut self, taken: Taken) -> Result<(Vec<u8>, Option<Lsn>), SqlError> {
        if self.no_room.is_some() {
            return Err(no_room("the tables' last changes are in the log only"));
        }
        let message = WriteMessage::decode(&taken.request)?;
        let control = WriteControl::new(self.node, self.me, taken.session, taken.deadline);
        let mut rows = AnswerRows::new(message.replies);
        self.tables.begin().map_err(into_sql_error)?;
        let executed = self.tables.execute(&message.into_request(), &control, &mut rows)?;
        if executed.record.is_empty() {
            return Ok((Answer::success(Lsn::INVALID, &rows), None));
        }
        let end = match self.log(executed.record) {
            Ok(end) => end,
            Err(error) => {
                self.tables.rollback_last().map_err(into_sql_error)?;
                return Err(error);
            }
        };
        self.open_end = Some(end);
        self.open_records += 1;
        Ok((Answer::success(end, &rows), Some(end)))
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

    fn send(&self, session: ProcNumber, answer: &[u8]) {
        self.node.requests.answer(session, answer);
        self.node.procs.set_latch(session);
    }

    /// Commits the open transaction; its records are durable.
    fn commit(&mut self) -> Result<(), StartupError> {
        let Some(end) = self.open_end else {
            // Statements that changed nothing have left an empty transaction.
            self.tables.abandon();
            return Ok(());
        };
        if self.no_room.is_some_and(|due| clock::now() < due) {
            return Ok(());
        }
        debug_assert!(self.node.wal.horizon() >= end);
        match self.tables.begin().map_err(into_sql_error).and_then(|()| self.tables.commit(end)) {
            Ok(()) => {
                if self.no_room.take().is_some() {
                    tracing::info!("there is room for the tables again");
                    self.node.recovery.set_no_room(self.node, false);
                }
                self.open_end = None;
                self.open_records = 0;
                self.node.recovery.replayed.store(end.0, Ordering::Release);
                self.node.recovery.publish_applied(self.node, end);
                super::watch_tables_log(self.node, &self.tables);
                Ok(())
            }
            Err(error) if error.sqlstate == SqlState::DISK_FULL => {
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

fn into_sql_error(error: PutError) -> SqlError {
    match error {
        PutError::Failed(error) => error,
        other => SqlError::new(SqlState::INTERNAL_ERROR, other.to_string()),
    }
}
