//! Which extent holds the newest bytes of each place, and the newest hash of each page: positions only, no content.
//!
//! Memory is bounded: what does not fit is left for another round over the same inputs, from the place on where this one
//! had to stop. Most merges need one round.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::extent::{FileId, PageGrid};
use crate::position::Lengths;

/// Pieces, and pages, that a round holds: about 30 MB of each at most.
pub(super) const MAX_ENTRIES: usize = 1 << 19;

/// A byte of one of the files: all of the main file before all of the WAL.
type Place = (FileId, u64);

/// Where the next round begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begin {
    /// `None`: every place was in an earlier round.
    pub place: Option<Place>,
    pub page: Option<u64>,
}

impl Begin {
    pub const FIRST: Begin = Begin { place: Some((FileId::Main, 0)), page: Some(0) };

    pub fn is_end(self) -> bool {
        self.place.is_none() && self.page.is_none()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    end: u64,
    /// Number of the extent among all that are read.
    extent: u64,
}

#[derive(Debug)]
pub(super) struct Overlay {
    begin: Begin,
    /// What is at this place or behind it is left for the next round.
    place_limit: Option<Place>,
    page_limit: Option<u64>,
    most: usize,
    pieces: BTreeMap<Place, Piece>,
    hashes: BTreeMap<u64, u64>,
    /// The shortest that each file was after any commit: behind that, nothing of what was there before is left.
    least: Option<Lengths>,
}

fn length_of(lengths: Lengths, file: FileId) -> u64 {
    match file {
        FileId::Main => lengths.main,
        FileId::Wal => lengths.wal,
    }
}

impl Overlay {
    pub fn new(begin: Begin, most: usize) -> Overlay {
        Overlay {
            begin,
            place_limit: None,
            page_limit: None,
            most: most.max(2),
            pieces: BTreeMap::new(),
            hashes: BTreeMap::new(),
            least: None,
        }
    }

    /// Where the next round begins.
    pub fn next(&self) -> Begin {
        Begin { place: self.begin.place.and(self.place_limit), page: self.begin.page.and(self.page_limit) }
    }

    /// The part of `start..end` that this round is about.
    fn clip(&self, file: FileId, start: u64, end: u64) -> Option<(u64, u64)> {
        let (from_file, from) = self.begin.place?;
        let start = match file.cmp(&from_file) {
            std::cmp::Ordering::Less => return None,
            std::cmp::Ordering::Equal => start.max(from),
            std::cmp::Ordering::Greater => start,
        };
        let end = match self.place_limit {
            Some((limit_file, _)) if file > limit_file => return None,
            Some((limit_file, limit)) if file == limit_file => end.min(limit),
            _ => end,
        };
        (start < end).then_some((start, end))
    }

    /// The extent number `extent` lies over what is there.
    pub fn insert(&mut self, file: FileId, start: u64, end: u64, extent: u64) {
        let Some((start, end)) = self.clip(file, start, end) else { return };
        self.clear(file, start, end);
        self.pieces.insert((file, start), Piece { end, extent });
        if self.pieces.len() > self.most {
            let middle = self.pieces.keys().nth(self.most / 2).copied();
            if let Some(limit) = middle {
                self.pieces.split_off(&limit);
                // The last piece that stays may have ended behind the limit only if it overlapped the next: they never do.
                self.place_limit = Some(limit);
            }
        }
    }

    /// Nothing is left of what was at `start..end`.
    fn clear(&mut self, file: FileId, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some((&(_, at), &piece)) = self.pieces.range((file, 0)..(file, start)).next_back()
            && piece.end > start
        {
            self.pieces.insert((file, at), Piece { end: start, ..piece });
            if piece.end > end {
                self.pieces.insert((file, end), piece);
            }
        }
        while let Some((&key, &piece)) = self.pieces.range((file, start)..(file, end)).next() {
            self.pieces.remove(&key);
            if piece.end > end {
                self.pieces.insert((file, end), piece);
            }
        }
    }

    pub fn page(&mut self, page: u64, hash: u64) {
        let is_ours = self.begin.page.is_some_and(|from| page >= from);
        if !is_ours || self.page_limit.is_some_and(|limit| page >= limit) {
            return;
        }
        self.hashes.insert(page, hash);
        if self.hashes.len() > self.most
            && let Some(limit) = self.hashes.keys().nth(self.most / 2).copied()
        {
            self.hashes.split_off(&limit);
            self.page_limit = Some(limit);
        }
    }

