//! Segments: the files that the log is cut into, and their names.
//!
//! A segment's name is 24 hexadecimal digits: timeline, then the segment number in two halves (how many segments make
//! 4 GiB depends on the segment size, so a name can only be read knowing it). Number 0 is never used: the log begins at
//! the start of segment 1, so that no record has the invalid position 0.
//!
//! Follows PostgreSQL 15 src/include/access/xlog_internal.h.

use std::fmt;

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// The size of every segment of a log: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

/// A segment's number: its first byte's position divided by the segment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentNumber(pub u64);

/// A size that no segment can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSegmentSize(pub u64);

impl SegmentSize {
    /// 1 MiB, the smallest.
    pub const MIN: SegmentSize = SegmentSize(1 << 20);
    /// 16 MiB, PostgreSQL's default and ours.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);
    /// 1 GiB, the greatest.
    pub const MAX: SegmentSize = SegmentSize(1 << 30);

    /// The size of `bytes` bytes, if that is a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Result<SegmentSize, InvalidSegmentSize> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&size) => {
                Ok(SegmentSize(size))
            }
            _ => Err(InvalidSegmentSize(bytes)),
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// The size in bytes as page headers hold it.
    pub const fn bytes_u32(self) -> u32 {
        self.0
    }

    /// The segment that holds the byte at `lsn`.
    pub const fn number_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.0 / self.bytes())
    }

    /// The segment that holds the byte before `lsn`: where a record that ends at `lsn` ends.
    pub const fn number_before(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.0.saturating_sub(1) / self.bytes())
    }

    /// Bytes between the start of its segment and `lsn`.
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }

    /// The start of the segment that holds the byte at `lsn`.
    pub const fn start_of(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - lsn.0 % self.bytes())
    }

    /// The position of a segment's first byte. Saturates beyond the end of the address space.
    pub const fn first_byte(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.0.saturating_mul(self.bytes()))
    }

    /// Where a log of this segment size begins: the start of segment 1.
    pub const fn log_start(self) -> Lsn {
        Lsn(self.bytes())
    }

    /// How many segments 4 GiB hold: the base of the second half of a name.
    const fn per_4_gib(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

impl SegmentNumber {
    /// The segment after this one.
    pub const fn next(self) -> SegmentNumber {
        SegmentNumber(self.0 + 1)
    }
}

impl fmt::Display for SegmentSize {
    /// As PostgreSQL shows `wal_segment_size`: `16MB`, `1GB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 >> 20;
        if mib == 1024 { f.write_str("1GB") } else { write!(f, "{mib}MB") }
    }
}

impl fmt::Display for InvalidSegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WAL segment size must be a power of two between 1 MB and 1 GB, but it is {} bytes", self.0)
    }
}

impl std::error::Error for InvalidSegmentSize {}

/// The file name of a segment: `000000010000000000000001`.
pub fn file_name(tli: TimelineId, segment: SegmentNumber, size: SegmentSize) -> String {
    let per = size.per_4_gib();
    format!("{:08X}{:08X}{:08X}", tli.0, segment.0 / per, segment.0 % per)
}

/// The file name of a segment that was left incomplete when its timeline ended, or is still being received.
pub fn partial_file_name(tli: TimelineId, segment: SegmentNumber, size: SegmentSize) -> String {
    file_name(tli, segment, size) + ".partial"
}

/// The file name of a timeline's history: `00000002.history`.
pub fn history_file_name(tli: TimelineId) -> String {
    format!("{:08X}.history", tli.0)
}

/// The timeline and segment that a file name stands for; `None` if it is no segment's name.
pub fn parse_file_name(name: &str, size: SegmentSize) -> Option<(TimelineId, SegmentNumber)> {
    if name.len() != 24 {
        return None;
    }
    let tli = parse_hex8(name.get(..8)?)?;
    let high = u64::from(parse_hex8(name.get(8..16)?)?);
    let low = u64::from(parse_hex8(name.get(16..)?)?);
    if low >= size.per_4_gib() {
        return None;
    }
    Some((TimelineId(tli), SegmentNumber(high * size.per_4_gib() + low)))
}

