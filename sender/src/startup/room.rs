//! What the startup process does about a full disk.
//!
//! ```text
//!            a commit or a put finds no room, or somebody uses a reserve
//!   enough ---------------------------------------------------------------> short
//!     ^     the reserve is removed, SQLite's log is copied and cut to nothing   |
//!     |                                                                         | every NO_ROOM_RETRY: what is logged
//!     +-------------------------------------------------------------------------+ is committed; the reserves are made
//! ```
//!
//! While it is short, a primary refuses writes before they are logged, and a standby puts nothing more than what it had
//! begun with; everything else goes on. What is in the log already gets into the tables with the room of the reserve, or
//! waits for other room ("stuck"): it is in the log all along. Both, the commit and the reserves in their size, must succeed
//! before writes are taken again: else they would soon use up the room that the next checkpoint, stop or start needs.
//!
//! SQLite's log is copied *and cut* (TRUNCATE): the tables grow by no more than what the log gives back, so that alone makes
//! room for the commit, as long as no reader is in the way.

use std::sync::atomic::Ordering;

use engine::checkpoint::CheckpointResult;
use engine::error::{SqlError, SqlState};
use sys::clock::{self, MonoTime};
use wal::store::reason;

use super::{NO_ROOM_RETRY, panic_if_broken};
use crate::node::{Node, take_flag};
use crate::reserve::{self, Reserve};
use crate::write_request::no_room;

/// See the module.
pub(super) struct Room {
    node: &'static Node,
    /// While it is short: when to try again.
    retry: Option<MonoTime>,
    /// What was tried last found no room.
    stuck: bool,
    /// While there is no reserve although the disk was not found full: when to try again. Nobody wakes for it: a commit looks.
    missing: Option<MonoTime>,
}

impl Room {
    /// Makes the reserves if it can. Before the first write of the tables, so that nothing has filled the disk yet.
    pub(super) fn new(node: &'static Node) -> Room {
        let mut room = Room { node, retry: None, stuck: false, missing: None };
        if let Err(error) = room.make_reserves() {
            tracing::warn!(
                "could not reserve {} bytes on the disk of the data directory: {}\nHINT:  Make room there, or lower disk_reserve.",
                node.settings().disk_reserve,
                reason(&error)
            );
            room.missing = Some(clock::now().saturating_add(NO_ROOM_RETRY));
        }
        room
    }

    fn make_reserves(&self) -> std::io::Result<()> {
        reserve::make(&self.node.data, self.node.settings().disk_reserve)
    }

    /// When to try again, while the disk is short.
    pub(super) fn retry(&self) -> Option<MonoTime> {
        self.retry
    }

    /// Whether the disk is short.
    pub(super) fn is_short(&self) -> bool {
        self.retry.is_some()
    }

    /// Whether what is logged already can't get into the tables.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Whether it's not yet time to try that again.
    pub(super) fn must_wait(&self) -> bool {
        self.stuck && self.retry.is_some_and(|due| clock::now() < due)
    }

    /// Takes note that somebody has used a reserve.
    pub(super) fn heed_release(&mut self) {
        if take_flag(&self.node.recovery.reserve_released) && !self.is_short() {
            tracing::error!("the disk is full and its reserve in use; {}", self.consequence());
            self.retry = Some(clock::now().saturating_add(NO_ROOM_RETRY));
        }
    }

    /// The tables have found no room, and no transaction is open; true: some was made, so try again at once.
    pub(super) fn run_short(&mut self, tables: &mut engine::Writer, error: &SqlError) -> bool {
        self.stuck = true;
        if self.retry.replace(clock::now().saturating_add(NO_ROOM_RETRY)).is_none() {
            tracing::error!("{}; {}", error.message, self.consequence());
        }
        let released = Reserve::Tables.release(self.node);
        let cut = self.cut_log(tables);
        self.node.recovery.reserve_released.store(0, Ordering::Relaxed);
        // The second time at the latest neither is true any more.
        let made = released || cut;
        if !made {
            // Not before: a reader that waits is to see what the reserve has room for.
            self.node.recovery.set_no_room(self.node, true);
        }
        made
    }

    fn consequence(&self) -> &'static str {
        if self.node.recovery.in_recovery() {
            "replay waits until there is room"
        } else {
            "writes are refused until there is room"
        }
    }

    /// Between two transactions: copies the tables' own log into the tables and gives its room back, as far as readers
    /// allow, with the room of the reserve if need be; whether that made room.
    pub(super) fn cut_log(&self, tables: &mut engine::Writer) -> bool {
        let before = tables.wal_size();
        let cut = match tables.checkpoint_truncate() {
            Err(error) if error.sqlstate == SqlState::DISK_FULL && Reserve::Tables.release(self.node) => {
                tables.checkpoint_truncate()
            }
            cut => cut,
        };
        cut.inspect_err(panic_if_broken).is_ok_and(|done: CheckpointResult| !done.busy && before > 0)
    }

    /// When everything that is logged has been committed: looks whether there is room again.
    pub(super) fn regain(&mut self) {
        let Some(due) = self.retry.or(self.missing) else { return };
        if self.stuck {
            self.stuck = false;
            self.node.recovery.set_no_room(self.node, false);
        }
        let now = clock::now();
        if now < due {
            return;
        }
        let made = self.make_reserves();
        if made.is_ok() {
            self.missing = None;
        } else if self.missing.is_some() {
            self.missing = Some(now.saturating_add(NO_ROOM_RETRY));
        }
        if self.retry.is_some() {
            self.retry = made.is_err().then(|| now.saturating_add(NO_ROOM_RETRY));
            if made.is_ok() {
                tracing::info!("there is room for the tables again");
                // What the log of the tables holds goes into them while there is room.
                crate::checkpointer::request_tables_checkpoint(self.node);
            }
        }
    }

    /// What a client is told whose write is refused.
    pub(super) fn refusal(&self) -> SqlError {
        no_room("could not extend file \"state/state.db\": No space left on device")
    }
}
