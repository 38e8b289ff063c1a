//! A walsender's positions in shared memory: what pg_stat_replication shows and the shutdown waits for.
//!
//! Written by the walsender that owns the slot, read by all. A slot is free when its owner word is 0.
//!
//! Follows PostgreSQL 15 WalSnd in src/include/replication/walsender_private.h.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ipc::proc::ProcNumber;
use wal::lsn::Lsn;

use super::WalSndState;
use super::session::Lags;
use crate::base_backup::progress::BackupProgress;
use crate::ordering;
use crate::sync_rep::quorum::Positions;

ipc::shared_struct! {
    /// One walsender.
    pub struct WalSndSlot {
        /// The owner's process number + 1; 0: free.
        owner: AtomicU32,
        /// A [`WalSndState`].
        state: AtomicU32,
        /// 1: news of the log are to wake the owner. 0: it looks for them by itself soon. Written by the owner; see
        /// [`crate::node::Node::wake_walsenders`].
        awaits_news: AtomicU64,
        /// Sent up to here.
        sent: AtomicU64,
        /// Written by the standby, as it last said.
        write: AtomicU64,
        /// Durable on the standby, as it last said.
        flush: AtomicU64,
        /// Applied by the standby, as it last said.
        apply: AtomicU64,
        /// A base backup needs the log from here on; 0: none is under way.
        backup_start: AtomicU64,
        /// The standby's clock when it last said so; µs since 2000-01-01, 0: never.
        pub reply_time: AtomicI64,
        /// Its lags: µs + 1; 0: not known.
        write_lag: AtomicU64,
        flush_lag: AtomicU64,
        apply_lag: AtomicU64,
        /// Oldest transaction that the standby's queries need, as it last said; 0: none.
        pub feedback_xmin: AtomicU32,
        /// The base backup that is under way.
        pub backup: BackupProgress,
        /// 1: the stream is of the timeline that this node writes. It and the next two change under
        /// [`crate::sync_rep::SyncRepCtl::lock`].
        counts: AtomicU32,
        /// The standby's place in synchronous_standby_names, from 1 on; 0: it isn't there.
        priority: AtomicU32,
        /// By which version of the node's settings.
        priority_version: AtomicU64,
    }
}

