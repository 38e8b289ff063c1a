//! What was posted to whom, and what its owner has seen of it: shared memory by which the run is judged.
//!
//! Work is a number that only grows, one per sender and target, stored *relaxed*: nothing but the latch's
//! fences may carry it over. So is the number that goes with an interrupt. A target copies the numbers that
//! it finds when it looks; what it found of interrupts it copies only when it has taken a bit. So a set or
//! an interrupt that was lost is a number that differs while its owner sleeps.
//!
//! A sender that is killed inside a set may leave the latch set and its owner asleep for ever: no protocol
//! without locks can help that, PostgreSQL's neither, where the postmaster restarts all after a crash. Here
//! the postmaster finishes what the dead one had begun: `intent` tells it what that was.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use ipc::{
    interrupt::Interrupts,
    proc::{ProcAddress, ProcArray, ProcNumber},
    shared_struct,
};

/// How many processes there are beside their postmaster.
pub(crate) const MEMBERS: usize = 64;

/// Who sends: each member, and the postmaster.
pub(crate) const SENDERS: usize = MEMBERS + 1;

/// The postmaster as a sender.
pub(crate) const POSTMASTER: usize = MEMBERS;

shared_struct! {
    /// What is for one target. An element per sender.
    pub(crate) struct Inbox {
        /// Written by the sender before it sets the latch.
        work: [AtomicU64; SENDERS],
        /// Written by the target: what it found in `work`.
        seen: [AtomicU64; SENDERS],
        /// Written by the sender before it sends an interrupt, which may not arrive.
        announced: [AtomicU64; SENDERS],
        /// Written by the sender after it has sent an interrupt that did arrive.
        arrived: [AtomicU64; SENDERS],
        /// Written by the target: what it found in `announced` when it had taken an interrupt.
        taken: [AtomicU64; SENDERS],
    }

    /// The whole run.
    pub(crate) struct Ledger {
        inboxes: [Inbox; MEMBERS],
        /// Per sender: its target plus one while it sends, else 0. Written by the sender.
        intent: [AtomicU32; SENDERS],
        /// How many sets are left of this storm; below 0 when it is over. Written by all.
        budget: AtomicI64,
        /// Among how many targets this storm goes, beginning with which. Written by the postmaster between storms.
        targets: AtomicU32,
        first_target: AtomicU32,
        /// 1 when all is over.
        end: AtomicU32,
        /// For the report. Written by all.
        pub(crate) interrupts: AtomicU64,
        pub(crate) stale_interrupts: AtomicU64,
        pub(crate) waits: AtomicU64,
    }
}

/// The slot of a member.
pub(crate) fn slot_of(member: usize) -> ProcNumber {
    ProcNumber(ProcNumber::FIRST_BACKEND.0 + u32::try_from(member).expect("members are few"))
}

/// The bit that is sent to this life of a slot, and to none of its neighbours: a bit that isn't one's own
/// was meant for another life.
pub(crate) fn bit_of_life(address: ProcAddress) -> Interrupts {
    const BITS: [Interrupts; 5] = [
        Interrupts::QUERY_CANCEL,
        Interrupts::WALSND_INIT_STOPPING,
        Interrupts::STOP,
        Interrupts::PROMOTE,
        Interrupts::STATEMENT_TIMEOUT,
    ];
    BITS[(address.generation / 2) as usize % BITS.len()]
}

impl Ledger {
    /// Begins a storm of `sets` sets among `targets` members.
    pub(crate) fn begin(&self, sets: i64, first_target: u32, targets: u32) {
        self.first_target.store(first_target, Ordering::Relaxed);
        self.targets.store(targets, Ordering::Relaxed);
        self.budget.store(sets, Ordering::SeqCst);
    }

