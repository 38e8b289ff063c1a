//! WAL buffers: the newest pages of the log, in a ring in shared memory.
//!
//! Page `p` of the log lives in slot `p % pages`. The inserter (one at a time, under the insert lock) claims a page
//! before it writes there, which ends the life of the page that lay in the slot; it may do so only when that older page
//! has been written to its file. Who writes to the file reads complete pages out of the ring without a lock, as the
//! claim waits for the write. Walsenders read without any lock and must therefore look twice:
//! whether the page was claimed while they copied ([`crate::ordering`]); then they throw the copy away and read from the
//! file.
//!
//! Follows PostgreSQL 17 WALReadFromBuffers() and AdvanceXLInsertBuffer() in src/backend/access/transam/xlog.c;
//! differs in: no lock per page, as there is one inserter at a time.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use ipc::shmem::{SharedBytes, Shmem};
use wal::lsn::Lsn;
use wal::page::PAGE_SIZE;

use crate::ordering;

const PAGE: u64 = PAGE_SIZE as u64;

ipc::shared_struct! {
    /// What is in the ring.
    pub struct RingCtl {
        /// End of the newest claimed page. Written under the insert lock only.
        pub initialized: AtomicU64,
        /// Pages below this one were never put into the ring (the log before this start of the node).
        pub valid_from: AtomicU64,
    }
}

/// Handle to the ring, one copy in each process.
#[derive(Clone, Copy, Debug)]
pub struct WalBuffers {
    ctl: &'static RingCtl,
    bytes: SharedBytes,
}

impl WalBuffers {
    /// Bytes of shared memory for a ring of `bytes` bytes.
    pub fn shmem_size(bytes: usize) -> usize {
        bytes + size_of::<RingCtl>()
    }

    /// Takes the ring's memory, `bytes` (whole pages); before fork.
    pub fn create(shmem: &mut Shmem, bytes: usize) -> WalBuffers {
        assert_eq!(bytes % PAGE_SIZE, 0, "the ring holds whole pages");
        let ring = WalBuffers { ctl: shmem.alloc::<RingCtl>(), bytes: shmem.alloc_bytes(bytes) };
        ring.initialise();
        ring
    }

    /// Writes what isn't zero into a ring that is all zero.
    pub fn initialise(&self) {
        // Nothing is in it before `start_at`; on a standby nothing ever is.
        self.ctl.valid_from.store(u64::MAX, Ordering::Relaxed);
    }

    /// Bytes in the ring.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Begins with the page of `lsn`, whose content up to `lsn` is `head` (recovery read it from the file).
    ///
    /// Under the insert lock, before anything is inserted.
    pub fn start_at(&self, lsn: Lsn, head: &[u8]) {
        let page = lsn.page_start();
        if lsn != page {
            let slot = self.slot(page);
            self.bytes.zero(slot..slot + PAGE_SIZE);
            self.bytes.write(slot, &head[..lsn.page_offset()]);
        }
        let claimed = if lsn == page { page } else { page + PAGE };
        self.ctl.initialized.store(claimed.0, Ordering::Release);
        // The last, and Release: walsenders of a node that is being promoted read meanwhile, and nothing until they see
        // this.
        self.ctl.valid_from.store(page.0, Ordering::Release);
    }

    /// End of the newest claimed page.
    pub fn initialized(&self) -> Lsn {
        Lsn(self.ctl.initialized.load(Ordering::Acquire))
    }

    /// The page whose slot `page` takes over, if that one may still be unwritten: it must be in its file before
    /// [`WalBuffers::claim`].
    pub fn predecessor(&self, page: Lsn) -> Option<Lsn> {
        let older = page.0.checked_sub(self.size())?;
        (older >= self.ctl.valid_from.load(Ordering::Relaxed)).then_some(Lsn(older))
    }

