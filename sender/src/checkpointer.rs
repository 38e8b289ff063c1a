//! The checkpointer: bounds what recovery has to read and how large SQLite's own log grows.
//!
//! Started with the startup process, on every node. Sleeps on its latch, the postmaster's death and one computed
//! timeout: the next timed checkpoint. A checkpoint is, in this order:
//!
//! 1. read the LSN that the committed tables hold, fdatasync `state.db-wal`: what the tables hold is durable up to
//!    there, that is redo;
//! 2. copy SQLite's log into `state.db` as far as no reader is in the way (PASSIVE: it waits for nobody);
//! 3. primary: insert the checkpoint record with that redo and the horizon, flush;
//! 4. replace the control file;
//! 5. remove what of the log nobody needs any more ([`removal`]).
//!
//! Besides the timed one there is one whenever half of `max_wal_size` has been logged since the last one's redo, and when
//! somebody asks ([`request`]).
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
//! Follows PostgreSQL 15 src/backend/postmaster/checkpointer.c and ShutdownXLOG() in xlog.c; differs in: nothing is spread
//! over the time between checkpoints, and there is no checkpoint_completion_target. SQLite copies its log in one call, from
//! a file of bounded size (`state_wal_limit`), and nobody waits for that call.

mod removal;
mod report;
mod request;

use std::fs;
use std::io;
use std::sync::atomic::Ordering;

use engine::error::SqlState;
use failpoint::Site;
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wal::store::{hint, reason};
use wal::timestamp::Timestamp;
use wal::xlog::{CheckPoint, CheckPointKind};

use crate::archive_status;
use crate::control::{ControlFile, NodeState};
use crate::log::{fatal, panic_severity};
use crate::node::{Node, take_flag};
use crate::reserve::Reserve;
use crate::startup::panic_if_broken;
use crate::wait::wait_latch;
use crate::walsender::WalSndState;
use crate::xlog::{Inserted, Xlog};

use report::Report;
use request::Causes;
use sys::file::sync_directory;

pub use request::{
    Cause, CheckpointRequest, CheckpointerCtl, request_checkpoint, request_checkpoint_if_due,
    request_removal, request_tables_checkpoint,
};

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
    /// Pages of SQLite's log that were copied when it was looked at last.
    copied: u32,
    /// Their disk was full last time.
    full: bool,
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
        copied: 0,
        full: false,
    };
    match removal::removed_before(node) {
        Ok(last) => node.wal.note_removed(last),
        // Slots are then said to reach further back than they do.
        Err(error) => tracing::error!("could not look for the first log segment: {error}"),
    }
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
        if take_flag(&node.checkpointer.removal_wanted) {
            checkpointer.remove_again();
        }
        let now = clock::now();
        let due = last.saturating_add(node.settings().checkpoint_timeout);
        if now >= due || node.checkpointer.is_wanted() {
            last = now;
            checkpointer.turn(now >= due);
            continue;
        }
        let next = checkpointer.switch_if_due(clock::now()).map_or(due, |switch| switch.min(due));
        wait_latch(&me, Some(next.saturating_since(clock::now())), WaitEvent::CheckpointerMain);
    }
}

