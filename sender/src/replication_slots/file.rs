//! Slots on disk: `pg_replslot/NAME/state`, one directory per slot.
//!
//! A slot is there from the moment when its directory has its name to the moment when it has it no more:
//!
//! ```text
//! make:    mkdir NAME.tmp ; write state in it, fsync ; rename NAME.tmp NAME ; fsync pg_replslot
//! change:  write a temporary file in NAME, fsync ; rename it to state ; fsync NAME
//! remove:  rename NAME NAME.tmp ; fsync pg_replslot ; remove NAME.tmp and what is in it
//! ```
//!
//! So whatever moment a crash picks, the next start finds each slot whole or not at all, and [`read_all`] clears away what is
//! called `.tmp`, or was half of a change. Before anything in a `.tmp` goes, pg_replslot is synced: else a power loss could give
//! the directory its old name back, and leave it empty.
//!
//! Follows PostgreSQL 15 src/backend/replication/slot.c (SaveSlotToPath, RestoreSlotFromDisk); differs in: our own format.

use std::fs;
use std::io;
use std::path::Path;

use bincode::{Decode, Encode};
use failpoint::Site;
use sys::file::{remove_tree_if_there, sync_directory};
use wal::store::{hint, reason};

use crate::sealed_file::Seal;

/// What is kept of a slot.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub(super) struct SlotState {
    /// Same as that of the directory.
    pub(super) name: String,
    /// The log from here on is kept; 0: none yet, or none any more.
    pub(super) restart_lsn: u64,
    /// What it was when the slot was invalidated; 0: it is valid.
    pub(super) invalidated_lsn: u64,
}

const SEAL: Seal = Seal { name: "replication slot file", magic: b"WSRS", version: 1 };
const STATE: &str = "state";
const TEMPORARY: &str = ".tmp";

/// Makes a slot's directory.
///
/// # Errors
/// Those of the file system; nothing is there then that a start would take for a slot.
pub(super) fn make(directory: &Path, state: &SlotState) -> io::Result<()> {
    let temporary = directory.join(format!("{}{TEMPORARY}", state.name));
    remove_leftover(directory, &temporary)?;
    let name = || fs::rename(&temporary, directory.join(&state.name));
    let made = fs::create_dir(&temporary)
        .and_then(|()| SEAL.write(&temporary.join(STATE), state))
        .and_then(|()| failpoint::io(Site::SlotMake, name))
        .and_then(|()| sync_directory(directory));
    made.inspect_err(|_| {
        // Best effort: the error that led here is what must be seen. The next start does the rest.
        let _ = remove(directory, &state.name);
        let _ = remove_tree_if_there(&temporary);
    })
}

/// Replaces what is kept of a slot.
///
/// # Errors
/// Those of the file system; the old state is then still there.
pub(super) fn save(directory: &Path, state: &SlotState) -> io::Result<()> {
    SEAL.write(&directory.join(&state.name).join(STATE), state)
}

/// Removes a slot's directory.
///
/// # Errors
/// The directory can't be renamed: the slot is still there. That it can't be emptied afterwards is none.
pub(super) fn remove(directory: &Path, name: &str) -> io::Result<()> {
    let temporary = directory.join(format!("{name}{TEMPORARY}"));
    remove_leftover(directory, &temporary)?;
    failpoint::io(Site::SlotRemove, || fs::rename(directory.join(name), &temporary))?;
    sync_directory(directory)?;
    if let Err(error) = remove_tree_if_there(&temporary) {
        tracing::warn!("could not remove directory \"{}\": {error}", temporary.display());
    }
    Ok(())
}

