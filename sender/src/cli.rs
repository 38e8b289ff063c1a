//! The command line that both binaries share: `run`, `stop`, `reload`, `status`; and `primary`'s own `init`.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage; of `status` also 3 not running, 4 no data directory there.
//!
//! Follows PostgreSQL 15 src/bin/pg_ctl/pg_ctl.c and src/bin/initdb/initdb.c.

use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::WaitEventSet;
use postmaster::pid_file::{Inspection, PidFileLines, inspect};
use settings::conf::parse_flag;
use sys::process::PidFd;
use sys::signal::Signal;
use wal::segment::SegmentSize;
use wire::hba::{self, Method};
use wire::scram::{SALT_BYTES, Verifier};

use crate::control::ControlFile;
use crate::datadir::{DataDir, NewFiles};
use crate::reload_command::{Reload, reload};
use crate::run::run_node;
use crate::startup::writer::first_role;
use crate::status_command::status;

/// Exit status: failed.
pub const FAILED: i32 = 1;
/// Exit status of `status` when nothing runs.
pub const NOT_RUNNING: i32 = 3;
/// Exit status of `status` when there is no accessible data directory.
pub const NO_DATA_DIR: i32 = 4;

/// What is longer than this is no password file.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;

/// A Walship primary.
#[derive(Debug, Parser)]
#[command(
    name = "primary",
    version,
    about = "A Walship primary: serves clients and sends its log to standbys"
)]
struct Primary {
    #[command(subcommand)]
    command: PrimaryCommand,
}

#[derive(Debug, Subcommand)]
enum PrimaryCommand {
    /// Make a new data directory
    Init(Init),
    /// Run the node in the foreground
    Run(Run),
    /// Stop the node
    Stop(Stop),
    /// Read walship.conf again, and wait until every process has it
    Reload(Reload),
    /// Say whether the node runs, how it is, and what is wrong with it
    Status(DataDirArg),
}

/// Where the data directory is.
#[derive(Args, Clone, Debug)]
pub struct DataDirArg {
    /// Data directory
    #[arg(short = 'D', long = "pgdata", value_name = "DIR", env = "PGDATA")]
    pub data_dir: PathBuf,
}

#[derive(Args, Debug)]
struct Init {
    #[command(flatten)]
    data: DataDirArg,
    /// Size of the log's segments: a power of two from 1MB to 1GB
    #[arg(long, value_name = "SIZE", default_value = "16MB", value_parser = parse_segment_size)]
    wal_segsize: SegmentSize,
    /// Name of the first role, a superuser
    #[arg(short = 'U', long, value_name = "NAME", default_value = "postgres", value_parser = parse_role)]
    username: String,
    /// File whose first line is that role's password
    #[arg(long, value_name = "FILE")]
    pwfile: Option<PathBuf>,
    /// How clients of this machine prove who they are, in the pg_hba.conf that is made: trust, scram-sha-256 or reject
    #[arg(short = 'A', long, value_name = "METHOD", default_value = "trust", value_parser = Method::parse)]
    auth: Method,
    /// Set a setting in the walship.conf that is made
    #[arg(short = 'c', long = "set", value_name = "NAME=VALUE", value_parser = parse_flag)]
    settings: Vec<(String, String)>,
}

/// Running a node.
#[derive(Args, Debug)]
pub struct Run {
    /// Where
    #[command(flatten)]
    pub data: DataDirArg,
    /// Set a setting for this run, over walship.conf
    #[arg(short = 'c', value_name = "NAME=VALUE", value_parser = parse_flag)]
    pub settings: Vec<(String, String)>,
}

/// Stopping a node.
#[derive(Args, Debug)]
pub struct Stop {
    /// Where
    #[command(flatten)]
    pub data: DataDirArg,
    /// How to stop: wait for the clients, end their sessions, or drop everything
    #[arg(short, long, value_enum, default_value_t = Mode::Fast)]
    pub mode: Mode,
    /// Seconds to wait
    #[arg(short, long, value_name = "SECS", default_value_t = 60)]
    pub timeout: u64,
}

/// How to stop.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    /// Wait for all clients to leave
    Smart,
    /// End all sessions, write a shutdown checkpoint
    Fast,
    /// Drop everything; the next start recovers
    Immediate,
}

