//! Which kernel facilities waits are made of: chosen once, by the postmaster, before it forks.
//!
//! All three keep the same promises (wait_event_set.rs) by the same algorithm (latch.rs); they differ in how a
//! sleeping owner of a latch is woken, how signals are read, and what sleeps:
//!
//! | | wakes by | signals come through | sleeps in | handlers |
//! |---|---|---|---|---|
//! | `epoll` | SIGURG | a signalfd | epoll | SIGQUIT's |
//! | `eventfd` | an eventfd per slot | a signalfd | epoll | SIGQUIT's |
//! | `poll` | SIGURG | a handler and a self-pipe | poll | one for all, SIGQUIT's |
//!
//! `epoll` is PostgreSQL's own way on Linux, `poll` its way everywhere else. A node's back-end is the one that
//! is chosen when its [`ProcArray`](crate::proc::ProcArray) is created; all its processes inherit it.
//!
//! Follows the WAIT_USE_… choices of PostgreSQL 18 src/backend/storage/ipc/waiteventset.c; differs in: chosen
//! at run time, and the eventfds.

use std::sync::atomic::{AtomicU8, Ordering};

/// A way to wait and to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Backend {
    /// epoll, and SIGURG read through a signalfd.
    Epoll = 0,
    /// epoll, and an eventfd per process slot.
    Eventfd = 1,
    /// poll, and SIGURG's handler that writes to a pipe.
    Poll = 2,
}

impl Backend {
    /// The one for who doesn't choose: faster than the others where both processes share a CPU and where they
    /// don't (cargo bench -p ipc).
    pub const DEFAULT: Backend = Backend::Eventfd;

    /// All there are.
    pub const ALL: [Backend; 3] = [Backend::Epoll, Backend::Eventfd, Backend::Poll];

    /// Its name, as the setting wait_backend spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Epoll => "epoll",
            Backend::Eventfd => "eventfd",
            Backend::Poll => "poll",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Backend> {
        Backend::ALL.into_iter().find(|backend| backend.name() == name)
    }
}

static CHOSEN: AtomicU8 = AtomicU8::new(Backend::DEFAULT as u8);

/// Chooses the back-end of the nodes that this process makes from now on.
pub fn choose(backend: Backend) {
    // Relaxed: one thread, and children are forked later.
    CHOSEN.store(backend as u8, Ordering::Relaxed);
}

/// The chosen back-end, or the default.
pub fn chosen() -> Backend {
    let code = CHOSEN.load(Ordering::Relaxed);
    Backend::ALL.into_iter().find(|backend| *backend as u8 == code).expect("only choose writes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_names_read_back() {
        for backend in Backend::ALL {
            assert_eq!(Backend::from_name(backend.name()), Some(backend));
        }
        assert_eq!(Backend::from_name("kqueue"), None);
    }
}
