//! The postmaster of the 64: storms of sets with calm between them, processes stopped, continued, killed and
//! replaced while the storm goes on.

use std::{sync::atomic::Ordering, time::Duration};

use ipc::{
    postmaster_death::PostmasterDeath,
    proc::{BackendType, ProcArray, ProcNumber},
    process::{Me, Postmaster, SignalTable},
    shmem::Shmem,
    wait_event::WaitEvent,
    wait_event_set::{Occurred, Position, WaitEventSet},
};
use sys::{
    clock,
    fork::fork_process,
    process::{self, ExitStatus, PidFd},
    signal::Signal,
};

use crate::{
    Amount,
    ledger::{Ledger, MEMBERS, POSTMASTER, slot_of},
    member::Member,
    random::Random,
    watchdog,
};

/// Nothing of a member survives the test, a stopped one neither.
pub(crate) const SIGNALS: SignalTable =
    SignalTable { on_postmaster_death: Some(Signal::Kill), ..SignalTable::STANDARD };

/// A child in a member's slot.
struct Child {
    pidfd: PidFd,
    exit: Position,
    killed: bool,
    /// After how many more ticks a stopped one goes on.
    stopped: Option<usize>,
}

pub(crate) struct Storms {
    procs: &'static ProcArray,
    death: &'static PostmasterDeath,
    postmaster: Postmaster,
    ledger: &'static Ledger,
    children: Vec<Option<Child>>,
    set: Option<WaitEventSet>,
    occurred: Vec<Occurred>,
    random: Random,
    seed: u64,
    tally: Tally,
}

/// What was done, for the report.
#[derive(Debug, Default)]
struct Tally {
    storms: u64,
    sets: u64,
    births: u64,
    killed: u64,
    left: u64,
    stopped: u64,
    strays: u64,
}

impl Storms {
    pub(crate) fn new(seed: u64) -> Storms {
        let shmem = Shmem::create(1 << 20).unwrap();
        let slots = ProcNumber::FIRST_BACKEND.0 + u32::try_from(MEMBERS).unwrap();
        let procs = ProcArray::create(&shmem, slots);
        let ledger = shmem.alloc();
        let death = Box::leak(Box::new(PostmasterDeath::create().unwrap()));
        let postmaster = Postmaster::start(procs).unwrap();
        let mut set = WaitEventSet::for_postmaster(&postmaster, MEMBERS + 1).unwrap();
        set.add_latch().unwrap();
        Storms {
            procs,
            death,
            postmaster,
            ledger,
            children: (0..MEMBERS).map(|_| None).collect(),
            set: Some(set),
            occurred: Vec::new(),
            random: Random::new(seed),
            seed,
            tally: Tally::default(),
        }
    }

    /// Storms until so many sets were made; after each, everything that was sent must be seen.
    pub(crate) fn run(mut self, Amount { sets, time, .. }: Amount) -> Result<String, String> {
        let start = clock::now();
        (0..MEMBERS).for_each(|member| self.give_birth(member));
        let in_time = || time.is_none_or(|time| clock::now().saturating_since(start) < time);
        while self.tally.sets < sets && in_time() {
            let budget = self.sets_of_next_storm().min(sets - self.tally.sets);
            self.ledger.begin(
                i64::try_from(budget).unwrap(),
                u32::try_from(self.random.below(MEMBERS)).unwrap(),
                // Among few, sets meet resets and sleeps far more often than among all.
                [1, 2, 3, 8, 64, 64][self.random.below(6)],
            );
            while self.ledger.storm_goes_on() {
                self.tick();
            }
            self.clear_up();
            self.tally.storms += 1;
            self.tally.sets += budget;
            let (procs, ledger) = (self.procs, self.ledger);
            watchdog::settle(procs, ledger, || self.pass_time(Duration::from_micros(300))).map_err(
                |lost| format!("storm {} ({} sets so far): {lost}", self.tally.storms, self.tally.sets),
            )?;
        }
        self.finish();
        let count = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        Ok(format!(
            "{:?}, interrupts {}, to former owners {}, waits {}",
            self.tally,
            count(&self.ledger.interrupts),
            count(&self.ledger.stale_interrupts),
            count(&self.ledger.waits)
        ))
    }

    /// How many sets it is to have: mostly few, since only the last ones are not covered up by later ones.
    fn sets_of_next_storm(&mut self) -> u64 {
        let most = [4, 30, 200, 1000][self.random.below(4)];
        1 + self.random.bits() % most
    }

