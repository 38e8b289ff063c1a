//! `standby clone`: makes the data directory of a new standby.
//!
//! It asks the upstream who it is, and has a base backup sent with the log that belongs to it. What comes is written as
//! it comes ([`unpack`]), but for the control file: that is kept until everything else is durable, `walship.conf` names
//! the upstream and `standby.signal` is there.
//!
//! How it fails: everything is checked that can be checked before anything is written. Whatever ends it then (the
//! upstream, the network, a full disk), what was written is removed again. Killed, it leaves a directory without a
//! control file, so nothing that could start; whoever tries is told what it is, and to remove it.
//!
//! A slot (`--slot`, `--create-slot`) is there before the backup begins, so the upstream keeps the log until the standby
//! streams, however late that is. A slot that was made for a clone which failed is dropped again.
//!
//! Follows PostgreSQL 15 src/bin/pg_basebackup/pg_basebackup.c.

mod unpack;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use failpoint::Site;
use sender::client::{ClientError, QueryResult, ServerConnection, SessionKind};
use sender::datadir::{DataDir, NewFiles};
use wal::lsn::Lsn;
use wire::conninfo::Conninfo;

use self::unpack::{Progress, Unpacked, unpack};
use crate::walreceiver::upstream::{UpstreamSystem, identify_system};

/// The name under which the upstream sees the connection.
const APPLICATION_NAME: &str = "standby clone";
/// How long the upstream may be silent before the backup begins.
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

/// What is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloneRequest<'a> {
    /// The upstream: a connection string.
    pub from: &'a str,
    /// The upstream's slot for the standby.
    pub slot: Option<&'a str>,
    /// Whether to make that slot.
    pub create_slot: bool,
    /// Most KiB per second.
    pub max_rate: Option<u32>,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cloned {
    /// Who the upstream is.
    pub upstream: UpstreamSystem,
    /// The clone has everything up to here.
    pub end: Lsn,
}

/// Makes the data directory `directory` of a standby of a node.
///
/// # Errors
/// The directory exists and is not empty, the upstream can't be reached, is no node of this kind or doesn't send a backup, the
/// slot, the disk. Nothing is left of the directory then.
pub fn clone(directory: &Path, request: &CloneRequest<'_>) -> Result<Cloned, CloneError> {
    let conninfo = Conninfo::parse(request.from)
        .map_err(|error| CloneError(format!("invalid connection string: {error}")))?;
    let data = DataDir::new(directory);
    let existed = data.check_empty().map_err(|error| CloneError(error.0))?;
    let mut upstream = connect(&conninfo)?;
    let system = examine(&mut upstream)?;
    let made_slot = prepare_slot(&mut upstream, request)?;
    let cloned = receive(&mut upstream, &data, request, system).inspect_err(|_| {
        data.remove_content(existed);
        if let Some(slot) = made_slot {
            drop_slot(&conninfo, slot);
        }
    })?;
    upstream.close();
    Ok(cloned)
}

fn connect(conninfo: &Conninfo) -> Result<ServerConnection, CloneError> {
    let kind = SessionKind::PhysicalReplication;
    ServerConnection::connect_within(None, conninfo, kind, APPLICATION_NAME, Some(PATIENCE))
        .map_err(|error| CloneError(error.to_string()))
}

fn ask(upstream: &mut ServerConnection, command: &str) -> Result<Vec<QueryResult>, CloneError> {
    upstream.query(command).map_err(|error| refused(command, &error))
}

fn refused(command: &str, error: &ClientError) -> CloneError {
    CloneError(format!("the upstream refused \"{command}\": {error}"))
}

/// Asks the upstream who it is.
fn examine(upstream: &mut ServerConnection) -> Result<UpstreamSystem, CloneError> {
    let version = upstream.parameter("server_version").unwrap_or("unknown");
    if !version.contains("Walship") {
        return Err(CloneError(format!(
            "the upstream is not a Walship node (its server_version is \"{version}\")\nHINT:  The log of a PostgreSQL server can be received with pg_receivewal."
        )));
    }
    let answer = ask(upstream, "IDENTIFY_SYSTEM")?;
    identify_system(&answer).map_err(|error| CloneError(error.0))
}

/// Sees to the slot; its name if it was made.
fn prepare_slot<'a>(
    upstream: &mut ServerConnection,
    request: &CloneRequest<'a>,
) -> Result<Option<&'a str>, CloneError> {
    let Some(slot) = request.slot else { return Ok(None) };
    if request.create_slot {
        ask(upstream, &format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quoted(slot)))?;
        return Ok(Some(slot));
    }
    let answer = ask(upstream, &format!("READ_REPLICATION_SLOT {}", quoted(slot)))?;
    if value(&answer, 0).is_none() {
        return Err(CloneError(format!(
            "replication slot \"{slot}\" does not exist\nHINT:  Make it with --create-slot."
        )));
    }
    Ok(None)
}

