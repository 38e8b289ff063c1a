//! The tables: SQLite, executed once, captured, put.
//!
//! A node keeps its clients' tables in one SQLite file that nothing but the log feeds. This crate is everything that
//! knows SQLite: how a write is executed and what it changed is captured ([`writer`], [`change`]), how the rows of a
//! record are put on another node, how a session reads ([`reader`]), which SQL is understood ([`sql`]) and PostgreSQL's
//! functions and views ([`catalog`]). It sees no socket, no clock, no shared memory: what it needs of them comes in
//! through [`control::Control`] and [`catalog::SystemInfo`].
//!
//! Invariants:
//! - A connection is opened after the fork, by the process that uses it, and never by the postmaster.
//! - What is not in the record doesn't change a table: a table whose rows SQLite's hook can't show is refused.
//! - `unsafe` stands in `ffi` alone.

#![deny(unsafe_code)]

pub mod applied;
mod authorizer;
pub mod backup;
mod capture;
pub mod catalog;
pub mod change;
pub mod checkpoint;
mod connection;
pub mod control;
pub mod error;
mod error_map;
mod ffi;
mod file_error;
mod functions;
mod kept;
mod put;
pub mod reader;
mod render;
pub mod roles;
pub mod rows;
mod run;
mod schema;
pub mod sql;
pub mod types;
pub mod writer;

pub use checkpoint::Checkpointer;
pub use control::Control;
pub use error::SqlError;
pub use ffi::memory_used;
pub use reader::Reader;
pub use writer::Writer;
