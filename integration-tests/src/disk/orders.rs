//! The orders of ARCHITECTURE.md ("On disk, in this order"), held over a recorded life: what must be on disk before
//! something else happens.
//!
//! Each order has a name ([`Order`]); [`Watch`] is shown every event of a life together with the disk as it was then, and
//! notes what breaks an order. It also counts how often each order was looked at: a rule that never met its case has shown
//! nothing.
//!
//! Bodies of the workload's rows are unique words ([`token`]); where one stands in the log, and where in the tables' own
//! log, tells when a record was written and when its row was. One that a page border cuts is passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use wal::lsn::Lsn;
use wal::segment::parse_file_name;

use super::history::{Effect, History};
use super::messages::Messages;
use super::model::{Change, Disk, Inode, Node, ROOT};
use super::trace::{Call, Moment, Operation, Trace};
use super::verify::{SEGMENT_SIZE, control_numbers, segment_size};

/// What must come before what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// The record is synced, then its outcome is sent.
    AnswerAfterFlush,
    /// The record is synced, then the tables' own log has its rows.
    CommitAfterFlush,
    /// A segment has its full size, zeroed, and its name durable; then it is written to.
    SegmentBeforeRecords,
    /// What an earlier life left unsynced of the log is synced; then a session is served.
    RecoveryBeforeSessions,
    /// The rows up to redo are synced, in the tables' own log or in the tables, and so is that log's name; then the control
    /// file has that redo.
    TablesBeforeRedo,
    /// The log up to the checkpoint record is synced; then the control file names it.
    CheckpointBeforeControl,
    /// The control file names, durably, where recovery begins; then a segment before that is removed.
    ControlBeforeRemoval,
    /// The segments behind the one that is removed are gone, durably; unless it is the first.
    RemovalFromTheEnds,
    /// The log is synced; then it is sent to a standby.
    FlushBeforeSend,
    /// The log is synced; then a standby reports it as flushed.
    FlushBeforeReport,
    /// The bytes of a file are synced; then it gets its name.
    BytesBeforeName,
    /// A name that was given is synced before its process does anything else to the disk.
    NameThenDirectory,
}

/// All of them.
pub const ORDERS: [Order; 12] = [
    Order::AnswerAfterFlush,
    Order::CommitAfterFlush,
    Order::SegmentBeforeRecords,
    Order::RecoveryBeforeSessions,
    Order::TablesBeforeRedo,
    Order::CheckpointBeforeControl,
    Order::ControlBeforeRemoval,
    Order::RemovalFromTheEnds,
    Order::FlushBeforeSend,
    Order::FlushBeforeReport,
    Order::BytesBeforeName,
    Order::NameThenDirectory,
];

/// How often each order was looked at, and what broke one.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Looks at each order.
    pub looked: BTreeMap<Order, usize>,
    /// What broke one.
    pub broken: Vec<(Order, String)>,
}

impl Found {
    /// Adds what was found in another life.
    pub fn add(&mut self, other: Found) {
        for (order, count) in other.looked {
            *self.looked.entry(order).or_default() += count;
        }
        self.broken.extend(other.broken);
    }

    fn look(&mut self, order: Order, holds: bool, what: impl FnOnce() -> String) {
        *self.looked.entry(order).or_default() += 1;
        if !holds {
            self.broken.push((order, what()));
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let orders: BTreeSet<Order> = self.broken.iter().map(|(order, _)| *order).collect();
        for order in orders {
            let of_this = || self.broken.iter().filter(move |(broken, _)| *broken == order);
            writeln!(f, "{order:?} is broken {} times:", of_this().count())?;
            for (_, what) in of_this().take(3) {
                writeln!(f, "    {what}")?;
            }
        }
        Ok(())
    }
}

/// Where a unique word was first written.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The call's end.
    ended: Moment,
    /// The call's begin.
    begin: Moment,
    /// When the first sync ended that covers it.
    durable: Option<Moment>,
    /// Its position in the log, for the log.
    lsn: Lsn,
}

/// The watch over one life.
#[derive(Debug)]
pub struct Watch<'a> {
    messages: &'a Messages,
    /// Of each word in the log.
    logged: HashMap<String, Place>,
    /// Of each word in the tables' own log.
    in_tables: HashMap<String, Place>,
    /// Renames whose directory has to be synced next, by process.
    named: HashMap<u32, PathBuf>,
    first_session: Option<Moment>,
    redo: Lsn,
    /// What was found so far.
    pub found: Found,
}

const STATE_WAL: &str = "data/state/state.db-wal";
const PG_WAL: &str = "data/pg_wal";
const CONTROL: &str = "data/control";

