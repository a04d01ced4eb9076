//! Compression of one frame's payload.

use std::cell::RefCell;
use std::io;

use super::SegmentError;

/// How a writer compresses. Each frame records what was used for it; what does not shrink is stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Stored,
    Lz4,
    /// zstd at a level: -7 (fast) to 22 (small).
    Zstd {
        level: i32,
    },
}

impl Codec {
    /// For segments as shipped: sparse page deltas, on the capturing thread. Figures: docs/benchmarks.md, "Codec".
    pub const fn for_deltas() -> Codec {
        Codec::Zstd { level: 1 }
    }

    /// For joined and merged segments: written once, kept long, off the capturing thread.
    pub const fn for_joined() -> Codec {
        Codec::Zstd { level: 3 }
    }

    /// For the parts of a snapshot: the whole database, whole pages.
    pub const fn for_parts() -> Codec {
        Codec::Zstd { level: 1 }
    }

    /// For indexes: small, read alone and often.
    pub(super) const fn for_index() -> Codec {
        Codec::Lz4
    }
}

/// What a frame records. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum StoredCodec {
    Stored = 0,
    Lz4 = 1,
    Zstd = 2,
}

impl StoredCodec {
    pub fn from_byte(byte: u8) -> Option<StoredCodec> {
        match byte {
            0 => Some(StoredCodec::Stored),
            1 => Some(StoredCodec::Lz4),
            2 => Some(StoredCodec::Zstd),
            _ => None,
        }
    }
}

/// Compresses payload after payload with one codec; keeps the codec's memory between them.
pub(super) enum Packer {
    Stored,
    Lz4,
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Packer::Stored => "Stored",
            Packer::Lz4 => "Lz4",
            Packer::Zstd(_) => "Zstd",
        })
    }
}

impl Packer {
    pub fn new(codec: Codec) -> Result<Packer, SegmentError> {
        Ok(match codec {
            Codec::Stored => Packer::Stored,
            Codec::Lz4 => Packer::Lz4,
            Codec::Zstd { level } => Packer::Zstd(Box::new(zstd::bulk::Compressor::new(level)?)),
        })
    }

    /// Appends `raw` to `out` in the form that is shortest, and says which.
    pub fn pack(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<StoredCodec, SegmentError> {
        let start = out.len();
        let (packed, codec) = match self {
            Packer::Stored => (0, StoredCodec::Stored),
            Packer::Lz4 => {
                out.resize(start + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                let packed = lz4_flex::block::compress_into(raw, &mut out[start..]).map_err(io::Error::other)?;
                (packed, StoredCodec::Lz4)
            }
            Packer::Zstd(compressor) => {
                out.resize(start + zstd::zstd_safe::compress_bound(raw.len()), 0);
                (compressor.compress_to_buffer(raw, &mut out[start..])?, StoredCodec::Zstd)
            }
        };
        if codec != StoredCodec::Stored && packed < raw.len() {
            out.truncate(start + packed);
            return Ok(codec);
        }
        out.truncate(start);
        out.extend_from_slice(raw);
        Ok(StoredCodec::Stored)
    }
}

/// A payload that does not decompress to the length that its frame states.
#[derive(Debug)]
pub(super) struct BadPayload;

thread_local! {
    /// The memory of zstd's decoder, which is larger than many blocks: made once in each thread that reads.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses `stored` into `raw`, whose content is replaced. `raw_len` was checked against the bound of its frame.
pub(super) fn unpack(codec: StoredCodec, stored: &[u8], raw_len: u32, raw: &mut Vec<u8>) -> Result<(), BadPayload> {
    raw.clear();
    match codec {
        StoredCodec::Stored => raw.extend_from_slice(stored),
        StoredCodec::Lz4 => {
            raw.resize(raw_len as usize, 0);
            let length = lz4_flex::block::decompress_into(stored, raw).map_err(|_| BadPayload)?;
            raw.truncate(length);
        }
        StoredCodec::Zstd => {
            raw.reserve_exact(raw_len as usize);
            DECOMPRESSOR.with_borrow_mut(|decompressor| {
                let decompressor = match decompressor {
                    Some(decompressor) => decompressor,
                    None => decompressor.insert(zstd::bulk::Decompressor::new().map_err(|_| BadPayload)?),
                };
                // Writes no further than the capacity of `raw`.
                decompressor.decompress_to_buffer(stored, raw).map_err(|_| BadPayload)
            })?;
        }
    }
    if raw.len() == raw_len as usize { Ok(()) } else { Err(BadPayload) }
}
