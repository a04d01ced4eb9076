//! A segment being written: append-only, one block at a time in memory, whatever the size of a transaction.
//!
//! Where blocks end: a block that holds a commit ends with one, and with the position after it. So a file that was cut
//! off anywhere is made whole by dropping what follows the last block with a commit (`salvage.rs`), and a transaction is
//! abandoned by dropping the blocks since its beginning.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use prost::Message;

use super::codec::{Codec, Packer};
use super::frame::{self, FrameKind, ObjectKind};
use super::ops::{CommitRecord, Encoder};
use super::runs::{MANY_BLOCKS, MAX_RUNS, RunSet};
use super::{
    BLOCK_TARGET_BYTES, BlockEntry, CommitEntry, Index, MAX_BLOCKS, MAX_COMMITS, MAX_EXTENT_BYTES, MAX_FILE_BYTES,
    PageRun, SegmentError, SegmentHeader, table,
};
use crate::engine::MAX_POSITION_BYTES;
use crate::extent::Extent;
use crate::layout::SegmentName;
use crate::position::{Commit, TimeMs, Txid};

/// What a segment is written into: a file opened for reading and writing, or memory.
pub trait SegmentFile: Read + Write + Seek {
    fn set_len(&mut self, len: u64) -> io::Result<()>;
}

impl SegmentFile for File {
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}

impl SegmentFile for io::Cursor<Vec<u8>> {
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.get_mut().resize(len, 0);
        Ok(())
    }
}

/// A finished segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSummary {
    pub name: SegmentName,
    /// Commits that can be restored from it.
    pub commits: u64,
    /// Time of its first commit.
    pub first_time: TimeMs,
    /// Bytes of the object.
    pub len: u64,
    /// Bytes of its blocks before compression.
    pub raw_bytes: u64,
}

/// What a transaction found when it began, but for the open block.
#[derive(Debug, Clone, Copy)]
struct Mark {
    len: u64,
    blocks: usize,
    runs: usize,
    raw_bytes: u64,
}

/// Writes one segment. Every error leaves it as it was after the last commit once `abandon` was called, so a full disk
/// costs nothing that was committed.
#[derive(Debug)]
pub struct SegmentWriter<F = File> {
    pub(super) file: F,
    packer: Packer,
    encoder: Encoder,
    /// Bytes of the file that count.
    pub(super) len: u64,
    /// The file may hold bytes behind `len`: of an abandoned transaction, of a failed write, or an index.
    pub(super) stale: bool,
    /// What is in the file and, for commits, also what is in the open block.
    pub(super) index: Index,
    /// Decompressed bytes of the blocks in the file.
    pub(super) raw_bytes: u64,
    /// The open block: whole transactions up to `committed`, behind it those operations of the transaction in progress
    /// that are not in the file yet.
    raw: Vec<u8>,
    committed: usize,
    /// Pages of the open block up to `committed`, and behind it.
    runs: RunSet,
    tx_runs: RunSet,
    /// Set while a transaction is in progress.
    mark: Option<Mark>,
}

impl<F: SegmentFile> SegmentWriter<F> {
    /// Begins a segment in an empty file, which must be readable and writable.
    pub fn new(mut file: F, header: SegmentHeader, codec: Codec) -> Result<Self, SegmentError> {
        if header.first == Txid::ZERO {
            return Err(SegmentError::Refused("commits are numbered from 1"));
        }
        if file.seek(SeekFrom::End(0))? != 0 {
            return Err(SegmentError::Refused("a segment begins in an empty file"));
        }
        let mut head = frame::prologue(ObjectKind::Segment).to_vec();
        let message = table::header_message(&header).encode_to_vec();
        frame::append(&mut head, FrameKind::Header, &message, &mut Packer::new(Codec::Stored)?)?;
        file.write_all(&head)?;
        let index = Index { header, commits: Vec::new(), blocks: Vec::new(), position: Vec::new(), runs: Vec::new() };
        Self::resume(file, index, head.len() as u64, codec)
    }

    /// A writer behind the `len` bytes that `index` describes.
    pub(super) fn resume(file: F, index: Index, len: u64, codec: Codec) -> Result<Self, SegmentError> {
        Ok(SegmentWriter {
            file,
            packer: Packer::new(codec)?,
            encoder: Encoder::default(),
            len,
            stale: false,
            raw_bytes: index.blocks.iter().map(|block| u64::from(block.raw_len)).sum(),
            index,
            raw: Vec::new(),
            committed: 0,
            runs: RunSet::default(),
            tx_runs: RunSet::default(),
            mark: None,
        })
    }

    pub fn header(&self) -> &SegmentHeader {
        &self.index.header
    }

