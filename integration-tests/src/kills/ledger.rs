//! The load of the kill loop, and what its clients know: unique rows, in tables that would show a row lost, doubled or
//! half there.
//!
//! `acked` has no key, so a row that is put twice is there twice. Every fourth row goes with a row of `pairs` and one
//! more in `counts`, in one transaction: the three agree at any time, or a transaction was torn or done twice. Clients
//! send many statements ahead and read the answers afterwards, so that whatever is done meets writes in every state.

use std::collections::BTreeMap;

use crate::client::{Answer, Client};
use crate::node::Node;
use crate::random::Random;

/// The tables, all of which both nodes must agree about.
pub const TABLES: [&str; 3] = ["acked", "pairs", "counts"];
const CREATE: [&str; 3] = [
    "CREATE TABLE acked(id integer, client integer, filler text)",
    "CREATE TABLE pairs(id integer PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE counts(client integer PRIMARY KEY, n integer)",
];
const WRITERS: usize = 5;
const READERS: usize = 2;
/// Most statements that a client should send ahead: few enough for the sockets' buffers.
pub const AHEAD_MAX: u64 = 80;
/// With so many rows or more, all are deleted, so that a look at all of them stays short.
const ROWS_MAX: usize = 6_000;

/// A client, and the ids of the rows that its statements insert, in the order that they were sent in.
#[derive(Debug)]
struct Writer {
    client: Client,
    sent: Vec<Option<u64>>,
}

/// What the clients know.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Rows that were sent and not deleted: whether they are known to be there.
    rows: BTreeMap<u64, bool>,
    next_id: u64,
    writers: Vec<Writer>,
    readers: Vec<(Client, u64)>,
    /// Rows that were acknowledged so far.
    pub acknowledged: u64,
    /// Rows whose INSERT ended without an answer, or with one that leaves it open.
    pub unanswered: u64,
}

impl Ledger {
    /// Makes the tables.
    pub fn create(node: &Node) -> Result<Ledger, String> {
        let mut client = connect(node)?;
        for sql in CREATE {
            client.query(sql).map_err(|error| format!("{sql}: {error}"))?;
        }
        for number in 0..WRITERS {
            let sql = format!("INSERT INTO counts VALUES ({number}, 0)");
            client.query(&sql).map_err(|error| format!("{sql}: {error}"))?;
        }
        Ok(Ledger { next_id: 1, ..Ledger::default() })
    }

    /// Connects all clients; deletes all rows first when they have become many.
    pub fn connect(&mut self, primary: &Node, standby: &Node) -> Result<(), String> {
        if self.rows.len() >= ROWS_MAX {
            let sql = "DELETE FROM acked; DELETE FROM pairs; UPDATE counts SET n = 0";
            connect(primary)?.query(sql).map_err(|error| format!("{sql}: {error}"))?;
            self.rows.clear();
        }
        for _ in 0..WRITERS {
            self.writers.push(Writer { client: connect(primary)?, sent: Vec::new() });
        }
        for _ in 0..READERS {
            self.readers.push((connect(standby)?, 0));
        }
        self.readers.push((connect(primary)?, 0));
        Ok(())
    }

    /// Every client sends less than `ahead` statements and reads nothing.
    pub fn send(&mut self, random: &mut Random, ahead: u64) {
        for (number, writer) in self.writers.iter_mut().enumerate() {
            for _ in 0..random.below(ahead) {
                let id = self.next_id;
                let (sql, inserts) = statement(random, number, id);
                if inserts {
                    self.next_id += 1;
                    self.rows.insert(id, false);
                    self.unanswered += 1;
                }
                // Also what could not be sent whole may have been read whole.
                writer.sent.push(inserts.then_some(id));
                if writer.client.send_query(&sql).is_err() {
                    break;
                }
            }
        }
        for (client, sent) in &mut self.readers {
            for _ in 0..random.below(5) {
                // A dead connection shows when it is read from.
                *sent +=
                    u64::from(client.send_query("SELECT count(*), sum(length(filler)) FROM acked").is_ok());
            }
        }
    }

    /// Reads all that is answered and disconnects.
    pub fn read(&mut self) -> Result<(), String> {
        for mut writer in std::mem::take(&mut self.writers) {
            for id in writer.sent {
                let Ok(answer) = writer.client.read_answer() else { break };
                match verdict(&answer)? {
                    Verdict::Done => {
                        if let Some(id) = id {
                            self.rows.insert(id, true);
                            self.acknowledged += 1;
                            self.unanswered -= 1;
                        }
                    }
                    Verdict::Open => {}
                    Verdict::End => break,
                }
            }
        }
        for (mut client, sent) in std::mem::take(&mut self.readers) {
            for _ in 0..sent {
                let Ok(answer) = client.read_answer() else { break };
                verdict(&answer)?;
            }
        }
        Ok(())
    }

    /// Writes as much as begins segments and has the tables' own log start over.
    pub fn fill(&mut self, primary: &Node) -> Result<(), String> {
        let mut client = connect(primary)?;
        for sql in [
            "CREATE TABLE IF NOT EXISTS large(x)",
            "INSERT INTO large VALUES (zeroblob(600000)), (zeroblob(600000)), (zeroblob(600000)), (zeroblob(600000))",
            "DELETE FROM large",
            "SELECT pg_switch_wal()",
            "INSERT INTO large VALUES (1)",
            "CHECKPOINT",
        ] {
            let answer = client.answer(sql).map_err(|error| format!("{sql}: {error}"))?;
            verdict(&answer)?;
        }
        // They may be there, or not, from an attempt that was cut short.
        for sql in [
            "SELECT pg_drop_replication_slot('errand')",
            "SELECT pg_create_physical_replication_slot('errand')",
            "SELECT pg_drop_replication_slot('errand')",
        ] {
            client.answer(sql).map_err(|error| format!("{sql}: {error}"))?;
        }
        Ok(())
    }

