//! Standbys, cascades and pg_receivewal follow the log over a switch to another timeline, the walreceiver in the same process
//! and over the same connection; nodes that can't follow say why.
//!
//! Method: a primary, standbys of it and of each other; the primary is killed or stopped and a standby promoted. The ideas
//! are those of PostgreSQL's recovery tests 001_stream_rep, 004_timeline_switch, 025_stuck_on_old_timeline and
//! 055_cascade_reconnect, and of pg_basebackup's 020_pg_receivewal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;

use integration_tests::commands;
use integration_tests::digest;
use integration_tests::node::Node;
use integration_tests::programs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::Pid;

const SEGMENTS: [&str; 2] = ["--wal-segsize", "1MB"];

fn primary(scenario: &Scenario) -> Node {
    let mut primary = Node::init(scenario, "primary", &SEGMENTS);
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    primary
}

fn standby_of(scenario: &Scenario, name: &str, upstream: &Node) -> Node {
    let mut standby = Node::clone_of(scenario, name, upstream);
    standby.start();
    standby
}

fn insert(node: &Node, id: u32) {
    node.query(&format!("INSERT INTO t VALUES ({id}, '{}')", "f".repeat(3000)));
}

fn walreceiver(node: &Node) -> Pid {
    node.process("walreceiver")
}

/// Waits until `node` is level with `upstream`, which takes writes, and has the same rows.
fn assert_follows(node: &Node, upstream: &Node) {
    node.wait_level_with(upstream);
    let digest = |node: &Node| digest::of_table(&mut node.client(), "t");
    assert_eq!(digest(node), digest(upstream));
}

#[test]
fn cascade_follows_the_promoted_standby_in_the_same_process() {
    let scenario = Scenario::new("switch-cascade");
    let mut primary = primary(&scenario);
    let middle = standby_of(&scenario, "middle", &primary);
    let mut last = standby_of(&scenario, "last", &middle);
    insert(&primary, 1);
    assert_follows(&last, &primary);
    assert_eq!(last.error("INSERT INTO t VALUES (9, '')").sqlstate, "25006");
    primary.kill_all();

    let receiver = walreceiver(&last);
    middle.promote();
    insert(&middle, 2);
    assert_follows(&last, &middle);
    assert_eq!(walreceiver(&last), receiver);
    let shown =
        last.rows("SELECT status, receive_start_tli, received_tli, conninfo FROM pg_stat_wal_receiver");
    assert_eq!(shown[0][..3], ["streaming", "2", "2"]);
    assert!(shown[0][3].contains("host=127.0.0.1"), "{shown:?}");
    for line in [
        "replication terminated by primary server",
        "fetching timeline history file for timeline 2 from primary server",
        "new target timeline is 2",
        "restarted WAL streaming at",
    ] {
        last.wait_log(line);
    }
    let history = |node: &Node| fs::read(node.dir().join("pg_wal/00000002.history")).unwrap();
    assert_eq!(history(&middle), history(&last));

    // Over restarts of either kind, and over segments.
    last.restart();
    (3..400).for_each(|id| insert(&middle, id));
    assert_follows(&last, &middle);
    last.kill_all();
    last.start();
    insert(&middle, 400);
    assert_follows(&last, &middle);

    // A second switch, of the cascade itself, and a new standby from the very beginning of the log.
    let new = standby_of(&scenario, "new", &last);
    assert_follows(&new, &middle);
    last.promote();
    insert(&last, 401);
    assert_follows(&new, &last);
    assert_eq!(new.value("SELECT received_tli FROM pg_stat_wal_receiver"), "3");
}

#[test]
fn sibling_follows_the_promoted_standby_when_it_is_pointed_there() {
    let scenario = Scenario::new("switch-sibling");
    let mut primary = primary(&scenario);
    let first = standby_of(&scenario, "first", &primary);
    let mut second = standby_of(&scenario, "second", &primary);
    insert(&primary, 1);
    assert_follows(&first, &primary);
    assert_follows(&second, &primary);
    primary.stop();
    first.promote();
    insert(&first, 2);
    second.reload(&format!("primary_conninfo = '{}'", first.conninfo("second")));
    assert_follows(&second, &first);
    second.kill_all();
    second.start();
    insert(&first, 3);
    assert_follows(&second, &first);
}

#[test]
fn standby_that_lacks_the_end_of_the_old_timeline_gets_it_from_the_promoted_one() {
    let scenario = Scenario::new("switch-behind");
    let mut primary = primary(&scenario);
    let first = standby_of(&scenario, "first", &primary);
    let mut behind = standby_of(&scenario, "behind", &primary);
    insert(&primary, 1);
    assert_follows(&behind, &primary);
    behind.stop();
    (2..700).for_each(|id| insert(&primary, id));
    assert_follows(&first, &primary);
    primary.kill_all();
    first.promote();
    insert(&first, 1000);
    behind.configure(&format!("primary_conninfo = '{}'", first.conninfo("behind")));
    behind.start();
    assert_follows(&behind, &first);
    let log = behind.log();
    assert!(log.contains("on timeline 1") && log.contains("on timeline 2"), "{}", behind.log_tail());
}

