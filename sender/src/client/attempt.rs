//! From a connection string to a session: each target, each of its addresses, and what the session must be fit for.
//!
//! A server that can't be reached, that refuses, or whose session is not what `target_session_attrs` asks for is one
//! failure, told in libpq's words, and the next one is tried. One that is not fit has said so for all of its addresses.
//!
//! Follows PostgreSQL 15 src/interfaces/libpq/fe-connect.c (PQconnectPoll); differs in: after a refusal (a wrong password, say)
//! the next target is tried, too.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::SocketEvents;
use sys::clock::{self, MonoTime};
use sys::net::{Endpoint, Stream};
use wire::client::{self, BackendMessage};
use wire::conninfo::session_attrs::{self, Reported, TargetSessionAttrs, Verdict};
use wire::conninfo::{Conninfo, Target, TargetAddress};

use super::password::{self, Proof};
use super::{ClientError, ServerConnection, SessionKind, StreamState, lost, target};
use crate::buffered_socket::{BufferedSocket, reason};

/// What every attempt has in common.
pub(super) struct Attempt<'a> {
    pub(super) me: Option<Me>,
    pub(super) conninfo: &'a Conninfo,
    pub(super) kind: SessionKind,
    pub(super) application_name: &'a str,
    /// See [`ServerConnection::connect_within`].
    pub(super) patience: Option<Duration>,
}

impl Attempt<'_> {
    /// A session on one target; `None` when there is none that is fit: why is added to `failures`.
    pub(super) fn target(
        &self,
        target: &Target,
        wanted: TargetSessionAttrs,
        failures: &mut Vec<String>,
    ) -> Result<Option<ServerConnection>, ClientError> {
        let endpoints = match target::endpoints(target) {
            Ok(endpoints) => endpoints,
            Err(text) => {
                failures.push(text);
                return Ok(None);
            }
        };
        for endpoint in endpoints {
            let failed = |why: &str| format!("{} failed: {why}", target::describe(target, &endpoint));
            match self.session(target, &endpoint, wanted) {
                Ok((connection, None)) => return Ok(Some(connection)),
                Ok((connection, Some(why))) => {
                    connection.close();
                    failures.push(failed(why));
                    return Ok(None);
                }
                Err(ClientError::Interrupted) => return Err(ClientError::Interrupted),
                Err(error) => failures.push(failed(&error.to_string())),
            }
        }
        Ok(None)
    }

    /// A session, and why it is not fit if it isn't.
    fn session(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        wanted: TargetSessionAttrs,
    ) -> Result<(ServerConnection, Option<&'static str>), ClientError> {
        let timeout = self.conninfo.connect_timeout().or(self.patience);
        let deadline = timeout.map(|timeout| clock::now().saturating_add(timeout));
        let mut connection = self.connect(target, endpoint, deadline)?;
        // What is asked belongs to the attempt.
        connection.answer_timeout = timeout;
        let unfit = connection.unfit_for(wanted)?;
        connection.answer_timeout = self.patience;
        Ok((connection, unfit))
    }

    fn connect(
        &self,
        target: &Target,
        endpoint: &Endpoint,
        deadline: Option<MonoTime>,
    ) -> Result<ServerConnection, ClientError> {
        let parameters = target::startup_parameters(self.conninfo, self.kind, self.application_name);
        let stream = Stream::connect_start(endpoint).map_err(|error| ClientError::Lost(reason(&error)))?;
        let socket = BufferedSocket::new(self.me, stream, client::check_frame).map_err(lost)?;
        let mut connection = ServerConnection::on(socket, target.clone());
        connection.sleep(SocketEvents::CONNECTED, deadline, WaitEvent::WalReceiverConnect)?;
        connection.socket.stream().take_error().map_err(lost)?;
        client::startup_message(connection.socket.output(), &parameters);
        connection.finish_startup(deadline, self.conninfo, &parameters)?;
        Ok(connection)
    }
}

impl ServerConnection {
    /// Asks the node behind a Unix socket how it is: the lines of its answer. For the user who owns the node.
    ///
    /// # Errors
    /// Nobody listens there, or nothing is answered within `patience`; [`ClientError::Server`]: the node doesn't tell.
    pub fn ask_status(socket: &Path, patience: Duration) -> Result<Vec<String>, ClientError> {
        let stream = Stream::connect_start(&Endpoint::Unix(socket.to_owned()))
            .map_err(|error| ClientError::Lost(reason(&error)))?;
        let target = Target {
            host: socket.display().to_string(),
            port: 0,
            address: TargetAddress::Unix(socket.to_owned()),
        };
        let socket = BufferedSocket::new(None, stream, client::check_frame).map_err(lost)?;
        let mut connection = ServerConnection::on(socket, target);
        connection.answer_timeout = Some(patience);
        client::status_request(connection.socket.output());
        let results = connection.read_results()?.without_copy()?;
        let values = results.into_iter().flat_map(|result| result.rows).flatten().flatten();
        Ok(values.map(|line| String::from_utf8_lossy(&line).into_owned()).collect())
    }

    fn on(socket: BufferedSocket, target: Target) -> ServerConnection {
        ServerConnection {
            socket,
            target,
            parameters: BTreeMap::new(),
            backend_pid: 0,
            stream: StreamState::None,
            tag: 0,
            answer_timeout: None,
            authenticated: false,
        }
    }

    /// From the startup packet to the first ReadyForQuery.
    fn finish_startup(
        &mut self,
        deadline: Option<MonoTime>,
        conninfo: &Conninfo,
        parameters: &[(&str, &str)],
    ) -> Result<(), ClientError> {
        let mut proof = Proof::NotAsked;
        let target = self.target.clone();
        loop {
            self.await_message(deadline, WaitEvent::WalReceiverConnect)?;
            let Some(message) = self.decode_message()? else { continue };
            match message {
                BackendMessage::Authentication(authentication) => {
                    let answer =
                        proof.step(authentication, || password::find(conninfo, &target, parameters))?;
                    self.authenticated = proof.is_complete();
                    self.socket.output().extend(answer);
                }
                BackendMessage::NegotiateProtocolVersion(_) => {}
                BackendMessage::BackendKeyData(key) => self.backend_pid = key.pid,
                BackendMessage::ReadyForQuery(_) => return Ok(()),
                BackendMessage::ErrorResponse(report) => return Err(ClientError::Server(report)),
                _ => return Err(self.unexpected_message()),
            }
        }
    }

    /// Why this session is not what is wanted, if it isn't: by what the server has reported, or by asking it.
    fn unfit_for(&mut self, wanted: TargetSessionAttrs) -> Result<Option<&'static str>, ClientError> {
        let reported = |name| self.parameter(name).map(session_attrs::truth);
        let reported = Reported {
            in_hot_standby: reported("in_hot_standby"),
            default_transaction_read_only: reported("default_transaction_read_only"),
        };
        match wanted.judge(reported) {
            Verdict::Fit => Ok(None),
            Verdict::Unfit(why) => Ok(Some(why)),
            Verdict::Ask(question) => {
                let results = self.query(question)?;
                let value = results.iter().flat_map(|result| result.rows.iter().flatten()).next();
                let Some(Some(value)) = value else {
                    let text = format!("the server answered \"{question}\" without a value");
                    return Err(ClientError::Protocol(text));
                };
                Ok(wanted.objection(session_attrs::truth(&String::from_utf8_lossy(value))))
            }
        }
    }
}
