//! The atomics of the latch: the real ones, or loom's when the model checker runs the very same code
//! (`RUSTFLAGS="--cfg loom"`).
//!
//! Loom models `fence(SeqCst)` faithfully, but takes SeqCst loads and stores for AcqRel ones. So the latch is
//! written with relaxed accesses and explicit fences, and each fence has a name under which the model can
//! leave it out, to prove that the checker notices.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// The four fences of the latch; see latch.rs for what each is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// In set: after the setter's work, before it looks at is_set.
    SetBeforeLook,
    /// In set: between storing is_set and looking at maybe_sleeping.
    SetBeforeWake,
    /// In prepare_to_sleep: between storing maybe_sleeping and looking at is_set.
    SleepBeforeLook,
    /// In reset: between clearing is_set and the owner's look for work.
    ResetBeforeWork,
}

/// A full barrier.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn fence(_name: Fence) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

/// A full barrier, unless it is the one that the model leaves out.
#[cfg(loom)]
pub(crate) fn fence(name: Fence) {
    if mutant::LEFT_OUT.get() != Some(&name) {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// The model's knob: which fence to leave out. Set at most once, before the model starts.
#[cfg(loom)]
pub mod mutant {
    use std::sync::OnceLock;

    /// The fence that the latch lacks in this process; unset in the real model.
    pub static LEFT_OUT: OnceLock<super::Fence> = OnceLock::new();
}
