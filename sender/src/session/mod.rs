//! A session: one client, from its first packet to its last.
//!
//! Started by the postmaster for each connection. Begins with the startup packet (within `authentication_timeout`);
//! a CancelRequest is carried out and ends the process, a replication connection becomes a walsender
//! ([`crate::walsender`]), anything else is greeted and then served statement by statement ([`query`]).
//!
//! Waits for the client (ClientRead, ClientWrite), for the startup process (WriterOutcome, TableApply), for
//! synchronous standbys (SyncRep) and for the flush of a message that it logged itself; always with its latch and the
//! postmaster's death. Normal stop: the client leaves; or SIGTERM, answered with FATAL 57P01. Exit status 0, or 1
//! after a FATAL. SIGQUIT ends it at once.
//!
//! Must never be added: a write to the tables; a SQLite read transaction that outlives its statement.
//!
//! Follows PostgreSQL 15 src/backend/tcop/postgres.c and src/backend/postmaster/postmaster.c (ProcessStartupPacket).

mod authenticate;
mod block;
mod control;
mod hba_view;
mod notify;
mod promotion;
mod query;
mod roles;
mod slots;
mod standbys;
mod startup_packet;
pub(crate) mod stat_views;
pub mod system_info;
mod visibility;
mod wait_for_lsn;
mod writes;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use engine::error::{SqlError, SqlState};
use engine::reader::{Reader, ReaderOptions};
use engine::roles::Rights;
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use postmaster::refusal::Refusal;
use settings::Settings;
use settings::session::SessionSettings;
use sys::clock;
use sys::net::{PeerAddr, Stream};
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;
use wire::backend::{self, TransactionStatus};
use wire::error::{ErrorResponse, Severity};
use wire::frontend::FrontendMessage;
use wire::startup::{ReplicationMode, StartupMessage};

use crate::backend_status::{BackendState, BackendStatus};
use crate::connection::{Connection, Received};
use crate::log::fatal;
use crate::node::{Node, TABLES_BUSY_TIMEOUT};
use crate::session::authenticate::authenticate;
use crate::session::block::Block;
use crate::session::control::SessionControl;
use crate::session::notify::Notifications;
use crate::session::startup_packet::{First, read_startup};
use crate::session::system_info::SessionInfo;
use crate::session_count::Place;
use crate::status_report::{Sight, tell_status};
use crate::sync_rep;
use crate::xlog::Xlog;

/// Main function of a connection's process; returns its exit status.
pub fn backend_main(node: &'static Node, me: Me, stream: Stream, peer: PeerAddr) -> i32 {
    node.statuses[me.number().index()].start(now());
    node.requests.reset(me.number());
    let connection = match Connection::new(me, stream, peer) {
        Ok(mut connection) => {
            connection.set_body_max(message_bytes_max(&node.settings()));
            connection
        }
        Err(error) => {
            fatal(&format!("could not serve a connection: {error}"));
            return 1;
        }
    };
    match serve(node, me, connection) {
        Ok(()) => 0,
        Err(()) => 1,
    }
}

/// Most bytes of a message's body: in any case those of the largest statement, with the byte that ends it.
fn message_bytes_max(settings: &Settings) -> usize {
    settings.max_message_size.max(settings.max_statement_size + 1) as usize
}

/// What a client is told of a message that was longer.
pub(crate) fn message_too_long(node: &Node, bytes: usize) -> ErrorResponse {
    let most = message_bytes_max(&node.settings());
    ErrorResponse::error(
        wire::sqlstate::PROGRAM_LIMIT_EXCEEDED,
        format!("message of {bytes} bytes exceeds max_message_size ({most} bytes)"),
    )
    .with_hint("Send fewer statements at once, or increase max_message_size.")
}

/// Tells a client that it can't be served now, and why.
pub fn refuse_main(node: &'static Node, stream: Stream, peer: PeerAddr, refusal: Refusal) -> i32 {
    if let Ok(mut connection) = Connection::unattached(stream, peer)
        && let deadline = clock::now().saturating_add(node.settings().authentication_timeout)
    {
        let refused = match read_startup(node, &mut connection, deadline) {
            Ok(First::Startup(_)) => Err(report_of_refusal(refusal)),
            Ok(First::Status) => tell_status(node, &mut connection, Sight::WithoutLocks(refusal)),
            Ok(First::Done) | Err(_) => Ok(()),
        };
        // The client is told, or is gone.
        let _ = refused.or_else(|report| end_with(&mut connection, &report));
    }
    1
}

