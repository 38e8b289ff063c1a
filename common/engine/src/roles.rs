//! Roles: the table that they are in, the statements that change it, and what a role may do.
//!
//! The table is one like every other in the log, so roles are on every node that has the log, and after a failover they
//! are still there; but no client's statement reads or writes it: reading goes by `pg_roles`, writing by the statements of
//! [`RoleCommand`], which the process that writes the tables executes as statements of its own. What they change is
//! captured as rows. What is stored and logged of a password is a verifier; whoever makes the request has seen to that.
//!
//! The first role of a system (oid 10, as in PostgreSQL) can't be dropped and stays a superuser, so that there is always one.
//! Its row also has the secret from which mocks of roles are made that don't exist ([`Found::secret`]): the same on all nodes.
//!
//! Follows PostgreSQL 15 src/backend/commands/user.c, src/include/catalog/pg_authid.h; differs in: any superuser
//! administers, nobody else; what a role may do to tables is the same for all tables.

use std::path::Path;
use std::time::Duration;

use bincode::{Decode, Encode};

use crate::change::Value;
use crate::error::{SqlError, SqlState};
use crate::error_map::own_error;
use crate::ffi::hooks::Watch;
use crate::ffi::{Access, Db, RawError};
use crate::sql::role::{NewPassword, RoleCommand, RoleName, RoleOptions};

/// Holds the roles; refused to clients.
pub(crate) const ROLES_TABLE: &str = "walship_roles";
/// What clients may see of them.
pub(crate) const ROLES_VIEW: &str = "pg_roles";
/// Who is a member of which predefined role.
pub(crate) const MEMBERS_VIEW: &str = "pg_auth_members";

/// The first role's.
const FIRST_OID: i64 = 10;
/// Of all others: from here on.
const OIDS_FROM: i64 = 16_384;

/// Made with the tables' file, on every node.
pub(crate) const SCHEMA: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS walship_roles (oid INTEGER PRIMARY KEY, rolname TEXT NOT NULL UNIQUE, \
     rolsuper BOOLEAN NOT NULL, rolinherit BOOLEAN NOT NULL, rolcreaterole BOOLEAN NOT NULL, \
     rolcreatedb BOOLEAN NOT NULL, rolcanlogin BOOLEAN NOT NULL, rolreplication BOOLEAN NOT NULL, \
     rolconnlimit INTEGER NOT NULL, rolpassword TEXT, rolvaliduntil TIMESTAMPTZ, rolbypassrls BOOLEAN NOT NULL, \
     rolconfig TEXT, readsall BOOLEAN NOT NULL, writesall BOOLEAN NOT NULL, secret BLOB)",
    "CREATE VIEW IF NOT EXISTS pg_roles AS SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, \
     rolcanlogin, rolreplication, rolconnlimit, '********' AS rolpassword, rolvaliduntil, rolbypassrls, rolconfig, \
     oid FROM walship_roles",
    "CREATE VIEW IF NOT EXISTS pg_auth_members AS SELECT 6181 AS roleid, oid AS member, 10 AS grantor, \
     0 AS admin_option FROM walship_roles WHERE readsall UNION ALL SELECT 6182, oid, 10, 0 FROM walship_roles \
     WHERE writesall",
];

/// What a role may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Rights {
    /// Everything
    pub superuser: bool,
    /// Take the log
    pub replication: bool,
    /// Read every table
    pub read: bool,
    /// Write every row
    pub write: bool,
}

impl Rights {
    /// A superuser's.
    pub const ALL: Rights = Rights { superuser: true, replication: true, read: true, write: true };
}

/// Who asks for something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Asker {
    /// The role's name
    pub user: String,
    /// What it may do
    pub rights: Rights,
}

impl Asker {
    /// The node itself, and tests.
    pub fn superuser() -> Asker {
        Asker { user: String::new(), rights: Rights::ALL }
    }
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Identifies it for as long as it is there
    pub oid: i64,
    /// What it may do; a superuser everything
    pub rights: Rights,
    /// Whether it may have sessions
    pub login: bool,
    /// What is kept of its password, if it has one
    pub verifier: Option<String>,
}

