//! Recovery: from the applied LSN in the tables to the end of the log. There is no other recovery path.
//!
//! The steps, each of which may be cut short by a crash and is then done again:
//!
//! 1. Unless the node was shut down: write the tables' own log again and fsync it ([`super::tables_log`]).
//!    Read the applied LSN from the tables (the transaction that put the rows stored it).
//! 2. Read the log from the applied LSN until a record isn't one: that is the end. Primary: from the last checkpoint, if
//!    that is earlier, for the last record is the back link of the next. A primary's log that ends before the applied
//!    LSN or the last checkpoint, or that [`super::damage`] proves to have gone on, is refused: it has lost what was
//!    acknowledged. A standby fetches what it lacks.
//! 3. Write that stretch of the log again and fsync it: bytes read back after a crash may be in the page cache alone.
//!    Only now is it called flushed.
//! 4. Primary: clear what lies behind the end, so that no leftover can ever chain to a new record.
//! 5. Put the rows of the records between the applied LSN and the horizon. Primary: the horizon is the end of the log.
//!    Standby: the largest horizon that the log itself proves; the upstream will tell more. Primary with synchronous
//!    standbys: the same, and the rows behind it are put as well, but not committed: the writer goes on with that
//!    transaction, and commits it when the standbys have confirmed.
//!
//! **A record whose rest is missing** at the end of the log (PostgreSQL's aborted contrecord) is cut off like any other
//! leftover. PostgreSQL must keep its first part and write OVERWRITE_CONTRECORD behind it, as its flush LSN may lie
//! inside of a record, so that part may have been streamed. Ours is always the end of a record ([`crate::xlog`]): bytes
//! that were streamed, reported or acknowledged belong to whole records which are durable, hence are found here. On a
//! standby the part is simply the log as far as it came; the rest is streamed from the start of the segment.
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xlogrecovery.c; differs in: redo is what the tables say; no
//! OVERWRITE_CONTRECORD.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use engine::change::ChangeRecord;
use engine::error::SqlState;
use failpoint::Site;
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::reader::{ReadError, Record, WalReader};
use wal::record::Rmgr;
use wal::source::StoreSource;
use wal::timeline::TimelineId;
use wal::xlog::{self, CheckPoint};

use super::commit_timer::CommitTimer;
use super::replay::put_with_room;
use super::room::Room;
use super::tables_log::TablesLog;
use super::{StartupError, backup, damage, with_hint};
use crate::control::{ControlFile, NodeState};
use crate::node::Node;
use crate::notify::outgoing::Outgoing;
use crate::reserve::Reserve;
use crate::restore_command;
use crate::sync_rep;

/// What the process goes on with.
pub(super) struct Recovered {
    /// The tables, with everything up to the horizon committed.
    pub(super) tables: engine::Writer,
    /// What pg_notify() adds to while the tables execute a request.
    pub(super) notifications: Rc<RefCell<Outgoing>>,
    /// Keeps SQLite's log in front of the tables bounded.
    pub(super) tables_log: TablesLog,
    /// Knows whether their disk is full.
    pub(super) room: Room,
    /// End of the valid, durable log.
    pub(super) end: Lsn,
    /// Start of the last record that was put or passed; invalid if none was.
    pub(super) last_record: Lsn,
    /// Reads on from the last record that was put or passed.
    pub(super) reader: WalReader<StoreSource>,
    /// The control file as found.
    pub(super) control: ControlFile,
    /// The timelines of the log.
    pub(super) history: TimelineHistory,
    /// Whether the log is another's: that of a standby, or of one whose promotion was cut off (see `super::promotion`).
    pub(super) received: bool,
    /// Whether what is put now may be committed: not beyond a primary's horizon.
    pub(super) is_decided: bool,
    /// Ends of the records that were put beyond it, in the open transaction.
    pub(super) undecided: Vec<Lsn>,
    /// Whether COMMITs may be put off: on a standby, once it serves readers.
    pub(super) puts_off: bool,
    /// Records put since the last commit.
    pub(super) open_puts: usize,
    /// When they are to be committed although nobody asks.
    pub(super) timer: CommitTimer,
}

