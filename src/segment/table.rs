//! The index as its stored message, in columns, and back. Everything in it is checked here, once.

use prost::Message;

use super::codec::StoredCodec;
use super::frame::{FRAME_HEAD_BYTES, FrameHead, PROLOGUE_BYTES};
use super::ops::{CommitRecord, kind_code, kind_from_code};
use super::{
    BlockEntry, CommitEntry, Index, MAX_BLOCK_BYTES, MAX_BLOCKS, MAX_COMMITS, MAX_FILE_BYTES, PageRun, SegmentError,
    SegmentHeader, proto,
};
use crate::engine::{EngineKind, MAX_POSITION_BYTES};
use crate::extent::PageGrid;
use crate::layout::Level;
use crate::position::{Commit, Generation, Lengths, Term, TimeMs, Txid};

pub(super) fn engine_code(engine: EngineKind) -> i32 {
    let engine = match engine {
        EngineKind::Sqlite => proto::Engine::Sqlite,
        EngineKind::Duckdb => proto::Engine::Duckdb,
    };
    engine as i32
}

pub(super) fn engine_from_code(code: i32) -> Option<EngineKind> {
    match proto::Engine::try_from(code).ok()? {
        proto::Engine::Unspecified => None,
        proto::Engine::Sqlite => Some(EngineKind::Sqlite),
        proto::Engine::Duckdb => Some(EngineKind::Duckdb),
    }
}

pub(super) fn grid_message(grid: PageGrid) -> Option<proto::PageGrid> {
    Some(proto::PageGrid { head: grid.head, size: grid.size })
}

pub(super) fn grid_from(message: Option<proto::PageGrid>) -> Option<PageGrid> {
    message.and_then(|grid| PageGrid::new(grid.head, grid.size))
}

pub(super) fn header_message(header: &SegmentHeader) -> proto::Header {
    proto::Header {
        generation: header.generation.0,
        term: header.term.0,
        engine: engine_code(header.engine),
        level: u32::from(header.level.0),
        grid: grid_message(header.grid),
        first: header.first.0,
        checksum_before: header.checksum_before,
    }
}

pub(super) fn header_from(message: &proto::Header) -> Option<SegmentHeader> {
    Some(SegmentHeader {
        generation: Generation(message.generation),
        term: Term(message.term),
        engine: engine_from_code(message.engine)?,
        level: u8::try_from(message.level).ok().map(Level).filter(|&level| level <= Level::MAX)?,
        grid: grid_from(message.grid)?,
        first: Some(Txid(message.first)).filter(|&first| first > Txid::ZERO)?,
        checksum_before: message.checksum_before,
    })
}

/// The header from its frame.
pub(super) fn read_header(head: FrameHead, message: &[u8]) -> Result<SegmentHeader, SegmentError> {
    let corrupt = |what| SegmentError::Corrupt { what, offset: PROLOGUE_BYTES as u64 };
    if head.codec != StoredCodec::Stored {
        return Err(corrupt("compressed header"));
    }
    let message = proto::Header::decode(message).map_err(|_| corrupt("header message"))?;
    header_from(&message).ok_or(corrupt("header"))
}

pub(super) fn encode(index: &Index) -> Vec<u8> {
    let mut message = proto::Index {
        header: Some(header_message(&index.header)),
        last: index.last().txid.0,
        position: index.position.clone(),
        ..Default::default()
    };
    let (mut time, mut lengths, mut block, mut end) = (0, Lengths::default(), 0, 0);
    for entry in &index.commits {
        let Commit { time: now, lengths: new, checksum, kind, .. } = &entry.commit;
        message.commit_time.push(now.0 - time);
        message.commit_main.push(new.main as i64 - lengths.main as i64);
        message.commit_wal.push(new.wal as i64 - lengths.wal as i64);
        message.commit_checksum.push(*checksum);
        message.commit_kind.push(u32::from(kind_code(*kind)));
        message.commit_block.push(entry.block - block);
        message.commit_end.push(if entry.block == block { entry.end - end } else { entry.end });
        (time, lengths, block, end) = (now.0, *new, entry.block, entry.end);
    }
    for (number, entry) in index.blocks.iter().enumerate() {
        message.block_stored.push(entry.stored_len);
        message.block_raw.push(entry.raw_len);
        message.block_crc.push(entry.crc);
        let runs = index.page_runs(number);
        message.block_runs.push(runs.len() as u32);
        let mut end = 0;
        for run in runs {
            message.run_gap.push(run.first - end);
            message.run_len.push(run.count);
            end = run.end();
        }
    }
    message.encode_to_vec()
}

/// Decodes and checks the index whose frame begins at `index_offset`.
pub(super) fn decode(raw: &[u8], index_offset: u64) -> Result<Index, SegmentError> {
    let corrupt = |what| SegmentError::Corrupt { what, offset: index_offset };
    let message = proto::Index::decode(raw).map_err(|_| corrupt("index message"))?;
    let header = message.header.as_ref().and_then(header_from).ok_or(corrupt("header in the index"))?;
    if message.position.len() > MAX_POSITION_BYTES {
        let (value, limit) = (message.position.len() as u64, MAX_POSITION_BYTES as u64);
        return Err(SegmentError::TooLarge { what: "position", value, limit });
    }
    let blocks = block_table(&message, index_offset).map_err(corrupt)?;
    let runs = run_table(&message).map_err(corrupt)?;
    let commits = commit_table(&message, &header, &blocks).map_err(corrupt)?;
    Ok(Index { header, commits, blocks, position: message.position, runs })
}

