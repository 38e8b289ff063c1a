//! The two ends of a message queue: messages, attaching, and what becomes of an end whose process is gone.

#[cfg(loom)]
use crate::{model::Me, shm_mq::model_bytes::SharedBytes};
use crate::{
    proc::{ProcAddress, ProcArray, ProcNumber},
    shm_mq::ring::{End, Reader, Ring, RingWords, WORD, Writer},
    sync::left_out,
};
#[cfg(not(loom))]
use crate::{process::Me, shmem::Shmem};

/// A message queue in shared memory; a handle, the same in every process.
#[derive(Clone, Copy, Debug)]
pub struct ShmMq {
    ring: Ring,
}

impl ShmMq {
    /// A queue of a model, in its own memory, with a ring of so many words.
    #[cfg(loom)]
    pub fn of_model(words: usize) -> ShmMq {
        ShmMq { ring: Ring::new(Box::leak(Box::default()), SharedBytes::leak(words)) }
    }

    /// Lays a queue with a ring of `bytes` (a power of two) out; before the first fork.
    #[cfg(not(loom))]
    pub fn create(shmem: &Shmem, bytes: usize) -> ShmMq {
        ShmMq { ring: Ring::new(shmem.alloc::<RingWords>(), shmem.alloc_bytes(bytes)) }
    }

    /// The shared memory that [`ShmMq::create`] takes, in bytes.
    pub const fn size(bytes: usize) -> usize {
        size_of::<RingWords>() + bytes.next_multiple_of(64)
    }

    /// Makes this process the one that sends. None: somebody is, or was, or the queue is being renewed.
    pub fn attach_sender(self, me: Me) -> Option<Sender> {
        let link = Link::attach(self.ring, End::Sender, me)?;
        Some(Sender { writer: Writer::new(self.ring), link, sent: None })
    }

    /// Makes this process the one that receives messages of up to `message_max` bytes. None as above.
    pub fn attach_receiver(self, me: Me, message_max: usize) -> Option<Receiver> {
        let link = Link::attach(self.ring, End::Receiver, me)?;
        Some(Receiver { reader: Reader::new(self.ring), link, message_max, partial: None, failed: None })
    }

    /// Makes the queue new, for another pair of ends. False: an end is attached.
    ///
    /// For the one process that the queue belongs to at the time: two must not renew at once. Others may attach
    /// meanwhile; they find it used or new.
    pub fn renew(self, procs: &ProcArray) -> bool {
        self.ring.renew(|end| unpack(self.ring.address(end)).is_some_and(|who| is_gone(procs, who)))
    }
}

/// Whether a process has left its slot.
fn is_gone(procs: &ProcArray, who: ProcAddress) -> bool {
    procs.address(who.number) != Some(who)
}

/// Never 0: the generation of an attached process is odd.
fn pack(who: ProcAddress) -> u64 {
    u64::from(who.number.0) << 32 | u64::from(who.generation)
}

fn unpack(word: u64) -> Option<ProcAddress> {
    let generation = (word & u64::from(u32::MAX)) as u32;
    (word != 0).then_some(ProcAddress { number: ProcNumber((word >> 32) as u32), generation })
}

/// An attached end, and what it knows of the other.
#[derive(Debug)]
struct Link {
    ring: Ring,
    end: End,
    procs: &'static ProcArray,
    /// Who is to attach to the other end.
    expected: Option<ProcAddress>,
}

impl Link {
    fn attach(ring: Ring, end: End, me: Me) -> Option<Link> {
        ring.attach(end, pack(me.address())).then(|| Link { ring, end, procs: me.procs(), expected: None })
    }

    fn other(&self) -> End {
        match self.end {
            End::Sender => End::Receiver,
            End::Receiver => End::Sender,
        }
    }

    fn wake_other(&self) {
        // A number that nobody has can only have been scribbled.
        if let Some(who) = unpack(self.ring.address(self.other()))
            && who.number.index() < self.procs.len()
        {
            self.procs.set_latch(who.number);
        }
    }

    /// Whether the other end was left, or its process is gone.
    fn other_is_gone(&self) -> bool {
        self.ring.has_left(self.other())
            || unpack(self.ring.address(self.other()))
                .or(self.expected)
                .is_some_and(|who| who.number.index() >= self.procs.len() || is_gone(self.procs, who))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ring.leave(self.end);
        self.wake_other();
    }
}

/// What came of a try to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of the message is in the queue.
    Done,
    /// There is no room for the rest: wait for the latch, then try again with the same message.
    WouldBlock,
    /// Nobody receives any more.
    Detached,
}

