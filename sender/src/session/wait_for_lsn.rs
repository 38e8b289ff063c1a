//! WAIT FOR LSN: the session sleeps until this node has come to a position of the log. So a client that has written on the
//! primary, and noted `pg_current_wal_insert_lsn()` there, reads its write on any standby.
//!
//! | MODE | what has come there | where |
//! |---|---|---|
//! | `standby_replay` (default) | the tables: a read that begins now sees it | standby; primary, see below |
//! | `standby_write` | what is received and written | standby |
//! | `standby_flush` | what is durable | standby |
//! | `primary_flush` | what is durable | primary |
//!
//! The answer is one row, `status`: `success`; with NO_THROW also `timeout` and `not in recovery`, which are errors
//! otherwise. A TIMEOUT of 0 is none. The wait ends with a cancel, with `statement_timeout`, and when the node is promoted before
//! it has come there: then nothing says that it ever will.
//!
//! Follows PostgreSQL 19 src/backend/commands/wait.c; differs in: a client that is sent to any node need not know which of
//! them is the primary. What that has logged it has, or will have when its synchronous standbys do: there `standby_replay`
//! waits for the tables as well, and is an error only for a position beyond the end of the log; the other modes of a standby are
//! a success for what is there.

use std::time::Duration;

use engine::error::{SqlError, SqlState};
use engine::sql::wait_for::{WaitForLsn, WaitOption};
use ipc::wait_event::WaitEvent;
use settings::value::{Unit, parse_bool, parse_number};
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;
use wire::backend;

use super::Session;
use super::system_info::position;
use crate::log_waits::{LogWait, Reached};
use crate::node::Node;
use crate::recovery_state::TablesWait;

/// What has to come to the position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    StandbyReplay,
    StandbyWrite,
    StandbyFlush,
    PrimaryFlush,
}

const MODES: [Mode; 4] = [Mode::StandbyReplay, Mode::StandbyWrite, Mode::StandbyFlush, Mode::PrimaryFlush];

/// What the command says, understood.
#[derive(Debug, Eq, PartialEq)]
struct Wanted {
    lsn: Lsn,
    mode: Mode,
    timeout: Option<Duration>,
    /// Only a success is none of the errors.
    throw: bool,
}

/// How the wait ended, if the statement has not failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Success,
    Timeout,
    NotInRecovery,
}

/// What wakes the session while it waits; held for that alone.
#[derive(Debug)]
enum Wakeup {
    Tables { _wait: TablesWait },
    Log { _wait: LogWait },
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::StandbyReplay => "standby_replay",
            Mode::StandbyWrite => "standby_write",
            Mode::StandbyFlush => "standby_flush",
            Mode::PrimaryFlush => "primary_flush",
        }
    }

    /// What is done with the log up to the position, in messages.
    fn participle(self) -> &'static str {
        match self {
            Mode::StandbyReplay => "replayed",
            Mode::StandbyWrite => "written",
            Mode::StandbyFlush | Mode::PrimaryFlush => "flushed",
        }
    }

    fn event(self) -> WaitEvent {
        match self {
            Mode::StandbyReplay => WaitEvent::WaitForWalReplay,
            Mode::StandbyWrite => WaitEvent::WaitForWalWrite,
            Mode::StandbyFlush | Mode::PrimaryFlush => WaitEvent::WaitForWalFlush,
        }
    }

    /// How far this node is.
    fn current(self, node: &Node) -> Lsn {
        match self {
            Mode::StandbyReplay => node.recovery.applied(),
            // What came from the archive, or was there at the start, was not received.
            Mode::StandbyWrite => node.walreceiver.written_lsn().max(node.wal.flush_lsn()),
            Mode::StandbyFlush | Mode::PrimaryFlush => node.wal.flush_lsn(),
        }
    }

    /// Whether the node, which does not follow a log, may still come there.
    fn may_come(self, node: &Node, lsn: Lsn) -> bool {
        match self {
            Mode::StandbyReplay => lsn <= node.wal.insert_lsn(),
            Mode::StandbyWrite | Mode::StandbyFlush => false,
            Mode::PrimaryFlush => true,
        }
    }
}

