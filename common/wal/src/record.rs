//! Records: what the log is made of.
//!
//! ```text
//! header (24 bytes)                                     then (a record of ours)
//!   0  u32  total length, header included, unpadded      FF u8   main data of up to 255 bytes follows, or
//!   4  u32  transaction id                               FE u32  main data of that many bytes follows
//!   8  u64  position of the record before                (neither when there is no main data)
//!  16  u8   what it is, to its resource manager          the main data
//!  17  u8   resource manager
//!  18  u16  zero
//!  20  u32  CRC-32C of everything after the header, then of the header's first 20 bytes
//! ```
//!
//! The position of the record before is known only once the place in the log is taken, under the insert lock. So the CRC
//! of the body is computed when a [`RecordBody`] is made, and [`RecordBody::seal`] has only 20 bytes left to do.
//! A record of PostgreSQL's may also hold block references; the reader steps over them.
//!
//! Follows PostgreSQL 15 src/include/access/xlogrecord.h, src/backend/access/transam/{xloginsert,xlogreader}.c.

use std::fmt;
use std::io;
use std::ops::Range;

use crate::lsn::Lsn;

/// Bytes of a record's header.
pub const HEADER_SIZE: usize = 24;
/// The greatest total length that we write or read: 1020 MiB, PostgreSQL 16's limit (15 has none of its own).
pub const RECORD_SIZE_MAX: usize = 1020 << 20;

const OFFSET_XID: usize = 4;
const OFFSET_PREV: usize = OFFSET_XID + 4;
const OFFSET_INFO: usize = OFFSET_PREV + 8;
const OFFSET_RMGR: usize = OFFSET_INFO + 1;
const OFFSET_CRC: usize = OFFSET_RMGR + 1 + 2;
const _: () = assert!(OFFSET_CRC + 4 == HEADER_SIZE);

/// The bits of `info` that belong to the resource manager; the low ones are the log's own.
pub const INFO_RMGR_MASK: u8 = 0xF0;

const BLOCK_ID_MAX: u8 = 32;
const ID_TOPLEVEL_XID: u8 = 0xFC;
const ID_ORIGIN: u8 = 0xFD;
const ID_DATA_LONG: u8 = 0xFE;
const ID_DATA_SHORT: u8 = 0xFF;
/// Bytes of the longest header of main data: the id and its length.
const DATA_HEADER_MAX: usize = 5;

/// A resource manager: the part of the system that a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rmgr(pub u8);

impl Rmgr {
    /// The log itself: checkpoints, switches, end of recovery.
    pub const XLOG: Rmgr = Rmgr(0);
    /// Commits.
    pub const TRANSACTION: Rmgr = Rmgr(1);
    /// Messages emitted by a client.
    pub const LOGICAL_MESSAGE: Rmgr = Rmgr(21);
    /// Our change records (PostgreSQL's number for experiments).
    pub const CHANGE: Rmgr = Rmgr(128);

    /// Whether PostgreSQL 15 takes it: one of its own (0 to 21) or a custom one (128 to 255).
    pub const fn is_valid(self) -> bool {
        self.0 <= 21 || self.0 >= 128
    }
}

/// A record's header, as it is in the log: nothing in it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the whole record, this header included, padding not.
    pub tot_len: u32,
    /// The transaction it belongs to; 0 is none.
    pub xid: u32,
    /// Where the record before starts.
    pub prev: Lsn,
    /// What it is: the high four bits are the resource manager's.
    pub info: u8,
    /// The resource manager.
    pub rmgr: Rmgr,
    /// The CRC of the rest of the record and then of the first 20 bytes of the header.
    pub crc: u32,
}

