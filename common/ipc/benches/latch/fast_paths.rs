//! What has to cost next to nothing: the paths without a system call, and one kernel look for comparison.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use ipc::{
    backend::{self, Backend},
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{OnPostmasterDeath, SocketEvents, WaitEventSet},
};
use sys::{clock, net::Stream, process};

use crate::{
    node::{attach, run_process, slot, start_node},
    table::{Form, Table},
};

/// Repetitions per sample.
const TIMES: u32 = 200_000;

pub(crate) fn run(rounds: usize, form: Form) {
    for backend in Backend::ALL {
        run_process(|| {
            backend::choose(backend);
            let (procs, death) = start_node(1);
            run_process(|| {
                let me = attach(procs, death, slot(0));
                process::run_on_cpu(0).unwrap();
                measure(me, rounds, form);
                me.detach();
            });
        });
    }
}

const PATHS: [&str; 8] = [
    "a fetch_or, for comparison",
    "set, already set",
    "reset",
    "reset, and set with the owner awake",
    "CHECK_FOR_INTERRUPTS",
    "modify without change",
    "two reads of the clock",
    "wait with the latch set",
];

fn measure(me: Me, rounds: usize, form: Form) {
    let (_here, there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::new(&me, 3).unwrap();
    set.add_latch().unwrap();
    set.add_postmaster_death(OnPostmasterDeath::Exit).unwrap();
    let socket = set.add_socket(&there, SocketEvents::READABLE).unwrap();
    let latch = me.latch();
    let word = AtomicU32::new(0);
    let title = format!("one process, {}", me.procs().backend().name());
    let mut table = Table::new(&title, "ns", PATHS);
    for _ in 0..rounds {
        let samples = [
            nanos(TIMES, || _ = black_box(word.fetch_or(1, Ordering::Relaxed))),
            nanos(TIMES, || latch.set()),
            nanos(TIMES, || latch.reset()),
            nanos(TIMES, || {
                latch.reset();
                latch.set();
            }),
            nanos(TIMES, || assert!(me.pending().is_empty(), "nobody interrupts")),
            nanos(TIMES, || set.modify(black_box(socket), SocketEvents::READABLE).unwrap()),
            nanos(TIMES, || _ = black_box((clock::now(), clock::now()))),
            nanos(TIMES / 100, || {
                latch.set();
                ipc::wait_latch(&me, Some(Duration::ZERO), WaitEvent::PgSleep).unwrap();
            }),
        ];
        samples.into_iter().enumerate().for_each(|(row, sample)| table.add(row, sample));
    }
    table.print(form, false);
}

/// What one call takes. Inlined with the path, as the path is where it is used.
#[inline(always)]
fn nanos(times: u32, mut path: impl FnMut()) -> f64 {
    let start = clock::now();
    for _ in 0..times {
        path();
    }
    clock::now().saturating_since(start).as_secs_f64() * 1e9 / f64::from(times)
}
