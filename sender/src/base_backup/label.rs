//! The file `backup_label`: where the backup began. Pure.
//!
//! For people and PostgreSQL's tools, in its words. A Walship node takes what it needs from its control file
//! ([`crate::control::ControlFile::backup_end`]) and puts this file aside when it starts.
//!
//! Follows PostgreSQL 15 do_pg_backup_start() in src/backend/access/transam/xlog.c.

use wal::lsn::Lsn;
use wal::segment::{SegmentSize, file_name};
use wal::timeline::TimelineId;
use wal::timestamp::Timestamp;

use super::manifest::seconds;

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupLabel<'a> {
    /// The log is needed from here on.
    pub start: Lsn,
    /// On this timeline.
    pub timeline: TimelineId,
    /// The checkpoint record that said so.
    pub checkpoint: Lsn,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// When it began.
    pub time: Timestamp,
    /// The user's name for it.
    pub label: &'a str,
}

impl BackupLabel<'_> {
    /// The file's text.
    pub fn text(&self, segment_size: SegmentSize) -> String {
        let BackupLabel { start, timeline, checkpoint, label, .. } = self;
        let file = file_name(*timeline, segment_size.number_of(*start), segment_size);
        let from = if self.from_standby { "standby" } else { "primary" };
        let time = seconds(self.time);
        format!(
            "START WAL LOCATION: {start} (file {file})\n\
             CHECKPOINT LOCATION: {checkpoint}\n\
             BACKUP METHOD: streamed\n\
             BACKUP FROM: {from}\n\
             START TIME: {time} UTC\n\
             LABEL: {label}\n\
             START TIMELINE: {timeline}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_is_written_as_postgresql_writes_it() {
        let label = BackupLabel {
            start: Lsn(0x300_0028),
            timeline: TimelineId(1),
            checkpoint: Lsn(0x300_0060),
            from_standby: false,
            time: Timestamp(848_587_521_123_456),
            label: "mylabel",
        };
        let text = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
            CHECKPOINT LOCATION: 0/3000060\n\
            BACKUP METHOD: streamed\n\
            BACKUP FROM: primary\n\
            START TIME: 2026-11-21 14:45:21 UTC\n\
            LABEL: mylabel\n\
            START TIMELINE: 1\n";
        assert_eq!(label.text(SegmentSize::DEFAULT), text);
        let standby = BackupLabel { from_standby: true, ..label };
        assert!(standby.text(SegmentSize::DEFAULT).contains("\nBACKUP FROM: standby\n"));
    }
}
