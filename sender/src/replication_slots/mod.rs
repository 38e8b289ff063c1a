//! Replication slots: promises to keep the log from some position on, under a name, over restarts.
//!
//! A standby that streams by a slot moves the slot's `restart_lsn` with each flush that it reports ([`HeldSlot::confirm`]);
//! checkpoints remove nothing behind it ([`crate::checkpointer`]), and it is there again when the standby comes back.
//! Temporary slots go with the session that made them.
//!
//! How to use it: [`ReplicationSlots::create`] and [`ReplicationSlots::acquire`] give a [`HeldSlot`], which nobody else
//! can hold, stream by or drop until it is dropped. Who keeps the log for a base backup makes a temporary slot with
//! [`Reserve::Now`] and begins at [`HeldSlot::restart_lsn`]: that is the redo of the last checkpoint, or before it.
//!
//! **Locks.** `lock` guards which slots there are and who holds them; it is held for a few loads and stores. `io_lock` is held
//! over what changes the files (`file`), and taken first. `restart_lsn` alone is written without a lock, by the holder.
//!
//! **What is kept is what the disk says.** A `restart_lsn` that moves is written to disk by the next checkpoint; after a crash
//! the slot is back where it was saved, and must find its log there. So what slots need is counted from the lower of
//! the two ([`ReplicationSlots::needed_lsn`]), and a checkpoint counts after it has saved them. Were it counted from the
//! present position, this would lose log: checkpoint saves the slot at A; the slot moves to B; checkpoint removes what
//! is before B; crash: the slot needs the log from A on.
//!
//! **A slot that is made while log is removed** finds its log: it takes the redo under `lock`, and the checkpointer, who
//! has published the new redo before, looks for what the slots need under `lock`. If the slot comes first, the checkpointer
//! sees it. If the checkpointer does, the slot takes the new redo, and nothing from there on is removed.
//!
//! **A slot that holds more than `max_slot_wal_keep_size`** is invalidated by a checkpoint ([`obsolete`]): whoever holds it is
//! told to end, and it is lost for good when it is free. Nobody waits for the holder: until it is gone its log stays, and
//! its end wakes the checkpointer.
//!
//! At a start the postmaster reads the slots before there is any other process, also after a crash of one.
//!
//! Follows PostgreSQL 15 src/backend/replication/slot.c; differs in: physical slots only; temporary ones have no files.

mod file;
mod held;
mod name;
mod obsolete;
pub(crate) mod retention;

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use ipc::condition_variable::ConditionVariable;
use ipc::lwlock::LwLock;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::shmem::{SharedStr, Shmem};
use wal::lsn::Lsn;
use wire::error::ErrorResponse;
use wire::sqlstate;

use self::file::SlotState;
pub use self::held::HeldSlot;
pub use self::name::check_name;
use crate::node::Node;

ipc::shared_struct! {
    /// One slot.
    pub(crate) struct ReplicationSlot {
        /// 1: there is one. Under `lock`.
        in_use: AtomicU32,
        /// Written by its maker, before `in_use`.
        name: SharedStr<64>,
        /// 1: it goes with the session that has made it.
        temporary: AtomicU32,
        /// Process number + 1 of who holds it; 0: nobody. Under `lock`.
        holder: AtomicU32,
        /// That process' pid. Likewise.
        holder_pid: AtomicI32,
        /// The log from here on is kept; 0: none. By the holder; by the checkpointer when there is none.
        restart_lsn: AtomicU64,
        /// `restart_lsn` on disk; 0 for a temporary slot. Under `io_lock`.
        saved_lsn: AtomicU64,
        /// `restart_lsn` when the slot was invalidated; counts while there is no other. By the checkpointer.
        invalidated_lsn: AtomicU64,
        /// 1: the holder was told to end, as the slot is obsolete. Under `lock`.
        told_to_end: AtomicU32,
        /// Bytes that the slot, idle, was last said to hold back; 0: not said. By the checkpointer.
        told_bytes: AtomicU64,
    }
}

ipc::shared_struct! {
    /// What is not one slot's.
    struct SlotsCtl {
        lock: LwLock,
        io_lock: LwLock,
    }
}

