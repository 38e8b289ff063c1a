//! How far a base backup is, for pg_stat_progress_basebackup. In the place of its walsender, which alone writes it.
//!
//! Follows PostgreSQL 15 src/backend/backup/basebackup_progress.c.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

ipc::shared_struct! {
    /// One backup.
    pub struct BackupProgress {
        /// A [`Phase`]; 0: none is under way.
        phase: AtomicU32,
        /// Bytes of the archive, as estimated, + 1; 0: not asked for.
        total: AtomicU64,
        /// Bytes of it sent.
        streamed: AtomicU64,
        /// 1: the tables are sent.
        tables_streamed: AtomicU32,
    }
}

/// What a backup is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// It has just begun.
    Initializing = 1,
    /// It waits for the checkpoint that it starts from.
    WaitCheckpoint = 2,
    /// It copies the tables, and adds up what there is to be sent.
    EstimateSize = 3,
    /// It sends files.
    StreamFiles = 4,
    /// It waits until its log is in the archive.
    WaitArchive = 5,
    /// It sends its log.
    TransferWal = 6,
}

const PHASES: [Phase; 6] = [
    Phase::Initializing,
    Phase::WaitCheckpoint,
    Phase::EstimateSize,
    Phase::StreamFiles,
    Phase::WaitArchive,
    Phase::TransferWal,
];

impl Phase {
    /// The view's text.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Initializing => "initializing",
            Phase::WaitCheckpoint => "waiting for checkpoint to finish",
            Phase::EstimateSize => "estimating backup size",
            Phase::StreamFiles => "streaming database files",
            Phase::WaitArchive => "waiting for wal archiving to finish",
            Phase::TransferWal => "transferring wal files",
        }
    }
}

impl BackupProgress {
    /// A backup begins; it ends when the result is dropped.
    pub fn begin(&self) -> Shown<'_> {
        for word in [&self.total, &self.streamed] {
            word.store(0, Ordering::Relaxed);
        }
        self.tables_streamed.store(0, Ordering::Relaxed);
        self.enter(Phase::Initializing);
        Shown { progress: self }
    }

    /// It comes to its next phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// So many bytes are to be sent.
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes.saturating_add(1), Ordering::Relaxed);
    }

    /// So many bytes are sent.
    pub fn set_streamed(&self, bytes: u64) {
        self.streamed.store(bytes, Ordering::Relaxed);
    }

    /// All files but the log are sent.
    pub fn set_tables_streamed(&self) {
        self.tables_streamed.store(1, Ordering::Relaxed);
    }

    /// What it is at; none: no backup is under way.
    pub fn phase(&self) -> Option<Phase> {
        let word = self.phase.load(Ordering::Acquire);
        PHASES.into_iter().find(|phase| *phase as u32 == word)
    }

    /// Bytes of the archive as estimated, never less than what has been sent; none: not asked for.
    pub fn total(&self) -> Option<u64> {
        let total = self.total.load(Ordering::Relaxed).checked_sub(1);
        total.map(|total| total.max(self.streamed()))
    }

    /// Bytes sent.
    pub fn streamed(&self) -> u64 {
        self.streamed.load(Ordering::Relaxed)
    }

    /// Tablespaces sent, of the one that there is.
    pub fn tablespaces_streamed(&self) -> u32 {
        self.tables_streamed.load(Ordering::Relaxed)
    }
}

/// See [`BackupProgress::begin`].
#[derive(Debug)]
pub struct Shown<'a> {
    progress: &'a BackupProgress,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.progress.phase.store(0, Ordering::Release);
    }
}
