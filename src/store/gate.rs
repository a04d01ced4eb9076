//! A bound on how much is asked of all stores together at one time: each request takes a descriptor or two.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Body, Key, ObjectMeta, PutMode, Store, StoreError};

/// Requests at a time in one process: as many as a restore may ask for.
const REQUESTS: usize = 256;
/// What a small limit of open files leaves for requests.
const PART_OF_DESCRIPTORS: u64 = 8;

static GATE: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(requests()));

fn requests() -> usize {
    let descriptors =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(descriptors / PART_OF_DESCRIPTORS).map_or(REQUESTS, |some| some.clamp(8, REQUESTS))
}

/// A store whose requests wait until few enough are under way.
#[derive(Debug)]
pub struct Gated {
    inner: Arc<dyn Store>,
}

impl Gated {
    pub fn new(inner: Arc<dyn Store>) -> Gated {
        Gated { inner }
    }
}

async fn pass() -> SemaphorePermit<'static> {
    GATE.acquire().await.expect("it is never closed")
}

#[async_trait]
impl Store for Gated {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        let _permit = pass().await;
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let _permit = pass().await;
        self.inner.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        let _permit = pass().await;
        self.inner.list(prefix, after).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let _permit = pass().await;
        self.inner.list_folders(folder).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let _permit = pass().await;
        self.inner.delete(keys).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
