//! The portable way to wait for signals: a handler that keeps them and makes a pipe readable.
//!
//! The one handler for all of its signals ORs a bit into a word of this process and, if the word was empty,
//! writes a byte to the pipe. It touches nothing else, so it may interrupt anything. [`SelfPipe::drain`]
//! empties the pipe first and the word then. So whenever the word isn't empty there is a byte in the pipe, or
//! a drain under way that takes the bits:
//!
//! * a signal before the read: its byte is read and its bit taken;
//! * between read and taking: if the word was empty, its byte stays for a wake-up in vain; its bit is taken;
//! * after the taking: the word is empty again, so it writes a new byte.
//!
//! The pipe never holds more than two bytes and never fills.
//!
//! Word and pipe belong to one process: fork leaves these signals blocked in the child, which has none until
//! it makes its own.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use super::{SignalSet, change_mask, empty_set, unblock};
use crate::{check, pipe};

/// The signals that have come and are not drained. Written by the handler (OR) and by drain (to 0), which
/// run in the same thread: relaxed accesses do.
static PENDING: AtomicU64 = AtomicU64::new(0);
/// Where the handler writes; -1: there is no self-pipe.
static WRITE_END: AtomicI32 = AtomicI32::new(-1);
/// The signals that have the handler and are not blocked.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// A descriptor that is readable while one of its signals is kept. A process uses one at a time.
#[derive(Debug)]
pub struct SelfPipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
}

impl SelfPipe {
    /// Makes the pipe, installs the handler for `signals` and lets them be delivered. They must be blocked.
    pub fn new(signals: SignalSet) -> io::Result<SelfPipe> {
        let (read_end, write_end) = pipe::pipe()?;
        PENDING.store(0, Ordering::Relaxed);
        WRITE_END.store(write_end.as_raw_fd(), Ordering::Relaxed);
        HANDLED.store(signals.0, Ordering::Relaxed);
        let handler: extern "C" fn(libc::c_int) = keep;
        let action = libc::sigaction {
            sa_sigaction: handler as libc::sighandler_t,
            sa_mask: empty_set(),
            // So that files and locks see no EINTR. Waits are never restarted.
            sa_flags: libc::SA_RESTART,
            sa_restorer: None,
        };
        for signal in signals.iter() {
            // SAFETY: `action` is valid and its handler calls only async-signal-safe functions.
            check(unsafe { libc::sigaction(signal.number(), &raw const action, std::ptr::null_mut()) })?;
        }
        unblock(signals);
        Ok(SelfPipe { read_end, write_end })
    }

    /// Takes the signals that have come and returns them; empty when there are none.
    pub fn drain(&self) -> io::Result<SignalSet> {
        let mut buffer = [0; 16];
        match pipe::read(&self.read_end, &mut buffer) {
            Ok(0) => return Err(io::Error::other("unexpected EOF on self-pipe")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(SignalSet(PENDING.swap(0, Ordering::Relaxed)))
    }

    /// The descriptor, to be waited for.
    pub fn raw(&self) -> RawFd {
        self.read_end.as_raw_fd()
    }
}

impl Drop for SelfPipe {
    fn drop(&mut self) {
        // Unless a later one has taken its place, or this is a child that inherited it.
        let own = self.write_end.as_raw_fd();
        let _not_own = WRITE_END.compare_exchange(own, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

extern "C" fn keep(signal: libc::c_int) {
    if PENDING.fetch_or(1 << signal, Ordering::Relaxed) != 0 {
        return;
    }
    // SAFETY: the address of this thread's errno is always valid.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: the buffer is one byte; write is async-signal-safe. It can only fail for want of a pipe (-1).
    unsafe { libc::write(WRITE_END.load(Ordering::Relaxed), [0_u8].as_ptr().cast(), 1) };
    // SAFETY: as above; what the handler interrupts may be about to read its errno.
    unsafe { *errno = before };
}

/// Blocks the signals of this process's self-pipe, if it has one; for the time of a fork.
pub(crate) fn block_for_fork() -> SignalSet {
    let handled = match WRITE_END.load(Ordering::Relaxed) {
        -1 => SignalSet::EMPTY,
        _ => SignalSet(HANDLED.load(Ordering::Relaxed)),
    };
    if !handled.is_empty() {
        change_mask(libc::SIG_BLOCK, &handled.to_kernel());
    }
    handled
}

/// In the parent: undoes [`block_for_fork`].
pub(crate) fn unblock_after_fork(blocked: SignalSet) {
    if !blocked.is_empty() {
        unblock(blocked);
    }
}

/// In the child: what it inherited is the parent's.
pub(crate) fn forget() {
    WRITE_END.store(-1, Ordering::Relaxed);
    PENDING.store(0, Ordering::Relaxed);
}
