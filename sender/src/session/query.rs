//! The simple query: one text, its statements, their answers.
//!
//! A query of several statements is one transaction. Runs of statements between transaction commands are executed
//! together:
//!
//! | run | where |
//! |---|---|
//! | only reads and session commands | here, on the session's read-only connection, one by one |
//! | one write, or several statements with a write among them, outside a block | the startup process, as one transaction |
//! | inside BEGIN … COMMIT | reads here; writes are gathered and run at COMMIT |
//!
//! Follows PostgreSQL 15 exec_simple_query() in src/backend/tcop/postgres.c; differs in: a block's writes run at its
//! end, so inside it tags say 0 and a read after a write is refused.

use std::sync::atomic::Ordering;

use engine::error::{SqlError, SqlState};
use engine::rows::{Column, CommandTag, Row, RowSink};
use engine::sql::{self, Discarded, Isolation, Kind, Statement, TransactionModes};
use ipc::wait_event::WaitEvent;
use settings::session::Scope;
use sys::clock;
use wal::lsn::Lsn;
use wire::backend;
use wire::error::ErrorResponse;

use super::block::{self, Block};
use super::control::OF_STATEMENT;
use super::{Session, now, setting_error};
use crate::backend_status::{QUERY_BYTES, cut};
use crate::checkpointer::CheckpointRequest;
use crate::connection::Connection;
use crate::recovery_state::{Waited, wait_applied};
use crate::write_request::{put_columns, put_row};

/// Why a statement didn't succeed.
pub(super) enum Failure {
    /// The statement failed; the session goes on.
    Error(SqlError),
    /// The session ends.
    Fatal(ErrorResponse),
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Failure {
        Failure::Error(error)
    }
}

impl From<ErrorResponse> for Failure {
    fn from(report: ErrorResponse) -> Failure {
        Failure::Fatal(report)
    }
}

impl Session {
    /// Executes a query and queues its answers (not ReadyForQuery). An error ends the session.
    pub(super) fn simple_query(&mut self, query: &str) -> Result<(), ErrorResponse> {
        let shown = sql::role::redact(query);
        self.status.set_query(&shown, now());
        let result = self.execute_query(query);
        self.control.finish();
        if self.block.is_none() {
            if result.is_err() {
                self.notifications.borrow_mut().abort();
            }
            self.settings.borrow_mut().end_transaction(result.is_ok());
        }
        match result {
            Ok(()) => Ok(()),
            Err((Failure::Fatal(report), _)) => Err(report),
            Err((Failure::Error(error), position)) => {
                if error.sqlstate == SqlState::ADMIN_SHUTDOWN {
                    return Err(super::terminated());
                }
                if error.sqlstate == SqlState::CONNECTION_FAILURE {
                    return Err(super::client_lost());
                }
                if let Some(block) = &mut self.block {
                    block.failed = true;
                }
                self.node.replication_slots.drop_temporary(self.node, &self.me);
                log_statement_error(&error, &shown);
                self.send_error(&error, position);
                Ok(())
            }
        }
    }

    fn execute_query(&mut self, query: &str) -> Result<(), (Failure, Option<u32>)> {
        self.heed_roles().map_err(|failure| (failure, None))?;
        let statements = sql::parse(query).map_err(|error| {
            // The offset of an error of the surface is one of the query itself.
            let position = error.offset.map(|offset| position_in(query, offset as usize));
            (Failure::Error(error), position)
        })?;
        if statements.is_empty() {
            backend::empty_query_response(self.connection.output());
            return Ok(());
        }
        let mut rest = statements.as_slice();
        while !rest.is_empty() {
            let length = rest.iter().position(|statement| is_transaction_command(&statement.kind));
            let (run, after) = rest.split_at(length.unwrap_or(rest.len()).max(1));
            self.execute_run(run, after).map_err(|failure| self.located(failure, run, query))?;
            rest = after;
        }
        // A block that only a query of several statements began ends with it.
        if self.block.as_ref().is_some_and(|block| block.implicit) {
            self.block = None;
        }
        if self.block.is_none() {
            self.commit_notifications().map_err(|error| (Failure::Error(error), None))?;
        }
        Ok(())
    }

