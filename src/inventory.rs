//! What one generation of a replica holds, as data, built from listed names alone: what connects, and where the gaps are.
//!
//! Pure: no request is made here and no object is read. What a name cannot tell (whether an object is whole, at which
//! txid the copy behind a snapshot began) is asked of the caller or left to whoever reads the object.

use std::collections::{BTreeMap, BTreeSet};

use crate::layout::{Level, ObjectName, SegmentName, SnapshotName};
use crate::position::{Generation, Term, TimeMs, Txid};
use crate::store::ObjectMeta;

/// The highest level that still holds every commit by itself; above it only the last commit of a segment is a point.
pub const EVERY_COMMIT: Level = Level(1);

/// What one more object costs on the way of a restore, in bytes that could be fetched in the same time.
const REQUEST_COST_BYTES: u64 = 256 * 1024;

/// A name with the size that the listing gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed<N> {
    pub name: N,
    pub size: u64,
}

/// A moment in a history: a txid and the time of that commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub txid: Txid,
    pub time: TimeMs,
}

/// Commits that no listed segment holds, between two that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub first: Txid,
    pub last: Txid,
    /// The newest commit before the gap, where a segment ends or a snapshot stands.
    pub before: Option<Moment>,
    /// The last commit of the first segment after the gap.
    pub after: Option<Moment>,
}

/// A range of commits that can be restored: a snapshot and what connects to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from: Moment,
    pub to: Moment,
}

/// What one generation holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    pub generation: Generation,
    pub terms: Vec<Term>,
    /// By txid.
    pub snapshots: Vec<Listed<SnapshotName>>,
    /// By first commit, then level.
    pub segments: Vec<Listed<SegmentName>>,
    /// Written by a dead term over or after what a higher term wrote: never read.
    pub dead_segments: Vec<Listed<SegmentName>>,
    pub dead_snapshots: Vec<Listed<SnapshotName>>,
    /// Names that this version does not know.
    pub unknown: Vec<ObjectMeta>,
    /// The newest commit that any name speaks of, whether or not its object turned out to be usable.
    pub newest: Option<Moment>,
    /// The first commit that each term shipped.
    begins: BTreeMap<Term, Txid>,
}

impl Inventory {
    /// Sorts a listing of (any folders of) one generation. Parts are left out: their number is that of the database's
    /// megabytes, and only a snapshot gives them a meaning.
    pub fn new(generation: Generation, listing: impl IntoIterator<Item = ObjectMeta>) -> Inventory {
        let mut inventory = Inventory {
            generation,
            terms: Vec::new(),
            snapshots: Vec::new(),
            segments: Vec::new(),
            dead_segments: Vec::new(),
            dead_snapshots: Vec::new(),
            unknown: Vec::new(),
            newest: None,
            begins: BTreeMap::new(),
        };
        for object in listing {
            let size = object.size;
            match ObjectName::parse(object.key.as_str()) {
                Some(ObjectName::Segment(name)) if name.generation == generation => {
                    inventory.segments.push(Listed { name, size });
                }
                Some(ObjectName::Snapshot(name)) if name.generation == generation => {
                    inventory.snapshots.push(Listed { name, size });
                }
                Some(ObjectName::Term { generation: of, term }) if of == generation => inventory.terms.push(term),
                Some(ObjectName::Part { generation: of, .. } | ObjectName::Mark { generation: of, .. })
                    if of == generation => {}
                Some(ObjectName::Blob { generation: of, .. }) if of == generation => {}
                Some(ObjectName::FileSet(name)) if name.generation == generation => {}
                _ => inventory.unknown.push(object),
            }
        }
        inventory.terms.sort_unstable();
        inventory.bury_dead_terms();
        inventory.segments.sort_unstable_by_key(|s| (s.name.first, s.name.level, s.name.last));
        inventory.snapshots.sort_unstable_by_key(|s| (s.name.txid, s.name.term));
        inventory.newest = inventory.moments().max();
        inventory
    }

