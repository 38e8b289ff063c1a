//! Why a client is not let in, with the words and SQLSTATE that a dead-end child tells it.
//!
//! Follows PostgreSQL 15 canAcceptConnections() in src/backend/postmaster/postmaster.c and the texts of backend_startup.

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Crash recovery, or the start of a standby, is under way.
    StartingUp,
    /// A standby replays, but is not consistent yet.
    NotConsistent,
    /// The node is on its way down.
    ShuttingDown,
    /// A child has crashed.
    InRecoveryMode,
    /// No free slot.
    TooManyClients,
}

impl Refusal {
    /// SQLSTATE: `57P03` (cannot_connect_now) or `53300` (too_many_connections).
    pub fn sqlstate(self) -> &'static str {
        match self {
            Refusal::TooManyClients => "53300",
            _ => "57P03",
        }
    }

    /// The error's message.
    pub fn message(self) -> &'static str {
        match self {
            Refusal::StartingUp => "the database system is starting up",
            Refusal::NotConsistent => "the database system is not yet accepting connections",
            Refusal::ShuttingDown => "the database system is shutting down",
            Refusal::InRecoveryMode => "the database system is in recovery mode",
            Refusal::TooManyClients => "sorry, too many clients already",
        }
    }

    /// The error's DETAIL, if it has one.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Refusal::NotConsistent => Some("Consistent recovery state has not been yet reached."),
            _ => None,
        }
    }
}
