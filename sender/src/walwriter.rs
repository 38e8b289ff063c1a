//! The walwriter: flushes what nobody waits for and makes segments ahead.
//!
//! Started by the postmaster when a primary's recovery has ended. Sleeps on its latch, the postmaster's death and one
//! computed timeout: none while everything inserted is durable, `wal_writer_delay` after it was woken because something
//! is not. Its latch is set by inserters that don't flush themselves (asynchronous commits) and by who has begun a
//! segment. On SIGTERM it flushes the rest and exits 0; anything else is a crash of the node.
//!
//! Must never be needed for the progress of others: who waits for a flush does it alone ([`crate::xlog`]). Must not
//! grow into a place for other background work.
//!
//! Follows PostgreSQL 15 src/backend/postmaster/walwriter.c; differs in: no hibernation, as there is no tick.

use std::sync::atomic::Ordering;

use ipc::interrupt::Interrupts;
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sys::clock::{self, MonoTime};
use wal::lsn::Lsn;

use crate::node::Node;
use crate::wait::wait_latch;
use crate::xlog::Xlog;

/// Main function of the walwriter; returns its exit status.
pub fn walwriter_main(node: &'static Node, me: Me) -> i32 {
    let mut xlog = Xlog::new(node, me);
    // Since when something waits to be flushed.
    let mut unflushed_since = None;
    loop {
        me.latch().reset();
        if me.take(Interrupts::TERMINATE).contains(Interrupts::TERMINATE) {
            xlog.flush(node.wal.insert_lsn());
            return 0;
        }
        node.attend(&me);
        prepare_ahead(node, &mut xlog);
        let now = clock::now();
        if node.wal.insert_lsn() <= node.wal.flush_lsn() {
            unflushed_since = None;
        } else {
            unflushed_since.get_or_insert(now);
        }
        let delay = node.settings().wal_writer_delay;
        let flush_due = unflushed_since.map(|since: MonoTime| since.saturating_add(delay));
        if flush_due.is_some_and(|due| due <= now || is_much(node, node.wal.insert_lsn())) {
            // Not try and go on: while somebody else is at it, this would be a busy loop.
            xlog.flush(node.wal.insert_lsn());
            unflushed_since = None;
            continue;
        }
        let no_room_until = node.wal.no_room_until.load(Ordering::Relaxed);
        let room_due = (no_room_until != 0).then(|| MonoTime::from_nanos(no_room_until));
        let due = [flush_due, room_due].into_iter().flatten().min();
        let timeout = due.map(|due| due.saturating_since(now));
        wait_latch(&me, timeout, WaitEvent::WalWriterMain);
    }
}

fn is_much(node: &Node, insert: Lsn) -> bool {
    insert.saturating_since(node.wal.flush_lsn()) >= node.settings().wal_writer_flush_after
}

fn prepare_ahead(node: &Node, xlog: &mut Xlog) {
    let known = node.wal.no_room_until.load(Ordering::Relaxed) != 0;
    match xlog.prepare_ahead() {
        Err(error) if error.is_full_disk() && known => {}
        // Inserters refuse with the same error when they come to the end of the last segment.
        Err(error) => tracing::warn!(
            "{error}\nHINT:  Free disk space: when this segment is needed, writes are refused."
        ),
        Ok(()) => {}
    }
}
