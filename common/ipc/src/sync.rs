//! Atomics for what a model checker looks at: the real ones, or loom's when it runs the very same code
//! (`RUSTFLAGS="--cfg loom"`).
//!
//! Loom models `fence(SeqCst)` faithfully, but takes SeqCst loads and stores for AcqRel ones. So where a full
//! barrier is needed, it is an explicit [`fence`].
//!
//! What an argument rests on has a name, under which a model leaves it out to prove that the checker notices:
//! a fence ([`fence`]), the strength of an access ([`order`]), a step or the order of two ([`left_out`]). Such
//! a broken variant is a mutant. Outside of the models the names cost nothing: nothing is ever left out.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use sys::process::current_pid;

#[cfg(loom)]
pub(crate) use crate::model::{Wakeup, current_pid};
#[cfg(not(loom))]
pub(crate) use crate::wakeup::Wakeup;

/// A full barrier; `name` says between what.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn fence(_name: &'static str) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

/// A full barrier, unless it is the one that the model leaves out.
#[cfg(loom)]
pub(crate) fn fence(name: &'static str) {
    if !left_out(name) {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// The ordering of an access whose strength matters; the mutant of that name has a relaxed one.
#[inline(always)]
pub(crate) fn order(name: &'static str, ordering: Ordering) -> Ordering {
    if left_out(name) { Ordering::Relaxed } else { ordering }
}

/// Whether the mutant of that name is at work: never.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn left_out(_name: &'static str) -> bool {
    false
}

/// Whether the mutant of that name is at work.
#[cfg(loom)]
pub(crate) fn left_out(name: &'static str) -> bool {
    crate::model::LEFT_OUT.get().is_some_and(|mutant| mutant == name)
}
