//! What a table's rows look like to the log: which columns they have and what identifies them.
//!
//! Loaded by the writer, all tables at once, whenever the schema may have changed: SQLite's hook must not prepare
//! anything, so everything it needs has to be there before a statement runs.

use std::collections::HashMap;
use std::rc::Rc;

use wal::lsn::Lsn;

use crate::change::Value;
use crate::error::{SqlError, SqlState};
use crate::ffi::{Db, RawError};
use crate::roles::{MEMBERS_VIEW, ROLES_TABLE, ROLES_VIEW};

/// Holds the applied LSN; created with the file, refused to clients.
pub(crate) const APPLIED_TABLE: &str = "walship_applied";

/// The LSN that the rows of `db` were applied up to, as the present transaction sees them.
pub(crate) fn applied_lsn(db: &Db) -> Result<Lsn, RawError> {
    let mut statement = db.prepare_own(&format!("SELECT lsn FROM {APPLIED_TABLE}"))?;
    statement.step()?;
    Ok(match statement.column(0) {
        Value::Integer(lsn) => Lsn(lsn.cast_unsigned()),
        _ => Lsn::INVALID,
    })
}

/// Beginnings of names that clients can't give: what the server may add to itself later.
const RESERVED_PREFIXES: &[&str] = &["walship_", "pg_"];

/// How a row is found again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowKey {
    /// By rowid, under a name that means it in this table.
    Rowid(String),
    /// By primary key (WITHOUT ROWID): indexes into `columns`, in the key's order.
    Primary(Vec<usize>),
}

/// A table as its rows appear in records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableShape {
    pub(crate) name: String,
    /// Stored columns in the table's order, without generated ones and without the rowid's own name.
    pub(crate) columns: Vec<ShapeColumn>,
    pub(crate) key: RowKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShapeColumn {
    pub(crate) name: String,
    /// SQLite's number of it in the table
    pub(crate) number: usize,
}

/// All tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shapes {
    tables: HashMap<String, Rc<TableShape>>,
    /// Whether sqlite_sequence exists: some table is or was AUTOINCREMENT.
    pub(crate) has_sequences: bool,
}

impl Shapes {
    pub(crate) fn table(&self, name: &str) -> Option<&Rc<TableShape>> {
        self.tables.get(name)
    }

    /// Reads the schema; refuses tables that can't be captured and names that are not a client's to give.
    pub(crate) fn load(db: &Db) -> Result<Shapes, ShapeError> {
        check_names(db)?;
        let mut shapes = Shapes::default();
        let mut statement = db.prepare_own(COLUMNS)?;
        let mut columns: Vec<RawColumn> = Vec::new();
        while statement.step()? {
            let table = text(statement.column(0));
            if columns.first().is_some_and(|first| first.table != table) {
                shapes.add(&std::mem::take(&mut columns))?;
            }
            columns.push(RawColumn {
                table,
                without_rowid: statement.column(1) == Value::Integer(1),
                has_key_index: statement.column(2) != Value::Integer(0),
                number: number(statement.column(3)),
                name: text(statement.column(4)),
                key_position: number(statement.column(5)),
                generated: statement.column(6) != Value::Integer(0),
            });
        }
        shapes.add(&columns)?;
        Ok(shapes)
    }

    fn add(&mut self, columns: &[RawColumn]) -> Result<(), ShapeError> {
        let Some(first) = columns.first() else { return Ok(()) };
        if first.table == "sqlite_sequence" {
            self.has_sequences = true;
        }
        if first.table.starts_with("sqlite_") || first.table == APPLIED_TABLE {
            return Ok(());
        }
        let shape = shape_of(columns)?;
        self.tables.insert(shape.name.clone(), Rc::new(shape));
        Ok(())
    }
}

/// All columns of all tables: table, WITHOUT ROWID?, number of indexes made for a primary key, column number, name,
/// place in the primary key from 1 (0: none), hidden (2 and 3: generated).
const COLUMNS: &str = "SELECT l.name, l.wr, \
    (SELECT count(*) FROM pragma_index_list(l.name, 'main') AS i WHERE i.origin = 'pk'), \
    x.cid, x.name, x.pk, x.hidden \
    FROM pragma_table_list AS l, pragma_table_xinfo(l.name, 'main') AS x \
    WHERE l.schema = 'main' AND l.type = 'table' ORDER BY l.name, x.cid";

struct RawColumn {
    table: String,
    without_rowid: bool,
    has_key_index: bool,
    number: usize,
    name: String,
    key_position: usize,
    generated: bool,
}

/// Why the schema can't be had.
#[derive(Debug)]
pub(crate) enum ShapeError {
    Refused(SqlError),
    Failed(RawError),
}

impl From<RawError> for ShapeError {
    fn from(error: RawError) -> ShapeError {
        ShapeError::Failed(error)
    }
}

fn shape_of(all: &[RawColumn]) -> Result<TableShape, ShapeError> {
    let name = all[0].table.clone();
    let in_key: Vec<&RawColumn> = all.iter().filter(|column| column.key_position > 0).collect();
    // A primary key without an index of its own is the rowid under another name. (The type alone doesn't tell:
    // INTEGER PRIMARY KEY DESC is an ordinary column.)
    let alias = match in_key[..] {
        [only] if !only.without_rowid && !only.has_key_index => Some(only),
        _ => None,
    };
    let columns: Vec<ShapeColumn> = all
        .iter()
        .filter(|column| !column.generated && alias.is_none_or(|alias| alias.number != column.number))
        .map(|column| ShapeColumn { name: column.name.clone(), number: column.number })
        .collect();
    let key = if all[0].without_rowid {
        let mut key: Vec<(usize, usize)> = in_key
            .iter()
            .filter_map(|column| {
                let at = columns.iter().position(|stored| stored.number == column.number)?;
                Some((column.key_position, at))
            })
            .collect();
        key.sort_unstable();
        RowKey::Primary(key.into_iter().map(|(_, at)| at).collect())
    } else {
        RowKey::Rowid(match alias {
            Some(alias) => alias.name.clone(),
            None => free_rowid_name(all)?.to_owned(),
        })
    };
    Ok(TableShape { name, columns, key })
}

/// A name for the rowid that no column of the table has taken.
fn free_rowid_name(all: &[RawColumn]) -> Result<&'static str, ShapeError> {
    let taken = |name: &&str| all.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name)).ok_or_else(|| {
        ShapeError::Refused(SqlError::unsupported(
            &format!("table \"{}\" with columns named rowid, _rowid_ and oid", all[0].table),
            "Give one of them another name, or an INTEGER PRIMARY KEY.",
        ))
    })
}

fn check_names(db: &Db) -> Result<(), ShapeError> {
    let mut statement = db.prepare_own("SELECT name, sql FROM sqlite_schema")?;
    while statement.step()? {
        let name = text(statement.column(0)).to_ascii_lowercase();
        let reserved = RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let ours = [APPLIED_TABLE, ROLES_TABLE, ROLES_VIEW, MEMBERS_VIEW];
        if reserved && !ours.contains(&name.as_str()) {
            return Err(ShapeError::Refused(
                SqlError::new(SqlState::RESERVED_NAME, format!("unacceptable relation name \"{name}\""))
                    .with_detail("The prefixes \"pg_\" and \"walship_\" are reserved for system relations."),
            ));
        }
    }
    Ok(())
}

fn text(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    }
}

fn number(value: Value<'_>) -> usize {
    match value {
        Value::Integer(number) => usize::try_from(number).unwrap_or(0),
        _ => 0,
    }
}

/// An identifier as SQL text.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
