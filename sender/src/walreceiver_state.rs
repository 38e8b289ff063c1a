//! What the walreceiver and the startup process of a standby tell each other.
//!
//! The walreceiver (crate `receiver`) writes all fields but `force_reply`, `start` and the request; the startup process
//! reads them, asks for a walreceiver and decides about retries. Lives here because the views and the startup process do.
//!
//! ```text
//!            startup          walreceiver                          end of the timeline
//!  STOPPED ----------> STARTING --------> CONNECTING --> STREAMING ------------------> WAITING
//!     ^                                       ^                                           | startup: where to go on
//!     |                                       +---------------- RESTARTING <--------------+
//!     +--- from each of them: the walreceiver ends, or (not from STREAMING) the startup process revokes its request
//! ```
//!
//! Follows PostgreSQL 15 WalRcvData in src/include/replication/walreceiver.h.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use ipc::shmem::SharedStr;
use wal::lsn::Lsn;

/// Life of the walreceiver. The texts are those of pg_stat_wal_receiver.status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum WalRcvState {
    /// None runs, or one that finds out soon that it isn't wanted any more.
    Stopped = 0,
    /// Asked for.
    Starting = 1,
    /// Streams.
    Streaming = 2,
    /// Connects, or asks the upstream what must be known before it streams.
    Connecting = 3,
    /// Has come to the end of a timeline, and waits to be told where to go on.
    Waiting = 4,
    /// Was told.
    Restarting = 5,
}

impl WalRcvState {
    /// The text of the view.
    pub fn name(self) -> &'static str {
        match self {
            WalRcvState::Stopped => "stopped",
            WalRcvState::Starting => "starting",
            WalRcvState::Streaming => "streaming",
            WalRcvState::Connecting => "connecting",
            WalRcvState::Waiting => "waiting",
            WalRcvState::Restarting => "restarting",
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
        /// The upstream's newest timeline, as last told; its history is in pg_wal then. 0: not known.
        pub upstream_timeline: AtomicU32,
        /// Written to the file up to here, not necessarily durable.
        pub written: AtomicU64,
        /// What had been received and made durable when the node was promoted; 0: it was not, since it started.
        pub received_at_promotion: AtomicU64,
        /// When the last message was sent by the upstream, by its clock; µs since 2000-01-01.
        pub last_msg_send_time: AtomicI64,
        /// When the last message came in; µs since 2000-01-01.
        pub last_msg_receipt_time: AtomicI64,
        /// The upstream's end of log (its horizon) as last told.
        pub latest_end: AtomicU64,
        /// When that was told; µs since 2000-01-01.
        pub latest_end_time: AtomicI64,
        /// [`FORCE`], [`FORCE_AT_ONCE`]: the startup process wants the upstream to hear how far the tables are.
        pub force_reply: AtomicU32,
        /// 1: the walreceiver has streamed since the startup process looked last; its next failure is a new one.
        pub streamed: AtomicU32,
        /// 1: the last stream ended because the upstream has shut down in order, and this node has all of its log.
        pub upstream_is_shut_down: AtomicU32,
        /// Why the last walreceiver ended; said in the log when it changes.
        pub last_error: SharedStr<512>,
        /// Slot on the upstream; empty: none.
        pub slot_name: SharedStr<64>,
        /// Host of the upstream.
        pub sender_host: SharedStr<256>,
        /// Port of the upstream.
        pub sender_port: AtomicI32,
        /// Connection string without password.
        pub conninfo: SharedStr<1024>,
    }
}

/// The upstream is to hear it soon.
pub const FORCE: u32 = 1;
/// Somebody waits for it there.
pub const FORCE_AT_ONCE: u32 = 2;

impl WalRcvCtl {
    /// The state; an unknown word counts as stopped.
    pub fn state(&self) -> WalRcvState {
        match self.state.load(Ordering::Acquire) {
            1 => WalRcvState::Starting,
            2 => WalRcvState::Streaming,
            3 => WalRcvState::Connecting,
            4 => WalRcvState::Waiting,
            5 => WalRcvState::Restarting,
            _ => WalRcvState::Stopped,
        }
    }

    /// Sets the state.
    pub fn set_state(&self, state: WalRcvState) {
        self.state.store(state as u32, Ordering::Release);
    }

    /// Goes from one state to another, if it is that one: false, when the startup process has revoked its request.
    pub fn step(&self, from: WalRcvState, to: WalRcvState) -> bool {
        self.state.compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// For the startup process: takes its request back, unless log is being received; false if it is. A walreceiver whose
    /// request was taken back ends before it does anything that others see.
    pub fn revoke(&self) -> bool {
        loop {
            match self.state() {
                WalRcvState::Stopped => return true,
                WalRcvState::Streaming => return false,
                other if self.step(other, WalRcvState::Stopped) => return true,
                _ => {}
            }
        }
    }

    /// For the walreceiver when it ends. A request that was made since its own was revoked stays.
    pub fn stopped(&self) {
        loop {
            let state = self.state();
            let done = state == WalRcvState::Starting || state == WalRcvState::Stopped;
            if done || self.step(state, WalRcvState::Stopped) {
                return;
            }
        }
    }

    /// How far the log was received on a node that follows none any more; invalid: it never has, since it started.
    pub fn received_lsn(&self) -> Lsn {
        Lsn(self.received_at_promotion.load(Ordering::Acquire))
    }

    /// Written up to here, not necessarily durable.
    pub fn written_lsn(&self) -> Lsn {
        Lsn(self.written.load(Ordering::Acquire))
    }
}
