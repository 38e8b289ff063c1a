//! What a session asks the startup process to execute, and what comes back: the bytes of [`crate::requests`].
//!
//! A request is the statements of one transaction. An answer is
//!
//! ```text
//! | 0 | 1 | 1 success, 2 success and its notifications come later, 0 error |
//! | 1 | 8 | end LSN of the record, 0 if nothing was logged | 9.. | body |
//! ```
//!
//! The body of a success is what the client gets, in protocol messages (RowDescription, DataRow, CommandComplete), that
//! of an error is the error. Rows are gathered up to what fits; a write that returns more is undone (54000) before it is
//! logged.

use bincode::{Decode, Encode};
use engine::control::{Control, Interruption};
use engine::error::{SqlError, SqlState};
use engine::roles::Asker;
use engine::rows::{Column, CommandTag, Row, RowSink};
use engine::writer::WriteRequest;
use ipc::interrupt::Interrupts;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use std::cell::Cell;
use std::time::Duration;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wal::store::StoreError;

use crate::backend_status::cut;
use crate::memory_report::report_if_asked;
use crate::node::Node;
use crate::requests::ANSWER_BYTES_MAX;
use crate::sync_rep::Confirmation;

const HEADER: usize = 9;
/// Bytes kept of each text of an error.
const ERROR_TEXT_BYTES: usize = 8 * 1024;
/// How often a statement that runs for long looks at the signals of its process.
const SIGNALS_EVERY: Duration = Duration::from_millis(10);

/// A request as the session writes it.
#[derive(Debug, Decode, Encode)]
pub struct WriteMessage {
    /// Whether the client wants to see what each statement returned (not at COMMIT).
    pub replies: bool,
    /// The statements of the transaction, in order.
    pub statements: Vec<String>,
    /// What it notifies when it has committed: channels and payloads, in order.
    pub notifications: Vec<(String, String)>,
    /// Whether the session waits until who reads on the synchronous standbys sees it.
    pub remote_apply: bool,
    /// Whose it is, and what that role may do.
    pub asker: Asker,
}

impl WriteMessage {
    /// Bytes of all its texts.
    pub fn text_bytes(&self) -> usize {
        let notifications =
            self.notifications.iter().map(|(channel, payload)| channel.len() + payload.len()).sum::<usize>();
        self.statements.iter().map(String::len).sum::<usize>() + notifications
    }

    /// The bytes to submit.
    pub fn encode(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, bincode::config::standard()).expect("strings always encode")
    }

    /// Reads what a session submitted.
    ///
    /// # Errors
    /// XX000: it isn't one.
    pub fn decode(bytes: &[u8]) -> Result<WriteMessage, SqlError> {
        bincode::decode_from_slice(bytes, bincode::config::standard()).map(|(message, _)| message).map_err(
            |error| SqlError::new(SqlState::INTERNAL_ERROR, format!("malformed write request: {error}")),
        )
    }

    /// What the session waits for.
    pub fn confirmation(&self) -> Confirmation {
        if self.remote_apply { Confirmation::Applied } else { Confirmation::Durable }
    }

    /// As the engine takes it.
    pub fn into_request(self) -> WriteRequest {
        WriteRequest { statements: self.statements, asker: self.asker }
    }
}

/// An answer as the session reads it.
#[derive(Debug)]
pub enum Answer {
    /// The transaction is durable on this node.
    Success {
        /// End of its record; invalid when it changed nothing.
        lsn: Lsn,
        /// Its notifications are published only when the horizon has passed it.
        notifies_later: bool,
        /// Protocol messages for the client.
        messages: Vec<u8>,
    },
    /// Nothing of it happened.
    Error(SqlError),
}

impl Answer {
    /// The bytes of a success.
    pub fn success(lsn: Lsn, rows: AnswerRows) -> Vec<u8> {
        let mut bytes = rows.bytes;
        bytes[0] = 1;
        bytes[1..HEADER].copy_from_slice(&lsn.0.to_le_bytes());
        bytes
    }

    /// Notes in the bytes of a success that its notifications come later.
    pub fn notify_later(success: &mut [u8]) {
        success[0] = 2;
    }

