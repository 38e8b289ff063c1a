//! Eventfds: descriptors that exist to be woken by.
//!
//! One is readable once somebody has added to it, for as long as nobody reads it. Whoever watches it
//! edge-triggered ([`crate::epoll::EDGE`]) is woken by every addition anew and never needs to read.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use crate::check;

/// An eventfd: non-blocking, close-on-exec, inherited by fork as the same one.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one that is not readable.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: no memory is passed.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the call just made this descriptor and nobody else knows it.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes who watches it. Async-signal-safe.
    pub fn wake(&self) {
        let one: u64 = 1;
        let size = size_of_val(&one);
        // SAFETY: the buffer is `one`, valid for its size.
        let written = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size) };
        // A full counter would be the one reason to fail: 2^64 - 2 additions, centuries of them.
        debug_assert_eq!(usize::try_from(written), Ok(size), "{}", io::Error::last_os_error());
    }

    /// Takes everything added so far and returns it; 0 when it is nothing. For who watches it as a level.
    pub fn take(&self) -> io::Result<u64> {
        let mut sum: u64 = 0;
        let size = size_of_val(&sum);
        // SAFETY: the buffer is `sum`, valid for its size.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut sum).cast(), size) };
        if got >= 0 {
            return Ok(sum);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        }
    }

    /// The descriptor, to be waited for.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::epoll::{EDGE, Epoll, IN, Ready};

    fn look(epoll: &Epoll) -> usize {
        epoll.wait(&mut [Ready::EMPTY], Some(Duration::ZERO)).unwrap()
    }

    #[test]
    fn eventfd_unread_wakes_an_edge_triggered_watch_at_each_wake() {
        let eventfd = EventFd::new().unwrap();
        let (first, second) = (Epoll::new().unwrap(), Epoll::new().unwrap());
        for epoll in [&first, &second] {
            epoll.add(eventfd.raw(), IN | EDGE, 0).unwrap();
            assert_eq!(look(epoll), 0);
        }
        for _ in 0..3 {
            eventfd.wake();
            eventfd.wake();
            // Each set has its own edge: one look doesn't take the other's.
            assert_eq!((look(&first), look(&first)), (1, 0), "many wakes, one event");
            eventfd.wake();
            assert_eq!((look(&first), look(&second), look(&second)), (1, 1, 0));
        }
        assert_eq!(eventfd.take().unwrap(), 9);
        assert_eq!(eventfd.take().unwrap(), 0);
    }

    #[test]
    fn eventfd_woken_before_it_is_watched_is_ready_at_once() {
        let eventfd = EventFd::new().unwrap();
        eventfd.wake();
        let epoll = Epoll::new().unwrap();
        epoll.add(eventfd.raw(), IN | EDGE, 0).unwrap();
        assert_eq!((look(&epoll), look(&epoll)), (1, 0));
    }
}