    /// A while of the storm: makes work, so that it can't die down, and does one thing to one child.
    fn tick(&mut self) {
        let target = self.ledger.target(self.random.below(MEMBERS));
        self.ledger.post(self.procs, POSTMASTER, target);
        let victim = self.random.below(MEMBERS);
        let kind = self.random.below(100);
        if let Some(child) = &mut self.children[victim] {
            // Gone already, perhaps: it left its slot.
            match kind {
                0..4 if !child.killed => {
                    let _gone = child.pidfd.kill(Signal::Kill);
                    child.killed = true;
                    self.tally.killed += 1;
                }
                4..12 => {
                    let _gone = child.pidfd.kill(Signal::Stop);
                    child.stopped = Some(self.random.below(20));
                    self.tally.stopped += 1;
                }
                12..16 => {
                    let stray = if self.random.one_in(2) { Signal::Urg } else { Signal::Hup };
                    let _gone = child.pidfd.kill(stray);
                    self.tally.strays += 1;
                }
                _ => {}
            }
        }
        for child in self.children.iter_mut().flatten() {
            child.stopped = match child.stopped {
                Some(0) => {
                    let _gone = child.pidfd.kill(Signal::Cont);
                    None
                }
                ticks => ticks.map(|ticks| ticks - 1),
            };
        }
        let pause = if self.random.one_in(2) { 0 } else { self.random.bits() % 300 };
        self.pass_time(Duration::from_micros(pause));
    }

    /// Continues who is stopped, waits for who was killed, and fills their slots.
    fn clear_up(&mut self) {
        for child in self.children.iter_mut().flatten() {
            if child.stopped.take().is_some() {
                let _gone = child.pidfd.kill(Signal::Cont);
            }
        }
        while self.children.iter().flatten().any(|child| child.killed) {
            self.pass_time(Duration::from_secs(20));
        }
    }

    /// Waits, and buries and replaces who has ended.
    fn pass_time(&mut self, timeout: Duration) {
        self.postmaster.latch().reset();
        let set = self.set.as_mut().unwrap();
        set.wait(Some(timeout), WaitEvent::PostmasterMain, &mut self.occurred).unwrap();
        for index in 0..self.occurred.len() {
            let position = self.occurred[index].position;
            let ended = |child: &Option<Child>| child.as_ref().is_some_and(|child| child.exit == position);
            if let Some(member) = self.children.iter().position(ended) {
                self.bury(member);
                self.give_birth(member);
            }
        }
    }

    fn give_birth(&mut self, member: usize) {
        self.procs.assign(slot_of(member)).unwrap();
        let pid = fork_process(|| {
            self.postmaster.close_in_child();
            self.set = None;
            self.children.clear();
            let kind = BackendType::ClientBackend;
            let me = Me::attach(self.procs, slot_of(member), kind, self.death, &SIGNALS).unwrap();
            Member::new(me, member, self.ledger, self.seed).live();
            me.detach();
            0
        });
        let pidfd = PidFd::open(pid.unwrap()).unwrap();
        let exit = self.set.as_mut().unwrap().add_child_exit(&pidfd).unwrap();
        let mut killed = false;
        if self.random.one_in(10) && self.ledger.storm_goes_on() {
            // At any point of its way into the slot.
            for _ in 0..self.random.below(100_000) {
                std::hint::spin_loop();
            }
            pidfd.kill(Signal::Kill).unwrap();
            killed = true;
            self.tally.killed += 1;
        }
        self.children[member] = Some(Child { pidfd, exit, killed, stopped: None });
        self.tally.births += 1;
    }

    /// Reaps the child and frees its slot; finishes what it was about to send.
    fn bury(&mut self, member: usize) {
        let child = self.children[member].take().unwrap();
        self.set.as_mut().unwrap().remove(child.exit).unwrap();
        let status = child.pidfd.wait().unwrap();
        let detached = self.procs.release(slot_of(member));
        match status {
            Some(ExitStatus::Exited(0)) => {
                assert!(detached, "member {member} left without detaching");
                self.tally.left += 1;
            }
            Some(ExitStatus::Signaled(9)) if child.killed => {}
            status => panic!("member {member} ended: {status:?}"),
        }
        if let Some(target) = self.ledger.take_intent(member) {
            let latch = self.procs.slot(slot_of(target)).latch();
            latch.set();
            // The dead one may have set it and not come to wake the owner.
            if let Some(owner) = latch.owner() {
                let _gone = process::kill(owner, Signal::Urg);
            }
        }
    }

    fn finish(&mut self) {
        self.ledger.end();
        for member in 0..MEMBERS {
            self.procs.set_latch(slot_of(member));
        }
        for member in 0..MEMBERS {
            let child = self.children[member].as_ref().unwrap();
            let mut set = WaitEventSet::without_process(1).unwrap();
            set.add_child_exit(&child.pidfd).unwrap();
            set.wait(Some(Duration::from_secs(20)), WaitEvent::BackendTermination, &mut self.occurred)
                .unwrap();
            assert!(!self.occurred.is_empty(), "member {member} doesn't end");
            self.bury(member);
        }
    }
}
