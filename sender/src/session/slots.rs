//! Replication slots in SQL: the functions that make, copy, move and drop them, and the view pg_replication_slots.
//!
//! Follows PostgreSQL 15 src/backend/replication/slotfuncs.c.

use engine::catalog::SystemValue;
use engine::error::{SqlError, SqlState};
use wal::lsn::Lsn;

use super::system_info::{SessionInfo, is_true, lsn, lsn_or_null, position, report_error, text};
use crate::replication_slots::retention::Limits;
use crate::replication_slots::{Lifetime, Reserve, SlotView};

const NULL: SystemValue = SystemValue::Null;

impl SessionInfo {
    /// pg_create_physical_replication_slot(name, immediately_reserve, temporary)
    pub(super) fn create_slot(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let name = arguments.first().map(text).unwrap_or_default();
        let reserve = if arguments.get(1).is_some_and(is_true) { Reserve::Now } else { Reserve::Later };
        let kept = self.make_slot(&name, reserve, lifetime(arguments.get(2).is_some_and(is_true)))?;
        Ok(SystemValue::Record(vec![name.into(), lsn_or_null(kept)]))
    }

    /// pg_copy_physical_replication_slot(source, name, temporary)
    pub(super) fn copy_slot(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let source = arguments.first().map(text).unwrap_or_default();
        let name = arguments.get(1).map(text).unwrap_or_default();
        let found = self.node.replication_slots.view(&source).map_err(report_error)?;
        let temporary = arguments.get(2).map_or(found.temporary, is_true);
        if !found.restart_lsn.is_valid() {
            let message = "cannot copy a replication slot that doesn't reserve WAL";
            return Err(SqlError::new(SqlState(*b"55000"), message));
        }
        self.make_slot(&name, Reserve::As(&source), lifetime(temporary))?;
        // PostgreSQL tells what a logical slot has confirmed, and of these nothing.
        Ok(SystemValue::Record(vec![name.into(), NULL]))
    }

    /// Makes a slot; from where on it keeps the log, if it does yet.
    fn make_slot(&self, name: &str, reserve: Reserve<'_>, lifetime: Lifetime) -> Result<Lsn, SqlError> {
        let slots = self.node.replication_slots;
        let slot = slots.create(self.node, self.me, name, reserve, lifetime).map_err(report_error)?;
        Ok(slot.restart_lsn())
    }

    /// pg_replication_slot_advance(name, upto). It is on disk with the next checkpoint.
    pub(super) fn advance_slot(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let name = arguments.first().map(text).unwrap_or_default();
        let upto = position(&arguments.get(1).map(text).unwrap_or_default())?;
        if !upto.is_valid() {
            return Err(SqlError::new(SqlState::INTERNAL_ERROR, "invalid target WAL LSN"));
        }
        let node = self.node;
        let end = if node.recovery.in_recovery() { node.recovery.replayed() } else { node.wal.flush_lsn() };
        let upto = upto.min(end);
        let slot = node.replication_slots.acquire(node, self.me, &name).map_err(report_error)?;
        let least = slot.restart_lsn();
        let refused = |message: String| SqlError::new(SqlState(*b"55000"), message);
        if !least.is_valid() {
            return Err(refused(format!("replication slot \"{name}\" cannot be advanced"))
                .with_detail("This slot has never previously reserved WAL, or it has been invalidated."));
        }
        if upto < least {
            let message = format!("cannot advance replication slot to {upto}, minimum is {least}");
            return Err(refused(message));
        }
        slot.confirm(upto);
        Ok(SystemValue::Record(vec![name.into(), lsn(upto)]))
    }

    /// pg_drop_replication_slot(name)
    pub(super) fn drop_slot(&self, arguments: &[SystemValue]) -> Result<SystemValue, SqlError> {
        let name = arguments.first().map(text).unwrap_or_default();
        let slot = self.node.replication_slots.acquire(self.node, self.me, &name).map_err(report_error)?;
        slot.drop_slot().map_err(report_error)?;
        Ok(SystemValue::Text(String::new()))
    }

    /// pg_replication_slots
    pub(super) fn replication_slots(&self) -> Vec<Vec<SystemValue>> {
        let slots = self.node.replication_slots;
        let limits = Limits::now(self.node, self.node.wal.flush_lsn());
        let needed = slots.needed_lsn();
        slots.views().iter().map(|slot| row(slot, &limits, needed)).collect()
    }
}

fn lifetime(temporary: bool) -> Lifetime {
    if temporary { Lifetime::Temporary } else { Lifetime::Persistent }
}

fn row(slot: &SlotView, limits: &Limits, needed: Option<Lsn>) -> Vec<SystemValue> {
    let is_active = slot.holder_pid != 0;
    let (status, safe) = match slot.restart_lsn {
        _ if slot.is_invalidated => ("lost".into(), NULL),
        restart if !restart.is_valid() => (NULL, NULL),
        restart => {
            let status = limits.wal_status(restart, needed, is_active);
            (status.name().into(), status.is_there().then(|| limits.safe_wal_size(restart)).flatten().into())
        }
    };
    vec![
        slot.name.as_str().into(),
        NULL,
        "physical".into(),
        NULL,
        NULL,
        slot.temporary.into(),
        is_active.into(),
        is_active.then_some(slot.holder_pid).into(),
        NULL,
        NULL,
        lsn_or_null(slot.restart_lsn),
        NULL,
        status,
        safe,
        false.into(),
    ]
}
