//! A queue: messages of any length from one process to another through a ring of 1 KiB.
//!
//! No call here waits: after `WouldBlock` the other end sets this process's latch when there is more to do. So either
//! process could wait for sockets, other queues and time-outs in the same wait event set.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example tells what it does")]

mod node;

use std::io;

use ipc::{
    process::Me,
    shm_mq::{Received, Sent, ShmMq},
    wait_event::WaitEvent,
};

use crate::node::{Node, slot};

/// One fits, one fills the ring ten times over, one is empty.
const MESSAGES: [usize; 3] = [100, 10_000, 0];

fn send(me: Me, queue: ShmMq) -> io::Result<()> {
    let mut sender = queue.attach_sender(me).expect("nobody else sends");
    for length in MESSAGES {
        let message = vec![b'x'; length];
        loop {
            me.latch().reset();
            match sender.try_send(&message) {
                Sent::Done => break,
                Sent::WouldBlock => _ = ipc::wait_latch(&me, None, WaitEvent::MessageQueueSend)?,
                Sent::Detached => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
    // Dropping the end detaches it; what is in the queue stays.
    Ok(())
}

fn receive(me: Me, queue: ShmMq) -> io::Result<()> {
    let mut receiver = queue.attach_receiver(me, 1 << 20).expect("nobody else receives");
    loop {
        me.latch().reset();
        match receiver.try_receive() {
            Received::Message(message) => println!("{} bytes", message.len()),
            Received::WouldBlock => _ = ipc::wait_latch(&me, None, WaitEvent::MessageQueueReceive)?,
            Received::Detached => break,
            Received::TooLong(length) => return Err(io::Error::other(format!("{length} bytes"))),
        }
    }
    println!("that was all");
    Ok(())
}

fn main() -> io::Result<()> {
    let node = Node::new(2)?;
    let queue = ShmMq::create(&node.shmem, 1024);
    let receiver = node.start(slot(0), |me| receive(me, queue))?;
    let sender = node.start(slot(1), |me| send(me, queue))?;
    node.reap(slot(1), &sender)?;
    node.reap(slot(0), &receiver)
}
