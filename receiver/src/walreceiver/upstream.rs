//! What is asked of an upstream before it streams, and what must be true of its answers. Pure.
//!
//! Follows PostgreSQL 15 libpqrcv_identify_system() in src/backend/replication/libpqwalreceiver/libpqwalreceiver.c and
//! WalReceiverMain() in src/backend/replication/walreceiver.c.

use std::fmt;

use sender::client::QueryResult;
use wal::lsn::Lsn;
use wal::timeline::TimelineId;

/// Why an upstream can't be used. The text is that of the FATAL, with its detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError(pub String);

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UpstreamError {}

/// Who the upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamSystem {
    /// Its database's identifier.
    pub system_identifier: u64,
    /// Its newest timeline.
    pub timeline: TimelineId,
    /// How far its log is durable.
    pub flush: Lsn,
}

impl UpstreamSystem {
    /// Whether a node of that identifier, which follows `timeline`, may stream from it.
    ///
    /// # Errors
    /// Another database, or one that lags behind in timelines.
    pub fn check(&self, system_identifier: u64, timeline: TimelineId) -> Result<(), UpstreamError> {
        if self.system_identifier != system_identifier {
            return Err(UpstreamError(format!(
                "database system identifier differs between the primary and standby\nDETAIL:  The primary's identifier is {}, the standby's identifier is {system_identifier}.",
                self.system_identifier
            )));
        }
        if self.timeline < timeline {
            return Err(UpstreamError(format!(
                "highest timeline {} of the primary is behind recovery timeline {timeline}",
                self.timeline
            )));
        }
        Ok(())
    }
}

/// Reads the answer to IDENTIFY_SYSTEM.
///
/// # Errors
/// It is none.
pub fn identify_system(results: &[QueryResult]) -> Result<UpstreamSystem, UpstreamError> {
    let invalid =
        |detail: String| UpstreamError(format!("invalid response from primary server\nDETAIL:  {detail}"));
    let rows: Vec<_> = results.iter().flat_map(|result| &result.rows).collect();
    let fields = rows.first().map_or(0, |row| row.len());
    if rows.len() != 1 || fields < 3 {
        return Err(invalid(format!(
            "Could not identify system: got {} rows and {fields} fields, expected 1 rows and 3 or more fields.",
            rows.len()
        )));
    }
    let text = |index: usize| rows[0][index].as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let wrong =
        |what: &str, value: &str| invalid(format!("Could not identify system: the {what} is \"{value}\"."));
    Ok(UpstreamSystem {
        system_identifier: text(0).parse().map_err(|_| wrong("identifier", &text(0)))?,
        timeline: text(1).parse().map_err(|_| wrong("timeline", &text(1)))?,
        flush: text(2).parse().map_err(|_| wrong("log position", &text(2)))?,
    })
}

/// Reads what follows the stream of a timeline that has ended: the next timeline.
///
/// # Errors
/// It isn't said.
pub fn next_timeline(results: &[QueryResult]) -> Result<TimelineId, UpstreamError> {
    let row = results.iter().flat_map(|result| &result.rows).next();
    let text = row.and_then(|row| row.first()).and_then(Option::as_deref).map(String::from_utf8_lossy);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| UpstreamError("unexpected result set after end-of-streaming".to_owned()))
}

/// The command that begins a stream, by a slot unless its name is empty.
pub fn start_command(slot: &str, start: Lsn, timeline: TimelineId) -> String {
    let slot = if slot.is_empty() { String::new() } else { format!("SLOT \"{slot}\" ") };
    format!("START_REPLICATION {slot}{start} TIMELINE {timeline}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &[&[&str]]) -> Vec<QueryResult> {
        let value = |text: &&str| Some(text.as_bytes().to_vec());
        let rows = rows.iter().map(|row| row.iter().map(value).collect()).collect();
        vec![QueryResult { rows, ..QueryResult::default() }]
    }

    #[test]
    fn answer_to_identify_system_is_read() {
        let system = identify_system(&answer(&[&["18446744073709551615", "2", "0/A02040", ""]])).unwrap();
        assert_eq!(
            system,
            UpstreamSystem { system_identifier: u64::MAX, timeline: TimelineId(2), flush: Lsn(0xA0_2040) }
        );
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_says_so() {
        for (answer, part) in [
            (answer(&[]), "got 0 rows and 0 fields, expected 1 rows and 3 or more fields."),
            (answer(&[&["1", "1"]]), "got 1 rows and 2 fields"),
            (answer(&[&["1", "1", "0/1"], &["1", "1", "0/1"]]), "got 2 rows"),
            (answer(&[&["x", "1", "0/1"]]), "the identifier is \"x\""),
            (answer(&[&["1", "-1", "0/1"]]), "the timeline is \"-1\""),
            (answer(&[&["1", "1", "1"]]), "the log position is \"1\""),
        ] {
            let error = identify_system(&answer).unwrap_err().0;
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn another_database_and_an_older_timeline_are_refused() {
        let system = UpstreamSystem { system_identifier: 7, timeline: TimelineId(1), flush: Lsn(9) };
        assert_eq!(system.check(7, TimelineId(1)), Ok(()));
        assert_eq!(
            system.check(8, TimelineId(1)).unwrap_err().0,
            "database system identifier differs between the primary and standby\nDETAIL:  The primary's identifier is 7, the standby's identifier is 8."
        );
        assert_eq!(
            system.check(7, TimelineId(2)).unwrap_err().0,
            "highest timeline 1 of the primary is behind recovery timeline 2"
        );
    }
}
