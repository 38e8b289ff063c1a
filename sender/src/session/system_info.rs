//! What PostgreSQL's functions and views say of this node: answered from shared memory.
//!
//! Follows PostgreSQL 15 src/backend/utils/adt/pgstatfuncs.c, src/backend/access/transam/xlogfuncs.c and
//! src/backend/storage/ipc/signalfuncs.c.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use engine::catalog::{Function, SystemInfo, SystemValue, View};
use engine::error::{SqlError, SqlState};
use engine::roles::Rights;
use ipc::interrupt::Interrupts;
use ipc::latch_stats::LatchStats;
use ipc::proc::{BackendType, Proc, ProcNumber};
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use settings::reload::FileSetting;
use settings::secret;
use settings::session::{Scope, SessionSettings};
use settings::table::{SettingNumber, Source, SynchronousCommit};
use settings::value::Kind;
use sys::clock;
use sys::process::Pid;
use sys::signal::Signal;
use wal::logical_message::LogicalMessage;
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;
use wal::xact::Commit;
use wire::error::ErrorResponse;

use super::control::SessionControl;
use super::hba_view::hba_file_rules;
use super::notify::Notifications;
use super::visibility::{check_setting, without_what_it_does};
use crate::configuration::read_conf;
use crate::node::Node;
use crate::notify::outgoing::Outgoing;
use crate::recovery_state::PauseState;
use crate::sync_rep::{Awaited, Confirmation};
use crate::xlog::Xlog;

/// A statement that warns more often tells the log alone.
const WARNINGS_MAX: usize = 100;

pub(super) const NULL: SystemValue = SystemValue::Null;

/// Answers for one session.
#[derive(Debug)]
pub(super) struct SessionInfo {
    pub(super) node: &'static Node,
    pub(super) me: Me,
    pub(super) settings: Rc<RefCell<SessionSettings>>,
    /// What the session's role may do now.
    pub(super) rights: Rc<Cell<Rights>>,
    pub(super) xlog: RefCell<Xlog>,
    /// Deadline and interrupts of the statement that runs.
    pub(super) control: Rc<SessionControl>,
    /// Channels, and what the transaction notifies.
    pub(super) notifications: Rc<RefCell<Notifications>>,
    /// What the statement's functions have to tell the client; taken when it has run.
    pub(super) warnings: RefCell<Vec<String>>,
    /// What the statement has logged and standbys have to confirm; taken when it has run.
    pub(super) to_confirm: Cell<Option<Awaited>>,
}

