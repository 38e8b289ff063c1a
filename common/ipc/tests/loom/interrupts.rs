//! Interrupts: each reaches the process it was sent to, and nobody else, and isn't slept over; while bits are
//! held, and while the process changes from its own latch and word to its slot's and back.

use ipc::{
    inbox::Inbox,
    interrupt::Interrupts,
    model::{become_process, left_out},
    proc::{BackendType, ProcAddress, ProcArray, ProcNumber},
};
use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use crate::{DEADLOCK, models};

const SLOT: ProcNumber = ProcNumber(0);

/// The first process of the slot.
const FIRST: ProcAddress = ProcAddress { number: SLOT, generation: 1 };

const NEWS: Interrupts = Interrupts::NOTIFY;
const SIGNAL: Interrupts = Interrupts::TERMINATE;

models! {
    /// Of two processes that own a slot one after the other only the first can get what is sent to it, and it
    /// gets what is not refused.
    reaches_its_target_or_nobody: target_and_successor, without {
        "pending: send heeds the generation" => "an interrupt was lost or made up",
        "pending: a new generation has no bits" => "reached a successor",
        "switch: moves what is pending" => "was lost",
    }
    /// The work behind a bit is seen by who takes the bit, and the bit isn't cleared for work that wasn't seen.
    is_taken_with_its_work: send_and_take, without {
        "pending: send releases" => DEADLOCK,
        "pending: take acquires" => DEADLOCK,
        "model: clear before act" => DEADLOCK,
    }
    /// A bit that comes while it is held, whatever becomes of the latch meanwhile, ends the wait after the hold.
    is_not_slept_over_after_a_hold: hold_and_wait, without {
        "hold: its end sets the latch" => DEADLOCK,
    }
    /// What was raised before attaching ends the first wait after it, and so does what comes right then.
    is_not_slept_over_at_attach: attach_and_wait, without {
        "switch: moves what is pending" => DEADLOCK,
        "switch: sets the latch" => DEADLOCK,
    }
    /// What was sent before detaching is found after it, without any further wake-up.
    is_not_slept_over_at_detach: detach_and_wait, without {
        "switch: moves what is pending" => "was lost",
        "switch: sets the latch" => DEADLOCK,
    }
}

/// A process in the slot, which nobody had before.
fn first_owner(procs: &'static ProcArray) -> &'static Inbox {
    let inbox = Inbox::new();
    procs.assign(SLOT).unwrap();
    assert_eq!(inbox.attach(procs, SLOT, BackendType::ClientBackend, 0), Ok(FIRST));
    inbox
}

/// Somebody who sends once. Joining it tells whether that was accepted.
fn sender(procs: &'static ProcArray) -> thread::JoinHandle<bool> {
    thread::spawn(move || {
        become_process(3);
        procs.send_interrupt(FIRST, NEWS)
    })
}

fn target_and_successor() {
    let procs = ProcArray::of_model(1);
    procs.assign(SLOT).unwrap();
    let sender = sender(procs);
    let owner = thread::spawn(move || {
        become_process(2);
        let inbox = Inbox::new();
        inbox.attach(procs, SLOT, BackendType::ClientBackend, 0).unwrap();
        inbox.detach();
        inbox.pending()
    });
    let found = owner.join().unwrap();
    assert!(procs.release(SLOT));
    procs.assign(SLOT).unwrap();
    let successor = Inbox::new();
    successor.attach(procs, SLOT, BackendType::ClientBackend, 0).unwrap();
    let sent = sender.join().unwrap();
    assert!(successor.pending().is_empty(), "an interrupt reached a successor");
    assert_eq!(found, if sent { NEWS } else { Interrupts::NONE }, "an interrupt was lost or made up");
}

fn send_and_take() {
    const SENDS: u32 = 2;
    let procs = ProcArray::of_model(1);
    let inbox = first_owner(procs);
    let work = Arc::new(AtomicU32::new(0));
    let sender = {
        let work = Arc::clone(&work);
        thread::spawn(move || {
            become_process(3);
            for done in 1..=SENDS {
                work.store(done, Ordering::Relaxed);
                assert!(procs.send_interrupt(FIRST, NEWS));
            }
        })
    };
    let act_too_early = left_out("model: clear before act");
    let mut seen = 0;
    loop {
        inbox.latch().reset();
        if act_too_early && inbox.pending() == NEWS {
            seen = work.load(Ordering::Relaxed);
            inbox.take(NEWS);
        } else if !inbox.take(NEWS).is_empty() {
            seen = work.load(Ordering::Relaxed);
        }
        if seen == SENDS {
            break;
        }
        inbox.latch().wait();
    }
    sender.join().unwrap();
}

/// Waits first, as a process may that has just looked.
fn wait_for(inbox: &Inbox, interrupts: Interrupts) {
    loop {
        inbox.latch().wait();
        inbox.latch().reset();
        if inbox.take(interrupts) == interrupts {
            return;
        }
    }
}

fn hold_and_wait() {
    let procs = ProcArray::of_model(1);
    let inbox = first_owner(procs);
    let sender = sender(procs);
    let guard = inbox.hold(NEWS);
    inbox.latch().reset();
    assert!(inbox.pending().is_empty(), "it is held");
    drop(guard);
    wait_for(inbox, NEWS);
    assert!(sender.join().unwrap());
}

fn attach_and_wait() {
    let procs = ProcArray::of_model(1);
    procs.assign(SLOT).unwrap();
    let sender = sender(procs);
    let inbox = Inbox::new();
    inbox.latch().reset();
    inbox.raise(SIGNAL);
    inbox.attach(procs, SLOT, BackendType::ClientBackend, 0).unwrap();
    wait_for(inbox, SIGNAL);
    if sender.join().unwrap() && inbox.pending().is_empty() {
        wait_for(inbox, NEWS);
    }
}

fn detach_and_wait() {
    let procs = ProcArray::of_model(1);
    let inbox = first_owner(procs);
    let sender = sender(procs);
    inbox.latch().reset();
    let mut found = inbox.take(NEWS);
    inbox.detach();
    inbox.latch().wait();
    inbox.latch().reset();
    found |= inbox.take(NEWS);
    let sent = sender.join().unwrap();
    assert_eq!(found, if sent { NEWS } else { Interrupts::NONE }, "an interrupt was lost or made up");
}
