//! The kernel, wrapped: the only crate that calls it.
//!
//! Everything above sees small safe types instead of system calls, so that `unsafe` needs to be read in one
//! place only. A module per facility: [`fork`], [`command`] (shell commands), [`process`] (pids, pidfds),
//! [`signal`] (masks, signalfd, self-pipe), [`epoll`], [`mod@poll`], [`eventfd`], [`pipe`], [`net`] (sockets),
//! [`mmap`] and [`futex`] (shared memory), [`mod@file`] (durability), [`mod@failpoint`] (deaths for tests),
//! [`inotify`] (changes of a file), [`clock`], [`random`].
//!
//! Invariants of the whole crate: every descriptor is close-on-exec; EINTR of a call that can be repeated
//! never reaches the caller; sockets, signalfds, eventfds and pipes never block. Linux only.
//!
//! The processes built on this have one thread each; nothing here takes a lock or starts a thread.

pub mod clock;
pub mod command;
pub mod epoll;
pub mod eventfd;
pub mod failpoint;
pub mod file;
pub mod fork;
pub mod futex;
pub mod inotify;
pub mod memory;
pub mod mmap;
pub mod net;
pub mod pipe;
pub mod poll;
pub mod process;
pub mod random;
pub mod signal;

/// Turns the -1 convention of system calls into a `Result`.
pub(crate) fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
