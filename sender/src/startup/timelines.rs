//! How a standby follows the log over a switch to another timeline.
//!
//! A standby has a *target*: the newest timeline that it knows to descend from its own, in the control file and
//! `WalCtl::timeline`. Its log belongs to the target's history, so each of its positions is on one timeline of that
//! history, and it streams that timeline: from before a switch point the old one, up to the switch point, where the
//! upstream ends the stream and the walreceiver waits to be told where to go on.
//!
//! [`adopt`] makes a timeline the target: the walreceiver has put its history into pg_wal, or the archive has it. It must
//! descend from the present one, and have left it at or behind everything that the tables hold. Then, in this order:
//!
//! 1. The new timeline's first segment is made, from the old one's bytes, if the log reaches the switch point. So the log
//!    stays durable without a gap while that segment is streamed again from its start.
//! 2. The control file names the new timeline. Before that no record of it is put: a restart would look for it on
//!    the old one.
//! 3. In shared memory: the timeline; what is flushed and was put, cut at the switch point (what lies behind it is the tail of
//!    a record, or was never decided); the horizon, which is where the target begins: whoever was promoted had put all of it.
//!
//! A crash between 1 and 2: segments of timelines that the control file doesn't know are removed at the next start.
//! Between 2 and the segment of 1, when that comes later: the older file counts up to its switch point
//! ([`wal::source`]).
//!
//! Follows PostgreSQL 15 rescanLatestTimeLine() in src/backend/access/transam/xlogrecovery.c; differs in: 1, and a local
//! history file alone is no reason to follow it.

use std::sync::atomic::Ordering;

use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;

use super::StartupError;
use super::recovery::{Recovered, new_reader};
use crate::node::Node;
use crate::tail;

/// Makes `target`, whose history is in pg_wal, the timeline that this standby follows. False: it can't, and the log says
/// why. The walreceiver must not stream.
pub(super) fn adopt(
    node: &Node,
    recovered: &mut Recovered,
    target: TimelineId,
) -> Result<bool, StartupError> {
    let current = node.wal.timeline();
    let Some(history) = node.segment_store().read_history(target).map_err(StartupError::new)? else {
        return Ok(false);
    };
    let Some(switch_point) = history.switch_point(current) else {
        tracing::info!("new timeline {target} is not a child of database system timeline {current}");
        return Ok(false);
    };
    if !recovered.go_back_to(node, switch_point)? {
        say_what_is_too_much(node, recovered, target, switch_point)?;
        return Ok(false);
    }
    let received = node.wal.flush_lsn();
    let flushed = received.min(switch_point);
    node.wal.flushed.store(flushed.0, Ordering::Release);
    node.walreceiver.written.store(flushed.0, Ordering::Release);
    begin(node, &history, history.tli_of_point(flushed))?;
    let changed = node.update_control(|control| {
        control.timeline = target.0;
        control.redo = control.redo.min(switch_point.0);
        if control.checkpoint >= switch_point.0 {
            control.checkpoint = 0;
        }
    });
    changed.map_err(StartupError::new)?;
    if received > switch_point {
        cut(node, recovered, switch_point, received)?;
    }
    // The timeline before anything beyond the switch point is flushed: see `super::promotion`.
    node.wal.timeline.store(target.0, Ordering::Release);
    let (_, decided) = history.newest_first().next().expect("a history has its own timeline");
    node.wal.horizon.store(decided.0, Ordering::Release);
    tracing::info!("new target timeline is {target}");
    recovered.history = history;
    recovered.reader = new_reader(node, recovered.reader.position())?;
    node.wake_walsenders();
    Ok(true)
}

/// Removes what was received behind the switch point, and says what it was. The log doesn't need that: nobody reads it there any
/// more.
fn cut(node: &Node, recovered: &Recovered, at: Lsn, received: Lsn) -> Result<(), StartupError> {
    let old = recovered.history.tli();
    let tail =
        tail::measure(node.segment_store(), &recovered.history, at, received).map_err(StartupError::new)?;
    tracing::info!(
        "cut off the end of timeline {old}, which the new one has not and the tables hold nothing of: {tail}"
    );
    let mut store = node.segment_store();
    if store.file(old, node.segment_size.number_before(at)).is_ok() {
        store.clear_after(old, at).map_err(StartupError::new)?;
    }
    Ok(())
}

