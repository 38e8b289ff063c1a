//! Inserters, flushers and readers of one log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ipc::interrupt::Interrupts;
use ipc::proc::{BackendType, ProcNumber};
use ipc::process::Me;
use ipc::wait_event::WaitEvent;
use sender::datadir::DataDir;
use sender::walsender::slot::WalSndSlot;
use sender::walwriter::walwriter_main;
use sender::xlog::Xlog;
use sys::signal::Signal;
use wal::history::TimelineHistory;
use wal::lsn::Lsn;
use wal::page::PAGE_SIZE;
use wal::store::SegmentStore;

use crate::harness::{Child, Random, SEGMENT_BYTES, TestNode, barrier, pass, seed};
use crate::log_check::{Found, check, check_with_pg_waldump, record};

/// Pages of the ring: few, so that it goes round all the time.
const RING_PAGES: usize = 6;
const INSERTERS: usize = 4;
const FOLLOWER: usize = 20;
const PROBER: usize = 21;

/// Does what recovery does before anything is inserted: finds the end, makes the log durable, clears what is behind.
fn recover(test: &TestNode) -> Found {
    let node = test.node;
    let found = check(node, None);
    let starter = test.child(ProcNumber::STARTUP, BackendType::Startup, |me| {
        let mut store = node.segment_store();
        let tli = node.wal.timeline();
        store.remove_temporary().unwrap();
        let history = TimelineHistory::without_file(tli);
        store.make_durable(&history, node.segment_size.log_start(), found.end).unwrap();
        store.clear_after(tli, found.end).unwrap();
        for position in [&node.wal.insert_end, &node.wal.written, &node.wal.flushed] {
            position.store(found.end.0, Ordering::Release);
        }
        Xlog::new(node, me).start_at(found.end, found.last_record).unwrap();
        node.recovery.in_recovery.store(0, Ordering::Release);
        0
    });
    starter.join_well("the start of the log");
    found
}

fn walwriter(test: &TestNode) -> Child {
    test.child(ProcNumber::WAL_WRITER, BackendType::WalWriter, |me| walwriter_main(test.node, me))
}

/// Bytes of a payload: mostly small; some pages; more than the ring; now and then more than a segment.
fn some_length(random: &mut Random) -> usize {
    let ring = (RING_PAGES * PAGE_SIZE) as u64;
    let length = match random.below(200) {
        0 => u64::from(SEGMENT_BYTES) + random.below(u64::from(SEGMENT_BYTES)),
        1..6 => ring + random.below(2 * ring),
        6..30 => random.below(4 * PAGE_SIZE as u64),
        _ => random.below(300),
    };
    usize::try_from(length).unwrap()
}

/// Inserts records number `from..to`, flushing some, switching segments now and then.
fn insert(test: &TestNode, me: Me, index: usize, mut random: Random, from: u64, to: u64) {
    let (node, board) = (test.node, test.board);
    let mut xlog = Xlog::new(node, me);
    for number in from..to {
        let length = some_length(&mut random);
        let inserted = xlog.insert(&mut record(index as u64, number, length)).unwrap();
        assert!(inserted.end > inserted.start && node.wal.insert_lsn() >= inserted.end);
        board.inserted[index].store(number + 1, Ordering::Release);
        if random.below(150) == 0 {
            xlog.switch_segment().unwrap();
        }
        match random.below(4) {
            0 => {}
            1 => node.procs.set_latch(ProcNumber::WAL_WRITER),
            _ => {
                xlog.flush(inserted.end);
                assert!(node.wal.flush_lsn() >= inserted.end);
                board.flushed[index].store(number + 1, Ordering::Release);
            }
        }
    }
    xlog.flush(node.wal.insert_lsn());
    board.flushed[index].store(to, Ordering::Release);
}

