//! A request as its session has it under way.
//!
//! ```text
//! let mut asked = requests.submit(me, &bytes, deadline);
//! loop {
//!     me.latch().reset();
//!     if let Some(answer) = asked.progress() { … }
//!     if … wants to give up … && asked.withdraw() { … }
//!     wait for the latch, as asked.wait_event()
//! }
//! ```
//!
//! Invariant: it goes on until it has the answer or was withdrawn. (A process that ends before that detaches its ends of
//! the queues, by dropping this.)

use std::sync::atomic::Ordering;

use failpoint::Site;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::shm_mq::{Received, Receiver, Sender, Sent};
use ipc::wait_event::WaitEvent;
use sys::clock::MonoTime;
use wal::lsn::Lsn;

use super::{
    ANSWER_BYTES_MAX, ANSWERING, DONE, IDLE, READY, Requests, SENDING, SMALL_ANSWER_BYTES,
    SMALL_REQUEST_BYTES,
};
use crate::ordering;

/// See the header.
#[derive(Debug)]
pub struct Asked<'a> {
    requests: Requests,
    me: Me,
    request: &'a [u8],
    stage: Stage,
}

/// What came of a request.
#[derive(Debug)]
pub struct Answered {
    /// The startup process' answer.
    pub answer: Vec<u8>,
    /// End of the last record that it tells anything of; what synchronous standbys have to confirm before the client is told.
    pub rests_on: Lsn,
}

#[derive(Debug)]
enum Stage {
    /// Its queue is still held by the startup process, for an earlier request that was withdrawn.
    QueueInUse,
    /// The request goes through the queue.
    Sending(Sender),
    /// It is the startup process' turn.
    Submitted,
    /// The answer comes through the queue.
    Answering(Receiver),
}

impl<'a> Asked<'a> {
    pub(super) fn submit(
        requests: Requests,
        me: Me,
        request: &'a [u8],
        deadline: Option<MonoTime>,
    ) -> Asked<'a> {
        let slot = requests.slot(me.number());
        assert!(ordering::is_given(&slot.state, IDLE), "a session has one request under way");
        slot.deadline.store(deadline.map_or(0, MonoTime::as_nanos), Ordering::Relaxed);
        let mut asked = Asked { requests, me, request, stage: Stage::QueueInUse };
        if request.len() <= SMALL_REQUEST_BYTES {
            requests.bytes.write(requests.request_room(me.number()).start, request);
            slot.length.store(request.len() as u32, Ordering::Relaxed);
            asked.stage = Stage::Submitted;
            asked.hand_over(READY);
        }
        asked
    }

    fn hand_over(&self, state: u32) {
        failpoint::step(Site::RequestSent, || {
            ordering::give_away(&self.requests.slot(self.me.number()).state, state);
            self.me.procs().set_latch(ProcNumber::STARTUP);
        });
    }

    /// Does what can be done now; the answer, once all of it is there. Nothing is to be done with it after that.
    pub fn progress(&mut self) -> Option<Answered> {
        if matches!(self.stage, Stage::QueueInUse) {
            self.begin_sending();
        }
        if let Stage::Sending(sender) = &mut self.stage {
            match sender.try_send(self.request) {
                Sent::WouldBlock => return None,
                // Detached: it was refused, and there will be an answer that says so.
                Sent::Done | Sent::Detached => self.stage = Stage::Submitted,
            }
        }
        if matches!(self.stage, Stage::Submitted) {
            let slot = self.requests.slot(self.me.number());
            if ordering::is_given(&slot.state, DONE) || slot.awaited().is_some() {
                return Some(self.small_answer());
            }
            if ordering::is_given(&slot.state, ANSWERING) {
                let queue = self.requests.queues(self.me.number()).answer;
                let receiver = queue.attach_receiver(self.me, ANSWER_BYTES_MAX);
                self.stage = Stage::Answering(receiver.expect("the queue is new, and of this session"));
            }
        }
        let Stage::Answering(receiver) = &mut self.stage else { return None };
        let answer = match receiver.try_receive() {
            Received::WouldBlock => return None,
            Received::Message(answer) => answer,
            // Only what has been scribbled over shared memory; nothing is no answer, and is reported as such.
            Received::Detached | Received::TooLong(_) => Vec::new(),
        };
        // The end is left before the place is given back: the next answer finds the queue free.
        self.stage = Stage::Submitted;
        let slot = self.requests.slot(self.me.number());
        let rests_on = Lsn(slot.lsn.load(Ordering::Relaxed));
        ordering::give_away(&slot.state, IDLE);
        Some(Answered { answer, rests_on })
    }

    fn begin_sending(&mut self) {
        let queue = self.requests.queues(self.me.number()).request;
        if queue.renew(self.me.procs()) {
            let sender = queue.attach_sender(self.me).expect("the queue is new, and of this session");
            self.stage = Stage::Sending(sender);
            self.hand_over(SENDING);
        }
    }

    fn small_answer(&self) -> Answered {
        let me = self.me.number();
        let slot = self.requests.slot(me);
        let mut answer = vec![0; (slot.length.load(Ordering::Relaxed) as usize).min(SMALL_ANSWER_BYTES)];
        self.requests.bytes.read(self.requests.answer_room(me).start, &mut answer);
        let rests_on = Lsn(slot.lsn.load(Ordering::Relaxed));
        let was_waiting = slot.awaited().is_some();
        ordering::give_away(&slot.state, IDLE);
        if was_waiting {
            self.requests.sync_rep.end_wait();
        }
        Answered { answer, rests_on }
    }

    /// Takes the request back; false when the startup process has all of it already.
    pub fn withdraw(&mut self) -> bool {
        let state = &self.requests.slot(self.me.number()).state;
        match self.stage {
            Stage::QueueInUse => true,
            Stage::Answering(_) => false,
            Stage::Sending(_) | Stage::Submitted => {
                let from = if self.request.len() <= SMALL_REQUEST_BYTES { READY } else { SENDING };
                let withdrawn = ordering::take_place(state, from, IDLE);
                if withdrawn {
                    // The end of the queue is left with it.
                    self.stage = Stage::Submitted;
                }
                withdrawn
            }
        }
    }

    /// What the session waits for.
    pub fn wait_event(&self) -> WaitEvent {
        match self.stage {
            Stage::QueueInUse | Stage::Sending(_) => WaitEvent::MessageQueueSend,
            Stage::Submitted => WaitEvent::WriterOutcome,
            Stage::Answering(_) => WaitEvent::MessageQueueReceive,
        }
    }
}
