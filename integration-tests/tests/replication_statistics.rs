//! What the views and functions of replication tell, column by column as in PostgreSQL 15: lags, what a standby says of itself,
//! the counters of the log, the progress of a base backup, and the last positions after a promotion.
//!
//! Method: a pair whose standby is paused, promoted or slow; a client that speaks for a standby.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::commands::postgres_command;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

fn row(node: &Node, sql: &str) -> Vec<String> {
    node.rows(sql).into_iter().next().unwrap_or_else(|| panic!("no row: {sql}"))
}

#[test]
fn lags_grow_while_a_standby_is_behind_and_are_null_when_it_is_idle() {
    let scenario = Scenario::new("statistics-lags");
    let mut cluster = Cluster::start_with(&scenario, &["wal_receiver_status_interval=1s"]);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    const LAGS: &str = "SELECT write_lag, flush_lag, replay_lag FROM pg_stat_replication";
    let idle =
        || wait::until("no lag", || (row(&cluster.primary, LAGS) == ["NULL", "NULL", "NULL"]).then_some(()));
    idle();
    cluster.standby.query("SELECT pg_wal_replay_pause()");
    cluster.primary.query("INSERT INTO t VALUES (1)");
    // An interval of less than a day compares as its text.
    let late = wait::until("the replay to lag", || {
        Some(row(&cluster.primary, LAGS)).filter(|lags| lags[2] != "NULL" && lags[2].as_str() >= "00:00:01")
    });
    assert!(late[0].as_str() < "00:00:01" && late[1].as_str() < "00:00:01", "{late:?}");
    assert!(late[0] <= late[1] && late[1] <= late[2], "{late:?}");
    let answer = cluster.primary.query(LAGS);
    assert_eq!(answer.types, [1186, 1186, 1186]);
    cluster.standby.query("SELECT pg_wal_replay_resume()");
    idle();
    cluster.stop();
}

#[test]
fn feedback_of_a_standby_is_shown_and_taken_back() {
    let scenario = Scenario::new("statistics-feedback");
    let mut node = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    let start = node.lsn("pg_current_wal_flush_lsn");
    let mut standby = Client::connect(&node.address(), &[("replication", "true")]).unwrap();
    standby.send_query(&format!("START_REPLICATION {start} TIMELINE 1")).unwrap();
    assert_eq!(standby.read_message().unwrap().tag, b'W');
    let feedback = |xmin: u32| {
        let mut body = vec![b'h'];
        body.extend_from_slice(&0i64.to_be_bytes());
        [xmin, 0, 0, 0].iter().for_each(|word| body.extend_from_slice(&word.to_be_bytes()));
        body
    };
    for (xmin, shown) in [(745, "745"), (0, "NULL")] {
        standby.send_message(b'd', &feedback(xmin)).unwrap();
        wait::until("the feedback", || {
            (node.value("SELECT backend_xmin FROM pg_stat_replication") == shown).then_some(())
        });
    }
    let own =
        row(&node, "SELECT write_lsn, flush_lsn, replay_lsn, reply_time, state FROM pg_stat_replication");
    assert_eq!(own, ["NULL", "NULL", "NULL", "NULL", "streaming"]);
    drop(standby);
    node.stop();
}

#[test]
fn walreceiver_tells_where_it_streams_from() {
    let scenario = Scenario::new("statistics-walreceiver");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.wait_caught_up();
    let end = cluster.primary.lsn("pg_current_wal_flush_lsn").to_string();
    let port = cluster.primary.port().to_string();
    let found = row(
        &cluster.standby,
        "SELECT status, receive_start_tli, written_lsn, flushed_lsn, received_tli, slot_name, sender_host, sender_port FROM pg_stat_wal_receiver",
    );
    assert_eq!(found, ["streaming", "1", &end, &end, "1", "NULL", "127.0.0.1", &port]);
    let found = row(
        &cluster.standby,
        "SELECT last_msg_send_time IS NULL, last_msg_receipt_time IS NULL, latest_end_lsn, latest_end_time IS NULL FROM pg_stat_wal_receiver",
    );
    assert_eq!(found, ["0", "0", &end, "0"]);
    cluster.primary.stop();
    cluster.standby.reload("primary_conninfo = ''");
    wait::until("no row", || {
        cluster.standby.rows("SELECT * FROM pg_stat_wal_receiver").is_empty().then_some(())
    });
    cluster.standby.stop();
}

