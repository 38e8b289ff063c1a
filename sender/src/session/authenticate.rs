//! Who is it? From the startup packet to a role that may have this session.
//!
//! 1. The first rule of pg_hba.conf that the connection matches says how it proves who it is, or sends it away.
//! 2. The role is looked up in the tables, which have everything by then that was acknowledged before: a role that has just
//!    been made can connect, one that was dropped can't.
//! 3. With `scram-sha-256` the client proves that it knows the password. A role that doesn't exist, or has no password, gets
//!    the same exchange with a mock of a verifier, and the same answer at its end.
//! 4. The role has to exist (with `trust` nobody has looked yet), and to have LOGIN; for replication, REPLICATION.
//!
//! All of it within `authentication_timeout`, counted from the connection's first byte on. What the client is told says
//! nothing of roles; the log does.
//!
//! Follows PostgreSQL 15 src/backend/libpq/auth.c (ClientAuthentication), auth-scram.c, src/backend/utils/init/miscinit.c
//! (InitializeSessionUserId), postinit.c (InitPostgres).

use std::net::IpAddr;

use engine::error::SqlError;
use engine::roles::{self, Found, Rights, Role};
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use sys::net::PeerAddr;
use wire::backend;
use wire::error::ErrorResponse;
use wire::frontend::{self, check_authentication_frame, sasl_initial_response};
use wire::hba::{Applicant, Method};
use wire::scram::{self, ServerExchange, Verifier};
use wire::sqlstate::{
    CANNOT_CONNECT_NOW, INSUFFICIENT_PRIVILEGE, INTERNAL_ERROR, INVALID_AUTHORIZATION_SPECIFICATION,
    INVALID_PASSWORD, PROTOCOL_VIOLATION, QUERY_CANCELED,
};
use wire::startup::{ReplicationMode, StartupMessage};

use crate::connection::{Connection, Received};
use crate::node::{Node, TABLES_BUSY_TIMEOUT};
use crate::recovery_state::{Waited, wait_applied};
use crate::wait::wait_latch;

/// Lets the client in as the role that it names, until `deadline`; what that role may do. None: the client has left.
///
/// # Errors
/// FATAL, in PostgreSQL's words.
pub(super) fn authenticate(
    node: &'static Node,
    me: Me,
    connection: &mut Connection,
    startup: &StartupMessage,
    deadline: MonoTime,
) -> Result<Option<Rights>, ErrorResponse> {
    connection.set_read_deadline(Some(deadline));
    let (method, rule) = find_rule(node, connection, startup)?;
    let found = look_up(node, me, &startup.user, deadline)?;
    if method == Method::ScramSha256 {
        let known = Exchange { node, me, connection, user: &startup.user, found: &found }.run()?;
        match known {
            Some(Ok(())) => {}
            Some(Err(why)) => return Err(failed(&startup.user, &why, &rule)),
            None => return Ok(None),
        }
    }
    connection.set_read_deadline(None);
    admit(found.role, startup).map(Some)
}

/// The method of the rule that decides, and how the log names the rule.
fn find_rule(
    node: &Node,
    connection: &Connection,
    startup: &StartupMessage,
) -> Result<(Method, String), ErrorResponse> {
    let address = match connection.peer() {
        PeerAddr::Tcp(address) => Some(address.ip()),
        PeerAddr::Unix => None,
    };
    let physical_replication = startup.replication == ReplicationMode::Physical;
    let who = Applicant { address, database: &startup.database, physical_replication, user: &startup.user };
    // A machine that can't tell its own addresses has none: the rules that need them don't match.
    let interfaces = || sys::net::interfaces().unwrap_or_default();
    match node.configuration.hba().find(&who, &interfaces) {
        None => Err(refused("no pg_hba.conf entry for", address, startup)),
        Some(rule) if rule.method == Method::Reject => Err(refused("pg_hba.conf rejects", address, startup)),
        Some(rule) => Ok((rule.method, format!("line {}: \"{}\"", rule.line, rule.text))),
    }
}

fn refused(what: &str, address: Option<IpAddr>, startup: &StartupMessage) -> ErrorResponse {
    let host = address.map_or_else(|| "[local]".to_owned(), |address| address.to_canonical().to_string());
    let user = &startup.user;
    let entry = what.starts_with("no ");
    let message = match (startup.replication == ReplicationMode::Physical, entry) {
        (true, true) => {
            format!("{what} replication connection from host \"{host}\", user \"{user}\", no encryption")
        }
        (true, false) => {
            format!("{what} replication connection for host \"{host}\", user \"{user}\", no encryption")
        }
        (false, true) => format!(
            "{what} host \"{host}\", user \"{user}\", database \"{}\", no encryption",
            startup.database
        ),
        (false, false) => format!(
            "{what} connection for host \"{host}\", user \"{user}\", database \"{}\", no encryption",
            startup.database
        ),
    };
    ErrorResponse::fatal(INVALID_AUTHORIZATION_SPECIFICATION, message)
}

