//! SQLite's C interface, wrapped as far as this crate needs it; the only place with `unsafe`.
//!
//! rusqlite's own connection is not used: the pre-update hook, error offsets, the tail of a prepared text, value
//! subtypes and `sqlite3_db_config` between two statements are all outside of what it offers without libclang.
//!
//! [`Db`] is a counted reference to one connection; statements hold one too, so the connection is closed after the last
//! of them. What SQLite calls back ([`hooks`], [`function`], [`vtab`]) reaches the [`Watch`] that lives as long as the
//! connection. Nothing here may leave the process or thread that opened it: `Rc` and the raw pointers see to that.

#![allow(unsafe_code)]

pub(crate) mod backup;
pub(crate) mod function;
pub(crate) mod hooks;
pub(crate) mod statement;
mod vfs;
pub(crate) mod vtab;

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::time::Duration;

use rusqlite::ffi;

use self::hooks::Watch;
use self::statement::Statement;

const _: () =
    assert!(ffi::SQLITE_VERSION_NUMBER >= 3_051_003, "older SQLite loses commits when its log starts over");

/// What SQLite said when something failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawError {
    /// Extended result code
    pub(crate) code: c_int,
    pub(crate) message: String,
    /// Byte of the SQL text
    pub(crate) offset: Option<usize>,
    /// What the system said, when SQLite could not open, read or write a file; 0: nothing.
    pub(crate) errno: c_int,
}

impl RawError {
    /// A failure that nobody but SQLite had a hand in.
    pub(crate) fn new(code: c_int, message: &str) -> RawError {
        RawError { code, message: message.into(), offset: None, errno: 0 }
    }

    /// The result code without its extension.
    pub(crate) fn primary_code(&self) -> c_int {
        self.code & 0xff
    }
}

/// How a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    /// Creates the file if there is none.
    ReadWrite,
}

/// A reference to a connection.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    connection: Rc<Connection>,
}

#[derive(Debug)]
struct Connection {
    raw: NonNull<ffi::sqlite3>,
    watch: Watch,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: `raw` was opened by `Db::open`, every statement holds a reference to this value and is finalized
        // before it lets go of it, so nothing uses the connection any more.
        unsafe { ffi::sqlite3_close(self.raw.as_ptr()) };
    }
}

