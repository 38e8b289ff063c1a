//! Tells a primary's log that was damaged from one that ends.
//!
//! The log has no mark at its end. After a power failure whatever was written since the last fsync may be there or not,
//! page by page and sector by sector: a broken record with valid ones behind it can be the honest end of a log. So valid
//! records behind the first broken one prove nothing by themselves. What proves damage is knowledge, from beyond the
//! broken place, that this place had been durable:
//!
//! - **A horizon behind it.** Every change and every checkpoint record carries the horizon of its insertion. A primary's
//!   horizon is never beyond its flush LSN (with synchronous standbys it is before it), so when the record was inserted
//!   everything below that horizon had been fsynced. Flush LSN, horizon and the end that recovery found are ends of
//!   records; so a horizon beyond that end means that at least the whole record there was once durable.
//! - **A segment behind it.** The flusher fsyncs a segment when it has filled it, before it writes anything into the next
//!   (`xlog::write_to`). So a page of a later segment whose header is right means that everything before that segment was
//!   durable. A record that begins in one segment and is broken in the next is compared by the page where it is broken
//!   ([`End::broken`]): its rest may never have been written.
//!
//! - **A gap.** Segments are made one after the other, each durably before the next, so one that is missing before another
//!   was there. (The next one is made ahead: so the last segment can't be missed unnoticed either.)
//!
//! All stay true over any number of crashes. What recovery cuts off is what was never durable, and it is cleared, durably,
//! before anything is written (`SegmentStore::clear_after`, the last segment first, so that a crash meanwhile leaves no
//! gap with a page behind it); so no page or record that was cut off is ever found behind newer ones. Pages of
//! recycled segments carry other positions and are not pages here. What the tables hold and where the last
//! checkpoint ended are the control file's and the tables' proof, which recovery looks at before ([`super::recovery`]).
//!
//! What can't be told from an end: damage behind the last flush LSN that any record knows of, that is in the last flush or
//! two. A clean shutdown leaves no such place, as the control file names its last record.
//!
//! Cutting the log at the broken place on request is not offered: standbys may have what was cut off, and would never
//! learn that it was; that needs a new timeline.

use std::fmt;

use wal::beyond::{self, Found};
use wal::lsn::Lsn;
use wal::segment::SegmentNumber;

use super::StartupError;
use super::recovery::{End, carried_horizon, history, new_reader};
use crate::node::Node;

/// How it is known that the log had been durable beyond its apparent end.
enum Proof {
    /// The record at `record` was inserted when everything before `durable` was durable.
    Horizon { record: Lsn, durable: Lsn },
    /// The page at `page` was written when all segments before its own were durable.
    Segment { page: Lsn, segment: String },
    /// The segment is missing, a later one is there.
    Gap { missing: String, later: String },
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::Horizon { record, durable } => {
                write!(f, "the record at {record} was inserted when the log was durable up to {durable}")
            }
            Proof::Segment { page, segment } => {
                write!(f, "segment {segment} was begun, at {page}, when everything before it was durable")
            }
            Proof::Gap { missing, later } => write!(f, "segment {missing} is missing, {later} is there"),
        }
    }
}

/// Refuses a primary's log that ends at a place which had been durable.
pub(super) fn refuse(node: &Node, found: &End) -> Result<(), StartupError> {
    let size = node.segment_size;
    let highest = node.segment_store().highest(node.wal.timeline()).map_err(StartupError::new)?;
    let limit = highest.map_or(found.end, |segment| size.first_byte(segment.next()));
    let mut proof = gap(node, found, highest)?;
    let mut last_end = found.end;
    let mut reader = new_reader(node, found.end)?;
    beyond::walk(&mut reader, found.end, limit, |beyond| match beyond {
        Found::Page { at } => {
            let segment = size.number_of(at);
            if proof.is_none() && size.first_byte(segment) > found.broken {
                proof = Some(Proof::Segment { page: at, segment: node.segment_name(segment) });
            }
        }
        Found::Record(record) => {
            last_end = last_end.max(record.end);
            // A record that can't be decoded proves nothing.
            let durable = carried_horizon(&record).unwrap_or(Lsn::INVALID);
            if proof.is_none() && (found.end < durable && durable <= record.start) {
                proof = Some(Proof::Horizon { record: record.start, durable });
            }
        }
    })
    .map_err(StartupError::new)?;
    proof.map_or(Ok(()), |proof| Err(refusal(node, found, &proof, last_end)))
}

fn gap(node: &Node, found: &End, highest: Option<SegmentNumber>) -> Result<Option<Proof>, StartupError> {
    let broken = node.segment_size.number_of(found.broken);
    let Some(later) = highest.filter(|later| *later > broken) else { return Ok(None) };
    match node.segment_store().timeline_of_segment(&history(node)?, broken) {
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => {
            Ok(Some(Proof::Gap { missing: node.segment_name(broken), later: node.segment_name(later) }))
        }
        Err(error) => Err(StartupError::new(error)),
    }
}

fn refusal(node: &Node, found: &End, proof: &Proof, last_end: Lsn) -> StartupError {
    let End { end, reason, broken, .. } = found;
    let segment: SegmentNumber = node.segment_size.number_of(*broken);
    let name = node.segment_name(segment);
    let lost = match last_end.saturating_since(*end) {
        0 => String::new(),
        lost => {
            format!(" Valid records go on until {last_end}; to end the log here would lose {lost} bytes.")
        }
    };
    StartupError::new(format!(
        "the log is damaged at {end}: {reason}\nDETAIL:  This is not its end: {proof}.{lost}\nHINT:  Replace segment {name} in pg_wal by the copy that a standby or an archive has, and start again; or let a standby take over. Nothing has been changed."
    ))
}
