//! Who lives: pid, pidfd, kind and slot of every child, and which slots are free.
//!
//! Private to the postmaster. Shared memory belongs to the children too, and one that has gone wild may have written
//! anything there; so which slots are free is kept here, and from a slot only its state is read: whether the child has
//! detached (else it crashed, whatever its exit status says) and whether it has become a walsender.
//!
//! A kind with a fixed slot has at most one child. Client connections take a slot from the free list; dead-end children
//! have none, and their number is limited here.
//!
//! Follows PostgreSQL 18 src/backend/postmaster/pmchild.c; differs in: one pool for all connections, laid out as the
//! process slots are.

use ipc::proc::{ProcArray, ProcNumber, SlotState};
use ipc::wait_event_set::Position;
use sys::process::{ExitStatus, Pid, PidFd};
use tracing::error;

use crate::child_kind::{Census, ChildEnd, ChildKind};

/// A child that has not been reaped.
#[derive(Debug)]
pub struct Child {
    /// What it was forked as.
    pub kind: ChildKind,
    /// Its slot; `None`: a dead-end child.
    pub number: Option<ProcNumber>,
    /// Becomes readable when it ends.
    pub pidfd: PidFd,
    /// Where the pidfd is in the wait event set.
    pub position: Position,
}

impl Child {
    /// Its process id, which can't be anybody else's before it is reaped.
    pub fn pid(&self) -> Pid {
        self.pidfd.pid()
    }
}

/// The table.
#[derive(Debug)]
pub struct ChildTable {
    procs: &'static ProcArray,
    children: Vec<Child>,
    free: Vec<ProcNumber>,
    dead_ends_max: usize,
}

impl ChildTable {
    /// An empty table over the slots; all those from [`ProcNumber::FIRST_BACKEND`] on are for connections.
    pub fn new(procs: &'static ProcArray) -> ChildTable {
        let backends = ProcNumber::FIRST_BACKEND.index()..procs.len();
        let number = |index| ProcNumber(u32::try_from(index).expect("slots are counted in 32 bits"));
        ChildTable {
            procs,
            children: Vec::new(),
            dead_ends_max: backends.len(),
            // Taken from the end: the lowest first.
            free: backends.rev().map(number).collect(),
        }
    }

    /// The most children that there can be at once.
    pub fn children_max(&self) -> usize {
        self.procs.len() + self.dead_ends_max
    }

    /// Takes a slot for a child of the kind: its fixed one, or a free one. `None`: all are taken. A free slot that
    /// says that it isn't was written over by a child gone wild; it is logged and never used again.
    pub fn assign(&mut self, kind: ChildKind) -> Option<ProcNumber> {
        if let Some(number) = kind.row().fixed_number {
            return self.try_assign(number).then_some(number);
        }
        while let Some(number) = self.free.pop() {
            if self.try_assign(number) {
                return Some(number);
            }
        }
        None
    }

    fn try_assign(&self, number: ProcNumber) -> bool {
        self.procs.assign(number).map_err(|error| error!("{error}")).is_ok()
    }

    /// Frees a slot whose child is reaped, or could not be forked. False: the child had not detached.
    pub fn release(&mut self, number: ProcNumber) -> bool {
        if number >= ProcNumber::FIRST_BACKEND {
            self.free.push(number);
        }
        self.procs.release(number)
    }

    /// Whether one more dead-end child may be forked. They cost no slot, so without a limit a flood of connections would
    /// become a flood of processes.
    pub fn dead_end_allowed(&self) -> bool {
        self.children.iter().filter(|child| child.kind == ChildKind::DeadEnd).count() < self.dead_ends_max
    }

    /// Enters a forked child.
    pub fn insert(&mut self, child: Child) {
        self.children.push(child);
    }

    /// The child whose pidfd is at the position.
    pub fn at(&self, position: Position) -> Option<&Child> {
        self.children.iter().find(|child| child.position == position)
    }

    /// Strikes a reaped child out, frees its slot, and says how it ended; `activity` says what was done in a slot last.
    pub fn remove(
        &mut self,
        position: Position,
        status: ExitStatus,
        activity: impl FnOnce(ProcNumber) -> Option<String>,
    ) -> Option<ChildEnd> {
        let index = self.children.iter().position(|child| child.position == position)?;
        let child = self.children.swap_remove(index);
        let detached = child.number.is_none_or(|number| self.release(number));
        let activity = child.number.and_then(activity);
        Some(ChildEnd { kind: child.kind, pid: child.pid(), status, detached, activity })
    }

    /// All children, each with the kind that it is by now.
    pub fn iter(&self) -> impl Iterator<Item = (ChildKind, &Child)> {
        self.children.iter().map(|child| (self.kind_now(child), child))
    }

    /// What is in a slot, for who reads: `PID 4711 (WAL writer process)`.
    pub fn name_of(&self, number: ProcNumber) -> String {
        match self.children.iter().find(|child| child.number == Some(number)) {
            Some(child) => format!("PID {} ({})", child.pid(), child.kind.row().log_name),
            None => format!("slot {number}"),
        }
    }

    /// How many of each kind live.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (kind, _) in self.iter() {
            census.add(kind);
        }
        census
    }

    /// Closes all pidfds, in a forked child.
    pub fn release_in_child(&mut self) {
        self.children.clear();
    }

    fn kind_now(&self, child: &Child) -> ChildKind {
        match (child.kind, child.number) {
            (ChildKind::Backend, Some(number)) if self.procs.slot(number).state() == SlotState::WalSender => {
                ChildKind::WalSender
            }
            (kind, _) => kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use ipc::shmem::Shmem;

    use super::*;

    #[test]
    fn child_table_passes_over_a_slot_that_a_wild_child_has_taken() {
        let slots = ProcNumber::FIRST_BACKEND.0 + 2;
        let shmem = Shmem::create(ProcArray::size(slots)).expect("some memory");
        let mut table = ChildTable::new(ProcArray::create(&shmem, slots));
        let procs = table.procs;
        for number in [ProcNumber::STARTUP, ProcNumber::FIRST_BACKEND] {
            procs.assign(number).expect("a new slot is unused");
        }
        assert_eq!(table.assign(ChildKind::Startup), None);
        assert_eq!(table.assign(ChildKind::Backend), Some(ProcNumber(slots - 1)));
        assert_eq!(table.assign(ChildKind::Backend), None, "it is not tried again");
        table.release(ProcNumber(slots - 1));
        assert_eq!(table.assign(ChildKind::Backend), Some(ProcNumber(slots - 1)));
    }
}
