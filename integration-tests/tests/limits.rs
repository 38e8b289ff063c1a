//! Everything that a client can make grow has an end, and reaching it is an error of that client alone.
//!
//! | what grows | limit | default | answer |
//! |---|---|---|---|
//! | sessions | `max_connections`; the last `superuser_reserved_connections` for superusers | 100, 3 | 53300 |
//! | walsenders | `max_wal_senders` | 10 | 53300 |
//! | time until a client is who it says | `authentication_timeout` | 1 min | 57014 |
//! | a message of a client | `max_message_size` | 64 MB | 54000 |
//! | a message of a standby | 10,000 bytes | | closed |
//! | text of a statement that writes, values, rows | `max_statement_size` | 1 MB | 54000 |
//! | writes and savepoints of a block | `max_statement_size` | 1 MB | 54000 |
//! | statements of a query | 10,000 | | 54000 |
//! | memory of a statement | `statement_memory_limit` | 256 MB | 53200 |
//! | rows that a write returns | 16 MiB | | 54000 |
//! | rows of all writes whose sessions don't take them | 128 MiB | | 53200 |
//! | what one transaction changes | 256 MiB | | 54000 |
//! | time of a statement; of one that writes | `statement_timeout`, `write_statement_timeout` | off, 5 s | 57014 |
//! | silence of a session; in a block | `idle_session_timeout`, `idle_in_transaction_session_timeout` | off | 57P05, 25P03 |
//! | notifications not read yet | `max_notify_queue_pages` | 1024 | 54000 |
//! | channels of a session | 10,000 | | 54000 |
//! | pending writes | one per session | | |
//! | replication slots | `max_replication_slots` | 10 | 53400 |
//! | a first packet, and what is said until the client is known | 10,000 bytes | | closed |
//! | a message in the server's log | 8 KiB | | cut |
//! | walship.conf, pg_hba.conf | 64 KiB each | | F0000, the file doesn't count |
//!
//! What others grow (the log, SQLite's log, standbys' queues) is in the tests of those. Method: a node with low limits; each one is
//! reached, and after each the node serves as before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use integration_tests::client::{Client, ClientError, ServerError};
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

const MIB: usize = 1 << 20;

fn refused(result: Result<Client, ClientError>) -> ServerError {
    match result {
        Err(ClientError::Server(error)) => error,
        Err(error) => panic!("no answer: {error}"),
        Ok(_) => panic!("it was let in"),
    }
}

fn node(scenario: &Scenario, settings: &[&str]) -> Node {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    settings.iter().for_each(|setting| node.set(setting));
    node.start();
    node.query("CREATE TABLE t(x)");
    node
}

/// The error of a statement that must fail with that SQLSTATE, and leave the session in service.
fn assert_limit(client: &mut Client, sqlstate: &str, sql: &str) {
    let error = client.error(sql);
    assert_eq!(error.sqlstate, sqlstate, "{}: {error}", &sql[..sql.len().min(80)]);
    client.query("ROLLBACK").unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn connections_have_limits() {
    let scenario = Scenario::new("limits-connections");
    let settings = [
        "max_connections=4",
        "superuser_reserved_connections=2",
        "max_wal_senders=1",
        "max_replication_slots=1",
    ];
    let mut node = node(&scenario, &settings);
    node.query("CREATE USER alice");
    let alice = || Client::connect(&node.address(), &[("user", "alice")]);
    let one = wait::until("a place", || alice().ok());
    let two = wait::until("a place", || alice().ok());
    let error = refused(alice());
    assert_eq!(error.sqlstate, "53300");
    assert_eq!(
        error.message,
        "remaining connection slots are reserved for non-replication superuser connections"
    );
    let three = wait::until("a place", || node.try_client().ok());
    let four = wait::until("a place", || node.try_client().ok());
    for error in [refused(node.try_client()), refused(alice())] {
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("53300", "sorry, too many clients already")
        );
    }
    let replication = || Client::connect(&node.address(), &[("replication", "true")]);
    let mut walsender = replication().unwrap();
    assert_eq!(refused(replication()).sqlstate, "53300");
    walsender.query("CREATE_REPLICATION_SLOT a PHYSICAL").unwrap();
    assert_eq!(walsender.error("CREATE_REPLICATION_SLOT b PHYSICAL").sqlstate, "53400");
    let mut long = Client::connect_raw(&node.address()).unwrap();
    long.send_bytes(&10_100_i32.to_be_bytes()).unwrap();
    assert_eq!(long.read_to_end().unwrap(), b"", "closed at its length");
    drop((one, two, three, four, walsender));
    wait::until("a place", || node.try_client().ok());
    node.stop();
}

