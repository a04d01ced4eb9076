//! Shipping to one replica: strictly in order, one segment after the other, again and again until each one is there.
//!
//! No request is made unless there is something to ship. While there is, at most every `fence_interval` the claims are
//! read: a higher one is another writer's, and then this process never ships to that replica again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Final;
use super::include::Files;
use super::maintain::Compactions;
use super::prune::Prunings;
use super::rebuild;
use super::resume::{Contact, End, Relation, relate};
use super::shared::{Backoff, Command, Course, Shared};
use super::shipped::ShippedNote;
use super::snapshot::Snapshots;
use crate::inventory::Listed;
use crate::layout::Level;
use crate::position::{Generation, Term, Txid};
use crate::replica::{Replica, ReplicaError};
use crate::spool::Object;
use crate::status::{GapRecord, Place, ReplicaState, State};

mod claim;

pub(super) struct Shipping {
    shared: Arc<Shared>,
    replica: Replica,
    index: usize,
    course: Course,
    /// Everything up to here is in the replica.
    shipped: Place,
    /// Our newest claim.
    claimed: Option<(Generation, Term)>,
    /// Segments of this term or a lower one would be ignored by readers, because another writer's stand there already.
    dead: Option<(Generation, Term)>,
    checked_at: Instant,
    /// Does the store keep two writers apart, as far as was seen?
    keeps_apart: Option<bool>,
    snapshots: Snapshots,
    prunings: Prunings,
    compactions: Compactions,
    files: Files,
    note: ShippedNote,
}

/// Runs until the replica is lost for good. The task is aborted when the replicator stops.
///
/// What is done now and then has a box of its own here, for as long as it takes: a task that waits, one of thousands, keeps no room for it.
pub(super) async fn run(shared: Arc<Shared>, index: usize) {
    let replica = shared.replicas[index].clone();
    let result = match Box::pin(start(&shared, &replica, index)).await {
        Ok(mut shipping) => shipping.run().await,
        Err(end) => Err(end),
    };
    let Err(end) = result else { return };
    tracing::error!(replica = replica.describe(), "{end}");
    let state = match &end {
        Final::Fenced(text) => ReplicaState::Fenced(text.clone()),
        Final::Refused(text) | Final::Failed(text) => ReplicaState::Refused(text.clone()),
    };
    shared.status.replica_error(index, "final", &end);
    let now = (shared.clock)();
    shared.status.replica(index, |replica| {
        replica.state = state;
        replica.stale_since.get_or_insert(now);
    });
    shared.spool.set_shipped(index, None);
    shared.bell.ring();
}

/// Records a failed request and pauses before it is made again; or it is final.
pub(super) async fn pause(
    shared: &Shared,
    index: usize,
    error: ReplicaError,
    backoff: &mut Backoff,
) -> Result<(), Final> {
    shared.status.replica_error(index, error.kind(), &error);
    if !error.is_retryable() {
        return Err(match error {
            ReplicaError::Conflict { .. } => Final::Fenced(error.to_string()),
            error => Final::Refused(error.to_string()),
        });
    }
    tracing::warn!(replica = shared.replicas[index].describe(), "{error}; trying again");
    shared.status.replica(index, |replica| replica.state = ReplicaState::Unreachable(error.to_string()));
    tokio::time::sleep(backoff.pause()).await;
    Ok(())
}

pub(super) fn new_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(30))
}

/// The first contact, and everything up to the moment when shipping can begin.
async fn start(shared: &Arc<Shared>, replica: &Replica, index: usize) -> Result<Shipping, Final> {
    let mut backoff = new_backoff();
    let contact = loop {
        match rebuild::contact(replica).await {
            Ok(contact) => break contact,
            Err(error) => pause(shared, index, error, &mut backoff).await?,
        }
    };
    shared.status.replica(index, |replica| replica.state = ReplicaState::Connected);
    shared.contacts()[index] = Some(contact.clone());
    shared.bell.ring();
    let mut courses = shared.course.subscribe();
    let mut course = wait_for_course(&mut courses, None).await?;
    let mut relation = relation(shared, &course, &contact);
    while matches!(relation, Relation::Ahead | Relation::Contradicts) {
        // Only a replica that answered after the decision can be a surprise.
        let place = contact.place().unwrap_or(Place::ZERO);
        shared.command(Command::NewGeneration(format!("{} holds another history, up to {place}", replica.describe())));
        course = wait_for_course(&mut courses, Some(course.generation)).await?;
        relation = self::relation(shared, &course, &contact);
    }
    let snapshots = Snapshots::new(shared.clone(), index, &course, &contact);
    let mut shipping = Shipping {
        prunings: Prunings::new(shared.clone(), index, contact.place().unwrap_or(Place::ZERO), snapshots.newest()),
        compactions: Compactions::new(shared.clone(), index, &course, &contact),
        files: Files::new(shared.clone(), index, &course),
        snapshots,
        shared: shared.clone(),
        replica: replica.clone(),
        index,
        shipped: Place { generation: course.generation, txid: Txid::ZERO },
        course,
        claimed: None,
        dead: None,
        checked_at: Instant::now(),
        keeps_apart: None,
        note: ShippedNote::new(&shared.settings.state_dir, index),
    };
    shipping.begin_at(relation, &contact);
    if contact.generation() == Some(shipping.course.generation) {
        let term = Term(shipping.course.term.load(Ordering::Acquire));
        shipping.claim(shipping.course.generation, term, contact.term(shipping.course.generation)).await?;
    }
    Ok(shipping)
}

