//! What must be on a disk and what may be, at any moment of a trace: see [`super`] for the kind of disk.
//!
//! How to use it: feed [`Disk::begin`] and [`Disk::end`] in the order of the moments, and look at any time. Between the
//! lives of a node ask [`Disk::settle`] to learn from the real files what became of calls that a killed process had
//! begun; it also proves that the recording explains every byte.
//!
//! Invariants:
//! - `base` of a file and `durable` of a directory are what every image has at least; the changes that are pending, in
//!   their order, may come on top. `base` with all of them is what a process reads.
//! - A change is folded into the base only by a sync that began after the change had ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::trace::{Call, Moment, Operation, Trace, is_rebuilt};

/// Number of a file or directory, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(usize);

/// What happened to a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bytes at an offset.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Rc<[u8]>,
    },
    /// A new size.
    Truncate {
        /// Bytes.
        length: u64,
    },
}

impl Change {
    /// Applies it to a file's content.
    pub fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let offset = usize::try_from(*offset).unwrap();
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset..end].copy_from_slice(bytes);
            }
            Change::Truncate { length } => content.resize(usize::try_from(*length).unwrap(), 0),
        }
    }
}

/// A change that no sync has covered yet.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The call.
    pub begin: Moment,
    /// Whether the call has ended.
    pub ended: bool,
    /// A sync that should have covered it has failed: the kernel takes its pages for written, and no later sync writes
    /// them unless somebody writes to them again.
    pub dropped: bool,
    /// What it does.
    pub change: Change,
}

impl Pending {
    /// What the file was cut to at this length leaves of it; false: nothing.
    fn cut_to(&mut self, length: u64) -> bool {
        let Change::Write { offset, bytes } = &mut self.change else { return true };
        let left = usize::try_from(length.saturating_sub(*offset)).unwrap();
        if left < bytes.len() {
            *bytes = Rc::from(&bytes[..left]);
        }
        left > 0
    }

    /// A write, page by page.
    fn by_page(&self) -> Vec<(u64, Pending)> {
        let Change::Write { offset, bytes } = &self.change else { return Vec::new() };
        let end = offset + bytes.len() as u64;
        let part = |page: u64| {
            let (from, to) = ((page * PAGE).max(*offset), ((page + 1) * PAGE).min(end));
            let range = usize::try_from(from - offset).unwrap()..usize::try_from(to - offset).unwrap();
            let change = Change::Write { offset: from, bytes: Rc::from(&bytes[range]) };
            (page, Pending { change, ..self.clone() })
        };
        pages(&self.change).map(part).collect()
    }
}

/// Of the page cache.
const PAGE: u64 = 4096;

/// The pages that a write touches.
fn pages(change: &Change) -> std::ops::Range<u64> {
    match change {
        Change::Write { offset, bytes } if !bytes.is_empty() => {
            offset / PAGE..(offset + bytes.len() as u64).div_ceil(PAGE)
        }
        _ => 0..0,
    }
}

/// A change of names that is not durable yet; it comes whole or not at all.
#[derive(Clone, Debug)]
pub struct NameChange {
    /// The call.
    pub begin: Moment,
    /// Whether the call has ended.
    pub ended: bool,
    /// Directory, name, and what the name stands for from now on.
    pub edits: Vec<(Inode, String, Option<Inode>)>,
    /// Directories whose sync is still wanted.
    unsynced: BTreeSet<Inode>,
}

impl NameChange {
    /// Whether both concern one name.
    pub fn conflicts(&self, other: &NameChange) -> bool {
        self.edits.iter().any(|(dir, name, _)| other.edits.iter().any(|(d, n, _)| d == dir && n == name))
    }
}

/// A file or a directory.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Whether it has names instead of bytes.
    pub is_directory: bool,
    /// Names that are durable.
    pub durable: BTreeMap<String, Inode>,
    /// Names that processes see.
    seen: BTreeMap<String, Inode>,
    /// Bytes that are durable.
    pub base: Rc<Vec<u8>>,
    /// Changes that are not, by begin.
    pub pending: Vec<Pending>,
}

impl Node {
    /// The bytes that processes read.
    pub fn content(&self) -> Vec<u8> {
        let mut content = self.base.to_vec();
        self.pending.iter().for_each(|pending| pending.change.apply(&mut content));
        content
    }
}

