//! One of the 64: resets its latch, looks, sends to others at random, waits in a random way.

use std::{
    io::{Read, Write},
    sync::atomic::Ordering,
    time::Duration,
};

use ipc::{
    interrupt::Interrupts,
    proc::ProcAddress,
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{Events, Occurred, OnPostmasterDeath, Position, SocketEvents, WaitEventSet},
};
use sys::net::Stream;

use crate::{
    ledger::{Ledger, MEMBERS, bit_of_life},
    random::Random,
};

/// As good as for ever, but a time-out all the same.
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Member {
    me: Me,
    number: usize,
    ledger: &'static Ledger,
    random: Random,
    /// Addresses as they were when last asked for: old ones must be harmless.
    known: [Option<ProcAddress>; MEMBERS],
    /// A set of its own beside the one of `wait_latch`, with a socket that the member writes to itself.
    set: WaitEventSet,
    latch: Option<Position>,
    near: Stream,
    far: Stream,
    occurred: Vec<Occurred>,
}

impl Member {
    pub(crate) fn new(me: Me, number: usize, ledger: &'static Ledger, seed: u64) -> Member {
        let (near, far) = Stream::pair().unwrap();
        let mut set = WaitEventSet::new(&me, 3).unwrap();
        let latch = Some(set.add_latch().unwrap());
        set.add_postmaster_death(OnPostmasterDeath::Exit).unwrap();
        set.add_socket(&far, SocketEvents::READABLE).unwrap();
        let random = Random::new(seed ^ u64::from(me.address().generation) << 32 ^ number as u64);
        // What came to the former owner of the slot is nothing that this one must take.
        ledger.look_at_interrupts(number);
        Member {
            me,
            number,
            ledger,
            random,
            known: [None; MEMBERS],
            set,
            latch,
            near,
            far,
            occurred: Vec::new(),
        }
    }

    /// Until all is over, or this one leaves its slot to a successor.
    pub(crate) fn live(mut self) {
        loop {
            self.me.latch().reset();
            self.take_interrupts();
            self.ledger.look(self.number);
            if self.ledger.has_ended() {
                return;
            }
            if self.ledger.storm_goes_on() {
                if self.random.one_in(500) {
                    return;
                }
                for _ in 0..self.random.below(4) {
                    self.send();
                }
            }
            self.dawdle();
            self.ledger.waits.fetch_add(1, Ordering::Relaxed);
            self.wait();
        }
    }

    /// Looks at what came with an interrupt, and at nothing if none came.
    fn take_interrupts(&mut self) {
        let held = self.random.one_in(8).then(|| self.me.hold(bit_of_life(self.me.address())));
        // A stray SIGHUP is this bit.
        self.me.take(Interrupts::CONFIG_RELOAD);
        let mut taken = self.me.take(Interrupts::ALL);
        if held.is_some() {
            assert_eq!(taken, Interrupts::NONE, "held");
            drop(held);
            taken = self.me.take(Interrupts::ALL).without(Interrupts::CONFIG_RELOAD);
        }
        if !taken.is_empty() {
            let own = bit_of_life(self.me.address());
            assert_eq!(taken, own, "an interrupt for a former owner of the slot");
            self.ledger.look_at_interrupts(self.number);
        }
    }

    fn send(&mut self) {
        let target = self.ledger.target(self.random.below(MEMBERS));
        let procs = self.me.procs();
        if self.random.one_in(4) {
            let slot = procs.address(crate::ledger::slot_of(target));
            if self.known[target].is_none() || self.random.one_in(50) {
                self.known[target] = slot;
            }
            if let Some(to) = self.known[target] {
                self.ledger.interrupt(procs, self.number, target, to);
                return;
            }
        }
        self.ledger.post(procs, self.number, target);
    }

    /// Lets a random while go by, so that sets come at every point of the loop.
    fn dawdle(&mut self) {
        if self.random.one_in(3) {
            for _ in 0..self.random.below(2_000) {
                std::hint::spin_loop();
            }
        }
    }

    /// Waits in a random way; wakes early for no reason now and then, as any owner must bear.
    fn wait(&mut self) {
        let timeout = match self.random.below(8) {
            0 => Some(Duration::ZERO),
            1 => Some(Duration::from_micros(self.random.bits() % 2_000)),
            2 | 3 => Some(HOUR),
            _ => None,
        };
        match self.random.below(8) {
            0 | 1 => self.wait_in_own_set(timeout),
            2 => {
                let (far, events) = (&self.far, SocketEvents::READABLE);
                let found = ipc::wait_latch_or_socket(&self.me, far, events, timeout, WaitEvent::PgSleep);
                self.read_back(found.unwrap());
            }
            _ => {
                ipc::wait_latch(&self.me, timeout, WaitEvent::PgSleep).unwrap();
            }
        }
    }

    fn wait_in_own_set(&mut self, timeout: Option<Duration>) {
        if self.random.one_in(4)
            && let Some(position) = self.latch.take()
        {
            self.set.remove(position).unwrap();
        }
        if self.latch.is_none() {
            self.latch = Some(self.set.add_latch().unwrap());
        }
        if self.random.one_in(8) {
            self.near.write_all(b"x").unwrap();
        }
        self.set.wait(timeout, WaitEvent::ClientRead, &mut self.occurred).unwrap();
        let found = self.occurred.iter().fold(Events::NONE, |all, one| all | one.events);
        self.read_back(found);
    }

    fn read_back(&mut self, found: Events) {
        if found.contains(Events::SOCKET_READABLE) {
            let count = self.far.read(&mut [0; 64]).unwrap();
            assert!(count > 0, "readable is not the end");
        }
    }
}
