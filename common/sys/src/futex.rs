//! Futexes on shared memory: sleep while a word has a value, wake who sleeps on it. Never the private kind,
//! which is keyed by the address space and would not reach another process.

use std::{io, sync::atomic::AtomicU32};

/// Sleeps while `word` is `expected`. Returns at a wake-up, at once when the word differs, and now and then
/// for no reason (a signal): look at the word again.
pub fn wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the word outlives the call; a null timeout means none; the kernel only reads the word.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            std::ptr::null::<libc::timespec>(),
        )
    };
    if result == -1 {
        let error = io::Error::last_os_error();
        let expected_error = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
        assert!(expected_error, "futex wait on a valid word failed: {error}");
    }
}

/// Wakes up to `count` processes that sleep on `word`.
pub fn wake(word: &AtomicU32, count: i32) {
    // SAFETY: the word outlives the call; the kernel uses its address only as a key.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
    assert!(result >= 0, "futex wake on a valid word failed: {}", io::Error::last_os_error());
}