    /// The bytes of an error; long texts are cut.
    pub fn error(error: &SqlError) -> Vec<u8> {
        let mut error = error.clone();
        error.message = cut(&error.message, ERROR_TEXT_BYTES).to_owned();
        for text in [&mut error.detail, &mut error.hint].into_iter().flatten() {
            *text = cut(text, ERROR_TEXT_BYTES).to_owned();
        }
        let mut bytes = vec![0; HEADER];
        bytes.extend(
            bincode::encode_to_vec(&error, bincode::config::standard()).expect("strings always encode"),
        );
        bytes
    }

    /// Reads an answer.
    pub fn decode(mut bytes: Vec<u8>) -> Answer {
        let Some(&header) = bytes.first_chunk::<HEADER>() else {
            return Answer::Error(SqlError::new(
                SqlState::INTERNAL_ERROR,
                "the answer to a write is too short",
            ));
        };
        let [success, lsn @ ..] = header;
        if success != 0 {
            bytes.drain(..HEADER);
            let (lsn, notifies_later) = (Lsn(u64::from_le_bytes(lsn)), success == 2);
            return Answer::Success { lsn, notifies_later, messages: bytes };
        }
        match bincode::decode_from_slice(&bytes[HEADER..], bincode::config::standard()) {
            Ok((error, _)) => Answer::Error(error),
            Err(error) => Answer::Error(SqlError::new(
                SqlState::INTERNAL_ERROR,
                format!("malformed answer to a write: {error}"),
            )),
        }
    }
}

/// What a session or a writer tells its client when the log takes nothing.
pub fn log_error(error: &StoreError) -> SqlError {
    if error.is_full_disk() {
        return no_room(error.to_string());
    }
    SqlError::new(SqlState::IO_ERROR, error.to_string())
}

/// 53100.
pub fn no_room(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::DISK_FULL, message)
        .with_detail("Nothing of this transaction was written.")
        .with_hint("Free disk space; writes are taken again as soon as there is room, without a restart.")
}

/// Gathers what the statements return as protocol messages.
#[derive(Debug)]
pub struct AnswerRows {
    wanted: bool,
    /// The answer: room for its header, then the messages.
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl AnswerRows {
    /// Keeps nothing unless `wanted`; an answer of more than `bytes_max` is refused (of [`ANSWER_BYTES_MAX`], in any case).
    pub fn new(wanted: bool, bytes_max: usize) -> AnswerRows {
        AnswerRows { wanted, bytes: vec![0; HEADER], bytes_max: bytes_max.min(ANSWER_BYTES_MAX) }
    }

    fn check(&self) -> Result<(), SqlError> {
        if self.bytes.len() <= self.bytes_max {
            return Ok(());
        }
        if self.bytes_max == ANSWER_BYTES_MAX {
            return Err(engine::rows::rows_exceed(ANSWER_BYTES_MAX - HEADER));
        }
        Err(SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory")
            .with_detail(
                "Rows returned by writes are waiting for sessions that have not taken them yet.".to_owned(),
            )
            .with_hint("Try again, or return fewer rows."))
    }
}

impl RowSink for AnswerRows {
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        if self.wanted {
            put_columns(&mut self.bytes, columns);
        }
        self.check()
    }

    fn row(&mut self, row: &Row) -> Result<(), SqlError> {
        if self.wanted {
            put_row(&mut self.bytes, row)?;
        }
        self.check()
    }

    fn complete(&mut self, tag: CommandTag) -> Result<(), SqlError> {
        if self.wanted {
            wire::backend::command_complete(&mut self.bytes, &tag.to_string());
        }
        self.check()
    }
}

/// Appends the columns as a RowDescription.
pub fn put_columns(out: &mut Vec<u8>, columns: &[Column]) {
    let described: Vec<_> = columns
        .iter()
        .map(|column| wire::backend::Column {
            name: &column.name,
            column_type: wire::types::Type { oid: column.ty.oid(), length: column.ty.typlen() },
            typmod: -1,
        })
        .collect();
    wire::backend::row_description(out, &described);
}

