//! What stands beyond the first place of a log that holds no record: to tell a log that ends there from one that is damaged.
//!
//! [`walk`] visits the pages and records between that place and a limit which are whole and stand where they belong. It
//! finds record starts in two ways:
//!
//! - **by page**: a page's header says how many bytes of an earlier record come first, so the first record that starts on a
//!   page is found without anything before the page, and those after it one by one;
//! - **in the page of the broken place**: at every multiple of 8, by header, back link and CRC together, since the record
//!   that is broken may be what would have told where the next one starts.
//!
//! What is found is no proof of damage: a write of many pages that was under way when the power failed may have left
//! its last page and not its first. What proves it is for the caller to say, who knows what the records mean.
//!
//! By the second way only, the bytes of a row may pass for a record if somebody has made them so on purpose, CRC, position and
//! all.

use crate::lsn::Lsn;
use crate::page::{Expected, PAGE_SIZE, PageHeader};
use crate::reader::{PageSource, ReadError, Record, SourceError, WalReader};
use crate::record::{HEADER_SIZE, RecordHeader, crc_is_right, main_data_range};
use crate::store::StoreError;

/// Something whole that stands beyond the broken place.
#[derive(Debug)]
pub enum Found<'a> {
    /// A page whose header is right.
    Page {
        /// Where it starts.
        at: Lsn,
    },
    /// A record whose CRC is right; those of one page in their order.
    Record(Record<'a>),
}

/// Calls `visit` for all that is whole between `broken`, where `reader` (which is used up by this) found no record,
/// and `limit`.
///
/// # Errors
/// The disk failed. A file that is missing is none: the walk goes on behind it.
pub fn walk<S: PageSource>(
    reader: &mut WalReader<S>,
    broken: Lsn,
    limit: Lsn,
    mut visit: impl FnMut(Found<'_>),
) -> Result<(), StoreError> {
    let mut bytes = Box::new([0; PAGE_SIZE]);
    let mut page = broken.page_start();
    // Whatever its header says: that may be what is broken.
    read(reader, page, &mut bytes)?;
    visit_within_page(&bytes, page, broken, &mut visit);
    // Records that end at or before this were visited.
    let mut visited = broken;
    page += PAGE_SIZE as u64;
    while page < limit {
        if let Some(header) = read(reader, page, &mut bytes)? {
            visit(Found::Page { at: page });
            if let Some(start) = first_start(page, &header)
                && start >= visited
            {
                visited = visit_chain(reader, start, &mut visit)?;
            }
        }
        page += PAGE_SIZE as u64;
    }
    Ok(())
}

/// Where the first record starts whose start is on this page.
fn first_start(page: Lsn, header: &PageHeader) -> Option<Lsn> {
    let rest = if header.is_contrecord() { (u64::from(header.rem_len) + 7) & !7 } else { 0 };
    let offset = header.size() as u64 + rest;
    (offset < PAGE_SIZE as u64).then(|| page + offset)
}

/// Visits the records from `start` on until one is broken; where that is.
fn visit_chain<S: PageSource>(
    reader: &mut WalReader<S>,
    start: Lsn,
    visit: &mut impl FnMut(Found<'_>),
) -> Result<Lsn, StoreError> {
    reader.seek(start);
    loop {
        match reader.next() {
            Ok(record) => visit(Found::Record(record)),
            Err(ReadError::EndOfLog { .. } | ReadError::NotYet) => return Ok(reader.position()),
            Err(ReadError::Io(error)) => return Err(error),
        }
    }
}

/// Visits the records that stand whole within a page behind `broken`, wherever they start.
fn visit_within_page(bytes: &[u8; PAGE_SIZE], page: Lsn, broken: Lsn, visit: &mut impl FnMut(Found<'_>)) {
    let mut offset = broken.page_offset() + 8;
    while offset + HEADER_SIZE <= PAGE_SIZE {
        let start = page + offset as u64;
        let Some(record) = record_at(&bytes[offset..], start).filter(|record| record.prev >= broken) else {
            offset += 8;
            continue;
        };
        offset += (record.end - start) as usize;
        visit(Found::Record(record));
    }
}

/// The record that `bytes`, the rest of a page from `start` on, begin with.
fn record_at(bytes: &[u8], start: Lsn) -> Option<Record<'_>> {
    let header = RecordHeader::decode(bytes.first_chunk()?);
    let len = header.tot_len as usize;
    if len < HEADER_SIZE || !header.rmgr.is_valid() || header.prev >= start {
        return None;
    }
    let record = bytes.get(..len)?;
    if !crc_is_right(record) {
        return None;
    }
    let main_data = main_data_range(record, start).ok()?;
    Some(Record {
        start,
        end: (start + len as u64).align8(),
        prev: header.prev,
        rmgr: header.rmgr,
        info: header.info,
        xid: header.xid,
        main_data: &record[main_data],
        overwritten: None,
    })
}

/// Reads a page; its header if that is right.
fn read<S: PageSource>(
    reader: &mut WalReader<S>,
    page: Lsn,
    bytes: &mut [u8; PAGE_SIZE],
) -> Result<Option<PageHeader>, StoreError> {
    let (segment_size, system_identifier) = (reader.segment_size(), reader.system_identifier());
    let read = match reader.source_mut().read_page(page, bytes) {
        Ok(read) => read,
        Err(SourceError::Missing(_)) => return Ok(None),
        Err(SourceError::Io(error)) => return Err(error),
    };
    let expected = Expected { page, segment_size, system_identifier, file_tli: read.tli };
    let header = PageHeader::decode(&bytes[..read.valid.min(PAGE_SIZE)]);
    Ok(header.filter(|header| read.valid >= PAGE_SIZE && header.check(&expected).is_ok()))
}
