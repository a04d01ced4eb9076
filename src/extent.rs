//! What a transaction is made of, whatever the engine: bytes at offsets, and a commit.

/// One of the database's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    Main,
    /// The WAL, where the engine's WAL travels as a file of its own (DuckDB).
    Wal,
}

/// Bytes at an offset of one of the database's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent<'a> {
    pub file: FileId,
    pub offset: u64,
    pub data: &'a [u8],
}

/// How the main file is divided into pages (SQLite) or blocks (DuckDB), both called pages here.
///
/// Page 0 begins at offset 0. When `head` is not 0, page 0 is the `head` bytes before the first regular page
/// (DuckDB: its three header pages, 12288 bytes); every other page is `size` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageGrid {
    /// Bytes of an irregular page 0; 0 when page 0 is like the others.
    pub head: u32,
    /// Bytes of a regular page: a power of two, 512 to 262144.
    pub size: u32,
}

impl PageGrid {
    pub const MIN_SIZE: u32 = 512;
    pub const MAX_SIZE: u32 = 262_144;

    /// `None` when the numbers cannot be a grid, so that later arithmetic needs no check.
    pub fn new(head: u32, size: u32) -> Option<PageGrid> {
        let good = size.is_power_of_two() && (Self::MIN_SIZE..=Self::MAX_SIZE).contains(&size);
        (good && head <= Self::MAX_SIZE).then_some(PageGrid { head, size })
    }

    /// Offset of the first byte of `page`.
    pub fn offset(self, page: u64) -> u64 {
        match (self.head, page) {
            (0, _) => page.saturating_mul(u64::from(self.size)),
            (_, 0) => 0,
            (head, _) => (page - 1).saturating_mul(u64::from(self.size)).saturating_add(u64::from(head)),
        }
    }

    /// Length in bytes of `page`.
    pub fn len(self, page: u64) -> u32 {
        if self.head != 0 && page == 0 { self.head } else { self.size }
    }

    /// The page that holds the byte at `offset`.
    pub fn page_at(self, offset: u64) -> u64 {
        if self.head == 0 {
            offset / u64::from(self.size)
        } else if offset < u64::from(self.head) {
            0
        } else {
            (offset - u64::from(self.head)) / u64::from(self.size) + 1
        }
    }

    /// Number of pages in a file of `length` bytes; a cut last page counts.
    pub fn pages(self, length: u64) -> u64 {
        if length == 0 { 0 } else { self.page_at(length - 1) + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grid with a head puts every offset into the page that contains it.
    #[test]
    fn a_grid_with_a_head_is_consistent() {
        for (head, size) in [(0, 4096), (12288, 16384), (12288, 262_144)] {
            let grid = PageGrid::new(head, size).expect("valid grid");
            for page in 0..50u64 {
                let (start, len) = (grid.offset(page), u64::from(grid.len(page)));
                assert_eq!(grid.page_at(start), page);
                assert_eq!(grid.page_at(start + len - 1), page);
                assert_eq!(grid.pages(start + len), page + 1);
                assert_eq!(grid.pages(start + 1), page + 1);
            }
        }
        assert_eq!(PageGrid::new(0, 1000), None);
        assert_eq!(PageGrid::new(0, 256), None);
    }
}
