//! The walreceiver: brings the upstream's log to this node, makes it durable and reports back.
//!
//! `stream` is the pure state machine of one stream; `process` is the life of the process around it.
//! Follows PostgreSQL 17 `src/backend/replication/walreceiver.c`.

pub mod stream;

#[cfg(test)]
mod simulation;
