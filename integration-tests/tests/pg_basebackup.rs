//! A node starts from what PostgreSQL's own pg_basebackup makes of a running one, in each of its variants, and has every
//! row that was acknowledged; PostgreSQL's pg_verifybackup finds nothing wrong with it.
//!
//! Method: pg_basebackup 15 from a primary (and from a standby) while eight clients insert; the directory is run as it
//! was written; the rows are compared.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use integration_tests::cluster::Cluster;
use integration_tests::commands::{Said, finish, postgres_command};
use integration_tests::load::{self, Load};
use integration_tests::node::{Node, Role};
use integration_tests::programs;
use integration_tests::scenario::Scenario;
use integration_tests::wait;

fn spawn(node: &Node, target: &Path, arguments: &[&str]) -> Child {
    let mut command = postgres_command("pg_basebackup", node);
    command.args(["-c", "fast", "-D"]).arg(target).args(arguments);
    command.spawn().unwrap()
}

/// A backup made while the load goes on.
fn backup(node: &Node, load: &mut Load, target: &Path, arguments: &[&str]) -> Said {
    let mut child = spawn(node, target, arguments);
    while child.try_wait().unwrap().is_none() {
        load.rounds(1);
    }
    let said = finish(child).assert_success("pg_basebackup");
    assert!(!said.err.contains("error:"), "{}", said.err);
    said
}

fn verify(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new(programs::postgres("pg_verifybackup"));
    // It runs pg_waldump, which it looks for beside itself.
    let output = command.env("LC_ALL", "C").args(arguments).arg(directory).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "backup successfully verified\n", "pg_verifybackup {arguments:?}");
    assert!(output.status.success());
}
/// Runs the copy as a standby and compares it with the primary.
fn run_standby(scenario: &Scenario, name: &str, primary: Node, load: &Load) -> Node {
    let mut standby = Node::at(scenario, name, Role::Standby);
    standby.start();
    let mut pair = Cluster { primary, standby };
    pair.assert_equal(&["acked"]);
    load.assert_all_on(&pair.standby);
    pair.standby.stop();
    pair.primary
}

#[test]
fn a_standby_starts_from_every_variant() {
    let scenario = Scenario::new("pg-basebackup");
    let (mut node, mut load) = load::on_primary(&scenario, &[]);
    let variants: [(&str, &[&str]); 7] = [
        ("fetch", &["-X", "fetch", "-R", "-P", "-v"]),
        ("stream", &["-X", "stream", "-R"]),
        ("slot", &["-X", "stream", "-R", "-C", "-S", "kept"]),
        ("no-slot", &["-X", "stream", "-R", "--no-slot"]),
        ("none", &["-X", "none", "-R", "--manifest-checksums=SHA256"]),
        ("slow", &["-X", "fetch", "-R", "-r", "20M", "--manifest-force-encode"]),
        ("tar", &["-X", "fetch", "-R", "-Ft", "-l", "my label"]),
    ];
    for (name, arguments) in variants {
        let target = scenario.path(name);
        let said = backup(&node, &mut load, &target, arguments);
        if name == "tar" {
            unpack(&target);
        }
        let conf = fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
        assert!(conf.contains("primary_conninfo = 'user=postgres"), "{conf}");
        let label = fs::read_to_string(target.join("backup_label")).unwrap();
        assert!(label.contains("\nBACKUP FROM: primary\n"), "{label}");
        assert_eq!(label.contains("\nLABEL: my label\n"), name == "tar", "{label}");
        assert_eq!(conf.contains("primary_slot_name = 'kept'"), name == "slot", "{conf}");
        match name {
            "none" => verify(&target, &["-n"]),
            _ => verify(&target, &[]),
        }
        if name == "fetch" {
            assert!(said.err.contains("(100%), 1/1 tablespace"), "{}", said.err);
            assert!(said.err.contains("write-ahead log end point: 0/"), "{}", said.err);
        }
        node = run_standby(&scenario, name, node, &load);
        assert!(target.join("backup_label.old").exists() && !target.join("backup_label").exists());
    }
    // The slots of the copying itself went with it.
    assert_eq!(node.rows("SELECT slot_name, temporary FROM pg_replication_slots"), [["kept", "f"]]);
    load.disconnect();
    node.stop();
}

/// What `tar` makes of the archive, with the manifest beside it.
fn unpack(target: &Path) {
    let status = Command::new("tar").arg("-xf").arg(target.join("base.tar")).arg("-C").arg(target).status();
    assert!(status.unwrap().success());
    fs::remove_file(target.join("base.tar")).unwrap();
}

#[test]
fn a_standby_is_a_source_as_good_as_the_primary() {
    let scenario = Scenario::new("pg-basebackup-standby");
    let (node, mut load) = load::on_primary(&scenario, &[]);
    let mut source = Node::clone_of(&scenario, "source", &node);
    source.start();
    let target = scenario.path("copy");
    backup(&source, &mut load, &target, &["-X", "fetch", "-R"]);
    let label = fs::read_to_string(target.join("backup_label")).unwrap();
    assert!(label.contains("\nBACKUP FROM: standby\n"), "{label}");
    verify(&target, &[]);
    let mut node = run_standby(&scenario, "copy", node, &load);
    // It follows the standby that it was made from.
    let log = fs::read_to_string(scenario.path("copy.log")).unwrap();
    assert!(log.contains("started streaming WAL from primary"), "{log}");
    load.disconnect();
    source.stop();
    node.stop();
}