/// As a walsender: copies the log up to the flush LSN into segments of its own, from the ring while it is there.
fn follow(test: &TestNode, me: Me, mut random: Random, copy: &mut SegmentStore) {
    let (node, board) = (test.node, test.board);
    let slot = WalSndSlot::acquire(node.walsenders, me.number()).unwrap();
    let mut store = node.segment_store();
    let (tli, mut at) = (node.wal.timeline(), node.segment_size.log_start());
    let mut buffer = vec![0; 3 * PAGE_SIZE];
    loop {
        me.latch().reset();
        let finished = board.finished.load(Ordering::Acquire) != 0;
        let flushed = node.wal.flush_lsn();
        while at < flushed {
            let length = (1 + random.below(buffer.len() as u64)).min(flushed - at);
            let part = &mut buffer[..usize::try_from(length).unwrap()];
            if node.buffers.read(at, part) {
                board.from_ring.fetch_add(1, Ordering::Relaxed);
            } else {
                store.read_at(tli, at, part).unwrap();
                board.from_files.fetch_add(1, Ordering::Relaxed);
            }
            copy.write_at(tli, at, part).unwrap();
            at += length;
        }
        if finished && at == node.wal.flush_lsn() {
            slot.release();
            return;
        }
        ipc::wait_latch(&me, None, WaitEvent::WalSenderMain).unwrap();
    }
}

/// Reads at the old end of the ring, where pages are taken from under it: what the ring gives must be what the files hold.
fn probe(test: &TestNode, mut random: Random) {
    let node = test.node;
    let mut store = node.segment_store();
    let tli = node.wal.timeline();
    let (mut from_ring, mut from_file) = (vec![0; 2 * PAGE_SIZE], vec![0; 2 * PAGE_SIZE]);
    while test.board.finished.load(Ordering::Acquire) == 0 {
        let oldest = node.buffers.initialized().0.saturating_sub(node.buffers.size());
        let start = Lsn(oldest.max(node.segment_size.log_start().0) + random.below(PAGE_SIZE as u64));
        let flushed = node.wal.flush_lsn();
        if start >= flushed {
            continue;
        }
        let length = (1 + random.below(from_ring.len() as u64)).min(flushed - start);
        let length = usize::try_from(length).unwrap();
        if node.buffers.read(start, &mut from_ring[..length]) {
            store.read_at(tli, start, &mut from_file[..length]).unwrap();
            assert!(from_ring[..length] == from_file[..length], "{length} bytes at {start} from the ring");
        }
    }
}

pub(crate) fn many_inserters_and_readers_leave_every_record_exactly_once() {
    let seed = seed("inserters and readers");
    let dir = tempfile::tempdir().unwrap();
    let test = TestNode::start(&DataDir::new(dir.path().join("data")), RING_PAGES);
    recover(&test);
    let copy_dir = dir.path().join("copy");
    std::fs::create_dir(&copy_dir).unwrap();
    let mut copy = SegmentStore::new(&copy_dir, test.node.segment_size);

    let writer = walwriter(&test);
    let random = |part: usize| Random::new(seed * 100 + part as u64);
    let follower = test.backend(FOLLOWER, |me| follow(&test, me, random(FOLLOWER), &mut copy));
    let prober = test.backend(PROBER, |_| probe(&test, random(PROBER)));
    let inserters: Vec<Child> = (0..INSERTERS)
        .map(|index| test.backend(index, |me| insert(&test, me, index, random(index), 0, 500)))
        .collect();
    inserters.iter().for_each(|child| child.join_well("an inserter"));
    test.finish();
    follower.join_well("the reader that follows");
    prober.join_well("the reader at the edge");
    writer.kill(Signal::Term);
    writer.join_well("the walwriter");

    let flushed = test.node.wal.flush_lsn();
    assert_eq!(flushed, test.node.wal.insert_lsn());
    let found = check(test.node, None);
    assert_eq!(found.end, flushed);
    assert!((0..INSERTERS as u64).all(|index| found.records[&index] == 500), "{:?}", found.records);
    check_with_pg_waldump(test.node, &found);
    assert_same_bytes(&test, &mut copy, flushed);
    let board = test.board;
    assert!(board.from_ring.load(Ordering::Relaxed) > 0 && board.from_files.load(Ordering::Relaxed) > 0);
}

fn assert_same_bytes(test: &TestNode, copy: &mut SegmentStore, end: Lsn) {
    let mut store = test.node.segment_store();
    let (tli, mut at) = (test.node.wal.timeline(), test.node.segment_size.log_start());
    let (mut one, mut other) = (vec![0; PAGE_SIZE], vec![0; PAGE_SIZE]);
    while at < end {
        let length = usize::try_from((end - at).min(PAGE_SIZE as u64)).unwrap();
        store.read_at(tli, at, &mut one[..length]).unwrap();
        copy.read_at(tli, at, &mut other[..length]).unwrap();
        assert!(one[..length] == other[..length], "page at {at} of the copy");
        at += length as u64;
    }
}

