//! The bytes of a ring in a model: the twin of shmem.rs' `SharedBytes` on the checker's atomics, in whole words.

use crate::sync::{AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

/// Words that are copied with relaxed accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedBytes(&'static [AtomicU64]);

impl SharedBytes {
    /// So many words, which a run of the model leaks.
    pub(crate) fn leak(words: usize) -> SharedBytes {
        SharedBytes((0..words).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak())
    }

    pub(crate) fn len(self) -> usize {
        self.0.len() * WORD
    }

    pub(crate) fn read(self, offset: usize, target: &mut [u8]) {
        for (word, bytes) in self.0[offset / WORD..].iter().zip(target.chunks_exact_mut(WORD)) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    pub(crate) fn write(self, offset: usize, source: &[u8]) {
        for (word, bytes) in self.0[offset / WORD..].iter().zip(source.chunks_exact(WORD)) {
            word.store(u64::from_le_bytes(bytes.try_into().expect("a chunk is a word")), Ordering::Relaxed);
        }
    }
}
