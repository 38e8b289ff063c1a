//! Every setting that a reload can change is acted on by who uses it, without a restart and without delay.
//!
//! Method: one case per setting of context `sighup`, each on a pair of its own, so that a new setting without a case fails.
//! A case begins with a value under which what it watches for would take far longer than it waits, or not happen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::commands::psql_replication;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::clock;
use sys::process::{self, Pid};
use sys::signal::Signal;

/// What takes place because of the new value does so within this time; because of the old one, long after it.
const SOON: Duration = Duration::from_secs(20);

/// A setting's name, what both nodes are configured with at first, and what is done then.
type Case = (&'static str, &'static str, fn(&mut Cluster));

const CASES: &[Case] = &[
    ("archive_command", "archive_mode = 'on'\narchive_command = 'false'", archive_command),
    ("archive_timeout", "archive_mode = 'on'\narchive_command = 'true'", archive_timeout),
    (
        "archiver_shutdown_timeout",
        "archive_mode = 'on'\narchive_command = 'sleep 3600'\narchiver_shutdown_timeout = '1h'",
        archiver_shutdown_timeout,
    ),
    ("authentication_timeout", "", authentication_timeout),
    ("wal_writer_delay", "wal_writer_delay = '10s'\nwal_writer_flush_after = '1GB'", wal_writer_delay),
    (
        "wal_writer_flush_after",
        "wal_writer_delay = '10s'\nwal_writer_flush_after = '1GB'",
        wal_writer_flush_after,
    ),
    ("checkpoint_timeout", "checkpoint_timeout = '1d'", checkpoint_timeout),
    ("log_checkpoints", "log_checkpoints = false", log_checkpoints),
    (
        "max_slot_wal_keep_size",
        "checkpoint_timeout = '1d'\nwal_keep_size = 0\nmax_wal_size = '2MB'",
        max_slot_wal_keep_size,
    ),
    ("primary_slot_name", "", primary_slot_name),
    ("wal_receiver_create_temp_slot", "", wal_receiver_create_temp_slot),
    ("max_wal_size", "checkpoint_timeout = '1d'", max_wal_size),
    ("wal_keep_size", "checkpoint_timeout = '1d'\nwal_keep_size = -1", wal_keep_size),
    ("state_wal_limit", "state_wal_limit = '1GB'", state_wal_limit),
    ("primary_conninfo", "", primary_conninfo),
    ("restart_after_crash", "", restart_after_crash),
    ("restore_command", "archive_mode = 'on'", restore_command),
    ("wal_receiver_status_interval", "wal_receiver_status_interval = '1h'", wal_receiver_status_interval),
    ("wal_receiver_timeout", "wal_receiver_timeout = '1h'", wal_receiver_timeout),
    (
        "wal_retrieve_retry_interval",
        "wal_retrieve_retry_interval = '1h'\nlog_min_messages = 'debug1'",
        wal_retrieve_retry_interval,
    ),
    ("hot_standby_feedback", "", hot_standby_feedback),
    ("log_min_messages", "", log_min_messages),
    ("log_replication_commands", "", log_replication_commands),
    ("recovery_min_apply_delay", "recovery_min_apply_delay = '1h'", recovery_min_apply_delay),
    ("sync_wait_warning", "sync_wait_warning = '1h'", sync_wait_warning),
    ("synchronous_standby_names", "", synchronous_standby_names),
    ("write_statement_timeout", "write_statement_timeout = '10min'", write_statement_timeout),
];

