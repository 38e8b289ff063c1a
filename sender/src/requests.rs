//! Writes on their way from the sessions to the startup process, and the outcomes back.
//!
//! Each process slot of a session has one place: a state word, room for a small request and a small answer, and a pair
//! of message queues for larger ones. There is never more than one request of a session under way, so the state word
//! alone orders everything:
//!
//! ```text
//!             session: submit            startup: take              startup: answer
//!   IDLE --+--------------------> READY --------------------> TAKEN ----------------+--> DONE ----+
//!    ^     |                        |                           ^                   |             |
//!    |     |  large: submit         |        all of it has come |   large: answer   |             |
//!    |     +--------------------> SENDING ----------------------+                   +--> ANSWERING +
//!    |                              |                                                             |
//!    |       session: withdraw      |                                  session: it has the answer |
//!    +------------------------------+-------------------------------------------------------------+
//! ```
//!
//! DONE is DURABLE or APPLIED while what the answer rests on has not been confirmed by the synchronous standbys
//! ([`crate::sync_rep`]): the answer is there, but whoever moves the horizon wakes the session, not the startup process. A
//! session that looks earlier, because of a cancel, takes the answer and waits by itself.
//!
//! Whoever owns the place in a state is the only one who touches its bytes; the transition (release) hands them over
//! (acquire). Whoever makes one sets the other's latch after it.
//!
//! **The startup process never waits for a session.** It takes what is complete. Of a request that is too large for the
//! place it takes, in each of its turns, what is in the queue; the request joins a batch when all of it has come. An
//! answer that is too large goes into the queue as room comes; until then the startup process keeps it, within
//! [`ANSWERS_HELD_MAX`]. A session that leaves, or takes a request back, detaches its end of the queue, and what was
//! kept for it is dropped at the next turn.
//!
//! **Large requests that are taken back.** SENDING goes to TAKEN or to IDLE by compare-exchange, so the session and the
//! startup process agree. The queue is renewed for the next one when both have left it; [`crate::ordering`] tells when the
//! startup process does. A small request needs no queue and waits for nothing.
//!
//! What is too long is refused before anything happens: a request by the session (54000), an answer by the writer
//! before it logs. A session that must go away waits for the answer first (bounded by write_statement_timeout), so a
//! successor in the slot never sees an old answer.
//!
//! How to use it: a session calls [`Requests::submit`] and does with [`asked::Asked`] what is said there; the startup process has
//! one [`desk::Desk`].

pub mod asked;
pub mod desk;

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::shm_mq::ShmMq;
use ipc::shmem::{SharedBytes, Shmem};
use settings::Settings;
use sys::clock::MonoTime;
use wal::lsn::Lsn;

use crate::node::Node;
use crate::ordering;
use crate::sync_rep::{Awaited, Confirmation, SyncRepCtl};
use asked::Asked;

/// Bytes of room for a request in its place; a longer one goes through a queue.
pub const SMALL_REQUEST_BYTES: usize = 16 * 1024;
/// Bytes of room for an answer in its place; a longer one goes through a queue.
pub const SMALL_ANSWER_BYTES: usize = 16 * 1024;
/// Bytes of the ring of each queue. (A message begins at its start, so what is sent touches no more than it needs.)
const RING_BYTES: usize = 256 * 1024;
/// Most bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Most bytes of large answers that wait for their sessions, all together.
pub const ANSWERS_HELD_MAX: usize = 128 << 20;

const IDLE: u32 = 0;
const READY: u32 = 1;
const SENDING: u32 = 2;
const TAKEN: u32 = 3;
const DONE: u32 = 4;
const ANSWERING: u32 = 5;
/// The answer is there; the session is woken when the horizon passes what it rests on.
const DURABLE: u32 = 6;
/// The same, when who reads on the synchronous standbys sees it.
const APPLIED: u32 = 7;

ipc::shared_struct! {
    /// One session's place.
    pub struct RequestSlot {
        /// See the header.
        state: AtomicU32,
        /// Bytes of the small request, then of the small answer.
        length: AtomicU32,
        /// What the answer rests on; 0: on nothing that waits. Written before the answer is given.
        lsn: AtomicU64,
        /// When the statement times out, ns of the monotonic clock; 0: never.
        deadline: AtomicU64,
    }
}

