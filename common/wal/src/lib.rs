//! The write-ahead log as bytes, in the format of PostgreSQL 15.
//!
//! Why: every other part of Walship (insertion, walsender, walreceiver, recovery, promotion) speaks of positions,
//! records, pages and segments. Here is the one place that knows how they look, so that `pg_waldump` and
//! `pg_receivewal` of PostgreSQL 15 read what we write and we read what PostgreSQL 15 writes.
//!
//! How to use it: an inserter makes a [`record::RecordBody`], asks [`layout::place`] where its bytes go, seals it with
//! the position of the previous record and copies the chunks. Whoever reads goes through [`reader::WalReader`] over a
//! [`reader::PageSource`], most often [`source::StoreSource`] over a [`store::SegmentStore`].
//!
//! Invariants: everything but [`store`] and [`source`] is pure (no clock, no files). Bytes that come from a disk or a
//! peer are never a panic: they are an error that says what is wrong and where. All integers are little-endian.

#![forbid(unsafe_code)]

pub mod beyond;
pub mod history;
pub mod last_record;
pub mod layout;
pub mod logical_message;
pub mod lsn;
pub mod page;
pub mod reader;
pub mod record;
pub mod segment;
pub mod source;
pub mod store;
pub mod timeline;
pub mod timestamp;
pub mod xact;
pub mod xlog;
