//! What the walreceiver and the startup process of a standby tell each other.
//!
//! The walreceiver (crate `receiver`) writes all fields but `force_reply`, `start` and the request; the startup process
//! reads them, asks for a walreceiver and decides about retries. Lives here because the views and the startup process do.
//!
//! Follows PostgreSQL 15 WalRcvData in src/include/replication/walreceiver.h.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use ipc::shmem::SharedStr;
use wal::lsn::Lsn;

/// Life of the walreceiver. The texts are those of pg_stat_wal_receiver.status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum WalRcvState {
    /// None runs.
    Stopped = 0,
    /// Asked for, or connecting.
    Starting = 1,
    /// Streams.
    Streaming = 2,
}

impl WalRcvState {
    /// The text of the view.
    pub fn name(self) -> &'static str {
        match self {
            WalRcvState::Stopped => "stopped",
            WalRcvState::Starting => "starting",
            WalRcvState::Streaming => "streaming",
        }
    }
}

ipc::shared_struct! {
    /// The shared state.
    pub struct WalRcvCtl {
        /// A [`WalRcvState`].
        pub state: AtomicU32,
        /// Its pid; 0 when none runs.
        pub pid: AtomicI32,
        /// Where streaming is to begin: the start of a segment. Set by the startup process with the request.
        pub start: AtomicU64,
        /// Timeline of that request.
        pub start_timeline: AtomicU32,
        /// Written to the file up to here, not necessarily durable.
        pub written: AtomicU64,
        /// When the last message was sent by the upstream, by its clock; µs since 2000-01-01.
        pub last_msg_send_time: AtomicI64,
        /// When the last message came in; µs since 2000-01-01.
        pub last_msg_receipt_time: AtomicI64,
        /// The upstream's end of log (its horizon) as last told.
        pub latest_end: AtomicU64,
        /// When that was told; µs since 2000-01-01.
        pub latest_end_time: AtomicI64,
        /// 1: the startup process wants the upstream to hear now how far the tables are.
        pub force_reply: AtomicU32,
        /// 1: the walreceiver has streamed since the startup process looked last; its next failure is a new one.
        pub streamed: AtomicU32,
        /// Why the last walreceiver ended; said in the log when it changes.
        pub last_error: SharedStr<512>,
        /// Host of the upstream.
        pub sender_host: SharedStr<256>,
        /// Port of the upstream.
        pub sender_port: AtomicI32,
        /// Connection string without password.
        pub conninfo: SharedStr<1024>,
    }
}

impl WalRcvCtl {
    /// The state; an unknown word counts as stopped.
    pub fn state(&self) -> WalRcvState {
        match self.state.load(Ordering::Acquire) {
            1 => WalRcvState::Starting,
            2 => WalRcvState::Streaming,
            _ => WalRcvState::Stopped,
        }
    }

    /// Sets the state.
    pub fn set_state(&self, state: WalRcvState) {
        self.state.store(state as u32, Ordering::Release);
    }

    /// Written up to here, not necessarily durable.
    pub fn written_lsn(&self) -> Lsn {
        Lsn(self.written.load(Ordering::Acquire))
    }
}
