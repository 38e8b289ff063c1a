//! A child has ended: collect its status, free its slot, tell the state machine.
//!
//! Each child's pidfd is in the postmaster's wait event set, so an exit is an event among others, of one known child;
//! there is no SIGCHLD handler and no loop over "any child". But for one case: in a container the postmaster can be process
//! 1, which the kernel makes the parent of every orphan, such as what an archive_command leaves behind. Then it reads SIGCHLD,
//! too, and goes by who has ended: a child of its own as if its pidfd had told, a stranger is reaped and forgotten.

use failpoint::Site;
use ipc::wait_event_set::Position;
use sys::process::{self, ExitStatus};
use tracing::{debug, error};

use crate::child_kind::ChildEnd;
use crate::server_loop::{RunError, Server};
use crate::state::Input;

/// Stands for an exit status that could not be had: counts as a crash.
const UNKNOWN_STATUS: ExitStatus = ExitStatus::Exited(255);

impl Server<'_> {
    /// Reaps the child whose pidfd is at the position; `None`: it has not ended after all.
    pub(crate) fn reap(&mut self, position: Position) -> Result<Option<ChildEnd>, RunError> {
        let Some(child) = self.children.at(position) else { return Ok(None) };
        let status = match failpoint::step(Site::Reap, || child.pidfd.wait()) {
            Ok(None) => return Ok(None),
            Ok(Some(status)) => status,
            // Not to be tried again: the event would come back at once, for ever.
            Err(error) => {
                error!(
                    "could not get exit status of {} (PID {}): {error}",
                    child.kind.row().log_name,
                    child.pid()
                );
                UNKNOWN_STATUS
            }
        };
        let wait_set = self.wait_set.as_mut().expect("the postmaster has its wait event set");
        wait_set.remove(position).map_err(RunError::io("stop watching child process"))?;
        let activity = self.roles.activity;
        let end = failpoint::step(Site::SlotFree, || self.children.remove(position, status, activity));
        if let Some(end) = &end {
            debug!("reaped: {end}");
        }
        Ok(end)
    }

    /// SIGCHLD came: reaps all that have ended.
    pub(crate) fn reap_all(&mut self) -> Result<(), RunError> {
        let failed = || RunError::io("wait for an orphan");
        while let Some(pid) = process::ended_child().map_err(failed())? {
            let own = self.children.iter().find(|(_, child)| child.pid() == pid);
            let Some(position) = own.map(|(_, child)| child.position) else {
                process::reap(pid).map_err(failed())?;
                debug!("reaped an orphan (PID {pid})");
                continue;
            };
            if let Some(end) = self.reap(position)? {
                self.feed(Input::ChildExited(end))?;
            }
        }
        Ok(())
    }
}