#[test]
fn every_setting_that_a_reload_can_change_has_effect() {
    let scenario = Scenario::new("reload-settings");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    let names = node.rows("SELECT name FROM pg_settings WHERE context = 'sighup' ORDER BY name");
    node.stop();
    let mut tested: Vec<[&str; 1]> = CASES.iter().map(|(name, ..)| [*name]).collect();
    tested.sort_unstable();
    assert_eq!(names, tested, "a case for each, and no other");

    for (name, lines, case) in CASES {
        let scenario = Scenario::new(&format!("reload-{}", name.replace('_', "-")));
        let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
        // Nothing is given by flags that a case sets by the file.
        primary.settings.clear();
        primary.configure(lines);
        primary.start();
        let mut standby = Node::clone_of(&scenario, "standby", &primary);
        standby.settings.clear();
        standby.configure(lines);
        standby.start();
        let mut cluster = Cluster { primary, standby };
        cluster.wait_streaming();
        let began = clock::now();
        case(&mut cluster);
        let took = clock::now().saturating_since(began);
        cluster.stop();
        println!("{name}: {took:?}");
    }
}

/// Waits until `condition` holds, for no longer than the new value takes.
fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let held = wait::within(SOON, || condition().then_some(()));
    assert!(held.is_some(), "waited {SOON:?} in vain for {what}");
}

/// It has no effect: what can be seen is that it is set.
fn hot_standby_feedback(cluster: &mut Cluster) {
    cluster.standby.reload("hot_standby_feedback = 'on'");
    assert_eq!(cluster.standby.value("SHOW hot_standby_feedback"), "on");
}

fn archive_command(cluster: &mut Cluster) {
    let node = &cluster.primary;
    let failed = || node.value("SELECT failed_count FROM pg_stat_archiver");
    node.query("SELECT pg_switch_wal()");
    // After so many it waits a minute.
    wait::until("the archiver to give up for now", || (failed() == "3").then_some(()));
    let archived = node.dir().join("archived");
    node.reload(&format!("archive_mode = 'on'\narchive_command = 'cp %p {}'", archived.display()));
    soon("the segment to be archived", || archived.exists());
}

fn archive_timeout(cluster: &mut Cluster) {
    let node = &cluster.primary;
    let archived = || node.value("SELECT archived_count FROM pg_stat_archiver");
    let before = archived();
    node.query("CREATE TABLE t(x)");
    node.reload("archive_mode = 'on'\narchive_command = 'true'\narchive_timeout = '1s'");
    soon("the segment to be closed", || archived() != before);
}

fn archiver_shutdown_timeout(cluster: &mut Cluster) {
    let node = &mut cluster.primary;
    node.query("SELECT pg_switch_wal()");
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ArchiveCommand'";
    wait::until("the archive command to run", || (node.value(runs) == "1").then_some(()));
    node.reload("archive_mode = 'on'\narchive_command = 'sleep 3600'\narchiver_shutdown_timeout = '500ms'");
    let began = clock::now();
    node.stop();
    assert!(clock::now().saturating_since(began) < SOON);
    node.start();
    cluster.wait_streaming();
}

fn authentication_timeout(cluster: &mut Cluster) {
    for node in [&cluster.primary, &cluster.standby] {
        node.reload("authentication_timeout = '1s'");
        let began = clock::now();
        let said = Client::connect_raw(&node.address()).unwrap().read_to_end().unwrap();
        assert!(String::from_utf8_lossy(&said).contains("canceling authentication due to timeout"));
        assert!(clock::now().saturating_since(began) < SOON);
    }
}

/// Inserts a message that nobody waits for; its end.
fn emit(node: &Node) -> String {
    let mut client = node.client();
    client.query("SET synchronous_commit = off").unwrap();
    client.value("SELECT pg_logical_emit_message(false, 'p', 'left to the walwriter')")
}

fn is_flushed(node: &Node, end: &str) -> bool {
    node.lsn("pg_current_wal_flush_lsn") >= end.parse().unwrap()
}

fn wal_writer_delay(cluster: &mut Cluster) {
    let node = &cluster.primary;
    let end = emit(node);
    assert!(!is_flushed(node, &end));
    // It sleeps until ten seconds after that; the new delay counts from then, too.
    let began = clock::now();
    node.reload("wal_writer_delay = '20ms'\nwal_writer_flush_after = '1GB'");
    soon("the walwriter to flush", || is_flushed(node, &end));
    assert!(clock::now().saturating_since(began) < Duration::from_secs(5));
}