#[test]
fn statements_have_limits() {
    let scenario = Scenario::new("limits-statements");
    let settings = [
        "max_statement_size=64kB",
        "statement_memory_limit=8MB",
        "write_statement_timeout=300ms",
        "max_notify_queue_pages=64",
    ];
    let mut node = node(&scenario, &settings);
    let mut client = node.client();
    let long = "x".repeat(64 * 1024);
    assert_limit(&mut client, "54000", &format!("INSERT INTO t VALUES ('{long}')"));
    assert_limit(&mut client, "54000", "SELECT zeroblob(100000)");
    assert_limit(&mut client, "54000", &"SELECT 1;".repeat(10_001));
    client.query("SET statement_timeout = '50ms'").unwrap();
    assert_limit(&mut client, "57014", "SELECT pg_sleep(1000)");
    client.query("RESET statement_timeout").unwrap();
    let endless = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0";
    assert_limit(&mut client, "57014", endless);
    // A block: what it has gathered, and its savepoints, whose names cost as much as they are long and a little more.
    client.query("BEGIN").unwrap();
    let write = format!("INSERT INTO t VALUES ('{}')", "x".repeat(10_000));
    let full = (0..10).find_map(|_| client.answer(&write).unwrap().error).expect("an end");
    assert_eq!(full.sqlstate, "54000");
    client.query("ROLLBACK").unwrap();
    client.query("BEGIN").unwrap();
    let full = (0..2_000).find_map(|_| client.answer("SAVEPOINT s").unwrap().error).expect("an end");
    assert_eq!(full.sqlstate, "54000");
    client.query("ROLLBACK").unwrap();
    // What others have not read.
    let mut deaf = node.client();
    deaf.query("LISTEN c").unwrap();
    deaf.query("BEGIN").unwrap();
    let notify = |number: usize| format!("NOTIFY c, '{number}{}'", "x".repeat(7_900));
    let full = (0..100).find_map(|number| client.answer(&notify(number)).unwrap().error).expect("an end");
    assert_eq!(full.sqlstate, "54000");
    let listen: String = (0..5_000).map(|number| format!("LISTEN c{number};")).collect();
    let more: String = (5_000..10_001).map(|number| format!("LISTEN c{number};")).collect();
    client.query(&listen).unwrap();
    assert_limit(&mut client, "54000", &more);
    assert_eq!(node.value("SELECT count(*) FROM t"), "0");
    node.stop();
}

#[test]
fn rows_that_a_write_returns_have_a_limit() {
    let scenario = Scenario::new("limits-returning");
    let mut node = node(&scenario, &[]);
    let mut client = node.client();
    let many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20) \
                SELECT zeroblob(500000) FROM n RETURNING x";
    assert_limit(&mut client, "54000", many);
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    node.stop();
}

#[test]
fn memory_of_a_statement_has_a_limit() {
    let scenario = Scenario::new("limits-memory");
    let mut node = node(&scenario, &["statement_memory_limit=8MB", "max_statement_size=64MB"]);
    let mut client = node.client();
    assert_limit(&mut client, "53200", "SELECT hex(zeroblob(10000000))");
    assert_limit(&mut client, "53200", "INSERT INTO t SELECT hex(zeroblob(10000000))");
    node.stop();
}

