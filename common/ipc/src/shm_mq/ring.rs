//! The ring under a message queue: bytes from one writer to one reader, and who must be woken.
//!
//! Two counters, each on a cache line that one side alone writes: bytes ever written, bytes ever read. Their
//! difference is what is in the ring, a counter modulo the size is a place in it. They are never reset while
//! both sides are there, and the size is a power of two, so a counter that overflows (after 2^64 bytes) goes on
//! rightly. All amounts are multiples of eight: no word of the ring is ever shared by two writes.
//!
//! # Why no byte is lost or mixed up
//!
//! ```text
//!   writer                                   reader
//!   W1  copy bytes in                        R1  load written   (acquire, "see bytes")
//!   W2  written += n (release, "give bytes") R2  copy bytes out
//!   W3  load read    (acquire)               R3  read += n      (release, "give room")
//! ```
//!
//! * R1 that reads what W2 stored has all of W1 before R2: release and acquire.
//! * W3 that reads what R3 stored has all of R2 before the next W1: the reader's loads were done when its room
//!   is written to again. So nothing that is still to be copied out is overwritten.
//!
//! # Why no wake-up is lost
//!
//! A side that finds nothing to do raises its `waits` word, looks once more, and only then may its process
//! sleep on its latch. The other side publishes, and sets that latch only if the word is up:
//!
//! ```text
//!   publisher                                waiter
//!   P1  counter += n                         S1  waits = 1
//!   P2  fence "publish before look"         S2  fence "wait before look"
//!   P3  waits 0? done; else set the latch    S3  load the counter: enough? waits = 0, go on
//!                                            S4  sleep on the latch
//! ```
//!
//! With both fences at least one sees the other's store: the publisher sets the latch (which latch.rs answers
//! for), or the waiter sees the counter. `waits` has one writer, its own side, and so stays up while that
//! process works off what it found: a set too many at most.
//!
//! # The end
//!
//! A side leaves by setting its bit in `ends` after its last counter and the fence P2. Who sees the bit
//! (acquire, "see ends") and then loads the counter again has all that was sent: so the last bytes are read, and
//! the end is reported after them.
//!
//! common/ipc/tests/loom.rs runs this very file with rings of one and two words through a model checker, and
//! shows that with any one of these orders left out bytes or wake-ups are lost.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/shm_mq.c (shm_mq_send_bytes, shm_mq_receive_bytes); differs
//! in: a latch is set only when its owner has said that it waits.

#[cfg(loom)]
use crate::shm_mq::model_bytes::SharedBytes;
#[cfg(not(loom))]
use crate::shmem::SharedBytes;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, left_out, order};

/// Bytes of a word: every amount is a multiple of it.
pub(super) const WORD: usize = size_of::<u64>();

/// The sender has attached.
const SENDER: u32 = 1;
/// The receiver has attached.
const RECEIVER: u32 = 2;
/// The sender has left: nothing more comes.
const SENDER_LEFT: u32 = 4;
/// The receiver has left: nothing more is read.
const RECEIVER_LEFT: u32 = 8;
/// Nobody may attach: the counters are being reset for another life.
const RENEWING: u32 = 16;

crate::shared_struct! {
    /// What one side writes.
    #[repr(align(64))]
    struct Side {
        /// Bytes ever written, or read.
        count: AtomicU64,
        /// The process at this end (ends.rs packs it), 0 before it attaches. Stored before the first `waits`, so
        /// who sees that (acquire) sees it.
        address: AtomicU64,
        /// 1 while this side may sleep until the other side's count moves.
        waits: AtomicU32,
    }

    /// The words of a ring; all zero is an empty one that nobody has attached to.
    pub(super) struct RingWords {
        sender: Side,
        receiver: Side,
        /// Bits; see the constants. Each side adds its own; who renews the queue removes all.
        ends: AtomicU32,
    }
}

/// A side of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Writes.
    Sender,
    /// Reads.
    Receiver,
}

impl End {
    fn attached(self) -> u32 {
        match self {
            End::Sender => SENDER,
            End::Receiver => RECEIVER,
        }
    }

    fn left(self) -> u32 {
        match self {
            End::Sender => SENDER_LEFT,
            End::Receiver => RECEIVER_LEFT,
        }
    }
}

/// A ring: the same in every process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    words: &'static RingWords,
    bytes: SharedBytes,
}

impl Ring {
    /// Of words and bytes that are the ring's alone. Panics unless there is a power of two of bytes, at least
    /// eight.
    pub(super) fn new(words: &'static RingWords, bytes: SharedBytes) -> Ring {
        assert!(bytes.len().is_power_of_two() && bytes.len() >= WORD, "a ring of {} bytes", bytes.len());
        Ring { words, bytes }
    }

