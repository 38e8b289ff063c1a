//! Replay: puts the rows of records into the tables, and commits them together.
//!
//! Who calls says up to where: recovery up to the end of the log, a standby up to the horizon that its upstream has told. A
//! COMMIT is what costs, so as many records share one as may: it comes when the transaction has grown large, when a reader
//! waits for what is in it, and otherwise later ([`super::commit_timer`]). A record that was put and is not
//! committed is put again after a crash: the applied LSN moves with the rows, in the same transaction.
//!
//! **A full disk of the tables** ends neither the node nor the log: everything since the last commit is dropped, the reader
//! goes back to there, and the same records are put again when there is room ([`super::room`]).
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xlogrecovery.c (PerformWalRecovery); differs in: records are put by
//! SQL's rows, not by pages, and several share a transaction.

use std::sync::atomic::Ordering;

use engine::error::{SqlError, SqlState};
use engine::writer::PutError;
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wal::reader::{ReadError, Record};
use wal::record::Rmgr;

use super::commit_timer;
use super::hot_standby::{delayed_until, wants_feedback};
use super::recovery::{Recovered, decode_change, is_checkpoint, terminated};
use super::{StartupError, panic_if_broken, with_hint};
use crate::checkpointer::request_checkpoint_if_due;
use crate::node::Node;
use crate::wait::wait_latch;

/// Why records could not be put.
enum ReplayError {
    /// The disk of the tables is full; nothing is lost.
    NoRoom(SqlError),
    /// The node can't go on.
    Fatal(StartupError),
}

impl From<StartupError> for ReplayError {
    fn from(error: StartupError) -> ReplayError {
        ReplayError::Fatal(error)
    }
}

/// [`put_if_room`], again and again while the disk of the tables is full: until there is room, or the process is to end.
pub(super) fn put_with_room(
    node: &Node,
    me: &Me,
    recovered: &mut Recovered,
    horizon: Lsn,
) -> Result<Progress, StartupError> {
    loop {
        if let Some(progress) = put_if_room(node, me, recovered, horizon)? {
            return Ok(progress);
        }
        while let Some(due) = recovered.room.retry().filter(|due| clock::now() < *due) {
            me.latch().reset();
            if me.pending().contains(Interrupts::TERMINATE) {
                // The caller's wait must not begin with the set that this one consumed.
                me.latch().set();
                return Ok(Progress::at(recovered.reader.position()));
            }
            wait_latch(me, Some(due.saturating_since(clock::now())), WaitEvent::TableWrite);
        }
    }
}

/// [`put_up_to`]. None: the disk of the tables is full, to be called again when the room says so; then everything since the
/// last commit is read and put again.
pub(super) fn put_if_room(
    node: &Node,
    me: &Me,
    recovered: &mut Recovered,
    horizon: Lsn,
) -> Result<Option<Progress>, StartupError> {
    if recovered.room.must_wait() {
        return Ok(None);
    }
    loop {
        match put_up_to(node, me, recovered, horizon) {
            Ok(progress) => {
                recovered.room.regain();
                return Ok(Some(progress));
            }
            Err(ReplayError::Fatal(error)) => return Err(error),
            Err(ReplayError::NoRoom(error)) => {
                recovered.abandon();
                recovered.reader.seek(recovered.tables.applied_lsn().max(node.segment_size.log_start()));
                if !recovered.room.run_short(&mut recovered.tables, &error) {
                    return Ok(None);
                }
            }
        }
    }
}

/// How far [`put_up_to`] came.
pub(super) struct Progress {
    /// End of the last record that was put or passed.
    pub(super) position: Lsn,
    /// Set when what follows is no record although the source has it: what is wrong with it.
    pub(super) invalid: Option<String>,
    /// When the next record has been delayed for long enough, if it is held back for that.
    pub(super) delayed_until: Option<MonoTime>,
    /// Somebody waits to hear that a record has been put.
    pub(super) feedback: bool,
}

impl Progress {
    fn at(position: Lsn) -> Progress {
        Progress { position, invalid: None, delayed_until: None, feedback: false }
    }
}

