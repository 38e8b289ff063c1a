//! Whether the statement that a session runs may go on, and how it waits.
//!
//! Asked by SQLite every few hundred of its steps, and by waits (pg_sleep, a slow client, a write under way). What ends a
//! statement is in the pending word alone: what others send (cancel, terminate), and what this process finds out and
//! raises in itself, a deadline that is over and a client that is gone. So the startup process, which executes the
//! session's writes, sees all of it too ([`crate::write_request::WriteControl`]).
//!
//! With `client_connection_check_interval` a statement ends with its client. While it waits the socket is among the events
//! of the wait, so that is seen at once; the interval counts for a statement that computes. Only the client's end of the
//! stream is looked at: what it has sent stays where it is.
//!
//! Follows PostgreSQL 15 ProcessInterrupts() in src/backend/tcop/postgres.c, pq_check_connection() in
//! src/backend/libpq/pqcomm.c.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use engine::control::{Control, Interruption};
use engine::error::{SqlError, SqlState};
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use ipc::wait_event_set::{Events, Occurred, OnPostmasterDeath, SocketEvents, WaitEventSet};
use settings::Settings;
use sys::clock::{self, MonoTime};
use sys::net::Stream;

use crate::memory_report::report_if_asked;
use crate::node::Node;
use crate::wait::wait_latch;

/// How often a statement that runs for long looks at the signals of its process.
const SIGNALS_EVERY: Duration = Duration::from_millis(10);

/// What ends a statement and, unless it ends the session, is forgotten when the statement is over.
pub(super) const OF_STATEMENT: Interrupts =
    Interrupts::QUERY_CANCEL.union(Interrupts::READ_HOLDS_LOG).union(Interrupts::STATEMENT_TIMEOUT);

/// Deadlines and interrupts of the statement that runs.
#[derive(Debug)]
pub(super) struct SessionControl {
    node: &'static Node,
    me: Me,
    /// When statement_timeout ends the statement; none once it has.
    deadline: Cell<Option<MonoTime>>,
    signals_due: Cell<MonoTime>,
    client_checks: Cell<Option<ClientChecks>>,
    /// Made when it is first needed.
    client: RefCell<Option<ClientWatch>>,
}

/// The looks at the client of a statement that computes.
#[derive(Clone, Copy, Debug)]
struct ClientChecks {
    interval: Duration,
    due: MonoTime,
}

/// The latch, the postmaster's death and the client's end of the stream.
#[derive(Debug)]
struct ClientWatch {
    set: WaitEventSet,
    occurred: Vec<Occurred>,
}

impl SessionControl {
    /// For a session that runs nothing yet.
    pub(super) fn new(node: &'static Node, me: Me) -> SessionControl {
        SessionControl {
            node,
            me,
            deadline: Cell::new(None),
            signals_due: Cell::new(MonoTime::ZERO),
            client_checks: Cell::new(None),
            client: RefCell::new(None),
        }
    }

    /// A statement of the client behind `stream` begins.
    ///
    /// # Errors
    /// 53000: its connection can't be watched, for lack of descriptors.
    pub(super) fn start(&self, settings: &Settings, stream: &Stream) -> Result<(), SqlError> {
        let now = clock::now();
        self.me.take(Interrupts::STATEMENT_TIMEOUT);
        self.deadline.set(settings.statement_timeout.map(|timeout| now.saturating_add(timeout)));
        self.signals_due.set(now.saturating_add(SIGNALS_EVERY));
        let checks = settings
            .client_connection_check_interval
            .map(|interval| ClientChecks { interval, due: now.saturating_add(interval) });
        if checks.is_some() && self.client.borrow().is_none() {
            let watch = ClientWatch::new(&self.me, stream).map_err(|error| {
                let message = format!("could not watch the client's connection: {error}");
                SqlError::new(SqlState(*b"53000"), message)
            })?;
            self.client.replace(Some(watch));
        }
        self.client_checks.set(checks);
        Ok(())
    }