async fn wait_for_course(
    courses: &mut tokio::sync::watch::Receiver<Option<Course>>,
    other_than: Option<Generation>,
) -> Result<Course, Final> {
    let is_new = |course: &Option<Course>| course.as_ref().is_some_and(|c| Some(c.generation) != other_than);
    let course = courses.wait_for(is_new).await;
    let course = course.ok().and_then(|course| course.clone());
    course.ok_or_else(|| Final::Failed("the replicator ended".to_owned()))
}

/// How the replica stands to the line that this process continues.
fn relation(shared: &Shared, course: &Course, contact: &Contact) -> Relation {
    let sealed = shared.spool.last().filter(|object| object.name.generation == course.generation);
    let base = course.base.as_ref().map(End::from);
    let nothing = End {
        place: Place { generation: course.generation, txid: Txid::ZERO },
        term: Term(course.term.load(Ordering::Acquire)),
        checksum: 0,
    };
    relate(sealed.as_ref().map(End::from).or(base).unwrap_or(nothing), &shared.spool, contact)
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.note.write(self.shipped);
    }
}

impl Shipping {
    fn begin_at(&mut self, relation: Relation, contact: &Contact) {
        let remote = contact.point.as_ref().map(End::from);
        let connects = |end: &End| {
            let next = self.shared.spool.next_after(end.place).map(|next| next.first());
            next == end.place.txid.checked_next().map(|txid| Place { txid, ..end.place })
                && self.shared.spool.connects(end.place, end.checksum)
        };
        match remote {
            Some(end) if relation != Relation::Fresh || connects(&end) => self.shipped = end.place,
            _ => self.shipped = self.beginning(),
        }
        // What was compacted carries the term of who compacted it, and says nothing of who captured.
        let as_shipped =
            contact.inventory.iter().flat_map(|i| &i.segments).filter(|listed| listed.name.level == Level(0));
        if let Some(written) = as_shipped.map(|listed| listed.name.term).max() {
            // A lower term than one that was written with is dead; the same one is ours.
            self.dead = contact.generation().zip(written.0.checked_sub(1).map(Term));
        }
        self.move_to(self.shipped, 0);
    }

    /// Where a replica begins that has nothing of this generation: before the oldest segment that is there to be shipped.
    fn beginning(&mut self) -> Place {
        let nothing = Place { generation: self.course.generation, txid: Txid::ZERO };
        let oldest = self.shared.spool.next_after(nothing).filter(|o| o.name.generation == nothing.generation);
        let before = oldest.map(|object| Place { txid: Txid(object.name.first.0 - 1), ..nothing });
        let base = self.course.base.as_ref().map(|base| base.place());
        let place = before.or(base).unwrap_or(nothing);
        self.snapshots.skip_to(place);
        place
    }

    fn move_to(&mut self, place: Place, bytes: u64) {
        self.shipped = place;
        self.shared.status.shipped(self.index, place, bytes);
        self.shared.spool.set_shipped(self.index, Some(place));
        if matches!(self.shared.status.state(), State::SpoolFull { .. }) {
            self.shared.bell.ring();
        }
    }

