//! A layer between a node and libc: `shim/shim.c`, compiled when it is needed.
//!
//! Why: some of what a node does hangs on a minute that passes, or lasts for a moment only. A setting for tests alone would
//! be a node that nobody runs; so the programs stay what they are, and the clock and the disk below them obey the test.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::node::Node;
use crate::scenario::Scenario;

/// The layer, and what it obeys.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    clock: PathBuf,
    gate: PathBuf,
}

impl Shim {
    /// Compiles it into the scenario's directory.
    pub fn new(scenario: &Scenario) -> Shim {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/shim.c");
        let library = scenario.path("shim.so");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        assert!(compile.status().expect("cc is installed").success(), "the layer can't be compiled");
        Shim { library, clock: scenario.path("clock"), gate: scenario.path("gate") }
    }

    /// Puts it under a node, from its next start on.
    pub fn put_under(&self, node: &mut Node) {
        let variable = |name: &str, path: &Path| format!("{name}={}", path.display()).into();
        node.wrapper = vec![
            "env".into(),
            variable("LD_PRELOAD", &self.library),
            variable("SHIM_CLOCK", &self.clock),
            variable("SHIM_GATE", &self.gate),
        ];
    }

    /// Puts the nodes' clock forward, once.
    pub fn put_clock_forward(&self, seconds: usize) {
        fs::write(&self.clock, vec![0; seconds]).unwrap();
    }

    /// From now on every sync of a child of a postmaster waits.
    pub fn hold_syncs(&self) {
        let made = Command::new("mkfifo").arg(&self.gate).status().expect("mkfifo is there");
        assert!(made.success(), "the gate can't be made");
    }

    /// Lets them go on; waits until there is one.
    pub fn release_syncs(&self) {
        // Who waits at the gate meanwhile finds it open; who comes later finds none.
        let open = OpenOptions::new().write(true).open(&self.gate).unwrap();
        fs::remove_file(&self.gate).unwrap();
        drop(open);
    }
}
