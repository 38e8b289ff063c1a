//! BASE_BACKUP: a copy of the running node, from which another one can start.
//!
//! The client gets one archive (tar), and a manifest if it wants one. In this order:
//!
//! 1. From now on the log from the present checkpoint on is kept ([`WalSndSlot::hold_log`]).
//! 2. A checkpoint. Its redo is where the backup starts; the client is told.
//! 3. The tables are copied into a temporary file, at one moment ([`engine::backup`]).
//! 4. `backup_label`, the files of the data directory ([`files`]), the copy of the tables.
//! 5. The backup ends: on a primary a record says so in the log. Everything that it needs of the log is before its end.
//! 6. With the option WAL, that part of the log.
//! 7. The control file, last: without it nothing starts from the copy. It names the backup's end.
//!
//! **Consistent** is the copy in itself, from the first moment on: rows and the LSN they belong to are of one
//! transaction, and records are put from there on, none twice, as after any crash. Redo is at or before that LSN, as the
//! checkpoint came first; the end is behind it, as the tables hold nothing that isn't durable. Nobody is stopped for it.
//! Whoever starts from the copy without an upstream must find the log up to the backup's end in it
//! (`crate::startup::recovery` refuses otherwise), so the copy has all that was acknowledged when it was taken.
//!
//! **What can go wrong**: the client may leave, at any time; the node may stop, which ends the backup at once (57P01);
//! a standby may be promoted meanwhile (55000). Nothing is left behind then but a temporary file after a crash, which the
//! next start removes. A full disk meets the copy of the tables alone (53100).
//!
//! Must never be added: a second descriptor of `state.db` in this process (see [`engine::backup`]), or a read
//! transaction that lasts as long as the client takes.
//!
//! Follows PostgreSQL 15 src/backend/backup/basebackup.c; differs in: no tablespaces; the log is sent before the control
//! file; its last segment is filled up with zeros rather than switched away from, unless it is to be archived.

pub mod checksum;
pub mod files;
pub mod label;
mod log_files;
pub mod manifest;
pub mod options;
mod outlet;
pub mod progress;
mod tables;
pub mod tar;
pub mod throttle;

use std::fs::{self, File};
use std::io;

use failpoint::Site;
use ipc::process::Me;
use sys::clock;
use tempfile::TempDir;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;
use wal::xlog::backup_end_record;
use wire::backend::{self, DataRow, command_complete, row_description};
use wire::error::ErrorResponse;
use wire::replication::backup::{BACKUP_POSITION_COLUMNS, TABLESPACE_COLUMNS};
use wire::sqlstate;

use self::files::Member;
use self::label::BackupLabel;
use self::manifest::{Manifest, wal_ranges};
use self::outlet::{Outlet, modified};
use self::progress::{BackupProgress, Phase};
use crate::archive_status;
use crate::checkpointer::CheckpointRequest;
use crate::connection::Connection;
use crate::control::{ControlFile, NodeState};
use crate::node::Node;
use crate::walsender::slot::WalSndSlot;
use crate::xlog::Xlog;

pub use self::files::TEMPORARY_DIRECTORY;
pub use self::options::BackupOptions;
pub(crate) use self::tables::remove_temporary;

/// The tables in the archive.
const TABLES: &str = "state/state.db";

/// Where a backup starts.
struct Start {
    lsn: Lsn,
    timeline: TimelineId,
    control: ControlFile,
    from_standby: bool,
    time: Timestamp,
}

/// A backup under way.
struct BaseBackup<'a> {
    node: &'static Node,
    me: Me,
    options: &'a BackupOptions,
    shown: &'a BackupProgress,
    out: Outlet<'a>,
}

/// Sends a backup to the client of a walsender.
///
/// # Errors
/// See the module. An error here leaves the copy unfinished.
pub(crate) fn send(
    node: &'static Node,
    me: Me,
    connection: &mut Connection,
    slot: &WalSndSlot,
    options: &BackupOptions,
) -> Result<(), ErrorResponse> {
    let manifest = options.manifest.map(Manifest::new);
    let shown = &slot.backup;
    let _while_it_lasts = shown.begin();
    let out = Outlet::new(node, me, connection, shown, manifest);
    let _held = slot.hold_log(log_start(node, &read_control(node)?));
    BaseBackup { node, me, options, shown, out }.run()
}

