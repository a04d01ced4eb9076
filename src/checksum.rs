//! Page hashes, the page map and the database checksum.
//!
//! The hash of a page is XXH3-64 of its bytes, seeded with the page's number; a page of zeros has hash 0, so that a hole
//! in a file and a page never written weigh nothing. The sum of a page map is the XOR of its hashes: it moves with every
//! changed page in constant time. The database checksum is that sum, XORed with the hash of the WAL file where the
//! engine's WAL travels as a file of its own.

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::extent::PageGrid;

/// Seed of the WAL's hash: no page number reaches it.
const WAL_SEED: u64 = u64::MAX;

/// The hash of `page` with this content. 0 for a page of zeros, and only in one of 2^64 other cases.
pub fn page_hash(page: u64, data: &[u8]) -> u64 {
    if is_zero(data) { 0 } else { xxh3_64_with_seed(data, page) }
}

/// The hash of a small object that is named by its content: XXH3-64 of its bytes.
pub fn content_hash(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, 0)
}

/// SHA-256, for what people and other programs compare, and where content may come from somebody who wants a collision.
#[derive(Debug, Clone, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    pub fn of(bytes: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::default();
        hash.update(bytes);
        hash.finish()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    pub fn finish(self) -> [u8; 32] {
        sha2::Digest::finalize(self.0).into()
    }
}

fn is_zero(data: &[u8]) -> bool {
    // Compilers compare a 16-byte chunk as one word.
    let (chunks, tail) = data.as_chunks::<16>();
    chunks.iter().all(|chunk| chunk == &[0u8; 16]) && tail.iter().all(|&byte| byte == 0)
}

/// The hash of a WAL prefix, advanced as bytes are appended.
#[derive(Clone)]
pub struct WalHash {
    state: Xxh3,
    length: u64,
}

impl std::fmt::Debug for WalHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalHash").field("length", &self.length).field("value", &self.value()).finish()
    }
}

impl Default for WalHash {
    fn default() -> Self {
        WalHash { state: Xxh3::with_seed(WAL_SEED), length: 0 }
    }
}

impl WalHash {
    pub fn append(&mut self, data: &[u8]) {
        self.state.update(data);
        self.length += data.len() as u64;
    }

    /// 0 for an empty WAL.
    pub fn value(&self) -> u64 {
        if self.length == 0 { 0 } else { self.state.digest() }
    }
}

/// One 8-byte hash per page of the main file, and their XOR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMap {
    grid: PageGrid,
    hashes: Vec<u64>,
    sum: u64,
}

impl PageMap {
    pub fn new(grid: PageGrid) -> Self {
        PageMap { grid, hashes: Vec::new(), sum: 0 }
    }

    /// From stored hashes, page 0 first.
    pub fn from_hashes(grid: PageGrid, hashes: Vec<u64>) -> Self {
        let sum = hashes.iter().fold(0, |sum, hash| sum ^ hash);
        PageMap { grid, hashes, sum }
    }

    pub fn grid(&self) -> PageGrid {
        self.grid
    }

    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// XOR of all hashes.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Number of pages.
    pub fn len(&self) -> u64 {
        self.hashes.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// 0 for a page beyond the end.
    pub fn get(&self, page: u64) -> u64 {
        usize::try_from(page).ok().and_then(|page| self.hashes.get(page)).copied().unwrap_or(0)
    }

    /// Sets the hash of a page within the map. Panics beyond its end: callers set the length first.
    pub fn set(&mut self, page: u64, hash: u64) {
        let slot = &mut self.hashes[usize::try_from(page).expect("a page number fits")];
        self.sum ^= *slot ^ hash;
        *slot = hash;
    }

    /// Makes the map `pages` long: new pages hold zeros, pages beyond the end vanish.
    pub fn set_len(&mut self, pages: u64) {
        let pages = usize::try_from(pages).expect("a page count fits");
        for hash in self.hashes.iter().skip(pages) {
            self.sum ^= hash;
        }
        self.hashes.resize(pages, 0);
    }
}

/// The hashes of the pages that `content` holds, which stands at `offset` of the main file; a last page may be cut short. `None`
/// when it does not begin with a page.
pub fn page_hashes(grid: PageGrid, offset: u64, content: &[u8]) -> Option<Vec<u64>> {
    let mut page = grid.page_at(offset);
    if grid.offset(page) != offset {
        return None;
    }
    let (mut hashes, mut rest) = (Vec::new(), content);
    while !rest.is_empty() {
        let (data, more) = rest.split_at(rest.len().min(grid.len(page) as usize));
        hashes.push(page_hash(page, data));
        (rest, page) = (more, page + 1);
    }
    Some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum after any sequence of changes is the sum of a map built from the final hashes.
    #[test]
    fn the_sum_follows_every_change() {
        let grid = PageGrid::new(0, 512).expect("valid grid");
        let mut map = PageMap::new(grid);
        map.set_len(10);
        for page in 0..10 {
            map.set(page, page_hash(page, &[page as u8 + 1; 512]));
        }
        map.set(3, page_hash(3, &[9; 512]));
        map.set_len(5);
        map.set_len(7);
        assert_eq!(map, PageMap::from_hashes(grid, map.hashes().to_vec()));
        assert_eq!(map.get(6), 0);
        assert_eq!(map.get(700), 0);
    }

    /// A page of zeros weighs nothing at any length; a single other byte anywhere is seen.
    #[test]
    fn zero_pages_have_hash_zero() {
        for length in [0usize, 1, 15, 16, 17, 512, 12288] {
            let mut data = vec![0u8; length];
            assert_eq!(page_hash(7, &data), 0);
            for position in [0, length / 2, length.saturating_sub(1)] {
                if let Some(byte) = data.get_mut(position) {
                    *byte = 1;
                    assert_ne!(page_hash(7, &data), 0);
                    data[position] = 0;
                }
            }
        }
    }
}
