//! The archive: what is complete gets there, in order and once, and an archive command that fails, hangs or crashes
//! hurts nobody.
//!
//! Method: real nodes with segments of 1 MB and shell commands as archive_command. Some commands write down what they were
//! called with; one that hangs reads a FIFO that nobody writes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::commands::pg_waldump;
use integration_tests::load::{self, Load};
use integration_tests::node::Node;
use integration_tests::procfs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

/// Copies a file as the manual advises: refuses to overwrite, and appears under its name only whole.
const COPY: &str = "test ! -f ../archive/%f && cp %p ../archive/.%f && mv ../archive/.%f ../archive/%f";

struct Archive {
    scenario: Scenario,
    dir: PathBuf,
}

impl Archive {
    fn new(name: &str) -> Archive {
        let scenario = Scenario::new(name);
        let dir = scenario.path("archive");
        fs::create_dir(&dir).unwrap();
        Archive { scenario, dir }
    }

    fn names(&self) -> Vec<String> {
        names(&self.dir)
    }

    /// A primary that archives by `command`; not started.
    fn primary(&self, command: &str) -> Node {
        let mut node = Node::init(&self.scenario, "primary", &["--wal-segsize", "1MB"]);
        node.set("archive_mode=on");
        node.set(&format!("archive_command={command}"));
        node
    }

    fn wait_archived(&self, node: &Node, name: &str) {
        let path = self.dir.join(name);
        wait::within(wait::DEADLINE, || path.exists().then_some(()))
            .unwrap_or_else(|| panic!("{name} was never archived: {:?}\n{}", self.names(), node.log_tail()));
    }
}

/// Names of the files in a directory, in order; those that begin with a dot are not complete yet.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn statuses(node: &Node, suffix: &str) -> Vec<String> {
    let all = names(&node.dir().join("pg_wal/archive_status"));
    all.iter().filter_map(|name| name.strip_suffix(suffix)).map(str::to_owned).collect()
}

/// The name of the segment that is being written, then closes it.
fn switch(node: &Node) -> String {
    node.value("SELECT pg_walfile_name(pg_switch_wal())")
}

fn segment(number: u32) -> String {
    format!("0000000100000000{number:08X}")
}

#[test]
fn segments_reach_the_archive_in_order_and_pg_waldump_reads_them() {
    let archive = Archive::new("archive-order");
    let mut node = archive.primary(&format!("{COPY} && echo %f >> ../archive/.order"));
    node.start();
    node.query(load::CREATE_TABLE);
    let mut load = Load::new(4);
    load.connect(&node);
    while archive.names().len() < 4 {
        load.rounds(200);
    }
    load.disconnect();
    node.query(&format!("SELECT pg_logical_emit_message(true, 'long', '{}')", "y".repeat(900_000)));
    let last = switch(&node);
    archive.wait_archived(&node, &last);
    let archived = archive.names();
    wait::until("the status files", || (statuses(&node, ".done") == archived).then_some(()));
    let order = fs::read_to_string(archive.dir.join(".order")).unwrap();
    assert_eq!(order.lines().collect::<Vec<_>>(), archived, "oldest first, each once");
    assert_eq!(archived, (1..=archived.len()).map(|n| segment(n as u32)).collect::<Vec<_>>());
    assert!(statuses(&node, ".ready").is_empty());
    for name in &archived {
        let theirs = fs::read(archive.dir.join(name)).unwrap();
        assert!(theirs == fs::read(node.dir().join("pg_wal").join(name)).unwrap(), "{name} differs");
    }
    let said = pg_waldump(&archive.dir, "0/100028");
    assert!(said.out.lines().count() > 1000 && said.out.contains("SWITCH"), "{}", said.err);

    let row = &node.rows("SELECT * FROM pg_stat_archiver")[0];
    assert_eq!((row[0].as_str(), row[1].as_str()), (archived.len().to_string().as_str(), last.as_str()));
    assert!(
        row[2].starts_with("20") && row[3] == "0" && row[4] == "NULL" && row[6].starts_with("20"),
        "{row:?}"
    );
    let waits = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'archiver'";
    assert_eq!(node.rows(waits), [["Activity", "ArchiverMain"]]);

    // The stop closes the segment; the shutdown checkpoint goes into the next.
    node.query("CREATE TABLE last(x)");
    node.stop();
    assert_eq!(archive.names().len(), archived.len() + 1);
    let said = pg_waldump(&archive.dir, "0/100028");
    assert!(!said.out.contains("CHECKPOINT_SHUTDOWN"), "{}", said.err);
    node.start();
    node.stop();
    let first = fs::read(archive.dir.join(segment(1))).unwrap();
    assert!(first == fs::read(node.dir().join("pg_wal").join(segment(1))).unwrap());
}

