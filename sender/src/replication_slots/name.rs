//! What a slot may be called: its name is that of a directory too. Follows PostgreSQL 15 src/backend/replication/slot.c
//! (ReplicationSlotValidateName).

use wire::error::ErrorResponse;
use wire::sqlstate;

/// Longest name, bytes.
const NAME_MAX: usize = 63;

/// Whether a slot can have that name.
///
/// # Errors
/// 42602, 42622: it can't; why.
pub fn check_name(name: &str) -> Result<(), ErrorResponse> {
    let refused = |sqlstate, why| {
        Err(ErrorResponse::error(sqlstate, format!("replication slot name \"{name}\" {why}")))
    };
    if name.is_empty() {
        return refused(sqlstate::INVALID_NAME, "is too short");
    }
    if name.len() > NAME_MAX {
        return refused(sqlstate::NAME_TOO_LONG, "is too long");
    }
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !name.bytes().all(is_allowed) {
        return refused(sqlstate::INVALID_NAME, "contains invalid character").map_err(|report: ErrorResponse| {
            report.with_hint(
                "Replication slot names may only contain lower case letters, numbers, and the underscore character.",
            )
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_postgresql_does() {
        let longest = "a".repeat(63);
        for good in ["s1", "_", "0", longest.as_str()] {
            assert_eq!(check_name(good), Ok(()));
        }
        let too_long = "a".repeat(64);
        for (bad, sqlstate, why) in [
            ("", sqlstate::INVALID_NAME, "is too short"),
            (too_long.as_str(), sqlstate::NAME_TOO_LONG, "is too long"),
            ("S1", sqlstate::INVALID_NAME, "contains invalid character"),
            ("a-b", sqlstate::INVALID_NAME, "contains invalid character"),
            ("../x", sqlstate::INVALID_NAME, "contains invalid character"),
            ("ä", sqlstate::INVALID_NAME, "contains invalid character"),
        ] {
            let report = check_name(bad).unwrap_err();
            assert_eq!(report.sqlstate, sqlstate);
            assert_eq!(report.message, format!("replication slot name \"{bad}\" {why}"));
        }
        let hint = "Replication slot names may only contain lower case letters, numbers, and the underscore character.";
        assert_eq!(check_name("x.y").unwrap_err().hint.as_deref(), Some(hint));
    }
}