#[test]
fn nodes_promoted_at_one_position_are_told_apart() {
    let scenario = Scenario::new("switch-twins");
    let mut primary = primary(&scenario);
    let first = standby_of(&scenario, "first", &primary);
    let second = standby_of(&scenario, "second", &primary);
    let third = standby_of(&scenario, "third", &second);
    insert(&primary, 1);
    assert_follows(&first, &primary);
    assert_follows(&third, &primary);
    primary.stop();
    first.promote();
    second.promote();
    let switch = |node: &Node| {
        let history = fs::read_to_string(node.dir().join("pg_wal/00000002.history")).unwrap();
        history.split('\t').nth(1).unwrap().to_owned()
    };
    assert_eq!(switch(&first), switch(&second));
    insert(&second, 2);
    assert_follows(&third, &second);
    // It is on timeline 2, and so is the first node; but not on the same.
    third.reload(&format!("primary_conninfo = '{}'", first.conninfo("third")));
    third.wait_log("FATAL:  timeline 2 of the primary is not the timeline 2 of this standby");
    assert_eq!(third.value("SELECT count(*) FROM t"), "2");
    third.reload(&format!("primary_conninfo = '{}'", second.conninfo("third")));
    insert(&second, 3);
    assert_follows(&third, &second);
}

#[test]
fn standby_that_is_ahead_of_the_promoted_one_says_so_and_waits() {
    let scenario = Scenario::new("switch-ahead");
    let mut primary = primary(&scenario);
    let mut first = standby_of(&scenario, "first", &primary);
    let ahead = standby_of(&scenario, "ahead", &primary);
    insert(&primary, 1);
    assert_follows(&first, &primary);
    first.stop();
    insert(&primary, 2);
    assert_follows(&ahead, &primary);
    primary.kill_all();
    first.start();
    first.promote();
    insert(&first, 3);
    ahead.reload(&format!("primary_conninfo = '{}'", first.conninfo("ahead")));
    ahead.wait_log("forked off current database system timeline 1 before current recovery point");
    assert_eq!(ahead.rows("SELECT id FROM t ORDER BY id"), [["1"], ["2"]]);
}

#[test]
fn cascade_finds_the_new_timeline_by_a_history_that_the_archive_alone_has() {
    let scenario = Scenario::new("switch-archive");
    let archive = scenario.path("archive");
    fs::create_dir(&archive).unwrap();
    let mut primary = primary(&scenario);
    let mut middle = Node::clone_of(&scenario, "middle", &primary);
    // Histories are kept, segments are not: who looks for them there finds the timeline alone.
    middle.set("archive_mode=always");
    middle.set("archive_command=case %f in *.history) cp %p ../archive/%f;; esac");
    middle.start();
    let mut last = Node::clone_of(&scenario, "last", &middle);
    last.set("restore_command=cp ../archive/%f %p");
    last.start();
    insert(&primary, 1);
    assert_follows(&last, &primary);
    last.stop();
    primary.kill_all();
    middle.promote();
    insert(&middle, 2);
    wait::until("the history to be archived", || archive.join("00000002.history").exists().then_some(()));
    last.start();
    assert_follows(&last, &middle);
    last.wait_log("restored log file \"00000002.history\" from archive");
}

#[test]
fn standby_follows_over_a_switch_from_the_archive_alone() {
    let scenario = Scenario::new("switch-archive-alone");
    let archive = scenario.path("archive");
    fs::create_dir(&archive).unwrap();
    let archiving =
        ["archive_mode=on", "archive_command=cp %p ../archive/.%f && mv ../archive/.%f ../archive/%f"];
    let mut primary = Node::init(&scenario, "primary", &SEGMENTS);
    archiving.iter().for_each(|setting| primary.set(setting));
    primary.start();
    primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    let mut first = Node::clone_of(&scenario, "first", &primary);
    archiving.iter().for_each(|setting| first.set(setting));
    first.start();
    let mut reader = Node::clone_of(&scenario, "reader", &primary);
    reader.set("restore_command=cp ../archive/%f %p");
    reader.set("primary_conninfo=");
    reader.start();
    (1..500).for_each(|id| insert(&primary, id));
    assert_follows(&first, &primary);
    primary.kill_all();
    first.promote();
    insert(&first, 500);
    let name = first.value("SELECT pg_walfile_name(pg_switch_wal())");
    wait::until("the segment to be archived", || archive.join(&name).exists().then_some(()));
    wait::until("the row to be restored", || (reader.value("SELECT count(*) FROM t") == "500").then_some(()));
    // What the old timeline left of its last segment is there too, under a name that nobody takes for a segment.
    let partial = format!("{}.partial", name.replacen("00000002", "00000001", 1));
    wait::until("the rest to be archived", || archive.join(&partial).exists().then_some(()));
    assert!(!archive.join(partial.trim_end_matches(".partial")).exists());
}

