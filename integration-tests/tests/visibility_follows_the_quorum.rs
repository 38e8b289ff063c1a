//! With synchronous_standby_names nobody on any node sees a row that the quorum hasn't flushed: not after a wait that was
//! given up, not after a restart of the primary or of its machine, not on a standby that is further than the quorum, not
//! because of a standby that claims more than it was sent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::time::Duration;

use integration_tests::client::{Client, ClientError};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use wal::lsn::Lsn;

const NAMES: &str = "synchronous_standby_names = 'sync'\n";

/// A primary with the table t, and a standby "sync" that is its only synchronous one.
fn pair(scenario: &Scenario) -> (Node, Node) {
    let mut primary = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    let mut sync = Node::clone_of(scenario, "sync", &primary);
    sync.start();
    primary.reload(NAMES);
    wait_state(&primary, "sync", "sync");
    (primary, sync)
}

fn wait_state(primary: &Node, name: &str, state: &str) {
    let sql = format!(
        "SELECT sync_state FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
    );
    wait::until(&format!("{name} to be {state}"), || {
        (primary.rows(&sql) == [[state.to_owned()]]).then_some(())
    });
}

/// Has the primary commit a row on its own: the wait for the standby, which is gone, is given up.
fn insert_undecided(primary: &Node, id: u32) {
    let mut writer = primary.client();
    writer.query("SET default_transaction_read_only = off").unwrap();
    writer.query("SET statement_timeout = '300ms'").unwrap();
    let answer = writer.query(&format!("INSERT INTO t VALUES ({id})")).unwrap();
    assert!(answer.notices.iter().any(|one| one.sqlstate == "01000"), "{answer:?}");
}

fn ids(node: &Node) -> Vec<String> {
    node.rows("SELECT id FROM t ORDER BY id").into_iter().map(|mut row| row.remove(0)).collect()
}

fn wait_ids(node: &Node, expected: &[&str]) {
    wait::until("the rows", || (ids(node) == expected).then_some(()));
}

#[test]
fn restarted_primary_shows_what_it_can_prove_and_the_rest_when_the_standby_has_it() {
    let scenario = Scenario::new("undecided-restart");
    let (mut primary, mut sync) = pair(&scenario);
    primary.query("INSERT INTO t VALUES (1)");
    sync.stop();
    insert_undecided(&primary, 2);
    assert_eq!(ids(&primary), ["1"]);
    // By a crash, by another one that nothing was written after, by a crash of a process, and in order.
    primary.kill_all();
    primary.start();
    assert_eq!(ids(&primary), ["1"]);
    primary.kill_all();
    primary.start();
    insert_undecided(&primary, 3);
    assert_eq!(ids(&primary), ["1"]);
    primary.crash(primary.process("checkpointer"));
    assert_eq!(ids(&primary), ["1"]);
    primary.stop();
    primary.start();
    assert_eq!(ids(&primary), ["1"]);
    // Writes go on upon what is not decided.
    let mut writer = primary.client();
    writer.query("SET default_transaction_read_only = off").unwrap();
    writer.send_query("DELETE FROM t WHERE id = 2").unwrap();
    wait::until("the delete to be logged", || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (primary.value(waits) == "1").then_some(())
    });
    assert_eq!(ids(&primary), ["1"]);
    sync.start();
    assert_eq!(writer.read_answer().unwrap().tags, ["DELETE 1"]);
    wait_ids(&primary, &["1", "3"]);
    wait_ids(&sync, &["1", "3"]);
    sync.stop();
    primary.stop();
}

#[test]
fn primary_is_read_only_to_its_clients_until_a_quorum_has_answered() {
    let scenario = Scenario::new("first-quorum");
    let (mut primary, mut sync) = pair(&scenario);
    let mut old = primary.client();
    assert_eq!(old.parameters["default_transaction_read_only"], "off");
    // Once it has answered its absence is waited out, as ever.
    sync.stop();
    old.query("SELECT 1").unwrap();
    assert_eq!(primary.client().parameters["default_transaction_read_only"], "off");
    primary.stop();
    primary.start();
    let mut early = primary.client();
    assert_eq!(early.parameters["default_transaction_read_only"], "on");
    assert_eq!(early.error("INSERT INTO t VALUES (1)").sqlstate, "25006");
    sync.start();
    wait::until("the client to be told", || {
        early.query("SELECT 1").unwrap();
        (early.parameters["default_transaction_read_only"] == "off").then_some(())
    });
    assert_eq!(early.tag("INSERT INTO t VALUES (1)"), "INSERT 0 1");
    sync.stop();
    primary.stop();
}

