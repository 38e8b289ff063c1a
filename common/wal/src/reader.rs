//! Reads records one after the other, and knows where the log ends.
//!
//! The log has no mark at its end: it ends where the next record is not one (zeros, a recycled page, a torn write, another
//! timeline). So every check that fails is an end of the log, with PostgreSQL's message saying which; only an error of
//! the disk is an error.
//!
//! The loop to read:
//!
//! ```text
//! let mut reader = WalReader::new(source, redo, segment_size).with_system_identifier(id).with_history(history);
//! loop {
//!     match reader.next() {
//!         Ok(record) => put it; reader.position() is its end
//!         Err(ReadError::NotYet) => wait until the source has more, tell it (source_mut), go on
//!         Err(ReadError::EndOfLog { .. }) => the log ends at reader.position()
//!         Err(ReadError::Io(_)) => stop the node
//!     }
//! }
//! ```
//!
//! After any error the reader stands where it stood before: the call may be made again. After `NotYet` it has also kept
//! what it has of a record that spans pages.
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xlogreader.c; differs in: a record longer than 1020 MiB is refused
//! (after its second page was found right), and the end of the log tells again that a rest is missing when its
//! OVERWRITE_CONTRECORD record was itself lost.

use std::fmt;

use crate::history::TimelineHistory;
use crate::layout::next_segment;
use crate::lsn::Lsn;
use crate::page::{Expected, PAGE_SIZE, PageError, PageErrorKind, PageHeader, Place, header_size};
use crate::record::{HEADER_SIZE, RECORD_SIZE_MAX, RecordHeader, Rmgr, crc_is_right, main_data_range};
use crate::segment::{SegmentNumber, SegmentSize};
use crate::store::StoreError;
use crate::timeline::TimelineId;
use crate::xlog;

/// Where pages come from: files, shared memory, a test.
pub trait PageSource {
    /// Reads the page that starts at `page` into `buffer`, as far as it is there. Bytes of a page that were there once
    /// never change, but for what follows the end of the log.
    fn read_page(&mut self, page: Lsn, buffer: &mut [u8; PAGE_SIZE]) -> Result<PageRead, SourceError>;
}

/// What a source read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRead {
    /// How many bytes of the page are there, from its start; fewer than a page only when more are expected to come.
    pub valid: usize,
    /// The timeline of the file that they came from: names the segment in messages.
    pub tli: TimelineId,
}

/// Why a source has no such page.
#[derive(Debug)]
pub enum SourceError {
    /// There is no file for it, or it is too short: the log ends before this page.
    Missing(String),
    /// The disk failed.
    Io(StoreError),
}

/// A record, as it stands in the log. Its CRC was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it starts: its LSN.
    pub start: Lsn,
    /// Where the next may start: its end padded to 8 bytes (a page boundary as itself); after a switch the start of the
    /// next segment.
    pub end: Lsn,
    /// Where the record before it starts.
    pub prev: Lsn,
    /// The resource manager.
    pub rmgr: Rmgr,
    /// What it is, to its resource manager.
    pub info: u8,
    /// The transaction it belongs to; 0 is none.
    pub xid: u32,
    /// Its main data.
    pub main_data: &'a [u8],
    /// Set when a record starting there was given up because this one stands where its rest should be: this must be an
    /// OVERWRITE_CONTRECORD record that says the same.
    pub overwritten: Option<Lsn>,
}

/// A record whose first part is in the log and whose rest is not. A primary that goes on here writes
/// an OVERWRITE_CONTRECORD record at `missing_page` in place of the rest, for the first part may have been streamed. So
/// the log to keep (and to make durable) ends at `missing_page`, not at the reader's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedContrecord {
    /// Where the record starts.
    pub start: Lsn,
    /// The first page that is not its continuation.
    pub missing_page: Lsn,
}

