//! A standby's replay: puts what is durable here and decided upstream, as it comes, for ever.
//!
//! Woken by the walreceiver (a flush, a larger horizon, its end), by readers that wait and by signals; its only time-out
//! is the next round through the sources of log (`sources`): the archive, then the upstream; while the disk of the tables
//! is full (`room`), also the next look for room, and everything else goes on. Before it runs a restore
//! command, which may take long, it commits what it has put, so that no reader waits for the command.
//!
//! Where the log goes over to another timeline it follows ([`super::timelines`]): the walreceiver has come to the end of the
//! old one, or the archive has the new one's history.
//!
//! What is flushed but is no record was damaged on its way, on the disk or in the archive: it is fetched again from the
//! start of its segment, and the log says what was wrong with it.
//!
//! Follows PostgreSQL 15 WaitForWALToBecomeAvailable() in src/backend/access/transam/xlogrecovery.c.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::pm_signal::PmSignal;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use settings::Settings;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wal::timeline::TimelineId;

use super::recovery::Recovered;
use super::replay::put_if_room;
use super::sources::{Sources, Step, View};
use super::{StartupError, promotion, timelines, told_to_end};
use crate::hand_over;
use crate::node::{Node, take_flag};
use crate::restore_command::{restore_newer_history, restore_segment};
use crate::wait::wait_latch;
use crate::walreceiver_state::{FORCE, FORCE_AT_ONCE, WalRcvState};

/// From a record that is put to the report that says so, unless one of a flush says it before: for views alone.
const REPORT_DELAY: Duration = Duration::from_millis(20);

/// Replays until told to end (none), or that the node is to be a primary.
pub(super) fn follow(
    node: &'static Node,
    me: &Me,
    mut recovered: Recovered,
) -> Result<Option<Recovered>, StartupError> {
    me.pm_signal(PmSignal::BEGIN_HOT_STANDBY);
    warn_without_source(node);
    recovered.puts_off = true;
    let mut upstream = Upstream::new(node);
    loop {
        me.latch().reset();
        if told_to_end(me) {
            return Ok(None);
        }
        node.attend(me);
        if upstream.is_promoted(me, &recovered) {
            return Ok(Some(recovered));
        }
        upstream.heed_settings();
        let flushed = node.wal.flush_lsn();
        recovered.reader.source_mut().set_limit(flushed);
        let decided = node.wal.horizon().max(upstream.archived);
        let paused = node.recovery.heed_pause();
        recovered.room.heed_release();
        // With the room of the reserve alone, nothing more is begun.
        let short = recovered.room.is_short();
        let held = paused || short && !recovered.room.is_stuck();
        let upto = if held { recovered.reader.position() } else { decided.min(flushed) };
        let mut delayed_until = None;
        if let Some(progress) = put_if_room(node, me, &mut recovered, upto)? {
            if progress.feedback {
                upstream.report_at_once();
            }
            if let Some(message) = progress.invalid {
                upstream.fetch_again(me, progress.position, &message);
                recovered.reader.seek(progress.position);
                continue;
            }
            upstream.prove(progress.position);
            delayed_until = progress.delayed_until;
        }
        if short && !recovered.room.is_short() {
            // What came while nothing more was begun has woken this process already, and won't again.
            continue;
        }
        recovered.restart_tables_log();
        upstream.report_if_due();
        if node.walreceiver.state() == WalRcvState::Waiting {
            upstream.go_on(&mut recovered)?;
            continue;
        }
        let now = clock::now();
        let until = match upstream.next(now) {
            Step::Restore => {
                if !recovered.hurry_commit() {
                    upstream.restore(me, &mut recovered)?;
                }
                continue;
            }
            Step::Stream => {
                upstream.start_walreceiver(me, &mut recovered)?;
                continue;
            }
            Step::Wait(until) => until,
        };
        let timeouts =
            [until, recovered.timer.due(), recovered.room.retry(), delayed_until, upstream.report_due];
        let event = match delayed_until {
            _ if paused => WaitEvent::RecoveryPause,
            Some(_) => WaitEvent::RecoveryApplyDelay,
            None => WaitEvent::RecoveryWalStream,
        };
        let timeout = timeouts.into_iter().flatten().min();
        wait_latch(me, timeout.map(|due| due.saturating_since(now)), event);
    }
}

fn warn_without_source(node: &Node) {
    let settings = node.settings();
    if settings.primary_conninfo.is_empty() && settings.restore_command.is_empty() {
        tracing::warn!(
            "specified neither primary_conninfo nor restore_command\nHINT:  This standby reads its own log only."
        );
    }
}

