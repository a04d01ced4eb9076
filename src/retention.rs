//! What of a replica is kept and what may go: from what it holds, a policy and a moment to one decision per object.
//!
//! Pure: nothing is asked and nothing is deleted here. Three things hold whatever the policy says. The newest restorable point
//! stays. A kept snapshot keeps its parts and the segments that make it exact; a kept span of time keeps a snapshot at or before
//! its beginning and an unbroken way from there to the newest commit. And what is not understood (a snapshot that cannot be
//! read, a name of another version) is kept, with everything that it may need.
//!
//! | file | holds |
//! |---|---|
//! | `policy.rs` | the rules as they are written |
//! | `snapshots.rs`, `segments.rs` | which of them stay |
//! | `files.rs` | which file sets stay |
//! | `mark.rs` | what is written down before anything is deleted |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::inventory::{Inventory, Listed};
use crate::layout::{ObjectName, PartHash, SnapshotName};
use crate::position::{Generation, Term, TimeMs, Txid};

mod files;
mod mark;
mod policy;
mod segments;
mod snapshots;

pub use files::FilesView;
pub use mark::{Gaps, MAX_MARK_BYTES, MAX_MARKED, Mark, Range, holds, union, without};
pub use policy::{Calendar, Count, Policy};
use segments::Needs;
use snapshots::{Span, before, choose, span};

/// What a snapshot's manifest tells and its name does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The copy began at this commit.
    pub base: Txid,
    /// Its parts and the patches over them.
    pub parts: Arc<[PartHash]>,
}

/// One generation as it was found.
#[derive(Debug, Clone)]
pub struct GenerationView {
    pub inventory: Inventory,
    pub parts: Vec<Listed<PartHash>>,
    /// Of every snapshot whose manifest can be read.
    pub facts: BTreeMap<SnapshotName, Facts>,
    /// Commits whose labels ask for them to be kept.
    pub named: BTreeSet<Txid>,
    /// What is kept of the files beside the database.
    pub files: FilesView,
}

/// Why something stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Newest,
    InCommits,
    Within,
    Last,
    Calendar(Calendar),
    Min,
    LeadsIn,
    Label,
    LeadsToSnapshot,
    Way,
    PartOfSnapshot,
    NewestFiles,
    FilesOfCommit,
    InFileSet,
    Claim,
    NoSnapshotYet,
    NothingRestorable,
    Unreadable,
    Inexact,
    Unclear,
    Unproven,
    Locked,
    DeadTerm,
    Unneeded,
    Joined,
    Merged,
    Unreferenced,
    NotInFileSet,
    EmptyGeneration,
}

impl Reason {
    /// Does what it is given for stay?
    pub fn keeps(self) -> bool {
        use Reason::{DeadTerm, EmptyGeneration, Joined, Merged, NotInFileSet, Unneeded, Unreferenced};
        !matches!(self, DeadTerm | Unneeded | Joined | Merged | Unreferenced | NotInFileSet | EmptyGeneration)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Newest => "the newest restorable point",
            Reason::InCommits => "inside the commit window",
            Reason::Within => "inside keep-within",
            Reason::Last => "one of keep-last",
            Reason::Calendar(unit) => return write!(f, "the newest of its {}", unit.unit()),
            Reason::Min => "one of keep-min",
            Reason::LeadsIn => "leads into a kept window",
            Reason::Label => "leads to a commit that has a label",
            Reason::LeadsToSnapshot => "leads to a kept snapshot or label",
            Reason::Way => "on the way through a kept window",
            Reason::PartOfSnapshot => "part of a kept snapshot",
            Reason::NewestFiles => "the newest file set",
            Reason::FilesOfCommit => "the files of a commit that stays restorable",
            Reason::InFileSet => "in a file set that stays",
            Reason::Claim => "claim of a writer",
            Reason::NoSnapshotYet => "the newest generation has no snapshot yet",
            Reason::NothingRestorable => "nothing is restorable here, so nothing goes",
            Reason::Unreadable => "cannot be read: see `replicate verify`",
            Reason::Inexact => "inside a kept window, although segments are missing: see `replicate verify`",
            Reason::Unclear => "a snapshot that cannot be read may need it",
            Reason::Unproven => "that nothing needs it could not be proven",
            Reason::Locked => "the store does not let it be deleted",
            Reason::DeadTerm => "written by a dead term, readers ignore it",
            Reason::Unneeded => "no rule keeps it",
            Reason::Joined => "level 1 holds the same commits",
            Reason::Merged => "older than the commit window, and merged into a higher level",
            Reason::Unreferenced => "no snapshot that stays has it",
            Reason::NotInFileSet => "no file set that stays has it",
            Reason::EmptyGeneration => "nothing else is left of its generation",
        })
    }
}

