//! How a child learns that its postmaster is gone, even by SIGKILL: a pipe that nobody ever writes to.
//!
//! The write end lives in the postmaster alone, so the kernel closes it however the postmaster ends, and the
//! read end, which every child holds and waits on, becomes readable: end of file. A child that kept its
//! inherited copy of the write end would hide the death from everybody, so it closes it first of all
//! ([`PostmasterDeath::enter_child`]).
//!
//! A child that may be away from its wait for long (inside SQLite) asks for a parent-death signal besides:
//! SIGQUIT ends it wherever it is.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/pmsignal.c (PostmasterDeathSignalInit) and postmaster.c
//! (InitPostmasterDeathWatchHandle).

use std::{
    cell::RefCell,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use sys::{
    pipe,
    process::{self, Pid},
    signal::Signal,
};

/// The pipe. Made by the postmaster before the first fork and kept until its end.
#[derive(Debug)]
pub struct PostmasterDeath {
    read_end: OwnedFd,
    write_end: RefCell<Option<OwnedFd>>,
    postmaster: Pid,
}

impl PostmasterDeath {
    /// Makes the pipe; this process is the postmaster.
    pub fn create() -> io::Result<PostmasterDeath> {
        let (read_end, write_end) = pipe::pipe()?;
        let postmaster = process::current_pid();
        Ok(PostmasterDeath { read_end, write_end: RefCell::new(Some(write_end)), postmaster })
    }

    /// To be the first thing that a child does: closes its copy of the write end, and asks for `signal` (if
    /// any) when the postmaster ends. May be called again.
    pub fn enter_child(&self, signal: Option<Signal>) -> io::Result<()> {
        drop(self.write_end.take());
        if let Some(signal) = signal {
            process::set_parent_death_signal(signal)?;
        }
        Ok(())
    }

    /// Whether the postmaster lives, by a real read of the pipe. True in the postmaster itself.
    pub fn is_alive(&self) -> bool {
        match pipe::read(&self.read_end, &mut [0]) {
            Ok(0) => false,
            Ok(_) => unreachable!("nobody writes to this pipe"),
            // Empty pipe: somebody holds the write end. Any other error is as good as alive: death shows
            // later.
            Err(_) => true,
        }
    }

    /// The postmaster's process id.
    pub fn postmaster(&self) -> Pid {
        self.postmaster
    }

    /// The descriptor that becomes readable.
    pub(crate) fn raw(&self) -> RawFd {
        self.read_end.as_raw_fd()
    }
}
