//! A full copy, slice by slice between polls: the capturing half of a snapshot.
//!
//! A slice is read only when the uploading half has taken the one before, so memory stays bounded by the channel and a
//! slow store never slows capture.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::delta::{self, Base, Choice};
use crate::checksum::page_hashes;
use crate::engine::{EngineError, ExtentSink, Progress, SinkError, Source};
use crate::extent::{Extent, FileId, PageGrid};
use crate::position::{Term, Txid};
use crate::segment::{Codec, MAX_PART_BYTES, Over, PageRun, PartRef, PartWriter, PatchRef, PatchWriter, SegmentError};
use crate::spool::ResumePoint;

/// What the capturing half hands to the uploading one.
#[derive(Debug)]
pub(super) enum CopyMessage {
    /// A copy begins, in place of one that may have begun before; it will cover so many bytes.
    Started { total: u64 },
    /// The next part, with its object unless the snapshot before has it, and what lies over it.
    Part(PartRef, Over, Option<Bytes>),
    /// Changed pages of parts before it.
    Patch(PatchRef, Bytes),
    /// Every part was handed out, and the copy is exact from this commit on.
    Done(Box<CopyEnd>),
}

#[derive(Debug)]
pub(super) struct CopyEnd {
    pub base: Txid,
    pub point: ResumePoint,
    pub term: Term,
    pub page_hashes: Vec<u64>,
    /// Pages that changed since they were copied, where that is known.
    pub differing: Option<Vec<PageRun>>,
}

/// Parts that wait between the two halves.
pub(super) const CHANNEL_PARTS: usize = 2;

/// Bytes of changed pages with which a patch is handed over; the pages of one part are never divided.
const PATCH_BYTES: u64 = 4 * 1024 * 1024;

/// A copy that somebody asked for.
pub(super) struct Copy {
    messages: mpsc::Sender<CopyMessage>,
    /// What the replica has.
    before: Option<Arc<Base>>,
    /// Where and when it began; `None` before it did.
    begun: Option<Begun>,
    /// End of the last slice.
    at: u64,
    is_read: bool,
    patch: Option<PatchWriter>,
    /// The hashes of the pages as they were copied; `None` where slices are not made of pages.
    copied: Option<Vec<u64>>,
}

#[derive(Clone)]
struct Begun {
    /// The commit after which transactions are laid over the copy.
    base: Txid,
    grid: PageGrid,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Went,
    /// The channel is full; the bell rings when there is room.
    Blocked,
    /// Everything is read: the end can be handed over.
    Read,
    /// Nobody waits for this copy any more.
    Gone,
}

impl Copy {
    pub fn new(messages: mpsc::Sender<CopyMessage>, before: Option<Arc<Base>>) -> Copy {
        Copy { messages, before, begun: None, at: 0, is_read: false, patch: None, copied: Some(Vec::new()) }
    }

    /// The source is a new one: the copy begins again.
    pub fn restart(&mut self) {
        (self.begun, self.at, self.is_read) = (None, 0, false);
        (self.patch, self.copied) = (None, Some(Vec::new()));
    }

    /// Would a step get anywhere?
    pub fn can_go(&self) -> bool {
        self.messages.capacity() > 0 || self.messages.is_closed()
    }

    /// Begins the copy or reads its next slice. `last`: the last captured commit.
    pub fn step(&mut self, source: &mut dyn Source, last: Txid) -> Result<Step, EngineError> {
        let messages = self.messages.clone();
        let permit = match messages.try_reserve() {
            Ok(permit) => permit,
            Err(TrySendError::Full(())) => return Ok(Step::Blocked),
            Err(TrySendError::Closed(())) => return Ok(Step::Gone),
        };
        let Some(Begun { grid, .. }) = self.begun else {
            let start = source.snapshot_start()?;
            self.restart();
            self.begun = Some(Begun { base: start.base.unwrap_or(last), grid: start.grid });
            permit.send(CopyMessage::Started { total: start.total });
            return Ok(Step::Went);
        };
        let is_full = |patch: &PatchWriter| self.is_read || patch.content_bytes() >= PATCH_BYTES;
        if self.patch.as_ref().is_some_and(is_full) {
            if let Some((patch, object)) = self.patch.take().map_or(Ok(None), PatchWriter::finish).map_err(into_sink)? {
                permit.send(CopyMessage::Patch(patch, object));
            }
            return Ok(Step::Went);
        }
        if self.is_read {
            return Ok(Step::Read);
        }
        let mut slice = Slice { start: self.at, bytes: Vec::new(), extents: Vec::new() };
        match source.snapshot_slice(&mut slice)? {
            Progress::Slice { start, end, .. } => {
                if start != self.at || end <= start {
                    return Err(into_sink(SegmentError::Refused("slices that do not follow each other")).into());
                }
                let message = self.part(slice, grid, end).map_err(into_sink)?;
                self.at = end;
                permit.send(message);
                Ok(Step::Went)
            }
            Progress::Done => {
                self.is_read = true;
                Ok(if self.patch.is_some() { Step::Went } else { Step::Read })
            }
        }
    }