/// Reads the role, in tables that are as far as what has been acknowledged. (A node whose disk is full goes on with those
/// that it has.)
fn look_up(node: &Node, me: Me, user: &str, deadline: MonoTime) -> Result<Found, ErrorResponse> {
    let mut wanted = node.recovery.acknowledged();
    if !node.recovery.in_recovery() {
        // As far as synchronous standbys have it: they, too, have to log in.
        wanted = wanted.min(node.wal.horizon());
    }
    let ends = || me.pending().contains(Interrupts::TERMINATE);
    let stop = || ends() || clock::now() >= deadline;
    let sleep = || wait_latch(&me, Some(deadline.saturating_since(clock::now())), WaitEvent::TableApply);
    match wait_applied(node, &me, wanted, stop, sleep) {
        Waited::Applied | Waited::NoRoom => {}
        Waited::Interrupted if ends() => return Err(super::terminated()),
        Waited::Interrupted => return Err(timed_out()),
    }
    roles::look_up(&node.data.state_db(), user, TABLES_BUSY_TIMEOUT).map_err(|error: SqlError| {
        ErrorResponse::fatal(CANNOT_CONNECT_NOW, format!("could not look up role \"{user}\": {error}"))
    })
}

/// What the role may do, if it may have this session.
fn admit(role: Option<Role>, startup: &StartupMessage) -> Result<Rights, ErrorResponse> {
    let user = &startup.user;
    let invalid = |message| Err(ErrorResponse::fatal(INVALID_AUTHORIZATION_SPECIFICATION, message));
    let Some(role) = role else {
        return invalid(format!("role \"{user}\" does not exist"));
    };
    if !role.login {
        return invalid(format!("role \"{user}\" is not permitted to log in"));
    }
    if startup.replication != ReplicationMode::None && !role.rights.replication {
        let message = "must be superuser or replication role to start walsender";
        return Err(ErrorResponse::fatal(INSUFFICIENT_PRIVILEGE, message));
    }
    Ok(role.rights)
}

/// The client is told one thing, whatever was wrong; the log is told what it was.
fn failed(user: &str, why: &str, rule: &str) -> ErrorResponse {
    tracing::info!("{why}\nDETAIL:  Connection matched pg_hba.conf {rule}");
    ErrorResponse::fatal(INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

/// FATAL 57014, when the time for it is over.
pub(super) fn timed_out() -> ErrorResponse {
    ErrorResponse::fatal(QUERY_CANCELED, "canceling authentication due to timeout")
}

/// The exchange with a client that is to know a password.
struct Exchange<'a> {
    node: &'static Node,
    me: Me,
    connection: &'a mut Connection,
    user: &'a str,
    found: &'a Found,
}

impl Exchange<'_> {
    /// Whether the client knows it, or why not as the log is told; none when it has left.
    fn run(&mut self) -> Result<Option<Result<(), String>>, ErrorResponse> {
        let (verifier, lacks) = self.verifier();
        let mut exchange = ServerExchange::new(verifier, scram::nonce(&random()?));
        self.connection.set_check(check_authentication_frame);
        backend::authentication_sasl(self.connection.output());
        self.connection.flush()?;
        let Some(body) = self.read()? else { return Ok(None) };
        let (mechanism, data) = sasl_initial_response(&body)?;
        if mechanism != scram::MECHANISM {
            let message = "client selected an invalid SASL authentication mechanism";
            return Err(ErrorResponse::fatal(PROTOCOL_VIOLATION, message));
        }
        let first = exchange.first(data)?;
        backend::authentication_sasl_continue(self.connection.output(), &first);
        self.connection.flush()?;
        let Some(body) = self.read()? else { return Ok(None) };
        let answer = exchange.last(&body)?;
        self.connection.set_check(frontend::check_frame);
        // After the same work in each case.
        Ok(Some(match (lacks, answer) {
            (None, Ok(last)) => {
                backend::authentication_sasl_final(self.connection.output(), &last);
                Ok(())
            }
            (None, Err(_)) => Err(format!("Password does not match for user \"{}\".", self.user)),
            (Some(lacks), _) => Err(lacks),
        }))
    }

    /// The role's verifier; or a mock of one, and what the role lacks.
    fn verifier(&self) -> (Verifier, Option<String>) {
        let lacks = match &self.found.role {
            None => format!("Role \"{}\" does not exist.", self.user),
            Some(Role { verifier: None, .. }) => format!("User \"{}\" has no password assigned.", self.user),
            Some(Role { verifier: Some(text), .. }) => match Verifier::parse(text) {
                Some(verifier) => return (verifier, None),
                None => format!("User \"{}\" does not have a valid SCRAM secret.", self.user),
            },
        };
        (Verifier::mock(self.user, &self.found.secret), Some(lacks))
    }

    /// The body of the client's next message; none when it has left (psql does, to ask for a password).
    fn read(&mut self) -> Result<Option<Vec<u8>>, ErrorResponse> {
        loop {
            match self.connection.read_message()? {
                Received::Message(message) => return Ok(Some(message.body.to_vec())),
                Received::TimedOut => return Err(timed_out()),
                Received::Eof => return Ok(None),
                Received::Interrupted => {
                    if self.me.pending().contains(Interrupts::TERMINATE) {
                        return Err(super::terminated());
                    }
                    self.node.attend(&self.me);
                    self.me.take(self.me.pending().without(Interrupts::TERMINATE | Interrupts::BARRIER));
                }
            }
        }
    }
}

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> Result<[u8; N], ErrorResponse> {
    let mut bytes = [0; N];
    let failed =
        |error| ErrorResponse::fatal(INTERNAL_ERROR, format!("could not generate random nonce: {error}"));
    sys::random::fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
