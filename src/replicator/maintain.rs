//! Compaction in one replica: what is due, one job at a time, beside shipping.
//!
//! Which segments are there is known from the listing at the start and from what was shipped and compacted since; so nothing
//! is asked for, and nothing happens, unless something was shipped. Nothing is deleted here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinHandle};

use super::Final;
use super::compact::{self, Outcome, Work};
use super::resume::Contact;
use super::shared::{Backoff, Course, Shared};
use crate::compaction::Waiting;
use crate::inventory::{Gap, Inventory, Listed};
use crate::layout::{ObjectName, SegmentName};
use crate::position::{Generation, Term, Txid};
use crate::replica::newest_snapshot;
use crate::status::{GapRecord, Place};
use crate::store::Key;

/// After a job that failed, the next attempt waits this long, and then twice as long each time, up to the second one.
const AGAIN: Duration = Duration::from_secs(10);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60 * 60);

/// The compactions of one replica.
pub(super) struct Compactions {
    shared: Arc<Shared>,
    index: usize,
    generation: Generation,
    waiting: Waiting,
    /// Segments that turned out to be missing or damaged: they are not read again.
    broken: BTreeSet<ObjectName>,
    /// What was found to be missing when the replica was first listed, and is bridged by no snapshot.
    hole: Option<Gap>,
    /// Segments that were made and not told yet.
    made: Vec<Listed<SegmentName>>,
    running: Option<Running>,
    ended: Option<Result<Result<Outcome, Final>, JoinError>>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

struct Running {
    task: JoinHandle<Result<Outcome, Final>>,
    /// Asked at every block by the thread that does the work, which cannot be aborted.
    stop: Arc<AtomicBool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

impl Compactions {
    pub fn new(shared: Arc<Shared>, index: usize, course: &Course, contact: &Contact) -> Compactions {
        compact::clean(&shared, index);
        let inventory = contact.inventory.as_ref().filter(|inventory| inventory.generation == course.generation);
        Compactions {
            shared,
            index,
            generation: course.generation,
            waiting: inventory.map_or(Waiting::empty(), Waiting::new),
            broken: BTreeSet::new(),
            hole: inventory.and_then(hole),
            made: Vec::new(),
            running: None,
            ended: None,
            backoff: Backoff::new(AGAIN, AGAIN_AT_MOST),
            not_before: None,
        }
    }

    /// A new generation began.
    pub fn set_course(&mut self, course: &Course) {
        (self.running, self.ended, self.not_before) = (None, None, None);
        (self.generation, self.waiting) = (course.generation, Waiting::empty());
        self.broken.clear();
        self.made.clear();
        self.hole = None;
        self.backoff.reset();
    }

    /// A segment is in the replica.
    pub fn shipped(&mut self, segment: Listed<SegmentName>) {
        if segment.name.generation == self.generation {
            self.waiting.add(segment);
        }
    }

    /// What was made since the last call.
    pub fn take_made(&mut self) -> Vec<Listed<SegmentName>> {
        std::mem::take(&mut self.made)
    }

    /// These were pruned: nothing needs them any more, so they are no damage either.
    pub fn pruned(&mut self, keys: &BTreeSet<Key>) {
        for key in keys {
            if let Some(ObjectName::Segment(name)) = ObjectName::parse(key.as_str())
                && name.generation == self.generation
            {
                self.waiting.remove(&name);
            }
        }
    }

    /// When the next job is to begin; `None`: not before something is shipped or the running one ends.
    pub fn due(&self) -> Option<Instant> {
        if self.running.is_some() || self.ended.is_some() {
            return None;
        }
        self.waiting.plan((self.shared.clock)(), &self.policy())?;
        let now = Instant::now();
        Some(self.not_before.map_or(now, |at| at.max(now)))
    }

    pub fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    /// The policy within the room that this database may take.
    fn policy(&self) -> crate::compaction::Policy {
        let mut policy = self.shared.settings.compaction.clone();
        policy.job_bytes = policy.job_bytes.min(self.shared.settings.spool_limit / 4);
        policy
    }