/// A place among the sessions. The last ones are for superusers, who may have to find out who has all the others.
fn take_place(node: &'static Node, rights: Rights) -> Result<Place, ErrorResponse> {
    let settings = node.settings();
    let all = settings.max_connections;
    let open = all.saturating_sub(settings.superuser_reserved_connections);
    if let Some(place) = node.sessions.take(if rights.superuser { all } else { open }) {
        return Ok(place);
    }
    if rights.superuser || open == all || node.sessions.taken() >= all {
        return Err(report_of_refusal(Refusal::TooManyClients));
    }
    Err(ErrorResponse::fatal(
        wire::sqlstate::TOO_MANY_CONNECTIONS,
        "remaining connection slots are reserved for non-replication superuser connections",
    ))
}

fn report_of_refusal(refusal: Refusal) -> ErrorResponse {
    let sqlstate = wire::sqlstate::SqlState::parse(refusal.sqlstate()).expect("refusals have a SQLSTATE");
    let mut report = ErrorResponse::fatal(sqlstate, refusal.message());
    report.detail = refusal.detail().map(str::to_owned);
    report
}

fn serve(node: &'static Node, me: Me, mut connection: Connection) -> Result<(), ()> {
    let deadline = clock::now().saturating_add(node.settings().authentication_timeout);
    let startup = match read_startup(node, &mut connection, deadline) {
        Ok(First::Startup(startup)) => startup,
        Ok(First::Done) => return Ok(()),
        Ok(First::Status) => {
            let told = tell_status(node, &mut connection, Sight::All);
            return told.or_else(|report| end_with(&mut connection, &report));
        }
        Err(report) => return end_with(&mut connection, &report),
    };
    let status = &node.statuses[me.number().index()];
    status.set_client(&connection.peer());
    status.user.set(&startup.user);
    status.database.set(&startup.database);
    // Before the role is looked up: what changes from now on is seen.
    let roles_version = node.roles_version.load(Ordering::Acquire);
    let rights = match authenticate(node, me, &mut connection, &startup, deadline) {
        Ok(Some(rights)) => rights,
        Ok(None) => return Ok(()),
        Err(report) => return end_with(&mut connection, &report),
    };
    match startup.replication {
        ReplicationMode::None => {}
        _ => return crate::walsender::process::serve(node, me, connection, &startup, rights),
    }
    let _place = match take_place(node, rights) {
        Ok(place) => place,
        Err(report) => return end_with(&mut connection, &report),
    };
    if let Some(end) = node.sync_rep.required() {
        return end_with(&mut connection, &unconfirmed(end));
    }
    let version = SettingsVersion::now(node);
    let settings = match greet(node, me, &mut connection, &startup, rights) {
        Ok(settings) => settings,
        Err(report) => return end_with(&mut connection, &report),
    };
    crate::quit_messages::announce(&connection);
    let known = Known { rights: Rc::new(Cell::new(rights)), roles_version };
    let mut session = Session::new(node, me, connection, (settings, version), known);
    let result = session.run().or_else(|report| end_with(&mut session.connection, &report));
    node.replication_slots.drop_temporary(node, &me);
    result
}

/// Tells the client why it is left, if it can still be told, and the log. Always an error: the process' FATAL.
pub(crate) fn end_with(connection: &mut Connection, report: &ErrorResponse) -> Result<(), ()> {
    fatal(&report.message);
    if report.severity == Severity::CommError {
        return Err(());
    }
    backend::error_response(connection.output(), report);
    // The connection ends anyhow.
    let _ = connection.flush();
    Err(())
}

/// What a session knows of its role, and as of when.
struct Known {
    rights: Rc<Cell<Rights>>,
    roles_version: u64,
}

/// One client's session.
pub(crate) struct Session {
    node: &'static Node,
    me: Me,
    connection: Connection,
    settings: Rc<RefCell<SessionSettings>>,
    control: Rc<SessionControl>,
    info: Rc<SessionInfo>,
    /// Opened at the first read: a session that only writes needs none.
    reader: Option<Reader>,
    /// The statement_memory_limit that it has, bytes.
    reader_memory: usize,
    block: Option<Block>,
    status: &'static BackendStatus,
    /// End of the last record of this session: its reads see it.
    last_write: Lsn,
    notifications: Rc<RefCell<Notifications>>,
    /// There is something to read in the queue of notifications, and nobody has looked yet.
    notified: bool,
    /// What the session knows of its role.
    known: Known,
    /// Which of the node's settings this session's lie over.
    settings_version: SettingsVersion,
    /// Extended-protocol messages are skipped up to the next Sync.
    skip_to_sync: bool,
    /// The client knows that its synchronous_commit waits for more than it says.
    told_of_level: bool,
}

