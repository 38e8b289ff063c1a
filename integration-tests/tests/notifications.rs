//! LISTEN, NOTIFY and UNLISTEN between the sessions of a node, as PostgreSQL's users know them.
//!
//! Method: psql and the harness' client against real nodes. What is not delivered is shown by what is: a later
//! notification comes first.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::{Client, Notification};
use integration_tests::cluster::Cluster;
use integration_tests::commands::psql;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

fn primary(scenario: &Scenario, settings: &[&str]) -> Node {
    let mut node = Node::init(scenario, "primary", &[]);
    settings.iter().for_each(|setting| node.set(setting));
    node.start();
    node
}

fn pair(channel: &str, payload: &str) -> (String, String) {
    (channel.to_owned(), payload.to_owned())
}

fn listener(node: &Node, channels: &[&str]) -> Client {
    let mut client = node.client();
    for channel in channels {
        assert_eq!(client.tag(&format!("LISTEN {channel}")), "LISTEN");
    }
    client
}

/// Both come as one transaction's last words to whom it concerns.
fn answer_tags(client: &mut Client, sql: &str) -> Vec<String> {
    client.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).tags
}

#[test]
fn psql_shows_its_own_notifications() {
    let scenario = Scenario::new("notify-psql");
    let mut node = primary(&scenario, &[]);
    let said = psql(&node, "LISTEN \"My Channel\"; NOTIFY \"My Channel\", 'it''s'; SELECT 1 AS one");
    let said = said.assert_success("psql");
    let notified = "Asynchronous notification \"My Channel\" with payload \"it's\" received from server process with PID ";
    assert!(said.out.contains(notified), "{}", said.out);
    assert!(said.out.starts_with("LISTEN\nNOTIFY\n one \n"), "{}", said.out);
    for (sql, error) in [
        ("NOTIFY foo, 3", "ERROR:  42601: syntax error at or near \"3\""),
        ("LISTEN *", "ERROR:  42601: syntax error at or near \"*\""),
        ("SELECT pg_notify('', 'x')", "ERROR:  22023: channel name cannot be empty"),
        ("SELECT pg_notify(NULL, 'x')", "ERROR:  22023: channel name cannot be empty"),
        (
            "SELECT pg_notify(replace(hex(zeroblob(32)), '0', 'c'), 'x')",
            "ERROR:  22023: channel name too long",
        ),
        ("SELECT pg_notify('x', hex(zeroblob(4000)))", "ERROR:  22023: payload string too long"),
        ("BEGIN; DISCARD ALL", "ERROR:  25001: DISCARD ALL cannot run inside a transaction block"),
    ] {
        let said = psql(&node, sql);
        assert!(said.err.starts_with(error), "{sql}: {}{}", said.out, said.err);
    }
    let long = "c".repeat(70);
    let said = psql(&node, &format!("LISTEN {long}; NOTIFY {long}"));
    let notice = format!("NOTICE:  42622: identifier \"{long}\" will be truncated to \"{}\"", "c".repeat(63));
    assert!(said.err.starts_with(&notice), "{}", said.err);
    assert!(said.out.contains(&format!("notification \"{}\" received", "c".repeat(63))), "{}", said.out);
    node.stop();
}

#[test]
fn an_idle_session_is_told_at_once_and_a_busy_one_before_it_is_ready() {
    let scenario = Scenario::new("notify-idle-busy");
    let mut node = primary(&scenario, &[]);
    let mut idle = listener(&node, &["x"]);
    let mut busy = listener(&node, &["x"]);
    let mut other = listener(&node, &["y"]);
    let mut sender = node.client();
    busy.send_query("SELECT pg_sleep(600)").unwrap();
    wait::until("the statement to run", || {
        let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {}", busy.backend_pid);
        (node.value(&sql) == "PgSleep").then_some(())
    });
    assert_eq!(sender.tag("NOTIFY X, 'hello'"), "NOTIFY");
    let expected =
        Notification { pid: sender.backend_pid, channel: "x".to_owned(), payload: "hello".to_owned() };
    assert_eq!(idle.notification().unwrap(), expected);
    assert_eq!(sender.value(&format!("SELECT pg_cancel_backend({})", busy.backend_pid)), "t");
    assert_eq!(busy.read_answer().unwrap().error.unwrap().sqlstate, "57014");
    assert_eq!(busy.notifications, [expected], "between the error and ReadyForQuery");
    // A session that listens to something else was woken for nothing, and told nothing.
    sender.query("SELECT pg_notify('y', 'for you')").unwrap();
    assert_eq!(other.notified(), pair("y", "for you"));
    node.stop();
}

