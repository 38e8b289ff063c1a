//! Pipes: both ends non-blocking and close-on-exec.

use std::{io, os::fd::OwnedFd};

use nix::{fcntl::OFlag, unistd};

/// Makes a pipe and returns its (read end, write end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?)
}

/// Reads what is there into `buffer`; 0 is the end of the pipe (no writer left), `WouldBlock` an empty one.
pub fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match unistd::read(fd, buffer) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}
