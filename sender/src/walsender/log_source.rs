//! Where a walsender takes the bytes that it sends: the ring of WAL buffers while they are there, the segment files after.
//!
//! Segments are removed, never given another name, so an open file keeps what it had; a file that is gone is the error
//! that PostgreSQL's standbys know: the standby asks for more than this node has kept.
//!
//! A segment in which this node's history changed timelines is read from the newer one's file, which begins with a
//! copy of the older one's bytes: the older file may hold records that never became part of the history.
//!
//! What is in a file alone, and in long pieces, need not pass through this process' memory ([`LogSource::file`]): the kernel
//! sends it from its own. So what goes out is what the file holds at that moment, which is the same: below the flush LSN
//! nothing changes any more (a standby that streams a segment again writes the bytes that it has), and a file that is
//! removed meanwhile stays until it is closed and sent. That costs this process a third, and a client on another machine
//! nothing. One on this machine is the first to touch the bytes then, and pays for it; so when such a client is the slower side
//! anyhow ([`SLOW_NEIGHBOUR`]), they are copied, into caches that it reads from. (Measured: pg_receivewal takes 5 to 10 % longer
//! without.)
//!
//! Follows PostgreSQL 15 WalSndSegmentOpen() and logical_read_xlog_page() in src/backend/replication/walsender.c, and the
//! WALReadFromBuffers() of 17.

use std::fs::File;
use std::time::Duration;

use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::segment::{SegmentNumber, file_name};
use wal::store::{SegmentStore, StoreError};
use wal::timeline::TimelineId;
use wire::error::ErrorResponse;
use wire::sqlstate;

use crate::node::Node;

/// Shorter pieces are cheaper to copy. They are what a stream that has caught up sends, and may end in the midst of a page
/// that is still written to.
const FROM_FILE_MIN: usize = 64 << 10;

/// A client on this machine that takes more than this for a byte doesn't keep up with a process that copies. (Nanoseconds:
/// 1 GB/s.)
const SLOW_NEIGHBOUR: u64 = 1;

/// Reads the log of one stream.
#[derive(Debug)]
pub struct LogSource {
    node: &'static Node,
    me: Me,
    store: SegmentStore,
    history: TimelineHistory,
    /// The timeline that the client asked for; names the segment in the error.
    timeline: TimelineId,
    /// The segment that is being sent, and since when.
    segment: (SegmentNumber, MonoTime),
    /// The client is a slow neighbour.
    copies: bool,
}

impl LogSource {
    /// A source for a stream of `timeline`, which is in `history`, that of the node's newest timeline.
    pub fn new(node: &'static Node, me: Me, history: TimelineHistory, timeline: TimelineId) -> LogSource {
        let segment = (SegmentNumber(0), clock::now());
        LogSource { node, me, store: node.segment_store(), history, timeline, segment, copies: false }
    }

    /// The node's newest timeline, as far as this source knows.
    pub fn newest_timeline(&self) -> TimelineId {
        self.history.tli()
    }

    /// Takes over the history of a newer timeline.
    pub fn set_history(&mut self, history: TimelineHistory) {
        self.history = history;
    }

    /// The file that holds these bytes, and where, if they are to be sent from there, to a client which is on this machine or
    /// not. All of them are below the flush LSN.
    ///
    /// # Errors
    /// As for [`LogSource::read`].
    pub fn file(
        &mut self,
        start: Lsn,
        length: usize,
        is_neighbour: bool,
    ) -> Result<Option<(&File, u64)>, ErrorResponse> {
        let size = self.node.segment_size;
        let (segment, end) = (size.number_of(start), start + length as u64);
        if self.segment.0 != segment {
            let now = clock::now();
            let took = now.saturating_since(self.segment.1);
            self.copies = is_neighbour && took > Duration::from_nanos(SLOW_NEIGHBOUR * size.bytes());
            self.segment = (segment, now);
        }
        let is_in_one = segment == size.number_before(end);
        if length < FROM_FILE_MIN || !is_in_one || self.copies || self.node.buffers.has(start) {
            return Ok(None);
        }
        let (node, asked) = (self.node, self.timeline);
        let report = |error: StoreError| report(node, asked, &error, start);
        let timeline = self.store.timeline_of_segment(&self.history, segment).map_err(report)?;
        let file = self.store.file(timeline, segment).map_err(report)?;
        Ok(Some((file, size.offset_of(start))))
    }

    /// Reads the bytes from `start` on into `into`. All of them are below the flush LSN.
    ///
    /// # Errors
    /// 58P01: the segment has been removed. Others: the file can't be read.
    pub fn read(&mut self, start: Lsn, into: &mut [u8]) -> Result<(), ErrorResponse> {
        // A standby's ring is empty: its walreceiver writes files.
        if self.node.buffers.read(start, into) {
            return Ok(());
        }
        let _published = self.me.publish_wait(WaitEvent::WalRead);
        let size = self.node.segment_size;
        let (mut at, mut rest) = (start, into);
        while !rest.is_empty() {
            let segment = size.number_of(at);
            let left = size.first_byte(segment.next()) - at;
            let (part, after) =
                rest.split_at_mut(rest.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            let found = self.store.timeline_of_segment(&self.history, segment);
            let read = found.and_then(|timeline| self.store.read_at(timeline, at, part));
            read.map_err(|error| report(self.node, self.timeline, &error, at))?;
            at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }
}

fn report(node: &Node, timeline: TimelineId, error: &StoreError, at: Lsn) -> ErrorResponse {
    if !error.is_not_found() {
        return ErrorResponse::error(sqlstate::INTERNAL_ERROR, error.to_string());
    }
    let size = node.segment_size;
    let name = file_name(timeline, size.number_of(at), size);
    let message = format!("requested WAL segment {name} has already been removed");
    ErrorResponse::error(sqlstate::UNDEFINED_FILE, message)
}