/// Appends a row as a DataRow.
///
/// # Errors
/// 54000: it is longer than a message may be.
pub fn put_row(out: &mut Vec<u8>, row: &Row) -> Result<(), SqlError> {
    let mut message = wire::backend::DataRow::begin(out);
    for value in row.values() {
        match value {
            Some(bytes) => message.bytes(bytes),
            None => message.null(),
        }
    }
    message.finish().map_err(|error| SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, error.message))
}

/// Whether a write that is being executed may go on: asked by SQLite every few hundred of its steps.
#[derive(Debug)]
pub struct WriteControl {
    node: &'static Node,
    me: Me,
    session: ProcNumber,
    statement_deadline: Option<MonoTime>,
    writer_deadline: MonoTime,
    signals_due: Cell<MonoTime>,
    /// Whether the transaction holds records that readers may wait for.
    may_give_way: bool,
    gave_way: Cell<bool>,
}

impl WriteControl {
    /// For the request of `session`, which begins now.
    pub fn new(node: &'static Node, me: Me, session: ProcNumber, deadline: Option<MonoTime>) -> WriteControl {
        let now = clock::now();
        WriteControl {
            node,
            me,
            session,
            statement_deadline: deadline,
            writer_deadline: now.saturating_add(node.settings().write_statement_timeout),
            signals_due: Cell::new(now.saturating_add(SIGNALS_EVERY)),
            may_give_way: false,
            gave_way: Cell::new(false),
        }
    }

    /// Ends the statement when a reader waits for what its transaction holds already: the caller commits that and
    /// executes the statement again.
    pub fn giving_way(mut self) -> WriteControl {
        self.may_give_way = true;
        self
    }

    /// Whether it was ended for that reason.
    pub fn gave_way(&self) -> bool {
        self.gave_way.get()
    }
}

impl Control for WriteControl {
    fn check(&self) -> Option<Interruption> {
        self.me.serve_barriers();
        let asked = self.node.procs.slot(self.session).interrupts();
        if asked.contains(Interrupts::QUERY_CANCEL) {
            return Some(Interruption::Cancel);
        }
        if asked.contains(Interrupts::TERMINATE) {
            return Some(Interruption::Terminate);
        }
        if asked.contains(Interrupts::CLIENT_CONNECTION_LOST) {
            return Some(Interruption::ClientLost);
        }
        if self.may_give_way && self.node.recovery.has_waiters() {
            self.gave_way.set(true);
            return Some(Interruption::GiveWay);
        }
        let now = clock::now();
        if self.statement_deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Interruption::StatementTimeout);
        }
        if self.writer_deadline <= now {
            return Some(Interruption::WriteStatementTimeout);
        }
        if self.signals_due.get() <= now {
            // An error here means that the signalfd is gone; the next wait will say so.
            let _ = self.me.poll_signals();
            self.signals_due.set(now.saturating_add(SIGNALS_EVERY));
            report_if_asked(self.node, &self.me);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_were() {
        let mut rows = AnswerRows::new(true, ANSWER_BYTES_MAX);
        rows.complete(CommandTag::Insert(1)).unwrap();
        match Answer::decode(Answer::success(Lsn(0x1234), rows)) {
            Answer::Success { lsn, notifies_later, messages } => {
                assert_eq!((lsn, notifies_later), (Lsn(0x1234), false));
                assert_eq!(messages, b"C\0\0\0\x0fINSERT 0 1\0");
            }
            Answer::Error(error) => panic!("{error}"),
        }
        let error = SqlError::new(SqlState::UNIQUE_VIOLATION, "x".repeat(100_000)).with_detail("d");
        match Answer::decode(Answer::error(&error)) {
            Answer::Error(back) => {
                assert_eq!(back.sqlstate, SqlState::UNIQUE_VIOLATION);
                assert_eq!(back.message.len(), ERROR_TEXT_BYTES);
                assert_eq!(back.detail.as_deref(), Some("d"));
            }
            Answer::Success { .. } => panic!("an error came back as a success"),
        }
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        assert!(matches!(Answer::decode(Vec::new()), Answer::Error(_)));
        assert!(matches!(Answer::decode(vec![0; 12]), Answer::Error(_)));
        assert!(WriteMessage::decode(&[0xff; 3]).is_err());
    }
}
