//! The stored format: segments of transactions, parts and manifests of snapshots. docs/format.md has every byte.
//!
//! | file | holds |
//! |---|---|
//! | `frame.rs` | prologue, frames with CRC32, footer: what all objects share |
//! | `codec.rs` | compression, chosen by purpose, recorded in each frame |
//! | `ops.rs` | the operations inside a block |
//! | `index.rs` | commit table, block table, page runs: one read at an object's end |
//! | `table.rs` | the index as stored, and back |
//! | `runs.rs` | page runs: which pages a block touches |
//! | `writer.rs` | a segment being written; append-only, so that a crash costs only what was not flushed |
//! | `salvage.rs` | an unfinished segment made whole again |
//! | `reader.rs` | a segment being read, whole or block by block |
//! | `blocks.rs` | ascending extents in blocks: what parts and patches share |
//! | `snapshot.rs` | parts of snapshots |
//! | `patch.rs` | changed pages, laid over parts |
//! | `manifest.rs`, `layers.rs` | manifests of snapshots, and what they say of patches |
//!
//! Nothing here trusts a number that it reads: lengths, counts and offsets are checked against the bytes at hand and
//! against the bounds below, before anything is allocated or indexed by them.

use std::io;

mod blocks;
mod codec;
mod frame;
mod index;
mod layers;
mod manifest;
mod ops;
mod patch;
mod reader;
mod runs;
mod salvage;
mod snapshot;
mod table;
mod writer;

pub use codec::Codec;
pub use frame::Tail;
pub use index::{BlockEntry, CommitEntry, Index};
pub use manifest::{Layers, Manifest};
pub use patch::{Over, PatchRef, PatchWriter, decode_patch, pieces_over, read_patch_ref};
pub use reader::{Block, Op, Ops, SegmentReader};
pub use runs::PageRun;
pub use salvage::salvage;
pub use snapshot::{MAX_PART_BYTES, MAX_PART_OBJECT_BYTES, PartRef, PartWriter, decode_part, read_part_ref};
pub use writer::{SegmentFile, SegmentSummary, SegmentWriter};

use crate::engine::EngineKind;
use crate::extent::PageGrid;
use crate::layout::Level;
use crate::position::{Generation, Term, Txid};

/// Messages generated from `proto/`. Their comments there are the reference.
#[allow(clippy::all, clippy::pedantic, unreachable_pub)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/replicate.v1.rs"));
}

/// The newest version that this reader understands and this writer writes. Each object says the oldest that suffices for it.
pub const FORMAT_VERSION: u16 = 2;

/// Bytes to read from the end of an object: enough for the index of a segment as shipped, in one request. Larger indexes
/// say where they begin (`Tail::ReadFrom`).
pub const TAIL_READ_BYTES: u64 = 64 * 1024;

/// Decompressed bytes of one block: what a reader holds in memory at a time.
pub const MAX_BLOCK_BYTES: u32 = 1024 * 1024;
/// Decompressed bytes at which a writer ends a block.
pub const BLOCK_TARGET_BYTES: usize = 256 * 1024;
/// Bytes of one extent as stored; longer ones are split. With the target above, no block reaches `MAX_BLOCK_BYTES`.
pub const MAX_EXTENT_BYTES: usize = 256 * 1024;
/// Decompressed bytes of an index or a manifest. Decoded, numbers take at most eight times as much.
pub const MAX_INDEX_BYTES: u32 = 64 * 1024 * 1024;
/// Bytes of a segment's header message.
const MAX_HEADER_BYTES: u32 = 4096;
/// Commits in one segment. With the next bound, an index stays below `MAX_INDEX_BYTES`.
pub const MAX_COMMITS: usize = 1 << 19;
/// Blocks in one segment: 256 GiB of operations.
pub const MAX_BLOCKS: usize = 1 << 20;
/// Length of a database's file, in bytes. The largest SQLite database is 65 KiB shorter.
pub const MAX_FILE_BYTES: u64 = 1 << 48;

/// Why bytes are not an object of this format, or why one cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("cut off: the {what} needs {needed} bytes and there are {found}")]
    Truncated { what: &'static str, needed: u64, found: u64 },
    #[error("not an object of this format: its {what} begins with other bytes")]
    BadMagic { what: &'static str },
    #[error(
        "format version {version}, readable from version {min_reader} on; this is version {FORMAT_VERSION}: use a newer replicate"
    )]
    UnsupportedVersion { version: u16, min_reader: u16 },
    #[error("an object of kind {found} where one of kind {expected} was expected")]
    WrongKind { expected: u16, found: u16 },
    #[error("damaged: {what}, at byte {offset}")]
    Corrupt { what: &'static str, offset: u64 },
    #[error("{what} of {value}, more than the limit of {limit}")]
    TooLarge { what: &'static str, value: u64, limit: u64 },
    /// Whole and readable, but not what its name says it is.
    #[error("its content is of {found}, its name says {name}")]
    Misnamed { name: String, found: String },
    /// The caller asked for what cannot be written or read; nothing is wrong with any bytes.
    #[error("refused: {0}")]
    Refused(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SegmentError {
    /// Are the bytes at fault, so that reading them again cannot help? `false` for I/O, a newer version and a caller's
    /// mistake.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Refused(_) | Self::UnsupportedVersion { .. })
    }
}

/// What a segment says of itself at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub generation: Generation,
    pub term: Term,
    pub engine: EngineKind,
    /// Levels 0 and 1 hold every commit of their range; 2 and 3 only the last one.
    pub level: Level,
    /// The grid of every commit in it.
    pub grid: PageGrid,
    pub first: Txid,
    /// The database checksum after the commit before `first`; 0 before commit 1.
    pub checksum_before: u64,
}

impl SegmentHeader {
    /// Does it hold every commit of its range, and not only the last one?
    pub fn has_every_commit(&self) -> bool {
        self.level.0 <= 1
    }
}

#[cfg(test)]
mod salvage_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;
