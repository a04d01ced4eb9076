//! What all stored objects have in common: a prologue, frames, a footer. docs/format.md has the bytes.

use std::ops::Range;

use super::codec::{self, StoredCodec};
use super::{FORMAT_VERSION, SegmentError};

/// First bytes of every object. Not ASCII, with both line ends, so that a transfer as text breaks it visibly.
const HEAD_MAGIC: [u8; 6] = *b"\x89RPL\r\n";
/// Last bytes of every object.
const TAIL_MAGIC: [u8; 6] = *b"\nRPL\x1a\x89";

pub(super) const PROLOGUE_BYTES: usize = 16;
pub(super) const FRAME_HEAD_BYTES: usize = 14;
/// Bytes of the footer, the end of every object.
pub(super) const FOOTER_BYTES: usize = 32;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum ObjectKind {
    Segment = 1,
    Part = 2,
    Manifest = 3,
    Patch = 4,
}

/// What an object says of itself at both ends: as little as its content needs, so that older readers read what they can.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub kind: ObjectKind,
    /// The version of the format that knows everything in it.
    pub version: u16,
    /// The oldest reader that understands it.
    pub min_reader: u16,
}

impl From<ObjectKind> for Identity {
    fn from(kind: ObjectKind) -> Identity {
        let version = if kind == ObjectKind::Patch { 2 } else { 1 };
        Identity { kind, version, min_reader: version }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FrameKind {
    Header = 1,
    Block = 2,
    Index = 3,
}

impl FrameKind {
    fn name(self) -> &'static str {
        match self {
            FrameKind::Header => "header",
            FrameKind::Block => "block",
            FrameKind::Index => "index",
        }
    }

    /// What a reader is ready to hold in memory for one frame of this kind.
    fn max_raw(self) -> u32 {
        match self {
            FrameKind::Header => super::MAX_HEADER_BYTES,
            FrameKind::Block => super::MAX_BLOCK_BYTES,
            FrameKind::Index => super::MAX_INDEX_BYTES,
        }
    }
}

/// `N` bytes at `at`. Callers have checked that they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

/// Is `stored` the CRC of `parts`? A fuzzer is always told so: what it invents then reaches the readers
/// behind the checksums, which must survive it as well.
fn crc_matches(parts: [&[u8]; 2], stored: u32) -> bool {
    cfg!(fuzzing) || crc(parts) == stored
}

fn crc(parts: [&[u8]; 2]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

impl Identity {
    /// As in the prologue and again in the footer.
    fn bytes(self) -> [u8; 6] {
        let mut bytes = [0; 6];
        bytes[..2].copy_from_slice(&self.version.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.min_reader.to_le_bytes());
        bytes[4..].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes
    }
}

fn check_identity(bytes: [u8; 6], kind: ObjectKind) -> Result<(), SegmentError> {
    let (version, min_reader) = (u16::from_le_bytes(array(&bytes, 0)), u16::from_le_bytes(array(&bytes, 2)));
    if min_reader > FORMAT_VERSION || min_reader > version || min_reader == 0 {
        return Err(SegmentError::UnsupportedVersion { version, min_reader });
    }
    let found = u16::from_le_bytes(array(&bytes, 4));
    if found != kind as u16 {
        return Err(SegmentError::WrongKind { expected: kind as u16, found });
    }
    Ok(())
}

pub(super) fn prologue(identity: impl Into<Identity>) -> [u8; PROLOGUE_BYTES] {
    let mut bytes = [0; PROLOGUE_BYTES];
    bytes[..6].copy_from_slice(&HEAD_MAGIC);
    bytes[6..12].copy_from_slice(&identity.into().bytes());
    let sum = crc([&bytes[..12], &[]]);
    bytes[12..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

pub(super) fn check_prologue(bytes: &[u8], kind: ObjectKind) -> Result<(), SegmentError> {
    let bytes = bytes.get(..PROLOGUE_BYTES).ok_or(SegmentError::Truncated {
        what: "prologue",
        needed: PROLOGUE_BYTES as u64,
        found: bytes.len() as u64,
    })?;
    if bytes[..6] != HEAD_MAGIC {
        return Err(SegmentError::BadMagic { what: "prologue" });
    }
    if !crc_matches([&bytes[..12], &[]], u32::from_le_bytes(array(bytes, 12))) {
        return Err(SegmentError::Corrupt { what: "prologue checksum", offset: 0 });
    }
    check_identity(array(bytes, 6), kind)
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub kind: FrameKind,
    pub codec: StoredCodec,
    pub raw_len: u32,
    pub stored_len: u32,
    /// Of the ten bytes before it and of the payload as stored.
    pub crc: u32,
}

impl FrameHead {
    /// The head of the frame at `at`, its bounds checked but for the CRC.
    pub fn read(bytes: &[u8], kind: FrameKind, at: u64) -> Result<FrameHead, SegmentError> {
        let Some(bytes) = bytes.get(..FRAME_HEAD_BYTES) else {
            return Err(SegmentError::Truncated {
                what: kind.name(),
                needed: FRAME_HEAD_BYTES as u64,
                found: bytes.len() as u64,
            });
        };
        let corrupt = |what| SegmentError::Corrupt { what, offset: at };
        if bytes[0] != kind as u8 {
            return Err(corrupt("frame kind"));
        }
        let codec = StoredCodec::from_byte(bytes[1]).ok_or(corrupt("frame codec"))?;
        let (raw_len, stored_len) = (u32::from_le_bytes(array(bytes, 2)), u32::from_le_bytes(array(bytes, 6)));
        if raw_len > kind.max_raw() {
            let limit = u64::from(kind.max_raw());
            return Err(SegmentError::TooLarge { what: kind.name(), value: u64::from(raw_len), limit });
        }
        // What does not shrink is stored as it is, so that nothing is ever longer than its content.
        let good =
            raw_len > 0 && if codec == StoredCodec::Stored { stored_len == raw_len } else { stored_len < raw_len };
        if !good {
            return Err(corrupt("frame length"));
        }
        Ok(FrameHead { kind, codec, raw_len, stored_len, crc: u32::from_le_bytes(array(bytes, 10)) })
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> u64 {
        FRAME_HEAD_BYTES as u64 + u64::from(self.stored_len)
    }
}

/// Appends a frame with `raw` as its payload, compressed where that makes it shorter.
pub(super) fn append(
    out: &mut Vec<u8>,
    kind: FrameKind,
    raw: &[u8],
    packer: &mut codec::Packer,
) -> Result<FrameHead, SegmentError> {
    let limit = u64::from(kind.max_raw());
    let raw_len = u32::try_from(raw.len()).ok().filter(|&len| len <= kind.max_raw());
    let raw_len = raw_len.ok_or(SegmentError::TooLarge { what: kind.name(), value: raw.len() as u64, limit })?;
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    let codec = packer.pack(raw, out)?;
    let stored_len = (out.len() - start - FRAME_HEAD_BYTES) as u32;
    out[start] = kind as u8;
    out[start + 1] = codec as u8;
    out[start + 2..start + 6].copy_from_slice(&raw_len.to_le_bytes());
    out[start + 6..start + 10].copy_from_slice(&stored_len.to_le_bytes());
    let crc = crc([&out[start..start + 10], &out[start + FRAME_HEAD_BYTES..]]);
    out[start + 10..start + 14].copy_from_slice(&crc.to_le_bytes());
    Ok(FrameHead { kind, codec, raw_len, stored_len, crc })
}

/// The head and the proven payload of the frame that begins `bytes`, which stand at `at` of their object. More bytes may
/// follow.
pub(super) fn read(bytes: &[u8], kind: FrameKind, at: u64) -> Result<(FrameHead, &[u8]), SegmentError> {
    let head = FrameHead::read(bytes, kind, at)?;
    let stored = bytes[FRAME_HEAD_BYTES..].get(..head.stored_len as usize).ok_or(SegmentError::Truncated {
        what: kind.name(),
        needed: head.frame_len(),
        found: bytes.len() as u64,
    })?;
    if !crc_matches([&bytes[..10], stored], head.crc) {
        return Err(SegmentError::Corrupt { what: "frame checksum", offset: at });
    }
    Ok((head, stored))
}

pub(super) fn footer(identity: impl Into<Identity>, index_offset: u64, index_len: u64) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    bytes[..8].copy_from_slice(&index_offset.to_le_bytes());
    bytes[8..16].copy_from_slice(&index_len.to_le_bytes());
    bytes[16..22].copy_from_slice(&identity.into().bytes());
    let sum = crc([&bytes[..22], &[]]);
    bytes[22..26].copy_from_slice(&sum.to_le_bytes());
    bytes[26..].copy_from_slice(&TAIL_MAGIC);
    bytes
}

/// Where the index's frame stands in an object of `object_len` bytes that ends with `tail`.
pub(super) fn read_footer(tail: &[u8], object_len: u64, kind: ObjectKind) -> Result<Range<u64>, SegmentError> {
    let least = (PROLOGUE_BYTES + FRAME_HEAD_BYTES + FOOTER_BYTES) as u64;
    let short = |found: u64| SegmentError::Truncated { what: "footer", needed: least, found };
    if object_len < least {
        return Err(short(object_len));
    }
    let bytes = tail.len().checked_sub(FOOTER_BYTES).map(|at| &tail[at..]).ok_or(short(tail.len() as u64))?;
    let offset = object_len - FOOTER_BYTES as u64;
    if bytes[26..] != TAIL_MAGIC {
        return Err(SegmentError::BadMagic { what: "footer" });
    }
    if !crc_matches([&bytes[..22], &[]], u32::from_le_bytes(array(bytes, 22))) {
        return Err(SegmentError::Corrupt { what: "footer checksum", offset });
    }
    check_identity(array(bytes, 16), kind)?;
    let (start, len) = (u64::from_le_bytes(array(bytes, 0)), u64::from_le_bytes(array(bytes, 8)));
    if start < PROLOGUE_BYTES as u64 || start.checked_add(len) != Some(offset) {
        return Err(SegmentError::Corrupt { what: "place of the index", offset });
    }
    Ok(start..offset)
}

/// What the end of an object gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail<T> {
    /// The index was in it.
    Whole(T),
    /// The index begins earlier: read the object from this offset to its end, and try again with that.
    ReadFrom(u64),
}

/// The decompressed index of an object that ends with `tail`, and the offset where its frame begins.
pub(super) fn read_index(tail: &[u8], object_len: u64, kind: ObjectKind) -> Result<Tail<(Vec<u8>, u64)>, SegmentError> {
    let range = read_footer(tail, object_len, kind)?;
    if (tail.len() as u64) > object_len {
        return Err(SegmentError::Refused("the end of an object is longer than the object"));
    }
    let tail_start = object_len - tail.len() as u64;
    if range.start < tail_start {
        return Ok(Tail::ReadFrom(range.start));
    }
    let at = |offset: u64| usize::try_from(offset - tail_start).expect("an offset within a slice");
    let (head, stored) = read(&tail[at(range.start)..at(range.end)], FrameKind::Index, range.start)?;
    if head.frame_len() != range.end - range.start {
        return Err(SegmentError::Corrupt { what: "length of the index", offset: range.start });
    }
    let mut raw = Vec::new();
    codec::unpack(head.codec, stored, head.raw_len, &mut raw)
        .map_err(|_| SegmentError::Corrupt { what: "compressed index", offset: range.start })?;
    Ok(Tail::Whole((raw, range.start)))
}