pub(crate) fn killed_inserters_leave_a_log_with_every_flushed_record() {
    let seed = seed("killed inserters");
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path().join("data"));
    let mut random = Random::new(seed);
    for round in 0..12 {
        let test = TestNode::start(&data, RING_PAGES);
        let before = recover(&test);
        let of = |found: &Found, index: usize| found.records.get(&(index as u64)).copied().unwrap_or(0);
        let mut children: Vec<Child> = (0..INSERTERS)
            .map(|index| {
                let own = random.clone();
                random.next();
                let from = of(&before, index);
                test.backend(index, |me| insert(&test, me, index, own, from, u64::MAX))
            })
            .collect();
        children.push(walwriter(&test));
        pass(Duration::from_micros(random.below(80_000)));
        children.iter().for_each(|child| child.kill(Signal::Kill));
        children.iter().for_each(|child| {
            child.join("a killed process");
        });

        let flushed = test.node.wal.flush_lsn();
        let found = check(test.node, None);
        assert!(found.end >= flushed, "round {round}: the log ends at {}, flushed {flushed}", found.end);
        for index in 0..INSERTERS {
            let (there, before) = (of(&found, index), of(&before, index));
            let sure = test.board.flushed[index].load(Ordering::Acquire).max(before);
            let most = test.board.inserted[index].load(Ordering::Acquire).max(before) + 1;
            assert!(there >= sure, "round {round}: {there} records of inserter {index}, {sure} flushed");
            assert!(there <= most, "round {round}: {there} records of inserter {index}, {most} inserted");
        }
    }
    let test = TestNode::start(&data, RING_PAGES);
    let found = recover(&test);
    check_with_pg_waldump(test.node, &found);
}

/// Without a walwriter nobody makes good for a lost wake-up: in each round every process must get its own.
pub(crate) fn flush_waiters_are_all_woken_round_after_round() {
    const PROCESSES: u32 = 5;
    const ROUNDS: u32 = 600;
    let dir = tempfile::tempdir().unwrap();
    let test = TestNode::start(&DataDir::new(dir.path().join("data")), RING_PAGES);
    recover(&test);
    let children: Vec<Child> = (0..PROCESSES as usize)
        .map(|index| {
            test.backend(index, |me| {
                let mut xlog = Xlog::new(test.node, me);
                for round in 0..ROUNDS {
                    barrier(&test, &me, round, PROCESSES);
                    let inserted = xlog.insert(&mut record(index as u64, u64::from(round), 40)).unwrap();
                    xlog.flush(inserted.end);
                    assert!(test.node.wal.flush_lsn() >= inserted.end);
                }
            })
        })
        .collect();
    children.iter().for_each(|child| child.join_well("a flusher"));
    let found = check(test.node, None);
    assert!(found.records.values().all(|count| *count == u64::from(ROUNDS)), "{:?}", found.records);
    let syncs = test.node.wal.syncs.load(Ordering::Relaxed);
    assert!(syncs < u64::from(PROCESSES * ROUNDS), "no flush was ever shared: {syncs} syncs");
}

/// The walwriter with much to flush while somebody holds the write lock: once it tried and tried without a pause.
pub(crate) fn walwriter_sleeps_while_another_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestNode::start(&DataDir::new(dir.path().join("data")), 1024);
    recover(&test);
    let writer = walwriter(&test);
    let busy = test.backend(0, |me| {
        let mut xlog = Xlog::new(test.node, me);
        let flushing = test.node.wal.write_lock.lock();
        let length = usize::try_from(test.node.settings().wal_writer_flush_after).unwrap() + 1;
        xlog.insert(&mut record(0, 0, length)).unwrap();
        test.node.procs.set_latch(ProcNumber::WAL_WRITER);
        pass(Duration::from_millis(500));
        drop(flushing);
        // As who ends a flush does; nothing is left to do but to wake.
        xlog.flush(test.node.wal.insert_lsn());
        while !me.take(Interrupts::TERMINATE).contains(Interrupts::TERMINATE) {
            me.latch().reset();
            ipc::wait_latch(&me, None, WaitEvent::PgSleep).unwrap();
        }
    });
    pass(Duration::from_millis(400));
    let pid = writer.pidfd().pid();
    let used = cpu_ticks(pid.0);
    assert!(used <= 5, "the walwriter used {used} ticks of CPU time while it had to wait");
    busy.kill(Signal::Term);
    busy.join_well("the busy flusher");
    writer.kill(Signal::Term);
    writer.join_well("the walwriter");
    assert_eq!(check(test.node, None).records[&0], 1);
}

