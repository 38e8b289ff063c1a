//! The views that tell how replication and the log are doing: pg_stat_replication, pg_stat_wal_receiver, pg_stat_wal,
//! pg_stat_progress_basebackup.
//!
//! Follows PostgreSQL 15 pg_stat_get_wal_senders() in src/backend/replication/walsender.c, pg_stat_get_wal_receiver() in
//! src/backend/replication/walreceiver.c, src/backend/catalog/system_views.sql. Differs in: lags of positions that are never
//! reported are NULL; pg_stat_wal times its writes and syncs always, and counts since the node started; a row of
//! pg_stat_wal_receiver is there while it still connects (as in PostgreSQL 19).

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use engine::catalog::SystemValue;
use wal::lsn::Lsn;
use wal::timestamp::Timestamp;

use super::system_info::{NULL, SessionInfo, count, lsn_or_null, text_or_null, time};
use crate::sync_rep::{self, quorum};
use crate::walreceiver_state::WalRcvState;

impl SessionInfo {
    /// pg_stat_replication
    pub(super) fn replication(&self) -> Vec<Vec<SystemValue>> {
        let mut rows = Vec::new();
        let settings = self.node.settings();
        let members = sync_rep::members(self.node);
        for (index, slot) in self.node.walsenders.iter().enumerate() {
            let Some(number) = slot.owner() else { continue };
            let state = quorum::sync_state(&settings.synchronous_standby_names, &members, index);
            let priority = members[index].priority_shown();
            let (proc, status) = (self.node.procs.slot(number), &self.node.statuses[number.index()]);
            let xmin = slot.feedback_xmin.load(Ordering::Relaxed);
            let lags = slot.lags();
            rows.push(vec![
                proc.pid().map(|pid| pid.0).into(),
                10.into(),
                status.user.get().into(),
                status.application_name.get().into(),
                text_or_null(status.client_addr.get()),
                NULL,
                status.client_port.load(Ordering::Relaxed).into(),
                time(Timestamp::from_unix_micros(proc.start_time()).0),
                if xmin == 0 { NULL } else { i64::from(xmin).into() },
                slot.state().name().into(),
                lsn_or_null(slot.sent_lsn()),
                lsn_or_null(slot.write_lsn()),
                lsn_or_null(slot.flush_lsn()),
                lsn_or_null(slot.apply_lsn()),
                lags.write.map(interval).into(),
                lags.flush.map(interval).into(),
                lags.apply.map(interval).into(),
                i64::from(priority).into(),
                state.name().into(),
                time(slot.reply_time.load(Ordering::Relaxed)),
            ]);
        }
        rows
    }

    /// pg_stat_wal_receiver
    pub(super) fn walreceiver(&self) -> Vec<Vec<SystemValue>> {
        let shared = self.node.walreceiver;
        let pid = shared.pid.load(Ordering::Acquire);
        if pid == 0 || shared.state() == WalRcvState::Stopped {
            return Vec::new();
        }
        let at = |position: &AtomicU64| lsn_or_null(Lsn(position.load(Ordering::Relaxed)));
        vec![vec![
            pid.into(),
            shared.state().name().into(),
            at(&shared.start),
            i64::from(shared.start_timeline.load(Ordering::Relaxed)).into(),
            lsn_or_null(shared.written_lsn()),
            lsn_or_null(self.node.wal.flush_lsn()),
            i64::from(self.node.wal.timeline().0).into(),
            time(shared.last_msg_send_time.load(Ordering::Relaxed)),
            time(shared.last_msg_receipt_time.load(Ordering::Relaxed)),
            at(&shared.latest_end),
            time(shared.latest_end_time.load(Ordering::Relaxed)),
            text_or_null(shared.slot_name.get()),
            text_or_null(shared.sender_host.get()),
            port(&shared.sender_port),
            text_or_null(shared.conninfo.get()),
        ]]
    }

    /// pg_stat_wal
    pub(super) fn stat_wal(&self) -> Vec<SystemValue> {
        let wal = self.node.wal;
        let number = |counter: &AtomicU64| count(counter.load(Ordering::Relaxed));
        let milliseconds = |ns: &AtomicU64| SystemValue::Float(ns.load(Ordering::Relaxed) as f64 / 1e6);
        vec![
            number(&wal.records),
            // Pages of tables are never in this log.
            0.into(),
            number(&wal.record_bytes),
            number(&wal.buffers_full),
            number(&wal.writes),
            number(&wal.syncs),
            milliseconds(&wal.write_time),
            milliseconds(&wal.sync_time),
            // As old as all of shared memory.
            time(self.node.archiver.reset_time.load(Ordering::Relaxed)),
        ]
    }

    /// pg_stat_progress_basebackup
    pub(super) fn backups(&self) -> Vec<Vec<SystemValue>> {
        let sending = self.node.walsenders.iter().filter_map(|slot| {
            let (number, phase) = (slot.owner()?, slot.backup.phase()?);
            let backup = &slot.backup;
            Some(vec![
                self.node.procs.slot(number).pid().map(|pid| pid.0).into(),
                phase.name().into(),
                backup.total().map(count).unwrap_or(NULL),
                count(backup.streamed()),
                1.into(),
                i64::from(backup.tablespaces_streamed()).into(),
            ])
        });
        sending.collect()
    }
}

fn port(port: &AtomicI32) -> SystemValue {
    Some(port.load(Ordering::Relaxed)).filter(|port| *port != 0).into()
}

/// An interval as PostgreSQL writes one that has no days: `00:00:01.5`.
pub(crate) fn interval(length: Duration) -> String {
    let (seconds, micros) = (length.as_secs(), length.subsec_micros());
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match micros {
        0 => clock,
        _ => format!("{clock}.{micros:06}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_postgresql_writes_them() {
        for (micros, expected) in [
            (0, "00:00:00"),
            (1, "00:00:00.000001"),
            (1_500_000, "00:00:01.5"),
            (61_000_010, "00:01:01.00001"),
            (90_000_000_000, "25:00:00"),
        ] {
            assert_eq!(interval(Duration::from_micros(micros)), expected);
        }
    }
}
