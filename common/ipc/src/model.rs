//! What a model has instead of processes and a kernel; only with `--cfg loom`.
//!
//! A process is a thread that says which one it is ([`become_process`]). The kernel is what wakes it: a signal,
//! or the edge of an eventfd, that stays until a wait has taken it. Structures that are shared are made by
//! `Default`, which is the value whose bytes are all zero.

use std::{cell::Cell, sync::OnceLock};

use loom::sync::{Condvar, Mutex};
use sys::process::Pid;

use crate::{
    barrier::{BarrierGeneration, BarrierWait},
    latch::Latch,
    proc::{ProcAddress, ProcArray, ProcNumber},
};

/// The most processes that a model can have.
const PROCESSES: usize = 6;

/// What this run lacks, by the name that it has in the code; unset in the real models. Set at most once,
/// before the model starts.
pub static LEFT_OUT: OnceLock<String> = OnceLock::new();

loom::thread_local! {
    static PID: Cell<i32> = Cell::new(1);
}

/// Makes this thread the process with that id, below 6 and not 0. Threads are process 1 until they say
/// otherwise.
pub fn become_process(pid: i32) {
    assert!((1..PROCESSES as i32).contains(&pid));
    PID.with(|own| own.set(pid));
}

/// The process that this thread is.
pub(crate) fn current_pid() -> Pid {
    Pid(PID.with(Cell::get))
}

/// Whether the mutant of that name is at work, for steps that belong to the model: what users of the crate do.
pub fn left_out(name: &'static str) -> bool {
    crate::sync::left_out(name)
}

/// The postmaster's latch.
pub fn postmaster_latch(procs: &ProcArray) -> &Latch {
    &procs.postmaster.latch
}

/// A wait of the process in that slot, or of the postmaster.
pub fn barrier_wait(
    procs: &'static ProcArray,
    waiter: Option<ProcNumber>,
    generation: BarrierGeneration,
) -> BarrierWait {
    let awaited = match waiter {
        Some(number) => procs.slot(number).barrier.awaited(),
        None => &procs.barrier.postmaster_awaits,
    };
    BarrierWait::new(procs, awaited, generation)
}

/// How the owner of a latch is woken: by a flag of its own, as a signal reaches a process and not a latch.
#[derive(Debug, Default)]
pub(crate) struct Wakeup {
    pending: Mutex<[bool; PROCESSES]>,
    raised: Condvar,
}

impl Wakeup {
    pub(crate) fn new() -> Wakeup {
        Wakeup::default()
    }

    pub(crate) fn wake(&self, owner: Pid) {
        self.pending.lock().unwrap()[owner.0 as usize] = true;
        self.raised.notify_all();
    }

    /// As the kernel wait: takes the flag, waiting for it if it may.
    pub(crate) fn sleep(&self, may_sleep: bool) {
        let mut pending = self.pending.lock().unwrap();
        let own = current_pid().0 as usize;
        while may_sleep && !pending[own] {
            pending = self.raised.wait(pending).unwrap();
        }
        pending[own] = false;
    }
}

/// The structures that lie in shared memory, as far as a model needs them.
#[macro_export]
macro_rules! shared_struct {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_vis:vis $field:ident : $type:ty ),+ $(,)?
        }
    )+) => { $(
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $name { $( $(#[$field_meta])* $field_vis $field: $type ),+ }
    )+ };
}

/// The handle of an attached process: as much of `process::Me` as models need.
#[derive(Clone, Copy, Debug)]
pub struct Me {
    procs: &'static ProcArray,
    address: ProcAddress,
}

impl Me {
    /// Makes this thread the process of a slot, with the slot's number plus one as its id.
    pub fn attach(procs: &'static ProcArray, number: ProcNumber) -> Me {
        become_process(number.0 as i32 + 1);
        let proc = procs.slot(number);
        proc.latch().own().unwrap();
        Me { procs, address: ProcAddress { number, generation: proc.pending().advance().generation } }
    }

    /// Its address.
    pub fn address(self) -> ProcAddress {
        self.address
    }

    /// All slots.
    pub fn procs(self) -> &'static ProcArray {
        self.procs
    }

    /// Its latch.
    pub fn latch(self) -> &'static Latch {
        self.procs.slot(self.address.number).latch()
    }
}
