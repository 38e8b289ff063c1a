//! Roles: who may change them, what of them is in a record, what another node makes of that, and what each right is good for.
//!
//! Method: a writer's tables and another's that get its records, as a primary and a standby have them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Tables;
use engine::control::Unstoppable;
use engine::error::SqlError;
use engine::roles::{Asker, Rights, look_up};
use engine::rows::CollectRows;
use engine::sql;
use engine::writer::WriteRequest;

const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";

fn try_as(tables: &mut Tables, user: &str, rights: Rights, query: &str) -> Result<Vec<u8>, SqlError> {
    let statements = sql::parse(query).unwrap().iter().map(|one| one.sql.clone().into_owned()).collect();
    let request = WriteRequest { statements, asker: Asker { user: user.to_owned(), rights } };
    let mut sink = CollectRows::new(1 << 20);
    tables.writer.execute(&request, &Unstoppable, &mut sink).map(|executed| executed.record)
}

fn refused(tables: &mut Tables, user: &str, rights: Rights, query: &str) -> String {
    let error = try_as(tables, user, rights, query).expect_err(query);
    format!("{} {}", error.sqlstate, error.message)
}

fn found(tables: &Tables, name: &str) -> engine::roles::Found {
    look_up(&common::path_in(tables.directory.path()), name, std::time::Duration::from_secs(5)).unwrap()
}

#[test]
fn roles_travel_as_rows_with_the_verifier_alone() {
    let (mut primary, mut standby) = (Tables::new(), Tables::new());
    let queries = [
        "CREATE ROLE postgres SUPERUSER LOGIN".to_owned(),
        format!("CREATE USER bob REPLICATION PASSWORD '{VERIFIER}'"),
        "CREATE ROLE gone; CREATE USER alice IN ROLE pg_read_all_data".to_owned(),
        "ALTER USER alice NOLOGIN; GRANT pg_write_all_data TO alice; DROP ROLE gone".to_owned(),
    ];
    for query in &queries {
        let record = primary.run(query);
        standby.put(&record).unwrap();
    }
    assert!(primary.writer.take_roles_changed() && standby.writer.take_roles_changed());
    assert!(!primary.writer.take_roles_changed() && !standby.writer.take_roles_changed());
    primary.commit();
    standby.commit();
    for tables in [&primary, &standby] {
        let bob = found(tables, "bob").role.unwrap();
        assert_eq!((bob.oid, bob.login, bob.verifier.as_deref()), (16384, true, Some(VERIFIER)));
        assert_eq!(bob.rights, Rights { replication: true, ..Rights::default() });
        let alice = found(tables, "alice").role.unwrap();
        assert_eq!(alice.rights, Rights { read: true, write: true, ..Rights::default() });
        assert!(!alice.login);
        assert_eq!(found(tables, "postgres").role.unwrap().rights, Rights::ALL);
        assert_eq!(found(tables, "gone").role, None);
    }
    let secret = found(&primary, "nobody").secret;
    assert_eq!(secret.len(), 32);
    assert_eq!(found(&standby, "somebody").secret, secret, "mocks are the same on every node");
    assert_eq!(
        standby.read(
            "SELECT rolname, rolsuper, rolcanlogin, rolreplication, rolpassword FROM pg_roles ORDER BY oid"
        ),
        primary.read(
            "SELECT rolname, rolsuper, rolcanlogin, rolreplication, rolpassword FROM pg_roles ORDER BY oid"
        ),
    );
    assert!(primary.read("SELECT * FROM pg_roles").contains("bob"));
    assert!(!primary.read("SELECT * FROM pg_roles").contains("SCRAM"));
}

