//! Deleting what no rule keeps, in two looks with a grace time between them.
//!
//! The first look marks: the names of what may go are written into the replica. A later look lists everything again, plans again,
//! and deletes what the new plan and a mark that is old enough agree on. So a mistake of one moment (a clock that jumped, a
//! listing that was not whole, an upload in between) deletes nothing, and whoever reads has the grace time to finish.
//!
//! | file | does |
//! |---|---|
//! | `survey.rs` | reads what there is |
//! | `delete.rs` | deletes in the order of the plan |

use std::collections::BTreeSet;
use std::time::Duration;

use crate::label::LabelError;
use crate::position::{Generation, TimeMs, whole_ms};
use crate::replica::{Marked, Replica, ReplicaError};
use crate::restore::RestoreError;
use crate::retention::{Decision, GenerationPlan, MAX_MARKED, Mark, Plan, Policy, plan, union, without};
use crate::store::{Key, Outcome};

mod delete;
mod survey;

use delete::Deleting;
pub use delete::{DELETE_TIMEOUT, SETTLE, spare, spare_blobs};
pub use survey::{Survey, Surveyor};

/// Default of the time between the two looks.
pub const GRACE: Duration = Duration::from_secs(3600);

/// How to prune.
#[derive(Debug, Clone)]
pub struct Pruning<'a> {
    pub policy: &'a Policy,
    /// How old a mark must be.
    pub grace: Duration,
    pub now: TimeMs,
    /// Marks that are younger than they seem, by another clock than `now`'s.
    pub too_young: &'a BTreeSet<Key>,
}

/// What came of one look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub deleted: BTreeSet<Key>,
    pub deleted_bytes: u64,
    /// Objects that the store does not let go: a retention lock, or no permission.
    pub locked: BTreeSet<Key>,
    /// Objects that were marked by this look.
    pub marked: u64,
    /// Objects whose grace time is not over yet, those just marked among them.
    pub waiting: u64,
    /// The marks that were made.
    pub marks: Vec<Key>,
    /// Somebody took a mark back meanwhile.
    pub interrupted: bool,
}

