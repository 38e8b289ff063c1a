//! Writes whose text or whose rows are larger than a session's place in shared memory: they go piece by piece between the
//! session and the startup process, and whoever stands still in the midst of one keeps nobody else waiting.
//!
//! Method: to hold a request half way the startup process is stopped by SIGSTOP, to hold rows half way the session is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Answer, Client, ClientError};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

const MIB: usize = 1 << 20;

fn primary(scenario: &Scenario, settings: &[&str]) -> Node {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    settings.iter().for_each(|setting| primary.set(setting));
    primary.start();
    primary.query("CREATE TABLE big(id integer PRIMARY KEY, v text)");
    primary
}

/// An INSERT of so many bytes; its value differs at every place.
fn insert(id: usize, bytes: usize) -> (String, String) {
    let frame = format!("INSERT INTO big VALUES ({id}, '')").len();
    let value: String =
        (0..).flat_map(|n: u32| format!("{n:x}.").into_bytes()).map(char::from).take(bytes - frame).collect();
    (format!("INSERT INTO big VALUES ({id}, '{value}')"), value)
}

/// Fills the table with `rows` rows of `bytes` bytes.
fn fill(node: &Node, rows: usize, bytes: usize) {
    node.query(&format!(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {rows}) \
         INSERT INTO big SELECT x, hex(zeroblob({})) FROM c",
        bytes / 2
    ));
}

fn stop(pid: Pid) {
    process::kill(pid, Signal::Stop).unwrap();
    wait::until("the process to stand", || procfs::stopped(pid).then_some(()));
}

fn go_on(pid: Pid) {
    process::kill(pid, Signal::Cont).unwrap();
}

/// A client and its session.
fn session(node: &Node) -> (Client, Pid) {
    let mut client = node.client();
    let pid = client.value("SELECT pg_backend_pid()").parse().unwrap();
    (client, Pid(pid))
}

fn wait_event_of(looking: &mut Client, session: Pid, event: &str) {
    let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {session}");
    wait::until(event, || (looking.rows(&sql) == [[event.to_owned()]]).then_some(()));
}

fn count(node: &Node) -> usize {
    node.value("SELECT count(*) FROM big").parse().unwrap()
}

#[test]
fn statement_of_max_statement_size_is_executed_and_one_byte_more_is_refused() {
    let scenario = Scenario::new("max-statement");
    let cluster = Cluster::start(&scenario);
    let primary = &cluster.primary;
    let mut client = primary.client();
    client.query("CREATE TABLE big(id integer PRIMARY KEY, v text)").unwrap();
    let before = client.value("SELECT pg_current_wal_insert_lsn()");
    let error = client.error(&insert(1, MIB + 1).0);
    assert_eq!(error.sqlstate, "54000");
    assert_eq!(error.message, "the statement exceeds max_statement_size (1048576 bytes)");
    assert_eq!(client.value("SELECT pg_current_wal_insert_lsn()"), before, "nothing was logged");
    // From the smallest that doesn't fit into the place to the largest.
    for (id, bytes) in [16_000, 16_384, 16_400, 65_536, 65_537, 300_000, MIB].into_iter().enumerate() {
        let (sql, value) = insert(id, bytes);
        assert_eq!(sql.len(), bytes);
        assert_eq!(client.tag(&sql), "INSERT 0 1");
        assert_eq!(client.value(&format!("SELECT v FROM big WHERE id = {id}")), value);
    }
    // A transaction counts as one.
    client.query("BEGIN").unwrap();
    client.query(&insert(10, MIB / 2).0).unwrap();
    let error = client.error(&insert(11, MIB / 2 + 1).0);
    assert_eq!(error.sqlstate, "54000");
    client.query("ROLLBACK").unwrap();
    client.query("BEGIN").unwrap();
    client.query(&insert(10, MIB / 2).0).unwrap();
    client.query(&insert(11, MIB / 2).0).unwrap();
    assert_eq!(client.tag("COMMIT"), "COMMIT");
    assert_eq!(client.value("SELECT count(*) FROM big"), "9");
    assert_eq!(
        client.value("SELECT length(v) FROM big WHERE id = 11"),
        insert(11, MIB / 2).1.len().to_string()
    );
}