impl Session {
    /// A session with a client that was greeted.
    fn new(
        node: &'static Node,
        me: Me,
        connection: Connection,
        (settings, settings_version): (SessionSettings, SettingsVersion),
        known: Known,
    ) -> Session {
        let settings = Rc::new(RefCell::new(settings));
        let control = Rc::new(SessionControl::new(node, me));
        let notifications = Rc::new(RefCell::new(Notifications::new(node, me)));
        let info = Rc::new(SessionInfo {
            node,
            me,
            settings: Rc::clone(&settings),
            rights: Rc::clone(&known.rights),
            xlog: RefCell::new(Xlog::new(node, me)),
            control: Rc::clone(&control),
            notifications: Rc::clone(&notifications),
            warnings: RefCell::default(),
            to_confirm: Cell::new(None),
        });
        Session {
            node,
            me,
            connection,
            settings,
            control,
            info,
            reader: None,
            reader_memory: 0,
            block: None,
            status: &node.statuses[me.number().index()],
            last_write: Lsn::INVALID,
            notifications,
            notified: false,
            known,
            settings_version,
            skip_to_sync: false,
            told_of_level: false,
        }
    }

    /// Serves the client until it leaves; an error is the FATAL that ends the session.
    fn run(&mut self) -> Result<(), ErrorResponse> {
        self.ready()?;
        loop {
            if self.heed_settings() {
                self.report_settings();
                self.connection.flush()?;
            }
            let query = match self.connection.read_message()? {
                Received::Message(message) => match (message.tag, FrontendMessage::decode(message)) {
                    (_, Ok(FrontendMessage::Query(text))) => text.to_owned(),
                    (_, Ok(FrontendMessage::Terminate)) => return Ok(()),
                    (_, Ok(FrontendMessage::Sync)) => {
                        self.skip_to_sync = false;
                        self.ready()?;
                        continue;
                    }
                    (_, Ok(FrontendMessage::Extended(_))) => {
                        self.refuse_extended();
                        continue;
                    }
                    (_, Ok(FrontendMessage::FunctionCall)) => {
                        let error = SqlError::unsupported("the function call protocol", "Use SELECT.");
                        self.send_error(&error, None);
                        self.ready()?;
                        continue;
                    }
                    (tag, Ok(FrontendMessage::TooLong { bytes, .. })) => {
                        self.refuse_message(tag, &message_too_long(self.node, bytes))?;
                        continue;
                    }
                    // Late copy messages of a client that gave up a copy are to be ignored, as is Flush.
                    (_, Ok(_)) => continue,
                    (tag, Err(report)) => {
                        self.refuse_message(tag, &report)?;
                        continue;
                    }
                },
                Received::Interrupted => {
                    self.idle_interrupts()?;
                    continue;
                }
                Received::TimedOut => {
                    self.me.raise(Interrupts::IDLE_TIMEOUT);
                    continue;
                }
                Received::Eof => return Ok(()),
            };
            // While it waited for this a quorum may have answered, which wakes no session.
            if self.heed_settings() {
                self.report_settings();
            }
            self.simple_query(&query)?;
            self.ready()?;
        }
    }

    /// While no statement runs: a cancel comes too late; a terminate, a client that is gone and a time-out end the
    /// session; notifications are told.
    fn idle_interrupts(&mut self) -> Result<(), ErrorResponse> {
        self.node.attend(&self.me);
        self.me.take(Interrupts::WALSND_INIT_STOPPING | Interrupts::STOP);
        self.control.finish();
        if self.me.pending().contains(Interrupts::TERMINATE) {
            return Err(terminated());
        }
        if self.me.pending().contains(Interrupts::CLIENT_CONNECTION_LOST) {
            return Err(client_lost());
        }
        if self.me.take(Interrupts::IDLE_TIMEOUT).contains(Interrupts::IDLE_TIMEOUT) {
            return Err(idle_for_too_long(self.block.is_some()));
        }
        self.notifications_came()?;
        self.connection.flush()
    }