/// What a login needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The role, if there is one of that name.
    pub role: Option<Role>,
    /// From which mocks of verifiers are made; empty while the first role is not there yet.
    pub secret: Vec<u8>,
}

/// Looks a role up by a connection that is opened for this and closed again: for a process that has no other.
///
/// # Errors
/// SQLite's.
pub fn look_up(tables: &Path, name: &str, busy_timeout: Duration) -> Result<Found, SqlError> {
    let found = || {
        let db = Db::open(tables, Access::ReadOnly, Watch::new())?;
        db.busy_timeout(busy_timeout);
        db.configure_safely()?;
        let mut statement = db.prepare_own("SELECT secret FROM walship_roles WHERE oid = 10")?;
        let secret = match statement.step()? {
            true => blob(statement.column(0)),
            false => Vec::new(),
        };
        Ok(Found { role: find(&db, name)?, secret })
    };
    found().map_err(|raw: RawError| own_error(&raw))
}

/// The role of that name.
pub(crate) fn find(db: &Db, name: &str) -> Result<Option<Role>, RawError> {
    let mut statement = db.prepare_own(&format!(
        "SELECT oid, rolsuper, rolreplication, readsall, writesall, rolcanlogin, rolpassword FROM walship_roles \
         WHERE rolname = '{}'",
        name.replace('\'', "''")
    ))?;
    if !statement.step()? {
        return Ok(None);
    }
    let on = |at: usize| statement.column(at) == Value::Integer(1);
    let superuser = on(1);
    Ok(Some(Role {
        oid: integer(statement.column(0)),
        rights: Rights {
            superuser,
            replication: superuser || on(2),
            read: superuser || on(3),
            write: superuser || on(4),
        },
        login: on(5),
        verifier: match statement.column(6) {
            Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        },
    }))
}

fn integer(value: Value<'_>) -> i64 {
    if let Value::Integer(number) = value { number } else { 0 }
}

fn blob(value: Value<'_>) -> Vec<u8> {
    if let Value::Blob(bytes) = value { bytes.to_vec() } else { Vec::new() }
}

/// Executes a statement about roles for `asker`, on the connection that writes.
pub(crate) fn execute(db: &Db, command: &RoleCommand, asker: &Asker) -> Result<(), SqlError> {
    match command {
        RoleCommand::Create(name, options) => create(db, name, options, asker),
        RoleCommand::Alter(name, options) => {
            let name = resolved(name, asker);
            let role = existing(db, name)?;
            may_alter(&role, name, options, asker)?;
            if role.oid == FIRST_OID && options.superuser == Some(false) {
                return Err(denied("permission denied to alter role")
                    .with_detail("The bootstrap superuser must have the SUPERUSER attribute."));
            }
            change(db, role.oid, options)
        }
        RoleCommand::Drop { names, if_exists } => {
            names.iter().try_for_each(|name| drop(db, resolved(name, asker), *if_exists, asker))
        }
        RoleCommand::Grant { rights, names, .. } => {
            if !asker.rights.superuser {
                let role = if rights.read.is_some() { "pg_read_all_data" } else { "pg_write_all_data" };
                return Err(denied(&format!("must have admin option on role \"{role}\"")));
            }
            names.iter().try_for_each(|name| change(db, existing(db, resolved(name, asker))?.oid, rights))
        }
    }
}

fn denied(message: &str) -> SqlError {
    SqlError::new(SqlState::INSUFFICIENT_PRIVILEGE, message)
}

fn resolved<'a>(name: &'a RoleName, asker: &'a Asker) -> &'a str {
    match name {
        RoleName::Named(name) => name,
        RoleName::Current => &asker.user,
    }
}

fn existing(db: &Db, name: &str) -> Result<Role, SqlError> {
    find(db, name).map_err(|raw| own_error(&raw))?.ok_or_else(|| missing(name))
}

fn missing(name: &str) -> SqlError {
    SqlError::new(SqlState::UNDEFINED_OBJECT, format!("role \"{name}\" does not exist"))
}

