//! SQLSTATE: the five characters by which a program recognises an error.
//!
//! One table gives the constant and the name that PostgreSQL uses for the condition. Follows PostgreSQL 15
//! src/backend/utils/errcodes.txt; only codes that a node can send, or reacts to, are listed.

use std::fmt;

/// Five characters, each a digit or an upper-case letter; the first two are the class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// The code written as `text`, or `None` if that is not a SQLSTATE.
    pub fn parse(text: &str) -> Option<SqlState> {
        let code: [u8; 5] = text.as_bytes().try_into().ok()?;
        let valid = code.iter().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
        valid.then_some(SqlState(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a SQLSTATE is made of digits and letters")
    }

    /// Whether the code belongs to the class of these two characters.
    pub fn is_class(&self, class: &str) -> bool {
        &self.0[..2] == class.as_bytes()
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.condition() {
            Some(name) => write!(f, "{} ({name})", self.as_str()),
            None => f.write_str(self.as_str()),
        }
    }
}

macro_rules! sqlstates {
    ($($code:literal $constant:ident $name:literal)*) => {
        $(
            #[doc = concat!("`", $code, "`: ", $name, ".")]
            pub const $constant: SqlState = match $code.as_bytes() {
                [a, b, c, d, e] => SqlState([*a, *b, *c, *d, *e]),
                _ => panic!("a SQLSTATE has five characters"),
            };
        )*

        impl SqlState {
            /// PostgreSQL's name for the condition, if it is one of the table.
            pub fn condition(&self) -> Option<&'static str> {
                match *self {
                    $($constant => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}

sqlstates! {
    "00000" SUCCESSFUL_COMPLETION "successful_completion"
    "01000" WARNING "warning"
    "08000" CONNECTION_EXCEPTION "connection_exception"
    "08001" SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION "sqlclient_unable_to_establish_sqlconnection"
    "08003" CONNECTION_DOES_NOT_EXIST "connection_does_not_exist"
    "08006" CONNECTION_FAILURE "connection_failure"
    "08P01" PROTOCOL_VIOLATION "protocol_violation"
    "0A000" FEATURE_NOT_SUPPORTED "feature_not_supported"
    "22000" DATA_EXCEPTION "data_exception"
    "22003" NUMERIC_VALUE_OUT_OF_RANGE "numeric_value_out_of_range"
    "22012" DIVISION_BY_ZERO "division_by_zero"
    "22021" CHARACTER_NOT_IN_REPERTOIRE "character_not_in_repertoire"
    "22023" INVALID_PARAMETER_VALUE "invalid_parameter_value"
    "22P02" INVALID_TEXT_REPRESENTATION "invalid_text_representation"
    "23000" INTEGRITY_CONSTRAINT_VIOLATION "integrity_constraint_violation"
    "23502" NOT_NULL_VIOLATION "not_null_violation"
    "23503" FOREIGN_KEY_VIOLATION "foreign_key_violation"
    "23505" UNIQUE_VIOLATION "unique_violation"
    "23514" CHECK_VIOLATION "check_violation"
    "25000" INVALID_TRANSACTION_STATE "invalid_transaction_state"
    "25001" ACTIVE_SQL_TRANSACTION "active_sql_transaction"
    "25006" READ_ONLY_SQL_TRANSACTION "read_only_sql_transaction"
    "25P01" NO_ACTIVE_SQL_TRANSACTION "no_active_sql_transaction"
    "25P02" IN_FAILED_SQL_TRANSACTION "in_failed_sql_transaction"
    "25P03" IDLE_IN_TRANSACTION_SESSION_TIMEOUT "idle_in_transaction_session_timeout"
    "26000" INVALID_SQL_STATEMENT_NAME "invalid_sql_statement_name"
    "28000" INVALID_AUTHORIZATION_SPECIFICATION "invalid_authorization_specification"
    "28P01" INVALID_PASSWORD "invalid_password"
    "34000" INVALID_CURSOR_NAME "invalid_cursor_name"
    "3B001" INVALID_SAVEPOINT_SPECIFICATION "invalid_savepoint_specification"
    "3D000" INVALID_CATALOG_NAME "invalid_catalog_name"
    "3F000" INVALID_SCHEMA_NAME "invalid_schema_name"
    "40001" SERIALIZATION_FAILURE "serialization_failure"
    "40P01" DEADLOCK_DETECTED "deadlock_detected"
    "42501" INSUFFICIENT_PRIVILEGE "insufficient_privilege"
    "42601" SYNTAX_ERROR "syntax_error"
    "42602" INVALID_NAME "invalid_name"
    "42622" NAME_TOO_LONG "name_too_long"
    "42701" DUPLICATE_COLUMN "duplicate_column"
    "42702" AMBIGUOUS_COLUMN "ambiguous_column"
    "42703" UNDEFINED_COLUMN "undefined_column"
    "42704" UNDEFINED_OBJECT "undefined_object"
    "42710" DUPLICATE_OBJECT "duplicate_object"
    "42803" GROUPING_ERROR "grouping_error"
    "42804" DATATYPE_MISMATCH "datatype_mismatch"
    "42809" WRONG_OBJECT_TYPE "wrong_object_type"
    "42883" UNDEFINED_FUNCTION "undefined_function"
    "42939" RESERVED_NAME "reserved_name"
    "42P01" UNDEFINED_TABLE "undefined_table"
    "42P02" UNDEFINED_PARAMETER "undefined_parameter"
    "42P03" DUPLICATE_CURSOR "duplicate_cursor"
    "42P05" DUPLICATE_PREPARED_STATEMENT "duplicate_prepared_statement"
    "42P07" DUPLICATE_TABLE "duplicate_table"
    "42P10" INVALID_COLUMN_REFERENCE "invalid_column_reference"
    "42P16" INVALID_TABLE_DEFINITION "invalid_table_definition"
    "53000" INSUFFICIENT_RESOURCES "insufficient_resources"
    "53100" DISK_FULL "disk_full"
    "53200" OUT_OF_MEMORY "out_of_memory"
    "53300" TOO_MANY_CONNECTIONS "too_many_connections"
    "53400" CONFIGURATION_LIMIT_EXCEEDED "configuration_limit_exceeded"
    "54000" PROGRAM_LIMIT_EXCEEDED "program_limit_exceeded"
    "54001" STATEMENT_TOO_COMPLEX "statement_too_complex"
    "54011" TOO_MANY_COLUMNS "too_many_columns"
    "54023" TOO_MANY_ARGUMENTS "too_many_arguments"
    "55000" OBJECT_NOT_IN_PREREQUISITE_STATE "object_not_in_prerequisite_state"
    "55006" OBJECT_IN_USE "object_in_use"
    "55P02" CANT_CHANGE_RUNTIME_PARAM "cant_change_runtime_param"
    "55P03" LOCK_NOT_AVAILABLE "lock_not_available"
    "57000" OPERATOR_INTERVENTION "operator_intervention"
    "57014" QUERY_CANCELED "query_canceled"
    "57P01" ADMIN_SHUTDOWN "admin_shutdown"
    "57P02" CRASH_SHUTDOWN "crash_shutdown"
    "57P03" CANNOT_CONNECT_NOW "cannot_connect_now"
    "57P05" IDLE_SESSION_TIMEOUT "idle_session_timeout"
    "58000" SYSTEM_ERROR "system_error"
    "58030" IO_ERROR "io_error"
    "58P01" UNDEFINED_FILE "undefined_file"
    "58P02" DUPLICATE_FILE "duplicate_file"
    "F0000" CONFIG_FILE_ERROR "config_file_error"
    "XX000" INTERNAL_ERROR "internal_error"
    "XX001" DATA_CORRUPTED "data_corrupted"
    "XX002" INDEX_CORRUPTED "index_corrupted"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstate_written_and_read() {
        assert_eq!(UNIQUE_VIOLATION.as_str(), "23505");
        assert_eq!(SqlState::parse("23505"), Some(UNIQUE_VIOLATION));
        assert_eq!(format!("{PROTOCOL_VIOLATION:?}"), "08P01 (protocol_violation)");
        assert!(UNIQUE_VIOLATION.is_class("23"));
        for wrong in ["", "2350", "235055", "2350a", "23 05", "é350"] {
            assert_eq!(SqlState::parse(wrong), None, "{wrong:?}");
        }
    }
}
