//! `standby clone`: makes the data directory of a new standby.
//!
//! It asks the upstream who it is, checks that the whole log is still there from its first segment on (the tables of a new
//! standby come from the log alone), and writes a directory with the upstream's system identifier, `standby.signal` and
//! a `walship.conf` that names the upstream. The log itself is streamed when the standby runs.
//!
//! How it fails: nothing is written before every answer is there; the directory is made complete or not at all
//! ([`sender::datadir::DataDir::create`] writes the control file last), so an interrupted clone leaves nothing that could
//! start.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::SocketEvents;
use sender::client::{ClientError, QueryResult, ServerConnection, SessionKind, StreamStart};
use sender::control::ControlFile;
use sender::datadir::DataDir;
use sys::clock;
use wal::segment::SegmentSize;
use wire::conninfo::Conninfo;

use crate::walreceiver::upstream::{UpstreamSystem, identify_system, start_command};

/// The name under which the upstream sees the connection.
const APPLICATION_NAME: &str = "standby clone";
/// How long the upstream may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no clone. The text names what failed and, where that can be told, what to do.
#[derive(Debug)]
pub struct CloneError(pub String);

impl fmt::Display for CloneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CloneError {}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cloned {
    /// Who the upstream is.
    pub upstream: UpstreamSystem,
    /// Bytes in each segment of its log.
    pub segment_size: SegmentSize,
}

/// Makes the data directory `directory` of a standby of the node that `from` (a connection string) names.
///
/// # Errors
/// The directory exists and is not empty, the upstream can't be reached or is no node of this kind, its log is no longer
/// whole, the disk. Nothing is left of the directory then.
pub fn clone(directory: &Path, from: &str) -> Result<Cloned, CloneError> {
    let conninfo =
        Conninfo::parse(from).map_err(|error| CloneError(format!("invalid connection string: {error}")))?;
    let data = DataDir::new(directory);
    // Also checked when it is made; here so that nobody waits for an answer that can't be used.
    data.check_empty().map_err(|error| CloneError(error.0))?;
    let kind = SessionKind::PhysicalReplication;
    let mut upstream =
        ServerConnection::connect_within(None, &conninfo, kind, APPLICATION_NAME, Some(PATIENCE))
            .map_err(|error| CloneError(error.to_string()))?;
    let cloned = examine(&mut upstream)?;
    upstream.close();

    let conf = settings::conf::render(&[("primary_conninfo", from)])
        .map_err(|error| CloneError(format!("could not write the settings: {error}")))?;
    let control = ControlFile::new(
        cloned.upstream.system_identifier,
        cloned.segment_size.bytes_u32(),
        cloned.upstream.timeline.0,
    );
    data.create(&conf, true, &control).map_err(|error| CloneError(error.0))?;
    Ok(cloned)
}

/// Asks the upstream all that a clone must know.
fn examine(upstream: &mut ServerConnection) -> Result<Cloned, CloneError> {
    let version = upstream.parameter("server_version").unwrap_or("unknown");
    if !version.contains("Walship") {
        return Err(CloneError(format!(
            "the upstream is not a Walship node (its server_version is \"{version}\")\nHINT:  The log of a PostgreSQL server can be received with pg_receivewal."
        )));
    }
    let ask = |upstream: &mut ServerConnection, command: &str| {
        let failed = |error: ClientError| CloneError(format!("the upstream refused \"{command}\": {error}"));
        upstream.query(command).map_err(failed)
    };
    let answer = ask(upstream, "IDENTIFY_SYSTEM")?;
    let system = identify_system(&answer).map_err(|error| CloneError(error.0))?;
    let segment_size = segment_size(&ask(upstream, "SHOW wal_segment_size")?)?;
    check_log_is_whole(upstream, &system, segment_size)?;
    Ok(Cloned { upstream: system, segment_size })
}

/// Reads the answer to `SHOW wal_segment_size`: a number and MB or GB.
fn segment_size(results: &[QueryResult]) -> Result<SegmentSize, CloneError> {
    let value = results.first().and_then(|result| result.rows.first()).and_then(|row| row.first());
    let text = value.and_then(Option::as_deref).map(String::from_utf8_lossy).unwrap_or_default();
    let size = [("MB", 20), ("GB", 30)].iter().find_map(|(unit, shift)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        SegmentSize::new(number.checked_mul(1 << shift)?).ok()
    });
    size.ok_or_else(|| {
        CloneError(format!("the upstream's wal_segment_size is \"{text}\", which is no segment size"))
    })
}

/// Begins to stream at the very start of the log: a missing segment shows with the first message.
fn check_log_is_whole(
    upstream: &mut ServerConnection,
    system: &UpstreamSystem,
    segment_size: SegmentSize,
) -> Result<(), CloneError> {
    let failed = |error: ClientError| {
        CloneError(format!(
            "the upstream can't send its log from the first segment on: {error}\nHINT:  A clone needs the whole log; segments that were removed can't be streamed."
        ))
    };
    let command = start_command(segment_size.log_start(), system.timeline);
    if upstream.start_streaming(&command).map_err(failed)? != StreamStart::Streaming {
        return Err(CloneError("the upstream's timeline ended before it began".to_owned()));
    }
    let deadline = clock::now().saturating_add(PATIENCE);
    // The first message, whatever it is, tells that the log is there.
    while upstream.receive().map_err(failed)?.is_none() {
        let left = deadline.saturating_since(clock::now());
        if left.is_zero() {
            return Err(failed(ClientError::Lost("timeout expired".to_owned())));
        }
        let event = WaitEvent::WalReceiverReceive;
        upstream.wait(SocketEvents::READABLE, Some(left), event).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Vec<QueryResult> {
        vec![QueryResult { rows: vec![vec![Some(value.as_bytes().to_vec())]], ..QueryResult::default() }]
    }

    #[test]
    fn segment_size_is_read_as_it_is_shown() {
        assert_eq!(segment_size(&shown("16MB")).unwrap(), SegmentSize::DEFAULT);
        assert_eq!(segment_size(&shown("1GB")).unwrap(), SegmentSize::MAX);
        for wrong in ["", "16", "16kB", "3MB", "2GB", "-1MB", "99999999999999999999GB"] {
            let error = segment_size(&shown(wrong)).unwrap_err().0;
            assert!(error.contains(&format!("\"{wrong}\"")), "{error}");
        }
    }

    #[test]
    fn a_directory_that_is_not_empty_is_refused_before_anybody_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mine"), b"x").unwrap();
        let error = clone(directory.path(), "host=127.0.0.1 port=1").unwrap_err().0;
        assert!(error.contains("exists but is not empty"), "{error}");
        assert!(directory.path().join("mine").exists());
    }

    #[test]
    fn an_upstream_that_is_not_there_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("standby");
        let error = clone(&directory, "host=127.0.0.1 port=1").unwrap_err().0;
        assert!(error.contains("connection to server at \"127.0.0.1\", port 1 failed"), "{error}");
        assert!(!directory.exists());
        assert!(clone(&directory, "hosst=x").unwrap_err().0.contains("hosst"));
    }
}
