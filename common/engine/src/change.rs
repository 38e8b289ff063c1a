//! The change record: what one write changed, as it stands in the log (resource manager 128, main data only).
//!
//! It holds rows, not statements, so that whoever puts it needs no clock, no trigger, no planner. A statement's text
//! appears for DDL alone. Items stand in the order in which things happened; a row item belongs to the table that the
//! last `Table` or `Use` before it names.
//!
//! ```text
//! offset  size
//!      0     1  version (1)
//!      1     8  horizon: what the writer of the record knew to be safe; little-endian, as all of the header
//!      9     8  commit time, µs since 2000-01-01
//!     17     8  rows affected
//!     25     …  items until the end: bincode (variable-length integers), one `Item` after the other;
//!               a row item's values follow it: their number, then each
//! ```
//!
//! The header has a fixed size so that the record can be encoded while the statement runs and be stamped with the
//! horizon and the time when it is logged ([`stamp`]), without encoding anything again.
//!
//! Decoding never panics and never allocates more than the input's own size suggests: values are slices of the input.

use std::fmt;

use bincode::config::{Configuration, LittleEndian, Varint};
use bincode::{BorrowDecode, Encode};
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;

/// Bytes before the first item.
pub const HEADER_SIZE: usize = 25;

/// The version that this build writes and reads.
pub const VERSION: u8 = 1;

/// Most values a row item may have: SQLite's own limit of columns (SQLITE_MAX_COLUMN can't be set above it).
const VALUES_MAX: u64 = 32_767;

const CONFIG: Configuration<LittleEndian, Varint> = bincode::config::standard();

/// A change record, decoded as far as its header; the items are read with [`ChangeRecord::items`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeRecord<'a> {
    /// The horizon that the record's writer knew.
    pub horizon: Lsn,
    /// When the write was logged.
    pub commit_time: Timestamp,
    /// What the command tags of its statements add up to.
    pub rows_affected: u64,
    /// The items, still encoded.
    changes: &'a [u8],
}

impl<'a> ChangeRecord<'a> {
    /// Reads the header of a record's main data.
    pub fn decode(main_data: &'a [u8]) -> Result<ChangeRecord<'a>, DecodeError> {
        let (header, changes) = main_data.split_at_checked(HEADER_SIZE).ok_or(DecodeError::TooShort)?;
        if header[0] != VERSION {
            return Err(DecodeError::Version(header[0]));
        }
        let word = |at: usize| {
            u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of a header of fixed size"))
        };
        Ok(ChangeRecord {
            horizon: Lsn(word(1)),
            commit_time: Timestamp(word(9).cast_signed()),
            rows_affected: word(17),
            changes,
        })
    }

    /// The items from the first on.
    pub fn items(&self) -> Items<'a> {
        Items { rest: self.changes, offset: HEADER_SIZE }
    }

    /// Everything behind the header, still encoded.
    pub fn encoded_changes(&self) -> &'a [u8] {
        self.changes
    }
}

/// Writes horizon and time into a record that [`crate::Writer::execute`] made.
///
/// # Panics
/// If the bytes are shorter than a header: they come from this process, never from outside.
pub fn stamp(main_data: &mut [u8], horizon: Lsn, commit_time: Timestamp) {
    main_data[1..9].copy_from_slice(&horizon.0.to_le_bytes());
    main_data[9..17].copy_from_slice(&commit_time.0.to_le_bytes());
}

