//! What a session may see of the node, and do to it: the rights of functions, views and settings.
//!
//! What acts on the whole node is for superusers, unless it is listed here as something else: a function that somebody
//! adds is theirs until somebody has thought about it. Everybody sees that other sessions are there, and of the own role's
//! what they do.
//!
//! Follows PostgreSQL 15 src/backend/utils/adt/pgstatfuncs.c, src/backend/storage/ipc/signalfuncs.c,
//! src/backend/catalog/system_functions.sql.

use engine::catalog::{Effect, Function, SystemValue, View};
use engine::error::{SqlError, SqlState};
use engine::roles::Rights;
use ipc::interrupt::Interrupts;
use settings::secret;
use settings::table::SettingNumber;

use super::system_info::SessionInfo;

fn denied(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::INSUFFICIENT_PRIVILEGE, message)
}

/// 42501 for a setting that the role may not see.
pub(super) fn check_setting(name: &str, rights: Rights) -> Result<(), SqlError> {
    match rights.superuser || !secret::is_for_superusers(name) {
        true => Ok(()),
        false => Err(denied(format!(
            "must be superuser or have privileges of pg_read_all_settings to examine \"{}\"",
            name.to_ascii_lowercase()
        ))),
    }
}

/// A row of pg_stat_activity without what its session does, and from where.
pub(super) fn without_what_it_does(mut row: Vec<SystemValue>) -> Vec<SystemValue> {
    // From client_addr to state; datname, pid, usesysid, usename and application_name stay.
    for value in &mut row[7..17] {
        *value = SystemValue::Null;
    }
    row[20] = "<insufficient privilege>".into();
    row[21] = SystemValue::Null;
    row
}

impl SessionInfo {
    /// 42501 for a function that is not for everybody.
    pub(super) fn check_function(&self, function: Function) -> Result<(), SqlError> {
        let for_everybody = function.row().effect == Effect::None
            || matches!(
                function,
                Function::Sleep
                    | Function::SetConfig
                    | Function::LogicalEmitMessage
                    | Function::TerminateBackend
                    | Function::CancelBackend
            );
        let of_slots = matches!(
            function,
            Function::CreatePhysicalReplicationSlot
                | Function::CopyPhysicalReplicationSlot
                | Function::ReplicationSlotAdvance
                | Function::DropReplicationSlot
        );
        let rights = self.rights.get();
        match for_everybody || rights.superuser || (of_slots && rights.replication) {
            true => Ok(()),
            false if of_slots => {
                Err(denied("must be superuser or replication role to use replication slots"))
            }
            false => Err(denied(format!("permission denied for function {}", function.row().name))),
        }
    }

    /// 42501 for a view that is not for everybody.
    pub(super) fn check_view(&self, view: View) -> Result<(), SqlError> {
        match self.rights.get().superuser || !matches!(view, View::FileSettings | View::HbaFileRules) {
            true => Ok(()),
            false => Err(denied(format!("permission denied for view {}", view.row().name))),
        }
    }

    /// 42501 for a session that the role may not end or interrupt.
    pub(super) fn check_signal(&self, user: &str, interrupt: Interrupts) -> Result<(), SqlError> {
        if self.rights.get().superuser || self.is_own_role(user) {
            return Ok(());
        }
        Err(denied(match interrupt == Interrupts::TERMINATE {
            true => {
                "must be a member of the role whose process is being terminated or member of pg_signal_backend"
            }
            false => {
                "must be a member of the role whose query is being canceled or member of pg_signal_backend"
            }
        }))
    }

    fn is_own_role(&self, user: &str) -> bool {
        self.node.statuses[self.me.number().index()].user.get() == user
    }

    /// Whether the role may see what a session of `user` does.
    pub(super) fn may_see_session_of(&self, user: &str) -> bool {
        self.rights.get().superuser || self.is_own_role(user)
    }

    /// Rows of which everybody else sees the first column alone: the process.
    pub(super) fn for_superusers(&self, mut rows: Vec<Vec<SystemValue>>) -> Vec<Vec<SystemValue>> {
        if !self.rights.get().superuser {
            rows.iter_mut()
                .flat_map(|row| row.iter_mut().skip(1))
                .for_each(|value| *value = SystemValue::Null);
        }
        rows
    }

    /// The settings that the role may see.
    pub(super) fn visible_settings(&self) -> impl Iterator<Item = SettingNumber> {
        let superuser = self.rights.get().superuser;
        SettingNumber::all().filter(move |number| superuser || !secret::is_for_superusers(number.row().name))
    }
}