#[test]
fn pg_receivewal_follows_over_a_promotion() {
    let scenario = Scenario::new("switch-receivewal");
    let primary = primary(&scenario);
    let standby = standby_of(&scenario, "standby", &primary);
    insert(&primary, 1);
    assert_follows(&standby, &primary);
    let dir = scenario.path("received");
    fs::create_dir(&dir).unwrap();
    let mut command = commands::postgres_command("pg_receivewal", &standby);
    command.arg("-D").arg(&dir).args(["-n", "-v", "-s", "1"]);
    let child = command.spawn().unwrap();
    let partial = dir.join("000000010000000000000001.partial");
    wait::until("pg_receivewal to stream", || partial.exists().then_some(()));
    standby.promote();
    insert(&standby, 2);
    let name = standby.value("SELECT pg_walfile_name(pg_switch_wal())");
    insert(&standby, 3);
    wait::until("the segment of the new timeline", || dir.join(&name).exists().then_some(()));
    sys::process::kill(Pid(i32::try_from(child.id()).unwrap()), sys::signal::Signal::Int).unwrap();
    let said = commands::finish(child).assert_success("pg_receivewal");
    assert!(said.err.contains("switched to timeline 2"), "{}", said.err);
    let ours = |file: &str| fs::read(standby.dir().join("pg_wal").join(file)).unwrap();
    for file in [&name, "00000002.history"] {
        assert!(fs::read(dir.join(file)).unwrap() == ours(file), "{file} differs");
    }
}

#[test]
fn clients_of_several_hosts_find_the_one_that_takes_writes() {
    let scenario = Scenario::new("switch-hosts");
    let mut primary = primary(&scenario);
    let standby = standby_of(&scenario, "standby", &primary);
    insert(&primary, 1);
    assert_follows(&standby, &primary);
    let ports = [primary.port(), standby.port()];
    let ask = |wanted: &str| {
        let mut command = Command::new(programs::postgres("psql"));
        command.args(["-X", "-A", "-t", "-c", "\\echo :PORT"]);
        command.arg(format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres target_session_attrs={wanted}",
            ports[1], ports[0]
        ));
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
    };
    for (wanted, port) in [
        ("read-write", ports[0]),
        ("primary", ports[0]),
        ("any", ports[1]),
        ("standby", ports[1]),
        ("read-only", ports[1]),
        ("prefer-standby", ports[1]),
    ] {
        assert_eq!(ask(wanted), port, "{wanted}");
    }
    primary.kill_all();
    standby.promote();
    for wanted in ["read-write", "primary", "any", "prefer-standby"] {
        assert_eq!(ask(wanted), ports[1], "{wanted}");
    }
    assert_eq!(ask("standby"), 0);
}

#[test]
fn what_a_node_says_of_timelines_is_in_postgresqls_words() {
    let scenario = Scenario::new("switch-words");
    let primary = primary(&scenario);
    let standby = standby_of(&scenario, "standby", &primary);
    insert(&primary, 1);
    assert_follows(&standby, &primary);
    let missing = commands::psql_replication(&standby, "TIMELINE_HISTORY 2");
    assert!(
        missing.err.contains("could not open file \"pg_wal/00000002.history\": No such file or directory")
    );
    standby.promote();
    insert(&standby, 2);
    let history = fs::read_to_string(standby.dir().join("pg_wal/00000002.history")).unwrap();
    let switch = history.split('\t').nth(1).unwrap();
    let said = commands::psql_replication(&standby, "TIMELINE_HISTORY 2").out;
    assert_eq!(said.trim_end(), format!("00000002.history|{}", history.trim_end()));
    let system = commands::psql_replication(&standby, "IDENTIFY_SYSTEM").out;
    assert_eq!(system.split('|').nth(1), Some("2"), "{system}");
    let start = |at: &str| commands::psql_replication(&standby, &format!("START_REPLICATION {at}"));
    let beyond = standby.value("SELECT pg_current_wal_lsn()");
    for (at, error) in [
        (format!("{beyond} TIMELINE 3"), "requested timeline 3 is not in this server's history".to_owned()),
        (
            format!("{beyond} TIMELINE 1"),
            format!("requested starting point {beyond} on timeline 1 is not in this server's history"),
        ),
    ] {
        let said = start(&at);
        assert!(said.err.contains(&error), "{at}: {}", said.err);
    }
    // At the switch point nothing is left to be streamed: what follows is said at once.
    assert_eq!(
        start(&format!("{switch} TIMELINE 1")).out.lines().next(),
        Some(format!("2|{switch}").as_str())
    );
    // The old primary knows one timeline only.
    let said = commands::psql_replication(&primary, &format!("START_REPLICATION {switch} TIMELINE 2"));
    assert!(said.err.contains("requested timeline 2 is not in this server's history"), "{}", said.err);
}
