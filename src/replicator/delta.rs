//! What of a full copy is sent to a replica that has a snapshot already: pure, from what that holds and the hashes of pages.
//!
//! A part in which few pages changed is not sent again: those pages go into a patch, which lies over it. So a snapshot costs what
//! changed, wherever it changed. What a restore reads beyond the parts stays bounded: patches hold at most a quarter of each part,
//! and where they became too many, the parts under them are sent whole.

use crate::extent::{FileId, PageGrid};
use crate::segment::{Layers, Manifest, Over, PageRun, PartRef, PatchRef};

/// Patches may hold this share of a part, and no more: one in so many bytes.
const PATCHED_SHARE: u64 = 4;
/// A smaller part is always sent whole.
const LEAST_PATCHED_BYTES: u64 = 64 * 1024;
/// Patches that a snapshot may have, and one more for each `PARTS_PER_PATCH` parts: each is a request of a restore.
const MOST_PATCHES: usize = 64;
const PARTS_PER_PATCH: usize = 4;
/// Runs of pages that changed during a copy, above which they are not told: 8 MiB of a manifest.
const MAX_DIFFERING: usize = 1 << 20;

/// The newest snapshot of a replica.
#[derive(Debug)]
pub(super) struct Base {
    grid: PageGrid,
    parts: Vec<PartRef>,
    over: Vec<Over>,
    patches: Vec<PatchRef>,
    hashes: Vec<u64>,
    differing: Vec<PageRun>,
    /// There are so many patches that no part stays under them.
    folds: bool,
}

/// What becomes of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// The part and what lies over it are these bytes.
    Keep(PartRef, Over),
    /// These pages, counted from the slice's first, go into a patch over the part.
    Patch(PartRef, Over, Vec<usize>),
    Whole,
}

impl Base {
    /// `None` where it is not known which bytes the snapshot's objects hold.
    pub fn new(manifest: Manifest, hashes: Vec<u64>) -> Option<Base> {
        let exact = || (manifest.base == manifest.commit.txid).then(Vec::new);
        let differing = manifest.layers.differing.clone().or_else(exact)?;
        let is_main = manifest.parts.iter().all(|part| part.file == FileId::Main);
        let grid = manifest.grid();
        let Layers { patches, mut over, .. } = manifest.layers;
        let parts = Some(manifest.parts).filter(|_| is_main)?;
        over.resize(parts.len(), Over::default());
        let folds = patches.len() >= MOST_PATCHES + parts.len() / PARTS_PER_PATCH;
        Some(Base { grid, parts, over, patches, hashes, differing, folds })
    }

    pub fn patches(&self) -> &[PatchRef] {
        &self.patches
    }

    fn holds(&self, page: u64, hash: u64) -> bool {
        let is_same = usize::try_from(page).ok().and_then(|page| self.hashes.get(page)) == Some(&hash);
        let next = self.differing.partition_point(|run| run.end() <= page);
        is_same && self.differing.get(next).is_none_or(|run| !run.contains(page))
    }

    /// What becomes of the bytes `start..end` of the main file, whose pages have these hashes.
    pub fn choose(&self, grid: PageGrid, start: u64, end: u64, hashes: &[u64]) -> Choice {
        let at = self.parts.binary_search_by_key(&start, |part| part.offset);
        let Some(number) = at.ok().filter(|&number| grid == self.grid && self.parts[number].end() == end) else {
            return Choice::Whole;
        };
        let (part, mut over) = (self.parts[number], self.over[number]);
        if over.bytes == 0 {
            // Older patches hold nothing of it, or only of what it was before.
            over.first_patch = self.patches.len();
        }
        if self.folds && over.bytes > 0 {
            return Choice::Whole;
        }
        let first = grid.page_at(start);
        let pages = hashes.iter().enumerate().map(|(at, &hash)| (at, first + at as u64, hash));
        let changed: Vec<(usize, u64)> =
            pages.filter(|&(_, page, hash)| !self.holds(page, hash)).map(|(at, page, _)| (at, page)).collect();
        if changed.is_empty() {
            return Choice::Keep(part, over);
        }
        over.bytes = over.bytes.saturating_add(changed.iter().map(|&(_, page)| u64::from(grid.len(page))).sum());
        if part.len < LEAST_PATCHED_BYTES || over.bytes > part.len / PATCHED_SHARE {
            return Choice::Whole;
        }
        Choice::Patch(part, over, changed.into_iter().map(|(at, _)| at).collect())
    }
}