    /// Between two statements: lays this session's SETs over new settings of the node; whether there are any.
    ///
    /// The process has absorbed the barrier before, wherever it came: what belongs to the process has changed at once. What a
    /// statement sees does not change while it runs, and nobody has to wait for its end.
    fn heed_settings(&mut self) -> bool {
        let version = SettingsVersion::now(self.node);
        if version == self.settings_version {
            return false;
        }
        self.settings_version = version;
        let base = base_settings(self.node, self.me, self.known.rights.get());
        self.settings.borrow_mut().reload(&base);
        true
    }

    /// The notifications that came meanwhile, the settings that changed, then ReadyForQuery.
    fn ready(&mut self) -> Result<(), ErrorResponse> {
        self.notifications_came()?;
        self.heed_settings();
        self.report_settings();
        let (wire, shown) = match &self.block {
            None => (TransactionStatus::Idle, BackendState::Idle),
            Some(block) if block.failed => {
                (TransactionStatus::Failed, BackendState::IdleInTransactionAborted)
            }
            Some(_) => (TransactionStatus::InTransaction, BackendState::IdleInTransaction),
        };
        backend::ready_for_query(self.connection.output(), wire);
        self.status.set_state(shown, now());
        self.connection.flush()?;
        self.limit_idle_time();
        Ok(())
    }

    /// From now on until the next message is there.
    fn limit_idle_time(&mut self) {
        let settings = self.settings.borrow();
        let timeout = match &self.block {
            None => settings.current().idle_session_timeout,
            Some(_) => settings.current().idle_in_transaction_session_timeout,
        };
        self.connection.set_read_deadline(timeout.map(|timeout| clock::now().saturating_add(timeout)));
    }

    fn report_settings(&mut self) {
        for (name, value) in self.settings.borrow_mut().take_reports() {
            if name == "application_name" {
                self.status.application_name.set(&value);
            }
            backend::parameter_status(self.connection.output(), name, &value);
        }
    }

    /// The simple protocol is what this server speaks so far; one answer per series of extended messages.
    fn refuse_extended(&mut self) {
        if !self.skip_to_sync {
            self.skip_to_sync = true;
            let error =
                SqlError::unsupported("the extended query protocol", "Use the simple query protocol.");
            self.send_error(&error, None);
        }
    }

    /// Answers a message that can't be looked at, where an answer is expected. Like any error it fails the block.
    fn refuse_message(&mut self, tag: u8, report: &ErrorResponse) -> Result<(), ErrorResponse> {
        if report.ends_connection() {
            return Err(report.clone());
        }
        let of_a_series = matches!(tag, b'B' | b'P');
        if matches!(tag, b'd' | b'f') || of_a_series && self.skip_to_sync {
            return Ok(());
        }
        tracing::error!("{}", report.message);
        backend::error_response(self.connection.output(), report);
        if let Some(block) = &mut self.block {
            block.failed = true;
        }
        self.skip_to_sync = of_a_series;
        if of_a_series { self.connection.flush() } else { self.ready() }
    }

    /// The connection to the tables, opened at the first use.
    fn reader(&mut self) -> Result<&mut Reader, SqlError> {
        let memory_max = self.settings.borrow().current().statement_memory_limit as usize;
        if self.reader.is_none() {
            let options = ReaderOptions {
                busy_timeout: TABLES_BUSY_TIMEOUT,
                value_size_max: self.node.settings().max_statement_size as usize,
                memory_max,
                system: Rc::clone(&self.info) as Rc<dyn engine::catalog::SystemInfo>,
            };
            let reader = Reader::open(&self.node.data.state_db(), &options)?;
            reader.set_rights(self.known.rights.get());
            self.reader = Some(reader);
        } else if memory_max != self.reader_memory
            && let Some(reader) = &self.reader
        {
            reader.limit_memory(memory_max)?;
        }
        self.reader_memory = memory_max;
        Ok(self.reader.as_mut().expect("opened above"))
    }

    /// Sends an error; `position` is the client's character position.
    fn send_error(&mut self, error: &SqlError, position: Option<u32>) {
        backend::error_response(self.connection.output(), &report_of(error, position));
    }
}