/// All slots of a node; a handle, the same in every process.
#[derive(Clone, Copy, Debug)]
pub struct ReplicationSlots {
    ctl: &'static SlotsCtl,
    slots: &'static [ReplicationSlot],
    /// Who waits for a slot to be free.
    freed: ConditionVariable,
}

/// From when on a new slot keeps the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve<'a> {
    /// From the redo of the last checkpoint on.
    Now,
    /// From what the first standby that streams by it reports.
    Later,
    /// As the slot of that name does.
    As(&'a str),
}

/// How long a slot lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is dropped.
    Persistent,
    /// At most as long as the session, which holds it all the time.
    Temporary,
}

/// What there is to know of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Its name.
    pub name: String,
    /// Whether it goes with its session.
    pub temporary: bool,
    /// The process that holds it; 0: nobody.
    pub holder_pid: i32,
    /// The log from here on is kept; invalid: none.
    pub restart_lsn: Lsn,
    /// Whether it has lost what it kept.
    pub is_invalidated: bool,
}

impl ReplicationSlots {
    /// Bytes of shared memory for `count` slots and the processes of `procs` process slots.
    pub fn shmem_size(count: usize, procs: usize) -> usize {
        count * size_of::<ReplicationSlot>() + size_of::<SlotsCtl>() + ConditionVariable::size(procs) + 128
    }

    /// Lays them out; before the first fork.
    pub fn create_all(shmem: &Shmem, count: usize, procs: usize) -> ReplicationSlots {
        ReplicationSlots {
            ctl: shmem.alloc(),
            slots: shmem.alloc_array(count),
            freed: ConditionVariable::create(shmem, procs),
        }
    }

    /// Reads the slots from disk. The postmaster, while there is no other process.
    ///
    /// # Errors
    /// A file is damaged or can't be read, or there are more than `max_replication_slots`: the text of a FATAL.
    pub fn restore(&self, node: &Node) -> Result<(), String> {
        let states = file::read_all(&node.data.pg_replslot()).map_err(|error| error.to_string())?;
        if states.len() > self.slots.len() {
            return Err(
                "too many replication slots active before shutdown\nHINT:  Increase max_replication_slots and try again."
                    .to_owned(),
            );
        }
        for (slot, state) in self.slots.iter().zip(states) {
            slot.fill(&state.name, Lifetime::Persistent, Lsn(state.restart_lsn));
            slot.saved_lsn.store(state.restart_lsn, Ordering::Relaxed);
            slot.invalidated_lsn.store(state.invalidated_lsn, Ordering::Relaxed);
            slot.in_use.store(1, Ordering::Release);
        }
        Ok(())
    }

