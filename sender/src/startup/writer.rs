//! A primary's writer: executes the sessions' writes, logs what they changed, answers, commits.
//!
//! One turn of the loop is a batch: every request that is complete when the turn begins.
//!
//! ```text
//! execute each in its savepoint -> log each -> flush once (the horizon moves) -> send the outcomes -> COMMIT
//! ```
//!
//! With synchronous standbys the horizon moves later. The writer doesn't wait for that: it gives the answers (each
//! session waits by itself, [`crate::sync_rep`]) and goes on with the next batch, on top of what is not decided yet.
//! Only the COMMIT has to wait; [`undecided`] tells for how long others are held up by it.
//!
//! The next requests gather meanwhile: group commit. What comes while a batch is executed joins it. The COMMIT of the tables
//! is put off ([`super::commit_timer`]): it is needed by readers alone, and a reader that waits is seen at once. Invariant:
//! COMMIT only when the horizon has passed the last record of the transaction.
//!
//! A statement that runs for long is no reason for a reader to wait: it gives way, the records before it are committed, and
//! it is executed again (nothing of it was logged).
//!
//! A request's notifications (the session's NOTIFYs, then what pg_notify() said in its statements) get their room in the
//! queue before it is logged, and go there between its flush and its outcome, in the order of the log ([`crate::notify`]).
//!
//! An outcome that rests on a record of the same batch is held until the flush, also if it logged nothing itself
//! (`UPDATE 0`); an error is answered at once. With synchronous standbys every outcome that the open transaction's rows may
//! have decided is told when they are, and that goes for errors of class 23 (a key that exists) too.
//!
//! **Full disk.** Log: [`Xlog::insert`] refuses before anything is logged, the request is undone and gets 53100. Tables:
//! a statement that finds no room gets 53100; a COMMIT that finds none leaves the transaction's changes with the engine,
//! writes are refused with 53100 and the COMMIT is tried again until it succeeds and there is room for more
//! ([`super::room`]). Everything acknowledged is in the log all along.

mod undecided;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use engine::error::{SqlError, SqlState};
use engine::roles::Asker;
use engine::sql::role::{NewPassword, RoleCommand, RoleOptions};
use engine::writer::{PutError, WriteRequest};
use failpoint::Site;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use sys::clock::{self, MonoTime};
use sys::file::remove_if_there;
use wal::lsn::Lsn;
use wal::record::{RecordBody, Rmgr};
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;

use super::commit_timer::{self, CommitTimer};
use super::recovery::Recovered;
use super::room::Room;
use super::tables_log::TablesLog;
use super::{StartupError, panic_if_broken, told_to_end, with_hint};
use crate::checkpointer::{Cause, request_checkpoint};
use crate::control::NodeState;
use crate::node::Node;
use crate::notify::outgoing::Outgoing;
use crate::notify::{self, Reservation};
use crate::requests::desk::{Desk, Taken};
use crate::sync_rep::{self, Awaited, Confirmation};
use crate::write_request::{Answer, AnswerRows, WriteControl, WriteMessage, log_error};
use crate::xlog::Xlog;

/// Requests taken in one turn.
const BATCH_MAX: usize = 64;

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
    /// Ends of the records in the open transaction; empty when nothing is to be committed.
    open: VecDeque<Lsn>,
    /// When the open transaction is to be committed although nobody asks.
    timer: CommitTimer,
    room: Room,
    /// A statement found no room: what it made of SQLite's log is to be given back.
    cut_wanted: bool,
    /// Where the sessions' requests come in and their answers go out.
    desk: Desk,
    /// Where the next scan of the sessions begins, so that nobody is always last.
    next_session: ProcNumber,
    /// Requests that are to be executed when the open transaction has been committed.
    deferred: Vec<Taken>,
    /// Of transactions that end there: to be published when the horizon has passed them.
    undecided_notifications: VecDeque<(Lsn, Reservation)>,
    /// Since when readers have been waiting for an open transaction that isn't decided.
    readers_wait_since: Option<MonoTime>,
    /// Which settings the horizon was last computed from.
    settings_version: u64,
    /// The end of the log is to be noted as confirmed when the quorum has done so.
    boot_unconfirmed: bool,
}

