//! Shared memory: one mapping, laid out by the postmaster before the first fork, seen by every process at the
//! same address.
//!
//! What lies in it is plain words that any process may write at any time, so nothing in it is ever borrowed
//! mutably or as plain data: a structure is made of atomics ([`shared_struct!`](crate::shared_struct)), a
//! range of bytes is copied word by word with relaxed atomic accesses ([`SharedBytes`]), a text is copied and
//! checked ([`SharedStr`]). A racing copy gives mixed bytes, never undefined behaviour: readers validate.
//!
//! Invariants: no pointers, no heap parts, no destructors in shared memory; a value whose bytes are all zero
//! is valid (the mapping starts so); it lasts as long as the process.

#![allow(unsafe_code)]

use std::{
    cell::Cell,
    fs::File,
    io,
    ops::Range,
    ptr::NonNull,
    sync::atomic::{
        AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32,
        AtomicU64, AtomicUsize, Ordering, fence,
    },
};

use sys::mmap::SharedMapping;

use crate::latch::Latch;

/// Every allocation starts on a cache line of its own.
const ALIGN: usize = 64;

/// A type that may live in shared memory. Made by [`shared_struct!`](crate::shared_struct), not by hand.
///
/// # Safety
///
/// - All-zero bytes are a valid value.
/// - Everything in it may be written by another process at any time: it consists of atomics only.
/// - It has no pointer, no heap part and no destructor, and its layout is fixed (`repr(C)` or primitive).
pub unsafe trait Shared: Sync + std::fmt::Debug + 'static {
    /// Fails to compile for a type with a destructor; evaluated by every allocation.
    const NO_DESTRUCTOR: () = assert!(!std::mem::needs_drop::<Self>());
}

macro_rules! shared_atomics {
    ($($atomic:ty),*) => { $(
        // SAFETY: an atomic integer: zero is a value, every access is atomic, plain data.
        unsafe impl Shared for $atomic {}
    )* };
}
shared_atomics!(
    AtomicBool,
    AtomicI8,
    AtomicI16,
    AtomicI32,
    AtomicI64,
    AtomicIsize,
    AtomicU8,
    AtomicU16,
    AtomicU32,
    AtomicU64,
    AtomicUsize
);

// SAFETY: an array of such values is such a value.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

// SAFETY: repr(C), three atomic integers.
unsafe impl Shared for Latch {}