/// The sending end; dropping it detaches it.
#[derive(Debug)]
pub struct Sender {
    writer: Writer,
    link: Link,
    /// Bytes of the present message in the queue; None: not even its length.
    sent: Option<usize>,
}

impl Sender {
    /// Says who is to receive: when that process is gone without having attached, the queue is detached.
    pub fn expect(&mut self, who: ProcAddress) {
        self.link.expected = Some(who);
    }

    /// Sends a message, or the rest of one that a former try has begun, as far as there is room.
    pub fn try_send(&mut self, message: &[u8]) -> Sent {
        if self.link.ring.has_left(End::Receiver) {
            return Sent::Detached;
        }
        loop {
            let done = self.write(message);
            if self.writer.publish() {
                self.link.wake_other();
            }
            if done {
                self.sent = None;
                return Sent::Done;
            }
            if self.writer.must_wait() {
                return if self.link.other_is_gone() { Sent::Detached } else { Sent::WouldBlock };
            }
        }
    }

    /// Copies what there is room for; whether that was all.
    fn write(&mut self, message: &[u8]) -> bool {
        let mut sent = match self.sent {
            Some(sent) => sent,
            None if self.writer.room(WORD + message.len()) == 0 => return false,
            None => {
                self.writer.write(&(message.len() as u64).to_le_bytes());
                0
            }
        };
        let rest = &message[sent..];
        let count = self.writer.room(rest.len()).min(rest.len());
        self.writer.write(&rest[..count]);
        sent += count;
        self.sent = Some(sent);
        sent == message.len()
    }
}

/// What came of a try to receive.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Message(Vec<u8>),
    /// None is complete: wait for the latch, then try again.
    WouldBlock,
    /// Nobody sends any more, and everything that was sent completely has been received.
    Detached,
    /// A message of so many bytes is more than this end takes. Nothing can be received any more.
    TooLong(u64),
}

/// The receiving end; dropping it detaches it.
#[derive(Debug)]
pub struct Receiver {
    reader: Reader,
    link: Link,
    message_max: usize,
    /// A message whose length has come: its bytes so far, and their number in the end.
    partial: Option<(Vec<u8>, usize)>,
    /// The length of a message that was too long.
    failed: Option<u64>,
}

impl Receiver {
    /// Says who is to send: when that process is gone without having attached, the queue is detached.
    pub fn expect(&mut self, who: ProcAddress) {
        self.link.expected = Some(who);
    }

    /// Whether the sender has left, or its process is gone; what it sent may still have to be received.
    pub fn sender_is_gone(&self) -> bool {
        self.link.other_is_gone()
    }

    /// Bytes held of a message that isn't complete.
    pub fn held(&self) -> usize {
        self.partial.as_ref().map_or(0, |(bytes, _)| bytes.capacity())
    }

    /// Receives a message, if one is complete; otherwise takes what there is of it.
    pub fn try_receive(&mut self) -> Received {
        let mut last_look = false;
        loop {
            if let Some(received) = self.read() {
                return received;
            }
            if self.reader.release() {
                self.link.wake_other();
            }
            if !self.reader.must_wait() {
                continue;
            }
            if last_look || (left_out("mq: last look") && self.link.other_is_gone()) {
                return Received::Detached;
            }
            if !self.link.other_is_gone() {
                return Received::WouldBlock;
            }
            // What was sent before the end was left is seen from here on.
            last_look = true;
        }
    }

    /// Copies out what there is, up to the end of a message.
    fn read(&mut self) -> Option<Received> {
        if let Some(length) = self.failed {
            return Some(Received::TooLong(length));
        }
        loop {
            let available = self.reader.available();
            let (mut bytes, length) = match self.partial.take() {
                Some(partial) => partial,
                None if available == 0 => return None,
                None => {
                    let mut word = [0; WORD];
                    self.reader.read(&mut word);
                    let length = u64::from_le_bytes(word);
                    if length > self.message_max as u64 {
                        self.failed = Some(length);
                        return Some(Received::TooLong(length));
                    }
                    (Vec::with_capacity(length as usize), length as usize)
                }
            };
            let start = bytes.len();
            let count = self.reader.available().min(length - start);
            bytes.resize(start + count, 0);
            self.reader.read(&mut bytes[start..]);
            if self.reader.release_quarter() {
                self.link.wake_other();
            }
            if bytes.len() == length {
                return Some(Received::Message(bytes));
            }
            self.partial = Some((bytes, length));
            if count == 0 {
                return None;
            }
        }
    }
}
