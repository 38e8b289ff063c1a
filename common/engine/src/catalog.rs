//! PostgreSQL's functions and views that this server has: one table of each, and who answers them.
//!
//! The engine registers them with SQLite (functions as SQL functions, views as eponymous virtual tables, so any SELECT
//! works on them) and asks a [`SystemInfo`] for what they return. A session's answers come from shared memory and may
//! wait on its latch (pg_sleep); the startup process answers for statements it executes.

use crate::error::SqlError;
use crate::types::Type;

/// A value that a function or a view returns.
#[derive(Clone, Debug, PartialEq)]
pub enum SystemValue {
    /// NULL
    Null,
    /// bool
    Bool(bool),
    /// Any of the integer types
    Integer(i64),
    /// float8
    Float(f64),
    /// Everything that travels as text: names, LSNs, timestamps, intervals
    Text(String),
    /// bytea
    Bytes(Vec<u8>),
    /// A row of several values
    Record(Vec<SystemValue>),
}

/// A record as one value: `(a,b)`, nothing for NULL. For names, positions and numbers, which need no quotes.
pub(crate) fn record_text(values: &[SystemValue]) -> String {
    let text = |value: &SystemValue| match value {
        SystemValue::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
        SystemValue::Integer(value) => value.to_string(),
        SystemValue::Float(value) => value.to_string(),
        SystemValue::Text(value) => value.clone(),
        SystemValue::Null | SystemValue::Bytes(_) | SystemValue::Record(_) => String::new(),
    };
    format!("({})", values.iter().map(text).collect::<Vec<_>>().join(","))
}

impl From<&str> for SystemValue {
    fn from(text: &str) -> SystemValue {
        SystemValue::Text(text.to_owned())
    }
}

impl From<String> for SystemValue {
    fn from(text: String) -> SystemValue {
        SystemValue::Text(text)
    }
}

impl From<bool> for SystemValue {
    fn from(value: bool) -> SystemValue {
        SystemValue::Bool(value)
    }
}

impl From<i64> for SystemValue {
    fn from(value: i64) -> SystemValue {
        SystemValue::Integer(value)
    }
}

impl From<i32> for SystemValue {
    fn from(value: i32) -> SystemValue {
        SystemValue::Integer(i64::from(value))
    }
}

impl<T: Into<SystemValue>> From<Option<T>> for SystemValue {
    fn from(value: Option<T>) -> SystemValue {
        value.map_or(SystemValue::Null, Into::into)
    }
}

impl Function {
    /// Whether it is NULL for a NULL, without being called.
    pub fn is_strict(self) -> bool {
        self != Function::Notify
    }
}

/// Who knows what the functions and views say.
pub trait SystemInfo {
    /// Calls a function. `arguments` are as many as its row in [`FUNCTIONS`] allows, none of them NULL unless the
    /// function is not strict (a strict one is NULL for a NULL without being called); booleans come as
    /// `SystemValue::Integer`, numbers as text where the client wrote text.
    fn call(&self, function: Function, arguments: &[SystemValue]) -> Result<SystemValue, SqlError>;

    /// All rows of a view, each with as many values as the view has columns.
    fn rows(&self, view: View) -> Result<Vec<Vec<SystemValue>>, SqlError>;
}

/// What a function may do to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Only looks: usable anywhere, also in views, triggers and column defaults.
    None,
    /// Acts or waits: usable in a client's own statement alone, never from the schema.
    Acts,
}

/// A function's row.
#[derive(Debug)]
pub struct FunctionRow {
    /// Its name
    pub name: &'static str,
    /// Which it is; several names may mean the same one
    pub function: Function,
    /// Fewest and most arguments
    pub arguments: (u8, u8),
    /// The type it returns
    pub returns: Type,
    /// What it does
    pub effect: Effect,
}

