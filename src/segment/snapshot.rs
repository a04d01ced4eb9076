//! Parts of snapshots: a range of one file each, named by the hash of its content, so that an unchanged part is never
//! sent again.

use std::io;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use super::codec::{self, Codec, Packer};
use super::frame::{self, FrameHead, FrameKind, ObjectKind, PROLOGUE_BYTES, Tail};
use super::ops::{Decoder, Encoder, RawOp};
use super::{BLOCK_TARGET_BYTES, MAX_BLOCK_BYTES, MAX_EXTENT_BYTES, MAX_FILE_BYTES, SegmentError, proto, table};
use crate::extent::{Extent, FileId};
use crate::layout::PartHash;

/// Bytes of a file that one part may cover.
pub const MAX_PART_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of a part's object: twice its content, which only extents of a few bytes could need.
pub const MAX_PART_OBJECT_BYTES: u64 = 2 * MAX_PART_BYTES;

/// A part: which range of which file, and under which name its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRef {
    pub file: FileId,
    pub offset: u64,
    pub len: u64,
    pub hash: PartHash,
    /// Bytes of the object.
    pub stored_len: u64,
}

impl PartRef {
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    pub(super) fn is_good(&self) -> bool {
        let end = self.offset.checked_add(self.len);
        (1..=MAX_PART_BYTES).contains(&self.len)
            && end.is_some_and(|end| end <= MAX_FILE_BYTES)
            && self.stored_len <= MAX_PART_OBJECT_BYTES
    }
}

