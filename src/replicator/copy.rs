//! A full copy, slice by slice between polls: the capturing half of a snapshot.
//!
//! A slice is read only when the uploading half has taken the one before, so memory stays bounded by the channel and a
//! slow store never slows capture.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::engine::{EngineError, ExtentSink, Progress, SinkError, Source};
use crate::extent::{Extent, FileId};
use crate::position::{Term, Txid};
use crate::segment::{Codec, PartRef, PartWriter, SegmentError};
use crate::spool::ResumePoint;

/// What the capturing half hands to the uploading one.
#[derive(Debug)]
pub(super) enum CopyMessage {
    /// A copy begins, in place of one that may have begun before; it will cover so many bytes.
    Started {
        total: u64,
    },
    Part(PartRef, Bytes),
    /// Every part was handed out, and the copy is exact from this commit on.
    Done(Box<CopyEnd>),
}

#[derive(Debug)]
pub(super) struct CopyEnd {
    pub base: Txid,
    pub point: ResumePoint,
    pub term: Term,
    pub page_hashes: Vec<u64>,
}

/// Parts that wait between the two halves.
pub(super) const CHANNEL_PARTS: usize = 2;

/// A copy that somebody asked for.
#[derive(Debug)]
pub(super) struct Copy {
    messages: mpsc::Sender<CopyMessage>,
    /// The commit after which transactions are laid over the copy; `None` before it began.
    base: Option<Txid>,
    /// End of the last slice.
    at: u64,
    is_read: bool,
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
    pub fn new(messages: mpsc::Sender<CopyMessage>) -> Copy {
        Copy { messages, base: None, at: 0, is_read: false }
    }

    /// The source is a new one: the copy begins again.
    pub fn restart(&mut self) {
        (self.base, self.at, self.is_read) = (None, 0, false);
    }

    /// Would a step get anywhere?
    pub fn can_go(&self) -> bool {
        self.messages.capacity() > 0 || self.messages.is_closed()
    }

    /// Begins the copy or reads its next slice. `last`: the last captured commit.
    pub fn step(&mut self, source: &mut dyn Source, last: Txid) -> Result<Step, EngineError> {
        let permit = match self.messages.try_reserve() {
            Ok(permit) => permit,
            Err(TrySendError::Full(())) => return Ok(Step::Blocked),
            Err(TrySendError::Closed(())) => return Ok(Step::Gone),
        };
        if self.base.is_none() {
            let start = source.snapshot_start()?;
            (self.base, self.at) = (Some(start.base.unwrap_or(last)), 0);
            permit.send(CopyMessage::Started { total: start.total });
            return Ok(Step::Went);
        }
        if self.is_read {
            return Ok(Step::Read);
        }
        let mut slice = Slice(PartWriter::new(FileId::Main, self.at, Codec::for_parts()).map_err(into_sink)?);
        match source.snapshot_slice(&mut slice)? {
            Progress::Slice { start, end, .. } => {
                if start != self.at || end <= start {
                    return Err(into_sink(SegmentError::Refused("slices that do not follow each other")).into());
                }
                let (part, object) = slice.0.finish(end).map_err(into_sink)?;
                self.at = end;
                permit.send(CopyMessage::Part(part, object));
                Ok(Step::Went)
            }
            Progress::Done => {
                self.is_read = true;
                Ok(Step::Read)
            }
        }
    }

    /// Hands over the end, as of `point`, which is sealed. `false`: not now, or nobody waits.
    pub fn end(&self, point: &ResumePoint, term: Term, page_hashes: Vec<u64>) -> bool {
        let Some(base) = self.base else { return false };
        let end = CopyEnd { base, point: point.clone(), term, page_hashes };
        self.messages.try_send(CopyMessage::Done(Box::new(end))).is_ok()
    }
}

struct Slice(PartWriter);

impl ExtentSink for Slice {
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        self.0.extent(extent).map_err(into_sink)
    }
}

fn into_sink(error: SegmentError) -> SinkError {
    match error {
        SegmentError::Io(error) => SinkError::Io(error),
        error => SinkError::Io(io::Error::other(error)),
    }
}
