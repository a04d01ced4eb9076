//! Snapshots in one replica: when one is due, and what came of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinHandle};

use super::Final;
use super::due::{Stand, Way};
use super::resume::Contact;
use super::shared::{Course, Shared};
use super::upload::{Upload, Uploaded, stored_bytes};
use crate::inventory::Listed;
use crate::layout::{SegmentName, SnapshotName};
use crate::position::{TimeMs, Txid};
use crate::replica::newest_snapshot;
use crate::status::{Place, SnapshotReason};

/// A snapshot that was interrupted is begun again after this.
const AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Begun {
    at: TimeMs,
    reason: SnapshotReason,
    /// Somebody waits for it.
    is_asked: bool,
}

/// The newest whole snapshot.
#[derive(Debug, Clone, Copy)]
struct Newest {
    name: SnapshotName,
    /// When it was begun, if by this process; the time of its commit may be long before that.
    begun: TimeMs,
    /// What a restore reads of it; `None` while that is not known.
    bytes: Option<u64>,
}

/// The snapshots of one replica.
pub(super) struct Snapshots {
    shared: Arc<Shared>,
    index: usize,
    course: Course,
    newest: Option<Newest>,
    /// What a restore of the newest commit reads behind it.
    way: Way,
    /// One is wanted whatever the rules say.
    needed: Option<SnapshotReason>,
    /// Somebody asked for one after the one that runs was begun: that may hold less than was there when it was asked for.
    is_asked: bool,
    /// The replica lacks commits up to here: a copy that began before does not help.
    skipped: Arc<Mutex<Place>>,
    running: Option<(Begun, JoinHandle<Uploaded>)>,
    ended: Option<(Begun, Result<Uploaded, JoinError>)>,
    not_before: Option<Instant>,
}

impl Snapshots {
    pub fn new(shared: Arc<Shared>, index: usize, course: &Course, contact: &Contact) -> Snapshots {
        let inventory = contact.inventory.as_ref().filter(|inventory| inventory.generation == course.generation);
        let newest =
            inventory.and_then(|inventory| newest_snapshot(inventory, Txid(u64::MAX))).map(|listed| listed.name);
        let mut way = Way::default();
        inventory.iter().flat_map(|inventory| &inventory.segments).for_each(|segment| way.add(*segment));
        newest.iter().for_each(|name| way.forget(name.txid));
        let stale_since = newest.is_none().then(|| (shared.clock)());
        shared.status.replica(index, |replica| {
            replica.snapshot = newest.map(|name| (name.txid, name.time));
            replica.stale_since = stale_since;
        });
        Snapshots {
            shared,
            index,
            course: course.clone(),
            newest: newest.map(|name| Newest { name, begun: name.time, bytes: None }),
            way,
            needed: None,
            is_asked: false,
            skipped: Arc::new(Mutex::new(Place::ZERO)),
            running: None,
            ended: None,
            not_before: None,
        }
    }

    /// A new generation began.
    pub fn set_course(&mut self, course: &Course) {
        self.abort();
        (self.course, self.newest, self.running, self.not_before) = (course.clone(), None, None, None);
        self.way = Way::default();
        let now = (self.shared.clock)();
        self.shared.status.replica(self.index, |replica| {
            (replica.snapshot, replica.snapshot_reason, replica.stale_since) = (None, None, Some(now));
        });
    }

    pub fn abort(&mut self) {
        if let Some((_, running)) = &self.running {
            running.abort();
        }
    }

    /// The replica goes on behind `place` without what stands before it, or without something of that.
    pub fn skip_to(&mut self, place: Place) {
        self.needed = Some(SnapshotReason::Bridge);
        let mut skipped = self.skipped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *skipped = place.max(*skipped);
        if place.txid > Txid::ZERO {
            let now = (self.shared.clock)();
            self.shared.status.replica(self.index, |replica| _ = replica.stale_since.get_or_insert(now));
        }
    }

    /// The newest whole one.
    pub fn newest(&self) -> Option<SnapshotName> {
        self.newest.map(|newest| newest.name)
    }

    /// One is on its way, or has just ended.
    pub fn is_running(&self) -> bool {
        self.running.is_some() || self.ended.is_some()
    }

    /// Somebody asks for one.
    pub fn need(&mut self) {
        self.is_asked = true;
    }

    /// A segment is in the replica.
    pub fn leads_on(&mut self, segment: Listed<SegmentName>) {
        if segment.name.generation == self.course.generation {
            self.way.add(segment);
        }
    }

    /// How large the newest snapshot is, of one that this process did not make, is read when the way from it may be too long.
    pub async fn learn_size(&mut self) {
        let Some(newest) = self.newest.as_mut().filter(|newest| newest.bytes.is_none()) else { return };
        if self.way.bytes() < self.shared.settings.snapshots.most_way_bytes(0) {
            return;
        }
        newest.bytes = Some(match self.shared.replicas[self.index].read_manifest(newest.name).await {
            Ok((manifest, _)) => stored_bytes(&manifest),
            // The rule needs a size, and nothing else depends on it.
            Err(error) => {
                self.shared.status.replica_error(self.index, error.kind(), &error);
                self.shared.status.snapshot().database_bytes
            }
        });
    }

