//! A store in a directory: temporary file, fsync, hard link or rename, fsync of the directory.
//!
//! What is put is durable when `put` returns, the names of new directories included. A name appears with its whole
//! content or not at all; readers of the directory (backup tools, `rsync`) never see half an object under a final name.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Key, ObjectMeta, Outcome, PutMode, Store, StoreError};

mod disk;
mod errors;
mod walk;

use disk::Disk;

/// Names of unfinished files begin so; they are no objects, in no listing.
const TEMPORARY: &str = ".tmp-";

/// A directory as a store. The directory itself is created with the first object.
#[derive(Debug)]
pub struct FileStore {
    disk: Arc<Disk>,
}

impl FileStore {
    pub fn new(root: impl Into<PathBuf>) -> FileStore {
        FileStore { disk: Arc::new(Disk::new(root.into())) }
    }

    /// Runs what blocks where it may. It runs to its end even if the caller goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl FnOnce(&Disk) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = self.disk.clone();
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        // Only a panic or the end of the runtime gets here.
        done.map_err(|e| StoreError::new(Outcome::Unavailable, operation, key, e.to_string()))?
    }
}

#[async_trait]
impl Store for FileStore {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        let owned = key.clone();
        self.blocking("put", key.as_str(), move |disk| disk.put(&owned, &body, mode)).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let owned = key.clone();
        self.blocking("get", key.as_str(), move |disk| disk.get(&owned, range)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        let (owned, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking("list", prefix, move |disk| walk::list(disk.root(), &owned, after.as_deref())).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let owned = folder.to_owned();
        self.blocking("list", folder, move |disk| walk::folders(disk.root(), &owned)).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let owned = keys.to_vec();
        let first = keys.first().map_or("", Key::as_str);
        self.blocking("delete", first, move |disk| disk.delete(&owned)).await
    }

    fn describe(&self) -> String {
        self.disk.root().display().to_string()
    }
}

/// Makes the names in a directory durable.
fn sync_directory(path: &std::path::Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests;
