//! Slots that hold too much: those that are invalidated, and idle ones that somebody should know of before they fill the disk.
//!
//! Follows PostgreSQL 15 InvalidateObsoleteReplicationSlots() in src/backend/replication/slot.c; differs in: nobody waits for
//! the holder of an obsolete slot.

use std::sync::atomic::Ordering;

use ipc::proc::ProcNumber;
use wal::lsn::Lsn;

use super::retention::Limits;
use super::{ReplicationSlot, ReplicationSlots};
use crate::node::Node;

impl ReplicationSlots {
    /// Invalidates the slots that need log from before `oldest`. From where on log is still needed: by valid slots, and by
    /// those that are obsolete but still held. The checkpointer.
    pub(crate) fn invalidate_before(&self, node: &Node, oldest: Lsn) -> Option<Lsn> {
        for slot in self.slots {
            if self.is_obsolete(slot, oldest) && !self.is_still_held(node, slot) {
                self.invalidate(node, slot, oldest);
            }
        }
        self.needed_lsn()
    }

    fn is_obsolete(&self, slot: &ReplicationSlot, oldest: Lsn) -> bool {
        let restart = slot.restart_lsn();
        slot.is_in_use() && restart.is_valid() && restart < oldest
    }

    /// Whether somebody holds the slot, who is then told to end.
    fn is_still_held(&self, node: &Node, slot: &ReplicationSlot) -> bool {
        let _lock = self.ctl.lock.lock();
        let Some(holder) = slot.holder.load(Ordering::Relaxed).checked_sub(1).map(ProcNumber) else {
            return false;
        };
        if slot.told_to_end.swap(1, Ordering::Relaxed) == 0 {
            tracing::info!(
                "terminating process {} to release replication slot \"{}\"",
                slot.holder_pid.load(Ordering::Relaxed),
                slot.name.get()
            );
        }
        node.terminate(holder);
        true
    }

    fn invalidate(&self, node: &Node, slot: &ReplicationSlot, oldest: Lsn) {
        let _io = self.ctl.io_lock.lock();
        let restart = {
            let _lock = self.ctl.lock.lock();
            // It may have been acquired, moved or dropped since it was looked at: the next checkpoint looks again.
            if !self.is_obsolete(slot, oldest) || slot.holder.load(Ordering::Relaxed) != 0 {
                return;
            }
            let restart = slot.restart_lsn.swap(0, Ordering::AcqRel);
            slot.invalidated_lsn.store(restart, Ordering::Release);
            Lsn(restart)
        };
        tracing::info!(
            "invalidating slot \"{}\" because its restart_lsn {restart} exceeds max_slot_wal_keep_size",
            slot.name.get()
        );
        if let Err(error) = slot.save(node) {
            // Its log stays until that succeeds.
            tracing::error!("could not save replication slot \"{}\": {error}", slot.name.get());
        }
    }

    /// Says in the log which slots hold back much log for nobody. The checkpointer.
    pub(crate) fn tell_of_idle(&self, limits: &Limits) {
        for slot in self.slots.iter().filter(|slot| slot.is_in_use()) {
            let restart = slot.restart_lsn();
            if slot.holder.load(Ordering::Relaxed) != 0 || !restart.is_valid() {
                slot.told_bytes.store(0, Ordering::Relaxed);
                continue;
            }
            let Some(held) = limits.worth_telling(restart, slot.told_bytes.load(Ordering::Relaxed)) else {
                continue;
            };
            slot.told_bytes.store(held, Ordering::Relaxed);
            tracing::warn!(
                hint = "Have its standby connect, drop the slot, or limit what slots may hold by max_slot_wal_keep_size.",
                "replication slot \"{}\" is not in use and holds back {} MB of write-ahead log",
                slot.name.get(),
                held >> 20
            );
        }
    }
}
