//! A directory of segments and history files: pg_wal.
//!
//! How to use it: one store per process; it holds the segment used last open. Reading and writing are by position
//! (pread, pwrite), so a store's files may be shared over a fork. `file` and `open_or_create` lend the open file, for
//! whoever writes from shared memory itself.
//!
//! Invariants:
//! - A segment appears under its name only whole: zeros of full length, durable. It is written under the name
//!   `xlogtemp.PID` first, and never replaces a segment that is there (another process may have been faster).
//! - A history file is replaced as a whole and durably.
//! - Bytes that were read back after a crash may be in the page cache alone. [`SegmentStore::make_durable`] writes them
//!   again before anybody calls them flushed.
//!
//! An fsync that fails is for the caller to treat as fatal: the kernel may have dropped the bytes.
//!
//! Follows PostgreSQL 15 src/backend/access/transam/xlog.c (XLogFileInit, XLogFileCopy, XLogWrite) and timeline.c.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use failpoint::Site;

use crate::history::TimelineHistory;
use crate::lsn::Lsn;
use crate::page::PAGE_SIZE;
use crate::segment::{
    SegmentNumber, SegmentSize, file_name, history_file_name, parse_file_name, partial_file_name,
};
use crate::timeline::TimelineId;

/// The name under which a file is written before it gets its own, without the process id.
const TEMPORARY_PREFIX: &str = "xlogtemp.";
/// What Linux says when a disk is full.
const ENOSPC: i32 = 28;
/// What a new segment leaves of its disk: for the small files, whose replacement needs a block or two, 1 MiB.
pub const ROOM_LEFT: u64 = 1 << 20;
/// Zeros are written and bytes are copied in pieces of this size.
const COPY_SIZE: usize = 1 << 20;

/// A failed operation on a file of the log: what PostgreSQL would say, and the error itself.
#[derive(Debug)]
pub struct StoreError {
    /// What failed, with the path: `could not open file "pg_wal/000000010000000000000001"`.
    pub context: String,
    /// Why.
    pub source: io::Error,
    /// It was a sync of something that has its name already: what it should have made durable may never be, and no later
    /// sync would tell. A PANIC.
    pub lost_sync: bool,
}

impl StoreError {
    /// What to do about it: see [`hint`].
    pub fn hint(&self) -> &'static str {
        hint(&self.source)
    }

    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the disk (or the quota) is full, and nothing worse.
    pub fn is_full_disk(&self) -> bool {
        !self.lost_sync
            && matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.context, reason(&self.source))
    }
}

/// The system's text alone: Rust appends the error's number, PostgreSQL does not.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or(&text).to_owned()
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What to do about an error of a disk, as a line to follow the message; empty for other errors.
pub fn hint(error: &io::Error) -> &'static str {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => "\nHINT:  Check free disk space.",
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "\nHINT:  Mount the file system to be written to; the messages of the kernel say why it isn't."
        }
        (_, Some(EIO)) => "\nHINT:  Check the disk, and the messages of the kernel.",
        _ => "",
    }
}

/// What Linux says when a disk fails.
const EIO: i32 = 5;

/// What came of [`SegmentStore::adopt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The segment is complete and durable.
    Whole,
    /// The file differs there from what is here already; nothing was changed.
    Differs(Lsn),
}

/// A segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentFile {
    /// Its number (first in the order of segments).
    pub segment: SegmentNumber,
    /// Its timeline.
    pub tli: TimelineId,
}

/// A directory of segments and history files.
#[derive(Debug)]
pub struct SegmentStore {
    directory: PathBuf,
    segment_size: SegmentSize,
    current: Option<OpenSegment>,
    available: Option<Available>,
}

/// Tells how many bytes can still be written to the disk of a path.
pub type Available = fn(&Path) -> io::Result<u64>;

#[derive(Debug)]
struct OpenSegment {
    tli: TimelineId,
    segment: SegmentNumber,
    file: File,
}