#[test]
fn after_a_restart_of_the_machine_nobody_is_let_in_before_the_quorum_has_the_log() {
    let scenario = Scenario::new("reboot");
    let (mut primary, mut sync) = pair(&scenario);
    primary.query("INSERT INTO t VALUES (1)");
    sync.stop();
    primary.kill_all();
    fs::write(primary.dir().join("boot_id"), "another boot").unwrap();
    primary.spawn();
    let refused = primary.wait_log("the machine was restarted");
    assert!(refused.contains("synchronous standbys have confirmed the log"), "{refused}");
    let error = wait::until("an answer that tells why", || match primary.try_client() {
        Err(ClientError::Server(error)) if !error.detail.is_empty() => Some(error),
        Err(_) => None,
        Ok(_) => panic!("a session was let in"),
    });
    assert_eq!((error.severity.as_str(), error.sqlstate.as_str()), ("FATAL", "57P03"));
    assert_eq!(error.message, "the database system is not yet accepting connections");
    // Nor after another crash.
    primary.kill_all();
    primary.spawn();
    wait::until("an answer that tells why", || match primary.try_client() {
        Err(ClientError::Server(error)) => (!error.detail.is_empty()).then_some(()),
        Err(_) => None,
        Ok(_) => panic!("a session was let in"),
    });
    sync.start();
    wait::until("a session to be let in", || primary.try_client().ok());
    assert_eq!(ids(&primary), ["1"]);
    // From now on this boot is known.
    primary.wait_log("the log is confirmed");
    sync.stop();
    primary.stop();
    primary.start();
    assert_eq!(ids(&primary), ["1"]);
    primary.stop();
}

#[test]
fn asynchronous_standby_and_its_cascade_show_no_more_than_the_quorum_has() {
    let scenario = Scenario::new("async-ahead");
    let (mut primary, mut sync) = pair(&scenario);
    let mut ahead = Node::clone_of(&scenario, "ahead", &primary);
    ahead.start();
    let mut cascade = Node::clone_of(&scenario, "cascade", &ahead);
    cascade.start();
    wait_state(&primary, "ahead", "async");
    primary.query("INSERT INTO t VALUES (1)");
    for node in [&ahead, &cascade] {
        wait_ids(node, &["1"]);
    }
    sync.stop();
    insert_undecided(&primary, 2);
    let end = primary.lsn("pg_current_wal_flush_lsn");
    for node in [&ahead, &cascade] {
        wait::until("the log to arrive", || (node.lsn("pg_last_wal_receive_lsn") >= end).then_some(()));
    }
    wait::watch_for(Duration::from_millis(300));
    for node in [&primary, &ahead, &cascade] {
        assert_eq!(ids(node), ["1"]);
        assert!(node.lsn("pg_last_wal_replay_lsn") < end);
    }
    // Not by a restart either.
    ahead.restart();
    cascade.kill_all();
    cascade.start();
    for node in [&ahead, &cascade] {
        assert_eq!(ids(node), ["1"]);
    }
    sync.start();
    for node in [&primary, &sync, &ahead, &cascade] {
        wait_ids(node, &["1", "2"]);
    }
    for node in [&mut cascade, &mut ahead, &mut sync, &mut primary] {
        node.stop();
    }
}

/// Speaks the protocol of a standby, and says what it is told to.
struct FakeStandby {
    connection: Client,
}

impl FakeStandby {
    /// Streams from the start of the segment that `from` is in, under the name of the synchronous standby.
    fn start(primary: &Node, from: Lsn) -> FakeStandby {
        let parameters = [("replication", "true"), ("application_name", "sync")];
        let mut connection = Client::connect(&primary.address(), &parameters).unwrap();
        let start = Lsn(from.0 & !0xF_FFFF);
        connection.send_query(&format!("START_REPLICATION {start} TIMELINE 1")).unwrap();
        assert_eq!(connection.read_message().unwrap().tag, b'W');
        FakeStandby { connection }
    }

    fn report(&mut self, position: Lsn) {
        let mut body = vec![b'r'];
        (0..3).for_each(|_| body.extend_from_slice(&position.0.to_be_bytes()));
        body.extend_from_slice(&[0; 9]);
        self.connection.send_message(b'd', &body).unwrap();
    }

    /// Reads until it has the log up to `end`.
    fn receive(&mut self, end: Lsn) {
        let mut received = Lsn::INVALID;
        while received < end {
            let message = self.connection.read_message().unwrap();
            if message.tag == b'd' && message.body[0] == b'w' {
                let start = u64::from_be_bytes(message.body[1..9].try_into().unwrap());
                received = Lsn(start + message.body.len() as u64 - 25);
            }
        }
    }
}