impl Checkpointer {
    /// A checkpoint if somebody asked, or if it is `due` and anything was logged since the last one.
    fn turn(&mut self, due: bool) {
        let node = self.node;
        if !node.checkpointer.is_wanted() && self.log_end() == self.last_end {
            return;
        }
        let mut causes = node.checkpointer.begin(node);
        if due {
            causes = causes.with(Cause::Time);
        }
        let primary = !node.recovery.in_recovery();
        // Crash recovery has none; the startup process asks for one at its end.
        let succeeded = (!primary && !node.data.is_standby())
            || match self.checkpoint(primary.then_some(CheckPointKind::Online), causes) {
                Ok(()) => true,
                // The next one tries again; recovery has to read more until then.
                Err(error) => {
                    tracing::error!("checkpoint failed: {error}");
                    false
                }
            };
        node.checkpointer.end(node, succeeded);
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

    /// A checkpoint, and what the log says of it; no record on a node that doesn't write the log.
    fn checkpoint(&mut self, kind: Option<CheckPointKind>, causes: Causes) -> io::Result<()> {
        let name = if kind.is_some() { "checkpoint" } else { "restartpoint" };
        let logs = self.node.settings().log_checkpoints;
        if logs {
            tracing::info!("{name} starting:{causes}");
        }
        let began = clock::now();
        let report = self.do_steps(kind)?;
        if logs {
            let total = clock::now().saturating_since(began);
            tracing::info!("{name} complete: {}", Report { total, ..report });
        }
        Ok(())
    }

    /// The steps of the header.
    fn do_steps(&mut self, kind: Option<CheckPointKind>) -> io::Result<Report> {
        let node = self.node;
        let mut report = Report::default();
        let began = clock::now();
        let end_before = self.log_end();
        // Before the LSN below is read: what is committed has been replayed.
        let replayed_checkpoint = node.recovery.replayed_checkpoint.load(Ordering::Acquire);
        let redo = self.sync_tables()?;
        report.sync = clock::now().saturating_since(began);
        let copying = clock::now();
        (report.copied, report.log_pages) =
            failpoint::step(Site::CheckpointTables, || self.checkpoint_tables());
        report.write = clock::now().saturating_since(copying);
        report.distance = redo.saturating_since(node.wal.redo());

        let unix_micros = clock::unix_micros();
        let mut end = end_before;
        let checkpoint = match kind {
            Some(kind) => {
                let insert = || self.insert_checkpoint(redo, unix_micros, kind);
                let record = failpoint::step(Site::CheckpointRecord, insert)?;
                // What else was logged meanwhile is for the next checkpoint.
                if node.place(end_before, CheckPoint::RECORD_LEN).start == record.start {
                    end = record.end;
                }
                Some(record.start.0)
            }
            None => Some(replayed_checkpoint).filter(|start| *start != 0),
        };
        let note = |control: &mut ControlFile| {
            control.redo = redo.0;
            if control.backup_end <= redo.0 {
                control.backup_end = 0;
            }
            control.checkpoint = checkpoint.unwrap_or(control.checkpoint);
            control.state = match kind {
                Some(CheckPointKind::Online) => NodeState::InProduction,
                Some(CheckPointKind::Shutdown) => NodeState::ShutDown,
                // A restart point; the node may have been promoted meanwhile.
                None => control.state,
            };
            control.time = Timestamp::from_unix_micros(unix_micros).0;
        };
        let control = failpoint::step(Site::CheckpointControl, || node.update_control(note))?;
        self.last_end = end;
        node.wal.redo.store(redo.0, Ordering::Release);
        match removal::remove_old_segments(node, &control, self.log_end()) {
            Ok(removed) => report.removed = removed,
            // The checkpoint is done all the same; the next one tries again.
            Err(error) => tracing::error!("could not remove old log segments: {error}"),
        }
        Ok(report)
    }

    /// Between two checkpoints: what the last one had to leave.
    fn remove_again(&self) {
        let removed = ControlFile::read(&self.node.data.control())
            .and_then(|control| removal::remove_old_segments(self.node, &control, self.log_end()));
        if let Err(error) = removed {
            tracing::error!("could not remove old log segments: {error}");
        }
    }

    /// Inserts and flushes the record; its place.
    fn insert_checkpoint(
        &mut self,
        redo: Lsn,
        unix_micros: i64,
        kind: CheckPointKind,
    ) -> io::Result<Inserted> {
        let mut record = CheckPoint {
            redo,
            tli: self.node.wal.timeline(),
            prev_tli: self.node.wal.timeline(),
            time: unix_micros / 1_000_000,
            horizon: self.node.wal.horizon(),
            ..CheckPoint::default()
        };
        if kind == CheckPointKind::Shutdown {
            // By definition a shutdown checkpoint's redo is its own place; nobody else logs any more. Recovery reads
            // from the applied LSN in the tables all the same.
            let end = self.node.wal.insert_lsn();
            record.redo = self.node.place(end, CheckPoint::RECORD_LEN).start;
        }
        let inserted = self.xlog.insert_kept(&mut record.record(kind)).map_err(io::Error::other)?;
        self.xlog.flush(inserted.end);
        Ok(inserted)
    }

    /// Makes what the tables hold durable; returns up to where.
    fn sync_tables(&self) -> io::Result<Lsn> {
        let committed = self.node.recovery.committed();
        let path = self.node.data.state_db_wal();
        let sync = |file: fs::File| failpoint::io(Site::CheckpointSync, || file.sync_data());
        // Its name too: SQLite syncs that with its own first sync, which may be yet to come.
        let directory = path.parent().expect("a file in a data directory has a parent");
        match fs::File::open(&path).and_then(sync).and_then(|()| sync_directory(directory)) {
            Ok(()) => Ok(committed),
            // No log of SQLite's own: nothing was committed since state.db was synced.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(committed),
            Err(error) => {
                let (path, reason, hint) = (path.display(), reason(&error), hint(&error));
                panic_severity(&format!("could not fdatasync file \"{path}\": {reason}{hint}"))
            }
        }
    }

    /// Copies SQLite's log into the tables' file as far as readers allow: how many pages, and of how many in that log.
    fn checkpoint_tables(&mut self) -> (u32, u32) {
        if self.tables.is_none() {
            if !self.node.data.state_db().exists() {
                return (0, 0);
            }
            match engine::Checkpointer::open(&self.node.data.state_db()) {
                Ok(tables) => self.tables = Some(tables),
                Err(error) => {
                    tracing::error!("could not open the tables for a checkpoint: {error}");
                    return (0, 0);
                }
            }
        }
        let Some(tables) = &mut self.tables else { return (0, 0) };
        let result = match tables.passive() {
            Err(error) if error.sqlstate == SqlState::DISK_FULL && Reserve::Tables.release(self.node) => {
                tables.passive()
            }
            result => result,
        };
        let full = self.full;
        self.full = result.as_ref().is_err_and(|error| error.sqlstate == SqlState::DISK_FULL);
        match result {
            Ok(done) => {
                if done.checkpointed_frames != done.log_frames {
                    self.node.checkpointer.restart_wanted.store(1, Ordering::Release);
                    self.node.wake_startup();
                }
                // SQLite counts from the start of its log; one that was started over counts less.
                let before = std::mem::replace(&mut self.copied, done.checkpointed_frames);
                let copied = done.checkpointed_frames.checked_sub(before).unwrap_or(done.checkpointed_frames);
                (copied, done.log_frames)
            }
            Err(error) => {
                // SQLite would try a sync that has failed again, on what the kernel may have dropped.
                panic_if_broken(&error);
                // A full disk is said once: the startup process asks again and again.
                if !(full && self.full) {
                    tracing::error!("could not checkpoint the tables: {error}");
                }
                (0, 0)
            }
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
            self.checkpoint(Some(CheckPointKind::Shutdown), Cause::Shutdown.into())
        } else if self.node.data.is_standby() {
            self.checkpoint(None, Cause::Shutdown.into()).and_then(|()| self.note_shutdown_in_recovery())
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
        self.node.update_control(|control| control.state = NodeState::ShutDownInRecovery)?;
        Ok(())
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