impl<'a> Watch<'a> {
    /// Begins, on the disk as the life finds it; looks at once at what the trace alone tells.
    pub fn new(disk: &Disk, trace: &Trace, messages: &'a Messages, history: &History) -> Watch<'a> {
        let logged = places(trace, segment_start);
        let mut in_tables = places(trace, |path| (path == Path::new(STATE_WAL)).then_some(Lsn::INVALID));
        // Rows of earlier lives are written again with the page that they share with new ones.
        for inode in ["data/state/state.db", STATE_WAL].iter().filter_map(|path| disk.find(Path::new(path))) {
            for (_, token) in tokens(&disk.node(inode).content()) {
                in_tables.remove(token);
            }
        }
        let (named, found) = (HashMap::new(), Found::default());
        let first_session = messages.answers.values().flatten().map(|answer| answer.moment).min();
        let redo = Lsn::INVALID;
        let mut watch = Watch { messages, logged, in_tables, named, first_session, redo, found };
        watch.look_at_answers(history);
        watch.look_at_commits();
        watch
    }

    fn look_at_answers(&mut self, history: &History) {
        for statement in history.clients.iter().flat_map(|client| &client.statements[client.settled..]) {
            let (pid, number) = statement.answer;
            let answer = self.messages.answers.get(&pid).and_then(|answers| answers.get(number));
            let Some(answer) = answer.filter(|answer| answer.success && statement.acknowledged) else {
                continue;
            };
            for effect in &statement.effects {
                let Effect::Put(_, body) = effect else { continue };
                let Some(place) = token(body).and_then(|token| self.logged.get(token)) else { continue };
                let holds = place.durable.is_some_and(|durable| durable < answer.moment);
                self.found.look(Order::AnswerAfterFlush, holds, || {
                    format!(
                        "{:.40} was answered at {:?}, its record is durable at {:?}",
                        body, answer.moment, place.durable
                    )
                });
            }
        }
    }

    fn look_at_commits(&mut self) {
        for (token, row) in &self.in_tables {
            let Some(record) = self.logged.get(token) else { continue };
            let holds = record.durable.is_some_and(|durable| durable < row.begin);
            self.found.look(Order::CommitAfterFlush, holds, || {
                format!(
                    "{token} came into the tables at {:?}, its record is durable at {:?}",
                    row.begin, record.durable
                )
            });
        }
    }

    /// A call is about to begin.
    pub fn begin(&mut self, disk: &Disk, operation: &Operation) {
        if operation.end.is_some() && operation.success().is_none() {
            return;
        }
        if let Some(directory) = self.named.remove(&operation.pid) {
            let synced = operation.call == Call::Sync { path: directory.clone() };
            let is_send = matches!(operation.call, Call::Send { .. });
            if synced || !is_send {
                self.found.look(Order::NameThenDirectory, synced, || {
                    format!("{} was not synced before {:?}", directory.display(), operation.begin)
                });
            }
        }
        match &operation.call {
            Call::Send { .. } => self.send(disk, operation.begin),
            Call::Write { path, .. } if segment_start(path).is_some() => {
                let whole = disk.find(path).is_some_and(|inode| {
                    disk.node(inode).base.len() as u64 == SEGMENT_SIZE && is_name_durable(disk, path)
                });
                self.found.look(Order::SegmentBeforeRecords, whole, || {
                    format!("{} is written to at {:?}", path.display(), operation.begin)
                });
            }
            Call::Rename { from, to } => self.rename(disk, operation, from, to),
            Call::Remove { path } => self.remove(disk, operation.begin, path),
            _ => {}
        }
    }

    fn rename(&mut self, disk: &Disk, operation: &Operation, from: &Path, to: &Path) {
        let Some(inode) = disk.find(from) else { return };
        let node = disk.node(inode);
        self.found.look(Order::BytesBeforeName, node.pending.is_empty(), || {
            format!("{} gets its name at {:?}", to.display(), operation.begin)
        });
        if operation.end.is_some() {
            self.named.insert(operation.pid, to.parent().unwrap_or(Path::new("")).to_owned());
        }
        if to == Path::new(CONTROL)
            && let Some((checkpoint, redo)) = control_numbers(&node.content())
        {
            self.control(disk, operation.begin, checkpoint, redo);
        }
    }

    fn control(&mut self, disk: &Disk, moment: Moment, checkpoint: Lsn, redo: Lsn) {
        if checkpoint.is_valid() {
            let end = first_unsynced(disk);
            self.found.look(Order::CheckpointBeforeControl, end.is_none_or(|end| end > checkpoint), || {
                format!("the checkpoint at {checkpoint} is named at {moment:?}, unsynced is the log from {end:?} on")
            });
        }
        if redo <= self.redo {
            return;
        }
        let path = Path::new(STATE_WAL);
        let named = disk.find(path).is_none() || is_name_durable(disk, path);
        self.found.look(Order::TablesBeforeRedo, named, || {
            format!("{STATE_WAL} may have no name after redo {redo} of {moment:?}")
        });
        for (token, record) in
            self.logged.iter().filter(|(_, record)| record.lsn < redo && record.begin < moment)
        {
            // A row that was changed again before the tables were committed never got there.
            let Some(row) = self.in_tables.get(token) else { continue };
            let holds = row.durable.is_some_and(|durable| durable < moment);
            self.found.look(Order::TablesBeforeRedo, holds, || {
                format!(
                    "{token} at {} is before redo {redo} of {moment:?}, durable at {:?}",
                    record.lsn, row.durable
                )
            });
        }
        self.redo = redo;
    }

    /// Recovery itself clears segments behind the end of the log; those before it are a checkpoint's to remove.
    fn remove(&mut self, disk: &Disk, moment: Moment, path: &Path) {
        let Some(end) = segment_start(path).map(|start| start + SEGMENT_SIZE) else { return };
        let (first, last) = ends_of_log(disk);
        let at_an_end = first == segment_start(path) || last == segment_start(path);
        self.found.look(Order::RemovalFromTheEnds, at_an_end, || {
            format!("{} is removed at {moment:?}, the log may go from {first:?} to {last:?}", path.display())
        });
        let needed_from = |control: Option<Vec<u8>>| {
            let (checkpoint, redo) = control.as_deref().and_then(control_numbers)?;
            Some(checkpoint.min(redo))
        };
        let control = Path::new(CONTROL);
        let seen = needed_from(disk.find(control).map(|inode| disk.node(inode).content()));
        if seen.is_none_or(|seen| end > seen) {
            return;
        }
        let durable = needed_from(durable_content(disk, control));
        self.found.look(Order::ControlBeforeRemoval, durable.is_some_and(|durable| end <= durable), || {
            format!(
                "{} is removed at {moment:?}, durably needed is the log from {durable:?} on",
                path.display()
            )
        });
    }

    fn is_standby(&self, disk: &Disk) -> bool {
        disk.find(Path::new("data/standby.signal")).is_some()
    }

    /// Something is told to others.
    fn send(&mut self, disk: &Disk, moment: Moment) {
        // Not a session that is refused, nor one on a standby, which may have parts of records behind its end.
        if self.first_session == Some(moment) && !self.is_standby(disk) {
            let left = left_unsynced(disk);
            self.found.look(Order::RecoveryBeforeSessions, left.is_none(), || {
                format!("{:?} was not synced before {moment:?}", left)
            });
        }
        let unsynced = || first_unsynced(disk);
        for sent in self.messages.log.iter().filter(|sent| sent.moment == moment) {
            let from = unsynced();
            self.found.look(Order::FlushBeforeSend, from.is_none_or(|from| from >= sent.end), || {
                format!("log up to {} was sent at {moment:?}, unsynced from {from:?} on", sent.end)
            });
        }
        for report in self.messages.reports.iter().filter(|report| report.moment == moment) {
            let from = unsynced();
            self.found.look(Order::FlushBeforeReport, from.is_none_or(|from| from >= report.flush), || {
                format!("{} was reported at {moment:?}, unsynced from {from:?} on", report.flush)
            });
        }
    }
}

/// The unique word with which a body begins: `v1.23.`.
pub fn token(body: &str) -> Option<&str> {
    let mut dots = body.match_indices('.');
    let (_, second) = (dots.next()?, dots.next()?);
    body.starts_with('v').then(|| &body[..=second.0])
}

/// The words in some bytes, with their offsets.
fn tokens(bytes: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    let at_v = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'v').map(|(at, _)| at);
    at_v.filter_map(|at| {
        let rest = &bytes[at + 1..bytes.len().min(at + 24)];
        let mut dots = rest.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
        let (first, second) = (dots.next()?, dots.next()?);
        let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        let is_token = digits(&rest[..first]) && digits(&rest[first + 1..second]);
        let text = str::from_utf8(&bytes[at..at + second + 2]).ok()?;
        is_token.then_some((at, text))
    })
}