    /// Takes the slot of `page` and zeroes it. Under the insert lock; the predecessor is in its file.
    pub fn claim(&self, page: Lsn) {
        debug_assert_eq!(page.page_offset(), 0);
        ordering::claim_page(&self.ctl.initialized, (page + PAGE).0);
        let slot = self.slot(page);
        self.bytes.zero(slot..slot + PAGE_SIZE);
    }

    /// Copies record bytes or a page header in; must not cross a page. Under the insert lock, on a claimed page.
    pub fn write(&self, lsn: Lsn, bytes: &[u8]) {
        debug_assert!(lsn.page_offset() + bytes.len() <= PAGE_SIZE);
        self.bytes.write(self.slot(lsn), bytes);
    }

    /// Whether the bytes from `start` on are in the ring now; they may be gone the next moment.
    pub fn has(&self, start: Lsn) -> bool {
        // Acquire: pairs with the Release in `start_at`.
        start.0 >= self.ctl.valid_from.load(Ordering::Acquire)
            && ordering::in_ring(&self.ctl.initialized, start.0, self.size())
    }

    /// Copies `into.len()` bytes at `start` out; false when they are not, or no longer, in the ring.
    ///
    /// The range must be below the flush LSN (what is beyond may be half written).
    pub fn read(&self, start: Lsn, into: &mut [u8]) -> bool {
        if !self.has(start) {
            return false;
        }
        let mut done = 0;
        while done < into.len() {
            let slot = self.slot(start + done as u64);
            let length = (into.len() - done).min(self.bytes.len() - slot);
            self.bytes.read(slot, &mut into[done..done + length]);
            done += length;
        }
        ordering::copy_is_good(&self.ctl.initialized, start.0, self.size())
    }

    /// Writes the pages from `start` to `end` (both page boundaries, one segment) to their place in `file`.
    ///
    /// # Errors
    /// Those of pwrite.
    pub fn pwrite(&self, file: &File, start: Lsn, end: Lsn, file_offset: u64) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let slot = self.slot(at);
            let length = ((end - at) as usize).min(self.bytes.len() - slot);
            self.bytes.pwrite(file, slot..slot + length, file_offset + (at - start))?;
            at += length as u64;
        }
        Ok(())
    }

    fn slot(&self, lsn: Lsn) -> usize {
        (lsn.0 % self.size()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(pages: usize) -> WalBuffers {
        let bytes = pages * PAGE_SIZE;
        let mut shmem = Shmem::create(WalBuffers::shmem_size(bytes) + 4096).unwrap();
        WalBuffers::create(&mut shmem, bytes)
    }

    #[test]
    fn read_gives_what_was_written_until_the_slot_is_claimed_again() {
        let ring = ring(4);
        let start = Lsn(16 << 20);
        ring.start_at(start, &[]);
        for page in 0..4u8 {
            let lsn = start + u64::from(page) * PAGE;
            ring.claim(lsn);
            ring.write(lsn, &[page + 1; PAGE_SIZE]);
        }
        let mut two = vec![0; 2 * PAGE_SIZE];
        assert!(ring.read(start + PAGE / 2, &mut two));
        assert_eq!((two[0], two[PAGE_SIZE], two[2 * PAGE_SIZE - 1]), (1, 2, 3));

        assert_eq!(ring.predecessor(start + 4 * PAGE), Some(start));
        ring.claim(start + 4 * PAGE);
        assert!(!ring.read(start, &mut two[..8]));
        assert!(ring.read(start + PAGE, &mut two[..8]));
    }

    #[test]
    fn start_in_the_middle_of_a_page_keeps_its_head_and_refuses_older_pages() {
        let ring = ring(4);
        let lsn = Lsn((16 << 20) + PAGE + 48);
        ring.start_at(lsn, &[7; PAGE_SIZE]);
        let mut page = vec![9; PAGE_SIZE];
        assert!(ring.read(lsn.page_start(), &mut page));
        assert_eq!((page[47], page[48]), (7, 0));
        assert!(!ring.read(Lsn(16 << 20), &mut page[..8]));
        assert_eq!(ring.predecessor(lsn.page_start() + PAGE), None);
    }
}
