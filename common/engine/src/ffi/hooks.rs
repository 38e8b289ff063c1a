//! What SQLite asks and tells while it prepares and runs statements: may this be done (authorizer), shall it go on
//! (progress), this row changes (pre-update).
//!
//! The decisions are made elsewhere, in safe code; this file turns C's arguments into Rust's.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::ptr;

use rusqlite::ffi;

use super::{Db, statement};
use crate::authorizer::{Action, Authorizer};
use crate::capture::Capture;
use crate::change::Value;
use crate::control::{Control, Interruption};
use crate::error::SqlError;

/// Steps of SQLite's machine between two questions whether to go on: some ten microseconds.
const STEPS_BETWEEN_CHECKS: c_int = 500;

/// What a connection's hooks reach.
pub(crate) struct Watch {
    pub(crate) authorizer: Authorizer,
    pub(crate) capture: RefCell<Capture>,
    /// Points to the control of the statement that runs, see [`Db::controlled`].
    control: Cell<Option<*const dyn Control>>,
    interruption: Cell<Option<Interruption>>,
    /// Frames of the tables' own log as of the last commit of this connection.
    wal_frames: Cell<u32>,
    /// What a function of ours said; SQLite itself carries only a text.
    function_error: RefCell<Option<SqlError>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("authorizer", &self.authorizer).finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new() -> Watch {
        Watch {
            authorizer: Authorizer::new(),
            capture: RefCell::new(Capture::new()),
            control: Cell::new(None),
            interruption: Cell::new(None),
            wal_frames: Cell::new(0),
            function_error: RefCell::new(None),
        }
    }

    /// Why the statement was stopped, if it was; forgets it.
    pub(crate) fn take_interruption(&self) -> Option<Interruption> {
        self.interruption.take()
    }

    /// The error of a function of ours that failed, if one did; forgets it.
    pub(crate) fn take_function_error(&self) -> Option<SqlError> {
        self.function_error.take()
    }

    pub(crate) fn wal_frames(&self) -> u32 {
        self.wal_frames.get()
    }

    /// The log starts over.
    pub(crate) fn set_wal_frames(&self, frames: u32) {
        self.wal_frames.set(frames);
    }

    pub(super) fn set_function_error(&self, error: SqlError) {
        self.function_error.replace(Some(error));
    }
}

impl Db {
    /// Runs `work` with a control that is asked while statements run.
    pub(crate) fn controlled<T>(&self, control: &dyn Control, work: impl FnOnce() -> T) -> T {
        struct Uncontrolled<'a>(&'a Watch);
        impl Drop for Uncontrolled<'_> {
            fn drop(&mut self) {
                self.0.control.set(None);
            }
        }
        let watch = self.watch();
        watch.interruption.set(None);
        watch.function_error.replace(None);
        let control: *const (dyn Control + '_) = control;
        // SAFETY: only the lifetime bound of the pointer changes; it is gone from the watch before this function
        // returns, so it is never used after `control` ends.
        let control = unsafe {
            std::mem::transmute::<*const (dyn Control + '_), *const (dyn Control + 'static)>(control)
        };
        watch.control.set(Some(control));
        let _uncontrolled = Uncontrolled(watch);
        work()
    }

    pub(super) fn install_hooks(&self) {
        let watch = ptr::from_ref(self.watch()).cast_mut().cast::<c_void>();
        // SAFETY: the watch lives in the same allocation as the connection and is never moved, so it is there whenever
        // SQLite calls; the functions below only form shared references to it.
        unsafe { ffi::sqlite3_set_authorizer(self.raw(), Some(authorize), watch) };
        // SAFETY: as above.
        unsafe { ffi::sqlite3_progress_handler(self.raw(), STEPS_BETWEEN_CHECKS, Some(progress), watch) };
        // It takes the place of SQLite's automatic checkpoint.
        // SAFETY: as above.
        unsafe { ffi::sqlite3_wal_hook(self.raw(), Some(committed), watch) };
    }

    /// Lets SQLite tell of every row that changes. It also keeps SQLite from emptying tables in one go, so statements
    /// must be prepared after this.
    pub(crate) fn install_capture(&self) {
        let watch = ptr::from_ref(self.watch()).cast_mut().cast::<c_void>();
        // SAFETY: as in `install_hooks`.
        unsafe { ffi::sqlite3_preupdate_hook(self.raw(), Some(preupdate), watch) };
    }
}

/// A row that is about to change; alive only during the hook.
#[derive(Debug)]
pub(crate) struct RowChange<'a> {
    db: *mut ffi::sqlite3,
    pub(crate) operation: Operation,
    /// The table's name as the schema has it.
    pub(crate) table: &'a str,
    /// Rowid before (the new one of an insert).
    pub(crate) rowid: i64,
    /// Rowid after.
    pub(crate) rowid_after: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Insert,
    Update,
    Delete,
}