    /// A commit states the lengths: what is behind them is gone for good.
    pub fn commit(&mut self, grid: PageGrid, lengths: Lengths) {
        self.clear(FileId::Main, lengths.main, u64::MAX);
        self.clear(FileId::Wal, lengths.wal, u64::MAX);
        self.hashes.split_off(&grid.pages(lengths.main));
        let least = self.least.unwrap_or(lengths);
        self.least = Some(Lengths { main: least.main.min(lengths.main), wal: least.wal.min(lengths.wal) });
    }

    /// The stretches of `start..end` of which this extent holds the newest bytes.
    pub fn newest(&self, file: FileId, start: u64, end: u64, extent: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let pieces = self.pieces.range((file, start)..(file, end));
        pieces.filter(move |(_, piece)| piece.extent == extent).map(|(&(_, at), piece)| (at, piece.end))
    }

    /// Stretches that read as zeros at the end, whatever was there before the first commit: the file was cut there, has
    /// grown again to `lengths`, and nothing was written since.
    pub fn zeros(&self, file: FileId, lengths: Lengths, mut take: impl FnMut(u64, u64)) {
        let Some(least) = self.least else { return };
        let Some((mut at, end)) = self.clip(file, length_of(least, file), length_of(lengths, file)) else { return };
        let before = self.pieces.range((file, 0)..(file, at)).next_back();
        at = before.map_or(at, |(_, piece)| at.max(piece.end));
        for (&(_, start), piece) in self.pieces.range((Bound::Included((file, at)), Bound::Excluded((file, end)))) {
            if start > at {
                take(at, start);
            }
            at = piece.end;
        }
        if at < end {
            take(at, end);
        }
    }

    /// The newest hash of every page that was touched; 0 for one that is zeros because the file was cut before it.
    pub fn pages(&self, grid: PageGrid, lengths: Lengths) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from = self.begin.page.unwrap_or(u64::MAX);
        let cut = self.least.map_or(u64::MAX, |least| grid.pages(least.main)).max(from);
        let end = grid.pages(lengths.main).min(self.page_limit.unwrap_or(u64::MAX));
        let touched = self.hashes.range(..cut).map(|(&page, &hash)| (page, hash));
        touched.chain((cut..end.max(cut)).map(|page| (page, self.hashes.get(&page).copied().unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTH: u64 = 64;

    fn lengths(main: u64) -> Lengths {
        Lengths { main, wal: 0 }
    }

    proptest! {
        /// Whatever the bound on memory, the rounds together say of every byte which extent is the newest, or that it is zero.
        #[test]
        fn rounds_agree_with_a_plain_array(
            steps in prop::collection::vec((0u64..LENGTH, 1u64..20, prop::option::of(1u64..LENGTH)), 1..60),
            most in 2usize..12,
        ) {
            let grid = PageGrid::new(0, 512).expect("a grid");
            // `None`: as before the first commit.
            let mut plain: Vec<Option<u64>> = vec![None; LENGTH as usize];
            let zero = u64::MAX;
            for (number, &(start, len, cut)) in steps.iter().enumerate() {
                let end = (start + len).min(LENGTH);
                plain[start as usize..end as usize].fill(Some(number as u64));
                if let Some(cut) = cut {
                    plain[cut as usize..].fill(Some(zero));
                }
            }
            let mut found: Vec<Option<u64>> = vec![None; LENGTH as usize];
            let mut begin = Begin::FIRST;
            for _ in 0..1000 {
                let mut overlay = Overlay::new(begin, most);
                for (number, &(start, len, cut)) in steps.iter().enumerate() {
                    overlay.insert(FileId::Main, start, (start + len).min(LENGTH), number as u64);
                    overlay.commit(grid, lengths(cut.unwrap_or(LENGTH)));
                }
                prop_assert!(overlay.pieces.len() <= most + 1);
                let mut set = |from: u64, to: u64, value: u64| {
                    for at in from..to {
                        assert_eq!(found[at as usize], None, "byte {at} is in two rounds");
                        found[at as usize] = Some(value);
                    }
                };
                overlay.zeros(FileId::Main, lengths(LENGTH), |from, to| set(from, to, zero));
                for (number, &(start, len, _)) in steps.iter().enumerate() {
                    let end = (start + len).min(LENGTH);
                    overlay.newest(FileId::Main, start, end, number as u64).for_each(|(a, b)| set(a, b, number as u64));
                }
                begin = overlay.next();
                if begin.is_end() {
                    break;
                }
            }
            prop_assert!(begin.is_end());
            prop_assert_eq!(found, plain);
        }
    }
}