#[test]
fn segments_of_the_time_before_the_archive_are_made_up_for() {
    let archive = Archive::new("archive-late");
    let mut node = Node::init(&archive.scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    node.query("CREATE TABLE t(x)");
    let before: Vec<String> = (0..3)
        .map(|x| {
            node.query(&format!("INSERT INTO t VALUES ({x})"));
            switch(&node)
        })
        .collect();
    assert!(statuses(&node, ".ready").is_empty(), "a node that doesn't archive keeps no books");
    node.kill_all();
    node.set("archive_mode=on");
    node.set(&format!("archive_command={COPY}"));
    node.start();
    before.iter().for_each(|name| archive.wait_archived(&node, name));
    assert_eq!(archive.names(), before);
    node.stop();
}

#[test]
fn failing_command_is_tried_again_and_said_and_the_node_goes_on() {
    let archive = Archive::new("archive-fails");
    let mut node = archive.primary(&format!("test -e ../archive/.open && {COPY}"));
    node.start();
    node.query("CREATE TABLE t(x)");
    let first = switch(&node);
    node.wait_log("archive command failed with exit code 1");
    node.wait_log(&format!(
        "DETAIL:  The failed archive command was: test -e ../archive/.open && test ! -f ../archive/{first}"
    ));
    node.wait_log(&format!(
        "WARNING:  archiving write-ahead log file \"{first}\" failed too many times, will try again later"
    ));
    assert_eq!(node.log().matches("archive command failed").count(), 3);
    let row = &node.rows("SELECT archived_count, failed_count, last_failed_wal FROM pg_stat_archiver")[0];
    assert_eq!(row, &["0", "3", first.as_str()]);
    node.query("INSERT INTO t VALUES (1)");
    assert_eq!(statuses(&node, ".ready"), std::slice::from_ref(&first));
    // The next segment wakes the archiver, which begins with the oldest.
    fs::write(archive.dir.join(".open"), "").unwrap();
    let second = switch(&node);
    archive.wait_archived(&node, &second);
    assert_eq!(archive.names(), [first, second]);
    node.stop();
}

#[test]
fn command_that_a_signal_ends_ends_the_archiver_and_a_new_one_archives() {
    let archive = Archive::new("archive-signal");
    let mut node = archive.primary(&format!(
        "if test -e ../archive/.crashed; then {COPY}; else touch ../archive/.crashed; kill -KILL $$; fi"
    ));
    node.start();
    let archiver = node.process("archiver");
    let name = switch_with_a_row(&node);
    node.wait_log("FATAL:  archive command was terminated by signal 9: Killed");
    archive.wait_archived(&node, &name);
    assert_ne!(node.process("archiver"), archiver);
    node.stop();
}

fn switch_with_a_row(node: &Node) -> String {
    node.query("CREATE TABLE IF NOT EXISTS t(x)");
    node.query("INSERT INTO t VALUES (1)");
    switch(node)
}

/// A command that says its process' and its child's pid, and hangs.
const HANG: &str = "sleep 100000 & echo $$ $! > ../archive/.hung; mv ../archive/.hung ../archive/hung; wait";

fn hung(archive: &Archive) -> Vec<Pid> {
    let path = archive.dir.join("hung");
    let text = wait::until("the command to hang", || fs::read_to_string(&path).ok());
    let pids: Vec<Pid> = text.split_whitespace().map(|pid| Pid(pid.parse().unwrap())).collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| procfs::runs(*pid)));
    pids
}

fn wait_gone(pids: &[Pid]) {
    wait::until("the command's processes to be gone", || {
        pids.iter().all(|pid| !procfs::runs(*pid)).then_some(())
    });
}

#[test]
fn hanging_command_does_not_hold_up_the_node_nor_its_fast_shutdown() {
    let archive = Archive::new("archive-hangs");
    let mut node = archive.primary(HANG);
    node.set("archiver_shutdown_timeout=200ms");
    node.start();
    let name = switch_with_a_row(&node);
    let pids = hung(&archive);
    let waits = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'archiver'";
    wait::until("the wait to be shown", || (node.rows(waits) == [["IPC", "ArchiveCommand"]]).then_some(()));
    node.query("INSERT INTO t VALUES (2)");
    node.stop();
    wait_gone(&pids);
    assert!(node.log().contains(&format!("\"{name}\" was cut short by the shutdown")), "{}", node.log_tail());
    assert!(node.log().contains("database system is shut down"));
    // Nothing is lost: the next start archives it.
    node.set(&format!("archive_command={COPY}"));
    node.start();
    archive.wait_archived(&node, &name);
    node.stop();
}

#[test]
fn hanging_command_goes_with_an_immediate_shutdown() {
    let archive = Archive::new("archive-immediate");
    let mut node = archive.primary(HANG);
    node.start();
    switch_with_a_row(&node);
    let pids = hung(&archive);
    node.signal(Signal::Quit);
    assert_eq!(node.wait_end(), Some(0));
    wait_gone(&pids);
}

