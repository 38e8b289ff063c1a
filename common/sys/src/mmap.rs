//! Anonymous memory that a process shares with the children it forks afterwards, at the same address in all
//! of them.

use std::{io, num::NonZeroUsize, ptr::NonNull};

use nix::sys::mman::{self, MRemapFlags, MapFlags, ProtFlags};

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

    /// Puts fresh memory, all zero, in the mapping's place, at the same address: for this process and its children to
    /// come what they see is as if somebody had written zeroes. Processes forked before keep the old memory, apart.
    /// On an error nothing has changed.
    pub fn renew(&self) -> io::Result<()> {
        let fresh = SharedMapping::new(self.len)?;
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        let (from, to) = (fresh.start.cast(), self.start.cast());
        // SAFETY: both ranges are whole mappings of this process of that length. The target's bytes were shared memory
        // and may change at any time by contract; they become zeroes, and at no time is nothing mapped there.
        let moved = unsafe { mman::mremap(from, self.len, self.len, flags, Some(to)) };
        if moved.is_err() {
            // The kernel may have unmapped the target already, and others hold references into it.
            std::process::abort();
        }
        // Its memory lies where the old one did, so there is nothing to unmap.
        std::mem::forget(fresh);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_mapping_is_zero_in_the_same_place_and_no_second_one() {
        const LEN: usize = 1 << 20;
        let mapping = SharedMapping::new(LEN).unwrap();
        let first = mapping.start();
        // SAFETY: mapped, and nobody else's.
        unsafe { first.write(7) };
        mapping.renew().unwrap();
        assert_eq!(mapping.start(), first);
        // SAFETY: as above.
        assert_eq!(unsafe { first.read() }, 0);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = format!("{:x}-{:x} rw-s", first.addr(), first.addr().get() + LEN);
        assert_eq!(maps.lines().filter(|mapped| mapped.starts_with(&line)).count(), 1, "{maps}");
    }
}