/// Where more log comes from.
struct Upstream {
    node: &'static Node,
    sources: Sources,
    /// End of the last segment that came from the archive: what of it is log is decided.
    archived: Lsn,
    /// What was put when the walreceiver was told last to report it.
    reported: Lsn,
    /// When it is to be told again.
    report_due: Option<MonoTime>,
    /// The newest timeline that this log turned out not to be able to follow.
    refused: TimelineId,
    /// The node is to be a primary when its upstream has shut down in order.
    switches_over: bool,
    /// The settings that `sources` knows, and the present walreceiver (or it knows newer ones).
    settings: Rc<Settings>,
}

impl Upstream {
    fn new(node: &'static Node) -> Upstream {
        Upstream {
            node,
            sources: Sources::new(),
            archived: Lsn::INVALID,
            reported: Lsn::INVALID,
            report_due: None,
            refused: TimelineId::INVALID,
            switches_over: false,
            settings: node.settings(),
        }
    }

    /// Whether the node is to be a primary from now on.
    fn is_promoted(&mut self, me: &Me, recovered: &Recovered) -> bool {
        let node = self.node;
        if !me.take(Interrupts::PROMOTE).is_empty() {
            // What is asked for is what the files say now: a request may have been withdrawn before it came here.
            if std::fs::remove_file(node.data.promote()).is_ok() {
                tracing::info!("received promote request");
                return self.can_promote(recovered);
            }
            self.switches_over = node.data.switchover().exists();
            if self.switches_over {
                tracing::info!("received switchover request: waiting for the primary to shut down");
            }
        }
        if !self.switches_over || node.walreceiver.state() != WalRcvState::Stopped {
            return false;
        }
        if !take_flag(&node.walreceiver.upstream_is_shut_down) {
            return false;
        }
        self.switches_over = false;
        hand_over::take_wish(&node.data) && self.can_promote(recovered)
    }

    fn can_promote(&self, recovered: &Recovered) -> bool {
        let refusal = promotion::refusal(self.node, recovered);
        if let Some(why) = &refusal {
            tracing::error!("{why}");
        }
        refusal.is_none()
    }

    /// Looks at once where the settings say since the last reload. A new primary_conninfo or slot takes a new walreceiver: ends
    /// the one that runs.
    ///
    /// One that isn't attached yet takes the new settings over before it begins, so there is none with the old ones that
    /// this doesn't reach.
    fn heed_settings(&mut self) {
        let (old, new) = (std::mem::replace(&mut self.settings, self.node.settings()), &self.settings);
        let moved = old.primary_conninfo != new.primary_conninfo
            || old.primary_slot_name != new.primary_slot_name
            || old.wal_receiver_create_temp_slot != new.wal_receiver_create_temp_slot;
        if !moved && old.restore_command == new.restore_command {
            return;
        }
        self.sources.changed();
        self.refused = TimelineId::INVALID;
        if !moved || self.node.walreceiver.state() == WalRcvState::Stopped {
            return;
        }
        if self.node.terminate(ProcNumber::WAL_RECEIVER) {
            tracing::info!("WAL receiver process shutdown requested");
        }
    }

    /// Has the walreceiver report what has been put, when that is more and [`REPORT_DELAY`] has passed since. Who begins to read
    /// here waits for it, so it need not be committed to count as applied.
    fn report_if_due(&mut self) {
        let put = self.node.recovery.acknowledged();
        if put <= self.reported {
            self.report_due = None;
            return;
        }
        let now = clock::now();
        if now < *self.report_due.get_or_insert(now.saturating_add(REPORT_DELAY)) {
            return;
        }
        (self.reported, self.report_due) = (put, None);
        self.node.walreceiver.force_reply.fetch_max(FORCE, Ordering::AcqRel);
        self.node.procs.set_latch(ProcNumber::WAL_RECEIVER);
    }

    /// Has it report without delay: a session of the primary waits for it.
    fn report_at_once(&mut self) {
        self.reported = self.node.recovery.acknowledged();
        self.node.walreceiver.force_reply.store(FORCE_AT_ONCE, Ordering::Release);
        self.node.procs.set_latch(ProcNumber::WAL_RECEIVER);
    }

    /// Everything before `position` is log: raises the horizon as far as it came from the archive.
    fn prove(&self, position: Lsn) {
        if self.node.wal.advance_horizon(position.min(self.archived)) {
            self.node.wake_walsenders();
        }
    }

