//! Statements that want to harm: nothing of them is logged, the writer is free again, what stood before and comes after
//! is there. Each case is run between two rows that must survive, on a writer and, by its records, on a second one.

// Tables of cases are long, and a test may panic.
#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod common;

use std::cell::Cell;

use common::{Tables, contents, writer_options};
use engine::Control;
use engine::control::Interruption;
use engine::writer::{PutError, WriterOptions};

fn tables() -> Tables {
    let mut tables = Tables::new();
    tables.run("CREATE TABLE kv (key text PRIMARY KEY, value text)");
    tables.run(
        "CREATE TABLE parent (id integer PRIMARY KEY);
         CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE positive (a integer CONSTRAINT above CHECK (a > 0), b integer NOT NULL DEFAULT 1);
         CREATE TABLE guarded (a integer);
         CREATE TRIGGER guard BEFORE INSERT ON guarded BEGIN SELECT RAISE(ROLLBACK, 'not today'); END;
         CREATE TABLE refused (a integer);
         CREATE TRIGGER refuse BEFORE INSERT ON refused BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    tables.run("INSERT INTO kv VALUES ('before', '1')");
    tables
}

/// Stops a statement at the n-th question.
struct StopAfter(Cell<u32>, Interruption);

impl Control for StopAfter {
    fn check(&self) -> Option<Interruption> {
        self.0.set(self.0.get().saturating_sub(1));
        (self.0.get() == 0).then_some(self.1)
    }
}

#[test]
fn hostile_statement_is_refused_and_leaves_nothing() {
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)";
    for (sql, expected) in [
        (
            "INSERT INTO kv VALUES ('before', '2')",
            "duplicate key value violates unique constraint \"kv_pkey\" (23505) DETAIL: Key (key) already exists.",
        ),
        (
            "INSERT OR ROLLBACK INTO kv VALUES ('new', '2'), ('before', '2')",
            "duplicate key value violates unique constraint \"kv_pkey\" (23505) DETAIL: Key (key) already exists.",
        ),
        (
            "INSERT OR FAIL INTO kv VALUES ('new', '2'), ('before', '2')",
            "duplicate key value violates unique constraint \"kv_pkey\" (23505) DETAIL: Key (key) already exists.",
        ),
        ("INSERT INTO kv VALUES ('new', '2'); INSERT INTO guarded VALUES (1)", "not today (P0001)"),
        ("INSERT INTO refused VALUES (1)", "no (P0001)"),
        (
            "INSERT INTO child VALUES (1, 99)",
            "insert, update or delete violates a foreign key constraint (23503) DETAIL: A row refers to a key that is not there.",
        ),
        ("INSERT INTO positive VALUES (-1, 1)", "new row violates check constraint \"above\" (23514)"),
        (
            "INSERT INTO positive VALUES (1, NULL)",
            "null value in column \"b\" of relation \"positive\" violates not-null constraint (23502)",
        ),
        ("INSERT INTO kv VALUES ('big', hex(zeroblob(20000000)))", "string or blob too big (54000)"),
        ("INSERT INTO kv VALUES ('big', zeroblob(17000000))", "string or blob too big (54000)"),
        ("INSERT INTO nowhere VALUES (1)", "relation \"nowhere\" does not exist (42P01)"),
        ("INSERT INTO kv VALUES (1)", "table kv has 2 columns but 1 values were supplied (42601)"),
        ("INSERT INTO kv (nope) VALUES (1)", "column \"nope\" of relation \"kv\" does not exist (42703)"),
        ("INSERT INTO kv VALUES ('a', \"b\")", "column \"b\" does not exist (42703)"),
        ("UPDATE kv SET value = 1 WHERE", "syntax error at end of input (42601)"),
        ("DELETE FORM kv", "syntax error at or near \"FORM\" (42601)"),
        ("INSERT INTO kv VALUES ('a', ?)", "there is no parameter $1 (42P02)"),
        ("INSERT INTO kv VALUES ('a', [x;y])", "unrecognized"),
        ("UPDATE walship_applied SET lsn = 0", "permission denied for table walship_applied (42501)"),
        (
            "INSERT INTO kv SELECT 'lsn', lsn FROM walship_applied",
            "permission denied for table walship_applied (42501)",
        ),
        ("DROP TABLE walship_applied", "permission denied for table walship_applied (42501)"),
        (
            "CREATE TRIGGER t AFTER UPDATE ON walship_applied BEGIN SELECT 1; END",
            "permission denied for table walship_applied (42501)",
        ),
        (
            "ALTER TABLE kv RENAME TO pg_kv",
            "unacceptable relation name \"pg_kv\" (42939) DETAIL: The prefixes \"pg_\" and \"walship_\" are reserved for system relations.",
        ),
        (
            "CREATE TABLE walship_x (a)",
            "unacceptable relation name \"walship_x\" (42939) DETAIL: The prefixes \"pg_\" and \"walship_\" are reserved for system relations.",
        ),
        (
            "CREATE TABLE a (rowid text, _rowid_ text, oid text)",
            "table \"a\" with columns named rowid, _rowid_ and oid is not supported (0A000) HINT: Give one of them another name, or an INTEGER PRIMARY KEY.",
        ),
        ("DELETE FROM sqlite_schema", "cannot modify system view \"sqlite_master\" (42809)"),
        ("UPDATE sqlite_master SET sql = ''", "cannot modify system view \"sqlite_master\" (42809)"),
        (
            "CREATE TABLE s (a integer PRIMARY KEY AUTOINCREMENT); DELETE FROM sqlite_sequence",
            "permission denied: \"sqlite_sequence\" is a system catalog (42501)",
        ),
        ("CREATE TABLE kv (a)", "relation \"kv\" already exists (42P07)"),
        (
            "CREATE TABLE temp.x (a)",
            "a temporary object is not supported (0A000) HINT: Use an ordinary table and delete its rows.",
        ),
        (
            "CREATE VIRTUAL TABLE v USING fts5(a)",
            "CREATE VIRTUAL TABLE is not supported (0A000) HINT: Use an ordinary table.",
        ),
        (
            "INSERT INTO pg_stat_activity (pid) VALUES (1)",
            "cannot modify system view \"pg_stat_activity\" (42809)",
        ),
        (
            "INSERT INTO kv SELECT load_extension('x'), 1",
            "permission denied for function load_extension (42501)",
        ),
        (
            "INSERT INTO kv VALUES ('new', pg_switch_wal())",
            "SwitchWal is not faked (XX000) HINT: A hint travels too.",
        ),
        ("SAVEPOINT x", "SAVEPOINT cannot run inside a transaction block (25001)"),
        ("COMMIT", "COMMIT cannot run inside a transaction block (25001)"),
        (
            "INSERT INTO kv VALUES ('x', 1); COMMIT; INSERT INTO kv VALUES ('y', 1)",
            "COMMIT cannot run inside a transaction block (25001)",
        ),
    ] {
        let mut tables = tables();
        let found = tables.outcome(sql);
        if expected == "unrecognized" {
            assert!(found.contains("(42601)"), "{sql}: {found}");
        } else {
            assert_eq!(found, expected, "{sql}");
        }
        after(&mut tables, sql);
    }
    let mut tables = tables();
    for sql in [
        format!("INSERT INTO kv {endless} SELECT x, x FROM n"),
        format!("INSERT INTO kv {endless} SELECT 1, count(*) FROM n"),
        format!("DELETE FROM kv WHERE key = ({endless} SELECT max(x) FROM n)"),
    ] {
        for (why, expected) in [
            (Interruption::Cancel, "canceling statement due to user request (57014)"),
            (Interruption::StatementTimeout, "canceling statement due to statement timeout (57014)"),
        ] {
            let error = tables.execute_controlled(&sql, &StopAfter(Cell::new(50), why)).unwrap_err();
            assert_eq!(error.to_string(), expected, "{sql}");
        }
    }
    after(&mut tables, "endless statements");
}

