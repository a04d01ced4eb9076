//! The content of a file as it is stored: framed as a part of a main file from its beginning, under the name of its SHA-256.

use bytes::Bytes;

use crate::checksum::Sha256;
use crate::extent::{Extent, FileId};
use crate::layout::BlobHash;
use crate::segment::{Codec, MAX_PART_BYTES, PartWriter, SegmentError, decode_part, read_part_ref};

/// Bytes of one file.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
const _: () = assert!(MAX_FILE_BYTES <= MAX_PART_BYTES, "a blob is one part");

/// The object of a content that is not empty and not longer than `MAX_FILE_BYTES`.
pub fn encode_blob(content: &[u8]) -> Result<Bytes, SegmentError> {
    let mut part = PartWriter::new(FileId::Main, 0, Codec::for_joined())?;
    part.extent(Extent { file: FileId::Main, offset: 0, data: content })?;
    part.finish(content.len() as u64).map(|(_, object)| object)
}

/// The content, proven against its name.
pub fn decode_blob(object: &[u8], hash: BlobHash) -> Result<Vec<u8>, String> {
    let damaged = |error: SegmentError| error.to_string();
    let part = read_part_ref(object).map_err(damaged)?;
    if part.file != FileId::Main || part.offset != 0 || part.len > MAX_FILE_BYTES {
        return Err("is no blob".to_owned());
    }
    let length = usize::try_from(part.len).map_err(|error| error.to_string())?;
    let mut content = vec![0; length];
    // Extents were checked to lie within the part.
    decode_part(object, &part, |extent| {
        let start = extent.offset as usize;
        content[start..start + extent.data.len()].copy_from_slice(extent.data);
        Ok(())
    })
    .map_err(damaged)?;
    match BlobHash(Sha256::of(&content)) == hash {
        true => Ok(content),
        false => Err("its content is not what its name says".to_owned()),
    }
}
