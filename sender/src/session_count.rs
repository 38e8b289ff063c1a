//! How many sessions there are: `max_connections` as a client meets it.
//!
//! There are more process slots than sessions may be (those of the walsenders, and some for who is still saying who he is, or
//! only brings a cancel request), so a session takes a place of its own once it is known to be one. It gives it back by its
//! end; a process that ends without that has crashed, and then all of shared memory is made anew.
//!
//! Follows PostgreSQL 15 InitProcess() in src/backend/storage/lmgr/proc.c; differs in: who has not said yet what he
//! wants takes none of the places.

use std::sync::atomic::{AtomicU32, Ordering};

ipc::shared_struct! {
    /// The places that are taken.
    pub struct SessionCount {
        /// How many. Each session counts itself, and takes itself off.
        taken: AtomicU32,
    }
}

/// A session's place, until it is dropped.
#[derive(Debug)]
pub struct Place(&'static SessionCount);

impl SessionCount {
    /// Takes one of `places`; none: all are taken.
    pub fn take(&'static self, places: usize) -> Option<Place> {
        let one_more = |taken: u32| ((taken as usize) < places).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).ok().map(|_| Place(self))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed) as usize
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use ipc::shmem::Shmem;

    use super::*;

    #[test]
    fn places_are_taken_up_to_the_limit_and_given_back() {
        let count: &'static SessionCount = Shmem::create(4096).unwrap().alloc();
        let first = count.take(2).expect("the first");
        let second = count.take(2).expect("the second");
        assert!(count.take(2).is_none());
        drop(first);
        let third = count.take(2).expect("the first one's");
        assert!(count.take(2).is_none());
        drop((second, third));
        assert!(count.take(1).is_some());
    }
}
