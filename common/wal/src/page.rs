//! Pages: the log is cut into pages of 8 KiB, each with a header.
//!
//! ```text
//! short header (24 bytes)                      long header (40 bytes): first page of each segment
//!   0  u16  magic D110                           0  the short header, flag LONG_HEADER set
//!   2  u16  flags                               24  u64  system identifier
//!   4  u32  timeline of the page's first record 32  u32  segment size
//!   8  u64  position of this page               36  u32  page size (8192)
//!  16  u32  bytes still to come of a record begun on an earlier page
//!  20  u32  padding, zero
//! ```
//!
//! The header is what tells a page of this log from zeros, from a recycled segment (its position is another) and from
//! another cluster's log. Follows PostgreSQL 15 src/include/access/xlog_internal.h.

use std::fmt;

use crate::lsn::Lsn;
use crate::segment::{SegmentSize, file_name};
use crate::timeline::TimelineId;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 8192;
/// The first two bytes of a page of PostgreSQL 15's log.
pub const MAGIC: u16 = 0xD110;
/// Bytes of the header of an ordinary page.
pub const SHORT_HEADER_SIZE: usize = 24;
/// Bytes of the header of a segment's first page.
pub const LONG_HEADER_SIZE: usize = 40;

/// Flag: the page begins with the rest of a record of an earlier page.
pub const FLAG_FIRST_IS_CONTRECORD: u16 = 0x0001;
/// Flag: the header is a long one.
pub const FLAG_LONG_HEADER: u16 = 0x0002;
/// Flag: full-page images may be left out by a compressing archiver (PostgreSQL's own pages; we have no such images).
pub const FLAG_BKP_REMOVABLE: u16 = 0x0004;
/// Flag: the rest of a record should be here but was lost; an OVERWRITE_CONTRECORD record stands in its place.
pub const FLAG_FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const FLAGS_ALL: u16 = 0x000F;

const OFFSET_FLAGS: usize = 2;
const OFFSET_TLI: usize = OFFSET_FLAGS + 2;
const OFFSET_PAGE_ADDR: usize = OFFSET_TLI + 4;
const OFFSET_REM_LEN: usize = OFFSET_PAGE_ADDR + 8;
const OFFSET_SYSTEM_IDENTIFIER: usize = OFFSET_REM_LEN + 4 + 4;
const OFFSET_SEGMENT_SIZE: usize = OFFSET_SYSTEM_IDENTIFIER + 8;
const OFFSET_PAGE_SIZE: usize = OFFSET_SEGMENT_SIZE + 4;
const _: () =
    assert!(OFFSET_SYSTEM_IDENTIFIER == SHORT_HEADER_SIZE && OFFSET_PAGE_SIZE + 4 == LONG_HEADER_SIZE);

/// How many bytes the header of the page at `page` takes.
pub const fn header_size(page: Lsn, size: SegmentSize) -> usize {
    if size.offset_of(page) == 0 { LONG_HEADER_SIZE } else { SHORT_HEADER_SIZE }
}

/// A page's header, as it is on the page: nothing in it is checked until [`PageHeader::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// [`MAGIC`] in a page of ours.
    pub magic: u16,
    /// The `FLAG_` bits.
    pub flags: u16,
    /// The timeline of the first record on the page.
    pub tli: TimelineId,
    /// The position of the page.
    pub page_addr: Lsn,
    /// Bytes still to come, from this page on, of a record begun earlier; else 0.
    pub rem_len: u32,
    /// What only the first page of a segment has (present when the flag is set).
    pub long: Option<LongPart>,
}

/// The part that only the header of a segment's first page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongPart {
    /// The system identifier of the database.
    pub system_identifier: u64,
    /// The segment size in bytes.
    pub segment_size: u32,
    /// The page size in bytes.
    pub page_size: u32,
}

/// A header in its bytes: as many as the page's header takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedHeader {
    bytes: [u8; LONG_HEADER_SIZE],
    len: usize,
}

