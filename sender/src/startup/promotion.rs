//! Promotion: a standby stops receiving and becomes a primary, on a new timeline, in the same processes.
//!
//! Asked for by the interrupt PROMOTE (`standby promote`, pg_promote()). The steps:
//!
//! 1. The walreceiver ends. What it had written is durable by then, or is not there.
//! 2. All that is flushed is put and committed, decided or not: a commit that anybody was told of is among it. Where it
//!    ends (the end of its last whole record) is the *switch point*.
//! 3. The new timeline is one higher than any that is known, here or in the archive. Its first segment is made: the old
//!    one's bytes up to the switch point, then zeros. Then its history file.
//! 4. **standby.signal is removed.** Up to here the node was a standby, from here on it is a primary.
//! 5. The control file gets the new timeline; then shared memory, the first record (END_OF_RECOVERY), and all processes are
//!    told by a barrier that they may write.
//!
//! **A crash at every step.** Up to 4: the node starts as the standby that it was. What 3 left is on a timeline that
//! the control file doesn't name: the segments are removed at that start; the history stays, so that its number is
//! not used again, and is overwritten when an upstream has one of that number. After 4, before 5: the node has no
//! standby.signal, and a control file that says that its log was received. That is taken for what it is, a promotion
//! that was cut off: recovery puts all of the log and then comes here again, for another timeline (so it does when somebody has
//! removed standby.signal by hand). After the control file: crash recovery on the new timeline.
//! PostgreSQL, which removes standby.signal first and has no such rule, would go on writing on the old timeline.
//!
//! **What others see.** Walsenders: they read the flush LSN before the timeline, which is stored before the flush LSN
//! passes the switch point; so none sends a byte of the new timeline as one of the old. Sessions find `in_recovery`
//! cleared when the first record is durable.
//!
//! **Told apart.** Two standbys may be promoted at the same position. The reason in the history file ends in a random
//! number, and walreceivers compare the histories.
//!
//! Follows PostgreSQL 15 StartupXLOG() and XLogInitNewTimeline() in src/backend/access/transam/xlog.c; differs in: the order of
//! 3 and 4, and the rule above.

use std::io;
use std::sync::atomic::Ordering;

use failpoint::Site;
use ipc::barrier::BarrierTypes;
use ipc::interrupt::Interrupts;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::file::{remove_if_there, sync_directory};
use wal::last_record::find_last_record;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;

use super::StartupError;
use super::recovery::{Recovered, new_reader, terminated};
use super::replay::put_with_room;
use crate::archive_status;
use crate::control::{ControlFile, NodeState};
use crate::node::Node;
use crate::restore_command;
use crate::wait::wait_latch;

/// Why the node can't be promoted now, if it can't.
pub(super) fn refusal(node: &Node, recovered: &Recovered) -> Option<String> {
    let (applied, flushed) = (recovered.tables.applied_lsn(), node.wal.flush_lsn());
    (flushed < applied).then(|| {
        format!(
            "cannot promote: the log received ends at {flushed}, before {applied}, up to which the tables were copied\nHINT:  Let the standby stream until it is consistent."
        )
    })
}

/// The timeline that was left, and where.
#[derive(Clone, Copy)]
pub(super) struct Left {
    timeline: TimelineId,
    at: Lsn,
}

/// Makes a primary of a standby that has recovered, up to where its writer begins. None: told to end before that was decided.
pub(super) fn promote(
    node: &'static Node,
    me: &Me,
    mut recovered: Recovered,
) -> Result<Option<(Recovered, Left)>, StartupError> {
    if !end_walreceiver(node, me) || !put_everything(node, me, &mut recovered)? {
        return Ok(None);
    }
    let (old, end) = (node.wal.timeline(), recovered.reader.position());
    tracing::info!("redo done at {end}");
    let last = node.recovery.last_xact_time.load(Ordering::Relaxed);
    if last != 0 {
        tracing::info!("last completed transaction was at log time {}", Timestamp(last));
    }
    recovered.last_record = last_record(node, &recovered, end)?;
    let new = TimelineId(newest_timeline(node, me)?.0 + 1);
    tracing::info!("selected new timeline ID: {new}");
    switch(node, &recovered, new, end)?;
    tracing::info!("archive recovery complete");
    node.walreceiver.received_at_promotion.store(node.wal.flush_lsn().0, Ordering::Release);
    node.wal.timeline.store(new.0, Ordering::Release);
    node.wal.flushed.store(end.0, Ordering::Release);
    node.wal.horizon.store(end.0, Ordering::Release);
    recovered.end = end;
    recovered.control.state = NodeState::InCrashRecovery;
    Ok(Some((recovered, Left { timeline: old, at: end })))
}

