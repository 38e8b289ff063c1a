//! The LSN that tables hold, of a node that doesn't run: how far they are, and back to where they are to be taken for.
//!
//! For commands alone, which hold the data directory's lock: no other process has the tables open.

use std::path::Path;

use wal::lsn::Lsn;

use crate::error::SqlError;
use crate::error_map::own_error;
use crate::ffi::hooks::Watch;
use crate::ffi::{Access, Db, RawError};
use crate::schema::{self, APPLIED_TABLE};

/// Everything before this is in the tables; `Lsn::INVALID` if there are none yet.
///
/// # Errors
/// SQLite's.
pub fn applied_lsn(path: &Path) -> Result<Lsn, SqlError> {
    if !path.exists() {
        return Ok(Lsn::INVALID);
    }
    open(path).and_then(|db| schema::applied_lsn(&db)).map_err(|raw| own_error(&raw))
}

/// Makes it `lsn`, durably. What lies between must change no table.
///
/// # Errors
/// SQLite's.
pub fn set_applied_lsn(path: &Path, lsn: Lsn) -> Result<(), SqlError> {
    let set = || -> Result<(), RawError> {
        let db = open(path)?;
        db.execute("PRAGMA synchronous = FULL")?;
        db.execute(&format!("UPDATE {APPLIED_TABLE} SET lsn = {}", lsn.0.cast_signed()))
    };
    set().map_err(|raw| own_error(&raw))
}

fn open(path: &Path) -> Result<Db, RawError> {
    let db = Db::open(path, Access::ReadWrite, Watch::new())?;
    db.configure_safely()?;
    Ok(db)
}
