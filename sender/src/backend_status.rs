//! What each process shows of itself in pg_stat_activity.
//!
//! One slot per process slot, written by its owner alone with plain stores; a reader may see a row between two states,
//! never a damaged one.
//!
//! Follows PostgreSQL 15 src/backend/utils/activity/backend_status.c.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, Ordering};

use ipc::shmem::SharedStr;
use sys::net::PeerAddr;
use wal::timestamp::Timestamp;

/// What a session is doing. The texts are those of pg_stat_activity.state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum BackendState {
    /// No session (an auxiliary process).
    Undefined = 0,
    /// Waits for the client.
    Idle = 1,
    /// Executes.
    Active = 2,
    /// Waits for the client, inside a block.
    IdleInTransaction = 3,
    /// The same, inside a block that has failed.
    IdleInTransactionAborted = 4,
}

impl BackendState {
    fn from_word(word: u32) -> BackendState {
        match word {
            1 => BackendState::Idle,
            2 => BackendState::Active,
            3 => BackendState::IdleInTransaction,
            4 => BackendState::IdleInTransactionAborted,
            _ => BackendState::Undefined,
        }
    }

    /// The text of the view; none for an auxiliary process.
    pub fn name(self) -> Option<&'static str> {
        match self {
            BackendState::Undefined => None,
            BackendState::Idle => Some("idle"),
            BackendState::Active => Some("active"),
            BackendState::IdleInTransaction => Some("idle in transaction"),
            BackendState::IdleInTransactionAborted => Some("idle in transaction (aborted)"),
        }
    }
}

/// Bytes of a query that the view shows: track_activity_query_size of PostgreSQL.
pub const QUERY_BYTES: usize = 1024;

ipc::shared_struct! {
    /// One process's row.
    pub struct BackendStatus {
        /// A [`BackendState`].
        pub state: AtomicU32,
        /// When the process started; µs since 2000-01-01.
        pub backend_start: AtomicI64,
        /// When the present transaction began; 0: none.
        pub xact_start: AtomicI64,
        /// When the present or last query began.
        pub query_start: AtomicI64,
        /// When `state` changed last.
        pub state_change: AtomicI64,
        /// Client's port; -1 on a Unix socket.
        pub client_port: AtomicI32,
        /// What a CancelRequest must know; 0 for none.
        pub cancel_key: AtomicI32,
        /// Client's address; empty on a Unix socket.
        pub client_addr: SharedStr<64>,
        /// As given at connection.
        pub user: SharedStr<64>,
        /// As given at connection.
        pub database: SharedStr<64>,
        /// As given at connection or SET.
        pub application_name: SharedStr<64>,
        /// The present or last query, cut.
        pub query: SharedStr<1024>,
    }
}

impl BackendStatus {
    /// Empties the row for a new owner.
    pub fn start(&self, now: Timestamp) {
        self.state.store(BackendState::Undefined as u32, Ordering::Relaxed);
        self.backend_start.store(now.0, Ordering::Relaxed);
        for time in [&self.xact_start, &self.query_start, &self.state_change] {
            time.store(0, Ordering::Relaxed);
        }
        self.client_port.store(0, Ordering::Relaxed);
        self.cancel_key.store(0, Ordering::Relaxed);
        for text in [&self.client_addr, &self.user, &self.database, &self.application_name] {
            text.set("");
        }
        self.query.set("");
    }

    /// Notes where the client is.
    pub fn set_client(&self, peer: &PeerAddr) {
        match peer {
            PeerAddr::Tcp(address) => {
                self.client_addr.set(&address.ip().to_string());
                self.client_port.store(i32::from(address.port()), Ordering::Relaxed);
            }
            PeerAddr::Unix => {
                self.client_addr.set("");
                self.client_port.store(-1, Ordering::Relaxed);
            }
        }
    }

    /// Notes a change of state.
    pub fn set_state(&self, state: BackendState, now: Timestamp) {
        self.state.store(state as u32, Ordering::Relaxed);
        self.state_change.store(now.0, Ordering::Relaxed);
    }

    /// Notes a new query, which makes the session active.
    pub fn set_query(&self, query: &str, now: Timestamp) {
        self.query.set(cut(query, QUERY_BYTES));
        self.query_start.store(now.0, Ordering::Relaxed);
        self.set_state(BackendState::Active, now);
    }

    /// The present state.
    pub fn state(&self) -> BackendState {
        BackendState::from_word(self.state.load(Ordering::Relaxed))
    }
}

/// The longest start of `text` that has at most `bytes` bytes and ends between two characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_ends_between_characters() {
        assert_eq!(cut("häße", 2), "h");
        assert_eq!(cut("häße", 3), "hä");
        assert_eq!(cut("abc", 9), "abc");
    }
}
