//! A page map rolled forward by the page hashes that segments carry.

use std::fs::File;
use std::path::Path;

use crate::checksum::PageMap;
use crate::position::Commit;
use crate::segment::{Block, Index, Op, SegmentError};

/// Pages of the largest database that any engine makes: what a stored number may ask us to hold in memory.
const MAX_PAGES: u64 = 1 << 32;

/// Lays one block of the segment that `index` describes over the map. Blocks come in order.
pub fn apply_block(map: &mut PageMap, index: &Index, block: &Block<'_>) -> Result<(), SegmentError> {
    if map.grid() != index.header.grid {
        // The file was rewritten in another division: every page of it is in this segment.
        *map = PageMap::new(index.header.grid);
    }
    for op in block.ops() {
        match op? {
            Op::Page { page, hash } => {
                check_pages(page)?;
                if page >= map.len() {
                    map.set_len(page + 1);
                }
                map.set(page, hash);
            }
            Op::Extent(_) => {}
            Op::Commit(txid) => {
                let entry = index.commit(txid).ok_or(SegmentError::Refused("a commit that the index lacks"))?;
                let pages = pages_of(&entry.commit);
                check_pages(pages)?;
                map.set_len(pages);
            }
        }
    }
    Ok(())
}

fn check_pages(pages: u64) -> Result<(), SegmentError> {
    if pages > MAX_PAGES {
        return Err(SegmentError::TooLarge { what: "number of pages", value: pages, limit: MAX_PAGES });
    }
    Ok(())
}

fn pages_of(commit: &Commit) -> u64 {
    commit.grid.pages(commit.lengths.main)
}

/// Lays a whole segment in a file over the map.
pub fn apply_file(map: &mut PageMap, path: &Path) -> Result<Index, SegmentError> {
    let mut file = File::open(path)?;
    let index = Index::from_file(&mut file)?;
    for number in 0..index.blocks.len() {
        let block = index.read_block(&mut file, number)?;
        apply_block(map, &index, &block)?;
    }
    Ok(index)
}
