//! The wait event set: the one place where a process sleeps.
//!
//! A set is built once, waited on many times: [`WaitEventSet::add_latch`],
//! [`add_socket`](WaitEventSet::add_socket), [`add_postmaster_death`](WaitEventSet::add_postmaster_death),
//! [`add_child_exit`](WaitEventSet::add_child_exit) register an event and return its [`Position`];
//! [`modify`](WaitEventSet::modify) changes what a socket is waited for and costs nothing when nothing
//! changes; [`remove`](WaitEventSet::remove) takes an event out, to be done before its descriptor is closed.
//! Readiness is a level: what isn't dealt with is reported again.
//!
//! [`WaitEventSet::wait`]:
//! * returns what occurred, each position at most once; nothing means that the time is over, never anything
//!   else;
//! * publishes the wait event while it sleeps;
//! * reads the signals of the process, turns them into interrupts and sets the own latch; a signal as such
//!   never ends a wait, and EINTR is never seen;
//! * looks at the kernel once even if the latch is set already, lest a busy latch starve the sockets;
//! * measures its time-out from its start, however often the kernel's wait is repeated; a time-out of 0 looks
//!   once;
//! * believes the postmaster's death only after a read of the pipe.
//!
//! Errors and hang-ups of a socket count as the readiness that was asked for: the read or write that follows
//! tells them.
//!
//! It doesn't spin before it sleeps. What processes wait for here (a flush, a commit, a client) takes longer
//! than a spin that pays: tried with 100 to 1000 looks, always or only after short waits, 0 to 35 in 100 spins
//! met the set, and commits came no faster from 1 client nor from 8, mostly slower.
//!
//! The kernel is behind `KernelSet`, with an implementation for each [`Backend`] (wait_event_set/…). The sets that
//! a child inherits are still the parent's: it can only drop them, which closes its descriptors and changes nothing;
//! whatever else is tried with them panics.
//!
//! Misuse (a position that was removed, a second latch, an event that can't be changed) panics, in PostgreSQL's
//! words where it has some; what the kernel refuses is an error.
//!
//! Follows PostgreSQL 18 src/backend/storage/ipc/waiteventset.c; differs in: events can be removed, child
//! exits are events, time-outs in microseconds.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::Duration,
};

use sys::process::{self, Pid, PidFd};

use self::{epoll::EpollSet, eventfd::EventfdSet, poll::PollSet};
use crate::{
    backend::{self, Backend},
    bit_set::bit_set,
    latch::Latch,
    postmaster_death::PostmasterDeath,
    process::{Me, Newborn, Postmaster},
    waiter::Waiter,
};

mod epoll;
mod eventfd;
mod poll;
mod wait;

bit_set! {
    /// What to wait for on a socket.
    pub struct SocketEvents: u32 {
        /// There is something to read, or the end of the stream.
        const READABLE = 1 << 1;
        /// There is room to write.
        const WRITEABLE = 1 << 2;
        /// A connection attempt is over, well or badly.
        const CONNECTED = 1 << 6;
        /// The peer has closed its side, whether or not there is still something to read.
        const CLOSED = 1 << 7;
        /// There is a connection to accept.
        const ACCEPT = 1 << 8;
    }
}

bit_set! {
    /// What occurred.
    pub struct Events: u32 {
        /// The latch is set.
        const LATCH_SET = 1 << 0;
        /// As [`SocketEvents::READABLE`].
        const SOCKET_READABLE = 1 << 1;
        /// As [`SocketEvents::WRITEABLE`].
        const SOCKET_WRITEABLE = 1 << 2;
        /// The postmaster is gone.
        const POSTMASTER_DEATH = 1 << 4;
        /// As [`SocketEvents::CONNECTED`].
        const SOCKET_CONNECTED = 1 << 6;
        /// As [`SocketEvents::CLOSED`].
        const SOCKET_CLOSED = 1 << 7;
        /// As [`SocketEvents::ACCEPT`].
        const SOCKET_ACCEPT = 1 << 8;
        /// The child has ended and can be reaped.
        const CHILD_EXIT = 1 << 9;
    }
}

/// An event's place in its set. Never means a later event in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    index: u32,
    generation: u32,
}

/// An event that occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurred {
    /// Which one.
    pub position: Position,
    /// What happened there.
    pub events: Events,
}

/// What a wait does when the postmaster is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPostmasterDeath {
    /// Ends this process at once, with status 1.
    Exit,
    /// Reports [`Events::POSTMASTER_DEATH`].
    Report,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Latch,
    Socket(RawFd, SocketEvents),
    PostmasterDeath(OnPostmasterDeath),
    ChildExit(RawFd),
}

/// A place for an event. Its generation grows when the event is removed.
#[derive(Debug)]
struct Place {
    generation: u32,
    event: Option<Kind>,
}