/// Answers that wait for the flush, and for what.
#[derive(Default)]
struct Held {
    answers: Vec<HeldAnswer>,
    /// Their bytes.
    bytes: usize,
    /// Notifications of the transactions, in their order.
    notifications: Vec<Reservation>,
    /// End of the last record that one of them rests on.
    logged: Option<Lsn>,
}

struct HeldAnswer {
    session: ProcNumber,
    answer: Vec<u8>,
    rests_on: Awaited,
    /// Its transaction has notifications.
    notifies: bool,
}

impl Writer {
    /// Takes over from recovery: the log goes on at its end.
    pub(super) fn start(node: &'static Node, me: Me, recovered: Recovered) -> Result<Writer, StartupError> {
        let previous_timeline = recovered.history.tli_of_point(recovered.last_record);
        let mut writer = Writer {
            node,
            me,
            xlog: Xlog::new(node, me),
            open: VecDeque::new(),
            timer: CommitTimer::default(),
            room: recovered.room,
            cut_wanted: false,
            desk: Desk::new(node, me),
            next_session: ProcNumber::FIRST_BACKEND,
            deferred: Vec::new(),
            undecided_notifications: VecDeque::new(),
            readers_wait_since: None,
            settings_version: node.configuration.version(),
            boot_unconfirmed: false,
            tables: recovered.tables,
            memory_max: node.settings().statement_memory_limit,
            tables_log: recovered.tables_log,
            notifications: recovered.notifications,
        };
        writer
            .xlog
            .start_at(recovered.end, recovered.last_record)
            .map_err(|error| StartupError::new(format!("could not continue the log: {error}")))?;
        writer.take_undecided(recovered.undecided);
        if !matches!(recovered.control.state, NodeState::ShutDown | NodeState::StartingUp) {
            failpoint::step(Site::EndOfRecovery, || writer.log_end_of_recovery(previous_timeline))?;
        }
        writer.make_first_role()?;
        node.recovery.in_recovery.store(0, Ordering::Release);
        // A node that is promoted takes what it has for the log: nobody is to confirm that.
        let is_new = recovered.received || recovered.control.state == NodeState::StartingUp;
        writer.require_confirmation(recovered.end, is_new)?;
        // Recovery has moved nothing behind its end.
        sync_rep::advance(node);
        request_checkpoint(node, Cause::EndOfRecovery);
        Ok(writer)
    }

    fn log_end_of_recovery(&mut self, prev_tli: TimelineId) -> Result<(), StartupError> {
        let tli = self.node.wal.timeline();
        let time = Timestamp::from_unix_micros(clock::unix_micros());
        let mut record = wal::xlog::EndOfRecovery { time, tli, prev_tli }.record();
        let inserted = self
            .xlog
            .insert_kept(&mut record)
            .map_err(|error| StartupError::new(format!("could not log the end of recovery: {error}")))?;
        self.xlog.flush(inserted.end);
        Ok(())
    }

    /// The log of a new system begins with its first role: what `init` has left of it, or a superuser `postgres`. From then
    /// on the log has it, on whatever node it is read.
    fn make_first_role(&mut self) -> Result<(), StartupError> {
        let failed = |error: &dyn std::fmt::Display| {
            StartupError::new(format!("could not make the first role: {error}"))
        };
        let path = self.node.data.first_role();
        if !self.tables.has_roles().map_err(|error| failed(&error))? {
            let statement = match std::fs::read_to_string(&path) {
                Ok(statement) => statement,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => first_role("postgres", None),
                Err(error) => return Err(failed(&error)),
            };
            let control = WriteControl::new(self.node, self.me, self.me.number(), None);
            let mut rows = AnswerRows::new(false, usize::MAX);
            let request = WriteRequest { statements: vec![statement], asker: Asker::superuser() };
            self.tables.begin().map_err(|error| failed(&error))?;
            let executed =
                self.tables.execute(&request, &control, &mut rows).map_err(|error| failed(&error))?;
            let end = self.log(executed.record, Confirmation::Durable).map_err(|error| failed(&error))?;
            self.open.push_back(end);
            self.xlog.flush(end);
            self.node.recovery.acknowledged.fetch_max(end.0, Ordering::AcqRel);
            // Who is to confirm it could not log in before it is there: so this one record needs no standby.
            self.node.wal.advance_horizon(end);
            self.commit()?;
        }
        remove_if_there(&path).map(|_was_there| ()).map_err(|error| failed(&error))
    }

