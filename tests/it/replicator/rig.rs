//! A replicator over a fake database, and what its replicas hold.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use replicate::position::{TimeMs, Txid};
use replicate::replica::{Replica, newest_snapshot};
use replicate::replicator::{Replicator, Settings};
use replicate::segment::{Layers, Op, decode_part, decode_patch, pieces_over};
use replicate::status::{Clock, Place};
use replicate::store::memory::MemoryStore;
use replicate::store::{Body, Key, ObjectMeta, Outcome, PutMode, Requests, Store, StoreError, requests};

use super::fake::{FakeDatabase, FakeEngine};

/// Longer than anything takes; only a failing test waits for it.
pub const LONG: Duration = Duration::from_secs(60);

/// A store that can be made to fail, and that counts.
#[derive(Debug, Clone)]
pub struct TestStore {
    inner: Arc<requests::Counted>,
    pub requests: Arc<Requests>,
    /// Nothing answers.
    pub is_down: Arc<AtomicBool>,
    /// So many parts are put, and then nothing answers.
    pub parts_left: Arc<AtomicU64>,
    /// So many puts succeed and their answers are lost.
    pub lost_answers: Arc<AtomicU64>,
    /// No object with this in its name is put.
    refused: Arc<Mutex<Option<String>>>,
    /// Lists of parts that were put or are about to be; none is while somebody else writes here.
    pub snapshots_begun: Arc<AtomicU64>,
    pub snapshots: Arc<tokio::sync::RwLock<()>>,
}

impl TestStore {
    pub fn new() -> TestStore {
        let requests = Arc::new(Requests::default());
        let inner = Arc::new(requests::Counted::new(Arc::new(MemoryStore::new()), requests.clone()));
        let parts_left = Arc::new(AtomicU64::new(u64::MAX));
        let (is_down, lost_answers, refused) = (Arc::default(), Arc::default(), Arc::default());
        let (snapshots_begun, snapshots) = (Arc::default(), Arc::default());
        TestStore { inner, requests, is_down, parts_left, lost_answers, refused, snapshots_begun, snapshots }
    }

    pub fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    pub fn refuse(&self, part_of_names: &str) {
        *self.refused.lock().expect("nobody panicked") = Some(part_of_names.to_owned());
    }

    pub fn puts(&self) -> u64 {
        self.requests.count(requests::Operation::Put, None)
    }

