//! Inserting into the log and making it durable.
//!
//! **Insert.** One insert lock: under it a record gets its place and its back link, is sealed (only the header's part
//! of the CRC is left to do) and copied into the ring. `insert_end` moves when the whole record is there.
//!
//! **Flush.** Who needs a flush tries the write lock; whoever gets it writes everything that is complete, fsyncs and
//! publishes the flush LSN; the others wait for the flush under way and then look again. That is group commit: what
//! comes while an fsync is under way goes with the next one. The flush LSN is always the end of a record, so nobody
//! downstream ever holds half of one that this node may still lose.
//!
//! No wake-up is lost, step by step. A waiter stores the LSN that it waits for, then (full fence) tries the lock again;
//! the holder frees the lock, then (full fence) looks through the waiters ([`crate::ordering`]). With both fences at
//! least one sees the other: the waiter finds the lock free, or the holder finds the waiter and sets its latch. Of those
//! whose LSN is not flushed yet the holder wakes one, who becomes the next flusher and wakes on: an LSN beyond the last
//! holder's flush can only be flushed by somebody who takes the lock after it, and who looks through the waiters again.
//!
//! **A record larger than the ring** is written by its inserter: when the next page's slot holds a page that is not in
//! its file yet, the inserter writes complete pages out itself (without fsync, without moving the flush LSN).
//!
//! **Full disk.** Segments are made before the record that needs them is inserted ([`Xlog::insert`] refuses with the
//! disk's error, and nothing has happened); what is in the ring always has its place on disk. Whoever has found no room
//! spares the others the attempt for [`NO_ROOM_RETRY`]; the walwriter makes the next one then. The last [`KEPT`] bytes of what
//! is prepared are for the records of a checkpoint, a stop and a start alone ([`Xlog::insert_kept`]): only these can make
//! room (segments before redo go), and a node stops and starts on a full disk.
//!
//! **An fsync or write that fails** is a PANIC and never retried on the same data: the kernel may have dropped it.
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xlog.c; differs in: one insert lock, flush LSN at record ends only.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use failpoint::Site;
use ipc::lwlock::LwLock;
use ipc::proc::ProcNumber;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::layout::{Chunk, Placement};
use wal::lsn::Lsn;
use wal::page::PAGE_SIZE;
use wal::record::RecordBody;
use wal::segment::SegmentNumber;
use wal::store::{SegmentStore, StoreError, hint, reason};
use wal::timeline::TimelineId;

use crate::checkpointer::request_checkpoint_if_due;
use crate::log::panic_severity;
use crate::node::Node;
use crate::ordering;
use crate::sync_rep;
use crate::wait::wait_latch;

const PAGE: u64 = PAGE_SIZE as u64;
/// What ordinary records leave of the segments that are prepared, bytes: room for some 90 checkpoints.
const KEPT: u64 = 2 * PAGE;
/// Between two attempts to make a segment on a full disk.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

ipc::shared_struct! {
    /// The log's positions. Invariant: `flushed <= insert_end`, `horizon <= flushed` on a primary.
    pub struct WalCtl {
        /// Held to give a record its place and copy it.
        pub insert_lock: LwLock,
        /// End of the last complete record. Written under the insert lock; its release store publishes the bytes.
        pub insert_end: AtomicU64,
        /// Start of the last record: the next one's back link. Under the insert lock.
        pub prev_record: AtomicU64,
        /// Segment files exist (zeroed, fsynced) up to here. Only grows.
        pub prepared: AtomicU64,
        /// While there is no room for another one: when to try again (monotonic clock, ns). 0: nothing is known against it.
        pub no_room_until: AtomicU64,
        /// Held to write and fsync.
        pub write_lock: LwLock,
        /// Pages below are in their files (not necessarily durable). Under the write lock.
        pub written: AtomicU64,
        /// Everything below is durable. Written under the write lock (primary) or by the walreceiver (standby).
        pub flushed: AtomicU64,
        /// The tables may be committed up to here. Only grows. Primary: the flush LSN, with synchronous standbys what they
        /// have confirmed of it ([`crate::sync_rep`]); standby: walEnd as told by the upstream, kept apart from the own flush
        /// LSN.
        pub horizon: AtomicU64,
        /// Timeline that records are inserted on, or followed on a standby.
        pub timeline: AtomicU32,
        /// Flush LSN when a segment was completed last. Written under the write lock.
        pub segment_completed: AtomicU64,
        /// When that was: monotonic clock, ns. Likewise.
        pub segment_completed_at: AtomicU64,
        /// Redo of the last checkpoint, as the durable control file has it. Written by the checkpointer.
        pub redo: AtomicU64,
        /// Number of the last segment that was removed, or is about to be; 0: none. Only grows. Likewise.
        pub removed: AtomicU64,
        /// Records inserted since start; this and the next under the insert lock.
        pub records: AtomicU64,
        /// Their bytes.
        pub record_bytes: AtomicU64,
        /// How often an inserter had to write because the ring was full.
        pub buffers_full: AtomicU64,
        /// Writes of the log from the ring since start, and the time for them, ns. Under the write lock.
        pub writes: AtomicU64,
        /// See `writes`.
        pub write_time: AtomicU64,
        /// fsyncs of the log since start, and the time for them, ns: by whoever flushes, and by the walreceiver.
        pub syncs: AtomicU64,
        /// See `syncs`.
        pub sync_time: AtomicU64,
    }
}

