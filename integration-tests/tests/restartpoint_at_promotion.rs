//! A restart point that is under way when a standby is promoted takes nothing of the promotion back, and a crash right after
//! both finds the new timeline and every row.
//!
//! PostgreSQL's scenario 041_checkpoint_at_promote. The checkpointer of a standby with failpoints is held where it is about to
//! write the control file, and let go when the node has become a primary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failpoint::{Action, Moment, Point, Site};
use integration_tests::cluster::Cluster;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

#[test]
fn control_file_keeps_the_timeline_of_the_promotion() {
    let scenario = Scenario::new("restartpoint-at-promotion");
    let mut cluster = Cluster::start(&scenario);
    cluster.primary.query("CREATE TABLE t(id integer PRIMARY KEY)");
    cluster.wait_caught_up();
    let standby = &mut cluster.standby;
    standby.stop();
    let file = scenario.path("points");
    let board = sys::failpoint::map(&file).unwrap();
    standby.failpoints = Some(file);
    standby.start();
    cluster.wait_streaming();
    // A checkpoint to make a restart point of, and rows behind it.
    cluster.primary.query("INSERT INTO t VALUES (1)");
    cluster.primary.query("CHECKPOINT");
    cluster.primary.query("INSERT INTO t VALUES (2)");
    cluster.wait_caught_up();

    let standby = &mut cluster.standby;
    let point = Point { site: Site::CheckpointControl, moment: Moment::Before };
    board.arm(point, Action::Pause, 1, &[]);
    let mut client = standby.client();
    client.send_query("CHECKPOINT").unwrap();
    let checkpointer = wait::until("the restart point to be held", || board.done_by(point));
    cluster.primary.kill_all();
    standby.promote();
    standby.query("INSERT INTO t VALUES (3)");
    process::kill(Pid(checkpointer), Signal::Cont).unwrap();
    assert_eq!(client.read_answer().unwrap().tags, ["CHECKPOINT"]);
    standby.query("INSERT INTO t VALUES (4)");
    standby.kill_all();

    standby.failpoints = None;
    standby.start();
    assert_eq!(standby.value("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(standby.rows("SELECT id FROM t ORDER BY id"), [["1"], ["2"], ["3"], ["4"]]);
    let segment = standby.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    assert!(segment.starts_with("00000002"), "{segment}");
    standby.query("INSERT INTO t VALUES (5)");
    standby.stop();
}
