//! The write-ahead log as bytes, in the format of PostgreSQL 15.