/// Brings the tables to the end of the log (or to the horizon, on a standby). None: told to end before that.
pub(super) fn recover(
    node: &'static Node,
    me: &Me,
    standby: bool,
) -> Result<Option<Recovered>, StartupError> {
    let control = ControlFile::read(&node.data.control()).map_err(StartupError::new)?;
    note_recovering(node, &control, standby)?;
    let room = Room::new(node);
    let mut store = node.segment_store();
    store.remove_temporary().map_err(StartupError::new)?;
    store.remove_newer_timelines(node.wal.timeline()).map_err(StartupError::new)?;
    backup::remove_leftovers(node)?;
    let received = standby || control.is_received();
    if received && node.wal.timeline() > TimelineId::FIRST {
        restore_command::restore_history(node, me, node.wal.timeline()).map_err(StartupError::new)?;
    }
    if !matches!(control.state, NodeState::ShutDown | NodeState::ShutDownInRecovery) {
        let path = node.data.state_db_wal();
        failpoint::io(Site::RecoveryTables, || super::tables_log::make_durable(&path)).map_err(|error| {
            StartupError::new(format!("could not write file \"{}\" again: {error}", path.display()))
        })?;
    }
    let notifications = Rc::<RefCell<Outgoing>>::default();
    let tables = open_tables(node, &notifications)?;
    let log_start = node.segment_size.log_start();
    let applied = tables.applied_lsn().max(log_start);
    let from = if received { applied } else { applied.min(backup::reading_start(&control)).max(log_start) };

    let Some(found) = find_end(node, me, from)? else { return Ok(None) };
    backup::refuse_unfinished(node, &control, found.end)?;
    if !standby {
        // The checkpoint of a standby is none of its own.
        refuse_lost_log(&found, applied, if received { Lsn::INVALID } else { Lsn(control.checkpoint) })?;
        if !received {
            damage::refuse(node, &found)?;
        }
    }
    let is_clean = is_clean(&control);
    if !is_clean {
        tracing::info!("end of the log at {}: {}", found.end, found.reason);
    }
    make_durable(node, from, found.end, received)?;
    backup::leave(node, &control, found.end)?;
    let known = found.horizon.max(applied);
    let decided_alone = received || !sync_rep::is_synchronous(node);
    let horizon = if !standby && decided_alone { found.end } else { known };
    node.wal.advance_horizon(horizon);
    publish_end(node, applied, found.end, standby);

    let mut recovered = Recovered {
        tables,
        notifications,
        tables_log: TablesLog::new(node),
        room,
        end: found.end,
        last_record: found.last_record,
        reader: new_reader(node, applied)?,
        control,
        history: history(node)?,
        received,
        is_decided: true,
        undecided: Vec::new(),
        puts_off: false,
        open_puts: 0,
        timer: CommitTimer::default(),
    };
    recovered.reader.source_mut().set_limit(found.end);
    if applied < found.end {
        tracing::info!("redo starts at {applied}");
        if !redo(node, me, &mut recovered, horizon, standby)? {
            return Ok(None);
        }
    } else if !standby && !is_clean {
        tracing::info!("redo is not required");
    }
    Ok(Some(recovered))
}

/// Whether a primary was shut down in order, or has never run.
fn is_clean(control: &ControlFile) -> bool {
    matches!(control.state, NodeState::ShutDown | NodeState::StartingUp)
}

/// Step 5 of the header; false: told to end before that.
fn redo(
    node: &Node,
    me: &Me,
    recovered: &mut Recovered,
    horizon: Lsn,
    standby: bool,
) -> Result<bool, StartupError> {
    let mut done = put_with_room(node, me, recovered, horizon)?;
    let end = recovered.end;
    if !standby && horizon < end && !me.pending().contains(Interrupts::TERMINATE) {
        tracing::info!("records after {horizon} wait for the synchronous standbys to confirm them");
        recovered.is_decided = false;
        done = put_with_room(node, me, recovered, end)?;
    }
    if me.pending().contains(Interrupts::TERMINATE) {
        return Ok(false);
    }
    if !recovered.received && is_clean(&recovered.control) {
        // The record of the shutdown was read, but nothing was recovered.
        node.recovery.replayed.store(0, Ordering::Release);
    }
    tracing::info!("redo done at {}", done.position);
    Ok(true)
}

