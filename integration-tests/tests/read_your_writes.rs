//! Who was told "committed" may tell others: every read that begins later sees the write, though the tables' COMMIT comes
//! after the answer. A read that has to wait for it heeds statement_timeout, cancel and terminate.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use integration_tests::client::Client;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

fn primary(scenario: &Scenario) -> Node {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    primary
}

#[test]
fn a_read_sees_every_write_that_was_answered_before_it_to_whomever() {
    let scenario = Scenario::new("read-your-writes");
    let mut primary = primary(&scenario);
    let mut writers: Vec<Client> = (0..4).map(|_| primary.client()).collect();
    let mut reader = primary.client();
    for round in 0..300 {
        for (number, writer) in writers.iter_mut().enumerate() {
            writer.send_query(&format!("INSERT INTO t VALUES ({})", round * 4 + number)).unwrap();
        }
        for (number, writer) in writers.iter_mut().enumerate() {
            assert!(writer.read_answer().unwrap().error.is_none());
            let count: usize = reader.value("SELECT count(*) FROM t").parse().unwrap();
            assert!(count > round * 4 + number, "{count} rows in round {round} after answer {number}");
        }
        let own = writers[round % 4].value("SELECT count(*) FROM t");
        assert_eq!(own, (round * 4 + 4).to_string());
    }
    primary.stop();
}

#[test]
fn a_read_that_waits_for_the_tables_heeds_statement_timeout_cancel_and_terminate() {
    let scenario = Scenario::new("waits-for-tables");
    let mut primary = primary(&scenario);
    let startup = primary.process("startup");
    let mut writer = primary.client();
    let mut rows = 0;
    for how in ["timeout", "cancel", "terminate"] {
        // The COMMIT follows the answer within milliseconds: now and then it is faster than the stop.
        let error = wait::until("a read that has to wait", || {
            let mut reader = primary.client();
            let pid: i32 = reader.value("SELECT pg_backend_pid()").parse().unwrap();
            if how == "timeout" {
                reader.query("SET statement_timeout = '200ms'").unwrap();
            }
            writer.query(&format!("INSERT INTO t VALUES ({rows})")).unwrap();
            rows += 1;
            process::kill(startup, Signal::Stop).unwrap();
            wait::until("the writer to stand", || procfs::stopped(startup).then_some(()));
            reader.send_query("SELECT count(*) FROM t").unwrap();
            wait::watch_for(Duration::from_millis(100));
            match how {
                "cancel" => reader.cancel().unwrap(),
                "terminate" => process::kill(Pid(pid), Signal::Term).unwrap(),
                _ => {}
            }
            let answer = reader.read_answer();
            process::kill(startup, Signal::Cont).unwrap();
            answer.unwrap().error
        });
        let expected = if how == "terminate" { "57P01" } else { "57014" };
        assert_eq!(error.sqlstate, expected, "{how}: {error}");
    }
    assert_eq!(writer.value("SELECT count(*) FROM t"), rows.to_string());
    primary.stop();
}
