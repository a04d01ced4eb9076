//! The operations inside a block: a stream of pages, extents, commits and positions.
//!
//! Offsets and page numbers are differences to a cursor, a byte offset of the main file (and another of the WAL), which
//! is 0 at the beginning of a block and after every commit. So a block can be read by itself, and a writer can cut
//! between transactions.

use super::{MAX_FILE_BYTES, SegmentError};
use crate::engine::MAX_POSITION_BYTES;
use crate::extent::{Extent, FileId, PageGrid};
use crate::position::{Commit, CommitKind, Lengths, RepairReason, TimeMs, Txid};

const TAG_PAGE: u8 = 1;
const TAG_MAIN: u8 = 2;
const TAG_WAL: u8 = 3;
const TAG_COMMIT: u8 = 4;
const TAG_POSITION: u8 = 5;

/// One operation as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawOp<'a> {
    Page { page: u64, hash: u64 },
    Extent(Extent<'a>),
    Commit(CommitRecord),
    Position(&'a [u8]),
}

/// A commit as stored in a block: `Commit` without the grid, which the header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommitRecord {
    pub txid: Txid,
    pub time: TimeMs,
    pub lengths: Lengths,
    pub checksum: u64,
    pub kind: CommitKind,
}

impl CommitRecord {
    /// Are the numbers within the format's bounds?
    pub fn is_good(&self) -> bool {
        let Lengths { main, wal } = self.lengths;
        self.txid > Txid::ZERO && self.time <= TimeMs::MAX && main <= MAX_FILE_BYTES && wal <= MAX_FILE_BYTES
    }

    pub fn of(commit: &Commit) -> CommitRecord {
        let Commit { txid, time, lengths, checksum, kind, .. } = *commit;
        CommitRecord { txid, time, lengths, checksum, kind }
    }

    pub fn commit(self, grid: PageGrid) -> Commit {
        let CommitRecord { txid, time, lengths, checksum, kind } = self;
        Commit { txid, time, lengths, checksum, kind, grid }
    }
}

pub(super) fn kind_code(kind: CommitKind) -> u8 {
    match kind {
        CommitKind::Captured => 0,
        CommitKind::Initial => 1,
        CommitKind::Repair(RepairReason::Away) => 16,
        CommitKind::Repair(RepairReason::LogDiscarded) => 17,
        CommitKind::Repair(RepairReason::FileReplaced) => 18,
        CommitKind::Repair(RepairReason::ReplicaAhead) => 19,
        CommitKind::Repair(RepairReason::SpoolFull) => 20,
    }
}

pub(super) fn kind_from_code(code: u32) -> Option<CommitKind> {
    Some(match code {
        0 => CommitKind::Captured,
        1 => CommitKind::Initial,
        16 => CommitKind::Repair(RepairReason::Away),
        17 => CommitKind::Repair(RepairReason::LogDiscarded),
        18 => CommitKind::Repair(RepairReason::FileReplaced),
        19 => CommitKind::Repair(RepairReason::ReplicaAhead),
        20 => CommitKind::Repair(RepairReason::SpoolFull),
        _ => return None,
    })
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The difference `to - from` of two numbers below 2^62, with its sign in the lowest bit.
fn put_difference(out: &mut Vec<u8>, from: u64, to: u64) {
    let difference = to as i64 - from as i64;
    put_varint(out, ((difference << 1) ^ (difference >> 63)) as u64);
}

/// Where differences are counted from.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    main: u64,
    wal: u64,
}

impl Cursor {
    fn of(&mut self, file: FileId) -> &mut u64 {
        match file {
            FileId::Main => &mut self.main,
            FileId::Wal => &mut self.wal,
        }
    }
}

/// Writes operations. Bounds are the caller's to check.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    cursor: Cursor,
}

impl Encoder {
    pub fn page(&mut self, out: &mut Vec<u8>, grid: PageGrid, page: u64, hash: u64) {
        out.push(TAG_PAGE);
        put_difference(out, grid.page_at(self.cursor.main), page);
        out.extend_from_slice(&hash.to_le_bytes());
        self.cursor.main = grid.offset(page);
    }

    pub fn extent(&mut self, out: &mut Vec<u8>, extent: Extent<'_>) {
        out.push(if extent.file == FileId::Main { TAG_MAIN } else { TAG_WAL });
        let cursor = self.cursor.of(extent.file);
        put_difference(out, *cursor, extent.offset);
        put_varint(out, extent.data.len() as u64);
        out.extend_from_slice(extent.data);
        *cursor = extent.offset + extent.data.len() as u64;
    }

    pub fn commit(&mut self, out: &mut Vec<u8>, commit: &CommitRecord) {
        out.push(TAG_COMMIT);
        put_varint(out, commit.txid.0);
        put_varint(out, commit.time.0);
        put_varint(out, commit.lengths.main);
        put_varint(out, commit.lengths.wal);
        out.extend_from_slice(&commit.checksum.to_le_bytes());
        out.push(kind_code(commit.kind));
        self.reset();
    }

