//! Replication: the commands a walsender takes, the columns of its answers, the payloads of the copy-both stream.
//!
//! [`command`] parses commands, [`payload`] and [`backup`] read and write what CopyData carries. Follows PostgreSQL 15
//! src/backend/replication/repl_gram.y, repl_scanner.l, walsender.c, walreceiver.c.

pub mod backup;
pub mod command;
mod lexer;
pub mod payload;

use crate::backend::Column;
use crate::error::ErrorResponse;
use crate::framing::SMALL_MESSAGE_MAX;
use crate::frontend::check_length;
use crate::sqlstate::PROTOCOL_VIOLATION;
use crate::types::{INT4, INT8, TEXT};

/// Columns of the answer to IDENTIFY_SYSTEM. Command tag: `IDENTIFY_SYSTEM`.
pub const IDENTIFY_SYSTEM_COLUMNS: [Column<'static>; 4] = [
    Column::new("systemid", TEXT),
    Column::new("timeline", INT4),
    Column::new("xlogpos", TEXT),
    Column::new("dbname", TEXT),
];

/// Columns of the answer to TIMELINE_HISTORY (one row). Command tag: `TIMELINE_HISTORY`.
pub const TIMELINE_HISTORY_COLUMNS: [Column<'static>; 2] = [
    Column { name: "filename", column_type: TEXT, typmod: 0 },
    Column { name: "content", column_type: TEXT, typmod: 0 },
];

/// Columns of the answer to READ_REPLICATION_SLOT (one row, all NULL for no such slot). Command tag:
/// `READ_REPLICATION_SLOT`.
pub const READ_REPLICATION_SLOT_COLUMNS: [Column<'static>; 3] =
    [Column::new("slot_type", TEXT), Column::new("restart_lsn", TEXT), Column::new("restart_tli", INT8)];

/// Columns of the answer to CREATE_REPLICATION_SLOT. Command tag: `CREATE_REPLICATION_SLOT`.
pub const CREATE_REPLICATION_SLOT_COLUMNS: [Column<'static>; 4] = [
    Column::new("slot_name", TEXT),
    Column::new("consistent_point", TEXT),
    Column::new("snapshot_name", TEXT),
    Column::new("output_plugin", TEXT),
];

/// Columns of what follows a stream that ended because its timeline did. Command tags: `START_STREAMING`, then
/// `START_REPLICATION`.
pub const START_REPLICATION_END_COLUMNS: [Column<'static>; 2] =
    [Column::new("next_tli", INT8), Column::new("next_tli_startpos", TEXT)];

/// What may come from a standby while it is being streamed to: nothing that it says takes more than a few dozen bytes.
///
/// # Errors
/// FATAL 08P01 for a tag other than CopyData, CopyDone and Terminate; 08P01 for the log alone for a length out of
/// bounds.
pub fn check_standby_frame(tag: u8, length: i32) -> Result<(), ErrorResponse> {
    match tag {
        b'd' | b'c' | b'X' => check_length(length, SMALL_MESSAGE_MAX),
        _ => Err(ErrorResponse::fatal(
            PROTOCOL_VIOLATION,
            format!("invalid standby message type \"{}\"", char::from(tag)),
        )),
    }
}