    /// When statement_timeout ends the statement.
    pub(super) fn deadline(&self) -> Option<MonoTime> {
        self.deadline.get()
    }

    /// Why the statement has to end now, if it has to. What ends the session too comes first.
    pub(super) fn interruption(&self) -> Option<Interruption> {
        if self.deadline.get().is_some_and(|deadline| deadline <= clock::now()) {
            self.deadline.set(None);
            self.me.raise(Interrupts::STATEMENT_TIMEOUT);
        }
        report_if_asked(self.node, &self.me);
        let pending = self.me.pending();
        [
            (Interrupts::TERMINATE, Interruption::Terminate),
            (Interrupts::CLIENT_CONNECTION_LOST, Interruption::ClientLost),
            (Interrupts::QUERY_CANCEL, Interruption::Cancel),
            (Interrupts::READ_HOLDS_LOG, Interruption::HoldsUpCheckpoint),
            (Interrupts::STATEMENT_TIMEOUT, Interruption::StatementTimeout),
        ]
        .into_iter()
        .find_map(|(interrupt, interruption)| pending.contains(interrupt).then_some(interruption))
    }

    /// Sleeps until the latch is set, `until` or the statement's deadline has come, or the client is gone. Reset the latch
    /// and ask for an [`interruption`](SessionControl::interruption) before.
    pub(super) fn wait(&self, until: Option<MonoTime>, event: WaitEvent) {
        let next = [until, self.deadline.get()].into_iter().flatten().min();
        let timeout = next.map(|next| next.saturating_since(clock::now()));
        if self.watches_client() {
            self.me.serve_barriers();
            self.look_at_client(timeout, event);
        } else {
            wait_latch(&self.me, timeout, event);
        }
    }

    /// Forgets interrupts that were meant for a statement which is over: a late cancel is not an error of the next.
    pub(super) fn finish(&self) {
        self.me.take(OF_STATEMENT);
        self.deadline.set(None);
        self.client_checks.set(None);
    }

    /// Once the client is gone the event would only come again and again.
    fn watches_client(&self) -> bool {
        self.client_checks.get().is_some() && !self.me.pending().contains(Interrupts::CLIENT_CONNECTION_LOST)
    }

    /// Waits for the latch and for the client's end of the stream.
    ///
    /// Panics if the kernel refuses to wait on descriptors that are open, as [`wait_latch`] does.
    fn look_at_client(&self, timeout: Option<Duration>, event: WaitEvent) {
        let mut client = self.client.borrow_mut();
        let ClientWatch { set, occurred } = client.as_mut().expect("made when the checks were set");
        set.wait(timeout, event, occurred).expect("waiting on the own latch and socket doesn't fail");
        if occurred.iter().any(|one| one.events.contains(Events::SOCKET_CLOSED)) {
            self.me.raise(Interrupts::CLIENT_CONNECTION_LOST);
        }
    }
}

impl ClientWatch {
    fn new(me: &Me, stream: &Stream) -> io::Result<ClientWatch> {
        let mut set = WaitEventSet::new(me, 3)?;
        set.add_latch()?;
        set.add_postmaster_death(OnPostmasterDeath::Exit)?;
        set.add_socket(stream, SocketEvents::CLOSED)?;
        Ok(ClientWatch { set, occurred: Vec::new() })
    }
}

impl Control for SessionControl {
    fn check(&self) -> Option<Interruption> {
        let now = clock::now();
        if self.signals_due.get() <= now {
            // An error here means that the signalfd is gone; the next wait will say so.
            let _ = self.me.poll_signals();
            self.signals_due.set(now.saturating_add(SIGNALS_EVERY));
        }
        self.me.serve_barriers();
        if let Some(checks) = self.client_checks.get()
            && checks.due <= now
            && self.watches_client()
        {
            let due = now.saturating_add(checks.interval);
            self.client_checks.set(Some(ClientChecks { due, ..checks }));
            self.look_at_client(Some(Duration::ZERO), WaitEvent::ClientRead);
        }
        self.interruption()
    }
}