/// Why there is no next record.
#[derive(Debug)]
pub enum ReadError {
    /// The source has only a part of it so far.
    NotYet,
    /// What is there is no record: the log ends before it.
    EndOfLog {
        /// Where the record would have started.
        lsn: Lsn,
        /// What is wrong, in PostgreSQL's words.
        message: String,
        /// Set when the log ends within a record that spans pages.
        aborted: Option<AbortedContrecord>,
    },
    /// The disk failed.
    Io(StoreError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::NotYet => f.write_str("the next record is not there yet"),
            ReadError::EndOfLog { message, .. } => f.write_str(message),
            ReadError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReadError::Io(error) => Some(error),
            ReadError::NotYet | ReadError::EndOfLog { .. } => None,
        }
    }
}

/// A sequential reader of the log.
#[derive(Debug)]
pub struct WalReader<S> {
    source: S,
    segment_size: SegmentSize,
    system_identifier: Option<u64>,
    history: Option<TimelineHistory>,
    /// The end of the last record read: where the next is looked for.
    position: Lsn,
    /// The start of the last record read: what the next must point back to. `None` after a jump.
    prev: Option<Lsn>,
    page: Page,
    /// The segment whose first page was checked last.
    checked_segment: Option<SegmentNumber>,
    /// The last page checked and its timeline: later pages' timelines are not lower.
    latest_page: (Lsn, TimelineId),
    /// The record being put together from several pages.
    partial: Option<Partial>,
    /// The bytes of `partial` so far, and of the last record returned that spanned pages.
    assembled: Vec<u8>,
    /// A record given up at an overwriting page; `position` is that page until a record was read from it.
    overwritten: Option<Lsn>,
}

/// The page read last.
#[derive(Debug)]
struct Page {
    /// Where it starts; invalid when nothing is held.
    at: Lsn,
    valid: usize,
    header: PageHeader,
    bytes: Box<[u8; PAGE_SIZE]>,
}

/// A record of which some pages were read.
#[derive(Clone, Copy, Debug)]
struct Partial {
    start: Lsn,
    tot_len: u32,
    /// Where its continuation is, or should be.
    next_page: Lsn,
    /// Whether its header was whole on the first page, and checked.
    header_checked: bool,
}

/// A whole record, and where its bytes are.
enum Located {
    InPage { start: Lsn, len: usize },
    Assembled { start: Lsn, end: Lsn },
}

/// How far the reader came in one step.
enum Step {
    Whole(Located),
    /// Go on: the next page of the record, or the record that overwrites it.
    Again,
}

/// No page behind this is read: beyond lies the end of the address space, and no log comes near it.
const PAGE_MAX: Lsn = Lsn(u64::MAX - (8 << 30));
/// Memory kept for the next record that spans pages, after a greater one.
const ASSEMBLED_KEEP: usize = 1 << 20;

impl<S: PageSource> WalReader<S> {
    /// A reader that looks for the first record at `start`: where a record starts, or where the one before it ended.
    pub fn new(source: S, start: Lsn, segment_size: SegmentSize) -> WalReader<S> {
        let header = PageHeader::new(Lsn::INVALID, TimelineId::INVALID, 0, segment_size, 0);
        let page = Page { at: Lsn::INVALID, valid: 0, header, bytes: Box::new([0; PAGE_SIZE]) };
        WalReader {
            source,
            segment_size,
            system_identifier: None,
            history: None,
            position: start.align8(),
            prev: None,
            page,
            checked_segment: None,
            latest_page: (Lsn::INVALID, TimelineId::INVALID),
            partial: None,
            assembled: Vec::new(),
            overwritten: None,
        }
    }

    /// Takes only pages of the database with this system identifier.
    pub fn with_system_identifier(mut self, system_identifier: u64) -> WalReader<S> {
        self.system_identifier = Some(system_identifier);
        self
    }

    /// Takes only pages of the timelines in this history.
    pub fn with_history(mut self, history: TimelineHistory) -> WalReader<S> {
        self.history = Some(history);
        self
    }