impl EncodedHeader {
    /// The bytes to write at the start of the page (24 or 40).
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What a page's header must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The position at which the page was read.
    pub page: Lsn,
    /// The log's segment size.
    pub segment_size: SegmentSize,
    /// The database's system identifier; `None` accepts any.
    pub system_identifier: Option<u64>,
    /// The timeline of the file that the page came from: names the segment in messages.
    pub file_tli: TimelineId,
}

impl PageHeader {
    /// A header for the page at `page`, long if the page is the first of its segment. A continued record's remaining
    /// length is not zero and sets the flag for it.
    pub fn new(
        page: Lsn,
        tli: TimelineId,
        rem_len: u32,
        size: SegmentSize,
        system_identifier: u64,
    ) -> PageHeader {
        let long = (size.offset_of(page) == 0).then_some(LongPart {
            system_identifier,
            segment_size: size.bytes_u32(),
            page_size: PAGE_SIZE as u32,
        });
        let contrecord = if rem_len != 0 { FLAG_FIRST_IS_CONTRECORD } else { 0 };
        let long_flag = if long.is_some() { FLAG_LONG_HEADER } else { 0 };
        PageHeader { magic: MAGIC, flags: contrecord | long_flag, tli, page_addr: page, rem_len, long }
    }

    /// Bytes that this header takes, by its own flag.
    pub const fn size(&self) -> usize {
        if self.flags & FLAG_LONG_HEADER != 0 { LONG_HEADER_SIZE } else { SHORT_HEADER_SIZE }
    }

    /// Whether the page begins with the rest of a record.
    pub const fn is_contrecord(&self) -> bool {
        self.flags & FLAG_FIRST_IS_CONTRECORD != 0
    }

