//! What the children do: the mains that the node hands to the postmaster.
//!
//! A main runs in a fresh child, after the prologue of `launch.rs`, and returns the exit status: 0 for an orderly
//! end, 1 for FATAL (this process alone is done for); anything else, and a death by a signal, is a crash, which ends
//! all others too. It must leave by returning: only then does the epilogue detach it from its slot, and a child that
//! ends attached counts as crashed.
//!
//! What each is told: SIGTERM ([`ipc::interrupt::Interrupts::TERMINATE`]) to all but checkpointer, archiver and
//! walsenders; SIGUSR2 (`STOP`) to the checkpointer: shutdown checkpoint, then exit 0; SIGUSR2 to walsenders and archiver:
//! what is left, then exit 0; SIGQUIT ends each at once. A new configuration comes as a barrier ([`ipc::barrier`]), which
//! each must absorb wherever it may be.

use std::fmt;

use ipc::proc::ProcNumber;
use ipc::process::Me;
use sys::net::{PeerAddr, Stream};

use crate::refusal::Refusal;

/// The main of an auxiliary process.
pub type AuxiliaryMain<'a> = &'a dyn Fn(Me) -> i32;

/// The mains, one per kind of child.
#[derive(Clone, Copy)]
pub struct Roles<'a> {
    /// Recovers and reports by PmSignal (`RECOVERY_DONE` on a primary, `RECOVERY_STARTED` and `BEGIN_HOT_STANDBY` on a
    /// standby), then goes on until SIGTERM. It must not end before it is told to.
    pub startup: AuxiliaryMain<'a>,
    /// Runs once recovery is done, until SIGTERM.
    pub walwriter: AuxiliaryMain<'a>,
    /// Runs from the start, until SIGUSR2.
    pub checkpointer: AuxiliaryMain<'a>,
    /// Launched on `START_WALRECEIVER`; may end whenever it likes. `None` on a node that can't be a standby.
    pub walreceiver: Option<AuxiliaryMain<'a>>,
    /// Archives what is finished, until SIGUSR2; then what is left. Launched as [`crate::state::Archiving`] says; may give up
    /// with status 1, and is launched again.
    pub archiver: AuxiliaryMain<'a>,
    /// Serves a client; turns itself into a walsender if that is what the client wants.
    pub backend: &'a dyn Fn(Me, Stream, PeerAddr) -> i32,
    /// Tells a client why it is not let in. Has no slot; may still pass on a cancel request. SIGQUIT ends it.
    pub dead_end: &'a dyn Fn(Stream, PeerAddr, Refusal) -> i32,
    /// Makes shared memory anew, in the postmaster, when a crash has ended all children: zero but for what it held before
    /// the first fork, in the same place ([`ipc::shmem::Shmem::renew`], [`ipc::proc::ProcArray::initialise`]).
    /// Why not, if that fails; the node then ends.
    pub reinitialize: &'a dyn Fn() -> Result<(), String>,
    /// The statement that the owner of a slot began last, for the report of its crash; none if it served nobody. To be read
    /// with suspicion: the owner is dead, and may have written anything.
    pub activity: &'a dyn Fn(ProcNumber) -> Option<String>,
    /// The setting `restart_after_crash` as it is now.
    pub restart_after_crash: &'a dyn Fn() -> bool,
    /// The first step of every child with a slot, before its main: says how it absorbs barriers ([`Me::on_barriers`]).
    pub enter: &'a dyn Fn(Me),
    /// Reads the configuration again, in the postmaster: publishes it to the children, which are told by a barrier next.
    /// What is left to say (nothing, as a rule); or why nothing has changed. Must not block.
    pub reload: &'a dyn Fn() -> Result<String, String>,
}

impl fmt::Debug for Roles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roles").field("walreceiver", &self.walreceiver.is_some()).finish_non_exhaustive()
    }
}