    /// The size of the log's segments.
    pub fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// The database whose pages it takes; `None`: any.
    pub fn system_identifier(&self) -> Option<u64> {
        self.system_identifier
    }

    /// Where the next record is looked for: the end of the last one.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The start of the last record read, which the next one points back to; `None` before the first.
    pub fn last_record(&self) -> Option<Lsn> {
        self.prev
    }

    /// The source.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The source, to tell it that more is there.
    pub fn source_mut(&mut self) -> &mut S {
        &mut self.source
    }

    /// Gives the source back, for whoever goes on to write where the log ended.
    pub fn into_source(self) -> S {
        self.source
    }

    /// Looks for the next record at `position`, as a new reader would. What was held of pages and records is forgotten.
    pub fn seek(&mut self, position: Lsn) {
        self.position = position.align8();
        self.prev = None;
        self.page.at = Lsn::INVALID;
        self.checked_segment = None;
        self.latest_page = (Lsn::INVALID, TimelineId::INVALID);
        self.partial = None;
        self.overwritten = None;
    }

    /// Reads the next record.
    #[expect(
        clippy::should_implement_trait,
        reason = "a record borrows from the reader, so it is no Iterator"
    )]
    pub fn next(&mut self) -> Result<Record<'_>, ReadError> {
        let located = loop {
            let step = match self.partial {
                None => self.begin_record(),
                Some(partial) => self.continue_record(partial),
            }?;
            if let Step::Whole(located) = step {
                break located;
            }
        };
        let (start, mut end, bytes): (Lsn, Lsn, &[u8]) = match located {
            Located::InPage { start, len } => {
                (start, (start + len as u64).align8(), &self.page.bytes[start.page_offset()..][..len])
            }
            Located::Assembled { start, end } => (start, end, &self.assembled),
        };
        let header = match bytes.first_chunk() {
            Some(header) => RecordHeader::decode(header),
            None => return Err(self.end_of_log(start, format!("record with invalid length at {start}"))),
        };
        if !crc_is_right(bytes) {
            let message = format!("incorrect resource manager data checksum in record at {start}");
            return Err(self.end_of_log(start, message));
        }
        let main_data = match main_data_range(bytes, start) {
            Ok(range) => range,
            Err(message) => return Err(self.end_of_log(start, message)),
        };
        if xlog::is_switch(header.rmgr, header.info) {
            end = next_segment(end, self.segment_size);
        }
        self.partial = None;
        self.prev = Some(start);
        self.position = end;
        Ok(Record {
            start,
            end,
            prev: header.prev,
            rmgr: header.rmgr,
            info: header.info,
            xid: header.xid,
            main_data: match located {
                Located::InPage { .. } => &self.page.bytes[start.page_offset()..][main_data],
                Located::Assembled { .. } => &self.assembled[main_data],
            },
            overwritten: self.overwritten.take(),
        })
    }

    /// Goes to the first record that starts at or after `from`, stepping over the rest of a record that begins `from`'s
    /// page; gives its start. The next call of [`WalReader::next`] reads it.
    pub fn find_first_record(&mut self, from: Lsn) -> Result<Lsn, ReadError> {
        self.seek(from);
        let mut page = from.page_start();
        let first = loop {
            self.load(page, header_size(page, self.segment_size), from)?;
            let header = self.page.header;
            let behind_header = page + header.size() as u64;
            let skip = if header.is_contrecord() { (u64::from(header.rem_len) + 7) & !7 } else { 0 };
            if skip < (PAGE_SIZE - header.size()) as u64 {
                break behind_header + skip;
            }
            page += PAGE_SIZE as u64;
        };
        self.position = first;
        loop {
            let start = self.next()?.start;
            if start >= from {
                self.seek(start);
                return Ok(start);
            }
        }
    }

    /// Reads as much of the next record as its first page holds.
    fn begin_record(&mut self) -> Result<Step, ReadError> {
        let page = self.position.page_start();
        let mut start = self.position;
        let page_header_size = header_size(page, self.segment_size);
        let least = start.page_offset().max(page_header_size) + HEADER_SIZE;
        self.load(page, least.min(PAGE_SIZE), start)?;
        // The page's own flag decides: a long header may stand where none is needed.
        let page_header_size = self.page.header.size();
        if start.page_offset() == 0 {
            start += page_header_size as u64;
        } else if start.page_offset() < page_header_size {
            return Err(self.end_of_log(start, format!("invalid record offset at {start}")));
        }
        let offset = start.page_offset();
        if self.page.header.is_contrecord() && offset == page_header_size {
            return Err(self.end_of_log(start, format!("contrecord is requested by {start}")));
        }
        self.load(page, (offset + HEADER_SIZE).min(PAGE_SIZE), start)?;
        let on_page = &self.page.bytes[offset..];
        // Records start at multiples of 8, so the length is always whole.
        let tot_len = on_page.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
        let header_checked = match on_page.first_chunk() {
            Some(header) => {
                self.check_header(start, &RecordHeader::decode(header))?;
                true
            }
            None if (tot_len as usize) < HEADER_SIZE => return Err(self.too_short(start, tot_len)),
            None => false,
        };
        let room = PAGE_SIZE - offset;
        let len = tot_len as usize;
        if len <= room {
            self.load(page, offset + len, start)?;
            return Ok(Step::Whole(Located::InPage { start, len }));
        }
        self.load(page, PAGE_SIZE, start)?;
        self.assembled.clear();
        self.assembled.shrink_to(ASSEMBLED_KEEP);
        self.assembled.extend_from_slice(&self.page.bytes[offset..]);
        self.partial = Some(Partial { start, tot_len, next_page: page + PAGE_SIZE as u64, header_checked });
        Ok(Step::Again)
    }

    /// Adds the next page's part to a record that spans pages.
    fn continue_record(&mut self, mut partial: Partial) -> Result<Step, ReadError> {
        let Partial { start, tot_len, next_page: page, .. } = partial;
        self.load(page, header_size(page, self.segment_size), start)?;
        let header = self.page.header;
        if header.is_overwrite_contrecord() {
            self.partial = None;
            self.overwritten = Some(start);
            self.position = page;
            return Ok(Step::Again);
        }
        if !header.is_contrecord() {
            return Err(self.end_of_log(start, format!("there is no contrecord flag at {start}")));
        }
        let left = tot_len as usize - self.assembled.len();
        if header.rem_len as usize != left {
            let found = header.rem_len;
            let message = format!("invalid contrecord length {found} (expected {left}) at {start}");
            return Err(self.end_of_log(start, message));
        }
        if tot_len as usize > RECORD_SIZE_MAX {
            return Err(self.end_of_log(start, format!("record length {tot_len} at {start} too long")));
        }
        let from = header.size();
        let to = PAGE_SIZE.min(from + left);
        self.load(page, to, start)?;
        self.assembled.extend_from_slice(&self.page.bytes[from..to]);
        if !partial.header_checked
            && let Some(header) = self.assembled.first_chunk()
        {
            self.check_header(start, &RecordHeader::decode(header))?;
            partial.header_checked = true;
        }
        if self.assembled.len() == tot_len as usize {
            let end = (page + to as u64).align8();
            return Ok(Step::Whole(Located::Assembled { start, end }));
        }
        partial.next_page = page + PAGE_SIZE as u64;
        self.partial = Some(partial);
        Ok(Step::Again)
    }

    /// Checks what can be checked of a record before it is whole.
    fn check_header(&mut self, start: Lsn, header: &RecordHeader) -> Result<(), ReadError> {
        if (header.tot_len as usize) < HEADER_SIZE {
            return Err(self.too_short(start, header.tot_len));
        }
        if !header.rmgr.is_valid() {
            let rmgr = header.rmgr.0;
            return Err(self.end_of_log(start, format!("invalid resource manager ID {rmgr} at {start}")));
        }
        // A stale record of the right shape may start where the log ends: only its link to the one before tells.
        let linked = match self.prev {
            Some(prev) => header.prev == prev,
            None => header.prev < start,
        };
        if !linked {
            let prev = header.prev;
            return Err(self.end_of_log(start, format!("record with incorrect prev-link {prev} at {start}")));
        }
        Ok(())
    }

    fn too_short(&mut self, start: Lsn, tot_len: u32) -> ReadError {
        let message = format!("invalid record length at {start}: wanted {HEADER_SIZE}, got {tot_len}");
        self.end_of_log(start, message)
    }

    /// Holds the page at `page` with at least `needed` bytes valid and its header checked. `record` is what it is read for.
    fn load(&mut self, page: Lsn, needed: usize, record: Lsn) -> Result<(), ReadError> {
        if self.page.at == page && needed <= self.page.valid {
            return Ok(());
        }
        if page > PAGE_MAX {
            return Err(self.end_of_log(record, format!("invalid record offset at {record}")));
        }
        let segment = self.segment_size.number_of(page);
        let first_page = self.segment_size.first_byte(segment);
        if self.checked_segment != Some(segment) && page != first_page {
            // The first page of a segment tells whose log it is, so it is checked even if nothing of it is wanted.
            self.read(first_page, header_size(first_page, self.segment_size), record)?;
        }
        self.read(page, needed.max(header_size(page, self.segment_size)), record)
    }

    fn read(&mut self, page: Lsn, needed: usize, record: Lsn) -> Result<(), ReadError> {
        self.page.at = Lsn::INVALID;
        let read = match self.source.read_page(page, &mut self.page.bytes) {
            Ok(read) => read,
            Err(SourceError::Missing(message)) => return Err(self.end_of_log(record, message)),
            Err(SourceError::Io(error)) => return Err(ReadError::Io(error)),
        };
        if read.valid < needed {
            return Err(ReadError::NotYet);
        }
        let valid = read.valid.min(PAGE_SIZE);
        let Some(header) = PageHeader::decode(&self.page.bytes[..valid]) else {
            return Err(ReadError::NotYet);
        };
        if let Err(error) = self.check_page(page, &header, read.tli) {
            return Err(self.end_of_log(record, error.to_string()));
        }
        self.checked_segment = Some(self.segment_size.number_of(page));
        self.latest_page = (page, header.tli);
        (self.page.at, self.page.valid, self.page.header) = (page, valid, header);
        Ok(())
    }

    fn check_page(&self, page: Lsn, header: &PageHeader, file_tli: TimelineId) -> Result<(), PageError> {
        let Self { segment_size, system_identifier, .. } = *self;
        let expected = Expected { page, segment_size, system_identifier, file_tli };
        header.check(&expected)?;
        let (latest, latest_tli) = self.latest_page;
        let found = header.tli;
        let kind = if page > latest && found < latest_tli {
            PageErrorKind::TimelineOrder { found, after: latest_tli }
        } else if self.history.as_ref().is_some_and(|history| !history.contains(found)) {
            PageErrorKind::TimelineUnexpected(found)
        } else {
            return Ok(());
        };
        Err(PageError { kind, place: Place::of(&expected) })
    }

    /// The end of the log. What is held is forgotten: when the caller tries again the bytes may be others.
    fn end_of_log(&mut self, lsn: Lsn, message: String) -> ReadError {
        let aborted = match (self.partial.take(), self.overwritten) {
            (Some(partial), _) => {
                Some(AbortedContrecord { start: partial.start, missing_page: partial.next_page })
            }
            (None, Some(start)) => Some(AbortedContrecord { start, missing_page: self.position }),
            (None, None) => None,
        };
        self.page.at = Lsn::INVALID;
        self.checked_segment = None;
        ReadError::EndOfLog { lsn, message, aborted }
    }
}
