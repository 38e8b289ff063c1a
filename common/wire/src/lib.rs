//! PostgreSQL's v3 protocol as bytes, both directions.
//!
//! Pure: bytes in, messages out. No socket, no clock, no process; who owns a socket feeds an [`framing::InputBuffer`]
//! and sends what the encoders append to a `Vec<u8>`. Both sides of the protocol live here, because a node speaks
//! both: its sessions and walsenders are servers, its walreceiver and `clone` are clients.
//!
//! | module | what |
//! |---|---|
//! | [`framing`] | bytes of a stream to whole messages, every length bounded |
//! | [`startup`] | what a client sends before the first ordinary message |
//! | [`frontend`] | decodes what a client sends |
//! | [`backend`] | encodes what a server sends |
//! | [`client`] | the other direction: encodes what a client sends, decodes what a server sends |
//! | [`replication`] | replication commands, their result sets, the payloads of the copy-both stream |
//! | [`conninfo`] | libpq's connection strings |
//! | [`scram`] | SCRAM-SHA-256, both sides, and what a server keeps of a password |
//! | [`hba`], [`passfile`] | who is let in and how; where a client finds its password |
//! | [`error`], [`sqlstate`], [`types`] | the report of an error, its codes, the types of result columns |
//!
//! Invariants: nothing a peer sends is a panic; everything wrong with it is an [`error::ErrorResponse`] in
//! PostgreSQL's words; no buffer grows by what a peer announces, only by what it really sent.

#![forbid(unsafe_code)]

pub mod backend;
mod body;
pub mod client;
pub mod conninfo;
pub mod error;
pub mod framing;
pub mod frontend;
pub mod hba;
pub mod passfile;
pub mod replication;
pub mod scram;
pub mod sqlstate;
pub mod startup;
pub mod types;
