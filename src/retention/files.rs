//! Which file sets stay, and which blobs: what a restorable commit needs of the files beside the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::mark::Range;
use super::snapshots::before;
use super::{Decision, GenerationView, Reason, Stage};
use crate::inventory::{EVERY_COMMIT, Listed};
use crate::layout::{BlobHash, FileSetName, ObjectName};
use crate::position::{TimeMs, Txid};

/// The files beside the database, as a generation keeps them.
#[derive(Debug, Clone, Default)]
pub struct FilesView {
    /// In the order in which they count.
    pub sets: Vec<Listed<FileSetName>>,
    pub blobs: Vec<Listed<BlobHash>>,
    /// The blobs of every set that can be read.
    pub contents: BTreeMap<FileSetName, Arc<[BlobHash]>>,
}

/// Decides on the sets and the blobs of a generation, after its snapshots and segments were decided on.
///
/// A set counts from its commit to that of the next one, and stays while a commit between them can be restored. Where several are of the
/// same commit, because the database was at rest, a moment can name the older ones as long as `window` reaches back to them.
pub(super) fn decide(
    view: &GenerationView,
    others: &[Decision],
    window: std::time::Duration,
    now: TimeMs,
    is_newest_generation: bool,
) -> Vec<Decision> {
    let files = &view.files;
    let is_dead = |set: &&Listed<FileSetName>| view.inventory.is_taken_over(set.name.term, set.name.txid);
    let (dead, living): (Vec<&Listed<FileSetName>>, Vec<&Listed<FileSetName>>) = files.sets.iter().partition(is_dead);
    // As for commits: a clock that jumped ahead takes nothing.
    let anchor = living.iter().map(|set| set.name.time).max().map_or(now, |newest| newest.min(now));
    let window_begins = before(anchor, window);
    let points = points(view, others);
    let reason = |at: usize, name: &FileSetName| {
        let next = living.get(at + 1).map(|next| next.name.txid);
        let last = next.map_or(Txid(u64::MAX), |next| Txid(next.0.saturating_sub(1)).max(name.txid));
        let is_needed = points.iter().any(|(from, to)| *from <= last && *to >= name.txid);
        let is_last_of_commit = next != Some(name.txid);
        match () {
            () if !files.contents.contains_key(name) => Reason::Unreadable,
            () if next.is_none() && is_newest_generation => Reason::NewestFiles,
            () if is_needed && (is_last_of_commit || name.time >= window_begins) => Reason::FilesOfCommit,
            () => Reason::Unneeded,
        }
    };
    let decision = |set: &Listed<FileSetName>, stage, reason| Decision {
        object: ObjectName::FileSet(set.name),
        size: set.size,
        stage,
        reason,
    };
    let mut decisions: Vec<Decision> = dead.iter().map(|set| decision(set, Stage::Dead, Reason::DeadTerm)).collect();
    let decided = living.iter().enumerate().map(|(at, set)| decision(set, Stage::FileSets, reason(at, &set.name)));
    decisions.extend(decided);
    let blobs = blobs(view, &decisions);
    decisions.extend(blobs);
    decisions
}

/// The commits that can be restored when everything was carried out, as ranges.
fn points(view: &GenerationView, others: &[Decision]) -> Vec<Range> {
    let kept = others.iter().filter(|decision| decision.reason.keeps()).filter_map(|decision| match decision.object {
        ObjectName::Snapshot(name) => Some((name.txid, name.txid)),
        ObjectName::Segment(name) if name.level <= EVERY_COMMIT => Some((name.first, name.last)),
        ObjectName::Segment(name) => Some((name.last, name.last)),
        _ => None,
    });
    kept.chain(view.named.iter().map(|txid| (*txid, *txid))).collect()
}

fn blobs(view: &GenerationView, sets: &[Decision]) -> Vec<Decision> {
    let kept = sets.iter().filter(|decision| decision.reason.keeps());
    let (mut needed, mut is_unclear) = (BTreeSet::new(), false);
    for decision in kept {
        let ObjectName::FileSet(name) = decision.object else { continue };
        match view.files.contents.get(&name) {
            Some(blobs) => needed.extend(blobs.iter().copied()),
            None => is_unclear = true,
        }
    }
    let reason = |hash: &BlobHash| match () {
        () if needed.contains(hash) => Reason::InFileSet,
        () if is_unclear => Reason::Unclear,
        () => Reason::NotInFileSet,
    };
    let generation = view.inventory.generation;
    let decision = |blob: &Listed<BlobHash>| Decision {
        object: ObjectName::Blob { generation, hash: blob.name },
        size: blob.size,
        stage: Stage::Blobs,
        reason: reason(&blob.name),
    };
    view.files.blobs.iter().map(decision).collect()
}
