//! The records since the last commit, end to end in one buffer.

use crate::change::Items;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    /// Where each record's changes end.
    ends: Vec<usize>,
}

impl Kept {
    pub(crate) fn push(&mut self, changes: &[u8]) {
        self.bytes.extend_from_slice(changes);
        self.ends.push(self.bytes.len());
    }

    /// Forgets the last one.
    pub(crate) fn pop(&mut self) {
        self.ends.pop();
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Takes the records behind the first `count` away.
    pub(crate) fn split_off(&mut self, count: usize) -> Kept {
        let at = count.checked_sub(1).map_or(0, |last| self.ends[last]);
        let ends = self.ends.split_off(count);
        Kept { bytes: self.bytes.split_off(at), ends: ends.into_iter().map(|end| end - at).collect() }
    }

    /// Puts what [`Kept::split_off`] took back to the end.
    pub(crate) fn append(&mut self, later: &Kept) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&later.bytes);
        self.ends.extend(later.ends.iter().map(|end| at + end));
    }

    pub(crate) fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
        // One huge transaction shall not hold its memory for ever.
        self.bytes.shrink_to(BYTES_HELD);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Items<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let changes = &self.bytes[start..end];
            start = end;
            Items::of_changes(changes)
        })
    }
}

const BYTES_HELD: usize = 1 << 20;
