//! The epoll back-end: one epoll instance per set; the process's signalfd is registered in it, so SIGURG (a
//! latch was set) and every other signal make it ready.
//!
//! Kernel data is (position, generation) in one word, so that an event of a removed position is told from its
//! successor's. Errors and hang-ups count as readable, writeable and closed.
//!
//! Follows the WAIT_USE_EPOLL and WAIT_USE_SIGNALFD parts of PostgreSQL 18
//! src/backend/storage/ipc/waiteventset.c.

use std::{io, os::fd::RawFd, time::Duration};

use sys::epoll::{self, Epoll};

use super::{KernelSet, Position, Ready, SocketEvents, Token};

/// The data of what is no event of the set: indexes that no place has.
const SIGNALS: u64 = u64::MAX;
const WAKEUP: u64 = u64::MAX - 1;

pub(super) struct EpollSet {
    epoll: Epoll,
    buffer: Vec<epoll::Ready>,
}

impl EpollSet {
    /// An empty set for up to `capacity` descriptors.
    pub(super) fn new(capacity: usize) -> io::Result<EpollSet> {
        let mut buffer = Vec::new();
        buffer.resize_with(capacity, || epoll::Ready::EMPTY);
        Ok(EpollSet { epoll: Epoll::new()?, buffer })
    }

    /// Reports each time that `fd` becomes readable, not that it is.
    pub(super) fn add_edge(&self, fd: RawFd) -> io::Result<()> {
        self.epoll.add(fd, epoll::IN | epoll::EDGE, WAKEUP)
    }
}

impl KernelSet for EpollSet {
    fn add(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()> {
        self.epoll.add(fd, to_kernel(events), data_of(token))
    }

    fn modify(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()> {
        self.epoll.modify(fd, to_kernel(events), data_of(token))
    }

    fn remove(&mut self, fd: RawFd) -> io::Result<()> {
        self.epoll.remove(fd)
    }

    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let count = self.epoll.wait(&mut self.buffer, timeout)?;
        ready.extend(self.buffer[..count].iter().map(from_kernel));
        Ok(())
    }
}

fn to_kernel(events: SocketEvents) -> u32 {
    let mut bits = epoll::ERR | epoll::HUP;
    if events.intersects(SocketEvents::READABLE | SocketEvents::ACCEPT) {
        bits |= epoll::IN;
    }
    if events.intersects(SocketEvents::WRITEABLE | SocketEvents::CONNECTED) {
        bits |= epoll::OUT;
    }
    if events.intersects(SocketEvents::CLOSED) {
        bits |= epoll::RDHUP;
    }
    bits
}

fn from_kernel(event: &epoll::Ready) -> Ready {
    let bits = event.events();
    let broken = bits & (epoll::ERR | epoll::HUP) != 0;
    Ready {
        token: token_of(event.data()),
        readable: broken || bits & epoll::IN != 0,
        writeable: broken || bits & epoll::OUT != 0,
        closed: broken || bits & epoll::RDHUP != 0,
    }
}

fn data_of(token: Token) -> u64 {
    match token {
        Token::Signals => SIGNALS,
        Token::Wakeup => WAKEUP,
        Token::Event(position) => u64::from(position.generation) << 32 | u64::from(position.index),
    }
}

fn token_of(data: u64) -> Token {
    match data {
        SIGNALS => return Token::Signals,
        WAKEUP => return Token::Wakeup,
        _ => {}
    }
    let half = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("half a word");
    Token::Event(Position { index: half(data), generation: half(data >> 32) })
}
