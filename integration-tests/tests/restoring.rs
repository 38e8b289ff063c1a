//! A standby gets its log from the archive: alone, before it streams, and while its upstream is gone.
//!
//! Method: a primary with segments of 1 MB that archives by cp; standbys whose restore_command reads that archive, or hangs,
//! or brings what is no segment.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use integration_tests::cluster::Cluster;
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::Pid;

const COPY: &str = "cp ../archive/%f %p";

struct Archive {
    scenario: Scenario,
    dir: PathBuf,
}

impl Archive {
    /// An archive, and a primary that fills it and runs.
    fn new(name: &str) -> (Archive, Node) {
        let scenario = Scenario::new(name);
        let dir = scenario.path("archive");
        fs::create_dir(&dir).unwrap();
        let mut primary = Node::init(&scenario, "primary", &["--wal-segsize", "1MB"]);
        primary.set("archive_mode=on");
        primary.set("archive_command=cp %p ../archive/.%f && mv ../archive/.%f ../archive/%f");
        primary.start();
        primary.query("CREATE TABLE t(id integer PRIMARY KEY, filler text)");
        (Archive { scenario, dir }, primary)
    }

    /// A standby that restores by `command`; not started.
    fn standby(&self, primary: &Node, command: &str) -> Node {
        let mut standby = Node::clone_of(&self.scenario, "standby", primary);
        standby.set(&format!("restore_command={command}"));
        standby
    }

    /// Inserts a row and closes its segment; returns when that is in the archive.
    fn archive_row(&self, primary: &Node, id: u32) -> PathBuf {
        primary.query(&format!("INSERT INTO t VALUES ({id}, '{}')", "f".repeat(20_000)));
        let path = self.dir.join(primary.value("SELECT pg_walfile_name(pg_switch_wal())"));
        wait::until("the segment to be archived", || path.exists().then_some(()));
        path
    }
}

fn wait_rows(standby: &Node, rows: u32) {
    let found = wait::within(wait::DEADLINE, || {
        // The table itself may be on its way.
        let answer = standby.try_client().ok()?.query("SELECT count(*) FROM t").ok()?;
        (answer.rows == [[Some(rows.to_string())]]).then_some(())
    });
    found.unwrap_or_else(|| panic!("never {rows} rows:\n{}", standby.log_tail()));
}

#[test]
fn standby_follows_from_the_archive_alone() {
    let (archive, mut primary) = Archive::new("restore-alone");
    let mut standby = archive.standby(&primary, &format!("{COPY} && echo %f %p %r >> ../asked"));
    // The clone ended with its segment: this is in the next.
    archive.archive_row(&primary, 1);
    standby.set("primary_conninfo=");
    standby.start();
    wait_rows(&standby, 1);
    for id in 2..6 {
        archive.archive_row(&primary, id);
        wait_rows(&standby, id);
    }
    assert!(!standby.log().contains("started streaming"), "{}", standby.log_tail());
    standby.wait_log("restored log file \"000000010000000000000002\" from archive");
    let asked = fs::read_to_string(archive.scenario.path("asked")).unwrap();
    assert_eq!(
        asked.lines().next().unwrap(),
        "000000010000000000000002 pg_wal/RECOVERYXLOG 000000010000000000000001"
    );
    // What was restored is a part of the log, byte for byte, and has its status.
    for entry in fs::read_dir(&archive.dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let own = standby.dir().join("pg_wal").join(&name);
        assert!(fs::read(archive.dir.join(&name)).unwrap() == fs::read(own).unwrap(), "{name} differs");
        assert!(standby.dir().join(format!("pg_wal/archive_status/{name}.done")).exists(), "{name}");
    }
    // A restart, also after a crash, needs nothing that it has already.
    standby.kill_all();
    standby.start();
    wait_rows(&standby, 5);
    archive.archive_row(&primary, 6);
    wait_rows(&standby, 6);
    let waits = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
    wait::until("the wait to be shown", || {
        (standby.rows(waits) == [["Activity", "RecoveryWalStream"]]).then_some(())
    });
    standby.stop();
    // A clean stop of the primary archives the last segment too.
    primary.query("INSERT INTO t VALUES (7, 'the last')");
    primary.stop();
    standby.start();
    wait_rows(&standby, 7);
    standby.stop();
}