impl SystemInfo for SessionInfo {
    fn call(&self, function: Function, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let node = self.node;
        self.check_function(function)?;
        Ok(match function {
            Function::IsInRecovery => node.recovery.in_recovery().into(),
            Function::CurrentWalLsn => lsn(self.on_primary()?.wal.flush_lsn()),
            Function::CurrentWalInsertLsn => lsn(self.on_primary()?.wal.insert_lsn()),
            Function::CurrentWalFlushLsn => lsn(self.on_primary()?.wal.flush_lsn()),
            Function::LastWalReceiveLsn => lsn_or_null(match node.recovery.in_recovery() {
                true => node.wal.flush_lsn(),
                false => node.walreceiver.received_lsn(),
            }),
            Function::LastWalReplayLsn => lsn_or_null(node.recovery.replayed()),
            Function::LastXactReplayTimestamp => time(node.recovery.last_xact_time.load(Ordering::Relaxed)),
            Function::WalReplayPause => self.set_paused(true)?,
            Function::WalReplayResume => self.set_paused(false)?,
            Function::IsWalReplayPaused => (self.pause_state()? != PauseState::NotPaused).into(),
            Function::WalReplayPauseState => self.pause_state()?.name().into(),
            Function::SwitchWal => self.switch_wal()?,
            Function::Promote => self.promote(arguments)?,
            Function::HandOver => self.hand_over(arguments)?,
            Function::LogicalEmitMessage => self.emit_message(arguments)?,
            Function::TerminateBackend => self.signal_backend(arguments, Interrupts::TERMINATE)?,
            Function::CancelBackend => self.signal_backend(arguments, Interrupts::QUERY_CANCEL)?,
            Function::LogBackendMemoryContexts => self.log_memory(arguments),
            Function::CreatePhysicalReplicationSlot => self.create_slot(arguments)?,
            Function::CopyPhysicalReplicationSlot => self.copy_slot(arguments)?,
            Function::ReplicationSlotAdvance => self.advance_slot(arguments)?,
            Function::DropReplicationSlot => self.drop_slot(arguments)?,
            Function::ReloadConf => {
                sys::process::kill(sys::process::parent_pid(), Signal::Hup).is_ok().into()
            }
            Function::ConfLoadTime => time(node.configuration.load_time().0),
            Function::BackendPid => sys::process::current_pid().0.into(),
            Function::Sleep => self.sleep(arguments)?,
            Function::Version => format!(
                "PostgreSQL {} on {}, compiled by rustc, 64-bit",
                node.settings().server_version,
                std::env::consts::ARCH
            )
            .into(),
            Function::Now => time(Timestamp::from_unix_micros(clock::unix_micros()).0),
            Function::CurrentDatabase => self.status().database.get().into(),
            Function::CurrentUser => self.status().user.get().into(),
            Function::CurrentSetting => self.current_setting(arguments)?,
            Function::SetConfig => self.set_config(arguments)?,
            Function::Notify => {
                let (channel, payload) = notification(arguments);
                self.notifications.borrow_mut().notify(channel, payload)?;
                SystemValue::Text(String::new())
            }
            Function::ListeningChannels => {
                return Err(SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "set-valued function called in context that cannot accept a set",
                )
                .with_hint("Use SELECT * FROM pg_listening_channels()."));
            }
            Function::NotificationQueueUsage => SystemValue::Float(node.notify.usage()),
            Function::WalfileName => self.walfile_name(arguments)?,
            Function::WalLsnDiff => {
                return Err(SqlError::new(
                    SqlState::INTERNAL_ERROR,
                    "a pure function was asked of the session",
                ));
            }
        })
    }

    fn rows(&self, view: View) -> Result<Vec<Vec<SystemValue>>, SqlError> {
        self.check_view(view)?;
        Ok(match view {
            View::HbaFileRules => hba_file_rules(&self.node.data.hba()),
            View::StatActivity => self.active().map(|(number, proc)| self.activity(number, proc)).collect(),
            View::StatReplication => self.for_superusers(self.replication()),
            View::StatWalReceiver => self.for_superusers(self.walreceiver()),
            View::StatArchiver => vec![self.archiver()],
            View::StatWal => vec![self.stat_wal()],
            View::StatProgressBasebackup => self.for_superusers(self.backups()),
            View::ReplicationSlots => self.replication_slots(),
            View::StatLatch => self.latches(),
            View::ListeningChannels => {
                let notifications = self.notifications.borrow();
                notifications.channels().map(|channel| vec![channel.into()]).collect()
            }
            View::Settings => self.visible_settings().map(|number| self.setting(number)).collect(),
            View::FileSettings => self.file_settings(),
        })
    }
}