impl BaseBackup<'_> {
    fn run(&mut self) -> Result<(), ErrorResponse> {
        self.shown.enter(Phase::WaitCheckpoint);
        let start = self.start()?;
        self.shown.enter(Phase::EstimateSize);
        self.tell_position(start.lsn, start.timeline)?;
        self.out.flush()?;
        let copy = tables::copy(self.node, self.me, &mut self.out)?;
        let members = files::members(self.node.data.root())
            .map_err(|error| io_error("read", &self.node.data.root().display().to_string(), &error))?;
        let size = self.options.progress.then(|| self.total_size(&members, &copy));
        size.into_iter().for_each(|bytes| self.shown.set_total(bytes));
        self.shown.enter(Phase::StreamFiles);
        self.tell_tablespace(size)?;
        backend::copy_out_response(self.out.output());
        self.out.begin(self.options.max_rate, self.options.progress)?;
        self.send_files(&start, &members, copy)?;
        self.shown.set_tables_streamed();
        let end = self.stop(&start)?;
        let history = self.history()?;
        if self.options.wal {
            self.shown.enter(Phase::TransferWal);
            log_files::send(self.node, self.me, &mut self.out, &history, start.lsn, end)?;
        }
        self.send_control(&start, end)?;
        self.out.end()?;
        self.send_manifest(&start, &history, end)?;
        backend::copy_done(self.out.output());
        self.tell_position(end, self.node.wal.timeline())?;
        command_complete(self.out.output(), "BASE_BACKUP");
        Ok(())
    }

    /// Steps 2 of the header.
    fn start(&mut self) -> Result<Start, ErrorResponse> {
        let node = self.node;
        let from_standby = node.recovery.in_recovery();
        let mut request = CheckpointRequest::new(node);
        let mut sleep = node.checkpoint_progress.prepare_to_sleep(self.me);
        loop {
            sleep.enter();
            match request.progress() {
                Some(true) => break,
                Some(false) => {
                    return Err(ErrorResponse::error(sqlstate::INTERNAL_ERROR, "checkpoint request failed")
                        .with_hint("Consult recent messages in the server log for details."));
                }
                None => {}
            }
            self.out.heed()?;
            self.out.sleep(None, request.wait_event())?;
        }
        drop(sleep);
        let control = read_control(node)?;
        let (lsn, time) = (log_start(node, &control), now());
        Ok(Start { lsn, timeline: TimelineId(control.timeline), control, from_standby, time })
    }

    fn tell_position(&mut self, lsn: Lsn, timeline: TimelineId) -> Result<(), ErrorResponse> {
        let out = self.out.output();
        row_description(out, &BACKUP_POSITION_COLUMNS);
        let mut row = DataRow::begin(out);
        row.display(lsn);
        row.display(timeline);
        row.finish()?;
        command_complete(out, "SELECT");
        Ok(())
    }

    /// The one tablespace that there is, with its size in bytes if that is wanted.
    fn tell_tablespace(&mut self, size: Option<u64>) -> Result<(), ErrorResponse> {
        let out = self.out.output();
        row_description(out, &TABLESPACE_COLUMNS);
        let mut row = DataRow::begin(out);
        row.null();
        row.null();
        match size {
            Some(bytes) => row.display(bytes / 1024),
            None => row.null(),
        }
        row.finish()?;
        command_complete(out, "SELECT");
        Ok(())
    }

    /// What the archive will have, but for the log. A file that has gone meanwhile counts nothing.
    fn total_size(&self, members: &[Member], copy: &TempDir) -> u64 {
        let paths = members.iter().map(|member| self.node.data.root().join(&member.path));
        let sizes =
            paths.chain([tables::path(copy)]).map(|path| fs::metadata(path).map_or(0, |meta| meta.len()));
        sizes.map(|size| tar::BLOCK as u64 + size.next_multiple_of(tar::BLOCK as u64)).sum()
    }

    /// Step 4 of the header.
    fn send_files(&mut self, start: &Start, members: &[Member], copy: TempDir) -> Result<(), ErrorResponse> {
        let checkpoint = Lsn(start.control.checkpoint);
        let label = BackupLabel {
            start: start.lsn,
            timeline: start.timeline,
            checkpoint: if checkpoint.is_valid() { checkpoint } else { start.lsn },
            from_standby: start.from_standby,
            time: start.time,
            label: &self.options.label,
        };
        self.out.content("backup_label", label.text(self.node.segment_size).as_bytes(), start.time)?;
        // There are no tablespaces, but pg_basebackup looks into this directory.
        self.out.directory("pg_tblspc", start.time)?;
        for member in members {
            let path = self.node.data.root().join(&member.path);
            match File::open(&path).and_then(|file| Ok((modified(&file)?, file))) {
                Ok((modified, _)) if member.is_directory => self.out.directory(&member.path, modified)?,
                Ok((modified, file)) => self.send_file(&member.path, modified, file)?,
                // It was a temporary one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("open", &member.path, &error)),
            }
        }
        let opened = File::open(tables::path(&copy)).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.map_err(|error| io_error("open", TABLES, &error))?;
        self.out.file(TABLES, start.time, size, file)
        // Here the copy goes, with its directory.
    }

    fn send_file(&mut self, path: &str, modified: Timestamp, file: File) -> Result<(), ErrorResponse> {
        let failed = |error: io::Error| io_error("read", path, &error);
        if path == "walship.conf" || path == "postgresql.auto.conf" {
            let text = fs::read_to_string(self.node.data.root().join(path)).map_err(failed)?;
            let text = match path {
                "walship.conf" => settings::copied::walship_conf(&text),
                _ => settings::copied::auto_conf(&text),
            };
            return self.out.content(path, text.as_bytes(), modified);
        }
        let size = file.metadata().map_err(failed)?.len();
        self.out.file(path, modified, size, file)
    }

    /// Step 5 of the header: the backup's end.
    fn stop(&mut self, start: &Start) -> Result<Lsn, ErrorResponse> {
        let node = self.node;
        if start.from_standby != node.recovery.in_recovery() {
            return Err(ErrorResponse::error(
                sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the standby was promoted during online backup",
            )
            .with_hint("This means that the backup being taken is corrupt and should not be used. Try taking another online backup."));
        }
        let end = if start.from_standby {
            node.wal.flush_lsn()
        } else {
            let mut xlog = Xlog::new(node, self.me);
            let inserted = failpoint::step(Site::BackupEnd, || {
                let inserted = xlog.insert(&mut backup_end_record(start.lsn));
                inserted.inspect(|inserted| xlog.flush(inserted.end))
            });
            let inserted = inserted.map_err(|error| no_room(&error))?;
            if archive_status::is_archiving(node) {
                // So that the archive gets it soon.
                xlog.switch_segment().map_err(|error| no_room(&error))?;
                xlog.flush(node.wal.insert_lsn());
            }
            inserted.end
        };
        if self.options.wait {
            self.shown.enter(Phase::WaitArchive);
            log_files::wait_for_archive(node, self.me, &mut self.out, end)?;
        }
        Ok(end)
    }

    /// The history of this node's newest timeline.
    fn history(&self) -> Result<TimelineHistory, ErrorResponse> {
        let timeline = self.node.wal.timeline();
        let read = self.node.segment_store().read_history(timeline);
        let found =
            read.map_err(|error| ErrorResponse::error(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        Ok(found.unwrap_or_else(|| TimelineHistory::without_file(timeline)))
    }

    /// Step 7 of the header.
    fn send_control(&mut self, start: &Start, end: Lsn) -> Result<(), ErrorResponse> {
        let state = if start.from_standby { NodeState::InArchiveRecovery } else { NodeState::InProduction };
        let time = now();
        let control = ControlFile {
            state,
            timeline: self.node.wal.timeline().0,
            backup_end: end.0,
            time: time.0,
            ..start.control.clone()
        };
        self.out.content("control", &control.to_bytes(), time)
    }

    fn send_manifest(
        &mut self,
        start: &Start,
        history: &TimelineHistory,
        end: Lsn,
    ) -> Result<(), ErrorResponse> {
        let Some(manifest) = self.out.manifest.take() else { return Ok(()) };
        let Some(ranges) = wal_ranges(history, start.timeline, start.lsn, end) else {
            let message =
                format!("expected start timeline {} but found timeline {}", start.timeline, history.tli());
            return Err(ErrorResponse::error(sqlstate::INTERNAL_ERROR, message));
        };
        self.out.manifest(&manifest.finish(&ranges))
    }
}

fn read_control(node: &Node) -> Result<ControlFile, ErrorResponse> {
    ControlFile::read(&node.data.control())
        .map_err(|error| ErrorResponse::error(sqlstate::INTERNAL_ERROR, error.to_string()))
}

/// Where recovery from that control file begins to read. On a standby the checkpoint's record may be older than redo,
/// which is how far its own tables are.
fn log_start(node: &Node, control: &ControlFile) -> Lsn {
    let checkpoint = Some(Lsn(control.checkpoint)).filter(|checkpoint| checkpoint.is_valid());
    let redo = Lsn(control.redo);
    checkpoint.map_or(redo, |checkpoint| checkpoint.min(redo)).max(node.segment_size.log_start())
}

fn now() -> Timestamp {
    Timestamp::from_unix_micros(clock::unix_micros())
}

/// An error of the file system, with PostgreSQL's words and code for it.
fn io_error(what: &str, path: &str, error: &io::Error) -> ErrorResponse {
    let code = match error.kind() {
        io::ErrorKind::NotFound => sqlstate::UNDEFINED_FILE,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => sqlstate::DISK_FULL,
        _ => sqlstate::IO_ERROR,
    };
    let reason = crate::buffered_socket::reason(error);
    ErrorResponse::error(code, format!("could not {what} file \"{path}\": {reason}"))
}

fn no_room(error: &wal::store::StoreError) -> ErrorResponse {
    let code = if error.is_full_disk() { sqlstate::DISK_FULL } else { sqlstate::IO_ERROR };
    ErrorResponse::error(code, error.to_string())
}
