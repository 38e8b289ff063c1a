//! A digest of a table: equal digests mean equal rows, to the rowid.

use std::hash::{DefaultHasher, Hasher};

use crate::client::{Client, ClientError};

/// Number of rows and a hash over all of them in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Rows.
    pub rows: usize,
    /// Hash of every value of every row, types included.
    pub hash: u64,
}

/// The digest of all rows of `table`, with their rowids if it has any, in an order that does not depend on how the
/// query is planned.
pub fn of_table(client: &mut Client, table: &str) -> Digest {
    let columns = columns(client, table);
    // typeof() tells 1 from '1' and quote() a blob from a text, which the wire's text form does not.
    let values: Vec<String> = columns
        .iter()
        .flat_map(|name| [format!("typeof(\"{name}\")"), format!("quote(\"{name}\")")])
        .collect();
    let with_rowid = format!("SELECT rowid, {} FROM \"{table}\" ORDER BY rowid", values.join(", "));
    let answer = match client.query(&with_rowid) {
        Ok(answer) => answer,
        Err(ClientError::Server(_)) => {
            // WITHOUT ROWID.
            let order: Vec<String> = (1..=values.len()).map(|number| number.to_string()).collect();
            let sql = format!("SELECT {} FROM \"{table}\" ORDER BY {}", values.join(", "), order.join(", "));
            client.query(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
        }
        Err(error) => panic!("{with_rowid}: {error}"),
    };
    let mut hasher = DefaultHasher::new();
    for value in answer.rows.iter().flatten() {
        match value {
            Some(text) => {
                hasher.write_usize(text.len());
                hasher.write(text.as_bytes());
            }
            None => hasher.write_usize(usize::MAX),
        }
    }
    Digest { rows: answer.rows.len(), hash: hasher.finish() }
}

fn columns(client: &mut Client, table: &str) -> Vec<String> {
    let sql = format!("SELECT * FROM \"{table}\" LIMIT 0");
    client.query(&sql).unwrap_or_else(|error| panic!("{sql}: {error}")).columns
}
