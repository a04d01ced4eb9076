//! Snapshots in one replica: when one is due, and the uploading half of the copy.
//!
//! Parts are put first, the manifest last, after every segment up to its commit: an interrupted snapshot leaves parts that
//! nothing refers to, and the next one finds them there.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::Final;
use super::copy::{CHANNEL_PARTS, CopyEnd, CopyMessage};
use super::due::{Stand, Way};
use super::resume::Contact;
use super::shared::{Command, Course, KnownParts, Shared};
use super::ship::{new_backoff, pause};
use crate::inventory::Listed;
use crate::layout::{PartHash, SegmentName, SnapshotName};
use crate::position::{Generation, TimeMs, Txid};
use crate::prune::{SETTLE, spare};
use crate::replica::{Replica, newest_snapshot};
use crate::segment::{Manifest, PartRef};
use crate::status::{Place, SnapshotProgress, SnapshotReason};

/// Parts on their way to one replica at a time.
const PARALLEL_PARTS: usize = 4;
/// A snapshot that was interrupted is begun again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// `None`: interrupted, nothing came of it.
type Uploaded = Result<Option<Newest>, Final>;

#[derive(Debug, Clone, Copy)]
struct Begun {
    at: TimeMs,
    reason: SnapshotReason,
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
        self.needed = self.needed.or(Some(SnapshotReason::Asked));
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
            Ok((manifest, _)) => stored_bytes(&manifest.parts),
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
            match ended {
                Ok(Ok(Some(newest))) => self.took(Newest { begun: begun.at, ..newest }, begun.reason),
                Ok(Ok(None)) => tracing::info!("a snapshot was interrupted; it begins again"),
                Ok(Err(end)) => return Err(end),
                Err(error) if error.is_cancelled() => {}
                Err(error) => self.shared.status.replica_error(self.index, "snapshot", &error),
            }
        }
        if let Some((due, reason)) = self.next(shipped)
            && due <= Instant::now()
        {
            self.begin(reason);
        }
        Ok(())
    }

    fn begin(&mut self, reason: SnapshotReason) {
        let replica = self.shared.replicas[self.index].clone();
        tracing::info!(replica = replica.describe(), "a snapshot begins: {reason}");
        let upload = Upload {
            shared: self.shared.clone(),
            replica,
            index: self.index,
            generation: self.course.generation,
            before: self.newest(),
            skipped: self.skipped.clone(),
            parts: Vec::new(),
            known: KnownParts::new(),
            puts: JoinSet::new(),
        };
        let begun = Begun { at: (self.shared.clock)(), reason };
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

fn stored_bytes(parts: &[PartRef]) -> u64 {
    parts.iter().map(|part| part.stored_len).fold(0, u64::saturating_add)
}

fn place_of(name: &SnapshotName) -> Place {
    Place { generation: name.generation, txid: name.txid }
}

/// One snapshot on its way.
struct Upload {
    shared: Arc<Shared>,
    replica: Replica,
    index: usize,
    generation: Generation,
    /// The newest whole one: its parts are there.
    before: Option<SnapshotName>,
    skipped: Arc<Mutex<Place>>,
    parts: Vec<PartRef>,
    known: KnownParts,
    puts: JoinSet<Result<(), Final>>,
}

impl Upload {
    async fn run(mut self) -> Uploaded {
        let began = Instant::now();
        if let Some(before) = self.before {
            self.known = self.parts_of(before).await?;
        }
        let (sender, mut messages) = mpsc::channel(CHANNEL_PARTS);
        self.shared.command(Command::Copy(sender));
        let Some(end) = self.receive(&mut messages).await? else { return Ok(None) };
        drop(messages);
        while let Some(put) = self.puts.join_next().await {
            finished(put)?;
        }
        let place = end.point.place();
        if place.generation != self.generation {
            return Ok(None);
        }
        let index = self.index;
        self.shared.status.wait_for(|status| status.replicas[index].shipped >= place).await;
        // Segments between the copy's begin and its end that the replica does not have make it worthless.
        let skipped = *self.skipped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if skipped > (Place { generation: self.generation, txid: end.base }) {
            return Ok(None);
        }
        if !self.spare_parts().await? {
            return Ok(None);
        }
        let bytes = stored_bytes(&self.parts);
        let name = self.put_manifest(*end).await?;
        self.shared.status.replica(self.index, |replica| replica.snapshot_duration = Some(began.elapsed()));
        release_memory();
        Ok(Some(Newest { name, begun: name.time, bytes: Some(bytes) }))
    }

    async fn parts_of(&self, name: SnapshotName) -> Result<KnownParts, Final> {
        let mut backoff = new_backoff();
        loop {
            match self.replica.read_manifest(name).await {
                Ok((manifest, _)) => return Ok(manifest.parts.iter().map(|part| part.hash).collect()),
                // Gone or damaged: then everything is put again, which finds what is there.
                Err(error) if !error.is_retryable() => return Ok(KnownParts::new()),
                Err(error) => pause(&self.shared, self.index, error, &mut backoff).await?,
            }
        }
    }

    async fn receive(&mut self, messages: &mut mpsc::Receiver<CopyMessage>) -> Result<Option<Box<CopyEnd>>, Final> {
        let mut total = 0;
        while let Some(message) = messages.recv().await {
            // There is room for the next one.
            self.shared.bell.ring();
            match message {
                CopyMessage::Started { total: bytes } => {
                    self.parts.clear();
                    total = bytes;
                }
                CopyMessage::Part(part, object) => {
                    self.parts.push(part);
                    if self.known.insert(part.hash) {
                        self.put_part(part.hash, object).await?;
                    }
                }
                CopyMessage::Done(end) => return Ok(Some(end)),
            }
            let done_bytes = self.parts.last().map_or(0, PartRef::end);
            let progress = SnapshotProgress { done_bytes, total_bytes: total.max(done_bytes) };
            self.shared.status.replica(self.index, |replica| replica.snapshot_progress = Some(progress));
        }
        Ok(None)
    }

    async fn put_part(&mut self, hash: PartHash, object: Bytes) -> Result<(), Final> {
        if self.puts.len() >= PARALLEL_PARTS
            && let Some(put) = self.puts.join_next().await
        {
            finished(put)?;
        }
        let (shared, replica, index, generation) =
            (self.shared.clone(), self.replica.clone(), self.index, self.generation);
        self.puts.spawn(async move {
            let mut backoff = new_backoff();
            loop {
                match replica.put_part(generation, hash, object.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(error) => pause(&shared, index, error, &mut backoff).await?,
                }
            }
        });
        Ok(())
    }

    /// Parts that were found there may be about to be pruned by another process. `false`: some are gone.
    async fn spare_parts(&self) -> Result<bool, Final> {
        let parts = self.parts.iter().map(|part| part.hash).collect();
        let mut backoff = new_backoff();
        loop {
            match spare(&self.replica, self.generation, &parts, (self.shared.clock)(), SETTLE).await {
                Ok(are_there) => return Ok(are_there),
                Err(error) => pause(&self.shared, self.index, error, &mut backoff).await?,
            }
        }
    }

    async fn put_manifest(&mut self, end: CopyEnd) -> Result<SnapshotName, Final> {
        let point = end.point;
        let manifest = Manifest {
            generation: point.generation,
            term: end.term,
            engine: point.engine,
            base: end.base,
            commit: point.commit,
            parts: std::mem::take(&mut self.parts),
            position: point.position,
        };
        let object = manifest.encode(&end.page_hashes).map_err(|error| Final::Failed(format!("snapshot: {error}")))?;
        let mut backoff = new_backoff();
        loop {
            match self.replica.put_manifest(manifest.name(), object.clone()).await {
                Ok(()) => return Ok(manifest.name()),
                Err(error) => pause(&self.shared, self.index, error, &mut backoff).await?,
            }
        }
    }
}

fn finished(put: Result<Result<(), Final>, JoinError>) -> Result<(), Final> {
    match put {
        Ok(result) => result,
        Err(error) => Err(Final::Failed(format!("a part could not be put: {error}"))),
    }
}

/// Gives freed memory back to the system: an idle database is to take little, and glibc keeps what was freed.
pub fn release_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim has no preconditions; it only returns unused memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