    /// Bytes that fit.
    pub(super) fn size(self) -> usize {
        self.bytes.len()
    }

    fn side(self, end: End) -> &'static Side {
        match end {
            End::Sender => &self.words.sender,
            End::Receiver => &self.words.receiver,
        }
    }

    /// Takes an end for `address`. False: it is taken, or was.
    pub(super) fn attach(self, end: End, address: u64) -> bool {
        let barred = end.attached() | end.left() | RENEWING;
        let attach = |ends: u32| (ends & barred == 0).then_some(ends | end.attached());
        // Acquire: the counters of a renewed ring are seen. Nothing rests on the release: the address is published below.
        if self.words.ends.fetch_update(Ordering::AcqRel, Ordering::Acquire, attach).is_err() {
            return false;
        }
        // Release: pairs with `address`.
        self.side(end).address.store(address, Ordering::Release);
        true
    }

    /// Who is, or was, at an end; 0: nobody yet.
    pub(super) fn address(self, end: End) -> u64 {
        self.side(end).address.load(Ordering::Acquire)
    }

    /// The end is left for good. The caller wakes the other end.
    pub(super) fn leave(self, end: End) {
        // Release: pairs with the acquire of `renew`. (For the other end the fence of the last publish is enough.)
        self.words.ends.fetch_or(end.left(), Ordering::Release);
        // Against one that attaches just now: it finds this end left when it waits (after its own fence), or its
        // address is found by who is about to wake it.
        fence("mq: leave before wake");
    }

    /// Whether that end was left. What was sent before is seen by who looks at the counters after this.
    pub(super) fn has_left(self, end: End) -> bool {
        self.words.ends.load(Ordering::Acquire) & end.left() != 0
    }

    /// Makes the ring new, for another pair of ends, if both are free: not taken, left, or `gone`. False: one
    /// is in use.
    ///
    /// For the one process that the queue belongs to at the time: two must not renew at once.
    pub(super) fn renew(self, gone: impl Fn(End) -> bool) -> bool {
        let free = |ends: u32, end: End| {
            ends & end.attached() == 0 || ends & end.left() != 0 || (ends & RENEWING == 0 && gone(end))
        };
        let ends = self.words.ends.load(Ordering::Acquire);
        if !free(ends, End::Sender) || !free(ends, End::Receiver) {
            return false;
        }
        // From here on nobody attaches. Fails if somebody has just done so.
        if self.words.ends.compare_exchange(ends, RENEWING, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        for side in [&self.words.sender, &self.words.receiver] {
            side.count.store(0, Ordering::Relaxed);
            side.address.store(0, Ordering::Relaxed);
            side.waits.store(0, Ordering::Relaxed);
        }
        // Release: who attaches (acquire) finds the words as they were just stored.
        self.words.ends.store(0, Ordering::Release);
        true
    }

    /// Calls `copy` for the one or two stretches of the ring that `count` bytes from counter `start` on are in:
    /// with the place in the ring and the range of the bytes.
    fn stretches(self, start: u64, count: usize, mut copy: impl FnMut(usize, std::ops::Range<usize>)) {
        let place = usize::try_from(start & (self.size() as u64 - 1)).expect("less than the size");
        let first = count.min(self.size() - place);
        copy(place, 0..first);
        if first < count {
            copy(0, first..count);
        }
    }
}

/// Publishes a count of one side and tells whether the other waits for it.
fn publish(own: &Side, count: u64, ordering: Ordering, other: &Side) -> bool {
    own.count.store(count, ordering);
    fence("mq: publish before look");
    other.waits.load(Ordering::Acquire) != 0
}

/// A count as a well-behaved process leaves it.
fn whole_words(count: u64) -> u64 {
    count & !(WORD as u64 - 1)
}

/// Says that this side waits. The caller looks once more.
fn announce_wait(own: &Side) {
    own.waits.store(1, Ordering::Release);
    fence("mq: wait before look");
}

/// The writing side of a ring; one at a time.
#[derive(Debug)]
pub(super) struct Writer {
    ring: Ring,
    /// Bytes copied in.
    written: u64,
    /// Of these, published.
    published: u64,
    /// What the reader was seen to have read.
    read: u64,
    waits: bool,
}

impl Writer {
    /// Of an attached sender.
    pub(super) fn new(ring: Ring) -> Writer {
        Writer { ring, written: 0, published: 0, read: 0, waits: false }
    }