/// Decisions are carried out in this order, so that at every moment what is listed can be restored: what a dead term wrote before
/// the living segments that bury it, the record of a snapshot before what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Dead,
    Snapshots,
    Segments,
    Parts,
    FileSets,
    Blobs,
    Claims,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub object: ObjectName,
    /// Bytes; 0 for a claim.
    pub size: u64,
    pub stage: Stage,
    pub reason: Reason,
}

/// The decisions on one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationPlan {
    pub generation: Generation,
    /// In the order in which what goes is deleted: by stage, snapshots from the oldest, segments from the newest on.
    pub decisions: Vec<Decision>,
    /// Commits that the segments that stay do not hold, and those that go do.
    pub pruned: Vec<Range>,
    /// Commits that the segments that stay hold.
    pub held: Vec<Range>,
}

impl GenerationPlan {
    pub fn deletions(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| !decision.reason.keeps())
    }
}

/// One plan for a replica, oldest generation first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub generations: Vec<GenerationPlan>,
}

/// What is the same for every generation.
struct Planning<'a> {
    policy: &'a Policy,
    now: TimeMs,
    anchor: TimeMs,
    /// By every rule but that of the way into a window.
    kept: BTreeMap<SnapshotName, Reason>,
    locked: &'a BTreeSet<SnapshotName>,
    newest: Option<Generation>,
    /// The newest generation of which something can be restored.
    newest_restorable: Option<Generation>,
}

/// Decides on everything. `views` are all generations, oldest first; `locked` are snapshots that turned out not to be deletable.
pub fn plan(views: &[GenerationView], policy: &Policy, now: TimeMs, locked: &BTreeSet<SnapshotName>) -> Plan {
    let restorable: Vec<Vec<SnapshotName>> = views.iter().map(restorable).collect();
    let candidates: Vec<SnapshotName> = restorable.iter().flatten().copied().collect();
    // Spans of time end with the newest commit: a clock that jumped ahead, and a database at rest, lose nothing by it.
    let newest_commit = views.iter().rev().find_map(|view| view.inventory.newest);
    let anchor = newest_commit.map_or(now, |moment| moment.time.min(now));
    let planning = Planning {
        policy,
        now,
        anchor,
        kept: choose(policy, &candidates, anchor),
        locked,
        newest: views.last().map(|view| view.inventory.generation),
        newest_restorable: candidates.last().map(|name| name.generation),
    };
    let each = views.iter().zip(&restorable);
    Plan { generations: each.map(|(view, restorable)| planning.generation(view, restorable)).collect() }
}

/// The snapshots that can be made exact, by txid.
fn restorable(view: &GenerationView) -> Vec<SnapshotName> {
    let names = view.inventory.snapshots.iter().map(|listed| listed.name);
    let is_exact = |name: &SnapshotName| {
        view.facts.get(name).is_some_and(|facts| view.inventory.chain(facts.base, name.txid).is_ok())
    };
    names.filter(is_exact).collect()
}

/// The newest snapshot from which a commit can be restored.
fn leading_to(view: &GenerationView, restorable: &[SnapshotName], txid: Txid) -> Option<SnapshotName> {
    let leads = |name: &&SnapshotName| {
        name.txid <= txid && view.facts.get(name).is_some_and(|facts| view.inventory.chain(facts.base, txid).is_ok())
    };
    restorable.iter().rev().find(leads).copied()
}

