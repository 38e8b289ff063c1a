//! `standby promote`: makes a primary of the standby that runs in a data directory.
//!
//! The file `promote` and SIGUSR2 to the postmaster ask; that the node has been promoted is told by line 8 of
//! postmaster.pid, which says `ready` from then on.
//!
//! Follows PostgreSQL 15 do_promote() in src/bin/pg_ctl/pg_ctl.c.

use std::time::Duration;

use clap::Args;
use ipc::wait_event::WaitEvent;
use postmaster::pid_file::NodeStatus;
use sender::cli::{DataDirArg, running};
use sender::datadir::DataDir;
use sender::node_watch::{News, NodeWatch};
use sys::clock;
use sys::signal::Signal;

use crate::switchover::switchover;

/// Promoting a standby.
#[derive(Args, Debug)]
pub struct Promote {
    /// Where
    #[command(flatten)]
    pub data: DataDirArg,
    /// Seconds to wait until the node takes writes
    #[arg(short, long, value_name = "SECS", default_value_t = 60)]
    pub timeout: u64,
    /// Don't wait
    #[arg(short = 'W', long)]
    pub no_wait: bool,
    /// Have the primary hand over: it stops taking writes, sends all of its log, and becomes a standby of this node
    #[arg(long, conflicts_with = "no_wait")]
    pub switchover: bool,
    /// How the old primary connects to this node, if not at the address from which this node connects to it
    #[arg(long, value_name = "CONNINFO", requires = "switchover")]
    pub conninfo: Option<String>,
}

/// Promotes the node of a data directory; what to tell its user.
///
/// # Errors
/// Nothing runs there, it is no standby, it ended meanwhile, or was not promoted in time.
pub fn promote(promote: &Promote) -> Result<String, String> {
    if promote.switchover {
        return switchover(promote);
    }
    let dir = &promote.data.data_dir;
    let Some(lines) = running(dir)? else {
        return Err(format!("no node runs in \"{}\"", dir.display()));
    };
    if !DataDir::new(dir).is_standby() {
        return Err("cannot promote server; server is not in standby mode".to_owned());
    }
    let mut watch = NodeWatch::new(dir, lines.pid)?;
    let path = DataDir::new(dir).promote();
    std::fs::write(&path, b"")
        .map_err(|error| format!("could not create promote signal file \"{}\": {error}", path.display()))?;
    watch.signal(Signal::Usr2, "promote")?;
    if promote.no_wait {
        return Ok("server promoting".to_owned());
    }
    let deadline = clock::now().saturating_add(Duration::from_secs(promote.timeout));
    loop {
        if watch.lines().is_some_and(|lines| lines.status == NodeStatus::Ready) {
            return Ok("server promoted".to_owned());
        }
        match watch.news(deadline, WaitEvent::Promote)? {
            News::File => {}
            News::Ended => {
                return Err(format!("the node (PID {}) ended before it was promoted", watch.pid));
            }
            News::TimedOut => {
                return Err(format!("server did not promote in time (waited {} s)", promote.timeout));
            }
        }
    }
}
