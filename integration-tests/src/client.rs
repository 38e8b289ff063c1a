//! A small synchronous client.
//!
//! It speaks the protocol with a decoder of its own, on purpose: an error in Walship's encoder must not be undone by the
//! same error in Walship's decoder, and what it takes from Walship it also takes from PostgreSQL. Simple queries, cancel
//! requests and raw bytes are all that the tests need of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

/// Where a node listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// A port of 127.0.0.1.
    Tcp(u16),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

/// What a server said was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// ERROR, FATAL, NOTICE …
    pub severity: String,
    /// Five characters.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// The detail, or empty.
    pub detail: String,
    /// The hint, or empty.
    pub hint: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} {} {}", self.severity, self.sqlstate, self.message, self.detail, self.hint)
    }
}

/// Why a query has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The server answered with an error.
    Server(ServerError),
    /// The connection ended or stood still; whether the query was executed is unknown.
    Connection(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Server(error) => error.fmt(f),
            ClientError::Connection(error) => write!(f, "connection: {error}"),
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Connection(error)
    }
}

/// All that came for one query string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Names of the columns of the last result.
    pub columns: Vec<String>,
    /// Type oids of the columns of the last result.
    pub types: Vec<u32>,
    /// Rows of all results; None is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// Command tags, one per statement.
    pub tags: Vec<String>,
    /// Notices and warnings on the way.
    pub notices: Vec<ServerError>,
    /// The error that ended it.
    pub error: Option<ServerError>,
    /// Transaction status afterwards: I, T or E.
    pub status: char,
}

impl Answer {
    /// The rows with every value as a text; NULL is `NULL`.
    pub fn texts(self) -> Vec<Vec<String>> {
        let text = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
        self.rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect()
    }
}

/// What somebody notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Process id of the backend that did.
    pub pid: i32,
    /// The channel.
    pub channel: String,
    /// What came with it.
    pub payload: String,
}

/// One message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    address: Address,
    /// What the server reported by ParameterStatus, latest values.
    pub parameters: BTreeMap<String, String>,
    /// Notifications that came between other messages and were not taken yet.
    pub notifications: VecDeque<Notification>,
    /// Process id of the backend, from BackendKeyData.
    pub backend_pid: i32,
    secret: i32,
}

/// No answer within this time means that the server hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const PROTOCOL_3_0: i32 = 196_608;
const CANCEL_REQUEST: i32 = 80_877_102;

