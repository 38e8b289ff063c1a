//! `standby demote`: makes a stopped node, most often a primary that another one was promoted over, a standby of that one.
//!
//! Both histories are compared: where do the logs part? Behind that place the node's log has a tail that nobody else will ever
//! have.
//!
//! - The tables hold nothing of it: it is cut off, and the node follows from there. This is always so if what was promoted
//!   was the furthest of those that could have confirmed a commit: nothing is in the tables that was not decided.
//! - The tables hold some of it (replication was asynchronous): there is no way back, as a row that was put can't be taken out.
//!   The command says what it is, and clones the node again if it is told to, in the place of what is there.
//!
//! **A crash at every step.** The settings and standby.signal come first: from then on the node doesn't start as a primary. Then
//! tables and control file, which may have named positions in the tail, are mended; then the tail goes, the last segment first.
//! The command can be given again after each, and as long as there is a tail it does all of it. (Until the tail is gone a
//! start as a standby could apply some of it, if it was decided by the old primary alone; then the comparison finds that.)
//! Before a clone the control file goes, so that nothing that is incomplete starts.
//!
//! Follows PostgreSQL 15 src/bin/pg_rewind/pg_rewind.c (findCommonAncestorTimeline); differs in: nothing is copied, as the
//! tables hold what was decided alone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use engine::applied::{applied_lsn, set_applied_lsn};
use failpoint::Site;
use postmaster::pid_file::PidFile;
use sender::cli::{DataDirArg, running};
use sender::client::{ServerConnection, SessionKind};
use sender::control::{ControlFile, NodeState};
use sender::datadir::DataDir;
use sender::startup::tables_log;
use sender::tail::{self, Tail};
use sys::file::sync_directory;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::segment::SegmentSize;
use wal::store::SegmentStore;
use wal::timeline::TimelineId;
use wire::conninfo::Conninfo;

use crate::clone::{CloneRequest, clone};
use crate::walreceiver::histories;
use crate::walreceiver::upstream::{UpstreamSystem, identify_system};

/// The name under which the upstream sees the connection.
const APPLICATION_NAME: &str = "standby demote";
/// How long the upstream may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// Turning a node into a standby.
#[derive(Args, Debug)]
pub struct Demote {
    /// Where
    #[command(flatten)]
    pub data: DataDirArg,
    /// The new primary: a connection string (keywords or URI) as libpq takes it
    #[arg(long, value_name = "CONNINFO")]
    pub from: String,
    /// Clone the node again, in the place of what is there, if its tables hold what the new primary has not
    #[arg(long)]
    pub reclone: bool,
}

/// Where the node's log stands, compared with the new primary's.
struct Comparison {
    /// Up to where the tables are.
    applied: Lsn,
    /// The timeline on which the logs part, and where.
    timeline: TimelineId,
    fork: Lsn,
    /// What the node's log has behind that; none if the new primary has all of it.
    tail: Option<Tail>,
}

/// Makes a standby of the node of a data directory; what to tell its user.
///
/// # Errors
/// The node runs, the new primary can't be reached or is of another system, the tables hold what it has not, or the
/// disk fails.
pub fn demote(demote: &Demote) -> Result<String, String> {
    let dir = &demote.data.data_dir;
    if let Some(lines) = running(dir)? {
        return Err(format!(
            "cannot demote: the node runs (PID {})\nHINT:  Stop it first with \"standby stop -D {}\".",
            lines.pid,
            dir.display()
        ));
    }
    let data = DataDir::new(dir);
    data.check().map_err(|error| error.0)?;
    // Nobody starts the node meanwhile.
    let lock = PidFile::create(dir).map_err(|error| error.to_string())?;
    let result = demote_locked(demote, &data);
    lock.remove().map_err(|error| error.to_string())?;
    result
}

