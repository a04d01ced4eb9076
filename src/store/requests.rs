//! Counts what a store is asked and how it answers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::limits::Unit;
use super::{Body, Key, ObjectMeta, Outcome, PutMode, Store, StoreError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Put,
    Get,
    List,
    Delete,
}

impl Operation {
    pub const ALL: [Operation; 4] = [Operation::Put, Operation::Get, Operation::List, Operation::Delete];

    pub fn name(self) -> &'static str {
        ["put", "get", "list", "delete"][self as usize]
    }
}

/// One request of the protocol, as a store counts and bills it: a listing sends one for each page, a large object one for each
/// of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    CreateUpload,
    UploadPart,
    CompleteUpload,
    AbortUpload,
    Get,
    Head,
    List,
    Delete,
    DeleteMany,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::Put,
        Kind::CreateUpload,
        Kind::UploadPart,
        Kind::CompleteUpload,
        Kind::AbortUpload,
        Kind::Get,
        Kind::Head,
        Kind::List,
        Kind::Delete,
        Kind::DeleteMany,
    ];

    pub fn name(self) -> &'static str {
        const NAMES: [&str; Kind::ALL.len()] = [
            "put",
            "create-upload",
            "upload-part",
            "complete-upload",
            "abort-upload",
            "get",
            "head",
            "list",
            "delete",
            "delete-many",
        ];
        NAMES[self as usize]
    }
}

/// How an attempt ended: `None` is success.
pub type Ending = Option<Outcome>;

/// Every ending, with its name in metrics.
pub const ENDINGS: [(Ending, &str); 6] = [
    (None, "ok"),
    (Some(Outcome::NotFound), "not_found"),
    (Some(Outcome::AlreadyExists), "already_exists"),
    (Some(Outcome::Denied), "denied"),
    (Some(Outcome::Unavailable), "unavailable"),
    (Some(Outcome::Invalid), "invalid"),
];

/// Upper bounds of the buckets of durations; a last one holds what took longer.
pub const DURATION_BOUNDS: [Duration; 11] = {
    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    [ms(1), ms(3), ms(10), ms(30), ms(100), ms(300), ms(1_000), ms(3_000), ms(10_000), ms(30_000), ms(100_000)]
};

/// Attempts by operation: each retry counts, a listing counts once however many pages it has. And beside them what really went
/// to the store: by kind, every single request.
#[derive(Debug)]
pub struct Requests {
    attempts: [OfOperation; 4],
    sent: [AtomicU64; Kind::ALL.len()],
    /// Bytes of bodies on their way, whatever became of them: sent, and received.
    moved: [AtomicU64; 2],
    waited_nanos: AtomicU64,
    since: Instant,
}

impl Default for Requests {
    fn default() -> Self {
        let (attempts, sent, moved, waited_nanos) = Default::default();
        Requests { attempts, sent, moved, waited_nanos, since: Instant::now() }
    }
}

#[derive(Debug, Default)]
struct OfOperation {
    endings: [AtomicU64; ENDINGS.len()],
    nanos: AtomicU64,
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
    /// Bytes of bodies sent or received with success.
    bytes: AtomicU64,
}

impl Requests {
    pub fn count(&self, operation: Operation, ending: Ending) -> u64 {
        self.of(operation).endings[index(ending)].load(Ordering::Relaxed)
    }

