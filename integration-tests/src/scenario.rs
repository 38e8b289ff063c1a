//! The directory of one test: it goes when the test succeeds and stays, named in the output, when it fails.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A directory of its own for the nodes and files of one test. Declare it before the nodes, so that they go first.
#[derive(Debug)]
pub struct Scenario {
    root: PathBuf,
}

impl Scenario {
    /// Makes the directory, under `WALSHIP_TEST_DIR` or the system's temporary directory.
    pub fn new(name: &str) -> Scenario {
        Scenario::make(name, std::env::temp_dir())
    }

    /// As [`Scenario::new`], but in memory where that can be had: for much writing that nobody needs afterwards.
    pub fn in_memory(name: &str) -> Scenario {
        let memory = PathBuf::from("/dev/shm");
        Scenario::make(name, if memory.is_dir() { memory } else { std::env::temp_dir() })
    }

    fn make(name: &str, usual: PathBuf) -> Scenario {
        let base = std::env::var_os("WALSHIP_TEST_DIR").map_or(usual, PathBuf::from);
        let root = tempfile::Builder::new()
            .prefix(&format!("walship-{name}-"))
            .tempdir_in(&base)
            .unwrap_or_else(|error| panic!("could not make a directory in {}: {error}", base.display()))
            .keep();
        Scenario { root }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Leaves the directory behind and gives its path.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.root)
    }

    /// Writes a file and gives its path.
    pub fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Scenario {
    #[allow(clippy::print_stderr, reason = "who reads a failed test must learn where its files are")]
    fn drop(&mut self) {
        if self.root.as_os_str().is_empty() {
            return;
        }
        if std::thread::panicking() || std::env::var_os("WALSHIP_KEEP").is_some() {
            eprintln!("data directories and logs are left in {}", self.root.display());
        } else {
            let _best_effort = fs::remove_dir_all(&self.root);
        }
    }
}

/// Says that the running test could not be made here, and why. What `WALSHIP_SKIPPED` names gets a line of it, since
/// nobody sees what a test prints that ends well.
#[allow(clippy::print_stdout, reason = "a test that could not be made must not look like one that was")]
pub fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("SKIPPED {name}: {why}");
    if let Some(path) = std::env::var_os("WALSHIP_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "SKIPPED {name}: {why}").unwrap();
    }
}