impl Db {
    /// Opens a file and hangs the watch into SQLite's hooks.
    pub(crate) fn open(path: &Path, access: Access, watch: Watch) -> Result<Db, RawError> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| RawError::new(ffi::SQLITE_CANTOPEN, "path contains a zero byte"))?;
        let flags = match access {
            Access::ReadOnly => ffi::SQLITE_OPEN_READONLY,
            Access::ReadWrite => ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE,
        } | ffi::SQLITE_OPEN_NOMUTEX
            | ffi::SQLITE_OPEN_EXRESCODE;
        vfs::install();
        let mut raw = ptr::null_mut();
        // SAFETY: `name` is a C string that outlives the call, `raw` takes the pointer.
        let code = unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &raw mut raw, flags, ptr::null()) };
        let Some(raw) = NonNull::new(raw) else {
            return Err(RawError::new(ffi::SQLITE_NOMEM, "out of memory"));
        };
        let db = Db { connection: Rc::new(Connection { raw, watch }) };
        db.check(code)?;
        db.install_hooks();
        Ok(db)
    }

    pub(crate) fn watch(&self) -> &Watch {
        &self.connection.watch
    }

    fn raw(&self) -> *mut ffi::sqlite3 {
        self.connection.raw.as_ptr()
    }

    fn check(&self, code: c_int) -> Result<(), RawError> {
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.error(code)) }
    }

    /// The connection's last error; call it before anything else touches the connection.
    fn error(&self, code: c_int) -> RawError {
        // SAFETY: the connection is open.
        let message = unsafe { ffi::sqlite3_errmsg(self.raw()) };
        // SAFETY: the text stays until the next call on this connection; it is copied before.
        let message = unsafe { text_of(message) };
        // SAFETY: the connection is open.
        let extended = unsafe { ffi::sqlite3_extended_errcode(self.raw()) };
        // SAFETY: the connection is open.
        let offset = unsafe { ffi::sqlite3_error_offset(self.raw()) };
        let code = if extended & 0xff == code & 0xff { extended } else { code };
        let errno = match code & 0xff {
            // SAFETY: the connection is open.
            ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN => unsafe { ffi::sqlite3_system_errno(self.raw()) },
            _ => 0,
        };
        RawError { code, message, offset: usize::try_from(offset).ok(), errno }
    }

    /// Prepares the first statement of a text; also returns how many bytes of it that took. `None` when there is none.
    pub(crate) fn prepare(
        &self,
        sql: &str,
        persistent: bool,
    ) -> Result<(Option<Statement>, usize), RawError> {
        let too_big = || RawError::new(ffi::SQLITE_TOOBIG, "statement is too long");
        let length = c_int::try_from(sql.len()).map_err(|_| too_big())?;
        let flags = if persistent { ffi::SQLITE_PREPARE_PERSISTENT } else { 0 };
        let start: *const c_char = sql.as_ptr().cast();
        let (mut raw, mut tail) = (ptr::null_mut(), start);
        // SAFETY: `start` is valid for `length` bytes during the call; the two out-pointers are ours.
        let code =
            unsafe { ffi::sqlite3_prepare_v3(self.raw(), start, length, flags, &raw mut raw, &raw mut tail) };
        self.check(code)?;
        let used = (tail as usize).saturating_sub(start as usize).min(sql.len());
        Ok((NonNull::new(raw).map(|raw| Statement::new(self.clone(), raw)), used))
    }

    /// Prepares one of our own statements, to be used again and again.
    pub(crate) fn prepare_own(&self, sql: &str) -> Result<Statement, RawError> {
        self.prepare(sql, true).map(|(statement, _)| statement.expect("our own text holds a statement"))
    }

    /// Runs one statement of our own without parameters; rows are ignored.
    pub(crate) fn execute(&self, sql: &str) -> Result<(), RawError> {
        if let Some(mut statement) = self.prepare(sql, false)?.0 {
            while statement.step()? {}
        }
        Ok(())
    }

    /// Whether no transaction is open.
    pub(crate) fn autocommit(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_get_autocommit(self.raw()) != 0 }
    }

    /// Rows that the statement just ended inserted, updated or deleted itself.
    pub(crate) fn changes(&self) -> u64 {
        // SAFETY: the connection is open.
        let changes = unsafe { ffi::sqlite3_changes64(self.raw()) };
        u64::try_from(changes).unwrap_or(0)
    }

    /// Whether COMMIT would fail for a foreign key.
    pub(crate) fn foreign_key_violated(&self) -> bool {
        let (mut current, mut highest): (c_int, c_int) = (0, 0);
        // SAFETY: the connection is open, both out-pointers are ours.
        unsafe {
            ffi::sqlite3_db_status(
                self.raw(),
                ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
                &raw mut current,
                &raw mut highest,
                0,
            )
        };
        current != 0
    }

    /// Switches one of the SQLITE_DBCONFIG_ booleans.
    pub(crate) fn configure(&self, option: c_int, on: bool) -> Result<(), RawError> {
        let mut now: c_int = 0;
        // SAFETY: these options take an int and a pointer to an int.
        let code = unsafe { ffi::sqlite3_db_config(self.raw(), option, c_int::from(on), &raw mut now) };
        self.check(code)
    }

    /// Sets one of the SQLITE_LIMIT_ values; SQLite cuts it to its own bound.
    pub(crate) fn limit(&self, limit: c_int, value: usize) {
        let value = c_int::try_from(value).unwrap_or(c_int::MAX);
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_limit(self.raw(), limit, value) };
    }

    pub(crate) fn busy_timeout(&self, timeout: Duration) {
        let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the connection is open.
        unsafe { ffi::sqlite3_busy_timeout(self.raw(), millis) };
    }

    /// Runs a checkpoint: (code, frames in the log, frames that are in the file).
    pub(crate) fn checkpoint(&self, mode: c_int) -> (c_int, c_int, c_int) {
        let (mut log, mut done): (c_int, c_int) = (0, 0);
        // SAFETY: the connection is open, a null name means all databases, the out-pointers are ours.
        let code = unsafe {
            ffi::sqlite3_wal_checkpoint_v2(self.raw(), ptr::null(), mode, &raw mut log, &raw mut done)
        };
        (code, log, done)
    }

    /// The error of the call that just failed with this code.
    pub(crate) fn last_error(&self, code: c_int) -> RawError {
        self.error(code)
    }
}

/// Most bytes of memory that SQLite may use in this process.
pub(crate) fn limit_memory(bytes: usize) {
    // SAFETY: sets a global of SQLite; may be called at any time.
    unsafe { ffi::sqlite3_hard_heap_limit64(i64::try_from(bytes).unwrap_or(i64::MAX)) };
}

/// Bytes that SQLite has from the allocator in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUsed {
    /// Now.
    pub now: u64,
    /// At most so far.
    pub peak: u64,
}

/// What all connections of this process use. May be asked at any time, also from inside a statement.
pub fn memory_used() -> MemoryUsed {
    // SAFETY: reads a counter of SQLite; may be called at any time.
    let now = unsafe { ffi::sqlite3_memory_used() };
    // SAFETY: as above; 0 leaves the peak as it is.
    let peak = unsafe { ffi::sqlite3_memory_highwater(0) };
    MemoryUsed { now: now.cast_unsigned(), peak: peak.cast_unsigned() }
}

/// Copies a C string; empty for a null pointer.
///
/// # Safety
/// - `text` is null or points to a C string that stays as it is during the call.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's duty.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
