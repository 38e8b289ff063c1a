//! Synchronous replication: the horizon of a primary, and those who wait for it.
//!
//! While `synchronous_standby_names` is set the horizon is what the standbys that count have made durable
//! ([`quorum`]); else it is the flush LSN. It only grows. Who may have changed it calls [`advance`]: whoever flushed
//! ([`flushed`]), a walsender whose standby has replied, whose stream begins to count or that ends, the startup
//! process when settings have changed, and who is about to wait. Each goes by the settings that it has, so there is
//! no moment of a reload at which all agree; but each that takes new settings over may be the one that everybody
//! waits for, and the startup process does so in any case. So when names are emptied all waiters are woken, also with
//! no standby there.
//!
//! # Who waits
//!
//! - Sessions whose outcome is in their place already: the startup process says there what it rests on
//!   ([`crate::requests`]), and whoever moves the horizon past it sets the session's latch. Until then nobody wakes it.
//! - Processes that wait by themselves: a session that was woken before, or that has logged a message; the startup
//!   process, to commit. Each says so in its [`SyncWait`].
//!
//! ```text
//! waiter:    word := lsn, or place := waiting ; full fence ; look at the position ; sleep on the own latch
//! publisher: position := lsn (only up)        ; full fence ; look at words and places, set the latches
//! ```
//!
//! With both fences at least one sees the other ([`crate::ordering`]).
//!
//! # What a standby is told beforehand
//!
//! Usually nothing but the flush of one standby is missing for the horizon to move. So walEnd tells that standby how far
//! the log is decided *once it has flushed it*: the horizon that its own flush would bring
//! ([`standing::Standing::promise`]). It need not wait for a word that only repeats what it has just said, and
//! remote_apply takes no second round trip. A standby goes by min(own flush, walEnd) anyway, and so does a cascade
//! behind it.
//!
//! # Starts
//!
//! A primary that starts knows of the horizon what its tables and its log prove. What is in the log beyond that waits for the
//! quorum as it did before ([`crate::startup`]). Until a quorum has answered once ([`awaits_first_quorum`]) clients
//! are told that transactions are read-only, so that those who have a choice find the node that was promoted meanwhile.
//! After a restart of the machine nobody is let in before the quorum has confirmed all of the log ([`boot`]).
//!
//! Follows PostgreSQL 15 src/backend/replication/syncrep.c; differs in: no row is seen before the quorum has it, by nobody;
//! `local` and `remote_write` wait as `on` does; no queue, as a walsender looks at all places anyway.

pub mod boot;
pub mod quorum;
pub mod shortfall;
pub mod standing;
pub mod wait;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipc::lwlock::LwLock;
use ipc::proc::ProcNumber;
use wal::lsn::Lsn;

use crate::archive_status;
use crate::node::Node;
use crate::ordering;
use crate::walsender::slot::WalSndSlot;
use quorum::{Member, Positions};

ipc::shared_struct! {
    /// What the processes of a primary share about it. (The horizon itself is in [`crate::xlog::WalCtl`].)
    pub struct SyncRepCtl {
        /// Held while a walsender's place gets another owner or priority, and while all places are read: what is read of
        /// one place is of one standby.
        pub lock: LwLock,
        /// Who reads on the standbys that count sees everything below. Only grows; never beyond the horizon.
        applied: AtomicU64,
        /// How many words and places say that somebody waits.
        waiters: AtomicU32,
        /// 1: since the start a quorum has answered, or none was needed.
        answered: AtomicU32,
        /// End of the log that the quorum has to confirm before sessions are let in; 0: none. Written by the startup process
        /// before any session is, cleared by whoever finds it confirmed.
        unconfirmed: AtomicU64,
        /// The horizon at which the log last said that it does not move.
        warned: AtomicU64,
    }

    /// What a process waits for by itself; 0: it doesn't. Written by that process.
    pub struct SyncWait {
        horizon: AtomicU64,
        applied: AtomicU64,
    }
}

/// What of the log has to be confirmed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Confirmation {
    /// The horizon has passed it: durable here and on the standbys that count.
    Durable,
    /// Who reads on the standbys that count sees it, too (remote_apply).
    Applied,
}

impl Confirmation {
    /// The flag of a change record whose session waits for it: standbys say at once when who reads there sees it.
    pub fn record_info(self) -> u8 {
        match self {
            Confirmation::Durable => 0,
            Confirmation::Applied => APPLY_FEEDBACK,
        }
    }
}

/// See [`Confirmation::record_info`].
pub const APPLY_FEEDBACK: u8 = 0x10;

/// What somebody waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Awaited {
    /// Everything below.
    pub lsn: Lsn,
    /// How.
    pub confirmation: Confirmation,
}

impl Awaited {
    /// Whether it has come.
    pub fn has_come(&self, node: &Node) -> bool {
        match self.confirmation {
            Confirmation::Durable => node.wal.horizon() >= self.lsn,
            Confirmation::Applied => node.sync_rep.applied() >= self.lsn,
        }
    }
}

