//! Writes on their way from the sessions to the startup process, and the outcomes back.
//!
//! Each process slot of a session has one place: a state word, room for one request and room for one answer. There is
//! never more than one request of a session under way, so the state word alone orders everything:
//!
//! ```text
//!          session: submit            startup: take             startup: answer
//!   Idle ------------------> Ready ------------------> Taken ------------------> Done
//!    ^                         |                                                  |
//!    |   session: withdraw     |                      session: outcome            |
//!    +-------------------------+--------------------------------------------------+
//! ```
//!
//! Whoever owns the place in a state is the only one who touches its bytes; the transition (release) hands them over
//! (acquire). `submit` sets the startup process' latch, `answer` the session's, after the state is stored: the latch's
//! fences order the rest.
//!
//! The startup process never waits for a session: it takes what is complete and answers into room of a fixed size. A
//! request that is longer than its room is refused by the session itself (54000); an answer is checked before anything
//! is logged. A session that must go away waits for the answer first (bounded by write_statement_timeout), so a
//! successor in the slot never sees an old answer.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ipc::proc::ProcNumber;
use ipc::shmem::{SharedBytes, Shmem};
use settings::Settings;
use sys::clock::MonoTime;

use crate::ordering;

/// Bytes of room for an answer.
pub const ANSWER_BYTES: usize = 256 * 1024;

const IDLE: u32 = 0;
const READY: u32 = 1;
const TAKEN: u32 = 2;
const DONE: u32 = 3;

ipc::shared_struct! {
    /// One session's place.
    pub struct RequestSlot {
        /// See the header.
        state: AtomicU32,
        /// Bytes of the request, then of the answer.
        length: AtomicU32,
        /// When the statement times out, ns of the monotonic clock; 0: never.
        deadline: AtomicU64,
    }
}

/// All places; one handle in each process.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    slots: &'static [RequestSlot],
    bytes: SharedBytes,
    request_bytes: usize,
}

/// A request that the startup process has taken.
#[derive(Debug)]
pub struct Taken {
    /// Whose it is.
    pub session: ProcNumber,
    /// What the session wrote.
    pub request: Vec<u8>,
    /// When the statement times out.
    pub deadline: Option<MonoTime>,
}

impl Requests {
    fn request_bytes(settings: &Settings) -> usize {
        // Beside the text there are the codec's few bytes per statement.
        (settings.max_statement_size as usize + 4096).next_multiple_of(4096)
    }

    /// Bytes of shared memory for a node with `slots` process slots. The kernel gives pages when they are touched.
    pub fn shmem_size(settings: &Settings, slots: usize) -> usize {
        let sessions = slots - ProcNumber::FIRST_BACKEND.0 as usize;
        sessions * (Requests::request_bytes(settings) + ANSWER_BYTES + size_of::<RequestSlot>())
    }

    /// Takes the memory; before fork.
    pub fn create(shmem: &mut Shmem, settings: &Settings, slots: usize) -> Requests {
        let sessions = slots - ProcNumber::FIRST_BACKEND.0 as usize;
        let request_bytes = Requests::request_bytes(settings);
        Requests {
            slots: shmem.alloc_array(sessions),
            bytes: shmem.alloc_bytes(sessions * (request_bytes + ANSWER_BYTES)),
            request_bytes,
        }
    }

