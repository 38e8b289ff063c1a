//! Condition variables: whoever waits for what becomes true is woken, also when the signal first went to one that left.

use ipc::{
    condition_variable::ConditionVariable,
    model::Me,
    proc::{ProcArray, ProcNumber},
};
use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use crate::{DEADLOCK, models};

models! {
    signal_wakes_who_waits: || signal_and_wait(1), without {
        "cv: signal before look" => DEADLOCK,
        "cv: enter before look" => DEADLOCK,
    }
    every_signal_is_followed_by_a_look: || signal_and_wait(2), without {
        "cv: see waiter" => DEADLOCK,
        "cv: reset before enter" => DEADLOCK,
    }
    signal_is_passed_on_by_who_leaves: signal_and_leave, without {
        "cv: pass on" => DEADLOCK,
    }
}

/// The first to be signalled.
const LEAVER: ProcNumber = ProcNumber(0);
const WAITER: ProcNumber = ProcNumber(1);

fn wait_until(me: Me, variable: ConditionVariable, condition: impl Fn() -> bool) {
    let mut sleep = variable.prepare_to_sleep(me);
    loop {
        sleep.enter();
        if condition() {
            return;
        }
        me.latch().wait();
    }
}

/// One step after the other becomes true; the waiter waits for the last.
fn signal_and_wait(steps: u32) {
    let procs = ProcArray::of_model(2);
    let variable = ConditionVariable::of_model(2);
    let step = Arc::new(AtomicU32::new(0));
    let waiter = {
        let step = Arc::clone(&step);
        thread::spawn(move || {
            wait_until(Me::attach(procs, WAITER), variable, || step.load(Ordering::Relaxed) == steps);
        })
    };
    for done in 1..=steps {
        step.store(done, Ordering::Relaxed);
        variable.signal(procs);
    }
    waiter.join().unwrap();
}

/// One signal, two who enter, one of whom leaves without a look.
fn signal_and_leave() {
    let procs = ProcArray::of_model(2);
    let variable = ConditionVariable::of_model(2);
    let made = Arc::new(AtomicU32::new(0));
    let waiter = {
        let made = Arc::clone(&made);
        thread::spawn(move || {
            wait_until(Me::attach(procs, WAITER), variable, || made.load(Ordering::Relaxed) == 1);
        })
    };
    let leaver = thread::spawn(move || {
        let mut sleep = variable.prepare_to_sleep(Me::attach(procs, LEAVER));
        sleep.enter();
    });
    made.store(1, Ordering::Relaxed);
    variable.signal(procs);
    waiter.join().unwrap();
    leaver.join().unwrap();
}