/// Sizes of the frames before `end`, which must leave room for what stands before them, as offsets.
pub(super) fn first_block_offset(stored: &[u32], end: u64) -> Option<u64> {
    let frames = stored.iter().map(|&stored| u64::from(stored) + FRAME_HEAD_BYTES as u64);
    // At most 2^20 numbers below 2^33 were checked by the callers, so this cannot overflow.
    end.checked_sub(frames.sum::<u64>()).filter(|&first| first >= PROLOGUE_BYTES as u64)
}

fn block_table(message: &proto::Index, index_offset: u64) -> Result<Vec<BlockEntry>, &'static str> {
    let count = message.block_stored.len();
    let columns = [message.block_raw.len(), message.block_crc.len(), message.block_runs.len()];
    if count == 0 || count > MAX_BLOCKS || columns != [count; 3] {
        return Err("number of blocks");
    }
    let mut offset = first_block_offset(&message.block_stored, index_offset).ok_or("place of the blocks")?;
    let mut runs_end = 0usize;
    let mut blocks = Vec::with_capacity(count);
    for number in 0..count {
        let (stored_len, raw_len) = (message.block_stored[number], message.block_raw[number]);
        if stored_len == 0 || stored_len > raw_len || raw_len > MAX_BLOCK_BYTES {
            return Err("length of a block");
        }
        runs_end = runs_end.saturating_add(message.block_runs[number] as usize);
        if runs_end > message.run_gap.len() {
            return Err("number of page runs");
        }
        let runs_end = u32::try_from(runs_end).map_err(|_| "number of page runs")?;
        let entry = BlockEntry { offset, stored_len, raw_len, crc: message.block_crc[number], runs_end };
        offset += entry.frame_len();
        blocks.push(entry);
    }
    if runs_end != message.run_gap.len() {
        return Err("number of page runs");
    }
    Ok(blocks)
}

fn run_table(message: &proto::Index) -> Result<Vec<PageRun>, &'static str> {
    if message.run_len.len() != message.run_gap.len() {
        return Err("number of page runs");
    }
    let mut columns = message.run_gap.iter().zip(&message.run_len);
    let mut runs = Vec::with_capacity(message.run_gap.len());
    for &count in &message.block_runs {
        let mut end = 0u64;
        for number in 0..count {
            let (&gap, &len) = columns.next().ok_or("number of page runs")?;
            let first = end.checked_add(gap).ok_or("page run")?;
            end = first.checked_add(len).filter(|&end| end <= MAX_FILE_BYTES).ok_or("page run")?;
            if len == 0 || (gap == 0 && number > 0) {
                return Err("page run");
            }
            runs.push(PageRun { first, count: len });
        }
    }
    Ok(runs)
}

fn commit_table(
    message: &proto::Index,
    header: &SegmentHeader,
    blocks: &[BlockEntry],
) -> Result<Vec<CommitEntry>, &'static str> {
    let count = message.commit_time.len();
    let columns = [
        message.commit_main.len(),
        message.commit_wal.len(),
        message.commit_checksum.len(),
        message.commit_kind.len(),
        message.commit_block.len(),
        message.commit_end.len(),
    ];
    if count == 0 || count > MAX_COMMITS || columns != [count; 6] {
        return Err("number of commits");
    }
    let last = Txid(message.last);
    let expected = if header.has_every_commit() { last.0.checked_sub(header.first.0) } else { Some(0) };
    if last < header.first || expected != Some(count as u64 - 1) {
        return Err("txids of the commits");
    }
    let mut commits: Vec<CommitEntry> = Vec::with_capacity(count);
    let (mut time, mut lengths) = (0u64, Lengths::default());
    let (mut block, mut end) = (0u32, 0u32);
    for at in 0..count {
        time = time.checked_add(message.commit_time[at]).ok_or("time of a commit")?;
        lengths.main = lengths.main.checked_add_signed(message.commit_main[at]).ok_or("length after a commit")?;
        lengths.wal = lengths.wal.checked_add_signed(message.commit_wal[at]).ok_or("length after a commit")?;
        let kind = kind_from_code(message.commit_kind[at]).ok_or("kind of a commit")?;
        let (step, new_end) = (message.commit_block[at], message.commit_end[at]);
        block = block.checked_add(step).ok_or("place of a commit")?;
        // Ends grow within a block; no two commits end at the same place.
        end = if step == 0 { end.checked_add(new_end) } else { Some(new_end) }.ok_or("place of a commit")?;
        let entry = blocks.get(block as usize).ok_or("place of a commit")?;
        if new_end == 0 || end > entry.raw_len {
            return Err("place of a commit");
        }
        let txid = Txid(last.0 - (count - 1 - at) as u64);
        let record = CommitRecord { txid, time: TimeMs(time), lengths, checksum: message.commit_checksum[at], kind };
        if !record.is_good() {
            return Err("a commit");
        }
        commits.push(CommitEntry { commit: record.commit(header.grid), block, end });
    }
    if block as usize != blocks.len() - 1 {
        return Err("blocks after the last commit");
    }
    Ok(commits)
}
