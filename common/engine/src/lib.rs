//! The tables: SQLite, executed once, captured, put.
