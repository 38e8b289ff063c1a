//! How far the tables are behind the log, and the meeting point of those who wait for them.
//!
//! Written by the startup process alone. A reader that must see everything acknowledged before it began (that is what
//! users of PostgreSQL expect: who was told "committed" may tell others) waits until `applied` reaches `acknowledged`:
//!
//! ```text
//! reader:  apply_waits[me] := lsn ; full fence ; look at applied ; sleep on the own latch
//! startup: applied := lsn (commit done) ; full fence ; look at apply_waits, set latches
//! ```
//!
//! ([`crate::ordering`] tells why nobody sleeps for ever.)
//!
//! Follows PostgreSQL 15 XLogRecoveryCtlData in src/backend/access/transam/xlogrecovery.c; differs in: `acknowledged`
//! and the waiters, as here the tables are committed after the outcome was sent.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use ipc::proc::ProcNumber;
use ipc::process::Me;
use wal::lsn::Lsn;

use crate::node::Node;
use crate::ordering;

ipc::shared_struct! {
    /// State of recovery and of the tables.
    pub struct RecoveryCtl {
        /// 1 while this node follows the log of another (a standby), or its own (crash recovery). From the start on.
        pub in_recovery: AtomicU32,
        /// Everything below is committed in the tables. Only grows.
        pub applied: AtomicU64,
        /// The LSN that the committed tables hold themselves, where recovery would begin. Behind `applied` by records
        /// that change no table, and by less than a segment.
        pub committed: AtomicU64,
        /// Outcomes were sent for everything below: readers wait for it. Only grows.
        pub acknowledged: AtomicU64,
        /// End of the last record that was replayed, since the node started: stays when recovery has ended.
        /// pg_last_wal_replay_lsn().
        pub replayed: AtomicU64,
        /// Start of the last checkpoint record that was replayed; 0: none since start.
        pub replayed_checkpoint: AtomicU64,
        /// Commit time of the last change put by replay, µs since 2000-01-01; 0: none.
        pub last_xact_time: AtomicI64,
        /// How many processes wait in `apply_waits`.
        pub waiters: AtomicU32,
        /// A [`PauseState`]: requests are written by sessions, that it has paused by the startup process.
        pause: AtomicU32,
        /// 1 while the tables' disk is full: readers don't wait for what can't be committed now.
        no_room: AtomicU32,
        /// 1: a process has used the reserve. Set by that process, taken by the startup process.
        pub reserve_released: AtomicU32,
    }
}

impl RecoveryCtl {
    /// Whether this node follows a log instead of writing it.
    pub fn in_recovery(&self) -> bool {
        self.in_recovery.load(Ordering::Acquire) != 0
    }

    /// Everything below is committed in the tables.
    pub fn applied(&self) -> Lsn {
        Lsn(ordering::published_position(&self.applied))
    }

    /// Outcomes were sent for everything below, or, on a standby, it was put: who begins to read waits for it.
    pub fn acknowledged(&self) -> Lsn {
        Lsn(self.acknowledged.load(Ordering::Acquire))
    }

    /// Where recovery would begin: the LSN that the committed tables hold.
    pub fn committed(&self) -> Lsn {
        Lsn(self.committed.load(Ordering::Acquire))
    }

    /// Notes that the tables were committed with this LSN. The startup process only, before `publish_applied`.
    pub fn note_committed(&self, lsn: Lsn) {
        self.committed.store(lsn.0, Ordering::Release);
    }

    /// End of the last record replayed; invalid when none was.
    pub fn replayed(&self) -> Lsn {
        Lsn(self.replayed.load(Ordering::Acquire))
    }

    /// Publishes a commit of the tables and wakes the readers that waited for it. The startup process only.
    pub fn publish_applied(&self, node: &Node, lsn: Lsn) {
        ordering::publish_position(&self.applied, lsn.0);
        ordering::before_looking_for_waiters();
        if self.waiters.load(Ordering::Relaxed) == 0 {
            return;
        }
        for (index, waiting) in node.apply_waits.iter().enumerate() {
            if ordering::awaited(waiting).is_some_and(|wanted| wanted <= lsn.0) {
                node.procs.set_latch(ProcNumber(index as u32));
            }
        }
    }

