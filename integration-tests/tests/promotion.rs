//! A standby becomes a primary: by its command, by pg_promote(), in the same processes and sessions, on a new timeline; a
//! crash at any moment of it leaves a node that starts as one or the other.
//!
//! Method: pairs of nodes whose primary is killed or stopped; for the crashes, copies of one stopped standby's directory, each
//! killed at another moment. The ideas are those of PostgreSQL's pg_ctl test 003_promote and recovery tests
//! 015_promotion_pages and 041_checkpoint_at_promote.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use failpoint::{Action, Moment, Point, Site};
use integration_tests::client::Client;
use integration_tests::cluster::Cluster;
use integration_tests::commands;
use integration_tests::load::{self, Load};
use integration_tests::node::{Node, Role};
use integration_tests::procfs;
use integration_tests::random::{self, Random};
use integration_tests::scenario::Scenario;
use integration_tests::wait;

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code(), String::from_utf8_lossy(&text).trim_end().to_owned())
}

fn promote(node: &Node, more: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["promote", "-D", node.dir().to_str().unwrap()], more].concat();
    said(&node.command(&arguments))
}

/// Reads until the server reports the parameter.
fn await_report(client: &mut Client, name: &str, value: &str) {
    let body = format!("{name}\0{value}\0");
    loop {
        let message = client.read_message().unwrap();
        assert_eq!(message.tag, b'S', "an idle session is told of parameters only");
        if message.body == body.as_bytes() {
            return;
        }
    }
}