/// Every slot, in the order of their names, and clears away what crashes have left. No other process may be at it.
///
/// # Errors
/// A directory can't be read, or a state is none: the text names the file.
pub(super) fn read_all(directory: &Path) -> io::Result<Vec<SlotState>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("could not read directory \"{}\": {error}", directory.display()))
    };
    // Names that a process gave which was killed before it could sync them.
    sync_directory(directory).map_err(|error| {
        let (path, reason, hint) = (directory.display(), reason(&error), hint(&error));
        io::Error::new(error.kind(), format!("could not fsync directory \"{path}\": {reason}{hint}"))
    })?;
    let mut states = Vec::new();
    for entry in fs::read_dir(directory).map_err(named)? {
        let entry = entry.map_err(named)?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !entry.file_type().map_err(named)?.is_dir() {
            continue;
        }
        if name.ends_with(TEMPORARY) {
            remove_tree_if_there(&path)?;
            continue;
        }
        clear_temporary(&path)?;
        let state: SlotState = SEAL.read(&path.join(STATE))?;
        if state.name != name {
            let text =
                format!("replication slot file in \"{}\" is that of slot \"{}\"", path.display(), state.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        states.push(state);
    }
    states.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(states)
}

/// Removes what changes that were cut short have left in a slot's directory.
fn clear_temporary(slot: &Path) -> io::Result<()> {
    for entry in fs::read_dir(slot)? {
        let entry = entry?;
        if entry.file_name() != STATE {
            fs::remove_file(entry.path())?;
        }
    }
    // So that what is read is what a power loss would leave.
    let state = slot.join(STATE);
    fs::File::open(&state).and_then(|file| file.sync_all()).map_err(|error| {
        io::Error::new(error.kind(), format!("could not read file \"{}\": {error}", state.display()))
    })?;
    sync_directory(slot)
}

/// Removes what an attempt that failed has left.
fn remove_leftover(directory: &Path, temporary: &Path) -> io::Result<()> {
    if temporary.exists() {
        sync_directory(directory)?;
        remove_tree_if_there(temporary)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, restart_lsn: u64) -> SlotState {
        SlotState { name: name.to_owned(), restart_lsn, invalidated_lsn: 0 }
    }

    #[test]
    fn slots_are_read_as_they_were_made_and_changed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), []);
        make(dir.path(), &state("b", 0)).unwrap();
        make(dir.path(), &state("a", 7)).unwrap();
        save(dir.path(), &state("b", 0x100_0028)).unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), [state("a", 7), state("b", 0x100_0028)]);
        remove(dir.path(), "a").unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), [state("b", 0x100_0028)]);
        assert!(remove(dir.path(), "a").is_err());
    }

    #[test]
    fn leftovers_of_every_step_are_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &state("kept", 7)).unwrap();
        // Made, but not named; removed, but not gone; empty.
        make(dir.path(), &state("half", 7)).unwrap();
        fs::rename(dir.path().join("half"), dir.path().join("half.tmp")).unwrap();
        fs::create_dir(dir.path().join("empty.tmp")).unwrap();
        // A change that was cut short.
        fs::write(dir.path().join("kept/.tmpXYZ"), "half of a st").unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), [state("kept", 7)]);
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"]);
        assert_eq!(fs::read_dir(dir.path().join("kept")).unwrap().count(), 1);
        // A leftover doesn't keep a slot of its name from being made, or removed.
        fs::create_dir(dir.path().join("new.tmp")).unwrap();
        make(dir.path(), &state("new", 1)).unwrap();
        fs::create_dir(dir.path().join("new.tmp")).unwrap();
        remove(dir.path(), "new").unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), [state("kept", 7)]);
    }

    #[test]
    fn damaged_state_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &state("s", 7)).unwrap();
        let path = dir.path().join("s/state");
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let error = read_all(dir.path()).unwrap_err().to_string();
            assert!(error.contains("s/state"), "byte {at}: {error}");
        }
        fs::write(&path, &bytes).unwrap();
        fs::rename(dir.path().join("s"), dir.path().join("other")).unwrap();
        assert!(read_all(dir.path()).unwrap_err().to_string().contains("that of slot \"s\""));
    }
}
