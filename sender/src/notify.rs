//! The queue of notifications: what NOTIFY says, kept until every session that listens has read it.
//!
//! One ring of bytes in shared memory. A transaction's notifications are appended together when it has committed, by
//! the process that committed it (the session itself, or the startup process for one that wrote something). Each session
//! that listens has a place with its own read position; it reads everything and picks its channels itself. Nothing
//! of it is logged, replicated or kept over a restart.
//!
//! ```text
//!            read by all                not yet read by all              free (part of it reserved)
//!   ------------------------------|===============================|- - - - - - - - - - - - - - - - -|
//!                      tail = lowest position                    head                tail + capacity
//!                      of those that listen
//! ```
//!
//! How to use it. To notify: [`NotifyQueue::reserve`] while the transaction can still fail (54000 when there is no room),
//! then commit, then [`NotifyQueue::publish`]. To listen: [`NotifyQueue::register`] before committing the LISTEN, then
//! [`NotifyQueue::read`] until it gives nothing, whenever NOTIFY was among the interrupts.
//!
//! **No notification is lost.** The notifier, under the lock: bytes; `head` (release). Then for each place in use: NOTIFY
//! into that process's pending word; set its latch. The listener: reset the latch; clear NOTIFY; load `head` (acquire);
//! read up to it. The notifier's bit comes after its `head`. So if the listener clears that very bit, its load of `head`
//! is behind it (the release of the send pairs with the acquire of the take) and sees the notification. If it had
//! cleared NOTIFY before the bit came, the bit is still set, and the latch with it: the next look comes before the
//! next sleep ([`ipc::latch`]). Who registers does so under the lock: either before an append, then the notifier, which
//! looks at the places after it had the lock, finds the place; or after it, then the position is behind what was
//! appended, and the transaction had been acknowledged before the LISTEN was.
//!
//! **None is seen early.** An append comes after the transaction's outcome was made durable and
//! [`acknowledged`](crate::recovery_state::RecoveryCtl::acknowledged) says so: what a listener reads when it has been
//! notified waits for that, so it sees the rows. And LISTEN followed by a read misses nothing: a transaction whose
//! append came before the registration was acknowledged before it, so the read waits for its rows.
//!
//! **Bytes are not overwritten under a reader.** Reading takes no lock: who is stopped or slow holds up nobody's commit.
//! A place's position is stored (release) after the bytes before it were copied; who appends loads the positions (acquire)
//! before it takes their bytes for free.
//!
//! **Processes that die.** A place belongs to a process slot and one of its generations; it counts only while that very
//! process is attached. So a listener that ends, however it ends, frees what it held up without a word, and a successor
//! in its slot starts with nothing. Who dies with the lock held (a notifier in the middle of an append, say) leaves it
//! held; that death is a crash, upon which the postmaster ends every child, and those that wait for the lock end by
//! SIGQUIT (see [`ipc::lwlock`]). The bytes of a half-done append are behind `head`: nobody reads them.
//!
//! **Limits.** The ring has [`max_notify_queue_pages`](settings::Settings::max_notify_queue_pages) pages. A session that
//! reads nothing (a block that stays open, a client that takes nothing) holds its position until the ring is full; then
//! transactions with NOTIFY fail with 54000, others go on. From half full on the log names the process.
//!
//! Follows PostgreSQL 15 src/backend/commands/async.c; differs in: memory instead of an SLRU; what is in the queue is
//! committed, so nobody waits for a transaction in it, and transactions that notify commit side by side.

pub mod outgoing;

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use engine::error::{SqlError, SqlState};
use ipc::interrupt::Interrupts;
use ipc::lwlock::LwLock;
use ipc::proc::{ProcAddress, ProcArray, ProcNumber};
use ipc::process::Me;
use ipc::shmem::{SharedBytes, Shmem};
use settings::Settings;
use sys::clock;
use sys::process::Pid;

use crate::notify::outgoing::{Encoded, Notification};

/// A page of [`max_notify_queue_pages`](settings::Settings::max_notify_queue_pages).
pub const PAGE_BYTES: usize = 8192;
/// Most bytes that one [`NotifyQueue::read`] takes: bounds what a listener holds in memory.
const READ_BYTES: u64 = 64 * 1024;
/// Between two warnings that the queue fills up.
const WARN_EVERY: Duration = Duration::from_secs(5);

ipc::shared_struct! {
    /// What all places share.
    pub struct NotifyCtl {
        /// Held while the ring, `tail`, `reserved` and registrations change.
        lock: LwLock,
        /// Bytes ever appended. Stored (release) under the lock, loaded (acquire) by readers.
        head: AtomicU64,
        /// No listener's position was lower when it was computed. Under the lock. Invariant: only grows.
        tail: AtomicU64,
        /// Bytes promised to transactions that are about to commit. Under the lock.
        /// Invariant: head - tail + reserved <= capacity.
        reserved: AtomicU64,
        /// When the log was last warned; monotonic clock, ns. Under the lock.
        warned_at: AtomicU64,
    }

    /// One process slot's place.
    #[repr(align(64))]
    pub struct ListenerPlace {
        /// The generation of the slot's process that listens; 0: none does. Written by that process.
        generation: AtomicU32,
        /// Everything before it was copied out. Written by that process: at registration under the lock, then (release) by
        /// every read; loaded (acquire) under the lock.
        position: AtomicU64,
    }
}