impl Session {
    /// Waits as the command says, and queues the row of its answer; the caller sends the tag.
    ///
    /// # Errors
    /// 22P02, 22023, 42601: the command says nothing that can be understood. 55000: not here. 57014: the time is over, or a
    /// cancel came.
    pub(super) fn wait_for_lsn(&mut self, command: &WaitForLsn) -> Result<(), SqlError> {
        let wanted = understand(command)?;
        let follows = self.node.recovery.in_recovery();
        if wanted.mode == Mode::PrimaryFlush && follows {
            return Err(SqlError::new(NOT_IN_STATE, "recovery is in progress").with_hint(
                "Waiting for primary_flush can only be done on a primary server. Use standby_flush mode on a standby server.",
            ));
        }
        let outcome = self.wait_until_there(&wanted)?;
        if wanted.throw {
            self.check_outcome(outcome, &wanted, follows)?;
        }
        let status = match outcome {
            Outcome::Success => "success",
            Outcome::Timeout => "timeout",
            Outcome::NotInRecovery => "not in recovery",
        };
        let out = self.connection.output();
        let column = backend::Column { name: "status", column_type: wire::types::TEXT, typmod: -1 };
        backend::row_description(out, &[column]);
        let mut row = backend::DataRow::begin(out);
        row.text(status);
        row.finish().map_err(|error| SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, error.message))
    }

    fn wait_until_there(&self, wanted: &Wanted) -> Result<Outcome, SqlError> {
        let Wanted { lsn, mode, timeout, .. } = *wanted;
        if mode.current(self.node) >= lsn {
            return Ok(Outcome::Success);
        }
        let until = timeout.map(|timeout| clock::now().saturating_add(timeout));
        let _wakeup = self.wakeup(wanted);
        loop {
            self.me.latch().reset();
            if let Some(ended) = self.look(wanted, until) {
                self.me.latch().set();
                return ended;
            }
            self.control.wait(until, mode.event());
        }
    }

    /// Whether the wait is over, and how.
    fn look(&self, wanted: &Wanted, until: Option<MonoTime>) -> Option<Result<Outcome, SqlError>> {
        // Before the position: a promotion moves that first, and then says that it is over.
        let follows = self.node.recovery.in_recovery();
        if wanted.mode.current(self.node) >= wanted.lsn {
            return Some(Ok(Outcome::Success));
        }
        if !follows && !wanted.mode.may_come(self.node, wanted.lsn) {
            return Some(Ok(Outcome::NotInRecovery));
        }
        if let Some(interruption) = self.control.interruption() {
            return Some(Err(interruption.error()));
        }
        until.is_some_and(|until| until <= clock::now()).then_some(Ok(Outcome::Timeout))
    }

    fn wakeup(&self, wanted: &Wanted) -> Wakeup {
        let log = |reached| self.node.log_waits.begin(self.me.number(), reached, wanted.lsn);
        match wanted.mode {
            Mode::StandbyReplay => {
                Wakeup::Tables { _wait: TablesWait::begin(self.node, &self.me, wanted.lsn) }
            }
            Mode::StandbyWrite => Wakeup::Log { _wait: log(Reached::Written) },
            Mode::StandbyFlush | Mode::PrimaryFlush => Wakeup::Log { _wait: log(Reached::Flushed) },
        }
    }

    /// The error that an outcome is. `followed`: the node was a standby when the wait began.
    fn check_outcome(&self, outcome: Outcome, wanted: &Wanted, followed: bool) -> Result<(), SqlError> {
        let (name, done) = (wanted.mode.name(), wanted.mode.participle());
        let (lsn, current) = (wanted.lsn, wanted.mode.current(self.node));
        match outcome {
            Outcome::Success => Ok(()),
            Outcome::Timeout => Err(SqlError::new(
                SqlState::QUERY_CANCELED,
                format!(
                    "timed out while waiting for target LSN {lsn} to be {done}; current {name} LSN {current}"
                ),
            )),
            Outcome::NotInRecovery => {
                let error = SqlError::new(NOT_IN_STATE, "recovery is not in progress");
                Err(match followed {
                    true => error.with_detail(format!(
                        "Recovery ended before target LSN {lsn} was {done}; last {name} LSN {current}."
                    )),
                    false => error.with_hint(format!(
                        "Waiting for the {name} LSN can only be executed during recovery."
                    )),
                })
            }
        }
    }
}

const NOT_IN_STATE: SqlState = SqlState(*b"55000");

fn understand(command: &WaitForLsn) -> Result<Wanted, SqlError> {
    let lsn = position(&command.lsn)?;
    let (mut mode, mut timeout, mut no_throw) = (None, None, None);
    for option in &command.options {
        let given_before = match option.name.as_str() {
            "mode" => mode.replace(read_mode(option)?).is_some(),
            "timeout" => timeout.replace(read_timeout(option)?).is_some(),
            "no_throw" => no_throw.replace(read_flag(option)?).is_some(),
            other => {
                let message = format!("option \"{other}\" not recognized");
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, message).at(option.offset));
            }
        };
        if given_before {
            return Err(
                SqlError::new(SqlState::SYNTAX_ERROR, "conflicting or redundant options").at(option.offset)
            );
        }
    }
    Ok(Wanted {
        lsn,
        mode: mode.unwrap_or(Mode::StandbyReplay),
        timeout: timeout.flatten(),
        throw: !no_throw.unwrap_or(false),
    })
}

fn value(option: &WaitOption) -> Result<&str, SqlError> {
    option
        .value
        .as_deref()
        .ok_or_else(|| SqlError::new(SqlState::SYNTAX_ERROR, format!("{} requires a parameter", option.name)))
}

fn read_mode(option: &WaitOption) -> Result<Mode, SqlError> {
    let text = value(option)?;
    MODES.into_iter().find(|mode| mode.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
        SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("unrecognized value for WAIT option \"mode\": \"{text}\""),
        )
        .at(option.offset)
    })
}

/// None: 0, for ever.
fn read_timeout(option: &WaitOption) -> Result<Option<Duration>, SqlError> {
    let text = value(option)?;
    let milliseconds = parse_number(text, Unit::Milliseconds).ok_or_else(|| {
        SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid timeout value: \"{text}\""))
            .with_hint("Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".")
    })?;
    if i32::try_from(milliseconds).is_err() {
        return Err(SqlError::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "timeout value is out of range"));
    }
    let milliseconds = u64::try_from(milliseconds)
        .map_err(|_| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "timeout cannot be negative"))?;
    Ok(Some(Duration::from_millis(milliseconds)).filter(|timeout| !timeout.is_zero()))
}

fn read_flag(option: &WaitOption) -> Result<bool, SqlError> {
    let Some(text) = &option.value else { return Ok(true) };
    parse_bool(text).ok_or_else(|| {
        SqlError::new(SqlState::SYNTAX_ERROR, format!("{} requires a Boolean value", option.name))
    })
}
