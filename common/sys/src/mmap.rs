//! Anonymous memory that a process shares with the children it forks afterwards, at the same address in all
//! of them.

use std::{io, num::NonZeroUsize, ptr::NonNull};

use nix::sys::mman::{self, MapFlags, ProtFlags};

/// A zero-filled anonymous MAP_SHARED mapping, unmapped on drop (in this process only).
#[derive(Debug)]
pub struct SharedMapping {
    start: NonNull<u8>,
    len: usize,
}

impl SharedMapping {
    /// Maps `len` bytes (more than 0), all zero. Pages cost memory only once touched.
    pub fn new(len: usize) -> io::Result<SharedMapping> {
        let length = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no existing memory.
        let start = unsafe { mman::mmap_anonymous(None, length, protection, flags) }?;
        Ok(SharedMapping { start: start.cast(), len })
    }

    /// The first byte; page-aligned.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes mapped.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Gives the mapping up to the rest of the process's life and returns its first byte.
    pub fn leak(self) -> NonNull<u8> {
        let start = self.start;
        std::mem::forget(self);
        start
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping; who took pointers from it promised to be gone (they come from
        // `start`).
        let result = unsafe { mman::munmap(self.start.cast(), self.len) };
        debug_assert!(result.is_ok(), "unmapping an own mapping");
    }
}