#[test]
fn silence_has_limits() {
    let scenario = Scenario::new("limits-silence");
    let mut node = node(&scenario, &["authentication_timeout=1s"]);
    for (setting, begin, sqlstate) in [
        ("idle_session_timeout", "SELECT 1", "57P05"),
        ("idle_in_transaction_session_timeout", "BEGIN", "25P03"),
    ] {
        let mut client = node.client();
        client.query(&format!("SET {setting} = '50ms'; {begin}")).unwrap();
        let told = String::from_utf8_lossy(&client.read_to_end().unwrap()).into_owned();
        assert!(told.contains(sqlstate), "{told}");
    }
    let mut silent = Client::connect_raw(&node.address()).unwrap();
    let told = String::from_utf8_lossy(&silent.read_to_end().unwrap()).into_owned();
    assert!(told.contains("57014"), "{told}");
    node.stop();
}

/// What is too long is passed over as it comes: the session needs no room for it, and goes on.
#[test]
fn messages_have_a_limit_and_cost_nothing_beyond_it() {
    let scenario = Scenario::new("limits-messages");
    let mut node = node(&scenario, &["max_message_size=64kB", "max_statement_size=32kB"]);
    let mut client = node.client();
    let session = Pid(client.backend_pid);
    // With the byte that ends it.
    let of_bytes = |bytes: usize| format!("SELECT 1{}", " ".repeat(bytes - 9)).replacen("1 ", "1;", 1);
    assert_eq!(client.value(&of_bytes(64 << 10)), "1");
    let error = client.error(&of_bytes((64 << 10) + 1));
    assert_eq!(
        error.to_string(),
        "ERROR 54000: message of 65537 bytes exceeds max_message_size (65536 bytes)  \
         Send fewer statements at once, or increase max_message_size."
    );
    assert_limit(&mut client, "54000", &" ".repeat(200 * MIB));
    let peak = procfs::peak_memory(session).unwrap();
    assert!(peak < 50 << 20, "{peak} bytes for a message that is refused");
    // As any error it fails a block.
    client.query("BEGIN").unwrap();
    assert_eq!(client.answer(&" ".repeat(MIB)).unwrap().status, 'E');
    client.query("ROLLBACK").unwrap();
    // What is no message at all.
    client.send_bytes(&[&b"Q"[..], &i32::MAX.to_be_bytes()].concat()).unwrap();
    assert_eq!(client.read_to_end().unwrap(), b"");
    node.wait_log("invalid message length");
    // A walsender's commands; and what standbys say of themselves is short.
    let mut standby = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    assert_eq!(standby.error(&" ".repeat(MIB)).sqlstate, "54000");
    assert_eq!(standby.rows("IDENTIFY_SYSTEM").len(), 1);
    let start = node.value("SELECT pg_current_wal_lsn()");
    standby.send_query(&format!("START_REPLICATION {start}")).unwrap();
    assert_eq!(standby.read_message().unwrap().tag, b'W');
    standby.send_message(b'd', &[b'r'; 10_001]).unwrap();
    standby.read_to_end().unwrap();
    node.stop();
}

/// A text that isn't one is an error of that message alone.
#[test]
fn message_that_is_no_text_is_refused_and_the_session_goes_on() {
    let scenario = Scenario::new("limits-no-text");
    let mut node = node(&scenario, &[]);
    let mut client = node.client();
    for (body, sqlstate) in [(&b"SELECT '\xff'\0"[..], "22021"), (b"SELECT 1", "08P01")] {
        client.send_message(b'Q', body).unwrap();
        assert_eq!(client.read_answer().unwrap().error.unwrap().sqlstate, sqlstate);
    }
    assert_eq!(client.value("SELECT 1"), "1");
    node.stop();
}

