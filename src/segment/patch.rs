//! Patches: the changed pages of many parts in one object, so that a snapshot need not send a part for a few pages of it.
//!
//! A patch is laid over parts: what its extents do not cover stays as it is. Which parts it counts for, the manifest says.

use std::io;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::blocks::{BlockReader, BlockWriter, Range};
use super::codec::Codec;
use super::frame::ObjectKind;
use super::snapshot::{MAX_PART_BYTES, MAX_PART_OBJECT_BYTES, PartRef};
use super::{MAX_FILE_BYTES, SegmentError};
use crate::extent::{Extent, FileId};
use crate::layout::PartHash;

/// A patch: under which name it is, and between which bytes of the main file its extents lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchRef {
    pub offset: u64,
    pub len: u64,
    pub hash: PartHash,
    /// Bytes of the object.
    pub stored_len: u64,
}

impl PatchRef {
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    pub(super) fn is_good(&self) -> bool {
        let end = self.offset.checked_add(self.len);
        self.len > 0 && end.is_some_and(|end| end <= MAX_FILE_BYTES) && self.stored_len <= MAX_PART_OBJECT_BYTES
    }
}

/// What lies over a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Over {
    /// The number of the first patch that counts for it; older ones are of what the part was before.
    pub first_patch: usize,
    /// Bytes that the patches hold of it together.
    pub bytes: u64,
}

/// The hash of extents, whatever they were cut into.
struct PatchHash {
    bytes: Xxh3,
    /// Offset and length of each run of bytes without a hole.
    runs: Vec<(u64, u64)>,
}

impl PatchHash {
    fn extent(&mut self, extent: &Extent<'_>) {
        let len = extent.data.len() as u64;
        match self.runs.last_mut().filter(|(offset, length)| offset + length == extent.offset) {
            Some((_, length)) => *length += len,
            None => self.runs.push((extent.offset, len)),
        }
        self.bytes.update(extent.data);
    }

    fn finish(mut self) -> PartHash {
        for (offset, len) in &self.runs {
            self.bytes.update(&offset.to_le_bytes());
            self.bytes.update(&len.to_le_bytes());
        }
        self.bytes.update(b"patch");
        self.bytes.update(&(self.runs.len() as u64).to_le_bytes());
        PartHash(self.bytes.digest128())
    }
}

/// Makes one patch in memory, from extents of the main file in ascending order.
pub struct PatchWriter {
    hash: PatchHash,
    /// Where the last extent ends.
    end: u64,
    content_bytes: u64,
    blocks: BlockWriter,
}

impl PatchWriter {
    pub fn new(codec: Codec) -> Result<PatchWriter, SegmentError> {
        let hash = PatchHash { bytes: Xxh3::new(), runs: Vec::new() };
        Ok(PatchWriter { hash, end: 0, content_bytes: 0, blocks: BlockWriter::new(ObjectKind::Patch, codec)? })
    }

    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    pub fn extent(&mut self, offset: u64, data: &[u8]) -> Result<(), SegmentError> {
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= MAX_FILE_BYTES);
        let (Some(end), true) = (end, offset >= self.end && !data.is_empty()) else {
            return Err(SegmentError::Refused("extents of a patch ascend within the main file"));
        };
        let content_bytes = self.content_bytes + data.len() as u64;
        if content_bytes > MAX_PART_BYTES {
            return Err(SegmentError::TooLarge { what: "patch", value: content_bytes, limit: MAX_PART_BYTES });
        }
        let extent = Extent { file: FileId::Main, offset, data };
        self.blocks.extent(extent)?;
        self.hash.extent(&extent);
        (self.end, self.content_bytes) = (end, content_bytes);
        Ok(())
    }

    /// Its name and its object; `None` where nothing was put into it.
    pub fn finish(self) -> Result<Option<(PatchRef, Bytes)>, SegmentError> {
        let Some(&(offset, _)) = self.hash.runs.first() else { return Ok(None) };
        let (len, hash) = (self.end - offset, self.hash.finish());
        let object = self.blocks.finish(Range { file: FileId::Main, offset, len, hash })?;
        Ok(Some((PatchRef { offset, len, hash, stored_len: object.len() as u64 }, object)))
    }
}

/// Proves a patch's object against what the manifest says of it, and hands its extents to `take`, in ascending order.
///
/// As with a part, nothing that was handed out may be relied on after an error.
pub fn decode_patch(
    object: &[u8],
    patch: &PatchRef,
    mut take: impl FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<(), SegmentError> {
    let blocks = BlockReader::new(object, ObjectKind::Patch)?;
    let found = blocks.range();
    let expected = Range { file: FileId::Main, offset: patch.offset, len: patch.len, hash: patch.hash };
    if found != expected || object.len() as u64 != patch.stored_len || !patch.is_good() {
        let text = |range: &Range| format!("{:032x} ({} bytes at {})", range.hash.0, range.len, range.offset);
        return Err(SegmentError::Misnamed { name: text(&expected), found: text(&found) });
    }
    let mut hash = PatchHash { bytes: Xxh3::new(), runs: Vec::new() };
    let mut content_bytes = 0;
    blocks.extents(|extent| {
        content_bytes += extent.data.len() as u64;
        hash.extent(&extent);
        take(extent)
    })?;
    if content_bytes > MAX_PART_BYTES {
        return Err(SegmentError::TooLarge { what: "patch", value: content_bytes, limit: MAX_PART_BYTES });
    }
    if hash.finish() != patch.hash {
        return Err(SegmentError::Corrupt { what: "content hash of the patch", offset: 0 });
    }
    Ok(())
}

/// What a patch's object says of itself, its content not yet proven: for finding out what an object is.
pub fn read_patch_ref(object: &[u8]) -> Result<PatchRef, SegmentError> {
    let Range { offset, len, hash, .. } = BlockReader::new(object, ObjectKind::Patch)?.range();
    Ok(PatchRef { offset, len, hash, stored_len: object.len() as u64 })
}

/// Hands on the pieces of an extent of patch `number` that count: those over parts that are not newer than the patch.
/// `parts` are those of the main file; `over` has an entry for each of them.
pub fn pieces_over<'a>(
    parts: &[PartRef],
    over: &[Over],
    number: usize,
    extent: Extent<'a>,
    mut take: impl FnMut(Extent<'a>) -> io::Result<()>,
) -> io::Result<()> {
    let end = extent.offset + extent.data.len() as u64;
    let first = parts.partition_point(|part| part.end() <= extent.offset);
    for (part, over) in parts.iter().zip(over).skip(first).take_while(|(part, _)| part.offset < end) {
        if over.first_patch > number {
            continue;
        }
        let (from, to) = (extent.offset.max(part.offset), end.min(part.end()));
        let data = &extent.data[(from - extent.offset) as usize..(to - extent.offset) as usize];
        take(Extent { file: extent.file, offset: from, data })?;
    }
    Ok(())
}