/// Where each word was first written to the files that `start` knows, which also says where in the log such a file begins.
fn places(trace: &Trace, start: impl Fn(&Path) -> Option<Lsn>) -> HashMap<String, Place> {
    let mut found: HashMap<String, (Place, &Path)> = HashMap::new();
    for operation in &trace.operations {
        let Call::Write { path, offset, bytes } = &operation.call else { continue };
        let (Some(start), Some(ended)) = (start(path), operation.success()) else { continue };
        for (at, token) in tokens(bytes) {
            if !found.contains_key(token) {
                let lsn = start + (offset + at as u64);
                let place = Place { ended, begin: operation.begin, durable: None, lsn };
                found.insert(token.to_owned(), (place, path));
            }
        }
    }
    let mut syncs: HashMap<&Path, Vec<(Moment, Moment)>> = HashMap::new();
    for operation in &trace.operations {
        if let (Call::Sync { path }, Some(end)) = (&operation.call, operation.success()) {
            syncs.entry(path).or_default().push((operation.begin, end));
        }
    }
    for (place, path) in found.values_mut() {
        let covering = syncs.get(*path).into_iter().flatten().filter(|(begin, _)| *begin > place.ended);
        place.durable = covering.map(|(_, end)| *end).min();
    }
    found.into_iter().map(|(token, (place, _))| (token, place)).collect()
}

