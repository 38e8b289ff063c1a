//! PostgreSQL's types as far as clients see them, and how SQLite's declared types and storage classes become them.

/// A type of PostgreSQL that result columns can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// bool, an integer inside
    Bool,
    /// bytea
    Bytea,
    /// name
    Name,
    /// int8
    Int8,
    /// int2
    Int2,
    /// int4
    Int4,
    /// text
    Text,
    /// oid
    Oid,
    /// xid
    Xid,
    /// float4
    Float4,
    /// float8
    Float8,
    /// inet
    Inet,
    /// varchar
    Varchar,
    /// date
    Date,
    /// time
    Time,
    /// timestamp
    Timestamp,
    /// timestamptz
    Timestamptz,
    /// interval
    Interval,
    /// numeric
    Numeric,
    /// record, what a function returns that has several results
    Record,
    /// void, what pg_sleep() returns
    Void,
    /// uuid
    Uuid,
    /// pg_lsn
    PgLsn,
    /// json
    Json,
}

/// (type, oid, typlen, the names it is known under; the first is format_type's internal one)
const TYPES: &[(Type, u32, i16, &[&str])] = &[
    (Type::Bool, 16, 1, &["bool", "boolean"]),
    (Type::Bytea, 17, -1, &["bytea", "blob"]),
    (Type::Name, 19, 64, &["name"]),
    (Type::Int8, 20, 8, &["int8", "bigint", "integer", "int", "bigserial", "serial"]),
    (Type::Int2, 21, 2, &["int2", "smallint"]),
    (Type::Int4, 23, 4, &["int4"]),
    (Type::Text, 25, -1, &["text", "clob"]),
    (Type::Oid, 26, 4, &["oid"]),
    (Type::Xid, 28, 4, &["xid"]),
    (Type::Float4, 700, 4, &["float4"]),
    (Type::Float8, 701, 8, &["float8", "double precision", "double", "real", "float"]),
    (Type::Inet, 869, -1, &["inet"]),
    (Type::Varchar, 1043, -1, &["varchar", "character varying", "char", "character", "bpchar"]),
    (Type::Date, 1082, 4, &["date"]),
    (Type::Time, 1083, 8, &["time", "time without time zone"]),
    (Type::Timestamp, 1114, 8, &["timestamp", "timestamp without time zone", "datetime"]),
    (Type::Timestamptz, 1184, 8, &["timestamptz", "timestamp with time zone"]),
    (Type::Interval, 1186, 16, &["interval"]),
    (Type::Numeric, 1700, -1, &["numeric", "decimal"]),
    (Type::Record, 2249, -1, &["record"]),
    (Type::Void, 2278, 4, &["void"]),
    (Type::Uuid, 2950, 16, &["uuid"]),
    (Type::PgLsn, 3220, 8, &["pg_lsn"]),
    (Type::Json, 114, -1, &["json", "jsonb"]),
];

impl Type {
    fn row(self) -> &'static (Type, u32, i16, &'static [&'static str]) {
        TYPES.iter().find(|row| row.0 == self).expect("every type has its row")
    }

    /// The type's oid in pg_type.
    pub fn oid(self) -> u32 {
        self.row().1
    }

    /// Its size as pg_type has it; -1 for variable length.
    pub fn typlen(self) -> i16 {
        self.row().2
    }

    /// Its short name, as a column of an unnamed cast is called.
    pub fn name(self) -> &'static str {
        self.row().3[0]
    }

    /// A number from 1 on, carried by SQLite as the subtype of what a function returns.
    pub(crate) fn subtype(self) -> u8 {
        let at = TYPES.iter().position(|row| row.0 == self).expect("every type has its row");
        u8::try_from(at + 1).expect("fewer than 256 types")
    }

    /// The type of such a number.
    pub(crate) fn from_subtype(subtype: u8) -> Option<Type> {
        TYPES.get(usize::from(subtype).checked_sub(1)?).map(|row| row.0)
    }

    /// The type of a name, in any case and with any `(n)` behind it; `None` for a name that is none of ours.
    pub fn from_name(name: &str) -> Option<Type> {
        let bare = name.split('(').next().unwrap_or_default().trim();
        TYPES.iter().find(|row| row.3.iter().any(|known| known.eq_ignore_ascii_case(bare))).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Type;

    #[test]
    fn type_names_in_any_case_are_found() {
        assert_eq!(Type::from_name("BOOLEAN"), Some(Type::Bool));
        assert_eq!(Type::from_name("VarChar(20)"), Some(Type::Varchar));
        assert_eq!(Type::from_name("double precision"), Some(Type::Float8));
        assert_eq!(Type::from_name("geometry"), None);
        assert_eq!((Type::PgLsn.oid(), Type::PgLsn.typlen()), (3220, 8));
    }
}
