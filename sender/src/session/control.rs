//! Whether the statement that a session runs may go on.
//!
//! Asked by SQLite every few hundred of its steps, and by waits (pg_sleep, a slow client, a write under way).

use std::cell::Cell;
use std::time::Duration;

use engine::control::{Control, Interruption};
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use sys::clock::{self, MonoTime};

/// How often a statement that runs for long looks at the signals of its process.
const SIGNALS_EVERY: Duration = Duration::from_millis(10);

/// Deadline and interrupts of the statement that runs.
#[derive(Debug)]
pub(super) struct SessionControl {
    me: Me,
    deadline: Cell<Option<MonoTime>>,
    signals_due: Cell<MonoTime>,
}

impl SessionControl {
    /// For a session that runs nothing yet.
    pub(super) fn new(me: Me) -> SessionControl {
        SessionControl { me, deadline: Cell::new(None), signals_due: Cell::new(MonoTime::ZERO) }
    }

    /// A statement begins that may run for `timeout`.
    pub(super) fn start(&self, timeout: Option<Duration>) {
        let now = clock::now();
        self.deadline.set(timeout.map(|timeout| now.saturating_add(timeout)));
        self.signals_due.set(now.saturating_add(SIGNALS_EVERY));
    }

    /// When statement_timeout ends the statement.
    pub(super) fn deadline(&self) -> Option<MonoTime> {
        self.deadline.get()
    }

    /// Why the statement has to end now, if it has to.
    pub(super) fn interruption(&self) -> Option<Interruption> {
        let pending = self.me.pending();
        if pending.contains(Interrupts::TERMINATE) {
            return Some(Interruption::Terminate);
        }
        if pending.contains(Interrupts::QUERY_CANCEL) {
            return Some(Interruption::Cancel);
        }
        if pending.contains(Interrupts::READ_HOLDS_LOG) {
            return Some(Interruption::HoldsUpCheckpoint);
        }
        let timed_out = self.deadline.get().is_some_and(|deadline| deadline <= clock::now());
        timed_out.then_some(Interruption::StatementTimeout)
    }

    /// Forgets interrupts that were meant for a statement which is over: a late cancel is not an error of the next.
    pub(super) fn finish(&self) {
        self.me.take(Interrupts::QUERY_CANCEL | Interrupts::READ_HOLDS_LOG);
        self.deadline.set(None);
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
        self.interruption()
    }
}