impl SessionInfo {
    fn status(&self) -> &'static crate::backend_status::BackendStatus {
        &self.node.statuses[self.me.number().index()]
    }

    /// The node, if it writes the log.
    fn on_primary(&self) -> Result<&'static Node, SqlError> {
        if self.node.recovery.in_recovery() {
            return Err(SqlError::new(SqlState(*b"55000"), "recovery is in progress")
                .with_hint("WAL control functions cannot be executed during recovery."));
        }
        Ok(self.node)
    }

    fn set_paused(&self, paused: bool) -> Result<SystemValue, SqlError> {
        self.pause_state()?;
        self.node.recovery.set_paused(self.node, paused);
        Ok(SystemValue::Text(String::new()))
    }

    /// Whether a standby's replay is paused.
    fn pause_state(&self) -> Result<PauseState, SqlError> {
        if !self.node.recovery.in_recovery() {
            return Err(SqlError::new(SqlState(*b"55000"), "recovery is not in progress")
                .with_hint("Recovery control functions can only be executed during recovery."));
        }
        Ok(self.node.recovery.pause_state())
    }

    /// The segment that a log ends in which ends at that position.
    fn walfile_name(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let node = self.node;
        if node.recovery.in_recovery() {
            return Err(SqlError::new(SqlState(*b"55000"), "recovery is in progress")
                .with_hint("pg_walfile_name() cannot be executed during recovery."));
        }
        let text = arguments.first().map(text).unwrap_or_default();
        let position = position(&text)?;
        Ok(node.segment_name(node.segment_size.number_before(position)).into())
    }

    fn switch_wal(&self) -> Result<SystemValue, SqlError> {
        self.on_primary()?;
        let mut xlog = self.xlog.borrow_mut();
        let end = xlog.switch_segment().map_err(|error| log_error(&error))?;
        xlog.flush(self.node.wal.insert_lsn());
        Ok(lsn(end))
    }

    /// A message in the log for whoever reads it; with `transactional` a commit record follows it, which synchronous standbys
    /// have to confirm.
    ///
    /// Not transactional messages are what synchronous_commit = off is for: they are left to the walwriter.
    fn emit_message(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        self.on_primary()?;
        let [transactional, prefix, content] = arguments else {
            return Err(SqlError::new(
                SqlState::INTERNAL_ERROR,
                "pg_logical_emit_message takes three arguments",
            ));
        };
        let (prefix, content) = (text(prefix), bytes(content));
        if prefix.contains('\0') {
            return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "the prefix contains a zero byte"));
        }
        let transactional = is_true(transactional);
        let too_long = |error: wal::record::RecordTooLong| {
            SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, error.to_string())
        };
        let mut xlog = self.xlog.borrow_mut();
        let message = LogicalMessage { database: 0, transactional, prefix: &prefix, payload: &content };
        let inserted =
            xlog.insert(&mut message.record(0).map_err(too_long)?).map_err(|error| log_error(&error))?;
        let mut end = inserted.end;
        let level = self.settings.borrow().current().synchronous_commit;
        let apply_feedback = level == SynchronousCommit::RemoteApply;
        if transactional {
            let now = Timestamp::from_unix_micros(clock::unix_micros());
            end = xlog
                .insert(&mut Commit { time: now, apply_feedback }.record(0))
                .map_err(|error| log_error(&error))?
                .end;
        }
        if level == SynchronousCommit::Off {
            self.node.procs.set_latch(ProcNumber::WAL_WRITER);
            return Ok(lsn(inserted.end));
        }
        xlog.flush(end);
        if transactional {
            let confirmation = if apply_feedback { Confirmation::Applied } else { Confirmation::Durable };
            self.to_confirm.set(Some(Awaited { lsn: end, confirmation }));
        }
        Ok(lsn(inserted.end))
    }

    fn signal_backend(
        &self,
        arguments: &[SystemValue],
        interrupt: Interrupts,
    ) -> Result<SystemValue, SqlError> {
        let pid = arguments.first().map(integer).unwrap_or_default();
        let found = i32::try_from(pid).ok().and_then(|pid| self.node.procs.find_pid(Pid(pid)));
        let is_backend = |number: ProcNumber| number >= ProcNumber::FIRST_BACKEND;
        match found {
            Some(address) if is_backend(address.number) => {
                self.check_signal(&self.node.statuses[address.number.index()].user.get(), interrupt)?;
                Ok(self.node.procs.send_interrupt(address, interrupt).into())
            }
            _ => {
                self.warn(format!("PID {pid} is not a PostgreSQL backend process"));
                Ok(false.into())
            }
        }
    }

    /// A WARNING for the client and the log.
    fn warn(&self, message: String) {
        tracing::warn!("{message}");
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < WARNINGS_MAX {
            warnings.push(message);
        }
    }

    /// Any process may be asked, not only those that serve a client.
    fn log_memory(&self, arguments: &[SystemValue]) -> SystemValue {
        let pid = arguments.first().map(integer).unwrap_or_default();
        let found = i32::try_from(pid).ok().and_then(|pid| self.node.procs.find_pid(Pid(pid)));
        let Some(address) = found else {
            self.warn(format!("PID {pid} is not a PostgreSQL server process"));
            return false.into();
        };
        self.node.procs.send_interrupt(address, Interrupts::LOG_MEMORY_CONTEXT).into()
    }

    fn sleep(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let seconds = match arguments.first() {
            Some(SystemValue::Integer(seconds)) => *seconds as f64,
            Some(SystemValue::Float(seconds)) => *seconds,
            Some(SystemValue::Text(text)) => text.trim().parse().map_err(|_| {
                SqlError::new(
                    SqlState::INVALID_TEXT_REPRESENTATION,
                    format!("invalid input syntax for type double precision: \"{text}\""),
                )
            })?,
            _ => 0.0,
        };
        // A year is for ever, for a statement.
        let length = Duration::try_from_secs_f64(seconds.clamp(0.0, 31_536_000.0)).unwrap_or_default();
        let end = clock::now().saturating_add(length);
        loop {
            self.me.latch().reset();
            if let Some(interruption) = self.control.interruption() {
                self.me.latch().set();
                return Err(interruption.error());
            }
            if clock::now() >= end {
                self.me.latch().set();
                return Ok(SystemValue::Text(String::new()));
            }
            self.control.wait(Some(end), WaitEvent::PgSleep);
        }
    }

    fn current_setting(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let name = arguments.first().map(text).unwrap_or_default();
        check_setting(&name, self.rights.get())?;
        match self.settings.borrow().show(&name) {
            Ok(value) => Ok(value.into()),
            Err(_) if arguments.get(1).is_some_and(is_true) => Ok(NULL),
            Err(error) => Err(super::setting_error(&error)),
        }
    }

    fn set_config(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let argument = |at: usize| arguments.get(at).map(text).unwrap_or_default();
        let local = arguments.get(2).is_some_and(is_true);
        let scope = if local { Scope::Transaction } else { Scope::Session };
        let mut settings = self.settings.borrow_mut();
        let failed = |error: settings::error::Error| super::setting_error(&error);
        settings.set(&argument(0), &argument(1), scope).map_err(failed)?;
        Ok(settings.show(&argument(0)).map_err(failed)?.into())
    }

    fn active(&self) -> impl Iterator<Item = (ProcNumber, &'static Proc)> {
        (0..).map(ProcNumber).take(self.node.procs.len()).filter_map(|number| {
            let proc = self.node.procs.slot(number);
            proc.pid().map(|_| (number, proc))
        })
    }

    fn activity(&self, number: ProcNumber, proc: &Proc) -> Vec<SystemValue> {
        let status = &self.node.statuses[number.index()];
        let is_session = number >= ProcNumber::FIRST_BACKEND;
        let when = |micros: &AtomicI64| time(micros.load(Ordering::Relaxed));
        let session_text = |text: String| if is_session { text.into() } else { NULL };
        // A session whose answer waits for standbys has not been woken to say so.
        let wait = match self.node.requests.is_waiting(number) {
            true => Some(WaitEvent::SyncRep),
            false => proc.wait_event(),
        };
        let row = vec![
            NULL,
            session_text(status.database.get()),
            proc.pid().map(|pid| pid.0).into(),
            NULL,
            if is_session { 10.into() } else { NULL },
            session_text(status.user.get()),
            status.application_name.get().into(),
            text_or_null(status.client_addr.get()),
            NULL,
            if is_session { status.client_port.load(Ordering::Relaxed).into() } else { NULL },
            time(Timestamp::from_unix_micros(proc.start_time()).0),
            when(&status.xact_start),
            when(&status.query_start),
            when(&status.state_change),
            wait.map(|wait| wait.type_name()).into(),
            wait.map(|wait| wait.name()).into(),
            status.state().name().into(),
            NULL,
            NULL,
            NULL,
            status.query.get().into(),
            proc.backend_type().map(BackendType::name).into(),
        ];
        if self.may_see_session_of(&status.user.get()) { row } else { without_what_it_does(row) }
    }

    /// Counters begin at 0 with each process, so they say nothing of a slot's former owner.
    fn latches(&self) -> Vec<Vec<SystemValue>> {
        let now = clock::now();
        let procs = self.node.procs;
        let row = |pid: Pid, kind: Option<BackendType>, stats: &LatchStats| {
            let counts = stats.counts(now);
            vec![
                pid.0.into(),
                kind.map(BackendType::name).into(),
                count(counts.sets),
                count(counts.wakeups_sent),
                count(counts.wakeups_received),
                count(counts.spurious_wakeups),
                count(counts.kernel_waits),
                SystemValue::Float(counts.asleep.as_secs_f64() * 1e3),
            ]
        };
        let postmaster =
            procs.postmaster_latch_stats().map(|(pid, stats)| row(pid, Some(BackendType::Postmaster), stats));
        let children = self
            .active()
            .filter_map(|(_, proc)| Some(row(proc.pid()?, proc.backend_type(), proc.latch_stats())));
        postmaster.into_iter().chain(children).collect()
    }

    fn archiver(&self) -> Vec<SystemValue> {
        let shared = self.node.archiver;
        let count =
            |count: &AtomicU64| i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX).into();
        let when = |micros: &AtomicI64| time(micros.load(Ordering::Relaxed));
        vec![
            count(&shared.archived_count),
            text_or_null(shared.last_archived_wal.get()),
            when(&shared.last_archived_time),
            count(&shared.failed_count),
            text_or_null(shared.last_failed_wal.get()),
            when(&shared.last_failed_time),
            when(&shared.reset_time),
        ]
    }

    /// What a reload would make of each line of the file.
    fn file_settings(&self) -> Vec<Vec<SystemValue>> {
        let path = self.node.data.conf();
        let configuration = &self.node.configuration;
        let lines = match read_conf(&self.node.data) {
            Ok(conf) => configuration.settings().file_settings(&conf, configuration.flags()),
            Err(error) => vec![FileSetting::unreadable(error)],
        };
        let rows = lines.into_iter().zip(1i64..).map(|(line, sequence)| {
            vec![
                path.display().to_string().into(),
                i64::from(line.line).into(),
                sequence.into(),
                line.name.clone().into(),
                line.value
                    .map(|value| secret::shown(&line.name.unwrap_or_default(), &value).into_owned())
                    .into(),
                line.applied.into(),
                line.error.into(),
            ]
        });
        rows.collect()
    }

    fn setting(&self, number: SettingNumber) -> Vec<SystemValue> {
        let row = number.row();
        let settings = self.settings.borrow();
        let current = settings.current();
        let (unit, bounds) = match row.kind {
            Kind::Int { unit, min, max } => (unit.name(), Some((min, max))),
            _ => (None, None),
        };
        let enumvals = row.kind.enum_values();
        let origin = current.origin(number);
        let from_file = origin.source == Source::File;
        let shown = |value: String| secret::shown(row.name, &value).into_owned().into();
        vec![
            row.name.into(),
            shown(current.value(number).setting()),
            unit.into(),
            row.category.into(),
            row.description.into(),
            NULL,
            row.context.name().into(),
            row.kind.vartype().into(),
            origin.source.name().into(),
            bounds.map(|(min, _)| min.to_string()).into(),
            bounds.map(|(_, max)| max.to_string()).into(),
            if enumvals.is_empty() { NULL } else { format!("{{{}}}", enumvals.join(",")).into() },
            row.default.setting().into(),
            shown(settings.reset_value(number).setting()),
            from_file.then(|| self.node.data.conf().display().to_string()).into(),
            from_file.then_some(i64::from(origin.line)).into(),
            origin.pending_restart.into(),
        ]
    }
}

