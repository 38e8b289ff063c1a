//! Message queues between real processes: what is sent arrives, and whoever waits for an end that goes away learns it.

use std::time::Duration;

use ipc::{
    pm_signal::PmSignal,
    proc::{ProcAddress, ProcNumber},
    process::Me,
    shm_mq::{Received, Receiver, Sender, Sent, ShmMq},
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, SocketEvents, WaitEventSet},
};
use sys::{process::ExitStatus, signal::Signal};

use crate::harness::{Child, DEADLINE, FIRST, Node, SECOND, wait, wait_until};

const RING: usize = 1024;
const MESSAGE_MAX: usize = 64 * 1024;

/// Sizes at every border of words and of the ring, and what lies between.
fn size_of_message(number: u64) -> usize {
    let borders = [0, 1, 7, 8, 9, RING - 9, RING - 8, RING - 7, RING, RING + 1, 3 * RING];
    let random = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    match number % 4 {
        0 => borders[usize::try_from(random).unwrap() % borders.len()],
        1 => usize::try_from(random).unwrap() % (4 * RING),
        _ => usize::try_from(random).unwrap() % 64,
    }
}

/// Bytes that say whose they are, which message, and where in it.
fn message(owner: u64, number: u64) -> Vec<u8> {
    let mut state = owner << 32 | number | 1 << 63;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    bytes.take(size_of_message(number)).collect()
}

fn wait_latch(me: Me, event: WaitEvent) {
    assert!(ipc::wait_latch(&me, Some(DEADLINE), event).unwrap(), "a wake-up was lost");
}

/// Sends all of a message; false: nobody receives.
fn send(me: Me, sender: &mut Sender, message: &[u8]) -> bool {
    loop {
        me.latch().reset();
        match sender.try_send(message) {
            Sent::Done => return true,
            Sent::Detached => return false,
            Sent::WouldBlock => wait_latch(me, WaitEvent::MessageQueueSend),
        }
    }
}

fn receive(me: Me, receiver: &mut Receiver) -> Received {
    loop {
        me.latch().reset();
        match receiver.try_receive() {
            Received::WouldBlock => wait_latch(me, WaitEvent::MessageQueueReceive),
            received => return received,
        }
    }
}

/// A child that sends `count` messages and leaves.
fn sender(node: &Node, number: ProcNumber, queue: ShmMq, count: u64) -> Child {
    node.child(number, |me| {
        let mut sender = queue.attach_sender(me).unwrap();
        for number in 0..count {
            assert!(send(me, &mut sender, &message(u64::from(me.number().0), number)));
        }
    })
}

/// A child that receives `count` messages of `owner`, and then the end.
fn receiver(node: &Node, number: ProcNumber, queue: ShmMq, owner: ProcNumber, count: u64) -> Child {
    node.child(number, |me| {
        let mut receiver = queue.attach_receiver(me, MESSAGE_MAX).unwrap();
        for number in 0..count {
            let expected = message(u64::from(owner.0), number);
            assert!(receive(me, &mut receiver) == Received::Message(expected), "message {number}");
        }
        assert_eq!(receive(me, &mut receiver), Received::Detached);
    })
}

pub(crate) fn queue_carries_messages_of_every_size() {
    const COUNT: u64 = 4000;
    let node = Node::start();
    let queue = ShmMq::create(&node.shmem, RING);
    let mut reader = receiver(&node, FIRST, queue, SECOND, COUNT);
    let mut writer = sender(&node, SECOND, queue, COUNT);
    writer.join_well();
    reader.join_well();
}

pub(crate) fn queue_whose_ends_are_stopped_for_a_while_loses_nothing() {
    const COUNT: u64 = 20_000;
    let node = Node::start();
    let queue = ShmMq::create(&node.shmem, RING);
    let mut reader = receiver(&node, FIRST, queue, SECOND, COUNT);
    let mut writer = sender(&node, SECOND, queue, COUNT);
    let mut set = WaitEventSet::without_process(2).unwrap();
    set.add_child_exit(&reader.pidfd).unwrap();
    for round in 0..40_u64 {
        let stopped = if round % 2 == 0 { &reader } else { &writer };
        stopped.kill(Signal::Stop);
        wait(&mut set, Duration::from_millis(round % 5));
        stopped.kill(Signal::Cont);
        wait(&mut set, Duration::from_millis(1));
    }
    writer.join_well();
    reader.join_well();
}

