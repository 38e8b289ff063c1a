//! A connection to an upstream server, as the walreceiver and `standby clone` need it.
//!
//! How to use it: [`ServerConnection::connect`], some [`ServerConnection::query`], then
//! [`ServerConnection::start_streaming`] and a loop of
//! ```text
//! loop {
//!     while let Some(streamed) = upstream.receive()? { … }
//!     … append reports to upstream.output(), upstream.flush_if_writable()? …
//!     upstream.wait(READABLE (| WRITEABLE if has_pending_output), timeout, event)?;
//! }
//! ```
//! and [`ServerConnection::end_streaming`]. One statement at a time, results of bounded size.
//!
//! Every wait ends with [`ClientError::Interrupted`] when this process is asked to terminate (the bit stays pending,
//! for the caller to take); other interrupts wait until the caller looks at its latch. Only the resolver blocks, for
//! host names that are no addresses. Signals are read in waits: who receives on without waiting calls
//! [`Me::poll_signals`] now and then.
//!
//! Follows PostgreSQL 15 src/backend/replication/libpqwalreceiver/libpqwalreceiver.c.

mod attempt;
mod password;
mod target;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, SocketEvents};
use sys::clock::{self, MonoTime};
use wire::client::{self, BackendMessage};
use wire::conninfo::{Conninfo, Target};
use wire::error::ErrorResponse;

use self::attempt::Attempt;
use crate::buffered_socket::{BufferedSocket, Fill, reason};

/// The tag of a CopyData.
const COPY_DATA_TAG: u8 = b'd';
/// More bytes of rows than this are no answer to a question that a node asks.
const RESULT_MAX: usize = 64 << 20;

/// A server that may be silent is probed after so long a silence,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// then that often,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and given up after so many probes.
const KEEPALIVE_COUNT: u32 = 3;

/// Why talking to the upstream failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// This process is asked to terminate.
    Interrupted,
    /// No target of the connection string could be used; one line for each, in libpq's words.
    Connect(String),
    /// The server said so.
    Server(ErrorResponse),
    /// The connection is gone.
    Lost(String),
    /// The server sent what it must not.
    Protocol(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Interrupted => f.write_str("interrupted"),
            ClientError::Connect(text) | ClientError::Lost(text) | ClientError::Protocol(text) => {
                f.write_str(text)
            }
            ClientError::Server(report) => report.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

/// What kind of session to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A walsender for physical replication.
    PhysicalReplication,
    /// An ordinary session.
    Ordinary,
}

/// The result of one statement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryResult {
    /// Names of the columns; empty for a statement without rows.
    pub columns: Vec<String>,
    /// The values in text form; `None` is NULL.
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
    /// The command tag.
    pub tag: String,
}

/// How a server took START_REPLICATION.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamStart {
    /// It streams.
    Streaming,
    /// There is nothing on this timeline from there on; what it said about the next timeline.
    Ended(Vec<QueryResult>),
}

/// What a stream brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Streamed<'a> {
    /// The payload of a CopyData.
    Data(&'a [u8]),
    /// The server has sent all of this timeline (CopyDone). [`ServerConnection::end_streaming`] tells what is next.
    EndOfTimeline,
    /// The server has ended the command: it shuts down. Nothing else will come.
    EndOfCommand,
}

/// How far the copy-both stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamState {
    /// No stream, or the server has ended its command.
    None,
    /// Both sides may send.
    Open,
    /// The server has sent CopyDone.
    ServerDone,
}

/// A session on another server.
#[derive(Debug)]
pub struct ServerConnection {
    socket: BufferedSocket,
    target: Target,
    parameters: BTreeMap<String, String>,
    /// The server's process.
    backend_pid: i32,
    stream: StreamState,
    /// Of the message decoded last, to name it.
    tag: u8,
    /// How long the server may be silent while it owes an answer; `None` is for ever.
    answer_timeout: Option<Duration>,
    /// The server has asked for a password, and has proved in turn that it knows the user's verifier.
    authenticated: bool,
}

impl ServerConnection {
    /// Connects to the first target that takes the connection, and waits until the session is ready. `me` is `None` in
    /// a program that is no process of a node; `application_name` is used when `conninfo` gives none.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`]; [`ClientError::Connect`] with a line for each target.
    pub fn connect(
        me: Option<Me>,
        conninfo: &Conninfo,
        kind: SessionKind,
        application_name: &str,
    ) -> Result<ServerConnection, ClientError> {
        Self::connect_within(me, conninfo, kind, application_name, None)
    }

