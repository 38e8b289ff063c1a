//! The command line of `standby`: `clone`, and what every node has (`run`, `stop`, `reload`, `status`).
//!
//! Exit status as [`sender::cli`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sender::cli::{DataDirArg, Run, Stop, report, status, stop, usage_error};
use sender::datadir::DataDir;
use sender::reload_command::{Reload, reload};
use sender::run::run_node;

use crate::walreceiver::process::walreceiver_main;

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
    /// Read walship.conf again, and wait until every process has it
    Reload(Reload),
    /// Say whether the node runs
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
}

/// `standby` with its arguments (the first is the program's name); returns the exit status.
pub fn standby_main(arguments: Vec<OsString>) -> i32 {
    let parsed = match Standby::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return usage_error(&error),
    };
    match parsed.command {
        Command::Clone(clone) => report(self::clone(&clone)),
        Command::Run(run) => {
            let data = DataDir::new(&run.data.data_dir);
            if data.control().exists() && !data.is_standby() {
                return report(Err(format!(
                    "\"{}\" is the data directory of a primary: it has no standby.signal\nHINT:  Run it with \"primary run\".",
                    run.data.data_dir.display()
                )));
            }
            run_node(run.data.data_dir, &run.settings, Some(walreceiver_main))
        }
        Command::Stop(arguments) => report(stop(&arguments)),
        Command::Reload(arguments) => report(reload(&arguments)),
        Command::Status(data) => status(&data.data_dir),
    }
}

fn clone(arguments: &Clone) -> Result<String, String> {
    let cloned =
        crate::clone::clone(&arguments.data_dir, &arguments.from).map_err(|error| error.to_string())?;
    let dir = arguments.data_dir.display();
    Ok(format!(
        "Created data directory {dir} of a standby of system {}. It follows its primary from the first segment on; start it with:\n\n    standby run -D {dir}\n",
        cloned.upstream.system_identifier
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_is_2_and_help_0() {
        let run = |arguments: &[&str]| standby_main(arguments.iter().map(OsString::from).collect());
        assert_eq!(run(&["standby", "clone", "-D", "/nonexistent"]), 2);
        assert_eq!(run(&["standby", "--version"]), 0);
        assert_eq!(run(&["standby", "clone", "-D", "/nonexistent/x", "--from", "nonsense"]), 1);
    }
}
