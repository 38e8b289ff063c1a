//! A node's log while the node doesn't run: where it ends, and bytes of it changed by hand.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use wal::history::TimelineHistory;
use wal::layout::{self, Chunk};
use wal::lsn::Lsn;
use wal::page::{PAGE_SIZE, PageHeader};
use wal::reader::WalReader;
use wal::record::RecordBody;
use wal::segment::{SegmentSize, file_name};
use wal::source::StoreSource;
use wal::store::SegmentStore;
use wal::timeline::TimelineId;

use crate::node::Node;

/// The timeline of every log that is operated on.
pub const TIMELINE: TimelineId = TimelineId(1);
/// The segment size of every log that is operated on.
pub const SEGMENT: SegmentSize = SegmentSize::MIN;

/// The log of a node that doesn't run, with segments of 1 MB.
#[derive(Debug)]
pub struct Log {
    store: SegmentStore,
    system_identifier: u64,
    /// Where the log ends; moves with [`Log::append`].
    pub end: Lsn,
    /// Where its last record starts.
    pub last_record: Lsn,
}

impl Log {
    /// Reads the log from its first segment on.
    pub fn of(node: &Node) -> Log {
        Log::from(node, SEGMENT.log_start())
    }

    /// Reads the log from the start of a record on.
    pub fn from(node: &Node, start: Lsn) -> Log {
        let store = || SegmentStore::new(node.dir().join("pg_wal"), SEGMENT);
        let source = StoreSource::new(store(), TimelineHistory::without_file(TIMELINE));
        let mut reader = WalReader::new(source, start, SEGMENT);
        while reader.next().is_ok() {}
        let (end, last_record) = (reader.position(), reader.last_record().expect("a log has a record"));
        let mut store = store();
        let mut first = [0; 40];
        store.read_at(TIMELINE, SEGMENT.start_of(last_record), &mut first).unwrap();
        let long = PageHeader::decode(&first).unwrap().long.expect("a segment begins with a long header");
        Log { store, system_identifier: long.system_identifier, end, last_record }
    }

    /// The file name of the segment that holds a byte.
    pub fn segment(at: Lsn) -> String {
        file_name(TIMELINE, SEGMENT.number_of(at), SEGMENT)
    }

    /// Writes bytes into the files.
    pub fn write(&mut self, at: Lsn, bytes: &[u8]) {
        self.store.write_at(TIMELINE, at, bytes).unwrap();
    }

    /// Writes zeros.
    pub fn zero(&mut self, from: Lsn, to: Lsn) {
        self.write(from, &vec![0; usize::try_from(to - from).unwrap()]);
    }

    /// Appends a record; its start.
    pub fn append(&mut self, mut body: RecordBody) -> Lsn {
        let placement = layout::place(self.end, body.tot_len(), SEGMENT, TIMELINE, self.system_identifier);
        let record = body.seal(self.last_record).to_vec();
        for chunk in placement.chunks() {
            match chunk {
                Chunk::PageHeader { at, header } => self.write(at, header.encode().as_bytes()),
                Chunk::Record { at, range } => self.write(at, &record[range]),
                Chunk::Zeros { .. } => {}
            }
        }
        (self.end, self.last_record) = (placement.end, placement.start);
        placement.start
    }

    /// The start of the page after the log's last one.
    pub fn next_page(&self) -> Lsn {
        self.end.page_start() + PAGE_SIZE as u64
    }
}

/// Flips a bit of the log.
pub fn flip_bit(node: &Node, at: Lsn) {
    let path = node.dir().join("pg_wal").join(Log::segment(at));
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    let offset = SEGMENT.offset_of(at);
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

/// A record's header with a wrong CRC: 24 bytes as the format's description has them.
pub fn record_header(tot_len: u32, prev: Lsn, rmgr: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(tot_len.to_le_bytes());
    bytes.extend(42_u32.to_le_bytes());
    bytes.extend(prev.0.to_le_bytes());
    bytes.extend([0, rmgr, 0, 0]);
    bytes.extend(0_u32.to_le_bytes());
    bytes
}

/// A short page header: 24 bytes as the format's description has them.
pub fn page_header(magic: u16, flags: u16, timeline: u32, address: u64, rem_len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(magic.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(timeline.to_le_bytes());
    bytes.extend(address.to_le_bytes());
    bytes.extend(rem_len.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}
