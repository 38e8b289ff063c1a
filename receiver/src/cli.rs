//! The command line of `standby`: `clone`, `promote`, `demote`, and what every node has (`run`, `stop`, `reload`, `status`).
//!
//! Exit status as [`sender::cli`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sender::cli::{DataDirArg, Run, Stop, report, stop, usage_error};
use sender::control::ControlFile;
use sender::datadir::DataDir;
use sender::reload_command::{Reload, reload};
use sender::run::run_node;
use sender::status_command::status;
use wal::timeline::TimelineId;

use crate::clone::CloneRequest;
use crate::demote::{Demote, demote};
use crate::promote::{Promote, promote};
use crate::walreceiver::process::walreceiver_main;

/// Kilobytes per second that a server takes for a limit.
const RATES: std::ops::RangeInclusive<u32> = 32..=1_048_576;

/// A Walship standby.
#[derive(Debug, Parser)]
#[command(name = "standby", version, about = "A Walship standby: follows a primary's log and serves readers")]
struct Standby {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a data directory that follows a running primary
    Clone(Clone),
    /// Run the node in the foreground
    Run(Run),
    /// Stop the node
    Stop(Stop),
    /// Make a primary of the standby that runs here, and wait until it takes writes
    Promote(Promote),
    /// Make a standby of a stopped node: an old primary, or a standby that went another way
    Demote(Demote),
    /// Read walship.conf again, and wait until every process has it
    Reload(Reload),
    /// Say whether the node runs, how it is, and what is wrong with it
    Status(DataDirArg),
}

#[derive(clap::Args, Debug)]
struct Clone {
    /// Data directory to make
    #[arg(short = 'D', long = "pgdata", value_name = "DIR", env = "PGDATA")]
    data_dir: PathBuf,
    /// The primary: a connection string (keywords or URI) as libpq takes it
    #[arg(long, value_name = "CONNINFO")]
    from: String,
    /// Replication slot of the primary that the standby is to stream with
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// Make the slot
    #[arg(long, requires = "slot")]
    create_slot: bool,
    /// Most bytes per second: a number of kilobytes, or with suffix "k" or "M"
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    max_rate: Option<u32>,
}

/// `standby` with its arguments (the first is the program's name); returns the exit status.
pub fn standby_main(arguments: Vec<OsString>) -> i32 {
    let parsed = match Standby::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return usage_error(&error),
    };
    if let Err(error) = sys::failpoint::begin_command() {
        return report(Err(format!("failpoints: {error}")));
    }
    match parsed.command {
        Command::Clone(clone) => report(self::clone(&clone)),
        Command::Run(run) => {
            if let Err(why) = check_was_standby(&DataDir::new(&run.data.data_dir)) {
                return report(Err(why));
            }
            run_node(run.data.data_dir, &run.settings, Some(walreceiver_main))
        }
        Command::Stop(arguments) => report(stop(&arguments)),
        Command::Promote(arguments) => report(promote(&arguments)),
        Command::Demote(arguments) => report(demote(&arguments)),
        Command::Reload(arguments) => report(reload(&arguments)),
        Command::Status(data) => status(&data.data_dir),
    }
}

/// A node that was promoted goes on as a primary when whoever ran it as a standby starts it again. One that never was a
/// standby must not, by a mistake, become a second primary.
fn check_was_standby(data: &DataDir) -> Result<(), String> {
    let never_was = |control: ControlFile| control.timeline == TimelineId::FIRST.0 && !control.is_received();
    // What else is wrong with the directory is for the node to say.
    if data.is_standby() || !ControlFile::read(&data.control()).is_ok_and(never_was) {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is the data directory of a primary: it has no standby.signal\nHINT:  Run it with \"primary run\".",
        data.root().display()
    ))
}

fn clone(arguments: &Clone) -> Result<String, String> {
    let request = CloneRequest {
        from: &arguments.from,
        slot: arguments.slot.as_deref(),
        create_slot: arguments.create_slot,
        max_rate: arguments.max_rate,
    };
    let cloned = crate::clone::clone(&arguments.data_dir, &request).map_err(|error| error.to_string())?;
    let dir = arguments.data_dir.display();
    Ok(format!(
        "Created data directory {dir} of a standby of system {}, as of {}. Start it with:\n\n    standby run -D {dir}\n",
        cloned.upstream.system_identifier, cloned.end
    ))
}

/// Kilobytes per second, as `pg_basebackup --max-rate` takes them.
fn parse_rate(text: &str) -> Result<u32, String> {
    let (digits, factor) = match (text.strip_suffix('k'), text.strip_suffix('M')) {
        (Some(digits), _) => (digits, 1),
        (_, Some(digits)) => (digits, 1024),
        (None, None) => (text, 1),
    };
    let rate = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    rate.filter(|rate| RATES.contains(rate)).ok_or_else(|| {
        format!(
            "must be between {} and {} kilobytes per second, such as 512k or 32M",
            RATES.start(),
            RATES.end()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_is_2_and_help_0() {
        let run = |arguments: &[&str]| standby_main(arguments.iter().map(OsString::from).collect());
        assert_eq!(run(&["standby", "clone", "-D", "/nonexistent"]), 2);
        let without_slot = ["standby", "clone", "-D", "/nonexistent", "--from", "", "--create-slot"];
        assert_eq!(run(&without_slot), 2);
        assert_eq!(run(&["standby", "--version"]), 0);
        assert_eq!(run(&["standby", "clone", "-D", "/nonexistent/x", "--from", "nonsense"]), 1);
    }

    #[test]
    fn rates_are_read_as_pg_basebackup_reads_them() {
        for (text, expected) in [("32", 32), ("512k", 512), ("1M", 1024), ("1024M", 1_048_576)] {
            assert_eq!(parse_rate(text), Ok(expected), "{text}");
        }
        for wrong in ["", "31", "1025M", "9999999999", "1G", "-32", "k", "3.5M"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