#[test]
fn standby_falls_back_to_the_archive_and_returns_to_streaming() {
    let (archive, primary) = Archive::new("restore-fallback");
    let mut standby = archive.standby(&primary, COPY);
    standby.start();
    let mut cluster = Cluster { primary, standby };
    cluster.wait_streaming();
    cluster.primary.query("INSERT INTO t VALUES (1, 'streamed')");
    wait_rows(&cluster.standby, 1);

    // The standby misses two segments and meets no primary.
    cluster.standby.stop();
    archive.archive_row(&cluster.primary, 2);
    archive.archive_row(&cluster.primary, 3);
    cluster.primary.stop();
    cluster.standby.start();
    wait_rows(&cluster.standby, 3);
    cluster.standby.wait_log("could not connect to the primary server");

    // The primary comes back.
    cluster.primary.start();
    cluster.wait_streaming();
    cluster.primary.query("INSERT INTO t VALUES (4, 'streamed again')");
    wait_rows(&cluster.standby, 4);

    // It goes while the standby runs; what it has archived at its stop is found there, or was streamed before.
    cluster.primary.query("INSERT INTO t VALUES (5, 'last')");
    cluster.primary.stop();
    wait_rows(&cluster.standby, 5);
    cluster.primary.start();
    cluster.wait_streaming();
    cluster.assert_equal(&["t"]);
    cluster.stop();
}

#[test]
fn hanging_restore_command_holds_up_neither_readers_nor_a_stop() {
    let (archive, mut primary) = Archive::new("restore-hangs");
    // Hangs at the end of the archive: at once after a file whose rows are put, and may not be committed yet.
    let hang = "sleep 100000 & echo $$ $! > ../new; mv ../new ../hung; wait";
    let command = format!("if test -e ../archive/%f; then cp ../archive/%f %p; else {hang}; fi");
    let mut standby = archive.standby(&primary, &command);
    standby.set("primary_conninfo=");
    archive.archive_row(&primary, 1);
    standby.start();
    let hung = archive.scenario.path("hung");
    let text = wait::until("the command to hang", || fs::read_to_string(&hung).ok());
    let pids: Vec<Pid> = text.split_whitespace().map(|pid| Pid(pid.parse().unwrap())).collect();
    wait_rows(&standby, 1);
    archive.archive_row(&primary, 2);
    assert_eq!(standby.value("SELECT count(*) FROM t"), "1");
    let waits = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
    wait::until("the wait to be shown", || {
        (standby.rows(waits) == [["IPC", "RestoreCommand"]]).then_some(())
    });
    standby.stop();
    wait::until("the command to be gone", || pids.iter().all(|pid| !procfs::runs(*pid)).then_some(()));
    standby.start();
    wait_rows(&standby, 2);
    standby.stop();
    primary.stop();
}

#[test]
fn command_that_cannot_be_run_and_a_file_that_is_too_long_are_fatal() {
    let (archive, mut primary) = Archive::new("restore-fatal");
    let mut standby = archive.standby(&primary, "no-such-command-anywhere %f %p");
    let name = archive.archive_row(&primary, 1).file_name().unwrap().to_str().unwrap().to_owned();
    standby.spawn();
    assert_eq!(standby.wait_end(), Some(1));
    standby.wait_log(&format!("FATAL:  could not restore file \"{name}\" from archive: command not found"));
    standby.set("restore_command=cat ../archive/%f ../archive/%f > %p");
    standby.spawn();
    assert_eq!(standby.wait_end(), Some(1));
    standby.wait_log(&format!("FATAL:  archive file \"{name}\" has wrong size: 2097152 instead of 1048576"));

    // One that is too short may be on its way into the archive: the upstream is asked.
    standby.set("restore_command=head -c 1000 ../archive/%f > %p");
    standby.start();
    wait_rows(&standby, 1);
    assert!(standby.log().contains("started streaming"));
    standby.stop();
    primary.stop();
}

#[test]
fn damaged_file_in_the_archive_is_streamed_instead() {
    let (archive, primary) = Archive::new("restore-damaged");
    let mut standby = archive.standby(&primary, COPY);
    let path = archive.archive_row(&primary, 1);
    let mut bytes = fs::read(&path).unwrap();
    // In the middle of the row.
    let at = bytes.windows(100).position(|window| window == [b'f'; 100]).unwrap() + 5000;
    bytes[at] = b'g';
    fs::write(&path, bytes).unwrap();
    standby.start();
    wait_rows(&standby, 1);
    let log = standby.log();
    assert!(log.contains("restored log file") && log.contains("fetching it again"), "{}", standby.log_tail());
    let mut cluster = Cluster { primary, standby };
    cluster.wait_streaming();
    archive.archive_row(&cluster.primary, 2);
    cluster.assert_equal(&["t"]);
    cluster.stop();
}
