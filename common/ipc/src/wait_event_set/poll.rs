//! The poll back-end: an array of descriptors in memory, and poll; the read end of the process's self-pipe is
//! in it, which SIGURG's handler (a latch was set) and that of every other signal make readable.
//!
//! Errors, hang-ups and descriptors that aren't open count as readable, writeable and closed.
//!
//! Follows the WAIT_USE_POLL and WAIT_USE_SELF_PIPE parts of PostgreSQL 18
//! src/backend/storage/ipc/waiteventset.c; differs in: one handler keeps all signals, time-outs in
//! nanoseconds.

use std::{io, os::fd::RawFd, time::Duration};

use sys::poll::{self, PollFd};

use super::{KernelSet, Ready, SocketEvents, Token};

pub(super) struct PollSet {
    fds: Vec<PollFd>,
    /// Of the descriptor with the same index.
    tokens: Vec<Token>,
}

impl PollSet {
    /// An empty set for up to `capacity` descriptors.
    pub(super) fn new(capacity: usize) -> PollSet {
        PollSet { fds: Vec::with_capacity(capacity), tokens: Vec::with_capacity(capacity) }
    }

    fn find(&self, fd: RawFd) -> Option<usize> {
        self.fds.iter().position(|known| known.fd() == fd)
    }

    fn find_known(&self, fd: RawFd) -> io::Result<usize> {
        self.find(fd).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl KernelSet for PollSet {
    fn add(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()> {
        debug_assert!(self.find(fd).is_none(), "the set adds a descriptor once at a time");
        self.fds.push(PollFd::new(fd, to_kernel(events)));
        self.tokens.push(token);
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()> {
        let index = self.find_known(fd)?;
        self.fds[index] = PollFd::new(fd, to_kernel(events));
        self.tokens[index] = token;
        Ok(())
    }

    fn remove(&mut self, fd: RawFd) -> io::Result<()> {
        let index = self.find_known(fd)?;
        self.fds.remove(index);
        self.tokens.remove(index);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let count = poll::poll(&mut self.fds, timeout)?;
        let found = self.fds.iter().zip(&self.tokens).filter(|(fd, _)| fd.found() != 0);
        ready.extend(found.take(count).map(|(fd, token)| from_kernel(fd.found(), *token)));
        Ok(())
    }
}

fn to_kernel(events: SocketEvents) -> i16 {
    let mut bits = 0;
    if events.intersects(SocketEvents::READABLE | SocketEvents::ACCEPT) {
        bits |= poll::IN;
    }
    if events.intersects(SocketEvents::WRITEABLE | SocketEvents::CONNECTED) {
        bits |= poll::OUT;
    }
    if events.intersects(SocketEvents::CLOSED) {
        bits |= poll::RDHUP;
    }
    bits
}

fn from_kernel(bits: i16, token: Token) -> Ready {
    let broken = bits & (poll::ERR | poll::HUP | poll::NVAL) != 0;
    Ready {
        token,
        readable: broken || bits & poll::IN != 0,
        writeable: broken || bits & poll::OUT != 0,
        closed: broken || bits & poll::RDHUP != 0,
    }
}
