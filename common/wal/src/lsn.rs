//! A position in the log: the address of a byte in an endless stream.
//!
//! Two addresses can stand for the same place: the end of a record that fills its page is the page boundary itself,
//! while the record after it starts behind the next page's header. Compare with care; `layout::record_start` maps the
//! one to the other.
//!
//! Follows PostgreSQL 15 src/include/access/xlogdefs.h.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use crate::page::PAGE_SIZE;

/// A log sequence number: a byte address in the log. Zero is no position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position (address zero, which no record can have).
    pub const INVALID: Lsn = Lsn(0);
    /// The greatest address; as a limit it means "no limit".
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Whether this is a position at all.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Bytes between the start of the page and this position.
    pub const fn page_offset(self) -> usize {
        (self.0 % PAGE_SIZE as u64) as usize
    }

    /// The start of the page that holds the byte at this position.
    pub const fn page_start(self) -> Lsn {
        Lsn(self.0 - self.0 % PAGE_SIZE as u64)
    }

    /// This position if it is a multiple of 8, else the next one that is. Records start at such positions.
    ///
    /// Saturates at the last aligned address: a peer may send any number.
    pub const fn align8(self) -> Lsn {
        Lsn(self.0.saturating_add(7) & !7)
    }

    /// The position `bytes` further on, or `None` beyond the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Lsn(sum)),
            None => None,
        }
    }

    /// Bytes from `earlier` to here; zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    /// Panics beyond the end of the address space: use [`Lsn::checked_add`] for numbers that come from a peer.
    fn add(self, bytes: u64) -> Lsn {
        self.checked_add(bytes).expect("the log does not reach the end of its address space")
    }
}

impl AddAssign<u64> for Lsn {
    fn add_assign(&mut self, bytes: u64) {
        *self = *self + bytes;
    }
}

impl Sub<Lsn> for Lsn {
    type Output = u64;

    /// Panics if `earlier` is later: use [`Lsn::saturating_since`] for numbers that come from a peer.
    fn sub(self, earlier: Lsn) -> u64 {
        self.0.checked_sub(earlier.0).expect("the position subtracted is not after this one")
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not of the form `X/X` (each one to eight hexadecimal digits).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseLsnError(String);

impl fmt::Display for ParseLsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid input syntax for type pg_lsn: \"{}\"", self.0)
    }
}

impl std::error::Error for ParseLsnError {}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let wrong = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let half = |digits: &str| -> Result<u64, ParseLsnError> {
            if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            u64::from_str_radix(digits, 16).map_err(|_| wrong())
        };
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_both_ways() {
        for (text, value) in [
            ("0/0", 0),
            ("0/1000108", 0x100_0108),
            ("1/0", 1 << 32),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(Lsn(value).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(value)));
        }
        assert_eq!("0000000a/0000000b".parse(), Ok(Lsn(0xA_0000_000B)));
    }

    #[test]
    fn lsn_text_that_is_none_is_an_error() {
        for text in ["", "/", "0", "0/", "/0", "0/123456789", "g/0", "0/ 1", "+1/0", "0/0/0", "0x1/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
        assert_eq!(
            "x".parse::<Lsn>().unwrap_err().to_string(),
            "invalid input syntax for type pg_lsn: \"x\""
        );
    }

    #[test]
    fn lsn_page_arithmetic() {
        assert_eq!(Lsn(0x4001).page_offset(), 1);
        assert_eq!(Lsn(0x5FFF).page_start(), Lsn(0x4000));
        assert_eq!(Lsn(0x4001).align8(), Lsn(0x4008));
        assert_eq!(Lsn(0x4008).align8(), Lsn(0x4008));
        assert_eq!(Lsn::MAX.align8(), Lsn(u64::MAX - 7));
        assert_eq!(Lsn(5).saturating_since(Lsn(7)), 0);
        assert_eq!(Lsn::MAX.checked_add(1), None);
    }
}