#[test]
fn notifications_go_with_their_transaction() {
    let scenario = Scenario::new("notify-transactions");
    let mut node = primary(&scenario, &[]);
    let mut listening = listener(&node, &["x"]);
    let mut sender = node.client();
    for sql in [
        "BEGIN; NOTIFY x, 'rolled back'; ROLLBACK",
        "NOTIFY x, 'rolled back too'; ROLLBACK",
        "BEGIN; NOTIFY x, '1'; NOTIFY x, '2'; SELECT pg_notify('x', '1'); SAVEPOINT s; NOTIFY x, 'undone'; NOTIFY x, '3'",
        "ROLLBACK TO s; NOTIFY x, '3'; NOTIFY x",
        "COMMIT AND CHAIN",
        "NOTIFY x, '4'; COMMIT",
        "BEGIN READ ONLY; NOTIFY x, '5'; COMMIT; NOTIFY x, '6'",
    ] {
        answer_tags(&mut sender, sql);
    }
    assert_eq!(sender.error("NOTIFY x, 'failed'; SELECT nonsense").sqlstate, "42703");
    sender.query("BEGIN").unwrap();
    sender.query("NOTIFY x, 'failed'").unwrap();
    sender.error("SELECT nonsense");
    assert_eq!(sender.error("NOTIFY x, 'refused'").sqlstate, "25P02");
    assert_eq!(sender.tag("COMMIT"), "ROLLBACK");
    sender.query("NOTIFY x, 'end'").unwrap();
    for payload in ["1", "2", "3", "", "4", "5", "6", "end"] {
        assert_eq!(listening.notified(), pair("x", payload));
    }
    node.stop();
}

#[test]
fn listen_and_unlisten_count_from_the_commit_on() {
    let scenario = Scenario::new("listen-transactions");
    let mut node = primary(&scenario, &[]);
    let mut client = node.client();
    let mut sender = node.client();
    let channels = |client: &mut Client| -> Vec<String> {
        client.rows("SELECT pg_listening_channels()").into_iter().flatten().collect()
    };
    client.query("BEGIN; LISTEN a; LISTEN b").unwrap();
    assert!(channels(&mut client).is_empty());
    sender.query("NOTIFY a, 'too early'").unwrap();
    assert_eq!(answer_tags(&mut client, "NOTIFY a, 'own'; COMMIT"), ["NOTIFY", "COMMIT"]);
    assert_eq!(client.notifications.pop_front().map(|one| one.payload).as_deref(), Some("own"));
    assert_eq!(channels(&mut client), ["a", "b"]);
    assert_eq!(client.rows("SELECT * FROM pg_listening_channels() ORDER BY 1 DESC"), [["b"], ["a"]]);
    // Inside of a block nothing is told; afterwards all of it.
    client.query("BEGIN").unwrap();
    sender.query("NOTIFY a, '1'").unwrap();
    sender.query("NOTIFY b, '2'").unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(client.notifications.is_empty());
    client.query("UNLISTEN a; ROLLBACK").unwrap();
    assert_eq!(client.notified(), pair("a", "1"));
    assert_eq!(client.notified(), pair("b", "2"));
    client.query("UNLISTEN a").unwrap();
    sender.query("NOTIFY a, 'unheard'; NOTIFY b, '3'").unwrap();
    assert_eq!(client.notified(), pair("b", "3"));
    client.query("DEALLOCATE ALL").unwrap();
    assert_eq!(channels(&mut client), ["b"]);
    assert_eq!(client.tag("DISCARD ALL"), "DISCARD ALL");
    assert!(channels(&mut client).is_empty());
    client.query("LISTEN a; LISTEN c; UNLISTEN *; LISTEN d").unwrap();
    assert_eq!(channels(&mut client), ["d"]);
    let error = client.error("SELECT pg_listening_channels() || 'x'");
    assert_eq!(error.message, "set-valued function called in context that cannot accept a set");
    node.stop();
}

