//! What parts and patches have in common: ascending extents of one file in blocks, and an index that describes the blocks.

use std::io;

use bytes::Bytes;
use prost::Message;

use super::codec::{self, Codec, Packer};
use super::frame::{self, FrameHead, FrameKind, ObjectKind, PROLOGUE_BYTES, Tail};
use super::ops::{Decoder, Encoder, RawOp};
use super::snapshot::MAX_PART_OBJECT_BYTES;
use super::{BLOCK_TARGET_BYTES, MAX_BLOCK_BYTES, MAX_EXTENT_BYTES, SegmentError, proto, table};
use crate::extent::{Extent, FileId};
use crate::layout::PartHash;

pub(super) fn file_code(file: FileId) -> proto::File {
    match file {
        FileId::Main => proto::File::Main,
        FileId::Wal => proto::File::Wal,
    }
}

fn file_from_code(code: i32) -> Option<FileId> {
    match proto::File::try_from(code).ok()? {
        proto::File::Unspecified => None,
        proto::File::Main => Some(FileId::Main),
        proto::File::Wal => Some(FileId::Wal),
    }
}

/// What an object says of itself, its content not yet proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub file: FileId,
    pub offset: u64,
    pub len: u64,
    pub hash: PartHash,
}

/// Makes an object in memory.
pub(super) struct BlockWriter {
    kind: ObjectKind,
    packer: Packer,
    encoder: Encoder,
    raw: Vec<u8>,
    object: Vec<u8>,
    index: proto::PartIndex,
}

impl BlockWriter {
    pub fn new(kind: ObjectKind, codec: Codec) -> Result<BlockWriter, SegmentError> {
        Ok(BlockWriter {
            kind,
            packer: Packer::new(codec)?,
            encoder: Encoder::default(),
            raw: Vec::new(),
            object: frame::prologue(kind).to_vec(),
            index: proto::PartIndex::default(),
        })
    }

    /// The caller keeps extents in order and within bounds.
    pub fn extent(&mut self, extent: Extent<'_>) -> Result<(), SegmentError> {
        let mut offset = extent.offset;
        for data in extent.data.chunks(MAX_EXTENT_BYTES) {
            self.encoder.extent(&mut self.raw, Extent { file: extent.file, offset, data });
            offset += data.len() as u64;
            if self.raw.len() >= BLOCK_TARGET_BYTES {
                self.close_block()?;
            }
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), SegmentError> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let head = frame::append(&mut self.object, FrameKind::Block, &self.raw, &mut self.packer)?;
        self.index.block_stored.push(head.stored_len);
        self.index.block_raw.push(head.raw_len);
        self.index.block_crc.push(head.crc);
        self.raw.clear();
        self.encoder.reset();
        Ok(())
    }

    pub fn finish(mut self, range: Range) -> Result<Bytes, SegmentError> {
        self.close_block()?;
        self.index.file = file_code(range.file) as i32;
        self.index.offset = range.offset;
        self.index.len = range.len;
        self.index.hash = range.hash.0.to_be_bytes().to_vec();
        let offset = self.object.len() as u64;
        let message = self.index.encode_to_vec();
        let head = frame::append(&mut self.object, FrameKind::Index, &message, &mut Packer::new(Codec::for_index())?)?;
        self.object.extend_from_slice(&frame::footer(self.kind, offset, head.frame_len()));
        let (value, limit) = (self.object.len() as u64, MAX_PART_OBJECT_BYTES);
        if value > limit {
            return Err(SegmentError::TooLarge { what: "part", value, limit });
        }
        Ok(Bytes::from(self.object))
    }
}

/// An object whose index was read.
pub(super) struct BlockReader<'a> {
    object: &'a [u8],
    index: proto::PartIndex,
    range: Range,
}

impl<'a> BlockReader<'a> {
    pub fn new(object: &'a [u8], kind: ObjectKind) -> Result<BlockReader<'a>, SegmentError> {
        let corrupt = |what, offset| SegmentError::Corrupt { what, offset };
        let Tail::Whole((raw, offset)) = frame::read_index(object, object.len() as u64, kind)? else {
            return Err(corrupt("place of the index", 0));
        };
        frame::check_prologue(object, kind)?;
        let index = proto::PartIndex::decode(raw.as_slice()).map_err(|_| corrupt("index message", offset))?;
        let count = index.block_stored.len();
        // A block has at least one byte of content, and content is bounded, so their number is too.
        let most = MAX_PART_OBJECT_BYTES as usize / frame::FRAME_HEAD_BYTES;
        if count > most || [index.block_raw.len(), index.block_crc.len()] != [count; 2] {
            return Err(corrupt("number of blocks", offset));
        }
        if table::first_block_offset(&index.block_stored, offset) != Some(PROLOGUE_BYTES as u64) {
            return Err(corrupt("place of the blocks", offset));
        }
        let file = file_from_code(index.file).ok_or(corrupt("file of the part", offset))?;
        let hash: [u8; 16] = index.hash.as_slice().try_into().map_err(|_| corrupt("hash of the part", offset))?;
        let hash = PartHash(u128::from_be_bytes(hash));
        let range = Range { file, offset: index.offset, len: index.len, hash };
        Ok(BlockReader { object, index, range })
    }

    pub fn range(&self) -> Range {
        self.range
    }

    /// Hands out every extent, proven to be of the file, ascending and within the range.
    pub fn extents(&self, mut take: impl FnMut(Extent<'_>) -> io::Result<()>) -> Result<(), SegmentError> {
        let end = self.range.offset.saturating_add(self.range.len);
        let mut reached = self.range.offset;
        let mut at = PROLOGUE_BYTES as u64;
        let mut raw = Vec::new();
        for number in 0..self.index.block_stored.len() {
            // The frames up to the index were checked to fill the object, so `at` lies within it.
            let (head, payload) = frame::read(&self.object[at as usize..], FrameKind::Block, at)?;
            check_block(&self.index, number, &head, at)?;
            codec::unpack(head.codec, payload, head.raw_len, &mut raw)
                .map_err(|_| SegmentError::Corrupt { what: "compressed block", offset: at })?;
            for op in Decoder::new(&raw, None, at) {
                let RawOp::Extent(extent) = op? else {
                    return Err(SegmentError::Corrupt { what: "operation in a part", offset: at });
                };
                let extent_end = extent.offset + extent.data.len() as u64;
                if extent.file != self.range.file || extent.offset < reached || extent_end > end {
                    return Err(SegmentError::Corrupt { what: "extent outside its part", offset: at });
                }
                reached = extent_end;
                take(extent)?;
            }
            at += head.frame_len();
        }
        Ok(())
    }
}

fn check_block(index: &proto::PartIndex, number: usize, head: &FrameHead, at: u64) -> Result<(), SegmentError> {
    let expected = (index.block_stored[number], index.block_raw[number], index.block_crc[number]);
    if (head.stored_len, head.raw_len, head.crc) != expected || head.raw_len > MAX_BLOCK_BYTES {
        return Err(SegmentError::Corrupt { what: "block that the index does not describe", offset: at });
    }
    Ok(())
}