#[test]
fn hanging_command_goes_with_a_killed_archiver_and_with_a_killed_postmaster() {
    let archive = Archive::new("archive-killed");
    let mut node = archive.primary(HANG);
    node.set("restart_after_crash=off");
    node.start();
    switch_with_a_row(&node);
    let pids = hung(&archive);
    let archiver = node.process("archiver");
    process::kill(archiver, Signal::Kill).unwrap();
    assert_eq!(node.wait_end(), Some(1), "a crash stops the node");
    node.wait_log(&format!("archiver process (PID {archiver}) was terminated by signal 9: Killed"));
    wait_gone(&pids);

    fs::remove_file(archive.dir.join("hung")).unwrap();
    node.start();
    let pids = hung(&archive);
    node.kill();
    wait_gone(&pids);
}

#[test]
fn mode_without_a_command_keeps_what_is_ready() {
    let archive = Archive::new("archive-unset");
    let mut node = archive.primary("");
    node.start();
    let name = switch_with_a_row(&node);
    node.wait_log("WARNING:  archive_mode enabled, yet archiving is not configured");
    assert_eq!(statuses(&node, ".ready"), std::slice::from_ref(&name));
    node.stop();
    node.set(&format!("archive_command={COPY}"));
    node.start();
    archive.wait_archived(&node, &name);
    node.stop();
}

#[test]
fn status_of_a_file_that_is_gone_is_removed() {
    let archive = Archive::new("archive-orphan");
    let mut node = archive.primary(COPY);
    let status = node.dir().join("pg_wal/archive_status");
    let orphan = status.join("0000000100000000000000FF.ready");
    fs::write(&orphan, "").unwrap();
    // What is no file of the log is not handed to a shell.
    let other = status.join("$(touch pwned).ready");
    fs::write(&other, "").unwrap();
    node.start();
    node.wait_log(
        "removed orphan archive status file \"pg_wal/archive_status/0000000100000000000000FF.ready\"",
    );
    let name = switch_with_a_row(&node);
    archive.wait_archived(&node, &name);
    assert!(!orphan.exists() && other.exists());
    assert_eq!(archive.names(), [name]);
    node.stop();
}

#[test]
fn history_files_go_first() {
    let archive = Archive::new("archive-history");
    let mut node = archive.primary(&format!("{COPY} && echo %f >> ../archive/.order"));
    node.set("archive_command=");
    node.start();
    let name = switch_with_a_row(&node);
    node.wait_log("archiving is not configured");
    node.stop();
    let left = statuses(&node, ".ready");
    assert_eq!(left[0], name);
    // A history file without a status, as a crash may leave it.
    fs::write(node.dir().join("pg_wal/00000009.history"), "1\t0/200000\tno recovery target specified\n")
        .unwrap();
    node.settings.pop();
    node.start();
    archive.wait_archived(&node, &left[left.len() - 1]);
    wait::until("the status files", || statuses(&node, ".ready").is_empty().then_some(()));
    let order = fs::read_to_string(archive.dir.join(".order")).unwrap();
    let mut expected = vec!["00000009.history".to_owned()];
    expected.extend(left);
    assert_eq!(order.lines().collect::<Vec<_>>(), expected);
    node.stop();
}

#[test]
fn archive_timeout_closes_a_segment_once_and_only_when_something_was_logged() {
    let archive = Archive::new("archive-timeout");
    let mut node = archive.primary(COPY);
    node.set("archive_timeout=1s");
    node.set("checkpoint_timeout=1s");
    node.start();
    node.query("CREATE TABLE t(x)");
    let row_segment = node.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
    archive.wait_archived(&node, &row_segment);
    // What the start and the checkpoint after the row have logged takes a segment more or two; then it is quiet.
    let mut count = 0;
    wait::until("archive_timeout to find nothing to do", || {
        let before = archive.names().len();
        wait::watch_for(std::time::Duration::from_millis(3500));
        count += 1;
        assert!(count < 4, "an idle node fills its archive: {:?}", archive.names());
        (archive.names().len() == before).then_some(())
    });
    node.stop();
}

#[test]
fn standby_archives_what_it_receives_only_when_it_always_archives() {
    for (mode, archives) in [("on", false), ("always", true)] {
        let archive = Archive::new(&format!("archive-{mode}"));
        let mut primary = Node::init(&archive.scenario, "primary", &["--wal-segsize", "1MB"]);
        primary.start();
        let mut standby = Node::clone_of(&archive.scenario, "standby", &primary);
        standby.set(&format!("archive_mode={mode}"));
        standby.set(&format!("archive_command={COPY}"));
        standby.start();
        let name = switch_with_a_row(&primary);
        wait::until("the standby's books", || statuses(&standby, ".done").contains(&name).then_some(()));
        assert_eq!(archive.names().contains(&name), archives, "{mode}");
        let archivers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'archiver'";
        assert_eq!(standby.value(archivers), if archives { "1" } else { "0" });
        standby.stop();
        primary.stop();
    }
}