#[test]
fn rows_of_several_megabytes_are_returned_and_too_many_leave_nothing() {
    let scenario = Scenario::new("large-rows");
    let mut primary = primary(&scenario, &[]);
    fill(&primary, 40, 500_000);
    let mut client = primary.client();
    for rows in [1, 2, 10, 31] {
        let sql = format!("UPDATE big SET v = v || '{rows}' WHERE id <= {rows} RETURNING id, v");
        let expected: Vec<Vec<String>> = (1..=rows)
            .map(|id| {
                let value = client.value(&format!("SELECT v || '{rows}' FROM big WHERE id = {id}"));
                vec![id.to_string(), value]
            })
            .collect();
        assert!(client.rows(&sql) == expected, "{rows} rows");
    }
    let before = client.value("SELECT pg_current_wal_insert_lsn()");
    let error = client.error("UPDATE big SET v = 'gone' || v RETURNING id, v");
    assert_eq!(error.sqlstate, "54000");
    assert_eq!(error.message, "rows returned by a write exceed the limit of 16777207 bytes");
    assert_eq!(client.value("SELECT pg_current_wal_insert_lsn()"), before, "nothing was logged");
    assert_eq!(client.value("SELECT count(*) FROM big WHERE v LIKE 'gone%'"), "0");
    // Without RETURNING there is no limit to what it changes.
    assert_eq!(client.tag("UPDATE big SET v = 'gone'"), "UPDATE 40");
    primary.stop();
}

#[test]
fn error_with_texts_longer_than_a_place_arrives_whole() {
    let scenario = Scenario::new("large-error");
    let mut primary = primary(&scenario, &[]);
    let mut client = primary.client();
    let name = "x".repeat(20_000);
    let error = client.error(&format!("INSERT INTO {name} VALUES (1)"));
    assert_eq!(error.sqlstate, "42P01");
    assert!(
        error.message.len() > 8000 && error.message.starts_with("relation \"xxx"),
        "{}",
        error.message.len()
    );
    assert_eq!(client.value("SELECT 1"), "1");
    primary.stop();
}

/// While the startup process stands, a session has a part of its request in the queue. It is cancelled, terminated, or left
/// by its client; nothing of its statement happens, and others go on as soon as the startup process does.
#[test]
fn request_that_is_half_way_is_taken_back_by_cancel_terminate_and_the_end_of_its_client() {
    let scenario = Scenario::new("half-a-request");
    let mut primary = primary(&scenario, &["client_connection_check_interval=10ms"]);
    let startup = primary.process("startup");
    let mut looking = primary.client();
    for (round, how) in ["cancel", "terminate", "disconnect", "timeout"].into_iter().enumerate() {
        let (mut client, pid) = session(&primary);
        if how == "timeout" {
            client.query("SET statement_timeout = '300ms'").unwrap();
        }
        stop(startup);
        client.send_query(&insert(1000, MIB).0).unwrap();
        let found = wait::within(wait::DEADLINE, || {
            let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
            (how == "timeout" || looking.rows(&sql) == [["MessageQueueSend"]]).then_some(())
        });
        let end = found.map(|()| match how {
            "cancel" => {
                client.cancel().unwrap();
                Some(client.read_answer().unwrap().error.unwrap().sqlstate)
            }
            "timeout" => Some(client.read_answer().unwrap().error.unwrap().sqlstate),
            "terminate" => {
                process::kill(pid, Signal::Term).unwrap();
                Some(client.read_answer().unwrap().error.unwrap().sqlstate)
            }
            _ => {
                drop(client);
                wait::until("the session to end", || (!procfs::runs(pid)).then_some(()));
                None
            }
        });
        go_on(startup);
        let expected = match how {
            "cancel" | "timeout" => Some("57014"),
            "terminate" => Some("57P01"),
            _ => None,
        };
        assert_eq!(end.expect("the request gets half way").as_deref(), expected, "{how}");
        // The next one, perhaps in the same slot, small and large.
        let mut next = primary.client();
        assert_eq!(next.tag(&insert(2 * round, 100).0), "INSERT 0 1");
        assert_eq!(next.tag(&insert(2 * round + 1, MIB).0), "INSERT 0 1");
        assert_eq!(count(&primary), 2 * (round + 1), "after {how}");
    }
    primary.stop();
}

