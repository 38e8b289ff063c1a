//! What a wait needs to know of its process, and how the process reads its signals.
//!
//! Signals are read inside the wait (and by [`Waiter::poll_signals`]) from one descriptor, a signalfd or a
//! self-pipe, and go to the pending word of a child or are kept for the postmaster. SIGURG is among them and
//! goes nowhere: it has done its work by ending the kernel's wait.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::RawFd,
    sync::atomic::AtomicU32,
};

use sys::signal::{Signal, SignalFd, SignalSet, self_pipe::SelfPipe};

use crate::{
    backend::Backend, inbox::Inbox, interrupt::Interrupts, latch::Latch, latch_stats,
    postmaster_death::PostmasterDeath, process::SignalTable,
};

/// Where the signals of a process come from.
pub(crate) enum SignalSource {
    /// They are blocked.
    SignalFd(SignalFd),
    /// A handler keeps them.
    SelfPipe(SelfPipe),
}

impl SignalSource {
    /// Begins to take `signals`, which must be blocked, in the way of `backend`.
    pub(crate) fn new(backend: Backend, signals: SignalSet) -> io::Result<SignalSource> {
        match backend {
            Backend::Epoll | Backend::Eventfd => SignalFd::new(signals).map(SignalSource::SignalFd),
            Backend::Poll => SelfPipe::new(signals).map(SignalSource::SelfPipe),
        }
    }

    fn raw(&self) -> RawFd {
        match self {
            SignalSource::SignalFd(fd) => fd.raw(),
            SignalSource::SelfPipe(pipe) => pipe.raw(),
        }
    }

    fn drain(&self) -> io::Result<SignalSet> {
        match self {
            SignalSource::SignalFd(fd) => fd.drain(),
            SignalSource::SelfPipe(pipe) => pipe.drain(),
        }
    }
}

/// Who waits: whose latch, and where the signals go that its waits read.
pub(crate) enum Who {
    /// A child: into its pending word.
    Child(&'static Inbox, SignalTable),
    /// The postmaster: kept until asked for. It has no slot to be seen in.
    Postmaster { latch: &'static Latch, wait_event: AtomicU32, kept: Cell<SignalSet> },
}

/// A process that waits.
pub(crate) struct Waiter {
    pub(crate) who: Who,
    pub(crate) postmaster_death: Option<&'static PostmasterDeath>,
    pub(crate) backend: Backend,
    /// None in a child that gave up what it inherited.
    pub(crate) signals: RefCell<Option<SignalSource>>,
}

impl Waiter {
    /// The process's latch at this moment: a child's changes when it attaches and detaches.
    pub(crate) fn latch(&self) -> &'static Latch {
        match &self.who {
            Who::Child(inbox, _) => inbox.latch(),
            Who::Postmaster { latch, .. } => latch,
        }
    }

    /// Where to publish what the process waits for.
    pub(crate) fn wait_event(&self) -> &AtomicU32 {
        match &self.who {
            Who::Child(inbox, _) => inbox.wait_event(),
            Who::Postmaster { wait_event, .. } => wait_event,
        }
    }

    /// The descriptor that is readable while there is a signal (SIGURG among them) to be read.
    pub(crate) fn signal_fd(&self) -> RawFd {
        self.signals.borrow().as_ref().expect("a process that waits has not given its signals up").raw()
    }

    /// Reads the signals that have come, and sets the own latch if there is one but SIGURG.
    pub(crate) fn poll_signals(&self) -> io::Result<()> {
        let signals = match self.signals.borrow().as_ref() {
            Some(source) => source.drain()?,
            None => return Ok(()),
        };
        if signals.contains(Signal::Urg) {
            latch_stats::own().count_wakeup_received();
        }
        match &self.who {
            Who::Child(inbox, table) => {
                let bits = table
                    .raises
                    .iter()
                    .filter(|(signal, _)| signals.contains(*signal))
                    .fold(Interrupts::NONE, |bits, (_, raised)| bits | *raised);
                if !bits.is_empty() {
                    inbox.raise(bits);
                }
            }
            Who::Postmaster { latch, kept, .. } => {
                let new = signals.without(Signal::Urg);
                kept.set(kept.get().union(new));
                if !new.is_empty() {
                    latch.set();
                }
            }
        }
        Ok(())
    }
}