#[test]
fn standby_that_reports_more_than_it_was_sent_confirms_only_that() {
    let scenario = Scenario::new("fake-standby");
    let (mut primary, mut sync) = pair(&scenario);
    sync.stop();
    let before = primary.lsn("pg_current_wal_flush_lsn");
    let mut fake = FakeStandby::start(&primary, before);
    fake.receive(before);
    fake.report(Lsn(u64::MAX - 7));
    wait_state(&primary, "sync", "sync");
    let mut writer = primary.client();
    writer.send_query("INSERT INTO t VALUES (1)").unwrap();
    let end = wait::until("the row to be logged", || {
        let end = primary.lsn("pg_current_wal_flush_lsn");
        (end > before).then_some(end)
    });
    fake.receive(end);
    // What it said before this was sent says nothing of it.
    wait::watch_for(Duration::from_millis(300));
    assert_eq!(ids(&primary), Vec::<String>::new());
    let shown = primary.value("SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'sync'");
    assert!(shown.parse::<Lsn>().unwrap() <= before, "{shown}");
    fake.report(end);
    assert_eq!(writer.read_answer().unwrap().tags, ["INSERT 0 1"]);
    assert_eq!(ids(&primary), ["1"]);
    // The shutdown would wait for it to have the last record.
    drop(fake);
    primary.stop();
}

#[test]
fn readers_are_served_while_the_quorum_is_missing_and_long_transactions_gather() {
    let scenario = Scenario::new("undecided-readers");
    let (mut primary, mut sync) = pair(&scenario);
    let mut writer = primary.client();
    let mut reader = primary.client();
    // Rows that are decided and rows that aren't meet in one transaction of the tables, each time anew.
    let mut id = 0;
    for _ in 0..3 {
        for _ in 0..20 {
            id += 1;
            writer.query(&format!("INSERT INTO t VALUES ({id})")).unwrap();
        }
        sync.kill_all();
        writer.query("SET statement_timeout = '200ms'").unwrap();
        let decided = id;
        for _ in 0..3 {
            id += 1;
            // The standby may have got one more before it was gone.
            writer.query(&format!("INSERT INTO t VALUES ({id})")).unwrap();
            let seen: u32 = reader.value("SELECT max(id) FROM t").parse().unwrap();
            assert!(seen == decided, "{seen} is seen, {decided} are replicated");
        }
        writer.query("RESET statement_timeout").unwrap();
        sync.start();
        wait::until("all rows", || (reader.value("SELECT max(id) FROM t") == id.to_string()).then_some(()));
    }
    assert_eq!(reader.value("SELECT count(*) FROM t"), id.to_string());
    wait::until("the standby to have all", || (ids(&sync).len() == id as usize).then_some(()));
    sync.stop();
    primary.stop();
}

#[test]
fn fast_shutdown_is_not_held_up_by_waiters() {
    let scenario = Scenario::new("undecided-stop");
    let (mut primary, mut sync) = pair(&scenario);
    sync.stop();
    let mut writers: Vec<Client> = (0..3).map(|_| primary.client()).collect();
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.send_query(&format!("INSERT INTO t VALUES ({number})")).unwrap();
    }
    wait::until("waiters", || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (primary.value(waits) == "3").then_some(())
    });
    primary.stop();
    primary.start();
    assert_eq!(ids(&primary), Vec::<String>::new());
    sync.start();
    wait_ids(&primary, &["0", "1", "2"]);
    sync.stop();
    primary.stop();
}

#[test]
fn promoted_standby_has_all_it_flushed_and_is_read_only_until_its_own_quorum_answers() {
    let scenario = Scenario::new("promoted-quorum");
    let (mut primary, mut sync) = pair(&scenario);
    primary.query("INSERT INTO t VALUES (1)");
    // Flushed there, and nobody has told it that this was decided.
    primary.reload("synchronous_standby_names = 'FIRST 2 (sync, other)'");
    insert_undecided(&primary, 2);
    let end = primary.lsn("pg_current_wal_flush_lsn");
    wait::until("the log to arrive", || (sync.lsn("pg_last_wal_receive_lsn") >= end).then_some(()));
    assert_eq!(ids(&sync), ["1"]);
    primary.kill_all();
    sync.reload("synchronous_standby_names = 'other'");
    sync.query("SELECT pg_promote()");
    let mut client = sync.client();
    assert_eq!(client.parameters["in_hot_standby"], "off");
    assert_eq!(client.parameters["default_transaction_read_only"], "on");
    assert_eq!(ids(&sync), ["1", "2"]);
    assert_eq!(client.error("INSERT INTO t VALUES (3)").sqlstate, "25006");
    let mut other = Node::clone_of(&scenario, "other", &sync);
    other.start();
    wait_state(&sync, "other", "sync");
    assert_eq!(client.tag("INSERT INTO t VALUES (3)"), "INSERT 0 1");
    wait_ids(&other, &["1", "2", "3"]);
    other.stop();
    sync.stop();
}