/// The position in the log at which a file of it begins.
fn segment_start(path: &Path) -> Option<Lsn> {
    let name = path.strip_prefix(PG_WAL).ok()?.to_str()?;
    let (_, number) = parse_file_name(name, segment_size())?;
    Some(Lsn(number.0 * SEGMENT_SIZE))
}

/// What a name stands for after a power loss at once.
fn durable_inode(disk: &Disk, path: &Path) -> Option<Inode> {
    path.iter().try_fold(ROOT, |inode, name| disk.node(inode).durable.get(name.to_str()?).copied())
}

fn is_name_durable(disk: &Disk, path: &Path) -> bool {
    durable_inode(disk, path).is_some_and(|inode| disk.find(path) == Some(inode))
}

fn durable_content(disk: &Disk, path: &Path) -> Option<Vec<u8>> {
    durable_inode(disk, path).map(|inode| disk.node(inode).base.to_vec())
}

/// Segments with their nodes.
fn segments(disk: &Disk) -> impl Iterator<Item = (Lsn, &Node)> {
    let directory = disk.find(Path::new(PG_WAL));
    let names = directory.into_iter().flat_map(|inode| disk.names_in(inode));
    names.filter_map(|(name, inode)| Some((segment_start(&Path::new(PG_WAL).join(name))?, disk.node(inode))))
}

/// The first segment that processes see, and the last one that may be there after a power loss.
fn ends_of_log(disk: &Disk) -> (Option<Lsn>, Option<Lsn>) {
    let start = |name: &String| segment_start(&Path::new(PG_WAL).join(name));
    let durable = disk.find(Path::new(PG_WAL)).map(|inode| disk.node(inode).durable.keys());
    let durable = durable.into_iter().flatten().filter_map(start).max();
    let seen = || segments(disk).map(|(start, _)| start);
    (seen().min(), seen().max().max(durable))
}

/// The first position of the log at which a process reads something else than what is durable.
fn first_unsynced(disk: &Disk) -> Option<Lsn> {
    let first = |(start, node): (Lsn, &Node)| {
        let offsets = node.pending.iter().filter_map(|pending| {
            let Change::Write { offset, bytes } = &pending.change else { return Some(0) };
            let durable = node.base.get(usize::try_from(*offset).ok()?..).unwrap_or_default();
            let same = bytes.iter().zip(durable).take_while(|(new, old)| new == old).count();
            (same < bytes.len()).then_some(*offset + same as u64)
        });
        offsets.min().map(|offset| start + offset)
    };
    segments(disk).filter_map(first).min()
}

/// What of the log an earlier life wrote and nobody has synced.
fn left_unsynced(disk: &Disk) -> Option<Lsn> {
    let of_before = |moment: Moment| moment == Moment::default();
    let left = |node: &Node| node.pending.iter().any(|pending| of_before(pending.begin));
    segments(disk).filter(|(_, node)| left(node)).map(|(start, _)| start).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_among_bytes() {
        let bytes = b"v1.2.xxx vv3.45.v.1.2.v6.7 v8.v9.10.";
        let found: Vec<(usize, &str)> = tokens(bytes).collect();
        assert_eq!(found, [(0, "v1.2."), (10, "v3.45."), (30, "v9.10.")]);
        assert_eq!(token("v3.45.aaaa"), Some("v3.45."));
        assert_eq!(token("v45"), None);
    }

    #[test]
    fn a_word_is_durable_with_the_first_sync_that_began_behind_its_write() {
        let path = PathBuf::from("data/pg_wal/000000010000000000000003");
        let operation =
            |begin, end, call| Operation { pid: 1, begin: Moment(begin), end: Some((Moment(end), 0)), call };
        let sync = |begin, end| operation(begin, end, Call::Sync { path: path.clone() });
        let bytes = b"..v1.2.".as_slice().into();
        let write = operation(10, 15, Call::Write { path: path.clone(), offset: 100, bytes });
        let trace = Trace {
            operations: vec![sync(2, 20), write, sync(12, 17), sync(30, 40), sync(50, 60)],
            end: Moment(99),
        };
        let places = places(&trace, segment_start);
        let place = places["v1.2."];
        assert_eq!(place.durable, Some(Moment(40)));
        assert_eq!(place.lsn, Lsn(3 * SEGMENT_SIZE + 102));
    }
}
