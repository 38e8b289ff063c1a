//! The lightweight lock: exclusive, in shared memory, held for microseconds.
//!
//! A futex with three states. Who finds it held spins a little (the holder usually runs on another CPU and is
//! about to be done), then sleeps in the kernel; unlocking costs a system call only when somebody may be
//! asleep.
//!
//! There is no recovery from an owner that dies: its death is a crash, upon which the postmaster stops every
//! child. So a sleeper needs no way out but SIGQUIT. Never wait for anything else (socket, latch) while
//! holding one. The state behind the lock is consistent again whenever the guard is dropped.
//!
//! Follows PostgreSQL 18 src/backend/storage/lmgr/lwlock.c; differs in: exclusive only, no queue (no
//! fairness).

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU32, Ordering},
};

use sys::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may sleep on it: the unlocker must wake one.
const CONTENDED: u32 = 2;

/// Looks before sleeping: about the cost of a futex round trip.
const SPINS: u32 = 100;

crate::shared_struct! {
    /// An exclusive lock; all zero is a free one.
    pub struct LwLock {
        state: AtomicU32,
    }
}

impl LwLock {
    /// Takes the lock, waiting for as long as it takes. Taking it twice waits for ever.
    pub fn lock(&self) -> LwLockGuard<'_> {
        if let Some(guard) = self.try_lock() {
            return guard;
        }
        for _ in 0..SPINS {
            std::hint::spin_loop();
            if self.state.load(Ordering::Relaxed) == FREE
                && let Some(guard) = self.try_lock()
            {
                return guard;
            }
        }
        // Whoever has slept takes the lock as contended, since others may sleep still: a needless wake at
        // worst. Acquire: pairs with the Release in unlock.
        while self.state.swap(CONTENDED, Ordering::Acquire) != FREE {
            futex::wait(&self.state, CONTENDED);
        }
        self.guard()
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<LwLockGuard<'_>> {
        // Acquire: pairs with the Release in unlock.
        let taken = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| self.guard())
    }

    fn guard(&self) -> LwLockGuard<'_> {
        LwLockGuard { lock: self, own_process: PhantomData }
    }

    fn unlock(&self) {
        // Release: pairs with the Acquire of the next holder.
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            futex::wake(&self.state, 1);
        }
    }
}

/// Holds a [`LwLock`]; dropping it unlocks.
#[derive(Debug)]
#[must_use = "the lock is held as long as the guard lives"]
pub struct LwLockGuard<'a> {
    lock: &'a LwLock,
    own_process: PhantomData<*const ()>,
}

impl Drop for LwLockGuard<'_> {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}
