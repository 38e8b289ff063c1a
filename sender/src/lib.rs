//! All that a serving node does.
//!
//! This crate stands on all of `common/` and is used by `receiver`: a standby serves readers and replication clients
//! too, and a promoted standby writes. It holds the life of one write:
//!
//! 1. [`session`] reads the statement from the client and hands it to the startup process through [`requests`].
//! 2. [`startup`] (the one writer of the tables) executes it in a savepoint, captures what changed and logs that
//!    through [`xlog`] into the ring of [`wal_buffers`].
//! 3. Whoever needs it first flushes ([`xlog::Xlog::flush`]); the flush moves the horizon and sets the latches of
//!    the walsenders and of those who wait.
//! 4. [`startup`] answers the session, then commits the tables.
//! 5. [`notify`] carries what NOTIFY says from session to session, beside the log.
//! 6. [`sync_rep`] holds the horizon back until the synchronous standbys have the log, too.
//! 7. [`walsender`] sends what is flushed; [`walwriter`] flushes what nobody waits for; [`checkpointer`] bounds
//!    recovery and SQLite's own log; [`archiver`] hands complete segments to a command.
//!
//! Invariants:
//! - The tables never hold what is beyond the horizon, the log's durable part ([`xlog::WalCtl::horizon`]).
//! - Only the startup process opens the tables for writing (the checkpointer copies frames, never rows).
//! - Nothing here runs before `fork` in the postmaster except [`node`]'s set-up: no SQLite, no log file is open there.
#![forbid(unsafe_code)]

pub mod archive_status;
pub mod archiver;
pub mod backend_status;
pub mod base_backup;
mod buffered_socket;
pub mod checkpointer;
pub mod cli;
pub mod client;
pub mod configuration;
pub mod connection;
pub mod control;
pub mod datadir;
mod hand_over;
pub mod log;
pub mod log_waits;
pub mod memory_report;
pub mod node;
pub mod node_watch;
pub mod notify;
mod ordering;
mod quit_messages;
pub mod recovery_state;
pub mod reload_command;
pub mod replication_slots;
pub mod requests;
pub mod reserve;
pub mod restore_command;
pub mod run;
mod sealed_file;
pub mod session;
pub mod session_count;
mod shell_text;
pub mod startup;
pub mod status_command;
pub mod status_report;
mod sync;
pub mod sync_rep;
pub mod tail;
pub mod wait;
pub mod wal_buffers;
pub mod walreceiver_state;
pub mod walsender;
pub mod walwriter;
pub mod write_request;
pub mod xlog;