#[test]
fn superusers_administer_and_nobody_else_but_for_the_own_password() {
    let mut tables = Tables::new();
    tables.run("CREATE ROLE postgres SUPERUSER LOGIN; CREATE USER bob; CREATE USER carol REPLICATION");
    let none = Rights::default();
    for (query, expected) in [
        ("CREATE ROLE x", "42501 permission denied to create role"),
        ("CREATE ROLE x SUPERUSER", "42501 must be superuser to create superusers"),
        ("CREATE ROLE x REPLICATION", "42501 must be superuser to create replication users"),
        ("DROP ROLE carol", "42501 permission denied to drop role"),
        ("ALTER ROLE carol PASSWORD 'x'", "42501 permission denied"),
        ("ALTER ROLE bob LOGIN", "42501 permission denied"),
        (
            "ALTER ROLE bob SUPERUSER",
            "42501 must be superuser to alter superuser roles or change superuser attribute",
        ),
        (
            "ALTER ROLE postgres PASSWORD 'x'",
            "42501 must be superuser to alter superuser roles or change superuser attribute",
        ),
        (
            "ALTER ROLE bob REPLICATION",
            "42501 must be superuser to alter replication roles or change replication attribute",
        ),
        ("GRANT pg_read_all_data TO bob", "42501 must have admin option on role \"pg_read_all_data\""),
    ] {
        assert_eq!(refused(&mut tables, "bob", none, query), expected, "{query}");
    }
    try_as(&mut tables, "bob", none, "ALTER ROLE bob PASSWORD 'v'").unwrap();
    try_as(&mut tables, "bob", none, "ALTER USER CURRENT_USER PASSWORD NULL").unwrap();
    for (query, expected) in [
        ("CREATE ROLE bob", "42710 role \"bob\" already exists"),
        ("ALTER ROLE nobody LOGIN", "42704 role \"nobody\" does not exist"),
        ("DROP ROLE bob, nobody", "42704 role \"nobody\" does not exist"),
        (
            "DROP ROLE postgres",
            "2BP01 cannot drop role postgres because it is required by the database system",
        ),
        ("ALTER ROLE postgres NOSUPERUSER", "42501 permission denied to alter role"),
        ("DROP ROLE carol", "55006 current user cannot be dropped"),
    ] {
        assert_eq!(refused(&mut tables, "carol", Rights::ALL, query), expected, "{query}");
    }
    try_as(&mut tables, "postgres", Rights::ALL, "DROP ROLE IF EXISTS nobody, carol").unwrap();
    tables.commit();
    assert!(found(&tables, "bob").role.is_some(), "a statement that failed did nothing");
    assert!(found(&tables, "carol").role.is_none());
}

#[test]
fn tables_need_the_right_that_the_statement_uses() {
    let mut tables = Tables::new();
    tables.run("CREATE TABLE t(x); CREATE VIEW v AS SELECT x FROM t; INSERT INTO t VALUES (1)");
    let read = Rights { read: true, ..Rights::default() };
    let write = Rights { write: true, ..Rights::default() };
    let table = "42501 permission denied for table t";
    for (rights, query, expected) in [
        (read, "INSERT INTO t VALUES (2)", table),
        (read, "DELETE FROM t", table),
        (write, "UPDATE t SET x = x + 1", table),
        (write, "DELETE FROM t WHERE x = 1", table),
        (write, "INSERT INTO t VALUES (1) RETURNING x", table),
        (write, "INSERT INTO t SELECT x FROM v", table),
        (write, "CREATE TABLE u(x)", "42501 permission denied for schema public"),
        (write, "DROP TABLE t", "42501 must be owner of table t"),
        (write, "DROP VIEW v", "42501 must be owner of view v"),
        (write, "ALTER TABLE t ADD COLUMN y", "42501 must be owner of table t"),
        (write, "CREATE INDEX i ON t(x)", "42501 must be owner of table t"),
        (
            Rights::ALL,
            "INSERT INTO walship_roles(rolname) VALUES ('x')",
            "42501 permission denied for table walship_roles",
        ),
        (Rights::ALL, "DROP TABLE walship_roles", "42501 permission denied for table walship_roles"),
        (Rights::ALL, "DROP VIEW pg_roles", "42501 permission denied for table pg_roles"),
        (
            Rights::ALL,
            "CREATE INDEX i ON walship_roles(oid)",
            "42501 permission denied for table walship_roles",
        ),
    ] {
        assert_eq!(refused(&mut tables, "x", rights, query), expected, "{query}");
    }
    let both = Rights { read: true, write: true, ..Rights::default() };
    try_as(&mut tables, "x", write, "INSERT INTO t VALUES (2)").unwrap();
    try_as(&mut tables, "x", write, "DELETE FROM t").unwrap();
    try_as(&mut tables, "x", both, "INSERT INTO t SELECT 1 RETURNING x").unwrap();
    tables.commit();
}

#[test]
fn reader_without_the_right_sees_the_servers_views_alone() {
    let mut tables = Tables::new();
    tables.run("CREATE TABLE t(x); CREATE VIEW v AS SELECT x FROM t; CREATE ROLE postgres SUPERUSER LOGIN");
    tables.commit();
    let mut reader = tables.reader();
    reader.set_rights(Rights::default());
    for refused in ["SELECT * FROM t", "SELECT count(*) FROM t", "SELECT * FROM v", "EXPLAIN SELECT * FROM t"]
    {
        assert_eq!(common::read(&mut reader, refused), "permission denied for table t (42501)", "{refused}");
    }
    assert!(common::read(&mut reader, "SELECT rolname FROM pg_roles").contains("postgres"));
    assert!(common::read(&mut reader, "SELECT count(*) FROM pg_roles").contains('1'));
    reader.set_rights(Rights::ALL);
    for secret in ["SELECT * FROM walship_roles", "SELECT count(rolpassword) FROM walship_roles"] {
        let answer = common::read(&mut reader, secret);
        assert_eq!(answer, "permission denied for table walship_roles (42501)");
    }
}