/// AuthenticationOk, the settings, the cancel key, for a client that is who it says.
pub(crate) fn greet(
    node: &'static Node,
    me: Me,
    connection: &mut Connection,
    startup: &StartupMessage,
    rights: Rights,
) -> Result<SessionSettings, ErrorResponse> {
    let mut settings = SessionSettings::new(&base_settings(node, me, rights), &startup.settings)
        .map_err(|error| report_of(&setting_error(&error), None).with_severity(Severity::Fatal))?;
    if let Some(negotiation) = &startup.negotiate {
        backend::negotiate_protocol_version(connection.output(), negotiation);
    }
    backend::authentication_ok(connection.output());
    let status = &node.statuses[me.number().index()];
    for (name, value) in settings.take_reports() {
        if name == "application_name" {
            status.application_name.set(&value);
        }
        backend::parameter_status(connection.output(), name, &value);
    }
    backend::backend_key_data(connection.output(), startup_packet::new_cancel_key(status)?);
    Ok(settings)
}

/// What a session's settings rest on: when it is another, they are computed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SettingsVersion {
    configuration: u64,
    /// `in_hot_standby`, until the node is promoted.
    in_recovery: bool,
    /// `default_transaction_read_only`, until synchronous standbys have answered.
    awaits_quorum: bool,
}

impl SettingsVersion {
    /// That of this process.
    pub(crate) fn now(node: &Node) -> SettingsVersion {
        SettingsVersion {
            configuration: node.configuration.version(),
            in_recovery: node.recovery.in_recovery(),
            awaits_quorum: sync_rep::awaits_first_quorum(node),
        }
    }
}

/// The node's settings as the session of this process begins with them.
pub(crate) fn base_settings(node: &Node, me: Me, rights: Rights) -> Settings {
    let mut base = (*node.settings()).clone();
    base.in_hot_standby = node.recovery.in_recovery();
    base.transaction_read_only |= base.in_hot_standby;
    // A client that may choose among servers passes by: another one may have been promoted meanwhile.
    base.default_transaction_read_only |= sync_rep::awaits_first_quorum(node);
    base.is_superuser = rights.superuser;
    base.session_authorization = node.statuses[me.number().index()].user.get();
    base
}

/// What a client is told of an error.
pub(crate) fn report_of(error: &SqlError, position: Option<u32>) -> ErrorResponse {
    let sqlstate =
        wire::sqlstate::SqlState::parse(error.sqlstate.as_str()).unwrap_or(wire::sqlstate::INTERNAL_ERROR);
    let mut report = ErrorResponse::error(sqlstate, error.message.clone());
    report.detail = error.detail.clone();
    report.hint = error.hint.clone();
    report.position = position;
    report
}

fn setting_error(error: &settings::error::Error) -> SqlError {
    let mut bytes = *b"22023";
    if let Ok(sqlstate) = error.sqlstate.as_bytes().try_into() {
        bytes = sqlstate;
    }
    let mut converted = SqlError::new(SqlState(bytes), error.message.clone());
    converted.detail = error.detail.clone();
    converted.hint = error.hint.clone();
    converted
}

/// FATAL 57P03: the standbys may have more of the log than this node has after a restart of its machine.
fn unconfirmed(end: Lsn) -> ErrorResponse {
    ErrorResponse::fatal(
        wire::sqlstate::CANNOT_CONNECT_NOW,
        "the database system is not yet accepting connections",
    )
    .with_detail(format!(
        "Since the machine was restarted the synchronous standbys have not confirmed the log up to {end}."
    ))
}

/// FATAL 57P01.
pub(crate) fn terminated() -> ErrorResponse {
    ErrorResponse::fatal(
        wire::sqlstate::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )
}

/// FATAL 08006, for the log alone.
pub(crate) fn client_lost() -> ErrorResponse {
    ErrorResponse::comm_error(wire::sqlstate::CONNECTION_FAILURE, "connection to client lost")
}

/// FATAL 57P05, or 25P03 inside of a block.
fn idle_for_too_long(in_block: bool) -> ErrorResponse {
    let (sqlstate, what) = match in_block {
        false => (wire::sqlstate::IDLE_SESSION_TIMEOUT, "idle-session"),
        true => (wire::sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, "idle-in-transaction"),
    };
    ErrorResponse::fatal(sqlstate, format!("terminating connection due to {what} timeout"))
}

fn now() -> Timestamp {
    Timestamp::from_unix_micros(clock::unix_micros())
}