/// Declares structures that may live in shared memory: `repr(C)`, `Debug`, every field a
/// [`Shared`](crate::shmem::Shared) type (atomics, arrays, [`SharedStr`](crate::shmem::SharedStr),
/// [`Latch`](crate::latch::Latch), [`LwLock`](crate::lwlock::LwLock), others declared here).
/// `#[repr(align(64))]` may be added.
///
/// ```
/// ipc::shared_struct! {
///     /// Where a walsender is.
///     pub struct WalSenderSlot {
///         /// Sent so far. Written by the walsender, read by all.
///         pub sent_lsn: std::sync::atomic::AtomicU64,
///     }
/// }
/// let shmem = ipc::shmem::Shmem::create(4096).unwrap();
/// let slots: &'static [WalSenderSlot] = shmem.alloc_array(10);
/// assert_eq!(slots[9].sent_lsn.load(std::sync::atomic::Ordering::Relaxed), 0);
/// ```
///
/// A field that isn't made of atomics doesn't compile:
///
/// ```compile_fail,E0277
/// ipc::shared_struct! {
///     /// A heap part has no place here.
///     pub struct Wrong {
///         name: String,
///     }
/// }
/// ```
#[macro_export]
macro_rules! shared_struct {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(<const $n:ident : usize>)? {
            $( $(#[$field_meta:meta])* $field_vis:vis $field:ident : $type:ty ),+ $(,)?
        }
    )+) => { $(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug)]
        $vis struct $name $(<const $n: usize>)? { $( $(#[$field_meta])* $field_vis $field: $type ),+ }

        // SAFETY: repr(C), and the where clauses demand that every field is Shared: hence so is the whole. A
        // destructor is ruled out by the trait's constant.
        unsafe impl $(<const $n: usize>)? $crate::shmem::Shared for $name $(<$n>)?
        where
            $( $type: $crate::shmem::Shared ),+
        {
        }
    )+ };
}

/// The shared memory of a node while it is being laid out: an allocator that only goes forward. The memory
/// itself stays for the life of the process, also when this value is dropped.
#[derive(Debug)]
pub struct Shmem {
    mapping: &'static SharedMapping,
    used: Cell<usize>,
}

impl Shmem {
    /// Maps `bytes` of zeroes. Be generous: what is never touched costs nothing.
    pub fn create(bytes: usize) -> io::Result<Shmem> {
        let mapping = Box::leak(Box::new(SharedMapping::new(bytes)?));
        Ok(Shmem { mapping, used: Cell::new(0) })
    }

    /// Makes all of it zero again, by fresh memory in the same place, so that everything laid out in it stays where
    /// it is. For the postmaster, when no child is left: whoever lived on would see the old memory. What was not
    /// zero at the start is the caller's to write again, [`ProcArray::initialise`] among it. On an error nothing
    /// has changed.
    ///
    /// [`ProcArray::initialise`]: crate::proc::ProcArray::initialise
    pub fn renew(&self) -> io::Result<()> {
        self.mapping.renew()
    }

    /// A zeroed `T`. Panics when the mapping is full: its size is computed by who creates it.
    pub fn alloc<T: Shared>(&self) -> &'static T {
        &self.alloc_array::<T>(1)[0]
    }

    /// `count` zeroed `T`s.
    pub fn alloc_array<T: Shared>(&self, count: usize) -> &'static [T] {
        const { assert!(align_of::<T>() <= ALIGN) };
        let () = T::NO_DESTRUCTOR;
        let bytes = size_of::<T>().checked_mul(count).expect("an array larger than the address space");
        let start = self.take(bytes).cast::<T>();
        // SAFETY: `take` returns zeroed, aligned memory of this length that nothing else uses and that is
        // never unmapped (`renew` has the effect of stores of zeroes);
        // T is Shared, so zeroes are a value and shared access by other processes is sound.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), count) }
    }

    /// `len` zeroed bytes; rounded up to whole words inside.
    pub fn alloc_bytes(&self, len: usize) -> SharedBytes {
        let words = self.alloc_array::<AtomicU64>(len.div_ceil(WORD));
        SharedBytes { words, len }
    }

    /// Bytes not yet given out.
    pub fn remaining(&self) -> usize {
        self.mapping.len() - self.used.get()
    }

    fn take(&self, bytes: usize) -> NonNull<u8> {
        let start = self.used.get();
        let end = start.checked_add(bytes).expect("shared memory of a sane size");
        let len = self.mapping.len();
        assert!(end <= len, "out of shared memory: {bytes} bytes wanted, {} left", len - start);
        self.used.set(end.next_multiple_of(ALIGN).min(len));
        // SAFETY: `start` is inside the mapping (checked above).
        unsafe { self.mapping.start().add(start) }
    }
}

/// Bytes per word of a [`SharedBytes`].
const WORD: usize = size_of::<u64>();

/// A range of raw bytes in shared memory.
///
/// Copies are word-wise relaxed atomic: two processes that write different bytes never disturb each other,
/// and a reader that races with a writer gets old and new bytes mixed. Whatever orders them (a lock, a flag
/// stored with Release and read with Acquire) is the users' business. Offsets and lengths out of range are
/// the caller's error: panic.
#[derive(Clone, Copy)]
pub struct SharedBytes {
    words: &'static [AtomicU64],
    len: usize,
}