fn file_message(file: FileId) -> proto::File {
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

/// The hash of a range's bytes, given as ascending extents with zeros between them.
struct ContentHash {
    state: Xxh3,
    at: u64,
}

impl ContentHash {
    fn new(start: u64) -> ContentHash {
        ContentHash { state: Xxh3::new(), at: start }
    }

    fn extent(&mut self, offset: u64, data: &[u8]) {
        self.zeros_to(offset);
        self.state.update(data);
        self.at = offset + data.len() as u64;
    }

    fn zeros_to(&mut self, end: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < end {
            let step = (end - self.at).min(ZEROS.len() as u64);
            self.state.update(&ZEROS[..step as usize]);
            self.at += step;
        }
    }

    fn finish(mut self, file: FileId, start: u64, end: u64) -> PartHash {
        self.zeros_to(end);
        self.state.update(&[file_message(file) as u8]);
        self.state.update(&start.to_le_bytes());
        self.state.update(&(end - start).to_le_bytes());
        PartHash(self.state.digest128())
    }
}

/// Makes one part in memory, from extents in ascending order.
pub struct PartWriter {
    file: FileId,
    start: u64,
    hash: ContentHash,
    packer: Packer,
    encoder: Encoder,
    raw: Vec<u8>,
    object: Vec<u8>,
    index: proto::PartIndex,
}

impl PartWriter {
    /// Begins the part of `file` at `start`.
    pub fn new(file: FileId, start: u64, codec: Codec) -> Result<PartWriter, SegmentError> {
        Ok(PartWriter {
            file,
            start,
            hash: ContentHash::new(start),
            packer: Packer::new(codec)?,
            encoder: Encoder::default(),
            raw: Vec::new(),
            object: frame::prologue(ObjectKind::Part).to_vec(),
            index: proto::PartIndex::default(),
        })
    }

    /// Bytes that no extent covers are zeros.
    pub fn extent(&mut self, extent: Extent<'_>) -> Result<(), SegmentError> {
        let end = extent.offset.checked_add(extent.data.len() as u64);
        let limit = self.start.saturating_add(MAX_PART_BYTES).min(MAX_FILE_BYTES);
        if extent.file != self.file || extent.offset < self.hash.at || end.is_none_or(|end| end > limit) {
            return Err(SegmentError::Refused("extents of a part ascend within its range of one file"));
        }
        let mut offset = extent.offset;
        for data in extent.data.chunks(MAX_EXTENT_BYTES) {
            self.encoder.extent(&mut self.raw, Extent { file: self.file, offset, data });
            self.hash.extent(offset, data);
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

    /// Ends the part at `end`, and returns its name and its object.
    pub fn finish(mut self, end: u64) -> Result<(PartRef, Bytes), SegmentError> {
        let len = end.checked_sub(self.start).filter(|&len| (1..=MAX_PART_BYTES).contains(&len));
        let len = len.filter(|_| end >= self.hash.at && end <= MAX_FILE_BYTES);
        let len = len.ok_or(SegmentError::Refused("a part ends behind its extents, within the format's bounds"))?;
        self.close_block()?;
        let hash = self.hash.finish(self.file, self.start, end);
        self.index.file = file_message(self.file) as i32;
        self.index.offset = self.start;
        self.index.len = len;
        self.index.hash = hash.0.to_be_bytes().to_vec();
        let offset = self.object.len() as u64;
        let message = self.index.encode_to_vec();
        let head = frame::append(&mut self.object, FrameKind::Index, &message, &mut Packer::new(Codec::for_index())?)?;
        self.object.extend_from_slice(&frame::footer(ObjectKind::Part, offset, head.frame_len()));
        let part = PartRef { file: self.file, offset: self.start, len, hash, stored_len: self.object.len() as u64 };
        if !part.is_good() {
            let (value, limit) = (part.stored_len, MAX_PART_OBJECT_BYTES);
            return Err(SegmentError::TooLarge { what: "part", value, limit });
        }
        Ok((part, Bytes::from(self.object)))
    }
}

/// Proves a part's object against what the manifest says of it, and hands its extents to `take`, in ascending order.
///
/// The hash of the whole is known only at the end: after an error, nothing that was handed out may be relied on.
pub fn decode_part(
    object: &[u8],
    part: &PartRef,
    mut take: impl FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<(), SegmentError> {
    let (index, index_offset) = read_part_index(object)?;
    let (found, file) = part_ref(&index, object.len() as u64, index_offset)?;
    if found != *part {
        let text = |part: &PartRef| format!("{:032x} ({} bytes at {})", part.hash.0, part.len, part.offset);
        return Err(SegmentError::Misnamed { name: text(part), found: text(&found) });
    }
    let mut hash = ContentHash::new(part.offset);
    let mut at = PROLOGUE_BYTES as u64;
    let mut raw = Vec::new();
    for number in 0..index.block_stored.len() {
        // The frames up to the index were checked to fill the object, so `at` lies within it.
        let (head, payload) = frame::read(&object[at as usize..], FrameKind::Block, at)?;
        check_block(&index, number, &head, at)?;
        codec::unpack(head.codec, payload, head.raw_len, &mut raw)
            .map_err(|_| SegmentError::Corrupt { what: "compressed block", offset: at })?;
        for op in Decoder::new(&raw, None, at) {
            let RawOp::Extent(extent) = op? else {
                return Err(SegmentError::Corrupt { what: "operation in a part", offset: at });
            };
            let end = extent.offset + extent.data.len() as u64;
            if extent.file != file || extent.offset < hash.at || end > part.end() {
                return Err(SegmentError::Corrupt { what: "extent outside its part", offset: at });
            }
            hash.extent(extent.offset, extent.data);
            take(extent)?;
        }
        at += head.frame_len();
    }
    if hash.finish(file, part.offset, part.end()) != part.hash {
        return Err(SegmentError::Corrupt { what: "content hash of the part", offset: 0 });
    }
    Ok(())
}

/// What a part's object says of itself, its content not yet proven: for finding out what an object is.
pub fn read_part_ref(object: &[u8]) -> Result<PartRef, SegmentError> {
    let (index, index_offset) = read_part_index(object)?;
    Ok(part_ref(&index, object.len() as u64, index_offset)?.0)
}

fn read_part_index(object: &[u8]) -> Result<(proto::PartIndex, u64), SegmentError> {
    let corrupt = |what, offset| SegmentError::Corrupt { what, offset };
    let Tail::Whole((raw, offset)) = frame::read_index(object, object.len() as u64, ObjectKind::Part)? else {
        return Err(corrupt("place of the index", 0));
    };
    frame::check_prologue(object, ObjectKind::Part)?;
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
    Ok((index, offset))
}

fn part_ref(index: &proto::PartIndex, stored_len: u64, at: u64) -> Result<(PartRef, FileId), SegmentError> {
    let corrupt = |what| SegmentError::Corrupt { what, offset: at };
    let file = file_from_code(index.file).ok_or(corrupt("file of the part"))?;
    let hash: [u8; 16] = index.hash.as_slice().try_into().map_err(|_| corrupt("hash of the part"))?;
    let hash = PartHash(u128::from_be_bytes(hash));
    let part = PartRef { file, offset: index.offset, len: index.len, hash, stored_len };
    if part.is_good() { Ok((part, file)) } else { Err(corrupt("range of the part")) }
}

fn check_block(index: &proto::PartIndex, number: usize, head: &FrameHead, at: u64) -> Result<(), SegmentError> {
    let expected = (index.block_stored[number], index.block_raw[number], index.block_crc[number]);
    if (head.stored_len, head.raw_len, head.crc) != expected || head.raw_len > MAX_BLOCK_BYTES {
        return Err(SegmentError::Corrupt { what: "block that the index does not describe", offset: at });
    }
    Ok(())
}
