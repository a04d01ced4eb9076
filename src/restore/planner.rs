//! From a point to a plan: a few listings, then the ends of the one or two objects in which the point lies.

use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::{EVERY_COMMIT, Gap, Inventory, Listed, Window};
use crate::layout::{ObjectName, SegmentName, SnapshotName};
use crate::position::{Commit, Generation, TimeMs, Txid};
use crate::restore::error::{Damage, DisplayMoment, Fault, RestoreError};
use crate::restore::losses::{
    is_held, is_merged, no_object, no_object_named, no_such_point, note_repair, outside, unusable, without_marker,
};
use crate::restore::plan::RestorePlan;
use crate::restore::point::{Point, format_time};
use crate::restore::reading::Reading;
use crate::segment::Manifest;

/// Objects that turned out to be unusable on the way, after which a restore gives up looking for another way.
pub const MAX_BROKEN_OBJECTS: usize = 32;
/// Snapshots whose beginnings are read to say what is still restorable.
const MAX_EXAMINED_SNAPSHOTS: usize = 64;

const MERGED: &str = "lies within what was merged: beyond the time that retention keeps each commit of, only the last one of each hour \
                      and day can be restored";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub point: Point,
    /// Instead of the generation that the point is in.
    pub generation: Option<Generation>,
}

/// Plans restores from one replica, and remembers what it found to be unusable.
#[derive(Debug)]
pub struct Planner {
    reading: Reading,
    /// What is wrong with each.
    broken: BTreeMap<ObjectName, String>,
}

/// A generation with what is known of it.
struct History {
    all: Inventory,
    /// Without what is broken.
    usable: Inventory,
    /// The next generation begins after the time that was asked for.
    followed_by: Option<Inventory>,
    notes: Vec<String>,
}

impl Planner {
    pub fn new(reading: Reading) -> Planner {
        Planner { reading, broken: BTreeMap::new() }
    }

    /// From now on, no plan uses `object`.
    pub fn avoid(&mut self, object: ObjectName, problem: String) {
        self.broken.entry(object).or_insert(problem);
    }

    fn broken(&self) -> BTreeSet<ObjectName> {
        self.broken.keys().copied().collect()
    }

    pub fn has_given_up(&self) -> bool {
        self.broken.len() >= MAX_BROKEN_OBJECTS
    }

    /// A plan, or why there is none. What is pruned while it is made is no damage: then it is made again without it.
    pub async fn plan(&mut self, request: &Request) -> Result<RestorePlan, RestoreError> {
        loop {
            match self.plan_once(request).await {
                Err(RestoreError::Damaged(damage)) if self.forget_deleted(&damage).await? => {}
                result => return result,
            }
        }
    }

    /// Takes back what was said of objects that are not listed any more: no plan names them again. `false`: there is none.
    async fn forget_deleted(&mut self, damage: &Damage) -> Result<bool, RestoreError> {
        let Some(generation) = damage.generation.filter(|_| !self.broken.is_empty()) else { return Ok(false) };
        let now = self.inventory(generation).await?;
        let before = self.broken.len();
        self.broken.retain(|name, _| match name {
            ObjectName::Segment(name) => now.segments.iter().any(|listed| listed.name == *name),
            ObjectName::Snapshot(name) => now.snapshots.iter().any(|listed| listed.name == *name),
            _ => true,
        });
        Ok(self.broken.len() < before)
    }

    async fn plan_once(&mut self, request: &Request) -> Result<RestorePlan, RestoreError> {
        let marker = self.reading.marker().await;
        let generations = self.reading.generations().await.map_err(no_object)?;
        match marker {
            Ok(Some(_)) => {}
            Ok(None) if generations.is_empty() => {
                return Err(RestoreError::Nothing(format!("there is no replica in {}", self.reading.describe())));
            }
            Ok(None) => return Err(without_marker(&self.reading, "replicate.json is missing", &generations).await?),
            Err(fault @ Fault::Object { .. }) => {
                return Err(without_marker(&self.reading, &fault.to_string(), &generations).await?);
            }
            Err(fault) => return Err(no_object(fault)),
        }
        let mut history = self.choose_generation(request, &generations).await?;
        let target = self.target(&mut history, request.point).await?;
        self.plan_to(history, target, request.point).await
    }

