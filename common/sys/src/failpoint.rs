//! What failpoints need of the kernel: a mapping of their board, and the death of processes. In programs that have
//! failpoints compiled in, and in the tests that drive them.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use ::failpoint::{Action, Board, Process};
use nix::sys::mman::{self, MapFlags, ProtFlags};

use crate::process::{self, Pid};
use crate::signal::Signal;

/// The postmaster of this process, which inherits it over fork; 0: none.
static POSTMASTER: AtomicI32 = AtomicI32::new(0);

/// Maps the board in `file`, which is made large enough, for as long as this process lives.
///
/// # Errors
/// Those of the file system, and no memory.
pub fn map(file: &Path) -> io::Result<Board> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(file)?;
    file.set_len(Board::BYTES as u64)?;
    let length = NonZeroUsize::new(Board::BYTES).expect("there are sites");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no existing memory.
    let start = unsafe { mman::mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }?;
    let count = Board::BYTES / size_of::<AtomicU32>();
    // SAFETY: page-aligned, mapped for BYTES bytes and never unmapped; the words are atomic for whoever maps the file.
    Ok(Board::new(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU32>().as_ptr(), count) }))
}

/// Makes this process a postmaster ruled by the board that the environment names, if it does and failpoints are compiled in;
/// says whether they are.
///
/// # Errors
/// The file can't be mapped.
pub fn begin_postmaster() -> io::Result<bool> {
    begin(Process::Postmaster)
}

/// The same for a command that has no children and works on files: it is its own postmaster.
///
/// # Errors
/// The file can't be mapped.
pub fn begin_command() -> io::Result<bool> {
    begin(Process::Command)
}

fn begin(process: Process) -> io::Result<bool> {
    if ::failpoint::COMPILED_IN {
        POSTMASTER.store(process::current_pid().0, Ordering::Relaxed);
        ::failpoint::enter(process);
        if let Some(path) = std::env::var_os(::failpoint::VARIABLE) {
            ::failpoint::install(map(Path::new(&path))?, act);
        }
    }
    Ok(::failpoint::COMPILED_IN)
}

/// Does to this process, or to its postmaster, what the board says. Async-signal-safe.
fn act(action: Action) {
    let (pid, signal) = match action {
        Action::KillPostmaster => (Pid(POSTMASTER.load(Ordering::Relaxed)), Signal::Kill),
        Action::Pause => (process::current_pid(), Signal::Stop),
        _ => (process::current_pid(), Signal::Kill),
    };
    // The postmaster may be gone already.
    let _gone = process::kill(pid, signal);
}