    /// Takes note of a job that ended, and begins one that is due. The answer: what up to this place is in the replica
    /// cannot be relied on, and a snapshot behind it is needed.
    pub fn advance(&mut self, claimed: Option<(Generation, Term)>) -> Result<Option<Place>, Final> {
        if let Some(Gap { first, last, .. }) = self.hole.take() {
            let what = format!("no segment holds the commits {} to {}", first.0, last.0);
            return Ok(self.lost((first, last), &what, true));
        }
        let lost = match self.ended.take() {
            Some(Ok(ended)) => self.take(ended?),
            Some(Err(error)) if error.is_cancelled() => None,
            Some(Err(error)) => {
                self.failed(&error.to_string());
                None
            }
            None => None,
        };
        if let Some((_, term)) = claimed.filter(|&(of, _)| of == self.generation)
            && self.is_due()
        {
            self.begin(term);
        }
        Ok(lost)
    }

    fn begin(&mut self, term: Term) {
        let Some(job) = self.waiting.plan((self.shared.clock)(), &self.policy()) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            shared: self.shared.clone(),
            replica: self.shared.replicas[self.index].clone(),
            index: self.index,
            generation: self.generation,
            term,
            job,
            stop: stop.clone(),
        };
        self.running = Some(Running { task: tokio::spawn(work.run()), stop });
    }

    fn take(&mut self, outcome: Outcome) -> Option<Place> {
        match outcome {
            Outcome::Done(segment) => {
                self.waiting.add(segment);
                self.made.push(segment);
                self.backoff.reset();
                self.not_before = None;
                let (level, last) = (usize::from(segment.name.level.0), segment.name.last);
                self.shared.status.replica(self.index, |replica| {
                    if let Some((count, end)) = level.checked_sub(1).and_then(|at| replica.compacted.get_mut(at)) {
                        (*count, *end) = (*count + 1, last);
                    }
                });
                None
            }
            Outcome::Failed(problem) => {
                self.failed(&problem);
                None
            }
            Outcome::Gone { name, inventory } => {
                self.leave_out(name, &inventory);
                None
            }
            Outcome::Broken { name, problem, needs_snapshot, inventory } => {
                self.leave_out(name, &inventory);
                let key = ObjectName::Segment(name).key();
                let (first, last) = (name.first, name.last);
                let what = format!("{key} with the commits {} to {} cannot be read: {problem}", first.0, last.0);
                self.lost((first, last), &what, needs_snapshot)
            }
        }
    }

    fn leave_out(&mut self, name: SegmentName, inventory: &Inventory) {
        self.broken.insert(ObjectName::Segment(name));
        self.waiting.refresh(&inventory.without(&self.broken));
    }

    fn failed(&mut self, problem: &str) {
        let pause = self.backoff.pause();
        let replica = self.shared.replicas[self.index].describe();
        tracing::warn!(replica, "a compaction failed: {problem}; trying again in {} s", pause.as_secs());
        self.shared.status.replica_error(self.index, "compaction", problem);
        self.not_before = Some(Instant::now() + pause);
    }

    /// What cannot be read is told, counted, and bridged.
    fn lost(&self, (first, last): (Txid, Txid), what: &str, needs_snapshot: bool) -> Option<Place> {
        let replica = self.shared.replicas[self.index].describe();
        let next =
            if needs_snapshot { "taking a snapshot that does without it" } else { "a newer snapshot does without it" };
        tracing::error!(replica, "{what}; {next}; `replicate verify --deep` says what else is lost");
        self.shared.status.replica_error(self.index, "compaction-input", what);
        if !needs_snapshot {
            return None;
        }
        self.shared.status.gap(GapRecord {
            replica: Some(self.shared.status.replica_name(self.index)),
            generation: self.generation,
            after: Txid(first.0.saturating_sub(1)),
            at: last.checked_next().unwrap_or(last),
            time: (self.shared.clock)(),
            reason: "a segment in the replica is missing or damaged".to_owned(),
        });
        Some(Place { generation: self.generation, txid: last })
    }

    /// Waits for the end of the job that runs. Nothing is lost when the wait is given up.
    pub async fn finished(&mut self) {
        match &mut self.running {
            Some(running) => {
                self.ended = Some((&mut running.task).await);
                self.running = None;
            }
            None => std::future::pending().await,
        }
    }
}

/// The last hole in what a replica holds, unless a snapshot stands behind it.
fn hole(inventory: &Inventory) -> Option<Gap> {
    let snapshot = newest_snapshot(inventory, Txid(u64::MAX)).map_or(Txid::ZERO, |listed| listed.name.txid);
    inventory.gaps().into_iter().rev().find(|gap| gap.last > snapshot)
}
