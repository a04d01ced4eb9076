//! A store in memory, for tests and for trying things out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Body, Key, ObjectMeta, Outcome, PutMode, Store, StoreError};

type Objects = BTreeMap<Key, Bytes>;

/// Objects of this process, gone with it.
#[derive(Clone)]
pub struct MemoryStore {
    name: String,
    objects: Arc<Mutex<Objects>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MemoryStore").field(&self.name).finish()
    }
}

impl MemoryStore {
    /// A store that nobody else sees.
    pub fn new() -> MemoryStore {
        MemoryStore { name: "anonymous".to_owned(), objects: Arc::default() }
    }

    /// The store that everything in this process shares under `name`.
    pub fn shared(name: &str) -> MemoryStore {
        static SHARED: LazyLock<Mutex<HashMap<String, Arc<Mutex<Objects>>>>> = LazyLock::new(Mutex::default);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = shared.entry(name.to_owned()).or_default().clone();
        MemoryStore { name: name.to_owned(), objects }
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        // Every change is one call on the map, so that a panic elsewhere leaves nothing half done.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        let bytes = match body {
            Body::Bytes(bytes) => bytes,
            Body::File { path, len } => read_file(&path, len)
                .map_err(|e| StoreError::new(Outcome::Invalid, "put", key, format!("{}: {e}", path.display())))?,
        };
        let mut objects = self.objects();
        if mode == PutMode::Create && objects.contains_key(key) {
            return Err(StoreError::new(Outcome::AlreadyExists, "put", key, "something has that name"));
        }
        objects.insert(key.clone(), bytes);
        Ok(())
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let objects = self.objects();
        let Some(bytes) = objects.get(key) else {
            return Err(StoreError::new(Outcome::NotFound, "get", key, "no such object"));
        };
        let Some(range) = range else { return Ok(bytes.clone()) };
        super::check_range(key, &range, bytes.len() as u64)?;
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        let objects = self.objects();
        let wanted = objects
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        Ok(wanted.map(|(key, bytes)| ObjectMeta { key: key.clone(), size: bytes.len() as u64 }).collect())
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let objects = self.objects();
        let below = objects.keys().filter_map(|key| key.as_str().strip_prefix(folder));
        let folders: BTreeSet<&str> = below.filter_map(|rest| rest.split_once('/').map(|(next, _)| next)).collect();
        Ok(folders.into_iter().map(str::to_owned).collect())
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let mut objects = self.objects();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("memory://{}", self.name)
    }
}

fn read_file(path: &Path, len: u64) -> std::io::Result<Bytes> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != len {
        return Err(std::io::Error::other("the file is shorter than it was when it was finished"));
    }
    Ok(bytes.into())
}
