//! Deleting in the order of the plan, in batches, stopping when a mark is taken back.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::fileset::FileSets;
use crate::layout::{self, BlobHash, ObjectName, PartHash, SnapshotName};
use crate::position::{Generation, TimeMs};
use crate::replica::{Marked, Replica, ReplicaError};
use crate::retention::{Decision, GenerationPlan, Mark, Stage};
use crate::store::{Key, Outcome, StoreError};

/// Objects in one request.
const BATCH: usize = 200;
/// A request that takes longer is given up. Whoever takes a mark back waits longer than that, see `spare`.
pub const DELETE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long `spare` waits for requests that were under way when it took a mark back.
pub const SETTLE: Duration = Duration::from_secs(30);

/// In this order; claims come last of all.
const STAGES: [Stage; 6] =
    [Stage::Dead, Stage::Snapshots, Stage::Segments, Stage::Parts, Stage::FileSets, Stage::Blobs];

/// What is deleted of one generation in one look.
pub(super) struct Deleting<'a> {
    replica: &'a Replica,
    generation: Generation,
    /// Names in marks that are old enough.
    ripe: BTreeSet<String>,
    /// Those marks.
    marks: Vec<TimeMs>,
    pub deleted: BTreeSet<Key>,
    pub deleted_bytes: u64,
    pub locked: BTreeSet<Key>,
    pub interrupted: bool,
    /// Nothing is left of the generation.
    pub is_gone: bool,
    /// The store refused a whole batch: it is not asked again.
    is_denied: bool,
}