fn wal_writer_flush_after(cluster: &mut Cluster) {
    let node = &cluster.primary;
    let end = emit(node);
    assert!(!is_flushed(node, &end));
    let began = clock::now();
    node.reload("wal_writer_delay = '10s'\nwal_writer_flush_after = 0");
    soon("the walwriter to flush", || is_flushed(node, &end));
    assert!(clock::now().saturating_since(began) < Duration::from_secs(5));
}

fn checkpoint_timeout(cluster: &mut Cluster) {
    let written = |node: &Node| -> SystemTime {
        std::fs::metadata(node.dir().join("control")).unwrap().modified().unwrap()
    };
    cluster.primary.query("CREATE TABLE t(x)");
    for node in [&cluster.primary, &cluster.standby] {
        node.reload("checkpoint_timeout = '1s'");
    }
    // More than one: the first may be what recovery asked for.
    for round in 0..3 {
        let before = [written(&cluster.primary), written(&cluster.standby)];
        cluster.primary.query(&format!("INSERT INTO t VALUES ({round})"));
        cluster.wait_caught_up();
        soon("a checkpoint", || {
            written(&cluster.primary) > before[0] && written(&cluster.standby) > before[1]
        });
    }
}

fn log_checkpoints(cluster: &mut Cluster) {
    for (node, complete) in [
        (&cluster.primary, "LOG:  checkpoint complete: "),
        (&cluster.standby, "LOG:  restartpoint complete: "),
    ] {
        node.query("CHECKPOINT");
        assert!(!node.log().contains(complete));
        node.reload("log_checkpoints = true");
        node.query("CHECKPOINT");
        assert!(node.log().contains(complete), "{}", node.log_tail());
    }
}

fn max_wal_size(cluster: &mut Cluster) {
    cluster.primary.query("CREATE TABLE t(x)");
    let mut client = cluster.primary.client();
    for node in [&cluster.primary, &cluster.standby] {
        node.reload("checkpoint_timeout = '1d'\nmax_wal_size = '4MB'");
    }
    for _ in 0..60 {
        client.query("INSERT INTO t VALUES (hex(randomblob(50000)))").unwrap();
    }
    for (node, starting) in [
        (&cluster.primary, "LOG:  checkpoint starting: wal"),
        (&cluster.standby, "LOG:  restartpoint starting: wal"),
    ] {
        soon("a checkpoint", || node.log().contains(starting));
    }
}

fn max_slot_wal_keep_size(cluster: &mut Cluster) {
    for node in [&cluster.primary, &cluster.standby] {
        node.query("SELECT pg_create_physical_replication_slot('idle', true)");
    }
    for _ in 0..4 {
        cluster.primary.query("SELECT pg_logical_emit_message(true, 'a', 'something to switch behind')");
        cluster.primary.query("SELECT pg_switch_wal()");
    }
    let settings = "checkpoint_timeout = '1d'\nwal_keep_size = 0\nmax_wal_size = '2MB'";
    let status = |node: &Node| node.value("SELECT wal_status FROM pg_replication_slots");
    for node in [&cluster.primary, &cluster.standby] {
        // A restart point goes as far as the last checkpoint that was replayed.
        soon("redo to follow", || {
            cluster.primary.query("CHECKPOINT");
            cluster.wait_caught_up();
            node.query("CHECKPOINT");
            assert_eq!(status(node), "extended");
            node.log().contains("holds back")
        });
        node.reload(&format!("{settings}\nmax_slot_wal_keep_size = '1MB'"));
        soon("the slot to be lost", || {
            cluster.primary.query("CHECKPOINT");
            cluster.wait_caught_up();
            node.query("CHECKPOINT");
            status(node) == "lost"
        });
    }
}

