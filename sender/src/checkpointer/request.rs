//! Asking for a checkpoint, and waiting for its end.
//!
//! Whoever wants one says why in a word of flags ([`Cause`]) and sets the checkpointer's latch; who must have one waits
//! until a checkpoint that began after its request is done ([`CheckpointRequest`]).
//!
//! No request is lost, and none is answered by a checkpoint that is older than it:
//!
//! ```text
//! requester:    R1  look at `started`        R2  raise the flag, set the latch    R3  wait for another `started`, then `done`
//! checkpointer: C1  take the flags           C2  started := started + 1           C3  look at what the tables hold
//! ```
//!
//! If C1 comes before R2, the flag is still up, and another checkpoint follows. If R1 sees what C2 wrote, R2 comes after C1.
//! So a requester that goes on waiting at R3 always has its flag up, and one that sees another `started` than at R1 sees that
//! of a checkpoint whose C3, which decides what is in it, came after R1.
//!
//! Follows PostgreSQL 15 RequestCheckpoint() in src/backend/postmaster/checkpointer.c.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipc::proc::ProcNumber;
use ipc::wait_event::WaitEvent;
use wal::lsn::Lsn;

use crate::node::Node;

ipc::shared_struct! {
    /// What others ask of the checkpointer.
    pub struct CheckpointerCtl {
        /// The [`Cause`]s for which a checkpoint is wanted now. Raised by anybody, taken by the checkpointer.
        causes: AtomicU32,
        /// Checkpoints begun since start. Written by the checkpointer.
        started: AtomicU64,
        /// `started` of the last one that has ended. Likewise.
        done: AtomicU64,
        /// Checkpoints that failed since start. Likewise, before `done`.
        failed: AtomicU64,
        /// 1: look again for log to remove.
        pub(super) removal_wanted: AtomicU32,
        /// 1: copy SQLite's log into the tables' file.
        pub(super) tables_wanted: AtomicU32,
        /// 1: set by the checkpointer when readers kept it from copying all; the startup process then restarts
        /// SQLite's log between two transactions.
        pub restart_wanted: AtomicU32,
    }
}

/// Why there is to be a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cause {
    /// Recovery has ended.
    EndOfRecovery = 1,
    /// Somebody waits for it.
    Command = 2,
    /// As much was logged as `max_wal_size` allows before the next one.
    Wal = 4,
    /// `checkpoint_timeout` has passed.
    Time = 8,
    /// The node ends.
    Shutdown = 16,
}

/// Several of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Causes(u32);

impl Causes {
    const WORDS: [(Cause, &'static str); 5] = [
        (Cause::Shutdown, " shutdown immediate"),
        (Cause::EndOfRecovery, " end-of-recovery immediate"),
        (Cause::Command, " immediate force wait"),
        (Cause::Wal, " wal"),
        (Cause::Time, " time"),
    ];

    pub(super) fn with(self, cause: Cause) -> Causes {
        Causes(self.0 | cause as u32)
    }

    pub(super) fn contains(self, cause: Cause) -> bool {
        self.0 & cause as u32 != 0
    }
}

impl From<Cause> for Causes {
    fn from(cause: Cause) -> Causes {
        Causes(cause as u32)
    }
}

impl std::fmt::Display for Causes {
    /// PostgreSQL's words, each with a blank before it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = Causes::WORDS.iter().filter(|(cause, _)| self.contains(*cause));
        words.into_iter().try_for_each(|(_, word)| f.write_str(word))
    }
}

impl CheckpointerCtl {
    /// C1 and C2 of the header. The checkpointer only.
    pub(super) fn begin(&self, node: &Node) -> Causes {
        let causes = Causes(self.causes.swap(0, Ordering::AcqRel));
        self.started.fetch_add(1, Ordering::AcqRel);
        node.checkpoint_progress.broadcast(node.procs);
        causes
    }

    /// The checkpoint that was begun last has ended. The checkpointer only.
    pub(super) fn end(&self, node: &Node, succeeded: bool) {
        self.failed.fetch_add(u64::from(!succeeded), Ordering::Release);
        self.done.store(self.started.load(Ordering::Relaxed), Ordering::Release);
        node.checkpoint_progress.broadcast(node.procs);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.causes.load(Ordering::Relaxed) != 0
    }
}

/// Asks for a checkpoint now; doesn't wait for it.
pub fn request_checkpoint(node: &Node, cause: Cause) {
    if node.checkpointer.causes.fetch_or(cause as u32, Ordering::AcqRel) & cause as u32 == 0 {
        node.procs.set_latch(ProcNumber::CHECKPOINTER);
    }
}

/// Asks for a checkpoint if half of `max_wal_size` was logged since the last one's redo: the rest may come while it is
/// under way. `end` is how far recovery could begin later: the end of the log on a primary, what is replayed on a standby.
pub fn request_checkpoint_if_due(node: &Node, end: Lsn) {
    if end.saturating_since(node.wal.redo()) < node.settings().max_wal_size / 2 {
        return;
    }
    // Recovery of a primary ends in a checkpoint.
    if !node.recovery.in_recovery() || node.data.is_standby() {
        request_checkpoint(node, Cause::Wal);
    }
}

/// Asks to copy SQLite's log into the tables' file; doesn't wait for it.
pub fn request_tables_checkpoint(node: &Node) {
    if node.checkpointer.tables_wanted.swap(1, Ordering::AcqRel) == 1 {
        return;
    }
    node.procs.set_latch(ProcNumber::CHECKPOINTER);
}

/// Asks to look again for log to remove: an obsolete slot is free.
pub fn request_removal(node: &Node) {
    node.checkpointer.removal_wanted.store(1, Ordering::Release);
    node.procs.set_latch(ProcNumber::CHECKPOINTER);
}

/// A checkpoint that is waited for, on [`Node::checkpoint_progress`].
#[derive(Clone, Copy, Debug)]
pub struct CheckpointRequest {
    node: &'static Node,
    started_before: u64,
    failed_before: u64,
    /// Its number, once it has begun.
    number: Option<u64>,
}

impl CheckpointRequest {
    /// Asks for it.
    pub fn new(node: &'static Node) -> CheckpointRequest {
        let shared = node.checkpointer;
        let failed_before = shared.failed.load(Ordering::Acquire);
        let started_before = shared.started.load(Ordering::Acquire);
        request_checkpoint(node, Cause::Command);
        CheckpointRequest { node, started_before, failed_before, number: None }
    }

    /// Whether it is done, and has succeeded. To be asked in each turn of the wait.
    pub fn progress(&mut self) -> Option<bool> {
        let shared = self.node.checkpointer;
        if self.number.is_none() {
            let started = shared.started.load(Ordering::Acquire);
            self.number = (started != self.started_before).then_some(started);
        }
        let done = self.number.is_some_and(|number| shared.done.load(Ordering::Acquire) >= number);
        done.then(|| shared.failed.load(Ordering::Acquire) == self.failed_before)
    }

    /// What is waited for at present.
    pub fn wait_event(&self) -> WaitEvent {
        if self.number.is_some() { WaitEvent::CheckpointDone } else { WaitEvent::CheckpointStart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_in_postgresqls_words() {
        let causes = Causes::from(Cause::Time).with(Cause::Command);
        assert_eq!(format!("checkpoint starting:{causes}"), "checkpoint starting: immediate force wait time");
        let shutdown = Causes::from(Cause::Shutdown);
        assert_eq!(format!("checkpoint starting:{shutdown}"), "checkpoint starting: shutdown immediate");
    }
}