impl WalCtl {
    /// Everything below is durable on this node.
    pub fn flush_lsn(&self) -> Lsn {
        Lsn(ordering::published_position(&self.flushed))
    }

    /// The tables may be committed up to here (a standby adds its own flush LSN to the comparison).
    pub fn horizon(&self) -> Lsn {
        Lsn(self.horizon.load(Ordering::Acquire))
    }

    /// End of the last complete record.
    pub fn insert_lsn(&self) -> Lsn {
        Lsn(ordering::published_position(&self.insert_end))
    }

    /// Redo of the last checkpoint: recovery would begin there or behind.
    pub fn redo(&self) -> Lsn {
        Lsn(self.redo.load(Ordering::Acquire))
    }

    /// The last segment that was removed, or is about to be.
    pub fn removed(&self) -> SegmentNumber {
        SegmentNumber(self.removed.load(Ordering::Acquire))
    }

    /// Segments up to that one are removed, or about to be. The checkpointer only.
    pub fn note_removed(&self, last: SegmentNumber) {
        self.removed.fetch_max(last.0, Ordering::AcqRel);
    }

    /// A record was inserted. Under the insert lock.
    fn count_record(&self, bytes: u32) {
        self.records.store(self.records.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let before = self.record_bytes.load(Ordering::Relaxed);
        self.record_bytes.store(before + u64::from(bytes), Ordering::Relaxed);
    }

    /// The log was fsynced since `began`.
    pub fn count_sync(&self, began: MonoTime) {
        let took = clock::now().saturating_since(began);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_time.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Raises the horizon; true when it moved.
    pub fn advance_horizon(&self, lsn: Lsn) -> bool {
        self.horizon.fetch_max(lsn.0, Ordering::AcqRel) < lsn.0
    }

    /// Timeline that records are inserted on, or followed on a standby.
    pub fn timeline(&self) -> TimelineId {
        // Acquire: who has seen a flush LSN beyond a switch point sees the timeline that goes on there.
        TimelineId(self.timeline.load(Ordering::Acquire))
    }
}

/// Where a record went.
#[derive(Clone, Copy, Debug)]
pub struct Inserted {
    /// Its first byte.
    pub start: Lsn,
    /// Behind its last byte: flush up to here to have it durable.
    pub end: Lsn,
}

/// One process's access to the log for inserting and flushing.
#[derive(Debug)]
pub struct Xlog {
    node: &'static Node,
    me: Me,
    store: SegmentStore,
}

impl Xlog {
    /// Opens the log for this process; after fork.
    pub fn new(node: &'static Node, me: Me) -> Xlog {
        Xlog { node, me, store: node.segment_store() }
    }

    /// Goes on where recovery has found the end of the log. The startup process, before anything is inserted.
    ///
    /// # Errors
    /// The last page can't be read, or there is no room for the first segment.
    pub fn start_at(&mut self, end: Lsn, last_record: Lsn) -> Result<(), StoreError> {
        let guard = self.ctl().insert_lock.lock();
        let mut head = vec![0; end.page_offset()];
        self.store.read_at(self.ctl().timeline(), end.page_start(), &mut head)?;
        let prepared = self.node.segment_size.start_of(end);
        self.ctl().prepared.store(prepared.0, Ordering::Relaxed);
        self.node.buffers.start_at(end, &head);
        self.publish(last_record, end);
        self.ctl().written.store(end.0, Ordering::Release);
        self.note_segment_completed(end);
        drop(guard);
        // The one after it is the walwriter's work: a node that is promoted needn't wait for it.
        self.prepare_to(end + 1)
    }

    fn ctl(&self) -> &'static WalCtl {
        self.node.wal
    }

    /// Inserts one record. It is not durable before [`Xlog::flush`].
    ///
    /// # Errors
    /// No room for the segment that the record needs: nothing was inserted.
    pub fn insert(&mut self, body: &mut RecordBody) -> Result<Inserted, StoreError> {
        self.insert_leaving(KEPT, body)
    }

    /// As [`Xlog::insert`], for the few small records without which a full disk would stay full: checkpoints and the end of
    /// recovery.
    ///
    /// # Errors
    /// As for [`Xlog::insert`].
    pub fn insert_kept(&mut self, body: &mut RecordBody) -> Result<Inserted, StoreError> {
        self.insert_leaving(0, body)
    }

    fn insert_leaving(&mut self, kept: u64, body: &mut RecordBody) -> Result<Inserted, StoreError> {
        loop {
            let guard = self.ctl().insert_lock.lock();
            let before = self.ctl().insert_lsn();
            let placement = self.node.place(before, body.tot_len());
            if !self.is_prepared(placement.end + kept) {
                drop(guard);
                self.prepare_to(placement.end + kept)?;
                continue;
            }
            failpoint::step(Site::LogInsert, || {
                self.copy(&placement, body);
                self.publish(placement.start, placement.end);
            });
            self.ctl().count_record(body.tot_len());
            drop(guard);
            self.begin_segment(before, placement.end);
            return Ok(Inserted { start: placement.start, end: placement.end });
        }
    }

    /// Inserts a switch record and fills the rest of its segment with zeros, so that the next record begins the next
    /// segment. A switch at the start of a segment does nothing.
    ///
    /// Returns the end of the switch record (or the present end if nothing was done).
    ///
    /// # Errors
    /// No room for the next segment: nothing was inserted.
    pub fn switch_segment(&mut self) -> Result<Lsn, StoreError> {
        loop {
            let guard = self.ctl().insert_lock.lock();
            let end = self.ctl().insert_lsn();
            let Some(switch) = self.node.place_switch(end) else {
                return Ok(end);
            };
            if !self.is_prepared(switch.next + KEPT) {
                drop(guard);
                self.prepare_to(switch.next + KEPT)?;
                continue;
            }
            let mut record = wal::xlog::switch_record();
            self.copy(&switch.record, &mut record);
            self.ctl().count_record(record.tot_len());
            while self.node.buffers.initialized() < switch.next {
                self.claim(self.node.buffers.initialized());
            }
            self.publish(switch.record.start, switch.next);
            drop(guard);
            self.begin_segment(end, switch.next);
            return Ok(switch.record.end);
        }
    }

    /// Has the walwriter make the segment after the one that a record has begun, so that its inserter needn't, and the
    /// checkpointer do its work if that much was logged.
    fn begin_segment(&self, before: Lsn, end: Lsn) {
        let size = self.node.segment_size;
        if size.number_of(before) != size.number_of(end) {
            self.node.procs.set_latch(ProcNumber::WAL_WRITER);
            request_checkpoint_if_due(self.node, end);
        }
    }

    /// Seals the record and copies it into the ring. Under the insert lock.
    fn copy(&mut self, placement: &Placement, body: &mut RecordBody) {
        let record = body.seal(Lsn(self.ctl().prev_record.load(Ordering::Relaxed)));
        for chunk in placement.chunks() {
            match chunk {
                Chunk::PageHeader { at, header } => {
                    self.claim(at);
                    self.node.buffers.write(at, header.encode().as_bytes());
                }
                Chunk::Record { at, range } => self.node.buffers.write(at, &record[range]),
                // Claimed pages are zero.
                Chunk::Zeros { .. } => {}
            }
        }
    }

    fn is_prepared(&self, end: Lsn) -> bool {
        end.0 <= self.ctl().prepared.load(Ordering::Relaxed)
    }

    fn publish(&self, start: Lsn, end: Lsn) {
        self.ctl().prev_record.store(start.0, Ordering::Relaxed);
        ordering::publish_position(&self.ctl().insert_end, end.0);
    }

    /// Takes the next page of the ring, writing out the page in its slot if nobody did yet. Under the insert lock.
    fn claim(&mut self, page: Lsn) {
        if let Some(older) = self.node.buffers.predecessor(page)
            && self.ctl().written.load(Ordering::Acquire) < (older + PAGE).0
        {
            let guard = self.ctl().write_lock.lock();
            // Everything before `page` is complete: this process holds the insert lock and has copied up to there.
            self.ctl().buffers_full.fetch_add(1, Ordering::Relaxed);
            self.write_to(page);
            drop(guard);
            self.wake_flush_waiters();
        }
        self.node.buffers.claim(page);
    }

    /// Makes the segments up to the one that holds the byte before `end`, unless somebody has just found that there is no
    /// room for them.
    fn prepare_to(&mut self, end: Lsn) -> Result<(), StoreError> {
        let no_room_until = &self.ctl().no_room_until;
        let now = clock::now();
        if no_room_until.load(Ordering::Relaxed) > now.as_nanos() {
            let next = Lsn(self.ctl().prepared.load(Ordering::Relaxed));
            return Err(self
                .store
                .no_room_for(self.ctl().timeline(), self.node.segment_size.number_of(next)));
        }
        let made = self.make_segments(end);
        if let Err(error) = &made
            && error.lost_sync
        {
            // The next sync of the directory would succeed, and the segment's name might still not be there.
            panic_severity(&format!("{error}{}", error.hint()));
        }
        if made.as_ref().is_err_and(StoreError::is_full_disk) {
            let until = now.saturating_add(NO_ROOM_RETRY).as_nanos();
            if no_room_until.swap(until, Ordering::Relaxed) == 0 {
                self.node.procs.set_latch(ProcNumber::WAL_WRITER);
            }
        } else {
            self.note_room();
        }
        made
    }

    /// Nothing is known any more against making segments.
    fn note_room(&self) {
        if self.ctl().no_room_until.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!("there is room for the log again");
        }
    }