/// The names of the slots that are in use on the primary.
fn slots_in_use(cluster: &Cluster) -> Vec<String> {
    cluster.primary.rows("SELECT slot_name FROM pg_replication_slots WHERE active").concat()
}

fn primary_slot_name(cluster: &mut Cluster) {
    let walreceiver = cluster.standby.process("walreceiver");
    for name in ["one", "two"] {
        cluster.primary.query(&format!("SELECT pg_create_physical_replication_slot('{name}')"));
        cluster.standby.reload(&format!("primary_slot_name = '{name}'"));
        soon("the standby to use its slot", || slots_in_use(cluster) == [name]);
    }
    cluster.standby.wait_log("WAL receiver process shutdown requested");
    assert_ne!(cluster.standby.process("walreceiver"), walreceiver);
    cluster.standby.reload("primary_slot_name = 'no-name'");
    cluster.standby.wait_log("FATAL:  invalid value for parameter \"primary_slot_name\"");
    cluster.standby.reload("");
    soon("the standby to stream without a slot", || {
        slots_in_use(cluster).is_empty()
            && !cluster.primary.rows("SELECT 1 FROM pg_stat_replication").is_empty()
    });
}

fn wal_receiver_create_temp_slot(cluster: &mut Cluster) {
    cluster.standby.reload("wal_receiver_create_temp_slot = true");
    soon("the standby to use a slot", || {
        slots_in_use(cluster).first().is_some_and(|name| name.starts_with("pg_walreceiver_"))
    });
    cluster.standby.reload("wal_receiver_create_temp_slot = false");
    soon("the slot to go", || slots_in_use(cluster).is_empty());
    cluster.wait_streaming();
}

fn wal_keep_size(cluster: &mut Cluster) {
    for node in [&cluster.primary, &cluster.standby] {
        let first = node.dir().join("pg_wal/000000010000000000000001");
        for _ in 0..3 {
            cluster.primary.query("SELECT pg_logical_emit_message(true, 'a', 'something to switch behind')");
            cluster.primary.query("SELECT pg_switch_wal()");
        }
        cluster.primary.query("CHECKPOINT");
        cluster.wait_caught_up();
        node.query("CHECKPOINT");
        assert!(first.exists());
        node.reload("checkpoint_timeout = '1d'\nwal_keep_size = 0");
        soon("the first segment to go", || {
            node.query("CHECKPOINT");
            !first.exists()
        });
    }
}

fn state_wal_limit(cluster: &mut Cluster) {
    let bytes = |node: &Node| {
        std::fs::metadata(node.dir().join("state/state.db-wal")).map_or(0, |metadata| metadata.len())
    };
    let mut client = cluster.primary.client();
    client.query("CREATE TABLE big(id integer PRIMARY KEY, filler text)").unwrap();
    for node in [&cluster.primary, &cluster.standby] {
        node.reload("state_wal_limit = '1MB'");
    }
    for _ in 0..400 {
        client.query("INSERT INTO big(filler) VALUES (hex(randomblob(50000)))").unwrap();
    }
    cluster.wait_caught_up();
    for node in [&cluster.primary, &cluster.standby] {
        // 40 MB were written.
        assert!(bytes(node) < 24 << 20, "{} bytes of state.db-wal", bytes(node));
    }
}

