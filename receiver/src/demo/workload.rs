//! What the clients write, and what they remember of the answers.
//!
//! The built-in mix is two kinds of statement, in turn: an upsert of one of the client's own keys (so that the last
//! acknowledged value of each key is known), and an insert that leaves key, time and a random number to the primary
//! (so that equal rows on both nodes mean that what was decided there was shipped, not decided again).
//!
//! A file is written line by line, key = line number, by whichever client is free.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;

/// Keys of each client.
const KEYS: u64 = 500;
/// Every so many statements one is an insert into `events`.
const EVENT_EVERY: u64 = 4;

/// A statement on its way, as its client remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// Upsert of this key with this value.
    Upsert(String, String),
    /// The client's event of this number.
    Event(u64),
    /// This line of the file.
    Line(u64),
}

#[derive(Debug)]
struct ClientState {
    statements: u64,
    events: u64,
}

/// A file being read.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    size: u64,
    read: u64,
    number: u64,
}

/// The workload of all clients.
#[derive(Debug)]
pub(super) struct Workload {
    clients: Vec<ClientState>,
    lines: Option<Lines>,
    /// Acknowledged: the value of each key.
    pub(super) values: HashMap<String, String>,
    /// Acknowledged: the number of events of each client.
    pub(super) events: Vec<u64>,
    /// Acknowledged: the number of lines.
    pub(super) written_lines: u64,
}

impl Workload {
    /// The built-in mix.
    pub(super) fn mixed(clients: u32) -> Workload {
        Workload {
            clients: (0..clients).map(|_| ClientState { statements: 0, events: 0 }).collect(),
            lines: None,
            values: HashMap::new(),
            events: (0..clients).map(|_| 0).collect(),
            written_lines: 0,
        }
    }

    /// The lines of a file.
    pub(super) fn of_file(path: &Path, clients: u32) -> Result<Workload, Failure> {
        let reader = open(path)?;
        let size =
            reader.get_ref().metadata().map_err(Failure::io(format!("read {}", path.display())))?.len();
        let lines = Lines { path: path.to_owned(), reader, size, read: 0, number: 0 };
        Ok(Workload { lines: Some(lines), ..Workload::mixed(clients) })
    }

    /// How many clients write.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The file whose lines are written, if it is not the built-in mix.
    pub(super) fn file(&self) -> Option<&Path> {
        self.lines.as_ref().map(|lines| lines.path.as_path())
    }

    /// The statements that create the tables.
    pub(super) fn tables(&self) -> &'static [&'static str] {
        if self.lines.is_some() {
            return &["CREATE TABLE lines(line integer PRIMARY KEY, text text NOT NULL)"];
        }
        &[
            "CREATE TABLE kv(key text PRIMARY KEY, value text NOT NULL)",
            "CREATE TABLE events(id integer PRIMARY KEY AUTOINCREMENT, client integer, number integer, \
             at text DEFAULT CURRENT_TIMESTAMP, dice integer DEFAULT (random()))",
        ]
    }

    /// What will happen, in a line.
    pub(super) fn describe(&self, limit: Option<Duration>) -> String {
        let clients = self.clients.len();
        match (&self.lines, limit) {
            (Some(lines), _) => {
                format!(
                    "{clients} clients write {} ({} bytes), a row per line",
                    lines.path.display(),
                    lines.size
                )
            }
            (None, limit) => {
                let seconds = limit.unwrap_or_default().as_secs();
                format!(
                    "{clients} clients write for {seconds} s: upserts, and inserts with random() and the clock"
                )
            }
        }
    }

    /// How much of a file is written, in percent; None for the built-in mix, which ends by time.
    pub(super) fn percent(&self) -> Option<u64> {
        self.lines.as_ref().map(|lines| (lines.read * 100).checked_div(lines.size).unwrap_or(100))
    }

    /// The next statement of a client; None when there is nothing left to write.
    pub(super) fn next(&mut self, client: usize) -> Result<Option<(String, Sent)>, Failure> {
        if let Some(lines) = &mut self.lines {
            return lines.next();
        }
        let state = &mut self.clients[client];
        state.statements += 1;
        if state.statements.is_multiple_of(EVENT_EVERY) {
            state.events += 1;
            let number = state.events;
            let sql = format!("INSERT INTO events(client, number) VALUES ({client}, {number})");
            return Ok(Some((sql, Sent::Event(number))));
        }
        let key = format!("c{client}-{}", state.statements % KEYS);
        let value = format!("{:>10} {}", state.statements, "x".repeat(89));
        let sql = format!(
            "INSERT INTO kv VALUES ('{key}', '{value}') ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        );
        Ok(Some((sql, Sent::Upsert(key, value))))
    }

    /// The statement was acknowledged.
    pub(super) fn acknowledge(&mut self, client: usize, sent: Sent) {
        match sent {
            Sent::Upsert(key, value) => drop(self.values.insert(key, value)),
            Sent::Event(_) => self.events[client] += 1,
            Sent::Line(_) => self.written_lines += 1,
        }
    }
}

impl Lines {
    fn next(&mut self) -> Result<Option<(String, Sent)>, Failure> {
        let Some(line) = read_line(&mut self.reader, &self.path)? else { return Ok(None) };
        self.number += 1;
        self.read += line.bytes;
        if line.text.contains('\0') {
            let path = self.path.display();
            let number = self.number;
            return Err(Failure::new(format!("line {number} of {path} holds a NUL, which a text cannot")));
        }
        let text = line.text.replace('\'', "''");
        let sql = format!("INSERT INTO lines VALUES ({}, '{text}')", self.number);
        Ok(Some((sql, Sent::Line(self.number))))
    }
}

/// A line of a file as it is written.
#[derive(Debug)]
pub(super) struct Line {
    /// Without its end; what is not UTF-8 is replaced.
    pub(super) text: String,
    /// Its length in the file.
    bytes: u64,
}

/// Opens a file for [`read_line`].
pub(super) fn open(path: &Path) -> Result<BufReader<File>, Failure> {
    let file = File::open(path).map_err(Failure::io(format!("open {}", path.display())))?;
    Ok(BufReader::new(file))
}

/// The next line; None at the end of the file.
pub(super) fn read_line(reader: &mut BufReader<File>, path: &Path) -> Result<Option<Line>, Failure> {
    let mut bytes = Vec::new();
    let count =
        reader.read_until(b'\n', &mut bytes).map_err(Failure::io(format!("read {}", path.display())))?;
    if count == 0 {
        return Ok(None);
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok(Some(Line { text: String::from_utf8_lossy(text).into_owned(), bytes: count as u64 }))
}
