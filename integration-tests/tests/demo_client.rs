//! `demo-client`: what it does about the row that was under way, about rows that are lost, and about too many of them.
//!
//! Method: the program as a user starts it, on a node whose table the test has changed behind its back. How it goes through
//! failovers is told by the failover story.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use integration_tests::commands::Said;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::{programs, wait};

const CREATE: &str = "CREATE TABLE demo_rows(id integer PRIMARY KEY, value text NOT NULL)";

struct Writer {
    node: Node,
    note: PathBuf,
    /// What the client last said was wrong.
    said: PathBuf,
}

/// The client, running; it ends with the test at the latest.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl Writer {
    /// A node with the rows from 1 to `rows`, and a note of the client's.
    fn prepare(scenario: &Scenario, rows: u64, note: &str) -> Writer {
        let mut node = Node::init(scenario, "primary", &[]);
        node.start();
        node.query(CREATE);
        node.query(&format!(
            "INSERT INTO demo_rows WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {rows}) \
             SELECT id, 'x' FROM n"
        ));
        Writer { node, note: scenario.write("note", note), said: scenario.path("said") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs::walship("demo-client"));
        command.args(["--conninfo", &self.node.conninfo("demo-client")]).args(arguments);
        command.arg("--note").arg(&self.note);
        command.stdin(Stdio::null());
        command
    }

    fn start(&self) -> Running {
        let mut command = self.command(&["run", "--interval", "1"]);
        let said = File::create(&self.said).unwrap();
        Running(command.stdout(Stdio::null()).stderr(said).spawn().unwrap())
    }

    /// Runs the client until it ends by itself; its status, and what it said was wrong.
    fn run_to_its_end(&self) -> (Option<i32>, String) {
        let mut client = self.start();
        let status = wait::until("the client to give up", || client.0.try_wait().unwrap());
        (status.code(), fs::read_to_string(&self.said).unwrap())
    }

    /// Runs the client until its note is `enough`, and kills it.
    fn run_until(&self, mut enough: impl FnMut(u64, u64) -> bool) -> (u64, u64) {
        let mut client = self.start();
        wait::until("the note to be what it should", || {
            assert!(client.0.try_wait().unwrap().is_none(), "the client has ended");
            let text = fs::read_to_string(&self.note).unwrap();
            let (first, last) = text.trim_end().split_once(" to ").unwrap();
            let note = (first.parse().unwrap(), last.parse().unwrap());
            enough(note.0, note.1).then_some(note)
        })
    }
}

#[test]
fn a_lost_row_ends_the_client_and_fails_the_check() {
    let scenario = Scenario::new("client-lost");
    let writer = Writer::prepare(&scenario, 9, "1 to 10\n");
    let expected = "demo-client: FAILED: 1 acknowledged rows are lost: 9 of 10 (rows 1 to 10)\n";
    assert_eq!(writer.run_to_its_end(), (Some(1), expected.to_owned()));
    // The rows that are there are not what the client wrote, which only a look at each of them finds.
    let said = Said::of(writer.command(&["check"]).output().unwrap());
    assert_eq!(said.status, Some(1));
    assert!(
        said.err.contains("FAILED: the acknowledged row 1 is lost: in its place is Some([\"1\", \"x\"])"),
        "{}",
        said.err
    );
}

#[test]
fn the_row_that_was_under_way_is_found_and_another_clients_is_not_taken_for_it() {
    let scenario = Scenario::new("client-doubt");
    let writer = Writer::prepare(&scenario, 11, "1 to 10\n");
    let (first, last) = writer.run_until(|_, last| last >= 15);
    assert_eq!(first, 1);
    assert!(writer.node.value("SELECT value FROM demo_rows WHERE id = 12").len() == 16);
    assert!(writer.node.value("SELECT max(id) FROM demo_rows").parse::<u64>().unwrap() >= last);

    writer.node.query("INSERT INTO demo_rows VALUES (1000, 'another')");
    let (status, said) = writer.run_to_its_end();
    assert_eq!(status, Some(1));
    assert!(said.contains("row 1000 is there, but only"), "{said}");
}

#[test]
fn of_many_rows_the_older_half_is_deleted_and_not_missed() {
    let scenario = Scenario::new("client-many");
    let writer = Writer::prepare(&scenario, 99_990, "1 to 99990\n");
    let lowest = || writer.node.value("SELECT min(id) FROM demo_rows");
    let (first, _) = writer.run_until(|first, _| first > 1 && lowest() == first.to_string());
    let (_, last) = writer.run_until(|_, last| last >= first + 50_050);
    let count = writer.node.value(&format!("SELECT count(*) FROM demo_rows WHERE id <= {last}"));
    assert_eq!(count, (last - first + 1).to_string());
}
