//! Two processes play ball by their latches: the smallest wait loop there is.
//!
//! Whoever has the ball makes its stroke visible first and sets the other's latch then. Whoever waits for it resets its
//! latch, looks, and sleeps if it isn't there: in this order, so that no stroke is missed.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example tells what it does")]

mod node;

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use ipc::{proc::ProcNumber, process::Me, wait_event::WaitEvent};

use crate::node::{Node, slot};

const STROKES: u32 = 10_000;

ipc::shared_struct! {
    struct Table {
        /// How many strokes there were. Even: it is the first player's turn. Written by whose turn it is.
        strokes: AtomicU32,
    }
}

fn play(me: Me, table: &Table, turn: u32, other: ProcNumber) -> io::Result<()> {
    loop {
        me.latch().reset();
        // Relaxed will do: the latch orders what was stored before it was set.
        let strokes = table.strokes.load(Ordering::Relaxed);
        if strokes >= STROKES {
            return Ok(());
        }
        if strokes % 2 == turn {
            table.strokes.store(strokes + 1, Ordering::Relaxed);
            me.procs().set_latch(other);
            // Something has changed: look again before sleeping. It may have been the last stroke.
            continue;
        }
        ipc::wait_latch(&me, None, WaitEvent::PgSleep)?;
    }
}

fn main() -> io::Result<()> {
    let node = Node::new(2)?;
    let table: &Table = node.shmem.alloc();
    let first = node.start(slot(0), |me| play(me, table, 0, slot(1)))?;
    let second = node.start(slot(1), |me| play(me, table, 1, slot(0)))?;
    node.reap(slot(0), &first)?;
    node.reap(slot(1), &second)?;
    println!("{} strokes", table.strokes.load(Ordering::Relaxed));
    Ok(())
}