#[test]
fn a_client_that_is_not_known_yet_cannot_say_much() {
    let scenario = Scenario::new("limits-unknown");
    let mut node = node(&scenario, &[]);
    node.query("CREATE USER alice PASSWORD 'secret'");
    fs::write(
        node.dir().join("pg_hba.conf"),
        "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n",
    )
    .unwrap();
    node.reload("");
    let mut client = Client::connect_raw(&node.address()).unwrap();
    client.send_packet(b"\0\x03\0\0user\0alice\0database\0postgres\0\0").unwrap();
    assert_eq!(client.read_message().unwrap().tag, b'R');
    client.send_bytes(&[&b"p"[..], &10_005_i32.to_be_bytes()].concat()).unwrap();
    assert_eq!(client.read_to_end().unwrap(), b"");
    node.wait_log("invalid message length");
    node.stop();
}

#[test]
fn what_a_transaction_changes_has_a_limit() {
    let scenario = Scenario::new("limits-record");
    let mut node = node(&scenario, &["write_statement_timeout=60s"]);
    let mut client = node.client();
    let before = node.lsn("pg_current_wal_insert_lsn");
    let many = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 270) \
                SELECT zeroblob(1000000) FROM n";
    assert_limit(&mut client, "54000", many);
    // A checkpoint's records may have come in between.
    assert!(node.lsn("pg_current_wal_insert_lsn").0 - before.0 < MIB as u64, "nothing of it was logged");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    node.stop();
}

/// Sessions that stand don't take the rows that their writes returned. Those are kept, up to a limit for all.
#[test]
fn rows_that_wait_for_their_sessions_have_a_limit_together() {
    let scenario = Scenario::new("limits-answers");
    let mut node = node(&scenario, &["write_statement_timeout=60s"]);
    let rows = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 15) \
                SELECT hex(zeroblob(499000)) FROM n RETURNING x";
    let startup = node.process("startup");
    let stop = |pid: Pid| {
        process::kill(pid, Signal::Stop).unwrap();
        wait::until("the process to stand", || procfs::stopped(pid).then_some(()));
    };
    let mut looking = node.client();
    let mut standing: Vec<Client> = (0..9).map(|_| node.client()).collect();
    stop(startup);
    for client in &mut standing {
        client.send_query(rows).unwrap();
        let pid = client.backend_pid;
        let asks =
            format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'WriterOutcome'");
        wait::until("the request", || (!looking.rows(&asks).is_empty()).then_some(()));
        stop(Pid(pid));
    }
    process::kill(startup, Signal::Cont).unwrap();
    // One of them was too much; small answers go on all the same.
    let mut other = node.client();
    assert_eq!(other.rows("INSERT INTO t VALUES (1) RETURNING x"), [["1"]]);
    let error = other.error(rows);
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("53200", "out of memory"));
    for client in &standing {
        process::kill(Pid(client.backend_pid), Signal::Cont).unwrap();
    }
    let (given, refused): (Vec<_>, Vec<_>) = standing
        .iter_mut()
        .map(|client| client.read_answer().unwrap())
        .partition(|answer| answer.error.is_none());
    assert!(given.iter().all(|answer| answer.rows.len() == 15));
    assert!(refused.iter().all(|answer| answer.error.as_ref().unwrap().sqlstate == "53200"));
    assert_eq!(given.len(), 8, "of 15 MB each, in 128 MiB");
    assert_eq!(node.value("SELECT count(*) FROM t"), (8 * 15 + 1).to_string());
    assert_eq!(other.rows(rows).len(), 15, "there is room again");
    node.stop();
}

/// What a client sends may come back in a message; the log has a start of it.
#[test]
fn messages_in_the_log_have_a_limit() {
    let scenario = Scenario::new("limits-log");
    let mut node = node(&scenario, &[]);
    let mut client = node.client();
    assert_limit(&mut client, "42P01", &format!("SELECT * FROM {}", "x".repeat(MIB / 2)));
    let log = node.log();
    let line = log.lines().find(|line| line.contains("xxxx")).expect("the error is logged");
    assert!(line.len() < 9_000, "{} bytes in a line", line.len());
    assert!(line.contains("bytes more"), "{}", &line[line.len() - 60..]);
    node.stop();
}