/// As [`parse_file_name`], for the name of an incomplete segment (`….partial`).
pub fn parse_partial_file_name(name: &str, size: SegmentSize) -> Option<(TimelineId, SegmentNumber)> {
    parse_file_name(name.strip_suffix(".partial")?, size)
}

/// The timeline whose history a file name stands for; `None` if it is no history file's name.
pub fn parse_history_file_name(name: &str) -> Option<TimelineId> {
    parse_hex8(name.strip_suffix(".history")?).map(TimelineId)
}

/// Eight upper-case hexadecimal digits: the only form in which PostgreSQL writes and takes them.
fn parse_hex8(digits: &str) -> Option<u32> {
    let upper_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if digits.len() != 8 || !digits.bytes().all(upper_hex) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_both_ways() {
        let table = [
            (SegmentSize::MIN, 1, 1, "000000010000000000000001"),
            (SegmentSize::MIN, 2, 4097, "000000020000000100000001"),
            (SegmentSize::DEFAULT, 1, 255, "0000000100000000000000FF"),
            (SegmentSize::DEFAULT, 1, 256, "000000010000000100000000"),
            (SegmentSize::MAX, 0x1F, 7, "0000001F0000000100000003"),
        ];
        for (size, tli, segment, name) in table {
            assert_eq!(file_name(TimelineId(tli), SegmentNumber(segment), size), name);
            assert_eq!(parse_file_name(name, size), Some((TimelineId(tli), SegmentNumber(segment))));
        }
        assert_eq!(history_file_name(TimelineId(10)), "0000000A.history");
        assert_eq!(parse_history_file_name("0000000A.history"), Some(TimelineId(10)));
        assert_eq!(
            partial_file_name(TimelineId(1), SegmentNumber(3), SegmentSize::DEFAULT),
            "000000010000000000000003.partial"
        );
        assert_eq!(
            parse_partial_file_name("000000010000000000000003.partial", SegmentSize::DEFAULT),
            Some((TimelineId(1), SegmentNumber(3)))
        );
    }

    #[test]
    fn names_of_other_files_are_no_segments() {
        for name in [
            "",
            "00000001000000000000000",
            "00000001000000000000000g",
            "0000000100000000000000ff",
            "000000010000000000000100",
            "000000010000000000000001.partial",
            "xlogtemp.1234567890123456",
            "ä0000001000000000000000",
        ] {
            assert_eq!(parse_file_name(name, SegmentSize::DEFAULT), None, "{name}");
        }
        assert_eq!(parse_history_file_name("1.history"), None);
        assert_eq!(parse_history_file_name("00000001"), None);
    }

    #[test]
    fn segment_arithmetic() {
        let size = SegmentSize::MIN;
        assert_eq!(size.number_of(Lsn(0x20_0000)), SegmentNumber(2));
        assert_eq!(size.number_before(Lsn(0x20_0000)), SegmentNumber(1));
        assert_eq!(size.offset_of(Lsn(0x20_0010)), 16);
        assert_eq!(size.start_of(Lsn(0x2F_FFFF)), Lsn(0x20_0000));
        assert_eq!(size.first_byte(SegmentNumber(3)), Lsn(0x30_0000));
    }

    #[test]
    fn segment_size_is_a_power_of_two_in_range() {
        for bytes in [0, 1, 1 << 19, 3 << 20, 1 << 31, 1 << 40, u64::MAX] {
            assert_eq!(SegmentSize::new(bytes), Err(InvalidSegmentSize(bytes)));
        }
        assert_eq!(SegmentSize::new(64 << 20).map(|s| s.to_string()), Ok("64MB".to_owned()));
        assert_eq!(SegmentSize::MAX.to_string(), "1GB");
    }
}
