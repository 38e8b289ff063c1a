//! What processes share besides latches.

use std::sync::atomic::{AtomicU64, Ordering};

use ipc::{lwlock::LwLock, proc::ProcNumber, shmem::SharedStr};

use crate::harness::{Child, FIRST, Node};

pub(crate) fn lwlock_excludes_other_processes() {
    const PROCESSES: u32 = 4;
    const ROUNDS: u64 = 20_000;
    let node = Node::start();
    let lock: &'static LwLock = node.shmem.alloc();
    let count: &'static AtomicU64 = node.shmem.alloc();
    let held = lock.lock();
    assert!(lock.try_lock().is_none());
    let mut children: Vec<Child> = (0..PROCESSES)
        .map(|index| {
            node.child(ProcNumber(FIRST.0 + index), |_| {
                for _ in 0..ROUNDS {
                    let _guard = lock.lock();
                    // Not an atomic addition: the lock alone makes it right.
                    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    drop(held);
    for child in &mut children {
        child.join_well();
    }
    assert_eq!(count.load(Ordering::Relaxed), u64::from(PROCESSES) * ROUNDS);
    assert!(lock.try_lock().is_some());
}

/// A reader that meets a sleeping writer takes mixed text in the end: so nothing but the two texts' letters
/// may show, and the whole text once the writer is done.
pub(crate) fn shared_str_shows_nothing_but_what_was_written() {
    let node = Node::start();
    let text: &'static SharedStr<64> = node.shmem.alloc();
    let board = node.board;
    let mut child = node.child(FIRST, |_| {
        while board.get(0) == 0 {
            text.set(&"a".repeat(60));
            text.set(&"b".repeat(40));
        }
    });
    node.poll_for("the first text", || !text.get().is_empty());
    let mut whole = 0;
    for _ in 0..20_000 {
        let read = text.get();
        assert!([40, 60].contains(&read.len()) && read.bytes().all(|byte| b"ab".contains(&byte)), "{read}");
        whole += u32::from(read == "a".repeat(60) || read == "b".repeat(40));
    }
    assert!(whole > 0);
    board.put(0, 1);
    child.join_well();
    assert_eq!(text.get(), "b".repeat(40));
}