fn demote_locked(demote: &Demote, data: &DataDir) -> Result<String, String> {
    let control = ControlFile::read(&data.control()).map_err(|error| error.to_string())?;
    let (system, theirs) = ask(&demote.from)?;
    system.check(control.system_identifier, TimelineId::FIRST).map_err(|error| error.0)?;
    let compared = compare(data, &control, &theirs)?;
    if compared.fork == Lsn::MAX && compared.applied > system.flush {
        return Err(format!(
            "cannot follow: the tables are up to {}, the log of the node that is to be followed ends at {}, on the same timeline {}\nHINT:  Promote that node first.",
            compared.applied, system.flush, system.timeline
        ));
    }
    let follow = format!("Start it with:\n\n    standby run -D {}\n", data.root().display());
    let Some(tail) = compared.tail.filter(|tail| tail.end > tail.start) else {
        failpoint::step(Site::DemoteSignal, || data.make_standby(&demote.from)).map_err(|error| error.0)?;
        return Ok(format!(
            "The node follows timeline {} now, which has all of its log. {follow}",
            theirs.tli()
        ));
    };
    let (ours, new) = (compared.timeline, theirs.tli());
    if compared.applied > compared.fork {
        let held = measure(data, &control, compared.fork, compared.applied)?;
        if held.changes > 0 {
            let what = format!(
                "the tables hold {} changes that timeline {new} of the primary has not: it left timeline {ours} at {}, they are up to {}",
                held.changes, compared.fork, compared.applied
            );
            return if demote.reclone { reclone(demote, data, &what) } else { Err(refusal(&what, &tail)) };
        }
    }
    failpoint::step(Site::DemoteSignal, || data.make_standby(&demote.from)).map_err(|error| error.0)?;
    cut(data, &control, &compared)?;
    Ok(format!(
        "Cut off the end of the log, which timeline {new} has not and the tables hold nothing of: {tail}. {follow}"
    ))
}

fn refusal(what: &str, tail: &Tail) -> String {
    format!(
        "cannot follow: {what}\nDETAIL:  The end of the log that would go: {tail}.\nHINT:  Save what you need of it, and give --reclone to clone the node again without it. Nothing has been changed."
    )
}

/// Who the new primary is, and the history of its newest timeline.
fn ask(from: &str) -> Result<(UpstreamSystem, TimelineHistory), String> {
    let conninfo = Conninfo::parse(from).map_err(|error| format!("invalid connection string: {error}"))?;
    let kind = SessionKind::PhysicalReplication;
    let mut upstream =
        ServerConnection::connect_within(None, &conninfo, kind, APPLICATION_NAME, Some(PATIENCE))
            .map_err(|error| error.to_string())?;
    let mut query = |text: &str| {
        upstream.query(text).map_err(|error| format!("the new primary refused \"{text}\": {error}"))
    };
    let system = identify_system(&query("IDENTIFY_SYSTEM")?).map_err(|error| error.0)?;
    let newest = system.timeline;
    let history = match newest {
        TimelineId::FIRST => TimelineHistory::without_file(newest),
        _ => histories::parse(newest, &query(&format!("TIMELINE_HISTORY {newest}"))?)?,
    };
    upstream.close();
    Ok((system, history))
}

fn compare(data: &DataDir, control: &ControlFile, theirs: &TimelineHistory) -> Result<Comparison, String> {
    if !matches!(control.state, NodeState::ShutDown | NodeState::ShutDownInRecovery) {
        // The tables are read next: see there.
        tables_log::make_durable(&data.state_db_wal())
            .map_err(|error| format!("could not write the tables' log again: {error}"))?;
    }
    let applied =
        applied_lsn(&data.state_db()).map_err(|error| format!("could not read the tables: {error}"))?;
    let (timeline, fork) = history(data, control)?.fork_point(theirs);
    let tail = match fork {
        Lsn::MAX => None,
        fork => Some(measure(data, control, fork, Lsn::MAX)?),
    };
    Ok(Comparison { applied, timeline, fork, tail })
}

