//! With synchronous_standby_names a commit waits until the standbys have it, and the client is told what PostgreSQL tells it:
//! by all levels of synchronous_commit, when it gives up, and when there is nobody to wait for any more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

const NAMES: &str = "synchronous_standby_names = 'standby'\n";

/// A pair with the table t, whose standby is synchronous.
fn pair(scenario: &Scenario) -> Cluster {
    let cluster = Cluster::start(scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.primary.reload(NAMES);
    wait_sync(&cluster.primary);
    cluster
}

fn wait_sync(primary: &Node) {
    wait::until("a synchronous standby", || {
        let rows =
            primary.rows("SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')");
        (rows[0][0] != "0").then_some(())
    });
}

fn pid_of(client: &mut Client) -> Pid {
    Pid(client.value("SELECT pg_backend_pid()").parse().unwrap())
}

/// Waits until so many sessions wait for standbys, as pg_stat_activity shows it.
fn wait_waiting(primary: &Node, sessions: usize) {
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'IPC' AND wait_event = 'SyncRep'";
    wait::until("sessions that wait for SyncRep", || {
        (primary.value(sql) == sessions.to_string()).then_some(())
    });
}

fn count(node: &Node) -> String {
    node.value("SELECT count(*) FROM t")
}

#[test]
fn commit_waits_for_the_standby_and_is_seen_by_nobody_until_then() {
    let scenario = Scenario::new("sync-commit");
    let mut cluster = pair(&scenario);
    let mut writer = cluster.primary.client();
    assert_eq!(writer.tag("INSERT INTO t VALUES (1)"), "INSERT 0 1");
    assert_eq!(writer.value("SELECT count(*) FROM t"), "1");
    cluster.standby.stop();

    writer.send_query("INSERT INTO t VALUES (2)").unwrap();
    wait_waiting(&cluster.primary, 1);
    let mut block = cluster.primary.client();
    block.query("BEGIN").unwrap();
    block.query("INSERT INTO t VALUES (3)").unwrap();
    block.send_query("COMMIT").unwrap();
    let mut message = cluster.primary.client();
    message.send_query("SELECT pg_logical_emit_message(true, 'p', 'content')").unwrap();
    wait_waiting(&cluster.primary, 3);
    assert_eq!(count(&cluster.primary), "1");
    // A message that belongs to no transaction is nobody's commit.
    cluster.primary.query("SELECT pg_logical_emit_message(false, 'p', 'content')");

    cluster.standby.start();
    assert_eq!(writer.read_answer().unwrap().tags, ["INSERT 0 1"]);
    assert_eq!(block.read_answer().unwrap().tags, ["COMMIT"]);
    assert_eq!(message.read_answer().unwrap().tags, ["SELECT 1"]);
    assert_eq!(count(&cluster.primary), "3");
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn cancelled_wait_warns_commits_and_shows_nothing_before_the_standby_has_it() {
    let scenario = Scenario::new("sync-cancel");
    let mut cluster = pair(&scenario);
    let mut listener = cluster.primary.client();
    listener.query("LISTEN c").unwrap();
    cluster.standby.stop();
    let mut writer = cluster.primary.client();
    let cancels = ["INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 2 WHERE pg_notify('c', 'two') = ''"];
    for (number, sql) in (1..).zip(cancels) {
        writer.send_query(sql).unwrap();
        wait_waiting(&cluster.primary, 1);
        writer.cancel().unwrap();
        let answer = writer.read_answer().unwrap();
        assert_eq!((answer.tags, answer.error), (vec!["INSERT 0 1".to_owned()], None));
        let [warning] = answer.notices.as_slice() else { panic!("{:?}", answer.notices) };
        assert_eq!((warning.severity.as_str(), warning.sqlstate.as_str()), ("WARNING", "01000"));
        assert_eq!(warning.message, "canceling wait for synchronous replication due to user request");
        assert_eq!(
            warning.detail,
            "The transaction has already committed locally, but might not have been replicated to the standby."
        );
        // The same session reads tables and views at once, and doesn't see what is not replicated.
        assert_eq!(writer.value("SELECT count(*) FROM t"), "0", "after {number}");
        assert_eq!(writer.value("SELECT count(*) FROM pg_stat_replication"), "0");
        assert_eq!(count(&cluster.primary), "0");
    }
    listener.query("SELECT 1").unwrap();
    assert!(listener.notifications.is_empty(), "{:?}", listener.notifications);

    // A statement that would tell of the rows waits as well, and gives up like any other.
    let mut other = cluster.primary.client();
    for sql in ["INSERT INTO t VALUES (1)", "UPDATE t SET id = 7 WHERE id = 9"] {
        other.query("SET statement_timeout = '300ms'").unwrap();
        assert_eq!(other.error(sql).sqlstate, "57014", "{sql}");
    }

    cluster.standby.start();
    assert_eq!(listener.notified(), ("c".to_owned(), "two".to_owned()));
    // Who notifies itself hears it with the answer, as ever.
    listener.query("INSERT INTO t SELECT 3 WHERE pg_notify('c', 'three') = ''").unwrap();
    assert_eq!(listener.notifications.pop_front().unwrap().payload, "three");
    assert_eq!(other.error("INSERT INTO t VALUES (1)").sqlstate, "23505");
    assert_eq!(count(&cluster.primary), "3");
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn terminated_wait_warns_and_tells_no_outcome() {
    let scenario = Scenario::new("sync-terminate");
    let mut cluster = pair(&scenario);
    cluster.standby.stop();
    let mut writer = cluster.primary.client();
    let pid = pid_of(&mut writer);
    writer.send_query("INSERT INTO t VALUES (1)").unwrap();
    wait_waiting(&cluster.primary, 1);
    process::kill(pid, Signal::Term).unwrap();
    let message = writer.read_message().unwrap();
    assert_eq!(message.tag, b'N', "{message:?}");
    let warning = integration_tests::client::parse_error(&message.body);
    assert_eq!((warning.severity.as_str(), warning.sqlstate.as_str()), ("WARNING", "57P01"));
    assert_eq!(
        warning.message,
        "canceling the wait for synchronous replication and terminating connection due to administrator command"
    );
    assert_eq!(writer.read_to_end().unwrap(), b"");
    assert_eq!(count(&cluster.primary), "0");
    cluster.standby.start();
    wait::until("the row to be there", || (count(&cluster.primary) == "1").then_some(()));
    cluster.stop();
}

#[test]
fn every_level_waits_and_those_below_on_say_so_once() {
    let scenario = Scenario::new("sync-levels");
    let mut cluster = pair(&scenario);
    cluster.standby.stop();
    for (number, level) in (1..).zip(["off", "local", "remote_write", "on", "remote_apply"]) {
        let mut writer = cluster.primary.client();
        writer.query(&format!("SET synchronous_commit = {level}")).unwrap();
        writer.send_query(&format!("INSERT INTO t VALUES ({number})")).unwrap();
        wait_waiting(&cluster.primary, 1);
        writer.cancel().unwrap();
        let answer = writer.read_answer().unwrap();
        let notice =
            format!("synchronous_commit = {level} waits as on does while synchronous_standby_names is set");
        let expected = usize::from(number <= 3);
        assert_eq!(answer.notices.iter().filter(|one| one.message == notice).count(), expected, "{level}");
        // Only a message may be left to the walwriter.
        if level == "off" {
            writer.query("SELECT pg_logical_emit_message(true, 'p', 'content')").unwrap();
        }
        writer.send_query(&format!("INSERT INTO t VALUES (1{number})")).unwrap();
        wait_waiting(&cluster.primary, 1);
        writer.cancel().unwrap();
        assert!(writer.read_answer().unwrap().notices.iter().all(|one| one.message != notice), "{level}");
    }
    cluster.standby.start();
    wait::until("all rows", || (count(&cluster.primary) == "10").then_some(()));
    cluster.stop();
}

#[test]
fn emptied_names_release_all_waiters_although_nobody_is_connected() {
    let scenario = Scenario::new("sync-emptied");
    let mut cluster = pair(&scenario);
    cluster.standby.stop();
    let mut writers: Vec<Client> = (0..5).map(|_| cluster.primary.client()).collect();
    for (number, writer) in writers.iter_mut().enumerate() {
        let level = ["on", "remote_apply"][number % 2];
        writer.query(&format!("SET synchronous_commit = {level}")).unwrap();
        writer.send_query(&format!("INSERT INTO t VALUES ({number})")).unwrap();
    }
    let mut message = cluster.primary.client();
    message.send_query("SELECT pg_logical_emit_message(true, 'p', 'content')").unwrap();
    wait_waiting(&cluster.primary, 6);
    cluster.primary.reload("synchronous_standby_names = ''");
    for client in writers.iter_mut().chain([&mut message]) {
        assert!(client.read_answer().unwrap().error.is_none());
    }
    assert_eq!(count(&cluster.primary), "5");
    cluster.standby.start();
    cluster.wait_streaming();
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn other_names_by_reload_release_those_whom_they_are_enough_for() {
    let scenario = Scenario::new("sync-reload");
    let mut cluster = pair(&scenario);
    cluster.primary.reload("synchronous_standby_names = 'FIRST 1 (other, another)'");
    let mut writer = cluster.primary.client();
    writer.send_query("INSERT INTO t VALUES (1)").unwrap();
    wait_waiting(&cluster.primary, 1);
    cluster.primary.reload("synchronous_standby_names = 'FIRST 2 (standby, other)'");
    wait::watch_for(Duration::from_millis(200));
    wait_waiting(&cluster.primary, 1);
    cluster.primary.reload("synchronous_standby_names = 'ANY 1 (standby, other)'");
    assert_eq!(writer.read_answer().unwrap().tags, ["INSERT 0 1"]);
    assert_eq!(count(&cluster.primary), "1");

    let before = cluster.primary.value("SHOW synchronous_standby_names");
    cluster.primary.configure("synchronous_standby_names = 'ANY 1 (standby'");
    let output = cluster.primary.spawn_reload("60").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("invalid value for parameter \"synchronous_standby_names\""), "{said}");
    assert!(said.contains("syntax error at end of input"), "{said}");
    assert_eq!(cluster.primary.value("SHOW synchronous_standby_names"), before);
    cluster.stop();
}

#[test]
fn remote_apply_waits_for_the_standbys_readers_also_without_status_interval() {
    let scenario = Scenario::new("sync-apply");
    let mut cluster = pair(&scenario);
    // As PostgreSQL's test 059: nothing but the record itself has the standby report.
    cluster.standby.reload("wal_receiver_status_interval = 0");
    let mut writer = cluster.primary.client();
    let mut reader = cluster.standby.client();
    writer.query("SET synchronous_commit = remote_apply").unwrap();
    for number in 0..50 {
        writer.query(&format!("INSERT INTO t VALUES ({number})")).unwrap();
        assert_eq!(reader.value("SELECT max(id) FROM t"), number.to_string());
    }
    writer.query("SELECT pg_logical_emit_message(true, 'p', 'content')").unwrap();

    reader.query("SELECT pg_wal_replay_pause()").unwrap();
    wait::until("replay to be paused", || {
        (reader.value("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(())
    });
    let mut on = cluster.primary.client();
    assert_eq!(on.tag("INSERT INTO t VALUES (50)"), "INSERT 0 1");
    writer.send_query("INSERT INTO t VALUES (51)").unwrap();
    wait_waiting(&cluster.primary, 1);
    assert_eq!(reader.value("SELECT max(id) FROM t"), "49");
    // The quorum has it durable, so here it is seen.
    assert_eq!(count(&cluster.primary), "52");
    reader.query("SELECT pg_wal_replay_resume()").unwrap();
    assert_eq!(writer.read_answer().unwrap().tags, ["INSERT 0 1"]);
    assert_eq!(reader.value("SELECT max(id) FROM t"), "51");
    cluster.stop();
}

#[test]
fn log_names_the_standbys_that_commits_wait_for() {
    let scenario = Scenario::new("sync-warning");
    let mut cluster = pair(&scenario);
    let names = "synchronous_standby_names = 'FIRST 2 (standby, other)'\nsync_wait_warning = '200ms'";
    cluster.primary.reload(names);
    let mut writers: Vec<Client> = (0..3).map(|_| cluster.primary.client()).collect();
    for (number, writer) in writers.iter_mut().enumerate() {
        writer.send_query(&format!("INSERT INTO t VALUES ({number})")).unwrap();
    }
    let line = cluster.primary.wait_log("commits have been waiting for synchronous replication");
    assert!(line.contains("WARNING") && line.ends_with(": \"other\" is not connected"), "{line}");
    cluster.primary.wait_log("the first 2 of synchronous_standby_names 'FIRST 2 (standby, other)'");
    wait::watch_for(Duration::from_millis(500));
    assert_eq!(cluster.primary.log().matches("commits have been waiting").count(), 1, "once for all of them");
    cluster.primary.reload(NAMES);
    writers.iter_mut().for_each(|writer| assert!(writer.read_answer().unwrap().error.is_none()));
    cluster.primary.wait_log("standby \"standby\" is now a synchronous standby with priority 1");
    cluster.stop();
}