impl<'a> Deleting<'a> {
    pub fn new(
        replica: &'a Replica,
        generation: Generation,
        ripe: BTreeSet<String>,
        marks: Vec<TimeMs>,
    ) -> Deleting<'a> {
        Deleting {
            replica,
            generation,
            ripe,
            marks,
            deleted: BTreeSet::new(),
            deleted_bytes: 0,
            locked: BTreeSet::new(),
            interrupted: false,
            is_gone: false,
            is_denied: false,
        }
    }

    /// `replan` plans the generation again with snapshots that stay although they should go.
    pub async fn run(
        &mut self,
        plan: &GenerationPlan,
        replan: impl Fn(&BTreeSet<SnapshotName>) -> GenerationPlan,
    ) -> Result<(), ReplicaError> {
        let mut plan = plan.clone();
        for stage in STAGES {
            let of_stage = plan.deletions().filter(|decision| decision.stage == stage);
            let doomed: Vec<Decision> = of_stage.copied().collect();
            // Living segments bury what a dead term wrote; without them it would be taken for living.
            let buries = stage == Stage::Segments && self.left(&plan, Stage::Dead).next().is_some();
            // A set that is still there is one that can be restored.
            let holds = stage == Stage::Blobs && self.left(&plan, Stage::FileSets).next().is_some();
            if !buries && !holds && !self.stage(&doomed).await? {
                return Ok(());
            }
            if stage == Stage::Snapshots {
                let names = self.left(&plan, Stage::Snapshots).filter_map(|decision| match decision.object {
                    ObjectName::Snapshot(name) => Some(name),
                    _ => None,
                });
                let stayed: BTreeSet<SnapshotName> = names.collect();
                if !stayed.is_empty() {
                    plan = replan(&stayed);
                }
            }
        }
        self.claims(&plan).await
    }

    /// What should have gone in a stage and is still there.
    fn left<'p>(&self, plan: &'p GenerationPlan, stage: Stage) -> impl Iterator<Item = &'p Decision> {
        plan.deletions().filter(move |d| d.stage == stage && !self.deleted.contains(&d.object.key()))
    }

    /// `false`: a mark was taken back.
    async fn stage(&mut self, doomed: &[Decision]) -> Result<bool, ReplicaError> {
        let doomed = doomed.iter().map(|decision| (decision.object.key(), decision.size));
        let doomed: Vec<(Key, u64)> = doomed.filter(|(key, _)| self.ripe.contains(key.as_str())).collect();
        for batch in doomed.chunks(BATCH) {
            let marks = self.replica.mark_times(self.generation).await?;
            if !self.marks.iter().all(|time| marks.contains(time)) {
                self.interrupted = true;
                return Ok(false);
            }
            self.batch(batch).await?;
        }
        Ok(true)
    }

    async fn batch(&mut self, batch: &[(Key, u64)]) -> Result<(), ReplicaError> {
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        if self.is_denied {
            self.locked.extend(keys);
            return Ok(());
        }
        match delete(self.replica, &keys).await {
            Ok(()) => self.took(batch),
            Err(error) if error.outcome == Outcome::Denied => {
                // One of them, or all: each tells for itself.
                let before = self.locked.len();
                for object in batch {
                    match delete(self.replica, std::slice::from_ref(&object.0)).await {
                        Ok(()) => self.took(std::slice::from_ref(object)),
                        Err(error) if error.outcome == Outcome::Denied => _ = self.locked.insert(object.0.clone()),
                        Err(error) => return Err(error.into()),
                    }
                }
                self.is_denied = batch.len() == BATCH && self.locked.len() - before == BATCH;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn took(&mut self, batch: &[(Key, u64)]) {
        self.deleted.extend(batch.iter().map(|(key, _)| key.clone()));
        self.deleted_bytes += batch.iter().map(|(_, size)| size).sum::<u64>();
    }

    /// The claims and the marks of a generation go when nothing else is left of it.
    async fn claims(&mut self, plan: &GenerationPlan) -> Result<(), ReplicaError> {
        let doomed: Vec<Decision> = plan.deletions().filter(|d| d.stage == Stage::Claims).copied().collect();
        let is_ripe = |decision: &Decision| self.ripe.contains(decision.object.key().as_str());
        if doomed.is_empty() || !doomed.iter().all(is_ripe) {
            return Ok(());
        }
        let left = self.replica.store().list(&layout::generation_folder(self.generation), None).await?;
        let name = |key: &Key| ObjectName::parse(key.as_str());
        let is_remains = |key: &Key| matches!(name(key), Some(ObjectName::Term { .. } | ObjectName::Mark { .. }));
        if !left.iter().all(|object| is_remains(&object.key)) || !self.stage(&doomed).await? {
            return Ok(());
        }
        if self.left(plan, Stage::Claims).next().is_none() {
            let marks = left.into_iter().map(|object| object.key);
            let marks: Vec<Key> = marks.filter(|key| matches!(name(key), Some(ObjectName::Mark { .. }))).collect();
            match delete(self.replica, &marks).await {
                Err(error) if error.outcome == Outcome::Denied => self.locked.extend(marks),
                result => result?,
            }
            self.is_gone = true;
        }
        Ok(())
    }
}

async fn delete(replica: &Replica, keys: &[Key]) -> Result<(), StoreError> {
    let slow = |_| {
        let first = keys.first().map_or("", Key::as_str);
        StoreError::new(Outcome::Unavailable, "delete", first, format!("no answer in {} s", DELETE_TIMEOUT.as_secs()))
    };
    tokio::time::timeout(DELETE_TIMEOUT, replica.store().delete(keys)).await.map_err(slow)?
}

/// Called before a snapshot is made visible: takes back every mark that names one of its parts, and says whether all of them are
/// there after that. A mark that is made later finds the snapshot when its grace time is over.
pub async fn spare(
    replica: &Replica,
    generation: Generation,
    parts: &BTreeSet<PartHash>,
    now: TimeMs,
    settle: Duration,
) -> Result<bool, ReplicaError> {
    let is_ours = |name: ObjectName| matches!(name, ObjectName::Part { hash, .. } if parts.contains(&hash));
    if !take_back(replica, generation, is_ours, now, settle).await? {
        return Ok(true);
    }
    let there: BTreeSet<PartHash> = replica.parts(generation).await?.into_iter().map(|listed| listed.name).collect();
    Ok(parts.is_subset(&there))
}

/// The same before a file set is made visible.
pub async fn spare_blobs(
    replica: &Replica,
    generation: Generation,
    blobs: &BTreeSet<BlobHash>,
    now: TimeMs,
    settle: Duration,
) -> Result<bool, ReplicaError> {
    let is_ours = |name: ObjectName| matches!(name, ObjectName::Blob { hash, .. } if blobs.contains(&hash));
    if !take_back(replica, generation, is_ours, now, settle).await? {
        return Ok(true);
    }
    let (there, _) = FileSets::new(replica.store().clone()).blobs(generation).await?;
    let there: BTreeSet<BlobHash> = there.into_iter().map(|listed| listed.name).collect();
    Ok(blobs.is_subset(&there))
}

/// Takes back every mark that names one of ours, and waits for requests that were under way. `false`: there was none.
async fn take_back(
    replica: &Replica,
    generation: Generation,
    is_ours: impl Fn(ObjectName) -> bool,
    now: TimeMs,
    settle: Duration,
) -> Result<bool, ReplicaError> {
    let is_ours = |key: &String| ObjectName::parse(key).is_some_and(&is_ours);
    let mut taken_back = false;
    for marked in replica.marks(generation).await? {
        let Marked { mark, .. } = &marked;
        if !mark.delete.iter().any(is_ours) {
            continue;
        }
        let delete = mark.delete.iter().filter(|key| !is_ours(key)).cloned().collect();
        replica.put_mark(generation, now, &Mark { pruned: mark.pruned.clone(), delete }).await?;
        replica.store().delete(&[marked.key(generation)]).await?;
        taken_back = true;
    }
    if taken_back {
        tracing::info!(
            replica = replica.describe(),
            "something is needed that was about to be pruned; its mark is taken back"
        );
        tokio::time::sleep(settle).await;
    }
    Ok(taken_back)
}
