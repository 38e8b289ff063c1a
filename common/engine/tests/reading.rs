//! What a session's reads return: columns with PostgreSQL's names and types, values as its text, errors at once.

// Tables of cases are long, and a test may panic.
#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod common;

use std::cell::Cell;

use common::{Tables, read, reader};
use engine::Control;
use engine::control::{Interruption, Unstoppable};
use engine::rows::{CollectRows, CommandTag};

fn tables() -> Tables {
    let mut tables = Tables::new();
    tables.run(
        "CREATE TABLE kinds (i integer, f double precision, b boolean, t text, y bytea, s timestamptz DEFAULT CURRENT_TIMESTAMP, v varchar(20), n numeric(10, 2), x)",
    );
    tables.run("INSERT INTO kinds VALUES (1, 1e20, true, 'a', x'00ff', '2026-01-02 03:04:05', 'v', 1.50, NULL), (NULL, 0.1, false, '', NULL, NULL, 'é', 2, 3)");
    tables.commit();
    tables
}

#[test]
fn columns_and_values_are_postgresqls() {
    let tables = tables();
    for (query, expected) in [
        (
            "SELECT * FROM kinds",
            "i:int8,f:float8,b:bool,t:text,y:bytea,s:timestamptz,v:varchar,n:numeric,x:text / 1|1e+20|t|a|\\x00ff|2026-01-02 03:04:05+00|v|1.5|NULL;NULL|0.1|f||NULL|NULL|é|2|3 / SELECT 2",
        ),
        ("SELECT count(*), max(i) AS most FROM kinds WHERE b", "count:int8,most:int8 / 1|1 / SELECT 1"),
        ("SELECT b FROM (SELECT b FROM kinds) ORDER BY b", "b:bool / f;t / SELECT 2"),
        ("SELECT pg_is_in_recovery()", "pg_is_in_recovery:bool / t / SELECT 1"),
        ("SELECT pg_catalog.pg_is_in_recovery() AS standby", "standby:bool / t / SELECT 1"),
        (
            "SELECT pg_current_wal_lsn(), pg_backend_pid()",
            "pg_current_wal_lsn:pg_lsn,pg_backend_pid:int4 / 0/3000060|4711 / SELECT 1",
        ),
        ("SELECT pg_wal_lsn_diff('1/0', '0/FFFFFFFF')", "pg_wal_lsn_diff:numeric / 1 / SELECT 1"),
        ("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), NULL)", "pg_wal_lsn_diff:numeric / NULL / SELECT 1"),
        ("SELECT pg_wal_lsn_diff('0/1'::pg_lsn, 'x')", "invalid input syntax for type pg_lsn: \"x\" (22P02)"),
        (
            "SELECT current_user, version()",
            "current_user:name,version:text / postgres|PostgreSQL 15.20 (Walship) / SELECT 1",
        ),
        ("SELECT now()", "now:timestamptz / 2026-11-21 02:25:23.5+00 / SELECT 1"),
        ("SELECT pg_sleep(0)", "pg_sleep:void / SELECT 1"),
        (
            "SELECT pg_terminate_backend(1), pg_terminate_backend(2, 100)",
            "pg_terminate_backend:bool,pg_terminate_backend:bool / t|f / SELECT 1",
        ),
        ("SELECT 'yes'::bool, 'OFF'::boolean, 1::bool", "bool:bool,bool:bool,bool:bool / t|f|t / SELECT 1"),
        ("SELECT true, FALSE, NOT true AS x", "bool:bool,bool:bool,x:int8 / t|f|0 / SELECT 1"),
        ("SELECT 'maybe'::bool", "invalid input syntax for type boolean: \"maybe\" (22P02)"),
        ("SELECT '12'::int8 + 1, i::text FROM kinds LIMIT 1", "?column?:int8,i:text / 13|1 / SELECT 1"),
        ("SELECT pid, state FROM pg_stat_activity WHERE pid > 0", "pid:int4,state:text / SELECT 0"),
        (
            "SELECT datid, a.pid FROM pg_stat_activity AS a JOIN pg_stat_replication AS r ON a.datid = r.pid",
            "datid:oid,pid:int4 / 7|NULL / SELECT 1",
        ),
        (
            "SELECT name, pending_restart FROM pg_settings",
            "name:text,pending_restart:bool / work_mem|f / SELECT 1",
        ),
        (
            "TABLE pg_stat_wal_receiver",
            "pid:int4,status:text,receive_start_lsn:pg_lsn,receive_start_tli:int4,written_lsn:pg_lsn,flushed_lsn:pg_lsn,received_tli:int4,last_msg_send_time:timestamptz,last_msg_receipt_time:timestamptz,latest_end_lsn:pg_lsn,latest_end_time:timestamptz,slot_name:text,sender_host:text,sender_port:int4,conninfo:text / 7|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL / SELECT 1",
        ),
        ("VALUES (1, 'a'), (2, 'b')", "column1:int8,column2:text / 1|a;2|b / SELECT 2"),
        (
            "EXPLAIN SELECT * FROM kinds ORDER BY t",
            "QUERY PLAN:text / SCAN kinds;USE TEMP B-TREE FOR ORDER BY / EXPLAIN",
        ),
        ("EXPLAIN DELETE FROM kinds WHERE i = 1", "QUERY PLAN:text / SCAN kinds / EXPLAIN"),
        (
            "PRAGMA table_info(kinds)",
            "cid:int8,name:text,type:text,notnull:int8,dflt_value:text,pk:int8 / 0|i|INTEGER|0|NULL|0",
        ),
    ] {
        let found = tables.read(query);
        if query.starts_with("PRAGMA") {
            assert!(found.starts_with("cid:int8,name:text"), "{found}");
        } else {
            assert_eq!(found, expected, "{query}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_an_error_at_once() {
    let tables = tables();
    for (query, expected) in [
        ("SELECT * FROM nowhere", "relation \"nowhere\" does not exist (42P01)"),
        ("SELECT nope FROM kinds", "column \"nope\" does not exist (42703)"),
        ("SELECT f(1)", "function f() does not exist (42883)"),
        ("SELECT pg_sleep()", "function pg_sleep() does not exist with this number of arguments (42883)"),
        ("SELECT FROM", "syntax error at or near \"FROM\" (42601)"),
        ("SELECT lsn FROM walship_applied", "permission denied for table walship_applied (42501)"),
        ("INSERT INTO kinds (i) VALUES (1)", "cannot execute INSERT in a read-only transaction (25006)"),
        (
            "WITH a AS (SELECT 1) DELETE FROM kinds",
            "cannot execute DELETE in a read-only transaction (25006)",
        ),
        ("CREATE TABLE x (a)", "cannot execute CREATE TABLE in a read-only transaction (25006)"),
        ("EXPLAIN CREATE TABLE x (a)", "QUERY PLAN:text / EXPLAIN"),
        ("SELECT hex(zeroblob(20000000))", "string or blob too big (54000)"),
        ("SELECT pg_switch_wal()", "SwitchWal is not faked (XX000) HINT: A hint travels too."),
        ("SELECT * FROM pragma_wal_checkpoint", "relation \"pragma_wal_checkpoint\" does not exist (42P01)"),
        ("SELECT writefile('/tmp/x', 'y')", "function writefile() does not exist (42883)"),
    ] {
        assert_eq!(tables.read(query), expected, "{query}");
    }
}

#[test]
fn side_effects_are_not_to_be_had_from_the_schema() {
    let mut tables = tables();
    tables.run("CREATE VIEW waits AS SELECT pg_sleep(1)");
    tables.run("CREATE VIEW looks AS SELECT pg_backend_pid() AS r, pid FROM pg_stat_replication");
    tables.commit();
    assert_eq!(tables.read("SELECT * FROM waits"), "pg_sleep() cannot be used in the schema (42501)");
    assert_eq!(tables.read("SELECT * FROM looks"), "r:int8,pid:int4 / 4711|7 / SELECT 1");
}

struct Stop(Cell<u32>);

impl Control for Stop {
    fn check(&self) -> Option<Interruption> {
        self.0.set(self.0.get() + 1);
        (self.0.get() > 20).then_some(Interruption::Cancel)
    }
}

#[test]
fn endless_read_is_cancelled_and_the_connection_goes_on() {
    let tables = tables();
    let mut reader = tables.reader();
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    let error = reader.query(endless, &Stop(Cell::new(0)), &mut CollectRows::new(1000)).unwrap_err();
    assert_eq!(error.to_string(), "canceling statement due to user request (57014)");
    assert_eq!(read(&mut reader, "SELECT 1 AS a"), "a:int8 / 1 / SELECT 1");
}

#[test]
fn read_sees_commits_and_holds_no_snapshot() {
    let mut tables = tables();
    let mut reader = reader(tables.directory.path());
    assert_eq!(read(&mut reader, "SELECT count(*) AS n FROM kinds"), "n:int8 / 2 / SELECT 1");
    tables.run("INSERT INTO kinds (i) VALUES (3)");
    assert_eq!(read(&mut reader, "SELECT count(*) AS n FROM kinds"), "n:int8 / 2 / SELECT 1");
    tables.commit();
    assert_eq!(read(&mut reader, "SELECT count(*) AS n FROM kinds"), "n:int8 / 3 / SELECT 1");
    // With a snapshot left open the log could not start over.
    let lsn = tables.next_lsn();
    tables.writer.commit(lsn).unwrap();
    assert!(tables.writer.wal_size() > 4096);
    let result = tables.writer.checkpoint_restart().unwrap();
    assert!(!result.busy && result.log_frames == result.checkpointed_frames, "{result:?}");
    assert_eq!(tables.writer.wal_size(), 0);
}

#[test]
fn statement_is_described_without_running() {
    let tables = tables();
    let columns = tables.reader().describe("SELECT i, b, pid, 1 FROM kinds, pg_stat_activity").unwrap();
    let shown: Vec<_> = columns.iter().map(|c| format!("{}:{}", c.name, c.ty.oid())).collect();
    assert_eq!(shown, ["i:20", "b:16", "pid:23", "?column?:25"]);
}

#[test]
fn write_returns_rows_and_tags_of_each_statement() {
    let mut tables = tables();
    for (query, expected) in [
        (
            "INSERT INTO kinds (i, b) VALUES (7, true), (8, false) RETURNING i, b, i * 2 AS twice",
            "i:int8,b:bool,twice:int8 / 7|t|14;8|f|16 / INSERT 0 2",
        ),
        (
            "UPDATE kinds SET i = 9 WHERE i = 7; DELETE FROM kinds WHERE i = 8; SELECT i FROM kinds WHERE i = 9",
            "UPDATE 1 && DELETE 1 && i:int8 / 9 / SELECT 1",
        ),
        ("CREATE TABLE IF NOT EXISTS kinds (a); CREATE INDEX k ON kinds (i)", "CREATE TABLE && CREATE INDEX"),
        ("TRUNCATE kinds", "TRUNCATE TABLE"),
        ("ANALYZE", "ANALYZE"),
        ("DELETE FROM kinds WHERE i = pg_backend_pid()", "DELETE 0"),
    ] {
        assert_eq!(tables.outcome(query), expected, "{query}");
    }
    let (executed, _) = tables.execute("CREATE TABLE IF NOT EXISTS kinds (a); DELETE FROM kinds").unwrap();
    assert!(executed.record.is_empty(), "nothing changed, nothing is logged");
    let mut sink = CollectRows::new(1000);
    tables.reader().query("SELECT 1", &Unstoppable, &mut sink).unwrap();
    assert_eq!(sink.statements[0].tag, Some(CommandTag::Select(1)));
}
