//! The table: one row per setting.
//!
//! A row gives the field of [`Settings`] and its type, the kind and bounds of its value, the default, when it can
//! change, where it belongs and what it does. The macro below turns the rows into [`TABLE`] and [`Settings`], so
//! that the two cannot differ. Names, units, contexts and categories are PostgreSQL's wherever it has the setting.
//!
//! Rows whose enum has a single value are fixed: drivers SET them at every start, and anything else is refused
//! instead of being taken and ignored.

use std::borrow::Cow;
use std::time::Duration;

use crate::error::Error;
use crate::sync_standbys::SyncStandbys;
use crate::value::{Field, Kind, Unit, Value};

/// When a setting can change, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Context {
    /// Never: a property of the program, the data directory or the session.
    Internal,
    /// At the start of the node, by file or flag.
    Postmaster,
    /// At a reload of the file.
    Sighup,
    /// By file, flag, startup packet or SET.
    User,
}

impl Context {
    /// As pg_settings.context names it.
    pub fn name(self) -> &'static str {
        match self {
            Context::Internal => "internal",
            Context::Postmaster => "postmaster",
            Context::Sighup => "sighup",
            Context::User => "user",
        }
    }
}

/// Where the present value comes from; a later one overrides an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The table.
    Default,
    /// walship.conf.
    File,
    /// `-c name=value`.
    CommandLine,
    /// The node itself, for internal settings.
    Override,
    /// The startup packet of this session.
    Client,
    /// SET in this session.
    Session,
}

impl Source {
    /// As pg_settings.source names it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::File => "configuration file",
            Source::CommandLine => "command line",
            Source::Override => "override",
            Source::Client => "client",
            Source::Session => "session",
        }
    }
}

/// Where the present value of a setting comes from, and what the file would have it be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who set it.
    pub source: Source,
    /// The line in walship.conf, from 1 on; 0 for any other source.
    pub line: u32,
    /// The file or the flags have another value, which counts from the next start on.
    pub pending_restart: bool,
}

impl Origin {
    pub(crate) fn of(source: Source) -> Origin {
        Origin { source, line: 0, pending_restart: false }
    }

    pub(crate) fn file(line: u32) -> Origin {
        Origin { source: Source::File, line, pending_restart: false }
    }
}

/// One setting.
#[derive(Debug)]
pub struct Row {
    /// PostgreSQL's name; compared without regard to case.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The value when nobody says anything.
    pub default: Value,
    /// When it can change.
    pub context: Context,
    /// Where it belongs, as pg_settings.category.
    pub category: &'static str,
    /// What it does, in one sentence.
    pub description: &'static str,
}

/// The row of a setting by its number: the position in [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettingNumber(pub(crate) usize);

impl SettingNumber {
    /// Finds a setting by name. Error 42704.
    pub fn find(name: &str) -> Result<SettingNumber, Error> {
        TABLE
            .iter()
            .position(|row| row.name.eq_ignore_ascii_case(name))
            .map(SettingNumber)
            .ok_or_else(|| Error::unknown(name))
    }

    /// All settings, in the order of the table.
    pub fn all() -> impl Iterator<Item = SettingNumber> {
        (0..TABLE.len()).map(SettingNumber)
    }

    /// The row.
    pub fn row(self) -> &'static Row {
        &TABLE[self.0]
    }
}

/// Defines an enum setting: the type, its words and other spellings of them.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal $(| $alias:literal)*,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            const OPTIONS: &'static [(&'static str, &'static str)] =
                &[$(($word, $word), $(($alias, $word),)*)*];

            /// The word that stands for it.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl Field for $name {
            fn from_value(value: &Value, _: Kind) -> $name {
                match value {
                    $(Value::Text(text) if text == $word => $name::$variant,)*
                    _ => panic!("the row accepts the words of its enum only"),
                }
            }
            fn to_value(&self, _: Kind) -> Value {
                Value::Text(Cow::Borrowed(self.word()))
            }
        }
    };
}

