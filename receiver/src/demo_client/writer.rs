//! The loop of `run`: connect, find out what became of the row that was under way, write on.
//!
//! A connection that is lost in the middle of an INSERT leaves it open whether the row is there. So the first thing on a new
//! connection is the highest row: the one that was under way, then it was committed, or the one before, then it is sent again.
//! Anything lower is a lost row.

use std::path::Path;
use std::time::Duration;

use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::WaitEventSet;
use sender::client::{ClientError, ServerConnection};
use sys::clock::{self, MonoTime};
use wire::conninfo::Conninfo;

use super::note::Note;
use super::{Failure, connect, rows, say};

/// How long to leave nodes alone that don't take writes.
const RETRY: Duration = Duration::from_millis(500);
/// How often all rows are counted.
const LOOK: Duration = Duration::from_secs(1);
/// Every so many looks somebody is told.
const TOLD_EVERY: u64 = 5;
/// With so many rows the older half is deleted.
const ROWS_MAX: u64 = 100_000;

/// What ends a session on a node.
enum End {
    /// It, or the way to it, is gone, or it takes no writes any more.
    Lost(ClientError),
    /// Nothing that another session could mend.
    Failed(Failure),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> End {
        match &error {
            // A statement that is wrong here is wrong everywhere.
            ClientError::Server(report) if ["22", "42"].contains(&&report.sqlstate.as_str()[..2]) => {
                End::Failed(Failure(error.to_string()))
            }
            _ => End::Lost(error),
        }
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Failed(failure)
    }
}

struct Writer<'a> {
    file: &'a Path,
    note: Note,
    interval: Duration,
    next_look: MonoTime,
    looks: u64,
}

/// Writes until something fails that can't be mended.
pub(super) fn write_on(conninfo: &Conninfo, file: &Path, interval: Duration) -> Result<(), Failure> {
    let note = Note::read(file)?.unwrap_or(Note::EMPTY);
    let mut writer = Writer { file, note, interval, next_look: clock::now(), looks: 0 };
    let mut told = String::new();
    loop {
        let end = match connect(conninfo) {
            Ok(mut node) => {
                told.clear();
                let place = format!("{} port {}", node.target().host, node.target().port);
                say(format!("writing on {place}; acknowledged so far: {}", writer.note.count()));
                match writer.session(&mut node) {
                    Err(End::Failed(failure)) => return Err(failure),
                    Err(End::Lost(error)) => error,
                    Ok(()) => continue,
                }
            }
            Err(error) => error,
        };
        let text = end.to_string();
        if text != told {
            say(format!("nobody takes writes: {text}"));
            told = text;
        }
        pause(RETRY)?;
    }
}

impl Writer<'_> {
    fn session(&mut self, node: &mut ServerConnection) -> Result<(), End> {
        node.query(rows::CREATE)?;
        self.settle(node)?;
        loop {
            let id = self.note.last + 1;
            node.query(&rows::insert(id))?;
            self.acknowledged(id)?;
            if clock::now() >= self.next_look {
                self.look(node)?;
            }
            pause(self.interval)?;
        }
    }

    fn acknowledged(&mut self, id: u64) -> Result<(), Failure> {
        self.note.last = id;
        self.note.write(self.file)
    }

    /// Finds out what became of the row that was under way.
    fn settle(&mut self, node: &mut ServerConnection) -> Result<(), End> {
        let (highest, last) = (rows::highest(node)?, self.note.last);
        if highest > last + 1 {
            let what =
                format!("row {highest} is there, but only {last} were written: is there another client?");
            return Err(Failure(what).into());
        }
        if highest == last + 1 {
            self.acknowledged(highest)?;
        }
        self.check(rows::check_count(node, self.note)?)
    }

    fn check(&self, looked: Result<(), String>) -> Result<(), End> {
        looked.map_err(|wrong| Failure(format!("FAILED: {wrong} (rows {})", self.note)).into())
    }

    fn look(&mut self, node: &mut ServerConnection) -> Result<(), End> {
        self.next_look = clock::now().saturating_add(LOOK);
        self.check(rows::check_count(node, self.note)?)?;
        self.looks += 1;
        if self.looks.is_multiple_of(TOLD_EVERY) {
            say(format!("rows {} acknowledged, all of them are there", self.note));
        }
        if self.note.count() >= ROWS_MAX {
            // Nobody is to miss what goes now.
            self.note.first = self.note.last - ROWS_MAX / 2 + 1;
            self.note.write(self.file)?;
            node.query(&rows::delete_before(self.note.first))?;
        }
        Ok(())
    }
}

fn pause(time: Duration) -> Result<(), Failure> {
    let failed = |error| Failure(format!("could not wait: {error}"));
    let mut nothing = WaitEventSet::without_process(0).map_err(failed)?;
    nothing.wait(Some(time), WaitEvent::ClientRead, &mut Vec::new()).map_err(failed)
}
