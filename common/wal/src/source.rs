//! Pages from the files of a [`SegmentStore`], along a timeline's history, up to a limit.
//!
//! A segment that holds a switch point exists on both timelines; the newer one's file is read, for it begins with a copy
//! of the older one's. The limit is what a standby has flushed: behind it may be anything.
//!
//! Where the newer one's file is not there yet, the older one's counts up to the switch point: what it holds behind that
//! never became part of the history.
//!
//! The file picked for a segment is kept until another segment is read. Whoever learns of a new timeline makes a new
//! source (and reader) with the new history.

use std::os::unix::fs::FileExt;

use crate::history::TimelineHistory;
use crate::lsn::Lsn;
use crate::page::PAGE_SIZE;
use crate::reader::{PageRead, PageSource, SourceError};
use crate::segment::{SegmentNumber, file_name};
use crate::store::{SegmentStore, StoreError};
use crate::timeline::TimelineId;

/// Reads pages from segment files.
#[derive(Debug)]
pub struct StoreSource {
    store: SegmentStore,
    history: TimelineHistory,
    limit: Lsn,
    /// The segment read last, and whose file it was.
    picked: Option<(SegmentNumber, TimelineId)>,
}

impl StoreSource {
    /// A source without a limit: every byte in the files is taken for what it is, as crash recovery must.
    pub fn new(store: SegmentStore, history: TimelineHistory) -> StoreSource {
        StoreSource { store, history, limit: Lsn::MAX, picked: None }
    }

    /// From now on only bytes before `limit` are there.
    pub fn set_limit(&mut self, limit: Lsn) {
        self.limit = limit;
    }

    /// Bytes before this are there.
    pub fn limit(&self) -> Lsn {
        self.limit
    }

    /// The store, for whoever goes on to write where the reader stopped.
    pub fn into_store(self) -> SegmentStore {
        self.store
    }

    fn timeline(&mut self, segment: SegmentNumber) -> Result<TimelineId, StoreError> {
        if let Some((picked, tli)) = self.picked
            && picked == segment
        {
            return Ok(tli);
        }
        let tli = self.store.timeline_of_segment(&self.history, segment)?;
        self.picked = Some((segment, tli));
        Ok(tli)
    }
}

impl PageSource for StoreSource {
    fn read_page(&mut self, page: Lsn, buffer: &mut [u8; PAGE_SIZE]) -> Result<PageRead, SourceError> {
        let size = self.store.segment_size();
        let valid = usize::try_from(self.limit.saturating_since(page)).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        if valid == 0 {
            return Ok(PageRead { valid, tli: self.history.tli_of_point(page) });
        }
        let (segment, offset) = (size.number_of(page), size.offset_of(page));
        let tli = self.timeline(segment).map_err(|error| match error.is_not_found() {
            true => SourceError::Missing(error.to_string()),
            false => SourceError::Io(error),
        })?;
        let switch_point = self.history.switch_point(tli).unwrap_or(Lsn::MAX);
        let valid = valid.min(usize::try_from(switch_point.saturating_since(page)).unwrap_or(PAGE_SIZE));
        let file = self.store.file(tli, segment).map_err(SourceError::Io)?;
        let name = || file_name(tli, segment, size);
        let mut read = 0;
        while read < PAGE_SIZE {
            match file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => {
                    let found = format!("read {read} of {PAGE_SIZE}");
                    let message =
                        format!("could not read from log segment {}, offset {offset}: {found}", name());
                    return Err(SourceError::Missing(message));
                }
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let context = format!("could not read from log segment {}, offset {offset}", name());
                    return Err(SourceError::Io(StoreError { context, source, lost_sync: false }));
                }
            }
        }
        Ok(PageRead { valid, tli })
    }
}
