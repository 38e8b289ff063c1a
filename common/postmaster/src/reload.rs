//! A reload as the shell carries it out: read, publish, emit the barrier, wait for the last process.
//!
//! The order of things is the state machine's; what the new configuration is, is the node's ([`crate::roles::Roles`]). The
//! wait is a part of the server loop: the last process that absorbs (or leaves) sets the postmaster's latch. Meanwhile
//! everything else goes on, also the next reload, whose wait takes the place of this one, as who absorbs the later
//! barrier has absorbed the earlier.

use std::time::Duration;

use ipc::barrier::{BarrierTypes, BarrierWait};
use sys::clock::MonoTime;
use tracing::info;

use crate::server_loop::{RunError, Server};
use crate::state::Input;

/// Most processes that are named when they are late.
const NAMED_MAX: usize = 8;

impl Server<'_> {
    /// Reads the configuration, and tells the children if it was good.
    pub(crate) fn reload(&mut self) -> Input {
        let read = (self.roles.reload)();
        if read.is_ok() {
            let generation = self.postmaster.emit_barrier(BarrierTypes::CONFIG_RELOAD);
            // The old wait ends before the new one begins: they share a word.
            self.reload_wait = None;
            self.reload_wait = Some(self.postmaster.barrier_wait(generation));
        }
        Input::ReloadRead(read)
    }

    /// Looks whether the last process has absorbed, and says who is late when it is time to. After the latch was reset.
    pub(crate) fn look_after_reload(&mut self, now: MonoTime) -> Result<(), RunError> {
        let Some(wait) = &mut self.reload_wait else { return Ok(()) };
        if wait.is_over() {
            self.reload_wait = None;
            return self.feed(Input::ReloadAbsorbed);
        }
        if let Some(laggard) = wait.reminder(now) {
            info!("{laggard}");
        }
        Ok(())
    }

    /// Until when the server loop may sleep for the sake of a reload.
    pub(crate) fn reload_timeout(&self, now: MonoTime) -> Option<Duration> {
        self.reload_wait.as_ref().map(|wait| wait.timeout(now))
    }

    /// The processes that have not absorbed yet, by the postmaster's own table: `PID 4711 (WAL writer process), …`.
    pub(crate) fn laggards(&self) -> Input {
        let late = self.reload_wait.as_ref().into_iter().flat_map(BarrierWait::laggards);
        let mut names: Vec<String> = late.map(|laggard| self.children.name_of(laggard.number)).collect();
        if names.len() > NAMED_MAX {
            let more = names.len() - NAMED_MAX;
            names.truncate(NAMED_MAX);
            names.push(format!("{more} more"));
        }
        Input::Laggards(names.join(", "))
    }
}
