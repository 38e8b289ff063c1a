//! A session's own role: what it may do, and the passwords in its statements.
//!
//! Rights are looked at again between two statements when roles have changed anywhere, so an ALTER ROLE that was acknowledged
//! counts for every statement that begins afterwards. A role that was dropped meanwhile may do nothing any more.
//!
//! A password in CREATE or ALTER ROLE is replaced by its verifier here, in the one process that has it anyway: the
//! startup process, the log and the tables never see it.
//!
//! Follows PostgreSQL 15 src/backend/libpq/crypt.c (encrypt_password), src/backend/commands/user.c.

use std::sync::atomic::Ordering;

use engine::error::{SqlError, SqlState};
use engine::roles::{Asker, Rights};
use engine::sql::role::NewPassword;
use engine::sql::{Kind, Statement};
use wire::backend;
use wire::error::ErrorResponse;
use wire::scram::{self, Verifier};

use super::Session;
use super::authenticate::random;
use super::query::Failure;

impl Session {
    /// Who makes a request.
    pub(super) fn asker(&self) -> Asker {
        Asker { user: self.status.user.get(), rights: self.known.rights.get() }
    }

    /// Looks at the role again if any role has changed.
    pub(super) fn heed_roles(&mut self) -> Result<(), Failure> {
        let version = self.node.roles_version.load(Ordering::Acquire);
        if version == self.known.roles_version {
            return Ok(());
        }
        self.wait_for_acknowledged()?;
        let user = self.status.user.get();
        let rights = self.reader()?.role(&user)?.map_or(Rights::default(), |role| role.rights);
        self.known.roles_version = version;
        self.known.rights.set(rights);
        if let Some(reader) = &self.reader {
            reader.set_rights(rights);
        }
        let base = super::base_settings(self.node, self.me, rights);
        self.settings.borrow_mut().reload(&base);
        Ok(())
    }

    /// The text for the startup process: the statement's own, but for passwords.
    pub(super) fn text_for_writer(&mut self, statement: &Statement<'_>) -> Result<String, SqlError> {
        let Kind::Role(command) = &statement.kind else { return Ok(statement.sql.clone().into_owned()) };
        let salt = random().map_err(|error| SqlError::new(SqlState::INTERNAL_ERROR, error.message))?;
        let (mut command, mut cleared) = (command.clone(), false);
        command.replace_password(|password| {
            let made = stored_form(password, &salt);
            cleared = made == NewPassword::None;
            made
        });
        if cleared {
            let message = "empty string is not a valid password, clearing password";
            let notice = ErrorResponse::notice(wire::sqlstate::SUCCESSFUL_COMPLETION, message);
            backend::notice_response(self.connection.output(), &notice);
        }
        Ok(command.to_string())
    }
}

/// What is stored of a password. A verifier, which psql's \\password sends, is taken as it is; unless it is one of the empty
/// password.
fn stored_form(password: &str, salt: &[u8; scram::SALT_BYTES]) -> NewPassword {
    let verifier = Verifier::parse(password);
    if password.is_empty() || verifier.as_ref().is_some_and(|verifier| verifier.fits("")) {
        return NewPassword::None;
    }
    let verifier = verifier.unwrap_or_else(|| Verifier::of_password(password, salt));
    NewPassword::Given(verifier.to_string())
}
