//! What a checkpoint says in the log: one line when it begins, one when it is done, in the form that programs which read
//! PostgreSQL's log know.
//!
//! The numbers mean: buffers, pages of the tables copied from SQLite's log into their file, and their share of that log;
//! write, the time for it; sync, that for the fdatasync of SQLite's log. No file is ever added (the walwriter does that)
//! or recycled ([`super::removal`]).
//!
//! Follows PostgreSQL 15 LogCheckpointStart() and LogCheckpointEnd() in src/backend/access/transam/xlog.c.

use std::fmt;
use std::time::Duration;

/// One checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    /// Pages copied.
    pub(super) copied: u32,
    /// Pages in SQLite's log.
    pub(super) log_pages: u32,
    /// Segments removed.
    pub(super) removed: usize,
    /// Copying.
    pub(super) write: Duration,
    /// fdatasync of SQLite's log.
    pub(super) sync: Duration,
    /// All of it.
    pub(super) total: Duration,
    /// Bytes logged between the last redo and this one.
    pub(super) distance: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * f64::from(self.copied) / f64::from(self.log_pages.max(1));
        write!(f, "wrote {} buffers ({share:.1}%); ", self.copied)?;
        write!(f, "0 WAL file(s) added, {} removed, 0 recycled; ", self.removed)?;
        let seconds = |duration: Duration| duration.as_secs_f64();
        write!(f, "write={:.3} s, sync={:.3} s, ", seconds(self.write), seconds(self.sync))?;
        write!(f, "total={:.3} s; distance={} kB", seconds(self.total), self.distance / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_postgresqls_form() {
        let report = Report {
            copied: 3,
            log_pages: 12,
            removed: 2,
            write: Duration::from_micros(1500),
            sync: Duration::from_millis(20),
            total: Duration::from_millis(1022),
            distance: 3 << 20,
        };
        assert_eq!(
            format!("checkpoint complete: {report}"),
            "checkpoint complete: wrote 3 buffers (25.0%); 0 WAL file(s) added, 2 removed, 0 recycled; \
             write=0.002 s, sync=0.020 s, total=1.022 s; distance=3072 kB"
        );
    }
}