    /// Readers ignore what a dead term wrote: a segment of a lower term that ends at or after the first commit of a higher
    /// term at the same level, or at or after the first commit that a higher term shipped; and a snapshot likewise.
    ///
    /// Other levels say nothing of each other: a new writer joins and merges what the ones before it have shipped.
    fn bury_dead_terms(&mut self) {
        let mut begins: BTreeMap<(Level, Term), Txid> = BTreeMap::new();
        for Listed { name, .. } in &self.segments {
            let begin = begins.entry((name.level, name.term)).or_insert(name.first);
            *begin = (*begin).min(name.first);
        }
        let taken_over = |level: Level, term: Term, last: Txid| {
            begins
                .iter()
                .any(|(&(of, higher), &begin)| (of == level || of == Level(0)) && higher > term && begin <= last)
        };
        let is_dead = |s: &Listed<SegmentName>| taken_over(s.name.level, s.name.term, s.name.last);
        (self.dead_segments, self.segments) = self.segments.iter().copied().partition(is_dead);
        let is_dead = |s: &Listed<SnapshotName>| taken_over(Level(0), s.name.term, s.name.txid);
        (self.dead_snapshots, self.snapshots) = self.snapshots.iter().copied().partition(is_dead);
        let shipped = begins.into_iter().filter(|((level, _), _)| *level == Level(0));
        self.begins = shipped.map(|((_, term), begin)| (term, begin)).collect();
    }

    /// Did a writer of a higher term ship `txid`, so that what one of this term says of it counts for nothing?
    pub fn is_taken_over(&self, term: Term, txid: Txid) -> bool {
        self.begins.iter().any(|(&higher, &begin)| higher > term && begin <= txid)
    }

    /// The same replica as if `broken` were not there. `newest` stays: what is lost is still known to have been.
    pub fn without(&self, broken: &BTreeSet<ObjectName>) -> Inventory {
        let mut rest = self.clone();
        rest.segments.retain(|s| !broken.contains(&ObjectName::Segment(s.name)));
        rest.snapshots.retain(|s| !broken.contains(&ObjectName::Snapshot(s.name)));
        rest
    }

