//! `status`: whether a node runs, how it is and what is wrong with it, in every state that it can be in.
//!
//! A node that runs is asked over its Unix socket ([`crate::status_report`]); that takes no password, as the kernel says who
//! asks, and no place among the sessions, and works while the node starts, recovers or has no room on its disk. What a node
//! that doesn't run, or doesn't answer, was at is in its control file.
//!
//! Exit status: 0 runs, 3 doesn't, 4 there is no data directory. What is wrong with a node that runs doesn't change it.
//!
//! Follows PostgreSQL 15 do_status() in src/bin/pg_ctl/pg_ctl.c, whose first line and exit status it has, and
//! src/bin/pg_controldata.

use std::path::Path;
use std::time::Duration;

use postmaster::pid_file::{NodeStatus, PidFileLines};
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;

use crate::cli::{NO_DATA_DIR, NOT_RUNNING, check_data_dir, print_error, print_line, report, running};
use crate::client::{ClientError, ServerConnection};
use crate::control::{ControlFile, NodeState};
use crate::datadir::DataDir;
use crate::status_report::line;

/// A node that doesn't answer within this time stands still.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints how the node of a data directory is; the exit status.
pub fn status(data_dir: &Path) -> i32 {
    if let Err(message) = check_data_dir(data_dir) {
        print_error(&message);
        return NO_DATA_DIR;
    }
    let data = DataDir::new(data_dir);
    let lines = match running(data_dir) {
        Ok(lines) => lines,
        Err(message) => return report(Err(message)),
    };
    let role = role(&data);
    let (first, details, exit_status) = match lines {
        Some(lines) => {
            let first = format!(
                "{role} is running (PID: {}), port {}, {}",
                lines.pid,
                lines.port,
                lines.status.padded().trim_end()
            );
            let details = ask(&lines).unwrap_or_else(|why| {
                let mut details = of_control_file(&data, &lines.status.to_string());
                details.push(line("What is wrong", &why));
                details
            });
            (first, details, 0)
        }
        None => ("no server running".to_owned(), of_stopped(&data), NOT_RUNNING),
    };
    print_line(&first);
    details.iter().for_each(|line| print_line(line));
    exit_status
}

fn role(data: &DataDir) -> &'static str {
    if data.is_standby() { "standby" } else { "primary" }
}

/// What a node that runs says of itself; else why it says nothing.
fn ask(lines: &PidFileLines) -> Result<Vec<String>, String> {
    if lines.socket_dir.is_empty() || lines.port == 0 {
        return Err(match lines.status {
            NodeStatus::Starting => "the node does not listen yet".to_owned(),
            _ => "the node has no Unix socket over which it could be asked (unix_socket_directories)"
                .to_owned(),
        });
    }
    let socket = Path::new(&lines.socket_dir).join(format!(".s.PGSQL.{}", lines.port));
    ServerConnection::ask_status(&socket, PATIENCE).map_err(|error| match error {
        ClientError::Server(report) => report.message,
        other => format!("the node does not answer on socket \"{}\": {other}", socket.display()),
    })
}

/// What is known of a node that doesn't run.
fn of_stopped(data: &DataDir) -> Vec<String> {
    let control = ControlFile::read(&data.control());
    let mut details = of_control_file(data, "stopped");
    if let Ok(control) = control
        && let Some(wrong) = wrong_with_stopped(data, &control)
    {
        details.push(line("What is wrong", &wrong));
    }
    details
}

/// Why a start takes longer, or does something else, than that of a node which was shut down.
fn wrong_with_stopped(data: &DataDir, control: &ControlFile) -> Option<String> {
    let standby = data.is_standby();
    match control.state {
        NodeState::InProduction | NodeState::InCrashRecovery => {
            Some("the node was not shut down in order; the next start recovers".to_owned())
        }
        NodeState::InArchiveRecovery if standby => {
            Some("the standby was not shut down in order; the next start recovers".to_owned())
        }
        NodeState::InArchiveRecovery | NodeState::ShutDownInRecovery if !standby => Some(
            "the node was a standby, and standby.signal is gone; the next start completes a promotion"
                .to_owned(),
        ),
        NodeState::ShutDown if standby => None,
        _ => None,
    }
}

/// What the control file tells, of a node whose present state is not known from itself.
fn of_control_file(data: &DataDir, state: &str) -> Vec<String> {
    let control = match ControlFile::read(&data.control()) {
        Ok(control) => control,
        Err(error) => return vec![line("State", state), line("What is wrong", &error.to_string())],
    };
    let mut lines = vec![
        line("Role", role(data)),
        line("State", &format!("{state}; the control file says \"{}\"", control.state.name())),
        line("System identifier", &control.system_identifier.to_string()),
        line("Timeline", &control.timeline.to_string()),
    ];
    let at = |lsn: u64| if lsn == 0 { "none".to_owned() } else { Lsn(lsn).to_string() };
    let checkpoint = format!("{}, redo from {}", at(control.checkpoint), at(control.redo));
    lines.push(line("Last checkpoint", &checkpoint));
    if control.time != 0 {
        lines.push(line("Written at", &Timestamp(control.time).to_string()));
    }
    lines
}
