//! The control file: who this node is and where recovery may begin.
//!
//! Its form is that of every small file here ([`crate::sealed_file`]).
//!
//! Written whole by temporary file and rename: by `init` and `clone`, then by the startup process (state and timeline,
//! until recovery has ended) and the checkpointer (the rest, always), each under a lock ([`Node::update_control`]): so a
//! restart point that is under way when a standby is promoted takes nothing of the promotion back. Read once at start by
//! the postmaster.
//!
//! Follows PostgreSQL 15 src/include/catalog/pg_control.h; differs in: the applied LSN is not here but in the tables
//! themselves, in the transaction that it belongs to.

use std::io;
use std::path::Path;

use bincode::{Decode, Encode};

use crate::node::Node;
use crate::reserve::with_room;
use crate::sealed_file::Seal;

/// What the node was doing when the file was written. `pg_control`'s DBState.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, PartialEq)]
pub enum NodeState {
    /// Made by `init` or `clone`, never started.
    StartingUp,
    /// A primary that was shut down; its last record is a shutdown checkpoint.
    ShutDown,
    /// A standby that was shut down.
    ShutDownInRecovery,
    /// A primary whose recovery hasn't ended.
    InCrashRecovery,
    /// A standby at work.
    InArchiveRecovery,
    /// A primary at work.
    InProduction,
}

impl NodeState {
    /// The text of pg_controldata.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::StartingUp => "starting up",
            NodeState::ShutDown => "shut down",
            NodeState::ShutDownInRecovery => "shut down in recovery",
            NodeState::InCrashRecovery => "in crash recovery",
            NodeState::InArchiveRecovery => "in archive recovery",
            NodeState::InProduction => "in production",
        }
    }
}

/// Content of the control file.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub struct ControlFile {
    /// Same on a primary and all its standbys; made by `init`.
    pub system_identifier: u64,
    /// Bytes in a log segment; fixed by `init`.
    pub segment_size: u32,
    /// Timeline that the log is written (or followed) on.
    pub timeline: u32,
    /// See [`NodeState`].
    pub state: NodeState,
    /// Start LSN of the last checkpoint record; 0 before the first.
    pub checkpoint: u64,
    /// Redo LSN of that checkpoint: nothing at or after it may be removed. 0 = the start of the log.
    pub redo: u64,
    /// End of the base backup that this directory was made from; 0: it wasn't, or the tables have got there. Without an
    /// upstream or an archive the node doesn't start from a log that ends before.
    pub backup_end: u64,
    /// When the file was written, µs since 2000-01-01 UTC.
    pub time: i64,
}

const SEAL: Seal = Seal { name: "control file", magic: b"WSCF", version: 2 };

impl ControlFile {
    /// That of a node which has never been started.
    pub fn new(system_identifier: u64, segment_size: u32, timeline: u32) -> ControlFile {
        ControlFile {
            system_identifier,
            segment_size,
            timeline,
            state: NodeState::StartingUp,
            checkpoint: 0,
            redo: 0,
            backup_end: 0,
            time: 0,
        }
    }

    /// Whether the node was a standby until now: its log was received. Such a log may be torn anywhere behind what was flushed
    /// here, whatever its records say of the primary's.
    pub fn is_received(&self) -> bool {
        matches!(self.state, NodeState::InArchiveRecovery | NodeState::ShutDownInRecovery)
    }

    /// Reads and checks the file.
    ///
    /// # Errors
    /// It can't be read, or isn't one (magic, version, CRC); the text names the path.
    pub fn read(path: &Path) -> io::Result<ControlFile> {
        SEAL.read(path)
    }

    /// Checks a file's bytes. Error: why they are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<ControlFile, String> {
        SEAL.decode(bytes)
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        SEAL.encode(self)
    }

    /// Replaces the file durably.
    ///
    /// # Errors
    /// Those of the file system; the old file is then still there.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        SEAL.write(path, self)
    }
}

impl Node {
    /// Has the control file changed as it is now, durably, with the room of the reserve if the disk is full; what it is
    /// then. One process at a time.
    ///
    /// # Errors
    /// Those of the file; the old one is then still there.
    pub fn update_control(&self, change: impl FnOnce(&mut ControlFile)) -> io::Result<ControlFile> {
        let _alone = self.control_lock.lock();
        let path = self.data.control();
        let mut control = ControlFile::read(&path)?;
        change(&mut control);
        with_room(self, || control.write(&path))?;
        Ok(control)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn write_then_read_gives_the_same_and_a_flipped_bit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let mut control = ControlFile::new(0x1234_5678_9abc_def0, 1 << 20, 3);
        control.state = NodeState::InProduction;
        control.redo = 0x0100_0028;
        control.write(&path).unwrap();
        assert_eq!(ControlFile::read(&path).unwrap(), control);

        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            assert!(ControlFile::read(&path).is_err(), "byte {at}");
            fs::write(&path, &bytes[..at]).unwrap();
            assert!(ControlFile::read(&path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn read_of_a_missing_file_names_it() {
        let error = ControlFile::read(Path::new("/nonexistent/control")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/control"), "{error}");
    }
}
