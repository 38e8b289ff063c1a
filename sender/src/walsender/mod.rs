//! The walsender: streams the log to one standby, relay or archive per process.
//!
//! `session` is the pure state machine of one stream; `process` is the life of the process around it.
//! Follows PostgreSQL `src/backend/replication/walsender.c` and `src/include/replication/walsender_private.h`.

pub mod commands;
pub mod lag;
pub mod log_source;
pub mod process;
pub mod session;
pub mod slot;
pub mod start;

/// What a walsender is at, as `pg_stat_replication.state` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WalSndState {
    /// Connected, no stream yet, or between two.
    Startup = 0,
    /// Sends a base backup.
    Backup = 1,
    /// Streams what the standby has missed.
    Catchup = 2,
    /// Has sent everything at least once since the stream began.
    Streaming = 3,
    /// The node stops: streams what is left, takes no further command.
    Stopping = 4,
}

impl WalSndState {
    /// PostgreSQL's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            WalSndState::Startup => "startup",
            WalSndState::Backup => "backup",
            WalSndState::Catchup => "catchup",
            WalSndState::Streaming => "streaming",
            WalSndState::Stopping => "stopping",
        }
    }

    /// The state stored as `value` in shared memory; anything unknown reads as `Startup`.
    pub fn from_word(value: u32) -> WalSndState {
        match value {
            1 => WalSndState::Backup,
            2 => WalSndState::Catchup,
            3 => WalSndState::Streaming,
            4 => WalSndState::Stopping,
            _ => WalSndState::Startup,
        }
    }
}
