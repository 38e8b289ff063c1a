//! Getting files of the log back from the archive: what a standby does before it asks its upstream.
//!
//! `restore_command` is run for one file at a time, with `%f` its name, `%p` where to put it (always under another name
//! than its own, so that a copy which breaks off is never taken for the file), `%r` the oldest segment that a
//! restart needs. Its status 0 says that the file is there; up to 125, that the archive doesn't have it, which is how an
//! archive ends. Anything else (no such command, ended by a signal) is FATAL: to go on would be to take an archive
//! that can't be reached for one that ends. SIGTERM means that this process is to end too. A promotion doesn't wait for a
//! command: it is ended, and the archive taken for one that ends.
//!
//! A segment becomes a part of the log here only when it has its full size and is durable. What of it proves to be log
//! counts as decided: an archive holds nothing that isn't ([`crate::archive_status`]).
//!
//! The process is served while a command runs, and the command ends with it ([`ipc::subprocess`]).
//!
//! Follows PostgreSQL 15 RestoreArchivedFile() and KeepFileRestoredFromArchive() in
//! src/backend/access/transam/xlogarchive.c; differs in: a segment that is here in part is completed in place, after its
//! beginning was compared, as readers may have the file open.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::subprocess::{self, Outcome};
use ipc::wait_event::WaitEvent;
use sys::clock;
use sys::file::remove_if_there;
use sys::process::ExitStatus;
use sys::signal::Signal;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::segment::{file_name, history_file_name};
use wal::store::{Adopted, SegmentStore};
use wal::timeline::TimelineId;

use crate::archive_status;
use crate::control::ControlFile;
use crate::node::Node;
use crate::shell_text;

/// Where a segment is put by the command.
const RESTORED_SEGMENT: &str = "RECOVERYXLOG";
/// Where a history file is put.
const RESTORED_HISTORY: &str = "RECOVERYHISTORY";

/// Why the node can't go on. The text is FATAL's.
#[derive(Debug)]
pub struct RestoreError(pub String);

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RestoreError {}

impl RestoreError {
    fn new(error: impl fmt::Display) -> RestoreError {
        RestoreError(error.to_string())
    }
}

/// Gets the segment that the flushed log of this history goes on in, and publishes that the log now reaches to its end (or to
/// where its timeline was left), which is returned. None: the archive doesn't have it, or this process is to end. No
/// walreceiver may run.
///
/// A segment in which timelines switch may be there under the name of each of them: the newest goes first, as it begins
/// with the older ones' bytes.
///
/// # Errors
/// The command can't be run or was ended by a signal, the file is too long, or the disk fails.
pub fn restore_segment(node: &Node, me: &Me, history: &TimelineHistory) -> Result<Option<Lsn>, RestoreError> {
    let have = node.wal.flush_lsn();
    let segment = node.segment_size.number_of(have);
    for (timeline, begin) in history.newest_first() {
        let is_before = begin.is_valid() && segment < node.segment_size.number_of(begin);
        let left = history.switch_point(timeline).unwrap_or(Lsn::MAX);
        if is_before || left <= have {
            continue;
        }
        if let Some(end) = restore_segment_of(node, me, timeline)? {
            let end = end.min(left);
            node.walreceiver.written.fetch_max(end.0, Ordering::AcqRel);
            node.wal.flushed.fetch_max(end.0, Ordering::AcqRel);
            node.log_waits.flushed(node.procs, end);
            node.wake_walsenders();
            return Ok(Some(end));
        }
    }
    Ok(None)
}

/// One timeline's file of the segment that the flushed log goes on in; its end.
fn restore_segment_of(node: &Node, me: &Me, timeline: TimelineId) -> Result<Option<Lsn>, RestoreError> {
    let size = node.segment_size;
    let have = node.wal.flush_lsn();
    let segment = size.number_of(have);
    let name = file_name(timeline, segment, size);
    let restored = node.data.pg_wal().join(RESTORED_SEGMENT);
    if !run(node, me, &name, RESTORED_SEGMENT)? || !has_size(&name, &restored, size.bytes())? {
        return Ok(None);
    }
    let mut store: SegmentStore = node.segment_store();
    match store.adopt(&restored, timeline, segment, have).map_err(RestoreError::new)? {
        Adopted::Whole => {}
        Adopted::Differs(at) => {
            tracing::error!(
                "archive file \"{name}\" differs at {at} from the log that this standby has received\nHINT:  It may be of another system or timeline."
            );
            return Ok(None);
        }
    }
    tracing::info!("restored log file \"{name}\" from archive");
    archive_status::note(node, &name);
    Ok(Some(size.first_byte(segment.next())))
}

