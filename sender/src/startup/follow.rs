//! A standby's replay: puts what is durable here and decided upstream, as it comes, for ever.
//!
//! Woken by the walreceiver (a flush, a larger horizon, its end), by readers that wait and by signals; its only time-out
//! is the next round through the sources of log (`sources`): the archive, then the upstream. Before it runs a restore
//! command, which may take long, it commits what it has put, so that no reader waits for the command.
//!
//! What is flushed but is no record was damaged on its way, on the disk or in the archive: it is fetched again from the
//! start of its segment, and the log says what was wrong with it.
//!
//! Follows PostgreSQL 15 WaitForWALToBecomeAvailable() in src/backend/access/transam/xlogrecovery.c.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use ipc::interrupt::Interrupts;
use ipc::pm_signal::PmSignal;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use settings::Settings;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;

use super::recovery::{Recovered, put_with_room};
use super::sources::{Sources, Step, View};
use super::{StartupError, told_to_end};
use crate::node::{Node, take_flag};
use crate::restore_command::restore_segment;
use crate::wait::wait_latch;
use crate::walreceiver_state::WalRcvState;

/// Replays until told to end.
pub(super) fn follow(node: &'static Node, me: &Me, mut recovered: Recovered) -> Result<(), StartupError> {
    me.pm_signal(PmSignal::BEGIN_HOT_STANDBY);
    warn_without_source(node);
    recovered.puts_off = true;
    let mut upstream = Upstream::new(node);
    loop {
        me.latch().reset();
        if told_to_end(me) {
            return Ok(());
        }
        node.attend(me);
        upstream.heed_settings();
        let flushed = node.wal.flush_lsn();
        recovered.reader.source_mut().set_limit(flushed);
        let decided = node.wal.horizon().max(upstream.archived);
        let progress = put_with_room(node, me, &mut recovered, decided.min(flushed))?;
        if let Some(message) = progress.invalid {
            upstream.fetch_again(me, progress.position, &message);
            recovered.reader.seek(progress.position);
            continue;
        }
        upstream.prove(progress.position);
        recovered.restart_tables_log();
        upstream.report(node.recovery.applied());
        let now = clock::now();
        let until = match upstream.next(now) {
            Step::Restore => {
                if !recovered.hurry_commit() {
                    upstream.restore(me)?;
                }
                continue;
            }
            Step::Stream => {
                upstream.start_walreceiver(me);
                continue;
            }
            Step::Wait(until) => until,
        };
        let timeout = [until, recovered.commit_due].into_iter().flatten().min();
        wait_latch(me, timeout.map(|due| due.saturating_since(now)), WaitEvent::RecoveryWalStream);
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
    /// Applied position that the walreceiver was told to report last.
    reported: Lsn,
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
            settings: node.settings(),
        }
    }

    /// Looks at once where the settings say since the last reload. A new primary_conninfo takes a new walreceiver: ends
    /// the one that runs.
    ///
    /// One that isn't attached yet takes the new settings over before it begins, so there is none with the old ones that
    /// this doesn't reach.
    fn heed_settings(&mut self) {
        let (old, new) = (std::mem::replace(&mut self.settings, self.node.settings()), &self.settings);
        let moved = old.primary_conninfo != new.primary_conninfo;
        if !moved && old.restore_command == new.restore_command {
            return;
        }
        self.sources.changed();
        if !moved || self.node.walreceiver.state() == WalRcvState::Stopped {
            return;
        }
        if let Some(address) = self.node.procs.address(ProcNumber::WAL_RECEIVER) {
            tracing::info!("WAL receiver process shutdown requested");
            self.node.procs.send_interrupt(address, Interrupts::TERMINATE);
        }
    }

    /// Tells the walreceiver to report when the tables have come further (records put but not committed don't count).
    fn report(&mut self, applied: Lsn) {
        if applied > self.reported {
            self.reported = applied;
            self.node.walreceiver.force_reply.store(1, Ordering::Release);
            self.node.procs.set_latch(ProcNumber::WAL_RECEIVER);
        }
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

    fn restore(&mut self, me: &Me) -> Result<(), StartupError> {
        let restored = restore_segment(self.node, me).map_err(StartupError::new)?;
        self.archived = restored.unwrap_or(self.archived);
        self.sources.restored(restored.is_some());
        Ok(())
    }

    /// From the start of the segment: so no file ever has a hole.
    fn start_walreceiver(&self, me: &Me) {
        let shared = self.node.walreceiver;
        let segment = self.node.segment_size.number_of(self.node.wal.flush_lsn());
        shared.start.store(self.node.segment_size.first_byte(segment).0, Ordering::Relaxed);
        shared.start_timeline.store(self.node.wal.timeline().0, Ordering::Relaxed);
        shared.set_state(WalRcvState::Starting);
        me.pm_signal(PmSignal::START_WALRECEIVER);
    }

    /// Ends the walreceiver and forgets what was flushed behind `position`, so that the next one fetches it again.
    fn fetch_again(&mut self, me: &Me, position: Lsn, message: &str) {
        tracing::error!("invalid record after {position} in the log received: {message}; fetching it again");
        // If it is the upstream's log that is damaged, every attempt streams and none helps: wait longer and longer.
        self.node.walreceiver.streamed.store(0, Ordering::Release);
        self.sources.invalid();
        self.archived = position;
        while self.node.walreceiver.state() != WalRcvState::Stopped {
            if let Some(address) = self.node.procs.address(ProcNumber::WAL_RECEIVER) {
                self.node.procs.send_interrupt(address, Interrupts::TERMINATE);
            }
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