#[test]
fn who_is_notified_of_a_write_sees_it() {
    let scenario = Scenario::new("notify-writes");
    let mut node = primary(&scenario, &[]);
    node.query("CREATE TABLE t(n integer PRIMARY KEY)");
    node.query("CREATE TABLE log(n integer)");
    node.query("CREATE TRIGGER told AFTER INSERT ON log BEGIN SELECT pg_notify('log', NEW.n); END");
    let mut listening = listener(&node, &["t", "log"]);
    let mut sender = node.client();
    for number in 0..200 {
        let sql = match number % 4 {
            0 => format!("INSERT INTO t VALUES ({number}); NOTIFY t, '{number}'"),
            1 => format!("BEGIN; INSERT INTO t VALUES ({number}); NOTIFY t, '{number}'; COMMIT"),
            2 => format!("NOTIFY t, '{number}'; INSERT INTO t VALUES ({number})"),
            _ => format!("INSERT INTO t SELECT {number} WHERE pg_notify('t', '{number}') IS NOT NULL"),
        };
        sender.query(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let told = listening.notification().unwrap();
        let expected =
            Notification { pid: sender.backend_pid, channel: "t".to_owned(), payload: number.to_string() };
        assert_eq!(told, expected);
        assert_eq!(listening.value(&format!("SELECT count(*) FROM t WHERE n = {number}")), "1");
    }
    // A write that fails notifies nobody, nor does its trigger; one that succeeds does.
    assert_eq!(
        sender.error("INSERT INTO log VALUES (1); NOTIFY t, 'x'; INSERT INTO t VALUES (0)").sqlstate,
        "23505"
    );
    sender.query("INSERT INTO log VALUES (2), (3), (2)").unwrap();
    assert_eq!(listening.notified(), pair("log", "2"));
    assert_eq!(listening.notified(), pair("log", "3"));
    // A write that changes nothing notifies too.
    sender.query("NOTIFY t, 'empty'; DELETE FROM t WHERE n < 0").unwrap();
    assert_eq!(listening.notified(), pair("t", "empty"));
    node.stop();
}

#[test]
fn a_listener_that_reads_nothing_fills_the_queue_and_is_named() {
    let scenario = Scenario::new("notify-full");
    let mut node = primary(&scenario, &["max_notify_queue_pages=64"]);
    node.query("CREATE TABLE t(n integer)");
    let mut stuck = listener(&node, &["x"]);
    let mut healthy = listener(&node, &["x"]);
    let mut sender = node.client();
    assert_eq!(sender.value("SELECT pg_notification_queue_usage()"), "0");
    stuck.query("BEGIN").unwrap();
    let payload = "x".repeat(7900);
    let mut sent = 0;
    let full = wait::until("the queue to be full", || {
        let answer = sender.answer(&format!("NOTIFY x, '{payload}{sent}'")).unwrap();
        if answer.error.is_none() {
            sent += 1;
            assert_eq!(healthy.notified().1, format!("{payload}{}", sent - 1));
        }
        answer.error
    });
    assert_eq!(full.sqlstate, "54000");
    assert_eq!(full.message, "too many notifications in the NOTIFY queue");
    assert_eq!(sent, 64 * 8192 / (12 + 1 + 7900 + 2_usize).next_multiple_of(8));
    let warning = node.wait_log("NOTIFY queue is 5");
    let detail = format!(
        "The server process with PID {} is among those with the oldest transactions.",
        stuck.backend_pid
    );
    assert!(node.log().contains(&detail), "{warning}\n{}", node.log_tail());
    // A write that notifies fails as a whole; others go on.
    let error = sender.error(&format!("INSERT INTO t VALUES (1); NOTIFY x, '{payload}'"));
    assert_eq!(error.message, full.message);
    sender.query("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(sender.rows("SELECT n FROM t"), [["2"]]);
    assert!(sender.value("SELECT pg_notification_queue_usage()").parse::<f64>().unwrap() > 0.9);
    // It gets everything once it can, and the queue is empty.
    stuck.query("COMMIT").unwrap();
    for number in 0..sent {
        assert_eq!(stuck.notified().1, format!("{payload}{number}"));
    }
    wait::until("the queue to be empty", || {
        (sender.value("SELECT pg_notification_queue_usage()") == "0").then_some(())
    });
    sender.query("NOTIFY x, 'again'").unwrap();
    assert_eq!((stuck.notified(), healthy.notified()), (pair("x", "again"), pair("x", "again")));
    node.stop();
}

#[test]
fn a_client_that_is_gone_or_takes_nothing_holds_up_nobody_for_ever() {
    let scenario = Scenario::new("notify-gone");
    let mut node = primary(&scenario, &["max_notify_queue_pages=64"]);
    let deaf = listener(&node, &["x"]);
    let mut healthy = listener(&node, &["x"]);
    let mut sender = node.client();
    let payload = "x".repeat(7000);
    // Socket buffers first, then the queue.
    wait::until("the queue to be full", || {
        let error = sender.answer(&format!("NOTIFY x, '{payload}'")).unwrap().error;
        if error.is_none() {
            healthy.notified();
        }
        error
    });
    let wait_event = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {}", deaf.backend_pid);
    assert_eq!(sender.value(&wait_event), "ClientWrite");
    drop(deaf);
    wait::until("room in the queue", || {
        sender.answer("NOTIFY x, 'after'").unwrap().error.is_none().then_some(())
    });
    assert_eq!(healthy.notified(), pair("x", "after"));
    node.stop();
}

#[test]
fn a_standby_refuses_to_listen() {
    let scenario = Scenario::new("notify-standby");
    let mut cluster = Cluster::start(&scenario);
    let mut client = cluster.standby.client();
    for (sql, command) in
        [("LISTEN x", "LISTEN"), ("NOTIFY x", "NOTIFY"), ("SELECT pg_notify('x', '')", "NOTIFY")]
    {
        let error = client.error(sql);
        assert_eq!(error.sqlstate, "25006", "{sql}");
        assert_eq!(error.message, format!("cannot execute {command} during recovery"), "{sql}");
    }
    assert_eq!(client.tag("UNLISTEN *"), "UNLISTEN");
    cluster.stop();
}