    /// The newest generation that can answer, or the one asked for.
    async fn choose_generation(&self, request: &Request, all: &[Generation]) -> Result<History, RestoreError> {
        let asked = match request.point {
            Point::Commit(generation, _) => Some(generation),
            _ => request.generation,
        };
        let source = self.reading.describe();
        if let (Point::Commit(one, _), Some(other)) = (request.point, request.generation)
            && one != other
        {
            let problem = format!("the point is in generation {one}, and generation {other} was asked for");
            return Err(RestoreError::Nothing(problem));
        }
        if let Some(generation) = asked.filter(|generation| !all.contains(generation)) {
            return Err(RestoreError::Nothing(format!("there is no generation {generation} in {source}")));
        }
        let mut notes = Vec::new();
        let mut too_new: Option<Inventory> = None;
        for &generation in all.iter().rev().filter(|&&generation| asked.is_none_or(|asked| asked == generation)) {
            let inventory = self.reading.inventory(generation).await.map_err(no_object)?;
            let Some(oldest) = inventory.snapshots.first() else {
                let note = format!("generation {generation} has no whole snapshot yet; it cannot be restored");
                if matches!(request.point, Point::Txid(_)) {
                    // The same number of an older generation is another commit.
                    return Err(RestoreError::Nothing(format!("{note}; name the generation that the txid is of")));
                }
                notes.push(note);
                continue;
            };
            match request.point {
                Point::At(time) if oldest.name.time > time => too_new = Some(inventory),
                _ => {
                    let usable = inventory.without(&self.broken());
                    return Ok(History { all: inventory, usable, followed_by: too_new, notes });
                }
            }
        }
        match too_new {
            // Older than everything: the oldest generation says what comes next.
            Some(inventory) => {
                Err(no_such_point(&inventory, &[], "is before the oldest commit", request.point, Txid::ZERO))
            }
            None => Err(RestoreError::Nothing(match notes.is_empty() {
                true => format!("there is no snapshot in {source}"),
                false => format!("there is nothing to restore in {source}: {}", notes.join("; ")),
            })),
        }
    }

    /// The txid of the commit that `point` names.
    async fn target(&mut self, history: &mut History, point: Point) -> Result<Txid, RestoreError> {
        let inventory = &history.all;
        let newest = inventory.newest.ok_or_else(|| RestoreError::Nothing("the generation is empty".to_owned()))?;
        match point {
            Point::Newest => Ok(newest.txid),
            Point::Txid(txid) | Point::Commit(_, txid) if txid > newest.txid => {
                Err(no_such_point(inventory, &[], "is after the newest commit", point, txid))
            }
            Point::Txid(txid) | Point::Commit(_, txid) => Ok(txid),
            Point::At(time) if time > newest.time && history.followed_by.is_some() => {
                let next = history.followed_by.as_ref().and_then(|next| next.snapshots.first());
                let begin = next.map_or_else(String::new, |s| format!(" at {}", format_time(s.name.time)));
                history.notes.push(format!(
                    "generation {} ends with {}; what was committed after it until the next generation began{begin} was not \
                     captured",
                    history.all.generation,
                    DisplayMoment(&newest),
                ));
                Ok(newest.txid)
            }
            Point::At(time) if time > newest.time => {
                Err(no_such_point(inventory, &[], "is after the newest commit", point, newest.txid))
            }
            Point::At(time) => self.last_at_or_before(history, time).await,
        }
    }

