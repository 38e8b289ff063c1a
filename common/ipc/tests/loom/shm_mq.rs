//! The message queue: every byte arrives, once, in order; nobody sleeps over what there is to do; the end is
//! reported after the last message. Rings of one word and of two, so that each side waits for the other.

use ipc::{
    model::Me,
    proc::{ProcArray, ProcNumber},
    shm_mq::{Received, Receiver, Sender, Sent, ShmMq},
};
use loom::thread;

use crate::{DEADLOCK, models};

models! {
    message_goes_piecewise_through_one_word: || through_a_ring(1, 1), without {
        "mq: publish before look" => DEADLOCK,
        "mq: wait before look" => DEADLOCK,
        "mq: last look" => "Detached",
    }
    messages_overlap_in_two_words: || through_a_ring(2, 2), without {
        "mq: give bytes" => "mixed up",
        "mq: see bytes" => "mixed up",
        "mq: give room" => "mixed up",
    }
}

const SENDER: ProcNumber = ProcNumber(0);
const RECEIVER: ProcNumber = ProcNumber(1);

fn message(number: u64) -> Vec<u8> {
    number.wrapping_mul(0x0101_0101_0101_0101).to_le_bytes().to_vec()
}

/// So many messages of one word each (and the word of their length).
fn through_a_ring(messages: u64, words: usize) {
    let procs = ProcArray::of_model(2);
    let queue = ShmMq::of_model(words);
    let thread = thread::spawn(move || {
        let me = Me::attach(procs, SENDER);
        let mut sender = queue.attach_sender(me).unwrap();
        (1..=messages).for_each(|number| send(me, &mut sender, &message(number)));
    });
    let me = Me::attach(procs, RECEIVER);
    let mut receiver = queue.attach_receiver(me, 8).unwrap();
    for number in 1..=messages {
        match receive(me, &mut receiver) {
            Received::Message(bytes) => assert_eq!(bytes, message(number), "bytes are mixed up"),
            Received::TooLong(length) => panic!("bytes are mixed up: the length {length}"),
            other => panic!("{other:?} instead of message {number}"),
        }
    }
    assert_eq!(receive(me, &mut receiver), Received::Detached);
    thread.join().unwrap();
}

fn send(me: Me, sender: &mut Sender, message: &[u8]) {
    loop {
        me.latch().reset();
        match sender.try_send(message) {
            Sent::Done => return,
            Sent::WouldBlock => me.latch().wait(),
            Sent::Detached => panic!("the receiver is there"),
        }
    }
}

fn receive(me: Me, receiver: &mut Receiver) -> Received {
    loop {
        me.latch().reset();
        match receiver.try_receive() {
            Received::WouldBlock => me.latch().wait(),
            received => return received,
        }
    }
}
