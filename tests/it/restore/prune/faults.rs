//! Stores that stop answering, and stores that do not let go.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use replicate::layout::ObjectName;
use replicate::store::{Body, Key, ObjectMeta, Outcome, PutMode, Store, StoreError};

/// Changes so many things, one by one, and then answers nothing any more: as a process that was killed would see it.
#[derive(Debug)]
pub struct Breaking {
    inner: Arc<dyn Store>,
    left: AtomicU64,
}

impl Breaking {
    pub fn new(inner: Arc<dyn Store>, limit: u64) -> Breaking {
        Breaking { inner, left: AtomicU64::new(limit) }
    }

    fn change(&self, operation: &'static str, key: &Key) -> Result<(), StoreError> {
        let less = |left: u64| left.checked_sub(1);
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        taken.map(drop).map_err(|_| StoreError::new(Outcome::Unavailable, operation, key, "killed"))
    }
}

#[async_trait]
impl Store for Breaking {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        self.change("put", key)?;
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, after).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list_folders(folder).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        for key in keys {
            self.change("delete", key)?;
            self.inner.delete(std::slice::from_ref(key)).await?;
        }
        Ok(())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// Objects under a retention lock: chosen by name, or by a number that is always the same for a name.
#[derive(Debug)]
pub struct Locking {
    inner: Arc<dyn Store>,
    is_locked: fn(&ObjectName, u64) -> bool,
}

impl Locking {
    pub fn new(inner: Arc<dyn Store>, is_locked: fn(&ObjectName, u64) -> bool) -> Locking {
        Locking { inner, is_locked }
    }
}

#[async_trait]
impl Store for Locking {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, after).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list_folders(folder).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let mut denied = None;
        for key in keys {
            let chance = key.as_str().bytes().fold(7u64, |n, byte| n.wrapping_mul(31).wrapping_add(u64::from(byte)));
            let name = ObjectName::parse(key.as_str());
            if name.is_some_and(|name| (self.is_locked)(&name, chance >> 3)) {
                denied = Some(StoreError::new(Outcome::Denied, "delete", key, "under a retention lock"));
            } else {
                self.inner.delete(std::slice::from_ref(key)).await?;
            }
        }
        denied.map_or(Ok(()), Err)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
