//! A client that writes for as long as it runs, through every failover, and knows at the end what must be there.
//!
//! The problem: that nothing acknowledged is lost is shown only by who has kept a note of what was acknowledged, somewhere
//! else than on the nodes. `run` inserts numbered rows, one after the other, on whichever of its hosts takes writes, and
//! notes each one that was acknowledged; once a second it looks whether all are there. `check` looks at every single row
//! of the note. `query` sends one text and prints the rows, for where there is no psql.
//!
//! | module | what |
//! |---|---|
//! | [`note`] | what was acknowledged, in a file |
//! | [`rows`] | what the rows are, and the looks at them |
//! | `writer` | the loop of `run` |
//!
//! It ends by a signal's default action: the note is complete after each row. Process 1 of a container has no default
//! actions; give it an init there (`init: true`).
//!
//! Exit status: 0 done, 1 a row is lost, or not what it was, or nothing could be asked; 2 wrong usage.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sender::client::{ClientError, ServerConnection, SessionKind};
use wire::conninfo::Conninfo;

use self::note::Note;

pub mod note;
pub mod rows;
mod writer;

/// The name under which nodes see the connection.
const APPLICATION_NAME: &str = "demo-client";
/// How long a node may be silent before another one is tried.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes rows through every failover, and checks that each acknowledged one is there.
#[derive(Debug, Parser)]
#[command(name = "demo-client")]
struct Options {
    /// The nodes: a connection string with several hosts
    #[arg(long, value_name = "CONNINFO", env = "DEMO_CONNINFO", value_parser = parse_conninfo)]
    conninfo: Conninfo,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write rows, and look at them, until a signal comes or a row is lost
    Run(Run),
    /// Look for every row that the note says was acknowledged
    Check(NoteFile),
    /// Send a text to a node, and print what it answers
    Query {
        /// SQL
        sql: String,
    },
}

#[derive(clap::Args, Debug)]
struct Run {
    #[command(flatten)]
    note: NoteFile,
    /// Milliseconds between two rows
    #[arg(long, value_name = "MS", default_value_t = 50)]
    interval: u64,
}

#[derive(clap::Args, Debug)]
struct NoteFile {
    /// Where it is noted which rows were acknowledged
    #[arg(long, value_name = "FILE", env = "DEMO_NOTE")]
    note: PathBuf,
}

fn parse_conninfo(text: &str) -> Result<Conninfo, String> {
    Conninfo::parse(text).map_err(|error| error.to_string())
}

/// Why the client gave up.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `demo-client` with its arguments (the first is the program's name).
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            let _unwritable = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let done = match &options.command {
        Command::Run(run) => {
            writer::write_on(&options.conninfo, &run.note.note, Duration::from_millis(run.interval))
        }
        Command::Check(note) => check(&options.conninfo, note),
        Command::Query { sql } => query(&options.conninfo, sql),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _unwritable = writeln!(io::stderr(), "demo-client: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// A session on the first node that is fit.
fn connect(conninfo: &Conninfo) -> Result<ServerConnection, ClientError> {
    let kind = SessionKind::Ordinary;
    ServerConnection::connect_within(None, conninfo, kind, APPLICATION_NAME, Some(PATIENCE))
}

/// A line for who watches, at once.
fn say(text: impl fmt::Display) {
    // Who watched has gone, which is no reason to stop.
    let _ = writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush());
}

fn check(conninfo: &Conninfo, file: &NoteFile) -> Result<(), Failure> {
    let Some(note) = Note::read(&file.note)? else {
        return Err(Failure(format!("there is no note in \"{}\"", file.note.display())));
    };
    let failed = |error: ClientError| Failure(format!("the rows can't be looked at: {error}"));
    let mut node = connect(conninfo).map_err(failed)?;
    let found = rows::check_all(&mut node, note).map_err(failed)?;
    let place = format!("{} port {}", node.target().host, node.target().port);
    node.close();
    match found {
        Ok(()) => {
            say(format!("PASSED: all {} acknowledged rows ({note}) are on {place}", note.count()));
            Ok(())
        }
        Err(wrong) => Err(Failure(format!("FAILED: {wrong} on {place}; acknowledged were {note}"))),
    }
}

fn query(conninfo: &Conninfo, sql: &str) -> Result<(), Failure> {
    let failed = |error: ClientError| Failure(error.to_string());
    let mut node = connect(conninfo).map_err(failed)?;
    for result in node.query(sql).map_err(failed)? {
        for row in &result.rows {
            let text = |value: &Option<Vec<u8>>| {
                value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
            };
            say(row.iter().map(text).collect::<Vec<_>>().join("|"));
        }
        if result.columns.is_empty() {
            say(result.tag);
        }
    }
    node.close();
    Ok(())
}