impl WalSndSlot {
    /// Takes the first free slot; none when max_wal_senders are at work.
    pub fn acquire(slots: &'static [WalSndSlot], owner: ProcNumber) -> Option<&'static WalSndSlot> {
        let slot = slots.iter().find(|slot| {
            slot.owner.compare_exchange(0, owner.0 + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        slot.set_state(WalSndState::Startup);
        for position in [&slot.sent, &slot.write, &slot.flush, &slot.apply, &slot.backup_start] {
            position.store(0, Ordering::Relaxed);
        }
        slot.reply_time.store(0, Ordering::Relaxed);
        slot.feedback_xmin.store(0, Ordering::Relaxed);
        slot.set_lags(Lags::default());
        slot.awaits_news.store(1, Ordering::Relaxed);
        Some(slot)
    }

    /// For the owner: from now on news of the log wake it. It looks at the log after this, and only then sleeps.
    pub fn await_news(&self) {
        if ordering::awaited(&self.awaits_news).is_none() {
            ordering::announce_wait(&self.awaits_news, 1);
        }
    }

    /// For the owner: they need not. It calls [`WalSndSlot::await_news`] again before it looks at the log.
    pub fn ignore_news(&self) {
        ordering::end_wait(&self.awaits_news);
    }

    /// Who is to be woken by news of the log. Publish them before, then [`ordering::before_looking_for_waiters`].
    pub(crate) fn awakened(&self) -> Option<ProcNumber> {
        self.owner().filter(|_| ordering::awaited(&self.awaits_news).is_some())
    }

    /// For the owner: whether its stream counts for synchronous replication, with which priority under the settings of
    /// that version. Under the lock of [`crate::sync_rep`]. A slot that is given back must not count.
    pub fn set_standing(&self, counts: bool, priority: u32, version: u64) {
        self.priority.store(priority, Ordering::Relaxed);
        self.priority_version.store(version, Ordering::Relaxed);
        self.counts.store(u32::from(counts), Ordering::Relaxed);
    }

    /// Whether the stream counts.
    pub fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed) != 0
    }

    /// The standby's priority, if its walsender knows the settings of that version.
    pub fn priority(&self, version: u64) -> Option<u32> {
        (self.priority_version.load(Ordering::Relaxed) == version)
            .then(|| self.priority.load(Ordering::Relaxed))
    }

    /// What the standby has reported.
    pub fn reported(&self) -> Positions {
        Positions { write: self.write_lsn(), flush: self.flush_lsn(), apply: self.apply_lsn() }
    }

    /// Gives the slot back.
    pub fn release(&self) {
        self.owner.store(0, Ordering::Release);
    }

    /// Keeps the log from `from` on, for a base backup, until the guard is dropped. What is kept for sure is the log of the
    /// first checkpoint that begins after this: one that is under way may have decided already what it removes.
    pub fn hold_log(&self, from: Lsn) -> HeldLog<'_> {
        self.backup_start.store(from.0, Ordering::SeqCst);
        HeldLog { slot: self }
    }

    /// From where on a base backup needs the log; invalid when none is under way.
    pub fn backup_start(&self) -> Lsn {
        Lsn(self.backup_start.load(Ordering::SeqCst))
    }

    /// Who owns the slot.
    pub fn owner(&self) -> Option<ProcNumber> {
        self.owner.load(Ordering::Acquire).checked_sub(1).map(ProcNumber)
    }

    /// The state.
    pub fn state(&self) -> WalSndState {
        WalSndState::from_word(self.state.load(Ordering::Acquire))
    }

    /// Publishes the state.
    pub fn set_state(&self, state: WalSndState) {
        self.state.store(state as u32, Ordering::Release);
    }

    /// Publishes how far was sent.
    pub fn set_sent(&self, lsn: Lsn) {
        self.sent.store(lsn.0, Ordering::Release);
    }

    /// Publishes what the standby said.
    pub fn set_reported(&self, write: Lsn, flush: Lsn, apply: Lsn) {
        self.write.store(write.0, Ordering::Release);
        self.flush.store(flush.0, Ordering::Release);
        self.apply.store(apply.0, Ordering::Release);
    }

    /// Publishes how far behind the standby is.
    pub fn set_lags(&self, lags: Lags) {
        let word = |lag: Option<Duration>| {
            lag.map_or(0, |lag| u64::try_from(lag.as_micros()).unwrap_or(u64::MAX).saturating_add(1))
        };
        self.write_lag.store(word(lags.write), Ordering::Relaxed);
        self.flush_lag.store(word(lags.flush), Ordering::Relaxed);
        self.apply_lag.store(word(lags.apply), Ordering::Relaxed);
    }

    /// How far behind the standby is.
    pub fn lags(&self) -> Lags {
        let lag = |word: &AtomicU64| word.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros);
        Lags { write: lag(&self.write_lag), flush: lag(&self.flush_lag), apply: lag(&self.apply_lag) }
    }

    /// Sent up to here.
    pub fn sent_lsn(&self) -> Lsn {
        Lsn(self.sent.load(Ordering::Acquire))
    }

    /// Written by the standby.
    pub fn write_lsn(&self) -> Lsn {
        Lsn(self.write.load(Ordering::Acquire))
    }

    /// Durable on the standby.
    pub fn flush_lsn(&self) -> Lsn {
        Lsn(self.flush.load(Ordering::Acquire))
    }

    /// Applied by the standby.
    pub fn apply_lsn(&self) -> Lsn {
        Lsn(self.apply.load(Ordering::Acquire))
    }
}

/// See [`WalSndSlot::hold_log`].
#[derive(Debug)]
pub struct HeldLog<'a> {
    slot: &'a WalSndSlot,
}

impl Drop for HeldLog<'_> {
    fn drop(&mut self) {
        self.slot.backup_start.store(0, Ordering::SeqCst);
    }
}