    /// An error's position in the client's text.
    fn located(&self, failure: Failure, run: &[Statement<'_>], query: &str) -> (Failure, Option<u32>) {
        let Failure::Error(error) = &failure else { return (failure, None) };
        let statement = run.get(error.statement as usize).or(run.first());
        let position =
            error.offset.zip(statement).map(|(offset, statement)| statement.position(query, offset));
        (failure, position)
    }

    fn execute_run(&mut self, run: &[Statement<'_>], after: &[Statement<'_>]) -> Result<(), Failure> {
        let writes = run.iter().any(|statement| statement.kind.is_write());
        if self.block.is_none() && writes {
            if matches!(after.first().map(|next| &next.kind), Some(Kind::Begin { .. })) {
                let mut block = Block::new(self.settings.borrow().current().default_transaction_read_only);
                block.implicit = true;
                self.block = Some(block);
            } else {
                return self.execute_together(run);
            }
        }
        for (index, statement) in run.iter().enumerate() {
            self.execute_one(statement).map_err(|failure| match failure {
                Failure::Error(mut error) => {
                    error.statement = index as u32;
                    Failure::Error(error)
                }
                fatal => fatal,
            })?;
        }
        Ok(())
    }

    /// A statement inside a block, or one that writes nothing.
    fn execute_one(&mut self, statement: &Statement<'_>) -> Result<(), Failure> {
        self.start_statement()?;
        if let Some(block) = &self.block
            && block.failed
            && !matches!(statement.kind, Kind::Commit { .. } | Kind::Rollback { .. } | Kind::RollbackTo(_))
        {
            return Err(block::aborted().into());
        }
        match &statement.kind {
            Kind::Read | Kind::Explain => self.read(statement),
            kind if kind.is_write() => self.gather(statement, kind.tag()),
            kind if is_transaction_command(kind) => self.transaction_command(kind),
            kind => {
                self.session_command(kind)?;
                self.complete(kind.tag());
                Ok(())
            }
        }
    }

    /// Each statement of a query has its own time.
    pub(super) fn start_statement(&mut self) -> Result<(), SqlError> {
        self.control.start(self.settings.borrow().current(), self.connection.stream())?;
        self.connection.set_write_deadline(self.control.deadline());
        Ok(())
    }

    fn complete(&mut self, tag: CommandTag) {
        backend::command_complete(self.connection.output(), &tag.to_string());
    }

    /// Runs a read on the session's own connection and sends its rows as they come.
    fn read(&mut self, statement: &Statement<'_>) -> Result<(), Failure> {
        if self.block.as_ref().is_some_and(Block::has_writes) {
            return Err(SqlError::unsupported(
                "reading after a write inside a transaction block",
                "The writes of a block run at COMMIT; read before the first write, or after COMMIT.",
            )
            .into());
        }
        self.wait_for_acknowledged()?;
        let began = clock::now();
        self.info.to_confirm.set(None);
        self.info.warnings.take();
        self.reader()?;
        let reader = self.reader.as_mut().expect("opened by the line above");
        let mut sink = ClientRows { connection: &mut self.connection, broken: None };
        // Before SQLite takes its snapshot: who keeps the tables' log from being cut is found by this.
        let reading_since = &self.node.reading_since[self.me.number().index()];
        reading_since.store(began.as_nanos(), Ordering::Release);
        let result = reader.query(&statement.sql, &*self.control, &mut sink);
        reading_since.store(0, Ordering::Release);
        if let Some(report) = sink.broken {
            return Err(report.into());
        }
        let rows = result?;
        for warning in self.info.warnings.take() {
            backend::notice_response(self.connection.output(), &ErrorResponse::warning(warning));
        }
        if let Some(logged) = self.info.to_confirm.take() {
            self.commit_level()?;
            self.await_standbys(logged, began, true)?;
        }
        self.complete(statement.kind.tag().with_rows(rows));
        Ok(())
    }

    /// A reader sees everything that was acknowledged before it began, to whomever: on a primary what has been answered, as
    /// far as synchronous standbys have it.
    pub(super) fn wait_for_acknowledged(&mut self) -> Result<(), Failure> {
        let mut acknowledged = self.node.recovery.acknowledged();
        if !self.node.recovery.in_recovery() {
            acknowledged = acknowledged.min(self.node.wal.horizon());
        }
        self.wait_for_tables(acknowledged.max(self.last_write))
    }

    /// Waits until the tables hold everything below `wanted`.
    pub(super) fn wait_for_tables(&mut self, wanted: Lsn) -> Result<(), Failure> {
        let control = &self.control;
        let stop = || control.interruption().is_some();
        let sleep = || control.wait(None, WaitEvent::TableApply);
        match wait_applied(self.node, &self.me, wanted, stop, sleep) {
            Waited::Applied => Ok(()),
            Waited::Interrupted => match self.control.interruption() {
                Some(interruption) => Err(interruption.error().into()),
                None => Ok(()),
            },
            // Reads go on with what the tables have, but never without the session's own writes.
            Waited::NoRoom if self.last_write <= self.node.recovery.applied() => Ok(()),
            Waited::NoRoom => Err(SqlError::new(
                SqlState::DISK_FULL,
                "the tables lack this session's last write: no space left on device",
            )
            .with_detail("It is logged, and will be applied when there is room.")
            .into()),
        }
    }

    /// Adds a write to the block.
    fn gather(&mut self, statement: &Statement<'_>, tag: CommandTag) -> Result<(), Failure> {
        self.check_writable(tag)?;
        if statement.returns_rows() {
            return Err(SqlError::unsupported(
                "RETURNING inside a transaction block",
                "The writes of a block run at COMMIT; use a query of several statements, or read after COMMIT.",
            )
            .into());
        }
        let bytes_max = self.node.settings().max_statement_size as usize;
        let text = self.text_for_writer(statement)?;
        let block = self.block.as_mut().expect("writes outside of a block go to the startup process at once");
        block.push(text, bytes_max)?;
        if !block.noticed {
            block.noticed = true;
            let notice = ErrorResponse::notice(
                wire::sqlstate::SUCCESSFUL_COMPLETION,
                "writes of a transaction block are executed at COMMIT; until then their tags count 0 rows",
            );
            backend::notice_response(self.connection.output(), &notice);
        }
        self.complete(tag.with_rows(0));
        Ok(())
    }

    /// 25006 where nothing may be written.
    pub(super) fn check_writable(&self, tag: CommandTag) -> Result<(), SqlError> {
        let settings = self.settings.borrow();
        let current = settings.current();
        let read_only = match &self.block {
            Some(block) if !block.implicit => block.read_only,
            _ => current.default_transaction_read_only,
        };
        if self.node.recovery.in_recovery() || read_only || current.transaction_read_only {
            return Err(SqlError::read_only(tag.verb()));
        }
        Ok(())
    }

    fn transaction_command(&mut self, kind: &Kind) -> Result<(), Failure> {
        match kind {
            Kind::Begin { modes, .. } => self.begin(*modes)?,
            Kind::Commit { chain } => return self.commit(*chain),
            Kind::Rollback { chain } => self.rollback(*chain),
            Kind::Savepoint(name) => {
                let mark = self.notifications.borrow().mark();
                let bytes_max = self.node.settings().max_statement_size as usize;
                self.in_block("SAVEPOINT")?.savepoint(name.clone(), mark, bytes_max)?;
            }
            Kind::Release(name) => self.in_block("RELEASE SAVEPOINT")?.release(name)?,
            Kind::RollbackTo(name) => {
                let mark = self.in_block("ROLLBACK TO SAVEPOINT")?.rollback_to(name)?;
                self.notifications.borrow_mut().rollback_to(mark);
            }
            _ => unreachable!("is_transaction_command names these"),
        }
        self.complete(kind.tag());
        Ok(())
    }

    fn in_block(&mut self, command: &str) -> Result<&mut Block, SqlError> {
        self.block.as_mut().ok_or_else(|| {
            SqlError::new(
                SqlState::NO_ACTIVE_SQL_TRANSACTION,
                format!("{command} can only be used in transaction blocks"),
            )
        })
    }

    fn begin(&mut self, modes: TransactionModes) -> Result<(), SqlError> {
        check_isolation(modes)?;
        self.check_read_write(modes)?;
        let read_only =
            modes.read_only.unwrap_or(self.settings.borrow().current().default_transaction_read_only);
        match &mut self.block {
            Some(block) if block.implicit => block.implicit = false,
            Some(_) => self.warn("25001", "there is already a transaction in progress"),
            None => {
                self.block = Some(Block::new(read_only));
                self.status.xact_start.store(now().0, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// 0A000 for a transaction that is to write on a standby.
    fn check_read_write(&self, modes: TransactionModes) -> Result<(), SqlError> {
        if modes.read_only == Some(false) && self.node.recovery.in_recovery() {
            let message = "cannot set transaction read-write mode during recovery";
            return Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message));
        }
        Ok(())
    }

    fn commit(&mut self, chain: bool) -> Result<(), Failure> {
        let Some(block) = self.block.take() else {
            self.warn("25P01", "there is no transaction in progress");
            self.complete(CommandTag::Plain("COMMIT"));
            return Ok(());
        };
        let (failed, read_only) = (block.failed, block.read_only);
        self.end_block();
        if failed {
            self.settings.borrow_mut().end_transaction(false);
            self.notifications.borrow_mut().abort();
            self.complete(CommandTag::Plain("ROLLBACK"));
        } else {
            if block.has_writes() {
                self.write(block.into_writes(), false)?;
            } else {
                self.commit_notifications()?;
            }
            self.settings.borrow_mut().end_transaction(true);
            self.complete(CommandTag::Plain("COMMIT"));
        }
        if chain {
            self.block = Some(Block::new(read_only));
        }
        Ok(())
    }

    fn rollback(&mut self, chain: bool) {
        match self.block.take() {
            None => {
                self.notifications.borrow_mut().abort();
                self.warn("25P01", "there is no transaction in progress");
            }
            Some(block) => {
                self.end_block();
                self.settings.borrow_mut().end_transaction(false);
                self.notifications.borrow_mut().abort();
                if chain {
                    self.block = Some(Block::new(block.read_only));
                }
            }
        }
    }

    fn end_block(&mut self) {
        self.status.xact_start.store(0, Ordering::Relaxed);
    }

    fn warn(&mut self, sqlstate: &str, message: &str) {
        let mut warning = ErrorResponse::warning(message);
        if let Some(sqlstate) = wire::sqlstate::SqlState::parse(sqlstate) {
            warning.sqlstate = sqlstate;
        }
        backend::notice_response(self.connection.output(), &warning);
    }

    /// SET, SHOW and their kin; the caller sends the tag.
    pub(super) fn session_command(&mut self, kind: &Kind) -> Result<(), SqlError> {
        let scope = |local: bool| if local { Scope::Transaction } else { Scope::Session };
        let refused = |error: settings::error::Error| setting_error(&error);
        match kind {
            Kind::Set { local, name, value } => {
                let mut settings = self.settings.borrow_mut();
                match value {
                    Some(value) => settings.set(name, value, scope(*local)).map_err(refused)?,
                    None => settings.reset(name, scope(*local)).map_err(refused)?,
                }
            }
            Kind::SetTransaction { session, modes } => self.set_transaction(*session, *modes)?,
            Kind::Show(name) => self.show(name.as_deref())?,
            Kind::Reset(Some(name)) => {
                self.settings.borrow_mut().reset(name, Scope::Session).map_err(refused)?
            }
            Kind::Reset(None) => self.settings.borrow_mut().reset_all(),
            Kind::Discard(Discarded::All) => {
                if self.block.is_some() {
                    let message = "DISCARD ALL cannot run inside a transaction block";
                    return Err(SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, message));
                }
                self.notifications.borrow_mut().unlisten(None)?;
                self.settings.borrow_mut().reset_all();
            }
            // Of these the session keeps nothing.
            Kind::Discard(_) => {}
            Kind::Checkpoint if !self.known.rights.get().superuser => {
                let message = "must be superuser or have privileges of pg_checkpoint to do CHECKPOINT";
                return Err(SqlError::new(SqlState::INSUFFICIENT_PRIVILEGE, message));
            }
            Kind::Checkpoint => self.checkpoint()?,
            Kind::WaitForLsn(command) => self.wait_for_lsn(command)?,
            Kind::Listen(_) | Kind::Unlisten(_) | Kind::Notify { .. } => self.notification_command(kind)?,
            _ => {
                return Err(SqlError::new(SqlState::INTERNAL_ERROR, "not a session command"));
            }
        }
        Ok(())
    }

    /// Returns when a checkpoint is done that began after this was asked for.
    fn checkpoint(&self) -> Result<(), SqlError> {
        let mut request = CheckpointRequest::new(self.node);
        let mut sleep = self.node.checkpoint_progress.prepare_to_sleep(self.me);
        loop {
            sleep.enter();
            match request.progress() {
                Some(true) => return Ok(()),
                Some(false) => {
                    return Err(SqlError::new(SqlState::INTERNAL_ERROR, "checkpoint request failed")
                        .with_hint("Consult recent messages in the server log for details."));
                }
                None => {}
            }
            if let Some(interruption) = self.control.interruption() {
                return Err(interruption.error());
            }
            self.control.wait(None, request.wait_event());
        }
    }

    fn set_transaction(&mut self, session: bool, modes: TransactionModes) -> Result<(), SqlError> {
        check_isolation(modes)?;
        if !session {
            self.check_read_write(modes)?;
        }
        let Some(read_only) = modes.read_only else { return Ok(()) };
        if session {
            let value = if read_only { "on" } else { "off" };
            let mut settings = self.settings.borrow_mut();
            settings
                .set("default_transaction_read_only", value, Scope::Session)
                .map_err(|error| setting_error(&error))?;
        } else if let Some(block) = &mut self.block {
            block.read_only = read_only;
        }
        Ok(())
    }

    fn show(&mut self, name: Option<&str>) -> Result<(), SqlError> {
        let settings = self.settings.borrow();
        let out = self.connection.output();
        let text = |name| backend::Column { name, column_type: wire::types::TEXT, typmod: -1 };
        let full = |error: ErrorResponse| SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, error.message);
        match name {
            Some(name) => {
                super::visibility::check_setting(name, self.known.rights.get())?;
                let value = settings.show(name).map_err(|error| setting_error(&error))?;
                backend::row_description(out, &[text(name)]);
                let mut row = backend::DataRow::begin(out);
                row.text(&value);
                row.finish().map_err(full)
            }
            None => {
                backend::row_description(out, &[text("name"), text("setting"), text("description")]);
                let superuser = self.known.rights.get().superuser;
                let hidden = |name: &str| !superuser && settings::secret::is_for_superusers(name);
                for setting in settings::TABLE.iter().filter(|setting| !hidden(setting.name)) {
                    let mut row = backend::DataRow::begin(out);
                    row.text(setting.name);
                    row.text(&settings.show(setting.name).map_err(|error| setting_error(&error))?);
                    row.text(setting.description);
                    row.finish().map_err(full)?;
                }
                Ok(())
            }
        }
    }
}

/// Rows on their way to the client, sent as soon as there are enough.
struct ClientRows<'a> {
    connection: &'a mut Connection,
    /// Set when the client is gone: the session ends with it.
    broken: Option<ErrorResponse>,
}