impl RecordHeader {
    /// The header in its bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..OFFSET_XID].copy_from_slice(&self.tot_len.to_le_bytes());
        bytes[OFFSET_XID..OFFSET_PREV].copy_from_slice(&self.xid.to_le_bytes());
        bytes[OFFSET_PREV..OFFSET_INFO].copy_from_slice(&self.prev.0.to_le_bytes());
        bytes[OFFSET_INFO] = self.info;
        bytes[OFFSET_RMGR] = self.rmgr.0;
        bytes[OFFSET_CRC..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// The header in `bytes`.
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> RecordHeader {
        let [
            l0,
            l1,
            l2,
            l3,
            x0,
            x1,
            x2,
            x3,
            p0,
            p1,
            p2,
            p3,
            p4,
            p5,
            p6,
            p7,
            info,
            rmgr,
            _,
            _,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        RecordHeader {
            tot_len: u32::from_le_bytes([l0, l1, l2, l3]),
            xid: u32::from_le_bytes([x0, x1, x2, x3]),
            prev: Lsn(u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7])),
            info,
            rmgr: Rmgr(rmgr),
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }
}

/// A record that is complete but for its place: everything is known that can be known before the insert lock is taken.
#[derive(Clone, Debug)]
pub struct RecordBody {
    /// Some unused bytes, the header (`prev` and CRC not yet in it), the main data's header, the main data.
    buffer: Vec<u8>,
    start: usize,
    body_crc: u32,
}

impl RecordBody {
    /// A record with this main data.
    ///
    /// Fails if the whole would be longer than [`RECORD_SIZE_MAX`].
    pub fn new(rmgr: Rmgr, info: u8, xid: u32, main_data: &[u8]) -> Result<RecordBody, RecordTooLong> {
        RecordBody::from_slices(rmgr, info, xid, &[main_data])
    }

    /// A record whose main data are these slices one after the other; each byte is copied once.
    ///
    /// Fails if the whole would be longer than [`RECORD_SIZE_MAX`].
    pub fn from_slices(
        rmgr: Rmgr,
        info: u8,
        xid: u32,
        main_data: &[&[u8]],
    ) -> Result<RecordBody, RecordTooLong> {
        let total = main_data.iter().fold(0_usize, |sum, slice| sum.saturating_add(slice.len()));
        if total > RECORD_SIZE_MAX {
            return Err(RecordTooLong(total));
        }
        let mut builder = RecordBuilder::with_capacity(total);
        for slice in main_data {
            builder.extend(slice);
        }
        builder.finish(rmgr, info, xid)
    }

    /// Bytes of the whole record, header included, padding not: what [`crate::layout::place`] wants to know.
    pub fn tot_len(&self) -> u32 {
        u32::try_from(self.buffer.len() - self.start).expect("a record is not longer than RECORD_SIZE_MAX")
    }

    /// The finished record, following the one that starts at `prev`. Cheap: runs under the insert lock. May be called
    /// again with another position.
    pub fn seal(&mut self, prev: Lsn) -> &[u8] {
        let record = &mut self.buffer[self.start..];
        record[OFFSET_PREV..OFFSET_INFO].copy_from_slice(&prev.0.to_le_bytes());
        let crc = crc32c::crc32c_append(self.body_crc, &record[..OFFSET_CRC]);
        record[OFFSET_CRC..HEADER_SIZE].copy_from_slice(&crc.to_le_bytes());
        record
    }
}

/// Collects the main data of a record piece by piece, in the buffer that becomes the record: an encoder writes straight
/// into it (it is an [`io::Write`]) and nothing is copied again.
#[derive(Clone, Debug)]
pub struct RecordBuilder {
    /// Room for the longest headers, then the main data so far.
    buffer: Vec<u8>,
}

impl Default for RecordBuilder {
    fn default() -> RecordBuilder {
        RecordBuilder::with_capacity(0)
    }
}

impl RecordBuilder {
    /// A builder with room for `main_data` bytes; it grows when there are more.
    pub fn with_capacity(main_data: usize) -> RecordBuilder {
        let mut buffer = Vec::with_capacity(HEADER_SIZE + DATA_HEADER_MAX + main_data);
        buffer.resize(HEADER_SIZE + DATA_HEADER_MAX, 0);
        RecordBuilder { buffer }
    }

