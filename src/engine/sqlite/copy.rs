//! Slices of a full copy: each page as of the commit captured last when its slice is read.

use super::source::SqliteSource;
use crate::checksum::page_hash;
use crate::engine::{EngineError, ExtentSink, Progress, SNAPSHOT_SLICE_BYTES};
use crate::extent::{Extent, FileId};

/// Bytes of the file read at once.
const READ_BYTES: u64 = 1 << 20;

impl SqliteSource {
    pub(super) fn copy_slice(&mut self, sink: &mut dyn ExtentSink) -> Result<Progress, EngineError> {
        let total = self.history.position.length();
        let Some(start) = self.copied.filter(|&start| start < total) else {
            self.copied = None;
            return Ok(Progress::Done);
        };
        let end = total.min(start + SNAPSHOT_SLICE_BYTES);
        let mut buffer = Vec::new();
        let mut at = start;
        while at < end {
            let length = READ_BYTES.min(end - at);
            buffer.resize(length as usize, 0);
            self.hold.reader().read_main(at, &mut buffer)?;
            self.copy_pages(at, &mut buffer, sink)?;
            at += length;
        }
        // A short slice is the last, even if the database grows: what is behind it is captured.
        self.copied = Some(if end == start + SNAPSHOT_SLICE_BYTES { end } else { u64::MAX });
        Ok(Progress::Slice { start, end, total })
    }

    /// Puts the proven version of each page into `buffer`, which holds the file's bytes from `offset`, and hands it on.
    fn copy_pages(&mut self, offset: u64, buffer: &mut [u8], sink: &mut dyn ExtentSink) -> Result<(), EngineError> {
        let page_bytes = self.history.position.page_size as usize;
        let first = offset / page_bytes as u64;
        let mut scratch = std::mem::take(&mut self.history.scratch);
        let mut run_start = None;
        let pages = buffer.len() / page_bytes;
        for index in 0..=pages {
            let page = first + index as u64;
            let range = index * page_bytes..(index + 1) * page_bytes;
            // Zero pages are left out; the lock page counts as one.
            let wanted = index < pages && self.history.map.get(page) != 0;
            if wanted && page_hash(page, &buffer[range.clone()]) != self.history.map.get(page) {
                self.history.read_page(self.hold.reader(), page, &mut scratch.old, &mut scratch.frame)?;
                buffer[range.clone()].copy_from_slice(&scratch.old);
            }
            match (wanted, run_start) {
                (true, None) => run_start = Some(range.start),
                (false, Some(start)) => {
                    let data = &buffer[start..range.start];
                    sink.extent(Extent { file: FileId::Main, offset: offset + start as u64, data })?;
                    run_start = None;
                }
                _ => {}
            }
        }
        self.history.scratch = scratch;
        Ok(())
    }
}
