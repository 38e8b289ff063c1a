//! Where a record's bytes go, and which page headers they cause. Pure.
//!
//! The loop to write, under the insert lock:
//!
//! ```text
//! let placement = layout::place(position, body.tot_len(), segment_size, tli, system_identifier);
//! let record = body.seal(previous_record);
//! for chunk in placement.chunks() {
//!     match chunk {
//!         Chunk::PageHeader { at, header } => a new page begins: write header.encode() at `at`
//!         Chunk::Record { at, range }      => write record[range] at `at`
//!         Chunk::Zeros { at, len }         => write `len` zeros at `at` (padding)
//!     }
//! }
//! previous_record = placement.start; position = placement.end;
//! ```
//!
//! Chunks come in rising order of position and leave no gap between `position` and `placement.end`. What lies behind
//! `placement.end` is the writer's care: a ring that is reused must not let its old bytes reach the file there.
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xlog.c (ReserveXLogInsertLocation, CopyXLogRecordToWAL); differs in:
//! positions are kept as LSNs, not as counts of usable bytes.

use std::ops::Range;

use crate::lsn::Lsn;
use crate::page::{FLAG_FIRST_IS_OVERWRITE_CONTRECORD, PAGE_SIZE, PageHeader, header_size};
use crate::record::HEADER_SIZE;
use crate::segment::SegmentSize;
use crate::timeline::TimelineId;

/// A record's place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where the record's header starts: the record's LSN.
    pub start: Lsn,
    /// Where the record ends, padded to 8 bytes. If that is a page boundary it is the boundary itself.
    pub end: Lsn,
    position: Lsn,
    tot_len: u32,
    pages: Pages,
}

/// One stretch of bytes to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// A page begins here: its header.
    PageHeader {
        /// The start of the page.
        at: Lsn,
        /// What to write there.
        header: PageHeader,
    },
    /// A part of the record.
    Record {
        /// Where it goes.
        at: Lsn,
        /// Which bytes of the record.
        range: Range<usize>,
    },
    /// Bytes that must be zero: the padding after a record.
    Zeros {
        /// Where they go.
        at: Lsn,
        /// How many (1 to 7).
        len: usize,
    },
}

/// The place of a switch record, and what it does to its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchPlacement {
    /// The switch record itself. `record.end` is what pg_switch_wal() returns.
    pub record: Placement,
    /// The rest of the segment, all of it zero: not even pages have headers. Empty if the record ended the segment.
    pub zeros: Range<Lsn>,
    /// The position after the switch: the start of the next segment (the end of the last record, for `place`).
    pub next: Lsn,
}

/// What every page header of a placement has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pages {
    segment_size: SegmentSize,
    tli: TimelineId,
    system_identifier: u64,
    /// Extra flags of the first page's header.
    first_flags: u16,
}

/// Where a record of `tot_len` bytes goes that follows one that ended at `pos` (the start of the log before the first).
///
/// `pos` need not be a multiple of 8. Panics if `tot_len` is no record's length or the log is at the end of its address
/// space.
pub fn place(
    pos: Lsn,
    tot_len: u32,
    size: SegmentSize,
    tli: TimelineId,
    system_identifier: u64,
) -> Placement {
    Placement::new(pos, tot_len, Pages { segment_size: size, tli, system_identifier, first_flags: 0 })
}

/// Where an OVERWRITE_CONTRECORD record of `tot_len` bytes goes: at the start of the page where the rest of a record
/// should have been that was lost. That page's header says so.
///
/// Panics if `page` is not the start of a page.
pub fn place_overwrite_contrecord(
    page: Lsn,
    tot_len: u32,
    size: SegmentSize,
    tli: TimelineId,
    system_identifier: u64,
) -> Placement {
    assert_eq!(page.page_offset(), 0, "a lost rest of a record begins a page");
    let first_flags = FLAG_FIRST_IS_OVERWRITE_CONTRECORD;
    Placement::new(page, tot_len, Pages { segment_size: size, tli, system_identifier, first_flags })
}

/// Where a switch record goes that follows a record that ended at `pos`; `None` if `pos` is a segment's start, for then
/// there is nothing to switch from.
pub fn place_switch(pos: Lsn, size: SegmentSize, tli: TimelineId, sysid: u64) -> Option<SwitchPlacement> {
    if size.offset_of(pos.align8()) == 0 {
        return None;
    }
    let record = place(pos, HEADER_SIZE as u32, size, tli, sysid);
    let next = next_segment(record.end, size);
    Some(SwitchPlacement { zeros: record.end..next, record, next })
}

/// Where a record starts that follows one that ended at `pos`: at a page boundary that is behind the page's header.
pub fn record_start(pos: Lsn, size: SegmentSize) -> Lsn {
    let pos = pos.align8();
    if pos.page_offset() == 0 { pos + header_size(pos, size) as u64 } else { pos }
}

/// `end` if it is a segment's start, else the start of the next segment.
pub(crate) fn next_segment(end: Lsn, size: SegmentSize) -> Lsn {
    match size.offset_of(end) {
        0 => end,
        offset => end + (size.bytes() - offset),
    }
}

impl Placement {
    fn new(pos: Lsn, tot_len: u32, pages: Pages) -> Placement {
        assert!(tot_len as usize >= HEADER_SIZE, "a record has a header");
        let position = pos.align8();
        let start = record_start(position, pages.segment_size);
        let mut placement = Placement { start, end: start, position, tot_len, pages };
        placement.end = placement.end_of_record();
        placement
    }

    /// The end of the record: walks its pages by arithmetic, as a record may span thousands.
    fn end_of_record(&self) -> Lsn {
        let size = self.pages.segment_size;
        let mut left = (u64::from(self.tot_len) + 7) & !7;
        let mut at = self.start;
        loop {
            let room = (PAGE_SIZE - at.page_offset()) as u64;
            if left <= room {
                return at + left;
            }
            left -= room;
            let page = at + room;
            at = page + header_size(page, size) as u64;
        }
    }

    /// What to write where, in rising order of position.
    pub fn chunks(&self) -> Chunks {
        Chunks { pages: self.pages, at: self.position, done: 0, tot_len: self.tot_len as usize }
    }
}

/// The chunks of a placement, one by one.
#[derive(Clone, Debug)]
pub struct Chunks {
    pages: Pages,
    at: Lsn,
    /// Bytes of the record that earlier chunks held.
    done: usize,
    tot_len: usize,
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let at = self.at;
        if self.done >= self.tot_len {
            let len = (at.align8() - at) as usize;
            self.at = at.align8();
            return (len != 0).then_some(Chunk::Zeros { at, len });
        }
        if at.page_offset() == 0 {
            let header = self.pages.header(at, self.done, self.tot_len);
            self.at = at + header.size() as u64;
            return Some(Chunk::PageHeader { at, header });
        }
        let room = PAGE_SIZE - at.page_offset();
        let range = self.done..self.tot_len.min(self.done + room);
        self.at = at + range.len() as u64;
        self.done = range.end;
        Some(Chunk::Record { at, range })
    }
}

impl Pages {
    fn header(&self, page: Lsn, done: usize, tot_len: usize) -> PageHeader {
        let rem_len = if done == 0 { 0 } else { tot_len - done };
        let rem_len = u32::try_from(rem_len).expect("a record's length fits in 32 bits");
        let mut header = PageHeader::new(page, self.tli, rem_len, self.segment_size, self.system_identifier);
        if done == 0 {
            header.flags |= self.first_flags;
        }
        header
    }
}
