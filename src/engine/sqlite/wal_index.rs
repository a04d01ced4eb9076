//! The header of SQLite's wal-index (the `-shm` file): the only authority on what is committed.
//!
//! Frames in the WAL file beyond its `last_frame` are in flight, rolled back or dead, whatever their checksums say.

use super::wal::{ByteOrder, Checksum, FORMAT_VERSION, Salts, is_page_size};

/// Words of one copy of the header; two copies stand side by side.
pub(super) const HEADER_WORDS: usize = 12;
/// Words read from the start of the wal-index: both copies, and `nBackfill` behind them.
pub(super) const PREFIX_WORDS: usize = 2 * HEADER_WORDS + 1;
/// Bytes of one region of the wal-index, as SQLite maps it.
pub(super) const REGION_BYTES: i32 = 32768;
/// Word in region 0 where the page numbers of the frames begin.
const FIRST_PAGE_WORD: u32 = 34;
/// Page numbers in region 0, and in every other region.
const PAGES_IN_REGION_0: u32 = 4062;
const PAGES_IN_REGION: u32 = 4096;

/// One published state of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexHeader {
    /// Counts commits: +1 each, also across restarts of the WAL; only a recovery sets it to 0.
    pub change: u32,
    pub order: ByteOrder,
    /// 0 until the first frame was written.
    pub page_size: u32,
    /// The last committed frame of this life of the WAL; 0 when there is none yet.
    pub last_frame: u32,
    /// Pages of the database after it.
    pub pages: u32,
    /// The chain's checksum after it.
    pub checksum: Checksum,
    pub salts: Salts,
    /// Frames that a checkpoint has copied into the database file.
    pub backfilled: u32,
}

/// What a look at the wal-index found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexState {
    Valid(IndexHeader),
    /// The copies differ or the checksum does not fit: someone writes it just now, or died doing so.
    Torn,
    /// A layout that this code does not know.
    UnknownVersion(u32),
}

/// The published state from the first words of the wal-index, in the machine's own byte order.
pub(super) fn parse(words: &[u32; PREFIX_WORDS]) -> IndexState {
    let (first, second) = (&words[..HEADER_WORDS], &words[HEADER_WORDS..2 * HEADER_WORDS]);
    if first != second {
        return IndexState::Torn;
    }
    let mut bytes = [0u8; HEADER_WORDS * 4];
    for (word, place) in first.iter().zip(bytes.as_chunks_mut::<4>().0) {
        *place = word.to_ne_bytes();
    }
    let native = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };
    if Checksum::default().append(native, &bytes[..40]) != Checksum(first[10], first[11]) || bytes[12] == 0 {
        return IndexState::Torn;
    }
    if first[0] != FORMAT_VERSION {
        return IndexState::UnknownVersion(first[0]);
    }
    let stored_size = u32::from(u16::from_ne_bytes([bytes[14], bytes[15]]));
    let page_size = (stored_size & 0xfe00) + ((stored_size & 1) << 16);
    if page_size != 0 && !is_page_size(page_size) {
        return IndexState::Torn;
    }
    let salt = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    IndexState::Valid(IndexHeader {
        change: first[2],
        order: if bytes[13] == 0 { ByteOrder::Little } else { ByteOrder::Big },
        page_size,
        last_frame: first[4],
        pages: first[5],
        checksum: Checksum(first[6], first[7]),
        salts: Salts(salt(32), salt(36)),
        backfilled: words[2 * HEADER_WORDS],
    })
}

/// Region and word within it of the page number of `frame`, counted from 1.
pub(super) fn page_word(frame: u32) -> (u32, u32) {
    let index = frame.saturating_sub(1);
    match index.checked_sub(PAGES_IN_REGION_0) {
        None => (0, FIRST_PAGE_WORD + index),
        Some(rest) => (1 + rest / PAGES_IN_REGION, rest % PAGES_IN_REGION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> [u32; PREFIX_WORDS] {
        let mut header = [0u32; HEADER_WORDS];
        header[0] = FORMAT_VERSION;
        header[2] = 7;
        header[3] = u32::from_ne_bytes([1, 0, 0, 0x10]);
        header[4] = 5;
        header[5] = 9;
        let bytes: Vec<u8> = header[..10].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let native = if cfg!(target_endian = "big") { ByteOrder::Big } else { ByteOrder::Little };
        let sum = Checksum::default().append(native, &bytes);
        (header[10], header[11]) = (sum.0, sum.1);
        let mut words = [0u32; PREFIX_WORDS];
        words[..HEADER_WORDS].copy_from_slice(&header);
        words[HEADER_WORDS..2 * HEADER_WORDS].copy_from_slice(&header);
        words[2 * HEADER_WORDS] = 3;
        words
    }

    /// A published header is read, and any single flipped bit in it makes it torn.
    #[test]
    fn loss_6_a_header_with_one_flipped_bit_is_torn() {
        let IndexState::Valid(header) = parse(&words()) else { panic!("valid") };
        assert_eq!((header.change, header.last_frame, header.pages, header.backfilled), (7, 5, 9, 3));
        assert_eq!(header.page_size, 4096);
        for bit in 0..HEADER_WORDS * 32 {
            let mut one = words();
            one[bit / 32] ^= 1 << (bit % 32);
            assert_eq!(parse(&one), IndexState::Torn);
            one[HEADER_WORDS + bit / 32] ^= 1 << (bit % 32);
            assert!(!matches!(parse(&one), IndexState::Valid(_)), "both copies, bit {bit}");
        }
    }

    /// Frames are found in the region and word where SQLite puts them.
    #[test]
    fn page_numbers_lie_where_sqlite_puts_them() {
        assert_eq!(page_word(1), (0, 34));
        assert_eq!(page_word(4062), (0, 34 + 4061));
        assert_eq!(page_word(4063), (1, 0));
        assert_eq!(page_word(4062 + 4096), (1, 4095));
        assert_eq!(page_word(4062 + 4097), (2, 0));
    }
}