    /// Serves the sessions until told to end.
    pub(super) fn run(mut self) -> Result<(), StartupError> {
        loop {
            self.me.latch().reset();
            self.node.attend(&self.me);
            self.heed_settings();
            self.heed_horizon();
            self.room.heed_release();
            self.commit_if_due()?;
            let batch = self.next_batch(BATCH_MAX);
            let idle = batch.is_empty();
            self.execute_batch(batch)?;
            self.commit_if_due()?;
            if idle {
                if told_to_end(&self.me) {
                    return self.commit();
                }
                if self.open.is_empty() {
                    self.commit()?;
                    if !self.room.is_stuck() {
                        self.room.regain();
                    }
                }
                self.sleep();
            }
        }
    }

    /// What can be executed now: what was deferred, or at most so many requests.
    fn next_batch(&mut self, most: usize) -> Vec<Taken> {
        if self.is_held_up() {
            self.desk.send_on();
            self.give_up_deferred();
            return Vec::new();
        }
        if !self.deferred.is_empty() {
            return std::mem::take(&mut self.deferred);
        }
        let batch = self.desk.take(self.next_session, most);
        if let Some(last) = batch.last() {
            self.next_session = ProcNumber(last.session.0 + 1);
        }
        batch
    }

    /// What is not asked for anew at each use.
    fn heed_settings(&mut self) {
        let version = self.node.configuration.version();
        if version != std::mem::replace(&mut self.settings_version, version) && sync_rep::advance(self.node) {
            self.node.wake_walsenders();
        }
        let memory_max = self.node.settings().statement_memory_limit;
        if memory_max == self.memory_max {
            return;
        }
        match self.tables.limit_memory(memory_max as usize) {
            Ok(()) => self.memory_max = memory_max,
            Err(error) => tracing::error!("could not change the memory of the tables: {error}"),
        }
    }

    fn commit_if_due(&mut self) -> Result<(), StartupError> {
        let is_due = self.timer.due().is_some_and(|due| due <= clock::now());
        if self.must_commit() || is_due { self.commit() } else { Ok(()) }
    }

    /// Whether the transaction must not grow any more, or somebody waits for its end.
    fn must_commit(&self) -> bool {
        self.is_full() || self.node.recovery.has_waiters() || self.tables_log.restart_wanted()
    }

    fn is_full(&self) -> bool {
        commit_timer::is_full(self.open.len(), self.tables.uncommitted_bytes())
    }

    fn execute_batch(&mut self, batch: Vec<Taken>) -> Result<(), StartupError> {
        let mut held = Held::default();
        let mut left = BATCH_MAX.saturating_sub(batch.len());
        let mut batch = VecDeque::from(batch);
        while let Some(taken) = batch.pop_front() {
            let Some(executed) = self.execute(&taken, held.bytes)? else {
                // Again, when the records that readers wait for have been committed.
                self.deferred.push(taken);
                break;
            };
            match executed {
                Ok(executed) => self.hold(&mut held, taken.session, executed),
                Err(error) => {
                    self.cut_wanted |= error.sqlstate == SqlState::DISK_FULL;
                    self.answer_error(taken.session, &error);
                }
            }
            if self.tables.uncommitted_bytes() >= commit_timer::BYTES_MAX {
                break;
            }
            if batch.is_empty() && left > 0 {
                // What came meanwhile needs no flush of its own. (Requests that fail count, too: others wait for the flush.)
                batch.extend(self.next_batch(left));
                left = left.saturating_sub(batch.len());
            }
        }
        self.settle(&mut held);
        self.deferred.extend(batch);
        if self.deferred.is_empty() { Ok(()) } else { self.commit() }
    }

    fn hold(&self, held: &mut Held, session: ProcNumber, executed: Executed) {
        held.logged = executed.end.or(held.logged);
        held.bytes += executed.answer.len();
        let lsn = executed.end.or(self.open.back().copied()).unwrap_or(Lsn::INVALID);
        held.answers.push(HeldAnswer {
            session,
            answer: executed.answer,
            rests_on: Awaited { lsn, confirmation: executed.confirmation },
            notifies: executed.notifications.is_some(),
        });
        held.notifications.extend(executed.notifications);
    }