    fn fail(&self, operation: &'static str, key: &str) -> Result<(), StoreError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(StoreError::new(Outcome::Unavailable, operation, key, "down"));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for TestStore {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        let take = |left: u64| left.checked_sub(1);
        if key.as_str().contains("/part/")
            && self.parts_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err()
        {
            self.set_down(true);
        }
        self.fail("put", key.as_str())?;
        if self.refused.lock().expect("nobody panicked").as_ref().is_some_and(|part| key.as_str().contains(part)) {
            return Err(StoreError::new(Outcome::Unavailable, "put", key, "refused"));
        }
        if key.as_str().contains("/snapshot/") {
            self.snapshots_begun.fetch_add(1, Ordering::SeqCst);
            drop(self.snapshots.read().await);
        }
        self.inner.put(key, body, mode).await?;
        if self.lost_answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Err(StoreError::new(Outcome::Unavailable, "put", key, "the answer was lost"));
        }
        Ok(())
    }

    async fn get(&self, key: &Key, range: Option<std::ops::Range<u64>>) -> Result<Bytes, StoreError> {
        self.fail("get", key.as_str())?;
        self.inner.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.fail("list", prefix)?;
        self.inner.list(prefix, after).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.fail("list", folder)?;
        self.inner.list_folders(folder).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.inner.delete(keys).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// A database with its state directory and replicas.
pub struct Rig {
    pub directory: tempfile::TempDir,
    pub database: FakeDatabase,
    pub stores: Vec<TestStore>,
    pub settings: Settings,
    pub clock: Arc<AtomicU64>,
}

impl Rig {
    pub fn new(replicas: usize) -> Rig {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fake.db");
        std::fs::write(&path, b"").expect("written");
        let mut settings = Settings::new(path);
        settings.sync_interval = Duration::from_millis(5);
        settings.poll_interval = Duration::from_millis(5);
        let database = FakeDatabase::default();
        database.commit(&[(0, 1), (1, 2)], 4);
        let stores = (0..replicas).map(|_| TestStore::new()).collect();
        Rig { directory, database, stores, settings, clock: Arc::new(AtomicU64::new(1_000_000)) }
    }

    pub fn clock(&self) -> Clock {
        let clock = self.clock.clone();
        Arc::new(move || TimeMs(clock.fetch_add(1, Ordering::SeqCst)))
    }

    pub fn engine(&self) -> Arc<FakeEngine> {
        Arc::new(FakeEngine(self.database.clone()))
    }

    pub fn replicas(&self) -> Vec<(String, Arc<dyn Store>)> {
        let named =
            |(n, store): (usize, &TestStore)| (format!("replica {n}"), Arc::new(store.clone()) as Arc<dyn Store>);
        self.stores.iter().enumerate().map(named).collect()
    }

    pub fn start(&self) -> Replicator {
        Replicator::start(self.settings.clone(), self.engine(), self.replicas(), self.clock()).expect("started")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.settings.state_dir.clone()
    }

    /// Starts, lets everything get into every replica, and stops.
    pub async fn once(&self) -> Place {
        let replicator = self.start();
        let place = replicator.settle(LONG).await.expect("settled");
        assert!(replicator.stop(LONG).await.is_complete());
        place
    }

    pub async fn restore(&self, store: usize) -> Vec<u8> {
        newest(&self.stores[store]).await.1
    }
}

/// The newest commit that a replica holds, and the database as of it: proven against the recorded checksum.
pub async fn newest(store: &TestStore) -> (Place, Vec<u8>) {
    let replica = Replica::new(Arc::new(store.clone()));
    let generation = *replica.generations().await.expect("listed").last().expect("a generation");
    let inventory = replica.inventory(generation).await.expect("listed");
    let newest = inventory.newest.expect("a commit").txid;
    let content = restore(&replica, generation, newest).await;
    (Place { generation, txid: newest }, content)
}

/// The database as of a commit, through the stored format alone.
pub async fn restore(replica: &Replica, generation: replicate::position::Generation, target: Txid) -> Vec<u8> {
    let inventory = replica.inventory(generation).await.expect("listed");
    let snapshot = newest_snapshot(&inventory, target).expect("a snapshot").name;
    let (manifest, _) = replica.read_manifest(snapshot).await.expect("a manifest");
    let mut content = Vec::new();
    let write = |content: &mut Vec<u8>, offset: u64, data: &[u8]| {
        let (start, end) = (offset as usize, offset as usize + data.len());
        content.resize(content.len().max(end), 0);
        content[start..end].copy_from_slice(data);
    };
    for part in &manifest.parts {
        let object = replica.read_part(generation, part.hash).await.expect("a part");
        decode_part(&object, part, |extent| {
            write(&mut content, extent.offset, extent.data);
            Ok(())
        })
        .expect("a whole part");
    }
    let Layers { patches, over, .. } = &manifest.layers;
    for (number, patch) in patches.iter().enumerate() {
        let object = replica.read_part(generation, patch.hash).await.expect("a patch");
        decode_patch(&object, patch, |extent| {
            pieces_over(&manifest.parts, over, number, extent, |piece| {
                write(&mut content, piece.offset, piece.data);
                Ok(())
            })
        })
        .expect("a whole patch");
    }
    let mut last = manifest.commit.clone();
    content.resize(last.lengths.main as usize, 0);
    let chain = inventory.chain(manifest.base, target).expect("no gap");
    for listed in chain {
        let reader = replica.read_segment(listed.name).await.expect("a segment");
        // The commit that comes next: transactions up to the base are in the parts, and lengths between them are not known.
        let mut next = reader.index().commits[0].commit.txid;
        for block in reader.blocks() {
            for op in block.expect("a block").ops() {
                match op.expect("an operation") {
                    Op::Extent(extent) if next > manifest.base && next <= target => {
                        write(&mut content, extent.offset, extent.data);
                    }
                    Op::Commit(txid) if txid <= manifest.base => next = Txid(txid.0 + 1),
                    Op::Commit(txid) if txid <= target => {
                        next = Txid(txid.0 + 1);
                        last = reader.index().commit(txid).expect("in the index").commit.clone();
                        content.resize(last.lengths.main as usize, 0);
                        if txid == target {
                            return proven(content, &last);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    proven(content, &last)
}

fn proven(content: Vec<u8>, commit: &replicate::position::Commit) -> Vec<u8> {
    let hashes = content.chunks(super::fake::PAGE).zip(0u64..);
    let sum = hashes.fold(0, |sum, (data, page)| sum ^ replicate::checksum::page_hash(page, data));
    assert_eq!(sum, commit.checksum, "the checksum of commit {}", commit.txid.0);
    content
}