/// What a call under way will have done when it ends.
#[derive(Debug)]
enum Effect {
    /// A change of the content of a file.
    Content(Inode),
    /// A change of names.
    Names,
    /// Both: an open that makes or empties a file.
    Opened(Option<Inode>),
    /// A sync: which changes it covers.
    Sync(Inode, Vec<Moment>),
}

/// The disk.
#[derive(Debug)]
pub struct Disk {
    nodes: Vec<Node>,
    /// Changes of names that are not durable, by begin.
    pub names: Vec<NameChange>,
    under_way: HashMap<Moment, Effect>,
    /// Syncs that have ended well, by path: for those who want to know whether there were any.
    pub syncs: u64,
}

/// The scope itself.
pub const ROOT: Inode = Inode(0);

impl Disk {
    /// A disk on which everything in `files` is durable; a path with None is a directory. Directories come before what is
    /// in them.
    pub fn new(files: &BTreeMap<PathBuf, Option<Vec<u8>>>) -> Disk {
        let root = Node { is_directory: true, ..Node::default() };
        let mut disk = Disk { nodes: vec![root], names: Vec::new(), under_way: HashMap::new(), syncs: 0 };
        for (path, content) in files {
            let inode = Inode(disk.nodes.len());
            let is_directory = content.is_none();
            let base = Rc::new(content.clone().unwrap_or_default());
            disk.nodes.push(Node { is_directory, base, ..Node::default() });
            let (directory, name) = disk.place(path).expect("directories come first");
            disk.nodes[directory.0].durable.insert(name.clone(), inode);
            disk.nodes[directory.0].seen.insert(name, inode);
        }
        disk
    }

    /// A file or directory.
    pub fn node(&self, inode: Inode) -> &Node {
        &self.nodes[inode.0]
    }

    /// What processes find in a directory.
    pub fn names_in(&self, directory: Inode) -> impl Iterator<Item = (&String, Inode)> {
        self.nodes[directory.0].seen.iter().map(|(name, inode)| (name, *inode))
    }

    /// What processes find under a path.
    pub fn find(&self, path: &Path) -> Option<Inode> {
        path.iter().try_fold(ROOT, |inode, name| self.nodes[inode.0].seen.get(name.to_str()?).copied())
    }

    fn place(&self, path: &Path) -> Option<(Inode, String)> {
        let directory = self.find(path.parent()?)?;
        Some((directory, path.file_name()?.to_str()?.to_owned()))
    }

