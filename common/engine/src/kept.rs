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
