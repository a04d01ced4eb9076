//! The index of a segment: its header again, the commit table, the block table and the page runs.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use super::frame::{self, FRAME_HEAD_BYTES, ObjectKind, Tail};
use super::reader::Block;
use super::{PageRun, SegmentError, SegmentHeader, TAIL_READ_BYTES};
use crate::layout::SegmentName;
use crate::position::{Commit, TimeMs, Txid};

/// One commit, and where its operations end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitEntry {
    pub commit: Commit,
    /// Number of the block that holds the commit operation.
    pub block: u32,
    /// End of the commit operation in that block's decompressed bytes.
    pub end: u32,
}

/// One block, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry {
    /// Of its frame, in the object.
    pub offset: u64,
    /// Bytes of the payload as stored, without the frame's head.
    pub stored_len: u32,
    /// Bytes of the payload when decompressed.
    pub raw_len: u32,
    pub(super) crc: u32,
    /// Its page runs are those from the end of the block before it up to here.
    pub(super) runs_end: u32,
}

impl BlockEntry {
    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> u64 {
        FRAME_HEAD_BYTES as u64 + u64::from(self.stored_len)
    }

    /// Where the frame stands in the object.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.frame_len()
    }
}

/// What the end of a segment says of its content; checked in itself when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    pub header: SegmentHeader,
    /// Oldest first. Levels 0 and 1: every commit from `header.first` on; above: only the last.
    pub commits: Vec<CommitEntry>,
    pub blocks: Vec<BlockEntry>,
    /// Where capture resumes after the last commit: the engine's own bytes.
    pub position: Vec<u8>,
    pub(super) runs: Vec<PageRun>,
}

impl Index {
    /// Reads the index from `tail`, the last bytes of an object of `object_len` bytes. `TAIL_READ_BYTES` of them, or the
    /// whole object if it is shorter, are mostly enough; otherwise the answer says from where to read.
    pub fn from_tail(tail: &[u8], object_len: u64) -> Result<Tail<Index>, SegmentError> {
        Ok(match frame::read_index(tail, object_len, ObjectKind::Segment)? {
            Tail::ReadFrom(offset) => Tail::ReadFrom(offset),
            Tail::Whole((raw, offset)) => Tail::Whole(super::table::decode(&raw, offset)?),
        })
    }

    /// Reads the index of a finished segment in a file.
    pub fn from_file(file: &mut (impl Read + Seek)) -> Result<Index, SegmentError> {
        let length = file.seek(SeekFrom::End(0))?;
        let mut from = length.saturating_sub(TAIL_READ_BYTES);
        loop {
            let tail = read_range(file, from..length)?;
            match Index::from_tail(&tail, length)? {
                Tail::Whole(index) => return Ok(index),
                // Always earlier than what was read, so this ends.
                Tail::ReadFrom(offset) => from = offset,
            }
        }
    }

    /// Reads and proves block `number` of a segment in a file.
    pub fn read_block(&self, file: &mut (impl Read + Seek), number: usize) -> Result<Block<'_>, SegmentError> {
        let entry = self.blocks.get(number).ok_or(SegmentError::Refused("there is no such block"))?;
        let stored = read_range(file, entry.range())?;
        self.decode_block(number, &stored)
    }

    /// May `commit` stand behind those that are here?
    pub(super) fn may_follow(&self, commit: &Commit) -> bool {
        let before = self.commits.last().map(|entry| &entry.commit);
        let next = match (self.header.has_every_commit(), before) {
            (true, None) => commit.txid == self.header.first,
            (true, Some(before)) => Some(commit.txid) == before.txid.checked_next(),
            (false, None) => commit.txid >= self.header.first,
            (false, Some(_)) => false,
        };
        next && before.is_none_or(|before| before.time <= commit.time)
    }

    /// The last commit. Every segment has one.
    pub fn last(&self) -> &Commit {
        &self.commits.last().expect("an index with no commit is refused").commit
    }

    /// The commit `txid`, where it can be restored from this segment.
    pub fn commit(&self, txid: Txid) -> Option<&CommitEntry> {
        let at = self.commits.binary_search_by_key(&txid, |entry| entry.commit.txid).ok()?;
        Some(&self.commits[at])
    }

    /// The last commit that was seen at `time` or before.
    pub fn at_or_before(&self, time: TimeMs) -> Option<&CommitEntry> {
        let after = self.commits.partition_point(|entry| entry.commit.time <= time);
        self.commits[..after].last()
    }

    /// The runs of pages in one of which every page stands that block `number` touches.
    pub fn page_runs(&self, number: usize) -> &[PageRun] {
        let start = if number == 0 { 0 } else { self.blocks[number - 1].runs_end };
        &self.runs[start as usize..self.blocks[number].runs_end as usize]
    }

    /// Numbers of the blocks that may touch `page`, oldest first: no other block does.
    pub fn blocks_with(&self, page: u64) -> impl Iterator<Item = usize> + '_ {
        (0..self.blocks.len()).filter(move |&number| self.page_runs(number).iter().any(|run| run.contains(page)))
    }

    /// The name under which this segment is stored.
    pub fn name(&self) -> SegmentName {
        let last = self.last();
        SegmentName {
            generation: self.header.generation,
            level: self.header.level,
            first: self.header.first,
            last: last.txid,
            term: self.header.term,
            time: last.time,
        }
    }

    /// Refuses a segment that stands under another segment's name.
    pub fn check_name(&self, name: &SegmentName) -> Result<(), SegmentError> {
        if self.name() == *name {
            return Ok(());
        }
        let text = |name: SegmentName| crate::layout::ObjectName::Segment(name).key().to_string();
        Err(SegmentError::Misnamed { name: text(*name), found: text(self.name()) })
    }
}

fn read_range(file: &mut (impl Read + Seek), range: Range<u64>) -> Result<Vec<u8>, SegmentError> {
    file.seek(SeekFrom::Start(range.start))?;
    let needed = range.end - range.start;
    let mut bytes = Vec::new();
    file.take(needed).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < needed {
        return Err(SegmentError::Truncated { what: "file", needed, found: bytes.len() as u64 });
    }
    Ok(bytes)
}
