//! The log that nobody needs any more goes at checkpoints, and never more than that: recovery, a standby, the archiver
//! and whoever asks for what is gone.
//!
//! Method: nodes with segments of 1 MB that keep nothing for its own sake, under load, killed, and with segments taken away by
//! hand. Scenarios of PostgreSQL's recovery tests 019, 050 and 052 are among them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::disk::verify::control_numbers;
use integration_tests::load::{CREATE_TABLE, Load};
use integration_tests::node::Node;
use integration_tests::random::{self, Random};
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use wal::lsn::Lsn;

const KEEP_NOTHING: [&str; 2] = ["wal_keep_size=0", "max_wal_size=2MB"];
/// A standby that was away for a moment still finds its log.
const KEEP_A_LITTLE: [&str; 2] = ["wal_keep_size=8MB", "max_wal_size=2MB"];

/// Numbers of the segments of timeline 1 that are there, in order.
fn segments(node: &Node) -> Vec<u64> {
    let names = fs::read_dir(node.dir().join("pg_wal")).unwrap();
    let names = names.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let number = |name: String| u64::from_str_radix(name.strip_prefix("00000001")?, 16).ok();
    let mut found: Vec<u64> = names.filter(|name| name.len() == 24).filter_map(number).collect();
    found.sort_unstable();
    found
}

fn path(node: &Node, segment: u64) -> PathBuf {
    node.dir().join("pg_wal").join(name(segment))
}

fn name(segment: u64) -> String {
    format!("00000001{segment:016X}")
}

/// Fills a few segments.
fn fill(node: &Node, segments: usize) {
    let mut client = node.client();
    for _ in 0..segments {
        client.query("SELECT pg_logical_emit_message(true, 'fill', hex(zeroblob(300000)))").unwrap();
        client.query("SELECT pg_switch_wal()").unwrap();
    }
}

/// Has checkpoints until that segment is gone: redo follows what is logged, but not at once.
fn checkpoint_until_gone(node: &Node, segment: u64) {
    wait::until("a segment to be removed", || {
        node.query("CHECKPOINT");
        (!path(node, segment).exists()).then_some(())
    });
}

/// Where recovery of the node reads from, going by its control file.
fn needed_from(dir: &Path) -> u64 {
    let (checkpoint, redo) = control_numbers(&fs::read(dir.join("control")).unwrap()).unwrap();
    checkpoint.min(redo).0 >> 20
}

#[test]
fn log_goes_under_load_and_every_recovery_finds_what_it_needs() {
    for seed in random::seeds(&[5]) {
        let scenario = Scenario::new("wal-removal");
        let mut random = Random::new(seed);
        let cluster = Cluster::start_with(&scenario, &KEEP_A_LITTLE);
        let Cluster { mut primary, mut standby } = cluster;
        primary.query(CREATE_TABLE);
        let mut load = Load::new(4);
        for round in 0..10 {
            load.connect(&primary);
            let until = 5 + random.below(100);
            for _ in 0..until {
                load.rounds(1);
                // Filler, so that much is logged between two rows.
                primary.query("SELECT pg_logical_emit_message(false, 'fill', hex(zeroblob(30000)))");
            }
            let kills_standby = random.below(2) == 0;
            if kills_standby {
                standby.kill_all();
            }
            load.round(usize::try_from(random.below(4)).unwrap(), || primary.kill_all());
            for node in [&primary, &standby] {
                let (first, needed) = (segments(node)[0], needed_from(node.dir()));
                assert!(
                    first <= needed,
                    "seed {seed}, round {round}: {first} is the first, {needed} is needed"
                );
            }
            primary.start();
            if kills_standby {
                standby.start();
            }
            load.assert_all_on(&primary);
            let cluster = Cluster { primary, standby };
            cluster.assert_equal(&["acked"]);
            Cluster { primary, standby } = cluster;
        }
        let end = segments(&primary).pop().unwrap();
        assert!(end > 20, "only {end} segments were filled");
        for node in [&primary, &standby] {
            // wal_keep_size, the segment that is written to, those made ahead, and what came during the checkpoint.
            wait::until("all but a few segments to go", || {
                node.query("CHECKPOINT");
                (segments(node).len() <= 12).then_some(())
            });
            assert!(node.log().contains(" removed, 0 recycled; "), "{}", node.log_tail());
        }
        Cluster { primary, standby }.stop();
    }
}

