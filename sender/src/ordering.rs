//! The steps that order the node's processes against each other, one function each.
//!
//! They are apart from their users so that a model checker runs this very code (tests/loom.rs), with weaker memory than
//! any test machine has, and shows that with any one of these orders left out something is lost.
//!
//! **Waiting for a position** (flush LSN, applied LSN). A waiter's word says which LSN it waits for, 0 none.
//!
//! ```text
//! waiter:    word := lsn      ; full fence ; look at the position (or try to move it oneself) ; sleep on the own latch
//! publisher: position := lsn  ; full fence ; look at the words, set the latches
//! ```
//!
//! With both fences at least one sees the other, so nobody sleeps over a position that is reached.
//!
//! **An answer that waits for a position** (the horizon). It is in a session's place, whose owner is not woken for it: the
//! place itself is the waiter's word, and who moves the position wakes the session. So what the waker has seen of the place,
//! the session sees when it wakes.
//!
//! ```text
//! startup:   answer, lsn ; state := waiting (release) ; full fence ; look at the position: there? set the latch
//! publisher: position := lsn ; full fence ; state (acquire) waiting? lsn reached? set the latch
//! session:   latch is set ; state (acquire), answer
//! ```
//!
//! **The ring of WAL buffers.** A reader copies without a lock and looks afterwards whether the page was claimed meanwhile.
//!
//! ```text
//! inserter: claimed := end of the page ; release fence ; change bytes
//! reader:   copy bytes ; acquire fence ; read claimed
//! ```
//!
//! If the copy holds one changed byte, the fences make the reader see the claim.
//!
//! **Giving bytes away** (a request, an answer, a complete record): bytes, then a release store of the word; an acquire
//! load of the word, then the bytes.

//!
//! **A large request** goes through a queue that the session renews for each, once the startup process has left it. The
//! startup process leaves it when it has the request, and when the request was taken back:
//!
//! ```text
//! session: queue renewed, sender attached ; state := SENDING ; request sent, sender left
//!          taken back: state SENDING -> IDLE ; sender left ; next request as above, when the receiver has left too
//! startup: request received ; state SENDING -> TAKEN ; receiver left
//!          sender has left? state not SENDING? then: receiver left
//! ```
//!
//! If the receiver left before the exchange, the exchange could take the next request's SENDING for that of the one that
//! has come. If the state were looked at before the sender, the look could be older than a next request that has been
//! sent meanwhile, and nobody would receive it.

use crate::sync::{AtomicU32, AtomicU64, Order, Ordering, fence};

/// Says in the own word that this process waits for `lsn`. Look at the position after this, and only then sleep.
pub(crate) fn announce_wait(word: &AtomicU64, lsn: u64) {
    // Relaxed: the fence orders it.
    word.store(lsn, Ordering::Relaxed);
    fence(Order::AnnounceBeforeLook);
}

/// The own wait is over. Whoever still sees the old word sets a latch once more, which does no harm.
pub(crate) fn end_wait(word: &AtomicU64) {
    word.store(0, Ordering::Relaxed);
}

/// Between publishing a position (or freeing the lock under which it moves) and [`awaited`].
pub(crate) fn before_looking_for_waiters() {
    fence(Order::PublishBeforeLook);
}

/// The LSN that a process waits for, if it waits.
pub(crate) fn awaited(word: &AtomicU64) -> Option<u64> {
    match word.load(Ordering::Relaxed) {
        0 => None,
        lsn => Some(lsn),
    }
}

/// Ends the life of the bytes that the page ending at `end` takes over. They may be changed from here on.
pub(crate) fn claim_page(claimed: &AtomicU64, end: u64) {
    claimed.store(end, Ordering::Relaxed);
    fence(Order::ClaimBeforeChange);
}

/// Whether bytes from `start` on, just copied out of a ring of `size` bytes, were still those of the log.
pub(crate) fn copy_is_good(claimed: &AtomicU64, start: u64, size: u64) -> bool {
    fence(Order::CopyBeforeCheck);
    in_ring(claimed, start, size)
}

/// Whether it is worth copying at all.
pub(crate) fn in_ring(claimed: &AtomicU64, start: u64, size: u64) -> bool {
    start + size >= claimed.load(Ordering::Relaxed)
}

/// Gives the bytes written before away by storing `position`: they may be read by whoever sees it.
pub(crate) fn publish_position(word: &AtomicU64, position: u64) {
    word.store(position, Order::GiveAway.get());
}

/// The position; the bytes below it may be read.
pub(crate) fn published_position(word: &AtomicU64) -> u64 {
    word.load(Order::TakeOver.get())
}

/// Gives a place with what was written into it away.
pub(crate) fn give_away(state: &AtomicU32, to: u32) {
    state.store(to, Order::GiveAway.get());
}

/// Gives a place away to an owner that nobody wakes for it unless the position that it waits for has come: look at that after
/// this.
pub(crate) fn give_away_waiting(state: &AtomicU32, to: u32) {
    state.store(to, Order::GiveAway.get());
    fence(Order::AnnounceBeforeLook);
}

/// Raises a position that several move; what it was before.
pub(crate) fn raise_position(word: &AtomicU64, position: u64) -> u64 {
    word.fetch_max(position, Order::GiveAway.get())
}

/// Whether the place has come to this state; if so its bytes may be read (and written) by who owns it in that state.
pub(crate) fn is_given(state: &AtomicU32, expected: u32) -> bool {
    state.load(Order::TakeOver.get()) == expected
}

/// Takes a place from one state to another, if nobody was faster.
pub(crate) fn take_place(state: &AtomicU32, from: u32, to: u32) -> bool {
    // Only the look matters: what the taker has written belongs to a later step.
    state.compare_exchange(from, to, Order::TakeOver.get(), Ordering::Relaxed).is_ok()
}

/// Takes a large request that has come whole from one state to another, unless it was taken back, and then leaves its queue.
pub(crate) fn take_whole(state: &AtomicU32, from: u32, to: u32, leave: impl FnOnce()) -> bool {
    if Order::TakeBeforeLeave.is_kept() {
        let taken = take_place(state, from, to);
        leave();
        return taken;
    }
    leave();
    take_place(state, from, to)
}

/// Whether a large request, whose state was `sending`, was taken back: then its queue is to be left.
pub(crate) fn is_taken_back(state: &AtomicU32, sending: u32, sender_has_left: impl FnOnce() -> bool) -> bool {
    if Order::SenderBeforeState.is_kept() {
        return sender_has_left() && !is_given(state, sending);
    }
    !is_given(state, sending) && sender_has_left()
}