    /// Bytes that can be written now, as far as more than `wanted` is of no interest.
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        if self.known_room() < wanted {
            self.look();
        }
        self.known_room()
    }

    fn known_room(&self) -> usize {
        // What the other process may have scribbled makes no room that isn't there.
        self.ring.size().saturating_sub(self.written.wrapping_sub(self.read) as usize)
    }

    fn look(&mut self) {
        self.read = whole_words(self.ring.words.receiver.count.load(Ordering::Acquire));
        if self.waits && self.known_room() > 0 {
            self.waits = false;
            self.ring.words.sender.waits.store(0, Ordering::Relaxed);
        }
    }

    /// Copies `bytes` in; not to be seen until [`Writer::publish`]. A length that is no multiple of eight is
    /// filled up. Panics when there is no room.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.known_room(), "more than there is room for");
        self.ring.stretches(self.written, bytes.len(), |place, range| {
            self.ring.bytes.write(place, &bytes[range]);
        });
        self.written = self.written.wrapping_add(bytes.len().next_multiple_of(WORD) as u64);
    }

    /// Lets the reader see what was written. True: it waits, and its latch is to be set.
    #[must_use = "the reader may be asleep"]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.written {
            return false;
        }
        self.published = self.written;
        let give = order("mq: give bytes", Ordering::Release);
        publish(&self.ring.words.sender, self.written, give, &self.ring.words.receiver)
    }

    /// Whether there is no room, once more after having said that this side waits for it: then its process may
    /// sleep.
    pub(super) fn must_wait(&mut self) -> bool {
        if self.room(1) > 0 {
            return false;
        }
        self.waits = true;
        announce_wait(&self.ring.words.sender);
        self.look();
        self.known_room() == 0
    }
}

/// The reading side of a ring; one at a time.
#[derive(Debug)]
pub(super) struct Reader {
    ring: Ring,
    /// Bytes copied out.
    read: u64,
    /// Of these, given back to the writer.
    released: u64,
    /// What the writer was seen to have written.
    written: u64,
    waits: bool,
}

impl Reader {
    /// Of an attached receiver.
    pub(super) fn new(ring: Ring) -> Reader {
        Reader { ring, read: 0, released: 0, written: 0, waits: false }
    }

    /// Bytes that can be read now.
    pub(super) fn available(&mut self) -> usize {
        if self.written == self.read {
            self.look();
        }
        self.known()
    }

    fn known(&self) -> usize {
        // As above: no more than can be there.
        (self.written.wrapping_sub(self.read) as usize).min(self.ring.size())
    }

    fn look(&mut self) {
        self.written =
            whole_words(self.ring.words.sender.count.load(order("mq: see bytes", Ordering::Acquire)));
        if self.waits && self.written != self.read {
            self.waits = false;
            self.ring.words.receiver.waits.store(0, Ordering::Relaxed);
        }
    }

    /// Copies bytes out; a length that is no multiple of eight drops what fills it up. Panics when there are
    /// less.
    pub(super) fn read(&mut self, bytes: &mut [u8]) {
        assert!(bytes.len() <= self.known(), "more than there is to read");
        if left_out("mq: give room") {
            // What R3 without its release may become: the store overtakes the loads of R2.
            let end = self.read.wrapping_add(bytes.len() as u64);
            self.ring.words.receiver.count.store(end, Ordering::Relaxed);
        }
        self.ring.stretches(self.read, bytes.len(), |place, range| {
            self.ring.bytes.read(place, &mut bytes[range]);
        });
        self.read = self.read.wrapping_add(bytes.len().next_multiple_of(WORD) as u64);
    }

    /// Gives the room of what was read back if it is a quarter of the ring: less isn't worth a wake-up. True:
    /// the writer waits, and its latch is to be set.
    #[must_use = "the writer may be asleep"]
    pub(super) fn release_quarter(&mut self) -> bool {
        self.read.wrapping_sub(self.released) as usize >= self.ring.size() / 4 && self.release()
    }

    /// Gives all of it back. True as above.
    #[must_use = "the writer may be asleep"]
    pub(super) fn release(&mut self) -> bool {
        if self.released == self.read {
            return false;
        }
        self.released = self.read;
        publish(&self.ring.words.receiver, self.read, Ordering::Release, &self.ring.words.sender)
    }

    /// Whether there is nothing to read, once more after having said that this side waits for it: then its
    /// process may sleep. Release before.
    pub(super) fn must_wait(&mut self) -> bool {
        if self.available() > 0 {
            return false;
        }
        self.waits = true;
        announce_wait(&self.ring.words.receiver);
        self.look();
        self.known() == 0
    }
}
