//! What the clients of a recorded node ask for: by seed, short, and a bit of everything that writes.
//!
//! Keys carry the number of their client ([`super::history::owner`]), bodies are unique, so that every version of every
//! row can be told from all others.

use std::collections::BTreeMap;

use super::history::{Effect, History, Key, Rows, Statement};
use crate::client::{Client, ClientError};
use crate::node::Node;
use crate::random::Random;

/// The shared tables: rowids, a primary key without them, and a rowid hidden behind a unique key with an index more.
const TABLES: [&str; 3] = [
    "CREATE TABLE a(k text, body text, PRIMARY KEY (k))",
    "CREATE TABLE b(k text PRIMARY KEY, body text) WITHOUT ROWID",
    "CREATE TABLE c(n integer PRIMARY KEY AUTOINCREMENT, k text UNIQUE, body text)",
];

/// Replication slots stand among the rows as those of a table of this name: like rows they are there once they were
/// acknowledged, and gone once that was.
pub const SLOTS: &str = "replication slots";

/// Most slots of one client: four clients may have as many as there can be by default.
const SLOTS_MAX: usize = 2;

/// Clients of a node, each with a session.
#[derive(Debug)]
pub struct Workload {
    random: Random,
    sessions: Vec<Session>,
    round: u32,
    /// Number of the next key or body.
    next: u64,
    /// Longest body, bytes.
    body_max: u64,
    /// Whether slots are made, advanced and dropped.
    pub with_slots: bool,
    /// What was asked for in this life of the node.
    pub history: History,
}

#[derive(Debug)]
struct Session {
    client: Client,
    /// Answers so far; the start of the session has got one.
    answers: usize,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundEnd {
    /// All were answered.
    Answered,
    /// The node has gone, or is going.
    Interrupted,
}

impl Workload {
    /// `clients` clients that are not connected.
    pub fn new(seed: u64, clients: usize) -> Workload {
        let mut random = Random::new(seed);
        let body_max = *random.pick(&[40, 400, 6_000, 60_000]);
        let history = History::new(clients);
        Workload { random, sessions: Vec::new(), round: 0, next: 0, body_max, with_slots: false, history }
    }

    /// Connects all clients and, the first time, makes the tables.
    pub fn connect(&mut self, node: &Node) -> Result<(), ClientError> {
        self.sessions.clear();
        for _ in &self.history.clients {
            self.sessions.push(Session { client: node.try_client()?, answers: 1 });
        }
        for table in TABLES {
            let name = table.split([' ', '(']).nth(2).unwrap_or_default();
            let first = &self.history.clients[0];
            // After a power loss some of them may be there already.
            if first.rows_after(first.statements.len()).contains_key(&(name.to_owned(), String::new())) {
                continue;
            }
            self.round += 1;
            let effect = Effect::Put((name.to_owned(), String::new()), String::new());
            self.send(0, table.to_owned(), vec![effect])?;
            if self.read(0) == RoundEnd::Interrupted {
                return Err(std::io::Error::other("the node went while tables were made").into());
            }
        }
        Ok(())
    }

    /// One statement of each client; `between` is called after `after` of the answers.
    pub fn round(&mut self, after: usize, mut between: impl FnMut()) -> RoundEnd {
        self.round += 1;
        let mut end = RoundEnd::Answered;
        let mut sent = Vec::new();
        for client in 0..self.sessions.len() {
            let (sql, effects) = self.statement(client);
            match self.send(client, sql, effects) {
                Ok(()) => sent.push(client),
                Err(_) => end = RoundEnd::Interrupted,
            }
        }
        for (number, client) in sent.into_iter().enumerate() {
            if number == after {
                between();
            }
            if self.read(client) == RoundEnd::Interrupted {
                end = RoundEnd::Interrupted;
            }
        }
        end
    }

    /// Begins a read that stands still, as its client takes no more than the buffers between do: it keeps the tables'
    /// own log from being copied, and checkpoints from syncing it, until it is dropped.
    pub fn begin_slow_read(&self, node: &Node) -> Result<Client, ClientError> {
        let mut client = node.try_client()?;
        client.send_query(
            "SELECT hex(zeroblob(500000)), k FROM a, (VALUES (1), (2), (3), (4), (5), (6), (7), (8))",
        )?;
        Ok(client)
    }

    /// The sessions end.
    pub fn disconnect(&mut self) {
        self.sessions.clear();
    }