words! {
    /// What a commit waits for.
    SynchronousCommit {
        /// Nothing (emitted messages only; else as `Local`).
        Off = "off" | "false" | "no" | "0",
        /// The local flush.
        Local = "local",
        /// The standby's write.
        RemoteWrite = "remote_write",
        /// The standby's flush.
        On = "on" | "true" | "yes" | "1",
        /// The standby's replay.
        RemoteApply = "remote_apply",
    }
}

words! {
    /// From which severity on a message is told, least first.
    MessageLevel {
        /// Everything, for developers.
        Debug = "debug1" | "debug" | "debug2" | "debug3" | "debug4" | "debug5",
        /// What an administrator may want to know.
        Log = "log" | "info",
        /// What a user may want to know.
        Notice = "notice",
        /// What is likely a problem.
        Warning = "warning",
        /// A statement failed.
        Error = "error" | "fatal" | "panic",
    }
}

words! {
    /// What processes wait with, and how they wake each other.
    WaitBackend {
        /// epoll, and SIGURG through a signalfd.
        Epoll = "epoll",
        /// epoll, and an eventfd per process.
        Eventfd = "eventfd",
        /// poll, and SIGURG's handler that writes to a pipe.
        Poll = "poll",
    }
}

words! {
    /// What a node archives.
    ArchiveMode {
        /// Nothing.
        Off = "off" | "false" | "no" | "0",
        /// The log that it writes.
        On = "on" | "true" | "yes" | "1",
        /// The log that it follows as a standby, too.
        Always = "always",
    }
}

const FIXED_ON: &[(&str, &str)] = &[("on", "on"), ("true", "on"), ("yes", "on"), ("1", "on")];
const FIXED_READ_COMMITTED: &[(&str, &str)] = &[("read committed", "read committed")];
/// psql without a locale asks for SQL_ASCII; text goes through untouched, as UTF-8, in both cases.
const ENCODINGS: &[(&str, &str)] =
    &[("UTF8", "UTF8"), ("UTF-8", "UTF8"), ("UNICODE", "UTF8"), ("SQL_ASCII", "SQL_ASCII")];
const DATE_STYLES: &[(&str, &str)] = &[
    ("ISO, MDY", "ISO, MDY"),
    ("ISO,MDY", "ISO, MDY"),
    ("ISO", "ISO, MDY"),
    ("MDY", "ISO, MDY"),
    ("ISO, DMY", "ISO, DMY"),
    ("ISO,DMY", "ISO, DMY"),
    ("ISO, YMD", "ISO, YMD"),
    ("ISO,YMD", "ISO, YMD"),
];

const fn count(min: i64, max: i64) -> Kind {
    Kind::Int { unit: Unit::None, min, max }
}
const fn in_unit(unit: Unit, min: i64, max: i64) -> Kind {
    Kind::Int { unit, min, max }
}
const fn text(text: &'static str) -> Value {
    Value::Text(Cow::Borrowed(text))
}
/// PostgreSQL's integers have 32 bits.
const INT_MAX: i64 = i32::MAX as i64;

const CONNECTIONS: &str = "Connections and Authentication / Connection Settings";
const AUTHENTICATION: &str = "Connections and Authentication / Authentication";
const FILES: &str = "File Locations";
const MEMORY: &str = "Resource Usage / Memory";
const KERNEL: &str = "Resource Usage / Kernel Resources";
const WAL: &str = "Write-Ahead Log / Settings";
const CHECKPOINTS: &str = "Write-Ahead Log / Checkpoints";
const ARCHIVING: &str = "Write-Ahead Log / Archiving";
const ARCHIVE_RECOVERY: &str = "Write-Ahead Log / Archive Recovery";
const SENDING: &str = "Replication / Sending Servers";
const PRIMARY: &str = "Replication / Primary Server";
const STANDBY: &str = "Replication / Standby Servers";
const LOG_WHEN: &str = "Reporting and Logging / When to Log";
const LOG_WHAT: &str = "Reporting and Logging / What to Log";
const TITLE: &str = "Reporting and Logging / Process Title";
const STATEMENT: &str = "Client Connection Defaults / Statement Behavior";
const LOCALE: &str = "Client Connection Defaults / Locale and Formatting";
const COMPATIBILITY: &str = "Version and Platform Compatibility / Previous PostgreSQL Versions";
const ERROR_HANDLING: &str = "Error Handling";
const PRESET: &str = "Preset Options";

