//! The latch: whoever makes work and sets it wakes who waits for it.

use ipc::latch::Latch;
use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use crate::{DEADLOCK, models};

/// How often the setter makes work and sets the latch.
const SETS: u32 = 2;

models! {
    set_while_waiting_is_never_lost: set_and_wait, without {
        "latch: set before look" => DEADLOCK,
        "latch: set before wake" => DEADLOCK,
        "latch: sleep before look" => DEADLOCK,
        "latch: reset before work" => DEADLOCK,
    }
}

fn set_and_wait() {
    let latch = Arc::new(Latch::local());
    let work = Arc::new(AtomicU32::new(0));
    let setter = {
        let (latch, work) = (Arc::clone(&latch), Arc::clone(&work));
        thread::spawn(move || {
            for done in 1..=SETS {
                work.store(done, Ordering::Relaxed);
                latch.set();
            }
        })
    };
    loop {
        latch.reset();
        if work.load(Ordering::Relaxed) == SETS {
            break;
        }
        latch.wait();
    }
    setter.join().unwrap();
}
