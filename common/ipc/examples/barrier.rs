//! A barrier: a change, and the certainty that every process has taken note of it.
//!
//! The postmaster changes a word that its children keep copies of, emits a barrier, and waits until all have absorbed it.
//! From then on nobody uses the old value, so whatever belonged to it may be thrown away.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example tells what it does")]

mod node;

use std::{
    convert::Infallible,
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use ipc::{
    barrier::{Absorption, BarrierTypes},
    interrupt::Interrupts,
    process::Me,
    wait_event::WaitEvent,
};
use sys::signal::Signal;

use crate::node::{Node, slot};

const CHILDREN: u32 = 3;

ipc::shared_struct! {
    struct Board {
        /// Written by the postmaster.
        value: AtomicU32,
        /// What each child works with. Written by the child.
        copies: [AtomicU32; CHILDREN as usize],
    }
}

fn run(me: Me, board: &Board, copy: &AtomicU32) -> io::Result<()> {
    copy.store(board.value.load(Ordering::Relaxed), Ordering::Relaxed);
    while !me.pending().contains(Interrupts::TERMINATE) {
        let absorbed: Result<(), Infallible> = me.absorb_barriers(|_| {
            copy.store(board.value.load(Ordering::Relaxed), Ordering::Relaxed);
            Ok(Absorption::Done)
        });
        absorbed.expect("it can't fail");
        ipc::wait_latch(&me, None, WaitEvent::PgSleep)?;
        me.latch().reset();
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let node = Node::new(CHILDREN)?;
    let board: &Board = node.shmem.alloc();
    let mut children = Vec::new();
    for index in 0..CHILDREN {
        children.push(node.start(slot(index), |me| run(me, board, &board.copies[index as usize]))?);
    }
    for value in [7, 8] {
        // First the change, then the barrier. Who has not even attached yet takes part.
        board.value.store(value, Ordering::Relaxed);
        let generation = node.postmaster.emit_barrier(BarrierTypes::CONFIG_RELOAD);
        let wait = node.postmaster.barrier_wait(generation);
        node.wait_until(|| wait.is_over())?;
        let copies = board.copies.iter().map(|copy| copy.load(Ordering::Relaxed));
        println!("{:?}", copies.collect::<Vec<_>>());
    }
    for (index, child) in (0..).zip(&children) {
        child.kill(Signal::Term)?;
        node.reap(slot(index), child)?;
    }
    Ok(())
}
