//! A session's LISTEN and NOTIFY: what its transaction has said so far, the channels it listens to, and the delivery.
//!
//! LISTEN, UNLISTEN and NOTIFY count when their transaction commits, and are forgotten when it doesn't; ROLLBACK TO
//! SAVEPOINT forgets what came after the savepoint. What others said is told when no transaction is open: at once
//! while the session is idle, else before the next ReadyForQuery; in between the NOTIFY interrupt is only noted. So a
//! session that stays in a block keeps the queue from being emptied.
//!
//! A commit, in this order (see [`crate::notify`] why):
//!
//! 1. Take a place in the queue if there is a LISTEN and the session has none.
//! 2. Room for the notifications, the write, the notifications into the queue: here, or, for a transaction that writes,
//!    in the startup process, so that the order in the queue is that of the log.
//! 3. Change the list of channels; leave the place if it is empty.
//!
//! Follows PostgreSQL 15 src/backend/commands/async.c (PreCommit_Notify, AtCommit_Notify, ProcessIncomingNotify).

use std::collections::BTreeSet;

use engine::error::{SqlError, SqlState};
use engine::sql::Kind;
use ipc::interrupt::Interrupts;
use ipc::process::Me;
use wire::backend;
use wire::error::ErrorResponse;

use super::Session;
use crate::backend_status::cut;
use crate::node::Node;
use crate::notify::outgoing::{CHANNEL_BYTES_MAX, Outgoing};
use crate::notify::{self, Crowded};

/// A change of the list of channels.
#[derive(Debug)]
enum Action {
    Listen(String),
    Unlisten(String),
    UnlistenAll,
}

/// How much a transaction has said: what ROLLBACK TO SAVEPOINT goes back to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    actions: usize,
    notifications: usize,
}

/// Most changes of the list of channels in one transaction.
const ACTIONS_MAX: usize = 10_000;
/// Most channels that one session listens to.
const CHANNELS_MAX: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Notifications {
    node: &'static Node,
    me: Me,
    channels: BTreeSet<String>,
    actions: Vec<Action>,
    outgoing: Outgoing,
}

impl Notifications {
    pub(super) fn new(node: &'static Node, me: Me) -> Notifications {
        Notifications {
            node,
            me,
            channels: BTreeSet::new(),
            actions: Vec::new(),
            outgoing: Outgoing::default(),
        }
    }

    /// What the session listens to.
    pub(super) fn channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().map(String::as_str)
    }

    /// NOTIFY and pg_notify().
    ///
    /// # Errors
    /// Those of [`Outgoing::push`]; 25006 on a standby.
    pub(super) fn notify(&mut self, channel: String, payload: String) -> Result<(), SqlError> {
        self.refuse_in_recovery("NOTIFY")?;
        self.outgoing.push(channel, payload, self.node.notify.capacity())
    }

    /// LISTEN.
    ///
    /// # Errors
    /// 25006 on a standby; 54000.
    pub(super) fn listen(&mut self, channel: String) -> Result<(), SqlError> {
        self.refuse_in_recovery("LISTEN")?;
        let listens = self.actions.iter().filter(|action| matches!(action, Action::Listen(_))).count();
        if self.channels.len() + listens >= CHANNELS_MAX {
            return Err(limit(&format!("a session cannot listen to more than {CHANNELS_MAX} channels")));
        }
        self.add(Action::Listen(channel))
    }

    /// UNLISTEN; `None` for all.
    ///
    /// # Errors
    /// 54000.
    pub(super) fn unlisten(&mut self, channel: Option<String>) -> Result<(), SqlError> {
        if self.channels.is_empty() && self.actions.is_empty() {
            return Ok(());
        }
        self.add(channel.map_or(Action::UnlistenAll, Action::Unlisten))
    }

    fn add(&mut self, action: Action) -> Result<(), SqlError> {
        if self.actions.len() >= ACTIONS_MAX {
            return Err(limit(&format!(
                "a transaction cannot have more than {ACTIONS_MAX} LISTEN and UNLISTEN"
            )));
        }
        self.actions.push(action);
        Ok(())
    }

    fn refuse_in_recovery(&self, command: &str) -> Result<(), SqlError> {
        if self.node.recovery.in_recovery() {
            return Err(SqlError::new(
                SqlState::READ_ONLY_SQL_TRANSACTION,
                format!("cannot execute {command} during recovery"),
            ));
        }
        Ok(())
    }

    /// How much there is, at SAVEPOINT.
    pub(super) fn mark(&self) -> Mark {
        Mark { actions: self.actions.len(), notifications: self.outgoing.len() }
    }

    /// ROLLBACK TO SAVEPOINT.
    pub(super) fn rollback_to(&mut self, mark: Mark) {
        self.actions.truncate(mark.actions);
        self.outgoing.truncate(mark.notifications);
    }

    /// Before a commit that the startup process does: what it is to notify.
    pub(super) fn prepare(&mut self) -> Vec<(String, String)> {
        self.take_place();
        self.outgoing.take()
    }

    /// After the commit.
    pub(super) fn committed(&mut self) {
        for action in self.actions.drain(..) {
            match action {
                Action::Listen(channel) => drop(self.channels.insert(channel)),
                Action::Unlisten(channel) => drop(self.channels.remove(&channel)),
                Action::UnlistenAll => self.channels.clear(),
            }
        }
        self.leave_place_if_idle();
    }

    /// A commit without a write; what the client is to be told of the queue.
    ///
    /// # Errors
    /// 54000: the queue is full; the transaction has failed.
    pub(super) fn commit(&mut self) -> (Result<(), SqlError>, Option<Crowded>) {
        self.take_place();
        let mut warning = None;
        if !self.outgoing.is_empty() {
            match self.node.notify.reserve(self.outgoing.encode(sys::process::current_pid().0)) {
                Ok(reservation) => {
                    warning = reservation.warning();
                    self.node.notify.publish(reservation);
                }
                Err(full) => {
                    self.abort();
                    return (Err(notify::too_many()), full.warning);
                }
            }
        }
        self.committed();
        (Ok(()), warning)
    }

    /// The transaction has failed or was rolled back.
    pub(super) fn abort(&mut self) {
        self.rollback_to(Mark::default());
        self.leave_place_if_idle();
    }

    fn take_place(&self) {
        if self.actions.iter().any(|action| matches!(action, Action::Listen(_))) {
            self.node.notify.register(self.me);
        }
    }

    fn leave_place_if_idle(&self) {
        if self.channels.is_empty() && self.node.notify.is_registered(self.me) {
            self.node.notify.unregister(self.me);
        }
    }
}

