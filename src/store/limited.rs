//! A store that knows no traffic of its own (a directory, memory): each call is one request, and its bytes wait before they go.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::limits::Unit;
use super::requests::Kind;
use super::traffic::Traffic;
use super::{Body, Key, ObjectMeta, PutMode, Store, StoreError};

/// Around a store whose calls go through `Traffic` as a whole.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Store>,
    traffic: Arc<Traffic>,
}

impl Limited {
    pub fn new(inner: Arc<dyn Store>, traffic: Arc<Traffic>) -> Limited {
        Limited { inner, traffic }
    }
}

#[async_trait]
impl Store for Limited {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        self.traffic.request(Kind::Put).await;
        self.traffic.moved_all(Unit::Upload, body.len()).await;
        self.inner.put(key, body, mode).await
    }

    /// How much it will be is only known afterwards: whoever asks next waits for it.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.traffic.request(Kind::Get).await;
        let bytes = self.inner.get(key, range).await?;
        self.traffic.moved_all(Unit::Download, bytes.len() as u64).await;
        Ok(bytes)
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.traffic.request(Kind::List).await;
        self.inner.list(prefix, after).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.traffic.request(Kind::List).await;
        self.inner.list_folders(folder).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.traffic.request(Kind::Delete).await;
        self.inner.delete(keys).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