macro_rules! functions {
    ($($(#[$doc:meta])* $variant:ident: $($name:literal)|+, $min:literal..=$max:literal, $returns:ident, $effect:ident;)*) => {
        /// The functions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Function { $($(#[$doc])* $variant,)* }

        /// Every name under which a function can be called.
        pub const FUNCTIONS: &[FunctionRow] = &[$($(FunctionRow {
            name: $name,
            function: Function::$variant,
            arguments: ($min, $max),
            returns: Type::$returns,
            effect: Effect::$effect,
        },)+)*];
    };
}

functions! {
    /// Whether this node is a standby
    IsInRecovery: "pg_is_in_recovery", 0..=0, Bool, None;
    /// End of what was written to the log's files (error on a standby)
    CurrentWalLsn: "pg_current_wal_lsn", 0..=0, PgLsn, None;
    /// End of what was inserted
    CurrentWalInsertLsn: "pg_current_wal_insert_lsn", 0..=0, PgLsn, None;
    /// End of what is durable
    CurrentWalFlushLsn: "pg_current_wal_flush_lsn", 0..=0, PgLsn, None;
    /// End of what the standby received and made durable
    LastWalReceiveLsn: "pg_last_wal_receive_lsn", 0..=0, PgLsn, None;
    /// End of what the standby put
    LastWalReplayLsn: "pg_last_wal_replay_lsn", 0..=0, PgLsn, None;
    /// Commit time of the last record put
    LastXactReplayTimestamp: "pg_last_xact_replay_timestamp", 0..=0, Timestamptz, None;
    /// Has a standby stop applying
    WalReplayPause: "pg_wal_replay_pause", 0..=0, Void, Acts;
    /// Has a standby go on
    WalReplayResume: "pg_wal_replay_resume", 0..=0, Void, Acts;
    /// Whether it has stopped, or is to
    IsWalReplayPaused: "pg_is_wal_replay_paused", 0..=0, Bool, None;
    /// Which of these
    WalReplayPauseState: "pg_get_wal_replay_pause_state", 0..=0, Text, None;
    /// Bytes between two positions; answered here
    WalLsnDiff: "pg_wal_lsn_diff", 2..=2, Numeric, None;
    /// Makes a primary of this standby: whether to wait for that, and for how many seconds
    Promote: "pg_promote", 0..=2, Bool, Acts;
    /// Has this primary become a standby of one of its standbys: how that is reached, and its application_name
    HandOver: "walship_hand_over", 2..=2, Bool, Acts;
    /// Name of the file that holds a position
    WalfileName: "pg_walfile_name", 1..=1, Text, None;
    /// Ends the current segment
    SwitchWal: "pg_switch_wal", 0..=0, PgLsn, Acts;
    /// Writes a message into the log: transactional, prefix, content
    LogicalEmitMessage: "pg_logical_emit_message", 3..=3, PgLsn, Acts;
    /// Ends another session: pid, timeout in ms
    TerminateBackend: "pg_terminate_backend", 1..=2, Bool, Acts;
    /// Ends another session's statement
    CancelBackend: "pg_cancel_backend", 1..=1, Bool, Acts;
    /// Has a process say in the log what memory it has: pid
    LogBackendMemoryContexts: "pg_log_backend_memory_contexts", 1..=1, Bool, Acts;
    /// Makes a replication slot: name, whether to reserve log at once, whether it goes with the session
    CreatePhysicalReplicationSlot: "pg_create_physical_replication_slot", 1..=3, Record, Acts;
    /// Makes a replication slot that keeps what another keeps: that one's name, the new name, whether it goes with the
    /// session
    CopyPhysicalReplicationSlot: "pg_copy_physical_replication_slot", 2..=3, Record, Acts;
    /// Moves a replication slot: name, position
    ReplicationSlotAdvance: "pg_replication_slot_advance", 2..=2, Record, Acts;
    /// Drops a replication slot: name
    DropReplicationSlot: "pg_drop_replication_slot", 1..=1, Void, Acts;
    /// Reads the configuration again
    ReloadConf: "pg_reload_conf", 0..=0, Bool, Acts;
    /// When the configuration was read last
    ConfLoadTime: "pg_conf_load_time", 0..=0, Timestamptz, None;
    /// The session's process
    BackendPid: "pg_backend_pid", 0..=0, Int4, None;
    /// Waits, seconds
    Sleep: "pg_sleep", 1..=1, Void, Acts;
    /// What this server is
    Version: "version", 0..=0, Text, None;
    /// The time
    Now: "now" | "transaction_timestamp" | "statement_timestamp" | "clock_timestamp", 0..=0, Timestamptz, None;
    /// The database of the startup packet
    CurrentDatabase: "current_database" | "current_catalog", 0..=0, Name, None;
    /// The user of the startup packet
    CurrentUser: "current_user" | "session_user" | "current_role", 0..=0, Name, None;
    /// A setting's value: name, whether NULL is the answer for an unknown one
    CurrentSetting: "current_setting", 1..=2, Text, None;
    /// Changes a setting: name, value, whether for the transaction alone
    SetConfig: "set_config", 3..=3, Text, Acts;
    /// Notifies a channel at the end of the transaction: channel, payload (NULL is empty)
    Notify: "pg_notify", 2..=2, Void, None;
    /// As a value: refused, since it is a set (see the view of that name)
    ListeningChannels: "pg_listening_channels", 0..=0, Text, None;
    /// How full the queue of notifications is, from 0 to 1
    NotificationQueueUsage: "pg_notification_queue_usage", 0..=0, Float8, None;
}

/// A view's row.
#[derive(Debug)]
pub struct ViewRow {
    /// Its name
    pub name: &'static str,
    /// Which it is
    pub view: View,
    /// Columns in order
    pub columns: &'static [(&'static str, Type)],
}