    fn make_segments(&mut self, end: Lsn) -> Result<(), StoreError> {
        let size = self.node.segment_size;
        let from = size.number_of(Lsn(self.ctl().prepared.load(Ordering::Relaxed)));
        for number in from.0..=size.number_before(end).0 {
            if !self.store.prepare_ahead(self.ctl().timeline(), SegmentNumber(number))? {
                // Another process has just made it; that its name is durable only a sync of our own can tell.
                self.store.sync_directory()?;
            }
            self.ctl().prepared.fetch_max(size.first_byte(SegmentNumber(number + 1)).0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Makes the segment after the present one, so that no inserter has to. The walwriter's work.
    ///
    /// # Errors
    /// The disk has no room; inserters will meet the same when they need it.
    pub fn prepare_ahead(&mut self) -> Result<(), StoreError> {
        let size = self.node.segment_size;
        let wanted = size.first_byte(size.number_of(self.ctl().insert_lsn()).next().next());
        if self.ctl().prepared.load(Ordering::Relaxed) < wanted.0 {
            return self.prepare_to(wanted);
        }
        self.note_room();
        Ok(())
    }

    /// Returns when everything below `upto` is durable. Flushes itself when nobody does.
    ///
    /// Not interruptible (the wait is that of one fsync); sets the own latch before it returns if it consumed a set.
    ///
    /// Panics when nothing was inserted up to there: it would wait for ever.
    pub fn flush(&mut self, upto: Lsn) {
        assert!(upto <= self.ctl().insert_lsn(), "flush of {upto}, beyond the end of the log");
        let mut slept = false;
        while self.ctl().flush_lsn() < upto {
            if self.try_flush() {
                continue;
            }
            let waiting = self.node.flush_wait(self.me.number());
            ordering::announce_wait(waiting, upto.0);
            if self.ctl().flush_lsn() < upto && !self.try_flush() {
                wait_latch(&self.me, None, WaitEvent::WalFlush);
                self.me.latch().reset();
                slept = true;
            }
            ordering::end_wait(waiting);
        }
        if slept {
            // The set that was consumed may have been somebody else's news.
            self.me.latch().set();
        }
    }

    /// Flushes everything inserted so far, if the write lock is free.
    fn try_flush(&mut self) -> bool {
        let Some(guard) = self.ctl().write_lock.try_lock() else {
            return false;
        };
        let target = self.ctl().insert_lsn();
        let before = self.ctl().flush_lsn();
        let moved = target > before;
        if moved {
            self.write_to(target);
            self.sync(target);
            failpoint::step(Site::LogFlushed, || ordering::publish_position(&self.ctl().flushed, target.0));
            let size = self.node.segment_size;
            if size.number_of(before) != size.number_of(target) {
                self.note_segment_completed(target);
            }
        }
        drop(guard);
        self.wake_flush_waiters();
        if moved {
            self.node.log_waits.flushed(self.node.procs, target);
            sync_rep::flushed(self.node);
            self.node.wake_walsenders();
        }
        true
    }

    fn note_segment_completed(&self, flushed: Lsn) {
        self.ctl().segment_completed.store(flushed.0, Ordering::Relaxed);
        self.ctl().segment_completed_at.store(clock::now().as_nanos(), Ordering::Relaxed);
    }

    /// Writes whole pages up to the one that holds the byte before `upto`. Under the write lock.
    fn write_to(&mut self, upto: Lsn) {
        let size = self.node.segment_size;
        let end = if upto.page_offset() == 0 { upto } else { upto.page_start() + PAGE };
        let mut at = Lsn(self.ctl().written.load(Ordering::Relaxed)).page_start();
        while at < end {
            let number = size.number_of(at);
            let stop = end.min(size.first_byte(number.next()));
            let name = || self.node.segment_name(number);
            match self.store.file(self.ctl().timeline(), number) {
                Ok(file) => {
                    let length = usize::try_from(stop - at).expect("at most a segment");
                    let began = clock::now();
                    let written = failpoint::write(Site::LogWrite, length, |part| {
                        let (from, to) = (at + part.start as u64, at + part.end as u64);
                        self.node.buffers.pwrite(file, from, to, size.offset_of(from))
                    });
                    self.count_write(began);
                    if let Err(error) = written {
                        let (reason, hint) = (reason(&error), hint(&error));
                        panic_severity(&format!("could not write to log file {}: {reason}{hint}", name()));
                    }
                }
                Err(error) => panic_severity(&format!("{error}{}", error.hint())),
            }
            if stop == size.first_byte(number.next()) {
                self.sync(stop);
            }
            at = stop;
        }
        self.ctl().written.fetch_max(upto.0, Ordering::Release);
    }

    /// fdatasyncs the segment that holds the byte before `upto`.
    fn sync(&mut self, upto: Lsn) {
        let number = self.node.segment_size.number_before(upto);
        let began = clock::now();
        let _published = self.me.publish_wait(WaitEvent::WalSync);
        if let Err(error) = self.store.sync(self.ctl().timeline(), number) {
            panic_severity(&format!("{error}{}", error.hint()));
        }
        self.ctl().count_sync(began);
    }

    /// Under the write lock.
    fn count_write(&self, began: MonoTime) {
        let took = clock::now().saturating_since(began).as_nanos() as u64;
        let ctl = self.ctl();
        ctl.writes.store(ctl.writes.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        ctl.write_time.store(ctl.write_time.load(Ordering::Relaxed) + took, Ordering::Relaxed);
    }

    /// Wakes everybody whose LSN is flushed, and one of the others: the next flusher. After the write lock is free.
    fn wake_flush_waiters(&self) {
        ordering::before_looking_for_waiters();
        let flushed = self.ctl().flush_lsn();
        let mut next_found = false;
        for (number, waiting) in self.node.flush_waits() {
            let Some(lsn) = ordering::awaited(waiting) else { continue };
            if lsn > flushed.0 && next_found {
                continue;
            }
            next_found |= lsn > flushed.0;
            self.node.procs.set_latch(number);
        }
    }
}
