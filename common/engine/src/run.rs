//! Prepares and runs a client's statement, on either side, and hands its rows to a sink.

use crate::authorizer::Mode;
use crate::change::Value;
use crate::error::{SqlError, SqlState};
use crate::error_map::{Phase, client_error};
use crate::ffi::Db;
use crate::ffi::statement::Statement;
use crate::render::render;
use crate::rows::{Column, Row, RowSink};
use crate::types::Type;

/// Prepares the one statement of a client's text, as what the mode says.
pub(crate) fn prepare(db: &Db, sql: &str, mode: Mode) -> Result<Statement, SqlError> {
    let prepared = {
        let _guard = db.watch().authorizer.enter(mode);
        db.prepare(sql, false)
    };
    let (statement, used) = prepared.map_err(|raw| client_error(db, &raw, Phase::Prepare))?;
    let Some(statement) = statement else {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input"));
    };
    // Our lexer cut the statement out; when SQLite sees its end elsewhere, the rest would be dropped in silence.
    if sql.as_bytes()[used..].iter().any(|byte| !byte.is_ascii_whitespace()) {
        let rest: String = sql.get(used..).unwrap_or("").trim_start().chars().take(20).collect();
        return Err(SqlError::syntax(&rest).at(used));
    }
    if statement.parameters() > 0 {
        return Err(SqlError::new(SqlState::UNDEFINED_PARAMETER, "there is no parameter $1"));
    }
    if mode == Mode::Explain && !statement.is_explain() {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "not an EXPLAIN"));
    }
    if mode == Mode::Read && !statement.is_readonly() {
        return Err(SqlError::read_only("this statement"));
    }
    Ok(statement)
}

/// Runs a prepared statement to its end; returns the number of rows that went into the sink.
pub(crate) fn deliver(
    db: &Db,
    statement: &mut Statement,
    mode: Mode,
    sink: &mut dyn RowSink,
) -> Result<u64, SqlError> {
    if mode == Mode::Explain {
        return deliver_plan(db, statement, mode, sink);
    }
    let count = statement.columns();
    let mut more = step(db, statement, mode)?;
    if count == 0 {
        while more {
            more = step(db, statement, mode)?;
        }
        return Ok(0);
    }
    let columns = describe(statement, more);
    sink.columns(&columns)?;
    let (mut row, mut rows) = (Row::default(), 0);
    while more {
        row.clear();
        for (at, column) in columns.iter().enumerate() {
            push(&mut row, statement.column(at), column.ty);
        }
        sink.row(&row)?;
        rows += 1;
        more = step(db, statement, mode)?;
    }
    Ok(rows)
}

/// SQLite prepares a statement again by itself when the schema has moved on, and asks the authorizer again.
fn step(db: &Db, statement: &mut Statement, mode: Mode) -> Result<bool, SqlError> {
    let stepped = {
        let _guard = db.watch().authorizer.enter(mode);
        statement.step()
    };
    stepped.map_err(|raw| client_error(db, &raw, Phase::Run))
}

fn push(row: &mut Row, value: Value<'_>, ty: Type) {
    if value == Value::Null {
        row.push_null();
    } else {
        row.push(|out| {
            render(value, ty, out);
        });
    }
}

/// EXPLAIN QUERY PLAN as PostgreSQL shows a plan: one column, indented lines.
fn deliver_plan(
    db: &Db,
    statement: &mut Statement,
    mode: Mode,
    sink: &mut dyn RowSink,
) -> Result<u64, SqlError> {
    sink.columns(&[plan_column()])?;
    let (mut row, mut rows) = (Row::default(), 0);
    // (id, depth) of the lines so far that may have children.
    let mut depths: Vec<(i64, usize)> = Vec::new();
    while step(db, statement, mode)? {
        let (Value::Integer(id), Value::Integer(parent), Value::Text(detail)) =
            (statement.column(0), statement.column(1), statement.column(3))
        else {
            continue;
        };
        let depth = depths.iter().find(|(above, _)| *above == parent).map_or(0, |(_, depth)| depth + 1);
        depths.push((id, depth));
        row.clear();
        row.push(|out| {
            if depth > 0 {
                out.resize(out.len() + depth * 2, b' ');
                out.extend_from_slice(b"->  ");
            }
            out.extend_from_slice(detail);
        });
        sink.row(&row)?;
        rows += 1;
    }
    Ok(rows)
}

