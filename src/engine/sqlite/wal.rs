//! The bytes of SQLite's WAL: header, frames and their checksums. Pure; layouts as in the comments of SQLite's `wal.c`.

/// Bytes of the header of a WAL file.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes in front of every page of a WAL file.
pub(super) const FRAME_HEADER_BYTES: usize = 24;
/// The only version of the WAL format, and of the wal-index.
pub(super) const FORMAT_VERSION: u32 = 3_007_000;
const MAGIC_LITTLE_ENDIAN: u32 = 0x377f_0682;
const MAGIC_BIG_ENDIAN: u32 = 0x377f_0683;
/// Offset of the byte range that SQLite locks and never stores a page in.
const LOCK_BYTE_OFFSET: u32 = 0x4000_0000;

/// The two numbers that tell one life of a WAL from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Salts(pub u32, pub u32);

/// Order in which the checksum takes the bytes of a word: that of the machine which wrote the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

/// SQLite's cumulative checksum over pairs of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Checksum(pub u32, pub u32);

impl Checksum {
    /// Goes on over `data`, whose length is a multiple of 8; a cut last pair is not counted.
    pub(super) fn append(self, order: ByteOrder, data: &[u8]) -> Checksum {
        let word = match order {
            ByteOrder::Little => u32::from_le_bytes,
            ByteOrder::Big => u32::from_be_bytes,
        };
        let (pairs, _) = data.as_chunks::<8>();
        let (mut s0, mut s1) = (self.0, self.1);
        for pair in pairs {
            let [a, b, c, d, e, f, g, h] = *pair;
            s0 = s0.wrapping_add(word([a, b, c, d])).wrapping_add(s1);
            s1 = s1.wrapping_add(word([e, f, g, h])).wrapping_add(s0);
        }
        Checksum(s0, s1)
    }
}

/// A page size that SQLite can have.
pub(super) fn is_page_size(size: u32) -> bool {
    size.is_power_of_two() && (512..=65536).contains(&size)
}

/// The 1-based number of the page that holds the lock bytes; it is never written.
pub(super) fn lock_page(page_size: u32) -> u32 {
    LOCK_BYTE_OFFSET / page_size + 1
}

/// Offset in the WAL file of frame `frame`, counted from 1.
pub(super) fn frame_offset(frame: u32, page_size: u32) -> u64 {
    let frame_bytes = u64::from(page_size) + FRAME_HEADER_BYTES as u64;
    HEADER_BYTES as u64 + u64::from(frame.saturating_sub(1)) * frame_bytes
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_be_bytes(word.unwrap_or_default())
}

/// The header of a WAL file, its checksum proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalHeader {
    pub order: ByteOrder,
    pub page_size: u32,
    /// How often this WAL was started over since it was created.
    pub checkpoint_sequence: u32,
    pub salts: Salts,
    /// Where the chain of the frames begins.
    pub checksum: Checksum,
}

impl WalHeader {
    /// `None` for anything that SQLite would not take for the header of a WAL.
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<WalHeader> {
        let order = match be_u32(bytes, 0) {
            MAGIC_LITTLE_ENDIAN => ByteOrder::Little,
            MAGIC_BIG_ENDIAN => ByteOrder::Big,
            _ => return None,
        };
        let checksum = Checksum::default().append(order, &bytes[..24]);
        let stored = Checksum(be_u32(bytes, 24), be_u32(bytes, 28));
        let page_size = be_u32(bytes, 8);
        if be_u32(bytes, 4) != FORMAT_VERSION || checksum != stored || !is_page_size(page_size) {
            return None;
        }
        Some(WalHeader {
            order,
            page_size,
            checkpoint_sequence: be_u32(bytes, 12),
            salts: Salts(be_u32(bytes, 16), be_u32(bytes, 20)),
            checksum,
        })
    }
}

/// What stands in front of a page in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// 1-based page number.
    pub page: u32,
    /// Pages of the database after the commit that this frame ends; 0 when it does not end one.
    pub truncate: u32,
    pub salts: Salts,
    pub checksum: Checksum,
}

impl FrameHeader {
    /// Reads the first `FRAME_HEADER_BYTES` of a frame; missing bytes count as zeros, which no check accepts.
    pub(super) fn parse(frame: &[u8]) -> FrameHeader {
        FrameHeader {
            page: be_u32(frame, 0),
            truncate: be_u32(frame, 4),
            salts: Salts(be_u32(frame, 8), be_u32(frame, 12)),
            checksum: Checksum(be_u32(frame, 16), be_u32(frame, 20)),
        }
    }

    /// Does this whole frame (header and page) carry `salts` and continue the chain at `before`?
    pub(super) fn continues(&self, frame: &[u8], order: ByteOrder, salts: Salts, before: Checksum) -> bool {
        let Some((head, page)) = frame.split_at_checked(FRAME_HEADER_BYTES) else { return false };
        self.salts == salts && before.append(order, &head[..8]).append(order, page) == self.checksum
    }
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