/// A set of events to wait for.
pub struct WaitEventSet {
    /// The process that made it.
    owner: Pid,
    waiter: Option<&'static Waiter>,
    kernel: Box<dyn KernelSet>,
    places: Vec<Place>,
    capacity: usize,
    /// Where the latch is, and which one it was when the kernel was last told.
    latch: Option<(Position, &'static Latch)>,
    ready: Vec<Ready>,
}

/// What a back-end found: a registered event's data and what is true of its descriptor.
#[derive(Clone, Copy, Debug)]
struct Ready {
    token: Token,
    readable: bool,
    writeable: bool,
    closed: bool,
}

/// What a back-end is to report for a registered descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// The signals of the process.
    Signals,
    /// What wakes the owner of the latch, where it isn't a signal.
    Wakeup,
    /// An event of the set.
    Event(Position),
}

/// What a back-end does for one set. Descriptors are added at most once at a time.
trait KernelSet {
    /// Lets that which wakes the latch's owner end the wait. Where that is SIGURG, the signals' descriptor
    /// does it already.
    fn add_latch(&mut self, _latch: &Latch) -> io::Result<()> {
        Ok(())
    }

    /// Undoes `add_latch`.
    fn remove_latch(&mut self, _latch: &Latch) -> io::Result<()> {
        Ok(())
    }

    /// Reports `events`, errors and hang-ups of `fd` under `token` from now on.
    fn add(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()>;

    /// Changes what is reported of an `fd` that was added.
    fn modify(&mut self, fd: RawFd, events: SocketEvents, token: Token) -> io::Result<()>;

    /// Reports nothing of `fd` any more.
    fn remove(&mut self, fd: RawFd) -> io::Result<()>;

    /// Waits until something is ready or `timeout` is over, and appends what is ready, each descriptor once.
    /// Interrupted: a signal that isn't blocked came.
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()>;
}

impl std::fmt::Debug for WaitEventSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitEventSet").field("places", &self.places).finish_non_exhaustive()
    }
}

impl WaitEventSet {
    /// An empty set of a child, for up to `capacity` events.
    pub fn new(me: &Me, capacity: usize) -> io::Result<WaitEventSet> {
        WaitEventSet::of_waiter(Some(me.waiter()), capacity)
    }

    /// An empty set of a child that has no slot yet; it goes on working when the child attaches.
    pub fn for_newborn(newborn: &Newborn, capacity: usize) -> io::Result<WaitEventSet> {
        WaitEventSet::of_waiter(Some(newborn.waiter()), capacity)
    }

    /// An empty set of the postmaster.
    pub fn for_postmaster(postmaster: &Postmaster, capacity: usize) -> io::Result<WaitEventSet> {
        WaitEventSet::of_waiter(Some(postmaster.waiter()), capacity)
    }

    /// An empty set of a program that is no process of a node (a command line tool, a test): no latch, no
    /// postmaster, and signals do what they do.
    pub fn without_process(capacity: usize) -> io::Result<WaitEventSet> {
        WaitEventSet::of_waiter(None, capacity)
    }

    pub(crate) fn of_waiter(waiter: Option<&'static Waiter>, capacity: usize) -> io::Result<WaitEventSet> {
        let mut kernel: Box<dyn KernelSet> =
            match waiter.map_or_else(backend::chosen, |waiter| waiter.backend) {
                Backend::Epoll => Box::new(EpollSet::new(capacity + 1)?),
                Backend::Eventfd => Box::new(EventfdSet::new(capacity + 1)?),
                Backend::Poll => Box::new(PollSet::new(capacity + 1)),
            };
        if let Some(waiter) = waiter {
            kernel.add(waiter.signal_fd(), SocketEvents::READABLE, Token::Signals)?;
        }
        let places = Vec::with_capacity(capacity);
        let owner = process::current_pid();
        Ok(WaitEventSet { owner, waiter, kernel, places, capacity, latch: None, ready: Vec::new() })
    }

    /// Adds the process's latch: whichever it is at the time of each wait, as a child's changes when it
    /// attaches and detaches. Panics when it is in the set already or the process has none.
    pub fn add_latch(&mut self) -> io::Result<Position> {
        self.assert_owner();
        let waiter = self.waiter.expect("cannot wait on latch without a process");
        let latch = waiter.latch();
        assert!(latch.is_own(), "cannot wait on a latch owned by another process");
        assert!(self.latch.is_none(), "cannot wait on more than one latch");
        self.kernel.add_latch(latch)?;
        let position = self.place(Kind::Latch);
        self.latch = Some((position, latch));
        Ok(position)
    }

    /// Adds a socket (or pipe), also with no events for now. Fails when it is in the set already or can't be
    /// waited for.
    pub fn add_socket(&mut self, socket: impl AsFd, events: SocketEvents) -> io::Result<Position> {
        let fd = socket.as_fd().as_raw_fd();
        self.register(Kind::Socket(fd, events), fd, events)
    }

    /// Adds the death of the postmaster. Fails when it is in the set already; panics in a process that has no
    /// postmaster.
    pub fn add_postmaster_death(&mut self, action: OnPostmasterDeath) -> io::Result<Position> {
        let fd = self.postmaster_death_fd();
        self.register(Kind::PostmasterDeath(action), fd, SocketEvents::READABLE)
    }