impl Session {
    /// LISTEN, NOTIFY, UNLISTEN.
    pub(super) fn notification_command(&mut self, kind: &Kind) -> Result<(), SqlError> {
        let name = |channel: &str, session: &mut Session| session.shorten_name(channel);
        match kind {
            Kind::Listen(channel) => {
                let channel = name(channel, self);
                self.notifications.borrow_mut().listen(channel)
            }
            Kind::Unlisten(channel) => {
                let channel = channel.as_ref().map(|channel| name(channel, self));
                self.notifications.borrow_mut().unlisten(channel)
            }
            Kind::Notify { channel, payload } => {
                let channel = name(channel, self);
                self.notifications.borrow_mut().notify(channel, payload.clone())
            }
            _ => Err(SqlError::new(SqlState::INTERNAL_ERROR, "not a command of notifications")),
        }
    }

    /// A name is cut to what fits, and the client is told.
    fn shorten_name(&mut self, name: &str) -> String {
        let short = cut(name, CHANNEL_BYTES_MAX);
        if short.len() < name.len() {
            let message = format!("identifier \"{name}\" will be truncated to \"{short}\"");
            let notice = ErrorResponse::notice(wire::sqlstate::NAME_TOO_LONG, message);
            backend::notice_response(self.connection.output(), &notice);
        }
        short.to_owned()
    }

    /// The end of a transaction that wrote nothing.
    pub(super) fn commit_notifications(&mut self) -> Result<(), SqlError> {
        let (committed, warning) = self.notifications.borrow_mut().commit();
        if let Some(warning) = warning {
            warning.log();
            let mut report = ErrorResponse::warning(warning.to_string());
            report.detail = warning.detail();
            report.hint = warning.hint().map(str::to_owned);
            backend::notice_response(self.connection.output(), &report);
        }
        committed
    }

    /// Notes that there are notifications; tells the client if no transaction is open.
    pub(super) fn notifications_came(&mut self) -> Result<(), ErrorResponse> {
        self.notified |= !self.me.take(Interrupts::NOTIFY).is_empty();
        if !self.notified || self.block.is_some() {
            return Ok(());
        }
        self.notified = false;
        loop {
            let notifications = self.notifications.borrow();
            let out = self.connection.output();
            let more = self.node.notify.read(self.me, |one| {
                if notifications.channels.contains(one.channel) {
                    backend::notification_response(out, one.pid, one.channel, one.payload);
                }
            });
            drop(notifications);
            if !more {
                return Ok(());
            }
            // Before the next ones are taken: a client that takes nothing must not fill this process' memory.
            self.connection.flush()?;
        }
    }
}

fn limit(message: &str) -> SqlError {
    SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
}
