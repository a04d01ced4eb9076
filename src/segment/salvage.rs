//! An unfinished segment made whole: everything behind its last block with a commit is dropped.

use std::io::SeekFrom;

use super::codec::{self, Codec};
use super::frame::{self, FRAME_HEAD_BYTES, FrameHead, FrameKind, ObjectKind, PROLOGUE_BYTES};
use super::ops::{Decoder, RawOp};
use super::runs::{MANY_BLOCKS, MAX_RUNS, RunSet};
use super::{
    BlockEntry, CommitEntry, Index, MAX_BLOCKS, MAX_COMMITS, PageRun, SegmentError, SegmentFile, SegmentHeader,
    SegmentWriter, table,
};

/// Reads a segment that was cut off, or finished, and returns a writer behind its last whole commit; finish it, or go
/// on with it. `None` when no commit was ever flushed: then nothing is lost by removing the file.
///
/// A file whose beginning is damaged, or which a newer version wrote, is an error and must be kept.
pub fn salvage<F: SegmentFile>(mut file: F, codec: Codec) -> Result<Option<SegmentWriter<F>>, SegmentError> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(mut scan) = Scan::begin(&mut file, length)? else { return Ok(None) };
    while scan.block(&mut file, length)? {}
    let Some(end) = scan.keep() else { return Ok(None) };
    let mut writer = SegmentWriter::resume(file, scan.index, end, codec)?;
    writer.stale = end < length;
    Ok(Some(writer))
}

struct Scan {
    index: Index,
    /// End of the frames read so far.
    at: u64,
    /// How much to keep: end of the last block with commits, number of blocks and page runs up to there.
    kept: Option<(u64, usize, usize)>,
}

impl Scan {
    /// `None` for a file that ends before its header does, as a crash right after its creation leaves it.
    fn begin(file: &mut impl SegmentFile, length: u64) -> Result<Option<Scan>, SegmentError> {
        let Some(prologue) = read_at(file, 0, PROLOGUE_BYTES as u64, length)? else { return Ok(None) };
        frame::check_prologue(&prologue, ObjectKind::Segment)?;
        let at = PROLOGUE_BYTES as u64;
        let Some(head) = read_at(file, at, FRAME_HEAD_BYTES as u64, length)? else { return Ok(None) };
        let head = FrameHead::read(&head, FrameKind::Header, at)?;
        let Some(bytes) = read_at(file, at, head.frame_len(), length)? else { return Ok(None) };
        let (head, message) = frame::read(&bytes, FrameKind::Header, at)?;
        let header: SegmentHeader = table::read_header(head, message)?;
        let index = Index { header, commits: Vec::new(), blocks: Vec::new(), position: Vec::new(), runs: Vec::new() };
        Ok(Some(Scan { index, at: at + head.frame_len(), kept: None }))
    }

    /// Reads one more block; `false` where the whole blocks end. Only I/O fails: damage is an end like any other, because
    /// a power cut leaves anything behind what was flushed.
    fn block(&mut self, file: &mut impl SegmentFile, length: u64) -> Result<bool, SegmentError> {
        let Some(head) = read_at(file, self.at, FRAME_HEAD_BYTES as u64, length)? else { return Ok(false) };
        let Ok(head) = FrameHead::read(&head, FrameKind::Block, self.at) else { return Ok(false) };
        let Some(bytes) = read_at(file, self.at, head.frame_len(), length)? else { return Ok(false) };
        let mut raw = Vec::new();
        let unpacked = match frame::read(&bytes, FrameKind::Block, self.at) {
            Ok((head, stored)) => codec::unpack(head.codec, stored, head.raw_len, &mut raw).is_ok(),
            Err(_) => false,
        };
        if !unpacked || self.index.blocks.len() >= MAX_BLOCKS {
            return Ok(false);
        }
        let commits_before = self.index.commits.len();
        if self.block_ops(&raw).is_none() {
            self.index.commits.truncate(commits_before);
            return Ok(false);
        }
        self.index.blocks.push(BlockEntry {
            offset: self.at,
            stored_len: head.stored_len,
            raw_len: head.raw_len,
            crc: head.crc,
            runs_end: self.index.runs.len() as u32,
        });
        self.at += head.frame_len();
        if self.index.commits.len() > commits_before {
            self.kept = Some((self.at, self.index.blocks.len(), self.index.runs.len()));
        }
        Ok(true)
    }

    /// Takes over a block's commits, position and page runs; `None` if they cannot follow what came before.
    fn block_ops(&mut self, raw: &[u8]) -> Option<()> {
        let grid = self.index.header.grid;
        let mut decoder = Decoder::new(raw, Some(grid), self.at);
        let (mut runs, mut position, mut has_commits) = (RunSet::default(), None, false);
        let mut behind_commit = false;
        while let Some(op) = decoder.next() {
            let op = op.ok()?;
            let is_commit = matches!(op, RawOp::Commit(_));
            match op {
                RawOp::Page { page, .. } => runs.add(PageRun { first: page, count: 1 }),
                RawOp::Extent(extent) => PageRun::of_extent(grid, &extent).into_iter().for_each(|run| runs.add(run)),
                RawOp::Commit(record) => {
                    let commit = record.commit(grid);
                    if !self.index.may_follow(&commit) || self.index.commits.len() >= MAX_COMMITS {
                        return None;
                    }
                    let block = self.index.blocks.len() as u32;
                    self.index.commits.push(CommitEntry { commit, block, end: decoder.at() as u32 });
                    has_commits = true;
                }
                RawOp::Position(bytes) if behind_commit && decoder.is_at_end() => position = Some(bytes),
                RawOp::Position(_) => return None,
            }
            behind_commit = is_commit;
        }
        match (has_commits, position) {
            (true, Some(position)) => self.index.position = position.to_vec(),
            (true, None) => return None,
            (false, _) => {}
        }
        runs.shrink(if self.index.blocks.len() < MANY_BLOCKS { MAX_RUNS } else { 1 });
        self.index.runs.extend_from_slice(runs.runs());
        Some(())
    }

    /// Drops blocks behind the last commit and says where the rest ends; `None` without a commit.
    fn keep(&mut self) -> Option<u64> {
        let (end, blocks, runs) = self.kept?;
        self.index.blocks.truncate(blocks);
        self.index.runs.truncate(runs);
        Some(end)
    }
}

/// `length` bytes at `at`, or `None` when the file ends before.
fn read_at(file: &mut impl SegmentFile, at: u64, length: u64, end: u64) -> Result<Option<Vec<u8>>, SegmentError> {
    if at.checked_add(length).is_none_or(|needed| needed > end) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    // Lengths of frames were checked against the bounds of their kind.
    let mut bytes = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    file.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}
