//! The one place that forks.
//!
//! Fork copies one thread and the whole memory, so a lock that another thread holds would stay locked in the
//! child for ever: forking is allowed to processes with one thread only, and that is checked. What is
//! buffered for stdout and stderr is flushed first, lest both processes print it. The child never returns
//! into its parent's code: its closure ends in `_exit`, a panic in abort (the parent sees a signal, that is:
//! a crash), and destructors of the parent's values that the child inherited don't run unless the closure
//! drops them itself.
//!
//! Signals are as they were: block them before (`signal::block_all`) so that none reaches the child too
//! early. Those of a self-pipe are blocked in the child by the fork itself.

use std::{
    io::{self, Write},
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ::failpoint::Site;
use nix::unistd::{self, ForkResult};

use crate::{
    process::{self, Pid},
    signal::self_pipe,
};

/// Forks; the child runs `child` and exits with the status it returns. Returns the child's id to the parent.
///
/// Panics when this process has more than one thread. Errors: EAGAIN, ENOMEM.
pub fn fork_process(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    assert_eq!(thread_count(), 1, "only a process with one thread may fork");
    // A closed stdout is not a reason to refuse the fork.
    let _unwritable = io::stdout().flush();
    let _unwritable = io::stderr().flush();
    let blocked = self_pipe::block_for_fork();
    ::failpoint::pass(Site::Fork);
    // SAFETY: one thread (checked above), so the child may do all that this process may.
    let forked = unsafe { unistd::fork() };
    if !matches!(forked, Ok(ForkResult::Child)) {
        self_pipe::unblock_after_fork(blocked);
    }
    match forked? {
        ForkResult::Parent { child } => Ok(Pid(child.as_raw())),
        ForkResult::Child => {
            self_pipe::forget();
            process::forget_current_pid();
            ::failpoint::pass(Site::Born);
            match catch_unwind(AssertUnwindSafe(child)) {
                Ok(status) => {
                    let _unwritable = io::stdout().flush();
                    process::exit_immediately(status)
                }
                Err(_) => std::process::abort(),
            }
        }
    }
}

/// How many threads this process has: a directory's link count is its subdirectories plus two. 1 without
/// /proc.
fn thread_count() -> u64 {
    std::fs::metadata("/proc/self/task").map_or(1, |task| task.nlink().saturating_sub(2))
}