/// Answers for statements that the startup process executes: what only a session knows or may do is refused.
#[derive(Debug)]
pub struct WriterInfo {
    /// The node.
    pub node: &'static Node,
    /// What the request that is executed notifies.
    pub notifications: Rc<RefCell<Outgoing>>,
}

impl SystemInfo for WriterInfo {
    fn call(&self, function: Function, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        Ok(match function {
            Function::Notify => {
                let (channel, payload) = notification(arguments);
                self.notifications.borrow_mut().push(channel, payload, self.node.notify.capacity())?;
                SystemValue::Text(String::new())
            }
            Function::IsInRecovery => self.node.recovery.in_recovery().into(),
            Function::CurrentWalLsn | Function::CurrentWalFlushLsn => lsn(self.node.wal.flush_lsn()),
            Function::CurrentWalInsertLsn => lsn(self.node.wal.insert_lsn()),
            Function::Now => time(Timestamp::from_unix_micros(clock::unix_micros()).0),
            other => {
                let name = other.row().name;
                return Err(SqlError::unsupported(
                    &format!("function {name}() in a statement that writes"),
                    "Call it in a SELECT of its own.",
                ));
            }
        })
    }

    fn rows(&self, view: View) -> Result<Vec<Vec<SystemValue>>, SqlError> {
        Err(SqlError::unsupported(
            &format!("view {} in a statement that writes", view.row().name),
            "Read it in a SELECT of its own.",
        ))
    }
}