    fn slot(&self, session: ProcNumber) -> &'static RequestSlot {
        &self.slots[(session.0 - ProcNumber::FIRST_BACKEND.0) as usize]
    }

    fn room(&self, session: ProcNumber) -> Range<usize> {
        let start = (session.0 - ProcNumber::FIRST_BACKEND.0) as usize * (self.request_bytes + ANSWER_BYTES);
        start..start + self.request_bytes
    }

    fn answer_room(&self, session: ProcNumber) -> usize {
        self.room(session).end
    }

    /// Puts a request in its place; the caller then sets the startup process' latch. False when it is too long.
    ///
    /// Panics when one is under way already.
    pub fn submit(&self, session: ProcNumber, request: &[u8], deadline: Option<MonoTime>) -> bool {
        let slot = self.slot(session);
        assert!(ordering::is_given(&slot.state, IDLE), "a session has one request under way");
        if request.len() > self.request_bytes {
            return false;
        }
        self.bytes.write(self.room(session).start, request);
        slot.length.store(request.len() as u32, Ordering::Relaxed);
        slot.deadline.store(deadline.map_or(0, MonoTime::as_nanos), Ordering::Relaxed);
        ordering::give_away(&slot.state, READY);
        true
    }

    /// Takes the own request back; false when the startup process has it already.
    pub fn withdraw(&self, session: ProcNumber) -> bool {
        ordering::take_place(&self.slot(session).state, READY, IDLE)
    }

    /// The answer, once it is there.
    pub fn outcome(&self, session: ProcNumber) -> Option<Vec<u8>> {
        let slot = self.slot(session);
        if !ordering::is_given(&slot.state, DONE) {
            return None;
        }
        let mut answer = vec![0; (slot.length.load(Ordering::Relaxed) as usize).min(ANSWER_BYTES)];
        self.bytes.read(self.answer_room(session), &mut answer);
        ordering::give_away(&slot.state, IDLE);
        Some(answer)
    }

    /// Makes the place empty for a new session (its predecessor may have died with a request under way only when the
    /// whole node goes down).
    pub fn reset(&self, session: ProcNumber) {
        ordering::give_away(&self.slot(session).state, IDLE);
    }

    /// Takes the requests that are complete, from the session `first` on, around once; at most `most`. The startup
    /// process only.
    pub fn take(&self, first: ProcNumber, most: usize) -> Vec<Taken> {
        let mut taken = Vec::new();
        let first = first.0.saturating_sub(ProcNumber::FIRST_BACKEND.0) as usize;
        for step in 0..self.slots.len() {
            if taken.len() == most {
                break;
            }
            let index = (first + step) % self.slots.len();
            let slot = &self.slots[index];
            if slot.state.load(Ordering::Relaxed) != READY || !ordering::take_place(&slot.state, READY, TAKEN)
            {
                continue;
            }
            let session = ProcNumber(index as u32 + ProcNumber::FIRST_BACKEND.0);
            let mut request = vec![0; (slot.length.load(Ordering::Relaxed) as usize).min(self.request_bytes)];
            self.bytes.read(self.room(session).start, &mut request);
            let deadline = slot.deadline.load(Ordering::Relaxed);
            taken.push(Taken {
                session,
                request,
                deadline: (deadline != 0).then(|| MonoTime::from_nanos(deadline)),
            });
        }
        taken
    }

    /// Whether any request waits.
    pub fn any_ready(&self) -> bool {
        self.slots.iter().any(|slot| ordering::is_given(&slot.state, READY))
    }

    /// Puts an answer in its place; the caller then sets the session's latch. The startup process only.
    ///
    /// Panics when it is longer than [`ANSWER_BYTES`]: the writer checks that before it logs.
    pub fn answer(&self, session: ProcNumber, answer: &[u8]) {
        assert!(answer.len() <= ANSWER_BYTES, "an answer is checked before its write is logged");
        let slot = self.slot(session);
        self.bytes.write(self.answer_room(session), answer);
        slot.length.store(answer.len() as u32, Ordering::Relaxed);
        ordering::give_away(&slot.state, DONE);
    }

    /// Number of places.
    pub fn sessions(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Requests {
        let settings = Settings::default();
        let slots = ProcNumber::FIRST_BACKEND.0 as usize + 3;
        let mut shmem = Shmem::create(Requests::shmem_size(&settings, slots) + 65536).unwrap();
        Requests::create(&mut shmem, &settings, slots)
    }

    #[test]
    fn a_request_goes_there_and_its_answer_back() {
        let requests = requests();
        let me = ProcNumber(ProcNumber::FIRST_BACKEND.0 + 1);
        assert!(requests.submit(me, b"INSERT", Some(MonoTime::from_nanos(9))));
        assert!(requests.outcome(me).is_none());
        let taken = requests.take(ProcNumber::FIRST_BACKEND, 10);
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].session, taken[0].request.as_slice()), (me, b"INSERT".as_slice()));
        assert!(!requests.withdraw(me));
        assert!(requests.take(ProcNumber::FIRST_BACKEND, 10).is_empty());
        requests.answer(me, b"INSERT 0 1");
        assert_eq!(requests.outcome(me).unwrap(), b"INSERT 0 1");
        assert!(requests.submit(me, b"next", None));
    }

    #[test]
    fn a_request_not_yet_taken_can_be_withdrawn_and_one_too_long_is_refused() {
        let requests = requests();
        let me = ProcNumber::FIRST_BACKEND;
        assert!(requests.submit(me, b"x", None));
        assert!(requests.withdraw(me));
        assert!(!requests.any_ready());
        assert!(!requests.submit(me, &vec![0; 64 << 20], None));
        assert!(requests.submit(me, b"y", None));
    }

    #[test]
    fn take_begins_where_it_is_told_so_that_nobody_is_always_last() {
        let requests = requests();
        for index in 0..3 {
            assert!(requests.submit(ProcNumber(ProcNumber::FIRST_BACKEND.0 + index), &[index as u8], None));
        }
        let order: Vec<u8> = requests
            .take(ProcNumber(ProcNumber::FIRST_BACKEND.0 + 2), 2)
            .iter()
            .map(|taken| taken.request[0])
            .collect();
        assert_eq!(order, [2, 0]);
        assert!(requests.any_ready());
    }
}
