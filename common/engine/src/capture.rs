//! Writes the rows that SQLite's hook shows into a record, while the statement runs.
//!
//! What the hook doesn't show is added by the writer: DDL as its text, sqlite_sequence by comparing. Tables of SQLite's
//! own (statistics, sequences, the schema) are left out here: every node makes the same ones from the rest.

use std::mem;
use std::rc::Rc;

use crate::change::{Item, RecordBuilder};
use crate::error::{SqlError, SqlState};
use crate::ffi::hooks::{Operation, RowChange};
use crate::schema::{RowKey, Shapes, TableShape};

/// The record under way.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    on: bool,
    builder: RecordBuilder,
    shapes: Rc<Shapes>,
    /// Tables of this record by their number in it.
    numbered: Vec<Rc<TableShape>>,
    /// Number of the table that the last item named.
    current: Option<usize>,
    record_size_max: usize,
    failure: Option<SqlError>,
}

impl Capture {
    pub(crate) fn new() -> Capture {
        Capture::default()
    }

    /// From here on rows are written down.
    pub(crate) fn start(&mut self, shapes: Rc<Shapes>, record_size_max: usize) {
        self.on = true;
        self.shapes = shapes;
        self.record_size_max = record_size_max;
        self.builder.clear();
        self.failure = None;
        self.renumber();
    }

    /// No more rows; what was written down is forgotten.
    pub(crate) fn stop(&mut self) {
        self.on = false;
        self.builder.clear();
        self.failure = None;
    }

    /// No more rows; gives the record, empty if nothing happened.
    pub(crate) fn finish(&mut self, rows_affected: u64) -> Vec<u8> {
        self.on = false;
        self.builder.finish(rows_affected)
    }

    /// Why the record can't be completed, if so: the request has to fail.
    pub(crate) fn failure(&self) -> Option<&SqlError> {
        self.failure.as_ref()
    }

    /// A statement changed the schema. Tables are numbered anew behind it, as their names may mean others now.
    pub(crate) fn ddl(&mut self, sql: &str, shapes: Rc<Shapes>) {
        self.builder.item(Item::Ddl(sql));
        self.shapes = shapes;
        self.renumber();
        self.check_size();
    }

    /// AUTOINCREMENT's number of a table changed.
    pub(crate) fn sequence(&mut self, table: &str, last: Option<i64>) {
        self.builder.item(Item::Sequence { table, last });
    }

    fn renumber(&mut self) {
        self.numbered.clear();
        self.current = None;
    }

    /// SQLite's hook: a row is about to change.
    pub(crate) fn row_changes(&mut self, change: &RowChange<'_>) {
        if !self.on || self.failure.is_some() || change.table.starts_with("sqlite_") {
            return;
        }
        let Some(number) = self.name_table(change.table) else { return };
        let shape = Rc::clone(&self.numbered[number]);
        let written = match &shape.key {
            RowKey::Rowid(_) => self.rowid_row(&shape, change),
            RowKey::Primary(key) => self.keyed_row(&shape, key, change),
        };
        if written.is_none() {
            self.failure.get_or_insert_with(|| SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory"));
        }
        self.check_size();
    }

    fn rowid_row(&mut self, shape: &TableShape, change: &RowChange<'_>) -> Option<()> {
        let item = match change.operation {
            Operation::Insert => Item::Insert(change.rowid),
            Operation::Update => Item::Update { from: change.rowid, to: change.rowid_after },
            Operation::Delete => {
                self.builder.item(Item::Delete(change.rowid));
                return Some(());
            }
        };
        self.builder.item(item);
        self.builder.value_count(shape.columns.len());
        self.new_row(shape, change)
    }

    fn keyed_row(&mut self, shape: &TableShape, key: &[usize], change: &RowChange<'_>) -> Option<()> {
        let row = shape.columns.len();
        let (item, old, new) = match change.operation {
            Operation::Insert => (Item::InsertKeyed, 0, row),
            Operation::Update => (Item::UpdateKeyed, key.len(), row),
            Operation::Delete => (Item::DeleteKeyed, key.len(), 0),
        };
        self.builder.item(item);
        self.builder.value_count(old + new);
        for &at in &key[..old] {
            self.builder.value(change.before(shape.columns[at].number)?);
        }
        if new > 0 {
            self.new_row(shape, change)?;
        }
        Some(())
    }

    fn new_row(&mut self, shape: &TableShape, change: &RowChange<'_>) -> Option<()> {
        for column in &shape.columns {
            self.builder.value(change.after(column.number)?);
        }
        Some(())
    }

    /// Makes the table the current one of the record; its number there.
    fn name_table(&mut self, name: &str) -> Option<usize> {
        if let Some(current) = self.current
            && self.numbered[current].name == name
        {
            return Some(current);
        }
        let number = match self.numbered.iter().position(|shape| shape.name == name) {
            Some(number) => {
                self.builder.item(Item::Use(u32::try_from(number).expect("fewer tables than 2^32")));
                number
            }
            None => {
                let Some(shape) = self.shapes.table(name) else {
                    let why = format!("table \"{name}\" is not known to the log");
                    self.failure.get_or_insert(SqlError::new(SqlState::INTERNAL_ERROR, why));
                    return None;
                };
                self.numbered.push(Rc::clone(shape));
                self.builder.item(Item::Table(name));
                self.numbered.len() - 1
            }
        };
        self.current = Some(number);
        Some(number)
    }

    fn check_size(&mut self) {
        if self.builder.len() > self.record_size_max && self.failure.is_none() {
            let max = self.record_size_max;
            self.failure = Some(
                SqlError::new(
                    SqlState::PROGRAM_LIMIT_EXCEEDED,
                    format!("changes of one transaction exceed the limit of {max} bytes"),
                )
                .with_hint("Split the write into several transactions."),
            );
            // Nothing of it will be logged: don't hold it while the statement is brought to its end.
            drop(mem::take(&mut self.builder));
        }
    }
}
