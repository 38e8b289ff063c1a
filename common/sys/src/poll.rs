//! poll(2), with time-outs to the nanosecond (ppoll).

use std::{io, os::fd::RawFd, time::Duration};

/// Readable, or a connection to accept, or the end of the stream.
pub const IN: i16 = libc::POLLIN;
/// Writeable, or connected.
pub const OUT: i16 = libc::POLLOUT;
/// The peer closed or shut down its side.
pub const RDHUP: i16 = libc::POLLRDHUP;
/// An error is pending; always reported.
pub const ERR: i16 = libc::POLLERR;
/// Hung up; always reported.
pub const HUP: i16 = libc::POLLHUP;
/// The descriptor isn't open; always reported.
pub const NVAL: i16 = libc::POLLNVAL;

/// A descriptor, what it is waited for, and what [`poll`] found.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PollFd(libc::pollfd);

impl PollFd {
    /// Waits for `events` of `fd`.
    pub const fn new(fd: RawFd, events: i16) -> PollFd {
        PollFd(libc::pollfd { fd, events, revents: 0 })
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.0.fd
    }

    /// What the last [`poll`] found.
    pub fn found(&self) -> i16 {
        self.0.revents
    }
}

impl std::fmt::Debug for PollFd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PollFd({}, {:#x}, {:#x})", self.0.fd, self.0.events, self.0.revents)
    }
}

/// Waits for readiness of any of `fds`, at most `timeout` (None: for ever), and returns how many are ready.
/// 0 means that the time is over; a signal gives ErrorKind::Interrupted, and leaves what was found before.
pub fn poll(fds: &mut [PollFd], timeout: Option<Duration>) -> io::Result<usize> {
    let limit = timeout.map(|duration| libc::timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    });
    let limit_ptr = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(fds.len()).expect("descriptors are fewer");
    let first = fds.as_mut_ptr().cast::<libc::pollfd>();
    // SAFETY: `fds` is valid for its length and laid out as pollfd, `limit` outlives the call, and a null
    // signal mask means that it stays as it is.
    let ready = unsafe { libc::ppoll(first, count, limit_ptr, std::ptr::null()) };
    usize::try_from(ready).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::pipe;

    #[test]
    fn poll_finds_what_is_asked_for_and_what_is_broken() {
        let (read_end, write_end) = pipe::pipe().unwrap();
        let mut fds = [PollFd::new(read_end.as_raw_fd(), IN), PollFd::new(write_end.as_raw_fd(), OUT)];
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert_eq!((fds[0].found(), fds[1].found()), (0, OUT));
        drop(write_end);
        assert_eq!(poll(&mut fds[..1], None).unwrap(), 1);
        assert_eq!(fds[0].found(), HUP);
        assert_eq!(poll(&mut [PollFd::new(-1, IN)], Some(Duration::from_micros(1))).unwrap(), 0);
    }
}