    /// Appends to the main data.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of main data so far.
    pub fn main_data_len(&self) -> usize {
        self.buffer.len() - HEADER_SIZE - DATA_HEADER_MAX
    }

    /// The record. The headers are put right before the main data, where room was left for the longest.
    ///
    /// Fails if the whole would be longer than [`RECORD_SIZE_MAX`].
    pub fn finish(mut self, rmgr: Rmgr, info: u8, xid: u32) -> Result<RecordBody, RecordTooLong> {
        let main_data_len = self.main_data_len();
        let data_at = HEADER_SIZE + DATA_HEADER_MAX;
        let too_long = RecordTooLong(main_data_len);
        let body_at = match main_data_len {
            0 => data_at,
            1..=255 => {
                let len = u8::try_from(main_data_len).map_err(|_| too_long)?;
                self.buffer[data_at - 2..data_at].copy_from_slice(&[ID_DATA_SHORT, len]);
                data_at - 2
            }
            _ => {
                let len = u32::try_from(main_data_len).map_err(|_| too_long)?;
                self.buffer[data_at - 5] = ID_DATA_LONG;
                self.buffer[data_at - 4..data_at].copy_from_slice(&len.to_le_bytes());
                data_at - 5
            }
        };
        let start = body_at - HEADER_SIZE;
        let tot_len = self.buffer.len() - start;
        if tot_len > RECORD_SIZE_MAX {
            return Err(too_long);
        }
        let tot_len = u32::try_from(tot_len).map_err(|_| too_long)?;
        let header = RecordHeader { tot_len, xid, prev: Lsn::INVALID, info, rmgr, crc: 0 };
        self.buffer[start..body_at].copy_from_slice(&header.encode());
        let body_crc = crc32c::crc32c(&self.buffer[body_at..]);
        Ok(RecordBody { buffer: self.buffer, start, body_crc })
    }
}

impl io::Write for RecordBuilder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A record that is longer than a record may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTooLong(
    /// Bytes of its main data.
    pub usize,
);

impl fmt::Display for RecordTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WAL record with {} bytes of data is too long (at most {RECORD_SIZE_MAX} in all)", self.0)
    }
}

impl std::error::Error for RecordTooLong {}

/// Main data that are not what the record says it is. Such a record passed its CRC: whoever wrote it is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedMainData {
    /// The kind of record: "checkpoint", …
    pub record: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for MalformedMainData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {} record: {}", self.record, self.problem)
    }
}

impl std::error::Error for MalformedMainData {}

/// Whether the CRC in `record` (a whole record, at least a header long) is right.
pub fn crc_is_right(record: &[u8]) -> bool {
    let Some((header, body)) = record.split_first_chunk::<HEADER_SIZE>() else {
        return false;
    };
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &header[..OFFSET_CRC]);
    crc == RecordHeader::decode(header).crc
}

/// Where the main data of a record are in it. `record` is a whole record, `lsn` its start, for messages.
///
/// Steps over block references, origin and top-level transaction, which PostgreSQL's own records have. The message of an
/// error is PostgreSQL's.
pub(crate) fn main_data_range(record: &[u8], lsn: Lsn) -> Result<Range<usize>, String> {
    let too_short = || format!("record with invalid length at {lsn}");
    let mut headers = Headers { rest: record.get(HEADER_SIZE..).ok_or_else(too_short)? };
    let mut payload = 0;
    let mut main_data_len = 0;
    let mut blocks = Blocks { last: None, relation_known: false };
    while headers.rest.len() > payload {
        let id = headers.u8().ok_or_else(too_short)?;
        match id {
            ID_DATA_SHORT => main_data_len = usize::from(headers.u8().ok_or_else(too_short)?),
            ID_DATA_LONG => main_data_len = headers.u32().ok_or_else(too_short)? as usize,
            ID_ORIGIN => headers.skip(2).ok_or_else(too_short)?,
            ID_TOPLEVEL_XID => headers.skip(4).ok_or_else(too_short)?,
            0..=BLOCK_ID_MAX => {
                let read = blocks.read(id, &mut headers);
                payload += read.ok_or_else(too_short)?.map_err(|problem| format!("{problem} at {lsn}"))?;
            }
            _ => return Err(format!("invalid block_id {id} at {lsn}")),
        }
        if matches!(id, ID_DATA_SHORT | ID_DATA_LONG) {
            // Main data are always last.
            payload += main_data_len;
            break;
        }
    }
    if headers.rest.len() != payload {
        return Err(too_short());
    }
    Ok(record.len() - main_data_len..record.len())
}

