//! One snapshot on its way to one replica: the uploading half of the copy.
//!
//! Parts are put first, the manifest last, after every segment up to its commit: an interrupted snapshot leaves parts that
//! nothing refers to. The next one lists what is there, and sends none of it again.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::Final;
use super::copy::{CHANNEL_PARTS, CopyEnd, CopyMessage};
use super::delta::{Base, layers};
use super::shared::{Command, KnownParts, Shared};
use super::ship::{new_backoff, pause};
use crate::layout::{PartHash, SnapshotName};
use crate::position::Generation;
use crate::prune::{SETTLE, spare};
use crate::replica::{Replica, ReplicaError};
use crate::segment::{Manifest, Over, PartRef, PatchRef};
use crate::status::{Place, SnapshotProgress};
use crate::store::Outcome;

/// Parts on their way to one replica at a time.
const PARALLEL_PARTS: usize = 4;

/// Its name and the bytes that a restore reads of it; `None`: interrupted, nothing came of it.
pub(super) type Uploaded = Result<Option<(SnapshotName, u64)>, Final>;

/// One snapshot on its way.
pub(super) struct Upload {
    shared: Arc<Shared>,
    replica: Replica,
    index: usize,
    generation: Generation,
    /// The newest whole one: its parts are there.
    before: Option<SnapshotName>,
    skipped: Arc<Mutex<Place>>,
    /// What that holds, where it is known.
    base: Option<Arc<Base>>,
    parts: Vec<PartRef>,
    /// For each of them, counting patches from the oldest of the snapshot before.
    over: Vec<Over>,
    patches: Vec<PatchRef>,
    known: KnownParts,
    puts: JoinSet<Result<(), Final>>,
}

impl Upload {
    pub fn new(
        shared: Arc<Shared>,
        index: usize,
        generation: Generation,
        before: Option<SnapshotName>,
        skipped: Arc<Mutex<Place>>,
    ) -> Upload {
        Upload {
            replica: shared.replicas[index].clone(),
            shared,
            index,
            generation,
            before,
            skipped,
            base: None,
            parts: Vec::new(),
            over: Vec::new(),
            patches: Vec::new(),
            known: KnownParts::new(),
            puts: JoinSet::new(),
        }
    }

    pub async fn run(mut self) -> Uploaded {
        let began = Instant::now();
        self.known = self.listed_parts().await?;
        if let Some(before) = self.before {
            self.base = self.base_of(before).await?;
        }
        let (sender, mut messages) = mpsc::channel(CHANNEL_PARTS);
        self.shared.command(Command::Copy(sender, self.base.clone()));
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
        let Some((name, bytes)) = self.put_manifest(*end, skipped).await? else { return Ok(None) };
        self.shared.status.replica(self.index, |replica| replica.snapshot_duration = Some(began.elapsed()));
        release_memory();
        Ok(Some((name, bytes)))
    }

    /// Whatever a snapshot or an interrupted one has left.
    async fn listed_parts(&self) -> Result<KnownParts, Final> {
        let mut backoff = new_backoff();
        loop {
            match self.replica.parts(self.generation).await {
                Ok(parts) => return Ok(parts.into_iter().map(|listed| listed.name).collect()),
                Err(error) => pause(&self.shared, self.index, error, &mut backoff).await?,
            }
        }
    }

    async fn base_of(&self, name: SnapshotName) -> Result<Option<Arc<Base>>, Final> {
        let mut backoff = new_backoff();
        loop {
            match self.replica.read_manifest(name).await {
                // Where one of its objects is gone, nothing is built on it.
                Ok((manifest, _)) if manifest.objects().any(|(hash, _)| !self.known.contains(&hash)) => {
                    return Ok(None);
                }
                Ok((manifest, hashes)) => return Ok(Base::new(manifest, hashes).map(Arc::new)),
                // Gone or damaged: then every part is sent that is not listed.
                Err(ReplicaError::Store(error)) if error.outcome == Outcome::NotFound => return Ok(None),
                Err(error) if !error.is_retryable() => return Ok(None),
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
                    self.over.clear();
                    self.patches.clear();
                    total = bytes;
                }
                CopyMessage::Part(part, over, object) => {
                    self.parts.push(part);
                    self.over.push(over);
                    if let Some(object) = object {
                        self.put_unknown(part.hash, object).await?;
                    }
                }
                CopyMessage::Patch(patch, object) => {
                    self.patches.push(patch);
                    self.put_unknown(patch.hash, object).await?;
                }
                CopyMessage::Done(end) => return Ok(Some(end)),
            }
            let done_bytes = self.parts.last().map_or(0, PartRef::end);
            let progress = SnapshotProgress { done_bytes, total_bytes: total.max(done_bytes) };
            self.shared.status.replica(self.index, |replica| replica.snapshot_progress = Some(progress));
        }
        Ok(None)
    }

    async fn put_unknown(&mut self, hash: PartHash, object: Bytes) -> Result<(), Final> {
        if !self.known.insert(hash) {
            return Ok(());
        }
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
        // Patches of the snapshot before may count for nothing any more; to spare them too does no harm.
        let before = self.base.iter().flat_map(|base| base.patches()).chain(&self.patches).map(|patch| patch.hash);
        let parts = self.parts.iter().map(|part| part.hash).chain(before).collect();
        let mut backoff = new_backoff();
        loop {
            match spare(&self.replica, self.generation, &parts, (self.shared.clock)(), SETTLE).await {
                Ok(are_there) => return Ok(are_there),
                Err(error) => pause(&self.shared, self.index, error, &mut backoff).await?,
            }
        }
    }

    /// Its name, and the bytes of everything that it needs; `None` where one of that name is there and does not help.
    async fn put_manifest(&mut self, end: CopyEnd, skipped: Place) -> Uploaded {
        let point = end.point;
        let before = self.base.as_ref().map_or(&[][..], |base| base.patches());
        let manifest = Manifest {
            generation: point.generation,
            term: end.term,
            engine: point.engine,
            base: end.base,
            commit: point.commit,
            parts: std::mem::take(&mut self.parts),
            position: point.position,
            layers: layers(before, &self.patches, &self.over, end.differing),
        };
        let object = manifest.encode(&end.page_hashes).map_err(|error| Final::Failed(format!("snapshot: {error}")))?;
        let mut backoff = new_backoff();
        loop {
            match self.replica.put_manifest(manifest.name(), object.clone()).await {
                Ok(()) => return Ok(Some((manifest.name(), stored_bytes(&manifest)))),
                Err(conflict @ ReplicaError::Conflict { .. }) => {
                    match self.replica.read_manifest(manifest.name()).await {
                        // Of the same commit and under the same claim: ours, and made of another copy.
                        Ok((there, _)) if there.commit.checksum == manifest.commit.checksum => {
                            let base = Place { generation: there.generation, txid: there.base };
                            return Ok((base >= skipped).then(|| (manifest.name(), stored_bytes(&there))));
                        }
                        Err(error) if error.is_retryable() => {
                            pause(&self.shared, self.index, error, &mut backoff).await?
                        }
                        _ => return Err(Final::Fenced(conflict.to_string())),
                    }
                }
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

/// What a restore reads of a snapshot.
pub(super) fn stored_bytes(manifest: &Manifest) -> u64 {
    manifest.objects().map(|(_, bytes)| bytes).fold(0, u64::saturating_add)
}

/// Gives freed memory back to the system: an idle database is to take little, and glibc keeps what was freed.
pub fn release_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim has no preconditions; it only returns unused memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
