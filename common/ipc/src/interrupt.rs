//! Interrupts: the reasons for which another process (or a signal) wants this one's attention.
//!
//! Every process slot has one pending word: the slot's generation in the upper half, a bit per reason in the
//! lower. A sender ORs its bits in by compare-exchange *with the generation it means*, so an interrupt never
//! reaches a later owner of the slot; then it sets the target's latch. The target asks with one load
//! ([`Me::pending`](crate::process::Me::pending)) and clears each bit just before it acts on it
//! ([`Me::take`](crate::process::Me::take)), so that what comes during the action is kept, and a failing
//! action doesn't swallow the others.
//!
//! Holding is per bit: while a [`HoldGuard`](crate::inbox::HoldGuard) lives, `pending` doesn't show its
//! bits; the end of the last hold sets the own latch if one of them has come.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/procsignal.c and the proposal "Interrupts vs signals" of its
//! developers; differs in: the generation, and holds per bit.

use crate::{
    bit_set::bit_set,
    sync::{AtomicU64, Ordering, left_out, order},
};

bit_set! {
    /// A set of reasons. Each says who sends it, who acts on it, and what comes of it. "SIGTERM" and the like
    /// mean that it is raised by that signal, whoever sends it ([`SignalTable`](crate::process::SignalTable)
    /// of the child).
    pub struct Interrupts: u32 {
        /// End this process. From: SIGTERM (postmaster, operator), pg_terminate_backend(), and the startup
        /// process to its walreceiver. A session ends with FATAL 57P01 "terminating connection due to
        /// administrator command"; an auxiliary process ends with status 0, but the checkpointer ignores it.
        const TERMINATE = 1 << 0;
        /// Cancel what the session executes. From: SIGINT, a client's cancel request, pg_cancel_backend(). ERROR 57014
        /// "canceling statement due to user request"; a session that executes nothing drops it.
        const QUERY_CANCEL = 1 << 1;
        /// The configuration may have changed: read it again. From: SIGHUP (postmaster, to all, when it got one
        /// itself; operator). Every process with settings of its own acts.
        const CONFIG_RELOAD = 1 << 2;
        /// There are barriers to absorb ([`barrier`](crate::barrier)). From: whoever emits one. Every process acts, by
        /// [`Me::absorb_barriers`](crate::process::Me::absorb_barriers); whoever takes "all that is pending"
        /// must leave this one to it.
        const BARRIER = 1 << 3;
        /// Shutdown begins: execute no more commands, go on sending. From: the checkpointer, to walsenders,
        /// before it writes the shutdown checkpoint.
        const WALSND_INIT_STOPPING = 1 << 4;
        /// The last phase of the shutdown. From: SIGUSR2 (postmaster). A walsender ends once its client has
        /// everything; the checkpointer writes the shutdown checkpoint and ends.
        const STOP = 1 << 5;
        /// The connection to the client is gone. Raised by the session itself where it finds that while it can't
        /// act on it. FATAL 08006 "connection to client lost".
        const CLIENT_CONNECTION_LOST = 1 << 6;
        /// statement_timeout is over. Raised by the session itself, as above. ERROR 57014 "canceling statement
        /// due to statement timeout".
        const STATEMENT_TIMEOUT = 1 << 7;
        /// idle_session_timeout is over. Raised by the session itself, as above. FATAL 57P05 "terminating
        /// connection due to idle-session timeout".
        const IDLE_TIMEOUT = 1 << 8;
        /// Promotion is wanted. To the startup process of a standby. From: SIGUSR2 (postmaster, when it got one
        /// itself), pg_promote().
        const PROMOTE = 1 << 9;
        /// The read of this session keeps the tables' own log from being cut. From: the startup process, to
        /// sessions. ERROR 40001; a session that reads nothing drops it.
        const READ_HOLDS_LOG = 1 << 10;
        /// There may be notifications to deliver. From: a session that commits a NOTIFY, to sessions that
        /// listen. Delivered at once when the session is idle, else at the end of its statement.
        const NOTIFY = 1 << 11;
        /// Log what memory this process uses and what it is doing, at LOG. Every process acts; nothing else
        /// comes of it.
        const LOG_MEMORY_CONTEXT = 1 << 12;
    }
}

/// A slot's pending word. An even generation means that nobody is attached.
///
/// Written by senders (compare-exchange), the owner (clearing bits) and at attach and detach. Invariant: the
/// generation only grows, and bits are set only while it is odd.
pub(crate) struct PendingWord<'a>(pub(crate) &'a AtomicU64);

impl PendingWord<'_> {
    /// The generation now.
    pub(crate) fn generation(&self) -> u32 {
        // Acquire: pairs with the AcqRel in `advance`; who sees a generation sees what its owner published
        // before.
        generation_of(self.0.load(Ordering::Acquire))
    }

    /// Begins the next generation, without any bit.
    pub(crate) fn advance(&self) -> Advanced {
        let next = |word| {
            let kept = if left_out("pending: a new generation has no bits") { bits_of(word) } else { 0 };
            Some(u64::from(generation_of(word).wrapping_add(1)) << 32 | u64::from(kept))
        };
        // Acquire: pairs with the Release in `send`, for the bits that are left. Release: see `generation`.
        let old = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let old = old.expect("the closure always gives a value");
        Advanced { generation: generation_of(old).wrapping_add(1), left: Interrupts::from_bits(bits_of(old)) }
    }

    /// ORs `bits` in if `generation` is still that of the slot.
    pub(crate) fn send(&self, generation: u32, bits: Interrupts) -> bool {
        let with_bits = |word| {
            let meant = generation_of(word) == generation || left_out("pending: send heeds the generation");
            meant.then_some(word | u64::from(bits.bits()))
        };
        // Release: pairs with the Acquire of the owner's `take`; what the sender did before is seen by who
        // acts on it.
        let release = order("pending: send releases", Ordering::Release);
        self.0.fetch_update(release, Ordering::Relaxed, with_bits).is_ok()
    }

    /// ORs `bits` in. For the owner: nobody else changes its generation.
    pub(crate) fn raise(&self, bits: Interrupts) {
        // Relaxed: who acts on it is who raises it.
        self.0.fetch_or(u64::from(bits.bits()), Ordering::Relaxed);
    }

    /// All bits that are set.
    #[inline]
    pub(crate) fn bits(&self) -> Interrupts {
        Interrupts::from_bits(bits_of(self.0.load(Ordering::Relaxed)))
    }

    /// Clears `bits` and returns those that were set. For the owner.
    pub(crate) fn take(&self, bits: Interrupts) -> Interrupts {
        // Saves the locked instruction in the usual case. A bit that comes right now is met by the next look:
        // its sender sets the latch afterwards.
        if !self.bits().intersects(bits) {
            return Interrupts::NONE;
        }
        // Acquire: pairs with the Release in `send`.
        let acquire = order("pending: take acquires", Ordering::Acquire);
        let old = self.0.fetch_and(!u64::from(bits.bits()), acquire);
        Interrupts::from_bits(bits_of(old)) & bits
    }
}

/// What comes and what was, when a generation ends.
pub(crate) struct Advanced {
    /// The new generation.
    pub(crate) generation: u32,
    /// The bits of the old one that nobody had taken.
    pub(crate) left: Interrupts,
}

fn generation_of(word: u64) -> u32 {
    u32::try_from(word >> 32).expect("half a word")
}

#[inline]
fn bits_of(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).expect("half a word")
}