/// A session that was cancelled in the midst of a large request sends the next one at once, large or small, although the startup
/// process has not got round to forgetting the first.
#[test]
fn session_goes_on_after_a_cancelled_large_request() {
    let scenario = Scenario::new("again-after-cancel");
    let mut primary = primary(&scenario, &[]);
    let startup = primary.process("startup");
    let mut looking = primary.client();
    let (mut client, pid) = session(&primary);
    for round in 0..20 {
        stop(startup);
        client.send_query(&insert(1000, MIB).0).unwrap();
        wait_event_of(&mut looking, pid, "MessageQueueSend");
        if round % 2 == 0 {
            // It has some of it, and is stopped again.
            go_on(startup);
            stop(startup);
        }
        let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
        let half_way = looking.rows(&sql) == [["MessageQueueSend"]];
        client.cancel().unwrap();
        if !half_way {
            // It was faster than the second stop, and has all of it now.
            go_on(startup);
        }
        match client.read_answer().unwrap().error {
            Some(error) => assert_eq!(error.sqlstate, "57014"),
            None => assert!(!half_way),
        }
        client.send_query(&insert(round, if round % 3 == 0 { 100 } else { MIB }).0).unwrap();
        go_on(startup);
        assert_eq!(client.read_answer().unwrap().tags, ["INSERT 0 1"], "round {round}");
        client.query("DELETE FROM big WHERE id = 1000").unwrap();
        // Also lets the tables be committed: who looks next need not wait for that.
        assert_eq!(count(&primary), round + 1);
    }
    primary.stop();
}

/// While a session stands, the startup process has rows for it that don't fit into the queue. Others are served; the session then
/// goes on, or ends, or was cancelled too late: its write has happened.
#[test]
fn rows_that_are_half_delivered_keep_nobody_waiting() {
    let scenario = Scenario::new("half-the-rows");
    let mut primary = primary(&scenario, &[]);
    fill(&primary, 10, 500_000);
    let startup = primary.process("startup");
    let mut looking = primary.client();
    for how in ["nothing", "cancel", "terminate", "disconnect"] {
        let (mut client, pid) = session(&primary);
        stop(startup);
        client.send_query(&format!("UPDATE big SET v = v || '{how}' RETURNING id, v")).unwrap();
        wait_event_of(&mut looking, pid, "WriterOutcome");
        stop(pid);
        go_on(startup);
        let mut others: Vec<Client> = (0..4).map(|_| primary.client()).collect();
        for (number, other) in others.iter_mut().enumerate() {
            let (sql, _) = insert(1000 + number, 40_000);
            assert_eq!(other.tag(&sql), "INSERT 0 1");
            assert_eq!(
                other.rows(&format!("DELETE FROM big WHERE id = {} RETURNING v", 1000 + number)).len(),
                1
            );
        }
        match how {
            "cancel" => client.cancel().unwrap(),
            "terminate" => process::kill(pid, Signal::Term).unwrap(),
            _ => {}
        }
        if how == "disconnect" {
            drop(client);
            go_on(pid);
            wait::until("the session to end", || (!procfs::runs(pid)).then_some(()));
        } else {
            go_on(pid);
            match client.read_answer() {
                Ok(Answer { error: None, rows, tags, .. }) => {
                    assert_eq!((rows.len(), tags), (10, vec!["UPDATE 10".to_owned()]), "{how}");
                }
                Ok(Answer { error: Some(error), .. }) => {
                    assert_eq!((how, error.sqlstate.as_str()), ("terminate", "57P01"));
                }
                // It doesn't wait for a client that is slow to take its rows.
                Err(ClientError::Connection(_)) if how == "terminate" => {}
                Err(error) => panic!("{how}: {error}"),
            }
        }
        if how == "terminate" {
            wait::until("the session to end", || (!procfs::runs(pid)).then_some(()));
        }
        assert_eq!(
            primary.value(&format!("SELECT count(*) FROM big WHERE v LIKE '%{how}'")),
            "10",
            "what is logged has happened: {how}"
        );
    }
    primary.stop();
}