    /// The call begins: from now on what it does may be on disk.
    pub fn begin(&mut self, operation: &Operation) -> Result<(), String> {
        // A call that fails changes nothing, but for a sync; one that never ended may have.
        let is_sync = matches!(operation.call, Call::Sync { .. });
        if operation.end.is_some() && operation.success().is_none() && !is_sync {
            return Ok(());
        }
        match self.effect(operation) {
            Ok(Some(effect)) => {
                self.under_way.insert(operation.begin, effect);
                Ok(())
            }
            Ok(None) => Ok(()),
            // Its process died within; it might have come to nothing.
            Err(_) if operation.end.is_none() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Does what the call does; what remains to be done at its end.
    fn effect(&mut self, operation: &Operation) -> Result<Option<Effect>, String> {
        let begin = operation.begin;
        let effect = match &operation.call {
            Call::Send { .. } => return Ok(None),
            Call::Open { path, create, truncate } => self.open(begin, path, *create, *truncate)?,
            Call::Write { path, offset, bytes } => {
                let written =
                    operation.end.map_or(bytes.len(), |(_, result)| usize::try_from(result).unwrap_or(0));
                let bytes =
                    if written < bytes.len() { Rc::from(&bytes[..written]) } else { Rc::clone(bytes) };
                Effect::Content(self.change(begin, path, Change::Write { offset: *offset, bytes })?)
            }
            Call::Truncate { path, length } => {
                Effect::Content(self.change(begin, path, Change::Truncate { length: *length })?)
            }
            Call::Sync { path } => {
                let inode = self.known(path)?;
                Effect::Sync(inode, self.covered(inode))
            }
            Call::Rename { from, to } => self.rename(begin, from, to)?,
            Call::Link { from, to } => {
                let inode = self.known(from)?;
                self.edit(begin, &[(to, Some(inode))])?
            }
            // A socket's name appears without a call of those that are traced.
            Call::Remove { path } if self.find(path).is_none() && is_socket(path) => return Ok(None),
            Call::Remove { path } => {
                self.known(path)?;
                self.edit(begin, &[(path, None)])?
            }
            Call::MakeDirectory { path } => {
                let inode = self.add(true);
                self.edit(begin, &[(path, Some(inode))])?
            }
        };
        Ok(Some(effect))
    }

    /// The call ends: a sync that begins from now on covers it; what it synced is durable.
    pub fn end(&mut self, operation: &Operation) {
        match self.under_way.remove(&operation.begin) {
            None => {}
            Some(Effect::Content(inode)) => self.note_content_ended(inode, operation.begin),
            Some(Effect::Names) => self.note_names_ended(operation.begin),
            Some(Effect::Opened(inode)) => {
                self.note_names_ended(operation.begin);
                inode.into_iter().for_each(|inode| self.note_content_ended(inode, operation.begin));
            }
            Some(Effect::Sync(inode, covered)) if operation.success().is_some() => self.sync(inode, &covered),
            Some(Effect::Sync(inode, covered)) => self.drop_pages(inode, &covered),
        }
    }

    fn note_content_ended(&mut self, inode: Inode, begin: Moment) {
        let pending = &mut self.nodes[inode.0].pending;
        pending.iter_mut().filter(|pending| pending.begin == begin).for_each(|pending| pending.ended = true);
    }

    fn note_names_ended(&mut self, begin: Moment) {
        self.names.iter_mut().filter(|change| change.begin == begin).for_each(|change| change.ended = true);
    }

    fn known(&self, path: &Path) -> Result<Inode, String> {
        self.find(path).ok_or_else(|| format!("{} is not known to be there", path.display()))
    }

    fn add(&mut self, is_directory: bool) -> Inode {
        self.nodes.push(Node { is_directory, ..Node::default() });
        Inode(self.nodes.len() - 1)
    }

    fn open(&mut self, begin: Moment, path: &Path, create: bool, truncate: bool) -> Result<Effect, String> {
        match self.find(path) {
            Some(inode) if truncate && !self.node(inode).content().is_empty() => {
                self.change(begin, path, Change::Truncate { length: 0 })?;
                Ok(Effect::Opened(Some(inode)))
            }
            Some(_) => Ok(Effect::Opened(None)),
            None if create => {
                let inode = self.add(false);
                self.edit(begin, &[(path, Some(inode))])?;
                Ok(Effect::Opened(None))
            }
            None => Err(format!("{} is not known to be there", path.display())),
        }
    }

    fn change(&mut self, begin: Moment, path: &Path, change: Change) -> Result<Inode, String> {
        let inode = self.known(path)?;
        self.nodes[inode.0].pending.push(Pending { begin, ended: false, dropped: false, change });
        Ok(inode)
    }

    fn rename(&mut self, begin: Moment, from: &Path, to: &Path) -> Result<Effect, String> {
        let inode = self.known(from)?;
        self.edit(begin, &[(from, None), (to, Some(inode))])
    }

    fn edit(&mut self, begin: Moment, edits: &[(&Path, Option<Inode>)]) -> Result<Effect, String> {
        let mut placed = Vec::new();
        for (path, inode) in edits {
            let place = self.place(path);
            let (directory, name) = place.ok_or_else(|| format!("{} has no directory", path.display()))?;
            set(&mut self.nodes[directory.0].seen, &name, *inode);
            placed.push((directory, name, *inode));
        }
        let unsynced = placed.iter().map(|(directory, ..)| *directory).collect();
        self.names.push(NameChange { begin, ended: false, edits: placed, unsynced });
        Ok(Effect::Names)
    }

    /// The changes that a sync which begins now covers.
    fn covered(&self, inode: Inode) -> Vec<Moment> {
        let names = self.names.iter().filter(|change| change.ended && change.unsynced.contains(&inode));
        let bytes = self.nodes[inode.0].pending.iter().filter(|pending| pending.ended);
        names.map(|change| change.begin).chain(bytes.map(|pending| pending.begin)).collect()
    }

    /// A sync has failed: what it covers is as lost as if it had never been written, though processes still read it.
    fn drop_pages(&mut self, inode: Inode, covered: &[Moment]) {
        for pending in &mut self.nodes[inode.0].pending {
            let is_write = matches!(pending.change, Change::Write { .. });
            pending.dropped |= is_write && covered.contains(&pending.begin);
        }
    }

    fn sync(&mut self, inode: Inode, covered: &[Moment]) {
        self.syncs += 1;
        let node = &mut self.nodes[inode.0];
        let is_folded = |pending: &Pending| covered.contains(&pending.begin) && !pending.dropped;
        let folded = node.pending.iter().filter(|pending| is_folded(pending));
        let written: BTreeSet<u64> = folded.flat_map(|pending| pages(&pending.change)).collect();
        if !node.pending.is_empty() {
            let base = Rc::make_mut(&mut node.base);
            let mut left = Vec::new();
            for pending in node.pending.drain(..) {
                if is_folded(&pending) {
                    if let Change::Truncate { length } = pending.change {
                        left.retain_mut(|earlier: &mut Pending| earlier.cut_to(length));
                    }
                    pending.change.apply(base);
                } else if pending.dropped {
                    // Pages are written whole: with what was written to them again goes what was dropped.
                    for (page, part) in pending.by_page() {
                        if written.contains(&page) {
                            part.change.apply(base);
                        } else {
                            left.push(part);
                        }
                    }
                } else {
                    left.push(pending);
                }
            }
            node.pending = left;
        }
        for change in &mut self.names {
            if covered.contains(&change.begin) {
                change.unsynced.remove(&inode);
            }
        }
        self.fold_names();
    }

    /// Makes durable what waits for no directory any more, and before it what the same names went through before, and what the
    /// other names of that did: a file that was made, renamed and removed has gone by both of its names.
    fn fold_names(&mut self) {
        while let Some(mut next) = self.names.iter().rposition(|change| change.unsynced.is_empty()) {
            let earlier =
                |at: usize| self.names[..at].iter().position(|change| change.conflicts(&self.names[at]));
            while let Some(before) = earlier(next) {
                next = before;
            }
            let change = self.names.remove(next);
            for (directory, name, inode) in &change.edits {
                set(&mut self.nodes[directory.0].durable, name, *inode);
            }
        }
    }

    /// Applies a whole life, then [`Disk::settle`]s.
    pub fn live(&mut self, trace: &Trace, scope: &Path) -> Result<(), String> {
        for (moment, operation) in trace.events() {
            if moment == operation.begin {
                self.begin(operation)?;
            } else {
                self.end(operation);
            }
        }
        self.settle(scope)
    }

    /// Every file and directory that processes see, by path.
    pub fn seen(&self) -> BTreeMap<PathBuf, Inode> {
        let mut found = BTreeMap::new();
        let mut left = vec![(PathBuf::new(), ROOT)];
        while let Some((path, inode)) = left.pop() {
            for (name, inode) in &self.nodes[inode.0].seen {
                found.insert(path.join(name), *inode);
                left.push((path.join(name), *inode));
            }
        }
        found
    }

    /// After all processes have gone: learns from the real files under `scope` what became of the calls that were under
    /// way, then checks that the model explains every byte.
    pub fn settle(&mut self, scope: &Path) -> Result<(), String> {
        let real =
            read_tree(scope).map_err(|error| format!("could not read {}: {error}", scope.display()))?;
        let mut under_way: Vec<(Moment, Effect)> = self.under_way.drain().collect();
        under_way.sort_by_key(|(begin, _)| *begin);
        for (begin, effect) in under_way {
            if let Effect::Names | Effect::Opened(_) = effect {
                self.settle_names(begin, &real);
            }
        }
        self.rebuild_seen();
        for (path, inode) in self.seen() {
            if let Some(Some(content)) = real.get(&path) {
                settle_content(&mut self.nodes[inode.0], content);
                if path.parent().is_some_and(|directory| directory.ends_with("pg_wal")) {
                    adopt_late_bytes(&mut self.nodes[inode.0], content);
                }
            }
        }
        // Nothing is under way any more, nor will a later life's moments meet those of this one.
        self.names.iter_mut().for_each(|change| change.begin = Moment::default());
        for node in &mut self.nodes {
            node.pending.iter_mut().for_each(|pending| pending.begin = Moment::default());
        }
        self.compare(&real)
    }

    /// Keeps a change of names that was under way if its result is there.
    fn settle_names(&mut self, begin: Moment, real: &BTreeMap<PathBuf, Option<Vec<u8>>>) {
        let paths: HashMap<Inode, PathBuf> =
            self.seen().into_iter().map(|(path, inode)| (inode, path)).collect();
        let path_of = |inode: &Inode| paths.get(inode).cloned().unwrap_or_default();
        self.names.retain_mut(|change| {
            let there = |(directory, name, inode): &(Inode, String, Option<Inode>)| {
                real.contains_key(&path_of(directory).join(name)) == inode.is_some()
            };
            let keep = change.begin != begin || change.edits.iter().all(there);
            change.ended |= change.begin == begin;
            keep
        });
    }

    fn rebuild_seen(&mut self) {
        for node in &mut self.nodes {
            node.seen = node.durable.clone();
        }
        for change in &self.names {
            for (directory, name, inode) in &change.edits {
                set(&mut self.nodes[directory.0].seen, name, *inode);
            }
        }
    }

    fn compare(&self, real: &BTreeMap<PathBuf, Option<Vec<u8>>>) -> Result<(), String> {
        let seen = self.seen();
        for (path, content) in real {
            let inode = seen.get(path).ok_or_else(|| format!("no call has made {}", path.display()))?;
            let node = self.node(*inode);
            let Some(content) = content else {
                if node.is_directory {
                    continue;
                }
                return Err(format!("{} has become a directory", path.display()));
            };
            let known = node.content();
            if !is_rebuilt(path) && known != *content {
                let same = known.iter().zip(content).take_while(|(known, real)| known == real).count();
                let differing = known.iter().zip(content).filter(|(known, real)| known != real).count();
                return Err(format!(
                    "{} of {} bytes is not what the calls have made of it, {} bytes: {differing} bytes differ from {same} on",
                    path.display(),
                    content.len(),
                    known.len()
                ));
            }
        }
        match seen.keys().find(|path| !real.contains_key(*path)) {
            Some(path) => Err(format!("no call has removed {}", path.display())),
            None => Ok(()),
        }
    }
}

/// Cuts a write that was under way to what of it has reached the file.
fn settle_content(node: &mut Node, real: &[u8]) {
    let mut settled = Vec::new();
    for mut pending in std::mem::take(&mut node.pending) {
        if !pending.ended {
            pending.ended = true;
            match &mut pending.change {
                Change::Write { offset, bytes } => {
                    let there = real.get(usize::try_from(*offset).unwrap()..).unwrap_or_default();
                    let same = bytes.iter().zip(there).take_while(|(wanted, found)| wanted == found).count();
                    *bytes = Rc::from(&bytes[..same]);
                }
                Change::Truncate { length } if *length != real.len() as u64 => continue,
                Change::Truncate { .. } => {}
            }
        }
        settled.push(pending);
    }
    node.pending = settled;
}

/// The log is written from memory that is shared: a record may come into a page, where zeros were, between the moment at
/// which strace reads the page and the one at which the kernel does. Nobody was told of such a record, or a later write would
/// bring it. It counts as written and not synced.
fn adopt_late_bytes(node: &mut Node, real: &[u8]) {
    let known = node.content();
    if known.len() != real.len() {
        return;
    }
    let late: Vec<usize> = (0..real.len()).filter(|at| known[*at] == 0 && real[*at] != 0).collect();
    let (Some(first), Some(last)) = (late.first(), late.last()) else { return };
    // Zeros of the record itself may stand between.
    let change = Change::Write { offset: *first as u64, bytes: Rc::from(&real[*first..=*last]) };
    if *last < first + LATE_MAX && known[*first..=*last].iter().all(|byte| *byte == 0) {
        node.pending.push(Pending { begin: Moment::default(), ended: true, dropped: false, change });
    }
}

/// The pages of one write of the log, at most: that much may have come late.
const LATE_MAX: usize = 1 << 20;

fn set(names: &mut BTreeMap<String, Inode>, name: &str, inode: Option<Inode>) {
    match inode {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

fn is_socket(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".s.PGSQL."))
}

/// Everything under a directory but sockets: bytes of files, None for directories.
pub fn read_tree(root: &Path) -> io::Result<BTreeMap<PathBuf, Option<Vec<u8>>>> {
    let mut tree = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(root.join(&path))? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, path.join(entry.file_name()));
            if kind.is_dir() {
                tree.insert(path.clone(), None);
                left.push(path);
            } else if kind.is_file() {
                tree.insert(path, Some(fs::read(entry.path())?));
            }
        }
    }
    Ok(tree)
}

#[cfg(test)]
mod tests;