fn primary_conninfo(cluster: &mut Cluster) {
    let walreceiver = cluster.standby.process("walreceiver");
    let conninfo = |name: &str| format!("primary_conninfo = '{}'", cluster.primary.conninfo(name));
    let streams_as = |name: &str| {
        let rows = cluster
            .primary
            .rows("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'");
        rows == [[name]]
    };
    cluster.standby.reload(&conninfo("renamed"));
    soon("the standby to stream under its new name", || streams_as("renamed"));
    cluster.standby.wait_log("WAL receiver process shutdown requested");
    assert_ne!(cluster.standby.process("walreceiver"), walreceiver);
    // A reload that doesn't change it leaves the walreceiver alone.
    let walreceiver = cluster.standby.process("walreceiver");
    cluster.standby.reload(&format!("{}\nwal_receiver_timeout = '50s'", conninfo("renamed")));
    assert_eq!(cluster.standby.process("walreceiver"), walreceiver);
    // Without one there is no walreceiver; with one there is.
    cluster.standby.reload("primary_conninfo = ''");
    let none = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
    soon("the walreceiver to end", || cluster.standby.value(none) == "0");
    cluster.standby.reload(&conninfo("back"));
    soon("the standby to stream again", || streams_as("back"));
}

fn restart_after_crash(cluster: &mut Cluster) {
    for node in [&mut cluster.primary, &mut cluster.standby] {
        node.reload("restart_after_crash = false");
        process::kill(node.process("checkpointer"), Signal::Kill).unwrap();
        assert_eq!(node.wait_end(), Some(1));
        node.start();
    }
    cluster.wait_streaming();
}

fn restore_command(cluster: &mut Cluster) {
    let (primary, standby) = (&cluster.primary, &cluster.standby);
    primary.query("CREATE TABLE t(x)");
    cluster.wait_caught_up();
    let archive = primary.dir().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let archive = archive.display();
    primary.reload(&format!("archive_mode = 'on'\narchive_command = 'cp %p {archive}/%f'"));
    let no_upstream = "archive_mode = 'on'\nprimary_conninfo = ''";
    standby.reload(no_upstream);
    let receivers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
    soon("the walreceiver to end", || standby.value(receivers) == "0");
    primary.query("INSERT INTO t VALUES (1)");
    primary.query("SELECT pg_switch_wal()");
    assert_eq!(standby.value("SELECT count(*) FROM t"), "0");
    standby.reload(&format!("{no_upstream}\nrestore_command = 'cp {archive}/%f %p'"));
    soon("the row out of the archive", || standby.value("SELECT count(*) FROM t") == "1");
}

fn wal_receiver_status_interval(cluster: &mut Cluster) {
    let reply_time = || cluster.primary.value("SELECT reply_time FROM pg_stat_replication");
    cluster.standby.reload("wal_receiver_status_interval = '1s'");
    for _ in 0..3 {
        let before = reply_time();
        soon("a reply", || reply_time() != before);
    }
}

fn wal_receiver_timeout(cluster: &mut Cluster) {
    let walsender = cluster.primary.process("walsender");
    process::kill(walsender, Signal::Stop).unwrap();
    wait::until("the walsender to stand still", || procfs::stopped(walsender).then_some(()));
    cluster.standby.reload("wal_receiver_timeout = '1s'");
    soon("the walreceiver to give up", || {
        cluster.standby.log().contains("terminating walreceiver due to timeout")
    });
    process::kill(walsender, Signal::Cont).unwrap();
}

fn wal_retrieve_retry_interval(cluster: &mut Cluster) {
    cluster.primary.stop();
    let failures = |node: &Node| node.log().matches("could not connect to the primary server").count();
    // After each the next comes after twice the time.
    wait::until("some attempts to connect", || (failures(&cluster.standby) >= 6).then_some(()));
    cluster.standby.reload("wal_retrieve_retry_interval = '20ms'\nlog_min_messages = 'debug1'");
    let before = failures(&cluster.standby);
    let began = clock::now();
    soon("many attempts to connect", || failures(&cluster.standby) >= before + 30);
    assert!(clock::now().saturating_since(began) < Duration::from_secs(6));
    cluster.primary.start();
    cluster.wait_streaming();
}

