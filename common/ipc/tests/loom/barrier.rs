//! Barriers: when a wait is over nobody acts on the old state any more, and every wait is over some time.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool as Ghost, Ordering::SeqCst},
};

use ipc::{
    barrier::{Absorption, BarrierGeneration, BarrierTypes},
    inbox::Inbox,
    model::{barrier_wait, become_process, left_out, postmaster_latch},
    proc::{BackendType, ProcArray, ProcNumber},
};
use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use crate::{DEADLOCK, models};

const FIRST: ProcNumber = ProcNumber(0);
const SECOND: ProcNumber = ProcNumber(1);

const OLD: &str = "acts on the old state";

models! {
    /// Two changes, one right after the other, and one process that absorbs them.
    has_been_acted_on_when_the_wait_is_over: two_changes, without {
        "barrier: generation read before acting" => OLD,
        "barrier: generation stored after acting" => OLD,
        "barrier: emit releases" => OLD,
        "barrier: absorb acquires" => OLD,
        "barrier: absorb releases" => OLD,
        "barrier: look acquires" => OLD,
        "barrier: absorb before wake" => DEADLOCK,
        "barrier: wait before look" => DEADLOCK,
    }
    /// A change while a child is being forked and attaches.
    reaches_who_attaches: change_while_attaching, without {
        "barrier: assign before fork" => OLD,
        "barrier: emit releases" => DEADLOCK,
        "barrier: attach looks" => DEADLOCK,
        "barrier: attach before look" => DEADLOCK,
        "barrier: emit before send" => DEADLOCK,
    }
    /// One absorbs, one leaves; whichever is last wakes.
    is_waited_for_until_the_last: absorb_and_leave, without {
        "barrier: leave is not there" => DEADLOCK,
        "barrier: leave releases" => OLD,
        "barrier: absorb before wake" => DEADLOCK,
    }
    /// Two change something and wait for each other.
    does_not_lock_two_emitters: two_emitters, without {
        "model: absorb while waiting" => DEADLOCK,
    }
}

/// A state that all know: `current` is changed by an emitter, `known` is what each slot's process acts on.
struct State {
    current: AtomicU32,
    known: [AtomicU32; 2],
}

impl State {
    fn new() -> Arc<State> {
        Arc::new(State { current: AtomicU32::new(0), known: [AtomicU32::new(0), AtomicU32::new(0)] })
    }

    fn known(&self, number: ProcNumber) -> u32 {
        self.known[number.index()].load(Ordering::Relaxed)
    }