    fn answer_error(&mut self, session: ProcNumber, error: &SqlError) {
        let tells_of_rows = error.sqlstate.as_str().starts_with("23") && sync_rep::is_synchronous(self.node);
        let lsn = self.open.back().copied().filter(|_| tells_of_rows).unwrap_or(Lsn::INVALID);
        let rests_on = Awaited { lsn, confirmation: Confirmation::Durable };
        self.desk.answer(session, Answer::error(error), rests_on);
    }

    /// Makes durable what the answers rest on, and sends them.
    fn settle(&mut self, held: &mut Held) {
        if let Some(end) = held.logged.take() {
            self.xlog.flush(end);
            self.node.recovery.acknowledged.fetch_max(end.0, Ordering::AcqRel);
            if self.node.wal.horizon() < end {
                // Who flushed may have settings that are older than these.
                sync_rep::flushed(self.node);
            }
        }
        self.node.note_roles(self.tables.take_roles_changed());
        // Before the answers: a session that listens to itself tells its client before it is ready for the next query.
        let end = self.open.back().copied().unwrap_or(Lsn::INVALID);
        self.undecided_notifications.extend(held.notifications.drain(..).map(|one| (end, one)));
        self.publish_notifications();
        let later = !self.undecided_notifications.is_empty();
        held.bytes = 0;
        for mut held in held.answers.drain(..) {
            if later && held.notifies {
                Answer::notify_later(&mut held.answer);
            }
            self.desk.answer(held.session, held.answer, held.rests_on);
        }
    }

    /// Executes and logs one request, while so many bytes of answers are held. None: it gave way to a reader that
    /// waits for earlier records of the transaction, and is to be executed again when they are committed.
    fn execute(&mut self, taken: &Taken, held: usize) -> Result<Option<Outcome>, StartupError> {
        if self.room.is_short() {
            return Ok(Some(Err(self.room.refusal())));
        }
        let mut message = match WriteMessage::decode(&taken.request) {
            Ok(message) => message,
            Err(error) => return Ok(Some(Err(error))),
        };
        if let Err(error) = self.take_notifications(&mut message) {
            return Ok(Some(Err(error)));
        }
        let mut control = WriteControl::new(self.node, self.me, taken.session, taken.deadline);
        if !self.open.is_empty() {
            control = control.giving_way();
        }
        let confirmation = message.confirmation();
        let mut rows = AnswerRows::new(message.replies, self.desk.room(held));
        if let Err(error) = self.tables.begin() {
            return into_sql_error(error).map(|error| Some(Err(error)));
        }
        let executed = self.tables.execute(&message.into_request(), &control, &mut rows);
        if self.tables.take_restored() {
            self.timer.hurry();
        }
        if executed.is_err() && control.gave_way() {
            return Ok(None);
        }
        let record = match executed {
            Ok(executed) => executed.record,
            Err(error) => return Ok(Some(Err(error))),
        };
        let notifications = self.reserve_notifications(taken.session);
        self.log_executed(record, notifications, rows, confirmation).map(Some)
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
        confirmation: Confirmation,
    ) -> Result<Outcome, StartupError> {
        if record.is_empty() {
            // What it has seen of others' rows is to be durable; that others see it too is their business.
            let confirmation = Confirmation::Durable;
            return Ok(notifications.map(|notifications| {
                let answer = Answer::success(Lsn::INVALID, rows);
                Executed { answer, end: None, notifications, confirmation }
            }));
        }
        let logged = notifications.and_then(|reserved| Ok((self.log(record, confirmation)?, reserved)));
        let (end, notifications) = match logged {
            Ok(logged) => logged,
            Err(error) => {
                if let Err(error) = self.tables.rollback_last() {
                    return into_sql_error(error).map(Err);
                }
                return Ok(Err(error));
            }
        };
        self.open.push_back(end);
        self.timer.start(clock::now);
        let answer = Answer::success(end, rows);
        Ok(Ok(Executed { answer, end: Some(end), notifications, confirmation }))
    }