fn measure(data: &DataDir, control: &ControlFile, from: Lsn, to: Lsn) -> Result<Tail, String> {
    tail::measure(store(data, control)?, &history(data, control)?, from, to)
        .map_err(|error| error.to_string())
}

fn store(data: &DataDir, control: &ControlFile) -> Result<SegmentStore, String> {
    let size = SegmentSize::new(u64::from(control.segment_size)).map_err(|_| {
        format!("control file names an impossible segment size, {} bytes", control.segment_size)
    })?;
    Ok(SegmentStore::new(data.pg_wal(), size))
}

/// The timelines of the node's own log.
fn history(data: &DataDir, control: &ControlFile) -> Result<TimelineHistory, String> {
    let timeline = TimelineId(control.timeline);
    let found = store(data, control)?.read_history(timeline).map_err(|error| error.to_string())?;
    Ok(found.unwrap_or_else(|| TimelineHistory::without_file(timeline)))
}

/// Mends what names a position in the tail, then removes it: as long as there is a tail, a demotion that was cut off is found
/// not to be done.
fn cut(data: &DataDir, control: &ControlFile, compared: &Comparison) -> Result<(), String> {
    let Comparison { applied, timeline, fork, .. } = *compared;
    let mut store = store(data, control)?;
    if applied > fork {
        failpoint::step(Site::DemoteTables, || set_applied_lsn(&data.state_db(), fork))
            .map_err(|error| format!("could not write the tables: {error}"))?;
    }
    let beyond = |lsn: u64| lsn >= fork.0;
    let mended = ControlFile {
        timeline: timeline.0,
        // Its log is one that was received, from now on.
        state: match control.state {
            NodeState::ShutDown | NodeState::ShutDownInRecovery => NodeState::ShutDownInRecovery,
            _ => NodeState::InArchiveRecovery,
        },
        checkpoint: if beyond(control.checkpoint) { 0 } else { control.checkpoint },
        redo: control.redo.min(applied.min(fork).0),
        ..control.clone()
    };
    failpoint::step(Site::DemoteControl, || mended.write(&data.control()))
        .map_err(|error| error.to_string())?;
    failpoint::step(Site::DemoteCut, || tail::cut(&mut store, timeline, fork))
        .map_err(|error| error.to_string())
}

/// Clones the node again: its settings and its rules stay, everything else goes.
fn reclone(demote: &Demote, data: &DataDir, what: &str) -> Result<String, String> {
    let conf = fs::read_to_string(data.conf())
        .map_err(|error| format!("could not read file \"{}\": {error}", data.conf().display()))?;
    let hba = fs::read_to_string(data.hba())
        .map_err(|error| format!("could not read file \"{}\": {error}", data.hba().display()))?;
    let emptied = empty(data);
    emptied.map_err(|error| format!("could not empty directory \"{}\": {error}", data.root().display()))?;
    let request = CloneRequest { from: &demote.from, slot: None, create_slot: false, max_rate: None };
    clone(data.root(), &request).map_err(|error| error.to_string())?;
    for (path, text) in [(data.conf(), conf), (data.hba(), hba)] {
        sender::datadir::replace_file(&path, text.as_bytes())
            .map_err(|error| format!("could not write file \"{}\": {error}", path.display()))?;
    }
    data.make_standby(&demote.from).map_err(|error| error.0)?;
    Ok(format!(
        "Cloned the node again, without what it had: {what}. Start it with:\n\n    standby run -D {}\n",
        data.root().display()
    ))
}

/// Removes what is in a data directory. The control file goes first, durably: nothing that is incomplete starts.
fn empty(data: &DataDir) -> std::io::Result<()> {
    fs::remove_file(data.control())?;
    sync_directory(data.root())?;
    for entry in fs::read_dir(data.root())? {
        remove(&entry?.path())?;
    }
    Ok(())
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