    fn next(&mut self, now: MonoTime) -> Step {
        let settings = &self.settings;
        if take_flag(&self.node.walreceiver.streamed) {
            self.sources.streamed();
        }
        let view = View {
            archive: !settings.restore_command.is_empty(),
            upstream: !settings.primary_conninfo.is_empty(),
            walreceiver: self.node.walreceiver.state() != WalRcvState::Stopped,
            interval: settings.wal_retrieve_retry_interval,
        };
        self.sources.next(now, view)
    }

    fn restore(&mut self, me: &Me, recovered: &mut Recovered) -> Result<(), StartupError> {
        let restored = restore_segment(self.node, me, &recovered.history).map_err(StartupError::new)?;
        self.archived = restored.unwrap_or(self.archived);
        let has_switched = restored.is_none() && self.look_for_timeline(me, recovered)?;
        self.sources.restored(restored.is_some() || has_switched);
        Ok(())
    }

    /// The archive has no more of the log: perhaps that goes on on another timeline.
    fn look_for_timeline(&mut self, me: &Me, recovered: &mut Recovered) -> Result<bool, StartupError> {
        let known = self.node.wal.timeline().max(self.refused);
        let newest = restore_newer_history(self.node, me, known).map_err(StartupError::new)?;
        newest.map_or(Ok(false), |newest| self.adopt(recovered, newest))
    }

    fn adopt(&mut self, recovered: &mut Recovered, target: TimelineId) -> Result<bool, StartupError> {
        // It was said why; that changes with the upstream alone.
        let adopted = target != self.refused && timelines::adopt(self.node, recovered, target)?;
        if !adopted {
            self.refused = target;
        }
        Ok(adopted)
    }

    /// From the start of the segment: so no file ever has a hole.
    fn start_walreceiver(&self, me: &Me, recovered: &mut Recovered) -> Result<(), StartupError> {
        self.ask_for_log(recovered)?;
        self.node.walreceiver.set_state(WalRcvState::Starting);
        me.pm_signal(PmSignal::START_WALRECEIVER);
        Ok(())
    }

    /// Where streaming is to begin, and on which timeline.
    fn ask_for_log(&self, recovered: &mut Recovered) -> Result<(), StartupError> {
        let shared = self.node.walreceiver;
        let timeline = timelines::goes_on(self.node, recovered)?;
        let start = self.node.segment_size.start_of(self.node.wal.flush_lsn());
        shared.start.store(start.0, Ordering::Relaxed);
        shared.start_timeline.store(timeline.0, Ordering::Relaxed);
        Ok(())
    }

    /// The walreceiver has come to the end of a timeline: tells it where the log goes on, if it does.
    fn go_on(&mut self, recovered: &mut Recovered) -> Result<(), StartupError> {
        let shared = self.node.walreceiver;
        let ended = TimelineId(shared.start_timeline.load(Ordering::Relaxed));
        let target = TimelineId(shared.upstream_timeline.load(Ordering::Relaxed));
        let follows = target <= self.node.wal.timeline() || self.adopt(recovered, target)?;
        self.ask_for_log(recovered)?;
        let goes_on = TimelineId(shared.start_timeline.load(Ordering::Relaxed)) != ended;
        if follows && goes_on && shared.step(WalRcvState::Waiting, WalRcvState::Restarting) {
            self.node.procs.set_latch(ProcNumber::WAL_RECEIVER);
            return Ok(());
        }
        // The upstream has no more of what this log can follow. The next attempts, each later than the one before, will
        // find out whether that has changed.
        self.sources.invalid();
        shared.streamed.store(0, Ordering::Release);
        self.end_walreceiver();
        Ok(())
    }

    /// Ends a walreceiver that receives nothing; it need not be waited for.
    fn end_walreceiver(&self) {
        self.node.walreceiver.revoke();
        self.node.terminate(ProcNumber::WAL_RECEIVER);
    }

    /// Ends the walreceiver and forgets what was flushed behind `position`, so that the next one fetches it again.
    fn fetch_again(&mut self, me: &Me, position: Lsn, message: &str) {
        tracing::error!("invalid record after {position} in the log received: {message}; fetching it again");
        // If it is the upstream's log that is damaged, every attempt streams and none helps: wait longer and longer.
        self.node.walreceiver.streamed.store(0, Ordering::Release);
        self.sources.invalid();
        self.archived = position;
        while self.node.walreceiver.state() != WalRcvState::Stopped {
            self.node.terminate(ProcNumber::WAL_RECEIVER);
            wait_latch(me, None, WaitEvent::WalReceiverExit);
            me.latch().reset();
            if me.pending().contains(Interrupts::TERMINATE) {
                break;
            }
        }
        self.node.wal.flushed.store(position.0, Ordering::Release);
        self.node.walreceiver.written.store(position.0, Ordering::Release);
        me.latch().set();
    }
}