pub(crate) fn plan_column() -> Column {
    Column { name: "QUERY PLAN".into(), ty: Type::Text }
}

/// The columns of a statement, which stands on its first row if `on_row`.
pub(crate) fn describe(statement: &Statement, on_row: bool) -> Vec<Column> {
    (0..statement.columns())
        .map(|at| {
            let name = statement.column_name(at);
            if is_truth(&name) && statement.column_declared_type(at).is_none() {
                return Column { name: "bool".into(), ty: Type::Bool };
            }
            Column { name: client_name(name), ty: column_type(statement, at, on_row) }
        })
        .collect()
}

/// Whether an expression is nothing but TRUE or FALSE.
fn is_truth(name: &str) -> bool {
    name.eq_ignore_ascii_case("true") || name.eq_ignore_ascii_case("false")
}

/// The declared type; else what a function of ours said of its value; else what the first value is.
fn column_type(statement: &Statement, at: usize, on_row: bool) -> Type {
    if let Some(declared) = statement.column_declared_type(at)
        && let Some(ty) = declared_type(&declared)
    {
        return ty;
    }
    if !on_row {
        return Type::Text;
    }
    if let Some(ty) = Type::from_subtype(statement.column_subtype(at)) {
        return ty;
    }
    match statement.column(at) {
        Value::Integer(_) => Type::Int8,
        Value::Real(_) => Type::Float8,
        Value::Blob(_) => Type::Bytea,
        Value::Text(_) | Value::Null => Type::Text,
    }
}

/// A type that PostgreSQL knows, or one that SQLite's affinity rules make of any other name; `None` for a name of which
/// SQLite only says "numeric", where the value knows better.
fn declared_type(declared: &str) -> Option<Type> {
    if let Some(ty) = Type::from_name(declared) {
        return Some(ty);
    }
    let upper = declared.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    if has("INT") {
        Some(Type::Int8)
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        Some(Type::Text)
    } else if has("BLOB") {
        Some(Type::Bytea)
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        Some(Type::Float8)
    } else {
        None
    }
}

/// SQLite calls an expression by its text; PostgreSQL by its function, or `?column?`.
fn client_name(name: String) -> String {
    let word = |text: &str| {
        !text.is_empty()
            && !text.starts_with(|first: char| first.is_ascii_digit())
            && text.chars().all(|each| each.is_alphanumeric() || each == '_')
    };
    if let Some((before, rest)) = name.split_once('(')
        && rest.ends_with(')')
        && word(before)
    {
        return match before.to_ascii_lowercase().as_str() {
            "walship_bool" => "bool".into(),
            "cast" => cast_name(rest),
            function => function.to_owned(),
        };
    }
    let plain =
        |each: char| each.is_alphanumeric() || matches!(each, '_' | ' ' | '?' | '$' | '.' | ':' | '#');
    let literal = name.starts_with(|first: char| first.is_ascii_digit());
    if literal || name.is_empty() || !name.chars().all(plain) {
        return "?column?".into();
    }
    name
}

/// `CAST(a.b AS TEXT)` is called after its column, `CAST('x' AS TEXT)` after the type.
fn cast_name(rest: &str) -> String {
    let (operand, ty) = rest.rsplit_once(" AS ").unwrap_or((rest, ""));
    let column = operand.rsplit('.').next().unwrap_or(operand).trim_matches('"');
    let is_name = column.starts_with(|first: char| first.is_alphabetic() || first == '_')
        && column.chars().all(|each| each.is_alphanumeric() || each == '_');
    if is_name {
        return column.to_ascii_lowercase();
    }
    let ty = ty.trim_end_matches(')').trim();
    Type::from_name(ty).map_or_else(|| "?column?".into(), |ty| ty.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::client_name;

    #[test]
    fn unnamed_columns_are_called_as_in_postgresql() {
        for (name, expected) in [
            ("a", "a"),
            ("my col", "my col"),
            ("count(*)", "count"),
            ("PG_IS_IN_RECOVERY()", "pg_is_in_recovery"),
            ("1", "?column?"),
            ("a+1", "?column?"),
            ("'x'", "?column?"),
            ("CAST(t.a AS TEXT)", "a"),
            ("CAST('1' AS INTEGER)", "int8"),
            ("walship_bool('t')", "bool"),
        ] {
            assert_eq!(client_name(name.to_owned()), expected);
        }
    }
}
