//! The checkpointer: bounds what recovery has to read and how large SQLite's own log grows.
//!
//! Started with the startup process, on every node. Sleeps on its latch, the postmaster's death and one computed
//! timeout: the next timed checkpoint. A checkpoint is, in this order:
//!
//! 1. read the LSN that the committed tables hold, fdatasync `state.db-wal`: what the tables hold is durable up to
//!    there, that is redo;
//! 2. copy SQLite's log into `state.db` as far as no reader is in the way (PASSIVE: it waits for nobody);
//! 3. primary: insert the checkpoint record with that redo and the horizon, flush;
//! 4. replace the control file.
//!
//! When `archive_timeout` has passed since the last segment was complete, and something was logged since, it closes the
//! segment, so that it can be archived.
//!
//! At `state_wal_limit` the startup process asks for step 2 alone.
//!
//! Normal stop: STOP (SIGUSR2), sent by the postmaster when no process but walsenders and the archiver is left. The
//! walsenders are told INIT_STOPPING; when each is stopping or gone (they set this process' latch) the segment is closed if
//! it is to be archived, and the shutdown checkpoint becomes the last record of the log, which the walsenders then still
//! have to send. SIGTERM is ignored, as init sends it to everybody. An unrequested exit is a crash of the node.
//!
//! Must never be added: anything that waits for a client.
//!
//! Follows PostgreSQL 15 src/backend/postmaster/checkpointer.c and ShutdownXLOG() in xlog.c.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;
use wal::xlog::{CheckPoint, CheckPointKind};

use crate::archive_status;
use crate::control::{ControlFile, NodeState};
use crate::log::{fatal, panic_severity};
use crate::node::{Node, take_flag};
use crate::wait::wait_latch;
use crate::walsender::WalSndState;
use crate::xlog::Xlog;

ipc::shared_struct! {
    /// What others ask of the checkpointer.
    pub struct CheckpointerCtl {
        /// 1: take a checkpoint now.
        checkpoint_wanted: AtomicU32,
        /// 1: copy SQLite's log into the tables' file.
        tables_wanted: AtomicU32,
        /// 1: set by the checkpointer when readers kept it from copying all; the startup process then restarts
        /// SQLite's log between two transactions.
        pub restart_wanted: AtomicU32,
        /// Checkpoints done since start, whatever their cause.
        done: AtomicU64,
    }
}

/// Asks for a checkpoint now; doesn't wait for it.
pub fn request_checkpoint(node: &Node) {
    node.checkpointer.checkpoint_wanted.store(1, Ordering::Release);
    node.procs.set_latch(ipc::proc::ProcNumber::CHECKPOINTER);
}

/// Asks to copy SQLite's log into the tables' file; doesn't wait for it.
pub fn request_tables_checkpoint(node: &Node) {
    if node.checkpointer.tables_wanted.swap(1, Ordering::AcqRel) == 1 {
        return;
    }
    node.procs.set_latch(ipc::proc::ProcNumber::CHECKPOINTER);
}

struct Checkpointer {
    node: &'static Node,
    me: Me,
    xlog: Xlog,
    /// End of the log at the last checkpoint: nothing to do while it is still that.
    last_end: Lsn,
    /// When archive_timeout last fell due.
    switch_tried: MonoTime,
    /// Opened at the first use: the startup process creates the tables' file.
    tables: Option<engine::Checkpointer>,
}