/// The queue; one handle in each process.
#[derive(Clone, Copy, Debug)]
pub struct NotifyQueue {
    control: &'static NotifyCtl,
    places: &'static [ListenerPlace],
    bytes: SharedBytes,
    procs: &'static ProcArray,
}

impl NotifyQueue {
    /// Bytes of shared memory for a node with `slots` process slots.
    pub fn shmem_size(settings: &Settings, slots: usize) -> usize {
        settings.max_notify_queue_pages * PAGE_BYTES
            + slots * size_of::<ListenerPlace>()
            + size_of::<NotifyCtl>()
            + 256
    }

    /// Takes the memory; before fork.
    pub fn create(shmem: &Shmem, settings: &Settings, procs: &'static ProcArray) -> NotifyQueue {
        NotifyQueue {
            control: shmem.alloc(),
            places: shmem.alloc_array(procs.len()),
            bytes: shmem.alloc_bytes(settings.max_notify_queue_pages * PAGE_BYTES),
            procs,
        }
    }

    /// Bytes that can be in the queue at once.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// How full it is, from 0 to 1.
    pub fn usage(&self) -> f64 {
        let _locked = self.control.lock.lock();
        self.find_tail();
        self.in_use() as f64 / self.capacity() as f64
    }

    /// Promises room for a transaction's notifications, before it commits.
    ///
    /// # Errors
    /// [`Full`]: there is not that much room. The transaction must not commit.
    pub fn reserve(&self, encoded: Encoded) -> Result<Reservation, Full> {
        let _locked = self.control.lock.lock();
        let (needed, capacity) = (encoded.bytes.len() as u64, self.capacity() as u64);
        let mut slowest = None;
        // As long as the ring is less than half full the old tail does.
        if (self.in_use() + needed) * 2 > capacity {
            slowest = self.find_tail();
        }
        let filled = self.in_use() + needed;
        let warning = (filled * 2 > capacity).then(|| self.warning(filled, slowest)).flatten();
        if filled > capacity {
            return Err(Full { warning });
        }
        self.control.reserved.fetch_add(needed, Ordering::Relaxed);
        Ok(Reservation { queue: *self, encoded, warning })
    }

    /// Appends the notifications of a transaction that has committed and was acknowledged, and interrupts everybody who
    /// listens.
    pub fn publish(&self, mut reservation: Reservation) {
        let encoded = std::mem::take(&mut reservation.encoded);
        let length = encoded.bytes.len() as u64;
        {
            let _locked = self.control.lock.lock();
            let head = self.control.head.load(Ordering::Relaxed);
            self.write(head, &encoded.bytes);
            self.control.reserved.fetch_sub(length, Ordering::Relaxed);
            // Release: pairs with the acquire in `read`; the bytes are there when the head is.
            self.control.head.store(head + length, Ordering::Release);
        }
        for listener in self.listeners() {
            // It may have ended since: then nobody gets it.
            self.procs.send_interrupt(listener, Interrupts::NOTIFY);
        }
    }

    /// Makes this process one that listens, from here on; no effect if it does already.
    pub fn register(&self, me: Me) {
        if self.is_registered(me) {
            return;
        }
        let place = &self.places[me.number().index()];
        let _locked = self.control.lock.lock();
        place.position.store(self.control.head.load(Ordering::Relaxed), Ordering::Relaxed);
        place.generation.store(me.address().generation, Ordering::Relaxed);
    }

    /// Ends it.
    pub fn unregister(&self, me: Me) {
        let _locked = self.control.lock.lock();
        self.places[me.number().index()].generation.store(0, Ordering::Relaxed);
    }

    /// Whether this process listens.
    pub fn is_registered(&self, me: Me) -> bool {
        self.places[me.number().index()].generation.load(Ordering::Relaxed) == me.address().generation
    }

