//! Sleeping on the own latch, for processes that wait for nothing else.
//!
//! Who is about to sleep absorbs barriers first: so no process that sleeps holds up whoever waits for all of them,
//! however deep inside its work it sleeps. The set of the latch that comes with a barrier ends the sleep, so a loop that
//! computes its time-out from a setting computes it anew.

use std::time::Duration;

use ipc::process::Me;
use ipc::wait_event::WaitEvent;

/// Sleeps until the own latch is set, the time-out passes or an interrupt comes; ends this process with the postmaster.
///
/// Panics if the kernel refuses to wait on descriptors that this process made itself: nothing could go on then.
pub fn wait_latch(me: &Me, timeout: Option<Duration>, event: WaitEvent) {
    me.serve_barriers();
    ipc::wait_latch(me, timeout, event).expect("waiting on the own latch doesn't fail");
}