    /// Adds the exit of a child. Fails when it is in the set already.
    pub fn add_child_exit(&mut self, child: &PidFd) -> io::Result<Position> {
        let fd = child.as_fd().as_raw_fd();
        self.register(Kind::ChildExit(fd), fd, SocketEvents::READABLE)
    }

    /// Changes what a socket is waited for, also to nothing. No system call when it stays the same. Other events
    /// can only be removed.
    pub fn modify(&mut self, position: Position, events: SocketEvents) -> io::Result<()> {
        self.assert_owner();
        let (fd, old) = match *self.event_mut(position) {
            Kind::Socket(fd, old) => (fd, old),
            Kind::Latch => panic!("cannot modify latch event"),
            Kind::PostmasterDeath(_) => panic!("cannot modify postmaster death event"),
            Kind::ChildExit(_) => panic!("cannot modify child exit event"),
        };
        match (old.is_empty(), events.is_empty()) {
            _ if old == events => return Ok(()),
            // The kernel always reports errors and hang-ups: a socket that nobody wants to hear of would turn
            // the wait into a busy loop. So it isn't registered.
            (false, true) => self.kernel.remove(fd)?,
            (true, _) => self.kernel.add(fd, events, Token::Event(position))?,
            (false, false) => self.kernel.modify(fd, events, Token::Event(position))?,
        }
        *self.event_mut(position) = Kind::Socket(fd, events);
        Ok(())
    }

    /// Takes an event out. To be done before its descriptor is closed: the kernel's registration belongs to
    /// the open file, which may live on in another process. Epoll tells who forgets it by an error.
    pub fn remove(&mut self, position: Position) -> io::Result<()> {
        self.assert_owner();
        match *self.event_mut(position) {
            Kind::Latch => {
                let (_, latch) = self.latch.expect("it was added");
                self.kernel.remove_latch(latch)?;
                self.latch = None;
            }
            Kind::Socket(_, SocketEvents::NONE) => {}
            Kind::Socket(fd, _) | Kind::ChildExit(fd) => self.kernel.remove(fd)?,
            Kind::PostmasterDeath(_) => {
                let fd = self.postmaster_death_fd();
                self.kernel.remove(fd)?;
            }
        }
        self.vacate(position);
        Ok(())
    }

    fn postmaster_death_fd(&self) -> RawFd {
        let death = self.waiter.and_then(|waiter| waiter.postmaster_death);
        death.expect("only a child has a postmaster").raw()
    }

    /// A child that inherited the set shares the kernel's part of it with its maker.
    fn assert_owner(&self) {
        assert_eq!(self.owner, process::current_pid(), "cannot use a wait event set of another process");
    }

    fn waits_for_something(&self) -> bool {
        self.places
            .iter()
            .any(|place| !matches!(place.event, None | Some(Kind::Socket(_, SocketEvents::NONE))))
    }

    /// Puts an event into a free place.
    fn place(&mut self, event: Kind) -> Position {
        let free = self.places.iter().position(|place| place.event.is_none());
        let index = free.unwrap_or_else(|| {
            assert!(
                self.places.len() < self.capacity,
                "a wait event set for {} events is full",
                self.capacity
            );
            self.places.push(Place { generation: 0, event: None });
            self.places.len() - 1
        });
        self.places[index].event = Some(event);
        let index_word = u32::try_from(index).expect("a set of a sane size");
        Position { index: index_word, generation: self.places[index].generation }
    }

    fn vacate(&mut self, position: Position) {
        let place = &mut self.places[position.index as usize];
        place.event = None;
        place.generation = place.generation.wrapping_add(1);
    }

    /// Adds an event of a descriptor, of which there may be one. (Epoll wouldn't notice a second one of a number
    /// that was closed and given out anew, nor does it know of those that are waited for nothing.)
    fn register(&mut self, event: Kind, fd: RawFd, events: SocketEvents) -> io::Result<Position> {
        self.assert_owner();
        let death = self.waiter.and_then(|waiter| waiter.postmaster_death);
        let fd_of = |place: &Place| match place.event? {
            Kind::Latch => None,
            Kind::Socket(fd, _) | Kind::ChildExit(fd) => Some(fd),
            Kind::PostmasterDeath(_) => death.map(PostmasterDeath::raw),
        };
        if self.places.iter().any(|place| fd_of(place) == Some(fd)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let position = self.place(event);
        if events.is_empty() {
            return Ok(position);
        }
        let result = self.kernel.add(fd, events, Token::Event(position));
        if result.is_err() {
            self.vacate(position);
        }
        result.map(|()| position)
    }

    fn event_mut(&mut self, position: Position) -> &mut Kind {
        let place = &mut self.places[position.index as usize];
        assert_eq!(place.generation, position.generation, "the event was removed");
        place.event.as_mut().expect("a place of this generation holds an event")
    }
}