/// The arguments of pg_notify().
fn notification(arguments: &[SystemValue]) -> (String, String) {
    let argument = |at: usize| arguments.get(at).map(text).unwrap_or_default();
    (argument(0), argument(1))
}

fn log_error(error: &wal::store::StoreError) -> SqlError {
    crate::write_request::log_error(error)
}

/// A counter, cut at what int8 holds.
pub(super) fn count(count: u64) -> SystemValue {
    SystemValue::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

pub(super) fn lsn(lsn: Lsn) -> SystemValue {
    SystemValue::Text(lsn.to_string())
}

pub(super) fn lsn_or_null(position: Lsn) -> SystemValue {
    if position.is_valid() { lsn(position) } else { NULL }
}

pub(super) fn text_or_null(text: String) -> SystemValue {
    if text.is_empty() { NULL } else { text.into() }
}

/// A time, µs since 2000-01-01; 0 is none.
pub(super) fn time(micros: i64) -> SystemValue {
    if micros == 0 { NULL } else { SystemValue::Text(Timestamp(micros).to_string()) }
}

pub(super) fn text(value: &SystemValue) -> String {
    match value {
        SystemValue::Null => String::new(),
        SystemValue::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
        SystemValue::Integer(value) => value.to_string(),
        SystemValue::Float(value) => value.to_string(),
        SystemValue::Text(value) => value.clone(),
        SystemValue::Bytes(value) => String::from_utf8_lossy(value).into_owned(),
        SystemValue::Record(_) => unreachable!("no argument is a record"),
    }
}

fn bytes(value: &SystemValue) -> Vec<u8> {
    match value {
        SystemValue::Bytes(value) => value.clone(),
        other => text(other).into_bytes(),
    }
}

pub(super) fn integer(value: &SystemValue) -> i64 {
    match value {
        SystemValue::Integer(value) => *value,
        other => text(other).trim().parse().unwrap_or(0),
    }
}

/// A pg_lsn argument.
pub(super) fn position(text: &str) -> Result<Lsn, SqlError> {
    text.trim().parse().map_err(|_| {
        let message = format!("invalid input syntax for type pg_lsn: \"{text}\"");
        SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, message)
    })
}

/// What the node refused, as an error of the statement that asked for it.
pub(super) fn report_error(report: ErrorResponse) -> SqlError {
    let code = report.sqlstate.as_str().as_bytes().try_into().expect("a SQLSTATE has five characters");
    let mut error = SqlError::new(SqlState(code), report.message);
    (error.detail, error.hint) = (report.detail, report.hint);
    error
}

pub(super) fn is_true(value: &SystemValue) -> bool {
    match value {
        SystemValue::Bool(value) => *value,
        SystemValue::Integer(value) => *value != 0,
        other => matches!(text(other).to_ascii_lowercase().as_str(), "t" | "true" | "on" | "yes" | "1" | "y"),
    }
}
