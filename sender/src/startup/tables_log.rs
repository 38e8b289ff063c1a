//! Keeps SQLite's own log in front of the tables (`state.db-wal`) bounded.
//!
//! At `state_wal_limit` the checkpointer is asked to copy what it can (PASSIVE); SQLite then starts the log over by
//! itself when it writes next, unless a reader still uses it. If readers kept the checkpointer from copying all, it
//! says so (`restart_wanted`), and this process copies the rest and starts the log over between two transactions
//! (RESTART), which again fails while a reader uses the log.
//!
//! At twice the limit this process does not wait for the checkpointer any more, which may be slower than the writes (a
//! log that grows meanwhile is never started over by itself), but tries RESTART after each COMMIT. A reader may take
//! its time up to there: most are gone by themselves. From there on those reads are cancelled (40001) that began
//! before the first RESTART which failed: they, and nobody who came later, hold the log up now. It also reaches a
//! reader that is blocked on a slow client. So the log is bounded by twice the limit, one transaction, and what is
//! written while the readers give way.
//!
//! **After a crash** it is written again, byte by byte, and synced, before SQLite reads it ([`make_durable`]), for the
//! same reason as the log itself: what is read may live in the page cache alone, and if it was a failed sync that ended
//! the node, the kernel takes those pages for written, so that no later sync would write them. The next checkpoint would
//! then copy into the tables what the disk could not give back after a power loss in the middle of the copying.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use ipc::interrupt::Interrupts;
use ipc::proc::ProcNumber;
use sys::clock::{self, MonoTime};

use super::panic_if_broken;
use crate::checkpointer::request_tables_checkpoint;
use crate::node::{Node, take_flag};

/// Bytes read and written at once.
const COPY_SIZE: usize = 1 << 20;

/// Writes SQLite's log again and syncs it, if there is one. Before anybody opens the tables.
///
/// # Errors
/// Those of the file system.
pub fn make_durable(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut buffer = vec![0; COPY_SIZE];
    let mut at = 0;
    loop {
        let len = file.read_at(&mut buffer, at)?;
        if len == 0 {
            return file.sync_data();
        }
        file.write_all_at(&buffer[..len], at)?;
        at += len as u64;
    }
}

/// The startup process' view of it.
pub(super) struct TablesLog {
    node: &'static Node,
    /// When RESTART failed first of late.
    blocked_since: Option<MonoTime>,
    /// What its file was limited to last, bytes.
    file_limit: u64,
}

impl TablesLog {
    pub(super) fn new(node: &'static Node) -> TablesLog {
        TablesLog { node, blocked_since: None, file_limit: 0 }
    }

    /// Whether the checkpointer has asked for a restart: commit, if a transaction is open.
    pub(super) fn restart_wanted(&self) -> bool {
        self.node.checkpointer.restart_wanted.load(Ordering::Relaxed) != 0
    }

    /// After a COMMIT: has the log copied when it has become too long. Not at other times: while a reader is in the way,
    /// this process and the checkpointer would ask each other without end.
    pub(super) fn committed(&mut self, tables: &mut engine::Writer) {
        let (size, limit) = (tables.wal_size(), self.node.settings().state_wal_limit);
        self.limit_file(tables, limit.saturating_mul(2));
        if size < limit {
            self.blocked_since = None;
        } else if size < limit.saturating_mul(2) {
            request_tables_checkpoint(self.node);
        } else {
            self.restart(tables);
        }
    }

    /// One huge transaction, which may even have come to nothing, shall not keep the room that it took.
    fn limit_file(&mut self, tables: &mut engine::Writer, limit: u64) {
        if self.file_limit == limit {
            return;
        }
        match tables.limit_log_file(limit) {
            Ok(()) => self.file_limit = limit,
            Err(error) => tracing::error!("could not limit the log of the tables: {error}"),
        }
    }

    /// Between two transactions: starts the log over if the checkpointer has asked.
    pub(super) fn restart_if_wanted(&mut self, tables: &mut engine::Writer) {
        if take_flag(&self.node.checkpointer.restart_wanted) {
            self.restart(tables);
        }
    }

    fn restart(&mut self, tables: &mut engine::Writer) {
        match tables.checkpoint_restart() {
            Err(error) => {
                panic_if_broken(&error);
                tracing::error!("could not restart the log of the tables: {error}");
            }
            Ok(done) if !done.busy => self.blocked_since = None,
            // Not a reader but the checkpointer at its own work; it is asked again after the next COMMIT.
            Ok(done) if done.log_frames == 0 => {}
            Ok(_) => self.blocked(tables.wal_size()),
        }
    }

    /// Readers are in the way.
    fn blocked(&mut self, size: u64) {
        let now = clock::now();
        let since = *self.blocked_since.get_or_insert(now);
        if size < self.node.settings().state_wal_limit.saturating_mul(2) {
            return;
        }
        if !self.cancel_readers(since) {
            // Those of that time are gone: others are in the way now.
            self.blocked_since = Some(now);
        }
    }

    /// Cancels the reads that began before `since`; whether there was one.
    fn cancel_readers(&self, since: MonoTime) -> bool {
        let mut found = false;
        for (number, reading_since) in (0..).map(ProcNumber).zip(self.node.reading_since) {
            let began = reading_since.load(Ordering::Acquire);
            if began == 0 || began >= since.as_nanos() {
                continue;
            }
            // A session that has begun its next read meanwhile loses that one: 40001 may be retried.
            if let Some(address) = self.node.procs.address(number) {
                found |= self.node.procs.send_interrupt(address, Interrupts::READ_HOLDS_LOG);
            }
        }
        found
    }
}