fn create(db: &Db, name: &str, options: &RoleOptions, asker: &Asker) -> Result<(), SqlError> {
    if !asker.rights.superuser {
        return Err(denied(match (options.superuser, options.replication) {
            (Some(true), _) => "must be superuser to create superusers",
            (_, Some(true)) => "must be superuser to create replication users",
            _ => "permission denied to create role",
        }));
    }
    if find(db, name).map_err(|raw| own_error(&raw))?.is_some() {
        return Err(SqlError::new(SqlState::DUPLICATE_OBJECT, format!("role \"{name}\" already exists")));
    }
    let on = |option: Option<bool>| Value::Integer(i64::from(option.unwrap_or(false)));
    let insert = || {
        let mut statement = db.prepare_own(
            "INSERT INTO walship_roles SELECT CASE WHEN count(*) = 0 THEN 10 ELSE max(max(oid) + 1, ?7) END, ?1, ?2, \
             1, ?2, ?2, ?3, ?4, -1, ?8, NULL, ?2, NULL, ?5, ?6, CASE WHEN count(*) = 0 THEN randomblob(32) END \
             FROM walship_roles",
        )?;
        let password = match &options.password {
            Some(NewPassword::Given(verifier)) => Value::Text(verifier.as_bytes()),
            Some(NewPassword::None) | None => Value::Null,
        };
        statement.run(&[
            Value::Text(name.as_bytes()),
            on(options.superuser),
            on(options.login),
            on(options.replication),
            on(options.read),
            on(options.write),
            Value::Integer(OIDS_FROM),
            password,
        ])
    };
    insert().map_err(|raw| own_error(&raw))
}

/// Everybody may change the own password; the rest is for superusers.
fn may_alter(role: &Role, name: &str, options: &RoleOptions, asker: &Asker) -> Result<(), SqlError> {
    if asker.rights.superuser {
        return Ok(());
    }
    if role.rights.superuser || options.superuser.is_some() {
        return Err(denied("must be superuser to alter superuser roles or change superuser attribute"));
    }
    if options.replication.is_some() {
        return Err(denied("must be superuser to alter replication roles or change replication attribute"));
    }
    let only_password = RoleOptions { password: options.password.clone(), ..RoleOptions::default() };
    if name != asker.user || *options != only_password {
        return Err(denied("permission denied"));
    }
    Ok(())
}

fn change(db: &Db, oid: i64, options: &RoleOptions) -> Result<(), SqlError> {
    let mut sets: Vec<(&str, Value<'_>)> = [
        ("rolsuper", options.superuser),
        ("rolcreaterole", options.superuser),
        ("rolcreatedb", options.superuser),
        ("rolbypassrls", options.superuser),
        ("rolreplication", options.replication),
        ("rolcanlogin", options.login),
        ("readsall", options.read),
        ("writesall", options.write),
    ]
    .into_iter()
    .filter_map(|(column, value)| value.map(|on| (column, Value::Integer(i64::from(on)))))
    .collect();
    match &options.password {
        Some(NewPassword::Given(verifier)) => sets.push(("rolpassword", Value::Text(verifier.as_bytes()))),
        Some(NewPassword::None) => sets.push(("rolpassword", Value::Null)),
        None => {}
    }
    let update = |(column, value): (&str, Value<'_>)| {
        db.prepare_own(&format!("UPDATE walship_roles SET {column} = ?1 WHERE oid = ?2"))?
            .run(&[value, Value::Integer(oid)])
    };
    sets.into_iter().try_for_each(update).map_err(|raw| own_error(&raw))
}

fn drop(db: &Db, name: &str, if_exists: bool, asker: &Asker) -> Result<(), SqlError> {
    if !asker.rights.superuser {
        return Err(denied("permission denied to drop role"));
    }
    let Some(role) = find(db, name).map_err(|raw| own_error(&raw))? else {
        return if if_exists { Ok(()) } else { Err(missing(name)) };
    };
    if name == asker.user {
        return Err(SqlError::new(SqlState(*b"55006"), "current user cannot be dropped"));
    }
    if role.oid == FIRST_OID {
        let message = format!("cannot drop role {name} because it is required by the database system");
        return Err(SqlError::new(SqlState(*b"2BP01"), message));
    }
    db.prepare_own("DELETE FROM walship_roles WHERE oid = ?1")
        .and_then(|mut statement| statement.run(&[Value::Integer(role.oid)]))
        .map_err(|raw| own_error(&raw))
}
