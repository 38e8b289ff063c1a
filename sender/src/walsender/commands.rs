//! Answers of the replication commands, as bytes. Pure.
//!
//! Follows PostgreSQL 15 src/backend/replication/walsender.c; the columns are those of `wire::replication`.

use wal::lsn::Lsn;
use wal::segment::history_file_name;
use wal::timeline::TimelineId;
use wire::backend::{Column, DataRow, command_complete, row_description};
use wire::error::ErrorResponse;
use wire::replication::command::ReplicationCommand;
use wire::replication::{
    CREATE_REPLICATION_SLOT_COLUMNS, IDENTIFY_SYSTEM_COLUMNS, READ_REPLICATION_SLOT_COLUMNS,
    START_REPLICATION_END_COLUMNS, TIMELINE_HISTORY_COLUMNS,
};
use wire::sqlstate;
use wire::types::TEXT;

/// The answer to IDENTIFY_SYSTEM: who this node is and how far its log is durable.
///
/// # Errors
/// None that a row of this size could have; the type is that of every row.
pub fn identify_system(
    out: &mut Vec<u8>,
    system_identifier: u64,
    timeline: TimelineId,
    flush: Lsn,
) -> Result<(), ErrorResponse> {
    row_description(out, &IDENTIFY_SYSTEM_COLUMNS);
    let mut row = DataRow::begin(out);
    row.display(system_identifier);
    row.display(timeline);
    row.display(flush);
    // Physical replication is attached to no database.
    row.null();
    row.finish()?;
    command_complete(out, "IDENTIFY_SYSTEM");
    Ok(())
}

/// The answer to SHOW.
///
/// # Errors
/// As for [`identify_system`].
pub fn show(out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), ErrorResponse> {
    row_description(out, &[Column::new(name, TEXT)]);
    let mut row = DataRow::begin(out);
    row.text(value);
    row.finish()?;
    command_complete(out, "SHOW");
    Ok(())
}

/// The answer to TIMELINE_HISTORY: the file as it is.
///
/// # Errors
/// The file is longer than a message may be.
pub fn timeline_history(
    out: &mut Vec<u8>,
    timeline: TimelineId,
    content: &[u8],
) -> Result<(), ErrorResponse> {
    row_description(out, &TIMELINE_HISTORY_COLUMNS);
    let mut row = DataRow::begin(out);
    row.text(&history_file_name(timeline));
    row.bytes(content);
    row.finish()?;
    command_complete(out, "TIMELINE_HISTORY");
    Ok(())
}

/// What follows a stream: where the next timeline begins, if the one that was asked for has ended.
///
/// # Errors
/// As for [`identify_system`].
pub fn stream_end(out: &mut Vec<u8>, next: Option<(TimelineId, Lsn)>) -> Result<(), ErrorResponse> {
    if let Some((timeline, start)) = next {
        row_description(out, &START_REPLICATION_END_COLUMNS);
        let mut row = DataRow::begin(out);
        row.display(timeline);
        row.display(start);
        row.finish()?;
    }
    command_complete(out, "START_STREAMING");
    command_complete(out, "START_REPLICATION");
    Ok(())
}

/// The answer to READ_REPLICATION_SLOT: where the slot's log begins, if it keeps any; a row of NULLs for a slot that
/// doesn't exist.
///
/// # Errors
/// As for [`identify_system`].
pub fn read_slot(out: &mut Vec<u8>, slot: Option<Option<(Lsn, TimelineId)>>) -> Result<(), ErrorResponse> {
    row_description(out, &READ_REPLICATION_SLOT_COLUMNS);
    let mut row = DataRow::begin(out);
    match slot {
        Some(_) => row.text("physical"),
        None => row.null(),
    }
    match slot.flatten() {
        Some((restart_lsn, timeline)) => {
            row.display(restart_lsn);
            row.display(timeline);
        }
        None => {
            row.null();
            row.null();
        }
    }
    row.finish()?;
    command_complete(out, "READ_REPLICATION_SLOT");
    Ok(())
}

/// The answer to CREATE_REPLICATION_SLOT.
///
/// # Errors
/// As for [`identify_system`].
pub fn create_slot(out: &mut Vec<u8>, name: &str) -> Result<(), ErrorResponse> {
    row_description(out, &CREATE_REPLICATION_SLOT_COLUMNS);
    let mut row = DataRow::begin(out);
    row.text(name);
    // Of a slot for decoding only.
    row.display(Lsn::INVALID);
    row.null();
    row.null();
    row.finish()?;
    command_complete(out, "CREATE_REPLICATION_SLOT");
    Ok(())
}

/// Why a command that this server understands is not carried out.
pub fn not_supported(command: &ReplicationCommand) -> ErrorResponse {
    let (what, hint) = match command {
        ReplicationCommand::CreateReplicationSlot(_) | ReplicationCommand::StartLogicalReplication => {
            ("logical decoding is not supported by this server", "Use physical replication.")
        }
        other => {
            let message = format!("{} is not supported by this server", other.name());
            return ErrorResponse::error(sqlstate::FEATURE_NOT_SUPPORTED, message);
        }
    };
    ErrorResponse::error(sqlstate::FEATURE_NOT_SUPPORTED, what).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(out: &[u8]) -> String {
        out.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect()
    }

    #[test]
    fn identify_system_has_four_columns_and_no_database() {
        let mut out = Vec::new();
        identify_system(&mut out, 7_000_000_000_000_000_001, TimelineId(1), Lsn(0x100_0028)).unwrap();
        let row = [
            b"D\0\0\0\x33\0\x04\0\0\0\x137000000000000000001\0\0\0\x011\0\0\0\x090/1000028".as_slice(),
            b"\xff\xff\xff\xff",
        ]
        .concat();
        assert!(out.windows(row.len()).any(|window| window == row), "{}", text_of(&out));
        assert!(out.ends_with(b"C\0\0\0\x14IDENTIFY_SYSTEM\0"));
    }

    #[test]
    fn stream_end_says_what_follows_only_after_a_timeline_that_ended() {
        let mut out = Vec::new();
        stream_end(&mut out, None).unwrap();
        assert_eq!(out, b"C\0\0\0\x14START_STREAMING\0C\0\0\0\x16START_REPLICATION\0");
        let mut out = Vec::new();
        stream_end(&mut out, Some((TimelineId(2), Lsn(0xA0_2040)))).unwrap();
        let row = b"D\0\0\0\x17\0\x02\0\0\0\x012\0\0\0\x080/A02040";
        assert!(out.windows(row.len()).any(|window| window == row), "{}", text_of(&out));
    }
}