impl SharedBytes {
    /// How many bytes there are.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Copies bytes from `offset` on into `target`.
    pub fn read(self, offset: usize, target: &mut [u8]) {
        self.check(offset, target.len());
        let (mut word, mut rest) = (offset / WORD, target);
        let skip = offset % WORD;
        if skip != 0 {
            let (head, tail) = rest.split_at_mut((WORD - skip).min(rest.len()));
            head.copy_from_slice(&self.load(word)[skip..skip + head.len()]);
            (word, rest) = (word + 1, tail);
        }
        let mut chunks = rest.chunks_exact_mut(WORD);
        for (chunk, index) in (&mut chunks).zip(word..) {
            chunk.copy_from_slice(&self.load(index));
            word = index + 1;
        }
        let tail = chunks.into_remainder();
        if !tail.is_empty() {
            let count = tail.len();
            tail.copy_from_slice(&self.load(word)[..count]);
        }
    }

    /// Copies `source` to `offset`.
    pub fn write(self, offset: usize, source: &[u8]) {
        self.check(offset, source.len());
        let (mut word, mut rest) = (offset / WORD, source);
        let skip = offset % WORD;
        if skip != 0 {
            let (head, tail) = rest.split_at((WORD - skip).min(rest.len()));
            self.store_part(word, skip, head);
            (word, rest) = (word + 1, tail);
        }
        let chunks = rest.chunks_exact(WORD);
        let tail = chunks.remainder();
        for chunk in chunks {
            let bytes = chunk.try_into().expect("a chunk is a word");
            self.words[word].store(word_of(bytes), Ordering::Relaxed);
            word += 1;
        }
        if !tail.is_empty() {
            self.store_part(word, 0, tail);
        }
    }

    /// Makes the bytes of `range` zero.
    pub fn zero(self, range: Range<usize>) {
        const ZEROES: [u8; 512] = [0; 512];
        let mut offset = range.start;
        while offset < range.end {
            let count = (range.end - offset).min(ZEROES.len());
            self.write(offset, &ZEROES[..count]);
            offset += count;
        }
    }

    /// Writes the bytes of `range` into `file` at `file_offset`, straight out of the mapping. Bytes that
    /// another process changes meanwhile may reach the file in either state.
    pub fn pwrite(self, file: &File, range: Range<usize>, file_offset: u64) -> io::Result<()> {
        self.check(range.start, range.len());
        let start = self.words.as_ptr().cast::<u8>().wrapping_add(range.start);
        // SAFETY: the range is inside the allocation (checked above), which is never unmapped.
        unsafe { sys::file::pwrite_raw(file, start, range.len(), file_offset) }
    }

    fn check(self, offset: usize, count: usize) {
        let end = offset.checked_add(count);
        assert!(end.is_some_and(|end| end <= self.len), "bytes {offset}+{count} of {} shared", self.len);
    }

    fn load(self, word: usize) -> [u8; WORD] {
        // Relaxed: ordering is the users' business, see above.
        bytes_of(self.words[word].load(Ordering::Relaxed))
    }

    /// Replaces some bytes of a word; by compare-exchange, as a neighbour may write the others.
    fn store_part(self, word: usize, offset: usize, source: &[u8]) {
        let replace = |old: u64| {
            let mut bytes = bytes_of(old);
            bytes[offset..offset + source.len()].copy_from_slice(source);
            Some(word_of(bytes))
        };
        let replaced = self.words[word].fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
        replaced.expect("the closure always gives a value");
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len)
    }
}

/// The word whose bytes in memory are `bytes`, on a machine of either byte order.
fn word_of(bytes: [u8; WORD]) -> u64 {
    u64::from_le_bytes(bytes).to_le()
}

/// The bytes in memory of a word.
fn bytes_of(word: u64) -> [u8; WORD] {
    u64::from_le(word).to_le_bytes()
}

shared_struct! {
    /// A text of up to `N` bytes, written by one process, read by any. All zero is the empty text.
    ///
    /// `version` is odd while the writer is at it (a sequence lock); a reader that meets a writer tries again
    /// a few times, then takes what is there: a mixed text at worst.
    pub struct SharedStr<const N: usize> {
        version: AtomicU32,
        len: AtomicU32,
        bytes: [AtomicU8; N],
    }
}

impl<const N: usize> SharedStr<N> {
    /// How often a reader tries to get an unmixed text before it takes a mixed one.
    const ATTEMPTS: u32 = 100;