impl Planning<'_> {
    fn generation(&self, view: &GenerationView, restorable: &[SnapshotName]) -> GenerationPlan {
        let inventory = &view.inventory;
        let span = |window: Option<Duration>| span(view, restorable, before(self.anchor, window?));
        let exact = span(self.policy.commits);
        let within = span(self.policy.commits.max(self.policy.keep_within));
        let named: Vec<(SnapshotName, Txid)> =
            view.named.iter().filter_map(|txid| Some((leading_to(view, restorable, *txid)?, *txid))).collect();
        let snapshots = self.snapshots(view, restorable, [exact, within], &named);
        let stays = |name: &SnapshotName| snapshots.iter().any(|(s, reason)| s.name == *name && reason.keeps());
        let base = |name: &SnapshotName| view.facts.get(name).map(|facts| facts.base);
        let kept: Vec<SnapshotName> = inventory.snapshots.iter().map(|s| s.name).filter(stays).collect();
        let lowest_base = || restorable.iter().filter_map(base).min().unwrap_or(Txid::ZERO);
        let last = inventory.newest.map_or(Txid::ZERO, |moment| moment.txid);
        let within = within.map(|span| span.leads.as_ref().and_then(base).unwrap_or_else(lowest_base));
        // The newest restorable point is the end of what follows the newest snapshot, whatever the policy.
        let is_newest = self.newest_restorable == Some(inventory.generation);
        // And a writer goes on from the newest segment, even where a snapshot says the same.
        let before_last = Txid(last.0.saturating_sub(1));
        let tail = restorable.last().and_then(base).filter(|_| is_newest).map(|base| base.min(before_last));
        let floor = within.into_iter().chain(tail).min();
        let way = |(name, end): (SnapshotName, Txid)| Some((base(&name)?, end));
        let needs = Needs {
            ends: kept.iter().map(|name| (*name, name.txid)).chain(named).filter_map(way).collect(),
            floor,
            exact_after: exact.map_or(last, |span| span.before),
        };
        let whole = self.keep_whole(view, restorable);
        let segments = segments::decide(inventory, &needs);
        let mut decisions = dead(inventory);
        let decision = |object, size, stage, reason| Decision { object, size, stage, reason };
        decisions.extend(
            snapshots.iter().map(|(s, why)| decision(ObjectName::Snapshot(s.name), s.size, Stage::Snapshots, *why)),
        );
        decisions.extend(
            segments.iter().map(|(s, why)| decision(ObjectName::Segment(s.name), s.size, Stage::Segments, *why)),
        );
        decisions.extend(parts(view, &kept));
        let window = self.policy.commits.unwrap_or_default();
        let is_newest_generation = self.newest == Some(inventory.generation);
        decisions.extend(files::decide(view, &decisions, window, self.now, is_newest_generation));
        if let Some(reason) = whole {
            let spared = |d: &&mut Decision| !d.reason.keeps();
            decisions.iter_mut().filter(spared).for_each(|decision| decision.reason = reason);
        }
        decisions.extend(self.claims(inventory, &decisions));
        decisions.sort_by_key(|d| (d.stage, order(&d.object)));
        let (held, pruned) = ranges(&decisions);
        GenerationPlan { generation: inventory.generation, decisions, pruned, held }
    }

    /// Something about this generation forbids to judge any of it.
    fn keep_whole(&self, view: &GenerationView, restorable: &[SnapshotName]) -> Option<Reason> {
        let is_unreadable = |s: &Listed<SnapshotName>| !view.facts.contains_key(&s.name);
        if self.newest_restorable.is_none() {
            Some(Reason::NothingRestorable)
        } else if restorable.is_empty() && self.newest == Some(view.inventory.generation) {
            Some(Reason::NoSnapshotYet)
        } else {
            view.inventory.snapshots.iter().any(is_unreadable).then_some(Reason::Unclear)
        }
    }

    fn snapshots(
        &self,
        view: &GenerationView,
        restorable: &[SnapshotName],
        spans: [Option<Span>; 2],
        named: &[(SnapshotName, Txid)],
    ) -> Vec<(Listed<SnapshotName>, Reason)> {
        let inventory = &view.inventory;
        let leads = |name: &SnapshotName| spans.iter().flatten().any(|span| span.leads == Some(*name));
        // A writer relies on the parts of the newest one without asking for them again.
        let newest = inventory.snapshots.last().map(|s| s.name).filter(|_| self.newest == Some(inventory.generation));
        let reason = |name: &SnapshotName| match self.kept.get(name) {
            Some(reason) => *reason,
            None if leads(name) => Reason::LeadsIn,
            None if named.iter().any(|(leading, _)| leading == name) => Reason::Label,
            None if self.locked.contains(name) => Reason::Locked,
            None if !view.facts.contains_key(name) => Reason::Unreadable,
            None if newest == Some(*name) => Reason::Newest,
            None if !restorable.contains(name) && spans[1].is_some_and(|span| name.txid > span.before) => {
                Reason::Inexact
            }
            None => Reason::Unneeded,
        };
        inventory.snapshots.iter().map(|s| (*s, reason(&s.name))).collect()
    }

    fn claims(&self, inventory: &Inventory, others: &[Decision]) -> Vec<Decision> {
        let generation = inventory.generation;
        let is_empty = inventory.unknown.is_empty() && others.iter().all(|decision| !decision.reason.keeps());
        let reason = match is_empty && self.newest != Some(generation) {
            true => Reason::EmptyGeneration,
            false => Reason::Claim,
        };
        let object = |&term: &Term| ObjectName::Term { generation, term };
        let decision = |object| Decision { object, size: 0, stage: Stage::Claims, reason };
        inventory.terms.iter().map(object).map(decision).collect()
    }
}