/// What lies over the parts of a new snapshot: the patches of the one before it and its own, without those that count for no
/// part any more. `over` counts patches from the oldest of all of them on.
pub(super) fn layers(before: &[PatchRef], own: &[PatchRef], over: &[Over], differing: Option<Vec<PageRun>>) -> Layers {
    let oldest = over.iter().filter(|over| over.bytes > 0).map(|over| over.first_patch).min();
    let patches: Vec<PatchRef> = before.iter().chain(own).copied().skip(oldest.unwrap_or(usize::MAX)).collect();
    let oldest = oldest.unwrap_or(0);
    // A part that was sent whole counts none of those before it; what it counted from may be gone.
    let shifted = |over: &Over| Over { first_patch: over.first_patch.saturating_sub(oldest), ..*over };
    let over = if patches.is_empty() { Vec::new() } else { over.iter().map(shifted).collect() };
    Layers { patches, over, differing }
}

/// The pages that are not what the page map says, of those that were copied with these hashes.
pub(super) fn differing(copied: &[u64], map: &[u64]) -> Option<Vec<PageRun>> {
    let mut runs: Vec<PageRun> = Vec::new();
    let pages = copied.iter().zip(map).zip(0u64..);
    for page in pages.filter(|((copied, mapped), _)| copied != mapped).map(|(_, page)| page) {
        match runs.last_mut().filter(|run| run.end() == page) {
            Some(run) => run.count += 1,
            None => runs.push(PageRun { first: page, count: 1 }),
        }
    }
    (runs.len() <= MAX_DIFFERING).then_some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineKind;
    use crate::layout::PartHash;
    use crate::position::{Commit, CommitKind, Generation, Lengths, Term, TimeMs, Txid};

    const PART: u64 = 1 << 20;
    const PAGES: usize = 256;

    fn grid() -> PageGrid {
        PageGrid::new(0, 4096).expect("a grid")
    }

    fn patch(n: u128) -> PatchRef {
        PatchRef { offset: 0, len: 4 * PART, hash: PartHash(n), stored_len: 9 }
    }

    /// Four parts of 256 pages; the hash of a page is its number and one.
    fn base(layers: Layers) -> Base {
        let part = |n: u64| {
            let hash = PartHash(u128::from(n));
            PartRef { file: FileId::Main, offset: n * PART, len: PART, hash, stored_len: 9 }
        };
        let hashes: Vec<u64> = (1..=4 * PAGES as u64).collect();
        let lengths = Lengths { main: 4 * PART, wal: 0 };
        let (kind, checksum) = (CommitKind::Captured, 0);
        let commit = Commit { txid: Txid(9), time: TimeMs(1), lengths, checksum, kind, grid: grid() };
        let manifest = Manifest {
            generation: Generation(1),
            term: Term(1),
            engine: EngineKind::Sqlite,
            base: Txid(8),
            commit,
            parts: (0..4).map(part).collect(),
            position: Vec::new(),
            layers,
        };
        Base::new(manifest, hashes).expect("a base")
    }

    fn told(differing: &[PageRun]) -> Layers {
        Layers { differing: Some(differing.to_vec()), ..Layers::default() }
    }

    /// The hashes of part 1, with so many of them changed.
    fn hashes(changed: usize) -> Vec<u64> {
        let hash = |at: usize| if at < changed { 0 } else { (PAGES + at + 1) as u64 };
        (0..PAGES).map(hash).collect()
    }

    /// Nothing changed: kept. Up to a quarter of it: patched. More, another range or another grid: whole.
    #[test]
    fn a_part_is_kept_patched_or_sent() {
        let base = base(told(&[]));
        let choose = |changed| base.choose(grid(), PART, 2 * PART, &hashes(changed));
        assert!(matches!(choose(0), Choice::Keep(part, _) if part.offset == PART));
        let Choice::Patch(_, over, pages) = choose(64) else { panic!("{:?}", choose(64)) };
        assert_eq!((over, pages), (Over { first_patch: 0, bytes: PART / 4 }, (0..64).collect()));
        assert_eq!(choose(65), Choice::Whole);
        assert_eq!(base.choose(grid(), PART, 2 * PART - 4096, &hashes(0)[..255]), Choice::Whole);
        let other = PageGrid::new(0, 8192).expect("a grid");
        assert_eq!(base.choose(other, PART, 2 * PART, &hashes(0)), Choice::Whole);
    }

    /// A page that changed while the last copy was made is sent whatever the page map says; where that is not told, there is no base.
    #[test]
    fn pages_that_differ_are_sent() {
        let first = PAGES as u64 + 7;
        let base = base(told(&[PageRun { first: 3, count: 1 }, PageRun { first, count: 2 }]));
        let Choice::Patch(_, _, pages) = base.choose(grid(), PART, 2 * PART, &hashes(0)) else { panic!("no patch") };
        assert_eq!(pages, [7, 8]);
        let manifest = |base, differing| {
            let lengths = Lengths { main: 0, wal: 0 };
            let (kind, checksum) = (CommitKind::Captured, 0);
            let commit = Commit { txid: Txid(9), time: TimeMs(1), lengths, checksum, kind, grid: grid() };
            let (generation, term, engine) = (Generation(1), Term(1), EngineKind::Sqlite);
            let layers = Layers { differing, ..Layers::default() };
            Manifest { generation, term, engine, base, commit, parts: Vec::new(), position: Vec::new(), layers }
        };
        assert!(Base::new(manifest(Txid(8), None), Vec::new()).is_none());
        assert!(Base::new(manifest(Txid(9), None), Vec::new()).is_some());
        assert!(Base::new(manifest(Txid(8), Some(Vec::new())), Vec::new()).is_some());
    }

    /// What lies over a part counts, and where patches became too many, every part under one is sent whole.
    #[test]
    fn patches_stay_bounded() {
        let over = |bytes| vec![Over::default(), Over { first_patch: 1, bytes }, Over::default(), Over::default()];
        let layers = |patches: usize, bytes| Layers {
            patches: (0..patches as u128).map(patch).collect(),
            over: over(bytes),
            differing: Some(Vec::new()),
        };
        let choose = |layers, changed| base(layers).choose(grid(), PART, 2 * PART, &hashes(changed));
        let expected = Over { first_patch: 1, bytes: PART / 4 };
        assert!(matches!(choose(layers(2, PART / 4 - 4096), 1), Choice::Patch(_, over, _) if over == expected));
        assert_eq!(choose(layers(2, PART / 4), 1), Choice::Whole);
        assert!(matches!(choose(layers(2, PART / 4), 0), Choice::Keep(..)));
        assert_eq!(choose(layers(65, 4096), 0), Choice::Whole);
        assert!(matches!(choose(layers(65, 0), 1), Choice::Patch(..)));
    }

    /// Patches that count for nothing are left out, and what parts count from is shifted.
    #[test]
    fn useless_patches_go() {
        let over =
            [Over { first_patch: 0, bytes: 0 }, Over { first_patch: 2, bytes: 5 }, Over { first_patch: 3, bytes: 5 }];
        let found = layers(&[patch(0), patch(1), patch(2)], &[patch(3)], &over, None);
        assert_eq!(found.patches, [patch(2), patch(3)]);
        assert_eq!(found.over.iter().map(|over| over.first_patch).collect::<Vec<_>>(), [0, 0, 1]);
        let none = [Over { first_patch: 3, bytes: 0 }; 3];
        assert_eq!(layers(&[patch(0), patch(1), patch(2)], &[], &none, None), Layers::default());
        assert_eq!(differing(&[1, 2, 3, 4, 5], &[1, 0, 0, 4]), Some(vec![PageRun { first: 1, count: 2 }]));
    }
}
