//! From a child to the postmaster: a bit in shared memory and the postmaster's latch.
//!
//! The postmaster takes the bits with one exchange and trusts nothing else that children may have written: it
//! must survive a child that scribbles over shared memory. A bit says that something may be worth doing, not
//! that it is so.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/pmsignal.c; differs in: no SIGUSR1, the latch lies in shared
//! memory.

use crate::{
    bit_set::bit_set,
    latch::Latch,
    latch_stats::LatchStats,
    sync::{AtomicU32, Ordering},
};

bit_set! {
    /// A set of messages to the postmaster.
    pub struct PmSignal: u32 {
        /// Recovery has begun; helpers may be started.
        const RECOVERY_STARTED = 1 << 0;
        /// Tables are consistent; readers may come.
        const BEGIN_HOT_STANDBY = 1 << 1;
        /// Recovery (or promotion) is over; the node takes writes from now on.
        const RECOVERY_DONE = 1 << 2;
        /// The startup process wants a walreceiver.
        const START_WALRECEIVER = 1 << 3;
        /// The shutdown checkpoint is written; walsenders may end.
        const XLOG_IS_SHUTDOWN = 1 << 4;
    }
}

/// Why the postmaster sends SIGQUIT. The default, 0 in shared memory: it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum QuitReason {
    /// A process has crashed.
    Crash = 1,
    /// Immediate shutdown.
    Stop = 2,
}

crate::shared_struct! {
    /// The postmaster's letter box.
    pub(crate) struct PmSignalBox {
        /// Written by children (OR), emptied by the postmaster.
        bits: AtomicU32,
        /// A [`QuitReason`] or 0. Written by the postmaster before it sends SIGQUIT, read by SIGQUIT's handler: the
        /// signal orders the two. Who scribbles over it makes clients hear another reason.
        quit_reason: AtomicU32,
        /// Owned by the postmaster.
        pub(crate) latch: Latch,
        /// Written by the postmaster.
        pub(crate) stats: LatchStats,
    }
}

impl PmSignalBox {
    pub(crate) fn send(&self, signals: PmSignal) {
        // Release: pairs with the Acquire in `take`.
        self.bits.fetch_or(signals.bits(), Ordering::Release);
        self.latch.set();
    }

    #[cfg(not(loom))]
    pub(crate) fn announce_quit(&self, reason: QuitReason) {
        self.quit_reason.store(reason as u32, Ordering::Release);
    }

    #[cfg(not(loom))]
    pub(crate) fn quit_reason(&self) -> &AtomicU32 {
        &self.quit_reason
    }

    pub(crate) fn take(&self) -> PmSignal {
        PmSignal::from_bits(self.bits.swap(0, Ordering::Acquire))
    }
}