impl Mode {
    fn signal(self) -> Signal {
        match self {
            Mode::Smart => Signal::Term,
            Mode::Fast => Signal::Int,
            Mode::Immediate => Signal::Quit,
        }
    }
}

/// `primary` with its arguments (the first is the program's name); returns the exit status.
pub fn primary_main(arguments: Vec<OsString>) -> i32 {
    let parsed = match Primary::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return usage_error(&error),
    };
    match parsed.command {
        PrimaryCommand::Init(init) => report(self::init(&init)),
        PrimaryCommand::Run(run) => {
            if DataDir::new(&run.data.data_dir).is_standby() {
                return report(Err(format!(
                    "\"{}\" is the data directory of a standby\nHINT:  Run it with \"standby run\".",
                    run.data.data_dir.display()
                )));
            }
            run_node(run.data.data_dir, &run.settings, None)
        }
        PrimaryCommand::Stop(stop) => report(self::stop(&stop)),
        PrimaryCommand::Reload(arguments) => report(reload(&arguments)),
        PrimaryCommand::Status(data) => status(&data.data_dir),
    }
}

/// Prints clap's message; help and version are no errors.
pub fn usage_error(error: &clap::Error) -> i32 {
    // Nothing better can be done when the terminal is gone.
    let _ = error.print();
    error.exit_code()
}