/// The views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// One row per process
    StatActivity,
    /// One row per walsender that streams
    StatReplication,
    /// The walreceiver's one row while there is one
    StatWalReceiver,
    /// The archiver's one row
    StatArchiver,
    /// What was inserted into the log, written and synced: one row
    StatWal,
    /// One row per base backup that is being sent
    StatProgressBasebackup,
    /// One row per replication slot
    ReplicationSlots,
    /// One row per setting
    Settings,
    /// One row per process, the postmaster among them
    StatLatch,
    /// One row per channel that this session listens to
    ListeningChannels,
    /// One row per entry of walship.conf as it is now
    FileSettings,
    /// One row per line of pg_hba.conf as it is now
    HbaFileRules,
}

/// Every view with its columns (PostgreSQL 15's, but for pg_stat_latch, which PostgreSQL lacks).
pub const VIEWS: &[ViewRow] = &[
    ViewRow {
        name: "pg_stat_activity",
        view: View::StatActivity,
        columns: &[
            ("datid", Type::Oid),
            ("datname", Type::Name),
            ("pid", Type::Int4),
            ("leader_pid", Type::Int4),
            ("usesysid", Type::Oid),
            ("usename", Type::Name),
            ("application_name", Type::Text),
            ("client_addr", Type::Inet),
            ("client_hostname", Type::Text),
            ("client_port", Type::Int4),
            ("backend_start", Type::Timestamptz),
            ("xact_start", Type::Timestamptz),
            ("query_start", Type::Timestamptz),
            ("state_change", Type::Timestamptz),
            ("wait_event_type", Type::Text),
            ("wait_event", Type::Text),
            ("state", Type::Text),
            ("backend_xid", Type::Xid),
            ("backend_xmin", Type::Xid),
            ("query_id", Type::Int8),
            ("query", Type::Text),
            ("backend_type", Type::Text),
        ],
    },
    ViewRow {
        name: "pg_stat_replication",
        view: View::StatReplication,
        columns: &[
            ("pid", Type::Int4),
            ("usesysid", Type::Oid),
            ("usename", Type::Name),
            ("application_name", Type::Text),
            ("client_addr", Type::Inet),
            ("client_hostname", Type::Text),
            ("client_port", Type::Int4),
            ("backend_start", Type::Timestamptz),
            ("backend_xmin", Type::Xid),
            ("state", Type::Text),
            ("sent_lsn", Type::PgLsn),
            ("write_lsn", Type::PgLsn),
            ("flush_lsn", Type::PgLsn),
            ("replay_lsn", Type::PgLsn),
            ("write_lag", Type::Interval),
            ("flush_lag", Type::Interval),
            ("replay_lag", Type::Interval),
            ("sync_priority", Type::Int4),
            ("sync_state", Type::Text),
            ("reply_time", Type::Timestamptz),
        ],
    },
    ViewRow {
        name: "pg_stat_wal_receiver",
        view: View::StatWalReceiver,
        columns: &[
            ("pid", Type::Int4),
            ("status", Type::Text),
            ("receive_start_lsn", Type::PgLsn),
            ("receive_start_tli", Type::Int4),
            ("written_lsn", Type::PgLsn),
            ("flushed_lsn", Type::PgLsn),
            ("received_tli", Type::Int4),
            ("last_msg_send_time", Type::Timestamptz),
            ("last_msg_receipt_time", Type::Timestamptz),
            ("latest_end_lsn", Type::PgLsn),
            ("latest_end_time", Type::Timestamptz),
            ("slot_name", Type::Text),
            ("sender_host", Type::Text),
            ("sender_port", Type::Int4),
            ("conninfo", Type::Text),
        ],
    },
    ViewRow {
        name: "pg_replication_slots",
        view: View::ReplicationSlots,
        columns: &[
            ("slot_name", Type::Name),
            ("plugin", Type::Name),
            ("slot_type", Type::Text),
            ("datoid", Type::Oid),
            ("database", Type::Name),
            ("temporary", Type::Bool),
            ("active", Type::Bool),
            ("active_pid", Type::Int4),
            ("xmin", Type::Xid),
            ("catalog_xmin", Type::Xid),
            ("restart_lsn", Type::PgLsn),
            ("confirmed_flush_lsn", Type::PgLsn),
            ("wal_status", Type::Text),
            ("safe_wal_size", Type::Int8),
            ("two_phase", Type::Bool),
        ],
    },
    ViewRow {
        name: "pg_stat_archiver",
        view: View::StatArchiver,
        columns: &[
            ("archived_count", Type::Int8),
            ("last_archived_wal", Type::Text),
            ("last_archived_time", Type::Timestamptz),
            ("failed_count", Type::Int8),
            ("last_failed_wal", Type::Text),
            ("last_failed_time", Type::Timestamptz),
            ("stats_reset", Type::Timestamptz),
        ],
    },
    ViewRow {
        name: "pg_stat_wal",
        view: View::StatWal,
        columns: &[
            ("wal_records", Type::Int8),
            ("wal_fpi", Type::Int8),
            ("wal_bytes", Type::Numeric),
            ("wal_buffers_full", Type::Int8),
            ("wal_write", Type::Int8),
            ("wal_sync", Type::Int8),
            ("wal_write_time", Type::Float8),
            ("wal_sync_time", Type::Float8),
            ("stats_reset", Type::Timestamptz),
        ],
    },
    ViewRow {
        name: "pg_stat_progress_basebackup",
        view: View::StatProgressBasebackup,
        columns: &[
            ("pid", Type::Int4),
            ("phase", Type::Text),
            ("backup_total", Type::Int8),
            ("backup_streamed", Type::Int8),
            ("tablespaces_total", Type::Int8),
            ("tablespaces_streamed", Type::Int8),
        ],
    },
    ViewRow {
        name: "pg_settings",
        view: View::Settings,
        columns: &[
            ("name", Type::Text),
            ("setting", Type::Text),
            ("unit", Type::Text),
            ("category", Type::Text),
            ("short_desc", Type::Text),
            ("extra_desc", Type::Text),
            ("context", Type::Text),
            ("vartype", Type::Text),
            ("source", Type::Text),
            ("min_val", Type::Text),
            ("max_val", Type::Text),
            ("enumvals", Type::Text),
            ("boot_val", Type::Text),
            ("reset_val", Type::Text),
            ("sourcefile", Type::Text),
            ("sourceline", Type::Int4),
            ("pending_restart", Type::Bool),
        ],
    },
    ViewRow {
        name: "pg_stat_latch",
        view: View::StatLatch,
        columns: &[
            ("pid", Type::Int4),
            ("backend_type", Type::Text),
            // Latches that the process set, whether or not they were set already
            ("sets", Type::Int8),
            // Of these, those that took a system call because the owner of the latch might sleep
            ("wakeups_sent", Type::Int8),
            // Wake-ups that the process found; several that came meanwhile count as one
            ("wakeups_received", Type::Int8),
            // Kernel waits that ended before their time with nothing to report
            ("spurious_wakeups", Type::Int8),
            // Times that the process went to the kernel to sleep; looks that can't sleep don't count
            ("kernel_waits", Type::Int8),
            // Milliseconds inside kernel waits, the present one included
            ("time_asleep", Type::Float8),
        ],
    },
    ViewRow {
        name: "pg_listening_channels",
        view: View::ListeningChannels,
        columns: &[("pg_listening_channels", Type::Text)],
    },
    ViewRow {
        name: "pg_file_settings",
        view: View::FileSettings,
        columns: &[
            ("sourcefile", Type::Text),
            ("sourceline", Type::Int4),
            ("seqno", Type::Int4),
            ("name", Type::Text),
            ("setting", Type::Text),
            ("applied", Type::Bool),
            ("error", Type::Text),
        ],
    },
    ViewRow {
        name: "pg_hba_file_rules",
        view: View::HbaFileRules,
        columns: &[
            ("line_number", Type::Int4),
            ("type", Type::Text),
            // This and the next, and the options: PostgreSQL's are arrays; these are their text.
            ("database", Type::Text),
            ("user_name", Type::Text),
            ("address", Type::Text),
            ("netmask", Type::Text),
            ("auth_method", Type::Text),
            ("options", Type::Text),
            ("error", Type::Text),
        ],
    },
];

