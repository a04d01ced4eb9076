//! Retention in one replica while it is replicated to: after a new snapshot, at most once in a while when something was shipped, and
//! once more when the grace time of what was marked is over. A database at rest causes no request.
//!
//! Never beside a snapshot of the same replica: that relies on parts which it finds there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinHandle};

use super::shared::Shared;
use crate::layout::SnapshotName;
use crate::prune::{Outcomes, PruneError, Pruning, Surveyor, look};
use crate::retention::Policy;
use crate::status::Place;
use crate::store::Key;

/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(600);

type Looked = (Surveyor, Result<Outcomes, PruneError>);

/// The pruning of one replica.
pub(super) struct Prunings {
    shared: Arc<Shared>,
    index: usize,
    /// `None`: nothing is ever deleted.
    policy: Option<Policy>,
    /// `None` while it is at work.
    surveyor: Option<Surveyor>,
    running: Option<JoinHandle<Looked>>,
    ended: Option<Result<Looked, JoinError>>,
    /// The last look began then, or this process did.
    looked_at: Instant,
    /// What was there when it began.
    looked_on: (Place, Option<SnapshotName>),
    /// Marks that this process made: their age is told by a clock that does not jump.
    made: BTreeMap<Key, Instant>,
    /// Something that was marked may be ripe then, or a look failed.
    again: Option<Instant>,
    /// What was deleted and not told yet.
    deleted: BTreeSet<Key>,
}

impl Prunings {
    pub fn new(shared: Arc<Shared>, index: usize, shipped: Place, newest: Option<SnapshotName>) -> Prunings {
        let surveyor = Surveyor::new(shared.replicas[index].store().clone());
        Prunings {
            policy: shared.settings.retention.get(index).copied().flatten(),
            shared,
            index,
            surveyor: Some(surveyor),
            running: None,
            ended: None,
            looked_at: Instant::now(),
            looked_on: (shipped, newest),
            made: BTreeMap::new(),
            again: None,
            deleted: BTreeSet::new(),
        }
    }

    /// What was deleted since the last call.
    pub fn take_deleted(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.deleted)
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When the next look is to begin; `None`: not before something changes.
    pub fn due(&self, shipped: Place, newest: Option<SnapshotName>) -> Option<Instant> {
        if self.policy.is_none() || self.is_running() || self.ended.is_some() || newest.is_none() {
            return None;
        }
        let (place, snapshot) = self.looked_on;
        let after_snapshot = (snapshot != newest).then_some(self.looked_at);
        let after_more = (place != shipped).then(|| self.looked_at + self.shared.settings.prune_interval);
        [after_snapshot, after_more, self.again].into_iter().flatten().min()
    }

    /// Takes note of a look that ended, and begins one that is due.
    pub fn advance(&mut self, shipped: Place, newest: Option<SnapshotName>) {
        match self.ended.take() {
            Some(Ok((surveyor, result))) => {
                self.surveyor = Some(surveyor);
                self.note(result);
            }
            Some(Err(error)) => {
                self.surveyor = Some(Surveyor::new(self.shared.replicas[self.index].store().clone()));
                self.failed(&error);
            }
            None => {}
        }
        if self.due(shipped, newest).is_some_and(|due| due <= Instant::now())
            && let (Some(policy), Some(mut surveyor)) = (self.policy, self.surveyor.take())
        {
            (self.looked_at, self.looked_on, self.again) = (Instant::now(), (shipped, newest), None);
            let (grace, now) = (self.shared.settings.prune_grace, (self.shared.clock)());
            self.made.retain(|_, made| made.elapsed() < grace);
            let too_young: BTreeSet<Key> = self.made.keys().cloned().collect();
            self.running = Some(tokio::spawn(async move {
                let how = Pruning { policy: &policy, grace, now, too_young: &too_young };
                let looked = look(&mut surveyor, &how).await.map(|(_, outcomes)| outcomes);
                (surveyor, looked)
            }));
        }
    }

    fn note(&mut self, result: Result<Outcomes, PruneError>) {
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(error) => return self.failed(&error),
        };
        let replica = self.shared.replicas[self.index].describe();
        self.deleted.extend(outcomes.deleted.iter().cloned());
        if !outcomes.deleted.is_empty() {
            let (objects, bytes) = (outcomes.deleted.len(), outcomes.deleted_bytes);
            tracing::info!(replica, objects, bytes, "pruned what no retention rule keeps");
        }
        if !outcomes.locked.is_empty() {
            tracing::warn!(replica, objects = outcomes.locked.len(), "the store does not let go what may be pruned");
        }
        if !outcomes.marks.is_empty() {
            let now = Instant::now();
            self.made.extend(outcomes.marks.into_iter().map(|key| (key, now)));
            // A little later, so that neither clock is short of it.
            self.again = Some(now + self.shared.settings.prune_grace + Duration::from_millis(50));
        }
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) {
        tracing::warn!(
            replica = self.shared.replicas[self.index].describe(),
            "pruning failed, it begins again: {error}"
        );
        self.shared.status.replica_error(self.index, "prune", error);
        self.again = Some(Instant::now() + AGAIN);
    }

    /// Waits until the look that is under way has ended. Nothing is lost when the wait is given up.
    pub async fn finished(&mut self) {
        match &mut self.running {
            Some(running) => {
                self.ended = Some(running.await);
                self.running = None;
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Prunings {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}
