//! What has to cost next to nothing: the paths without a system call, and one kernel look for comparison.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use ipc::{
    backend::{self, Backend},
    interrupt::Interrupts,
    proc::ProcNumber,
    process::Me,
    wait_event::WaitEvent,
    wait_event_set::{OnPostmasterDeath, SocketEvents, WaitEventSet},
};
use sys::{clock, net::Stream, process};

use crate::{
    ping_pong::{attach, run_process, start_node},
    row,
};

/// Repetitions per sample.
const TIMES: u32 = 200_000;

pub(crate) fn run(rounds: usize) {
    for backend in Backend::ALL {
        run_process(|| {
            backend::choose(backend);
            let (procs, death) = start_node();
            run_process(|| {
                let me = attach(procs, death, ProcNumber::FIRST_BACKEND);
                process::run_on_cpu(0).unwrap();
                println!("one process, {}:", backend.name());
                measure(me, rounds);
                me.detach();
            });
        });
    }
}

fn measure(me: Me, rounds: usize) {
    let (_here, there) = Stream::pair().unwrap();
    let mut set = WaitEventSet::new(&me, 3).unwrap();
    set.add_latch().unwrap();
    set.add_postmaster_death(OnPostmasterDeath::Exit).unwrap();
    let socket = set.add_socket(&there, SocketEvents::READABLE).unwrap();
    let latch = me.latch();
    let word = AtomicU32::new(0);
    let mut paths: [(&str, u32, &mut dyn FnMut()); 7] = [
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
        ("wait with the latch set", TIMES / 100, &mut || {
            me.latch().set();
            ipc::wait_latch(&me, Some(Duration::ZERO), WaitEvent::PgSleep).unwrap();
        }),
    ];
    let mut samples = vec![Vec::new(); paths.len()];
    for _ in 0..rounds {
        for ((_, times, path), samples) in paths.iter_mut().zip(&mut samples) {
            let start = clock::now();
            for _ in 0..*times {
                path();
            }
            let took = clock::now().saturating_since(start);
            samples.push(took.as_secs_f64() * 1e9 / f64::from(*times));
        }
    }
    for ((name, ..), samples) in paths.iter().zip(&samples) {
        row(name, samples, "ns", None);
    }
}
