//! What of the log is in the archive, and what is to go there: the files of `pg_wal/archive_status`.
//!
//! `NAME.ready`: the file NAME of pg_wal is complete and waits for the archiver. `NAME.done`: it has been archived, or is
//! not this node's to archive (a standby's segments, unless `archive_mode` is `always`).
//!
//! A segment becomes ready when the *horizon* has passed its end ([`note_complete`]), not when it has been filled. It
//! can't change any more then: a crash cuts off a record whose rest is missing, and the log goes on in its place, so
//! a segment that was archived with the first part of such a record would differ from the one that the node keeps.
//! And all that is in the archive is decided: who restores a segment may commit what is in it.
//!
//! The files are not fsynced: a status lost in a crash of the machine is made again at the next start
//! ([`catch_up`]), and one that comes back has its file archived a second time, which an archive command must be able to
//! bear anyway. Each file is made and renamed in one step, so processes needn't lock: whoever completes a segment makes
//! `.ready`, the archiver alone renames it.
//!
//! [`is_archived`] is for who removes segments: never one that it is false for while [`is_archiving`].
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xlogarchive.c; differs in: complete is what is behind the horizon.

use std::fs;
use std::io;
use std::path::PathBuf;

use failpoint::Site;
use ipc::proc::ProcNumber;
use settings::table::ArchiveMode;
use sys::file::remove_if_there;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::segment::{
    SegmentNumber, file_name, parse_file_name, parse_history_file_name, parse_partial_file_name,
};
use wal::timeline::TimelineId;

use crate::datadir::DataDir;
use crate::node::Node;

/// Whether what this node completes goes to its archive: never, as a primary, or always.
pub fn is_archiving(node: &Node) -> bool {
    match node.settings().archive_mode {
        ArchiveMode::Off => false,
        ArchiveMode::On => !node.recovery.in_recovery(),
        ArchiveMode::Always => true,
    }
}

/// Whether a file of pg_wal has been archived (or need not be).
///
/// # Errors
/// Those of the file system.
pub fn is_archived(data: &DataDir, name: &str) -> io::Result<bool> {
    path(data, name, DONE).try_exists()
}

/// To be called when everything of `timeline` before `to` has become durable and decided that was not before `from`: gives
/// the segments that are complete by that their status.
pub fn note_complete(node: &Node, timeline: TimelineId, from: Lsn, to: Lsn) {
    let size = node.segment_size;
    let (first, end) = (size.number_of(from), size.number_of(to));
    for number in first.0..end.0 {
        note(node, &file_name(timeline, SegmentNumber(number), size));
    }
}

/// Gives a file of pg_wal that is complete and durable its status: a segment that has been restored, a history file.
pub fn note(node: &Node, name: &str) {
    let archiving = is_archiving(node);
    let result = match archiving {
        true => make_ready(&node.data, name),
        false if node.recovery.in_recovery() => make_done(&node.data, name),
        // A primary that doesn't archive keeps no books.
        false => return,
    };
    match result {
        Ok(()) if archiving => node.procs.set_latch(ProcNumber::ARCHIVER),
        Ok(()) => {}
        // The next start makes up for it.
        Err(error) => {
            tracing::info!("could not create archive status file \"{}\": {error}", shown(name, archiving));
        }
    }
}

/// For a node that has recovered: makes ready what is complete and has no status. `end`: everything before is durable
/// and decided.
///
/// # Errors
/// The directories can't be read, or a status file can't be made.
pub fn catch_up(node: &Node, end: Lsn) -> io::Result<()> {
    if !is_archiving(node) {
        return Ok(());
    }
    let timeline = node.wal.timeline();
    let history = node.segment_store().read_history(timeline).map_err(io::Error::other)?;
    let history = history.unwrap_or_else(|| TimelineHistory::without_file(timeline));
    for entry in fs::read_dir(node.data.pg_wal())? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let is_complete = match parse_file_name(&name, node.segment_size) {
            Some((timeline, number)) => {
                let left = history.switch_point(timeline).unwrap_or(Lsn::MAX);
                history.contains(timeline) && number < node.segment_size.number_of(end.min(left))
            }
            None => parse_history_file_name(&name).is_some(),
        };
        if is_complete && !has_status(&node.data, &name)? {
            make_ready(&node.data, &name)?;
        }
    }
    Ok(())
}

/// The files that wait for the archiver: histories first, since a node that follows a new timeline needs its history
/// before anything else, then in the order of their names: the oldest first.
///
/// # Errors
/// The directory can't be read.
pub fn ready(node: &Node) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(node.data.archive_status())? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        names.extend(name.strip_suffix(READY).filter(|name| is_of_the_log(node, name)).map(str::to_owned));
    }
    names.sort_by_key(|name| (parse_history_file_name(name).is_none(), name.clone()));
    Ok(names)
}

/// Notes that the file has been archived.
///
/// # Errors
/// Those of the file system; the file is still ready then.
pub fn mark_archived(data: &DataDir, name: &str) -> io::Result<()> {
    failpoint::io(Site::ArchiveDone, || fs::rename(path(data, name, READY), path(data, name, DONE)))
}

/// Takes away the status of a file that isn't there any more.
///
/// # Errors
/// Those of the file system.
pub fn forget(data: &DataDir, name: &str) -> io::Result<()> {
    fs::remove_file(path(data, name, READY))
}

/// Takes away the status of a segment that was archived, or need not be, and is gone.
///
/// # Errors
/// Those of the file system.
pub fn forget_archived(data: &DataDir, name: &str) -> io::Result<()> {
    // A primary that doesn't archive keeps no books.
    remove_if_there(&path(data, name, DONE)).map(|_was_there| ())
}

const READY: &str = ".ready";
const DONE: &str = ".done";

fn path(data: &DataDir, name: &str, state: &str) -> PathBuf {
    data.archive_status().join(format!("{name}{state}"))
}

/// A status file as messages name it.
fn shown(name: &str, ready: bool) -> String {
    format!("pg_wal/archive_status/{name}{}", if ready { READY } else { DONE })
}

fn has_status(data: &DataDir, name: &str) -> io::Result<bool> {
    Ok(path(data, name, DONE).try_exists()? || path(data, name, READY).try_exists()?)
}

fn make_ready(data: &DataDir, name: &str) -> io::Result<()> {
    failpoint::io(Site::ArchiveReady, || fs::File::create(path(data, name, READY)).map(|_| ()))
}

fn make_done(data: &DataDir, name: &str) -> io::Result<()> {
    match mark_archived(data, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::File::create(path(data, name, DONE)).map(|_| ())
        }
        result => result,
    }
}

/// Whether a name is one that the log's files have: nothing else is handed to a shell.
fn is_of_the_log(node: &Node, name: &str) -> bool {
    parse_file_name(name, node.segment_size).is_some()
        || parse_partial_file_name(name, node.segment_size).is_some()
        || parse_history_file_name(name).is_some()
}
