//! The bytes of a DuckDB main file, parsed without I/O: the three header pages, block checksums, the free list.
//!
//! Facts from DuckDB's `storage_info.hpp`, `single_file_block_manager.cpp`, `metadata_manager.cpp` and `checksum.cpp`,
//! v1.0.0 to v2.0.0. All integers are little-endian. Every page and block begins with an 8-byte checksum of the rest.

use xxhash_rust::xxh3::xxh3_128;

use super::blocks::BlockSet;
use crate::extent::PageGrid;

/// Bytes of one header page.
pub const HEADER_BYTES: usize = 4096;
/// The main header and two database headers; the blocks come after them.
pub const HEAD_BYTES: usize = 3 * HEADER_BYTES;
/// Block size when the header does not state one.
pub const DEFAULT_BLOCK_BYTES: u32 = 262_144;
/// The smallest block size that DuckDB accepts.
pub const MIN_BLOCK_BYTES: u32 = 16_384;
/// Most blocks that are believed: 2^32 blocks of 16 KiB are 64 TiB, and their page map 32 GiB.
pub const MAX_BLOCKS: u64 = 1 << 32;
/// The pointer that points nowhere.
const NO_POINTER: u64 = u64::MAX;
/// Metadata blocks are divided into this many sub-blocks.
const SUB_BLOCKS: u64 = 64;
const BLOCK_ID_MASK: u64 = (1 << 56) - 1;
/// From this version of the database header on, only DuckDB 2.0 or newer can have the file open.
pub const COMPAT_2_0: u64 = 69;

/// What a main file says of itself that cannot be, or cannot be captured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error("the file is shorter than its {HEAD_BYTES} bytes of headers")]
    Short,
    #[error("the file does not begin like a DuckDB database")]
    Magic,
    /// Also what a header looks like while it is being written.
    #[error("the checksum of header page {page} does not match its content")]
    Torn { page: u8 },
    #[error("the file has storage version {0}, which this program does not know")]
    Version(u64),
    #[error("the file was written with storage compatibility {0}, which this program does not know")]
    Compat(u64),
    #[error("{what} is {value}, which cannot be")]
    Impossible { what: &'static str, value: u64 },
}

/// DuckDB's checksum: the XOR of all words, each multiplied by a constant; a tail of 1 to 7 bytes goes through a
/// murmur-like mixer.
pub fn checksum(data: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    sum.update(data);
    sum.finish()
}

/// The checksum, taken piece by piece.
#[derive(Debug, Clone)]
pub struct Checksum {
    result: u64,
    tail: [u8; 8],
    tail_len: usize,
}

impl Default for Checksum {
    fn default() -> Self {
        Checksum { result: 5381, tail: [0; 8], tail_len: 0 }
    }
}

impl Checksum {
    const WORD_FACTOR: u64 = 0xbf58_476d_1ce4_e5b9;

    pub fn update(&mut self, mut data: &[u8]) {
        if self.tail_len > 0 {
            let take = data.len().min(8 - self.tail_len);
            self.tail[self.tail_len..self.tail_len + take].copy_from_slice(&data[..take]);
            self.tail_len += take;
            data = &data[take..];
            if self.tail_len < 8 {
                return;
            }
            self.result ^= u64::from_le_bytes(self.tail).wrapping_mul(Self::WORD_FACTOR);
            self.tail_len = 0;
        }
        let (words, tail) = data.as_chunks::<8>();
        self.result ^=
            words.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word).wrapping_mul(Self::WORD_FACTOR));
        self.tail[..tail.len()].copy_from_slice(tail);
        self.tail_len = tail.len();
    }

    pub fn finish(&self) -> u64 {
        if self.tail_len == 0 { self.result } else { self.result ^ Self::remainder(&self.tail[..self.tail_len]) }
    }

    fn remainder(tail: &[u8]) -> u64 {
        const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
        const SHIFT: u32 = 47;
        let mut hash = 0xe17a_1465 ^ (tail.len() as u64).wrapping_mul(FACTOR);
        let mut word = [0u8; 8];
        word[..tail.len()].copy_from_slice(tail);
        hash ^= u64::from_le_bytes(word);
        hash = hash.wrapping_mul(FACTOR);
        hash ^= hash >> SHIFT;
        hash = hash.wrapping_mul(FACTOR);
        hash ^ (hash >> SHIFT)
    }
}

