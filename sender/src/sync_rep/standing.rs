//! Where a walsender's standby stands among the synchronous ones.
//!
//! The walsender's duty, once per turn of its stream: [`Standing::update`], after what its standby said was published in
//! its slot. When its stream ends: [`Standing::leave`].

use ipc::proc::ProcNumber;
use ipc::process::Me;
use settings::sync_standbys::Method;
use wal::lsn::Lsn;

use super::quorum::{self, Positions, SyncState};
use super::{advance, members, publish};
use crate::node::Node;
use crate::walsender::slot::WalSndSlot;

/// One stream's part in synchronous replication.
#[derive(Debug)]
pub struct Standing {
    node: &'static Node,
    me: ProcNumber,
    slot: &'static WalSndSlot,
    /// 0: nobody waits for this standby.
    priority: u32,
    /// The log has been told that it counts.
    announced: bool,
    promise: Lsn,
}

impl Standing {
    /// Of a stream that begins, by the walsender that owns `slot`.
    pub fn new(node: &'static Node, me: Me, slot: &'static WalSndSlot) -> Standing {
        Standing { node, me: me.number(), slot, priority: 0, announced: false, promise: Lsn::INVALID }
    }

    /// Gives the standby of this name the priority that the settings say. At the stream's beginning and when settings
    /// have changed. `counts`: the stream is of the timeline that this node writes.
    pub fn settle(&mut self, application_name: &str, counts: bool) {
        let counts = counts && !self.node.recovery.in_recovery();
        self.priority = self.node.settings().synchronous_standby_names.priority(application_name);
        {
            let _locked = self.node.sync_rep.lock.lock();
            self.slot.set_standing(counts, self.priority, self.node.configuration.version());
        }
        if !counts {
            self.priority = 0;
        }
        self.announced = false;
        self.move_horizon(advance(self.node));
    }

    /// Takes into account what the slot shows of this standby now.
    pub fn update(&mut self, application_name: &str) {
        self.promise = Lsn::INVALID;
        if self.priority == 0 {
            return;
        }
        let settings = self.node.settings();
        let standbys = &settings.synchronous_standby_names;
        let mut members = members(self.node);
        let own = self.node.walsenders.iter().position(|slot| std::ptr::eq(slot, self.slot));
        let own = own.expect("the slot is one of the node's");
        if let Some(confirmed) = quorum::confirmed(standbys, &members) {
            self.move_horizon(publish(self.node, confirmed));
        }
        let state = quorum::sync_state(standbys, &members, own);
        let counts = matches!(state, SyncState::Sync | SyncState::Quorum);
        if counts && !self.announced {
            announce(application_name, standbys.method, members[own].priority);
        }
        self.announced = counts;
        if members[own].is_candidate() {
            let all = Lsn(u64::MAX);
            members[own].reported = Positions { write: all, flush: all, apply: all };
            self.promise = quorum::confirmed(standbys, &members).map_or(Lsn::INVALID, |then| then.flush);
        }
    }

    /// Whether commits wait for this standby, or may from one moment to the next.
    pub fn is_asked(&self) -> bool {
        self.priority > 0
    }

    /// How far the log is decided once this standby has flushed it (as far as it was sent); invalid: no further than the
    /// horizon.
    pub fn promise(&self) -> Lsn {
        self.promise
    }

    /// The stream is over: the next in the list may count now.
    pub fn leave(&mut self) {
        {
            let _locked = self.node.sync_rep.lock.lock();
            self.slot.set_standing(false, 0, 0);
        }
        self.promise = Lsn::INVALID;
        if std::mem::take(&mut self.priority) > 0 {
            self.move_horizon(advance(self.node));
        }
    }

    /// Has the other walsenders tell the horizon if it has moved; this one looks anyway.
    fn move_horizon(&self, moved: bool) {
        if moved {
            self.node.wake_walsenders_but(self.me);
        }
    }
}

fn announce(application_name: &str, method: Method, priority: u32) {
    match method {
        Method::First => tracing::info!(
            "standby \"{application_name}\" is now a synchronous standby with priority {priority}"
        ),
        Method::Any => {
            tracing::info!("standby \"{application_name}\" is now a candidate for quorum synchronous standby")
        }
    }
}