/// What the tables hold and the last checkpoint were durable: a log without them is damaged.
fn refuse_lost_log(found: &End, applied: Lsn, checkpoint: Lsn) -> Result<(), StartupError> {
    let End { end, reason, .. } = found;
    let lost = if *end < applied {
        format!("before {applied}, up to which the tables were written")
    } else if checkpoint.is_valid() && *end <= checkpoint {
        format!("before the end of the last checkpoint record at {checkpoint}")
    } else {
        return Ok(());
    };
    Err(StartupError::new(format!(
        "the log ends at {end} ({reason}), {lost}\nHINT:  Segments of pg_wal were lost or damaged. Restore them, or clone the node again."
    )))
}

/// Says in the log and in the control file what is about to happen.
fn note_recovering(node: &Node, control: &ControlFile, standby: bool) -> Result<(), StartupError> {
    if control.system_identifier != node.system_identifier {
        return Err(StartupError::new("the control file was replaced while the node started"));
    }
    let last_known = wal::timestamp::Timestamp(control.time);
    match control.state {
        NodeState::StartingUp => {}
        NodeState::ShutDown => tracing::info!("database system was shut down at {last_known}"),
        NodeState::ShutDownInRecovery => {
            tracing::info!("database system was shut down in recovery at {last_known}");
        }
        NodeState::InCrashRecovery => {
            tracing::info!("database system was interrupted while in recovery at {last_known}");
        }
        NodeState::InArchiveRecovery | NodeState::InProduction => {
            tracing::info!("database system was interrupted; last known up at {last_known}");
        }
    }
    if standby {
        tracing::info!("entering standby mode");
    } else if !matches!(control.state, NodeState::ShutDown | NodeState::StartingUp) {
        tracing::info!("database system was not properly shut down; automatic recovery in progress");
    }
    if control.is_received() && !standby {
        // A promotion that was cut off: what the log is, is not forgotten before that is completed.
        return Ok(());
    }
    let state = if standby { NodeState::InArchiveRecovery } else { NodeState::InCrashRecovery };
    node.update_control(|control| control.state = state).map(|_| ()).map_err(StartupError::new)
}

/// Opens them, with the room of the reserve if there is no other: SQLite makes the index of its log anew.
fn open_tables(
    node: &'static Node,
    notifications: &Rc<RefCell<Outgoing>>,
) -> Result<engine::Writer, StartupError> {
    let open = || engine::Writer::open(&node.data.state_db(), &node.writer_options(Rc::clone(notifications)));
    let opened = match open() {
        Err(error) if error.sqlstate == SqlState::DISK_FULL && Reserve::Tables.release(node) => open(),
        opened => opened,
    };
    opened.map_err(|error| StartupError::new(format!("could not open the tables: {}", with_hint(&error))))
}

/// A reader over the segment files, from `start`.
pub(super) fn new_reader(node: &Node, start: Lsn) -> Result<WalReader<StoreSource>, StartupError> {
    let history = history(node)?;
    let source = StoreSource::new(node.segment_store(), history.clone());
    Ok(WalReader::new(source, start, node.segment_size)
        .with_system_identifier(node.system_identifier)
        .with_history(history))
}

/// The timelines of this node's log.
pub(super) fn history(node: &Node) -> Result<TimelineHistory, StartupError> {
    let timeline = node.wal.timeline();
    let found = node.segment_store().read_history(timeline).map_err(StartupError::new)?;
    Ok(found.unwrap_or_else(|| TimelineHistory::without_file(timeline)))
}

