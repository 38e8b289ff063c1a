//! PostgreSQL's own pg_receivewal goes on where the files of its directory end, whatever it was interrupted by and in whichever
//! form they are: plain, gzip, lz4, and plain again; with --synchronous, and up to a position.
//!
//! The steps of its test 020_pg_receivewal that are about files; those about slots are in `pg_receivewal_slots.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::commands::{Said, finish, postgres_command};
use integration_tests::node::Node;
use integration_tests::scenario::Scenario;
use integration_tests::wait;
use sys::process::{self, Pid};
use sys::signal::Signal;

fn receivewal(node: &Node, arguments: &[&str]) -> Said {
    let mut command = postgres_command("pg_receivewal", node);
    command.args(arguments);
    finish(command.spawn().unwrap())
}

fn into(node: &Node, dir: &Path, endpos: &str, more: &[&str]) -> Said {
    let mut arguments = vec!["-D", dir.to_str().unwrap(), "--verbose", "--no-loop", "--endpos", endpos];
    arguments.extend(more);
    receivewal(node, &arguments).assert_success(&format!("pg_receivewal {more:?}"))
}

/// Completes a segment with a row in it; the position behind it, beyond which a row is then logged.
fn next_segment(node: &Node, id: u32) -> String {
    node.query("SELECT pg_switch_wal()");
    let end = node.value("SELECT pg_current_wal_insert_lsn()");
    node.query(&format!("INSERT INTO t VALUES ({id})"));
    end
}

/// Names of the files that end so, in order.
fn files(dir: &Path, end: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(end))
        .collect();
    names.sort();
    names
}

fn primary(scenario: &Scenario) -> (Node, PathBuf) {
    let mut node = Node::init(scenario, "primary", &["--wal-segsize", "1MB"]);
    node.start();
    node.query("CREATE TABLE t(id integer PRIMARY KEY)");
    let dir = scenario.path("received");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    (node, dir)
}

/// The bytes of a segment that was received in whatever form.
fn content(dir: &Path, name: &str) -> Vec<u8> {
    let path = dir.join(name);
    let unpack = match path.extension().and_then(|end| end.to_str()) {
        Some("gz") => "gzip",
        Some("lz4") => "lz4",
        _ => return fs::read(path).unwrap(),
    };
    let output = Command::new(unpack).arg("-dc").arg(&path).output().unwrap();
    assert!(output.status.success(), "{unpack}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let scenario = Scenario::new("receivewal-options");
    let (mut node, dir) = primary(&scenario);
    let dir = dir.to_str().unwrap();
    for wrong in [
        &[][..],
        &["-D", dir, "--create-slot", "--drop-slot"],
        &["-D", dir, "--create-slot"],
        &["-D", dir, "--synchronous", "--no-sync"],
        &["-D", dir, "--compress", "none:1"],
    ] {
        assert_eq!(receivewal(&node, wrong).status, Some(1), "{wrong:?}");
    }
    node.stop();
}

#[test]
fn each_run_completes_the_segment_that_the_one_before_has_begun() {
    let scenario = Scenario::new("receivewal-resumed");
    let (mut node, dir) = primary(&scenario);
    into(&node, &dir, &next_segment(&node, 1), &["--synchronous"]);
    let partial = files(&dir, ".partial");
    assert_eq!(partial.len(), 1, "one is begun: {partial:?}");
    let mut begun = partial[0].trim_end_matches(".partial").to_owned();
    // A run per form; each finds what the last one left, under its name.
    let mut complete = Vec::new();
    for (id, (form, end)) in
        (2..).zip([("gzip:1", ".gz"), ("lz4", ".lz4"), ("none", ""), ("gzip:9", ".gz"), ("none", "")])
    {
        if form == "lz4" && Command::new("lz4").arg("--version").output().is_err() {
            // Without the program nobody could look into the files.
            continue;
        }
        into(&node, &dir, &next_segment(&node, id), &["--compress", form]);
        let segment = begun.split('.').next().unwrap().to_owned();
        let name = format!("{segment}{end}");
        assert!(dir.join(&name).exists(), "{name} is complete after {form}: {:?}", files(&dir, ""));
        complete.push(name);
        begun = files(&dir, ".partial").pop().unwrap();
        assert!(begun.ends_with(&format!("{end}.partial")), "{begun} after {form}");
    }
    for name in &complete {
        let ours = node.dir().join("pg_wal").join(name.split('.').next().unwrap());
        assert!(content(&dir, name) == fs::read(ours).unwrap(), "{name} differs");
    }
    for name in files(&dir, "") {
        let mode = fs::metadata(dir.join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    node.stop();
}

/// pg_receivewal makes its files of their whole size before it writes to them; killed meanwhile it leaves one that it doesn't
/// take itself the next time.
fn remove_half_made(dir: &Path) {
    for name in files(dir, ".partial") {
        let path = dir.join(name);
        if fs::metadata(&path).unwrap().len() != 1 << 20 {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn interrupted_and_killed_runs_go_on_without_a_gap() {
    let scenario = Scenario::new("receivewal-interrupted");
    let (mut node, dir) = primary(&scenario);
    let mut id = 0;
    for signal in [Signal::Int, Signal::Kill, Signal::Int, Signal::Kill] {
        let mut command = postgres_command("pg_receivewal", &node);
        command.arg("-D").arg(&dir).args(["-n", "-s", "1", "--synchronous"]);
        let child = command.spawn().unwrap();
        let pid = Pid(i32::try_from(child.id()).unwrap());
        let before = files(&dir, "").len();
        wait::until("two more segments", || {
            id += 1;
            next_segment(&node, id);
            (files(&dir, "").len() >= before + 2).then_some(())
        });
        process::kill(pid, signal).unwrap();
        let said = finish(child);
        assert_eq!(said.status, (signal != Signal::Kill).then_some(0), "{}", said.err);
        remove_half_made(&dir);
    }
    // The node is restarted and killed meanwhile: the same.
    node.restart();
    into(&node, &dir, &next_segment(&node, id + 1), &[]);
    node.kill_all();
    node.start();
    into(&node, &dir, &next_segment(&node, id + 2), &["--synchronous"]);
    let complete: Vec<String> = files(&dir, "").into_iter().filter(|name| name.len() == 24).collect();
    let number = |name: &String| u64::from_str_radix(&name[8..], 16).unwrap();
    assert!(complete.windows(2).all(|pair| number(&pair[0]) + 1 == number(&pair[1])), "{complete:?}");
    for name in &complete {
        let ours = fs::read(node.dir().join("pg_wal").join(name)).unwrap();
        assert!(fs::read(dir.join(name)).unwrap() == ours, "{name} differs");
    }
    node.stop();
}
