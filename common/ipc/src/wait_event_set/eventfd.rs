//! The eventfd back-end: the epoll back-end, with the latch's own eventfd in the set instead of SIGURG.
//!
//! A wake-up is then one write, and one return of epoll with nothing to read after it. wakeup.rs tells why
//! that is enough. The signalfd stays in the set for all other signals (and for SIGURG, should a latch have
//! got no eventfd).

use std::{io, os::fd::RawFd, time::Duration};

use super::{KernelSet, Ready, SocketEvents, Token, epoll::EpollSet};
use crate::latch::Latch;

pub(super) struct EventfdSet {
    epoll: EpollSet,
}

impl EventfdSet {
    /// An empty set for up to `capacity` descriptors, the eventfd not counted.
    pub(super) fn new(capacity: usize) -> io::Result<EventfdSet> {
        Ok(EventfdSet { epoll: EpollSet::new(capacity + 1)? })
    }
}

impl KernelSet for EventfdSet {
    fn add_latch(&mut self, latch: &Latch) -> io::Result<()> {
        latch.wakeup_descriptor().map_or(Ok(()), |fd| self.epoll.add_edge(fd))
    }

    fn remove_latch(&mut self, latch: &Latch) -> io::Result<()> {
        latch.wakeup_descriptor().map_or(Ok(()), |fd| self.epoll.remove(fd))
    }

    fn add(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()> {
        self.epoll.add(fd, events, token)
    }

    fn modify(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()> {
        self.epoll.modify(fd, events, token)
    }

    fn remove(&mut self, fd: RawFd) -> io::Result<()> {
        self.epoll.remove(fd)
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.epoll.wait(timeout, ready)
    }
}