fn log_min_messages(cluster: &mut Cluster) {
    for node in [&cluster.primary, &cluster.standby] {
        assert!(!node.log().contains("DEBUG"), "{}", node.log_tail());
        node.reload("log_min_messages = 'debug1'");
        drop(node.client());
        // The postmaster's own.
        node.wait_log("DEBUG1:  reaped: server process");
        node.reload("");
        let before = node.log().matches("DEBUG1:  reaped").count();
        let client = node.client();
        let backend = client.backend_pid;
        drop(client);
        soon("the session to end", || !procfs::runs(Pid(backend)));
        assert_eq!(node.value("SELECT 1"), "1");
        // That of the last session before the reload may have come late.
        assert!(node.log().matches("DEBUG1:  reaped").count() <= before + 1, "{}", node.log_tail());
    }
    // That of a child that runs all the time.
    let standby = &cluster.standby;
    let line = format!("[{}] LOG:  WAL receiver process shutdown requested", standby.process("startup"));
    let renamed = |name: &str, level: &str| {
        let conninfo = cluster.primary.conninfo(name);
        standby.reload(&format!("primary_conninfo = '{conninfo}'\nlog_min_messages = '{level}'"));
        soon("the standby to stream", || {
            cluster.primary.rows("SELECT application_name FROM pg_stat_replication") == [[name]]
        });
        standby.log().contains(&line)
    };
    assert!(!renamed("silent", "error"));
    assert!(renamed("loud", "log"));
}

fn log_replication_commands(cluster: &mut Cluster) {
    let node = &cluster.primary;
    let mut old = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    old.query("IDENTIFY_SYSTEM").unwrap();
    assert!(!node.log().contains("received replication command"));
    node.reload("log_replication_commands = true");
    old.query("SHOW wal_segment_size").unwrap();
    node.wait_log("received replication command: SHOW wal_segment_size");
    psql_replication(node, "IDENTIFY_SYSTEM").assert_success("IDENTIFY_SYSTEM");
    node.wait_log("received replication command: IDENTIFY_SYSTEM");
}

fn write_statement_timeout(cluster: &mut Cluster) {
    let node = &cluster.primary;
    node.query("CREATE TABLE t(x)");
    node.reload("write_statement_timeout = '100ms'");
    let began = clock::now();
    let error = node.error(
        "INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    );
    assert_eq!(error.sqlstate, "57014");
    assert!(clock::now().saturating_since(began) < SOON);
}

fn recovery_min_apply_delay(cluster: &mut Cluster) {
    let Cluster { primary, standby } = cluster;
    primary.query("CREATE TABLE t(x)");
    let applies_late = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
    wait::until("the table to be held back", || {
        (standby.value(applies_late) == "RecoveryApplyDelay").then_some(())
    });
    standby.reload("");
    soon("the table to be there", || standby.try_client().unwrap().query("SELECT * FROM t").is_ok());
}

fn sync_wait_warning(cluster: &mut Cluster) {
    let node = &cluster.primary;
    node.query("CREATE TABLE t(x)");
    node.reload("synchronous_standby_names = 'other'\nsync_wait_warning = '1h'");
    let mut client = node.client();
    client.send_query("INSERT INTO t VALUES (1)").unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait::until("the commit to wait", || (node.value(waits) == "1").then_some(()));
    node.reload("synchronous_standby_names = 'other'\nsync_wait_warning = '10ms'");
    soon("the log to say so", || node.log().contains("\"other\" is not connected"));
    client.cancel().unwrap();
    assert!(client.read_answer().unwrap().error.is_none());
    node.reload("");
}

fn synchronous_standby_names(cluster: &mut Cluster) {
    let node = &cluster.primary;
    node.query("CREATE TABLE t(x)");
    node.reload("synchronous_standby_names = 'other'");
    let mut client = node.client();
    client.send_query("INSERT INTO t VALUES (1)").unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    soon("the commit to wait", || node.value(waits) == "1");
    node.reload("synchronous_standby_names = 'standby'");
    assert_eq!(client.read_answer().unwrap().tags, ["INSERT 0 1"]);
    node.reload("");
}