    /// Replaces the text, cut to `N` bytes at a character's border. For the one process that owns the field.
    pub fn set(&self, text: &str) {
        let text = &text[..text.floor_char_boundary(N)];
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Release: whoever reads a byte stored below and then fences (Acquire, in `get`) sees the odd
        // version.
        fence(Ordering::Release);
        for (target, byte) in self.bytes.iter().zip(text.bytes()) {
            target.store(byte, Ordering::Relaxed);
        }
        self.len.store(u32::try_from(text.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        // Release: pairs with the first load in `get`; the bytes are there when the even version is.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The text. What is not UTF-8 (mixed by a race) is replaced.
    pub fn get(&self) -> String {
        let mut bytes = Vec::new();
        for _ in 0..Self::ATTEMPTS {
            let before = self.version.load(Ordering::Acquire);
            let len = (self.len.load(Ordering::Relaxed) as usize).min(N);
            bytes.clear();
            bytes.extend(self.bytes[..len].iter().map(|byte| byte.load(Ordering::Relaxed)));
            // Acquire: pairs with the fence in `set`.
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                break;
            }
            std::hint::spin_loop();
        }
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn bytes(len: usize) -> SharedBytes {
        Shmem::create(4096).unwrap().alloc_bytes(len)
    }

    #[test]
    fn shared_bytes_copy_every_offset_and_length() {
        let pattern: Vec<u8> = (1..=40).collect();
        for offset in 0..17 {
            for len in 0..24 {
                let shared = bytes(45);
                shared.write(offset, &pattern[..len]);
                let mut all = vec![0xFF; 45];
                shared.read(0, &mut all);
                assert_eq!(&all[offset..offset + len], &pattern[..len]);
                let others = all[..offset].iter().chain(&all[offset + len..]);
                assert!(others.copied().all(|byte| byte == 0), "neighbours of {offset}+{len} stay");
                let mut part = vec![0; len];
                shared.read(offset, &mut part);
                assert_eq!(part, pattern[..len]);
            }
        }
    }

    #[test]
    fn shared_bytes_zero_clears_the_range_alone() {
        let shared = bytes(1200);
        shared.write(0, &[7; 1200]);
        shared.zero(3..1190);
        let mut all = [9; 1200];
        shared.read(0, &mut all);
        assert!(all[..3] == [7; 3] && all[1190..] == [7; 10] && all[3..1190].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn shared_bytes_pwrite_writes_the_range_at_the_offset() {
        let path = std::env::temp_dir().join(format!("ipc-shmem-{}", sys::process::current_pid()));
        let mut file =
            File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let shared = bytes(100);
        shared.write(10, b"0123456789");
        shared.pwrite(&file, 11..18, 5).unwrap();
        let mut contents = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut contents).unwrap();
        assert_eq!(contents, b"\0\0\0\0\x001234567");
    }

    #[test]
    #[should_panic(expected = "bytes 8+3 of 10 shared")]
    fn shared_bytes_out_of_range_panics() {
        bytes(10).write(8, b"abc");
    }

    #[test]
    fn shared_str_cuts_at_a_character() {
        let text: &SharedStr<8> = Shmem::create(4096).unwrap().alloc();
        assert_eq!(text.get(), "");
        text.set("grüße 1");
        assert_eq!(text.get(), "grüße ");
        text.set("");
        assert_eq!(text.get(), "");
    }

    #[test]
    fn shmem_allocations_are_zero_aligned_and_apart() {
        let shmem = Shmem::create(4096).unwrap();
        let one: &AtomicU8 = shmem.alloc();
        let two: &AtomicU64 = shmem.alloc();
        one.store(u8::MAX, Ordering::Relaxed);
        assert_eq!(two.load(Ordering::Relaxed), 0);
        assert_eq!(
            (std::ptr::from_ref(two).addr() - std::ptr::from_ref(one).addr(), shmem.remaining()),
            (64, 3968)
        );
    }

    #[test]
    #[should_panic(expected = "out of shared memory: 5000 bytes wanted, 4096 left")]
    fn shmem_full_panics() {
        Shmem::create(4096).unwrap().alloc_array::<AtomicU8>(5000);
    }
}