    /// Every commit that a name speaks of.
    pub fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        let segments = self.segments.iter().map(|s| Moment { txid: s.name.last, time: s.name.time });
        segments.chain(self.snapshots.iter().map(|s| Moment { txid: s.name.txid, time: s.name.time }))
    }

    /// The moment of the newest commit at or before `txid` whose time the names tell.
    pub fn moment_at(&self, txid: Txid) -> Option<Moment> {
        self.moments().filter(|m| m.txid <= txid).max()
    }

    /// The segments that lead from just after `base` to `target`, each joined to the one before it, or the gap that
    /// prevents it. Empty when `base` is `target`.
    ///
    /// Merged segments make the way short. Where those of a level do not fit together, or a day is merged of which only the
    /// end is needed, lower levels may be the better way: of the ways up to each level, the one with the least to fetch.
    pub fn chain(&self, base: Txid, target: Txid) -> Result<Vec<Listed<SegmentName>>, Gap> {
        let mut best: Option<(u64, Vec<Listed<SegmentName>>)> = None;
        let mut furthest: Option<Gap> = None;
        for highest in (EVERY_COMMIT.0..=Level::MAX.0).rev() {
            match self.chain_within(base, target, Level(highest)) {
                Ok(chain) => {
                    let cost =
                        chain.iter().map(|s| s.size.saturating_add(REQUEST_COST_BYTES)).fold(0, u64::saturating_add);
                    if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                        best = Some((cost, chain));
                    }
                }
                Err(gap) if furthest.is_none_or(|other| gap.first > other.first) => furthest = Some(gap),
                Err(_) => {}
            }
        }
        match (best, furthest) {
            (Some((_, chain)), _) => Ok(chain),
            (None, Some(gap)) => Err(gap),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn chain_within(&self, base: Txid, target: Txid, highest: Level) -> Result<Vec<Listed<SegmentName>>, Gap> {
        let mut chain = Vec::new();
        let reached = self.follow(base, target, highest, |segment| chain.push(segment));
        if reached < target { Err(self.gap_after(reached)) } else { Ok(chain) }
    }

    /// Follows the segments that lead furthest from `base` towards `target`, and says where they end.
    ///
    /// A merged segment cannot be left between its commits, but every segment can be entered there: laying its older bytes
    /// over what is exact already does no harm, because everything newer than they are is laid over them again. So whatever
    /// leads furthest is never a detour, and one pass over the segments finds a way wherever there is one.
    fn follow(&self, base: Txid, target: Txid, highest: Level, mut take: impl FnMut(Listed<SegmentName>)) -> Txid {
        let leaves = |s: &&Listed<SegmentName>| {
            s.name.level <= highest && (s.name.level <= EVERY_COMMIT || s.name.last <= target)
        };
        let leads = |s: &Listed<SegmentName>| (s.name.last.min(target), s.name.level);
        let mut segments = self.segments.iter().filter(leaves).peekable();
        let mut best: Option<&Listed<SegmentName>> = None;
        let mut reached = base;
        while reached < target
            && let Some(next) = reached.checked_next()
        {
            // Sorted by first commit: nothing behind these can hold `next`.
            while let Some(segment) = segments.next_if(|s| s.name.first <= next) {
                if best.is_none_or(|best| leads(segment) >= leads(best)) {
                    best = Some(segment);
                }
            }
            match best {
                Some(segment) if segment.name.last >= next => {
                    take(*segment);
                    reached = segment.name.last;
                }
                _ => break,
            }
        }
        reached
    }

    /// The last commit that can be reached from `base` without a gap.
    pub fn reach(&self, base: Txid) -> Txid {
        self.follow(base, Txid(u64::MAX), Level::MAX, |_| {})
    }

    fn gap_after(&self, reached: Txid) -> Gap {
        let after = self.segments.iter().filter(|s| s.name.first > reached).min_by_key(|s| s.name.first);
        let newest = self.newest.map_or(reached, |m| m.txid);
        let last = after.map_or(newest, |s| Txid(s.name.first.0 - 1));
        Gap {
            first: Txid(reached.0.saturating_add(1)),
            last,
            before: self.moment_at(reached),
            after: after.map(|s| Moment { txid: s.name.last, time: s.name.time }),
        }
    }

    /// Every hole between the oldest commit that is held and the newest that is known of.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let oldest_segment = self.segments.first().map(|s| Txid(s.name.first.0 - 1));
        let oldest_snapshot = self.snapshots.first().map(|s| s.name.txid);
        let (Some(mut reached), Some(newest)) = (oldest_segment.or(oldest_snapshot), self.newest) else { return gaps };
        if let Some(snapshot) = oldest_snapshot {
            reached = reached.min(snapshot);
        }
        loop {
            reached = self.reach(reached);
            if reached >= newest.txid {
                return gaps;
            }
            let gap = self.gap_after(reached);
            reached = gap.last.max(gap.first);
            gaps.push(gap);
        }
    }

    /// What can be restored, oldest first. `base_of` tells at which txid the copy behind a snapshot began, where that is
    /// known; a snapshot for which it says `None` is taken not to need any segment before its own txid.
    pub fn windows(&self, base_of: impl Fn(&SnapshotName) -> Option<Txid>) -> Vec<Window> {
        let mut windows: Vec<Window> = Vec::new();
        for Listed { name, .. } in &self.snapshots {
            let from = Moment { txid: name.txid, time: name.time };
            let end = self.reach(base_of(name).unwrap_or(name.txid).min(name.txid));
            if end < name.txid {
                continue;
            }
            let to = self.moment_at(end).map_or(from, |m| m.max(from));
            match windows.last_mut() {
                Some(window) if from.txid.0 <= window.to.txid.0.saturating_add(1) => window.to = window.to.max(to),
                _ => windows.push(Window { from, to }),
            }
        }
        windows
    }
}

#[cfg(test)]
mod tests;
