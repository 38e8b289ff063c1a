//! Puts the rows of a record into the tables: no statement of a client's runs, no trigger, no foreign key, no check.
//!
//! Each row has to fit: an insert finds its place empty, an update and a delete find their row. Anything else means that
//! the tables are not those that the record was made from.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rusqlite::ffi;

use crate::change::{Item, Items, Value};
use crate::error_map::own_error;
use crate::ffi::statement::Statement;
use crate::ffi::{Db, RawError};
use crate::roles::ROLES_TABLE;
use crate::schema::{RowKey, ShapeError, Shapes, TableShape, quoted};
use crate::writer::PutError;

/// Statements for the tables seen so far; they stay as long as the schema does.
#[derive(Debug, Default)]
pub(crate) struct Putter {
    shapes: Option<Rc<Shapes>>,
    tables: HashMap<String, Rc<RefCell<PutTable>>>,
    /// A row of the table of roles was among what was put.
    roles_put: bool,
}

#[derive(Debug)]
struct PutTable {
    shape: Rc<TableShape>,
    insert: Statement,
    /// `None` when the row is nothing but its rowid.
    update: Option<Statement>,
    /// Changes the rowid too; only for tables that have one.
    relocate: Option<Statement>,
    delete: Statement,
}

impl Putter {
    pub(crate) fn new() -> Putter {
        Putter::default()
    }

    /// Whether roles were put since this was asked last.
    pub(crate) fn take_roles_put(&mut self) -> bool {
        std::mem::take(&mut self.roles_put)
    }

    /// The schema changed behind its back.
    pub(crate) fn forget(&mut self) {
        self.shapes = None;
        self.tables.clear();
    }

    /// Puts all items of a record.
    pub(crate) fn put(&mut self, db: &Db, mut items: Items<'_>) -> Result<(), PutError> {
        let mut values = Vec::new();
        let mut numbered: Vec<Rc<RefCell<PutTable>>> = Vec::new();
        let mut current: Option<Rc<RefCell<PutTable>>> = None;
        while let Some(item) =
            items.next(&mut values).map_err(|error| PutError::Malformed(error.to_string()))?
        {
            match item {
                Item::Table(name) => {
                    self.roles_put |= name == ROLES_TABLE;
                    let table = self.table(db, name)?;
                    numbered.push(Rc::clone(&table));
                    current = Some(table);
                }
                Item::Use(number) => {
                    let table = usize::try_from(number).ok().and_then(|number| numbered.get(number));
                    let table = table.ok_or_else(|| malformed("a table number that was not given"))?;
                    current = Some(Rc::clone(table));
                }
                Item::Ddl(sql) => {
                    self.forget();
                    numbered.clear();
                    current = None;
                    db.execute(sql).map_err(|error| put_error(&error, || shorten(sql)))?;
                }
                Item::Sequence { table, last } => put_sequence(db, table, last)?,
                row => {
                    let table = current.as_ref().ok_or_else(|| malformed("a row before its table"))?;
                    table.borrow_mut().put(db, row, &mut values)?;
                }
            }
        }
        Ok(())
    }

    fn table(&mut self, db: &Db, name: &str) -> Result<Rc<RefCell<PutTable>>, PutError> {
        if let Some(table) = self.tables.get(name) {
            return Ok(Rc::clone(table));
        }
        let shapes = match &self.shapes {
            Some(shapes) => Rc::clone(shapes),
            None => {
                let loaded = Shapes::load(db).map_err(|error| match error {
                    ShapeError::Failed(raw) => PutError::Failed(own_error(&raw)),
                    ShapeError::Refused(error) => PutError::Diverged { found: error.message },
                })?;
                Rc::clone(self.shapes.insert(Rc::new(loaded)))
            }
        };
        let shape =
            shapes.table(name).ok_or_else(|| PutError::Diverged { found: format!("no table \"{name}\"") })?;
        let table = PutTable::prepare(db, Rc::clone(shape))
            .map_err(|error| put_error(&error, || format!("preparing for table \"{name}\"")))?;
        let table = Rc::new(RefCell::new(table));
        self.tables.insert(name.to_owned(), Rc::clone(&table));
        Ok(table)
    }
}