impl SegmentStore {
    /// The store in `directory`, which should exist. Opens nothing yet.
    pub fn new(directory: impl Into<PathBuf>, segment_size: SegmentSize) -> SegmentStore {
        SegmentStore { directory: directory.into(), segment_size, current: None, available: None }
    }

    /// Makes a segment only where [`ROOM_LEFT`] remains beside it, as far as `available` knows. Without this a full disk
    /// is noticed too, but by filling it to its last byte, if only for a moment: at the cost of whoever else writes to it.
    pub fn leaving_room(self, available: Available) -> SegmentStore {
        SegmentStore { available: Some(available), ..self }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The size of its segments.
    pub fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// The open file of a segment that exists. It stays open until another segment is used.
    pub fn file(&mut self, tli: TimelineId, segment: SegmentNumber) -> Result<&File, StoreError> {
        let is_open = |open: &OpenSegment| open.tli == tli && open.segment == segment;
        if !self.current.as_ref().is_some_and(is_open) {
            self.current = None;
            let path = self.segment_path(tli, segment);
            let opened = OpenOptions::new().read(true).write(true).open(&path);
            let file = opened.map_err(self.failed("open", &path))?;
            self.current = Some(OpenSegment { tli, segment, file });
        }
        Ok(&self.current.as_ref().expect("a segment was just opened").file)
    }

    /// The open file of a segment, made of zeros if there is none.
    pub fn open_or_create(&mut self, tli: TimelineId, segment: SegmentNumber) -> Result<&File, StoreError> {
        match self.file(tli, segment) {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {
                self.prepare_ahead(tli, segment)?;
            }
            Err(error) => return Err(error),
        }
        self.file(tli, segment)
    }

    /// Makes a segment of zeros if there is none, durably; says whether it made one. Leaves the open segment open.
    pub fn prepare_ahead(&mut self, tli: TimelineId, segment: SegmentNumber) -> Result<bool, StoreError> {
        let path = self.segment_path(tli, segment);
        if path.try_exists().map_err(self.failed("stat", &path))? {
            return Ok(false);
        }
        if !self.has_room_for_segment()? {
            return Err(self.no_room_for(tli, segment));
        }
        let temporary = self.zeroed_temporary(self.segment_size.bytes())?;
        let temporary = temporary.into_temp_path();
        let name = temporary.to_path_buf();
        let persist = || temporary.persist_noclobber(&path).map_err(|error| error.error);
        match failpoint::io(Site::SegmentRename, persist) {
            Ok(()) => self.sync_directory().map(|()| true),
            // Another process was faster; its segment is as good, and may already hold records.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.rename_failed(&name, &path, error)),
        }
    }

    /// The error of making a segment where there is no room, without an attempt.
    pub fn no_room_for(&self, tli: TimelineId, segment: SegmentNumber) -> StoreError {
        let path = self.segment_path(tli, segment);
        self.failed("extend", &path)(io::Error::from_raw_os_error(ENOSPC))
    }

    /// Writes `bytes` at `at` into the segments of `tli`, making those that are missing. Not durable until
    /// [`SegmentStore::sync`].
    pub fn write_at(&mut self, tli: TimelineId, at: Lsn, bytes: &[u8]) -> Result<(), StoreError> {
        let size = self.segment_size;
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (segment, offset) = (size.number_of(at), size.offset_of(at));
            let len = rest.len().min(usize::try_from(size.bytes() - offset).unwrap_or(usize::MAX));
            let (part, after) = rest.split_at(len);
            if let Err(source) = write_part(self.open_or_create(tli, segment)?, part, offset) {
                let name = file_name(tli, segment, size);
                let context = format!("could not write to log file {name} at offset {offset}, length {len}");
                return Err(StoreError { context, source, lost_sync: false });
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    /// Reads the bytes at `at` from the segments of `tli`, which must exist.
    pub fn read_at(&mut self, tli: TimelineId, at: Lsn, buffer: &mut [u8]) -> Result<(), StoreError> {
        let size = self.segment_size;
        let (mut at, mut rest) = (at, buffer);
        while !rest.is_empty() {
            let (segment, offset) = (size.number_of(at), size.offset_of(at));
            let len = rest.len().min(usize::try_from(size.bytes() - offset).unwrap_or(usize::MAX));
            let (part, after) = rest.split_at_mut(len);
            if let Err(source) = self.file(tli, segment)?.read_exact_at(part, offset) {
                let name = file_name(tli, segment, size);
                let context = format!("could not read from log segment {name}, offset {offset}");
                return Err(StoreError { context, source, lost_sync: false });
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    /// Makes what was written to a segment durable (fdatasync).
    pub fn sync(&mut self, tli: TimelineId, segment: SegmentNumber) -> Result<(), StoreError> {
        let path = self.segment_path(tli, segment);
        let file = self.file(tli, segment)?;
        let synced = failpoint::io(Site::LogSync, || file.sync_data());
        synced.map_err(|error| self.sync_failed(&path, error))
    }

    /// Makes the log from `from` to `to` durable although it may only have been read back from the page cache: writes
    /// the same bytes again and syncs each segment, then the directory. `history` says whose files.
    pub fn make_durable(&mut self, history: &TimelineHistory, from: Lsn, to: Lsn) -> Result<(), StoreError> {
        let size = self.segment_size;
        let mut at = from.page_start();
        let mut buffer = vec![0; COPY_SIZE];
        while at < to {
            let segment = size.number_of(at);
            let tli = self.timeline_of_segment(history, segment)?;
            let to_in_segment = to.min(size.first_byte(segment.next()));
            while at < to_in_segment {
                let len = buffer.len().min(usize::try_from(to_in_segment - at).unwrap_or(usize::MAX));
                let part = &mut buffer[..len];
                self.read_at(tli, at, part)?;
                self.write_at(tli, at, part)?;
                at += len as u64;
            }
            self.sync(tli, segment)?;
        }
        self.sync_directory()
    }

    /// Makes sure that nothing of `tli` is left after `end`: removes the segments after its own and zeros the rest of
    /// that, durably. Without this a stale record behind a new one of the same length would pass every check.
    ///
    /// The last segment goes first, each durably before the next: whatever crash comes between, no segment is left
    /// behind a gap, where it would look as if the log had gone on.
    pub fn clear_after(&mut self, tli: TimelineId, end: Lsn) -> Result<(), StoreError> {
        let size = self.segment_size;
        let last = size.number_before(end);
        let stale = self.list()?.into_iter().filter(|file| file.tli == tli && file.segment > last);
        for stale in stale.collect::<Vec<_>>().into_iter().rev() {
            self.remove(tli, stale.segment)?;
            self.sync_directory()?;
        }
        let mut at = end;
        let segment_end = size.first_byte(last.next());
        if at >= segment_end {
            return Ok(());
        }
        let zeros = vec![0; COPY_SIZE];
        while at < segment_end {
            let len = zeros.len().min(usize::try_from(segment_end - at).unwrap_or(usize::MAX));
            self.write_at(tli, at, &zeros[..len])?;
            at += len as u64;
        }
        self.sync(tli, last)
    }

    /// Makes the file at `path` (in this directory, of a whole segment's size) the segment of `tli`, durably. Everything
    /// before `have` is here already, and must be the same there. A segment that exists is completed in place: others
    /// may have it open.
    pub fn adopt(
        &mut self,
        path: &Path,
        tli: TimelineId,
        segment: SegmentNumber,
        have: Lsn,
    ) -> Result<Adopted, StoreError> {
        let from = File::open(path).map_err(self.failed("open", path))?;
        let own = self.segment_path(tli, segment);
        if !own.try_exists().map_err(self.failed("stat", &own))? {
            from.sync_all().map_err(self.failed("fsync", path))?;
            fs::rename(path, &own).map_err(|error| self.rename_failed(path, &own, error))?;
            return self.sync_directory().map(|()| Adopted::Whole);
        }
        let (start, end) =
            (self.segment_size.first_byte(segment), self.segment_size.first_byte(segment.next()));
        let (mut theirs, mut ours) = (vec![0; COPY_SIZE], vec![0; COPY_SIZE]);
        let mut at = start;
        while at < end {
            // Not across `have`: what is before it is compared, what is behind it written.
            let stop = if at < have { have.min(end) } else { end };
            let len = COPY_SIZE.min(usize::try_from(stop - at).unwrap_or(usize::MAX));
            let part = &mut theirs[..len];
            from.read_exact_at(part, at - start).map_err(self.failed("read", path))?;
            if at >= have {
                self.write_at(tli, at, part)?;
            } else {
                self.read_at(tli, at, &mut ours[..len])?;
                if let Some(differs) = part.iter().zip(&ours).position(|(theirs, ours)| theirs != ours) {
                    return Ok(Adopted::Differs(at + differs as u64));
                }
            }
            at += len as u64;
        }
        self.sync(tli, segment)?;
        fs::remove_file(path).map_err(self.failed("remove", path)).map(|()| Adopted::Whole)
    }

    /// Makes the first segment of timeline `new`, which forks off `old` at `switch_point`: what `old`'s segment holds
    /// before that point, then zeros. Replaces what an earlier attempt may have left.
    pub fn begin_timeline(
        &mut self,
        old: TimelineId,
        new: TimelineId,
        switch_point: Lsn,
    ) -> Result<(), StoreError> {
        let size = self.segment_size;
        let segment = size.number_of(switch_point);
        let copied = size.offset_of(switch_point);
        let temporary = self.temporary()?;
        let mut buffer = vec![0; COPY_SIZE];
        for offset in (0..size.bytes()).step_by(COPY_SIZE) {
            let (from_old, zeros) =
                buffer.split_at_mut(copied.saturating_sub(offset).min(COPY_SIZE as u64) as usize);
            if !from_old.is_empty() {
                self.read_at(old, size.first_byte(segment) + offset, from_old)?;
            }
            zeros.fill(0);
            let written = temporary.as_file().write_all_at(&buffer, offset);
            written.map_err(self.failed("write to", temporary.path()))?;
        }
        temporary.as_file().sync_all().map_err(self.failed("fsync", temporary.path()))?;
        self.current = None;
        self.persist(temporary, &self.segment_path(new, segment))
    }

    /// Removes the segments of timelines newer than `tli`, durably: what a switch that was never completed left.
    pub fn remove_newer_timelines(&mut self, tli: TimelineId) -> Result<(), StoreError> {
        let newer: Vec<_> = self.list()?.into_iter().filter(|file| file.tli > tli).collect();
        for file in &newer {
            self.remove(file.tli, file.segment)?;
        }
        if newer.is_empty() { Ok(()) } else { self.sync_directory() }
    }

    /// Removes the segments of `tli` that begin at or after `switch_point`, where it was left for another timeline.
    pub fn remove_from(&mut self, tli: TimelineId, switch_point: Lsn) -> Result<(), StoreError> {
        let size = self.segment_size;
        let is_beyond = |file: &SegmentFile| file.tli == tli && size.first_byte(file.segment) >= switch_point;
        for file in self.list()?.into_iter().filter(is_beyond) {
            self.remove(tli, file.segment)?;
        }
        self.sync_directory()
    }

    /// Gives a segment that its timeline left incomplete the name of one, durably; that name.
    pub fn make_partial(&mut self, tli: TimelineId, segment: SegmentNumber) -> Result<String, StoreError> {
        self.current = None;
        let path = self.segment_path(tli, segment);
        let name = partial_file_name(tli, segment, self.segment_size);
        let partial = self.directory.join(&name);
        fs::rename(&path, &partial).map_err(|error| self.rename_failed(&path, &partial, error))?;
        self.sync_directory().map(|()| name)
    }

    /// The timeline whose file holds a segment of this history: the newest that has one and had begun by then.
    ///
    /// Fails as not found, naming the history's own timeline, when none has.
    pub fn timeline_of_segment(
        &mut self,
        history: &TimelineHistory,
        segment: SegmentNumber,
    ) -> Result<TimelineId, StoreError> {
        for (tli, begin) in history.newest_first() {
            if begin.is_valid() && segment < self.segment_size.number_of(begin) {
                continue;
            }
            match self.file(tli, segment) {
                Ok(_) => return Ok(tli),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.file(history.tli(), segment).map(|_| history.tli())
    }

    /// The segments, in the order of their numbers, then timelines.
    pub fn list(&self) -> Result<Vec<SegmentFile>, StoreError> {
        let mut segments: Vec<_> = self
            .names()?
            .iter()
            .filter_map(|name| parse_file_name(name, self.segment_size))
            .map(|(tli, segment)| SegmentFile { segment, tli })
            .collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// The segment of `tli` with the highest number, if it has any.
    pub fn highest(&self, tli: TimelineId) -> Result<Option<SegmentNumber>, StoreError> {
        let segments = self.list()?;
        Ok(segments.into_iter().rfind(|file| file.tli == tli).map(|file| file.segment))
    }

    /// Removes a segment. Not durable until [`SegmentStore::sync_directory`]; no harm if it comes back.
    pub fn remove(&mut self, tli: TimelineId, segment: SegmentNumber) -> Result<(), StoreError> {
        self.current = None;
        let path = self.segment_path(tli, segment);
        let removed = failpoint::io(Site::SegmentRemove, || fs::remove_file(&path));
        removed.map_err(self.failed("remove", &path))
    }

    /// Removes what processes left behind that died while they made a file. For the start of a node, when no other
    /// process has this store.
    pub fn remove_temporary(&self) -> Result<(), StoreError> {
        for name in self.names()?.iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
            let path = self.directory.join(name);
            fs::remove_file(&path).map_err(self.failed("remove", &path))?;
        }
        Ok(())
    }

    /// Makes names that appeared or vanished durable.
    pub fn sync_directory(&self) -> Result<(), StoreError> {
        let opened = File::open(&self.directory).map_err(self.failed("open", &self.directory))?;
        let synced = failpoint::io(Site::LogDirectory, || opened.sync_all());
        synced.map_err(|error| self.sync_failed(&self.directory, error))
    }

    /// The history of `tli`; `None` if there is no such file. A file that is no history is an error of kind InvalidData.
    pub fn read_history(&self, tli: TimelineId) -> Result<Option<TimelineHistory>, StoreError> {
        let path = self.directory.join(history_file_name(tli));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", &path)(error)),
        };
        // The reason is free text in any encoding: what is not UTF-8 in it may be lost.
        let parsed = TimelineHistory::parse(tli, &String::from_utf8_lossy(&text));
        let invalid = |error| self.failed("read", &path)(io::Error::new(io::ErrorKind::InvalidData, error));
        parsed.map(Some).map_err(invalid)
    }

    /// Writes a history file, durably.
    pub fn write_history(&self, history: &TimelineHistory) -> Result<(), StoreError> {
        let mut temporary = self.temporary()?;
        let written = temporary.write_all(history.format().as_bytes());
        written.map_err(self.failed("write to", temporary.path()))?;
        temporary.as_file().sync_all().map_err(self.failed("fsync", temporary.path()))?;
        self.persist(temporary, &self.directory.join(history_file_name(history.tli())))
    }

    /// The newest timeline that can be reached from `tli` by history files with numbers that follow without a gap: a new
    /// timeline's number is one higher.
    pub fn newest_timeline(&self, tli: TimelineId) -> Result<TimelineId, StoreError> {
        let mut newest = tli;
        while let Some(next) = newest.0.checked_add(1).map(TimelineId) {
            let path = self.directory.join(history_file_name(next));
            if !path.try_exists().map_err(self.failed("stat", &path))? {
                break;
            }
            newest = next;
        }
        Ok(newest)
    }

    fn segment_path(&self, tli: TimelineId, segment: SegmentNumber) -> PathBuf {
        self.directory.join(file_name(tli, segment, self.segment_size))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let unreadable = || {
            let context = format!("could not read directory \"{}\"", self.shown(&self.directory));
            move |source| StoreError { context, source, lost_sync: false }
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(unreadable())? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry.map_err(unreadable())?.file_name().into_string());
        }
        Ok(names)
    }

    /// An empty file under a temporary name, which is removed if it is dropped before it got its own.
    fn temporary(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        let pid = std::process::id().to_string();
        let path = self.directory.join(format!("{TEMPORARY_PREFIX}{pid}"));
        // Left by a dead process that had our number.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed("remove", &path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let mut builder = tempfile::Builder::new();
        let named = builder.prefix(TEMPORARY_PREFIX).suffix(&pid).rand_bytes(0);
        named.tempfile_in(&self.directory).map_err(self.failed("create", &path))
    }

    fn has_room_for_segment(&self) -> Result<bool, StoreError> {
        let Some(available) = self.available else { return Ok(true) };
        let available = available(&self.directory).map_err(self.failed("stat", &self.directory))?;
        Ok(available >= self.segment_size.bytes().saturating_add(ROOM_LEFT))
    }

    /// A temporary file of `bytes` zeros, durable. Zeros are written, not left out: a hole would need space (and could
    /// fail) when the log comes to be written.
    fn zeroed_temporary(&self, bytes: u64) -> Result<tempfile::NamedTempFile, StoreError> {
        let temporary = self.temporary()?;
        let zeros = vec![0; COPY_SIZE];
        for offset in (0..bytes).step_by(COPY_SIZE) {
            let written = failpoint::write(Site::SegmentWrite, zeros.len(), |part| {
                temporary.as_file().write_all_at(&zeros[part.clone()], offset + part.start as u64)
            });
            written.map_err(self.failed("write to", temporary.path()))?;
        }
        let synced = failpoint::io(Site::SegmentSync, || temporary.as_file().sync_all());
        synced.map_err(self.failed("fsync", temporary.path()))?;
        Ok(temporary)
    }

    /// Gives a temporary file its name, durably, replacing what is there.
    fn persist(&self, temporary: tempfile::NamedTempFile, path: &Path) -> Result<(), StoreError> {
        match temporary.into_temp_path().persist(path) {
            Ok(()) => self.sync_directory(),
            Err(error) => Err(self.rename_failed(&error.path, path, error.error)),
        }
    }

    fn rename_failed(&self, from: &Path, to: &Path, source: io::Error) -> StoreError {
        let context = format!("could not rename file \"{}\" to \"{}\"", self.shown(from), self.shown(to));
        StoreError { context, source, lost_sync: false }
    }

    fn sync_failed(&self, path: &Path, error: io::Error) -> StoreError {
        StoreError { lost_sync: true, ..self.failed("fsync", path)(error) }
    }

    /// Turns an io error of `operation` on `path` into one with PostgreSQL's words.
    fn failed(&self, operation: &str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let context = format!("could not {operation} file \"{}\"", self.shown(path));
        move |source| StoreError { context, source, lost_sync: false }
    }

    /// A path as PostgreSQL shows it, which runs in its data directory: `pg_wal/NAME`.
    fn shown(&self, path: &Path) -> String {
        let shown = match self.directory.parent() {
            Some(parent) => path.strip_prefix(parent).unwrap_or(path),
            None => path,
        };
        shown.display().to_string()
    }
}

/// As `write_all_at`.
fn write_part(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    failpoint::write(Site::LogWrite, bytes.len(), |part| {
        file.write_all_at(&bytes[part.clone()], offset + part.start as u64)
    })
}

const _: () = assert!(COPY_SIZE.is_multiple_of(PAGE_SIZE) && COPY_SIZE as u64 <= SegmentSize::MIN.bytes());