/// The header list of a record, read from the front.
struct Headers<'a> {
    rest: &'a [u8],
}

impl Headers<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes..)?;
        Some(())
    }
}

const BLOCK_SIZE: u16 = 8192;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_HAS_DATA: u8 = 0x20;
const BLOCK_SAME_REL: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;
const IMAGE_COMPRESSED: u8 = 0x04 | 0x08 | 0x10;

/// What must be known of the block references before this one.
struct Blocks {
    last: Option<u8>,
    relation_known: bool,
}

impl Blocks {
    /// Reads one block reference; gives the bytes of its image and data in the payload. `None`: the record is too short;
    /// inner error: what is wrong with the reference.
    fn read(&mut self, id: u8, headers: &mut Headers<'_>) -> Option<Result<usize, String>> {
        if self.last.is_some_and(|last| id <= last) {
            return Some(Err(format!("out-of-order block_id {id}")));
        }
        self.last = Some(id);
        let flags = headers.u8()?;
        let data_len = headers.u16()?;
        let has_data = flags & BLOCK_HAS_DATA != 0;
        if has_data && data_len == 0 {
            return Some(Err("BKPBLOCK_HAS_DATA set, but no data included".into()));
        }
        if !has_data && data_len != 0 {
            return Some(Err(format!("BKPBLOCK_HAS_DATA not set, but data length is {data_len}")));
        }
        let mut payload = usize::from(data_len);
        if flags & BLOCK_HAS_IMAGE != 0 {
            match image_len(headers)? {
                Ok(len) => payload += len,
                Err(problem) => return Some(Err(problem)),
            }
        }
        if flags & BLOCK_SAME_REL == 0 {
            headers.skip(12)?;
            self.relation_known = true;
        } else if !self.relation_known {
            return Some(Err("BKPBLOCK_SAME_REL set but no previous rel".into()));
        }
        headers.skip(4)?;
        Some(Ok(payload))
    }
}

/// Reads the header of a block's image; gives the image's bytes in the payload.
fn image_len(headers: &mut Headers<'_>) -> Option<Result<usize, String>> {
    let len = headers.u16()?;
    let hole_offset = headers.u16()?;
    let info = headers.u8()?;
    let has_hole = info & IMAGE_HAS_HOLE != 0;
    let compressed = info & IMAGE_COMPRESSED != 0;
    let hole_length = match (compressed, has_hole) {
        (true, true) => headers.u16()?,
        (true, false) => 0,
        (false, _) => BLOCK_SIZE.wrapping_sub(len),
    };
    Some(if has_hole && (hole_offset == 0 || hole_length == 0 || len == BLOCK_SIZE) {
        Err(format!(
            "BKPIMAGE_HAS_HOLE set, but hole offset {hole_offset} length {hole_length} block image length {len}"
        ))
    } else if !has_hole && (hole_offset != 0 || hole_length != 0) {
        Err(format!("BKPIMAGE_HAS_HOLE not set, but hole offset {hole_offset} length {hole_length}"))
    } else if compressed && len == BLOCK_SIZE {
        Err(format!("BKPIMAGE_COMPRESSED set, but block image length {len}"))
    } else {
        Ok(usize::from(len))
    })
}