/// Puts the rows of the records that end at or before `horizon`, as far as the source has them, and commits.
fn put_up_to(node: &Node, me: &Me, recovered: &mut Recovered, horizon: Lsn) -> Result<Progress, ReplayError> {
    let mut progress = Progress::at(Lsn::INVALID);
    // Only what is new on a standby that serves readers is delayed.
    let delay = node.settings().recovery_min_apply_delay.filter(|_| recovered.puts_off);
    let mut done = false;
    while !done {
        let before = recovered.reader.position();
        if before >= recovered.reader.source().limit() {
            // There is nothing to be read: the usual end.
            break;
        }
        match recovered.reader.next() {
            Ok(record) if record.end > horizon => {
                // Not decided yet: it is read again when the horizon has moved.
                recovered.reader.seek(before);
                done = true;
            }
            Ok(record) => {
                progress.delayed_until = delay.map_or(Ok(None), |delay| delayed_until(&record, delay))?;
                if progress.delayed_until.is_some() {
                    recovered.reader.seek(before);
                    break;
                }
                recovered.last_record = record.start;
                progress.feedback |= wants_feedback(&record);
                if put_record(node, &mut recovered.tables, &record)? {
                    recovered.open_puts += 1;
                    if !recovered.is_decided {
                        recovered.undecided.push(record.end);
                    }
                    recovered.timer.start(clock::now);
                }
                node.recovery.replayed.store(record.end.0, Ordering::Release);
            }
            Err(ReadError::NotYet) => done = true,
            Err(ReadError::EndOfLog { message, .. }) => {
                progress.invalid = (before < recovered.reader.source().limit()).then_some(message);
                done = true;
            }
            Err(ReadError::Io(error)) => return Err(StartupError::of_log(error).into()),
        }
        done |= terminated(me);
        if recovered.must_commit() {
            recovered.commit(node)?;
        }
    }
    if recovered.is_decided {
        // From here on a reader that begins waits for these records; the wait ends their being put off.
        node.recovery.acknowledged.fetch_max(recovered.reader.position().0, Ordering::AcqRel);
    }
    let is_due = recovered.is_commit_due(node) || me.pending().contains(Interrupts::TERMINATE);
    if is_due && recovered.is_decided {
        recovered.commit(node)?;
    }
    progress.position = recovered.reader.position();
    Ok(progress)
}

/// Puts one record's rows; false when the record changes no table.
fn put_record(node: &Node, tables: &mut engine::Writer, record: &Record<'_>) -> Result<bool, ReplayError> {
    if is_checkpoint(record) {
        node.recovery.replayed_checkpoint.store(record.start.0, Ordering::Release);
    }
    if record.rmgr != Rmgr::CHANGE {
        return Ok(false);
    }
    let change = decode_change(record)?;
    tables
        .begin()
        .and_then(|()| tables.put(record.end, &change))
        .map_err(|error| replay_error(error, &format!("could not put the record at {}", record.start)))?;
    node.recovery.last_xact_time.store(change.commit_time.0, Ordering::Relaxed);
    Ok(true)
}

impl Recovered {
    /// Whether the transaction must not grow any more.
    fn must_commit(&self) -> bool {
        commit_timer::is_full(self.open_puts, self.tables.uncommitted_bytes()) && self.is_decided
    }

    /// Whether what is open is to be committed now although it may grow.
    fn is_commit_due(&self, node: &Node) -> bool {
        !self.puts_off
            || self.room.is_short()
            || node.recovery.has_waiters()
            || self.tables_log.restart_wanted()
            || self.timer.due().is_none_or(|due| due <= clock::now())
    }

    /// Lets the next put commit what is open, for whoever is about to do something that may take long. False: nothing is
    /// open.
    pub(super) fn hurry_commit(&mut self) -> bool {
        if self.open_puts > 0 {
            self.timer.hurry();
        }
        self.open_puts > 0
    }

    /// Drops the puts that are not committed. The reader must go back to before them.
    pub(super) fn abandon(&mut self) {
        self.tables.abandon();
        self.undecided.clear();
        self.open_puts = 0;
        self.timer.stop();
    }

    /// Starts SQLite's log over if the checkpointer has asked and no transaction is open.
    pub(super) fn restart_tables_log(&mut self) {
        if self.open_puts == 0 {
            self.tables_log.restart_if_wanted(&mut self.tables);
        }
    }

    /// Commits the open puts, if any, and publishes how far the tables are.
    fn commit(&mut self, node: &Node) -> Result<(), ReplayError> {
        let position = self.reader.position();
        let segment_of = |lsn| node.segment_size.number_of(lsn);
        // Records that change no table move the LSN in the tables too, but not each of them: see RecoveryCtl::committed.
        if self.open_puts > 0 || segment_of(position) > segment_of(self.tables.applied_lsn()) {
            let committed =
                self.tables.begin().and_then(|()| self.tables.commit(position).map_err(PutError::Failed));
            match committed.map_err(|error| replay_error(error, "could not commit the tables")) {
                Ok(()) => self.note_commit(node, position),
                // It was for the LSN alone, which the next commit moves: no reason not to start on a full disk.
                Err(ReplayError::NoRoom(_)) if self.open_puts == 0 => self.tables.abandon(),
                Err(error) => return Err(error),
            }
        }
        // Not back: after a full disk records are passed again that were passed before.
        node.recovery.publish_applied(node, position.max(node.recovery.applied()));
        Ok(())
    }

    fn note_commit(&mut self, node: &Node, position: Lsn) {
        self.open_puts = 0;
        self.timer.committed(node.recovery.has_waiters(), clock::now);
        node.recovery.note_committed(position);
        node.note_roles(self.tables.take_roles_changed());
        request_checkpoint_if_due(node, position);
        self.tables_log.committed(&mut self.tables);
        self.tables_log.restart_if_wanted(&mut self.tables);
    }
}

/// Tells a full disk, which may go by, from what ends the node.
fn replay_error(error: PutError, what: &str) -> ReplayError {
    match error {
        PutError::Failed(error) if error.sqlstate == SqlState::DISK_FULL => ReplayError::NoRoom(error),
        PutError::Failed(error) => {
            panic_if_broken(&error);
            StartupError::new(format!("{what}: {}", with_hint(&error))).into()
        }
        error => StartupError::new(format!("{what}: {error}")).into(),
    }
}