macro_rules! table {
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
    ($($category:ident { $(#[doc = $description:literal]
        $field:ident $(as $name:literal)?: $type:ty = $kind:expr, $default:expr, $context:ident;)* })*) => {
        /// Every setting, by category.
        pub static TABLE: &[Row] = &[$($(Row {
            name: table!(@name $field $($name)?),
            kind: $kind,
            default: $default,
            context: Context::$context,
            category: $category,
            description: $description.trim_ascii(),
        },)*)*];

        /// The values in force, one typed field per row. Sizes are in bytes, whatever unit the row has; an
        /// optional time is None when the setting is 0 (off).
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $description] pub $field: $type,)*)*
            origins: Vec<Origin>,
        }

        impl Default for Settings {
            fn default() -> Settings {
                Settings {
                    $($($field: Field::from_value(&$default, $kind),)*)*
                    origins: vec![Origin::of(Source::Default); TABLE.len()],
                }
            }
        }

        impl Settings {
            /// The value of a setting.
            pub fn value(&self, number: SettingNumber) -> Value {
                let name = number.row().name;
                $($(if name == table!(@name $field $($name)?) {
                    return self.$field.to_value($kind);
                })*)*
                panic!("every row has a field")
            }

            /// Puts a value that the row's kind has accepted.
            pub(crate) fn put_from(&mut self, number: SettingNumber, value: &Value, origin: Origin) {
                let name = number.row().name;
                $($(if name == table!(@name $field $($name)?) {
                    self.$field = Field::from_value(value, $kind);
                })*)*
                self.origins[number.0] = origin;
            }
        }
    };
}

