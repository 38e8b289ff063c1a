//! Where the programs are: Walship's own beside the running executable, PostgreSQL's in PATH or Debian's directory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian keeps the server programs, which are not in PATH.
const DEBIAN: &str = "/usr/lib/postgresql/15/bin";

/// Walship's program `name` (primary, standby, demo, demo-client): built into the directory that this executable is in, or, for a
/// test, the one above it.
pub fn walship(name: &str) -> PathBuf {
    let own = env::current_exe().expect("an executable has a path");
    let beside = own.parent().expect("a file has a directory");
    let found = [Some(beside), beside.parent()].into_iter().flatten().map(|dir| dir.join(name));
    found.clone().find(|path| path.is_file()).unwrap_or_else(|| {
        let release =
            if own.components().any(|part| part.as_os_str() == "release") { " --release" } else { "" };
        let looked: Vec<String> = found.map(|path| path.display().to_string()).collect();
        panic!(
            "the program `{name}` is not built (looked for {}); run: cargo build{release} {}",
            looked.join(" and "),
            arguments(name.ends_with("-failpoints")).join(" ")
        )
    })
}

/// What cargo is to build: the programs, or those with failpoints.
fn arguments(failpoints: bool) -> &'static [&'static str] {
    if failpoints {
        &[
            "-p",
            "sender",
            "-p",
            "receiver",
            "--features",
            "sender/failpoints,receiver/failpoints",
            "--bin",
            "primary-failpoints",
            "--bin",
            "standby-failpoints",
        ]
    } else {
        &["-p", "sender", "-p", "receiver"]
    }
}

/// PostgreSQL's program `name`, if it is installed. The directory of the server programs comes first: what stands in
/// PATH on Debian is a wrapper that asks for a cluster.
pub fn find_postgres(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories = vec![PathBuf::from(DEBIAN)];
    directories.extend(env::split_paths(&path));
    directories.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// PostgreSQL's program `name`; panics with what to install when it is missing.
pub fn postgres(name: &str) -> PathBuf {
    find_postgres(name).unwrap_or_else(|| {
        panic!(
            "PostgreSQL's `{name}` was found neither in PATH nor in {}; run integration-tests/run, which installs it",
            Path::new(DEBIAN).display()
        )
    })
}

/// Run by cargo, a program of this crate has the programs that it needs built too: cargo builds only what it was asked to
/// run.
pub fn build() {
    build_these(&[false]);
}

/// As [`build`], also the programs with failpoints.
pub fn build_with_failpoints() {
    build_these(&[false, true]);
}

fn build_these(kinds: &[bool]) {
    let Some(cargo) = env::var_os("CARGO") else { return };
    let own = env::current_exe().expect("an executable has a path");
    let profile = own.parent().expect("a file has a directory");
    for failpoints in kinds {
        let mut build = Command::new(&cargo);
        build.args(["build", "--quiet"]).args(arguments(*failpoints));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile.parent().expect("a profile is in a target directory"));
        let built = build.status().expect("cargo can be run");
        assert!(built.success(), "the programs could not be built");
    }
}
