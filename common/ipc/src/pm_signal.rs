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

crate::shared_struct! {
    /// The postmaster's letter box.
    pub(crate) struct PmSignalBox {
        /// Written by children (OR), emptied by the postmaster.
        bits: AtomicU32,
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

    pub(crate) fn take(&self) -> PmSignal {
        PmSignal::from_bits(self.bits.swap(0, Ordering::Acquire))
    }
}