/// A value as SQLite stores it. Text need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Encode, BorrowDecode)]
pub enum Value<'a> {
    /// NULL
    Null,
    /// 64-bit integer
    Integer(i64),
    /// IEEE double, never NaN (SQLite stores NULL for it)
    Real(f64),
    /// Text bytes
    Text(&'a [u8]),
    /// Blob
    Blob(&'a [u8]),
}

/// One thing that happened.
///
/// The values of a row item are handed out beside it (see [`Items::next`]): all columns but generated ones, in the
/// table's order; for the keyed items the primary key's columns in the key's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Item<'a> {
    /// The rows that follow are of this table; it gets the next number, from 0.
    Table(&'a str),
    /// The rows that follow are of the table with this number.
    Use(u32),
    /// A row with this rowid is new. Values: the row.
    Insert(i64),
    /// The row `from` now has the rowid `to`. Values: the whole new row.
    Update {
        /// Rowid before
        from: i64,
        /// Rowid after, mostly the same
        to: i64,
    },
    /// The row with this rowid is gone. No values.
    Delete(i64),
    /// A row of a WITHOUT ROWID table is new. Values: the row.
    InsertKeyed,
    /// A row of a WITHOUT ROWID table changed. Values: the old key, then the whole new row.
    UpdateKeyed,
    /// A row of a WITHOUT ROWID table is gone. Values: its key.
    DeleteKeyed,
    /// A statement that changed the schema (or ANALYZE, REINDEX). Tables are numbered from 0 again behind it.
    Ddl(&'a str),
    /// AUTOINCREMENT's last number of a table; `None` when it has none any more.
    Sequence {
        /// The table
        table: &'a str,
        /// sqlite_sequence.seq, as it is there
        last: Option<i64>,
    },
}

impl Item<'_> {
    fn has_values(&self) -> bool {
        match self {
            Item::Insert(_)
            | Item::Update { .. }
            | Item::InsertKeyed
            | Item::UpdateKeyed
            | Item::DeleteKeyed => true,
            Item::Table(_) | Item::Use(_) | Item::Delete(_) | Item::Ddl(_) | Item::Sequence { .. } => false,
        }
    }
}

/// Reads a record's items.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Items<'a> {
    /// The items of a record's changes alone ([`ChangeRecord::encoded_changes`]).
    pub(crate) fn of_changes(changes: &'a [u8]) -> Items<'a> {
        Items { rest: changes, offset: HEADER_SIZE }
    }

    /// The next item; its values replace what is in `values` (a buffer of the caller, so that nothing is allocated per
    /// row). `None` at the end of the record.
    pub fn next(&mut self, values: &mut Vec<Value<'a>>) -> Result<Option<Item<'a>>, DecodeError> {
        values.clear();
        if self.rest.is_empty() {
            return Ok(None);
        }
        let item: Item<'a> = self.read()?;
        if item.has_values() {
            let count: u64 = self.read()?;
            if count > VALUES_MAX {
                return Err(DecodeError::Item {
                    offset: self.offset,
                    what: format!("{count} values in a row"),
                });
            }
            for _ in 0..count {
                values.push(self.read()?);
            }
        }
        Ok(Some(item))
    }

    fn read<T: BorrowDecode<'a, ()>>(&mut self) -> Result<T, DecodeError> {
        match bincode::borrow_decode_from_slice(self.rest, CONFIG) {
            Ok((decoded, used)) => {
                self.rest = &self.rest[used..];
                self.offset += used;
                Ok(decoded)
            }
            Err(error) => Err(DecodeError::Item { offset: self.offset, what: error.to_string() }),
        }
    }
}

/// Main data that is no change record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not even a header.
    TooShort,
    /// Written by another version.
    Version(u8),
    /// An item is malformed.
    Item {
        /// Where, from the start of the main data
        offset: usize,
        /// What is wrong with it
        what: String,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::TooShort => f.write_str("change record is shorter than its header"),
            DecodeError::Version(found) => {
                write!(f, "change record has version {found}, this server knows version {VERSION}")
            }
            DecodeError::Item { offset, what } => {
                write!(f, "change record is malformed at byte {offset}: {what}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Encodes a record while its statements run. Public for tests and tools: the engine fills it from SQLite's hook.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    bytes: Vec<u8>,
}

impl RecordBuilder {
    /// A builder with nothing in it.
    pub fn new() -> RecordBuilder {
        RecordBuilder::default()
    }

    /// Begins a new record; what was in it is forgotten.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Whether nothing happened so far.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes so far, with the header.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends an item without values.
    pub fn item(&mut self, item: Item<'_>) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER_SIZE, 0);
            self.bytes[0] = VERSION;
        }
        self.write(item);
    }

    /// Says how many values of the row item just appended follow.
    pub fn value_count(&mut self, count: usize) {
        self.write(count as u64);
    }

    /// Appends a value.
    pub fn value(&mut self, value: Value<'_>) {
        self.write(value);
    }

    /// Appends a row item with all its values.
    pub fn row(&mut self, item: Item<'_>, values: &[Value<'_>]) {
        self.item(item);
        self.value_count(values.len());
        for value in values {
            self.value(*value);
        }
    }

    /// The record, with horizon and time still 0; empty when nothing happened.
    pub fn finish(&mut self, rows_affected: u64) -> Vec<u8> {
        if !self.bytes.is_empty() {
            self.bytes[17..25].copy_from_slice(&rows_affected.to_le_bytes());
        }
        std::mem::take(&mut self.bytes)
    }

    fn write<T: Encode>(&mut self, value: T) {
        bincode::encode_into_std_write(value, &mut self.bytes, CONFIG)
            .expect("writing to a Vec and encoding plain data cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut builder = RecordBuilder::new();
        builder.item(Item::Table("kv"));
        builder.row(Item::Insert(-7), &[Value::Null, Value::Integer(i64::MIN), Value::Real(-0.0)]);
        builder.row(Item::Update { from: 1, to: 2 }, &[Value::Text(b"a\xff"), Value::Blob(b"")]);
        builder.item(Item::Delete(3));
        builder.item(Item::Ddl("CREATE TABLE t(a)"));
        builder.item(Item::Sequence { table: "t", last: Some(9) });
        builder.finish(3)
    }

    #[test]
    fn record_round_trip_gives_items_in_order() {
        let mut bytes = sample();
        stamp(&mut bytes, Lsn(0x1122), Timestamp(-5));
        let record = ChangeRecord::decode(&bytes).unwrap();
        assert_eq!(
            (record.horizon, record.commit_time, record.rows_affected),
            (Lsn(0x1122), Timestamp(-5), 3)
        );
        let (mut items, mut values) = (record.items(), Vec::new());
        assert_eq!(items.next(&mut values), Ok(Some(Item::Table("kv"))));
        assert_eq!(items.next(&mut values), Ok(Some(Item::Insert(-7))));
        assert!(
            matches!(values[..], [Value::Null, Value::Integer(i64::MIN), Value::Real(zero)] if zero.is_sign_negative())
        );
        assert_eq!(items.next(&mut values), Ok(Some(Item::Update { from: 1, to: 2 })));
        assert_eq!(values, [Value::Text(b"a\xff"), Value::Blob(b"")]);
        assert_eq!(items.next(&mut values), Ok(Some(Item::Delete(3))));
        assert_eq!(items.next(&mut values), Ok(Some(Item::Ddl("CREATE TABLE t(a)"))));
        assert_eq!(items.next(&mut values), Ok(Some(Item::Sequence { table: "t", last: Some(9) })));
        assert_eq!(items.next(&mut values), Ok(None));
    }

    #[test]
    fn header_bytes_are_as_drawn() {
        let mut bytes = sample();
        stamp(&mut bytes, Lsn(0x0102_0304_0506_0708), Timestamp(0x10));
        assert_eq!(
            bytes[..HEADER_SIZE],
            [1, 8, 7, 6, 5, 4, 3, 2, 1, 16, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        // Table(0), length 2, "kv"; Insert(2), zigzag of -7 is 13, 3 values, Null(0).
        assert_eq!(bytes[HEADER_SIZE..HEADER_SIZE + 8], [0, 2, b'k', b'v', 2, 13, 3, 0]);
    }

    #[test]
    fn other_version_is_refused_by_name() {
        let mut bytes = sample();
        bytes[0] = 9;
        let error = ChangeRecord::decode(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "change record has version 9, this server knows version 1");
        assert_eq!(ChangeRecord::decode(&bytes[..24]), Err(DecodeError::TooShort));
    }

    fn read_all(bytes: &[u8]) -> Result<usize, DecodeError> {
        let record = ChangeRecord::decode(bytes)?;
        let (mut items, mut values, mut count) = (record.items(), Vec::new(), 0);
        while items.next(&mut values)?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_record_never_a_panic(garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_all(&garbage);
            let mut with_header = sample();
            with_header.truncate(HEADER_SIZE);
            with_header.extend_from_slice(&garbage);
            let _ = read_all(&with_header);
        }

        #[test]
        fn damaged_record_is_an_error_or_a_record(at in 0usize..80, flip in 1u8..) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let _ = read_all(&bytes);
            let _ = read_all(&bytes[..at]);
        }
    }
}