/// A store that did not answer, or a replica that is none.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error(transparent)]
    Reading(#[from] RestoreError),
    /// What a label asks for must be known before anything goes.
    #[error(transparent)]
    Label(#[from] LabelError),
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// One look: deletes what an old mark and the plan of now agree on, and marks the rest of what may go.
pub async fn look(surveyor: &mut Surveyor, how: &Pruning<'_>) -> Result<(Plan, Outcomes), PruneError> {
    let survey = surveyor.survey(how.now).await?;
    let plan = survey.plan(how, &BTreeSet::new());
    let mut outcomes = Outcomes::default();
    for (at, generation) in plan.generations.iter().enumerate() {
        let replica = surveyor.reading().replica();
        let marks = replica.marks(generation.generation).await?;
        if generation.deletions().next().is_none() && marks.is_empty() {
            continue;
        }
        let mut look = Look::new(replica, generation, marks, how);
        look.delete(&survey, at, how, &mut outcomes).await?;
        look.mark(how.now, &mut outcomes).await?;
    }
    Ok((plan, outcomes))
}

impl Survey {
    pub fn plan(&self, how: &Pruning<'_>, locked: &BTreeSet<crate::layout::SnapshotName>) -> Plan {
        plan(&self.generations, how.policy, how.now, locked)
    }
}

/// One generation in one look.
struct Look<'a> {
    replica: &'a Replica,
    plan: &'a GenerationPlan,
    /// Old enough.
    ripe: Vec<Marked>,
    waiting: Vec<Marked>,
    /// From a time that has not come yet: made by a clock that was wrong. Never acted on.
    unborn: Vec<Marked>,
    deleted: BTreeSet<Key>,
    is_gone: bool,
}

impl<'a> Look<'a> {
    fn new(replica: &'a Replica, plan: &'a GenerationPlan, marks: Vec<Marked>, how: &Pruning<'_>) -> Look<'a> {
        let mut look = Look {
            replica,
            plan,
            ripe: Vec::new(),
            waiting: Vec::new(),
            unborn: Vec::new(),
            deleted: BTreeSet::new(),
            is_gone: false,
        };
        let grace = whole_ms(how.grace);
        for marked in marks {
            let age = how.now.0.checked_sub(marked.time.0);
            let is_too_young = how.too_young.contains(&marked.key(plan.generation));
            match age {
                None => look.unborn.push(marked),
                Some(age) if age >= grace && !is_too_young => look.ripe.push(marked),
                Some(_) => look.waiting.push(marked),
            }
        }
        look
    }

    fn generation(&self) -> Generation {
        self.plan.generation
    }

    async fn delete(
        &mut self,
        survey: &Survey,
        at: usize,
        how: &Pruning<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), PruneError> {
        if self.ripe.is_empty() {
            return Ok(());
        }
        let ripe: BTreeSet<String> = self.ripe.iter().flat_map(|marked| marked.mark.delete.iter().cloned()).collect();
        let marks = self.ripe.iter().map(|marked| marked.time).collect();
        let mut deleting = Deleting::new(self.replica, self.generation(), ripe, marks);
        let replan = |locked: &BTreeSet<_>| survey.plan(how, locked).generations.swap_remove(at);
        let result = deleting.run(self.plan, replan).await;
        outcomes.deleted.extend(deleting.deleted.iter().cloned());
        outcomes.deleted_bytes += deleting.deleted_bytes;
        outcomes.locked.append(&mut deleting.locked);
        outcomes.interrupted |= deleting.interrupted;
        (self.deleted, self.is_gone) = (deleting.deleted, deleting.is_gone);
        result?;
        Ok(())
    }

    /// Writes down what may go and is not in a mark that waits already. Marks that had their look are replaced by the new one.
    async fn mark(&mut self, now: TimeMs, outcomes: &mut Outcomes) -> Result<(), PruneError> {
        if self.is_gone {
            return Ok(());
        }
        let named = |marks: &[Marked]| -> BTreeSet<String> {
            marks.iter().flat_map(|marked| marked.mark.delete.iter().cloned()).collect()
        };
        let (waiting, looked_at) = (named(&self.waiting), named(&self.ripe));
        let left = |decision: &&Decision| !self.deleted.contains(&decision.object.key());
        let all: Vec<String> = self.plan.deletions().filter(left).map(|d| d.object.key().to_string()).collect();
        outcomes.waiting += all.iter().filter(|key| waiting.contains(*key)).count() as u64;
        let pending: BTreeSet<String> = all.into_iter().filter(|key| !waiting.contains(key)).take(MAX_MARKED).collect();
        // What was looked at and is still there, the store did not let go: another mark would change nothing.
        if pending.is_subset(&looked_at) {
            return Ok(());
        }
        let (marked, key) = self.put_mark(now, pending).await?;
        outcomes.marked += marked;
        outcomes.waiting += marked;
        outcomes.marks.push(key);
        let old: Vec<Key> = self.ripe.iter().chain(&self.unborn).map(|marked| marked.key(self.generation())).collect();
        match self.replica.store().delete(&old).await {
            Err(error) if error.outcome == Outcome::Denied => Ok(()),
            result => Ok(result.map_err(ReplicaError::Store)?),
        }
    }

    async fn put_mark(&self, now: TimeMs, delete: BTreeSet<String>) -> Result<(u64, Key), PruneError> {
        let marks = self.ripe.iter().chain(&self.waiting).chain(&self.unborn);
        let before = marks.flat_map(|marked| marked.mark.pruned.iter().copied());
        let pruned = union(before.chain(self.plan.pruned.iter().copied()).collect());
        // Whatever is held, and whoever once thought that it would go: when it is missing, it was lost.
        let pruned = without(&pruned, &self.plan.held);
        let mark = Mark { pruned, delete };
        let generation = self.generation();
        let time = self.replica.put_mark(generation, now, &mark).await?;
        Ok((mark.delete.len() as u64, Marked { time, mark }.key(generation)))
    }
}
