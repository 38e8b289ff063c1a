//! The reserves: files that keep room on the disk for what must be written although it is full.
//!
//! A full disk stops more than new writes. SQLite's checkpoint has to extend `state.db` before its log can start over, and
//! what is acknowledged must still get into the tables for readers to see it: for these a node keeps `disk_reserve` bytes
//! beside the tables ([`Reserve::Tables`]). And every small file (control, pid file) is replaced by a new one, which needs a
//! block first: for these [`FILES_BYTES`] in the data directory ([`Reserve::Files`]), which is another disk where the tables
//! have their own. They are apart, as somebody else may fill the disk again while the first is in use; the node is still to
//! be stopped and started then.
//!
//! Who finds no room removes the reserve and tries again. What is freed so belongs to that purpose alone: from then on the
//! startup process refuses writes ([`crate::startup`], its `room`) until there is room for the reserves again.
//!
//! Made by the startup process only; removed by whoever needs it (unlink is atomic: one of several removes it). Nothing of
//! them is ever synced: they are no data. A node on whose disk there is no room for them at its start runs without, and
//! tries again now and then when it commits.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use sys::file::{allocate, available_bytes, no_space_left, remove_if_there};
use wal::store::ROOM_LEFT;

use crate::datadir::DataDir;
use crate::node::Node;

/// What the room is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Commits and checkpoints of the tables.
    Tables,
    /// Small files that are replaced.
    Files,
}

/// Room for small files, bytes.
pub const FILES_BYTES: u64 = 64 << 10;

impl Reserve {
    /// Where it is: `state/reserve` or `reserve`.
    pub fn path(self, data: &DataDir) -> PathBuf {
        match self {
            Reserve::Tables => data.root().join("state").join("reserve"),
            Reserve::Files => data.root().join("reserve"),
        }
    }

    /// Where it isn't there in its size, and `left` bytes remain beside it.
    fn make(self, data: &DataDir, bytes: u64, left: u64) -> io::Result<()> {
        let path = self.path(data);
        let found = fs::metadata(&path).map_or(0, |meta| meta.len());
        if found == bytes {
            return Ok(());
        }
        self.remove(data)?;
        if bytes == 0 {
            return Ok(());
        }
        let directory = path.parent().expect("a file in a data directory has a parent");
        if available_bytes(directory)? < bytes.saturating_add(left) {
            return Err(no_space_left());
        }
        let made = File::create(&path).and_then(|file| allocate(&file, bytes));
        if made.is_err() {
            // The room that it has by now is somebody's.
            self.remove(data)?;
        }
        made
    }

    fn remove(self, data: &DataDir) -> io::Result<bool> {
        remove_if_there(&self.path(data))
    }

    /// Gives its room to the disk; false when there was none. For whoever has no shared memory yet: the postmaster at its
    /// start, who tells the startup process later.
    pub fn release_unseen(self, data: &DataDir) -> bool {
        self.remove(data).unwrap_or(false)
    }

    /// Gives its room to the disk, and has the startup process refuse writes until it is back; false when there was none.
    pub fn release(self, node: &Node) -> bool {
        let released = self.release_unseen(&node.data);
        if released {
            node.recovery.reserve_released.store(1, Ordering::Release);
            node.wake_startup();
        }
        released
    }
}

/// Makes those reserves that aren't there in their size: of `bytes` for the tables, none at all if that is 0. Only where
/// [`ROOM_LEFT`] remains beside them.
///
/// # Errors
/// There is no room, or the file system refused.
pub fn make(data: &DataDir, bytes: u64) -> io::Result<()> {
    Reserve::Files.make(data, FILES_BYTES.min(bytes), ROOM_LEFT)?;
    Reserve::Tables.make(data, bytes, ROOM_LEFT)
}

/// Replaces a small file by `action`; if the disk is full, once more with the room of the reserve, which as a rule is there
/// again afterwards: the old file is gone.
///
/// # Errors
/// Those of `action`.
pub fn with_room<T>(node: &Node, mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match action() {
        Err(error) if is_full(&error) && Reserve::Files.release(node) => {
            let done = action();
            // If not, the startup process tries until there is room.
            let _made = Reserve::Files.make(&node.data, FILES_BYTES, 0);
            done
        }
        done => done,
    }
}

/// Whether the disk (or the quota) is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_have_the_size_that_was_asked_for_or_are_not_there() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::new(parent.path());
        fs::create_dir(parent.path().join("state")).unwrap();
        let size = |reserve: Reserve| fs::metadata(reserve.path(&data)).ok().map(|meta| meta.len());
        let sizes = || (size(Reserve::Tables), size(Reserve::Files));
        make(&data, 1 << 20).unwrap();
        assert_eq!(sizes(), (Some(1 << 20), Some(FILES_BYTES)));
        make(&data, 2 << 20).unwrap();
        assert_eq!(sizes(), (Some(2 << 20), Some(FILES_BYTES)));
        assert!(is_full(&make(&data, 1 << 60).unwrap_err()));
        assert_eq!(sizes(), (None, Some(FILES_BYTES)));
        assert!(Reserve::Files.release_unseen(&data));
        assert!(!Reserve::Files.release_unseen(&data));
        make(&data, 4096).unwrap();
        make(&data, 0).unwrap();
        assert_eq!(sizes(), (None, None));
    }
}
