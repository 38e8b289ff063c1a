//! How the sleeping owner of a latch is woken: by its eventfd if the latch has one, else by SIGURG.
//!
//! The eventfds are made before the first fork, so a descriptor's number means the same one in the postmaster
//! and in all children, whenever they were born. A latch names its eventfd by an index into a table that each
//! process inherits as private memory: a child that scribbles over shared memory can make others wake the
//! wrong process, but not write to a wrong descriptor.
//!
//! No eventfd has a latch of the other back-ends, a local one, and one for which no descriptor was left
//! ([`RESERVE`]). SIGURG wakes the owner of these on every back-end, since all read it in their waits.
//!
//! # Why the eventfds need no read
//!
//! Waits watch the eventfd edge-triggered and nobody ever reads it. Of the kernel this needs: every write
//! makes it ready anew in every epoll instance that watches it, also when it is readable already; a write
//! that comes before the wait ends the wait; and adding a readable one to an instance makes it ready once.
//! (eventfd_write runs the wake-up callbacks unconditionally, and epoll keeps a ready item, however often it
//! became ready, until one wait has reported it. Others rely on it: mio's waker, hence tokio, does the same.
//! The tests of sys::eventfd hold it.) Then no wake-up is lost, in the words of latch.rs:
//!
//! * A write after O4 is after the last report that the owner has seen, so the sleep of O7 reports it, at
//!   once or when it comes.
//! * A report that was earned by an earlier set, or that another wait event set of the process has had too,
//!   costs one look in vain at most: the owner looks at is_set again and sleeps on.
//! * The owners of a slot share one eventfd over time. What woke the former may show once to the new one,
//!   when it adds the descriptor: a look in vain again.
//! * The counter grows by one per wake-up and would be full after 2^64 - 2 of them.

use std::{
    cell::Cell,
    ops::Range,
    os::fd::RawFd,
    sync::atomic::{AtomicU32, Ordering},
};

use sys::{
    eventfd::EventFd,
    process::{self, Pid},
    signal::Signal,
};

/// How many descriptors are left to a process for sockets, files and pipes when eventfds are made, besides one
/// per slot, by which the postmaster watches its children.
const RESERVE: u64 = 256;

thread_local! {
    /// The eventfds. An element's index plus one is what a latch keeps; 0 is none. Only grows. (Of the
    /// thread: the processes that wait have one.)
    static EVENTFDS: Cell<&'static [&'static EventFd]> = const { Cell::new(&[]) };
}

/// What a latch keeps: which eventfd wakes its owner, as the index plus one; 0 is none. Written before the
/// first fork and never changed: a latch is initialised anew without touching it, and shared memory made anew gets the
/// same again.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Wakeup(AtomicU32);

impl Wakeup {
    /// By SIGURG.
    pub(crate) const fn new() -> Wakeup {
        Wakeup(AtomicU32::new(0))
    }

    /// From now on by an eventfd of [`make`]; before the first fork.
    pub(crate) fn keep(&self, kept: u32) {
        self.0.store(kept, Ordering::Relaxed);
    }

    /// The descriptor that the owner of the latch must watch, edge-triggered; None: SIGURG wakes it.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.eventfd().map(EventFd::raw)
    }

    /// Wakes the owner of the latch. Async-signal-safe.
    pub(crate) fn wake(&self, owner: Pid) {
        match self.eventfd() {
            Some(eventfd) => eventfd.wake(),
            None => {
                // ESRCH: the owner left meanwhile; who takes the latch next looks for work by itself.
                let _gone = process::kill(owner, Signal::Urg);
            }
        }
    }

    fn eventfd(&self) -> Option<&'static EventFd> {
        let kept = self.0.load(Ordering::Relaxed) as usize;
        EVENTFDS.get().get(kept.checked_sub(1)?).copied()
    }
}

/// Makes an eventfd for each of `count` latches, or for as many of them as there is room for, and returns what
/// these latches are to keep. Call before the first fork.
pub(crate) fn make(count: usize) -> Range<u32> {
    let old = EVENTFDS.get();
    let others = old.len() as u64 + count as u64 + RESERVE;
    let room = process::make_room_for_descriptors(others + count as u64).unwrap_or(0);
    let count = count.min(usize::try_from(room.saturating_sub(others)).unwrap_or(usize::MAX));
    let new = (0..count).map_while(|_| EventFd::new().ok());
    let all: Vec<&EventFd> =
        old.iter().copied().chain(new.map(|eventfd| &*Box::leak(Box::new(eventfd)))).collect();
    EVENTFDS.set(Box::leak(all.into_boxed_slice()));
    let kept = |index: usize| u32::try_from(index + 1).expect("descriptors are fewer");
    kept(old.len())..kept(EVENTFDS.get().len())
}
