//! One table of settings, under PostgreSQL's names.
//!
//! `table` has a row per setting and yields both the rows that SHOW and pg_settings read and the typed
//! [`table::Settings`] that the processes read. A process start does
//!
//! ```
//! let flags = vec![settings::conf::parse_flag("wal_sender_timeout=4s").unwrap()];
//! let settings = settings::Settings::load("port = 5440\nwal_writer_delay = '200ms'", &flags).unwrap();
//! assert_eq!(settings.wal_sender_timeout, Some(std::time::Duration::from_secs(4)));
//! assert_eq!(settings.show("wal_sender_timeout").unwrap(), "4s");
//! ```
//!
//! A reload makes the next settings of these ([`Settings::reload`]), and a session lays its own SETs over them with
//! [`session::SessionSettings`]. The crate is pure: it opens no file and asks no clock. To add a setting, add one row in
//! `table`; nothing else lists names.
//!
//! Invariant: a `Settings` holds only values that its table accepts; what a file, a flag or a client says is
//! checked once, here, and refused with PostgreSQL's message and SQLSTATE.

#![forbid(unsafe_code)]

pub mod auto_conf;
pub mod conf;
pub mod copied;
pub mod edit;
pub mod error;
pub mod file;
pub mod reload;
pub mod secret;
pub mod session;
pub mod sync_standbys;
pub mod table;
pub mod value;

/// The typed settings; see [`table::Settings`].
pub use table::Settings;
/// The rows; see [`table::TABLE`].
pub use table::TABLE;
