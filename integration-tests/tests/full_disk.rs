//! A full disk is neither an outcome nor the end of the node: writes are refused with 53100, reads and replication go on,
//! nothing that was acknowledged is lost, the node stops and starts as ever, and when there is room again writes are taken
//! again, without a restart.
//!
//! Method: data directories, or their log and their tables apart, on small disks that are filled by the node's own load or by
//! somebody else's file, and then get room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use failpoint::{Action, Moment, Point, Site};
use integration_tests::client::{Client, ClientError, ServerError};
use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::small_disk::SmallDisk;
use integration_tests::wait;

const CREATE_TABLE: &str = "CREATE TABLE big(id integer PRIMARY KEY, filler text)";

fn insert(client: &mut Client, id: u64) -> Result<(), ServerError> {
    let filler = "f".repeat(100_000);
    match client.query(&format!("INSERT INTO big VALUES ({id}, '{filler}')")) {
        Ok(_) => Ok(()),
        Err(ClientError::Server(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

/// Inserts rows of 100 kB, on one client after the other, until each was refused. How many were acknowledged, and the last
/// refusal.
fn insert_until_refused(clients: &mut [Client], first_id: u64) -> (u64, ServerError) {
    let (mut acknowledged, mut refused, mut id) = (0, 0, first_id);
    loop {
        let count = clients.len();
        match insert(&mut clients[usize::try_from(id).unwrap() % count], id) {
            Ok(()) => (acknowledged, refused) = (acknowledged + 1, 0),
            Err(error) => {
                assert_eq!(error.sqlstate, "53100", "{error}");
                refused += 1;
                if refused == count {
                    return (acknowledged, error);
                }
            }
        }
        id += 1;
        assert!(id < first_id + 100_000, "the disk never filled up");
    }
}

fn fill(node: &Node, first_id: u64) -> u64 {
    insert_until_refused(&mut [node.client()], first_id).0
}

fn count(node: &Node) -> u64 {
    node.value("SELECT count(*) FROM big").parse().unwrap()
}

/// Until a write is taken.
fn wait_writable(node: &Node, id: u64) {
    let mut client = node.client();
    wait::until("writes to be taken again", || insert(&mut client, id).ok());
}

/// A primary with its log on one disk and its tables on another, of so many megabytes.
fn with_two_disks(scenario: &Scenario, log: u32, tables: u32) -> Option<(Node, SmallDisk, SmallDisk)> {
    let node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    let log_disk = SmallDisk::mount(&scenario.path("log"), log)?;
    let tables_disk = SmallDisk::mount(&scenario.path("tables"), tables)?;
    move_to(&node.dir().join("pg_wal"), &scenario.path("log/pg_wal"));
    move_to(&node.dir().join("state"), &scenario.path("tables/state"));
    Some((node, log_disk, tables_disk))
}

/// Moves a directory with its (empty) directories to another disk, with a link in its place.
fn move_to(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(to.join(entry.file_name())).unwrap();
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    fs::remove_dir_all(from).unwrap();
    symlink(to, from).unwrap();
}

#[test]
fn clients_are_refused_while_the_disk_is_full_and_nothing_acknowledged_is_lost() {
    let scenario = Scenario::new("full-clients");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 64) else { return };
    let mut primary = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    primary.set("state_wal_limit=8MB");
    primary.start();
    primary.query(CREATE_TABLE);
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    standby.start();
    let cluster = Cluster { primary, standby };
    let postmaster = cluster.primary.pid();
    let mut clients: Vec<Client> = (0..4).map(|_| cluster.primary.client()).collect();

    // By the load itself.
    let (mut acknowledged, error) = insert_until_refused(&mut clients, 1);
    assert!(acknowledged > 10, "{acknowledged}");
    assert!(error.message.starts_with("could not extend file \""), "{error}");
    assert!(error.message.ends_with("\": No space left on device"), "{error}");
    assert!(error.hint.starts_with("Free disk space"), "{error}");
    // Every acknowledged row is there for readers, here and on the standby.
    assert_eq!(count(&cluster.primary), acknowledged);
    cluster.assert_equal(&["big"]);
    disk.resize(100);
    wait::until("writes to be taken again", || insert(&mut clients[0], 1_000_000).ok());
    acknowledged += 1;

    // By somebody else.
    let foreign = disk.fill();
    acknowledged += insert_until_refused(&mut clients, 2_000_000).0;
    assert_eq!(count(&cluster.primary), acknowledged);
    fs::remove_file(foreign).unwrap();
    wait::until("writes to be taken again", || insert(&mut clients[3], 3_000_000).ok());
    acknowledged += 1;

    // The sessions and the processes are those of the beginning.
    assert_eq!(count(&cluster.primary), acknowledged);
    assert_eq!((cluster.primary.pid(), cluster.primary.crash_restarts()), (postmaster, 0));
    let Cluster { mut primary, standby } = cluster;
    // Full again, and killed there: the next start has all of it.
    acknowledged += insert_until_refused(&mut clients, 4_000_000).0;
    primary.kill_all();
    disk.resize(1000);
    primary.start();
    assert_eq!(count(&primary), acknowledged);
    drop(standby);
    primary.stop();
}

#[test]
fn a_node_stops_and_starts_while_its_disk_is_full() {
    let scenario = Scenario::new("full-restart");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 64) else { return };
    let mut primary = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    primary.set("state_wal_limit=8MB");
    primary.start();
    primary.query(CREATE_TABLE);
    let acknowledged = fill(&primary, 1);
    // With the reserve, before somebody else takes what is left of it.
    wait::until("the tables to have all", || (count(&primary) == acknowledged).then_some(()));
    let foreign = disk.fill();
    primary.stop();
    assert!(primary.log().contains("database system is shut down"), "{}", primary.log_tail());

    let more = disk.fill();
    primary.start();
    assert_eq!(count(&primary), acknowledged);
    assert_eq!(insert(&mut primary.client(), 1_000_000).unwrap_err().sqlstate, "53100");
    fs::remove_file(foreign).ok();
    fs::remove_file(more).ok();
    disk.resize(96);
    wait_writable(&primary, 1_000_000);
    assert_eq!(count(&primary), acknowledged + 1);
    assert_eq!(primary.crash_restarts(), 0);
    primary.stop();
}

#[test]
fn without_a_reserve_a_full_disk_is_named_by_what_it_stops() {
    let scenario = Scenario::new("full-unreserved");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 48) else { return };
    let mut primary = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    primary.set("disk_reserve=0");
    primary.start();
    primary.query(CREATE_TABLE);
    insert(&mut primary.client(), 1).unwrap();
    let foreign = disk.fill();
    let output = primary.command(&["stop", "-D", primary.dir().to_str().unwrap(), "-m", "fast"]);
    assert!(output.status.success());
    assert_eq!(primary.wait_end(), Some(1));
    let log = primary.log();
    assert!(log.contains("FATAL:  could not write the shutdown checkpoint: could not write file"), "{log}");
    assert!(log.contains("/control\": No space left on device"), "{log}");

    assert!(primary.try_start().is_err());
    let log = primary.log_tail();
    assert!(log.contains("FATAL:  could not write file \""), "{log}");
    fs::remove_file(foreign).unwrap();
    primary.start();
    assert_eq!(count(&primary), 1);
    primary.stop();
}

#[test]
fn a_log_whose_own_disk_is_full_refuses_writes_alone() {
    let scenario = Scenario::new("full-log");
    let Some((mut primary, log_disk, _tables)) = with_two_disks(&scenario, 16, 96) else { return };
    primary.start();
    primary.query(CREATE_TABLE);
    let foreign = log_disk.fill();
    let mut clients = [primary.client()];
    let (acknowledged, error) = insert_until_refused(&mut clients, 1);
    assert!(error.message.starts_with("could not extend file \"pg_wal/0000"), "{error}");
    assert_eq!(count(&primary), acknowledged);
    // A checkpoint still has its place, and so has that of the stop.
    primary.restart();
    assert_eq!(count(&primary), acknowledged);
    assert!(primary.log().contains("database system was shut down at"), "{}", primary.log_tail());
    fill(&primary, 1_000_000);
    let acknowledged = count(&primary);
    primary.kill_all();
    primary.start();
    assert_eq!(count(&primary), acknowledged);
    assert_eq!(insert(&mut primary.client(), 2_000_000).unwrap_err().sqlstate, "53100");

    fs::remove_file(foreign).unwrap();
    log_disk.resize(64);
    wait_writable(&primary, 2_000_000);
    primary.wait_log("there is room for the log again");
    let told = primary.log().matches("HINT:  Free disk space: when this segment is needed").count();
    assert!(told <= 4, "it is told once, not again and again: {told}\n{}", primary.log_tail());
    primary.stop();
}

#[test]
fn tables_whose_own_disk_is_full_get_all_that_is_acknowledged_with_the_reserve() {
    let scenario = Scenario::new("full-tables");
    let Some((mut primary, _log, tables_disk)) = with_two_disks(&scenario, 200, 48) else { return };
    primary.set("state_wal_limit=4MB");
    primary.start();
    primary.query(CREATE_TABLE);
    let mut acknowledged = fill(&primary, 1);
    assert_eq!(count(&primary), acknowledged);
    let foreign = tables_disk.fill();
    primary.restart();
    assert_eq!(count(&primary), acknowledged);
    fs::remove_file(foreign).unwrap();
    tables_disk.resize(96);
    // There was no room for another reserve until now.
    let mut client = primary.client();
    wait::until("the reserve to be there", || {
        acknowledged += u64::from(insert(&mut client, 1_000_000 + acknowledged).is_ok());
        primary.dir().join("state/reserve").exists().then_some(())
    });
    acknowledged += fill(&primary, 2_000_000);
    assert_eq!(count(&primary), acknowledged);
    primary.stop();
}

#[test]
fn a_statement_that_filled_the_disk_gives_its_room_back() {
    let scenario = Scenario::new("full-statement");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 80) else { return };
    let mut primary = Node::init(&scenario, "disk/primary", &["--wal-segsize", "1MB"]);
    primary.set("write_statement_timeout=60s");
    // The changes of a transaction are written out when they exceed a quarter of it.
    primary.set("statement_memory_limit=16MB");
    primary.start();
    primary.query(CREATE_TABLE);
    let huge = "INSERT INTO big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
                SELECT i, hex(zeroblob(50000)) FROM n";
    let error = primary.error(huge);
    assert_eq!(error.sqlstate, "53100", "{error}");
    wait_writable(&primary, 1);
    let left = || sys::file::available_bytes(disk.path()).unwrap();
    // Between two transactions, which may be after the next write was acknowledged.
    wait::until("the room to be given back", || (left() > 40 << 20).then_some(()));
    assert_eq!(count(&primary), 1);
    primary.stop();
}

