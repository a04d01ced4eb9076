//! A segment being read: whole, or block by block as ranges of an object.

use bytes::Bytes;

use super::codec;
use super::frame::{self, FrameKind, ObjectKind, PROLOGUE_BYTES, Tail};
use super::ops::{CommitRecord, Decoder, RawOp};
use super::{CommitEntry, Index, PageRun, SegmentError, table};
use crate::extent::Extent;
use crate::position::Txid;

/// One operation of a segment. A transaction is the operations up to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// The hash of a page of the main file after the transaction.
    Page { page: u64, hash: u64 },
    /// Bytes to write. Those beyond the lengths that the transaction's commit states vanish.
    Extent(Extent<'a>),
    /// The transaction is whole; the commit of this txid is in the index. Set the files' lengths now.
    Commit(Txid),
}

/// A proven, decompressed block.
#[derive(Debug, Clone)]
pub struct Block<'a> {
    index: &'a Index,
    number: usize,
    raw: Vec<u8>,
}

impl Index {
    /// Proves and decompresses block `number` from the bytes that stand at its `range`.
    pub fn decode_block(&self, number: usize, stored: &[u8]) -> Result<Block<'_>, SegmentError> {
        let entry = self.blocks.get(number).ok_or(SegmentError::Refused("there is no such block"))?;
        let (head, payload) = frame::read(stored, FrameKind::Block, entry.offset)?;
        // The index knows the CRC too, so a whole block in the wrong place, or of another object, is seen.
        if (head.stored_len, head.raw_len, head.crc) != (entry.stored_len, entry.raw_len, entry.crc) {
            return Err(SegmentError::Corrupt { what: "block that the index does not describe", offset: entry.offset });
        }
        let mut raw = Vec::new();
        codec::unpack(head.codec, payload, head.raw_len, &mut raw)
            .map_err(|_| SegmentError::Corrupt { what: "compressed block", offset: entry.offset })?;
        Ok(Block { index: self, number, raw })
    }
}

impl Block<'_> {
    /// Its operations, each checked, and its commits compared with the index. After an error there are no more.
    pub fn ops(&self) -> Ops<'_> {
        let index = self.index;
        let number = self.number as u32;
        let from = index.commits.partition_point(|entry| entry.block < number);
        let to = index.commits.partition_point(|entry| entry.block <= number);
        let offset = index.blocks[self.number].offset;
        Ops {
            decoder: Decoder::new(&self.raw, Some(index.header.grid), offset),
            commits: &index.commits[from..to],
            index,
            is_last: self.number + 1 == index.blocks.len(),
            has_commits: from < to,
            ended: false,
        }
    }
}

/// The operations of one block.
#[derive(Debug)]
pub struct Ops<'a> {
    decoder: Decoder<'a>,
    /// Those that the index has in this block and that were not read yet.
    commits: &'a [CommitEntry],
    index: &'a Index,
    is_last: bool,
    has_commits: bool,
    ended: bool,
}

impl<'a> Ops<'a> {
    fn commit(&mut self, record: CommitRecord) -> Result<Op<'a>, SegmentError> {
        let grid = self.index.header.grid;
        match self.commits.split_first() {
            Some((entry, rest)) if entry.end as usize == self.decoder.at() && entry.commit == record.commit(grid) => {
                self.commits = rest;
                Ok(Op::Commit(entry.commit.txid))
            }
            _ => Err(self.decoder.corrupt("commit that the index does not describe")),
        }
    }

    /// The position stands at the end of every block with commits, behind the last of them, and nowhere else.
    fn position(&mut self, position: &[u8]) -> Result<(), SegmentError> {
        let expected = !self.is_last || position == self.index.position;
        if self.has_commits && self.commits.is_empty() && self.decoder.is_at_end() && expected {
            Ok(())
        } else {
            Err(self.decoder.corrupt("position"))
        }
    }

    fn step(&mut self) -> Result<Option<Op<'a>>, SegmentError> {
        let op = self.decoder.next().transpose()?;
        // Behind the last commit of a block stands its position and nothing else.
        if self.has_commits && self.commits.is_empty() && !matches!(op, Some(RawOp::Position(_))) {
            return Err(self.decoder.corrupt("end of the block"));
        }
        match op {
            Some(RawOp::Page { page, hash }) => Ok(Some(Op::Page { page, hash })),
            Some(RawOp::Extent(extent)) => Ok(Some(Op::Extent(extent))),
            Some(RawOp::Commit(record)) => self.commit(record).map(Some),
            Some(RawOp::Position(position)) => self.position(position).map(|()| None),
            None if self.commits.is_empty() => Ok(None),
            None => Err(self.decoder.corrupt("end of the block")),
        }
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step();
        self.ended = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

/// A whole segment in memory.
#[derive(Debug, Clone)]
pub struct SegmentReader {
    bytes: Bytes,
    index: Index,
}

impl SegmentReader {
    /// Reads and checks everything but the blocks, which are proven as they are read.
    pub fn open(bytes: Bytes) -> Result<SegmentReader, SegmentError> {
        let index = match Index::from_tail(&bytes, bytes.len() as u64)? {
            Tail::Whole(index) => index,
            Tail::ReadFrom(_) => return Err(SegmentError::Corrupt { what: "place of the index", offset: 0 }),
        };
        frame::check_prologue(&bytes, ObjectKind::Segment)?;
        let at = PROLOGUE_BYTES as u64;
        let (head, message) = frame::read(&bytes[PROLOGUE_BYTES..], FrameKind::Header, at)?;
        let header = table::read_header(head, message)?;
        if header != index.header {
            return Err(SegmentError::Corrupt { what: "header that the index contradicts", offset: at });
        }
        // Blocks follow each other up to the index; with this, header, blocks, index and footer are the whole object.
        if index.blocks[0].offset != at + head.frame_len() {
            return Err(SegmentError::Corrupt { what: "space before the blocks", offset: at + head.frame_len() });
        }
        Ok(SegmentReader { bytes, index })
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Bytes of the object.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Never: an object has at least a header, a commit and an index.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Proves and decompresses block `number`.
    pub fn block(&self, number: usize) -> Result<Block<'_>, SegmentError> {
        let entry = self.index.blocks.get(number).ok_or(SegmentError::Refused("there is no such block"))?;
        let at = |offset: u64| usize::try_from(offset).expect("the index was checked to lie within the object");
        let range = entry.range();
        self.index.decode_block(number, &self.bytes[at(range.start)..at(range.end)])
    }

    /// All blocks, oldest first.
    pub fn blocks(&self) -> impl Iterator<Item = Result<Block<'_>, SegmentError>> {
        (0..self.index.blocks.len()).map(|number| self.block(number))
    }

    /// Proves every block and every operation, and that the page runs cover what is touched.
    pub fn verify(&self) -> Result<(), SegmentError> {
        for number in 0..self.index.blocks.len() {
            let block = self.block(number)?;
            let runs = self.index.page_runs(number);
            for op in block.ops() {
                let touched = match op? {
                    Op::Page { page, .. } => Some(PageRun { first: page, count: 1 }),
                    Op::Extent(extent) => PageRun::of_extent(self.index.header.grid, &extent),
                    Op::Commit(_) => None,
                };
                let covers =
                    |touched: PageRun| runs.iter().any(|r| r.first <= touched.first && touched.end() <= r.end());
                if touched.is_some_and(|touched| !covers(touched)) {
                    let offset = self.index.blocks[number].offset;
                    return Err(SegmentError::Corrupt { what: "page outside the block's page runs", offset });
                }
            }
        }
        Ok(())
    }
}