    fn log(&mut self, mut changes: Vec<u8>, confirmation: Confirmation) -> Result<Lsn, SqlError> {
        let now = Timestamp::from_unix_micros(clock::unix_micros());
        engine::change::stamp(&mut changes, self.node.wal.horizon(), now);
        let mut body = RecordBody::new(Rmgr::CHANGE, confirmation.record_info(), 0, &changes)
            .map_err(|error| SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, error.to_string()))?;
        match self.xlog.insert(&mut body) {
            Ok(inserted) => Ok(inserted.end),
            Err(error) => Err(log_error(&error)),
        }
    }

    /// Commits the open transaction if it is decided, and uses the time between two transactions.
    fn commit(&mut self) -> Result<(), StartupError> {
        match self.open.back() {
            Some(&end) if self.node.wal.horizon() >= end => self.commit_to(end)?,
            Some(_) => self.commit_for_readers()?,
            // Statements that changed nothing have left an empty transaction.
            None if self.tables.transaction_open() => self.tables.abandon(),
            None => {}
        }
        if self.open.is_empty() {
            self.pass_others_records()?;
            self.tables_log.restart_if_wanted(&mut self.tables);
            if std::mem::take(&mut self.cut_wanted) {
                self.room.cut_log(&mut self.tables);
            }
        }
        Ok(())
    }

    /// Sessions log messages, the checkpointer its records: the tables' LSN passes them too, but not each of them (see
    /// RecoveryCtl::committed), or redo would stand still and the log could never go. Between two transactions.
    fn pass_others_records(&mut self) -> Result<(), StartupError> {
        let (size, decided) = (self.node.segment_size, self.node.wal.horizon());
        if size.number_of(decided) > size.number_of(self.tables.applied_lsn()) {
            self.commit_to(decided)?;
        }
        Ok(())
    }

    fn commit_to(&mut self, end: Lsn) -> Result<(), StartupError> {
        if self.room.must_wait() {
            return Ok(());
        }
        debug_assert!(self.node.wal.horizon() >= end);
        let commit = |tables: &mut engine::Writer| {
            tables.begin().and_then(|()| tables.commit(end).map_err(PutError::Failed))
        };
        self.commit_with_room(end, commit)
    }

    /// Commits up to `end`, as `commit` does it, if there is room or some can be made; and tells of it.
    fn commit_with_room(
        &mut self,
        end: Lsn,
        commit: impl Fn(&mut engine::Writer) -> Result<(), PutError>,
    ) -> Result<(), StartupError> {
        loop {
            match commit(&mut self.tables) {
                Ok(()) => break,
                Err(PutError::Failed(error)) if error.sqlstate == SqlState::DISK_FULL => {
                    if !self.room.run_short(&mut self.tables, &error) {
                        return Ok(());
                    }
                }
                Err(PutError::Failed(error)) => {
                    panic_if_broken(&error);
                    let error = with_hint(&error);
                    return Err(StartupError::new(format!("could not commit the tables: {error}")));
                }
                Err(error) => return Err(StartupError::new(format!("could not commit the tables: {error}"))),
            }
        }
        self.open.drain(..self.open.partition_point(|one| *one <= end));
        self.timer.committed(self.node.recovery.has_waiters(), clock::now);
        self.readers_wait_since = None;
        self.node.recovery.note_committed(end);
        self.node.recovery.publish_applied(self.node, end.max(self.node.recovery.applied()));
        self.tables_log.committed(&mut self.tables);
        self.room.regain();
        Ok(())
    }
}

/// The statement that makes a system's first role, which may do everything.
pub fn first_role(name: &str, verifier: Option<String>) -> String {
    let options = RoleOptions {
        superuser: Some(true),
        replication: Some(true),
        login: Some(true),
        password: verifier.map(NewPassword::Given),
        ..RoleOptions::default()
    };
    RoleCommand::Create(name.to_owned(), options).to_string()
}

/// A request that succeeded.
struct Executed {
    answer: Vec<u8>,
    /// End of its record, if it changed anything.
    end: Option<Lsn>,
    notifications: Option<Reservation>,
    /// What the session waits for before it tells its client.
    confirmation: Confirmation,
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