fn dead(inventory: &Inventory) -> Vec<Decision> {
    let decision = |object, size| Decision { object, size, stage: Stage::Dead, reason: Reason::DeadTerm };
    let snapshots = inventory.dead_snapshots.iter().map(|s| decision(ObjectName::Snapshot(s.name), s.size));
    let segments = inventory.dead_segments.iter().map(|s| decision(ObjectName::Segment(s.name), s.size));
    snapshots.chain(segments).collect()
}

fn parts(view: &GenerationView, kept: &[SnapshotName]) -> Vec<Decision> {
    let generation = view.inventory.generation;
    let needed = kept.iter().filter_map(|name| view.facts.get(name)).flat_map(|facts| facts.parts.iter());
    let needed: BTreeSet<PartHash> = needed.copied().collect();
    let decision = |part: &Listed<PartHash>| Decision {
        object: ObjectName::Part { generation, hash: part.name },
        size: part.size,
        stage: Stage::Parts,
        reason: if needed.contains(&part.name) { Reason::PartOfSnapshot } else { Reason::Unreferenced },
    };
    view.parts.iter().map(decision).collect()
}

/// Within a stage: segments from the newest on, so that what is left of a way always begins at its snapshot.
fn order(object: &ObjectName) -> (u64, ObjectName) {
    match object {
        ObjectName::Segment(name) => (u64::MAX - name.last.0, *object),
        _ => (0, *object),
    }
}

/// What the segments that stay hold, and what only those that go do: with whatever was missing beside it, which nobody wants
/// any more either.
fn ranges(decisions: &[Decision]) -> (Vec<Range>, Vec<Range>) {
    let of = |keeps: bool| {
        let wanted = decisions.iter().filter(|d| d.stage == Stage::Segments && d.reason.keeps() == keeps);
        union(
            wanted
                .filter_map(|d| if let ObjectName::Segment(s) = d.object { Some((s.first, s.last)) } else { None })
                .collect(),
        )
    };
    let (held, going) = (of(true), of(false));
    let Some(&(_, end)) = going.last() else { return (held, Vec::new()) };
    let mut free = without(&[(Txid(1), end)], &held);
    let is_going = |range: &Range| {
        let at = going.partition_point(|going| going.1 < range.0);
        going.get(at).is_some_and(|going| going.0 <= range.1)
    };
    free.retain(is_going);
    (held, free)
}

#[cfg(test)]
mod tests;
