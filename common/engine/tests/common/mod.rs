//! A directory with tables, and the short ways to write, put and read them.

// Each test file uses its own part of this.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::catalog::{Function, SystemInfo, SystemValue, View};
use engine::change::{self, ChangeRecord};
use engine::control::Unstoppable;
use engine::error::SqlState;
use engine::reader::ReaderOptions;
use engine::roles::{Asker, Rights};
use engine::rows::{CollectRows, StatementRows};
use engine::writer::{Executed, PutError, WriteRequest, WriterOptions};
use engine::{Control, Reader, SqlError, Writer};
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;

/// A node that answers a few of the functions.
pub(crate) struct FakeSystem;

impl SystemInfo for FakeSystem {
    fn call(&self, function: Function, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        Ok(match function {
            Function::IsInRecovery => true.into(),
            Function::CurrentWalLsn => "0/3000060".into(),
            Function::BackendPid => 4711.into(),
            Function::Version => "PostgreSQL 15.20 (Walship)".into(),
            Function::CurrentUser => "postgres".into(),
            Function::Now => "2026-11-21 02:25:23.5+00".into(),
            Function::Sleep => "".into(),
            Function::TerminateBackend => (arguments[0] == SystemValue::Integer(1)).into(),
            other => {
                return Err(SqlError::new(SqlState::INTERNAL_ERROR, format!("{other:?} is not faked"))
                    .with_hint("A hint travels too."));
            }
        })
    }

    fn rows(&self, view: View) -> Result<Vec<Vec<SystemValue>>, SqlError> {
        let columns = view.row().columns.len();
        let mut row = vec![SystemValue::Null; columns];
        row[0] = match view {
            View::Settings => "work_mem".into(),
            _ => 7.into(),
        };
        if view == View::Settings {
            row[16] = false.into();
        }
        Ok(vec![row])
    }
}

pub(crate) struct Tables {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) writer: Writer,
    next_lsn: u64,
}

pub(crate) fn writer_options() -> WriterOptions {
    WriterOptions {
        busy_timeout: Duration::from_secs(5),
        value_size_max: 16 << 20,
        memory_max: 512 << 20,
        record_size_max: 64 << 20,
        system: Rc::new(FakeSystem),
    }
}

pub(crate) fn path_in(directory: &Path) -> PathBuf {
    directory.join("state.db")
}

impl Tables {
    pub(crate) fn new() -> Tables {
        Tables::with(&writer_options())
    }

    pub(crate) fn with(options: &WriterOptions) -> Tables {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(&path_in(directory.path()), options).unwrap();
        writer.begin().unwrap();
        Tables { directory, writer, next_lsn: 0 }
    }

    pub(crate) fn next_lsn(&mut self) -> Lsn {
        self.next_lsn += 8;
        Lsn(self.next_lsn)
    }

    /// Executes statements, as the session would send them, as one request.
    pub(crate) fn execute(&mut self, query: &str) -> Result<(Executed, Vec<StatementRows>), SqlError> {
        self.execute_controlled(query, &Unstoppable)
    }

    pub(crate) fn execute_controlled(
        &mut self,
        query: &str,
        control: &dyn Control,
    ) -> Result<(Executed, Vec<StatementRows>), SqlError> {
        let statements = engine::sql::parse(query)?;
        let request = WriteRequest {
            statements: statements.iter().map(|s| s.sql.clone().into_owned()).collect(),
            asker: Asker::superuser(),
        };
        let mut sink = CollectRows::new(1 << 20);
        let executed = self.writer.execute(&request, control, &mut sink)?;
        Ok((executed, sink.statements))
    }

    /// Executes what must succeed; gives the record.
    pub(crate) fn run(&mut self, query: &str) -> Vec<u8> {
        match self.execute(query) {
            Ok((executed, _)) => executed.record,
            Err(error) => panic!("{query}: {error}"),
        }
    }

    /// The tags and rows of what must succeed, as one text.
    pub(crate) fn outcome(&mut self, query: &str) -> String {
        match self.execute(query) {
            Ok((_, statements)) => shown(&statements),
            Err(error) => error.to_string(),
        }
    }

