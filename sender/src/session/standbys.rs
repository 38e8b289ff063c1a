//! A session that waits for synchronous standbys, and what its client is told when it gives up.
//!
//! Follows PostgreSQL 15 SyncRepWaitForLSN() in src/backend/replication/syncrep.c; differs in: what has been committed on this
//! node alone is seen by nobody.

use engine::control::Interruption;
use settings::table::SynchronousCommit;
use sys::clock::MonoTime;
use wire::backend;
use wire::error::{ErrorResponse, Severity};
use wire::sqlstate::{self, SqlState};

use super::query::Failure;
use super::{Session, terminated};
use crate::sync_rep::{self, Awaited, wait};
use ipc::wait_event::WaitEvent;

const COMMITTED_HERE: &str =
    "The transaction has already committed locally, but might not have been replicated to the standby.";

impl Session {
    /// What this session's commits wait for. With synchronous standbys none waits for less than their flush; the first
    /// one that is set to is told so.
    pub(super) fn commit_level(&mut self) -> Result<SynchronousCommit, Failure> {
        let level = self.settings.borrow().current().synchronous_commit;
        if level < SynchronousCommit::On && !self.told_of_level && sync_rep::is_synchronous(self.node) {
            self.told_of_level = true;
            let message = format!(
                "synchronous_commit = {} waits as on does while synchronous_standby_names is set",
                level.word()
            );
            let notice = ErrorResponse::notice(sqlstate::SUCCESSFUL_COMPLETION, message);
            backend::notice_response(self.connection.output(), &notice);
        }
        Ok(level)
    }

    /// Waits until the standbys have confirmed what an answer to this client rests on, since `since`; false: the client doesn't
    /// want to wait any longer. `committed`: the answer is that a transaction has committed.
    pub(super) fn await_standbys(
        &mut self,
        rests_on: Awaited,
        since: MonoTime,
        committed: bool,
    ) -> Result<bool, Failure> {
        if rests_on.has_come(self.node) {
            return Ok(true);
        }
        let control = &self.control;
        let stop = || control.interruption().is_some();
        let sleep = |until| control.wait(until, WaitEvent::SyncRep);
        if wait::wait(self.node, &self.me, rests_on, since, stop, sleep) {
            return Ok(true);
        }
        let Some(interruption) = self.control.interruption() else { return Ok(false) };
        if !committed {
            return Err(interruption.error().into());
        }
        match interruption {
            Interruption::Terminate => {
                self.warn_of_standbys(
                    sqlstate::ADMIN_SHUTDOWN,
                    "canceling the wait for synchronous replication and terminating connection due to administrator command",
                );
                // Not a word of how the transaction ended: the client can't rely on either.
                let _ = self.connection.flush();
                Err(Failure::Fatal(terminated().with_severity(Severity::CommError)))
            }
            Interruption::ClientLost => Err(interruption.error().into()),
            _ => {
                self.warn_of_standbys(
                    sqlstate::WARNING,
                    "canceling wait for synchronous replication due to user request",
                );
                self.control.finish();
                Ok(false)
            }
        }
    }

    fn warn_of_standbys(&mut self, sqlstate: SqlState, message: &str) {
        tracing::warn!("{message}\nDETAIL:  {COMMITTED_HERE}");
        let mut warning = ErrorResponse::warning(message).with_detail(COMMITTED_HERE);
        warning.sqlstate = sqlstate;
        backend::notice_response(self.connection.output(), &warning);
    }
}
