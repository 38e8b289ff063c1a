//! The shared-memory message queue: messages from one process to another, in order, through a small ring.
//!
//! One sender, one receiver, each attached once. A message is any bytes; one that is longer than the ring goes
//! through piece by piece. Nothing here sleeps: [`Sender::try_send`] and [`Receiver::try_receive`] do what can
//! be done now, and when they say `WouldBlock` the other end will set this process's latch as soon as there is
//! more to do. So a process waits for any number of queues, sockets and whatever else in one wait event set.
//!
//! # How to use it
//!
//! The postmaster makes the queue ([`ShmMq::create`]); it is the same in every process.
//!
//! ```no_run
//! # use ipc::{process::Me, shm_mq::{Received, ShmMq}, wait_event::WaitEvent};
//! # fn run(me: Me, queues: Vec<ShmMq>) -> std::io::Result<()> {
//! # let handle = |_message: Vec<u8>| ();
//! let mut receivers: Vec<_> =
//!     queues.iter().map(|queue| queue.attach_receiver(me, 1 << 20).expect("it is ours to read")).collect();
//! while !receivers.is_empty() {
//!     me.latch().reset();
//!     receivers.retain_mut(|receiver| {
//!         loop {
//!             match receiver.try_receive() {
//!                 Received::Message(message) => handle(message),
//!                 Received::WouldBlock => return true,
//!                 Received::Detached | Received::TooLong(_) => return false,
//!             }
//!         }
//!     });
//!     ipc::wait_latch(&me, None, WaitEvent::MessageQueueReceive)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A sender likewise: try, and after `WouldBlock` wait and try again *with the same message*.
//!
//! # How it ends
//!
//! Dropping an end detaches it and sets the other's latch. The receiver still gets what was sent completely, then
//! `Detached`; a message of which only a part has come is dropped. The sender gets `Detached` at its next try.
//!
//! An end whose process has died without detaching counts as detached once the postmaster has released its slot: an
//! end is known by its [`ProcAddress`], which no successor of the slot has. Nobody sets the other's latch for that;
//! the postmaster does, or is stopping the node. Who waits for a process that may never attach says which
//! ([`Sender::expect`], [`Receiver::expect`]): its end counts as detached when that process is gone.
//!
//! A queue whose ends are both left can be [renewed](ShmMq::renew) for another pair.
//!
//! # Bounds
//!
//! A receiver says how long a message may be, and keeps at most one that is incomplete. Whatever the other process
//! writes into the shared memory, the worst is wrong bytes and `TooLong`.
//!
//! The format: a length word of eight bytes, the bytes, up to seven that fill the last word up. How bytes and wake-ups
//! are ordered is told in shm_mq/ring.rs.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/shm_mq.c; differs in: no call waits; a queue can be renewed; a latch is set
//! only when its owner has said that it waits. As there, room is given back at each quarter of the ring and when there
//! is nothing more to read, not for every message: that takes a third of the sleeps and a fifth of the CPU time from
//! a stream of small messages.

mod ends;
#[cfg(loom)]
mod model_bytes;
mod ring;

pub use ends::{Received, Receiver, Sender, Sent, ShmMq};
