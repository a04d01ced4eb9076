//! Where capture of a SQLite database stands, as stored in every segment: enough to prove later that nothing was missed.

use super::wal::{Checksum, Salts, is_page_size};

const MAGIC: [u8; 4] = *b"SQP1";
/// Bytes of a stored position.
const LENGTH: usize = 4 + 8 * 2 + 4 * 8;

/// The last captured frame, and what the file was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Device and inode of the database file.
    pub device: u64,
    pub inode: u64,
    pub salts: Salts,
    /// Last captured frame in the life of the WAL named by `salts`; 0 when none is captured yet.
    pub frame: u32,
    /// The chain's checksum after `frame`.
    pub checksum: Checksum,
    pub checkpoint_sequence: u32,
    pub page_size: u32,
    /// Pages of the database.
    pub pages: u32,
}

impl Position {
    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut out = [0u8; LENGTH];
        out[..4].copy_from_slice(&MAGIC);
        out[4..12].copy_from_slice(&self.device.to_le_bytes());
        out[12..20].copy_from_slice(&self.inode.to_le_bytes());
        let words = [
            self.salts.0,
            self.salts.1,
            self.frame,
            self.checksum.0,
            self.checksum.1,
            self.checkpoint_sequence,
            self.page_size,
            self.pages,
        ];
        for (word, place) in words.iter().zip(out[20..].as_chunks_mut::<4>().0) {
            *place = word.to_le_bytes();
        }
        out
    }

    /// `None` for bytes that are no position of this version: continuity cannot be proven from them.
    pub(super) fn decode(bytes: &[u8]) -> Option<Position> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let wide = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let word = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let position = Position {
            device: wide(4)?,
            inode: wide(12)?,
            salts: Salts(word(20)?, word(24)?),
            frame: word(28)?,
            checksum: Checksum(word(32)?, word(36)?),
            checkpoint_sequence: word(40)?,
            page_size: word(44)?,
            pages: word(48)?,
        };
        (bytes[..4] == MAGIC && is_page_size(position.page_size)).then_some(position)
    }

    /// Bytes of the main file.
    pub(super) fn length(&self) -> u64 {
        u64::from(self.pages) * u64::from(self.page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A position comes back from its bytes; bytes of another length, version or page size are refused.
    #[test]
    fn a_position_survives_storage() {
        let position = Position {
            device: u64::MAX - 3,
            inode: 77,
            salts: Salts(1, 2),
            frame: 3,
            checksum: Checksum(4, 5),
            checkpoint_sequence: 6,
            page_size: 65536,
            pages: u32::MAX,
        };
        let bytes = position.encode();
        assert_eq!(Position::decode(&bytes), Some(position));
        assert_eq!(Position::decode(&bytes[1..]), None);
        assert_eq!(Position::decode(&[]), None);
        let mut other = bytes;
        other[3] = b'2';
        assert_eq!(Position::decode(&other), None);
        assert_eq!(Position { page_size: 1000, ..position }.encode().len(), LENGTH);
        assert_eq!(Position::decode(&Position { page_size: 1000, ..position }.encode()), None);
    }
}
