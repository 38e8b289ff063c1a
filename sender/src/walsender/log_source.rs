//! Where a walsender takes the bytes that it sends: the ring of WAL buffers while they are there, the segment files after.
//!
//! Segments are removed, never given another name, so an open file keeps what it had; a file that is gone is the error
//! that PostgreSQL's standbys know: the standby asks for more than this node has kept.
//!
//! A segment in which this node's history changed timelines is read from the newer one's file, which begins with a
//! copy of the older one's bytes: the older file may hold records that never became part of the history.
//!
//! Follows PostgreSQL 15 WalSndSegmentOpen() and logical_read_xlog_page() in src/backend/replication/walsender.c, and the
//! WALReadFromBuffers() of 17.

use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::segment::file_name;
use wal::store::{SegmentStore, StoreError};
use wal::timeline::TimelineId;
use wire::error::ErrorResponse;
use wire::sqlstate;

use crate::node::Node;

/// Reads the log of one stream.
#[derive(Debug)]
pub struct LogSource {
    node: &'static Node,
    me: Me,
    store: SegmentStore,
    history: TimelineHistory,
    /// The timeline that the client asked for; names the segment in the error.
    timeline: TimelineId,
}

impl LogSource {
    /// A source for a stream of `timeline`, which is in `history`, that of the node's newest timeline.
    pub fn new(node: &'static Node, me: Me, history: TimelineHistory, timeline: TimelineId) -> LogSource {
        LogSource { node, me, store: node.segment_store(), history, timeline }
    }

    /// The node's newest timeline, as far as this source knows.
    pub fn newest_timeline(&self) -> TimelineId {
        self.history.tli()
    }

    /// Takes over the history of a newer timeline.
    pub fn set_history(&mut self, history: TimelineHistory) {
        self.history = history;
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
            read.map_err(|error| self.report(&error, at))?;
            at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }

    fn report(&self, error: &StoreError, at: Lsn) -> ErrorResponse {
        if !error.is_not_found() {
            return ErrorResponse::error(sqlstate::INTERNAL_ERROR, error.to_string());
        }
        let size = self.node.segment_size;
        let name = file_name(self.timeline, size.number_of(at), size);
        ErrorResponse::error(
            sqlstate::UNDEFINED_FILE,
            format!("requested WAL segment {name} has already been removed"),
        )
    }
}