#[test]
fn log_is_counted() {
    let scenario = Scenario::new("statistics-wal");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    let counts = |node: &Node| -> Vec<f64> {
        let sql = "SELECT wal_records, wal_fpi, wal_bytes, wal_buffers_full, wal_write, wal_sync, wal_write_time, wal_sync_time FROM pg_stat_wal";
        row(node, sql).iter().map(|value| value.parse().unwrap()).collect()
    };
    let before = counts(&cluster.primary);
    cluster.primary.query(&format!("INSERT INTO t VALUES (1, '{}')", "f".repeat(50_000)));
    let after = counts(&cluster.primary);
    assert_eq!(after[0], before[0] + 1.0, "one record: {before:?} {after:?}");
    assert!(after[2] - before[2] >= 50_000.0 && after[2] - before[2] < 60_000.0, "{before:?} {after:?}");
    assert!(after[4] > before[4] && after[5] > before[5], "{before:?} {after:?}");
    assert!(after[6] > before[6] && after[7] > before[7], "{before:?} {after:?}");
    assert_eq!((after[1], after[3]), (0.0, 0.0));
    assert_ne!(cluster.primary.value("SELECT stats_reset FROM pg_stat_wal"), "NULL");
    // A standby inserts nothing, and syncs what it receives.
    cluster.wait_caught_up();
    let standby = counts(&cluster.standby);
    assert_eq!(standby[0], 0.0);
    assert!(standby[5] > 0.0 && standby[7] > 0.0, "{standby:?}");
    cluster.stop();
}

#[test]
fn last_positions_stay_after_a_promotion_and_are_none_after_a_clean_start() {
    let scenario = Scenario::new("statistics-last");
    let mut cluster = Cluster::start(&scenario);
    const LAST: &str =
        "SELECT pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), pg_last_xact_replay_timestamp()";
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.wait_caught_up();
    assert_eq!(row(&cluster.primary, LAST), ["NULL", "NULL", "NULL"]);
    let before = row(&cluster.standby, LAST);
    let end = cluster.primary.lsn("pg_current_wal_flush_lsn").to_string();
    assert_eq!(before[..2], [end.clone(), end]);
    assert_ne!(before[2], "NULL");
    cluster.primary.kill_all();
    cluster.standby.promote();
    cluster.standby.query("INSERT INTO t VALUES (1)");
    cluster.standby.query("CHECKPOINT");
    assert_eq!(row(&cluster.standby, LAST), before, "they stay where recovery has ended");
    cluster.standby.restart();
    assert_eq!(row(&cluster.standby, LAST), ["NULL", "NULL", "NULL"]);
    // After a crash they tell of the recovery from that.
    let before = cluster.standby.lsn("pg_current_wal_flush_lsn");
    cluster.standby.query("INSERT INTO t VALUES (2)");
    cluster.standby.kill_all();
    cluster.standby.start();
    let replayed = cluster.standby.lsn("pg_last_wal_replay_lsn");
    assert!(!replayed.is_valid() || replayed > before, "{replayed} {before}");
    cluster.standby.stop();
}

#[test]
fn backup_is_seen_in_each_phase() {
    let scenario = Scenario::new("statistics-backup");
    let mut node = Node::init(&scenario, "primary", &[]);
    node.start();
    node.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    for id in 0..20 {
        node.query(&format!("INSERT INTO t VALUES ({id}, '{}')", "f".repeat(200_000)));
    }
    assert!(node.rows("SELECT * FROM pg_stat_progress_basebackup").is_empty());
    let mut command = postgres_command("pg_basebackup", &node);
    command.args(["-P", "-X", "none", "-c", "fast", "--max-rate", "1M", "-D"]).arg(scenario.path("copy"));
    let mut backup = command.spawn().unwrap();
    const PROGRESS: &str = "SELECT phase, backup_total, backup_streamed, tablespaces_total, tablespaces_streamed FROM pg_stat_progress_basebackup";
    let seen = wait::until("the backup to stream", || {
        let found = node.rows(PROGRESS).into_iter().next();
        found.filter(|row| row[0] == "streaming database files" && row[2] != "0")
    });
    let number = |text: &str| text.parse::<u64>().unwrap();
    assert!(number(&seen[1]) > 4_000_000 && number(&seen[2]) <= number(&seen[1]), "{seen:?}");
    assert_eq!(seen[3..], ["1", "0"]);
    let state = row(&node, "SELECT state, sync_state, sent_lsn FROM pg_stat_replication");
    assert_eq!(state, ["backup", "async", "NULL"]);
    let status = node.command(&["status", "-D", node.dir().to_str().unwrap()]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("pg_basebackup (127.0.0.1): streaming database files, "), "{text}");
    backup.kill().unwrap();
    backup.wait().unwrap();
    wait::until("the backup to be gone", || node.rows(PROGRESS).is_empty().then_some(()));
    node.stop();
}

#[test]
fn backup_without_room_for_its_copy_is_refused_before_it_takes_any() {
    let scenario = Scenario::new("statistics-no-room");
    let Some(_disk) = integration_tests::small_disk::SmallDisk::mount(&scenario.path("disk"), 46) else {
        return;
    };
    let mut node = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    node.set("disk_reserve=1MB");
    node.set("wal_keep_size=0");
    node.set("max_wal_size=2MB");
    node.start();
    node.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
    for id in 0..150 {
        node.query(&format!("INSERT INTO t VALUES ({id}, '{}')", "f".repeat(120_000)));
    }
    node.query("CHECKPOINT");
    let mut command = postgres_command("pg_basebackup", &node);
    command.args(["-X", "none", "-c", "fast", "-D"]).arg(scenario.path("copy"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("could not copy the tables: no room in the data directory"), "{said}");
    // Nobody else was held up by it.
    node.query("INSERT INTO t VALUES (1000, 'x')");
    node.stop();
}