    /// Makes a slot and holds it.
    ///
    /// # Errors
    /// 42602, 42622: the name is none. 42710: there is one of that name. 53400, 55000: no place. The disk's.
    pub fn create(
        self,
        node: &'static Node,
        me: Me,
        name: &str,
        reserve: Reserve<'_>,
        lifetime: Lifetime,
    ) -> Result<HeldSlot, ErrorResponse> {
        check_name(name)?;
        if self.slots.is_empty() {
            let message = "replication slots can only be used if max_replication_slots > 0";
            return Err(ErrorResponse::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
        }
        let _io = self.ctl.io_lock.lock();
        let slot = {
            let _lock = self.ctl.lock.lock();
            let slot = self.free_place(name)?;
            let restart_lsn = match reserve {
                Reserve::Now => node.wal.redo().max(node.segment_size.log_start()),
                Reserve::Later => Lsn::INVALID,
                Reserve::As(source) => self.find(source).map_or(Lsn::INVALID, ReplicationSlot::restart_lsn),
            };
            if matches!(reserve, Reserve::As(_)) && !restart_lsn.is_valid() {
                let message = "cannot copy a replication slot that doesn't reserve WAL";
                return Err(ErrorResponse::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
            }
            slot.fill(name, lifetime, restart_lsn);
            slot.hold(me);
            slot.in_use.store(1, Ordering::Release);
            slot
        };
        if lifetime == Lifetime::Persistent
            && let Err(error) = file::make(&node.data.pg_replslot(), &slot.state())
        {
            slot.forget();
            return Err(io_error(&format!("could not make replication slot \"{name}\""), &error));
        }
        slot.saved_lsn.store(slot.restart_lsn.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(HeldSlot { node, slot, me })
    }

    /// A place for a slot of that name. Under `lock`.
    fn free_place(&self, name: &str) -> Result<&'static ReplicationSlot, ErrorResponse> {
        if self.find(name).is_some() {
            let message = format!("replication slot \"{name}\" already exists");
            return Err(ErrorResponse::error(sqlstate::DUPLICATE_OBJECT, message));
        }
        self.slots.iter().find(|slot| !slot.is_in_use()).ok_or_else(|| {
            let message = "all replication slots are in use";
            ErrorResponse::error(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, message)
                .with_hint("Free one or increase max_replication_slots.")
        })
    }

    fn find(&self, name: &str) -> Option<&'static ReplicationSlot> {
        self.slots.iter().find(|slot| slot.is_in_use() && slot.name.get() == name)
    }

    /// Holds a slot. A temporary slot is its own session's alone, and that may hold it again.
    ///
    /// # Errors
    /// 42704: there is none of that name. 55006: somebody else holds it ([`is_held_by_others`]).
    pub fn acquire(self, node: &'static Node, me: Me, name: &str) -> Result<HeldSlot, ErrorResponse> {
        let _lock = self.ctl.lock.lock();
        let Some(slot) = self.find(name) else { return Err(no_such_slot(name)) };
        let holder = slot.holder.load(Ordering::Relaxed);
        let is_own = slot.is_temporary() && holder == word(me.number());
        if holder != 0 && !is_own {
            let pid = slot.holder_pid.load(Ordering::Relaxed);
            let message = format!("replication slot \"{name}\" is active for PID {pid}");
            return Err(ErrorResponse::error(sqlstate::OBJECT_IN_USE, message));
        }
        slot.hold(me);
        Ok(HeldSlot { node, slot, me })
    }

    /// On what who waits for a slot sleeps.
    pub fn freed(&self) -> ConditionVariable {
        self.freed
    }

    /// Drops the temporary slots of a session that ends, or has failed.
    pub fn drop_temporary(&self, node: &Node, me: &Me) {
        let own = |slot: &&ReplicationSlot| {
            slot.is_in_use()
                && slot.is_temporary()
                && slot.holder.load(Ordering::Relaxed) == word(me.number())
        };
        for slot in self.slots.iter().filter(own) {
            let was_told = slot.told_to_end.load(Ordering::Relaxed) != 0;
            slot.forget();
            if was_told {
                crate::checkpointer::request_removal(node);
            }
            self.freed.broadcast(node.procs);
        }
    }

    /// One slot.
    ///
    /// # Errors
    /// 42704: there is none of that name.
    pub fn view(&self, name: &str) -> Result<SlotView, ErrorResponse> {
        let _lock = self.ctl.lock.lock();
        self.find(name).map(ReplicationSlot::view).ok_or_else(|| no_such_slot(name))
    }

    /// All slots.
    pub fn views(&self) -> Vec<SlotView> {
        let _lock = self.ctl.lock.lock();
        self.slots.iter().filter(|slot| slot.is_in_use()).map(ReplicationSlot::view).collect()
    }

    /// From where on slots need the log, whatever crash comes: see the header. None: no slot needs any.
    pub fn needed_lsn(&self) -> Option<Lsn> {
        let _lock = self.ctl.lock.lock();
        self.slots.iter().filter(|slot| slot.is_in_use()).filter_map(ReplicationSlot::needed_lsn).min()
    }

    /// Writes what has changed since it was last written. The checkpointer.
    pub fn save(&self, node: &Node) {
        let _io = self.ctl.io_lock.lock();
        let changed = |slot: &&ReplicationSlot| {
            slot.is_in_use()
                && !slot.is_temporary()
                && slot.restart_lsn.load(Ordering::Acquire) != slot.saved_lsn.load(Ordering::Relaxed)
        };
        for slot in self.slots.iter().filter(changed) {
            if let Err(error) = slot.save(node) {
                // What is kept is counted from what is there.
                tracing::error!("could not save replication slot \"{}\": {error}", slot.name.get());
            }
        }
    }
}

impl ReplicationSlot {
    fn is_in_use(&self) -> bool {
        self.in_use.load(Ordering::Acquire) != 0
    }

