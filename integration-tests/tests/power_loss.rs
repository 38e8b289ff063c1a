//! Over any power loss at any moment, recovery ends with all acknowledged rows and none that was never written, log and
//! tables cut alike; and what must be on disk before something else is.
//!
//! Method: `integration_tests::disk`. A short cut of `torture -- images`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io;
use std::path::Path;

use failpoint::{Action, Moment, Point, Site};
use integration_tests::disk::campaign::{self, Plan, Tally};
use integration_tests::disk::history::Rows;
use integration_tests::disk::image::{Image, Survival};
use integration_tests::disk::model::{Disk, read_tree};
use integration_tests::disk::orders::ORDERS;
use integration_tests::disk::recorder::{self, Maker, Recorder, Syncs};
use integration_tests::disk::trace::{Call, Operation};
use integration_tests::disk::verify::{Depth, Trial, control_numbers};
use integration_tests::node::{Node, Role};
use integration_tests::random::seeds;
use integration_tests::scenario::{Scenario, skip};
use integration_tests::wait;
use wal::lsn::Lsn;

fn run(seed: u64, workloads: u64, images: usize) -> Tally {
    campaign::run(&Plan { seed, workloads, images }, &mut io::sink())
        .unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_node_recovers_from_every_disk_that_a_power_loss_could_leave() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let images: u64 = seeds(&[1, 2]).into_iter().map(|seed| run(seed, 1, 8).images).sum();
    assert!(images > 8, "{images}");
}

#[test]
fn a_data_directory_whose_parents_are_new_is_found_after_a_power_loss() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let scenario = Scenario::new("new-parents");
    let scope = scenario.path("scope");
    fs::create_dir(&scope).unwrap();
    let mut disk = Disk::new(&read_tree(&scope).unwrap());
    let trace =
        recorder::make(&Maker::Init, &scope.join("a/b/data"), &scope, &scenario.path("init.trace")).unwrap();
    disk.live(&trace, &scope).unwrap();
    let left = Image::of(&disk, Survival::Nothing).files;
    assert!(left.contains_key(Path::new("a/b/data/control")), "{:?}", left.keys());
}

#[test]
fn what_must_be_on_disk_before_something_else_is() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    // Until every order has met its case; the first of them has a standby.
    let mut orders = std::collections::BTreeSet::new();
    for seed in seeds(&[2, 100, 106, 115, 120]) {
        orders.extend(run(seed, 1, 0).orders.looked.into_keys());
        if orders.len() == ORDERS.len() {
            return;
        }
    }
    let never: Vec<_> = ORDERS.iter().filter(|order| !orders.contains(order)).collect();
    panic!("never met: {never:?}");
}

#[test]
fn architecture_tells_of_every_order() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md")).unwrap();
    let (_, orders) = page.split_once("## On disk, in this order").unwrap();
    let untold: Vec<_> = ORDERS.iter().filter(|order| !orders.contains(&format!("`{order:?}`"))).collect();
    assert!(untold.is_empty(), "{untold:?}");
}

/// The last checkpoint in the control file of a node.
fn checkpoint(node: &Node) -> Lsn {
    control_numbers(&fs::read(node.dir().join("control")).unwrap()).unwrap().0
}

/// Logs more than a segment, but by other processes than the one that writes the tables, and until there was a checkpoint or
/// the node has gone; whether it is still there.
fn until_next_checkpoint(node: &Node) -> bool {
    let before = checkpoint(node);
    let mut messages = 0;
    wait::until("a checkpoint", || {
        let message = "SELECT pg_logical_emit_message(true, 'test', hex(zeroblob(100000)))";
        let gone = node.try_client().and_then(|mut client| client.query(message)).is_err();
        messages += 1;
        (gone || messages > 10 && checkpoint(node) > before).then_some(!gone)
    })
}