    fn take_note(&self, number: ProcNumber) {
        self.known[number.index()].store(self.current.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn absorb(inbox: &Inbox, state: &State, number: ProcNumber) {
    let absorbed = inbox.absorb_barriers::<Infallible>(|_| {
        state.take_note(number);
        Ok(Absorption::Done)
    });
    absorbed.unwrap();
}

/// A process that absorbs until it knows `last`.
fn absorb_until(inbox: &Inbox, state: &State, number: ProcNumber, last: u32) {
    loop {
        inbox.latch().reset();
        absorb(inbox, state, number);
        if state.known(number) == last {
            return;
        }
        inbox.latch().wait();
    }
}

fn attach(procs: &'static ProcArray, number: ProcNumber) -> &'static Inbox {
    let inbox = Inbox::new();
    inbox.attach(procs, number, BackendType::ClientBackend, 0).unwrap();
    inbox
}

/// Slots of a postmaster, which this thread is.
fn node(slots: usize) -> &'static ProcArray {
    let procs = ProcArray::of_model(slots);
    postmaster_latch(procs).own().unwrap();
    procs
}

fn wait_as_postmaster(procs: &'static ProcArray, generation: BarrierGeneration) {
    let wait = barrier_wait(procs, None, generation);
    loop {
        postmaster_latch(procs).reset();
        if wait.is_over() {
            return;
        }
        postmaster_latch(procs).wait();
    }
}

fn two_changes() {
    let (procs, state) = (node(1), State::new());
    procs.assign(FIRST).unwrap();
    let absorber = {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            become_process(2);
            let inbox = attach(procs, FIRST);
            absorb_until(inbox, &state, FIRST, 2);
            // Perhaps for the first change alone: it has come to know of both at once.
            inbox.detach();
        })
    };
    state.current.store(1, Ordering::Relaxed);
    procs.emit_barrier(BarrierTypes::CONFIG_RELOAD);
    state.current.store(2, Ordering::Relaxed);
    let generation = procs.emit_barrier(BarrierTypes::CONFIG_RELOAD);
    wait_as_postmaster(procs, generation);
    assert_eq!(state.known(FIRST), 2, "the process in the slot {OLD}");
    absorber.join().unwrap();
}

fn change_while_attaching() {
    let (procs, state) = (node(2), State::new());
    // Whether the wait was over at that time; no part of the modelled memory, so that it orders nothing.
    let over = std::sync::Arc::new(Ghost::new(false));
    procs.assign(SECOND).unwrap();
    let emitter = {
        let (state, over) = (Arc::clone(&state), over.clone());
        thread::spawn(move || {
            become_process(2);
            let inbox = attach(procs, SECOND);
            state.current.store(1, Ordering::Relaxed);
            let generation = procs.emit_barrier(BarrierTypes::CONFIG_RELOAD);
            let wait = barrier_wait(procs, Some(SECOND), generation);
            loop {
                inbox.latch().reset();
                absorb(inbox, &state, SECOND);
                if wait.is_over() {
                    break;
                }
                inbox.latch().wait();
            }
            over.store(true, SeqCst);
        })
    };
    procs.assign(FIRST).unwrap();
    // What the child inherits.
    state.take_note(FIRST);
    let child = {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            become_process(3);
            let act = || assert!(!over.load(SeqCst) || state.known(FIRST) == 1, "the child {OLD}");
            act();
            let inbox = attach(procs, FIRST);
            loop {
                inbox.latch().reset();
                absorb(inbox, &state, FIRST);
                act();
                if state.known(FIRST) == 1 {
                    break;
                }
                inbox.latch().wait();
            }
            inbox.detach();
        })
    };
    emitter.join().unwrap();
    child.join().unwrap();
}

fn absorb_and_leave() {
    let (procs, state) = (node(2), State::new());
    for number in [FIRST, SECOND] {
        procs.assign(number).unwrap();
    }
    let absorber = {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            become_process(2);
            absorb_until(attach(procs, FIRST), &state, FIRST, 1);
        })
    };
    let leaver = {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            become_process(3);
            let inbox = attach(procs, SECOND);
            // Its last act.
            state.known[1].store(1, Ordering::Relaxed);
            inbox.detach();
        })
    };
    state.current.store(1, Ordering::Relaxed);
    let generation = procs.emit_barrier(BarrierTypes::CONFIG_RELOAD);
    wait_as_postmaster(procs, generation);
    assert_eq!([state.known(FIRST), state.known(SECOND)], [1; 2], "one {OLD}");
    absorber.join().unwrap();
    leaver.join().unwrap();
}

fn two_emitters() {
    let (procs, state) = (node(2), State::new());
    let deaf = left_out("model: absorb while waiting");
    let emit_and_wait = move |number: ProcNumber, state: &State| {
        let inbox = attach(procs, number);
        let generation = procs.emit_barrier(BarrierTypes::CONFIG_RELOAD);
        let wait = barrier_wait(procs, Some(number), generation);
        loop {
            inbox.latch().reset();
            if !deaf {
                absorb(inbox, state, number);
            }
            if wait.is_over() {
                break;
            }
            inbox.latch().wait();
        }
        drop(wait);
        inbox.detach();
    };
    for number in [FIRST, SECOND] {
        procs.assign(number).unwrap();
    }
    let other = {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            become_process(2);
            emit_and_wait(SECOND, &state);
        })
    };
    become_process(3);
    emit_and_wait(FIRST, &state);
    other.join().unwrap();
}
