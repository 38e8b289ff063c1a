//! The walreceiver: brings the upstream's log to this node, makes it durable and reports back.
//!
//! `stream` is the pure state machine of one stream, `upstream` and `histories` what is asked before it, `process` the life
//! of the process around them. Follows PostgreSQL 17 `src/backend/replication/walreceiver.c`.

pub mod histories;
pub mod process;
pub mod stream;
pub mod upstream;

#[cfg(test)]
mod simulation;