/// Tells everybody that the node takes writes, and looks after what is left of the old timeline: segments behind the switch
/// point go; the one that was left in its middle goes to the archive under a name that says so.
pub(super) fn finish(node: &Node, me: &Me, left: Left) -> Result<(), StartupError> {
    // Cascades: their timeline has ended.
    node.wake_walsenders();
    me.emit_barrier(BarrierTypes::RECOVERY_ENDED);
    let mut store = node.segment_store();
    store.remove_from(left.timeline, left.at).map_err(StartupError::new)?;
    if archive_status::is_archiving(node) && node.segment_size.offset_of(left.at) != 0 {
        let segment = node.segment_size.number_of(left.at);
        match store.make_partial(left.timeline, segment) {
            Ok(partial) => archive_status::note(node, &partial),
            // The log went on from a newer timeline's copy of it.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(StartupError::new(error)),
        }
    }
    Ok(())
}

/// Ends the walreceiver; false when this process is to end too.
///
/// One that streams is waited for, as it makes durable what it has. Any other writes nothing of the log; it may be waiting for a
/// name server, and finds out later that it isn't wanted.
fn end_walreceiver(node: &Node, me: &Me) -> bool {
    let shared = node.walreceiver;
    loop {
        me.latch().reset();
        let revoked = shared.revoke();
        node.terminate(ProcNumber::WAL_RECEIVER);
        if revoked {
            // It may be writing a history file right now; whoever comes later sees that it isn't wanted.
            drop(node.control_lock.lock());
            return true;
        }
        if me.pending().contains(Interrupts::TERMINATE) {
            return false;
        }
        wait_latch(me, None, WaitEvent::WalReceiverExit);
    }
}

/// Step 2 of the header; false when this process is to end.
fn put_everything(node: &'static Node, me: &Me, recovered: &mut Recovered) -> Result<bool, StartupError> {
    let flushed = node.wal.flush_lsn();
    recovered.reader.source_mut().set_limit(flushed);
    recovered.puts_off = false;
    let progress = put_with_room(node, me, recovered, flushed)?;
    if terminated(me) {
        return Ok(false);
    }
    if let Some(message) = progress.invalid {
        tracing::warn!(
            "the log received goes on until {flushed}, but ends at {}: {message}",
            progress.position
        );
    }
    Ok(true)
}

/// The start of the record that ends at `end`.
fn last_record(node: &Node, recovered: &Recovered, end: Lsn) -> Result<Lsn, StartupError> {
    if recovered.last_record.is_valid() {
        return Ok(recovered.last_record);
    }
    let mut reader = new_reader(node, end)?;
    reader.source_mut().set_limit(end);
    let found = find_last_record(&mut reader, end).map_err(StartupError::new)?;
    // None: nothing was ever received.
    Ok(found.unwrap_or(Lsn::INVALID))
}

/// The newest timeline that anybody has told of.
fn newest_timeline(node: &Node, me: &Me) -> Result<TimelineId, StartupError> {
    let store = node.segment_store();
    let mut newest = node.wal.timeline();
    loop {
        newest = store.newest_timeline(newest).map_err(StartupError::new)?;
        let next = TimelineId(newest.0 + 1);
        if restore_command::restore_history(node, me, next).map_err(StartupError::new)?.is_none() {
            return Ok(newest);
        }
    }
}

/// Steps 3 to 5 of the header, on disk.
fn switch(node: &Node, recovered: &Recovered, new: TimelineId, end: Lsn) -> Result<(), StartupError> {
    let history = &recovered.history;
    let mut store = node.segment_store();
    let segment = node.segment_size.number_of(end);
    // Where the old timeline's bytes are: the segment may have been begun by a switch before.
    let old = match node.segment_size.offset_of(end) {
        0 => history.tli(),
        _ => store.timeline_of_segment(history, segment).map_err(StartupError::new)?,
    };
    failpoint::step(Site::PromotionSegment, || store.begin_timeline(old, new, end))
        .map_err(StartupError::new)?;
    let reason = format!("no recovery target specified, promotion {:016x}", random_id()?);
    let child = history.child(new, end, &reason);
    failpoint::step(Site::PromotionHistory, || store.write_history(&child)).map_err(StartupError::new)?;
    failpoint::io(Site::PromotionSignal, || remove_standby_signal(node)).map_err(|error| {
        let path = node.data.standby_signal();
        StartupError::new(format!("could not remove file \"{}\": {error}", path.display()))
    })?;
    let note = |control: &mut ControlFile| {
        control.timeline = new.0;
        control.state = NodeState::InCrashRecovery;
        // A standby's is none of its own. Recovery needs the last record, and nothing before it but what is not applied.
        control.checkpoint = recovered.last_record.0;
    };
    let changed = failpoint::step(Site::PromotionControl, || node.update_control(note));
    changed.map(|_| ()).map_err(StartupError::new)
}

fn random_id() -> Result<u64, StartupError> {
    let mut bytes = [0; 8];
    sys::random::fill(&mut bytes)
        .map_err(|error| StartupError::new(format!("could not get random bytes: {error}")))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Durably; nothing to do if a promotion that was cut off has done it.
fn remove_standby_signal(node: &Node) -> io::Result<()> {
    remove_if_there(&node.data.standby_signal())?;
    sync_directory(node.data.root())
}
