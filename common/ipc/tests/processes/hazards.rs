//! No handler can interrupt a child, a lock of its or an allocation: what the kernel says is installed.

use std::fs;

use ipc::backend::{self, Backend};
use sys::signal::Signal;

use crate::harness::{FIRST, Node};

/// The Rust runtime's guard against stack overflow: raised by faults of the program itself, in no other way.
const FAULTS: u64 = 1 << (11 - 1) | 1 << (7 - 1);

pub(crate) fn child_has_the_handlers_of_its_back_end() {
    let node = Node::start();
    let backend = backend::chosen();
    let mut child = node.child(FIRST, |_| {
        let caught = signal_mask("SigCgt:") & !FAULTS;
        let blocked = signal_mask("SigBlk:");
        let mut own = vec![Signal::Quit];
        if backend == Backend::Poll {
            own.extend([Signal::Term, Signal::Int, Signal::Hup, Signal::Usr2, Signal::Urg]);
        }
        let own = own.iter().fold(0, |mask, signal| mask | bit(*signal));
        // On the portable back-end the postmaster's handlers are inherited besides, but blocked.
        let inherited = if backend == Backend::Poll { bit(Signal::Usr1) } else { 0 };
        assert_eq!(caught, own | inherited, "{caught:#x}");
        assert_eq!(blocked & own, 0, "{blocked:#x}");
        assert_eq!(blocked & inherited, inherited);
    });
    child.join_well();
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.number() - 1)
}

fn signal_mask(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}
