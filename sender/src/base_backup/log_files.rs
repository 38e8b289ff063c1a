//! The log that belongs to a base backup: sending it along, and waiting until it is in the archive.

use std::fs;
use std::io::{self, Read};

use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::segment::{SegmentNumber, file_name, parse_history_file_name};
use wal::timeline::TimelineId;
use wire::backend::notice_response;
use wire::error::ErrorResponse;
use wire::sqlstate::{INTERNAL_ERROR, SUCCESSFUL_COMPLETION};

use super::outlet::Outlet;
use super::{io_error, now};
use crate::archive_status;
use crate::node::Node;
use crate::walsender::log_source::LogSource;

/// Sends the histories and the segments from that of `start` to that of `end`. The last one is filled up with zeros behind
/// what is durable: that may change yet. Each that is complete comes with the note that it need not be archived again.
pub(super) fn send(
    node: &'static Node,
    me: Me,
    out: &mut Outlet<'_>,
    history: &TimelineHistory,
    start: Lsn,
    end: Lsn,
) -> Result<(), ErrorResponse> {
    send_histories(node, out)?;
    let size = node.segment_size;
    let mut store = node.segment_store();
    let mut source = LogSource::new(node, me, history.clone(), history.tli());
    let flushed = node.wal.flush_lsn();
    for number in size.number_of(start).0..=size.number_before(end).0 {
        let number = SegmentNumber(number);
        // Not there: removed, which the source's error says in the words for it.
        let timeline = store.timeline_of_segment(history, number).unwrap_or(history.tli());
        let name = file_name(timeline, number, size);
        let at = size.first_byte(number);
        let log = LogReader { source: &mut source, at, end: flushed, error: None };
        send_segment(out, &name, size.bytes(), log)?;
        if number < size.number_of(flushed) {
            note_archived(out, &name)?;
        }
    }
    Ok(())
}

fn send_segment(
    out: &mut Outlet<'_>,
    name: &str,
    size: u64,
    mut log: LogReader<'_>,
) -> Result<(), ErrorResponse> {
    let sent = out.unlisted(&format!("pg_wal/{name}"), now(), size, &mut log, |_| {});
    match log.error.take() {
        Some(report) => Err(report),
        None => sent,
    }
}

fn send_histories(node: &Node, out: &mut Outlet<'_>) -> Result<(), ErrorResponse> {
    let failed = |error: io::Error| io_error("read", "pg_wal", &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(node.data.pg_wal()).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.extend(name.to_str().filter(|name| parse_history_file_name(name).is_some()).map(str::to_owned));
    }
    names.sort_unstable();
    for name in names {
        let path = format!("pg_wal/{name}");
        let content =
            fs::read(node.data.root().join(&path)).map_err(|error| io_error("read", &path, &error))?;
        out.unlisted(&path, now(), content.len() as u64, content.as_slice(), |_| {})?;
        note_archived(out, &name)?;
    }
    Ok(())
}

fn note_archived(out: &mut Outlet<'_>, name: &str) -> Result<(), ErrorResponse> {
    out.unlisted(&format!("pg_wal/archive_status/{name}.done"), now(), 0, io::empty(), |_| {})
}

/// The log as a file: what is before `end`, then nothing.
struct LogReader<'a> {
    source: &'a mut LogSource,
    at: Lsn,
    end: Lsn,
    /// What the client is to be told, when a read has failed.
    error: Option<ErrorResponse>,
}

impl Read for LogReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_since(self.at)).unwrap_or(usize::MAX);
        let len = into.len().min(left);
        if len == 0 {
            return Ok(0);
        }
        if let Err(report) = self.source.read(self.at, &mut into[..len]) {
            let error = io::Error::other(report.message.clone());
            self.error = Some(report);
            return Err(error);
        }
        self.at += len as u64;
        Ok(len)
    }
}

/// Returns when the archive has the log up to `end`, if this node archives; the client is told.
pub(super) fn wait_for_archive(
    node: &'static Node,
    me: Me,
    out: &mut Outlet<'_>,
    end: Lsn,
) -> Result<(), ErrorResponse> {
    if !archive_status::is_archiving(node) {
        notice(
            out,
            "WAL archiving is not enabled; you must ensure that all required WAL segments are copied through other means to complete the backup",
        );
        return Ok(());
    }
    let name = last_segment(node, node.wal.timeline(), end);
    let is_archived = || {
        archive_status::is_archived(&node.data, &name)
            .map_err(|error| ErrorResponse::error(INTERNAL_ERROR, error.to_string()))
    };
    if !is_archived()? {
        notice(out, "base backup done, waiting for required WAL segments to be archived");
        out.flush()?;
    }
    loop {
        me.latch().reset();
        if is_archived()? {
            break;
        }
        out.heed()?;
        // The archiver wakes walsenders after each file.
        out.sleep(None, WaitEvent::BackupWaitWalArchive)?;
    }
    notice(out, "all required WAL segments have been archived");
    Ok(())
}

fn last_segment(node: &Node, timeline: TimelineId, end: Lsn) -> String {
    file_name(timeline, node.segment_size.number_before(end), node.segment_size)
}

fn notice(out: &mut Outlet<'_>, message: &str) {
    notice_response(out.output(), &ErrorResponse::notice(SUCCESSFUL_COMPLETION, message));
}
