//! Waiting until the standbys that count have confirmed something.

use ipc::proc::ProcNumber;
use ipc::process::Me;
use sys::clock::{self, MonoTime};

use super::{Awaited, Confirmation, SyncWait, advance, shortfall};
use crate::node::Node;
use crate::ordering;

impl SyncWait {
    /// The owner waits from here on. It looks at the position after this, and only then sleeps.
    fn announce(&self, awaited: Awaited) {
        match awaited.confirmation {
            Confirmation::Durable => ordering::announce_wait(&self.horizon, awaited.lsn.0),
            Confirmation::Applied => ordering::announce_wait(&self.applied, awaited.lsn.0),
        }
    }

    fn end(&self) {
        ordering::end_wait(&self.horizon);
        ordering::end_wait(&self.applied);
    }
}

/// Waits until it has come or `stop` says that an interrupt wants attention; whether it has come. `sleep` waits for the
/// latch, at most until then. Who has been waiting since `since` for longer than `sync_wait_warning` says so in the log.
pub fn wait(
    node: &Node,
    me: &Me,
    awaited: Awaited,
    since: MonoTime,
    mut stop: impl FnMut() -> bool,
    sleep: impl Fn(Option<MonoTime>),
) -> bool {
    let own = &node.sync_waits[me.number().index()];
    node.sync_rep.begin_wait();
    own.announce(awaited);
    // The settings of whoever flushed last may have been older than this process's.
    if advance(node) {
        node.wake_walsenders();
    }
    let mut warned = false;
    let has_come = loop {
        if awaited.has_come(node) {
            break true;
        }
        if stop() {
            break false;
        }
        // Before a time-out is computed from settings.
        me.serve_barriers();
        let due = node.settings().sync_wait_warning.map(|after| since.saturating_add(after));
        let due = due.filter(|_| !warned);
        if due.is_some_and(|due| due <= clock::now()) {
            shortfall::say_once(node, since, awaited);
            warned = true;
            continue;
        }
        sleep(due);
        me.latch().reset();
    };
    own.end();
    node.sync_rep.end_wait();
    // The set that was consumed may have been other news.
    me.latch().set();
    has_come
}

/// Has this process woken when it has come; for who waits for other things as well. Whether it has come already. Ends
/// with [`cease`].
pub(crate) fn expect(node: &Node, me: &Me, awaited: Awaited) -> bool {
    let own = &node.sync_waits[me.number().index()];
    node.sync_rep.begin_wait();
    own.announce(awaited);
    awaited.has_come(node)
}

/// Ends what [`expect`] began.
pub(crate) fn cease(node: &Node, me: &Me) {
    node.sync_waits[me.number().index()].end();
    node.sync_rep.end_wait();
}

/// Whether a process waits by itself, for pg_stat_activity.
pub fn is_waiting(node: &Node, number: ProcNumber) -> bool {
    let own = &node.sync_waits[number.index()];
    ordering::awaited(&own.horizon).is_some() || ordering::awaited(&own.applied).is_some()
}
