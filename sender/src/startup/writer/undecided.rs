//! A primary's writer while the horizon is behind: synchronous standbys have not confirmed yet what it has logged.
//!
//! The records beyond the horizon are in the open transaction, on top of those before it, for SQLite has one transaction
//! at a time. What that means for others:
//!
//! - **Writes** go on. Each is answered when it is flushed, and its session waits for the horizon by itself. They are held up
//!   only while the open transaction is as large as it may get, or readers wait: then what is on its way to the standbys
//!   has to arrive first, a round trip as a rule. Whoever gives up meanwhile is let go.
//! - **Readers** wait for what is decided, and that may lie in the open transaction together with what is not. As a rule the
//!   rest is decided within a round trip, too. If it isn't, the transaction is taken apart after [`READER_PATIENCE`]: what is
//!   decided is put again and committed, the rest is put again and stays open. From then on readers have what they
//!   want without waiting, however long the standbys are gone.
//! - **Notifications** of a transaction are published when the horizon has passed it.
//!
//! The same goes for a primary that starts and finds records in its log of which it can't prove that they were decided.

use std::time::Duration;

use engine::control::Control;
use ipc::wait_event::WaitEvent;
use sys::clock;
use wal::lsn::Lsn;

use super::super::StartupError;
use super::Writer;
use crate::requests::desk::Taken;
use crate::sync_rep::wait::{cease, expect};
use crate::sync_rep::{self, Awaited, Confirmation, boot};
use crate::wait::wait_latch;
use crate::write_request::{Answer, WriteControl};

/// How long readers wait for the rest of an open transaction to be decided, before the decided part is committed alone.
const READER_PATIENCE: Duration = Duration::from_millis(100);

impl Writer {
    /// Goes on with records that recovery has put beyond the horizon.
    pub(super) fn take_undecided(&mut self, ends: Vec<Lsn>) {
        let Some(&last) = ends.last() else { return };
        self.open = ends.into();
        self.timer.start(clock::now);
        self.node.recovery.acknowledged.fetch_max(last.0, std::sync::atomic::Ordering::AcqRel);
    }

    /// Has the quorum confirm the log that was found, if the machine was restarted since that was last done. Before
    /// sessions are let in.
    pub(super) fn require_confirmation(&mut self, end: Lsn, is_new: bool) -> Result<(), StartupError> {
        let failed = |error| StartupError::new(format!("could not use file \"boot_id\": {error}"));
        if is_new || !sync_rep::is_synchronous(self.node) {
            return boot::confirm(&self.node.data).map_err(failed);
        }
        if !boot::is_confirmed(&self.node.data).map_err(failed)? {
            tracing::info!(
                "the machine was restarted: sessions have to wait until the synchronous standbys have confirmed the log up to {end}"
            );
            self.node.sync_rep.require(end);
            self.boot_unconfirmed = true;
        }
        Ok(())
    }

    /// What there is to be done when the horizon has moved, beside the COMMIT.
    pub(super) fn heed_horizon(&mut self) {
        self.publish_notifications();
        if self.boot_unconfirmed && self.node.sync_rep.required().is_none() {
            self.boot_unconfirmed = false;
            tracing::info!("the log is confirmed; sessions are let in");
            if let Err(error) = boot::confirm(&self.node.data) {
                tracing::warn!(
                    "could not write file \"boot_id\": {error}; the next start asks the standbys again"
                );
            }
        }
    }

    pub(super) fn publish_notifications(&mut self) {
        let horizon = self.node.wal.horizon();
        while let Some((_, notifications)) =
            self.undecided_notifications.pop_front_if(|(lsn, _)| *lsn <= horizon)
        {
            self.node.notify.publish(notifications);
        }
    }

    /// Whether nothing may be executed before the open transaction has been committed.
    pub(super) fn is_held_up(&self) -> bool {
        !self.open.is_empty() && !self.room.is_short() && (self.is_full() || self.do_readers_wait())
    }

    fn do_readers_wait(&self) -> bool {
        self.node.recovery.has_waiters() && self.node.recovery.is_awaited(self.node)
    }

    /// Answers the deferred requests whose sessions have given up: nobody else can.
    pub(super) fn give_up_deferred(&mut self) {
        let (node, me) = (self.node, self.me);
        let given_up = |taken: &Taken| WriteControl::new(node, me, taken.session, taken.deadline).check();
        let mut rest = Vec::with_capacity(self.deferred.len());
        for taken in std::mem::take(&mut self.deferred) {
            match given_up(&taken) {
                None => rest.push(taken),
                Some(interruption) => {
                    let nothing = Awaited { lsn: Lsn::INVALID, confirmation: Confirmation::Durable };
                    self.desk.answer(taken.session, Answer::error(&interruption.error()), nothing);
                }
            }
        }
        self.deferred = rest;
    }

    /// With an open transaction that isn't decided as a whole: gives the readers that wait what is.
    pub(super) fn commit_for_readers(&mut self) -> Result<(), StartupError> {
        if !self.do_readers_wait() {
            self.readers_wait_since = None;
            return Ok(());
        }
        let horizon = self.node.wal.horizon();
        let decided = self.open.partition_point(|end| *end <= horizon);
        let Some(last) = decided.checked_sub(1).map(|index| self.open[index]) else {
            // Everything decided is committed; they wait for records that change no table.
            self.node.recovery.publish_applied(self.node, horizon.max(self.node.recovery.applied()));
            return Ok(());
        };
        let now = clock::now();
        let since = *self.readers_wait_since.get_or_insert(now);
        if now < since.saturating_add(READER_PATIENCE) {
            return Ok(());
        }
        self.commit_with_room(last, |tables| match tables.applied_lsn() {
            // There was no room for the rest, the time before.
            applied if applied >= last => tables.begin(),
            _ => tables.commit_first(decided, last),
        })?;
        if !self.open.is_empty() {
            self.timer.restart(now);
        }
        Ok(())
    }

    /// Sleeps until there is something to do: a request, a COMMIT that is due, a horizon that somebody needs.
    pub(super) fn sleep(&mut self) {
        let now = clock::now();
        if !self.do_readers_wait() {
            self.readers_wait_since = None;
        }
        let patience = self
            .readers_wait_since
            .filter(|_| !self.room.is_stuck())
            .map(|since| since.saturating_add(READER_PATIENCE));
        let due = self.timer.due().filter(|due| *due > now && !self.room.is_stuck());
        let next = [self.room.retry(), due, patience].into_iter().flatten().min();
        let timeout = next.map(|due| due.saturating_since(now));
        let Some(lsn) = self.awaited_horizon(due.is_some() || self.room.is_stuck()) else {
            return wait_latch(&self.me, timeout, WaitEvent::StartupMain);
        };
        let awaited = Awaited { lsn, confirmation: Confirmation::Durable };
        if !expect(self.node, &self.me, awaited) {
            wait_latch(&self.me, timeout, WaitEvent::Horizon);
        }
        cease(self.node, &self.me);
    }

    /// The horizon at which this process is to be woken. Not for a COMMIT that `is_put_off`.
    fn awaited_horizon(&self, is_put_off: bool) -> Option<Lsn> {
        let commit = self.open.back().filter(|_| !is_put_off || self.is_held_up());
        let notifications = self.undecided_notifications.front().map(|(lsn, _)| lsn);
        [commit, notifications].into_iter().flatten().min().copied()
    }
}
