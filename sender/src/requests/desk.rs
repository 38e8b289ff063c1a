//! What the startup process does with the sessions' requests: takes them, and sends the answers.
//!
//! Nothing here waits. Each turn of its loop begins with [`Desk::take`], which also moves on what is too large for a
//! place: requests on their way in, answers on their way out. Between turns its latch is set by a session that submits,
//! sends more, or has made room.
//!
//! Bounds: of each session one request, of at most three times max_statement_size (the codec's worst case); one answer
//! of at most [`ANSWER_BYTES_MAX`], all of them together [`ANSWERS_HELD_MAX`], which the writer keeps by [`Desk::room`].

use std::sync::atomic::Ordering;

use failpoint::Site;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::shm_mq::{Received, Receiver, Sender, Sent};
use sys::clock::MonoTime;

use super::{
    ANSWER_BYTES_MAX, ANSWERING, ANSWERS_HELD_MAX, APPLIED, DONE, DURABLE, READY, Requests, SENDING,
    SMALL_ANSWER_BYTES, SMALL_REQUEST_BYTES, TAKEN,
};
use crate::node::Node;
use crate::ordering;
use crate::sync_rep::{Awaited, Confirmation};

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

/// An answer on its way out.
#[derive(Debug)]
struct Outgoing {
    session: ProcNumber,
    sender: Sender,
    answer: Vec<u8>,
}

/// The startup process' end of all places.
#[derive(Debug)]
pub struct Desk {
    node: &'static Node,
    requests: Requests,
    me: Me,
    incoming: Vec<(ProcNumber, Receiver)>,
    outgoing: Vec<Outgoing>,
    /// Bytes of `outgoing`.
    held: usize,
}

impl Desk {
    /// For the one process that executes writes.
    pub fn new(node: &'static Node, me: Me) -> Desk {
        Desk { node, requests: node.requests, me, incoming: Vec::new(), outgoing: Vec::new(), held: 0 }
    }

    /// Takes the requests that are complete, from the session `first` on, around once; at most `most`.
    pub fn take(&mut self, first: ProcNumber, most: usize) -> Vec<Taken> {
        self.send_on();
        let mut taken = Vec::new();
        let first = first.index().saturating_sub(ProcNumber::FIRST_BACKEND.index());
        let slots = self.requests.slots;
        for step in 0..slots.len() {
            if taken.len() == most {
                break;
            }
            let index = (first + step) % slots.len();
            let session = ProcNumber(index as u32 + ProcNumber::FIRST_BACKEND.0);
            let request = match slots[index].state.load(Ordering::Relaxed) {
                READY => self.take_small(session),
                SENDING => self.receive(session),
                _ => None,
            };
            let Some(request) = request else { continue };
            let deadline = slots[index].deadline.load(Ordering::Relaxed);
            let deadline = (deadline != 0).then(|| MonoTime::from_nanos(deadline));
            taken.push(Taken { session, request, deadline });
        }
        let requests = self.requests;
        self.incoming.retain(|(session, receiver)| {
            let state = &requests.slot(*session).state;
            !ordering::is_taken_back(state, SENDING, || receiver.sender_is_gone())
        });
        taken
    }

    fn take_small(&self, session: ProcNumber) -> Option<Vec<u8>> {
        let slot = self.requests.slot(session);
        if !ordering::take_place(&slot.state, READY, TAKEN) {
            return None;
        }
        let mut request = vec![0; (slot.length.load(Ordering::Relaxed) as usize).min(SMALL_REQUEST_BYTES)];
        self.requests.bytes.read(self.requests.request_room(session).start, &mut request);
        Some(request)
    }