/// Does the block or page begin with the checksum of what follows? Never true for zeros.
pub fn is_sound(block: &[u8]) -> bool {
    block.len() > 8 && u64_at(block, 0) == Some(checksum(&block[8..]))
}

pub(super) fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(data.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

/// How an encrypted database is encrypted; what is left in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encryption {
    /// 0 as DuckDB 1.4 writes it, 1 since 1.5.
    pub version: u8,
    /// 1 GCM, 2 CTR.
    pub cipher: u8,
}

impl Encryption {
    /// Bytes of a WAL entry between its size word and its end, beyond its size.
    pub fn wal_overhead(self) -> u64 {
        match (self.version, self.cipher) {
            (0, _) => 40,
            (_, 1) => 36,
            _ => 20,
        }
    }
}

/// The active database header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseHeader {
    /// Counts checkpoints: the iteration.
    pub iteration: u64,
    /// Where the catalog begins; also what names a checkpoint in the WAL's marker.
    pub meta_block: u64,
    pub free_list: u64,
    pub block_count: u64,
    pub block_bytes: u32,
    /// The serialization version, 69 for what only DuckDB 2.0 or newer opens.
    pub compat: u64,
}

/// The three header pages of a file at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    raw: Box<[u8]>,
    /// `None` when the database headers are encrypted.
    pub active: Option<DatabaseHeader>,
    pub encryption: Option<Encryption>,
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("active", &self.active).field("encryption", &self.encryption).finish()
    }
}

impl Head {
    /// Parses and checks the first `HEAD_BYTES` bytes of a file.
    pub fn parse(raw: &[u8]) -> Result<Head, FileError> {
        if raw.len() != HEAD_BYTES {
            return Err(FileError::Short);
        }
        let main = &raw[..HEADER_BYTES];
        if main[8..12] != *b"DUCK" {
            return Err(FileError::Magic);
        }
        if !is_sound(main) {
            return Err(FileError::Torn { page: 0 });
        }
        let version = u64_at(main, 12).ok_or(FileError::Short)?;
        // 64 is every release up to 1.1 and the default of all 1.x; 999 means: look at the compatibility instead.
        if !matches!(version, 64..=68 | 999) {
            return Err(FileError::Version(version));
        }
        if main[20] & 1 != 0 {
            let encryption = Encryption { cipher: main[118], version: main[119] };
            if !matches!(encryption.cipher, 1 | 2) || encryption.version > 1 {
                let value = u64::from(encryption.version) << 8 | u64::from(encryption.cipher);
                return Err(FileError::Impossible { what: "the encryption of the file", value });
            }
            return Ok(Head { raw: raw.into(), active: None, encryption: Some(encryption) });
        }
        let (first, second) = (&raw[HEADER_BYTES..2 * HEADER_BYTES], &raw[2 * HEADER_BYTES..]);
        for (page, slot) in [(1, first), (2, second)] {
            if !is_sound(slot) {
                return Err(FileError::Torn { page });
            }
        }
        let iteration = |slot: &[u8]| u64_at(slot, 8).unwrap_or(0);
        let active = if iteration(first) > iteration(second) { first } else { second };
        Ok(Head { raw: raw.into(), active: Some(DatabaseHeader::parse(active)?), encryption: None })
    }

    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The two database headers, which every checkpoint changes.
    pub fn slots(&self) -> &[u8] {
        &self.raw[HEADER_BYTES..]
    }

    /// Names this head in a position.
    pub fn slots_hash(&self) -> u128 {
        xxh3_128(self.slots())
    }

    /// Block size, as far as the head says: that of an encrypted file is hidden, but then it does not matter (`encrypted.rs`).
    pub fn block_bytes(&self) -> u32 {
        self.active.map_or(DEFAULT_BLOCK_BYTES, |active| active.block_bytes)
    }

    pub fn grid(&self) -> PageGrid {
        PageGrid::new(HEAD_BYTES as u32, self.block_bytes())
            .expect("the block size was checked when the head was parsed")
    }

    /// May a DuckDB older than 2.0 have the file open?
    pub fn older_than_2_0(&self) -> bool {
        self.active.is_none_or(|active| active.compat < COMPAT_2_0)
    }
}