    pub fn total(&self) -> u64 {
        self.attempts.iter().flat_map(|of| &of.endings).map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Requests of a kind that went to the store.
    pub fn of_kind(&self, kind: Kind) -> u64 {
        self.sent[kind as usize].load(Ordering::Relaxed)
    }

    /// Bytes of bodies that were sent or received, those of failed attempts included.
    pub fn bytes_moved(&self, unit: Unit) -> u64 {
        self.moved.get(unit as usize).map_or(0, |bytes| bytes.load(Ordering::Relaxed))
    }

    /// How long requests and bytes have waited for their limits, all together.
    pub fn waiting_time(&self) -> Duration {
        Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed))
    }

    /// How long has been counted.
    pub fn counted_for(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn sent(&self, kind: Kind) {
        self.sent[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, unit: Unit, bytes: u64) {
        if let Some(moved) = self.moved.get(unit as usize) {
            moved.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn waited(&self, time: Duration) {
        self.waited_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Bytes of bodies put or got with success.
    pub fn bytes(&self, operation: Operation) -> u64 {
        self.of(operation).bytes.load(Ordering::Relaxed)
    }

    /// Time spent in all attempts.
    pub fn time(&self, operation: Operation) -> Duration {
        Duration::from_nanos(self.of(operation).nanos.load(Ordering::Relaxed))
    }

    /// Attempts by duration: one count per bound of `DURATION_BOUNDS` and one for what took longer. Not cumulative.
    pub fn durations(&self, operation: Operation) -> [u64; DURATION_BOUNDS.len() + 1] {
        std::array::from_fn(|i| self.of(operation).buckets[i].load(Ordering::Relaxed))
    }

    fn of(&self, operation: Operation) -> &OfOperation {
        &self.attempts[operation as usize]
    }

    fn record<T>(&self, operation: Operation, began: Instant, bytes: u64, result: &Result<T, StoreError>) {
        let (of, took) = (self.of(operation), began.elapsed());
        let bucket = DURATION_BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(DURATION_BOUNDS.len());
        of.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        of.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let ending = result.as_ref().err().map(|e| e.outcome);
        of.endings[index(ending)].fetch_add(1, Ordering::Relaxed);
        if result.is_ok() {
            of.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

fn index(ending: Ending) -> usize {
    ENDINGS.iter().position(|(known, _)| *known == ending).expect("every ending is in the table")
}

/// A store whose attempts are counted.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Store>,
    requests: Arc<Requests>,
}

impl Counted {
    pub fn new(inner: Arc<dyn Store>, requests: Arc<Requests>) -> Counted {
        Counted { inner, requests }
    }
}

#[async_trait]
impl Store for Counted {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        let (began, bytes) = (Instant::now(), body.len());
        let done = self.inner.put(key, body, mode).await;
        self.requests.record(Operation::Put, began, bytes, &done);
        done
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let began = Instant::now();
        let done = self.inner.get(key, range).await;
        self.requests.record(Operation::Get, began, done.as_ref().map_or(0, |b| b.len() as u64), &done);
        done
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        let began = Instant::now();
        let done = self.inner.list(prefix, after).await;
        self.requests.record(Operation::List, began, 0, &done);
        done
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let began = Instant::now();
        let done = self.inner.list_folders(folder).await;
        self.requests.record(Operation::List, began, 0, &done);
        done
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let began = Instant::now();
        let done = self.inner.delete(keys).await;
        self.requests.record(Operation::Delete, began, 0, &done);
        done
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    /// Every attempt is counted once, under its operation and its ending.
    #[tokio::test]
    async fn counts_by_operation_and_ending() {
        let requests = Arc::new(Requests::default());
        let store = Counted::new(Arc::new(MemoryStore::new()), requests.clone());
        let key = Key::new("a").unwrap();
        assert_eq!(requests.total(), 0);
        for _ in 0..2 {
            let _ = store.put(&key, Body::Bytes("abc".into()), PutMode::Create).await;
        }
        store.get(&key, Some(0..2)).await.unwrap();
        let _ = store.get(&Key::new("b").unwrap(), None).await;
        store.list("", None).await.unwrap();
        assert_eq!(requests.count(Operation::Put, None), 1);
        assert_eq!(requests.count(Operation::Put, Some(Outcome::AlreadyExists)), 1);
        assert_eq!(requests.count(Operation::Get, Some(Outcome::NotFound)), 1);
        assert_eq!((requests.bytes(Operation::Put), requests.bytes(Operation::Get)), (3, 2));
        assert_eq!(requests.total(), 5);
        assert_eq!(requests.durations(Operation::Get).iter().sum::<u64>(), 2);
    }
}
