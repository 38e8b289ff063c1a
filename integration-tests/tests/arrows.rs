//! The arrows between the crates, held: who may depend on whom is decided here and nowhere else.
//!
//! Method: the Cargo.toml of every crate is read as a user of the workspace would read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each crate and the crates of this workspace that it may see. What `wal`, `wire`, `settings` and `engine` lack is the
/// point: they never see `sys`, `ipc` or a socket.
const ALLOWED: [(&str, &str, &[&str]); 11] = [
    ("common/failpoint", "failpoint", &[]),
    ("common/sys", "sys", &["failpoint"]),
    ("common/ipc", "ipc", &["failpoint", "sys"]),
    ("common/postmaster", "postmaster", &["failpoint", "sys", "ipc"]),
    ("common/wal", "wal", &["failpoint"]),
    ("common/wire", "wire", &["wal"]),
    ("common/settings", "settings", &[]),
    ("common/engine", "engine", &["failpoint", "wal"]),
    ("sender", "sender", &["failpoint", "sys", "ipc", "postmaster", "wal", "wire", "settings", "engine"]),
    (
        "receiver",
        "receiver",
        &["failpoint", "sys", "ipc", "postmaster", "wal", "wire", "settings", "engine", "sender"],
    ),
    ("integration-tests", "integration-tests", &["failpoint", "sys", "wal", "wire"]),
];

/// Crates that bring what the pure crates must not have.
const IMPURE: [&str; 4] = ["nix", "libc", "socket2", "getrandom"];
const PURE: [&str; 4] = ["wal", "wire", "settings", "engine"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate has a workspace")
}

/// The names of all dependencies that a Cargo.toml lists, of every kind: lines of the form `name…= …` in a section
/// whose header ends in `dependencies]`.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names = BTreeSet::new();
    let mut within = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            within = line.ends_with("dependencies]");
        } else if within && let Some((name, _)) = line.split_once(['.', '=']) {
            names.insert(name.trim().trim_matches('"').to_owned());
        }
    }
    names
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let known: BTreeMap<&str, &[&str]> = ALLOWED.iter().map(|(_, name, allowed)| (*name, *allowed)).collect();
    for (folder, name, allowed) in ALLOWED {
        for dependency in dependencies(folder) {
            if known.contains_key(dependency.as_str()) {
                assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn pure_crates_have_no_way_to_the_kernel() {
    for (folder, name, _) in ALLOWED.iter().filter(|(_, name, _)| PURE.contains(name)) {
        for dependency in dependencies(folder) {
            assert!(!IMPURE.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_member_of_the_workspace_has_its_arrows() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members =
        text.split("members = [").nth(1).and_then(|rest| rest.split("\n]").next()).expect("members");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    let folders: Vec<&str> = ALLOWED.iter().map(|(folder, _, _)| *folder).collect();
    assert_eq!(members, folders);
}
