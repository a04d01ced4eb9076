//! What a replica holds, as retention needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::fileset::{FileSetError, FileSets};
use crate::inventory::{Inventory, Listed};
use crate::label::Labels;
use crate::layout::{BlobHash, FileSetName, ObjectName, SnapshotName};
use crate::position::{Generation, TimeMs};
use crate::prune::PruneError;
use crate::restore::{Fault, Reading, RestoreError, no_object};
use crate::retention::{Facts, FilesView, GenerationView};
use crate::store::{ObjectMeta, Store};

/// Manifests that are read at a time.
const READS_AT_A_TIME: usize = 8;

/// All generations of a replica, oldest first.
#[derive(Debug, Clone)]
pub struct Survey {
    pub generations: Vec<GenerationView>,
}

/// Lists a replica again and again, and reads each manifest once: it never changes.
#[derive(Debug)]
pub struct Surveyor {
    reading: Reading,
    known: BTreeMap<SnapshotName, Facts>,
    /// The blobs of sets that were read.
    known_sets: BTreeMap<FileSetName, Arc<[BlobHash]>>,
}

impl Surveyor {
    pub fn new(store: Arc<dyn Store>) -> Surveyor {
        Surveyor { reading: Reading::new(store), known: BTreeMap::new(), known_sets: BTreeMap::new() }
    }

    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// `now` tells which labels still ask for their commits.
    pub async fn survey(&mut self, now: TimeMs) -> Result<Survey, PruneError> {
        if self.reading.marker().await.map_err(no_object)?.is_none() {
            return Err(RestoreError::Nothing(format!("there is no replica in {}", self.reading.describe())).into());
        }
        let mut generations = Vec::new();
        for generation in self.reading.generations().await.map_err(no_object)? {
            generations.push(self.generation(generation).await?);
        }
        // As for spans of time: a clock that jumped ahead ends no label.
        let newest = generations.iter().rev().find_map(|view| view.inventory.newest);
        let now = newest.map_or(now, |newest| newest.time.min(now));
        for label in Labels::new(self.reading.replica().store().clone()).all().await? {
            let view = generations.iter_mut().find(|view| view.inventory.generation == label.commit.generation);
            if let Some(view) = view.filter(|_| label.is_kept(now)) {
                view.named.insert(label.commit.txid);
            }
        }
        let is_there = |name: &SnapshotName| generations.iter().any(|view| view.facts.contains_key(name));
        self.known.retain(|name, _| is_there(name));
        let is_there = |name: &FileSetName| generations.iter().any(|view| view.files.contents.contains_key(name));
        self.known_sets.retain(|name, _| is_there(name));
        Ok(Survey { generations })
    }

    async fn generation(&mut self, generation: Generation) -> Result<GenerationView, RestoreError> {
        // Parts first: one that is put after this is in no listing, and cannot be taken for one that nothing needs.
        let parts = self.reading.parts(generation).await.map_err(no_object)?;
        let part = |object: ObjectMeta| match ObjectName::parse(object.key.as_str()) {
            Some(ObjectName::Part { hash, .. }) => Some(Listed { name: hash, size: object.size }),
            _ => None,
        };
        let parts = parts.into_iter().filter_map(part).collect();
        // And blobs before the sets that name them.
        let sets = FileSets::new(self.reading.replica().store().clone());
        let (blobs, _) = sets.blobs(generation).await?;
        let (listed, _) = sets.list(generation).await?;
        let contents = self.contents(&sets, &listed).await?;
        let files = FilesView { sets: listed, blobs, contents };
        let inventory = self.reading.inventory(generation).await.map_err(no_object)?;
        let facts = self.facts(&inventory).await?;
        Ok(GenerationView { inventory, parts, facts, named: BTreeSet::new(), files })
    }

    async fn contents(
        &mut self,
        sets: &FileSets,
        listed: &[Listed<FileSetName>],
    ) -> Result<BTreeMap<FileSetName, Arc<[BlobHash]>>, RestoreError> {
        let unknown = listed.iter().map(|set| set.name).filter(|name| !self.known_sets.contains_key(name));
        let unknown: Vec<FileSetName> = unknown.collect();
        let read = stream::iter(unknown).map(|name| async move { (name, sets.read(name).await) });
        let read: Vec<_> = read.buffer_unordered(READS_AT_A_TIME).collect().await;
        for (name, set) in read {
            match set {
                Ok(set) => _ = self.known_sets.insert(name, set.blobs().into_iter().collect()),
                // It stays, and so does every blob that it may name.
                Err(error @ FileSetError::Damaged { .. }) => tracing::warn!("{error}"),
                Err(FileSetError::Store(error)) => return Err(error.into()),
            }
        }
        let content = |set: &Listed<FileSetName>| Some((set.name, self.known_sets.get(&set.name)?.clone()));
        Ok(listed.iter().filter_map(content).collect())
    }

    async fn facts(&mut self, inventory: &Inventory) -> Result<BTreeMap<SnapshotName, Facts>, RestoreError> {
        let reading = &self.reading;
        let unknown = inventory.snapshots.iter().filter(|listed| !self.known.contains_key(&listed.name));
        let unknown: Vec<Listed<SnapshotName>> = unknown.copied().collect();
        let read = stream::iter(unknown).map(|listed| async move { (listed.name, reading.manifest(&listed).await) });
        let read: Vec<_> = read.buffer_unordered(READS_AT_A_TIME).collect().await;
        for (name, manifest) in read {
            match manifest {
                Ok(manifest) => {
                    let parts = manifest.objects().map(|(hash, _)| hash).collect();
                    self.known.insert(name, Facts { base: manifest.base, parts });
                }
                // It stays unknown, and what it may need stays with it.
                Err(fault @ Fault::Object { .. }) => tracing::warn!("{fault}"),
                Err(fault) => return Err(no_object(fault)),
            }
        }
        let fact = |listed: &Listed<SnapshotName>| Some((listed.name, self.known.get(&listed.name)?.clone()));
        Ok(inventory.snapshots.iter().filter_map(fact).collect())
    }
}