/// The drop of a slot is killed when its directory has another name, which is not durable yet. The next start empties it: that must
/// not become durable before the name does.
#[test]
fn slot_whose_drop_was_cut_short_is_whole_or_gone_after_a_power_loss() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let scenario = Scenario::new("dropped-slot");
    let mut node = Node::init(&scenario, "primary/data", &["--wal-segsize", "1MB"]);
    node.set("restart_after_crash=off");
    let scope = scenario.path("primary");
    let mut disk = Disk::new(&read_tree(&scope).unwrap());
    let mut recorder = Recorder::new(&scope, scenario.root());
    let points = scenario.path("points");
    let board = sys::failpoint::map(&points).unwrap();
    node.failpoints = Some(points);
    recorder.record(&mut node, Syncs::Usual);
    node.start();
    node.query("SELECT pg_create_physical_replication_slot('s', true)");
    let point = Point { site: Site::SlotRemove, moment: Moment::After };
    board.arm(point, Action::Kill, 1, &[]);
    assert!(node.client().query("SELECT pg_drop_replication_slot('s')").is_err());
    node.wait_end();
    disk.live(&recorder.life().unwrap(), &scope).unwrap();

    node.failpoints = None;
    recorder.record(&mut node, Syncs::Usual);
    node.start();
    node.kill_all();
    let trial = Trial::new(&scenario, Role::Primary, Depth::default());
    let mut images = 0;
    for (moment, operation) in recorder.life().unwrap().events() {
        if moment == operation.begin {
            disk.begin(operation).unwrap();
            continue;
        }
        disk.end(operation);
        if !matches!(&operation.call, Call::Remove { path } if path.starts_with("data/pg_replslot")) {
            continue;
        }
        for seed in 0..8 {
            let survival = Survival::Some {
                seed,
                bytes_percent: 100,
                names_percent: 50,
                torn: false,
                beyond: None,
                flips: false,
            };
            let image = Image::of(&disk, survival);
            trial
                .run(&image, &|_| Ok(()), Lsn::INVALID)
                .unwrap_or_else(|error| panic!("{error}\n{}", image.fates));
            images += 1;
        }
    }
    assert!(images > 0, "nothing was left of the slot");
}

#[test]
fn what_a_failed_sync_of_the_tables_log_has_dropped_is_written_again_by_recovery() {
    if let Some(why) = recorder::unavailable() {
        return skip(&why);
    }
    let scenario = Scenario::new("dropped-tables-log");
    let mut node = Node::init(&scenario, "primary/data", &["--wal-segsize", "1MB"]);
    node.set("checkpoint_timeout=1s");
    node.set("restart_after_crash=off");
    let scope = scenario.path("primary");
    let mut disk = Disk::new(&read_tree(&scope).unwrap());
    let mut recorder = Recorder::new(&scope, scenario.root());

    // Each checkpoint syncs the tables' log, then its record: the fifth sync is the third checkpoint's of the tables' log.
    // The process that writes the tables syncs once for each statement, so it gets three.
    recorder.record(&mut node, Syncs::Failing { call: "fdatasync", number: 5 });
    node.start();
    node.query("CREATE TABLE c(n integer PRIMARY KEY, k text, body text)");
    assert!(until_next_checkpoint(&node), "{}", node.log_tail());
    node.query("INSERT INTO c VALUES (1, '0.1.0', 'v0.1.')");
    assert_eq!(node.value("SELECT count(*) FROM c"), "1");
    while until_next_checkpoint(&node) {}
    node.wait_end();
    assert!(node.log().contains("PANIC:  could not fdatasync file"), "{}", node.log_tail());
    disk.live(&recorder.life().unwrap(), &scope).unwrap();

    // The first checkpoint of the next life copies the tables' log into the tables. The power fails before that is synced:
    // some pages are there, others not, and the log has to have them all.
    recorder.record(&mut node, Syncs::Usual);
    node.start();
    assert!(until_next_checkpoint(&node), "{}", node.log_tail());
    node.kill_all();
    let life = recorder.life().unwrap();
    let is_copied =
        |operation: &Operation| operation.call == Call::Sync { path: "data/state/state.db".into() };
    for (moment, operation) in life.events() {
        if moment == operation.begin {
            disk.begin(operation).unwrap();
        } else if is_copied(operation) {
            break;
        } else {
            disk.end(operation);
        }
    }
    let trial = Trial::new(&scenario, Role::Primary, Depth::default());
    let key = ("c".to_owned(), "0.1.0".to_owned());
    let row_is_there =
        |rows: &Rows| if rows.contains_key(&key) { Ok(()) } else { Err("the row is lost".to_owned()) };
    for seed in 0..12 {
        let survival = Survival::Some {
            seed,
            bytes_percent: 50,
            names_percent: 100,
            torn: false,
            beyond: None,
            flips: false,
        };
        let image = Image::of(&disk, survival);
        trial
            .run(&image, &row_is_there, Lsn::INVALID)
            .unwrap_or_else(|error| panic!("{error}\n{}", image.fates));
    }
}