    /// Whether the page begins with the record that replaces a lost rest.
    pub const fn is_overwrite_contrecord(&self) -> bool {
        self.flags & FLAG_FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// The header's bytes.
    pub fn encode(&self) -> EncodedHeader {
        let mut bytes = [0; LONG_HEADER_SIZE];
        bytes[..OFFSET_FLAGS].copy_from_slice(&self.magic.to_le_bytes());
        bytes[OFFSET_FLAGS..OFFSET_TLI].copy_from_slice(&self.flags.to_le_bytes());
        bytes[OFFSET_TLI..OFFSET_PAGE_ADDR].copy_from_slice(&self.tli.0.to_le_bytes());
        bytes[OFFSET_PAGE_ADDR..OFFSET_REM_LEN].copy_from_slice(&self.page_addr.0.to_le_bytes());
        bytes[OFFSET_REM_LEN..OFFSET_REM_LEN + 4].copy_from_slice(&self.rem_len.to_le_bytes());
        let Some(long) = self.long else {
            return EncodedHeader { bytes, len: SHORT_HEADER_SIZE };
        };
        bytes[OFFSET_SYSTEM_IDENTIFIER..OFFSET_SEGMENT_SIZE]
            .copy_from_slice(&long.system_identifier.to_le_bytes());
        bytes[OFFSET_SEGMENT_SIZE..OFFSET_PAGE_SIZE].copy_from_slice(&long.segment_size.to_le_bytes());
        bytes[OFFSET_PAGE_SIZE..].copy_from_slice(&long.page_size.to_le_bytes());
        EncodedHeader { bytes, len: LONG_HEADER_SIZE }
    }

    /// The header at the start of `bytes`; `None` when there are too few bytes for it.
    pub fn decode(bytes: &[u8]) -> Option<PageHeader> {
        let flags = u16::from_le_bytes(field(bytes, OFFSET_FLAGS)?);
        let mut header = PageHeader {
            magic: u16::from_le_bytes(field(bytes, 0)?),
            flags,
            tli: TimelineId(u32::from_le_bytes(field(bytes, OFFSET_TLI)?)),
            page_addr: Lsn(u64::from_le_bytes(field(bytes, OFFSET_PAGE_ADDR)?)),
            rem_len: u32::from_le_bytes(field(bytes, OFFSET_REM_LEN)?),
            long: None,
        };
        if bytes.len() < SHORT_HEADER_SIZE {
            return None;
        }
        if flags & FLAG_LONG_HEADER != 0 {
            header.long = Some(LongPart {
                system_identifier: u64::from_le_bytes(field(bytes, OFFSET_SYSTEM_IDENTIFIER)?),
                segment_size: u32::from_le_bytes(field(bytes, OFFSET_SEGMENT_SIZE)?),
                page_size: u32::from_le_bytes(field(bytes, OFFSET_PAGE_SIZE)?),
            });
        }
        Some(header)
    }

    /// Checks the header in PostgreSQL's order, up to and including its position. The order of timelines from page to
    /// page is the reader's to check: it alone knows the pages before.
    pub fn check(&self, expected: &Expected) -> Result<(), PageError> {
        let wrong = |kind| Err(PageError { kind, place: Place::of(expected) });
        let at_segment_start = expected.segment_size.offset_of(expected.page) == 0;
        if self.magic != MAGIC {
            return wrong(PageErrorKind::Magic(self.magic));
        }
        if self.flags & !FLAGS_ALL != 0 {
            return wrong(PageErrorKind::Flags(self.flags));
        }
        match (self.long, expected.system_identifier) {
            (Some(long), Some(ours)) if long.system_identifier != ours => {
                return wrong(PageErrorKind::SystemIdentifier { file: long.system_identifier, ours });
            }
            (Some(long), _) if long.segment_size != expected.segment_size.bytes_u32() => {
                return wrong(PageErrorKind::SegmentSize);
            }
            (Some(long), _) if long.page_size != PAGE_SIZE as u32 => return wrong(PageErrorKind::PageSize),
            (None, _) if at_segment_start => return wrong(PageErrorKind::Flags(self.flags)),
            (Some(_) | None, _) => {}
        }
        if self.page_addr != expected.page {
            return wrong(PageErrorKind::PageAddr(self.page_addr));
        }
        Ok(())
    }
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

/// Where a page is, in the words of messages: segment file and offset in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    segment: String,
    offset: u64,
}

impl Place {
    /// The segment file and offset of the expected page.
    pub fn of(expected: &Expected) -> Place {
        let size = expected.segment_size;
        Place {
            segment: file_name(expected.file_tli, size.number_of(expected.page), size),
            offset: size.offset_of(expected.page),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in log segment {}, offset {}", self.segment, self.offset)
    }
}

/// A page whose header does not fit where it was found. Shown in PostgreSQL's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageError {
    /// What is wrong.
    pub kind: PageErrorKind,
    /// With which page.
    pub place: Place,
}

/// What is wrong with a page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageErrorKind {
    /// Not a page of PostgreSQL 15's log.
    Magic(u16),
    /// Unknown flags, or a short header where a long one must be.
    Flags(u16),
    /// A page of another database.
    SystemIdentifier {
        /// The identifier in the page.
        file: u64,
        /// The identifier of this database.
        ours: u64,
    },
    /// A page of a log with another segment size.
    SegmentSize,
    /// A page of a log with another page size.
    PageSize,
    /// The page says it is at another position: a recycled segment.
    PageAddr(Lsn),
    /// The page's timeline is lower than that of a page before.
    TimelineOrder {
        /// The timeline in the page.
        found: TimelineId,
        /// The timeline of an earlier page.
        after: TimelineId,
    },
    /// The page's timeline is none of those in the history being read.
    TimelineUnexpected(TimelineId),
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        let foreign = "WAL file is from different database system";
        match self.kind {
            PageErrorKind::Magic(found) => write!(f, "invalid magic number {found:04X} {place}"),
            PageErrorKind::Flags(found) => write!(f, "invalid info bits {found:04X} {place}"),
            PageErrorKind::SystemIdentifier { file, ours } => write!(
                f,
                "{foreign}: WAL file database system identifier is {file}, pg_control database system identifier is {ours}"
            ),
            PageErrorKind::SegmentSize => write!(f, "{foreign}: incorrect segment size in page header"),
            PageErrorKind::PageSize => write!(f, "{foreign}: incorrect XLOG_BLCKSZ in page header"),
            PageErrorKind::PageAddr(found) => write!(f, "unexpected pageaddr {found} {place}"),
            PageErrorKind::TimelineOrder { found, after } => {
                write!(f, "out-of-sequence timeline ID {found} (after {after}) {place}")
            }
            PageErrorKind::TimelineUnexpected(found) => write!(f, "unexpected timeline ID {found} {place}"),
        }
    }
}

