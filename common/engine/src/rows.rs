//! Rows on their way to a client, as text, whoever runs the statement.
//!
//! [`RowSink`] is called in this order for each statement: `columns` once if it returns rows, `row` for each, then
//! `complete`. A sink that returns an error ends the statement with it.

use std::fmt;

use crate::error::{SqlError, SqlState};
use crate::types::Type;

/// A result column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// What the client calls it.
    pub name: String,
    /// Its type; the values are that type's text.
    pub ty: Type,
}

/// PostgreSQL's command tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandTag {
    /// `INSERT 0 n`
    Insert(u64),
    /// `UPDATE n`
    Update(u64),
    /// `DELETE n`
    Delete(u64),
    /// `SELECT n`
    Select(u64),
    /// A command whose tag carries no number, as `CREATE TABLE`.
    Plain(&'static str),
}

impl CommandTag {
    /// The tag without its numbers: the verb of 25006's message.
    pub fn verb(self) -> &'static str {
        match self {
            CommandTag::Insert(_) => "INSERT",
            CommandTag::Update(_) => "UPDATE",
            CommandTag::Delete(_) => "DELETE",
            CommandTag::Select(_) => "SELECT",
            CommandTag::Plain(verb) => verb,
        }
    }

    /// The same tag with a number of rows, where it carries one.
    pub fn with_rows(self, rows: u64) -> CommandTag {
        match self {
            CommandTag::Insert(_) => CommandTag::Insert(rows),
            CommandTag::Update(_) => CommandTag::Update(rows),
            CommandTag::Delete(_) => CommandTag::Delete(rows),
            CommandTag::Select(_) => CommandTag::Select(rows),
            plain @ CommandTag::Plain(_) => plain,
        }
    }
}

impl fmt::Display for CommandTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandTag::Insert(rows) => write!(f, "INSERT 0 {rows}"),
            CommandTag::Update(rows) | CommandTag::Delete(rows) | CommandTag::Select(rows) => {
                write!(f, "{} {rows}", self.verb())
            }
            CommandTag::Plain(verb) => f.write_str(verb),
        }
    }
}

/// One row's values as text, reused from row to row; `None` is NULL.
#[derive(Debug, Default)]
pub struct Row {
    text: Vec<u8>,
    /// End of each value in `text`, and whether it is NULL.
    ends: Vec<(usize, bool)>,
}

impl Row {
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    pub(crate) fn push_null(&mut self) {
        self.ends.push((self.text.len(), true));
    }

    /// Appends a value that `write` prints.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.text);
        self.ends.push((self.text.len(), false));
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the row has no columns (`SELECT` of nothing cannot be written in SQLite, so never after a query).
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all values together.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The values from left to right.
    pub fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, null)| {
            let value = &self.text[start..end];
            start = end;
            (!null).then_some(value)
        })
    }
}

/// Who takes a statement's rows.
pub trait RowSink {
    /// The columns, before the first row.
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError>;
    /// The next row.
    fn row(&mut self, row: &Row) -> Result<(), SqlError>;
    /// The statement's end. (That a request as a whole has succeeded is known only when it returns.)
    fn complete(&mut self, tag: CommandTag) -> Result<(), SqlError>;
}

/// What one statement returned, see [`CollectRows`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatementRows {
    /// Empty for a statement without rows.
    pub columns: Vec<Column>,
    /// Values as text.
    pub rows: Vec<Vec<Option<String>>>,
    /// `None` when the statement didn't end.
    pub tag: Option<CommandTag>,
}

/// A sink that keeps everything, up to a limit of bytes (54000 beyond it).
#[derive(Debug)]
pub struct CollectRows {
    /// One element per statement.
    pub statements: Vec<StatementRows>,
    bytes: usize,
    bytes_max: usize,
    open: bool,
}

impl CollectRows {
    /// Keeps at most `bytes_max` bytes of values.
    pub fn new(bytes_max: usize) -> CollectRows {
        CollectRows { statements: Vec::new(), bytes: 0, bytes_max, open: false }
    }

    fn current(&mut self) -> &mut StatementRows {
        if !self.open {
            self.statements.push(StatementRows::default());
            self.open = true;
        }
        self.statements.last_mut().expect("pushed just now")
    }
}

impl RowSink for CollectRows {
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        self.current().columns = columns.to_vec();
        Ok(())
    }

    fn row(&mut self, row: &Row) -> Result<(), SqlError> {
        self.bytes += row.bytes();
        if self.bytes > self.bytes_max {
            return Err(rows_exceed(self.bytes_max));
        }
        let values = row.values().map(|v| v.map(|v| String::from_utf8_lossy(v).into_owned())).collect();
        self.current().rows.push(values);
        Ok(())
    }

    fn complete(&mut self, tag: CommandTag) -> Result<(), SqlError> {
        self.current().tag = Some(tag);
        self.open = false;
        Ok(())
    }
}

/// 54000: the rows that a write returns are more than its answer can carry.
pub fn rows_exceed(bytes_max: usize) -> SqlError {
    SqlError::new(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("rows returned by a write exceed the limit of {bytes_max} bytes"),
    )
    .with_hint("Return fewer rows or columns, or read them afterwards.")
}
