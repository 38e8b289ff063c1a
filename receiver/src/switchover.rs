//! `standby promote --switchover`: the primary hands over to this standby, and follows it.
//!
//! 1. The standby is told to become a primary when its upstream has shut down in order: by the file `switchover` in its
//!    data directory, and SIGUSR2. Its startup process then waits for the walreceiver to report that ([`sender::startup`]).
//! 2. The primary is asked to hand over ([`sender::hand_over`]): it ends its sessions, sends all of its log, the shutdown
//!    checkpoint included, and becomes a standby.
//! 3. The walreceiver sees the orderly end of the stream, which comes only when this standby has confirmed that it has
//!    everything; the node is promoted, and takes writes. The old primary follows it over the switch.
//!
//! If the primary refuses, the standby is told to forget it, and nothing has happened; what a command that was killed has asked
//! for counts no longer than it would have waited. If the time is over after that, the
//! primary may have shut down, or still be at it: the command says so, and promotes nobody.

use std::fs;
use std::path::Path;
use std::time::Duration;

use failpoint::Site;
use ipc::wait_event::WaitEvent;
use postmaster::pid_file::{NodeStatus, PidFileLines};
use sender::cli::running;
use sender::client::{ClientError, ServerConnection, SessionKind};
use sender::configuration::read_conf;
use sender::datadir::{DataDir, replace_file};
use sender::node_watch::{News, NodeWatch};
use settings::Settings;
use sys::clock;
use sys::signal::Signal;
use wire::conninfo::Conninfo;

use crate::promote::Promote;

/// The name under which the primary sees the connection.
const APPLICATION_NAME: &str = "standby promote";
/// How long the primary may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// Switches over to the standby that runs in a data directory; what to tell its user.
///
/// # Errors
/// It is no standby that streams, the primary refuses or can't be reached, or it takes too long.
pub(crate) fn switchover(promote: &Promote) -> Result<String, String> {
    let dir = &promote.data.data_dir;
    let Some(lines) = running(dir)? else {
        return Err(format!("no node runs in \"{}\"", dir.display()));
    };
    let data = DataDir::new(dir);
    if !data.is_standby() {
        return Err("cannot promote server; server is not in standby mode".to_owned());
    }
    let mut watch = NodeWatch::new(dir, lines.pid)?;
    let settings = Settings::load(&read_conf(&data)?, &[])
        .map_err(|_| format!("configuration file \"{}\" contains errors", data.conf().display()))?;
    let mut primary = Primary::connect(&settings)?;
    let successor = match &promote.conninfo {
        Some(conninfo) => conninfo.clone(),
        None => primary.own_address(&lines)?,
    };
    let timeout = Duration::from_secs(promote.timeout);
    let wish = Wish::make(&data, timeout)?;
    watch.signal(Signal::Usr2, "promote")?;
    primary.ask_to_hand_over(&successor)?;
    let deadline = clock::now().saturating_add(timeout);
    loop {
        if watch.lines().is_some_and(|lines| lines.status == NodeStatus::Ready) {
            wish.granted();
            return Ok("server promoted, and the old primary follows it".to_owned());
        }
        match watch.news(deadline, WaitEvent::Promote)? {
            News::File => {}
            News::Ended => return Err(format!("the node (PID {}) ended before it was promoted", watch.pid)),
            News::TimedOut => {
                return Err(format!(
                    "the switchover was not completed in time (waited {} s)\nHINT:  The primary was asked to shut down. If it has, promote a standby that has all of its log with \"standby promote\".",
                    promote.timeout
                ));
            }
        }
    }
}

/// The file that tells the standby to wait for its upstream's end; it goes when nobody waits for that any more.
struct Wish<'a> {
    data: &'a DataDir,
}

impl<'a> Wish<'a> {
    /// Says until when it counts, so that a command that is killed leaves none that lasts.
    fn make(data: &'a DataDir, timeout: Duration) -> Result<Wish<'a>, String> {
        let wish = Wish { data };
        let path = data.switchover();
        let until =
            clock::unix_micros().saturating_add(i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX));
        failpoint::io(Site::SwitchoverWish, || replace_file(&path, until.to_string().as_bytes()))
            .map_err(|error| format!("could not create file \"{}\": {error}", path.display()))?;
        Ok(wish)
    }

    /// The node has removed it.
    fn granted(self) {
        std::mem::forget(self);
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        // It may be gone with the promotion.
        let _ = fs::remove_file(self.data.switchover());
    }
}

/// The upstream, as this command talks to it.
struct Primary {
    conninfo: Conninfo,
    /// The name under which the standby streams.
    standby: String,
    connection: ServerConnection,
}

impl Primary {
    fn connect(settings: &Settings) -> Result<Primary, String> {
        if settings.primary_conninfo.is_empty() {
            return Err("primary_conninfo is not set: there is no primary to switch over from".to_owned());
        }
        let conninfo = Conninfo::parse(&settings.primary_conninfo)
            .map_err(|error| format!("invalid primary_conninfo: {error}"))?;
        let name = match settings.cluster_name.as_str() {
            "" => "walreceiver",
            name => name,
        };
        let standby = conninfo.application_name().unwrap_or(name).to_owned();
        let kind = SessionKind::Ordinary;
        let connection =
            ServerConnection::connect_within(None, &conninfo, kind, APPLICATION_NAME, Some(PATIENCE))
                .map_err(|error| error.to_string())?;
        Ok(Primary { conninfo, standby, connection })
    }

    /// How the primary reaches this standby: at the address that it is reached from.
    fn own_address(&self, lines: &PidFileLines) -> Result<String, String> {
        let local = self.connection.local_address().map_err(|error| error.to_string())?;
        let host = match local {
            Some(address) => address.ip().to_string(),
            None => Path::new(&lines.socket_dir).display().to_string(),
        };
        Ok(self.conninfo.moved_to(&host, lines.port))
    }

    fn ask_to_hand_over(&mut self, successor: &str) -> Result<(), String> {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let sql = format!("SELECT walship_hand_over({}, {})", quote(successor), quote(&self.standby));
        match failpoint::step(Site::SwitchoverAsk, || self.connection.query(&sql)) {
            Ok(_) => Ok(()),
            // It shuts down already.
            Err(ClientError::Lost(_)) => Ok(()),
            Err(ClientError::Server(report)) if report.sqlstate == wire::sqlstate::ADMIN_SHUTDOWN => Ok(()),
            Err(error) => Err(format!("the primary does not hand over: {error}")),
        }
    }
}