table! {
    FILES {
        /// Shows the server's data directory.
        data_directory: String = Kind::Text, text(""), Internal;
    }
    CONNECTIONS {
        /// Sets the host name or IP address(es) to listen to, separated by commas.
        listen_addresses: String = Kind::Text, text("127.0.0.1"), Postmaster;
        /// Sets the TCP port the server listens on; 0 takes a free one.
        port: u16 = count(0, 65_535), Value::Int(5440), Postmaster;
        /// Sets the directories where Unix-domain sockets will be created, relative to the data directory.
        unix_socket_directories: String = Kind::Text, text("."), Postmaster;
        /// Sets the maximum number of concurrent connections.
        max_connections: usize = count(1, 10_000), Value::Int(100), Postmaster;
        /// Sets the number of connection slots reserved for superusers.
        superuser_reserved_connections: usize = count(0, 10_000), Value::Int(3), Postmaster;
        /// Sets the time interval between checks for disconnection while running queries.
        client_connection_check_interval: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(0), User;
    }
    ERROR_HANDLING {
        /// Reinitializes the node after the crash of a process.
        restart_after_crash: bool = Kind::Bool, Value::Bool(true), Sighup;
    }
    AUTHENTICATION {
        /// Sets the maximum allowed time to complete client authentication.
        authentication_timeout: Duration = in_unit(Unit::Seconds, 1, 600), Value::Int(60), Sighup;
        /// Chooses the algorithm for encrypting passwords.
        password_encryption: String = Kind::Enum(&[("scram-sha-256", "scram-sha-256")]), text("scram-sha-256"), User;
    }
    MEMORY {
        /// Sets the maximum memory a statement may use within one process.
        statement_memory_limit: u64 = in_unit(Unit::Kilobytes, 1024, INT_MAX), Value::Int(262_144), User;
        /// Sets the maximum length of a statement's text, of a value and of a row.
        max_statement_size: u64 = in_unit(Unit::Kilobytes, 16, 524_288), Value::Int(1_024), Postmaster;
        /// Sets the maximum length of a message from a client, which may in any case have one statement of max_statement_size.
        max_message_size: u64 = in_unit(Unit::Kilobytes, 16, 1_048_575), Value::Int(65_536), Postmaster;
        /// Sets the maximum number of 8 kB pages for notifications that not every listening session has read.
        max_notify_queue_pages: usize = count(64, 131_072), Value::Int(1_024), Postmaster;
    }
    KERNEL {
        /// Selects how processes wait and wake each other.
        wait_backend: WaitBackend = Kind::Enum(WaitBackend::OPTIONS), text("eventfd"), Postmaster;
    }
    WAL {
        /// Sets the number of disk-page buffers in shared memory for WAL.
        wal_buffers: usize = in_unit(Unit::Pages, 16, 262_143), Value::Int(512), Postmaster;
        /// Time between WAL flushes performed in the WAL writer.
        wal_writer_delay: Duration = in_unit(Unit::Milliseconds, 1, 10_000), Value::Int(200), Sighup;
        /// Amount of WAL written out by WAL writer that triggers a flush.
        wal_writer_flush_after: u64 = in_unit(Unit::Pages, 0, INT_MAX), Value::Int(128), Sighup;
        /// Sets the current transaction's synchronization level.
        synchronous_commit: SynchronousCommit = Kind::Enum(SynchronousCommit::OPTIONS), text("on"), User;
    }
    CHECKPOINTS {
        /// Sets the maximum time between automatic WAL checkpoints.
        checkpoint_timeout: Duration = in_unit(Unit::Seconds, 1, 86_400), Value::Int(300), Sighup;
        /// Sets the WAL size that triggers a checkpoint.
        max_wal_size: u64 = in_unit(Unit::Megabytes, 2, INT_MAX), Value::Int(1_024), Sighup;
        /// Sets the size of state.db-wal at which it is checkpointed and started over.
        state_wal_limit: u64 = in_unit(Unit::Megabytes, 1, 65_536), Value::Int(64), Sighup;
        /// Sets the room kept for checkpoint, stop and start when the disk of the tables is full.
        disk_reserve: u64 = in_unit(Unit::Megabytes, 0, 65_536), Value::Int(20), Postmaster;
    }
    ARCHIVING {
        /// Allows archiving of WAL files using archive_command.
        archive_mode: ArchiveMode = Kind::Enum(ArchiveMode::OPTIONS), text("off"), Postmaster;
        /// Sets the shell command that will be called to archive a WAL file.
        archive_command: String = Kind::Text, text(""), Sighup;
        /// Sets the amount of time to wait before forcing a switch to the next WAL file.
        archive_timeout: Option<Duration> = in_unit(Unit::Seconds, 0, INT_MAX / 2), Value::Int(0), Sighup;
        /// Sets the time that an archive command gets once the node shuts down.
        archiver_shutdown_timeout: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(30_000), Sighup;
    }
    ARCHIVE_RECOVERY {
        /// Sets the shell command that will be called to retrieve an archived WAL file.
        restore_command: String = Kind::Text, text(""), Sighup;
    }
    SENDING {
        /// Sets the maximum number of simultaneously running WAL sender processes.
        max_wal_senders: usize = count(0, 1_000), Value::Int(10), Postmaster;
        /// Sets the maximum number of simultaneously defined replication slots.
        max_replication_slots: usize = count(0, 10_000), Value::Int(10), Postmaster;
        /// Sets the maximum WAL size that can be reserved by replication slots; -1 sets no limit.
        max_slot_wal_keep_size: Option<u64> = in_unit(Unit::Megabytes, -1, INT_MAX), Value::Int(-1), Sighup;
        /// Sets the size of WAL files held for standby servers; -1 holds all.
        wal_keep_size: Option<u64> = in_unit(Unit::Megabytes, -1, INT_MAX), Value::Int(0), Sighup;
        /// Sets the maximum time to wait for WAL replication.
        wal_sender_timeout: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(60_000), User;
    }
    PRIMARY {
        /// Number of synchronous standbys and list of names of potential synchronous ones.
        synchronous_standby_names: SyncStandbys = Kind::SyncStandbys, text(""), Sighup;
        /// Sets the time after which the log names the standbys that commits wait for.
        sync_wait_warning: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(10_000), Sighup;
    }
    STANDBY {
        /// Accepted for what sets it on every standby: here replay never waits for queries, nor do they end for it.
        hot_standby_feedback: bool = Kind::Bool, Value::Bool(false), Sighup;
        /// Sets the minimum delay for applying changes during recovery.
        recovery_min_apply_delay: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(0), Sighup;
        /// Sets the connection string to be used to connect to the sending server.
        primary_conninfo: String = Kind::Text, text(""), Sighup;
        /// Sets the name of the replication slot to use on the sending server.
        primary_slot_name: String = Kind::Text, text(""), Sighup;
        /// Sets whether a WAL receiver should create a temporary replication slot if no permanent slot is configured.
        wal_receiver_create_temp_slot: bool = Kind::Bool, Value::Bool(false), Sighup;
        /// Sets the maximum interval between WAL receiver status reports to the sending server.
        wal_receiver_status_interval: Option<Duration> = in_unit(Unit::Seconds, 0, INT_MAX / 1000), Value::Int(10), Sighup;
        /// Sets the maximum wait time to receive data from the sending server.
        wal_receiver_timeout: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(60_000), Sighup;
        /// Sets the time to wait before retrying to retrieve WAL after a failed attempt.
        wal_retrieve_retry_interval: Duration = in_unit(Unit::Milliseconds, 1, INT_MAX), Value::Int(5_000), Sighup;
    }
    LOG_WHEN {
        /// Sets the message levels that are logged.
        log_min_messages: MessageLevel = Kind::Enum(MessageLevel::OPTIONS), text("log"), Sighup;
    }
    LOG_WHAT {
        /// Logs each checkpoint.
        log_checkpoints: bool = Kind::Bool, Value::Bool(true), Sighup;
        /// Logs each replication command.
        log_replication_commands: bool = Kind::Bool, Value::Bool(false), Sighup;
        /// Sets the application name to be reported in statistics and logs.
        application_name: String = Kind::Text, text(""), User;
    }
    TITLE {
        /// Sets the name of the node, which a standby gives as its application_name.
        cluster_name: String = Kind::Text, text(""), Postmaster;
    }
    STATEMENT {
        /// Sets the maximum allowed duration of any statement.
        statement_timeout: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(0), User;
        /// Sets the maximum allowed idle time between queries, when in a transaction.
        idle_in_transaction_session_timeout: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(0), User;
        /// Sets the maximum allowed idle time between queries, when not in a transaction.
        idle_session_timeout: Option<Duration> = in_unit(Unit::Milliseconds, 0, INT_MAX), Value::Int(0), User;
        /// Sets the maximum time for which one write may hold the process that writes the tables.
        write_statement_timeout: Duration = in_unit(Unit::Milliseconds, 1, INT_MAX), Value::Int(5_000), Sighup;
        /// Sets the message levels that are sent to the client.
        client_min_messages: MessageLevel = Kind::Enum(MessageLevel::OPTIONS), text("notice"), User;
        /// Sets the default read-only status of new transactions.
        default_transaction_read_only: bool = Kind::Bool, Value::Bool(false), User;
        /// Sets the current transaction's read-only status.
        transaction_read_only: bool = Kind::Bool, Value::Bool(false), User;
        /// Sets the transaction isolation level of each new transaction.
        default_transaction_isolation: String = Kind::Enum(FIXED_READ_COMMITTED), text("read committed"), User;
        /// Sets the current transaction's isolation level.
        transaction_isolation: String = Kind::Enum(FIXED_READ_COMMITTED), text("read committed"), User;
        /// Sets the schema search order for names that are not schema-qualified (there is one schema).
        search_path: String = Kind::Text, text("\"$user\", public"), User;
        /// Sets the output format for bytea.
        bytea_output: String = Kind::Enum(&[("hex", "hex")]), text("hex"), User;
    }
    LOCALE {
        /// Sets the client's character set encoding.
        client_encoding: String = Kind::Enum(ENCODINGS), text("UTF8"), User;
        /// Sets the display format for date and time values.
        date_style as "DateStyle": String = Kind::Enum(DATE_STYLES), text("ISO, MDY"), User;
        /// Sets the display format for interval values.
        interval_style as "IntervalStyle": String = Kind::Enum(&[("postgres", "postgres")]), text("postgres"), User;
        /// Names the client's time zone; timestamps are shown in UTC with their offset.
        time_zone as "TimeZone": String = Kind::Text, text("UTC"), User;
        /// Sets the number of digits displayed for floating-point values.
        extra_float_digits: i64 = count(-15, 3), Value::Int(1), User;
    }
    COMPATIBILITY {
        /// Causes '...' strings to treat backslashes literally.
        standard_conforming_strings: String = Kind::Enum(FIXED_ON), text("on"), User;
    }
    PRESET {
        /// Shows the mode of the data directory.
        data_directory_mode: String = Kind::Text, text("0700"), Internal;
        /// Shows whether hot standby is currently active.
        in_hot_standby: bool = Kind::Bool, Value::Bool(false), Internal;
        /// Shows whether datetimes are integer based.
        integer_datetimes: bool = Kind::Bool, Value::Bool(true), Internal;
        /// Shows whether the current user is a superuser.
        is_superuser: bool = Kind::Bool, Value::Bool(true), Internal;
        /// Shows the server (database) character set encoding.
        server_encoding: String = Kind::Text, text("UTF8"), Internal;
        /// Shows the server version.
        server_version: String = Kind::Text, text("15.20 (Walship 0.0.0)"), Internal;
        /// Shows the server version as an integer.
        server_version_num: i64 = count(0, INT_MAX), Value::Int(150_020), Internal;
        /// Shows the current session user name.
        session_authorization: String = Kind::Text, text("postgres"), Internal;
        /// Shows the size of write ahead log segments.
        wal_segment_size: u64 = in_unit(Unit::Bytes, 1 << 20, 1 << 30), Value::Int(16 << 20), Internal;
    }
}

