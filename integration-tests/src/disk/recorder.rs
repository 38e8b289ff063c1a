//! Runs a node under strace and hands over what it did, life by life.
//!
//! strace becomes a process of its own beside the node (`-D`), so that the node is the child of the test as ever; it
//! ends when the last process of the node has. Only calls that change files and those that send are stopped
//! (`--seccomp-bpf`), and syncs can be made slow, so that more happens while one is under way.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::trace::{self, Trace};
use crate::node::Node;
use crate::programs;
use crate::wait;

/// Calls that change files, those that the model refuses among them, and those that send.
const CALLS: &str = "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,\
    msync,truncate,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,symlink,symlinkat,mkdir,\
    mkdirat,rmdir,copy_file_range,sendfile,splice,sendto,mmap,lseek,io_uring_setup";

/// How the error begins that says that a recording is not whole. strace has races of its own with a process that is stopped
/// and killed (it ends with `ptrace(PTRACE_LISTEN): Input/output error`); that says nothing of the node.
pub const LOST: &str = "strace gave up";

/// Longer than any write of a node.
const LONGEST: &str = "4194304";

/// Why nothing can be recorded here, if so: no strace, or no right to trace.
pub fn unavailable() -> Option<String> {
    let tried = Command::new("strace")
        .args(["-D", "-f", "--seccomp-bpf", "-e", "trace=fsync", "-o", "/dev/null", "true"])
        .output();
    match tried {
        Err(error) => Some(format!("strace can't be run: {error}")),
        Ok(output) if !output.status.success() || !output.stderr.is_empty() => {
            Some(format!("strace can't trace: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Ok(_) => None,
    }
}

/// How syncs fare in a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// As they are.
    Usual,
    /// Each takes so many µs longer.
    Slow(u64),
    /// In every process the one with this number fails with EIO, and writes nothing.
    Failing {
        /// `fsync` or `fdatasync`.
        call: &'static str,
        /// From 1.
        number: u64,
    },
}

/// What a program is put behind so that its life is recorded in `path`.
pub fn wrapper(path: &Path, syncs: Syncs) -> Vec<OsString> {
    let calls = format!("trace={CALLS}");
    let inject = match syncs {
        Syncs::Usual => None,
        Syncs::Slow(micros) => Some(format!("inject=fsync,fdatasync:delay_exit={micros}")),
        Syncs::Failing { call, number } => Some(format!("inject={call}:error=EIO:when={number}")),
    };
    let mut words = vec!["strace", "-D", "-f", "--seccomp-bpf", "-y", "-xx", "-s", LONGEST];
    words.extend(["-e", &calls]);
    words.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    let mut words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    words.extend([OsString::from("-o"), path.into()]);
    words
}

/// The command that makes a data directory.
#[derive(Clone, Copy, Debug)]
pub enum Maker<'a> {
    /// `primary init`.
    Init,
    /// `standby clone` of that node, perhaps with a slot on it, which is called `standby`.
    Clone {
        /// Which runs.
        upstream: &'a Node,
        /// Whether the slot is made.
        by_slot: bool,
    },
}

/// Makes a data directory in a scope, recorded in `path`.
pub fn make(maker: &Maker<'_>, data: &Path, scope: &Path, path: &Path) -> Result<Trace, String> {
    let (program, arguments) = match maker {
        Maker::Init => ("primary", vec!["init".to_owned(), "--wal-segsize".to_owned(), "1MB".to_owned()]),
        Maker::Clone { upstream, by_slot } => {
            let slot = if *by_slot { &["--slot", "standby", "--create-slot"][..] } else { &[] };
            let arguments = ["clone", "--from"].iter().map(|word| (*word).to_owned());
            let arguments = arguments.chain([upstream.conninfo("standby")]);
            ("standby", arguments.chain(slot.iter().map(|word| (*word).to_owned())).collect())
        }
    };
    let mut words = wrapper(path, Syncs::Usual).into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg(programs::walship(program)).args(&arguments).arg("-D").arg(data);
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("{program} {}: {}", arguments[0], String::from_utf8_lossy(&output.stderr)));
    }
    let read = || fs::read_to_string(path).ok().filter(|text| trace::is_complete(text));
    trace::parse(&wait::until("strace to end", read), scope).map_err(|error| error.to_string())
}

/// The traces of one node.
#[derive(Debug)]
pub struct Recorder {
    scope: PathBuf,
    directory: PathBuf,
    lives: usize,
}

impl Recorder {
    /// For a node whose data directory is in `scope`; traces are kept in `directory`, outside of it.
    pub fn new(scope: &Path, directory: &Path) -> Recorder {
        let scope = scope.canonicalize().expect("the scope is there");
        Recorder { scope, directory: directory.to_owned(), lives: 0 }
    }

    fn path(&self) -> PathBuf {
        let scope =
            self.scope.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.directory.join(format!("{scope}.{}.trace", self.lives))
    }

    /// The next start of the node is recorded.
    pub fn record(&mut self, node: &mut Node, syncs: Syncs) {
        self.lives += 1;
        // Room without content is no part of what is looked at.
        node.set("disk_reserve=0");
        node.wrapper = wrapper(&self.path(), syncs);
    }

    /// The life that has ended; waits until strace has written all of it. The error begins with [`LOST`] when strace went
    /// before the node did.
    pub fn life(&self) -> Result<Trace, String> {
        let path = self.path();
        let read = || fs::read_to_string(&path).ok().filter(|text| trace::is_complete(text));
        let text = wait::within(wait::DEADLINE, read).ok_or_else(|| format!("{LOST}: {}", path.display()))?;
        trace::parse(&text, &self.scope).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The file of the life recorded last.
    pub fn last_path(&self) -> PathBuf {
        self.path()
    }
}