    pub fn position(&mut self, out: &mut Vec<u8>, position: &[u8]) {
        out.push(TAG_POSITION);
        put_varint(out, position.len() as u64);
        out.extend_from_slice(position);
    }

    /// A new block or a new transaction begins.
    pub fn reset(&mut self) {
        self.cursor = Cursor::default();
    }
}

/// Reads the operations of one block. After an error it ends.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    raw: &'a [u8],
    at: usize,
    cursor: Cursor,
    /// `None` where pages cannot occur (parts).
    grid: Option<PageGrid>,
    /// Where the block stands in its object, for messages.
    block_offset: u64,
}

impl<'a> Decoder<'a> {
    pub fn new(raw: &'a [u8], grid: Option<PageGrid>, block_offset: u64) -> Decoder<'a> {
        Decoder { raw, at: 0, cursor: Cursor::default(), grid, block_offset }
    }

    /// Bytes of the block read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.raw.len()
    }

    pub fn corrupt(&self, what: &'static str) -> SegmentError {
        SegmentError::Corrupt { what, offset: self.block_offset }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], SegmentError> {
        let rest = &self.raw[self.at..];
        let bytes = rest.get(..length).ok_or_else(|| self.corrupt("operation cut off"))?;
        self.at += length;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, SegmentError> {
        Ok(self.take(1)?[0])
    }

    fn u64(&mut self) -> Result<u64, SegmentError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }

    /// LEB128, in the shortest form only: one value, one encoding.
    fn varint(&mut self) -> Result<u64, SegmentError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err(self.corrupt("number not in its shortest form"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(self.corrupt("number of more than 64 bits"))
    }

    fn difference(&mut self, from: u64, what: &'static str) -> Result<u64, SegmentError> {
        let coded = self.varint()?;
        let difference = (coded >> 1) as i64 ^ -((coded & 1) as i64);
        from.checked_add_signed(difference).filter(|&value| value < MAX_FILE_BYTES).ok_or_else(|| self.corrupt(what))
    }

    fn page(&mut self) -> Result<RawOp<'a>, SegmentError> {
        let grid = self.grid.ok_or_else(|| self.corrupt("page where none can be"))?;
        let page = self.difference(grid.page_at(self.cursor.main), "page number")?;
        let offset = grid.offset(page);
        if offset >= MAX_FILE_BYTES {
            return Err(self.corrupt("page number"));
        }
        self.cursor.main = offset;
        Ok(RawOp::Page { page, hash: self.u64()? })
    }

    fn extent(&mut self, file: FileId) -> Result<RawOp<'a>, SegmentError> {
        let from = *self.cursor.of(file);
        let offset = self.difference(from, "extent offset")?;
        let length = self.varint()?;
        let end = offset.checked_add(length).filter(|&end| end <= MAX_FILE_BYTES && length > 0);
        let end = end.ok_or_else(|| self.corrupt("extent length"))?;
        let length = usize::try_from(length).map_err(|_| self.corrupt("extent length"))?;
        let data = self.take(length)?;
        *self.cursor.of(file) = end;
        Ok(RawOp::Extent(Extent { file, offset, data }))
    }

    fn commit(&mut self) -> Result<RawOp<'a>, SegmentError> {
        let txid = Txid(self.varint()?);
        let time = TimeMs(self.varint()?);
        let lengths = Lengths { main: self.varint()?, wal: self.varint()? };
        let checksum = self.u64()?;
        let code = self.byte()?;
        let kind = kind_from_code(u32::from(code)).ok_or_else(|| self.corrupt("kind of commit"))?;
        let record = CommitRecord { txid, time, lengths, checksum, kind };
        if !record.is_good() {
            return Err(self.corrupt("commit"));
        }
        self.cursor = Cursor::default();
        Ok(RawOp::Commit(record))
    }

    fn position(&mut self) -> Result<RawOp<'a>, SegmentError> {
        let length = self.varint()?;
        let length = usize::try_from(length).ok().filter(|&length| length <= MAX_POSITION_BYTES);
        let length = length.ok_or_else(|| self.corrupt("length of the position"))?;
        Ok(RawOp::Position(self.take(length)?))
    }

    fn op(&mut self) -> Result<RawOp<'a>, SegmentError> {
        match self.byte()? {
            TAG_PAGE => self.page(),
            TAG_MAIN => self.extent(FileId::Main),
            TAG_WAL => self.extent(FileId::Wal),
            TAG_COMMIT => self.commit(),
            TAG_POSITION => self.position(),
            _ => Err(self.corrupt("unknown operation")),
        }
    }
}

impl<'a> Iterator for Decoder<'a> {
    type Item = Result<RawOp<'a>, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.raw.len() {
            return None;
        }
        let op = self.op();
        if op.is_err() {
            self.at = self.raw.len();
        }
        Some(op)
    }
}
