//! A slot in the hands of a process: what it may do with it, and what its end does.
//!
//! The process alone moves the slot's position. Dropping the handle, also by a panic or an error of the session, lets the
//! slot go and wakes who waits for it; a temporary slot stays its session's. Follows PostgreSQL 15
//! src/backend/replication/slot.c (MyReplicationSlot).

use std::fmt;
use std::sync::atomic::Ordering;

use ipc::process::Me;
use wal::lsn::Lsn;
use wire::error::ErrorResponse;

use super::{ReplicationSlot, file, io_error, word};
use crate::node::Node;

/// A slot that this process holds; dropping it lets it go.
#[must_use = "the slot is held as long as this lives"]
pub struct HeldSlot {
    pub(super) node: &'static Node,
    pub(super) slot: &'static ReplicationSlot,
    pub(super) me: Me,
}

impl HeldSlot {
    /// Its name.
    pub fn name(&self) -> String {
        self.slot.name.get()
    }

    /// The log from here on is kept; invalid: none yet.
    pub fn restart_lsn(&self) -> Lsn {
        self.slot.restart_lsn()
    }

    /// Whether it goes with its session.
    pub fn is_temporary(&self) -> bool {
        self.slot.is_temporary()
    }

    /// The standby has everything before `flush` durably. It may be less than before, if the standby was made anew. On disk
    /// with the next checkpoint.
    pub fn confirm(&self, flush: Lsn) {
        self.slot.restart_lsn.store(flush.0, Ordering::Release);
    }

    /// Removes the slot, durably. What it alone has kept of the log goes at once, not only with the next checkpoint: who
    /// drops a slot may be short of room.
    ///
    /// # Errors
    /// The disk's; the slot is still there.
    pub fn drop_slot(self) -> Result<(), ErrorResponse> {
        let slots = self.node.replication_slots;
        if !self.slot.is_temporary() {
            let _io = slots.ctl.io_lock.lock();
            let name = self.name();
            file::remove(&self.node.data.pg_replslot(), &name)
                .map_err(|error| io_error(&format!("could not drop replication slot \"{name}\""), &error))?;
        }
        self.slot.forget();
        crate::checkpointer::request_removal(self.node);
        Ok(())
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        let slots = self.node.replication_slots;
        let was_told = {
            let _lock = slots.ctl.lock.lock();
            let is_held =
                self.slot.is_in_use() && self.slot.holder.load(Ordering::Relaxed) == word(self.me.number());
            // A temporary one stays its session's.
            is_held && !self.slot.is_temporary() && self.slot.let_go()
        };
        if was_told {
            crate::checkpointer::request_removal(self.node);
        }
        slots.freed.broadcast(self.node.procs);
    }
}

impl fmt::Debug for HeldSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldSlot").field(&self.name()).finish()
    }
}