    fn send(&mut self, client: usize, sql: String, effects: Vec<Effect>) -> Result<(), ClientError> {
        let session = &mut self.sessions[client];
        let answer = (u32::try_from(session.client.backend_pid).unwrap_or(0), session.answers);
        session.answers += 1;
        let result = session.client.send_query(&sql);
        // Also what could not be sent whole may have been read whole.
        let statement = Statement { sql, effects, round: self.round, answer, acknowledged: false };
        self.history.clients[client].statements.push(statement);
        result
    }

    fn read(&mut self, client: usize) -> RoundEnd {
        let answer = self.sessions[client].client.read_answer();
        let statement = self.history.clients[client].statements.last_mut().expect("one was sent");
        match answer {
            Ok(answer) if answer.error.is_none() => {
                statement.acknowledged = true;
                RoundEnd::Answered
            }
            Ok(answer) if answer.error.as_ref().is_some_and(|error| error.severity == "ERROR") => {
                assert!(statement.effects.is_empty(), "{}: {:?}", statement.sql, answer.error);
                RoundEnd::Answered
            }
            // No answer, or a FATAL one of a server that goes down: it may be there or not.
            _ => RoundEnd::Interrupted,
        }
    }

    /// What a client asks for next.
    fn statement(&mut self, client: usize) -> (String, Vec<Effect>) {
        let history = &self.history.clients[client];
        let rows = history.rows_after(history.statements.len());
        let number = self.next;
        self.next += 1;
        let table = *self.random.pick(&["a", "b", "c"]);
        let kinds = if self.with_slots { 24 } else { 20 };
        match self.random.below(kinds) {
            20.. => self.slot(&rows, client, number),
            0..=7 => self.insert(table, client, number, 1),
            8 => self.insert(table, client, number, 3),
            9..=12 => self.update(&rows, client, number),
            13..=14 => self.delete(&rows),
            15 => self.several(&rows, client, number),
            16 => Workload::table(&rows, client, number),
            17 => (format!("SELECT pg_logical_emit_message(true, 'test', 'message {number}')"), Vec::new()),
            18 if self.random.below(3) == 0 => ("SELECT pg_switch_wal()".to_owned(), Vec::new()),
            18 => {
                (format!("INSERT INTO b SELECT k, 'never' FROM b WHERE k = '{client}.{number}'"), Vec::new())
            }
            _ => match rows.keys().find(|(table, key)| table == "b" && !key.is_empty()) {
                // Fails, and leaves nothing.
                Some((_, key)) => (format!("INSERT INTO b VALUES ('{key}', 'never')"), Vec::new()),
                None => self.insert("b", client, number, 1),
            },
        }
    }

    fn body(&mut self, client: usize, number: u64) -> String {
        let length = self.random.below(self.body_max);
        let filler = char::from(b'a' + u8::try_from(number % 26).unwrap());
        let length = usize::try_from(length).unwrap();
        format!("v{client}.{number}.{}", std::iter::repeat_n(filler, length).collect::<String>())
    }

    fn insert(&mut self, table: &str, client: usize, number: u64, count: usize) -> (String, Vec<Effect>) {
        let mut values = Vec::new();
        let mut effects = Vec::new();
        for part in 0..count {
            let key = format!("{client}.{number}.{part}");
            let body = self.body(client, number);
            values.push(format!("('{key}', '{body}')"));
            effects.push(Effect::Put((table.to_owned(), key), body));
        }
        (format!("INSERT INTO {table}(k, body) VALUES {}", values.join(", ")), effects)
    }

    fn row(&mut self, rows: &Rows) -> Option<Key> {
        let keys: Vec<&Key> = rows.keys().filter(is_row).collect();
        if keys.is_empty() { None } else { Some((*self.random.pick(&keys)).clone()) }
    }

    fn update(&mut self, rows: &Rows, client: usize, number: u64) -> (String, Vec<Effect>) {
        let Some((table, key)) = self.row(rows) else { return self.insert("a", client, number, 1) };
        let body = self.body(client, number);
        let sql = format!("UPDATE {table} SET body = '{body}' WHERE k = '{key}'");
        (sql, vec![Effect::Put((table, key), body)])
    }

    fn delete(&mut self, rows: &Rows) -> (String, Vec<Effect>) {
        match self.row(rows) {
            Some((table, key)) => {
                (format!("DELETE FROM {table} WHERE k = '{key}'"), vec![Effect::Remove((table, key))])
            }
            None => ("DELETE FROM a WHERE k = 'nobody'".to_owned(), Vec::new()),
        }
    }