impl RequestSlot {
    /// What the answer that is there waits for, in the states in which nobody has woken the session for it.
    fn awaited(&self) -> Option<Awaited> {
        let state = self.state.load(Ordering::Relaxed);
        let confirmation = match state {
            DURABLE => Confirmation::Durable,
            APPLIED => Confirmation::Applied,
            _ => return None,
        };
        ordering::is_given(&self.state, state)
            .then(|| Awaited { lsn: Lsn(self.lsn.load(Ordering::Relaxed)), confirmation })
    }
}

/// The queues of one session.
#[derive(Clone, Copy, Debug)]
struct Queues {
    request: ShmMq,
    answer: ShmMq,
}

/// All places; one handle in each process.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    slots: &'static [RequestSlot],
    queues: &'static [Queues],
    bytes: SharedBytes,
    request_bytes_max: usize,
    /// Counts those whose answers wait.
    sync_rep: &'static SyncRepCtl,
}

impl Requests {
    /// Bytes of shared memory for a node with `slots` process slots. The kernel gives pages when they are touched.
    pub fn shmem_size(slots: usize) -> usize {
        let sessions = slots - ProcNumber::FIRST_BACKEND.index();
        let place = SMALL_REQUEST_BYTES + SMALL_ANSWER_BYTES + size_of::<RequestSlot>();
        sessions * (place + 2 * ShmMq::size(RING_BYTES))
    }

    /// Takes the memory; before fork.
    pub fn create(
        shmem: &mut Shmem,
        settings: &Settings,
        slots: usize,
        sync_rep: &'static SyncRepCtl,
    ) -> Requests {
        let sessions = slots - ProcNumber::FIRST_BACKEND.index();
        let queue = || ShmMq::create(shmem, RING_BYTES);
        let queues = (0..sessions).map(|_| Queues { request: queue(), answer: queue() }).collect();
        Requests {
            slots: shmem.alloc_array(sessions),
            queues: Vec::leak(queues),
            bytes: shmem.alloc_bytes(sessions * (SMALL_REQUEST_BYTES + SMALL_ANSWER_BYTES)),
            // The codec has up to two bytes beside a text of one.
            request_bytes_max: 3 * settings.max_statement_size as usize + 64,
            sync_rep,
        }
    }

    fn slot(&self, session: ProcNumber) -> &'static RequestSlot {
        &self.slots[place_of(session)]
    }

    fn queues(&self, session: ProcNumber) -> Queues {
        self.queues[place_of(session)]
    }

    fn request_room(&self, session: ProcNumber) -> Range<usize> {
        let start = place_of(session) * (SMALL_REQUEST_BYTES + SMALL_ANSWER_BYTES);
        start..start + SMALL_REQUEST_BYTES
    }

    fn answer_room(&self, session: ProcNumber) -> Range<usize> {
        let start = self.request_room(session).end;
        start..start + SMALL_ANSWER_BYTES
    }

    /// Hands a request of this session over, or begins to.
    ///
    /// Panics when one is under way already.
    pub fn submit<'a>(&self, me: Me, request: &'a [u8], deadline: Option<MonoTime>) -> Asked<'a> {
        Asked::submit(*self, me, request, deadline)
    }

    /// Makes the place empty for a new session (its predecessor may have died with a request under way only when the
    /// whole node goes down).
    pub fn reset(&self, session: ProcNumber) {
        ordering::give_away(&self.slot(session).state, IDLE);
    }

    /// Sets the latches of the sessions whose answers wait for what has come now.
    pub fn wake_confirmed(&self, node: &Node) {
        for (number, slot) in (ProcNumber::FIRST_BACKEND.0..).map(ProcNumber).zip(self.slots) {
            if slot.awaited().is_some_and(|awaited| awaited.has_come(node)) {
                node.procs.set_latch(number);
            }
        }
    }

    /// Whether a session's answer waits to be confirmed, for pg_stat_activity.
    pub fn is_waiting(&self, session: ProcNumber) -> bool {
        session >= ProcNumber::FIRST_BACKEND && self.slot(session).awaited().is_some()
    }

    /// Whether any request waits.
    pub fn any_ready(&self) -> bool {
        let waits = |slot: &RequestSlot| {
            ordering::is_given(&slot.state, READY) || ordering::is_given(&slot.state, SENDING)
        };
        self.slots.iter().any(waits)
    }
}

/// Which place is a session's.
fn place_of(session: ProcNumber) -> usize {
    session.index() - ProcNumber::FIRST_BACKEND.index()
}