    /// Takes the next notifications, up to some 64 KiB of them, and gives them to `deliver` in their order. False: there was
    /// none. Clear NOTIFY before the first call, and call until it is false.
    pub fn read(&self, me: Me, mut deliver: impl FnMut(Notification<'_>)) -> bool {
        if !self.is_registered(me) {
            return false;
        }
        let place = &self.places[me.number().index()];
        let position = place.position.load(Ordering::Relaxed);
        // Acquire: pairs with the release in `publish`.
        let head = self.control.head.load(Ordering::Acquire);
        let mut copy = vec![0; (head - position).min(READ_BYTES) as usize];
        self.copy(position, &mut copy);
        let taken = outgoing::whole_entries(&copy);
        // Release: pairs with the acquire in `find_tail`; the bytes were copied before they count as free.
        place.position.store(position + taken as u64, Ordering::Release);
        outgoing::decode(&copy[..taken]).for_each(&mut deliver);
        taken > 0
    }

    /// Bytes that are in the ring or promised. Under the lock.
    fn in_use(&self) -> u64 {
        let control = self.control;
        control.head.load(Ordering::Relaxed) - control.tail.load(Ordering::Relaxed)
            + control.reserved.load(Ordering::Relaxed)
    }

    /// Moves the tail to the lowest position; whose it is, if anybody is behind. Under the lock.
    fn find_tail(&self) -> Option<ProcNumber> {
        let head = self.control.head.load(Ordering::Relaxed);
        // Acquire: pairs with the release in `read`.
        let position =
            |address: &ProcAddress| self.places[address.number.index()].position.load(Ordering::Acquire);
        let slowest =
            self.listeners().map(|address| (position(&address), address.number)).min_by_key(|(at, _)| *at);
        self.control.tail.store(slowest.map_or(head, |(at, _)| at), Ordering::Relaxed);
        slowest.filter(|(at, _)| *at < head).map(|(_, number)| number)
    }

    /// The processes that listen and are still there.
    fn listeners(&self) -> impl Iterator<Item = ProcAddress> {
        (0..).map(ProcNumber).zip(self.places).filter_map(|(number, place)| {
            let generation = place.generation.load(Ordering::Relaxed);
            let address = ProcAddress { number, generation };
            (generation != 0 && self.procs.address(number) == Some(address)).then_some(address)
        })
    }

    /// What the log is told at most every [`WARN_EVERY`]. Under the lock.
    fn warning(&self, filled: u64, slowest: Option<ProcNumber>) -> Option<Crowded> {
        let (now, last) = (clock::now().as_nanos(), self.control.warned_at.load(Ordering::Relaxed));
        if last != 0 && now < last.saturating_add(WARN_EVERY.as_nanos() as u64) {
            return None;
        }
        self.control.warned_at.store(now, Ordering::Relaxed);
        let percent = (filled * 100 / self.capacity() as u64).min(100);
        Some(Crowded { percent, slowest: slowest.and_then(|number| self.procs.slot(number).pid()) })
    }

    fn release(&self, bytes: usize) {
        let _locked = self.control.lock.lock();
        self.control.reserved.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    fn write(&self, position: u64, bytes: &[u8]) {
        let at = (position % self.capacity() as u64) as usize;
        let (first, rest) = bytes.split_at(bytes.len().min(self.capacity() - at));
        self.bytes.write(at, first);
        self.bytes.write(0, rest);
    }

    fn copy(&self, position: u64, bytes: &mut [u8]) {
        let at = (position % self.capacity() as u64) as usize;
        let length = bytes.len().min(self.capacity() - at);
        let (first, rest) = bytes.split_at_mut(length);
        self.bytes.read(at, first);
        self.bytes.read(0, rest);
    }
}

/// Room in the queue for the notifications of a transaction under way. Dropped, it gives the room back.
#[derive(Debug)]
#[must_use = "dropping it drops the notifications"]
pub struct Reservation {
    queue: NotifyQueue,
    encoded: Encoded,
    warning: Option<Crowded>,
}

impl Reservation {
    /// What the client and the log are to be told.
    pub fn warning(&self) -> Option<Crowded> {
        self.warning
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.encoded.bytes.is_empty() {
            self.queue.release(self.encoded.bytes.len());
        }
    }
}

/// There is no room in the queue.
#[derive(Debug)]
pub struct Full {
    /// What the client and the log are to be told besides.
    pub warning: Option<Crowded>,
}

/// 54000.
pub fn too_many() -> SqlError {
    SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many notifications in the NOTIFY queue")
}

/// The queue is filling up.
#[derive(Clone, Copy, Debug)]
pub struct Crowded {
    percent: u64,
    slowest: Option<Pid>,
}

impl Crowded {
    /// The DETAIL: who holds it up, if anybody does.
    pub fn detail(&self) -> Option<String> {
        self.slowest.map(|pid| {
            format!("The server process with PID {pid} is among those with the oldest transactions.")
        })
    }

    /// The HINT, if there is a process to look at.
    pub fn hint(&self) -> Option<&'static str> {
        self.slowest.map(|_| {
            "The NOTIFY queue cannot be emptied until that process ends its current transaction \
             and its client takes what it was sent."
        })
    }

    /// Into the log.
    pub fn log(&self) {
        let detail = self.detail().map(|detail| format!("\nDETAIL:  {detail}")).unwrap_or_default();
        let hint = self.hint().map(|hint| format!("\nHINT:  {hint}")).unwrap_or_default();
        tracing::warn!("{self}{detail}{hint}");
    }
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NOTIFY queue is {}% full", self.percent)
    }
}
