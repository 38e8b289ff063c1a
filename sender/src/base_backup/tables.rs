//! The copy of the tables that a base backup sends: made in a temporary file, for the time of the copying alone.

use std::fs;
use std::io;
use std::path::PathBuf;

use engine::SqlError;
use engine::backup::TablesCopy;
use engine::error::SqlState;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::file::remove_tree_if_there;
use tempfile::TempDir;
use wire::error::ErrorResponse;
use wire::sqlstate;

use super::files::TEMPORARY_DIRECTORY;
use super::io_error;
use super::outlet::Outlet;
use crate::datadir::DataDir;
use crate::node::{Node, TABLES_BUSY_TIMEOUT};
use crate::session::report_of;

const HINT: &str =
    "A base backup needs room for a copy of the tables in \"pgsql_tmp\" of the data directory.";

/// Pages (of 4 KiB) between two looks at the interrupts.
const PAGES_AT_ONCE: u16 = 1024;

/// Copies the tables as they are now. The copy goes with its directory.
pub(super) fn copy(node: &Node, me: Me, out: &mut Outlet<'_>) -> Result<TempDir, ErrorResponse> {
    let parent = node.data.root().join(TEMPORARY_DIRECTORY);
    check_room(node)?;
    let made = fs::create_dir(&parent).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    let place = made.and_then(|()| tempfile::Builder::new().prefix("backup.").tempdir_in(&parent));
    let place = place.map_err(|error| io_error("create", TEMPORARY_DIRECTORY, &error))?;
    let begun = TablesCopy::begin(&node.data.state_db(), &path(&place), TABLES_BUSY_TIMEOUT);
    let mut copying = begun.map_err(|error| failed(&error))?;
    loop {
        let step = {
            let _published = me.publish_wait(WaitEvent::TableRead);
            copying.step(PAGES_AT_ONCE)
        };
        if step.map_err(|error| failed(&error))? {
            break;
        }
        out.heed_client()?;
    }
    let applied = copying.finish().map_err(|error| failed(&error))?;
    tracing::debug!("copied the tables as of {applied} for a base backup");
    Ok(place)
}

/// Before anything is copied: a copy that would not fit would take the room from everybody else until it was found out.
fn check_room(node: &Node) -> Result<(), ErrorResponse> {
    let length = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
    // What is in SQLite's log may all be behind the end of the file.
    let needed = length(node.data.state_db()) + length(node.data.state_db_wal());
    let root = node.data.root();
    let there = sys::file::available_bytes(root)
        .map_err(|error| io_error("look at the room for", &root.display().to_string(), &error))?;
    if there >= needed {
        return Ok(());
    }
    let message = "could not copy the tables: no room in the data directory";
    Err(ErrorResponse::error(sqlstate::DISK_FULL, message)
        .with_detail(format!("The copy needs up to {needed} bytes, and {there} are free."))
        .with_hint(HINT))
}

/// Where the copy is.
pub(super) fn path(place: &TempDir) -> PathBuf {
    place.path().join("state.db")
}

/// Removes what backups left behind that a crash ended. When no other process of the node runs.
///
/// # Errors
/// Those of the file system.
pub(crate) fn remove_temporary(data: &DataDir) -> io::Result<()> {
    remove_tree_if_there(&data.root().join(TEMPORARY_DIRECTORY))
}

fn failed(error: &SqlError) -> ErrorResponse {
    let mut report = report_of(error, None);
    report.message = format!("could not copy the tables: {}", report.message);
    if error.sqlstate == SqlState::DISK_FULL {
        report.hint = Some(HINT.to_owned());
    }
    report
}
