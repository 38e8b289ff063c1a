//! A prepared statement: stepped by `&mut`, looked at by `&`, so a column's slice can't outlive its row.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;
use std::slice;

use rusqlite::ffi;

use super::{Db, RawError, text_of};
use crate::change::Value;

/// A prepared statement; finalized when dropped.
#[derive(Debug)]
pub(crate) struct Statement {
    db: Db,
    raw: NonNull<ffi::sqlite3_stmt>,
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: `raw` was prepared on `db`, which is still open, and is finalized here alone.
        unsafe { ffi::sqlite3_finalize(self.raw.as_ptr()) };
    }
}

impl Statement {
    pub(super) fn new(db: Db, raw: NonNull<ffi::sqlite3_stmt>) -> Statement {
        Statement { db, raw }
    }

    fn raw(&self) -> *mut ffi::sqlite3_stmt {
        self.raw.as_ptr()
    }

    /// Goes to the next row; `false` at the end.
    pub(crate) fn step(&mut self) -> Result<bool, RawError> {
        // SAFETY: the statement is prepared; no slice of a row is alive, as they borrow from `self`.
        match unsafe { ffi::sqlite3_step(self.raw()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => Err(self.db.error(code)),
        }
    }

    /// Back to before the first row.
    pub(crate) fn reset(&mut self) {
        // SAFETY: the statement is prepared. The code repeats the last step's error, which was reported there.
        unsafe { ffi::sqlite3_reset(self.raw()) };
    }

    /// Runs the statement once with these parameters and makes it ready for the next time; rows are ignored.
    pub(crate) fn run(&mut self, parameters: &[Value<'_>]) -> Result<(), RawError> {
        let outcome = self.bind_all(parameters).and_then(|()| {
            while self.step()? {}
            Ok(())
        });
        self.reset();
        // SAFETY: the statement is prepared. Afterwards it holds no pointer into `parameters`.
        unsafe { ffi::sqlite3_clear_bindings(self.raw()) };
        outcome
    }

    /// The first column of the first row as text, if there is a row.
    pub(crate) fn first_text(&mut self, parameters: &[Value<'_>]) -> Option<String> {
        let found = match self.bind_all(parameters).and_then(|()| self.step()) {
            Ok(true) => match self.column(0) {
                Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                _ => None,
            },
            _ => None,
        };
        self.reset();
        // SAFETY: as in `run`.
        unsafe { ffi::sqlite3_clear_bindings(self.raw()) };
        found
    }

    /// Binds without copying: its callers end before the parameters' borrow does, and clear the bindings.
    fn bind_all(&mut self, parameters: &[Value<'_>]) -> Result<(), RawError> {
        for (at, value) in parameters.iter().enumerate() {
            let index = c_int::try_from(at + 1).unwrap_or(c_int::MAX);
            let code = match *value {
                // SAFETY: the statement is prepared; a wrong index is reported.
                Value::Null => unsafe { ffi::sqlite3_bind_null(self.raw(), index) },
                // SAFETY: as above.
                Value::Integer(value) => unsafe { ffi::sqlite3_bind_int64(self.raw(), index, value) },
                // SAFETY: as above.
                Value::Real(value) => unsafe { ffi::sqlite3_bind_double(self.raw(), index, value) },
                // SAFETY: the bytes outlive the binding (see above); SQLITE_STATIC leaves them with us.
                Value::Text(text) => unsafe {
                    ffi::sqlite3_bind_text64(
                        self.raw(),
                        index,
                        pointer(text).cast::<c_char>(),
                        text.len() as u64,
                        ffi::SQLITE_STATIC(),
                        ffi::SQLITE_UTF8 as u8,
                    )
                },
                // SAFETY: as for text.
                Value::Blob(blob) => unsafe {
                    ffi::sqlite3_bind_blob64(
                        self.raw(),
                        index,
                        pointer(blob).cast::<c_void>(),
                        blob.len() as u64,
                        ffi::SQLITE_STATIC(),
                    )
                },
            };
            self.db.check(code)?;
        }
        Ok(())
    }

    /// Whether it changes nothing, as SQLite sees it (EXPLAIN of a write is none).
    pub(crate) fn is_readonly(&self) -> bool {
        // SAFETY: the statement is prepared.
        unsafe { ffi::sqlite3_stmt_readonly(self.raw()) != 0 }
    }

    /// Whether it is an EXPLAIN or EXPLAIN QUERY PLAN.
    pub(crate) fn is_explain(&self) -> bool {
        // SAFETY: the statement is prepared.
        unsafe { ffi::sqlite3_stmt_isexplain(self.raw()) != 0 }
    }

    /// Number of parameters.
    pub(crate) fn parameters(&self) -> usize {
        // SAFETY: the statement is prepared.
        let count = unsafe { ffi::sqlite3_bind_parameter_count(self.raw()) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Number of result columns.
    pub(crate) fn columns(&self) -> usize {
        // SAFETY: the statement is prepared.
        let count = unsafe { ffi::sqlite3_column_count(self.raw()) };
        usize::try_from(count).unwrap_or(0)
    }

    pub(crate) fn column_name(&self, at: usize) -> String {
        // SAFETY: the statement is prepared; null for a column that isn't there.
        let name = unsafe { ffi::sqlite3_column_name(self.raw(), index(at)) };
        // SAFETY: the name stays until the next call for this column, it is copied now.
        unsafe { text_of(name) }
    }

    /// The type that the column was declared with, if it is a table's or view's column.
    pub(crate) fn column_declared_type(&self, at: usize) -> Option<String> {
        // SAFETY: the statement is prepared; null for an expression.
        let name = unsafe { ffi::sqlite3_column_decltype(self.raw(), index(at)) };
        // SAFETY: as for the name.
        (!name.is_null()).then(|| unsafe { text_of(name) })
    }

    /// A value of the current row.
    pub(crate) fn column(&self, at: usize) -> Value<'_> {
        // SAFETY: the statement is prepared; outside of a row or its columns SQLite answers with NULL.
        let value = unsafe { ffi::sqlite3_column_value(self.raw(), index(at)) };
        // SAFETY: the value stays as it is until the next step or reset, which need `&mut self`.
        unsafe { value_of(value) }
    }

    /// The subtype that a function gave the value (see `function`).
    pub(crate) fn column_subtype(&self, at: usize) -> u8 {
        // SAFETY: as for `column`.
        let value = unsafe { ffi::sqlite3_column_value(self.raw(), index(at)) };
        // SAFETY: the value is protected while it is a column of the current row of a connection without threads.
        let subtype = unsafe { ffi::sqlite3_value_subtype(value) };
        u8::try_from(subtype).unwrap_or(0)
    }
}

fn index(at: usize) -> c_int {
    c_int::try_from(at).unwrap_or(c_int::MAX)
}

/// A pointer that is never null: SQLite takes a null pointer for NULL, and an empty slice's may dangle anywhere.
fn pointer(bytes: &[u8]) -> *const u8 {
    if bytes.is_empty() { c"".as_ptr().cast() } else { bytes.as_ptr() }
}

/// Reads a value where SQLite holds it.
///
/// # Safety
/// - `value` is valid and nothing converts or frees it during `'a`.
pub(super) unsafe fn value_of<'a>(value: *mut ffi::sqlite3_value) -> Value<'a> {
    // SAFETY: the caller's duty.
    match unsafe { ffi::sqlite3_value_type(value) } {
        // SAFETY: it is an integer, so this converts nothing.
        ffi::SQLITE_INTEGER => Value::Integer(unsafe { ffi::sqlite3_value_int64(value) }),
        // SAFETY: it is a double.
        ffi::SQLITE_FLOAT => Value::Real(unsafe { ffi::sqlite3_value_double(value) }),
        ffi::SQLITE_TEXT => {
            // SAFETY: it is text and the database is in UTF-8, so this converts nothing.
            let start = unsafe { ffi::sqlite3_value_text(value) };
            // SAFETY: the slice is of the value, which the caller keeps.
            Value::Text(unsafe { bytes_of(value, start) })
        }
        ffi::SQLITE_BLOB => {
            // SAFETY: it is a blob.
            let start = unsafe { ffi::sqlite3_value_blob(value) };
            // SAFETY: as for text.
            Value::Blob(unsafe { bytes_of(value, start.cast()) })
        }
        _ => Value::Null,
    }
}

/// # Safety
/// - `start` is what `sqlite3_value_text` or `_blob` just gave for `value`, and stays during `'a`.
unsafe fn bytes_of<'a>(value: *mut ffi::sqlite3_value, start: *const u8) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: asked right after the pointer, as SQLite demands.
    let length = unsafe { ffi::sqlite3_value_bytes(value) };
    // SAFETY: SQLite holds this many bytes there.
    unsafe { slice::from_raw_parts(start, usize::try_from(length).unwrap_or(0)) }
}