    /// As [`ServerConnection::connect`], for who must not hang on a server that is stopped or cut off: each attempt
    /// without a `connect_timeout` of its own, and later each silence while the server owes an answer, ends after
    /// `patience`.
    ///
    /// # Errors
    /// As [`ServerConnection::connect`].
    pub fn connect_within(
        me: Option<Me>,
        conninfo: &Conninfo,
        kind: SessionKind,
        application_name: &str,
        patience: Option<Duration>,
    ) -> Result<ServerConnection, ClientError> {
        let attempt = Attempt { me, conninfo, kind, application_name, patience };
        let mut failures = Vec::new();
        for wanted in conninfo.target_session_attrs().passes() {
            for target in conninfo.targets() {
                if let Some(connection) = attempt.target(target, *wanted, &mut failures)? {
                    return Ok(connection);
                }
            }
        }
        Err(ClientError::Connect(failures.join("\n")))
    }

    /// Whether the server has let this client in by its password.
    pub fn by_password(&self) -> bool {
        self.authenticated
    }

    /// Where this connection goes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The server's process that serves this session.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The address of this side of the connection; none on a Unix socket.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn local_address(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.stream().local_addr()
    }

    /// The last reported value of a setting of the server, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Sends one query text and waits for all of its results.
    ///
    /// # Errors
    /// [`ClientError::Server`] when a statement failed (the session goes on unless that was FATAL); else the connection
    /// is of no more use.
    pub fn query(&mut self, text: &str) -> Result<Vec<QueryResult>, ClientError> {
        client::query(self.socket.output(), text);
        self.read_results()?.without_copy()
    }

    /// Sends a command that the server answers with results and a copy to the client, BASE_BACKUP; the results. The server
    /// may be silent for as long as it likes from here on.
    ///
    /// # Errors
    /// As [`ServerConnection::query`].
    pub fn start_copy_out(&mut self, command: &str) -> Result<Vec<QueryResult>, ClientError> {
        self.answer_timeout = None;
        // Else nobody would notice a server that is gone without a word. A Unix socket has no need of it.
        let idle = Some(KEEPALIVE_IDLE);
        let _ = self.socket.stream().set_keepalive(idle, Some(KEEPALIVE_INTERVAL), Some(KEEPALIVE_COUNT));
        client::query(self.socket.output(), command);
        match self.read_results()? {
            Results::CopyOut(results) => Ok(results),
            Results::Done(_) | Results::CopyBoth => {
                Err(ClientError::Protocol(format!("the server answered \"{command}\" without a copy")))
            }
        }
    }

    /// The next piece of that copy; waits for it. `None` when the copy is over.
    ///
    /// # Errors
    /// As [`ServerConnection::query`]: after an error of the server's nothing of the copy is of use.
    pub fn receive_copy(&mut self) -> Result<Option<&[u8]>, ClientError> {
        loop {
            self.await_answer()?;
            if self.socket.input.next_tag() == Some(COPY_DATA_TAG) {
                break;
            }
            let Some(message) = self.decode_message()? else { continue };
            return match message {
                BackendMessage::CopyDone => Ok(None),
                BackendMessage::ErrorResponse(report) => Err(ClientError::Server(report)),
                _ => Err(self.unexpected_message()),
            };
        }
        let message = self.socket.input.next_message().map_err(out_of_step)?;
        Ok(message.map(|message| message.body))
    }

    /// The results that follow the copy.
    ///
    /// # Errors
    /// As [`ServerConnection::query`].
    pub fn end_copy_out(&mut self) -> Result<Vec<QueryResult>, ClientError> {
        self.read_results()?.without_copy()
    }

    /// Sends START_REPLICATION.
    ///
    /// # Errors
    /// As [`ServerConnection::query`].
    pub fn start_streaming(&mut self, command: &str) -> Result<StreamStart, ClientError> {
        client::query(self.socket.output(), command);
        match self.read_results()? {
            Results::CopyBoth => {
                self.stream = StreamState::Open;
                Ok(StreamStart::Streaming)
            }
            other => other.without_copy().map(StreamStart::Ended),
        }
    }

    /// Reads results up to ReadyForQuery or the start of a copy.
    fn read_results(&mut self) -> Result<Results, ClientError> {
        let mut results = Vec::new();
        let mut current = QueryResult::default();
        let (mut failure, mut size) = (None, 0);
        loop {
            if let Err(error) = self.await_answer() {
                // A server that closes after an error has said all that there is to say.
                return Err(failure.filter(|_| error != ClientError::Interrupted).unwrap_or(error));
            }
            let Some(message) = self.decode_message()? else { continue };
            match message {
                BackendMessage::RowDescription(description) => {
                    current.columns = description.columns().map(|column| column.name.to_owned()).collect();
                }
                BackendMessage::DataRow(row) => {
                    let row: Vec<_> = row.values().map(|value| value.map(<[u8]>::to_vec)).collect();
                    size += row.iter().map(|value| 24 + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
                    current.rows.push(row);
                }
                BackendMessage::CommandComplete(tag) => {
                    current.tag = tag.to_owned();
                    results.push(std::mem::take(&mut current));
                }
                BackendMessage::EmptyQueryResponse => results.push(QueryResult::default()),
                BackendMessage::ErrorResponse(report) => failure = Some(ClientError::Server(report)),
                BackendMessage::ReadyForQuery(_) => {
                    return failure.map_or(Ok(Results::Done(results)), Err);
                }
                BackendMessage::CopyBothResponse => return Ok(Results::CopyBoth),
                BackendMessage::CopyOutResponse => return Ok(Results::CopyOut(results)),
                _ => return Err(self.unexpected_message()),
            }
            if size > RESULT_MAX {
                return Err(ClientError::Protocol(format!(
                    "the server's answer is longer than {RESULT_MAX} bytes"
                )));
            }
        }
    }

    /// The next thing of the stream if it is there or can be read at once; `None` if not.
    ///
    /// # Errors
    /// [`ClientError::Server`]: the server ended the stream with an error. Else the connection is of no more use.
    pub fn receive(&mut self) -> Result<Option<Streamed<'_>>, ClientError> {
        loop {
            while !self.socket.input.has_message().map_err(out_of_step)? {
                match self.socket.fill().map_err(lost)? {
                    Fill::Bytes => {}
                    Fill::Nothing => return Ok(None),
                    Fill::End => return Err(closed()),
                }
            }
            if self.socket.input.next_tag() == Some(COPY_DATA_TAG) {
                break;
            }
            if let Some(end) = self.receive_other()? {
                return Ok(Some(end));
            }
        }
        let message = self.socket.input.next_message().map_err(out_of_step)?;
        Ok(message.map(|message| Streamed::Data(message.body)))
    }

    /// A message of the stream that is no CopyData; `None` when the stream goes on.
    fn receive_other(&mut self) -> Result<Option<Streamed<'static>>, ClientError> {
        let Some(message) = self.decode_message()? else { return Ok(None) };
        match message {
            BackendMessage::CopyDone => {
                self.stream = StreamState::ServerDone;
                Ok(Some(Streamed::EndOfTimeline))
            }
            BackendMessage::CommandComplete(_) => {
                self.stream = StreamState::None;
                Ok(Some(Streamed::EndOfCommand))
            }
            BackendMessage::ErrorResponse(report) => Err(ClientError::Server(report)),
            _ => Err(self.unexpected_message()),
        }
    }

    /// Ends the stream from this side, skips what is still on its way, and waits for the results that follow: one row
    /// (next timeline and its start) if the server came to the end of its timeline.
    ///
    /// # Errors
    /// As [`ServerConnection::query`].
    pub fn end_streaming(&mut self) -> Result<Vec<QueryResult>, ClientError> {
        if self.stream != StreamState::None {
            client::copy_done(self.socket.output());
        }
        while self.stream == StreamState::Open {
            self.await_answer()?;
            self.receive()?;
        }
        self.stream = StreamState::None;
        self.read_results()?.without_copy()
    }

    /// Where messages of the stream are appended ([`wire::replication::payload::StandbyMessage::encode`]).
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.socket.output()
    }

    /// Whether something is queued that the kernel has not taken yet.
    pub fn has_pending_output(&self) -> bool {
        self.socket.pending_output() > 0
    }

    /// Sends what the kernel takes at once; whether that was all.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush_if_writable(&mut self) -> Result<bool, ClientError> {
        self.socket.send_available().map_err(lost)
    }

    /// Waits for the latch, for `events` of the socket, or until `timeout` is over; what happened (nothing: the time is
    /// over). For who looks at its latch, its interrupts and its buffers before each wait; the latch is not reset.
    ///
    /// # Errors
    /// The descriptors are broken.
    pub fn wait(
        &mut self,
        events: SocketEvents,
        timeout: Option<Duration>,
        event: WaitEvent,
    ) -> Result<Events, ClientError> {
        self.socket.wait(events, timeout, event).map_err(lost)
    }

    /// Tells the server that this is the end, as well as can be done without waiting.
    pub fn close(mut self) {
        self.say_goodbye();
    }

    /// As [`ServerConnection::close`]; nothing else may follow.
    pub fn say_goodbye(&mut self) {
        client::terminate(self.socket.output());
        // Whoever is gone already needs no goodbye.
        let _ = self.socket.send_available();
    }

    fn await_answer(&mut self) -> Result<(), ClientError> {
        let deadline = self.answer_timeout.map(|timeout| clock::now().saturating_add(timeout));
        self.await_message(deadline, WaitEvent::WalReceiverReceive)
    }

    /// Waits until a whole message is there. Sends what is queued meanwhile.
    fn await_message(&mut self, deadline: Option<MonoTime>, event: WaitEvent) -> Result<(), ClientError> {
        loop {
            let sent = self.flush_if_writable()?;
            if self.socket.input.has_message().map_err(out_of_step)? {
                return Ok(());
            }
            match self.socket.fill().map_err(lost)? {
                Fill::Bytes => continue,
                Fill::End => return Err(closed()),
                Fill::Nothing => {}
            }
            let events =
                if sent { SocketEvents::READABLE } else { SocketEvents::READABLE | SocketEvents::WRITEABLE };
            self.sleep(events, deadline, event)?;
        }
    }

    /// Sleeps until `events` of the socket; the latch only interrupts.
    fn sleep(
        &mut self,
        events: SocketEvents,
        deadline: Option<MonoTime>,
        event: WaitEvent,
    ) -> Result<(), ClientError> {
        let mut latch_used = false;
        let result = loop {
            self.socket.reset_latch();
            self.socket.serve_barriers();
            if self.socket.pending_interrupts().contains(Interrupts::TERMINATE) {
                break Err(ClientError::Interrupted);
            }
            let timeout = deadline.map(|deadline| deadline.saturating_since(clock::now()));
            let happened = match self.socket.wait(events, timeout, event) {
                Ok(happened) => happened,
                Err(error) => break Err(lost(error)),
            };
            latch_used |= happened.contains(Events::LATCH_SET);
            if happened.is_empty() {
                break Err(ClientError::Lost("timeout expired".to_owned()));
            }
            if happened != Events::LATCH_SET {
                break Ok(());
            }
        };
        if latch_used {
            // It may have been set for something that only the caller looks at.
            self.socket.set_latch();
        }
        result
    }

    /// Decodes the message that is there. Those that may come at any time are dealt with here and not given out.
    fn decode_message(&mut self) -> Result<Option<BackendMessage<'_>>, ClientError> {
        let message = self.socket.input.next_message().map_err(out_of_step)?;
        let message = message.expect("a whole message is there");
        self.tag = message.tag;
        match BackendMessage::decode(message).map_err(out_of_step)? {
            BackendMessage::ParameterStatus { name, value } => {
                self.parameters.insert(name.to_owned(), value.to_owned());
            }
            BackendMessage::NoticeResponse(report) => tracing::info!("upstream server: {report}"),
            BackendMessage::NotificationResponse { .. } => {}
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn unexpected_message(&self) -> ClientError {
        ClientError::Protocol(format!("unexpected message type \"{}\" from server", char::from(self.tag)))
    }
}

/// What came of a query text.
enum Results {
    Done(Vec<QueryResult>),
    CopyBoth,
    /// After these results.
    CopyOut(Vec<QueryResult>),
}

impl Results {
    /// For a command that copies nothing.
    fn without_copy(self) -> Result<Vec<QueryResult>, ClientError> {
        match self {
            Results::Done(results) => Ok(results),
            Results::CopyBoth | Results::CopyOut(_) => {
                Err(ClientError::Protocol("the server began a copy nobody asked for".to_owned()))
            }
        }
    }
}

fn lost(error: io::Error) -> ClientError {
    ClientError::Lost(reason(&error))
}

fn closed() -> ClientError {
    ClientError::Lost("server closed the connection unexpectedly".to_owned())
}

fn out_of_step(report: ErrorResponse) -> ClientError {
    ClientError::Protocol(report.message)
}
