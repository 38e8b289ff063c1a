//! Views of ours, and functions of ours that return rows: eponymous virtual tables whose rows are made when a statement
//! begins to read them. A function's arguments are hidden columns behind the others, as SQLite has it: `FROM f(a, b)` is
//! `FROM f WHERE hidden1 = a AND hidden2 = b`.
//!
//! There is nothing to push down: a view has as many rows as the node has processes or settings. A cursor holds the
//! rows it was filled with, so one statement sees one state.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt;

use rusqlite::ffi;

use super::function::{set_result, slice_of, values_of};
use super::hooks::Watch;
use super::{Db, RawError};
use crate::catalog::SystemValue;
use crate::change::Value;
use crate::error::SqlError;

/// Makes a view's rows, or those that a function returns for its arguments.
pub(crate) type Rows = Box<dyn Fn(&[Value<'_>]) -> Result<Vec<Vec<SystemValue>>, SqlError>>;

/// The columns of a virtual table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    /// What stands in the parentheses of its declaration.
    pub(crate) columns: &'a str,
    /// How many they are.
    pub(crate) count: usize,
    /// Most arguments that it takes; a view takes none.
    pub(crate) arguments: usize,
}

/// What SQLite keeps for the module.
struct Module {
    /// `CREATE TABLE x(…)`
    declaration: CString,
    /// Columns before the hidden ones.
    columns: usize,
    is_function: bool,
    rows: Rows,
    watch: *const Watch,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("declaration", &self.declaration).finish_non_exhaustive()
    }
}

/// SQLite's own part comes first: it holds a pointer to this as one to that.
#[repr(C)]
struct Table {
    base: ffi::sqlite3_vtab,
    module: *const Module,
}

#[repr(C)]
struct Cursor {
    base: ffi::sqlite3_vtab_cursor,
    module: *const Module,
    rows: Vec<Vec<SystemValue>>,
    at: usize,
}

/// No xCreate: the table is there by its name alone, and CREATE VIRTUAL TABLE can't make another.
static METHODS: ffi::sqlite3_module = ffi::sqlite3_module {
    iVersion: 1,
    xCreate: None,
    xConnect: Some(connect),
    xBestIndex: Some(best_index),
    xDisconnect: Some(disconnect),
    xDestroy: None,
    xOpen: Some(open),
    xClose: Some(close),
    xFilter: Some(filter),
    xNext: Some(next),
    xEof: Some(eof),
    xColumn: Some(column),
    xRowid: Some(rowid),
    xUpdate: None,
    xBegin: None,
    xSync: None,
    xCommit: None,
    xRollback: None,
    xFindFunction: None,
    xRename: None,
    xSavepoint: None,
    xRelease: None,
    xRollbackTo: None,
    xShadowName: None,
    xIntegrity: None,
};

impl Db {
    /// Registers a view or a function that returns rows.
    pub(crate) fn create_view(&self, name: &str, shape: Shape<'_>, rows: Rows) -> Result<(), RawError> {
        let hidden: String =
            (1..=shape.arguments).map(|number| format!(", argument{number} HIDDEN")).collect();
        let declaration = CString::new(format!("CREATE TABLE x({}{hidden})", shape.columns))
            .expect("columns have no zero byte");
        let name = CString::new(name).expect("names of views have no zero byte");
        let module = Box::new(Module {
            declaration,
            columns: shape.count,
            is_function: shape.arguments > 0,
            rows,
            watch: self.watch(),
        });
        // SAFETY: the methods are static; SQLite owns the box from here on and calls `drop_module` once, also when
        // registering fails.
        let code = unsafe {
            ffi::sqlite3_create_module_v2(
                self.raw(),
                name.as_ptr(),
                &raw const METHODS,
                Box::into_raw(module).cast(),
                Some(drop_module),
            )
        };
        self.check(code)
    }
}

/// # Safety
/// - `data` is the box that `create_view` gave away, not used afterwards.
unsafe extern "C" fn drop_module(data: *mut c_void) {
    // SAFETY: the caller's duty.
    drop(unsafe { Box::from_raw(data.cast::<Module>()) });
}

/// # Safety
/// - As SQLite documents for xConnect of a module registered with a `Module`.
unsafe extern "C" fn connect(
    db: *mut ffi::sqlite3,
    data: *mut c_void,
    _count: c_int,
    _arguments: *const *const c_char,
    table: *mut *mut ffi::sqlite3_vtab,
    _error: *mut *mut c_char,
) -> c_int {
    let module = data.cast::<Module>().cast_const();
    // SAFETY: the module lives as long as its tables.
    let declaration = unsafe { &(*module).declaration };
    // SAFETY: called inside xConnect with a C string.
    let code = unsafe { ffi::sqlite3_declare_vtab(db, declaration.as_ptr()) };
    if code != ffi::SQLITE_OK {
        return code;
    }
    // SAFETY: the module lives as long as its tables.
    let option = match unsafe { (*module).is_function } {
        // It acts: only a client's own statement may call it.
        true => ffi::SQLITE_VTAB_DIRECTONLY,
        // Views and triggers may look at it: it changes nothing and tells nothing that their user could not ask.
        false => ffi::SQLITE_VTAB_INNOCUOUS,
    };
    // SAFETY: called inside xConnect; this option takes no argument.
    unsafe { ffi::sqlite3_vtab_config(db, option) };
    let made = Box::new(Table { base: ffi::sqlite3_vtab::default(), module });
    // SAFETY: the out-pointer is SQLite's; the box is taken back by `disconnect`.
    unsafe { *table = Box::into_raw(made).cast() };
    ffi::SQLITE_OK
}

