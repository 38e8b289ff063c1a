//! Where the last record of a log starts, when only its end is known: the next record must point back to it.
//!
//! A log can't be read backwards, so this reads forwards from further and further back, until a record starts before the
//! end: from the last page, as a rule.
//!
//! Follows PostgreSQL 15 XLogFindNextRecord() in src/backend/access/transam/xlogreader.c, as pg_waldump uses it.

use crate::lsn::Lsn;
use crate::page::PAGE_SIZE;
use crate::reader::{PageSource, ReadError, WalReader};
use crate::store::StoreError;

/// The start of the record that ends at `end`; none if no record does. Uses the reader up: seek before it is used again.
///
/// # Errors
/// The disk failed.
pub fn find_last_record<S: PageSource>(
    reader: &mut WalReader<S>,
    end: Lsn,
) -> Result<Option<Lsn>, StoreError> {
    let log_start = reader.segment_size().log_start();
    let (mut from, mut back) = (end, PAGE_SIZE as u64);
    while from > log_start {
        from = Lsn(end.0.saturating_sub(back)).page_start().max(log_start);
        if let Some(start) = last_record_from(reader, from, end)? {
            return Ok(Some(start));
        }
        back = back.saturating_mul(2);
    }
    Ok(None)
}

/// The record that ends at `end`, if it is found from the first one at or after `from` on.
fn last_record_from<S: PageSource>(
    reader: &mut WalReader<S>,
    from: Lsn,
    end: Lsn,
) -> Result<Option<Lsn>, StoreError> {
    match reader.find_first_record(from) {
        Ok(start) if start < end => {}
        Ok(_) | Err(ReadError::NotYet | ReadError::EndOfLog { .. }) => return Ok(None),
        Err(ReadError::Io(error)) => return Err(error),
    }
    loop {
        match reader.next() {
            Ok(record) if record.end == end => return Ok(Some(record.start)),
            Ok(record) if record.end < end => {}
            Ok(_) | Err(ReadError::NotYet | ReadError::EndOfLog { .. }) => return Ok(None),
            Err(ReadError::Io(error)) => return Err(error),
        }
    }
}
