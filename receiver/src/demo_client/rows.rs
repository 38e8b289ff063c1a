//! What the rows are, and the looks at them.

use sender::client::{ClientError, ServerConnection};

use super::note::Note;

/// Makes the table, if it is not there.
pub const CREATE: &str = "CREATE TABLE IF NOT EXISTS demo_rows(id integer PRIMARY KEY, value text NOT NULL)";
/// Most rows that one look asks for, so that its answer is small.
const PAGE: u64 = 1000;

/// What a row holds: follows from its number, so that a row that is there but is not what it was is found, too.
pub fn value(id: u64) -> String {
    format!("{:016x}", id.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// The statement that writes a row.
pub fn insert(id: u64) -> String {
    format!("INSERT INTO demo_rows VALUES ({id}, '{}')", value(id))
}

/// The statement that deletes the rows before `first`.
pub fn delete_before(first: u64) -> String {
    format!("DELETE FROM demo_rows WHERE id < {first}")
}

/// The highest row that is there; 0 when there is none.
///
/// # Errors
/// Those of the connection, or the node's.
pub fn highest(node: &mut ServerConnection) -> Result<u64, ClientError> {
    Ok(numbers(node, "SELECT max(id) FROM demo_rows")?.first().copied().unwrap_or(0))
}

/// A look at the number of rows; what is wrong with it, if the node has not all that was acknowledged.
///
/// # Errors
/// Those of the connection, or the node's.
pub fn check_count(node: &mut ServerConnection, note: Note) -> Result<Result<(), String>, ClientError> {
    let Note { first, last } = note;
    let sql = format!("SELECT count(*) FROM demo_rows WHERE id BETWEEN {first} AND {last}");
    let found = numbers(node, &sql)?.first().copied().unwrap_or(0);
    let lost = || format!("{} acknowledged rows are lost: {found} of {}", note.count() - found, note.count());
    Ok(if found == note.count() { Ok(()) } else { Err(lost()) })
}

/// A look at every row; what is wrong with the first that is lost, or holds something else.
///
/// # Errors
/// Those of the connection, or the node's.
pub fn check_all(node: &mut ServerConnection, note: Note) -> Result<Result<(), String>, ClientError> {
    let mut start = note.first;
    while start <= note.last {
        let end = note.last.min(start + PAGE - 1);
        let sql = format!("SELECT id, value FROM demo_rows WHERE id BETWEEN {start} AND {end} ORDER BY id");
        let results = node.query(&sql)?;
        let mut found = results.iter().flat_map(|result| &result.rows);
        for id in start..=end {
            let row: Option<Vec<_>> = found
                .next()
                .map(|row| row.iter().flatten().map(|value| String::from_utf8_lossy(value)).collect());
            if row.as_ref().is_none_or(|row| *row != [id.to_string(), value(id)]) {
                return Ok(Err(format!("the acknowledged row {id} is lost: in its place is {row:?}")));
            }
        }
        start = end + 1;
    }
    Ok(Ok(()))
}

/// The numbers that a query gives; a NULL is left out.
fn numbers(node: &mut ServerConnection, sql: &str) -> Result<Vec<u64>, ClientError> {
    let results = node.query(sql)?;
    let values = results.iter().flat_map(|result| result.rows.iter().flatten().flatten());
    values
        .map(|value| {
            let text = String::from_utf8_lossy(value);
            text.parse().map_err(|_| ClientError::Protocol(format!("\"{text}\" is no number of a row")))
        })
        .collect()
}