impl DatabaseHeader {
    fn parse(slot: &[u8]) -> Result<DatabaseHeader, FileError> {
        let word = |index: usize| u64_at(slot, 8 + 8 * index).ok_or(FileError::Short);
        let block_bytes = match word(4)? {
            0 => DEFAULT_BLOCK_BYTES,
            bytes => u32::try_from(bytes)
                .ok()
                .filter(|bytes| bytes.is_power_of_two() && (MIN_BLOCK_BYTES..=DEFAULT_BLOCK_BYTES).contains(bytes))
                .ok_or(FileError::Impossible { what: "the block size", value: bytes })?,
        };
        let block_count = word(3)?;
        if block_count > MAX_BLOCKS {
            return Err(FileError::Impossible { what: "the number of blocks", value: block_count });
        }
        let compat = word(6)?;
        if !matches!(compat, 0..=7 | COMPAT_2_0) {
            return Err(FileError::Compat(compat));
        }
        let (iteration, meta_block, free_list) = (word(0)?, word(1)?, word(2)?);
        Ok(DatabaseHeader { iteration, meta_block, free_list, block_count, block_bytes, compat })
    }
}

/// What the free list of a header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FreeList {
    pub free: BlockSet,
    /// Blocks that hold metadata. Only these are ever rewritten in place.
    pub metadata: BlockSet,
}

/// Reads the free list of `header`; `read` brings a whole block whose checksum was proven.
pub fn read_free_list<E: From<FileError>>(
    header: &DatabaseHeader,
    mut read: impl FnMut(u64, &mut Vec<u8>) -> Result<(), E>,
) -> Result<FreeList, E> {
    let sub_bytes = ((u64::from(header.block_bytes) - 8) / SUB_BLOCKS) & !7;
    let impossible = |what, value| E::from(FileError::Impossible { what, value });
    let (mut pointer, mut at) = (header.free_list, None);
    let (mut block, mut payload) = (Vec::new(), Vec::new());
    // 8 bytes per free block, 12 per shared one, 16 per metadata block, and a whole metadata block to spare: no list of
    // a sound file is longer, and a chain that runs in a circle ends here.
    let limit = 64 + 36 * header.block_count + SUB_BLOCKS * sub_bytes;
    while pointer != NO_POINTER {
        let (id, index) = (pointer & BLOCK_ID_MASK, pointer >> 56);
        if id >= header.block_count || index >= SUB_BLOCKS {
            return Err(impossible("a pointer of the free list", pointer));
        }
        if payload.len() as u64 > limit + sub_bytes {
            return Err(impossible("the length of the free list", payload.len() as u64));
        }
        if at != Some(id) {
            read(id, &mut block)?;
            at = Some(id);
        }
        let start = (8 + index * sub_bytes) as usize;
        let sub = block.get(start..start + sub_bytes as usize).ok_or_else(|| impossible("a free list block", id))?;
        pointer = u64_at(sub, 0).ok_or_else(|| impossible("a free list block", id))?;
        payload.extend_from_slice(&sub[8..]);
    }
    parse_free_list(&payload, header.block_count).map_err(E::from)
}

/// `u64 n, i64 id[n]` free; `u64 m, {i64 id, u32 references}[m]` shared; `u64 k, {i64 id, u64 free sub-blocks}[k]` metadata.
fn parse_free_list(payload: &[u8], block_count: u64) -> Result<FreeList, FileError> {
    let mut list = FreeList::default();
    if payload.is_empty() {
        return Ok(list);
    }
    let mut rest = payload;
    for (bytes, target) in [(8, Some(&mut list.free)), (12, None), (16, Some(&mut list.metadata))] {
        let count = u64_at(rest, 0).ok_or(FileError::Short)?;
        let end = count.checked_mul(bytes).and_then(|all| all.checked_add(8)).and_then(|end| usize::try_from(end).ok());
        let records = end.and_then(|end| rest.get(8..end));
        let Some(records) = records else {
            return Err(FileError::Impossible { what: "a count in the free list", value: count });
        };
        rest = &rest[8 + records.len()..];
        let Some(target) = target else { continue };
        for record in records.chunks_exact(bytes as usize) {
            let id = u64_at(record, 0).ok_or(FileError::Short)?;
            if id >= MAX_BLOCKS {
                return Err(FileError::Impossible { what: "a block in the free list", value: id });
            }
            // Blocks beyond the count were taken after it was noted; they count as free anyway.
            if id < block_count {
                target.insert(id);
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