#[test]
fn a_primary_starts_from_a_backup_with_its_log_and_not_from_one_without() {
    let scenario = Scenario::new("pg-basebackup-restore");
    let (mut node, mut load) = load::on_primary(&scenario, &[]);
    load.rounds(50);
    let acknowledged: Vec<u64> = load.acknowledged.iter().copied().collect();
    backup(&node, &mut load, &scenario.path("restored"), &["-X", "fetch"]);
    backup(&node, &mut load, &scenario.path("without"), &["-X", "none"]);
    load.disconnect();
    node.stop();

    let mut restored = Node::at(&scenario, "restored", Role::Primary);
    restored.start();
    let count = format!("SELECT count(*) FROM acked WHERE id <= {}", acknowledged.last().unwrap());
    assert_eq!(restored.value(&count), acknowledged.len().to_string());
    restored.query("INSERT INTO acked VALUES (-1, 0, '')");
    // A primary like any other: a standby follows it over its next segments.
    let mut standby = Node::clone_of(&scenario, "standby", &restored);
    standby.start();
    let mut pair = Cluster { primary: restored, standby };
    pair.primary.query("SELECT pg_switch_wal()");
    pair.primary.query("INSERT INTO acked VALUES (-2, 0, '')");
    pair.assert_equal(&["acked"]);
    pair.stop();

    let mut without = Node::at(&scenario, "without", Role::Primary);
    without.try_start().unwrap_err();
    assert!(without.log().contains("WAL ends before end of online backup"), "{}", without.log());
    // Nor as a standby that nobody sends the log to.
    fs::write(scenario.path("without").join("standby.signal"), "").unwrap();
    let mut without = Node::at(&scenario, "without", Role::Standby);
    without.try_start().unwrap_err();
    assert!(without.log().contains("WAL ends before end of online backup"), "{}", without.log());
}

#[test]
fn a_backup_waits_for_the_archive_when_told_to() {
    let scenario = Scenario::new("pg-basebackup-archive");
    let archive = scenario.path("archive");
    fs::create_dir(&archive).unwrap();
    let command = format!("archive_command=cp %p {}/%f", archive.display());
    let (mut node, mut load) = load::on_primary(&scenario, &["archive_mode=on", &command]);
    let target = scenario.path("copy");
    // Without log: pg_basebackup has the server wait until the archive has it.
    let said = backup(&node, &mut load, &target, &["-X", "none", "-R", "-v"]);
    assert!(said.err.contains("all required WAL segments have been archived"), "{}", said.err);
    let label = fs::read_to_string(target.join("backup_label")).unwrap();
    let first = label.split("(file ").nth(1).unwrap().split(')').next().unwrap();
    assert!(archive.join(first).exists(), "{label}");
    // The node needs nothing but the archive.
    fs::write(target.join("postgresql.auto.conf"), "").unwrap();
    let mut standby = Node::at(&scenario, "copy", Role::Standby);
    standby.set(&format!("restore_command=cp {}/%f %p", archive.display()));
    let acknowledged = load.acknowledged.len();
    load.rounds(5);
    load.disconnect();
    node.query("SELECT pg_switch_wal()");
    standby.start();
    wait::until("the standby to have restored the load", || {
        (standby.value("SELECT count(*) FROM acked").parse::<usize>().unwrap() >= acknowledged).then_some(())
    });
    standby.stop();
    node.stop();
}

#[test]
fn settings_travel_but_for_those_of_one_node() {
    let scenario = Scenario::new("pg-basebackup-settings");
    let (mut node, mut load) = load::on_primary(&scenario, &[]);
    node.configure("# mine\nport = 5999\nwal_sender_timeout = '77s'\nlisten_addresses = '127.0.0.1'");
    let target = scenario.path("copy");
    backup(&node, &mut load, &target, &["-X", "fetch", "-R"]);
    let conf = fs::read_to_string(target.join("walship.conf")).unwrap();
    assert_eq!(
        conf.trim(),
        "# mine\n#port = 5999\nwal_sender_timeout = '77s'\n#listen_addresses = '127.0.0.1'"
    );
    let mut standby = Node::at(&scenario, "copy", Role::Standby);
    standby.start();
    assert_eq!(standby.value("SHOW wal_sender_timeout"), "77s");
    assert!(standby.value("SHOW primary_conninfo").contains("user=postgres"));
    // A reload reads both files again.
    let auto = target.join("postgresql.auto.conf");
    let text = fs::read_to_string(&auto).unwrap();
    fs::write(&auto, format!("{text}wal_sender_timeout = '78s'\n")).unwrap();
    finish(standby.spawn_reload("60")).assert_success("reload");
    assert_eq!(standby.value("SHOW wal_sender_timeout"), "78s");
    fs::write(&auto, "wal_sender_timeout = soon\n").unwrap();
    let said = finish(standby.spawn_reload("60"));
    assert!(said.err.contains("postgresql.auto.conf\" line 1"), "{}", said.err);
    standby.stop();
    load.disconnect();
    node.stop();
}
