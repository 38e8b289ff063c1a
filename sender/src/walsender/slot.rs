//! A walsender's positions in shared memory: what pg_stat_replication shows and the shutdown waits for.
//!
//! Written by the walsender that owns the slot, read by all. A slot is free when its owner word is 0.
//!
//! Follows PostgreSQL 15 WalSnd in src/include/replication/walsender_private.h.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use ipc::proc::ProcNumber;
use wal::lsn::Lsn;

use super::WalSndState;

ipc::shared_struct! {
    /// One walsender.
    pub struct WalSndSlot {
        /// The owner's process number + 1; 0: free.
        owner: AtomicU32,
        /// A [`WalSndState`].
        state: AtomicU32,
        /// Sent up to here.
        sent: AtomicU64,
        /// Written by the standby, as it last said.
        write: AtomicU64,
        /// Durable on the standby, as it last said.
        flush: AtomicU64,
        /// Applied by the standby, as it last said.
        apply: AtomicU64,
        /// The standby's clock when it last said so; µs since 2000-01-01, 0: never.
        pub reply_time: AtomicI64,
    }
}

impl WalSndSlot {
    /// Takes the first free slot; none when max_wal_senders are at work.
    pub fn acquire(slots: &'static [WalSndSlot], owner: ProcNumber) -> Option<&'static WalSndSlot> {
        let slot = slots.iter().find(|slot| {
            slot.owner.compare_exchange(0, owner.0 + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        slot.set_state(WalSndState::Startup);
        for position in [&slot.sent, &slot.write, &slot.flush, &slot.apply] {
            position.store(0, Ordering::Relaxed);
        }
        slot.reply_time.store(0, Ordering::Relaxed);
        Some(slot)
    }

    /// Gives the slot back.
    pub fn release(&self) {
        self.owner.store(0, Ordering::Release);
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