    /// Publishes whether the tables' disk is full; readers that wait look again. The startup process only.
    pub fn set_no_room(&self, node: &Node, no_room: bool) {
        let before = self.no_room.swap(u32::from(no_room), Ordering::AcqRel);
        if no_room && before == 0 {
            ordering::before_looking_for_waiters();
            for (number, waiting) in (0..).map(ProcNumber).zip(node.apply_waits) {
                if ordering::awaited(waiting).is_some() {
                    node.procs.set_latch(number);
                }
            }
        }
    }

    /// Whether the tables' disk is full.
    pub fn has_no_room(&self) -> bool {
        self.no_room.load(Ordering::Acquire) != 0
    }

    /// Whether any of those who wait wants more than has been applied.
    pub fn is_awaited(&self, node: &Node) -> bool {
        let applied = self.applied().0;
        node.apply_waits.iter().any(|word| ordering::awaited(word).is_some_and(|wanted| wanted > applied))
    }

    /// Whether a reader waits for the tables: the startup process then commits without gathering more.
    pub fn has_waiters(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) != 0
    }
}

/// Whether a standby applies what it has. The texts are those of pg_get_wal_replay_pause_state().
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum PauseState {
    /// It does.
    NotPaused = 0,
    /// It is to stop, and hasn't noticed yet.
    Requested = 1,
    /// It doesn't, until it is told to go on.
    Paused = 2,
}

impl PauseState {
    /// The function's text.
    pub fn name(self) -> &'static str {
        match self {
            PauseState::NotPaused => "not paused",
            PauseState::Requested => "pause requested",
            PauseState::Paused => "paused",
        }
    }
}

impl RecoveryCtl {
    /// Whether replay is paused, or to be.
    pub fn pause_state(&self) -> PauseState {
        match self.pause.load(Ordering::Acquire) {
            1 => PauseState::Requested,
            2 => PauseState::Paused,
            _ => PauseState::NotPaused,
        }
    }

    /// Has the startup process stop applying, or go on; wakes it.
    pub fn set_paused(&self, node: &Node, paused: bool) {
        let (from, to) = (PauseState::NotPaused as u32, PauseState::Requested as u32);
        match paused {
            true => _ = self.pause.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed),
            false => self.pause.store(from, Ordering::Release),
        }
        node.wake_startup();
    }

    /// For the startup process, which applies nothing from here on if this says so.
    pub fn heed_pause(&self) -> bool {
        let (from, to) = (PauseState::Requested as u32, PauseState::Paused as u32);
        let taken = self.pause.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        if taken.is_ok() {
            tracing::info!("recovery has paused\nHINT:  Execute pg_wal_replay_resume() to continue.");
        }
        taken.is_ok() || taken == Err(to)
    }
}

/// How a wait for the tables ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waited {
    /// The tables are there.
    Applied,
    /// An interrupt wants attention.
    Interrupted,
    /// The tables' disk is full: they will be there when there is room.
    NoRoom,
}

/// Waits until the tables hold everything below `lsn`, `stop` says that an interrupt wants attention, or there is no
/// room for the tables. `sleep` waits for the latch and whatever else may make `stop` say so.
pub fn wait_applied(
    node: &Node,
    me: &Me,
    lsn: Lsn,
    mut stop: impl FnMut() -> bool,
    sleep: impl Fn(),
) -> Waited {
    let control = node.recovery;
    if control.applied() >= lsn {
        return Waited::Applied;
    }
    let waiting = TablesWait::begin(node, me, lsn);
    let waited = loop {
        if control.applied() >= lsn {
            break Waited::Applied;
        }
        if stop() {
            break Waited::Interrupted;
        }
        if control.has_no_room() {
            break Waited::NoRoom;
        }
        sleep();
        me.latch().reset();
    };
    drop(waiting);
    me.latch().set();
    waited
}

/// While it lives the startup process wakes its owner when the tables have come to a position, and hurries to.
#[derive(Debug)]
pub struct TablesWait {
    control: &'static RecoveryCtl,
    word: &'static AtomicU64,
}

impl TablesWait {
    /// Look at the position after this, and only then sleep.
    pub fn begin(node: &Node, me: &Me, lsn: Lsn) -> TablesWait {
        let word = &node.apply_waits[me.number().index()];
        node.recovery.waiters.fetch_add(1, Ordering::Relaxed);
        ordering::announce_wait(word, lsn.0);
        // The startup process may be gathering a larger transaction, or asleep with this one open.
        node.wake_startup();
        TablesWait { control: node.recovery, word }
    }
}

impl Drop for TablesWait {
    fn drop(&mut self) {
        ordering::end_wait(self.word);
        self.control.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}
