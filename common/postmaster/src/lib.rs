//! Births, watches and stops the processes of a node.
//!
//! Place in the arrows: `sys <- ipc <- postmaster <- sender <- receiver`. This crate knows nothing of the log, the
//! tables or the protocol: what a process *does* comes in as [`roles::Roles`], and what happens *between* processes is
//! here.
//!
//! How to use: the caller creates the shared memory, takes the data directory with [`pid_file::PidFile::create`], and
//! calls [`server_loop::run`], which returns when the last child is gone.
//!
//! ```text
//! pid_file     one postmaster per data directory; what `stop` and `status` read
//! reload_line  what `reload` reads there
//! listen       the listen sockets
//! roles        what the children do: handed in by the node
//! refusal      why a client is not let in
//! child_kind   the table of kinds of children
//! state        the pure state machine: (now, input, census) -> outputs
//! child_table  pids, pidfds and the private free list of slots
//! launch       fork, and what a child does before and after its main
//! reload       a new configuration: read, published, absorbed by all
//! reap         a pidfd became readable: what has exited, and how
//! server_loop  the shell: one wait event set, carries out what the state machine says
//! ```
//!
//! Invariants:
//! - The postmaster takes no lock in shared memory and believes nothing it reads there but flags: whatever a child has
//!   done to it, the postmaster is there to stop the others and clean up.
//! - It never reads or writes a client's socket: no client can hold it up.
//! - It is single-threaded, blocks all signals before its first fork and reads them through a signalfd.
//! - The locks on the data directory are inherited by every child: they are free only when the whole node is gone.
//!
//! Follows PostgreSQL 15 src/backend/postmaster/postmaster.c and 18 launch_backend.c, pmchild.c; differs in: child exits
//! are pidfd events (no SIGCHLD), PMSignals are bits plus a latch (no SIGUSR1), the startup process lives as long as the
//! node.
#![forbid(unsafe_code)]

pub mod child_kind;
pub mod child_table;
mod launch;
pub mod listen;
pub mod pid_file;
mod reap;
pub mod refusal;
mod reload;
pub mod reload_line;
pub mod roles;
pub mod server_loop;
pub mod state;
