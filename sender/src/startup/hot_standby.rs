//! What a standby that serves readers looks for in a record, beside the rows: whether it is to be held back
//! (recovery_min_apply_delay), and whether a session of the primary waits for it (remote_apply).
//!
//! Follows PostgreSQL 15 recoveryApplyDelay() in src/backend/access/transam/xlogrecovery.c.

use std::time::Duration;

use sys::clock::{self, MonoTime};
use wal::reader::Record;
use wal::record::Rmgr;
use wal::timestamp::Timestamp;
use wal::xact::Commit;

use super::StartupError;
use super::recovery::decode_change;
use crate::sync_rep::APPLY_FEEDBACK;

/// When a record may be put that is to be held back for `delay` after it was committed; none: now.
pub(super) fn delayed_until(record: &Record<'_>, delay: Duration) -> Result<Option<MonoTime>, StartupError> {
    if record.rmgr != Rmgr::CHANGE {
        return Ok(None);
    }
    let now = Timestamp::from_unix_micros(clock::unix_micros());
    let due = decode_change(record)?
        .commit_time
        .0
        .saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX));
    let rest = Duration::from_micros(u64::try_from(due.saturating_sub(now.0)).unwrap_or(0));
    Ok((!rest.is_zero()).then(|| clock::now().saturating_add(rest)))
}

/// Whether a session of the primary waits to hear that who reads here sees this.
pub(super) fn wants_feedback(record: &Record<'_>) -> bool {
    match record.rmgr {
        Rmgr::CHANGE => record.info & APPLY_FEEDBACK != 0,
        _ if Commit::is_commit(record.rmgr, record.info) => {
            Commit::decode(record.info, record.main_data).is_ok_and(|commit| commit.apply_feedback)
        }
        _ => false,
    }
}
