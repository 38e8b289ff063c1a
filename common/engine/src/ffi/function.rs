//! SQL functions of ours. A result carries its PostgreSQL type as SQLite's subtype, so that a column that is nothing but
//! a call is sent with that type.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt;
use std::slice;

use rusqlite::ffi;

use super::hooks::Watch;
use super::{Db, RawError, statement};
use crate::catalog::SystemValue;
use crate::change::Value;
use crate::error::{SqlError, SqlState};
use crate::types::Type;

/// What a function does with its arguments.
pub(crate) type Body = Box<dyn Fn(&[Value<'_>]) -> Result<SystemValue, SqlError>>;

/// Where a function may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Anywhere, also in an index or a CHECK: it always gives the same.
    Deterministic,
    /// Anywhere but there.
    Anywhere,
    /// In a client's own statement only, not from the schema.
    DirectOnly,
}

struct Registered {
    body: Body,
    returns: Type,
    /// The connection's watch: lives longer than its functions.
    watch: *const Watch,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("returns", &self.returns).finish_non_exhaustive()
    }
}

impl Db {
    /// Registers a function with one number of arguments.
    pub(crate) fn create_function(
        &self,
        name: &str,
        arguments: u8,
        returns: Type,
        usable: Use,
        body: Body,
    ) -> Result<(), RawError> {
        let name = CString::new(name).expect("names of functions have no zero byte");
        let flags = ffi::SQLITE_UTF8
            | ffi::SQLITE_RESULT_SUBTYPE
            | match usable {
                Use::Deterministic => ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS,
                Use::Anywhere => ffi::SQLITE_INNOCUOUS,
                Use::DirectOnly => ffi::SQLITE_DIRECTONLY,
            };
        let registered = Box::new(Registered { body, returns, watch: self.watch() });
        // SAFETY: SQLite owns the box from here on and calls `drop_registered` once, also when registering fails;
        // `call` only forms shared references to it.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(
                self.raw(),
                name.as_ptr(),
                c_int::from(arguments),
                flags,
                Box::into_raw(registered).cast(),
                Some(call),
                None,
                None,
                Some(drop_registered),
            )
        };
        self.check(code)
    }
}

/// # Safety
/// - `data` is the box that `create_function` gave away, not used afterwards.
unsafe extern "C" fn drop_registered(data: *mut c_void) {
    // SAFETY: the caller's duty.
    drop(unsafe { Box::from_raw(data.cast::<Registered>()) });
}

/// # Safety
/// - As SQLite documents for a scalar function registered with a `Registered`.
unsafe extern "C" fn call(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: the caller's duty.
    let data = unsafe { ffi::sqlite3_user_data(context) };
    // SAFETY: the box lives until `drop_registered`.
    let registered = unsafe { &*data.cast::<Registered>() };
    // SAFETY: SQLite passes `count` values, which stay during the call.
    let values = unsafe { values_of(count, arguments) };
    match (registered.body)(&values) {
        // SAFETY: the context is the one of this call.
        Ok(result) => unsafe { set_result(context, &result, Some(registered.returns)) },
        Err(error) => {
            // SAFETY: as above.
            unsafe { set_error(context, &error) };
            // SAFETY: the watch lives as long as the connection, whose function this is.
            unsafe { &*registered.watch }.set_function_error(error);
        }
    }
}

/// The arguments of a call.
///
/// # Safety
/// - `arguments` points to `count` values, which live for `'a` and which nothing converts.
pub(super) unsafe fn values_of<'a>(count: c_int, arguments: *mut *mut ffi::sqlite3_value) -> Vec<Value<'a>> {
    // SAFETY: the caller's duty.
    let raw = unsafe { slice_of(count, arguments) };
    // SAFETY: the caller's duty.
    raw.iter().map(|&value| unsafe { statement::value_of(value) }).collect()
}

/// What SQLite passes as a pointer and a count, which may be null and 0.
///
/// # Safety
/// - `first` points to `count` values that live for `'a`.
pub(super) unsafe fn slice_of<'a, T>(count: c_int, first: *const T) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: the caller's duty.
        Ok(count) if count > 0 => unsafe { slice::from_raw_parts(first, count) },
        _ => &[],
    }
}

/// # Safety
/// - `context` is that of a call under way.
unsafe fn set_error(context: *mut ffi::sqlite3_context, error: &SqlError) {
    let length = c_int::try_from(error.message.len()).unwrap_or(c_int::MAX);
    // SAFETY: the text is valid for its length and is copied.
    unsafe { ffi::sqlite3_result_error(context, error.message.as_ptr().cast::<c_char>(), length) };
    let interrupted = [SqlState::QUERY_CANCELED, SqlState::ADMIN_SHUTDOWN, SqlState::CONNECTION_FAILURE];
    if interrupted.contains(&error.sqlstate) {
        // SAFETY: the context is the one of this call.
        unsafe { ffi::sqlite3_result_error_code(context, ffi::SQLITE_INTERRUPT) };
    }
}

/// Hands a value to SQLite, as the result of a call or as a virtual table's column.
///
/// # Safety
/// - `context` is that of a call under way.
pub(super) unsafe fn set_result(context: *mut ffi::sqlite3_context, value: &SystemValue, ty: Option<Type>) {
    match value {
        // SAFETY: the context is the one of this call.
        SystemValue::Null => unsafe { ffi::sqlite3_result_null(context) },
        // SAFETY: as above.
        SystemValue::Bool(value) => unsafe { ffi::sqlite3_result_int(context, c_int::from(*value)) },
        // SAFETY: as above.
        SystemValue::Integer(value) => unsafe { ffi::sqlite3_result_int64(context, *value) },
        // SAFETY: as above.
        SystemValue::Float(value) => unsafe { ffi::sqlite3_result_double(context, *value) },
        // SAFETY: as above; the text is copied.
        SystemValue::Text(text) => unsafe {
            ffi::sqlite3_result_text64(
                context,
                text.as_ptr().cast::<c_char>(),
                text.len() as u64,
                ffi::SQLITE_TRANSIENT(),
                ffi::SQLITE_UTF8 as u8,
            )
        },
        SystemValue::Record(values) => {
            let text = SystemValue::Text(crate::catalog::record_text(values));
            // SAFETY: as above.
            unsafe { set_result(context, &text, None) };
        }
        // SAFETY: as above; the bytes are copied.
        SystemValue::Bytes(bytes) => unsafe {
            ffi::sqlite3_result_blob64(
                context,
                bytes.as_ptr().cast::<c_void>(),
                bytes.len() as u64,
                ffi::SQLITE_TRANSIENT(),
            )
        },
    }
    if let Some(ty) = ty {
        // SAFETY: the context is the one of this call.
        unsafe { ffi::sqlite3_result_subtype(context, u32::from(ty.subtype())) };
    }
}
