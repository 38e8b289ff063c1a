//! One setter and one owner, side by side on two CPUs, again and again at the one moment that decides.
//!
//! In storms a set rarely meets the few nanoseconds in which a missing fence shows. Here each round is that meeting:
//! both begin at once, the setter makes work and sets the latch while the owner resets it, looks, and goes to
//! sleep for ever. In half of the rounds the latch is set already when the round begins, so that the setter may
//! rely on the owner's coming look.

use std::sync::atomic::{AtomicU64, Ordering};

use ipc::{
    postmaster_death::PostmasterDeath,
    proc::{BackendType, ProcArray, ProcNumber},
    process::{Me, Postmaster},
    shared_struct,
    shmem::Shmem,
    wait_event::WaitEvent,
    wait_event_set::WaitEventSet,
};
use sys::{clock, fork::fork_process, process::PidFd, signal::Signal};

use crate::{Amount, random::Random, storms::SIGNALS, watchdog};

const OWNER: ProcNumber = ProcNumber::FIRST_BACKEND;

/// In place of a round: there is none any more.
const END: u64 = u64::MAX;

/// How long one looks again and again before one leaves the CPU to the other: in the usual case the other is
/// ready within a few hundred looks.
const LOOKS: u32 = 2_000;

shared_struct! {
    /// A pair's.
    struct Board {
        /// The round that may begin. Written by the setter.
        round: AtomicU64,
        /// The last round whose work is made. Written by the setter, relaxed: only the latch orders it.
        work: AtomicU64,
        /// The last round whose work was found. Written by the owner.
        seen: AtomicU64,
    }
}

/// Plays a round per set; the error describes the one whose wake-up was lost.
pub(crate) fn run(amount: Amount) -> Result<String, String> {
    let shmem = Shmem::create(1 << 16).unwrap();
    let procs = ProcArray::create(&shmem, OWNER.0 + 1);
    let board: &'static Board = shmem.alloc();
    let death = Box::leak(Box::new(PostmasterDeath::create().unwrap()));
    let postmaster = Postmaster::start(procs).unwrap();
    procs.assign(OWNER).unwrap();
    let pid = fork_process(|| {
        postmaster.close_in_child();
        let me = Me::attach(procs, OWNER, BackendType::ClientBackend, death, &SIGNALS).unwrap();
        own(me, board, amount.seed);
        me.detach();
        0
    });
    let owner = PidFd::open(pid.unwrap()).unwrap();
    let result = set(procs, board, amount);
    if result.is_err() {
        owner.kill(Signal::Kill).unwrap();
    }
    let mut ended = WaitEventSet::without_process(1).unwrap();
    ended.add_child_exit(&owner).unwrap();
    ended.wait(None, WaitEvent::BackendTermination, &mut Vec::new()).unwrap();
    result
}

fn set(procs: &'static ProcArray, board: &Board, amount: Amount) -> Result<String, String> {
    let mut random = Random::new(amount.seed);
    let start = clock::now();
    let mut rounds = 0;
    for round in 1..=amount.sets {
        if amount.time.is_some_and(|time| clock::now().saturating_since(start) >= time) {
            break;
        }
        rounds = round;
        if random.one_in(2) {
            procs.set_latch(OWNER);
        }
        board.round.store(round, Ordering::Release);
        dawdle(&mut random);
        board.work.store(round, Ordering::Relaxed);
        procs.set_latch(OWNER);
        let mut asleep = None;
        let mut looks = 0;
        while board.seen.load(Ordering::Acquire) != round {
            looks = look_again(looks);
            if looks % (200 * LOOKS) == 0 {
                // As in a storm's calm: it slept both times, and not more often the second, and nobody else is there.
                let sleep = watchdog::sleep_of(procs, OWNER);
                if sleep.is_some() && sleep == asleep && board.seen.load(Ordering::Acquire) != round {
                    return Err(format!("lost in round {round}: {}", watchdog::describe(procs, OWNER)));
                }
                asleep = sleep;
            }
        }
    }
    board.round.store(END, Ordering::Release);
    Ok(format!("{rounds} rounds of a duel in {:?}", clock::now().saturating_since(start)))
}

fn own(me: Me, board: &Board, seed: u64) {
    let mut random = Random::new(!seed);
    for round in 1.. {
        let mut looks = 0;
        while board.round.load(Ordering::Acquire) < round {
            looks = look_again(looks);
        }
        if board.round.load(Ordering::Relaxed) == END {
            return;
        }
        dawdle(&mut random);
        loop {
            me.latch().reset();
            if board.work.load(Ordering::Relaxed) >= round {
                break;
            }
            ipc::wait_latch(&me, None, WaitEvent::PgSleep).unwrap();
        }
        board.seen.store(round, Ordering::Release);
    }
}

/// On a machine with one CPU the other gets nowhere while this one looks.
fn look_again(looks: u32) -> u32 {
    if looks > LOOKS {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
    looks + 1
}

fn dawdle(random: &mut Random) {
    for _ in 0..random.below(40) {
        std::hint::spin_loop();
    }
}
