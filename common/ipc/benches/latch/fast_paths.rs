//! What has to cost next to nothing: the paths without a system call, and one kernel look for comparison.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use ipc::{
    backend::{self, Backend},
    interrupt::Interrupts,
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

fn measure(me: Me, rounds: usize, form: Form) {
    let (_here, there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::new(&me, 3).unwrap();
    set.add_latch().unwrap();
    set.add_postmaster_death(OnPostmasterDeath::Exit).unwrap();
    let socket = set.add_socket(&there, SocketEvents::READABLE).unwrap();
    let latch = me.latch();
    let word = AtomicU32::new(0);
    let mut paths: [(&'static str, u32, &mut dyn FnMut()); 8] = [
        ("a fetch_or, for comparison", TIMES, &mut || _ = word.fetch_or(1, Ordering::Relaxed)),
        ("set, already set", TIMES, &mut || latch.set()),
        ("reset", TIMES, &mut || latch.reset()),
        ("reset, and set with the owner awake", TIMES, &mut || {
            latch.reset();
            latch.set();
        }),
        ("CHECK_FOR_INTERRUPTS", TIMES, &mut || {
            assert!(!black_box(me).pending().contains(Interrupts::TERMINATE));
        }),
        ("modify without change", TIMES, &mut || set.modify(socket, SocketEvents::READABLE).unwrap()),
        ("two reads of the clock", TIMES, &mut || _ = black_box((clock::now(), clock::now()))),
        ("wait with the latch set", TIMES / 100, &mut || {
            me.latch().set();
            ipc::wait_latch(&me, Some(Duration::ZERO), WaitEvent::PgSleep).unwrap();
        }),
    ];
    let title = format!("one process, {}", me.procs().backend().name());
    let mut table = Table::new(&title, "ns", paths.each_ref().map(|(name, ..)| *name));
    for _ in 0..rounds {
        for (row, (_, times, path)) in paths.iter_mut().enumerate() {
            let start = clock::now();
            for _ in 0..*times {
                path();
            }
            let took = clock::now().saturating_since(start);
            table.add(row, took.as_secs_f64() * 1e9 / f64::from(*times));
        }
    }
    table.print(form, false);
}