    /// When the next one is to begin, and why; `None`: not before something changes.
    fn next(&self, shipped: Place) -> Option<(Instant, SnapshotReason)> {
        if self.running.is_some() || shipped.generation != self.course.generation || shipped.txid == Txid::ZERO {
            return None;
        }
        let now = Instant::now();
        let (due, reason) = match (self.needed, self.newest) {
            (_, None) => (now, SnapshotReason::First),
            (Some(reason), _) => (now, reason),
            (None, _) if self.is_asked => (now, SnapshotReason::Asked),
            (None, Some(newest)) if newest.name.txid >= shipped.txid => return None,
            (None, Some(Newest { name, begun, bytes })) => {
                let bytes = bytes.unwrap_or(u64::MAX);
                let schedule = self.shared.settings.snapshot_schedule.as_ref();
                // What the schedule asked for while nothing was running, or nothing to take, is made up for.
                let scheduled = schedule.and_then(|schedule| schedule.next_after(begun.max(name.time)));
                let stand = Stand { time: name.time, bytes, way_bytes: self.way.bytes(), scheduled };
                let (wait, reason) = self.shared.settings.snapshots.next(&stand, (self.shared.clock)());
                (now + wait, reason)
            }
        };
        Some((self.not_before.map_or(due, |at| due.max(at)), reason))
    }

    /// When the next one is to begin; `None`: not before something changes.
    pub fn due(&self, shipped: Place) -> Option<Instant> {
        self.next(shipped).map(|(due, _)| due)
    }

    pub fn is_due(&self, shipped: Place) -> bool {
        self.due(shipped).is_some_and(|due| due <= Instant::now())
    }

    /// Takes note of one that ended, and begins one that is due.
    pub fn advance(&mut self, shipped: Place) -> Result<(), Final> {
        if let Some((begun, ended)) = self.ended.take() {
            self.shared.status.replica(self.index, |replica| replica.snapshot_progress = None);
            self.not_before = Some(Instant::now() + AGAIN);
            // Who waits for one that failed waits for the next one.
            self.is_asked |= begun.is_asked && !matches!(ended, Ok(Ok(Some(_))));
            match ended {
                Ok(Ok(Some((name, bytes)))) => {
                    self.took(Newest { name, begun: begun.at, bytes: Some(bytes) }, begun.reason);
                }
                Ok(Ok(None)) => tracing::info!("a snapshot was interrupted; it begins again"),
                Ok(Err(end)) => return Err(end),
                Err(error) if error.is_cancelled() => {}
                Err(error) => self.shared.status.replica_error(self.index, "snapshot", &error),
            }
        }
        // Whoever asked has it already: another one of the same commit would have the same name.
        let is_taken = self.newest.is_some_and(|newest| newest.name.txid >= shipped.txid);
        self.is_asked &= !is_taken;
        if let Some((due, reason)) = self.next(shipped)
            && due <= Instant::now()
        {
            self.begin(reason);
        }
        Ok(())
    }

    fn begin(&mut self, reason: SnapshotReason) {
        tracing::info!(replica = self.shared.replicas[self.index].describe(), "a snapshot begins: {reason}");
        let (generation, skipped) = (self.course.generation, self.skipped.clone());
        let upload = Upload::new(self.shared.clone(), self.index, generation, self.newest(), skipped);
        let begun = Begun { at: (self.shared.clock)(), reason, is_asked: std::mem::take(&mut self.is_asked) };
        self.running = Some((begun, tokio::spawn(upload.run())));
    }

    fn took(&mut self, newest: Newest, reason: SnapshotReason) {
        let Newest { name, .. } = newest;
        (self.newest, self.not_before) = (Some(newest), None);
        self.way.forget(name.txid);
        let is_behind = *self.skipped.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) > place_of(&name);
        self.needed = is_behind.then_some(SnapshotReason::Bridge);
        // Together, so that whoever sees the snapshot sees the reason too.
        self.shared.status.replica(self.index, |replica| {
            (replica.snapshot, replica.snapshot_reason) = (Some((name.txid, name.time)), Some(reason));
            if !is_behind {
                replica.stale_since = None;
            }
        });
    }

    /// Waits for the end of the one that runs. Nothing is lost when the wait is given up.
    pub async fn finished(&mut self) {
        match &mut self.running {
            Some((begun, running)) => {
                self.ended = Some((*begun, running.await));
                self.running = None;
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.abort();
    }
}

fn place_of(name: &SnapshotName) -> Place {
    Place { generation: name.generation, txid: name.txid }
}
