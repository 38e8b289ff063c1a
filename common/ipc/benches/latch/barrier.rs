//! How long it takes until all processes have absorbed a barrier: each is woken, absorbs, and the last one wakes
//! who waits.

use ipc::{
    backend::{self, Backend},
    barrier::{Absorption, BarrierTypes},
    interrupt::Interrupts,
    process::Me,
    wait_event::WaitEvent,
};
use sys::{clock, process::PidFd, signal::Signal};

use crate::{
    node::{attach, fork_killed_with_parent, run_process, slot, start_node, wait_for_good_end},
    table::{Form, Table},
};

/// Processes that sleep until the barrier comes.
const PROCESSES: usize = 64;
/// Barriers per sample.
const TIMES: u32 = 20;

pub(crate) fn run(rounds: usize, form: Form) {
    for backend in Backend::ALL {
        run_process(|| {
            backend::choose(backend);
            let (procs, death) = start_node(PROCESSES + 1);
            let sleepers: Vec<PidFd> = (1..=PROCESSES)
                .map(|index| {
                    let child = || sleep_and_absorb(attach(procs, death, slot(index)));
                    PidFd::open(fork_killed_with_parent(child)).unwrap()
                })
                .collect();
            run_process(|| measure(attach(procs, death, slot(0)), rounds, form));
            sleepers.iter().for_each(|sleeper| sleeper.kill(Signal::Term).unwrap());
            sleepers.iter().for_each(wait_for_good_end);
        });
    }
}

fn measure(me: Me, rounds: usize, form: Form) {
    let title = format!("barrier over {PROCESSES} processes, {}", me.procs().backend().name());
    let mut table = Table::new(&title, "us", ["emit and wait"]);
    // The first one waits until all are there.
    emit_and_wait(me);
    for _ in 0..rounds {
        let start = clock::now();
        (0..TIMES).for_each(|_| emit_and_wait(me));
        let took = clock::now().saturating_since(start);
        table.add(0, took.as_secs_f64() * 1e6 / f64::from(TIMES));
    }
    table.print(form, false);
    me.detach();
}

fn emit_and_wait(me: Me) {
    let generation = me.emit_barrier(BarrierTypes::CONFIG_RELOAD);
    me.wait_for_barrier(generation, absorb, |laggard| panic!("{laggard}")).unwrap();
}

fn sleep_and_absorb(me: Me) {
    loop {
        me.latch().reset();
        absorb(me).unwrap();
        if me.pending().contains(Interrupts::TERMINATE) {
            return me.detach();
        }
        ipc::wait_latch(&me, None, WaitEvent::PgSleep).unwrap();
    }
}

fn absorb(me: Me) -> std::io::Result<()> {
    me.absorb_barriers(|_| Ok(Absorption::Done))
}
