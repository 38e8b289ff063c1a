//! The startup process: the one process of a node that writes the tables.
//!
//! PostgreSQL's name for the process that replays the log at start; here it goes on. Its life:
//!
//! 1. `recovery`: reads the applied LSN from the tables, finds the end of the log, makes the log durable, puts the
//!    rows of the records after the applied LSN.
//! 2. On a standby `follow`: puts what the walreceiver has made durable and the upstream's horizon allows, for ever.
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

mod damage;
mod follow;
mod recovery;
mod sources;
mod tables_log;
mod writer;

use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::pm_signal::PmSignal;
use ipc::process::Me;

use crate::archive_status;
use crate::log::fatal;
use crate::node::Node;

/// Bytes of changes in one transaction of the tables: they are kept in memory until it is committed.
const UNCOMMITTED_BYTES_MAX: usize = 16 << 20;
/// How long the tables' COMMIT may be put off after its first record. Nobody waits for it: a reader that needs the
/// tables further asks, and is served at once; until then one COMMIT serves many records.
const COMMIT_DELAY: Duration = Duration::from_millis(20);

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
    me.pm_signal(PmSignal::RECOVERY_STARTED);
    let Some(recovered) = recovery::recover(node, &me, standby)? else {
        // Told to end: what is put is committed, the next start goes on there. Not a word of the end of recovery.
        return Ok(());
    };
    if standby {
        catch_up_archive(node)?;
        return follow::follow(node, &me, recovered);
    }
    let writer = writer::Writer::start(node, me, recovered)?;
    catch_up_archive(node)?;
    me.pm_signal(PmSignal::RECOVERY_DONE);
    writer.run()
}

/// Completed segments whose status was lost, or that date from before there was an archive.
fn catch_up_archive(node: &Node) -> Result<(), StartupError> {
    archive_status::catch_up(node, node.wal.horizon().min(node.wal.flush_lsn()))
        .map_err(|error| StartupError::new(format!("could not make archive status files: {error}")))
}

/// Whether this process was told to end.
fn told_to_end(me: &Me) -> bool {
    !me.take(Interrupts::TERMINATE).is_empty()
}
