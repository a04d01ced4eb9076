//! Parts of snapshots: a range of one file each, named by the hash of its content, so that an unchanged part is never
//! sent again.

use std::io;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::blocks::{BlockReader, BlockWriter, Range, file_code};
use super::codec::Codec;
use super::frame::ObjectKind;
use super::{MAX_FILE_BYTES, SegmentError};
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
        self.state.update(&[file_code(file) as u8]);
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
    blocks: BlockWriter,
}

impl PartWriter {
    /// Begins the part of `file` at `start`.
    pub fn new(file: FileId, start: u64, codec: Codec) -> Result<PartWriter, SegmentError> {
        let blocks = BlockWriter::new(ObjectKind::Part, codec)?;
        Ok(PartWriter { file, start, hash: ContentHash::new(start), blocks })
    }

    /// Bytes that no extent covers are zeros.
    pub fn extent(&mut self, extent: Extent<'_>) -> Result<(), SegmentError> {
        let end = extent.offset.checked_add(extent.data.len() as u64);
        let limit = self.start.saturating_add(MAX_PART_BYTES).min(MAX_FILE_BYTES);
        if extent.file != self.file || extent.offset < self.hash.at || end.is_none_or(|end| end > limit) {
            return Err(SegmentError::Refused("extents of a part ascend within its range of one file"));
        }
        self.blocks.extent(extent)?;
        self.hash.extent(extent.offset, extent.data);
        Ok(())
    }

    /// Ends the part at `end`, and returns its name and its object.
    pub fn finish(self, end: u64) -> Result<(PartRef, Bytes), SegmentError> {
        let len = end.checked_sub(self.start).filter(|&len| (1..=MAX_PART_BYTES).contains(&len));
        let len = len.filter(|_| end >= self.hash.at && end <= MAX_FILE_BYTES);
        let len = len.ok_or(SegmentError::Refused("a part ends behind its extents, within the format's bounds"))?;
        let hash = self.hash.finish(self.file, self.start, end);
        let object = self.blocks.finish(Range { file: self.file, offset: self.start, len, hash })?;
        let part = PartRef { file: self.file, offset: self.start, len, hash, stored_len: object.len() as u64 };
        Ok((part, object))
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
    let blocks = BlockReader::new(object, ObjectKind::Part)?;
    let found = part_ref(&blocks, object.len() as u64)?;
    if found != *part {
        let text = |part: &PartRef| format!("{:032x} ({} bytes at {})", part.hash.0, part.len, part.offset);
        return Err(SegmentError::Misnamed { name: text(part), found: text(&found) });
    }
    let mut hash = ContentHash::new(part.offset);
    blocks.extents(|extent| {
        hash.extent(extent.offset, extent.data);
        take(extent)
    })?;
    if hash.finish(part.file, part.offset, part.end()) != part.hash {
        return Err(SegmentError::Corrupt { what: "content hash of the part", offset: 0 });
    }
    Ok(())
}

/// What a part's object says of itself, its content not yet proven: for finding out what an object is.
pub fn read_part_ref(object: &[u8]) -> Result<PartRef, SegmentError> {
    part_ref(&BlockReader::new(object, ObjectKind::Part)?, object.len() as u64)
}

fn part_ref(blocks: &BlockReader<'_>, stored_len: u64) -> Result<PartRef, SegmentError> {
    let Range { file, offset, len, hash } = blocks.range();
    let part = PartRef { file, offset, len, hash, stored_len };
    if part.is_good() { Ok(part) } else { Err(SegmentError::Corrupt { what: "range of the part", offset: 0 }) }
}
