//! A standby's replay: puts what is durable here and decided upstream, as it comes, for ever.
//!
//! Woken by the walreceiver (a flush, a larger horizon, its end), by readers that wait and by signals; its only time-out
//! is the next attempt to reach the upstream, 100 ms after the first failure and then twice the last wait, up to
//! `wal_retrieve_retry_interval`.
//!
//! What the walreceiver has flushed but what is no record was damaged on its way or on the disk: it is fetched again
//! from the start of its segment, and the log says what was wrong with it.
//!
//! Follows PostgreSQL 15 WaitForWALToBecomeAvailable() in src/backend/access/transam/xlogrecovery.c.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::pm_signal::PmSignal;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;

use super::recovery::{Recovered, put_with_room};
use super::{StartupError, told_to_end};
use crate::memory_report::report_if_asked;
use crate::node::{Node, take_flag};
use crate::wait::wait_latch;
use crate::walreceiver_state::WalRcvState;

const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Replays until told to end.
pub(super) fn follow(node: &'static Node, me: &Me, mut recovered: Recovered) -> Result<(), StartupError> {
    me.pm_signal(PmSignal::BEGIN_HOT_STANDBY);
    if node.settings().primary_conninfo.is_empty() {
        tracing::warn!("primary_conninfo is not set: this standby reads its own log only");
    }
    recovered.puts_off = true;
    let mut upstream = Upstream { node, retry: FIRST_RETRY, next_attempt: None, reported: Lsn::INVALID };
    loop {
        me.latch().reset();
        if told_to_end(me) {
            return Ok(());
        }
        me.take(Interrupts::CONFIG_RELOAD);
        report_if_asked(node, me);
        let flushed = node.wal.flush_lsn();
        recovered.reader.source_mut().set_limit(flushed);
        let progress = put_with_room(node, me, &mut recovered, node.wal.horizon().min(flushed))?;
        if let Some(message) = progress.invalid {
            upstream.fetch_again(me, progress.position, &message);
            recovered.reader.seek(progress.position);
            continue;
        }
        recovered.restart_tables_log();
        upstream.report(node.recovery.applied());
        let now = clock::now();
        let commit = recovered.commit_due.map(|due| due.saturating_since(now));
        let timeout = [upstream.attend(me, now), commit].into_iter().flatten().min();
        wait_latch(me, timeout, WaitEvent::RecoveryWalStream);
    }
}

/// What this process knows of the walreceiver.
struct Upstream {
    node: &'static Node,
    /// How long to wait after the next failure.
    retry: Duration,
    next_attempt: Option<MonoTime>,
    /// Applied position that the walreceiver was told to report last.
    reported: Lsn,
}

impl Upstream {
    /// Tells the walreceiver to report when the tables have come further (records put but not committed don't count).
    fn report(&mut self, applied: Lsn) {
        if applied > self.reported {
            self.reported = applied;
            self.node.walreceiver.force_reply.store(1, Ordering::Release);
            self.node.procs.set_latch(ProcNumber::WAL_RECEIVER);
        }
    }

    /// Has a walreceiver started when there is none and it is time; how long to sleep at most.
    fn attend(&mut self, me: &Me, now: MonoTime) -> Option<Duration> {
        let shared = self.node.walreceiver;
        if self.node.settings().primary_conninfo.is_empty() || shared.state() != WalRcvState::Stopped {
            self.next_attempt = None;
            return None;
        }
        if take_flag(&shared.streamed) {
            self.retry = FIRST_RETRY;
        }
        let due = *self.next_attempt.get_or_insert_with(|| {
            if shared.start.load(Ordering::Relaxed) == 0 { now } else { now.saturating_add(self.retry) }
        });
        if now < due {
            return Some(due.saturating_since(now));
        }
        self.next_attempt = None;
        self.retry = (self.retry * 2).min(self.node.settings().wal_retrieve_retry_interval);
        // From the start of the segment: so no file ever has a hole.
        let segment = self.node.segment_size.number_of(self.node.wal.flush_lsn());
        shared.start.store(self.node.segment_size.first_byte(segment).0, Ordering::Relaxed);
        shared.start_timeline.store(self.node.wal.timeline().0, Ordering::Relaxed);
        shared.set_state(WalRcvState::Starting);
        me.pm_signal(PmSignal::START_WALRECEIVER);
        None
    }

    /// Ends the walreceiver and forgets what was flushed behind `position`, so that the next one fetches it again.
    fn fetch_again(&mut self, me: &Me, position: Lsn, message: &str) {
        tracing::error!("invalid record after {position} in the log received: {message}; fetching it again");
        // If it is the upstream's log that is damaged, every attempt streams and none helps: wait longer and longer.
        self.node.walreceiver.streamed.store(0, Ordering::Release);
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
