//! Executing requests: each statement prepared as what it says it is, its changes captured, its schema changes and
//! sequences added to the record.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Executed, Savepoint, Work, WriteRequest, Writer};
use crate::authorizer::Mode;
use crate::change::{HEADER_SIZE, Value};
use crate::control::Control;
use crate::error::{SqlError, SqlState};
use crate::error_map::{Phase, client_error, foreign_key_violation, own_error};
use crate::ffi::RawError;
use crate::roles::{self, Asker};
use crate::rows::RowSink;
use crate::run;
use crate::schema::{ShapeError, Shapes};
use crate::sql::{self, Kind};

impl Writer {
    /// Executes a request. On an error nothing of it remains, and requests before it are as they were.
    pub fn execute(
        &mut self,
        request: &WriteRequest,
        control: &dyn Control,
        sink: &mut dyn RowSink,
    ) -> Result<Executed, SqlError> {
        if !self.transaction_open() {
            return Err(SqlError::new(SqlState::DISK_FULL, "tables do not take writes at the moment"));
        }
        let db = self.db.clone();
        match db.controlled(control, || self.try_execute(request, control, sink)) {
            Ok(executed) => {
                if !executed.record.is_empty() {
                    self.kept.push(&executed.record[HEADER_SIZE..]);
                    self.savepoint = Savepoint::Open { kept: true };
                }
                Ok(executed)
            }
            Err(error) => {
                db.watch().capture.borrow_mut().stop();
                self.undo_request();
                Err(error)
            }
        }
    }

    fn try_execute(
        &mut self,
        request: &WriteRequest,
        control: &dyn Control,
        sink: &mut dyn RowSink,
    ) -> Result<Executed, SqlError> {
        self.prepare_for_request()?;
        self.db.watch().authorizer.set_rights(request.asker.rights);
        let mut rows_affected = 0;
        for (at, statement) in request.statements.iter().enumerate() {
            if let Some(interruption) = control.check() {
                return Err(interruption.error());
            }
            let affected = self.execute_statement(statement, &request.asker, sink).map_err(|mut error| {
                error.statement = u32::try_from(at).unwrap_or(u32::MAX);
                error
            })?;
            rows_affected += affected;
        }
        if self.db.foreign_key_violated() {
            return Err(foreign_key_violation());
        }
        let sequences = self.log_sequences()?;
        let mut capture = self.db.watch().capture.borrow_mut();
        if let Some(failure) = capture.failure() {
            return Err(failure.clone());
        }
        let record = capture.finish(rows_affected);
        if let Some(sequences) = sequences {
            self.sequences = sequences;
        }
        Ok(Executed { record, rows_affected })
    }

    fn prepare_for_request(&mut self) -> Result<(), SqlError> {
        self.release_last().and_then(|()| self.set_work(Work::Execute)).map_err(|raw| own_error(&raw))?;
        let shapes = match &self.shapes {
            Some(shapes) => Rc::clone(shapes),
            None => {
                let shapes = self.load_shapes()?;
                self.sequences = self.read_sequences()?;
                shapes
            }
        };
        self.schema_changed = false;
        self.own.savepoint.run(&[]).map_err(|raw| own_error(&raw))?;
        self.savepoint = Savepoint::Open { kept: false };
        self.db.watch().capture.borrow_mut().start(shapes, self.record_size_max);
        Ok(())
    }

