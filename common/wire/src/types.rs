//! The types of result columns: PostgreSQL's object ids and lengths.
//!
//! Clients pick their conversion by the object id. All values travel as text. Follows PostgreSQL 15
//! src/include/catalog/pg_type.dat.

/// A type as a row description names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type {
    /// Object id in `pg_type`.
    pub oid: u32,
    /// Length in bytes of the binary form; negative when it varies.
    pub length: i16,
}

const fn fixed(oid: u32, length: i16) -> Type {
    Type { oid, length }
}

const fn varying(oid: u32) -> Type {
    Type { oid, length: -1 }
}

/// `boolean`; in text `t` or `f`.
pub const BOOL: Type = fixed(16, 1);
/// `bytea`; in text `\x` and hexadecimal digits.
pub const BYTEA: Type = varying(17);
/// `name`.
pub const NAME: Type = fixed(19, 64);
/// `bigint`.
pub const INT8: Type = fixed(20, 8);
/// `integer`.
pub const INT4: Type = fixed(23, 4);
/// `text`.
pub const TEXT: Type = varying(25);
/// `oid`.
pub const OID: Type = fixed(26, 4);
/// `xid`.
pub const XID: Type = fixed(28, 4);
/// `double precision`.
pub const FLOAT8: Type = fixed(701, 8);
/// `inet`.
pub const INET: Type = varying(869);
/// `timestamp with time zone`.
pub const TIMESTAMPTZ: Type = fixed(1184, 8);
/// `interval`.
pub const INTERVAL: Type = fixed(1186, 16);
/// `numeric`.
pub const NUMERIC: Type = varying(1700);
/// `pg_lsn`; in text `X/X`.
pub const PG_LSN: Type = fixed(3220, 8);