    /// What becomes of a slice that ends at `end`.
    fn part(&mut self, mut slice: Slice, grid: PageGrid, end: u64) -> Result<CopyMessage, SegmentError> {
        let start = slice.start;
        slice.bytes.resize((end - start) as usize, 0);
        let hashes = page_hashes(grid, start, &slice.bytes);
        let choice = match (&self.before, &hashes) {
            (Some(before), Some(hashes)) => before.choose(grid, start, end, hashes),
            _ => Choice::Whole,
        };
        self.copied = self.copied.take().zip(hashes).map(|(mut copied, hashes)| {
            copied.extend_from_slice(&hashes);
            copied
        });
        Ok(match choice {
            Choice::Keep(part, over) => CopyMessage::Part(part, over, None),
            Choice::Patch(part, over, pages) => {
                let first = grid.page_at(start);
                let patch = match &mut self.patch {
                    Some(patch) => patch,
                    empty => empty.insert(PatchWriter::new(Codec::for_parts())?),
                };
                for page in pages.into_iter().map(|at| first + at as u64) {
                    let (from, to) = (grid.offset(page), end.min(grid.offset(page + 1)));
                    patch.extent(from, &slice.bytes[(from - start) as usize..(to - start) as usize])?;
                }
                CopyMessage::Part(part, over, None)
            }
            Choice::Whole => {
                let mut writer = PartWriter::new(FileId::Main, start, Codec::for_parts())?;
                for &(offset, length) in &slice.extents {
                    let at = (offset - start) as usize;
                    writer.extent(Extent { file: FileId::Main, offset, data: &slice.bytes[at..at + length] })?;
                }
                let (part, object) = writer.finish(end)?;
                let first_patch = self.before.as_ref().map_or(0, |before| before.patches().len());
                CopyMessage::Part(part, Over { first_patch, bytes: 0 }, Some(object))
            }
        })
    }

    /// Hands over the end, as of `point`, which is sealed. `false`: not now, or nobody waits.
    pub fn end(&self, point: &ResumePoint, term: Term, page_hashes: Vec<u64>) -> bool {
        let Some(Begun { base, .. }) = self.begun else { return false };
        let differing = self.copied.as_ref().and_then(|copied| delta::differing(copied, &page_hashes));
        let end = CopyEnd { base, point: point.clone(), term, page_hashes, differing };
        self.messages.try_send(CopyMessage::Done(Box::new(end))).is_ok()
    }
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy").field("at", &self.at).field("is_read", &self.is_read).finish_non_exhaustive()
    }
}

/// The bytes of a slice; what was not handed out is zeros.
struct Slice {
    start: u64,
    bytes: Vec<u8>,
    /// Offsets and lengths of what was handed out.
    extents: Vec<(u64, usize)>,
}

impl ExtentSink for Slice {
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        let reached = self.start + self.bytes.len() as u64;
        let end = extent.offset.saturating_add(extent.data.len() as u64);
        if extent.file != FileId::Main || extent.offset < reached || end > self.start.saturating_add(MAX_PART_BYTES) {
            return Err(into_sink(SegmentError::Refused(
                "extents of a slice ascend within its range of the main file",
            )));
        }
        self.bytes.resize((extent.offset - self.start) as usize, 0);
        self.bytes.extend_from_slice(extent.data);
        self.extents.push((extent.offset, extent.data.len()));
        Ok(())
    }
}

fn into_sink(error: SegmentError) -> SinkError {
    match error {
        SegmentError::Io(error) => SinkError::Io(error),
        error => SinkError::Io(io::Error::other(error)),
    }
}
