//! System calls that fail, of a program as it is: strace answers them in the kernel's place.
//!
//! Calls on one path fail, in all processes of a node from its start on ([`Fault::from_start`]), or in one process that runs,
//! until the fault is dropped ([`Fault::in_process`]). What fails so was not done at all.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sys::process::{self, Pid};
use sys::signal::Signal;

use crate::node::Node;
use crate::wait;

/// What fails.
#[derive(Debug, Clone)]
pub struct Fault {
    /// On what.
    pub path: PathBuf,
    /// Which calls, as strace names them, separated by commas.
    pub calls: &'static str,
    /// How: `error=EIO`, with `:when=2` from the second of each process on only, and so on.
    pub how: &'static str,
}

/// A fault in a process that runs; it goes when this is dropped.
#[derive(Debug)]
pub struct Attached {
    strace: Child,
}

impl Fault {
    /// Calls on a path that fail in a way.
    pub fn new(path: impl Into<PathBuf>, calls: &'static str, how: &'static str) -> Fault {
        Fault { path: path.into(), calls, how }
    }

    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["-f", "-qq", "-o", "/dev/null", "-P"].map(OsString::from).to_vec();
        words.push(self.path.canonicalize().expect("the path is there").into());
        let trace = format!("trace={}", self.calls);
        let inject = format!("inject={}:{}", self.calls, self.how);
        words.extend(["-e".into(), trace.into(), "-e".into(), inject.into()]);
        words
    }

    /// From the next start of the node on; until its `wrapper` is cleared.
    pub fn from_start(&self, node: &mut Node) {
        node.wrapper = vec!["strace".into(), "-D".into()];
        node.wrapper.extend(self.words());
    }

    /// From now on in one process.
    pub fn in_process(&self, pid: Pid) -> Attached {
        let mut strace = Command::new("strace");
        strace.args(self.words()).arg("-p").arg(pid.0.to_string());
        let strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace is installed");
        wait::until("strace to hold the process", || is_traced(pid).then_some(()));
        Attached { strace }
    }
}

fn is_traced(pid: Pid) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid.0.to_string()).join("status"));
    let tracer =
        |text: String| text.lines().find_map(|line| Some(line.strip_prefix("TracerPid:")?.trim() != "0"));
    status.ok().and_then(tracer).unwrap_or(false)
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It lets go of the process; both may have gone already.
        let _gone = process::kill(Pid(i32::try_from(self.strace.id()).unwrap_or(0)), Signal::Term);
        let _ended = self.strace.wait();
    }
}
