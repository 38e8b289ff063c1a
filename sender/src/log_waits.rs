//! Sessions that wait for the log to come to a position here: WAIT FOR LSN in its modes of writing and flushing.
//!
//! They can do nothing for it. Who needs a flush that it could make itself waits otherwise ([`crate::xlog`]): there one
//! waiter is woken to be the next flusher, which none of these could be.
//!
//! ```text
//! waiter:    word := lsn      ; full fence ; look at the position ; sleep on the own latch
//! publisher: position := lsn  ; full fence ; nobody waits? done : look at the words, set the latches
//! ```
//!
//! ([`crate::ordering`] tells why nobody sleeps for ever.) The end of recovery, which ends such waits too, is told to every
//! process by a barrier.
//!
//! Follows PostgreSQL 19 src/backend/access/transam/xlogwait.c; differs in: no heap, a word per process.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipc::proc::{ProcArray, ProcNumber};
use ipc::shmem::Shmem;
use wal::lsn::Lsn;

use crate::ordering;

ipc::shared_struct! {
    /// What one process waits for; 0: not for that. Written by it, read by whoever moves the log.
    struct Words {
        written: AtomicU64,
        flushed: AtomicU64,
    }
}

ipc::shared_struct! {
    /// How many wait: a publisher that sees none looks at no word.
    struct Count {
        waiters: AtomicU32,
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reached {
    /// Received and written here.
    Written,
    /// Durable here.
    Flushed,
}

/// The words of all processes of a node.
#[derive(Clone, Copy, Debug)]
pub struct LogWaits {
    count: &'static Count,
    words: &'static [Words],
}

impl LogWaits {
    /// Bytes of shared memory that it takes.
    pub fn shmem_size(slots: usize) -> usize {
        size_of::<Count>() + slots * size_of::<Words>()
    }

    /// Makes it in `shmem`, for so many processes; before the first fork.
    pub fn create(shmem: &Shmem, slots: usize) -> LogWaits {
        LogWaits { count: shmem.alloc(), words: shmem.alloc_array(slots) }
    }

    /// From now on the process is woken when the log has come there, until the result is dropped. Look at the position after
    /// this, and only then sleep.
    pub fn begin(&self, number: ProcNumber, reached: Reached, lsn: Lsn) -> LogWait {
        let word = word(&self.words[number.index()], reached);
        self.count.waiters.fetch_add(1, Ordering::Relaxed);
        ordering::announce_wait(word, lsn.0);
        LogWait { count: self.count, word }
    }

    /// The log is written up to `lsn`, which was published before.
    pub fn written(&self, procs: &ProcArray, lsn: Lsn) {
        self.wake(procs, Reached::Written, lsn);
    }

    /// The log is durable up to `lsn`, hence written, which was published before.
    pub fn flushed(&self, procs: &ProcArray, lsn: Lsn) {
        self.wake(procs, Reached::Flushed, lsn);
        self.wake(procs, Reached::Written, lsn);
    }

    fn wake(&self, procs: &ProcArray, reached: Reached, lsn: Lsn) {
        ordering::before_looking_for_waiters();
        if self.count.waiters.load(Ordering::Relaxed) == 0 {
            return;
        }
        for (number, words) in (0..).map(ProcNumber).zip(self.words) {
            if ordering::awaited(word(words, reached)).is_some_and(|wanted| wanted <= lsn.0) {
                procs.set_latch(number);
            }
        }
    }
}

fn word(words: &'static Words, reached: Reached) -> &'static AtomicU64 {
    match reached {
        Reached::Written => &words.written,
        Reached::Flushed => &words.flushed,
    }
}

/// A process that waits; dropping it ends the wait.
#[derive(Debug)]
pub struct LogWait {
    count: &'static Count,
    word: &'static AtomicU64,
}

impl Drop for LogWait {
    fn drop(&mut self) {
        ordering::end_wait(self.word);
        self.count.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}