    async fn run(&mut self) -> Result<(), Final> {
        let mut sealed = self.shared.status.watch_sealed();
        loop {
            sealed.mark_unchanged();
            self.follow_course();
            while let Some(object) = self.next() {
                Box::pin(self.ship(&object)).await?;
            }
            Box::pin(self.snapshots.learn_size()).await;
            let is_work_due = self.snapshots.is_due(self.shipped) || self.compactions.is_due();
            if is_work_due && !self.has_claimed(self.course.generation) {
                let term = Term(self.course.term.load(Ordering::Acquire));
                Box::pin(self.claim(self.course.generation, term, None)).await?;
            }
            self.note.now_and_then(self.shipped);
            if let Some(broken) = self.compactions.advance(self.claimed)? {
                self.snapshots.skip_to(broken);
            }
            self.compactions.take_made().into_iter().for_each(|segment| self.snapshots.leads_on(segment));
            let deleted = self.prunings.take_deleted();
            self.compactions.pruned(&deleted);
            // One after the other: a snapshot relies on parts that it finds in the replica.
            if !self.prunings.is_running() {
                self.snapshots.advance(self.shipped)?;
            }
            if !self.snapshots.is_running() && !self.files.is_running() && self.claimed.is_some() {
                self.prunings.advance(self.shipped, self.snapshots.newest());
            }
            // Neither beside the other: a new set relies on blobs that it finds in the replica.
            if !self.prunings.is_running() {
                self.files.advance(self.claimed, self.shipped, self.snapshots.newest())?;
            }
            let files = self.files.due(self.claimed, self.shipped, self.snapshots.newest());
            let files = files.filter(|_| !self.prunings.is_running());
            let due = [self.next_due(), self.compactions.due(), files].into_iter().flatten().min();
            let (asked, asked_for_files) = (&self.shared.asked[self.index], &self.shared.asked_for_files[self.index]);
            tokio::select! {
                changed = sealed.changed() => if changed.is_err() { return Ok(()) },
                () = self.snapshots.finished() => {}
                () = self.compactions.finished() => {}
                () = self.prunings.finished() => {}
                () = self.files.finished() => {}
                () = asked.notified() => self.snapshots.need(),
                // Looked at in the next round.
                () = asked_for_files.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// When there is something to do although nothing was sealed. While one of them runs, its end wakes.
    fn next_due(&self) -> Option<Instant> {
        let prune = self.prunings.due(self.shipped, self.snapshots.newest()).filter(|_| self.claimed.is_some());
        let prune = prune.filter(|_| !self.files.is_running());
        let is_busy = self.prunings.is_running() || self.snapshots.is_running();
        self.snapshots.due(self.shipped).into_iter().chain(prune).min().filter(|_| !is_busy)
    }

    fn has_claimed(&self, generation: Generation) -> bool {
        self.claimed.is_some_and(|(of, _)| of == generation)
    }

    fn follow_course(&mut self) {
        let course = self.shared.course.borrow().clone();
        if let Some(course) = course.filter(|course| course.generation != self.course.generation) {
            self.snapshots.set_course(&course);
            self.compactions.set_course(&course);
            self.files.set_course(&course);
            self.course = course;
        }
    }

    /// The next segment to ship. What cannot follow what is there is a gap, which a snapshot then bridges.
    fn next(&mut self) -> Option<Object> {
        loop {
            let object = self.shared.spool.next_after(self.shipped)?;
            let before = Place { txid: Txid(object.name.first.0 - 1), ..object.first() };
            let is_dead = self.dead.is_some_and(|(of, term)| of == object.name.generation && object.name.term <= term);
            if is_dead {
                self.gap(object.last(), "another writer's segments stand there already");
            } else if before == self.shipped {
                return Some(object);
            } else if before.generation != self.shipped.generation || self.shipped.txid == Txid::ZERO {
                // The replica has nothing of this generation: it begins here, with a snapshot.
                self.snapshots.skip_to(before);
                self.move_to(before, 0);
            } else if before > self.shipped {
                self.gap(before, "the spool no longer had what this replica lacks");
            } else {
                self.gap(object.last(), "segments with other bounds stand there already");
            }
        }
    }

    fn gap(&mut self, to: Place, reason: &str) {
        let gap = GapRecord {
            replica: Some(self.shared.status.replica_name(self.index)),
            generation: to.generation,
            after: self.shipped.txid,
            at: to.txid.checked_next().unwrap_or(to.txid),
            time: (self.shared.clock)(),
            reason: reason.to_owned(),
        };
        tracing::warn!(replica = self.replica.describe(), from = %self.shipped, to = %to, "commits are missing in this replica: {reason}");
        self.shared.status.gap(gap);
        self.snapshots.skip_to(to);
        self.move_to(to, 0);
    }

    async fn ship(&mut self, object: &Object) -> Result<(), Final> {
        let (generation, term) = (object.name.generation, object.name.term);
        if self.claimed.is_none_or(|(of, claimed)| of != generation || claimed < term) {
            self.claim(generation, term, None).await?;
            // The claim may show that the segment comes too late.
            if self.dead.is_some_and(|(of, dead)| of == generation && term <= dead) {
                return Ok(());
            }
        }
        let mut backoff = new_backoff();
        loop {
            if self.checked_at.elapsed() >= self.shared.settings.fence_interval
                && let Err(error) = self.check_fence().await?
            {
                pause(&self.shared, self.index, error, &mut backoff).await?;
                continue;
            }
            match self.replica.put_segment(object.name, &object.path, object.len).await {
                Ok(()) => break,
                // It was removed to make room: the next one is looked for.
                Err(_) if !object.path.exists() => return Ok(()),
                Err(error) => pause(&self.shared, self.index, error, &mut backoff).await?,
            }
        }
        self.shared.status.replica(self.index, |replica| replica.state = ReplicaState::Connected);
        let segment = Listed { name: object.name, size: object.len };
        self.compactions.shipped(segment);
        self.snapshots.leads_on(segment);
        self.move_to(object.last(), object.len);
        Ok(())
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