impl SyncRepCtl {
    fn applied(&self) -> Lsn {
        Lsn(ordering::published_position(&self.applied))
    }

    /// Says that one more waits, before it does; see [`SyncRepCtl::end_wait`].
    pub fn begin_wait(&self) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
    }

    /// It waits no more.
    pub fn end_wait(&self) {
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Before sessions are let in: the quorum has to confirm the log up to here first.
    pub fn require(&self, end: Lsn) {
        self.unconfirmed.store(end.0, Ordering::Release);
    }

    /// Up to where it has to confirm the log still.
    pub fn required(&self) -> Option<Lsn> {
        Some(Lsn(self.unconfirmed.load(Ordering::Acquire))).filter(|lsn| lsn.is_valid())
    }
}

/// Whether commits of this node wait for standbys.
pub fn is_synchronous(node: &Node) -> bool {
    !node.settings().synchronous_standby_names.is_empty()
}

/// Whether this primary has needed a quorum since it started, and none has answered.
pub fn awaits_first_quorum(node: &Node) -> bool {
    is_synchronous(node)
        && node.sync_rep.answered.load(Ordering::Acquire) == 0
        && !node.recovery.in_recovery()
}

/// To be called after every flush. One that standbys have to confirm moves nothing: what they confirm was sent, hence
/// flushed, before.
pub fn flushed(node: &Node) {
    if !is_synchronous(node) {
        advance(node);
    }
}

/// Moves the horizon as far as the settings of this process, the flush LSN and the standbys allow, and wakes those who wait
/// for it; whether it moved (then walsenders may have to tell it).
///
/// Nothing happens on a standby, whose horizon is told by its upstream.
pub fn advance(node: &Node) -> bool {
    if node.recovery.in_recovery() {
        return false;
    }
    let settings = node.settings();
    let standbys = &settings.synchronous_standby_names;
    let flushed = node.wal.flush_lsn();
    if standbys.is_empty() {
        let all = Positions { write: flushed, flush: flushed, apply: flushed };
        return publish(node, all);
    }
    match quorum::confirmed(standbys, &members(node)) {
        Some(confirmed) => publish(node, confirmed),
        None => false,
    }
}

/// The walsenders in their order, as the settings of this process see them.
pub fn members(node: &Node) -> Vec<Member> {
    let settings = node.settings();
    let version = node.configuration.version();
    let priority = |slot: &WalSndSlot| {
        let number = slot.owner().filter(|_| slot.counts())?;
        // A walsender that has other settings yet would be taken for what it isn't.
        slot.priority(version).or_else(|| {
            let name = node.statuses[number.index()].application_name.get();
            Some(settings.synchronous_standby_names.priority(&name))
        })
    };
    let member = |slot: &WalSndSlot| Member {
        priority: priority(slot).unwrap_or(0),
        state: slot.state(),
        reported: slot.reported(),
    };
    let _locked = node.sync_rep.lock.lock();
    node.walsenders.iter().map(member).collect()
}

/// Takes over what the standbys have confirmed, or this node alone if nobody else is asked.
fn publish(node: &Node, confirmed: Positions) -> bool {
    let control = node.sync_rep;
    // What a standby reports was sent to it, hence flushed here; but never beyond, whatever it says.
    let horizon = confirmed.flush.min(node.wal.flush_lsn());
    if control.answered.load(Ordering::Relaxed) == 0 {
        control.answered.store(1, Ordering::Release);
    }
    if control.required().is_some_and(|end| horizon >= end) {
        control.unconfirmed.store(0, Ordering::Release);
        node.wake_startup();
    }
    let before = Lsn(ordering::raise_position(&node.wal.horizon, horizon.0));
    // Not beyond the horizon: who waits for this one waits for both.
    let applied = confirmed.apply.min(horizon);
    let applied_before = Lsn(ordering::raise_position(&control.applied, applied.0));
    if before < horizon {
        // Each stretch has one process that moved the horizon over it.
        archive_status::note_complete(node, node.wal.timeline(), before, horizon);
        if node.segment_size.number_of(before) != node.segment_size.number_of(horizon) {
            // It lets the tables' LSN follow from segment to segment.
            node.wake_startup();
        }
    }
    if before < horizon || applied_before < applied {
        wake_waiters(node);
    }
    before < horizon
}

/// Sets the latches of those whose position has come.
fn wake_waiters(node: &Node) {
    ordering::before_looking_for_waiters();
    if node.sync_rep.waiters.load(Ordering::Relaxed) == 0 {
        return;
    }
    let (horizon, applied) = (node.wal.horizon().0, node.sync_rep.applied().0);
    for (number, wait) in (0..).map(ProcNumber).zip(node.sync_waits) {
        let has_come = |word, position| ordering::awaited(word).is_some_and(|lsn| lsn <= position);
        if has_come(&wait.horizon, horizon) || has_come(&wait.applied, applied) {
            node.procs.set_latch(number);
        }
    }
    node.requests.wake_confirmed(node);
}