/// Where a log ends.
pub(super) struct End {
    /// The end of the last record.
    pub(super) end: Lsn,
    last_record: Lsn,
    /// Largest horizon that a record carries.
    horizon: Lsn,
    /// Why the log ends there.
    pub(super) reason: String,
    /// What was found wrong lies at or behind this: `end`, or a page that should continue the record there.
    pub(super) broken: Lsn,
}

/// Reads until a record isn't one. None: told to end before that.
fn find_end(node: &Node, me: &Me, from: Lsn) -> Result<Option<End>, StartupError> {
    let mut reader = new_reader(node, from)?;
    let mut horizon = Lsn::INVALID;
    let (reason, broken) = loop {
        if terminated(me) {
            return Ok(None);
        }
        match reader.next() {
            Ok(record) => horizon = horizon.max(carried_horizon(&record)?),
            Err(ReadError::EndOfLog { message, aborted, .. }) => {
                break (message, aborted.map_or(reader.position(), |aborted| aborted.missing_page));
            }
            Err(ReadError::NotYet) => break ("the log file ends".to_owned(), reader.position()),
            Err(ReadError::Io(error)) => return Err(StartupError::of_log(error)),
        }
    };
    let last_record = reader.last_record().unwrap_or(Lsn::INVALID);
    Ok(Some(End { end: reader.position(), last_record, horizon, reason, broken }))
}

/// Whether the process was told to end; looks for signals, as nothing here waits.
pub(super) fn terminated(me: &Me) -> bool {
    // An error means that the signalfd is gone; the next wait will say so.
    let _ = me.poll_signals();
    me.serve_barriers();
    me.pending().contains(Interrupts::TERMINATE)
}

/// The horizon that a record was inserted with; invalid when its kind carries none.
pub(super) fn carried_horizon(record: &Record<'_>) -> Result<Lsn, StartupError> {
    if record.rmgr == Rmgr::CHANGE {
        return Ok(decode_change(record)?.horizon);
    }
    if is_checkpoint(record) {
        return CheckPoint::decode(record.main_data)
            .map(|checkpoint| checkpoint.horizon)
            .map_err(|error| StartupError::new(format!("{error} at {}", record.start)));
    }
    Ok(Lsn::INVALID)
}

pub(super) fn is_checkpoint(record: &Record<'_>) -> bool {
    let info = record.info & 0xF0;
    record.rmgr == Rmgr::XLOG
        && (info == xlog::INFO_CHECKPOINT_ONLINE || info == xlog::INFO_CHECKPOINT_SHUTDOWN)
}

pub(super) fn decode_change<'a>(record: &Record<'a>) -> Result<ChangeRecord<'a>, StartupError> {
    ChangeRecord::decode(record.main_data).map_err(|error| {
        StartupError::new(format!("change record at {} can't be decoded: {error}", record.start))
    })
}

/// Steps 3 and 4 of the header.
fn make_durable(node: &Node, from: Lsn, end: Lsn, received: bool) -> Result<(), StartupError> {
    let mut store = node.segment_store();
    let history = history(node)?;
    // A standby made from a backup without log has none yet.
    if from < end || !received {
        failpoint::step(Site::RecoveryLog, || store.make_durable(&history, from, end))
            .map_err(StartupError::new)?;
    }
    if !received {
        failpoint::step(Site::RecoveryClear, || store.clear_after(node.wal.timeline(), end))
            .map_err(StartupError::new)?;
    }
    Ok(())
}

/// From here on others may see how far the log and the tables are.
fn publish_end(node: &Node, applied: Lsn, end: Lsn, standby: bool) {
    if standby {
        node.recovery.replayed.store(applied.0, Ordering::Release);
    }
    node.wal.insert_end.store(end.0, Ordering::Release);
    node.wal.written.store(end.0, Ordering::Release);
    node.wal.flushed.store(end.0, Ordering::Release);
    node.recovery.acknowledged.store(applied.0, Ordering::Release);
    node.recovery.note_committed(applied);
    node.recovery.publish_applied(node, applied);
}
