//! Which standbys count, and what they have confirmed together. Pure: (setting, positions) -> quorum positions.
//!
//! A walsender is a *candidate* when its standby's name is in the list, its stream has caught up once, and the standby has
//! reported a flush.
//!
//! - FIRST n: the n candidates of the lowest priority numbers, the place in the array of walsenders deciding between equal
//!   ones. Each position is the lowest of theirs.
//! - ANY n: each position is the n-th highest of all candidates.
//!
//! With fewer than n candidates there is no quorum, and nobody is released.
//!
//! Follows PostgreSQL 15 SyncRepGetSyncRecPtr() and SyncRepGetCandidateStandbys() in src/backend/replication/syncrep.c.

use settings::sync_standbys::{Method, SyncStandbys};
use wal::lsn::Lsn;

use crate::walsender::WalSndState;

/// A walsender as far as it counts here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its standby's, by [`SyncStandbys::priority`]; 0: it isn't asked.
    pub priority: u32,
    /// What it is at.
    pub state: WalSndState,
    /// What its standby has reported.
    pub reported: Positions,
}

/// How far the log is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Positions {
    /// Written.
    pub write: Lsn,
    /// Durable.
    pub flush: Lsn,
    /// To be seen by who reads there.
    pub apply: Lsn,
}

impl Member {
    /// A standby that reports no flush, such as pg_receivewal without a slot, can't confirm anything.
    pub fn is_candidate(&self) -> bool {
        let streams = matches!(self.state, WalSndState::Streaming | WalSndState::Stopping);
        self.priority > 0 && streams && self.reported.flush.is_valid()
    }

    /// pg_stat_replication.sync_priority.
    pub fn priority_shown(&self) -> u32 {
        if self.reported.flush.is_valid() { self.priority } else { 0 }
    }
}

/// pg_stat_replication.sync_state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SyncState {
    /// Nobody waits for it.
    Async,
    /// It is asked when one that counts is gone.
    Potential,
    /// It is one of those that count (FIRST).
    Sync,
    /// It is one of those of which some count (ANY).
    Quorum,
}

impl SyncState {
    /// The view's text.
    pub fn name(self) -> &'static str {
        match self {
            SyncState::Async => "async",
            SyncState::Potential => "potential",
            SyncState::Sync => "sync",
            SyncState::Quorum => "quorum",
        }
    }
}

/// What the standbys have confirmed together; none when too few are there. `members` in the order of the walsenders.
pub fn confirmed(standbys: &SyncStandbys, members: &[Member]) -> Option<Positions> {
    let chosen = chosen(standbys, members);
    let count = usize::try_from(standbys.count).unwrap_or(usize::MAX);
    if chosen.len() < count {
        return None;
    }
    let position = |of: fn(&Positions) -> Lsn| {
        let mut all: Vec<Lsn> = chosen.iter().map(|&index| of(&members[index].reported)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        // With FIRST these are `count` positions, so this is the lowest.
        all[count - 1]
    };
    Some(Positions {
        write: position(|reported| reported.write),
        flush: position(|reported| reported.flush),
        apply: position(|reported| reported.apply),
    })
}

/// What `member` is, one of `members`.
pub fn sync_state(standbys: &SyncStandbys, members: &[Member], member: usize) -> SyncState {
    let own = &members[member];
    if own.priority == 0 || !own.reported.flush.is_valid() {
        return SyncState::Async;
    }
    match standbys.method {
        _ if !chosen(standbys, members).contains(&member) => SyncState::Potential,
        Method::First => SyncState::Sync,
        Method::Any => SyncState::Quorum,
    }
}

/// The candidates that count: with ANY all of them, with FIRST as many as are asked for.
fn chosen(standbys: &SyncStandbys, members: &[Member]) -> Vec<usize> {
    let mut candidates: Vec<usize> =
        (0..members.len()).filter(|&index| members[index].is_candidate()).collect();
    if standbys.method == Method::First {
        // Stable: equal ones stay in the order of the array.
        candidates.sort_by_key(|&index| members[index].priority);
        candidates.truncate(usize::try_from(standbys.count).unwrap_or(usize::MAX));
    }
    candidates
}

#[cfg(test)]
mod tests;