/// CPU time of a process, in ticks of 10 ms.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Ends the log at page and segment borders, right after a switch, and with nothing, and goes on each time.
pub(crate) fn log_that_ends_at_every_kind_of_boundary_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::new(dir.path().join("data"));
    let mut expected = 0;
    let mut numbers = 0..;
    for step in 0..12 {
        let test = TestNode::start(&data, RING_PAGES);
        let found = recover(&test);
        assert_eq!(found.records.get(&0).copied().unwrap_or(0), expected, "step {step}");
        let inserter = test.backend(0, |me| {
            let mut xlog = Xlog::new(test.node, me);
            let end = match step {
                // Twice nothing at all: an empty log, and one that ends at a border.
                0 | 4 | 8 => test.node.wal.insert_lsn(),
                1 | 9 => insert_up_to(&test, &mut xlog, &mut numbers, PAGE_SIZE as u64),
                2 => xlog.switch_segment().map(|_| test.node.wal.insert_lsn()).unwrap(),
                3 | 7 => insert_up_to(&test, &mut xlog, &mut numbers, u64::from(SEGMENT_BYTES)),
                // A switch at the start of a segment is none.
                5 => xlog.switch_segment().unwrap(),
                // A switch record that itself ends the segment.
                6 => {
                    let border = u64::from(SEGMENT_BYTES) - 24;
                    insert_to(&test, &mut xlog, &mut numbers, |end| {
                        test.node.segment_size.offset_of(end) == border
                    });
                    xlog.switch_segment().map(|_| test.node.wal.insert_lsn()).unwrap()
                }
                _ => {
                    xlog.insert(&mut record(0, numbers.next().unwrap(), 3 * SEGMENT_BYTES as usize))
                        .unwrap()
                        .end
                }
            };
            xlog.flush(end);
            test.board.inserted[0].store(numbers.next().unwrap(), Ordering::Release);
        });
        inserter.join_well("the inserter");
        expected = test.board.inserted[0].load(Ordering::Acquire);
        numbers = expected..;
        let border = match step {
            1 | 9 => PAGE_SIZE as u64,
            2 | 3 | 6 | 7 => u64::from(SEGMENT_BYTES),
            _ => 1,
        };
        assert_eq!(test.node.wal.flush_lsn().0 % border, 0, "step {step}: {}", test.node.wal.flush_lsn());
    }
    let test = TestNode::start(&data, RING_PAGES);
    let found = recover(&test);
    check_with_pg_waldump(test.node, &found);
}

/// Inserts until the log ends at a multiple of `border`, with the last record as long as that takes.
fn insert_up_to(
    test: &TestNode,
    xlog: &mut Xlog,
    numbers: &mut impl Iterator<Item = u64>,
    border: u64,
) -> Lsn {
    insert_to(test, xlog, numbers, |end| end.0 % border == 0)
}

/// Inserts one record after which the end of the log is `wanted`.
fn insert_to(
    test: &TestNode,
    xlog: &mut Xlog,
    numbers: &mut impl Iterator<Item = u64>,
    wanted: impl Fn(Lsn) -> bool,
) -> Lsn {
    let number = numbers.next().unwrap();
    let end = test.node.wal.insert_lsn();
    // From 300 bytes on what is beside the payload has one length.
    let beside = record(0, number, 300).tot_len() - 300;
    let length =
        (300..2 * SEGMENT_BYTES).find(|length| wanted(test.node.place(end, beside + length).end)).unwrap();
    let inserted = xlog.insert(&mut record(0, number, length as usize)).unwrap();
    assert!(wanted(inserted.end));
    inserted.end
}