    /// The last commit at or before `time`, which is not after the newest one. Times never go back within a generation, so
    /// it is in the first segment that ends later than that, or right before it.
    async fn last_at_or_before(&mut self, history: &mut History, time: TimeMs) -> Result<Txid, RestoreError> {
        let point = Point::At(time);
        loop {
            let later = |s: &&Listed<SegmentName>| s.name.time > time && s.name.level <= EVERY_COMMIT;
            let Some(segment) = history.usable.segments.iter().filter(later).min_by_key(|s| s.name.last).copied()
            else {
                // With no segment that ends later, only the very newest commit is known to be the last one up to then.
                return match history.all.newest.filter(|newest| newest.time <= time) {
                    Some(newest) => Ok(newest.txid),
                    None => Err(self.unknown_at(&history.all, point).await),
                };
            };
            let index = match self.reading.index(&segment).await {
                Ok(index) => index,
                Err(fault) => {
                    self.set_aside(fault)?;
                    history.usable = history.all.without(&self.broken());
                    if self.has_given_up() {
                        return Err(self.damaged(&history.all).await);
                    }
                    continue;
                }
            };
            let before = Txid(segment.name.first.0.saturating_sub(1));
            let target = match index.at_or_before(time) {
                Some(entry) => entry.commit.txid,
                // The commit before this segment, if it is known to be there and not to be later.
                None if history.usable.moments().any(|m| m.txid == before && m.time <= time) => before,
                None => return Err(self.unknown_at(&history.all, point).await),
            };
            note_repair(&index, target, time, &mut history.notes);
            return Ok(target);
        }
    }

    /// What lies at `point` was in an object that is missing or broken.
    async fn unknown_at(&self, inventory: &Inventory, point: Point) -> RestoreError {
        if !self.broken.is_empty() {
            return self.damaged(inventory).await;
        }
        let Point::At(time) = point else { return self.damaged(inventory).await };
        let before = inventory.moments().filter(|m| m.time <= time).max();
        let target = before.map_or(Txid::ZERO, |m| m.txid);
        let next = Txid(target.0.saturating_add(1));
        if is_merged(inventory, next) {
            return self.inside(inventory, MERGED, point, target).await;
        }
        match self.is_pruned(inventory, next).await {
            Ok(is_pruned) => self.inside_gap(inventory, point, target, is_pruned).await,
            Err(error) => error,
        }
    }

    /// Does nothing lead to `target` because somebody wanted it so?
    async fn is_pruned(&self, inventory: &Inventory, target: Txid) -> Result<bool, RestoreError> {
        let gaps = self.reading.gaps(inventory).await.map_err(no_object)?;
        let nearest = |gaps: &[Gap]| gaps.iter().map(|gap| gap.first).filter(|first| *first <= target).max();
        let (pruned, lost) = (nearest(&gaps.pruned), nearest(&gaps.lost));
        Ok(pruned.is_some() && pruned > lost)
    }

    /// The way to `target`: from the newest snapshot that leads there.
    async fn plan_to(&mut self, mut history: History, target: Txid, point: Point) -> Result<RestorePlan, RestoreError> {
        let candidates: Vec<_> =
            history.usable.snapshots.iter().rev().filter(|s| s.name.txid <= target).copied().collect();
        if history.all.snapshots.first().is_none_or(|oldest| oldest.name.txid > target) {
            return Err(no_such_point(&history.all, &[], "is before the oldest restorable commit", point, target));
        }
        for snapshot in candidates {
            match self.plan_from(&mut history, snapshot, target).await {
                Ok(Some(plan)) => return Ok(plan),
                Ok(None) => {}
                Err(fault) => {
                    let broken = self.set_aside(fault)?;
                    history.notes.push(format!("{broken}; looking for another way"));
                    history.usable = history.all.without(&self.broken());
                }
            }
            if self.has_given_up() {
                break;
            }
        }
        if self.broken.is_empty() && point != Point::Newest {
            if is_merged(&history.all, target) {
                return Err(self.inside(&history.all, MERGED, point, target).await);
            }
            let is_pruned = self.is_pruned(&history.all, target).await?;
            if is_pruned || !is_held(&history.all, target) {
                return Err(self.inside_gap(&history.all, point, target, is_pruned).await);
            }
        }
        Err(self.damaged(&history.all).await)
    }