impl Settings {
    /// Where the present value of a setting comes from.
    pub fn origin(&self, number: SettingNumber) -> Origin {
        self.origins[number.0]
    }

    /// As `put_from`, for a source that is no file.
    pub(crate) fn put(&mut self, number: SettingNumber, value: &Value, source: Source) {
        self.put_from(number, value, Origin::of(source));
    }

    /// The value of a setting as SHOW prints it. Error 42704.
    pub fn show(&self, name: &str) -> Result<String, Error> {
        let number = SettingNumber::find(name)?;
        let shown = self.value(number).show(number.row().kind);
        Ok(crate::secret::shown(number.row().name, &shown).into_owned())
    }

    /// The parts of a comma-separated list such as `listen_addresses`, without blanks.
    pub fn list(text: &str) -> impl Iterator<Item = &str> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_one_its_own_row_accepts() {
        let settings = Settings::default();
        for number in SettingNumber::all() {
            let row = number.row();
            let shown = settings.value(number).show(row.kind);
            assert_eq!(row.kind.parse(row.name, &shown).as_ref(), Ok(&row.default), "{}", row.name);
            assert_eq!(settings.value(number), row.default, "{}", row.name);
            assert!(row.description.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn names_are_found_without_regard_to_case_and_unknown_ones_refused() {
        let settings = Settings::default();
        assert_eq!(settings.show("datestyle").unwrap(), "ISO, MDY");
        assert_eq!(settings.show("WAL_SEGMENT_SIZE").unwrap(), "16MB");
        assert_eq!(settings.show("checkpoint_timeout").unwrap(), "5min");
        let error = settings.show("work_men").unwrap_err();
        assert_eq!(error.message, "unrecognized configuration parameter \"work_men\"");
        assert_eq!(error.sqlstate, "42704");
    }

    #[test]
    fn names_are_unique() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(SettingNumber::find(row.name).unwrap().0, at, "{}", row.name);
        }
    }

    #[test]
    fn lists_are_split_at_commas() {
        let parts: Vec<&str> = Settings::list(" 127.0.0.1, ::1 ,").collect();
        assert_eq!(parts, ["127.0.0.1", "::1"]);
    }
}
