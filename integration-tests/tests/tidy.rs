//! House rules that no compiler knows: headers, names, where unsafe may stand, the width of lines.
//!
//! Method: every source file that git would track is read.

use std::fs;
use std::path::{Path, PathBuf};

/// The only places where `unsafe` may stand: the crate that calls the kernel, the files that map shared memory, and the
/// files that hand functions to SQLite.
const UNSAFE: [&str; 3] = ["common/sys/src/", "common/ipc/src/shmem", "common/engine/src/ffi"];

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "helper", "helpers", "misc", "common", "types_", "prelude"];

/// Longest line. rustfmt holds code to less; a text in quotes may be longer, since cutting it up helps nobody.
const WIDTH: usize = 130;

/// Most lines of a file. A file of tests or of a table may be long; a longer one of code is cut up.
const LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate has a workspace")
}

/// Every Rust file of the workspace, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["common", "sender", "receiver", "integration-tests"].iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("a source file is text")));
            }
        }
    }
    found.sort();
    assert!(found.len() > 30, "{} files", found.len());
    found
}

/// Panics with all complaints at once.
fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_file_begins_with_what_it_is() {
    // The tests of a module in a file of their own have the header of that module.
    let bad = |name: &str, text: &str| !text.starts_with("//! ") && !name.ends_with("/tests.rs");
    let names = sources().into_iter().filter(|(name, text)| bad(name, text)).map(|(name, _)| name);
    report(&names.collect::<Vec<_>>());
}

#[test]
fn unsafe_stands_only_where_it_may_and_the_rest_forbids_it() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let allowed = UNSAFE.iter().any(|place| name.starts_with(place));
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let uses = code.filter(|line| {
            line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl")
        });
        if !allowed && uses.count() > 0 && !name.ends_with("tidy.rs") {
            complaints.push(format!("{name}: unsafe outside {UNSAFE:?}"));
        }
        let whole_crate_is_safe = name.ends_with("src/lib.rs")
            && !["common/sys", "common/ipc", "common/engine"].iter().any(|c| name.starts_with(c));
        if whole_crate_is_safe && !text.contains("#![forbid(unsafe_code)]") {
            complaints.push(format!("{name}: #![forbid(unsafe_code)] is missing"));
        }
    }
    report(&complaints);
}

#[test]
fn names_say_what_is_in_a_file() {
    let mut complaints = Vec::new();
    for (name, _) in sources() {
        let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if EMPTY_NAMES.contains(&stem) {
            complaints.push(name);
        }
    }
    report(&complaints);
}

#[test]
fn lines_and_files_are_short_enough_to_read() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let wide = line.chars().count() > WIDTH;
            // Tests hold texts of others as they came.
            if wide && !name.contains("/tests") && !line.contains("http") && !line.contains('"') {
                complaints.push(format!("{name}:{}: {} characters", number + 1, line.chars().count()));
            }
            if line.ends_with(char::is_whitespace) || line.contains('\t') {
                complaints.push(format!("{name}:{}: a tab, or white space at the end", number + 1));
            }
        }
        if text.lines().count() > LINES {
            complaints.push(format!("{name}: {} lines", text.lines().count()));
        }
    }
    report(&complaints);
}

#[test]
fn nothing_is_left_undone() {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("unimple", "mented!")];
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                complaints.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report(&complaints);
}
