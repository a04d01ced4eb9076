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
use super::resume::Contact;
use super::shared::{Command, Course, KnownParts, Shared};
use super::ship::{new_backoff, pause};
use crate::layout::{PartHash, SnapshotName};
use crate::position::{Generation, Txid};
use crate::prune::{SETTLE, spare};
use crate::replica::{Replica, newest_snapshot};
use crate::segment::{Manifest, PartRef};
use crate::status::{Place, SnapshotProgress};

/// Parts on their way to one replica at a time.
const PARALLEL_PARTS: usize = 4;
/// A snapshot that was interrupted is begun again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// The snapshots of one replica.
pub(super) struct Snapshots {
    shared: Arc<Shared>,
    index: usize,
    course: Course,
    newest: Option<SnapshotName>,
    /// One is wanted whatever the interval says.
    is_needed: bool,
    /// The replica lacks commits up to here: a copy that began before does not help.
    skipped: Arc<Mutex<Place>>,
    running: Option<JoinHandle<Result<Option<SnapshotName>, Final>>>,
    ended: Option<Result<Result<Option<SnapshotName>, Final>, JoinError>>,
    not_before: Option<Instant>,
}

impl Snapshots {
    pub fn new(shared: Arc<Shared>, index: usize, course: &Course, contact: &Contact) -> Snapshots {
        let inventory = contact.inventory.as_ref().filter(|inventory| inventory.generation == course.generation);
        let newest =
            inventory.and_then(|inventory| newest_snapshot(inventory, Txid(u64::MAX))).map(|listed| listed.name);
        shared.status.replica(index, |replica| replica.snapshot = newest.map(|name| (name.txid, name.time)));
        Snapshots {
            shared,
            index,
            course: course.clone(),
            newest,
            is_needed: false,
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
        self.shared.status.replica(self.index, |replica| replica.snapshot = None);
    }

    pub fn abort(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }

    /// The replica goes on behind `place` without what stands before it, or without something of that.
    pub fn skip_to(&mut self, place: Place) {
        self.is_needed = true;
        let mut skipped = self.skipped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *skipped = place.max(*skipped);
    }

    /// The newest whole one.
    pub fn newest(&self) -> Option<SnapshotName> {
        self.newest
    }

    /// One is on its way, or has just ended.
    pub fn is_running(&self) -> bool {
        self.running.is_some() || self.ended.is_some()
    }

    pub fn need(&mut self) {
        self.is_needed = true;
    }

    /// When the next one is to begin; `None`: not before something changes.
    pub fn due(&self, shipped: Place) -> Option<Instant> {
        if self.running.is_some() || shipped.generation != self.course.generation || shipped.txid == Txid::ZERO {
            return None;
        }
        let now = Instant::now();
        let due = match self.newest {
            _ if self.is_needed => now,
            None => now,
            Some(newest) if newest.txid >= shipped.txid => return None,
            Some(newest) => {
                let age = Duration::from_millis((self.shared.clock)().0.saturating_sub(newest.time.0));
                now + self.shared.settings.snapshot_interval.saturating_sub(age)
            }
        };
        Some(self.not_before.map_or(due, |at| due.max(at)))
    }

    pub fn is_due(&self, shipped: Place) -> bool {
        self.due(shipped).is_some_and(|due| due <= Instant::now())
    }

    /// Takes note of one that ended, and begins one that is due.
    pub fn advance(&mut self, shipped: Place) -> Result<(), Final> {
        if let Some(ended) = self.ended.take() {
            self.shared.status.replica(self.index, |replica| replica.snapshot_progress = None);
            self.not_before = Some(Instant::now() + AGAIN);
            match ended {
                Ok(Ok(Some(name))) => {
                    (self.newest, self.not_before) = (Some(name), None);
                    self.is_needed = *self.skipped.lock().unwrap_or_else(|p| p.into_inner()) > place_of(&name);
                }
                Ok(Ok(None)) => tracing::info!("a snapshot was interrupted; it begins again"),
                Ok(Err(end)) => return Err(end),
                Err(error) if error.is_cancelled() => {}
                Err(error) => self.shared.status.replica_error(self.index, "snapshot", &error),
            }
        }
        if self.is_due(shipped) {
            let upload = Upload {
                shared: self.shared.clone(),
                replica: self.shared.replicas[self.index].clone(),
                index: self.index,
                generation: self.course.generation,
                before: self.newest,
                skipped: self.skipped.clone(),
                parts: Vec::new(),
                known: KnownParts::new(),
                puts: JoinSet::new(),
            };
            self.running = Some(tokio::spawn(upload.run()));
        }
        Ok(())
    }

    /// Waits for the end of the one that runs. Nothing is lost when the wait is given up.
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

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.abort();
    }
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
    /// `None`: interrupted, nothing came of it.
    async fn run(mut self) -> Result<Option<SnapshotName>, Final> {
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
        let name = self.put_manifest(*end).await?;
        self.shared.status.replica(self.index, |replica| {
            replica.snapshot = Some((name.txid, name.time));
            replica.snapshot_duration = Some(began.elapsed());
        });
        release_memory();
        Ok(Some(name))
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