/// # Safety
/// - `table` comes from `connect`.
unsafe extern "C" fn disconnect(table: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: the caller's duty; SQLite forgets the pointer.
    drop(unsafe { Box::from_raw(table.cast::<Table>()) });
    ffi::SQLITE_OK
}

/// # Safety
/// - As SQLite documents for xBestIndex.
unsafe extern "C" fn best_index(table: *mut ffi::sqlite3_vtab, info: *mut ffi::sqlite3_index_info) -> c_int {
    // SAFETY: SQLite passes a structure that is ours to fill; every constraint but arguments stays with SQLite.
    let info = unsafe { &mut *info };
    info.estimatedCost = 1000.0;
    // SAFETY: the caller's duty.
    let module = unsafe { (*table.cast::<Table>()).module };
    // SAFETY: the module lives as long as its tables.
    let columns = unsafe { (*module).columns };
    // SAFETY: there are so many constraints.
    let constraints = unsafe { slice_of(info.nConstraint, info.aConstraint) };
    for (index, constraint) in constraints.iter().enumerate() {
        let argument =
            usize::try_from(constraint.iColumn).ok().and_then(|column| column.checked_sub(columns));
        let Some(argument) = argument.filter(|_| constraint.op == ffi::SQLITE_INDEX_CONSTRAINT_EQ as u8)
        else {
            continue;
        };
        if constraint.usable == 0 {
            return ffi::SQLITE_CONSTRAINT;
        }
        // SAFETY: there is a usage for each constraint.
        let usage = unsafe { info.aConstraintUsage.add(index) };
        // SAFETY: it is ours to fill.
        let usage = unsafe { &mut *usage };
        usage.argvIndex = c_int::try_from(argument + 1).unwrap_or(c_int::MAX);
        usage.omit = 1;
    }
    ffi::SQLITE_OK
}

/// # Safety
/// - `table` comes from `connect`.
unsafe extern "C" fn open(
    table: *mut ffi::sqlite3_vtab,
    cursor: *mut *mut ffi::sqlite3_vtab_cursor,
) -> c_int {
    // SAFETY: the caller's duty.
    let module = unsafe { (*table.cast::<Table>()).module };
    let base = ffi::sqlite3_vtab_cursor::default();
    let made = Box::new(Cursor { base, module, rows: Vec::new(), at: 0 });
    // SAFETY: the out-pointer is SQLite's; the box is taken back by `close`.
    unsafe { *cursor = Box::into_raw(made).cast() };
    ffi::SQLITE_OK
}

/// # Safety
/// - `cursor` comes from `open`.
unsafe extern "C" fn close(cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: the caller's duty; SQLite forgets the pointer.
    drop(unsafe { Box::from_raw(cursor.cast::<Cursor>()) });
    ffi::SQLITE_OK
}

/// # Safety
/// - `cursor` comes from `open`.
unsafe extern "C" fn filter(
    cursor: *mut ffi::sqlite3_vtab_cursor,
    _index: c_int,
    _index_text: *const c_char,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) -> c_int {
    // SAFETY: SQLite passes `count` values, which stay during the call.
    let values = unsafe { values_of(count, arguments) };
    // SAFETY: the caller's duty; SQLite uses a cursor in one call at a time.
    let cursor = unsafe { &mut *cursor.cast::<Cursor>() };
    // SAFETY: the module lives as long as its tables' cursors.
    let module = unsafe { &*cursor.module };
    cursor.at = 0;
    match (module.rows)(&values) {
        Ok(rows) => {
            cursor.rows = rows;
            ffi::SQLITE_OK
        }
        Err(error) => {
            // SAFETY: the watch lives as long as the connection, whose module this is.
            unsafe { &*module.watch }.set_function_error(error);
            ffi::SQLITE_ERROR
        }
    }
}

/// # Safety
/// - `cursor` comes from `open`.
unsafe extern "C" fn next(cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: as in `filter`.
    let cursor = unsafe { &mut *cursor.cast::<Cursor>() };
    cursor.at += 1;
    ffi::SQLITE_OK
}

/// # Safety
/// - `cursor` comes from `open`.
unsafe extern "C" fn eof(cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: as in `filter`.
    let cursor = unsafe { &*cursor.cast::<Cursor>() };
    c_int::from(cursor.at >= cursor.rows.len())
}

/// # Safety
/// - `cursor` comes from `open`, `context` is that of this call.
unsafe extern "C" fn column(
    cursor: *mut ffi::sqlite3_vtab_cursor,
    context: *mut ffi::sqlite3_context,
    column: c_int,
) -> c_int {
    // SAFETY: as in `filter`.
    let cursor = unsafe { &*cursor.cast::<Cursor>() };
    let column = usize::try_from(column).unwrap_or(usize::MAX);
    let value = cursor.rows.get(cursor.at).and_then(|row| row.get(column)).unwrap_or(&SystemValue::Null);
    // SAFETY: the context is that of this call.
    unsafe { set_result(context, value, None) };
    ffi::SQLITE_OK
}

/// # Safety
/// - `cursor` comes from `open`, `rowid` is SQLite's.
unsafe extern "C" fn rowid(cursor: *mut ffi::sqlite3_vtab_cursor, rowid: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: as in `filter`.
    let at = unsafe { (*cursor.cast::<Cursor>()).at };
    // SAFETY: the out-pointer is SQLite's.
    unsafe { *rowid = i64::try_from(at).unwrap_or(i64::MAX) };
    ffi::SQLITE_OK
}