/// The tables hold something that the new timeline has not.
fn say_what_is_too_much(
    node: &Node,
    recovered: &Recovered,
    target: TimelineId,
    switch_point: Lsn,
) -> Result<(), StartupError> {
    let (current, applied) = (node.wal.timeline(), recovered.tables.applied_lsn());
    let held = tail::measure(node.segment_store(), &recovered.history, switch_point, applied)
        .map_err(StartupError::new)?;
    tracing::error!(
        "new timeline {target} forked off current database system timeline {current} before current recovery point {applied}\nDETAIL:  The tables hold what timeline {target} has not: {held}.\nHINT:  Stop this node and clone it again with \"standby demote --reclone\"."
    );
    Ok(())
}

/// Which timeline the log goes on at the end of what is flushed; makes sure that the segment there has its beginning.
pub(super) fn goes_on(node: &Node, recovered: &mut Recovered) -> Result<TimelineId, StartupError> {
    let timeline = recovered.history.tli_of_point(node.wal.flush_lsn());
    if begin(node, &recovered.history, timeline)? {
        // The reader may have the older file of that segment open.
        recovered.reader = new_reader(node, recovered.reader.position())?;
    }
    Ok(timeline)
}

/// Makes the first segment of a timeline from the older one's, if the log goes on in it and it isn't there; whether it
/// made one.
fn begin(node: &Node, history: &TimelineHistory, timeline: TimelineId) -> Result<bool, StartupError> {
    let found = history.newest_first().find(|(tli, _)| *tli == timeline);
    let Some((_, switch_point)) = found.filter(|(_, begin)| begin.is_valid()) else { return Ok(false) };
    let segment = node.segment_size.number_of(switch_point);
    if node.segment_size.number_of(node.wal.flush_lsn()) != segment {
        return Ok(false);
    }
    let mut store = node.segment_store();
    match store.file(timeline, segment) {
        Ok(_) => return Ok(false),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(StartupError::new(error)),
    }
    let old = match node.segment_size.offset_of(switch_point) {
        0 => timeline,
        _ => store.timeline_of_segment(history, segment).map_err(StartupError::new)?,
    };
    store.begin_timeline(old, timeline, switch_point).map_err(StartupError::new)?;
    Ok(true)
}

impl Recovered {
    /// Goes back to before `switch_point` if replay has passed it; false if the tables hold something from behind it.
    ///
    /// Replay can have passed it without the tables: by records that change none, and by some that were not committed.
    fn go_back_to(&mut self, node: &Node, switch_point: Lsn) -> Result<bool, StartupError> {
        if self.reader.position() <= switch_point {
            return Ok(true);
        }
        let applied = self.tables.applied_lsn();
        if applied > switch_point {
            let held = tail::measure(node.segment_store(), &self.history, switch_point, applied)
                .map_err(StartupError::new)?;
            if held.changes > 0 {
                return Ok(false);
            }
        }
        self.abandon();
        if applied > switch_point {
            self.set_applied(switch_point)?;
        }
        let position = self.tables.applied_lsn().max(node.segment_size.log_start());
        self.reader.seek(position);
        self.last_record = Lsn::INVALID;
        let recovery = node.recovery;
        recovery.replayed_checkpoint.store(0, Ordering::Release);
        for word in [&recovery.replayed, &recovery.applied, &recovery.acknowledged, &recovery.committed] {
            word.fetch_min(position.0, Ordering::AcqRel);
        }
        Ok(true)
    }

    /// Has the tables say that they are up to `lsn`; what lies between changes none.
    fn set_applied(&mut self, lsn: Lsn) -> Result<(), StartupError> {
        let failed = |error: &dyn std::fmt::Display| {
            StartupError::new(format!("could not take the tables back to {lsn}: {error}"))
        };
        self.tables.begin().map_err(|error| failed(&error))?;
        self.tables.commit(lsn).map_err(|error| failed(&error))
    }
}
