//! What base backups mean to recovery: that of a node which was made from one, and what others have left here.
//!
//! Such a node recovers as any other does, from the LSN that its tables hold. Its control file says where the backup ended:
//! all that was acknowledged when it was taken is before that, so a node that can't get the log from elsewhere is not let
//! go with less.
//!
//! Follows PostgreSQL 15 read_backup_label() and CheckRecoveryConsistency() in
//! src/backend/access/transam/xlogrecovery.c.

use std::fs;
use std::io;

use sys::file::sync_directory;
use wal::lsn::Lsn;

use super::StartupError;
use crate::base_backup::{TEMPORARY_DIRECTORY, remove_temporary};
use crate::control::ControlFile;
use crate::node::Node;

/// Removes the copies of backups that a crash ended.
pub(super) fn remove_leftovers(node: &Node) -> Result<(), StartupError> {
    remove_temporary(&node.data).map_err(|error| {
        StartupError::new(format!("could not remove directory \"{TEMPORARY_DIRECTORY}\": {error}"))
    })
}

/// Where a primary's recovery begins to read, unless its tables are further back.
pub(super) fn reading_start(control: &ControlFile) -> Lsn {
    // A base backup of a standby that knew no checkpoint record yet has its redo alone.
    let checkpoint = Lsn(control.checkpoint);
    if checkpoint.is_valid() { checkpoint } else { Lsn(control.redo) }
}

/// A node that was made from a base backup must get the log up to the backup's end. Where none can come from but its own
/// directory, it has to be there.
pub(super) fn refuse_unfinished(node: &Node, control: &ControlFile, end: Lsn) -> Result<(), StartupError> {
    let backup_end = Lsn(control.backup_end);
    let settings = node.settings();
    let fetches = node.data.is_standby()
        && !(settings.primary_conninfo.is_empty() && settings.restore_command.is_empty());
    if fetches || end >= backup_end {
        return Ok(());
    }
    Err(StartupError::new(format!(
        "WAL ends before end of online backup\nDETAIL:  The log ends at {end}, the backup at {backup_end}.\nHINT:  All WAL generated while online backup was taken must be available at recovery."
    )))
}

/// Puts the label of the base backup aside that the directory was made from, and forgets about the backup's end once the
/// log reaches it: from here on this is a node like any other.
pub(super) fn leave(node: &Node, control: &ControlFile, end: Lsn) -> Result<(), StartupError> {
    let label = node.data.root().join("backup_label");
    let renamed = fs::rename(&label, node.data.root().join("backup_label.old"))
        .and_then(|()| sync_directory(node.data.root()));
    match renamed {
        Ok(()) => tracing::info!("starting from a base backup that ended at {}", Lsn(control.backup_end)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(StartupError::new(format!("could not rename file \"{}\": {error}", label.display())));
        }
    }
    if control.backup_end != 0 && end.0 >= control.backup_end {
        node.update_control(|control| control.backup_end = 0).map_err(StartupError::new)?;
    }
    Ok(())
}
