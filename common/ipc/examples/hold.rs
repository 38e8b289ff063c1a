//! Interrupts, and a section in which one of them must not be seen.
//!
//! The child is asked to read its settings again and to cancel its statement while it is at something that must not be
//! cancelled midway. It holds that one interrupt: the other reaches it all the same, and what was held shows when
//! the guard is dropped, which sets the latch: no wait sleeps over it.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example tells what it does")]

mod node;

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
};

use ipc::{interrupt::Interrupts, pm_signal::PmSignal, process::Me, wait_event::WaitEvent};

use crate::node::{Node, slot};

ipc::shared_struct! {
    struct Board {
        /// Written by the child when it holds; by the postmaster when it has sent everything.
        holds: AtomicBool,
        sent: AtomicBool,
    }
}

/// Takes each interrupt just before it is acted on, so that what comes meanwhile is kept.
fn check_for_interrupts(me: Me, place: &str) {
    for (interrupt, meaning) in
        [(Interrupts::CONFIG_RELOAD, "read the settings again"), (Interrupts::QUERY_CANCEL, "cancel")]
    {
        if !me.take(interrupt).is_empty() {
            println!("{place}: {meaning}");
        }
    }
}

fn run(me: Me, board: &Board) -> io::Result<()> {
    let guard = me.hold(Interrupts::QUERY_CANCEL);
    board.holds.store(true, Ordering::Relaxed);
    me.pm_signal(PmSignal::NONE);
    loop {
        me.latch().reset();
        check_for_interrupts(me, "in the section");
        if board.sent.load(Ordering::Relaxed) {
            break;
        }
        ipc::wait_latch(&me, None, WaitEvent::PgSleep)?;
    }
    // As if some inner wait had consumed the set that came with the cancel.
    me.latch().reset();
    drop(guard);
    ipc::wait_latch(&me, None, WaitEvent::PgSleep)?;
    me.latch().reset();
    check_for_interrupts(me, "after the section");
    Ok(())
}

fn main() -> io::Result<()> {
    let node = Node::new(1)?;
    let board: &Board = node.shmem.alloc();
    let child = node.start(slot(0), |me| run(me, board))?;
    node.wait_until(|| board.holds.load(Ordering::Relaxed))?;
    // This very process, not whoever may have the slot later.
    let address = node.procs.address(slot(0)).expect("it has attached");
    assert!(node.procs.send_interrupt(address, Interrupts::QUERY_CANCEL | Interrupts::CONFIG_RELOAD));
    board.sent.store(true, Ordering::Relaxed);
    node.procs.set_latch(slot(0));
    node.reap(slot(0), &child)?;
    assert!(!node.procs.send_interrupt(address, Interrupts::TERMINATE), "it is gone");
    Ok(())
}