#[test]
fn standby_that_needs_what_is_gone_is_told_so_and_says_so() {
    let scenario = Scenario::new("wal-removed-under-standby");
    let mut cluster = Cluster::start_with(&scenario, &KEEP_NOTHING);
    cluster.wait_caught_up();
    cluster.standby.stop();
    let needs = cluster.standby.dir().join("pg_wal");
    assert!(needs.join(name(1)).exists());
    fill(&cluster.primary, 4);
    checkpoint_until_gone(&cluster.primary, 1);

    cluster.standby.start();
    cluster.standby.wait_log("has already been removed");
    // Ten attempts a second, but said once.
    wait::watch_for(std::time::Duration::from_secs(1));
    assert_eq!(cluster.standby.log().matches("has already been removed").count(), 1);
    let requested = cluster.standby.wait_log("has already been removed");
    assert!(
        requested.contains(&format!("requested WAL segment {} has already been removed", name(1))),
        "{requested}"
    );
    let mut client = Client::connect(&cluster.primary.address(), &[("replication", "true")]).unwrap();
    client.send_query("START_REPLICATION 0/100000 TIMELINE 1").unwrap();
    // It comes within the stream, as PostgreSQL's does.
    assert_eq!(client.read_message().unwrap().tag, b'W');
    let Ok(answer) = client.read_answer() else { panic!("an error was expected") };
    let error = answer.error.expect("an error");
    assert_eq!(
        (error.sqlstate.as_str(), error.message),
        ("58P01", format!("requested WAL segment {} has already been removed", name(1)))
    );
    // It serves what it has, and goes on once the log is there again.
    assert_eq!(cluster.standby.value("SELECT pg_is_in_recovery()"), "t");
    cluster.stop();
}

#[test]
fn recovery_names_a_segment_that_it_needs_and_does_not_find() {
    let scenario = Scenario::new("wal-segment-missing");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    for setting in ["wal_keep_size=0", "checkpoint_timeout=1d"] {
        primary.set(setting);
    }
    primary.start();
    primary.query("CREATE TABLE t(x)");
    fill(&primary, 2);
    primary.query("INSERT INTO t VALUES ('before')");
    checkpoint_until_gone(&primary, 2);
    fill(&primary, 3);
    primary.query("INSERT INTO t VALUES ('after')");
    let current = primary.lsn("pg_current_wal_flush_lsn").0 >> 20;
    wait::until("the next segment to be made ahead", || path(&primary, current + 1).exists().then_some(()));
    primary.kill_all();
    let first = needed_from(primary.dir());
    let last = segments(&primary).pop().unwrap();
    assert!(first > 1 && last > first + 2, "{first}, {last}");
    let away = scenario.path("away");
    let log_end = primary_log_end(&primary);
    for missing in first..=log_end.0 >> 20 {
        fs::rename(path(&primary, missing), &away).unwrap();
        let before = primary.log().len();
        let status = primary.try_start().expect_err("it can't start");
        assert!(status.contains("exit status: 1"), "{status}");
        let said = primary.log().split_off(before);
        assert!(said.contains(&name(missing)), "{missing}: {said}");
        fs::rename(&away, path(&primary, missing)).unwrap();
    }
    primary.start();
    assert_eq!(primary.rows("SELECT x FROM t ORDER BY x"), [["after"], ["before"]]);
    primary.stop();
}

/// The end of the last page that isn't empty.
fn primary_log_end(node: &Node) -> Lsn {
    let is_begun = |number: &&u64| fs::read(path(node, **number)).unwrap()[..2] != [0, 0];
    let numbers = segments(node);
    Lsn(numbers.iter().rfind(is_begun).unwrap() << 20)
}

#[test]
fn segments_stay_until_they_are_archived_and_leave_no_status_behind() {
    let scenario = Scenario::new("wal-removal-archive");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    for setting in ["wal_keep_size=0", "archive_mode=on"] {
        primary.set(setting);
    }
    primary.configure("archive_command = 'false'");
    primary.start();
    fill(&primary, 3);
    primary.query("CHECKPOINT");
    assert!(path(&primary, 1).exists());
    let status = |segment, state| {
        primary.dir().join("pg_wal/archive_status").join(format!("{}.{state}", name(segment)))
    };
    assert!(status(1, "ready").exists());
    primary.reload("archive_command = 'true'");
    let archived = || primary.value("SELECT archived_count FROM pg_stat_archiver") == "3";
    wait::until("the segments to be archived", || archived().then_some(()));
    assert!(status(1, "done").exists());
    checkpoint_until_gone(&primary, 3);
    for segment in 1..=3 {
        assert!(!path(&primary, segment).exists());
        assert!(!status(segment, "done").exists() && !status(segment, "ready").exists());
    }
    primary.stop();
}

#[test]
fn checkpoint_that_can_not_remove_a_segment_is_done_all_the_same() {
    let scenario = Scenario::new("wal-removal-fails");
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.set("wal_keep_size=0");
    primary.start();
    fill(&primary, 2);
    // Not even root removes a directory by unlink(2).
    fs::rename(path(&primary, 1), scenario.path("away")).unwrap();
    fs::create_dir(path(&primary, 1)).unwrap();
    wait::until("redo to pass the first segment", || {
        primary.query("CHECKPOINT");
        (needed_from(primary.dir()) > 1).then_some(())
    });
    primary.wait_log(&format!("could not remove file \"pg_wal/{}\"", name(1)));
    fs::remove_dir(path(&primary, 1)).unwrap();
    checkpoint_until_gone(&primary, 2);
    primary.stop();
}
