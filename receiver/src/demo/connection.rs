//! A client's connection that never blocks: queries go out and answers come in as far as the socket allows, and whoever
//! owns the wait event set calls [`Connection::advance`] when the socket is ready.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{SocketEvents, WaitEventSet};
use sys::net::{Endpoint, Stream};
use wire::client::{self, BackendMessage};
use wire::error::ErrorResponse;
use wire::framing::InputBuffer;

use super::Failure;
use super::node::NodeProcess;

/// A node that says nothing for this long hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What came for one query.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The rows of all its statements; None is NULL.
    pub(super) rows: Vec<Vec<Option<String>>>,
    /// The error that ended it.
    pub(super) error: Option<ErrorResponse>,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    node: String,
    input: InputBuffer,
    output: Vec<u8>,
    sent: usize,
    answer: Answer,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    /// Connects and waits until the session is ready.
    pub(super) fn open(node: &NodeProcess) -> Result<Connection, Failure> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, node.port));
        let stream = Stream::connect_start(&Endpoint::Tcp(address))
            .map_err(Failure::io(format!("connect to {}", node.name)))?;
        let mut connection = Connection {
            stream,
            node: node.name.clone(),
            input: InputBuffer::new(client::check_frame),
            output: Vec::new(),
            sent: 0,
            answer: Answer::default(),
        };
        let parameters = [("user", "postgres"), ("database", "postgres"), ("application_name", "demo")];
        client::startup_message(&mut connection.output, &parameters);
        connection.wait("the greeting")?;
        Ok(connection)
    }

    /// Puts a query on its way.
    pub(super) fn send(&mut self, sql: &str) {
        client::query(&mut self.output, sql);
    }

    /// What to wait for on the socket.
    pub(super) fn interest(&self) -> SocketEvents {
        if self.sent < self.output.len() {
            SocketEvents::READABLE | SocketEvents::WRITEABLE
        } else {
            SocketEvents::READABLE
        }
    }

    /// Sends and receives what can be without waiting; the answer when it is complete.
    pub(super) fn advance(&mut self) -> Result<Option<Answer>, Failure> {
        self.write_some()?;
        loop {
            if let Some(answer) = self.take_answer()? {
                return Ok(Some(answer));
            }
            match self.stream.read(self.input.spare()) {
                Ok(0) => return Err(self.lost("the node closed the connection")),
                Ok(count) => self.input.filled(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
    }

    /// One query whose rows are waited for; an error of the node is a failure.
    pub(super) fn ask(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        self.send(sql);
        let answer = self.wait(sql)?;
        match answer.error {
            Some(error) => Err(Failure::new(format!(
                "{}: {sql}: {} {}",
                self.node,
                error.sqlstate.as_str(),
                error.message
            ))),
            None => Ok(answer.rows),
        }
    }

    /// The single value of a query.
    pub(super) fn ask_value(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        let rows = self.ask(sql)?;
        rows.into_iter().flatten().next().ok_or_else(|| Failure::new(format!("{}: {sql}: no row", self.node)))
    }

    fn wait(&mut self, what: &str) -> Result<Answer, Failure> {
        let node = self.node.clone();
        let failed = || Failure::io(format!("wait for {node}"));
        let mut set = WaitEventSet::without_process(1).map_err(failed())?;
        let position = set.add_socket(&self.stream, SocketEvents::READABLE).map_err(failed())?;
        let mut occurred = Vec::new();
        loop {
            if let Some(answer) = self.advance()? {
                return Ok(answer);
            }
            set.modify(position, self.interest()).map_err(failed())?;
            set.wait(Some(DEADLINE), WaitEvent::ClientRead, &mut occurred).map_err(failed())?;
            if occurred.is_empty() {
                return Err(self.lost(&format!("no answer within {} s to {what}", DEADLINE.as_secs())));
            }
        }
    }

    fn write_some(&mut self) -> Result<(), Failure> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes the messages that are there; the answer when the last of them ended it.
    fn take_answer(&mut self) -> Result<Option<Answer>, Failure> {
        let broken = |node: &str, error: ErrorResponse| Failure::new(format!("{node}: {}", error.message));
        while let Some(message) = self.input.next_message().map_err(|error| broken(&self.node, error))? {
            match BackendMessage::decode(message).map_err(|error| broken(&self.node, error))? {
                BackendMessage::DataRow(row) => {
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    self.answer.rows.push(row.values().map(|value| value.map(text)).collect());
                }
                BackendMessage::ErrorResponse(error) if error.ends_connection() => {
                    return Err(Failure::new(format!("{}: {}", self.node, error.message)));
                }
                BackendMessage::ErrorResponse(error) => self.answer.error = Some(error),
                BackendMessage::ReadyForQuery(_) => return Ok(Some(std::mem::take(&mut self.answer))),
                // Parameters, tags, notices and descriptions tell nothing that the demo asks for.
                _ => {}
            }
        }
        Ok(None)
    }

    fn lost(&self, why: &str) -> Failure {
        Failure::new(format!("{}: {why}", self.node))
    }
}
