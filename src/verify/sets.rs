//! File sets and blobs: every set readable, every blob that one names there, and, where everything is read, what its name says.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};

use super::Verifier;
use crate::fileset::{FileSetError, FileSets, living};
use crate::inventory::Inventory;
use crate::layout::{BlobHash, FileSetName, ObjectName};
use crate::restore::{Fault, RestoreError, no_object};
use crate::store::Key;

impl Verifier<'_> {
    pub(super) async fn file_sets(&mut self, inventory: &Inventory) -> Result<(), RestoreError> {
        let generation = inventory.generation;
        let sets = FileSets::new(self.reading.replica().store().clone());
        let (listed, unknown_sets) = sets.list(generation).await?;
        let listed = living(&listed, inventory);
        let jobs = self.how.jobs.max(1);
        let names: Vec<FileSetName> = listed.iter().map(|set| set.name).collect();
        let from = sets.clone();
        let read = stream::iter(names).map(move |name| {
            let sets = from.clone();
            async move { (name, sets.read(name).await) }
        });
        let mut needed: BTreeMap<BlobHash, Key> = BTreeMap::new();
        let mut read = std::pin::pin!(read.buffered(jobs));
        while let Some((name, result)) = read.next().await {
            match result {
                Ok(set) => {
                    let key = ObjectName::FileSet(name).key();
                    set.blobs().into_iter().for_each(|hash| _ = needed.entry(hash).or_insert_with(|| key.clone()));
                }
                Err(error) => self.of_file_set(inventory, error).await?,
            }
        }
        // After the sets, so that blobs put meanwhile are in it.
        let (blobs, unknown_blobs) = sets.blobs(generation).await?;
        let there: BTreeMap<BlobHash, u64> = blobs.into_iter().map(|blob| (blob.name, blob.size)).collect();
        for key in unknown_sets.into_iter().chain(unknown_blobs) {
            self.report.notes.push(format!("{key} is no name of ours"));
        }
        self.report.file_sets += listed.len() as u64;
        self.report.blobs += needed.len() as u64;
        for (hash, set) in needed.iter().filter(|(hash, _)| !there.contains_key(hash)) {
            self.missing_blob(inventory, *hash, set).await?;
        }
        if self.how.deep {
            let present: BTreeSet<BlobHash> = needed.into_keys().filter(|hash| there.contains_key(hash)).collect();
            self.contents(inventory, &sets, present, &there).await?;
        }
        Ok(())
    }

    async fn missing_blob(&mut self, inventory: &Inventory, hash: BlobHash, set: &Key) -> Result<(), RestoreError> {
        let key = ObjectName::Blob { generation: inventory.generation, hash }.key();
        // It may have been pruned together with its set.
        match self.reading.is_listed(set).await.map_err(no_object)? {
            true => self.find(Some(inventory.generation), Some(key), format_args!("is missing; {set} needs it")),
            false => self.report.notes.push(format!("{set} was removed meanwhile")),
        }
        Ok(())
    }

    async fn contents(
        &mut self,
        inventory: &Inventory,
        sets: &FileSets,
        blobs: BTreeSet<BlobHash>,
        sizes: &BTreeMap<BlobHash, u64>,
    ) -> Result<(), RestoreError> {
        let generation = inventory.generation;
        let is_chosen = |hash: &BlobHash| self.is_chosen(&ObjectName::Blob { generation, hash: *hash }.key());
        let chosen: Vec<BlobHash> = blobs.into_iter().filter(is_chosen).collect();
        let total =
            chosen.iter().filter_map(|hash| sizes.get(hash)).fold(0, |sum: u64, size| sum.saturating_add(*size));
        self.how.progress.begin("reading files", total);
        let jobs = self.how.jobs.max(1);
        let from = sets.clone();
        let read = stream::iter(chosen).map(move |hash| {
            let sets = from.clone();
            async move { (hash, sets.blob(generation, hash).await) }
        });
        let mut read = std::pin::pin!(read.buffered(jobs));
        while let Some((hash, result)) = read.next().await {
            let size = sizes.get(&hash).copied().unwrap_or(0);
            self.report.read_bytes += size;
            self.how.progress.advance(size);
            if let Err(error) = result {
                self.of_file_set(inventory, error).await?;
            }
        }
        Ok(())
    }

    async fn of_file_set(&mut self, inventory: &Inventory, error: FileSetError) -> Result<(), RestoreError> {
        match error {
            FileSetError::Store(error) => Err(error.into()),
            FileSetError::Damaged { key, problem } => {
                self.fault(Some(inventory.generation), Fault::object(&key, problem)).await
            }
        }
    }
}