    /// Says that nothing follows.
    pub(crate) fn end(&self) {
        self.end.store(1, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.load(Ordering::Acquire) == 1
    }

    pub(crate) fn storm_goes_on(&self) -> bool {
        self.budget.load(Ordering::Relaxed) > 0
    }

    /// A member of this storm; `number` is any.
    pub(crate) fn target(&self, number: usize) -> usize {
        let targets = (self.targets.load(Ordering::Relaxed) as usize).max(1);
        (self.first_target.load(Ordering::Relaxed) as usize + number % targets) % MEMBERS
    }

    /// Makes work for `target` and sets its latch. False: the storm is over.
    pub(crate) fn post(&self, procs: &ProcArray, from: usize, target: usize) -> bool {
        self.send(from, target, || {
            let work = &self.inboxes[target].work[from];
            work.store(work.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            procs.set_latch(slot_of(target));
        })
    }

    /// Sends an interrupt to the process that had that address when the sender learned it. False: the storm
    /// is over.
    pub(crate) fn interrupt(&self, procs: &ProcArray, from: usize, target: usize, to: ProcAddress) -> bool {
        self.send(from, target, || {
            let inbox = &self.inboxes[target];
            let number = inbox.announced[from].load(Ordering::Relaxed) + 1;
            inbox.announced[from].store(number, Ordering::Relaxed);
            let count = if procs.send_interrupt(to, bit_of_life(to)) {
                inbox.arrived[from].store(number, Ordering::Relaxed);
                &self.interrupts
            } else {
                &self.stale_interrupts
            };
            count.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn send(&self, from: usize, target: usize, act: impl FnOnce()) -> bool {
        self.intent[from].store(u32::try_from(target + 1).expect("members are few"), Ordering::SeqCst);
        // SeqCst, as the store before: who finds the budget spent and no intent knows that nobody sends.
        let may = self.budget.fetch_sub(1, Ordering::SeqCst) > 0;
        if may {
            act();
        }
        self.intent[from].store(0, Ordering::SeqCst);
        may
    }

    /// What a sender that was killed was about to send to, if anything; forgets it.
    pub(crate) fn take_intent(&self, from: usize) -> Option<usize> {
        (self.intent[from].swap(0, Ordering::SeqCst) as usize).checked_sub(1)
    }

    /// Whether nothing is sent any more.
    pub(crate) fn is_calm(&self) -> bool {
        self.budget.load(Ordering::SeqCst) <= 0
            && self.intent.iter().all(|intent| intent.load(Ordering::SeqCst) == 0)
    }

    /// The owner's look for work. To be called after the reset.
    pub(crate) fn look(&self, me: usize) -> bool {
        copy(&self.inboxes[me].work, &self.inboxes[me].seen)
    }

    /// The owner's look at what came with interrupts. To be called after one was taken.
    pub(crate) fn look_at_interrupts(&self, me: usize) {
        copy(&self.inboxes[me].announced, &self.inboxes[me].taken);
    }

    /// Whether there is something that `target` has not seen, and from whom.
    pub(crate) fn unseen(&self, target: usize) -> Option<Unseen> {
        let inbox = &self.inboxes[target];
        let unseen = |posted: &[AtomicU64; SENDERS], seen: &[AtomicU64; SENDERS]| {
            (0..SENDERS)
                .find(|from| seen[*from].load(Ordering::Relaxed) < posted[*from].load(Ordering::Relaxed))
        };
        let set = unseen(&inbox.work, &inbox.seen).map(Unseen::Set);
        set.or_else(|| unseen(&inbox.arrived, &inbox.taken).map(Unseen::Interrupt))
    }
}

/// Something that was sent and not seen, with its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseen {
    Set(usize),
    Interrupt(usize),
}

/// Copies what differs, and says whether anything did.
fn copy(from: &[AtomicU64; SENDERS], to: &[AtomicU64; SENDERS]) -> bool {
    let mut found = false;
    for (from, to) in from.iter().zip(to) {
        let number = from.load(Ordering::Relaxed);
        if number != to.load(Ordering::Relaxed) {
            to.store(number, Ordering::Relaxed);
            found = true;
        }
    }
    found
}