/// A function that returns a record.
#[derive(Debug)]
pub struct RecordRow {
    /// Which it is
    pub function: Function,
    /// Its columns, where it stands in FROM
    pub columns: &'static [(&'static str, Type)],
}

/// The functions that return a record.
pub const RECORDS: &[RecordRow] = &[
    RecordRow {
        function: Function::CreatePhysicalReplicationSlot,
        columns: &[("slot_name", Type::Name), ("lsn", Type::PgLsn)],
    },
    RecordRow {
        function: Function::CopyPhysicalReplicationSlot,
        columns: &[("slot_name", Type::Name), ("lsn", Type::PgLsn)],
    },
    RecordRow {
        function: Function::ReplicationSlotAdvance,
        columns: &[("slot_name", Type::Name), ("end_lsn", Type::PgLsn)],
    },
];

impl View {
    /// The view's row.
    pub fn row(self) -> &'static ViewRow {
        VIEWS.iter().find(|row| row.view == self).expect("every view has its row")
    }
}

impl Function {
    /// The function's row (that of its first name).
    pub fn row(self) -> &'static FunctionRow {
        FUNCTIONS.iter().find(|row| row.function == self).expect("every function has its row")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_have_postgresql_15_column_counts() {
        let counts: Vec<_> = VIEWS.iter().map(|row| (row.name, row.columns.len())).collect();
        assert_eq!(
            counts,
            [
                ("pg_stat_activity", 22),
                ("pg_stat_replication", 20),
                ("pg_stat_wal_receiver", 15),
                ("pg_replication_slots", 15),
                ("pg_stat_archiver", 7),
                ("pg_stat_wal", 9),
                ("pg_stat_progress_basebackup", 6),
                ("pg_settings", 17),
                ("pg_stat_latch", 8),
                ("pg_listening_channels", 1),
                ("pg_file_settings", 7),
                ("pg_hba_file_rules", 9)
            ]
        );
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = FUNCTIONS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FUNCTIONS.len());
    }
}