/// As well as can be: the clone's own error is what the user must see.
fn drop_slot(conninfo: &Conninfo, slot: &str) {
    if let Ok(mut upstream) = connect(conninfo) {
        let _ = upstream.query(&format!("DROP_REPLICATION_SLOT {}", quoted(slot)));
        upstream.close();
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value of the first row of the last result.
fn value(results: &[QueryResult], column: usize) -> Option<String> {
    let row = results.last()?.rows.first()?;
    Some(String::from_utf8_lossy(row.get(column)?.as_deref()?).into_owned())
}

/// Receives the backup and completes the directory.
fn receive(
    upstream: &mut ServerConnection,
    data: &DataDir,
    request: &CloneRequest<'_>,
    system: UpstreamSystem,
) -> Result<Cloned, CloneError> {
    let rate = request.max_rate.map_or(String::new(), |rate| format!(", MAX_RATE {rate}"));
    let command =
        format!("BASE_BACKUP ( LABEL 'standby clone', PROGRESS, WAL, CHECKPOINT 'fast', WAIT 0{rate} )");
    let before = upstream.start_copy_out(&command).map_err(|error| refused(&command, &error))?;
    let total = value(&before, 2).and_then(|kilobytes| kilobytes.parse().ok());
    let unpacked = unpack(upstream, data, &mut Progress::new(total))?;
    let after = upstream.end_copy_out().map_err(|error| refused(&command, &error))?;
    // The command's own completion follows the result with the end.
    let positions = &after[..after.len().min(1)];
    let end = value(positions, 0).and_then(|end| end.parse().ok());
    let end = end.ok_or_else(|| CloneError("the upstream did not say where its backup ends".to_owned()))?;
    finish(data, request, system, unpacked)?;
    Ok(Cloned { upstream: system, end })
}

/// Makes a standby of what was unpacked.
fn finish(
    data: &DataDir,
    request: &CloneRequest<'_>,
    system: UpstreamSystem,
    unpacked: Unpacked,
) -> Result<(), CloneError> {
    let Unpacked { control, conf } = unpacked;
    if control.system_identifier != system.system_identifier {
        return Err(CloneError("the backup is of another system than the upstream".to_owned()));
    }
    let from = lasting(request.from);
    let mut settings = vec![("primary_conninfo", from.as_str())];
    settings.extend(request.slot.map(|slot| ("primary_slot_name", slot)));
    let conf = settings::edit::with(&conf, &settings)
        .map_err(|error| CloneError(format!("could not write the settings: {error}")))?;
    // The rules came with the backup, and so did the roles.
    let files = NewFiles { conf: &conf, hba: None, first_role: None };
    failpoint::io(Site::CloneComplete, || data.complete(&files, &control)).map_err(|error| {
        CloneError(format!("could not complete data directory \"{}\": {error}", data.root().display()))
    })
}

/// The connection string for a standby that may be started without this command's environment: the password file stays
/// the same.
fn lasting(from: &str) -> String {
    let passfile = std::env::var("PGPASSFILE").ok().filter(|path| !path.is_empty());
    match (Conninfo::parse(from), passfile) {
        (Ok(conninfo), Some(path)) if conninfo.password().is_none() && conninfo.passfile().is_none() => {
            conninfo.with_passfile(&path)
        }
        _ => from.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(from: &str) -> CloneRequest<'_> {
        CloneRequest { from, slot: None, create_slot: false, max_rate: None }
    }

    #[test]
    fn a_directory_that_is_not_empty_is_refused_before_anybody_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("mine"), b"x").unwrap();
        let error = clone(directory.path(), &request("host=127.0.0.1 port=1")).unwrap_err().0;
        assert!(error.contains("exists but is not empty"), "{error}");
        assert!(directory.path().join("mine").exists());
        std::fs::write(directory.path().join("backup_label"), b"x").unwrap();
        let error = clone(directory.path(), &request("host=127.0.0.1 port=1")).unwrap_err().0;
        assert!(error.contains("holds a base backup that was interrupted"), "{error}");
    }

    #[test]
    fn an_upstream_that_is_not_there_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("standby");
        let error = clone(&directory, &request("host=127.0.0.1 port=1")).unwrap_err().0;
        assert!(error.contains("connection to server at \"127.0.0.1\", port 1 failed"), "{error}");
        assert!(!directory.exists());
        assert!(clone(&directory, &request("hosst=x")).unwrap_err().0.contains("hosst"));
    }
}
