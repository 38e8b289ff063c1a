//! The startup process: the one process of a node that writes the tables.
//!
//! PostgreSQL's name for the process that replays the log at start; here it goes on. Its life:
//!
//! 1. `recovery`: reads the applied LSN from the tables, finds the end of the log, makes the log durable, puts the
//!    rows of the records after the applied LSN.
//! 2. On a standby `follow`: puts what the walreceiver has made durable and the upstream's horizon allows, until it is
//!    told that it is a primary (`promotion`).
//! 3. On a primary `writer`: executes the sessions' writes, logs what they changed, commits past the horizon.
//!
//! Started first by the postmaster, which it tells how far it is (RECOVERY_STARTED, BEGIN_HOT_STANDBY, RECOVERY_DONE).
//! Waits for its latch and the postmaster's death; the only time-outs are the retry of a full disk and of a lost
//! upstream. Normal stop: SIGTERM, after all sessions are gone: what is durable is committed, exit 0. Any other exit
//! is a crash, and on a standby or before the node serves the end of it. As
//! it may be inside SQLite for long, its parent-death signal is SIGQUIT.
//!
//! Must never be added: a wait for a client, a clock or a random number that decides what a row holds on a standby.
//!
//! Follows PostgreSQL 15 src/backend/postmaster/startup.c and src/backend/access/transam/xlogrecovery.c.

mod backup;
mod commit_timer;
mod damage;
mod follow;
mod hot_standby;
mod promotion;
mod recovery;
mod replay;
mod room;
mod sources;
pub mod tables_log;
mod timelines;
pub mod writer;

use std::time::Duration;

use engine::error::{SqlError, SqlState};
use failpoint::Site;
use ipc::interrupt::Interrupts;
use ipc::pm_signal::PmSignal;
use ipc::process::Me;
use wal::store::StoreError;

use crate::archive_status;
use crate::log::{fatal, panic_severity};
use crate::node::Node;

/// Between two tries to write tables whose disk is full.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

/// Why the startup process gives up: the node can't start, or can't go on. The text is FATAL's.
#[derive(Debug)]
pub struct StartupError(pub String);

impl std::fmt::Display for StartupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartupError {}

impl StartupError {
    fn new(text: impl std::fmt::Display) -> StartupError {
        StartupError(text.to_string())
    }

    /// A file of the log, and what to do about it.
    #[allow(clippy::needless_pass_by_value, reason = "map_err brings it by value")]
    fn of_log(error: StoreError) -> StartupError {
        StartupError(format!("{error}{}", error.hint()))
    }
}

/// Main function of the startup process; returns its exit status.
pub fn startup_main(node: &'static Node, me: Me) -> i32 {
    match run(node, me) {
        Ok(()) => 0,
        Err(error) => {
            fatal(&error.0);
            1
        }
    }
}

fn run(node: &'static Node, me: Me) -> Result<(), StartupError> {
    let standby = node.data.is_standby();
    // A primary that recovers is starting up: it lets nobody in before its recovery has ended.
    if standby {
        me.pm_signal(PmSignal::RECOVERY_STARTED);
    }
    let Some(recovered) = recovery::recover(node, &me, standby)? else {
        // Told to end: what is put is committed, the next start goes on there. Not a word of the end of recovery.
        return Ok(());
    };
    let recovered = if standby {
        catch_up_archive(node)?;
        let Some(recovered) = follow::follow(node, &me, recovered)? else { return Ok(()) };
        recovered
    } else {
        recovered
    };
    let (recovered, left) = if recovered.received {
        let Some((recovered, left)) = promotion::promote(node, &me, recovered)? else { return Ok(()) };
        (recovered, Some(left))
    } else {
        (recovered, None)
    };
    let writer = writer::Writer::start(node, me, recovered)?;
    if let Some(left) = left {
        failpoint::step(Site::PromotionFinish, || promotion::finish(node, &me, left))?;
    }
    catch_up_archive(node)?;
    me.pm_signal(PmSignal::RECOVERY_DONE);
    writer.run()
}

/// Completed segments whose status was lost, or that date from before there was an archive.
fn catch_up_archive(node: &Node) -> Result<(), StartupError> {
    archive_status::catch_up(node, node.wal.horizon().min(node.wal.flush_lsn()))
        .map_err(|error| StartupError::new(format!("could not make archive status files: {error}")))
}

/// A disk that fails is a PANIC: what of the tables has reached it is not known any more, and a sync must not be tried twice on
/// the same data. A disk that is only full is not.
pub(crate) fn panic_if_broken(error: &SqlError) {
    if error.sqlstate == SqlState::IO_ERROR {
        panic_severity(&with_hint(error));
    }
}

/// An error of the tables as the log shows it.
fn with_hint(error: &SqlError) -> String {
    match &error.hint {
        Some(hint) => format!("{}\nHINT:  {hint}", error.message),
        None => error.to_string(),
    }
}

/// Whether this process was told to end.
fn told_to_end(me: &Me) -> bool {
    !me.take(Interrupts::TERMINATE).is_empty()
}