#[test]
fn promoted_standby_takes_writes_in_the_sessions_that_it_has() {
    let scenario = Scenario::new("promotion-sessions");
    let cluster = Cluster::start(&scenario);
    let (status, why) = promote(&cluster.standby, &["-t", "x"]);
    assert_eq!(status, Some(2), "{why}");
    cluster.primary.query(load::CREATE_TABLE);
    cluster.primary.query("INSERT INTO acked VALUES (1, 0, 'before')");
    cluster.wait_caught_up();
    let Cluster { mut primary, mut standby } = cluster;

    let (mut writer, mut idle) = (standby.client(), standby.client());
    assert_eq!(writer.parameters["in_hot_standby"], "on");
    assert_eq!(writer.error("INSERT INTO acked VALUES (2, 0, '')").sqlstate, "25006");
    let startup = standby.process("startup");
    primary.kill_all();
    standby.promote();

    await_report(&mut idle, "in_hot_standby", "off");
    await_report(&mut writer, "in_hot_standby", "off");
    assert_eq!(writer.tag("INSERT INTO acked VALUES (2, 0, 'after')"), "INSERT 0 1");
    assert_eq!(writer.value("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(idle.rows("SELECT id FROM acked ORDER BY id"), [["1"], ["2"]]);
    assert_eq!(standby.process("startup"), startup);
    standby.process("walwriter");

    // What the directory says: a primary on timeline 2, whose history tells where it began and is like no other.
    assert!(!standby.dir().join("standby.signal").exists());
    let history = fs::read_to_string(standby.dir().join("pg_wal/00000002.history")).unwrap();
    let fields: Vec<&str> = history.trim_end().split('\t').collect();
    assert_eq!((fields.len(), fields[0]), (3, "1"), "{history}");
    let id = fields[2].strip_prefix("no recovery target specified, promotion ").unwrap();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{history}");
    let file = writer.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    assert!(file.starts_with("00000002"), "{file}");
    let (status, line) = said(&standby.command(&["status", "-D", standby.dir().to_str().unwrap()]));
    assert_eq!(status, Some(0));
    assert!(line.starts_with("primary is running"), "{line}");
    for line in [
        "received promote request",
        "redo done at",
        "selected new timeline ID: 2",
        "archive recovery complete",
        "database system is ready to accept connections",
    ] {
        standby.wait_log(line);
    }
    let not_in_standby = "error: cannot promote server; server is not in standby mode";
    assert_eq!(promote(&standby, &[]), (Some(1), not_in_standby.to_owned()));

    // Whoever ran it as a standby starts it again as what it is.
    standby.restart();
    assert_eq!(standby.value("SELECT count(*) FROM acked"), "2");
    standby.query("INSERT INTO acked VALUES (3, 0, 'restarted')");
    standby.kill_all();
    standby.start();
    assert_eq!(standby.value("SELECT count(*) FROM acked"), "3");
    standby.stop();
    let (status, why) = promote(&standby, &[]);
    assert_eq!(status, Some(1));
    assert!(why.contains("no node runs in"), "{why}");
    let dump = commands::pg_waldump_segments(&standby.dir().join("pg_wal"), &file, &file);
    assert!(dump.out.contains("END_OF_RECOVERY tli 2; prev tli 1"), "{}\n{}", dump.out, dump.err);
}

#[test]
fn function_promotes_and_waits_or_not() {
    let scenario = Scenario::new("promotion-function");
    let cluster = Cluster::start(&scenario);
    let error = cluster.primary.error("SELECT pg_promote()");
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("55000", "recovery is not in progress"));
    assert_eq!(error.hint, "Recovery control functions can only be executed during recovery.");
    for seconds in ["0", "-1"] {
        let error = cluster.standby.error(&format!("SELECT pg_promote(true, {seconds})"));
        assert_eq!(error.sqlstate, "22003");
        assert_eq!(error.message, "\"wait_seconds\" must not be negative or zero");
    }
    let mut client = cluster.standby.client();
    assert_eq!(client.value("SELECT pg_promote()"), "t");
    assert_eq!(client.value("SELECT pg_is_in_recovery()"), "f");
    client.query("CREATE TABLE t(a integer)").unwrap();

    let second = Node::clone_of(&scenario, "second", &cluster.primary);
    let mut second = second;
    second.start();
    assert_eq!(second.value("SELECT pg_promote(false)"), "t");
    wait::until("the promotion", || (second.value("SELECT pg_is_in_recovery()") == "f").then_some(()));
}

#[test]
fn what_was_flushed_on_the_standby_survives_a_promotion_under_load() {
    let scenario = Scenario::new("promotion-load");
    let cluster = Cluster::start(&scenario);
    let Cluster { mut primary, standby } = cluster;
    primary.query(load::CREATE_TABLE);
    let mut load = Load::new(8);
    load.connect(&primary);
    load.rounds(50);
    load.disconnect();
    standby.wait_level_with(&primary);
    // From here on rows may be lost, but none may appear that nobody sent.
    let (mut later, safe) = (Load::new(8), load.acknowledged.clone());
    std::mem::swap(&mut later, &mut load);
    load = later;
    load.connect(&primary);
    load.round(3, || primary.kill_all());
    load.disconnect();
    standby.promote();
    let rows = standby.rows("SELECT id FROM acked ORDER BY id");
    let found: BTreeSet<u64> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(safe.is_subset(&found));
    let sent: BTreeSet<u64> = load.acknowledged.union(&load.unknown).copied().collect();
    assert!(found.is_subset(&sent), "rows that nobody sent");
    load.connect(&standby);
    load.rounds(20);
}

/// A copy of a stopped standby's directory.
fn copy_of(scenario: &Scenario, original: &Node, name: &str) -> Node {
    let mut copy = Node::at(scenario, name, Role::Standby);
    let status = Command::new("cp").arg("-a").arg(original.dir()).arg(copy.dir()).status().unwrap();
    assert!(status.success());
    copy.set("primary_conninfo=");
    copy
}

#[test]
fn crash_at_any_moment_of_a_promotion_leaves_a_standby_or_a_primary() {
    let scenario = Scenario::in_memory("promotion-crash");
    let (cluster, load) = load::on_stopped_pair(&scenario);
    let mut random = Random::new(random::seeds(&[5])[0]);
    for round in 0..5 {
        let mut node = copy_of(&scenario, &cluster.standby, &format!("copy{round}"));
        node.start();
        let (status, line) = promote(&node, &["-W"]);
        assert_eq!((status, line.as_str()), (Some(0), "server promoting"));
        busy_for(random.below(15_000));
        node.kill_all();
        node.start();
        let is_standby = node.dir().join("standby.signal").exists();
        assert_eq!(node.value("SELECT pg_is_in_recovery()"), if is_standby { "t" } else { "f" });
        load.assert_all_on(&node);
        if is_standby {
            node.promote();
        }
        let file = node.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
        assert!(!file.starts_with("00000001"), "never writes on the old timeline: {file}");
        node.query("INSERT INTO acked VALUES (1000000, 0, 'after')");
        node.kill_all();
        node.start();
        assert_eq!(node.value("SELECT count(*) FROM acked WHERE id = 1000000"), "1");
        node.stop();
        fs::remove_dir_all(node.dir()).unwrap();
    }
}

/// The steps of a promotion, and what the node is when it is killed before them and after.
const STEPS: [(Site, bool, bool); 6] = [
    (Site::PromotionSegment, true, true),
    (Site::PromotionHistory, true, true),
    (Site::PromotionSignal, true, false),
    (Site::PromotionControl, false, false),
    (Site::EndOfRecovery, false, false),
    (Site::PromotionFinish, false, false),
];

#[test]
fn kill_at_every_step_of_a_promotion_leaves_what_the_step_says() {
    let scenario = Scenario::in_memory("promotion-steps");
    let (cluster, load) = load::on_stopped_pair(&scenario);
    for (site, standby_before, standby_after) in STEPS {
        for (moment, is_standby) in [(Moment::Before, standby_before), (Moment::After, standby_after)] {
            let mut node = copy_of(&scenario, &cluster.standby, "copy");
            node.set("restart_after_crash=off");
            let file = scenario.path("points");
            let board = sys::failpoint::map(&file).unwrap();
            node.failpoints = Some(file);
            node.start();
            let point = Point { site, moment };
            board.arm(point, Action::Kill, 1, &[]);
            let children = procfs::children(node.pid());
            promote(&node, &["-W"]);
            node.wait_end();
            wait::until("its processes to be gone", || {
                children.iter().all(|pid| !procfs::runs(*pid)).then_some(())
            });
            assert!(board.done_by(point).is_some(), "nobody came by {point}");
            let found = node.dir().join("standby.signal").exists();
            assert_eq!(found, is_standby, "kill {point}");
            node.failpoints = None;
            node.start();
            load.assert_all_on(&node);
            assert_eq!(node.value("SELECT pg_is_in_recovery()"), if is_standby { "t" } else { "f" });
            if is_standby {
                node.promote();
            }
            node.query("INSERT INTO acked VALUES (1000000, 0, 'after')");
            let file = node.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
            assert!(!file.starts_with("00000001"), "kill {point}: {file}");
            node.kill_all();
            fs::remove_dir_all(node.dir()).unwrap();
        }
    }
}

#[test]
fn promotion_that_was_cut_off_behind_its_decision_is_completed_at_the_next_start() {
    let scenario = Scenario::new("promotion-completed");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query(load::CREATE_TABLE);
    cluster.primary.query("INSERT INTO acked VALUES (1, 0, '')");
    cluster.wait_caught_up();
    cluster.stop();
    // What a crash right behind the removal leaves: everything of the new timeline but the control file's word.
    let mut node = cluster.standby;
    fs::remove_file(node.dir().join("standby.signal")).unwrap();
    fs::write(node.dir().join("pg_wal/00000002.history"), "1\t0/2000000\tof a promotion that was cut off\n")
        .unwrap();
    fs::write(node.dir().join("pg_wal/000000020000000000000002"), vec![0; 1 << 20]).unwrap();
    node.start();
    assert_eq!(node.value("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(node.value("SELECT count(*) FROM acked"), "1");
    node.wait_log("selected new timeline ID: 3");
    let file = node.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    assert!(file.starts_with("00000003"), "{file}");
    assert!(!node.dir().join("pg_wal/000000020000000000000002").exists());
    node.restart();
    node.query("INSERT INTO acked VALUES (2, 0, '')");
    node.stop();
}

/// Lets some microseconds pass.
fn busy_for(micros: u64) {
    let end = sys::clock::now().saturating_add(std::time::Duration::from_micros(micros));
    while sys::clock::now() < end {
        std::hint::spin_loop();
    }
}
