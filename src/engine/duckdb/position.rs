//! Where capture resumes, as it is stored with every commit.

use super::disk::FileKey;

const VERSION: u8 = 1;
const BYTES: usize = 1 + 16 + 5 * 8;

/// The engine's own position: version, then the fields in this order, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Hash of the two database headers: names the iteration.
    pub head: u128,
    pub file: FileKey,
    /// The logical WAL of the iteration as captured: its length and its hash.
    pub wal_len: u64,
    pub wal_hash: u64,
    /// Commits that a full copy of the main file needs beside it, for the WAL: those since its iteration began.
    pub since_flip: u64,
}

impl Position {
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(&self.head.to_le_bytes());
        let words = [self.file.device, self.file.inode, self.wal_len, self.wal_hash, self.since_flip];
        for (slot, word) in bytes[17..].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None` for what this version did not write: continuity must then be repaired from the page map.
    pub fn decode(bytes: &[u8]) -> Option<Position> {
        if bytes.len() != BYTES || bytes[0] != VERSION {
            return None;
        }
        let word = |index: usize| super::file::u64_at(bytes, 17 + 8 * index);
        Some(Position {
            head: u128::from_le_bytes(bytes[1..17].try_into().ok()?),
            file: FileKey { device: word(0)?, inode: word(1)? },
            wal_len: word(2)?,
            wal_hash: word(3)?,
            since_flip: word(4)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A position reads back as it was written; anything else is refused.
    #[test]
    fn a_position_survives_its_encoding() {
        let file = FileKey { device: 7, inode: u64::MAX };
        let position = Position { head: u128::MAX - 5, file, wal_len: 1, wal_hash: 2, since_flip: 3 };
        let bytes = position.encode();
        assert_eq!(Position::decode(&bytes), Some(position));
        assert_eq!(Position::decode(&bytes[1..]), None);
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Position::decode(&other), None);
    }
}
