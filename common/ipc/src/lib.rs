//! Shared memory, process slots, latches and wait event sets: everything that sleeps and wakes.
//!
//! A process that has nothing to do sleeps in exactly one place, [`wait_event_set::WaitEventSet::wait`], on
//! all that may give it something to do: its latch, its sockets, the exit of its children, the death of its
//! postmaster, and one computed time-out. Whoever makes work for it, makes the work visible first and sets
//! its [`latch::Latch`] then.
//!
//! # The wait loop
//!
//! ```no_run
//! # use ipc::{interrupt::Interrupts, process::Me, wait_event::WaitEvent};
//! # fn work_to_do() -> bool { false }
//! # fn work() {}
//! # fn run(me: Me) -> std::io::Result<()> {
//! loop {
//!     me.latch().reset(); //                             1. forget what woke us
//!     if !me.take(Interrupts::CONFIG_RELOAD).is_empty() {
//!         // read the settings again: each bit is cleared just before its own action
//!     }
//!     if me.pending().contains(Interrupts::TERMINATE) {
//!         break;
//!     }
//!     while work_to_do() { //                            2. look for work, and only now
//!         work();
//!     }
//!     ipc::wait_latch(&me, None, WaitEvent::WalWriterMain)?; // 3. sleep
//! }
//! me.detach();
//! # Ok(())
//! # }
//! ```
//!
//! The order reset, look, wait is what makes it right: a set that comes after the look ends the wait; one
//! that comes before the reset is for work that the look finds. Waiting first, then resetting, then looking
//! is as good (wait, reset, look is the same circle entered elsewhere). Wrong is to look *between* the return
//! of the wait and the reset: a set that arrives in between is wiped out although its work was not seen. A
//! wake-up is never a promise: sets are shared among all reasons, and a stray one is normal.
//!
//! common/ipc/examples has small programs that run: this loop between two processes, a server, interrupts that are
//! held, a barrier, a queue. common/ipc/README.md has PostgreSQL's functions and what became of them.
//!
//! # Who is who
//!
//! * [`process::Postmaster`] is the parent's handle: its signals, its latch. It allocates all shared memory
//!   ([`shmem::Shmem`]) before the first fork.
//! * [`process::Me`] is a child's handle, made by [`process::Me::attach`]: its slot in the
//!   [`proc::ProcArray`], its latch, its pending [`interrupt::Interrupts`]. CHECK_FOR_INTERRUPTS is
//!   [`process::Me::pending`]: one load. Before it attaches it is a [`process::Newborn`].
//! * A [`proc::ProcAddress`] names another process; an interrupt sent to it never reaches a later owner of
//!   the slot.
//! * [`barrier`]s tell who has changed something when every process has taken note of it.
//! * [`subprocess`] runs a shell command that ends with its owner, whose interrupts are served meanwhile.
//! * [`pm_signal`] is the way from a child to the postmaster, signals the way back.
//! * [`shm_mq`] carries messages from one process to another; who waits for one waits for its latch, and so for
//!   anything else at the same time.
//! * [`condition_variable`] wakes those who wait for something to become true, in the same way.
//!
//! All signals are blocked and read inside the wait, where they become interrupt bits; the one handler is
//! SIGQUIT's. (The portable one of the three [`backend`]s has a handler that keeps signals until the wait.)
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/{latch,waiteventset,procsignal,pmsignal}.c; differs in:
//! interrupts are bits that the sender puts into the target's slot itself, events can be removed, child exits
//! are events.

// The few files that map shared memory allow it; every block states why it is sound.
#![deny(unsafe_code)]
#![cfg_attr(loom, allow(dead_code, missing_docs, reason = "models use a part of each file"))]

pub mod latch;
#[allow(unsafe_code, reason = "what shared_struct! expands to; other crates need no such permission")]
pub mod latch_stats;
#[cfg(loom)]
#[allow(clippy::unwrap_used, clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "for tests")]
pub mod model;
mod sync;

pub mod backend;
#[allow(unsafe_code, reason = "what shared_struct! expands to; other crates need no such permission")]
pub mod barrier;
mod bit_set;
pub mod condition_variable;
pub mod inbox;
pub mod interrupt;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "what shared_struct! expands to; other crates need no such permission")]
pub mod lwlock;
#[allow(unsafe_code, reason = "what shared_struct! expands to; other crates need no such permission")]
pub mod pm_signal;
#[cfg(not(loom))]
pub mod postmaster_death;
#[allow(unsafe_code, reason = "what shared_struct! expands to; other crates need no such permission")]
pub mod proc;
#[cfg(not(loom))]
pub mod process;
#[allow(unsafe_code, reason = "what shared_struct! expands to; other crates need no such permission")]
pub mod shm_mq;
#[cfg(not(loom))]
pub mod shmem;
#[cfg(not(loom))]
pub mod subprocess;
pub mod wait_event;
#[cfg(not(loom))]
pub mod wait_event_set;
#[cfg(not(loom))]
mod waiter;
#[cfg(not(loom))]
mod wakeup;

#[cfg(not(loom))]
pub use process::{wait_latch, wait_latch_or_socket};
