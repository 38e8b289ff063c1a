//! pg_promote(): asks the startup process to make a primary of this standby, and waits.
//!
//! Follows PostgreSQL 15 pg_promote() in src/backend/access/transam/xlogfuncs.c; differs in: the startup process is told
//! directly, and its barrier ends the wait.

use std::fs;
use std::time::Duration;

use engine::catalog::SystemValue;
use engine::error::{SqlError, SqlState};
use ipc::interrupt::Interrupts;
use ipc::proc::ProcNumber;
use ipc::wait_event::WaitEvent;
use sys::clock;

use super::system_info::{SessionInfo, integer, is_true, text};
use crate::hand_over;

/// How long to wait if the statement doesn't say.
const WAIT_SECONDS: i64 = 60;

impl SessionInfo {
    /// `pg_promote(wait, wait_seconds)`: whether the node is a primary, or was told to become one if there is no wait.
    pub(super) fn promote(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let wait = arguments.first().is_none_or(is_true);
        let seconds = arguments.get(1).map_or(WAIT_SECONDS, integer);
        if !self.node.recovery.in_recovery() {
            return Err(SqlError::new(SqlState(*b"55000"), "recovery is not in progress")
                .with_hint("Recovery control functions can only be executed during recovery."));
        }
        let Some(seconds) = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0) else {
            return Err(SqlError::new(SqlState(*b"22003"), "\"wait_seconds\" must not be negative or zero"));
        };
        fs::write(self.node.data.promote(), b"").map_err(|error| {
            SqlError::new(SqlState::INTERNAL_ERROR, format!("could not create file \"promote\": {error}"))
        })?;
        let procs = self.node.procs;
        let startup = procs.address(ProcNumber::STARTUP);
        if !startup.is_some_and(|startup| procs.send_interrupt(startup, Interrupts::PROMOTE)) {
            return Err(SqlError::new(SqlState::INTERNAL_ERROR, "the startup process is not there"));
        }
        if wait { self.wait_for_promotion(Duration::from_secs(seconds)) } else { Ok(true.into()) }
    }

    /// `walship_hand_over(conninfo, application_name)`: see [`crate::hand_over`].
    pub(super) fn hand_over(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let argument = |index: usize| arguments.get(index).map(text).unwrap_or_default();
        hand_over::begin(self.node, &argument(0), &argument(1))?;
        Ok(true.into())
    }

    fn wait_for_promotion(&self, timeout: Duration) -> Result<SystemValue, SqlError> {
        let end = clock::now().saturating_add(timeout);
        let result = loop {
            self.me.latch().reset();
            if let Some(interruption) = self.control.interruption() {
                break Err(interruption.error());
            }
            if !self.node.recovery.in_recovery() {
                break Ok(true);
            }
            if clock::now() >= end {
                tracing::warn!("server did not promote within {} seconds", timeout.as_secs());
                break Ok(false);
            }
            // The barrier that tells of the end of recovery sets the latch.
            self.control.wait(Some(end), WaitEvent::Promote);
        };
        // The set that ended it may have been somebody else's news.
        self.me.latch().set();
        result.map(Into::into)
    }
}