    fn is_temporary(&self) -> bool {
        self.temporary.load(Ordering::Relaxed) != 0
    }

    fn restart_lsn(&self) -> Lsn {
        Lsn(self.restart_lsn.load(Ordering::Acquire))
    }

    /// A standby that streams by it all the same may give it a new position.
    fn is_invalidated(&self) -> bool {
        !self.restart_lsn().is_valid() && self.invalidated_lsn.load(Ordering::Relaxed) != 0
    }

    fn fill(&self, name: &str, lifetime: Lifetime, restart_lsn: Lsn) {
        self.name.set(name);
        self.temporary.store(u32::from(lifetime == Lifetime::Temporary), Ordering::Relaxed);
        self.restart_lsn.store(restart_lsn.0, Ordering::Relaxed);
        for position in [&self.saved_lsn, &self.invalidated_lsn, &self.told_bytes] {
            position.store(0, Ordering::Relaxed);
        }
        self.told_to_end.store(0, Ordering::Relaxed);
    }

    fn hold(&self, me: Me) {
        self.holder.store(word(me.number()), Ordering::Relaxed);
        self.holder_pid.store(sys::process::current_pid().0, Ordering::Relaxed);
    }

    /// Nobody holds it any more; whether its holder had been told to end. Under `lock`.
    fn let_go(&self) -> bool {
        self.holder_pid.store(0, Ordering::Relaxed);
        self.holder.store(0, Ordering::Release);
        self.told_to_end.swap(0, Ordering::Relaxed) != 0
    }

    /// There is no slot in this place any more. By its holder.
    fn forget(&self) {
        self.restart_lsn.store(0, Ordering::Relaxed);
        self.holder_pid.store(0, Ordering::Relaxed);
        self.holder.store(0, Ordering::Relaxed);
        self.in_use.store(0, Ordering::Release);
    }

    fn needed_lsn(&self) -> Option<Lsn> {
        let saved = Some(Lsn(self.saved_lsn.load(Ordering::Acquire))).filter(|lsn| lsn.is_valid());
        let restart = Some(self.restart_lsn()).filter(|lsn| lsn.is_valid());
        saved.into_iter().chain(restart).min()
    }

    fn state(&self) -> SlotState {
        SlotState {
            name: self.name.get(),
            restart_lsn: self.restart_lsn.load(Ordering::Acquire),
            invalidated_lsn: self.invalidated_lsn.load(Ordering::Acquire),
        }
    }

    /// Under `io_lock`.
    fn save(&self, node: &Node) -> io::Result<()> {
        let state = self.state();
        file::save(&node.data.pg_replslot(), &state)?;
        // What was written, not what it is by now.
        self.saved_lsn.store(state.restart_lsn, Ordering::Release);
        Ok(())
    }

    fn view(&self) -> SlotView {
        SlotView {
            name: self.name.get(),
            temporary: self.is_temporary(),
            holder_pid: self.holder_pid.load(Ordering::Relaxed),
            restart_lsn: self.restart_lsn(),
            is_invalidated: self.is_invalidated(),
        }
    }
}

/// How a holder stands in shared memory.
fn word(number: ProcNumber) -> u32 {
    number.0 + 1
}

/// Whether an error of [`ReplicationSlots::acquire`] may go by.
pub fn is_held_by_others(report: &ErrorResponse) -> bool {
    report.sqlstate == sqlstate::OBJECT_IN_USE
}

fn no_such_slot(name: &str) -> ErrorResponse {
    ErrorResponse::error(sqlstate::UNDEFINED_OBJECT, format!("replication slot \"{name}\" does not exist"))
}

fn io_error(what: &str, error: &io::Error) -> ErrorResponse {
    let sqlstate = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => sqlstate::DISK_FULL,
        _ => sqlstate::IO_ERROR,
    };
    ErrorResponse::error(sqlstate, format!("{what}: {error}"))
}