impl PutTable {
    fn prepare(db: &Db, shape: Rc<TableShape>) -> Result<PutTable, RawError> {
        let table = quoted(&shape.name);
        let columns: Vec<String> = shape.columns.iter().map(|column| quoted(&column.name)).collect();
        // ?1 … are the values as they stand in the record; a rowid table's rowids follow: ?n+1 old or only, ?n+2 new.
        let after = columns.len() + 1;
        Ok(match &shape.key {
            RowKey::Rowid(rowid) => {
                let rowid = quoted(rowid);
                let sets = assignments(&columns, 1);
                let places = (1..=after).map(|at| format!("?{at}")).collect::<Vec<_>>().join(", ");
                let names = columns.iter().cloned().chain([rowid.clone()]).collect::<Vec<_>>().join(", ");
                let moved = [sets.clone(), vec![format!("{rowid} = ?{}", after + 1)]].concat().join(", ");
                let update = format!("UPDATE {table} SET {} WHERE {rowid} = ?{after}", sets.join(", "));
                PutTable {
                    insert: db.prepare_own(&format!("INSERT INTO {table} ({names}) VALUES ({places})"))?,
                    update: if columns.is_empty() { None } else { Some(db.prepare_own(&update)?) },
                    relocate: Some(
                        db.prepare_own(&format!("UPDATE {table} SET {moved} WHERE {rowid} = ?{after}"))?,
                    ),
                    delete: db.prepare_own(&format!("DELETE FROM {table} WHERE {rowid} = ?1"))?,
                    shape,
                }
            }
            RowKey::Primary(key) => {
                let names = columns.join(", ");
                let places = (1..after).map(|at| format!("?{at}")).collect::<Vec<_>>().join(", ");
                let is_row: Vec<String> = key
                    .iter()
                    .enumerate()
                    .map(|(at, &column)| format!("{} = ?{}", columns[column], at + 1))
                    .collect();
                let is_row = is_row.join(" AND ");
                let sets = assignments(&columns, key.len() + 1).join(", ");
                PutTable {
                    insert: db.prepare_own(&format!("INSERT INTO {table} ({names}) VALUES ({places})"))?,
                    update: Some(db.prepare_own(&format!("UPDATE {table} SET {sets} WHERE {is_row}"))?),
                    relocate: None,
                    delete: db.prepare_own(&format!("DELETE FROM {table} WHERE {is_row}"))?,
                    shape,
                }
            }
        })
    }

    fn put(&mut self, db: &Db, item: Item<'_>, values: &mut Vec<Value<'_>>) -> Result<(), PutError> {
        let row = self.shape.columns.len();
        let key = match &self.shape.key {
            RowKey::Rowid(_) => None,
            RowKey::Primary(key) => Some(key.len()),
        };
        let (statement, count) = match (item, key) {
            (Item::Insert(rowid), None) => {
                values.push(Value::Integer(rowid));
                (Some(&mut self.insert), row + 1)
            }
            (Item::Update { from, to }, None) => {
                values.push(Value::Integer(from));
                let statement = if from == to && self.update.is_some() {
                    self.update.as_mut()
                } else {
                    values.push(Value::Integer(to));
                    self.relocate.as_mut()
                };
                let count = if from == to && row > 0 { row + 1 } else { row + 2 };
                (statement, count)
            }
            (Item::Delete(rowid), None) => {
                values.push(Value::Integer(rowid));
                (Some(&mut self.delete), 1)
            }
            (Item::InsertKeyed, Some(_)) => (Some(&mut self.insert), row),
            (Item::UpdateKeyed, Some(key)) => (self.update.as_mut(), key + row),
            (Item::DeleteKeyed, Some(key)) => (Some(&mut self.delete), key),
            _ => (None, 0),
        };
        let Some(statement) = statement.filter(|_| values.len() == count) else {
            let found = format!("{item:?} doesn't fit table \"{}\"", self.shape.name);
            return Err(PutError::Diverged { found });
        };
        let what = || format!("{item:?} in table \"{}\"", self.shape.name);
        statement.run(values).map_err(|error| put_error(&error, what))?;
        match db.changes() {
            1 => Ok(()),
            found => Err(PutError::Diverged { found: format!("{} found {found} rows", what()) }),
        }
    }
}

/// `"a" = ?first, "b" = ?first+1, …`
fn assignments(columns: &[String], first: usize) -> Vec<String> {
    columns.iter().enumerate().map(|(at, column)| format!("{column} = ?{}", first + at)).collect()
}

fn put_sequence(db: &Db, table: &str, last: Option<i64>) -> Result<(), PutError> {
    let what = || format!("sequence of table \"{table}\"");
    let name = Value::Text(table.as_bytes());
    let run = |sql: &str, parameters: &[Value<'_>]| -> Result<u64, PutError> {
        let mut statement = db.prepare_own(sql).map_err(|error| put_error(&error, what))?;
        statement.run(parameters).map_err(|error| put_error(&error, what))?;
        Ok(db.changes())
    };
    match last {
        None => run("DELETE FROM sqlite_sequence WHERE name = ?1", &[name])?,
        Some(last) => {
            let last = Value::Integer(last);
            match run("UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1", &[name, last])? {
                0 => run("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", &[name, last])?,
                updated => updated,
            }
        }
    };
    Ok(())
}

fn malformed(what: &str) -> PutError {
    PutError::Malformed(format!("change record has {what}"))
}

/// What the tables say is a divergence, what the machine says is not.
fn put_error(raw: &RawError, what: impl FnOnce() -> String) -> PutError {
    match raw.primary_code() {
        ffi::SQLITE_CONSTRAINT | ffi::SQLITE_ERROR | ffi::SQLITE_MISMATCH => {
            PutError::Diverged { found: format!("{}: {}", what(), raw.message) }
        }
        _ => PutError::Failed(own_error(raw)),
    }
}

fn shorten(sql: &str) -> String {
    let start: String = sql.chars().take(80).collect();
    format!("statement \"{start}\"")
}