#[test]
fn lost_transaction_is_told_of_once_and_only_if_others_records_were_in_it() {
    let mut tables = tables();
    let endless =
        "INSERT INTO kv WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x, x FROM n";
    let cancel = |tables: &mut Tables| {
        tables.execute_controlled(endless, &StopAfter(Cell::new(50), Interruption::Cancel)).unwrap_err();
        tables.writer.take_restored()
    };
    tables.commit();
    assert!(!cancel(&mut tables), "all before is committed");
    tables.run("INSERT INTO kv VALUES ('new', '2')");
    tables.execute("INSERT INTO kv VALUES ('new', '3')").unwrap_err();
    assert!(!tables.writer.take_restored(), "a statement alone was undone");
    assert!(cancel(&mut tables));
    assert!(!tables.writer.take_restored());
    tables.commit();
    assert!(!cancel(&mut tables));
}

/// The rows of before are there, a row of after can be written, and both are committed.
fn after(tables: &mut Tables, what: &str) {
    assert!(tables.writer.transaction_open(), "{what}");
    tables.run("INSERT INTO kv VALUES ('after', '2')");
    tables.commit();
    assert_eq!(
        tables.read("SELECT * FROM kv"),
        "key:text,value:text / before|1;after|2 / SELECT 2",
        "{what}"
    );
    assert_eq!(
        tables.read("SELECT (SELECT count(*) FROM child) + (SELECT count(*) FROM guarded) + (SELECT count(*) FROM positive)"),
        "?column?:int8 / 0 / SELECT 1",
        "{what}"
    );
    assert_eq!(tables.read("PRAGMA integrity_check"), "integrity_check:text / ok / SELECT 1", "{what}");
}

