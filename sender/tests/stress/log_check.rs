//! Reads a log back: what is in it, and whether it is what was inserted.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use sender::node::Node;
use wal::history::TimelineHistory;
use wal::logical_message::LogicalMessage;
use wal::lsn::Lsn;
use wal::reader::{ReadError, WalReader};
use wal::record::{RecordBody, Rmgr};
use wal::source::StoreSource;

use crate::harness::{SYSTEM_IDENTIFIER, pattern};

const PG_WALDUMP: &str = "/usr/lib/postgresql/15/bin/pg_waldump";

/// What was found in a log.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it ends.
    pub(crate) end: Lsn,
    /// Start of the last record; invalid if there is none.
    pub(crate) last_record: Lsn,
    /// Records of each inserter.
    pub(crate) records: BTreeMap<u64, u64>,
}

/// The record `number` of `owner` with a payload of `length` bytes.
pub(crate) fn record(owner: u64, number: u64, length: usize) -> RecordBody {
    let prefix = format!("{owner} {number}");
    let payload = pattern(owner, number, length);
    LogicalMessage { database: 0, transactional: false, prefix: &prefix, payload: &payload }
        .record(0)
        .unwrap()
}

/// Reads all of the log. Panics unless the records of each inserter are there in order, each once and as inserted.
pub(crate) fn check(node: &Node, up_to: Option<Lsn>) -> Found {
    let tli = node.wal.timeline();
    let mut source = StoreSource::new(node.segment_store(), TimelineHistory::without_file(tli));
    source.set_limit(up_to.unwrap_or(Lsn::MAX));
    let mut reader = WalReader::new(source, node.segment_size.log_start(), node.segment_size)
        .with_system_identifier(SYSTEM_IDENTIFIER);
    let mut records = BTreeMap::new();
    let mut expected_prev = Lsn::INVALID;
    loop {
        match reader.next() {
            Ok(found) => {
                assert_eq!(found.prev, expected_prev, "back link of {}", found.start);
                expected_prev = found.start;
                if found.rmgr != Rmgr::LOGICAL_MESSAGE {
                    continue;
                }
                let message = LogicalMessage::decode(found.main_data).unwrap();
                let (owner, number) = message.prefix.split_once(' ').unwrap();
                let (owner, number): (u64, u64) = (owner.parse().unwrap(), number.parse().unwrap());
                let next = records.entry(owner).or_insert(0);
                assert_eq!(number, *next, "record of inserter {owner} at {}", found.start);
                *next += 1;
                assert!(
                    pattern(owner, number, message.payload.len()) == message.payload,
                    "bytes of {owner} {number}"
                );
            }
            Err(ReadError::NotYet) => break,
            Err(ReadError::EndOfLog { .. }) => {
                assert!(up_to.is_none_or(|up_to| reader.position() >= up_to), "the log ends too early");
                break;
            }
            Err(ReadError::Io(error)) => panic!("{error}"),
        }
    }
    let last_record = reader.last_record().unwrap_or(Lsn::INVALID);
    Found { end: reader.position(), last_record, records }
}

/// Checks that PostgreSQL's own program reads as many messages, and where it stops.
pub(crate) fn check_with_pg_waldump(node: &Node, found: &Found) {
    assert!(Path::new(PG_WALDUMP).exists(), "{PG_WALDUMP} is missing: install postgresql-15");
    let start = node.segment_size.log_start();
    let first = node.segment_name(node.segment_size.number_of(start));
    let last = node.segment_name(node.segment_size.number_before(found.end));
    // By name: it learns the size of segments from the first, and of those in a directory it takes any, also one of zeros.
    let output = Command::new(PG_WALDUMP)
        .args(["-s", &start.to_string()])
        .arg(node.data.pg_wal().join(first))
        .arg(last)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let messages = listed.lines().filter(|line| line.starts_with("rmgr: LogicalMessage")).count() as u64;
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(messages, found.records.values().sum::<u64>(), "{complaint}");
    let last_record = format!("lsn: {}", padded(found.last_record));
    assert!(
        listed.lines().last().is_none_or(|line| line.contains(&last_record)),
        "{last_record}: {complaint}"
    );
}

/// As pg_waldump shows an LSN.
fn padded(lsn: Lsn) -> String {
    format!("{:X}/{:08X}", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF)
}
