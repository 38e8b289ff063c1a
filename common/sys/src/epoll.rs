//! Epoll, level-triggered unless asked otherwise, with time-outs to the microsecond where the kernel has them
//! (epoll_pwait2, Linux 5.11).
//!
//! An epoll descriptor that a child inherits is the *same* set as the parent's: the child must only close it
//! (drop does no more than that), never change it.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::check;

/// Readable, or a connection to accept, or the end of the stream.
pub const IN: u32 = libc::EPOLLIN as u32;
/// Writeable, or connected.
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// The peer closed or shut down its side.
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
/// An error is pending; always reported.
pub const ERR: u32 = libc::EPOLLERR as u32;
/// Hung up; always reported.
pub const HUP: u32 = libc::EPOLLHUP as u32;

/// Report a change only once, until there is another: for descriptors that are never read.
pub const EDGE: u32 = libc::EPOLLET as u32;

/// What [`Epoll::wait`] fills in.
pub struct Ready(libc::epoll_event);

impl Ready {
    /// A value to fill buffers with.
    pub const EMPTY: Ready = Ready(libc::epoll_event { events: 0, u64: 0 });

    /// The readiness bits ([`IN`], [`OUT`], …).
    pub fn events(&self) -> u32 {
        self.0.events
    }

    /// The data given at registration.
    pub fn data(&self) -> u64 {
        self.0.u64
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ready({:#x}, {:#x})", self.events(), self.data())
    }
}

/// Set once epoll_pwait2 has been found missing.
static NO_PWAIT2: AtomicBool = AtomicBool::new(false);

/// Whether waits keep their time-outs to the microsecond, as far as this process has found out by waiting.
pub fn waits_in_micros() -> bool {
    // Relaxed: a hint of this process to itself.
    !NO_PWAIT2.load(Ordering::Relaxed)
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Makes an empty instance.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no memory is passed.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call just made this descriptor and nobody else knows it.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Registers `fd` for `events`. Errors: AlreadyExists for a registered one, PermissionDenied for a plain
    /// file.
    pub fn add(&self, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, data)
    }

    /// Changes what a registered `fd` waits for.
    pub fn modify(&self, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, data)
    }

    /// Takes `fd` out; to be done before it is closed.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: `event` is valid for the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits for readiness, at most `timeout` (None: for ever), and returns how many of `ready` are filled
    /// in.
    ///
    /// 0 means that the time is over; a signal gives ErrorKind::Interrupted, so that the caller can compute
    /// the rest of its time. Without epoll_pwait2 the time-out is rounded up to a millisecond.
    pub fn wait(&self, ready: &mut [Ready], timeout: Option<Duration>) -> io::Result<usize> {
        if waits_in_micros() {
            match self.wait_micros(ready, timeout) {
                // Old kernels have no such call; seccomp profiles older than it say EPERM.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    NO_PWAIT2.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.wait_millis(ready, timeout)
    }

    fn wait_micros(&self, ready: &mut [Ready], timeout: Option<Duration>) -> io::Result<usize> {
        let limit = timeout.map(|duration| libc::timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(duration.subsec_nanos()),
        });
        let limit_ptr = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `ready` is valid for its length (Ready is a transparent-sized wrapper of one epoll_event,
        // see the assertion below), `limit` outlives the call, and a null signal mask means that it stays as
        // it is.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                ready.as_mut_ptr(),
                max_events(ready),
                limit_ptr,
                std::ptr::null::<libc::sigset_t>(),
                8_usize,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn wait_millis(&self, ready: &mut [Ready], timeout: Option<Duration>) -> io::Result<usize> {
        let millis = timeout.map_or(-1, |duration| {
            i32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        let events = ready.as_mut_ptr().cast::<libc::epoll_event>();
        // SAFETY: `ready` is valid for its length and laid out as epoll_event.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events, max_events(ready), millis) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

fn max_events(ready: &[Ready]) -> libc::c_int {
    libc::c_int::try_from(ready.len()).unwrap_or(libc::c_int::MAX)
}

const _: () = assert!(size_of::<Ready>() == size_of::<libc::epoll_event>());
const _: () = assert!(align_of::<Ready>() == align_of::<libc::epoll_event>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, pipe};

    #[test]
    fn epoll_waits_in_millis_are_never_too_short() {
        let epoll = Epoll::new().unwrap();
        let mut ready = [Ready::EMPTY];
        for micros in [1, 700, 1_001] {
            let timeout = Duration::from_micros(micros);
            let start = clock::now();
            assert_eq!(epoll.wait_millis(&mut ready, Some(timeout)).unwrap(), 0);
            assert!(clock::now().saturating_since(start) >= timeout);
        }
    }

    /// Has the kernel answer this thread's calls of epoll_pwait2 with `errno` from now on.
    fn forbid_pwait2(errno: i32) {
        // struct seccomp_data begins with the system call's number.
        const LOAD_NUMBER: libc::sock_filter = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
        let number = u32::try_from(libc::SYS_epoll_pwait2).unwrap();
        let answer = libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
        let mut program = [
            LOAD_NUMBER,
            libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: number },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: answer },
            libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: no memory is passed.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).unwrap();
        // SAFETY: `filter` and the program that it points to are valid for the call, which copies them.
        let result =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        check(result).unwrap();
    }

    #[test]
    fn epoll_without_pwait2_waits_in_millis() {
        for errno in [libc::EPERM, libc::ENOSYS] {
            forbid_pwait2(errno);
            NO_PWAIT2.store(false, Ordering::Relaxed);
            let epoll = Epoll::new().unwrap();
            let mut ready = [Ready::EMPTY];
            let refused = epoll.wait_micros(&mut ready, Some(Duration::ZERO)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(errno));
            let start = clock::now();
            assert_eq!(epoll.wait(&mut ready, Some(Duration::from_micros(1_200))).unwrap(), 0);
            assert!(clock::now().saturating_since(start) >= Duration::from_micros(1_200));
            assert!(!waits_in_micros(), "it isn't tried again each time");
        }
    }

    #[test]
    fn epoll_reports_registered_data_in_both_ways_of_waiting() {
        let (read_end, write_end) = pipe::pipe().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(write_end.as_raw_fd(), OUT, u64::MAX - 7).unwrap();
        for wait in [Epoll::wait_micros, Epoll::wait_millis] {
            let mut ready = [Ready::EMPTY];
            assert_eq!(wait(&epoll, &mut ready, None).unwrap(), 1);
            assert_eq!((ready[0].events(), ready[0].data()), (OUT, u64::MAX - 7));
        }
        assert_eq!(
            epoll.add(write_end.as_raw_fd(), OUT, 0).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        epoll.remove(write_end.as_raw_fd()).unwrap();
        drop(read_end);
        assert_eq!(epoll.wait(&mut [Ready::EMPTY], Some(Duration::ZERO)).unwrap(), 0);
    }
}
