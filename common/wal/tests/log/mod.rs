//! A log in memory for tests: records are appended where `layout` says, any byte can be changed, a reader reads it.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use wal::history::TimelineHistory;
use wal::layout::{self, Chunk, Placement};
use wal::lsn::Lsn;
use wal::page::PAGE_SIZE;
use wal::reader::{PageRead, PageSource, ReadError, SourceError, WalReader};
use wal::record::{RecordBody, Rmgr};
use wal::segment::SegmentSize;
use wal::timeline::TimelineId;
use wal::xlog;

pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;
pub(crate) const SYSTEM_IDENTIFIER: u64 = 0x6789_ABCD_EF01_2345;
pub(crate) const TLI: TimelineId = TimelineId(1);
pub(crate) const START: Lsn = SIZE.log_start();

/// What a record read was, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) rmgr: u8,
    pub(crate) info: u8,
    pub(crate) xid: u32,
    pub(crate) main_data: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct MemoryLog {
    /// The bytes from the start of segment 1 on; a whole number of pages.
    pub(crate) bytes: Vec<u8>,
    pub(crate) position: Lsn,
    pub(crate) prev: Lsn,
    pub(crate) tli: TimelineId,
    pub(crate) written: Vec<Got>,
}

impl MemoryLog {
    pub(crate) fn new() -> MemoryLog {
        MemoryLog { bytes: Vec::new(), position: START, prev: Lsn(0), tli: TLI, written: Vec::new() }
    }

    pub(crate) fn write(&mut self, at: Lsn, bytes: &[u8]) {
        let from = (at - START) as usize;
        let needed = (from + bytes.len()).next_multiple_of(PAGE_SIZE);
        if self.bytes.len() < needed {
            self.bytes.resize(needed, 0);
        }
        self.bytes[from..from + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn put(&mut self, placement: &Placement, mut body: RecordBody) {
        let record = body.seal(self.prev).to_vec();
        let mut at_expected = None;
        for chunk in placement.chunks() {
            let (at, bytes) = match chunk {
                Chunk::PageHeader { at, header } => (at, header.encode().as_bytes().to_vec()),
                Chunk::Record { at, range } => (at, record[range].to_vec()),
                Chunk::Zeros { at, len } => (at, vec![0; len]),
            };
            assert!(at_expected.is_none_or(|expected| expected == at), "chunks leave a gap");
            at_expected = Some(at + bytes.len() as u64);
            self.write(at, &bytes);
        }
        assert_eq!(at_expected, Some(placement.end));
        self.prev = placement.start;
        self.position = placement.end;
    }

    /// Appends a record; gives its start.
    pub(crate) fn append(&mut self, rmgr: Rmgr, info: u8, xid: u32, main_data: &[u8]) -> Lsn {
        let body = RecordBody::new(rmgr, info, xid, main_data).unwrap();
        let placement = layout::place(self.position, body.tot_len(), SIZE, self.tli, SYSTEM_IDENTIFIER);
        self.put(&placement, body);
        let (start, end) = (placement.start, placement.end);
        self.written.push(Got { start, end, rmgr: rmgr.0, info, xid, main_data: main_data.to_vec() });
        start
    }

    pub(crate) fn append_change(&mut self, len: usize) -> Lsn {
        let main_data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        self.append(Rmgr::CHANGE, 0, 7, &main_data)
    }

    /// Appends change records until the position is `offset` bytes into a page (a multiple of 8, 24 or more).
    pub(crate) fn fill_page_to(&mut self, offset: usize) {
        loop {
            let start = layout::record_start(self.position, SIZE);
            // A change record of n bytes of data (1 to 255) takes 26 + n, padded.
            match offset.checked_sub(start.page_offset()) {
                Some(0) => return,
                Some(gap) if (32..=256).contains(&gap) => self.append_change(gap - 26),
                Some(gap) if gap > 256 => self.append_change(200),
                // Too near or behind: cross into the next page.
                Some(_) | None => self.append_change(300),
            };
        }
    }

    pub(crate) fn switch(&mut self) -> bool {
        let Some(switch) = layout::place_switch(self.position, SIZE, self.tli, SYSTEM_IDENTIFIER) else {
            return false;
        };
        self.put(&switch.record, xlog::switch_record());
        self.written.push(Got {
            start: switch.record.start,
            end: switch.next,
            rmgr: 0,
            info: xlog::INFO_SWITCH,
            xid: 0,
            main_data: Vec::new(),
        });
        self.write(switch.zeros.start, &vec![0; (switch.zeros.end - switch.zeros.start) as usize]);
        self.position = switch.next;
        true
    }

    pub(crate) fn source(&self) -> MemorySource<'_> {
        MemorySource { log: self, limit: Lsn::MAX }
    }

    pub(crate) fn reader(&self, start: Lsn) -> WalReader<MemorySource<'_>> {
        WalReader::new(self.source(), start, SIZE)
            .with_system_identifier(SYSTEM_IDENTIFIER)
            .with_history(TimelineHistory::without_file(self.tli))
    }

    /// Everything that can be read from `start`, and what ended it.
    pub(crate) fn read_all(&self, start: Lsn) -> (Vec<Got>, ReadError) {
        let mut reader = self.reader(start);
        read_to_end(&mut reader)
    }
}

/// Everything that `reader` still reads, and what ended it.
pub(crate) fn read_to_end<S: PageSource>(reader: &mut WalReader<S>) -> (Vec<Got>, ReadError) {
    let mut got = Vec::new();
    loop {
        match reader.next() {
            Ok(record) => got.push(Got {
                start: record.start,
                end: record.end,
                rmgr: record.rmgr.0,
                info: record.info,
                xid: record.xid,
                main_data: record.main_data.to_vec(),
            }),
            Err(error) => return (got, error),
        }
    }
}

#[derive(Debug)]
pub(crate) struct MemorySource<'a> {
    pub(crate) log: &'a MemoryLog,
    pub(crate) limit: Lsn,
}

impl PageSource for MemorySource<'_> {
    fn read_page(&mut self, page: Lsn, buffer: &mut [u8; PAGE_SIZE]) -> Result<PageRead, SourceError> {
        let valid = (self.limit.saturating_since(page)).min(PAGE_SIZE as u64) as usize;
        // What is not there yet must not matter.
        buffer.fill(0xEE);
        let from = (page - START) as usize;
        let segment_end = self.log.bytes.len().next_multiple_of(SIZE.bytes() as usize);
        if valid != 0 && from >= segment_end {
            return Err(SourceError::Missing("no such segment".into()));
        }
        let mut bytes = vec![0; PAGE_SIZE];
        if let Some(there) = self.log.bytes.get(from..from + PAGE_SIZE) {
            bytes.copy_from_slice(there);
        }
        buffer[..valid].copy_from_slice(&bytes[..valid]);
        Ok(PageRead { valid, tli: self.log.tli })
    }
}
