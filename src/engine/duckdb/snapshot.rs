//! A full copy of the main file, slice by slice, each page proven by the page map.

use std::time::Duration;

use super::source::DuckdbSource;
use crate::checksum::page_hash;
use crate::engine::{EngineError, ExtentSink, Progress, SNAPSHOT_SLICE_BYTES, SnapshotStart};
use crate::extent::{Extent, FileId};
use crate::position::Txid;

/// How often a page that is not as in the page map is read again at once: it may be under rewriting.
const RETRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// Where the copy stands: the offset of the next slice.
#[derive(Debug, Default)]
pub struct Copy {
    next: u64,
}

impl DuckdbSource {
    pub(super) fn start_copy(&mut self) -> Result<SnapshotStart, EngineError> {
        if self.txid == Txid::ZERO {
            return Err(EngineError::Busy("the database has not been read once yet".into()));
        }
        self.copy = Copy::default();
        Ok(SnapshotStart { total: self.main_len(), grid: self.map.grid(), base: Some(self.iteration_began()) })
    }

    /// The commit with which the newest iteration began. A full copy holds no WAL: what was committed since then has to be
    /// laid over it.
    fn iteration_began(&self) -> Txid {
        Txid(self.txid.0.saturating_sub(self.since_flip))
    }

    pub(super) fn copy_slice(&mut self, sink: &mut dyn ExtentSink) -> Result<Progress, EngineError> {
        let (grid, start, total) = (self.map.grid(), self.copy.next, self.main_len());
        if start >= total {
            return Ok(Progress::Done);
        }
        // Slices hold whole pages, so their bounds are shifted by the headers. They are the same in every copy.
        let bounds = start.saturating_sub(u64::from(grid.head)) / SNAPSHOT_SLICE_BYTES + 1;
        let end = total.min(u64::from(grid.head) + bounds * SNAPSHOT_SLICE_BYTES);
        let mut slice = vec![0; (end - start) as usize];
        let mut pages = Vec::new();
        for page in grid.page_at(start)..grid.pages(end) {
            if self.map.get(page) == 0 {
                continue;
            }
            let offset = grid.offset(page);
            let place = (offset - start) as usize;
            let data = &mut slice[place..place + grid.len(page) as usize];
            if !self.read_page(page, data)? {
                return Err(self.not_as_captured(page)?);
            }
            pages.push((offset, place, grid.len(page) as usize));
        }
        for (offset, place, len) in pages {
            sink.extent(Extent { file: FileId::Main, offset, data: &slice[place..place + len] })?;
        }
        self.copy.next = end;
        Ok(Progress::Slice { start, end, total })
    }

    /// Reads a page until it is as of the last commit; `false` if it never is.
    fn read_page(&self, page: u64, data: &mut [u8]) -> Result<bool, EngineError> {
        let mut buffer = Vec::new();
        for attempt in 0..RETRIES {
            match page.checked_sub(1) {
                None => self.main.raw_head(&mut buffer)?,
                Some(block) => _ = self.main.block(self.map.grid(), block, &mut buffer)?,
            }
            if page_hash(page, &buffer) == self.map.get(page) {
                data.copy_from_slice(&buffer);
                return Ok(true);
            }
            if attempt + 1 < RETRIES {
                std::thread::sleep(RETRY_PAUSE);
            }
        }
        Ok(false)
    }

    /// Either the database moved on and the next poll captures it, or the next poll has to bring the page level.
    fn not_as_captured(&mut self, page: u64) -> Result<EngineError, EngineError> {
        let current = match &self.captured {
            Some(captured) => self.main.slots_are(&captured.head)?,
            None => false,
        };
        if current {
            self.unfit.insert(page);
        }
        Ok(EngineError::Busy(format!("page {page} is being changed; the next poll brings it")))
    }
}