impl RowSink for ClientRows<'_> {
    fn columns(&mut self, columns: &[Column]) -> Result<(), SqlError> {
        put_columns(self.connection.output(), columns);
        Ok(())
    }

    fn row(&mut self, row: &Row) -> Result<(), SqlError> {
        put_row(self.connection.output(), row)?;
        match self.connection.flush_when_full(OF_STATEMENT) {
            // Given way to an interrupt: the next look of SQLite ends the statement with its reason.
            Ok(_) => Ok(()),
            Err(report) => {
                let error = SqlError::new(SqlState::INTERNAL_ERROR, report.message.clone());
                self.broken = Some(report);
                Err(error)
            }
        }
    }

    fn complete(&mut self, _: CommandTag) -> Result<(), SqlError> {
        Ok(())
    }
}

/// In the server log, as with PostgreSQL's log_min_error_statement = error.
fn log_statement_error(error: &SqlError, shown: &str) {
    let detail = error.detail.as_ref().map(|detail| format!("\nDETAIL:  {detail}")).unwrap_or_default();
    // The message of what can't even be cut into words repeats the rest of the text, which may hold a password.
    let hidden = shown.ends_with('…') && error.sqlstate == SqlState::SYNTAX_ERROR;
    let message =
        if hidden { "syntax error in a statement that may hold a password" } else { &error.message };
    tracing::error!("{message}{detail}\nSTATEMENT:  {}", cut(shown, QUERY_BYTES));
}

fn is_transaction_command(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Begin { .. }
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint(_)
            | Kind::Release(_)
            | Kind::RollbackTo(_)
    )
}

fn check_isolation(modes: TransactionModes) -> Result<(), SqlError> {
    match modes.isolation {
        None | Some(Isolation::ReadCommitted | Isolation::ReadUncommitted) => Ok(()),
        Some(Isolation::RepeatableRead | Isolation::Serializable) => Err(SqlError::unsupported(
            "this isolation level",
            "READ COMMITTED is the only isolation level of transaction blocks.",
        )),
    }
}

fn position_in(query: &str, offset: usize) -> u32 {
    let end = query.floor_char_boundary(offset.min(query.len()));
    u32::try_from(query[..end].chars().count() + 1).unwrap_or(u32::MAX)
}
