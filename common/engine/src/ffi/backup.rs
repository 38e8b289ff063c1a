//! SQLite's online backup: page by page from one connection's database into another's.

use std::ptr::NonNull;

use rusqlite::ffi;

use super::{Db, RawError};

/// A backup that has begun.
#[derive(Debug)]
pub(crate) struct Backup {
    raw: Option<NonNull<ffi::sqlite3_backup>>,
    // Both connections have to outlive the backup.
    _source: Db,
    _destination: Db,
}

impl Backup {
    pub(crate) fn begin(source: &Db, destination: &Db) -> Result<Backup, RawError> {
        let main = c"main".as_ptr();
        // SAFETY: both connections are open, both names are C strings.
        let raw = unsafe { ffi::sqlite3_backup_init(destination.raw(), main, source.raw(), main) };
        let raw = NonNull::new(raw).ok_or_else(|| destination.last_error(ffi::SQLITE_ERROR))?;
        Ok(Backup { raw: Some(raw), _source: source.clone(), _destination: destination.clone() })
    }

    /// Copies up to `pages`; whether that was the rest.
    pub(crate) fn step(&mut self, pages: u16) -> Result<bool, RawError> {
        let raw = self.raw.expect("a backup is not stepped after its end").as_ptr();
        // SAFETY: the backup was begun and is not finished.
        match unsafe { ffi::sqlite3_backup_step(raw, i32::from(pages)) } {
            ffi::SQLITE_OK => Ok(false),
            ffi::SQLITE_DONE => Ok(true),
            // Steps don't leave their error with a connection.
            code => Err(RawError::new(code, &code_text(code))),
        }
    }

    /// Ends the backup; an error if it was not complete or could not be completed.
    pub(crate) fn finish(mut self, destination: &Db) -> Result<(), RawError> {
        match self.end() {
            ffi::SQLITE_OK => Ok(()),
            code => Err(destination.last_error(code)),
        }
    }

    fn end(&mut self) -> i32 {
        match self.raw.take() {
            // SAFETY: the backup was begun, and this is the one place where it ends, once.
            Some(raw) => unsafe { ffi::sqlite3_backup_finish(raw.as_ptr()) },
            None => ffi::SQLITE_OK,
        }
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        self.end();
    }
}

fn code_text(code: i32) -> String {
    // SAFETY: takes any number; the text is a constant of SQLite's.
    let text = unsafe { ffi::sqlite3_errstr(code) };
    // SAFETY: as above.
    unsafe { super::text_of(text) }
}