#[test]
fn write_that_wants_all_memory_gets_53200_or_54000() {
    let mut tables =
        Tables::with(&WriterOptions { memory_max: 24 << 20, record_size_max: 4 << 20, ..writer_options() });
    tables.run("CREATE TABLE kv (key text PRIMARY KEY, value text)");
    tables.run("INSERT INTO kv VALUES ('before', '1')");
    let all = "INSERT INTO kv WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)";
    let error = tables.execute(&format!("{all} SELECT x, hex(randomblob(4000)) FROM n")).unwrap_err();
    assert_eq!(error.sqlstate.as_str(), "54000", "{error}");
    let sorted = "SELECT x % 3, group_concat(hex(randomblob(500000)) || x, '') FROM (SELECT x FROM n LIMIT 1000) GROUP BY x % 3";
    let error = tables.execute(&format!("{all} {sorted}")).unwrap_err();
    assert!(["53200", "54000"].contains(&error.sqlstate.as_str()), "{error}");
    tables.run("INSERT INTO kv VALUES ('after', '2')");
    tables.commit();
    assert_eq!(tables.read("SELECT key FROM kv ORDER BY rowid"), "key:text / before;after / SELECT 2");
}

#[test]
fn returning_beyond_the_limit_is_refused_before_anything_is_logged() {
    let mut tables = tables();
    let rows = "INSERT INTO kv SELECT value || 'k', hex(zeroblob(4000)) FROM generate_series(1, 1000)";
    let _ = tables.execute(rows);
    let many = "INSERT INTO kv WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1000) \
                SELECT x, hex(zeroblob(4000)) FROM n RETURNING value";
    let error = tables.execute(many).unwrap_err();
    assert_eq!(error.message, "rows returned by a write exceed the limit of 1048576 bytes");
    after(&mut tables, "RETURNING");
}

#[test]
fn request_that_could_not_be_logged_is_undone() {
    let mut tables = tables();
    tables.run("INSERT INTO kv VALUES ('unlogged', '3')");
    tables.writer.rollback_last().unwrap();
    tables.run("CREATE TABLE unlogged (a)");
    tables.writer.rollback_last().unwrap();
    after(&mut tables, "rollback_last");
    assert_eq!(
        tables.outcome("INSERT INTO unlogged VALUES (1)"),
        "relation \"unlogged\" does not exist (42P01)"
    );
}

#[test]
fn lost_transaction_keeps_the_requests_before_it() {
    let mut tables = tables();
    let mut standby = Tables::new();
    let mut log = vec![
        tables.run("CREATE TABLE seq (id integer PRIMARY KEY AUTOINCREMENT, a text)"),
        tables.run("INSERT INTO seq (a) VALUES ('x'), ('y'); DELETE FROM seq WHERE id = 2"),
    ];
    let before = tables.writer.uncommitted_bytes();
    assert_eq!(tables.outcome("INSERT INTO guarded VALUES (1)"), "not today (P0001)");
    assert!(tables.writer.transaction_open());
    assert_eq!(tables.writer.uncommitted_bytes(), before);
    log.push(tables.run("INSERT INTO seq (a) VALUES ('z')"));
    tables.commit();
    assert_eq!(tables.writer.uncommitted_bytes(), 0);
    assert_eq!(tables.read("SELECT * FROM seq"), "id:int8,a:text / 1|x;3|z / SELECT 2");
    for record in &log {
        standby.put(record).unwrap();
    }
    standby.commit();
    let of_seq = |contents: Vec<String>| -> Vec<String> {
        contents.into_iter().filter(|line| line.contains("seq")).collect()
    };
    assert_eq!(of_seq(contents(tables.directory.path())), of_seq(contents(standby.directory.path())));
}

#[test]
fn record_that_does_not_fit_is_a_divergence_that_says_what_was_found() {
    let mut primary = tables();
    let insert = primary.run("INSERT INTO kv VALUES ('a', '1')");
    let update = primary.run("UPDATE kv SET value = '2' WHERE key = 'a'");
    let delete = primary.run("DELETE FROM kv WHERE key = 'a'");
    for (record, expected) in [
        (&insert, "tables diverge: no table \"kv\""),
        (&update, "tables diverge: Update { from: 2, to: 2 } in table \"kv\" found 0 rows"),
        (&delete, "tables diverge: Delete(2) in table \"kv\" found 0 rows"),
    ] {
        let mut standby = Tables::new();
        if record[..] != insert[..] {
            standby.run("CREATE TABLE kv (key text PRIMARY KEY, value text)");
        }
        let error = standby.put(record).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(!standby.writer.transaction_open());
    }
    let mut standby = Tables::new();
    standby.run("CREATE TABLE kv (key text PRIMARY KEY, value text)");
    standby.run("INSERT INTO kv (rowid, key) VALUES (2, 'b')");
    let error = standby.put(&insert).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tables diverge: Insert(2) in table \"kv\": UNIQUE constraint failed: kv.rowid"
    );
    let mut garbage = insert.clone();
    garbage.truncate(garbage.len() - 3);
    standby.writer.begin().unwrap();
    assert!(matches!(standby.put(&garbage), Err(PutError::Malformed(_) | PutError::Diverged { .. })));
}