    /// Runs one statement; returns the rows that it affected.
    fn execute_statement(
        &mut self,
        sql: &str,
        asker: &Asker,
        sink: &mut dyn RowSink,
    ) -> Result<u64, SqlError> {
        let (kind, sql) = sql::executable(sql)?;
        if let Kind::Role(command) = &kind {
            self.roles_changed = true;
            roles::execute(&self.db, command, asker)?;
            sink.complete(kind.tag())?;
            return Ok(0);
        }
        let mode = match &kind {
            Kind::Read => Mode::Read,
            Kind::Explain => Mode::Explain,
            Kind::Write(_) => Mode::Write,
            Kind::Ddl(_) => Mode::Ddl,
            _ => {
                let says = format!("{} cannot run inside a transaction block", kind.tag());
                return Err(SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, says));
            }
        };
        let version_before = if mode == Mode::Ddl { self.schema_version()? } else { 0 };
        let mut statement = run::prepare(&self.db, &sql, mode)?;
        let delivered = run::deliver(&self.db, &mut statement, mode, sink)?;
        drop(statement);
        if !self.transaction_open() {
            return Err(SqlError::new(SqlState::TRANSACTION_ROLLBACK, "statement ended the transaction"));
        }
        let rows = match kind {
            Kind::Write(_) => self.db.changes(),
            _ => delivered,
        };
        if mode == Mode::Ddl {
            self.log_ddl(&sql, version_before)?;
        }
        sink.complete(kind.tag().with_rows(rows))?;
        Ok(if mode == Mode::Write { rows } else { 0 })
    }

    /// Adds a DDL statement to the record, unless it was one that found nothing to do (IF NOT EXISTS).
    fn log_ddl(&mut self, sql: &str, version_before: i64) -> Result<(), SqlError> {
        let first = sql.get(..7).unwrap_or("");
        let always = first.eq_ignore_ascii_case("analyze") || first.eq_ignore_ascii_case("reindex");
        if !always && self.schema_version()? == version_before {
            return Ok(());
        }
        self.schema_changed = true;
        let shapes = self.load_shapes()?;
        self.db.watch().capture.borrow_mut().ddl(sql, shapes);
        Ok(())
    }

    fn schema_version(&mut self) -> Result<i64, SqlError> {
        let statement = &mut self.own.schema_version;
        let version = statement.step().map(|_| match statement.column(0) {
            Value::Integer(version) => version,
            _ => 0,
        });
        statement.reset();
        version.map_err(|raw| own_error(&raw))
    }

    fn load_shapes(&mut self) -> Result<Rc<Shapes>, SqlError> {
        let shapes = Shapes::load(&self.db).map_err(|error| match error {
            ShapeError::Refused(error) => error,
            ShapeError::Failed(raw) => client_error(&self.db, &raw, Phase::Run),
        })?;
        Ok(Rc::clone(self.shapes.insert(Rc::new(shapes))))
    }

    /// SQLite's hook doesn't show sqlite_sequence, and a failed insert of `INSERT OR IGNORE` moves it too: compare.
    fn log_sequences(&mut self) -> Result<Option<BTreeMap<String, i64>>, SqlError> {
        if !self.shapes.as_ref().is_some_and(|shapes| shapes.has_sequences) {
            return Ok(None);
        }
        let now = self.read_sequences()?;
        let mut capture = self.db.watch().capture.borrow_mut();
        for (table, last) in &now {
            if self.sequences.get(table) != Some(last) {
                capture.sequence(table, Some(*last));
            }
        }
        for table in self.sequences.keys().filter(|table| !now.contains_key(*table)) {
            capture.sequence(table, None);
        }
        Ok(Some(now))
    }

    fn read_sequences(&self) -> Result<BTreeMap<String, i64>, SqlError> {
        let mut sequences = BTreeMap::new();
        if !self.shapes.as_ref().is_some_and(|shapes| shapes.has_sequences) {
            return Ok(sequences);
        }
        let mut read = || {
            let mut statement = self.db.prepare_own("SELECT name, seq FROM sqlite_sequence")?;
            while statement.step()? {
                if let (Value::Text(name), Value::Integer(last)) = (statement.column(0), statement.column(1))
                {
                    sequences.insert(String::from_utf8_lossy(name).into_owned(), last);
                }
            }
            Ok(())
        };
        read().map_err(|raw: RawError| own_error(&raw))?;
        Ok(sequences)
    }
}