    pub(crate) fn put(&mut self, record: &[u8]) -> Result<(), PutError> {
        let lsn = self.next_lsn();
        let mut record = record.to_vec();
        change::stamp(&mut record, lsn, Timestamp(1));
        self.writer.put(lsn, &ChangeRecord::decode(&record).unwrap())
    }

    pub(crate) fn commit(&mut self) {
        let lsn = self.next_lsn();
        self.writer.commit(lsn).unwrap();
        self.writer.begin().unwrap();
    }

    pub(crate) fn reader(&self) -> Reader {
        reader(self.directory.path())
    }

    /// Rows of a query on a connection of its own: what is committed.
    pub(crate) fn read(&self, query: &str) -> String {
        read(&mut self.reader(), query)
    }
}

pub(crate) fn reader(directory: &Path) -> Reader {
    let options = ReaderOptions {
        busy_timeout: Duration::from_secs(5),
        value_size_max: 16 << 20,
        memory_max: 512 << 20,
        system: Rc::new(FakeSystem),
    };
    let reader = Reader::open(&path_in(directory), &options).unwrap();
    reader.set_rights(Rights::ALL);
    reader
}

/// Columns with types and rows, or the error, as one text.
pub(crate) fn read(reader: &mut Reader, query: &str) -> String {
    let statements = match engine::sql::parse(query) {
        Ok(statements) => statements,
        Err(error) => return error.to_string(),
    };
    let mut sink = CollectRows::new(64 << 20);
    for statement in statements {
        if let Err(error) = reader.query(&statement.sql, &Unstoppable, &mut sink) {
            return error.to_string();
        }
    }
    shown(&sink.statements)
}

pub(crate) fn shown(statements: &[StatementRows]) -> String {
    let one = |statement: &StatementRows| {
        let columns: Vec<_> =
            statement.columns.iter().map(|c| format!("{}:{}", c.name, c.ty.name())).collect();
        let rows: Vec<_> = statement
            .rows
            .iter()
            .map(|row| row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|"))
            .collect();
        let tag = statement.tag.map(|tag| tag.to_string()).unwrap_or_default();
        [columns.join(","), rows.join(";"), tag]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" / ")
    };
    statements.iter().map(one).collect::<Vec<_>>().join(" && ")
}

/// Every row with its rowid of every table, the schema and the sequences: what two nodes must have in common.
pub(crate) fn contents(directory: &Path) -> Vec<String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(path_in(directory), flags).unwrap();
    let mut found = Vec::new();
    let rows = |sql: &str, found: &mut Vec<String>| {
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> = (0..columns).map(|at| bits(row.get_ref(at).unwrap())).collect();
            found.push(format!("{sql}: {}", values.join("|")));
        }
    };
    rows("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name", &mut found);
    let tables: Vec<(String, bool)> = connection
        .prepare(
            "SELECT name, wr FROM pragma_table_list WHERE type = 'table' AND schema = 'main' ORDER BY name",
        )
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .filter(|(name, _): &(String, bool)| name != "walship_applied" && !name.starts_with("sqlite_s"))
        .collect();
    for (table, without_rowid) in tables {
        let columns: Vec<String> = connection
            .prepare("SELECT name FROM pragma_table_info(?1)")
            .unwrap()
            .query_map([&table], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let alias = ["rowid", "_rowid_", "oid"]
            .into_iter()
            .find(|name| !without_rowid && !columns.iter().any(|column| column.eq_ignore_ascii_case(name)));
        let alias = alias.map(|alias| format!("{alias}, ")).unwrap_or_default();
        rows(&format!("SELECT {alias}* FROM \"{table}\""), &mut found);
    }
    if connection.table_exists(None, "sqlite_sequence").unwrap() {
        rows("SELECT name, seq FROM sqlite_sequence ORDER BY name", &mut found);
    }
    found
}

/// A value to the bit: -0.0 is not 0.
fn bits(value: rusqlite::types::ValueRef<'_>) -> String {
    match value {
        rusqlite::types::ValueRef::Real(real) => format!("{:x}", real.to_bits()),
        other => format!("{other:?}"),
    }
}
