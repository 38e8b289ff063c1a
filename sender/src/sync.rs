//! The atomics of [`crate::ordering`], and the orders that it rests on, each under a name.
//!
//! tests/loom.rs compiles ordering.rs against a twin of this file with the model checker's atomics, in which one named
//! order can be left out, to prove that the checker notices.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What orders two processes; see [`crate::ordering`] for what each is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Full fence: a waiter's word, then its look at the position.
    AnnounceBeforeLook,
    /// Full fence: the new position, then the look at the waiters' words.
    PublishBeforeLook,
    /// Release fence: the page is claimed, then its bytes change.
    ClaimBeforeChange,
    /// Acquire fence: the bytes are copied, then the claim is looked at.
    CopyBeforeCheck,
    /// Release store: the bytes are there, then the word that gives them away.
    GiveAway,
    /// Acquire load: the word that gives bytes away, then the bytes.
    TakeOver,
    /// Order of steps: a large request is taken, then its queue is left.
    TakeBeforeLeave,
    /// Order of steps: the sender of a large request is seen to have left, then its state is looked at.
    SenderBeforeState,
}

impl Order {
    /// The memory order by this name.
    pub(crate) fn get(self) -> Ordering {
        match self {
            Order::AnnounceBeforeLook | Order::PublishBeforeLook => Ordering::SeqCst,
            Order::ClaimBeforeChange | Order::GiveAway => Ordering::Release,
            Order::CopyBeforeCheck | Order::TakeOver => Ordering::Acquire,
            Order::TakeBeforeLeave | Order::SenderBeforeState => Ordering::AcqRel,
        }
    }

    /// Whether this order of steps is kept: always.
    pub(crate) const fn is_kept(self) -> bool {
        true
    }
}

/// A fence of this order.
#[inline(always)]
pub(crate) fn fence(order: Order) {
    std::sync::atomic::fence(order.get());
}