    /// Several statements as one: all or nothing.
    fn several(&mut self, rows: &Rows, client: usize, number: u64) -> (String, Vec<Effect>) {
        if !rows.keys().any(|key| is_row(&key)) {
            return self.insert("a", client, number, 2);
        }
        let parts = [
            self.insert("a", client, number, 2),
            self.update(rows, client, number),
            self.insert("b", client, number, 1),
            self.delete(rows),
        ];
        // The delete comes last, so it may hit the row of the update but none that is not there.
        let sql: Vec<String> = parts.iter().map(|(sql, _)| sql.clone()).collect();
        (sql.join("; "), parts.into_iter().flat_map(|(_, effects)| effects).collect())
    }

    /// Makes a slot of the client's own that keeps the log from here on, has it keep less, or drops it.
    fn slot(&mut self, rows: &Rows, client: usize, number: u64) -> (String, Vec<Effect>) {
        let own: Vec<&Key> = rows.keys().filter(|(table, _)| table == SLOTS).collect();
        if own.is_empty() || (own.len() < SLOTS_MAX && self.random.below(2) == 0) {
            let name = format!("{client}_{number}");
            let sql = format!("SELECT pg_create_physical_replication_slot('{name}', true)");
            return (sql, vec![Effect::Put((SLOTS.to_owned(), name), String::new())]);
        }
        let key = (*self.random.pick(&own)).clone();
        if self.random.below(3) == 0 {
            (format!("SELECT pg_drop_replication_slot('{}')", key.1), vec![Effect::Remove(key)])
        } else {
            // On disk with the next checkpoint, which then has less to keep.
            let sql = format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_flush_lsn())", key.1);
            (sql, Vec::new())
        }
    }

    /// Makes a table of the client's own with a row in it, or drops or indexes one.
    fn table(rows: &Rows, client: usize, number: u64) -> (String, Vec<Effect>) {
        let own = rows.keys().find(|(table, key)| table.starts_with("own_") && key.is_empty());
        match own {
            Some((table, _)) if number.is_multiple_of(2) => {
                (format!("DROP TABLE {table}"), vec![Effect::Remove((table.clone(), String::new()))])
            }
            Some((table, _)) => (format!("CREATE INDEX {table}_{number} ON {table}(body)"), Vec::new()),
            None => {
                let table = format!("own_{client}_{number}");
                let sql = format!(
                    "CREATE TABLE {table}(k text PRIMARY KEY, body text); INSERT INTO {table} VALUES ('1', 'v{number}')"
                );
                let row = Effect::Put((table.clone(), "1".to_owned()), format!("v{number}"));
                (sql, vec![Effect::Put((table, String::new()), String::new()), row])
            }
        }
    }
}

/// Whether it is a row that a statement can change.
fn is_row((table, key): &&Key) -> bool {
    !key.is_empty() && table != SLOTS
}

/// Every slot, and every row of every table of the workload, in one statement so that it is one state. How many answers it
/// took, also.
pub fn read_rows(client: &mut Client) -> Result<(Rows, usize), String> {
    let mut query = |sql: &str| client.query(sql).map_err(|error| format!("{sql}: {error}"));
    let mut rows = Rows::new();
    // That of a standby is none of the clients'.
    let slots = "SELECT slot_name FROM pg_replication_slots WHERE slot_name <> 'standby'";
    for slot in query(slots)?.rows.into_iter().flatten().flatten() {
        rows.insert((SLOTS.to_owned(), slot), String::new());
    }
    let tables = query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")?;
    let names: Vec<String> = tables.rows.into_iter().flatten().flatten().collect();
    let names: Vec<String> = names.into_iter().filter(|name| !name.contains("walship")).collect();
    if names.is_empty() {
        return Ok((rows, 2));
    }
    let selects: Vec<String> =
        names.iter().map(|name| format!("SELECT '{name}', k, body FROM {name}")).collect();
    let found = query(&selects.join(" UNION ALL "))?;
    for name in names {
        rows.insert((name, String::new()), String::new());
    }
    let mut counted: BTreeMap<Key, usize> = BTreeMap::new();
    for row in found.rows {
        let mut values = row.into_iter().map(Option::unwrap_or_default);
        let (table, key, body) = (values.next(), values.next(), values.next());
        let key = (table.unwrap_or_default(), key.unwrap_or_default());
        *counted.entry(key.clone()).or_default() += 1;
        rows.insert(key, body.unwrap_or_default());
    }
    match counted.into_iter().find(|(_, count)| *count > 1) {
        Some((key, count)) => Err(format!("{key:?} is there {count} times")),
        None => Ok((rows, 3)),
    }
}