/// Main function of the checkpointer; returns its exit status.
pub fn checkpointer_main(node: &'static Node, me: Me) -> i32 {
    let mut checkpointer = Checkpointer {
        node,
        me,
        xlog: Xlog::new(node, me),
        last_end: Lsn::INVALID,
        switch_tried: MonoTime::ZERO,
        tables: None,
    };
    // From when the present checkpoint_timeout counts, also when it has just changed.
    let mut last = clock::now();
    loop {
        me.latch().reset();
        me.take(Interrupts::TERMINATE);
        node.attend(&me);
        if me.take(Interrupts::STOP).contains(Interrupts::STOP) {
            return checkpointer.shut_down();
        }
        if take_flag(&node.checkpointer.tables_wanted) {
            checkpointer.checkpoint_tables();
        }
        let wanted = take_flag(&node.checkpointer.checkpoint_wanted);
        let now = clock::now();
        let due = last.saturating_add(node.settings().checkpoint_timeout);
        if now >= due {
            last = now;
        }
        if wanted || now >= due {
            checkpointer.timed(wanted);
            continue;
        }
        let next = checkpointer.switch_if_due(clock::now()).map_or(due, |switch| switch.min(due));
        wait_latch(&me, Some(next.saturating_since(clock::now())), WaitEvent::CheckpointerMain);
    }
}

impl Checkpointer {
    /// A checkpoint if anything was logged since the last one, or if somebody asked.
    fn timed(&mut self, wanted: bool) {
        let node = self.node;
        if !wanted && self.log_end() == self.last_end {
            return;
        }
        let primary = !node.recovery.in_recovery();
        if !primary && !node.data.is_standby() {
            // Crash recovery; the startup process asks for a checkpoint at its end.
            return;
        }
        match self.checkpoint(primary.then_some(CheckPointKind::Online)) {
            Ok(()) => self.last_end = self.log_end(),
            // The next one tries again; recovery has to read more until then.
            Err(error) => tracing::error!("checkpoint failed: {error}"),
        }
        node.checkpointer.done.fetch_add(1, Ordering::Release);
    }

    /// Closes the segment when `archive_timeout` has passed since the last one was complete and something was logged
    /// since. Returns when that is due next.
    fn switch_if_due(&mut self, now: MonoTime) -> Option<MonoTime> {
        let timeout = self.node.settings().archive_timeout?;
        if self.node.recovery.in_recovery() {
            return None;
        }
        let completed_at = MonoTime::from_nanos(self.node.wal.segment_completed_at.load(Ordering::Relaxed));
        let due = completed_at.max(self.switch_tried).saturating_add(timeout);
        if now < due {
            return Some(due);
        }
        self.switch_tried = now;
        let before = self.log_end();
        if before.0 > self.node.wal.segment_completed.load(Ordering::Relaxed) {
            self.switch_segment();
            // Nothing but the switch since the last checkpoint: no reason for another one, which would be a reason for
            // another switch.
            if before == self.last_end {
                self.last_end = self.log_end();
            }
        }
        Some(now.saturating_add(timeout))
    }

    fn switch_segment(&mut self) {
        match self.xlog.switch_segment() {
            Ok(_) => self.xlog.flush(self.node.wal.insert_lsn()),
            Err(error) => tracing::error!("could not close a log segment for the archive: {error}"),
        }
    }

    fn log_end(&self) -> Lsn {
        if self.node.recovery.in_recovery() { self.node.wal.flush_lsn() } else { self.node.wal.insert_lsn() }
    }

    /// Steps 1 to 4 of the header; no record on a node that doesn't write the log.
    fn checkpoint(&mut self, kind: Option<CheckPointKind>) -> io::Result<()> {
        let redo = self.sync_tables()?;
        self.checkpoint_tables();
        let mut control = ControlFile::read(&self.node.data.control())?;
        control.timeline = self.node.wal.timeline().0;
        control.redo = redo.0;
        control.state = match kind {
            Some(CheckPointKind::Online) => NodeState::InProduction,
            Some(CheckPointKind::Shutdown) => NodeState::ShutDown,
            None => NodeState::InArchiveRecovery,
        };
        let unix_micros = clock::unix_micros();
        if let Some(kind) = kind {
            let record = CheckPoint {
                redo,
                tli: self.node.wal.timeline(),
                prev_tli: self.node.wal.timeline(),
                time: unix_micros / 1_000_000,
                horizon: self.node.wal.horizon(),
                ..CheckPoint::default()
            };
            let inserted = self.insert_checkpoint(record, kind)?;
            control.checkpoint = inserted.0;
        }
        control.time = Timestamp::from_unix_micros(unix_micros).0;
        control.write(&self.node.data.control())
    }