impl Client {
    /// Connects as user postgres to database postgres, with more startup parameters if wanted. One named `password` stays
    /// here: it is proved to a server that asks for that.
    pub fn connect(address: &Address, parameters: &[(&str, &str)]) -> Result<Client, ClientError> {
        let mut client = Client::connect_raw(address)?;
        let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
        let password = parameters.iter().find(|(name, _)| *name == "password").map_or("", |(_, value)| value);
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let sent = parameters.iter().filter(|(name, _)| *name != "password");
        for (name, value) in [("user", "postgres"), ("database", "postgres")].iter().chain(sent) {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.push(0);
        client.send_packet(&body)?;
        loop {
            let message = client.read_message()?;
            match message.tag {
                b'R' => client.authenticate(&message.body, &mut scram)?,
                b'S' => client.note_parameter(&message.body),
                b'K' if message.body.len() == 8 => {
                    client.backend_pid = int(&message.body[..4]);
                    client.secret = int(&message.body[4..]);
                }
                b'N' => {}
                b'E' => return Err(ClientError::Server(parse_error(&message.body))),
                b'Z' => return Ok(client),
                other => return Err(unexpected(other)),
            }
        }
    }

    /// One step of the exchange by which another's implementation proves the password.
    fn authenticate(&mut self, body: &[u8], scram: &mut ScramSha256) -> Result<(), ClientError> {
        let (code, data) = body.split_at(4);
        match int(code) {
            0 => Ok(()),
            10 => {
                let first = scram.message().to_vec();
                let mut message = b"SCRAM-SHA-256\0".to_vec();
                message.extend_from_slice(&i32::try_from(first.len()).unwrap().to_be_bytes());
                message.extend_from_slice(&first);
                self.send_message(b'p', &message)
            }
            11 => {
                scram.update(data)?;
                let last = scram.message().to_vec();
                self.send_message(b'p', &last)
            }
            12 => Ok(scram.finish(data)?),
            other => Err(io::Error::other(format!("authentication method {other}")).into()),
        }
    }

    /// Connects the socket and sends nothing.
    pub fn connect_raw(address: &Address) -> Result<Client, ClientError> {
        let socket = match address {
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(READ_TIMEOUT))?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(READ_TIMEOUT))?;
                Socket::Unix(stream)
            }
        };
        Ok(Client {
            socket,
            address: address.clone(),
            parameters: BTreeMap::new(),
            notifications: VecDeque::new(),
            backend_pid: 0,
            secret: 0,
        })
    }

    /// Sends a query and reads all of its answer. An error of the server is an `Err`.
    pub fn query(&mut self, sql: &str) -> Result<Answer, ClientError> {
        self.send_query(sql)?;
        let answer = self.read_answer()?;
        match answer.error {
            Some(error) => Err(ClientError::Server(error)),
            None => Ok(answer),
        }
    }

    /// Sends a query and reads all of its answer, the error included.
    pub fn answer(&mut self, sql: &str) -> Result<Answer, ClientError> {
        self.send_query(sql)?;
        self.read_answer()
    }

    /// The rows of a query that must succeed; NULL is `NULL`.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        let answer = self.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        answer.texts()
    }

    /// The single value of a query that must succeed.
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        match rows.as_slice() {
            [row] if row.len() == 1 => row[0].clone(),
            _ => panic!("{sql}: one value expected, got {rows:?}"),
        }
    }

    /// The command tag of a statement that must succeed.
    pub fn tag(&mut self, sql: &str) -> String {
        let answer = self.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        answer.tags.last().cloned().unwrap_or_default()
    }

    /// The error of a statement that must fail, with the connection still in use afterwards.
    pub fn error(&mut self, sql: &str) -> ServerError {
        match self.query(sql) {
            Err(ClientError::Server(error)) => error,
            other => panic!("{sql}: an error was expected, got {other:?}"),
        }
    }

    /// Sends a query without reading its answer.
    pub fn send_query(&mut self, sql: &str) -> Result<(), ClientError> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send_message(b'Q', &body)
    }

    /// Sends one message.
    pub fn send_message(&mut self, tag: u8, body: &[u8]) -> Result<(), ClientError> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&i32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        self.send_bytes(&bytes)
    }

    /// Sends a packet without tag, as the first of a connection is.
    pub fn send_packet(&mut self, body: &[u8]) -> Result<(), ClientError> {
        let mut bytes = i32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        self.send_bytes(&bytes)
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(bytes)?,
            Socket::Unix(stream) => stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// Reads until the server is ready for the next query.
    pub fn read_answer(&mut self) -> Result<Answer, ClientError> {
        let mut answer = Answer::default();
        loop {
            let message = match self.read_message() {
                Ok(message) => message,
                // A FATAL error comes without ReadyForQuery.
                Err(_) if answer.error.is_some() => return Ok(answer),
                Err(error) => return Err(error),
            };
            match message.tag {
                b'T' => (answer.columns, answer.types) = parse_row_description(&message.body),
                b'D' => answer.rows.push(parse_row(&message.body)),
                b'C' => answer.tags.push(text(&message.body)),
                b'I' => answer.tags.push(String::new()),
                b'N' => answer.notices.push(parse_error(&message.body)),
                b'E' => answer.error = Some(parse_error(&message.body)),
                b'S' => self.note_parameter(&message.body),
                b'A' => self.notifications.push_back(parse_notification(&message.body)),
                b'Z' => {
                    answer.status = message.body.first().copied().map_or('?', char::from);
                    return Ok(answer);
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    /// The next notification; waits for it if need be.
    pub fn notification(&mut self) -> Result<Notification, ClientError> {
        while self.notifications.is_empty() {
            let message = self.read_message()?;
            match message.tag {
                b'A' => self.notifications.push_back(parse_notification(&message.body)),
                b'E' => return Err(ClientError::Server(parse_error(&message.body))),
                b'S' => self.note_parameter(&message.body),
                b'N' => {}
                other => return Err(unexpected(other)),
            }
        }
        Ok(self.notifications.pop_front().expect("the loop ends when there is one"))
    }

    /// Channel and payload of the next notification.
    pub fn notified(&mut self) -> (String, String) {
        let notification = self.notification().unwrap_or_else(|error| panic!("a notification: {error}"));
        (notification.channel, notification.payload)
    }

    /// Reads one message.
    pub fn read_message(&mut self) -> Result<Message, ClientError> {
        let mut header = [0; 5];
        self.read_exact(&mut header)?;
        let length = usize::try_from(int(&header[1..])).unwrap_or(0);
        if length < 4 {
            return Err(io::Error::other("a message shorter than its length").into());
        }
        let mut body = vec![0; length - 4];
        self.read_exact(&mut body)?;
        Ok(Message { tag: header[0], body })
    }

    /// Reads until the server closes the connection and gives what came; an error when it doesn't close in time.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        let result = match &mut self.socket {
            Socket::Tcp(stream) => stream.read_to_end(&mut bytes),
            Socket::Unix(stream) => stream.read_to_end(&mut bytes),
        };
        match result {
            // A server that leaves input unread resets the connection: closed is closed.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(bytes),
        }
    }

    /// Asks, over a connection of its own, to cancel what this connection has under way.
    pub fn cancel(&self) -> Result<(), ClientError> {
        let mut other = Client::connect_raw(&self.address)?;
        let body: Vec<u8> = [CANCEL_REQUEST, self.backend_pid, self.secret]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        other.send_packet(&body)?;
        other.read_to_end()?;
        Ok(())
    }

    /// Another bound for the time without any byte from the server.
    pub fn set_read_timeout(&mut self, timeout: Duration) {
        match &self.socket {
            Socket::Tcp(stream) => stream.set_read_timeout(Some(timeout)).unwrap(),
            Socket::Unix(stream) => stream.set_read_timeout(Some(timeout)).unwrap(),
        }
    }

    /// Reads once what has come, waiting for it if nothing has; an error when the server closes the connection.
    pub fn read_some(&mut self, bytes: &mut [u8]) -> Result<usize, ClientError> {
        let count = match &mut self.socket {
            Socket::Tcp(stream) => stream.read(bytes)?,
            Socket::Unix(stream) => stream.read(bytes)?,
        };
        if count == 0 { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(count) }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), ClientError> {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.read_exact(bytes)?,
            Socket::Unix(stream) => stream.read_exact(bytes)?,
        }
        Ok(())
    }

    fn note_parameter(&mut self, body: &[u8]) {
        let mut parts = body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            self.parameters.insert(name, value);
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// The error or notice in the body of an 'E' or 'N'.
pub fn parse_error(body: &[u8]) -> ServerError {
    let mut fields = BTreeMap::new();
    for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
        fields.insert(field[0], String::from_utf8_lossy(&field[1..]).into_owned());
    }
    let mut take = |name: u8| fields.remove(&name).unwrap_or_default();
    ServerError {
        severity: take(b'S'),
        sqlstate: take(b'C'),
        message: take(b'M'),
        detail: take(b'D'),
        hint: take(b'H'),
    }
}

fn parse_notification(body: &[u8]) -> Notification {
    let mut texts = body[4..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    Notification {
        pid: int(&body[..4]),
        channel: texts.next().unwrap_or_default(),
        payload: texts.next().unwrap_or_default(),
    }
}

fn parse_row_description(body: &[u8]) -> (Vec<String>, Vec<u32>) {
    let mut names = Vec::new();
    let mut types = Vec::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        let fixed = &rest[end + 1..];
        types.push(u32::from_be_bytes(fixed[6..10].try_into().unwrap()));
        rest = &fixed[18..];
    }
    (names, types)
}

fn parse_row(body: &[u8]) -> Vec<Option<String>> {
    let mut row = Vec::new();
    let mut rest = &body[2..];
    while rest.len() >= 4 {
        let length = int(&rest[..4]);
        rest = &rest[4..];
        match usize::try_from(length) {
            Ok(length) => {
                row.push(Some(String::from_utf8_lossy(&rest[..length]).into_owned()));
                rest = &rest[length..];
            }
            Err(_) => row.push(None),
        }
    }
    row
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned()
}

fn unexpected(tag: u8) -> ClientError {
    io::Error::other(format!("unexpected message {:?}", char::from(tag))).into()
}