impl std::error::Error for PageError {}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;

    /// The first page of segment 1 of a 1 MiB log, written by hand.
    const LONG: [u8; 40] = [
        0x10, 0xD1, 0x02, 0x00, 1, 0, 0, 0, // magic, flags, tli
        0x00, 0x00, 0x10, 0, 0, 0, 0, 0, // page address 0/100000
        0, 0, 0, 0, 0, 0, 0, 0, // rem_len, padding
        0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01, // system identifier
        0x00, 0x00, 0x10, 0, 0x00, 0x20, 0, 0, // segment size, page size
    ];
    /// The page at 1/102000 on timeline 3 with 300 bytes of a record to come, written by hand.
    const SHORT: [u8; 24] =
        [0x10, 0xD1, 0x01, 0x00, 3, 0, 0, 0, 0x00, 0x20, 0x10, 0, 1, 0, 0, 0, 0x2C, 0x01, 0, 0, 0, 0, 0, 0];

    fn expected(page: u64) -> Expected {
        Expected {
            page: Lsn(page),
            segment_size: SIZE,
            system_identifier: Some(0x0123_4567_89AB_CDEF),
            file_tli: TimelineId(1),
        }
    }

    #[test]
    fn page_header_bytes_both_ways() {
        let long = PageHeader::new(Lsn(0x10_0000), TimelineId(1), 0, SIZE, 0x0123_4567_89AB_CDEF);
        assert_eq!(long.encode().as_bytes(), LONG);
        assert_eq!(PageHeader::decode(&LONG), Some(long));
        assert_eq!(long.check(&expected(0x10_0000)), Ok(()));

        let short = PageHeader::new(Lsn(0x1_0010_2000), TimelineId(3), 300, SIZE, 0x0123_4567_89AB_CDEF);
        assert_eq!(short.encode().as_bytes(), SHORT);
        assert_eq!(PageHeader::decode(&SHORT), Some(short));
        assert!(short.is_contrecord());
        assert_eq!(short.check(&expected(0x1_0010_2000)), Ok(()));
    }

    #[test]
    fn page_header_cut_short_is_none() {
        for len in 0..LONG.len() {
            assert_eq!(PageHeader::decode(&LONG[..len]), None, "{len}");
        }
        assert_eq!(PageHeader::decode(&SHORT[..23]), None);
    }

    #[test]
    fn page_header_faults_have_postgresql_messages() {
        let foreign = "WAL file is from different database system: ";
        let ids = "WAL file database system identifier is 81985529216486896, \
                   pg_control database system identifier is 81985529216486895";
        let table: [(usize, u8, String); 7] = [
            (0, 0x06, "invalid magic number D106 in log segment 000000010000000000000001, offset 0".into()),
            (2, 0x12, "invalid info bits 0012 in log segment 000000010000000000000001, offset 0".into()),
            (2, 0x00, "invalid info bits 0000 in log segment 000000010000000000000001, offset 0".into()),
            (24, 0xF0, format!("{foreign}{ids}")),
            (34, 0x20, format!("{foreign}incorrect segment size in page header")),
            (37, 0x40, format!("{foreign}incorrect XLOG_BLCKSZ in page header")),
            (
                10,
                0x20,
                "unexpected pageaddr 0/200000 in log segment 000000010000000000000001, offset 0".into(),
            ),
        ];
        for (at, byte, message) in table {
            let mut bytes = LONG;
            bytes[at] = byte;
            let header = PageHeader::decode(&bytes).unwrap();
            assert_eq!(header.check(&expected(0x10_0000)).unwrap_err().to_string(), message);
        }
    }
}