    /// Inserts and flushes the record; its start.
    fn insert_checkpoint(&mut self, mut record: CheckPoint, kind: CheckPointKind) -> io::Result<Lsn> {
        if kind == CheckPointKind::Shutdown {
            // By definition a shutdown checkpoint's redo is its own place; nobody else logs any more. Recovery reads
            // from the applied LSN in the tables all the same.
            let end = self.node.wal.insert_lsn();
            record.redo = self.node.place(end, CheckPoint::RECORD_LEN).start;
        }
        let inserted = self.xlog.insert(&mut record.record(kind)).map_err(io::Error::other)?;
        self.xlog.flush(inserted.end);
        Ok(inserted.start)
    }

    /// Makes what the tables hold durable; returns up to where.
    fn sync_tables(&self) -> io::Result<Lsn> {
        let committed = self.node.recovery.committed();
        let path = self.node.data.state_db_wal();
        match fs::File::open(&path).and_then(|file| file.sync_data()) {
            Ok(()) => Ok(committed),
            // No log of SQLite's own: nothing was committed since state.db was synced.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(committed),
            Err(error) => {
                panic_severity(&format!("could not fdatasync file \"{}\": {error}", path.display()))
            }
        }
    }

    /// Copies SQLite's log into the tables' file as far as readers allow.
    fn checkpoint_tables(&mut self) {
        if self.tables.is_none() {
            if !self.node.data.state_db().exists() {
                return;
            }
            match engine::Checkpointer::open(&self.node.data.state_db()) {
                Ok(tables) => self.tables = Some(tables),
                Err(error) => return tracing::error!("could not open the tables for a checkpoint: {error}"),
            }
        }
        let Some(tables) = &mut self.tables else { return };
        match tables.passive() {
            Ok(done) if done.checkpointed_frames == done.log_frames => {}
            Ok(_) => {
                self.node.checkpointer.restart_wanted.store(1, Ordering::Release);
                self.node.wake_startup();
            }
            Err(error) => tracing::error!("could not checkpoint the tables: {error}"),
        }
    }

    /// The last work of a node: see the header.
    fn shut_down(&mut self) -> i32 {
        tracing::info!("shutting down");
        self.stop_walsenders();
        if archive_status::is_archiving(self.node) && !self.node.recovery.in_recovery() {
            // So that all but the shutdown checkpoint itself reaches the archive.
            self.switch_segment();
        }
        let result = if !self.node.recovery.in_recovery() {
            self.checkpoint(Some(CheckPointKind::Shutdown))
        } else if self.node.data.is_standby() {
            self.checkpoint(None).and_then(|()| self.note_shutdown_in_recovery())
        } else {
            // Stopped before recovery had ended: the next start begins it again.
            Ok(())
        };
        match result {
            Ok(()) => 0,
            Err(error) => {
                fatal(&format!("could not write the shutdown checkpoint: {error}"));
                1
            }
        }
    }

    fn note_shutdown_in_recovery(&self) -> io::Result<()> {
        let mut control = ControlFile::read(&self.node.data.control())?;
        control.state = NodeState::ShutDownInRecovery;
        control.write(&self.node.data.control())
    }

    /// Tells the walsenders that the end is near and waits until each is stopping or gone.
    fn stop_walsenders(&self) {
        loop {
            self.me.latch().reset();
            let mut pending = false;
            for slot in self.node.walsenders {
                let Some(number) = slot.owner() else { continue };
                if slot.state() == WalSndState::Stopping {
                    continue;
                }
                pending = true;
                // In every round: one may have begun since the last.
                if let Some(address) = self.node.procs.address(number) {
                    self.node.procs.send_interrupt(address, Interrupts::WALSND_INIT_STOPPING);
                }
            }
            if !pending {
                return;
            }
            wait_latch(&self.me, None, WaitEvent::CheckpointerMain);
        }
    }
}
