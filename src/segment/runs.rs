//! Which pages a block touches: a few runs, so that their number per block is bounded.

use crate::extent::{Extent, FileId, PageGrid};

/// Runs of one block; a writer joins the nearest ones rather than exceed it.
pub(super) const MAX_RUNS: usize = 16;
/// Blocks after which a writer describes each further one by a single run, so that an index stays within its bound.
pub(super) const MANY_BLOCKS: usize = 1 << 16;

/// Pages `first..first + count` of the main file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    pub first: u64,
    pub count: u64,
}

impl PageRun {
    /// The page after the last one.
    pub fn end(self) -> u64 {
        self.first + self.count
    }

    pub fn contains(self, page: u64) -> bool {
        page >= self.first && page < self.end()
    }

    /// The pages that an extent touches; `None` for one of the WAL and for an empty one.
    pub(super) fn of_extent(grid: PageGrid, extent: &Extent<'_>) -> Option<PageRun> {
        let length = extent.data.len() as u64;
        (extent.file == FileId::Main && length > 0).then(|| {
            let first = grid.page_at(extent.offset);
            PageRun { first, count: grid.page_at(extent.offset + length - 1) - first + 1 }
        })
    }
}

/// Runs in ascending order, at least one page apart.
#[derive(Debug, Clone, Default)]
pub(super) struct RunSet {
    runs: Vec<PageRun>,
}

impl RunSet {
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    pub fn clear(&mut self) {
        self.runs.clear();
    }

    pub fn add(&mut self, new: PageRun) {
        // Overlapping and adjoining runs become one with the new one.
        let from = self.runs.partition_point(|run| run.end() < new.first);
        let to = self.runs.partition_point(|run| run.first <= new.end());
        let mut joined = new;
        if let (Some(left), Some(right)) = (self.runs[from..to].first(), self.runs[from..to].last()) {
            joined.first = joined.first.min(left.first);
            joined.count = joined_end(new, *right) - joined.first;
        }
        if to - from == 1 {
            self.runs[from] = joined;
        } else {
            self.runs.splice(from..to, [joined]);
        }
        self.shrink(MAX_RUNS);
    }

    pub fn add_all(&mut self, other: &RunSet) {
        other.runs.iter().for_each(|&run| self.add(run));
    }

    /// Joins the nearest runs until there are at most `most`.
    pub fn shrink(&mut self, most: usize) {
        while self.runs.len() > most {
            let gap = |at: &usize| self.runs[*at].first - self.runs[at - 1].end();
            let Some(nearest) = (1..self.runs.len()).min_by_key(gap) else { return };
            let right = self.runs.remove(nearest);
            let left = &mut self.runs[nearest - 1];
            left.count = right.end() - left.first;
        }
    }
}

fn joined_end(a: PageRun, b: PageRun) -> u64 {
    a.end().max(b.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is added stays covered, runs stay ascending and apart, and their number stays bounded.
        #[test]
        fn added_pages_stay_covered(adds in prop::collection::vec((0u64..500, 1u64..20), 0..80)) {
            let mut set = RunSet::default();
            for &(first, count) in &adds {
                set.add(PageRun { first, count });
                prop_assert!(set.runs().len() <= MAX_RUNS);
            }
            for pair in set.runs().windows(2) {
                prop_assert!(pair[0].end() < pair[1].first);
            }
            for (first, count) in adds {
                for page in first..first + count {
                    prop_assert!(set.runs().iter().any(|run| run.contains(page)));
                }
            }
        }
    }
}