    /// Checks the primary's rows against what is known. What is found from now on must stay, what is not must not come.
    pub fn check(&mut self, primary: &Node) -> Result<(), String> {
        let mut client = connect(primary)?;
        let mut found = BTreeMap::<u64, (u64, u64)>::new();
        for row in read(&mut client, "SELECT id, client, length(filler) = id % 700 FROM acked")? {
            let [id, client, whole] = row[..] else { return Err(format!("a row of {} columns", row.len())) };
            if whole != 1 {
                return Err(format!("row {id} is not as it was inserted"));
            }
            found.entry(id).or_insert((client, 0)).1 += 1;
        }
        if let Some((id, (_, times))) = found.iter().find(|(_, (_, times))| *times != 1) {
            return Err(format!("row {id} is there {times} times"));
        }
        let lost: Vec<_> =
            self.rows.iter().filter(|(id, known)| **known && !found.contains_key(id)).collect();
        if !lost.is_empty() {
            return Err(format!("rows that were acknowledged or seen are lost: {lost:?}"));
        }
        let invented: Vec<_> = found.keys().filter(|id| !self.rows.contains_key(id)).collect();
        if !invented.is_empty() {
            return Err(format!("rows that nobody sent, or that were gone: {invented:?}"));
        }
        self.rows = found.keys().map(|id| (*id, true)).collect();
        check_pairs(&mut client, &found)
    }
}

/// Transactions are there as a whole, and once.
fn check_pairs(client: &mut Client, found: &BTreeMap<u64, (u64, u64)>) -> Result<(), String> {
    let paired: Vec<u64> = found.keys().copied().filter(|id| is_paired(*id)).collect();
    let pairs: Vec<u64> = read(client, "SELECT id FROM pairs ORDER BY id")?.into_iter().flatten().collect();
    if paired != pairs {
        return Err(format!("a transaction was torn: acked has {paired:?}, pairs has {pairs:?}"));
    }
    for row in read(client, "SELECT client, n FROM counts")? {
        let count =
            found.iter().filter(|(id, (client, _))| is_paired(**id) && *client == row[0]).count() as u64;
        if count != row[1] {
            return Err(format!("client {} has {count} pairs, and counted {}", row[0], row[1]));
        }
    }
    Ok(())
}

fn is_paired(id: u64) -> bool {
    id.is_multiple_of(4)
}

/// The next statement of a client, and whether it inserts row `id`.
fn statement(random: &mut Random, client: usize, id: u64) -> (String, bool) {
    match random.below(60) {
        0 => return ("SELECT pg_switch_wal()".to_owned(), false),
        1 => {
            let message = "SELECT pg_logical_emit_message(true, 'kills', hex(zeroblob(6000)))";
            return (message.to_owned(), false);
        }
        2 => return ("CREATE TABLE IF NOT EXISTS extra(x)".to_owned(), false),
        3 => return ("DROP TABLE IF EXISTS extra".to_owned(), false),
        5 => {
            let sql = format!("SELECT pg_create_physical_replication_slot('load_{client}', true)");
            return (sql, false);
        }
        6 => return (format!("SELECT pg_drop_replication_slot('load_{client}')"), false),
        7 => {
            let sql =
                format!("SELECT pg_replication_slot_advance('load_{client}', pg_current_wal_flush_lsn())");
            return (sql, false);
        }
        4 => return ("UPDATE acked SET filler = filler WHERE id % 7 = 0".to_owned(), false),
        _ => {}
    }
    let filler = "x".repeat(usize::try_from(id % 700).expect("below 700"));
    let mut sql = format!("INSERT INTO acked VALUES ({id}, {client}, '{filler}')");
    if is_paired(id) {
        sql = format!(
            "{sql}; INSERT INTO pairs VALUES ({id}); UPDATE counts SET n = n + 1 WHERE client = {client}"
        );
    }
    (sql, true)
}

enum Verdict {
    Done,
    /// An error that leaves open whether it was done.
    Open,
    /// The session has ended.
    End,
}

fn verdict(answer: &Answer) -> Result<Verdict, String> {
    match &answer.error {
        None => Ok(Verdict::Done),
        Some(error) if error.severity != "ERROR" => Ok(Verdict::End),
        // A full disk or a broken one, a snapshot that had to give way, a slot that is there already or isn't.
        Some(error) if ["53100", "58030", "40001", "42710", "42704"].contains(&error.sqlstate.as_str()) => {
            Ok(Verdict::Open)
        }
        Some(error) => Err(format!("a client was told {error}")),
    }
}

fn connect(node: &Node) -> Result<Client, String> {
    node.try_client().map_err(|error| format!("could not connect: {error}"))
}

fn read(client: &mut Client, sql: &str) -> Result<Vec<Vec<u64>>, String> {
    let answer = client.query(sql).map_err(|error| format!("{sql}: {error}"))?;
    let number = |value: Option<String>| value.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    Ok(answer.rows.into_iter().map(|row| row.into_iter().map(number).collect()).collect())
}
