//! Which segments stay, and why.

use std::collections::{BTreeMap, BTreeSet};

use super::Reason;
use super::mark::{Range, holds, union};
use crate::inventory::{EVERY_COMMIT, Inventory, Listed};
use crate::layout::{Level, SegmentName};
use crate::position::{Term, Txid};

/// What a generation must still be able to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// Per kept snapshot and kept label: where the copy of the snapshot began, and the commit to be reached.
    pub ends: Vec<(Txid, Txid)>,
    /// Everything after this commit is kept, but for what other segments hold too. `None`: nothing is.
    pub floor: Option<Txid>,
    /// Every commit after this one is kept one by one.
    pub exact_after: Txid,
}

/// One decision per segment, in the order of the inventory.
pub(super) fn decide(inventory: &Inventory, needs: &Needs) -> Vec<(Listed<SegmentName>, Reason)> {
    let decisions = propose(inventory, needs);
    let is_deleted = |reason: &Reason| !reason.keeps();
    if !decisions.iter().any(|(_, reason)| is_deleted(reason)) {
        return decisions;
    }
    let mut rest = inventory.clone();
    let deleted: BTreeSet<SegmentName> =
        decisions.iter().filter(|(_, reason)| is_deleted(reason)).map(|(s, _)| s.name).collect();
    rest.segments.retain(|s| !deleted.contains(&s.name));
    if is_enough(inventory, &rest, needs) {
        return decisions;
    }
    // Our own rules are proven by what a restore would do. Where that fails, nothing goes.
    decisions.into_iter().map(|(s, reason)| (s, if is_deleted(&reason) { Reason::Unproven } else { reason })).collect()
}

/// Can `rest` do what `all` can, as far as it is needed?
fn is_enough(all: &Inventory, rest: &Inventory, needs: &Needs) -> bool {
    let still = |base: Txid, target: Txid| all.chain(base, target).is_err() || rest.chain(base, target).is_ok();
    let newest = all.newest.map_or(Txid::ZERO, |moment| moment.txid);
    let first_exact = Txid(needs.exact_after.0.saturating_add(1)).min(newest);
    needs.ends.iter().all(|&(base, txid)| still(base, txid))
        && needs.floor.is_none_or(|floor| rest.reach(floor) >= all.reach(floor) && still(floor, first_exact))
}

fn propose(inventory: &Inventory, needs: &Needs) -> Vec<(Listed<SegmentName>, Reason)> {
    let mut leading = BTreeSet::new();
    for &(base, txid) in &needs.ends {
        // Without a way there, nothing can be said of what it needs, and it is not among the restorable ones.
        leading.extend(inventory.chain(base, txid).into_iter().flatten().map(|s| s.name));
    }
    let is_within = |name: &SegmentName| needs.floor.is_some_and(|floor| name.last > floor);
    let stays = |name: &SegmentName| leading.contains(name) || is_within(name);
    let mut joined = Cover::new(inventory, |name| name.level == EVERY_COMMIT && stays(name));
    let mut merged =
        Cover::new(inventory, |name| name.level > EVERY_COMMIT && name.last <= needs.exact_after && is_within(name));
    let mut reason = |name: &SegmentName| match name.level {
        _ if leading.contains(name) => Reason::LeadsToSnapshot,
        _ if !is_within(name) => Reason::Unneeded,
        Level(0) if joined.holds(name) => Reason::Joined,
        level if level <= EVERY_COMMIT && merged.holds(name) => Reason::Merged,
        _ if name.last > needs.exact_after => Reason::InCommits,
        _ => Reason::Way,
    };
    inventory.segments.iter().map(|s| (*s, reason(&s.name))).collect()
}

/// The commits that some segments hold together.
#[derive(Debug)]
struct Cover {
    /// By first commit.
    segments: Vec<SegmentName>,
    /// What those of a term and all higher ones hold, made when it is asked for.
    by_term: BTreeMap<Term, Vec<Range>>,
}

impl Cover {
    fn new(inventory: &Inventory, is_part: impl Fn(&SegmentName) -> bool) -> Cover {
        let segments = inventory.segments.iter().map(|s| s.name).filter(is_part).collect();
        Cover { segments, by_term: BTreeMap::new() }
    }

    /// A segment of a higher term is never held by one of a lower: that writer did not know of it.
    fn holds(&mut self, name: &SegmentName) -> bool {
        let segments = &self.segments;
        let ranges = self.by_term.entry(name.term).or_insert_with(|| {
            union(segments.iter().filter(|s| s.term >= name.term).map(|s| (s.first, s.last)).collect())
        });
        holds(ranges, name.first, name.last)
    }
}