/// The newest timeline beyond `timeline` that the archive tells of, if it does of any; the histories are in pg_wal then.
///
/// # Errors
/// As [`restore_segment`], and a file that is no history.
pub fn restore_newer_history(
    node: &Node,
    me: &Me,
    timeline: TimelineId,
) -> Result<Option<TimelineId>, RestoreError> {
    let mut newest = None;
    let mut next = TimelineId(timeline.0 + 1);
    while restore_history_file(node, me, next)?.is_some() {
        newest = Some(next);
        next = TimelineId(next.0 + 1);
    }
    Ok(newest)
}

/// The history of a timeline: that of pg_wal, else that of the archive, which is then put there.
/// None: neither has it, or the process is to end.
///
/// # Errors
/// As [`restore_segment`], and a file that is no history.
pub fn restore_history(
    node: &Node,
    me: &Me,
    timeline: TimelineId,
) -> Result<Option<TimelineHistory>, RestoreError> {
    match node.segment_store().read_history(timeline).map_err(RestoreError::new)? {
        Some(history) => Ok(Some(history)),
        None => restore_history_file(node, me, timeline),
    }
}

/// The history that the archive has, put into pg_wal.
fn restore_history_file(
    node: &Node,
    me: &Me,
    timeline: TimelineId,
) -> Result<Option<TimelineHistory>, RestoreError> {
    let name = history_file_name(timeline);
    if node.settings().restore_command.is_empty() || !run(node, me, &name, RESTORED_HISTORY)? {
        return Ok(None);
    }
    let restored = node.data.pg_wal().join(RESTORED_HISTORY);
    let text = fs::read_to_string(&restored).map_err(|error| {
        RestoreError(format!("could not read file \"pg_wal/{RESTORED_HISTORY}\": {error}"))
    })?;
    let history = TimelineHistory::parse(timeline, &text).map_err(RestoreError::new)?;
    node.segment_store().write_history(&history).map_err(RestoreError::new)?;
    remove(&restored)?;
    tracing::info!("restored log file \"{name}\" from archive");
    archive_status::note(node, &name);
    Ok(Some(history))
}

/// Runs the command for `name`; whether it says that the file is there.
fn run(node: &Node, me: &Me, name: &str, target: &str) -> Result<bool, RestoreError> {
    remove(&node.data.pg_wal().join(target))?;
    let path = format!("pg_wal/{target}");
    let settings = node.settings();
    let oldest = oldest_needed(node)?;
    let values = [('p', path.as_str()), ('f', name), ('r', oldest.as_str())];
    let command = shell_text::expand(&settings.restore_command, &values);
    tracing::debug!("executing restore command \"{command}\"");
    let outcome = subprocess::run(me, &command, node.data.root(), WaitEvent::RestoreCommand, || {
        node.attend(me);
        me.pending().intersects(Interrupts::TERMINATE | Interrupts::PROMOTE).then(clock::now)
    });
    let status = match outcome {
        Ok(Outcome::Ended(status)) => status,
        Ok(Outcome::Stopped(_)) => return Ok(false),
        Err(error) => {
            return Err(RestoreError(format!("could not start restore command \"{command}\": {error}")));
        }
    };
    if status == ExitStatus::Exited(0) {
        return Ok(true);
    }
    if subprocess::is_signal(status, Signal::Term) {
        me.raise(Interrupts::TERMINATE);
        return Ok(false);
    }
    let message = format!("could not restore file \"{name}\" from archive: {}", subprocess::describe(status));
    if subprocess::is_any_signal(status) {
        return Err(RestoreError(message));
    }
    tracing::debug!("{message}");
    Ok(false)
}

/// The name of the first segment that a restart would read.
fn oldest_needed(node: &Node) -> Result<String, RestoreError> {
    let control = ControlFile::read(&node.data.control()).map_err(RestoreError::new)?;
    let redo = Lsn(control.redo).max(node.segment_size.log_start());
    Ok(node.segment_name(node.segment_size.number_of(redo)))
}

/// Whether the file that the command has put there is a whole segment. One that is too short may be on its way into the
/// archive still.
fn has_size(name: &str, path: &PathBuf, expected: u64) -> Result<bool, RestoreError> {
    let found = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::info!(
                "could not stat file \"pg_wal/{RESTORED_SEGMENT}\": {error}\nDETAIL:  restore_command returned a zero exit status, but stat() failed."
            );
            return Ok(false);
        }
        Err(error) => {
            return Err(RestoreError(format!("could not stat file \"{}\": {error}", path.display())));
        }
    };
    if found == expected {
        return Ok(true);
    }
    let message = format!("archive file \"{name}\" has wrong size: {found} instead of {expected}");
    if found > expected {
        return Err(RestoreError(message));
    }
    tracing::debug!("{message}");
    Ok(false)
}

fn remove(path: &Path) -> Result<(), RestoreError> {
    let failed = |error| RestoreError(format!("could not remove file \"{}\": {error}", path.display()));
    remove_if_there(path).map(|_was_there| ()).map_err(failed)
}