/// As the leader of a parallel query: many queues and a socket, one wait event set.
pub(crate) fn leader_reads_many_queues_and_a_socket_in_one_wait() {
    const WORKERS: u32 = 6;
    const COUNT: u64 = 400;
    let node = Node::start();
    let queues: Vec<ShmMq> = (0..WORKERS).map(|_| ShmMq::create(&node.shmem, RING)).collect();
    let (theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    let worker = |index: u32| ProcNumber(SECOND.0 + index);
    let mut leader = node.child(FIRST, |me| {
        let mut set = WaitEventSet::new(&me, 2).unwrap();
        set.add_latch().unwrap();
        let socket = set.add_socket(&theirs, SocketEvents::READABLE).unwrap();
        let mut ends: Vec<_> =
            queues.iter().map(|queue| (queue.attach_receiver(me, MESSAGE_MAX).unwrap(), 0)).collect();
        let (mut open, mut heard) = (ends.len(), false);
        loop {
            me.latch().reset();
            for (index, (receiver, received)) in (0_u32..).zip(&mut ends) {
                loop {
                    match receiver.try_receive() {
                        Received::WouldBlock => break,
                        Received::Message(bytes) => {
                            assert!(bytes == message(u64::from(worker(index).0), *received));
                            *received += 1;
                        }
                        Received::Detached => {
                            open -= usize::from(*received == COUNT);
                            *received = u64::MAX;
                            break;
                        }
                        Received::TooLong(length) => panic!("{length} bytes"),
                    }
                }
            }
            if open == 0 && heard {
                return;
            }
            let occurred = wait(&mut set, DEADLINE);
            assert!(!occurred.is_empty(), "{open} queues open");
            if occurred.contains(&Occurred { position: socket, events: Events::SOCKET_READABLE }) {
                heard = true;
                set.modify(socket, SocketEvents::NONE).unwrap();
            }
        }
    });
    let mut workers: Vec<Child> =
        (0..WORKERS).map(|index| sender(&node, worker(index), queues[index as usize], COUNT)).collect();
    std::io::Write::write_all(&mut &ours, b"x").unwrap();
    workers.iter_mut().for_each(Child::join_well);
    leader.join_well();
}

/// Which end is killed while the other waits for it, in the midst of a message of several rings.
fn survivor_learns_of_a_kill(dead: ProcNumber, survivor: ProcNumber, dead_sends: bool) {
    let node = Node::start();
    let (board, procs) = (node.board, node.procs);
    let queue = ShmMq::create(&node.shmem, RING);
    let long = vec![7; MESSAGE_MAX];
    let mut killed = node.child(dead, |me| {
        let half = |me: Me| {
            board.put(0, 1);
            procs.set_latch(survivor);
            me.pm_signal(PmSignal::NONE);
            wait_until(me, || false);
        };
        if dead_sends {
            let mut sender = queue.attach_sender(me).unwrap();
            assert_eq!(sender.try_send(&long), Sent::WouldBlock);
            half(me);
        } else {
            let mut receiver = queue.attach_receiver(me, MESSAGE_MAX).unwrap();
            wait_until(me, || board.get(2) == 1);
            assert_eq!(receiver.try_receive(), Received::WouldBlock);
            assert!(receiver.held() > 0);
            half(me);
        }
    });
    let mut other = node.child(survivor, |me| {
        if dead_sends {
            // Later than the ring is full, or all of the message may come.
            wait_until(me, || board.get(0) == 1);
            let mut receiver = queue.attach_receiver(me, MESSAGE_MAX).unwrap();
            assert_eq!(receive(me, &mut receiver), Received::Detached, "half a message is none");
        } else {
            let mut sender = queue.attach_sender(me).unwrap();
            assert_eq!(sender.try_send(&long), Sent::WouldBlock);
            // Not faster than the other end reads, or that gets all of it.
            board.put(2, 1);
            procs.set_latch(dead);
            wait_until(me, || board.get(0) == 1);
            assert!(!send(me, &mut sender, &long));
        }
        board.put(1, 1);
    });
    node.wait_for("the middle of a message", || board.get(0) == 1);
    assert_eq!(board.get(1), 0);
    killed.kill(Signal::Kill);
    assert_eq!(killed.join(), ExitStatus::Signaled(9));
    assert!(!procs.release(dead));
    procs.set_latch(survivor);
    other.join_well();
    assert!(queue.renew(procs), "the dead end is no obstacle");
}

pub(crate) fn queue_sender_learns_that_the_receiver_was_killed() {
    survivor_learns_of_a_kill(FIRST, SECOND, false);
}

pub(crate) fn queue_receiver_learns_that_the_sender_was_killed() {
    survivor_learns_of_a_kill(FIRST, SECOND, true);
}

pub(crate) fn queue_end_that_waits_is_woken_when_the_other_detaches() {
    let node = Node::start();
    let board = node.board;
    let (full, empty) = (ShmMq::create(&node.shmem, RING), ShmMq::create(&node.shmem, RING));
    let mut leaves = node.child(FIRST, |me| {
        let receiver = full.attach_receiver(me, MESSAGE_MAX).unwrap();
        let mut sender = empty.attach_sender(me).unwrap();
        assert!(send(me, &mut sender, b"the last"));
        // The other has no room any more, and then nothing to read any more.
        wait_until(me, || board.get(0) == 1);
        drop(receiver);
        wait_until(me, || board.get(0) == 2);
        drop(sender);
    });
    let mut stays = node.child(SECOND, |me| {
        let mut sender = full.attach_sender(me).unwrap();
        let mut receiver = empty.attach_receiver(me, MESSAGE_MAX).unwrap();
        assert_eq!(sender.try_send(&[1; RING]), Sent::WouldBlock);
        tell(me, &node, 1);
        assert!(!send(me, &mut sender, &[1; RING]));
        assert_eq!(sender.try_send(b"more"), Sent::Detached);
        assert_eq!(receive(me, &mut receiver), Received::Message(b"the last".to_vec()));
        assert_eq!(receiver.try_receive(), Received::WouldBlock);
        tell(me, &node, 2);
        assert_eq!(receive(me, &mut receiver), Received::Detached);
    });
    stays.join_well();
    leaves.join_well();
}

fn tell(me: Me, node: &Node, stage: u64) {
    node.board.put(0, stage);
    me.procs().set_latch(FIRST);
}

pub(crate) fn queue_end_that_never_comes_counts_as_detached_when_its_process_is_gone() {
    let node = Node::start();
    let procs = node.procs;
    let queues = [(); 2].map(|()| ShmMq::create(&node.shmem, RING));
    let mut never = node.child(FIRST, |me| {
        node.board.put(0, u64::from(me.address().generation));
        me.pm_signal(PmSignal::NONE);
        wait_until(me, || node.board.get(1) == 1);
    });
    node.wait_for("the address", || node.board.get(0) != 0);
    let expected = ProcAddress { number: FIRST, generation: u32::try_from(node.board.get(0)).unwrap() };
    let mut waits = node.child(SECOND, |me| {
        let mut receiver = queues[0].attach_receiver(me, MESSAGE_MAX).unwrap();
        let mut sender = queues[1].attach_sender(me).unwrap();
        receiver.expect(expected);
        sender.expect(expected);
        assert_eq!(receiver.try_receive(), Received::WouldBlock);
        assert_eq!(sender.try_send(&[1; RING]), Sent::WouldBlock);
        tell(me, &node, 1);
        node.board.put(1, 1);
        procs.set_latch(FIRST);
        wait_until(me, || receiver.try_receive() == Received::Detached);
        assert_eq!(sender.try_send(&[1; RING]), Sent::Detached);
    });
    never.join_well();
    procs.release(FIRST);
    procs.set_latch(SECOND);
    waits.join_well();
}

pub(crate) fn queue_is_renewed_when_both_ends_are_free() {
    let node = Node::start();
    let procs = node.procs;
    let queue = ShmMq::create(&node.shmem, RING);
    let mut child = node.child(FIRST, |me| {
        for life in 0..3_u8 {
            assert!(queue.renew(procs));
            let mut sender = queue.attach_sender(me).unwrap();
            assert!(queue.attach_sender(me).is_none(), "there is one sender");
            assert!(!queue.renew(procs), "the sender is there");
            assert_eq!(sender.try_send(&[life; 100]), Sent::Done);
            assert_eq!(sender.try_send(&[life; RING]), Sent::WouldBlock);
            drop(sender);
            assert!(queue.attach_sender(me).is_none(), "there was a sender");
            let mut receiver = queue.attach_receiver(me, MESSAGE_MAX).unwrap();
            assert!(!queue.renew(procs), "the receiver is there");
            assert_eq!(receiver.try_receive(), Received::Message(vec![life; 100]));
            assert_eq!(receiver.try_receive(), Received::Detached, "half a message is none");
        }
        // A message that is too long is the end of the queue.
        assert!(queue.renew(procs));
        let mut sender = queue.attach_sender(me).unwrap();
        let mut receiver = queue.attach_receiver(me, 99).unwrap();
        assert_eq!(sender.try_send(&[1; 99]), Sent::Done);
        assert_eq!(sender.try_send(&[2; 100]), Sent::Done);
        assert_eq!(receiver.try_receive(), Received::Message(vec![1; 99]));
        assert_eq!(receiver.try_receive(), Received::TooLong(100));
        assert_eq!(receiver.try_receive(), Received::TooLong(100));
    });
    child.join_well();
}