#[test]
fn a_standby_whose_disk_is_full_holds_up_itself_alone() {
    let scenario = Scenario::new("full-standby");
    let Some(disk) = SmallDisk::mount(&scenario.path("disk"), 48) else { return };
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query(CREATE_TABLE);
    let mut standby = Node::clone_of(&scenario, "disk/standby", &primary);
    standby.start();
    let mut client = primary.client();
    for id in 0..600 {
        insert(&mut client, id).unwrap();
    }
    standby.wait_log("No space left on device");
    assert_eq!(count(&primary), 600);
    count(&standby);
    disk.resize(400);
    let mut cluster = Cluster { primary, standby };
    cluster.assert_equal(&["big"]);
    assert_eq!(cluster.standby.crash_restarts(), 0);
    cluster.stop();
}

#[test]
fn a_standby_that_had_no_room_for_a_moment_needs_nobody_to_go_on() {
    let scenario = Scenario::in_memory("full-for-a-moment");
    let mut primary = Node::init(&scenario, "primary", &[]);
    primary.start();
    primary.query(CREATE_TABLE);
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    let file = scenario.path("points");
    let board = sys::failpoint::map(&file).unwrap();
    standby.failpoints = Some(file);
    standby.start();
    primary.query("CHECKPOINT");
    standby.wait_level_with(&primary);
    // A restart point finds no room for the control file, and uses the reserve.
    board.arm(Point { site: Site::SmallFileSync, moment: Moment::After }, Action::Enospc, 1, &[]);
    standby.query("CHECKPOINT");
    standby.wait_log("replay waits until there is room");
    // It comes meanwhile, and nothing comes after it.
    insert(&mut primary.client(), 1).unwrap();
    standby.wait_level_with(&primary);
    standby.stop();
    primary.stop();
}

#[test]
fn a_standby_whose_tables_have_no_room_goes_on_receiving() {
    let scenario = Scenario::new("full-standby-tables");
    let Some(disk) = SmallDisk::mount(&scenario.path("tables"), 40) else { return };
    let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
    primary.start();
    primary.query(CREATE_TABLE);
    let mut standby = Node::clone_of(&scenario, "standby", &primary);
    move_to(&standby.dir().join("state"), &scenario.path("tables/state"));
    standby.set("state_wal_limit=4MB");
    standby.start();
    let mut client = primary.client();
    for id in 0..500 {
        insert(&mut client, id).unwrap();
    }
    standby.wait_log("replay waits until there is room");
    // Also over the end of its walreceiver.
    primary.restart();
    standby.set(&format!("primary_conninfo={}", primary.conninfo("standby")));
    let end = primary.lsn("pg_current_wal_flush_lsn");
    wait::until("the log to come in", || (standby.lsn("pg_last_wal_receive_lsn") >= end).then_some(()));
    assert!(standby.lsn("pg_last_wal_replay_lsn") < end);
    standby.stop();
    disk.resize(200);
    standby.start();
    let mut cluster = Cluster { primary, standby };
    cluster.assert_equal(&["big"]);
    cluster.stop();
}