impl RowChange<'_> {
    /// A column's value before; `None` when SQLite can't give it (out of memory).
    pub(crate) fn before(&self, column: usize) -> Option<Value<'_>> {
        let mut value = ptr::null_mut();
        // SAFETY: called inside the hook for this connection; a column that isn't there is reported.
        let code = unsafe { ffi::sqlite3_preupdate_old(self.db, column_index(column), &raw mut value) };
        // SAFETY: SQLite keeps the value until the hook returns, and `self` ends before that.
        (code == ffi::SQLITE_OK && !value.is_null()).then(|| unsafe { statement::value_of(value) })
    }

    /// A column's value after, likewise.
    pub(crate) fn after(&self, column: usize) -> Option<Value<'_>> {
        let mut value = ptr::null_mut();
        // SAFETY: as for `before`.
        let code = unsafe { ffi::sqlite3_preupdate_new(self.db, column_index(column), &raw mut value) };
        // SAFETY: as for `before`.
        (code == ffi::SQLITE_OK && !value.is_null()).then(|| unsafe { statement::value_of(value) })
    }
}

fn column_index(column: usize) -> c_int {
    c_int::try_from(column).unwrap_or(c_int::MAX)
}

/// # Safety
/// - `data` is the watch that `install_hooks` gave.
/// - The texts are null or C strings that stay during the call.
unsafe extern "C" fn authorize(
    data: *mut c_void,
    code: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    inside: *const c_char,
) -> c_int {
    // SAFETY: the caller's duty.
    let watch = unsafe { &*data.cast::<Watch>() };
    // SAFETY: the caller's duty.
    let first = unsafe { text(first) };
    // SAFETY: the caller's duty.
    let second = unsafe { text(second) };
    // SAFETY: the caller's duty.
    let database = unsafe { text(database) };
    // SAFETY: the caller's duty.
    let inside = unsafe { text(inside) };
    let allowed = watch.authorizer.allows(&Action { code, first, second, database, inside });
    if allowed { ffi::SQLITE_OK } else { ffi::SQLITE_DENY }
}

/// # Safety
/// - `data` is the watch that `install_hooks` gave.
unsafe extern "C" fn progress(data: *mut c_void) -> c_int {
    // SAFETY: the caller's duty.
    let watch = unsafe { &*data.cast::<Watch>() };
    if watch.capture.borrow().failure().is_some() {
        return 1;
    }
    let Some(control) = watch.control.get() else { return 0 };
    // SAFETY: `controlled` keeps the control alive as long as it is in the watch.
    let control = unsafe { &*control };
    match control.check() {
        Some(why) => {
            watch.interruption.set(Some(why));
            1
        }
        None => 0,
    }
}

/// # Safety
/// - `data` is the watch that `install_hooks` gave.
unsafe extern "C" fn committed(
    data: *mut c_void,
    _db: *mut ffi::sqlite3,
    _database: *const c_char,
    frames: c_int,
) -> c_int {
    // SAFETY: the caller's duty.
    let watch = unsafe { &*data.cast::<Watch>() };
    watch.wal_frames.set(u32::try_from(frames).unwrap_or(0));
    ffi::SQLITE_OK
}

/// # Safety
/// - `data` is the watch that `install_capture` gave, the rest as SQLite documents for its pre-update hook.
unsafe extern "C" fn preupdate(
    data: *mut c_void,
    db: *mut ffi::sqlite3,
    operation: c_int,
    _database: *const c_char,
    table: *const c_char,
    rowid: ffi::sqlite3_int64,
    rowid_after: ffi::sqlite3_int64,
) {
    // SAFETY: the caller's duty.
    let watch = unsafe { &*data.cast::<Watch>() };
    let operation = match operation {
        ffi::SQLITE_INSERT => Operation::Insert,
        ffi::SQLITE_UPDATE => Operation::Update,
        _ => Operation::Delete,
    };
    // SAFETY: SQLite passes the table's name.
    let table = unsafe { text(table) };
    watch.capture.borrow_mut().row_changes(&RowChange { db, operation, table, rowid, rowid_after });
}

/// Borrows a C string; empty for null and for what is not UTF-8 (SQLite's names are: they came from our own text).
///
/// # Safety
/// - `text` is null or a C string that stays during `'a`.
unsafe fn text<'a>(text: *const c_char) -> &'a str {
    if text.is_null() {
        return "";
    }
    // SAFETY: the caller's duty.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("")
}