    async fn plan_from(
        &self,
        history: &mut History,
        snapshot: Listed<SnapshotName>,
        target: Txid,
    ) -> Result<Option<RestorePlan>, Fault> {
        // What does not even connect to the snapshot's own commit needs no request.
        if let Err(gap) = history.usable.chain(snapshot.name.txid, target) {
            history.notes.push(unusable(&snapshot.name, &gap));
            return Ok(None);
        }
        let manifest = self.reading.manifest(&snapshot).await?;
        let segments = match history.usable.chain(manifest.base, target) {
            Ok(segments) => segments,
            Err(gap) => {
                history.notes.push(unusable(&snapshot.name, &gap));
                return Ok(None);
            }
        };
        let commit = self.commit(&manifest, segments.last(), target).await?;
        Ok(Some(RestorePlan {
            source: self.reading.describe(),
            engine: manifest.engine,
            generation: history.all.generation,
            snapshot,
            base: manifest.base,
            snapshot_commit: manifest.commit,
            parts: manifest.parts,
            layers: manifest.layers,
            segments,
            commit,
            notes: history.notes.clone(),
        }))
    }

    /// What is recorded of the commit at which the restore stops.
    async fn commit(
        &self,
        manifest: &Manifest,
        last: Option<&Listed<SegmentName>>,
        target: Txid,
    ) -> Result<Commit, Fault> {
        let Some(last) = last else { return Ok(manifest.commit.clone()) };
        let index = self.reading.index(last).await?;
        let entry = index.commit(target).map(|entry| entry.commit.clone());
        let key = ObjectName::Segment(last.name).key();
        entry.ok_or_else(|| Fault::object(&key, format_args!("does not hold commit {}", target.0)))
    }

    /// Remembers an object as broken and says so; anything else that went wrong ends the restore.
    fn set_aside(&mut self, fault: Fault) -> Result<String, RestoreError> {
        let text = fault.to_string();
        match fault {
            Fault::Object { object, .. } => {
                let Some(name) = ObjectName::parse(object.as_str()) else { return Err(no_object_named(text)) };
                self.avoid(name, text.clone());
                Ok(text)
            }
            fault => Err(no_object(fault)),
        }
    }

    async fn inside_gap(&self, inventory: &Inventory, point: Point, target: Txid, is_pruned: bool) -> RestoreError {
        let problem = match is_pruned {
            true => "was pruned: no retention rule keeps it",
            false => "is inside a gap: segments are missing there",
        };
        self.inside(inventory, problem, point, target).await
    }

    async fn inside(&self, inventory: &Inventory, problem: &str, point: Point, target: Txid) -> RestoreError {
        no_such_point(inventory, &self.windows(inventory).await, problem, point, target)
    }

    /// What is lost, and what is not.
    pub async fn damaged(&self, inventory: &Inventory) -> RestoreError {
        let windows = self.windows(inventory).await;
        let mut problems = self.broken.values().cloned().collect::<Vec<_>>();
        for gap in inventory.gaps() {
            let (first, last) = (gap.first.0, gap.last.0);
            problems.push(format!("no segment holds the commits txid:{first} to txid:{last}"));
        }
        let newest = inventory.newest.map_or(Txid::ZERO, |m| m.txid);
        let oldest = inventory.snapshots.first().map_or(Txid(1), |s| s.name.txid);
        let lost = outside(&windows, oldest, newest);
        RestoreError::Damaged(Damage { generation: Some(inventory.generation), problems, lost, windows })
    }

    /// What can be restored, without what is broken. Reads where the copies behind the snapshots began.
    pub async fn windows(&self, inventory: &Inventory) -> Vec<Window> {
        let mut usable = inventory.without(&self.broken());
        let mut bases: BTreeMap<SnapshotName, Txid> = BTreeMap::new();
        let mut unreadable = BTreeSet::new();
        for snapshot in usable.snapshots.iter().rev().take(MAX_EXAMINED_SNAPSHOTS) {
            match self.reading.manifest(snapshot).await {
                Ok(manifest) => _ = bases.insert(snapshot.name, manifest.base),
                Err(_) => _ = unreadable.insert(ObjectName::Snapshot(snapshot.name)),
            }
        }
        usable = usable.without(&unreadable);
        usable.windows(|name| bases.get(name).copied())
    }

    /// The generation's listing as it is now.
    pub async fn inventory(&self, generation: Generation) -> Result<Inventory, RestoreError> {
        self.reading.inventory(generation).await.map_err(no_object)
    }
}