    /// Takes what there is of a large request; the request, when that was the rest.
    fn receive(&mut self, session: ProcNumber) -> Option<Vec<u8>> {
        let state = &self.requests.slot(session).state;
        // What the session did before it began to send is seen: a renewed queue.
        if !ordering::is_given(state, SENDING) {
            return None;
        }
        let known = self.incoming.iter().position(|(whose, _)| *whose == session);
        let index = match known {
            Some(index) => index,
            None => {
                let queue = self.requests.queues(session).request;
                let receiver = queue.attach_receiver(self.me, self.requests.request_bytes_max)?;
                self.incoming.push((session, receiver));
                self.incoming.len() - 1
            }
        };
        let request = match self.incoming[index].1.try_receive() {
            Received::Message(request) => request,
            // What is no request is refused as such.
            Received::TooLong(_) => Vec::new(),
            Received::WouldBlock => return None,
            // It was taken back, or its session is gone: what has come of it is of no use.
            Received::Detached => {
                self.incoming.swap_remove(index);
                return None;
            }
        };
        // The session may have taken it back all the same.
        let incoming = &mut self.incoming;
        let complete = ordering::take_whole(state, SENDING, TAKEN, || drop(incoming.swap_remove(index)));
        complete.then_some(request)
    }

    /// Sends as much of the answers on as their sessions have made room for.
    pub fn send_on(&mut self) {
        let held = &mut self.held;
        self.outgoing.retain_mut(|outgoing| {
            let under_way = outgoing.sender.try_send(&outgoing.answer) == Sent::WouldBlock;
            if !under_way {
                *held -= outgoing.answer.len();
            }
            under_way
        });
    }

    /// Most bytes that an answer may have now, `waiting` bytes of others being kept until they can be sent. An answer of
    /// [`SMALL_ANSWER_BYTES`] may be given at any time.
    pub fn room(&self, waiting: usize) -> usize {
        ANSWERS_HELD_MAX.saturating_sub(self.held + waiting).clamp(SMALL_ANSWER_BYTES, ANSWER_BYTES_MAX)
    }

    /// Gives a session its answer. Wakes it, unless what the answer rests on has to be confirmed first: then whoever finds that
    /// confirmed does.
    ///
    /// Panics when it is longer than [`ANSWER_BYTES_MAX`]: the writer checks that before it logs.
    pub fn answer(&mut self, session: ProcNumber, answer: Vec<u8>, rests_on: Awaited) {
        assert!(answer.len() <= ANSWER_BYTES_MAX, "an answer is checked before its write is logged");
        failpoint::step(Site::OutcomeSent, || self.give(session, answer, rests_on));
    }

    fn give(&mut self, session: ProcNumber, answer: Vec<u8>, rests_on: Awaited) {
        let slot = self.requests.slot(session);
        slot.lsn.store(rests_on.lsn.0, Ordering::Relaxed);
        if answer.len() > SMALL_ANSWER_BYTES {
            self.begin_answer(session, answer);
            ordering::give_away(&slot.state, ANSWERING);
            self.me.procs().set_latch(session);
            return;
        }
        self.requests.bytes.write(self.requests.answer_room(session).start, &answer);
        slot.length.store(answer.len() as u32, Ordering::Relaxed);
        if rests_on.has_come(self.node) {
            ordering::give_away(&slot.state, DONE);
            self.me.procs().set_latch(session);
            return;
        }
        self.requests.sync_rep.begin_wait();
        let state = match rests_on.confirmation {
            Confirmation::Durable => DURABLE,
            Confirmation::Applied => APPLIED,
        };
        ordering::give_away_waiting(&slot.state, state);
        // A cancel that came while the request was taken has woken the session too early to find the answer.
        let interrupted = !self.me.procs().slot(session).interrupts().is_empty();
        if interrupted || rests_on.has_come(self.node) {
            self.me.procs().set_latch(session);
        }
    }

    fn begin_answer(&mut self, session: ProcNumber, answer: Vec<u8>) {
        // A former session in that slot may have left in the midst of its answer; its successor asks: so it did.
        if let Some(index) = self.outgoing.iter().position(|outgoing| outgoing.session == session) {
            self.held -= self.outgoing.swap_remove(index).answer.len();
        }
        let queue = self.requests.queues(session).answer;
        assert!(queue.renew(self.me.procs()), "a session has left its queue before it asks again");
        let mut sender = queue.attach_sender(self.me).expect("the queue is new");
        if sender.try_send(&answer) == Sent::WouldBlock {
            self.held += answer.len();
            self.outgoing.push(Outgoing { session, sender, answer });
        }
    }
}