    /// Commits so far, oldest first.
    pub fn commits(&self) -> impl ExactSizeIterator<Item = &Commit> {
        self.index.commits.iter().map(|entry| &entry.commit)
    }

    /// Bytes of operations so far, before compression.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes + self.raw.len() as u64
    }

    /// Bytes of the file so far, with the open block as if it did not compress.
    pub fn stored_bytes(&self) -> u64 {
        self.len + self.raw.len() as u64
    }

    /// Must it be finished, because a format bound is near? A transaction in progress can still be very large.
    pub fn is_full(&self) -> bool {
        self.index.commits.len() >= MAX_COMMITS || self.index.blocks.len() >= MAX_BLOCKS / 2
    }

    pub fn begin_transaction(&mut self) -> Result<(), SegmentError> {
        if self.mark.is_some() {
            return Err(SegmentError::Refused("a transaction is in progress"));
        }
        if self.index.commits.len() >= MAX_COMMITS {
            return Err(SegmentError::Refused("the segment has as many commits as one can have"));
        }
        if self.raw.len() >= BLOCK_TARGET_BYTES {
            self.close_committed()?;
        }
        self.encoder.reset();
        self.set_mark();
        Ok(())
    }

    fn set_mark(&mut self) {
        let (blocks, runs) = (self.index.blocks.len(), self.index.runs.len());
        self.mark = Some(Mark { len: self.len, blocks, runs, raw_bytes: self.raw_bytes });
    }

    fn in_transaction(&self) -> Result<(), SegmentError> {
        self.mark.map(|_| ()).ok_or(SegmentError::Refused("no transaction is in progress"))
    }

    pub fn extent(&mut self, extent: Extent<'_>) -> Result<(), SegmentError> {
        self.in_transaction()?;
        let end = extent.offset.checked_add(extent.data.len() as u64).filter(|&end| end <= MAX_FILE_BYTES);
        end.ok_or(SegmentError::Refused("an extent beyond the longest file"))?;
        let mut offset = extent.offset;
        for data in extent.data.chunks(MAX_EXTENT_BYTES) {
            let piece = Extent { file: extent.file, offset, data };
            self.encoder.extent(&mut self.raw, piece);
            if let Some(run) = PageRun::of_extent(self.index.header.grid, &piece) {
                self.tx_runs.add(run);
            }
            offset += data.len() as u64;
            self.spill()?;
        }
        Ok(())
    }

    /// The page's hash after this transaction.
    pub fn page(&mut self, page: u64, hash: u64) -> Result<(), SegmentError> {
        self.in_transaction()?;
        let grid = self.index.header.grid;
        if grid.offset(page) >= MAX_FILE_BYTES {
            return Err(SegmentError::Refused("a page beyond the longest file"));
        }
        self.encoder.page(&mut self.raw, grid, page, hash);
        self.tx_runs.add(PageRun { first: page, count: 1 });
        self.spill()
    }

    /// Ends the transaction. Does no I/O: it fails only for a commit that does not fit here, and then changes nothing.
    ///
    /// `position` is where capture resumes after it; of a segment, only that of its last commit is kept.
    pub fn commit(&mut self, commit: &Commit, position: &[u8]) -> Result<(), SegmentError> {
        self.in_transaction()?;
        self.check_commit(commit, position)?;
        let record = CommitRecord::of(commit);
        self.encoder.commit(&mut self.raw, &record);
        let (block, end) = (self.index.blocks.len() as u32, self.raw.len() as u32);
        self.index.commits.push(CommitEntry { commit: commit.clone(), block, end });
        self.index.position.clear();
        self.index.position.extend_from_slice(position);
        self.committed = self.raw.len();
        self.runs.add_all(&self.tx_runs);
        self.tx_runs.clear();
        self.mark = None;
        Ok(())
    }

    fn check_commit(&self, commit: &Commit, position: &[u8]) -> Result<(), SegmentError> {
        let header = &self.index.header;
        let problem = if !self.index.may_follow(commit) {
            "the commit's txid is not the next one, or its time is before that of the commit before it"
        } else if commit.grid != header.grid {
            "a segment has one page grid"
        } else if !CommitRecord::of(commit).is_good() {
            "the commit's time or lengths are beyond the format's bounds"
        } else if position.len() > MAX_POSITION_BYTES {
            "the position is longer than the format's bound"
        } else {
            return Ok(());
        };
        Err(SegmentError::Refused(problem))
    }

    /// Forgets the transaction in progress, if there is one.
    pub fn abandon(&mut self) {
        let Some(mark) = self.mark.take() else { return };
        if self.len != mark.len {
            // Cut from the file with the next write; until then, salvage drops it because it has no commit.
            self.stale = true;
        }
        self.len = mark.len;
        self.raw_bytes = mark.raw_bytes;
        self.index.blocks.truncate(mark.blocks);
        self.index.runs.truncate(mark.runs);
        self.raw.truncate(self.committed);
        self.tx_runs.clear();
    }

    /// Ends the open block, so that every commit so far can be salvaged from the file. Does not fsync.
    pub fn flush(&mut self) -> Result<(), SegmentError> {
        self.close_committed()?;
        self.file.flush()?;
        Ok(())
    }

    /// Writes the index behind the commits so far and returns what the object now is; an open transaction is abandoned.
    /// Does not fsync. After an error it can be called again; more transactions may follow, and then it must be.
    pub fn finish(&mut self) -> Result<SegmentSummary, SegmentError> {
        self.abandon();
        let Some(first) = self.index.commits.first() else {
            return Err(SegmentError::Refused("a segment has at least one commit"));
        };
        let first_time = first.commit.time;
        self.close_committed()?;
        let mut end = Vec::new();
        let mut packer = Packer::new(Codec::for_index())?;
        let head = frame::append(&mut end, FrameKind::Index, &table::encode(&self.index), &mut packer)?;
        end.extend_from_slice(&frame::footer(ObjectKind::Segment, self.len, head.frame_len()));
        self.write_at_end(&end)?;
        // Whatever follows replaces the index.
        self.stale = true;
        self.file.flush()?;
        Ok(SegmentSummary {
            name: self.index.name(),
            commits: self.index.commits.len() as u64,
            first_time,
            len: self.len + end.len() as u64,
            raw_bytes: self.raw_bytes,
        })
    }

    /// The index as it is now, with the commits of the open block.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Gives the file back: call `finish` first, or it is an unfinished segment.
    pub fn into_file(self) -> F {
        self.file
    }

    /// Ends blocks while more is buffered than one block should hold.
    fn spill(&mut self) -> Result<(), SegmentError> {
        if self.raw.len() < BLOCK_TARGET_BYTES {
            return Ok(());
        }
        self.close_committed()?;
        if self.raw.len() < BLOCK_TARGET_BYTES {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.raw);
        let runs = std::mem::take(&mut self.tx_runs);
        let written = self.write_block(&raw, &runs);
        self.raw = raw;
        if let Err(error) = written {
            self.tx_runs = runs;
            return Err(error);
        }
        self.raw.clear();
        self.encoder.reset();
        Ok(())
    }

    /// Ends the block behind the last commit; what the transaction in progress has added begins the next one.
    fn close_committed(&mut self) -> Result<(), SegmentError> {
        if self.committed == 0 {
            return Ok(());
        }
        let in_progress = self.raw.split_off(self.committed);
        self.encoder.position(&mut self.raw, &self.index.position);
        let raw = std::mem::take(&mut self.raw);
        let runs = std::mem::take(&mut self.runs);
        let written = self.write_block(&raw, &runs);
        self.raw = raw;
        if let Err(error) = written {
            self.raw.truncate(self.committed);
            self.raw.extend_from_slice(&in_progress);
            self.runs = runs;
            return Err(error);
        }
        self.raw.clear();
        self.raw.extend_from_slice(&in_progress);
        self.committed = 0;
        if self.mark.is_some() {
            self.set_mark();
        }
        Ok(())
    }

    fn write_block(&mut self, raw: &[u8], runs: &RunSet) -> Result<(), SegmentError> {
        if self.index.blocks.len() >= MAX_BLOCKS {
            let (value, limit) = (self.index.blocks.len() as u64 + 1, MAX_BLOCKS as u64);
            return Err(SegmentError::TooLarge { what: "number of blocks", value, limit });
        }
        let mut stored = Vec::with_capacity(raw.len() + 64);
        let head = frame::append(&mut stored, FrameKind::Block, raw, &mut self.packer)?;
        self.write_at_end(&stored)?;
        let mut runs = runs.clone();
        runs.shrink(if self.index.blocks.len() < MANY_BLOCKS { MAX_RUNS } else { 1 });
        self.index.runs.extend_from_slice(runs.runs());
        self.index.blocks.push(BlockEntry {
            offset: self.len,
            stored_len: head.stored_len,
            raw_len: head.raw_len,
            crc: head.crc,
            runs_end: self.index.runs.len() as u32,
        });
        self.len += stored.len() as u64;
        self.raw_bytes += raw.len() as u64;
        Ok(())
    }

    /// Writes behind the bytes that count; whoever succeeds moves `len`.
    fn write_at_end(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        if self.stale {
            self.file.set_len(self.len)?;
        }
        // A write that fails half-way leaves bytes that the next one must cut off.
        self.stale = true;
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.write_all(bytes)?;
        self.stale = false;
        Ok(())
    }
}