/// Prints a command's line or its error; the exit status.
pub fn report(result: Result<String, String>) -> i32 {
    match result {
        Ok(line) => {
            print_line(&line);
            0
        }
        Err(message) => {
            print_error(&message);
            FAILED
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer to its user")]
pub(crate) fn print_line(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "the command's answer to its user")]
pub(crate) fn print_error(message: &str) {
    eprintln!("error: {message}");
}

fn parse_segment_size(text: &str) -> Result<SegmentSize, String> {
    let wrong = || "must be a power of two from 1MB to 1GB, such as 16MB".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "MB" | "" => 1 << 20,
        "GB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(factor).and_then(|bytes| SegmentSize::new(bytes).ok()).ok_or_else(wrong)
}

fn parse_role(name: &str) -> Result<String, String> {
    match name {
        "" | "public" | "none" => Err("no role can have this name".to_owned()),
        _ if name.starts_with("pg_") => Err("role names starting with \"pg_\" are reserved".to_owned()),
        _ if name.len() > 63 => Err("a role's name has at most 63 bytes".to_owned()),
        _ => Ok(name.to_owned()),
    }
}

fn init(init: &Init) -> Result<String, String> {
    let data = DataDir::new(&init.data.data_dir);
    let control = ControlFile::new(new_system_identifier(), init.wal_segsize.bytes_u32(), 1);
    let pairs: Vec<_> = init.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let conf = settings::conf::render(&pairs).map_err(|error| error.to_string())?;
    let verifier = init.pwfile.as_deref().map(verifier_of_file).transpose()?;
    if init.auth == Method::ScramSha256 && verifier.is_none() {
        return Err("must specify a password for the superuser to enable password authentication\n\
                    HINT:  Give a file with it: --pwfile FILE."
            .to_owned());
    }
    let first_role = first_role(&init.username, verifier);
    let files =
        NewFiles { conf: &conf, hba: Some(&hba::default_text(init.auth)), first_role: Some(&first_role) };
    data.create(&files, &control).map_err(|error| error.to_string())?;
    let dir = init.data.data_dir.display();
    let warning = match init.auth {
        Method::Trust => {
            "\nEvery user of this machine may connect as anybody (\"trust\" in pg_hba.conf; see --auth and --pwfile).\n"
        }
        Method::Reject | Method::ScramSha256 => "",
    };
    Ok(format!("Created data directory {dir}. Start the node with:\n\n    primary run -D {dir}\n{warning}"))
}

/// The verifier of the password on the first line of a file.
fn verifier_of_file(path: &Path) -> Result<String, String> {
    let failed =
        |error: io::Error| format!("could not read password from file \"{}\": {error}", path.display());
    let mut line = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    io::BufReader::new(file).take(PASSWORD_FILE_BYTES_MAX).read_line(&mut line).map_err(failed)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(format!("password file \"{}\" is empty", path.display()));
    }
    let mut salt = [0; SALT_BYTES];
    sys::random::fill(&mut salt).map_err(|error| format!("could not generate random salt: {error}"))?;
    Ok(Verifier::of_password(password, &salt).to_string())
}

/// As PostgreSQL makes it: seconds, microseconds and pid, so that no two are the same.
fn new_system_identifier() -> u64 {
    let micros = sys::clock::unix_micros().unsigned_abs();
    let pid = u64::from(sys::process::current_pid().0.unsigned_abs());
    (micros / 1_000_000) << 32 | (micros % 1_000_000) << 12 | (pid & 0xFFF)
}

/// The node of a data directory, if one runs.
///
/// # Errors
/// There is no data directory, or processes of a dead postmaster are still in it.
pub fn running(data_dir: &Path) -> Result<Option<PidFileLines>, String> {
    check_data_dir(data_dir)?;
    match inspect(data_dir).map_err(|error| error.to_string())? {
        Inspection::Running(lines) => Ok(Some(lines)),
        Inspection::Orphans(lines) => Err(format!(
            "the postmaster (PID {}) is gone, but processes of the node are still in \"{}\"",
            lines.pid,
            data_dir.display()
        )),
        Inspection::NoFile | Inspection::Stale(_) => Ok(None),
    }
}

/// Stops the node of a data directory and waits for its end.
pub fn stop(stop: &Stop) -> Result<String, String> {
    let dir = &stop.data.data_dir;
    let Some(lines) = running(dir)? else {
        return Err(format!("no node runs in \"{}\"", dir.display()));
    };
    let process =
        PidFd::open(lines.pid).map_err(|error| format!("could not watch PID {}: {error}", lines.pid))?;
    process
        .kill(stop.mode.signal())
        .map_err(|error| format!("could not send stop signal (PID {}): {error}", lines.pid))?;
    match wait_for_exit(&process, Duration::from_secs(stop.timeout)) {
        Ok(true) => Ok("server stopped".to_owned()),
        Ok(false) => Err(format!(
            "server does not shut down\nHINT:  The \"-m fast\" option immediately disconnects sessions rather than\n\
             waiting for session-initiated disconnection, \"-m immediate\" drops everything (waited {} s).",
            stop.timeout
        )),
        Err(error) => Err(format!("could not wait for PID {}: {error}", lines.pid)),
    }
}

/// Sleeps until the process has ended; false when it hasn't in that time.
fn wait_for_exit(process: &PidFd, timeout: Duration) -> io::Result<bool> {
    let mut set = WaitEventSet::without_process(1)?;
    set.add_child_exit(process)?;
    let mut occurred = Vec::new();
    set.wait(Some(timeout), WaitEvent::PostmasterMain, &mut occurred)?;
    Ok(!occurred.is_empty())
}

/// Whether there is a data directory, and it can be looked into; if not why, in pg_ctl's words.
pub(crate) fn check_data_dir(data_dir: &Path) -> Result<(), String> {
    let directory = data_dir.display();
    let unreachable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("directory \"{directory}\" does not exist"),
        _ => format!("could not access directory \"{directory}\": {error}"),
    };
    std::fs::metadata(data_dir).map_err(unreachable)?;
    match std::fs::metadata(DataDir::new(data_dir).control()) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(format!("directory \"{directory}\" is not a database cluster directory"))
        }
        Err(error) => Err(unreachable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_sizes_are_read_with_their_unit() {
        assert_eq!(parse_segment_size("16MB").unwrap().bytes(), 16 << 20);
        assert_eq!(parse_segment_size("1").unwrap().bytes(), 1 << 20);
        assert_eq!(parse_segment_size("1GB").unwrap().bytes(), 1 << 30);
        for wrong in ["3MB", "2GB", "16kB", "x", "", "99999999999999999999MB"] {
            assert!(parse_segment_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_usage_is_2_and_help_0() {
        let run = |arguments: &[&str]| primary_main(arguments.iter().map(OsString::from).collect());
        assert_eq!(run(&["primary", "frobnicate"]), 2);
        assert_eq!(run(&["primary", "run", "-D", "/nonexistent", "-c", "novalue"]), 2);
        assert_eq!(run(&["primary", "--help"]), 0);
        assert_eq!(run(&["primary", "status", "-D", "/nonexistent"]), NO_DATA_DIR);
    }
}
