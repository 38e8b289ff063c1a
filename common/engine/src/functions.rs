//! Registers PostgreSQL's functions and views with a connection, and answers those that need nobody else.

use std::rc::Rc;

use wal::lsn::Lsn;

use crate::catalog::{Effect, FUNCTIONS, Function, FunctionRow, RECORDS, SystemInfo, SystemValue, VIEWS};
use crate::change::Value;
use crate::error::{SqlError, SqlState};
use crate::ffi::function::{Body, Use};
use crate::ffi::vtab::{Rows, Shape};
use crate::ffi::{Db, RawError};
use crate::types::Type;

/// Makes all of the catalog known to a connection.
pub(crate) fn register(db: &Db, system: &Rc<dyn SystemInfo>) -> Result<(), RawError> {
    for row in FUNCTIONS {
        let usable = if row.effect == Effect::Acts { Use::DirectOnly } else { Use::Anywhere };
        for arguments in row.arguments.0..=row.arguments.1 {
            db.create_function(row.name, arguments, row.returns, usable, body(row, system))?;
        }
    }
    // What `::bool` is rewritten to.
    db.create_function("walship_bool", 1, Type::Bool, Use::Deterministic, Box::new(|args| to_bool(args[0])))?;
    for row in VIEWS {
        let columns: Vec<String> =
            row.columns.iter().map(|(name, ty)| format!("\"{name}\" {}", ty.name())).collect();
        let (system, view) = (Rc::clone(system), row.view);
        let shape = Shape { columns: &columns.join(", "), count: columns.len(), arguments: 0 };
        db.create_view(row.name, shape, Box::new(move |_| system.rows(view)))?;
    }
    for row in RECORDS {
        let columns: Vec<String> =
            row.columns.iter().map(|(name, ty)| format!("\"{name}\" {}", ty.name())).collect();
        let function = row.function.row();
        let shape = Shape {
            columns: &columns.join(", "),
            count: columns.len(),
            arguments: usize::from(function.arguments.1),
        };
        db.create_view(function.name, shape, one_row(function, system))?;
    }
    Ok(())
}

/// A function that returns a record, in FROM: one row of its columns.
fn one_row(row: &'static FunctionRow, system: &Rc<dyn SystemInfo>) -> Rows {
    let system = Rc::clone(system);
    Box::new(move |arguments| {
        if arguments.len() < usize::from(row.arguments.0) {
            let message =
                format!("function {}() does not exist with {} arguments", row.name, arguments.len());
            return Err(SqlError::new(SqlState::UNDEFINED_FUNCTION, message));
        }
        if arguments.contains(&Value::Null) {
            return Ok(Vec::new());
        }
        match system.call(row.function, &arguments.iter().map(own).collect::<Vec<_>>())? {
            SystemValue::Record(values) => Ok(vec![values]),
            value => Ok(vec![vec![value]]),
        }
    })
}

fn body(row: &'static FunctionRow, system: &Rc<dyn SystemInfo>) -> Body {
    let system = Rc::clone(system);
    Box::new(move |arguments| {
        if row.function.is_strict() && arguments.contains(&Value::Null) {
            return Ok(SystemValue::Null);
        }
        match row.function {
            Function::WalLsnDiff => lsn_diff(arguments),
            function => system.call(function, &arguments.iter().map(own).collect::<Vec<_>>()),
        }
    })
}

fn own(value: &Value<'_>) -> SystemValue {
    match *value {
        Value::Null => SystemValue::Null,
        Value::Integer(number) => SystemValue::Integer(number),
        Value::Real(number) => SystemValue::Float(number),
        Value::Text(text) => SystemValue::Text(String::from_utf8_lossy(text).into_owned()),
        Value::Blob(bytes) => SystemValue::Bytes(bytes.to_vec()),
    }
}

/// boolin: any beginning of true, false, yes, no; on, off, 1, 0; in any case, with spaces around it.
fn to_bool(value: Value<'_>) -> Result<SystemValue, SqlError> {
    match value {
        Value::Null => Ok(SystemValue::Null),
        Value::Integer(number) => Ok(SystemValue::Bool(number != 0)),
        Value::Real(number) => Ok(SystemValue::Bool(number != 0.0)),
        Value::Text(bytes) | Value::Blob(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let word = text.trim().to_ascii_lowercase();
            let begins = |whole: &str| !word.is_empty() && whole.starts_with(word.as_str());
            if begins("true") || begins("yes") || word == "on" || word == "1" {
                Ok(SystemValue::Bool(true))
            } else if begins("false") || begins("no") || word == "off" || word == "of" || word == "0" {
                Ok(SystemValue::Bool(false))
            } else {
                Err(invalid("boolean", &text))
            }
        }
    }
}

fn lsn_diff(arguments: &[Value<'_>]) -> Result<SystemValue, SqlError> {
    let (left, right) = (to_lsn(arguments[0])?, to_lsn(arguments[1])?);
    let difference = i128::from(left.0) - i128::from(right.0);
    Ok(match i64::try_from(difference) {
        Ok(difference) => SystemValue::Integer(difference),
        Err(_) => SystemValue::Text(difference.to_string()),
    })
}

fn to_lsn(value: Value<'_>) -> Result<Lsn, SqlError> {
    let text = match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    };
    text.trim().parse().map_err(|_| invalid("pg_lsn", &text))
}

fn invalid(ty: &str, text: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_TEXT_REPRESENTATION,
        format!("invalid input syntax for type {ty}: \"{text}\""),
    )
}
