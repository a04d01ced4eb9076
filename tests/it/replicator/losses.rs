//! Ways in which tools of this kind have lost what was captured on its way into the replica: docs/known-losses.md.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use replicate::layout::ObjectName;
use replicate::position::TimeMs;
use replicate::replica::Replica;
use replicate::replicator::Replicator;
use replicate::status::{ReplicaState, State};
use replicate::store::{self, Body, Key, ObjectMeta, Outcome, PutMode, Secret, Store, StoreError, StoreOptions};

use super::rig::{LONG, Rig, TestStore, newest, restore};
use crate::s3_server::{S3Server, SESSION_ACCESS_KEY, SESSION_TOKEN};
use crate::small_disk::SmallDisk;

/// A store that never takes one object, the first segment that it is asked to take while it is stuck, and any other one.
#[derive(Debug)]
struct StuckStore {
    inner: TestStore,
    is_stuck: AtomicBool,
    refused: Mutex<Option<Key>>,
    refusals: AtomicU64,
}

#[async_trait]
impl Store for StuckStore {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        let is_segment = matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Segment(_)));
        if is_segment && self.is_stuck.load(Ordering::SeqCst) {
            let refused = self.refused.lock().expect("not poisoned").get_or_insert_with(|| key.clone()).clone();
            if refused == *key {
                self.refusals.fetch_add(1, Ordering::SeqCst);
                return Err(StoreError::new(Outcome::Unavailable, "put", key.as_str(), "stuck"));
            }
        }
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<std::ops::Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, after).await
    }

    async fn list_folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list_folders(folder).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        self.inner.delete(keys).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

fn start(rig: &Rig, store: Arc<dyn Store>) -> Replicator {
    let replicas = vec![("replica".to_owned(), store)];
    Replicator::start(rig.settings.clone(), rig.engine(), replicas, rig.clock()).expect("started")
}

async fn segments(store: &dyn Store) -> Vec<Key> {
    let objects = store.list("", None).await.expect("listed").into_iter().map(|object| object.key);
    objects.filter(|key| matches!(ObjectName::parse(key.as_str()), Some(ObjectName::Segment(_)))).collect()
}

/// Segments that wait in the spool.
fn spooled(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { spooled(&path) } else { 1 }).sum()
}

/// While one segment cannot be put, no later one is, although the store would take it; afterwards none is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_12_nothing_is_shipped_around_a_failing_segment() {
    let rig = Rig::new(1);
    let inner = rig.stores[0].clone();
    let (is_stuck, refused, refusals) = (AtomicBool::new(false), Mutex::default(), AtomicU64::new(0));
    let store = Arc::new(StuckStore { inner, is_stuck, refused, refusals });
    let replicator = start(&rig, store.clone());
    let first = replicator.settle(LONG).await.expect("settled");
    let before = segments(&*store).await;
    store.is_stuck.store(true, Ordering::SeqCst);
    for n in 1..=8u64 {
        rig.database.commit(&[(n % 3, n as u8 + 60)], 4);
        // A segment of its own for each.
        while spooled(&rig.state_dir().join("spool")) < n as usize {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    while store.refusals.load(Ordering::SeqCst) < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = replicator.status().snapshot();
    assert_eq!((status.captured.0, status.replicas[0].shipped), (first.txid.0 + 8, first));
    assert_eq!(segments(&*store).await, before);
    store.is_stuck.store(false, Ordering::SeqCst);
    let last = replicator.sync(LONG).await.expect("synced");
    assert_eq!(segments(&*store).await.len(), before.len() + 8);
    assert!(segments(&*store).await.contains(&store.refused.lock().expect("not poisoned").clone().expect("one")));
    assert_eq!(newest(&rig.stores[0]).await, (last, rig.database.content()));
    assert_eq!(replicator.status().snapshot().gaps_total, 0);
    replicator.stop(LONG).await;
}

/// A disk without any room under the spool: capture lets go and says so, and with room again it goes on; nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_18_a_disk_that_is_really_full() {
    let Some(disk) = SmallDisk::mount("loss_18_a_disk_that_is_really_full", 1 << 20) else { return };
    let mut rig = Rig::new(1);
    rig.settings.state_dir = disk.path().join("state");
    let replicator = rig.start();
    let before = replicator.settle(LONG).await.expect("settled");
    let filler = disk.fill();
    for n in 0..4u64 {
        rig.database.commit(&[(n, n as u8 + 90)], 4);
    }
    replicator.status().wait_for(|status| matches!(status.state, State::SpoolFull { .. })).await;
    assert!(replicator.sync(Duration::from_millis(100)).await.is_err(), "what is nowhere is not synced");
    rig.database.commit(&[(0, 99)], 5);
    std::fs::remove_file(filler).expect("removed");
    let after = tokio::time::timeout(LONG, replicator.sync(LONG)).await.expect("it ends").expect("synced");
    assert_eq!((after.generation, after.txid > before.txid), (before.generation, true));
    assert_eq!(rig.restore(0).await, rig.database.content());
    assert!(replicator.stop(LONG).await.is_complete());
}

/// The clock jumps two years forward and then back to before everything, with restarts and with local state lost: times of
/// commits never go back, and a generation that begins then comes after the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_20_jumps_of_the_clock_do_not_reorder() {
    let rig = Rig::new(1);
    let store: Arc<dyn Store> = Arc::new(rig.stores[0].clone());
    let replica = Replica::new(store.clone());
    let first = rig.once().await;
    let mut times = Vec::new();
    for (round, clock) in [60_000_000_000, 500, 400, 300].into_iter().enumerate() {
        rig.clock.store(clock, Ordering::SeqCst);
        rig.database.commit(&[(round as u64, 100 + round as u8)], 4);
        if round == 2 {
            std::fs::remove_dir_all(rig.state_dir()).expect("removed");
        }
        let place = rig.once().await;
        assert_eq!(place.generation, first.generation);
        assert_eq!(newest(&rig.stores[0]).await, (place, rig.database.content()));
    }
    for listed in replica.inventory(first.generation).await.expect("listed").segments {
        let index = replica.read_index(listed).await.expect("an index");
        times.extend(index.commits.iter().map(|entry| (entry.commit.txid, entry.commit.time)));
    }
    times.sort_unstable();
    assert!(times.len() >= 5 && times.is_sorted_by_key(|(_, time)| *time), "{times:?}");
    assert!(times.iter().any(|(_, time)| *time >= TimeMs(60_000_000_000)));
    // Nothing tells where to go on: without a snapshot there is no page map, so a new generation begins.
    std::fs::remove_dir_all(rig.state_dir()).expect("removed");
    let snapshots = replica.snapshots(first.generation).await.expect("listed").into_iter();
    let snapshots: Vec<Key> = snapshots.map(|listed| ObjectName::Snapshot(listed.name).key()).collect();
    store.delete(&snapshots).await.expect("deleted");
    rig.clock.store(200, Ordering::SeqCst);
    let place = rig.once().await;
    assert!(place.generation > first.generation, "{} {}", place.generation, first.generation);
    assert_eq!(newest(&rig.stores[0]).await, (place, rig.database.content()));
}

/// A bucket that disappears under a running replicator and credentials that expire: told while it lasts, and when they are
/// back nothing is missing, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_21_a_lost_bucket_and_expired_credentials_are_survived() {
    let server = S3Server::start(12);
    let options = StoreOptions {
        access_key_id: Some(SESSION_ACCESS_KEY.to_owned()),
        session_token: Some(Secret::new(SESSION_TOKEN)),
        request_timeout: Some(Duration::from_secs(2)),
        max_retries: Some(1),
        ..server.options()
    };
    let rig = Rig::new(0);
    let store = store::open(&server.url("p"), &options).expect("opened");
    let replicator = start(&rig, store.clone());
    let mut before = replicator.settle(LONG).await.expect("settled");
    let bucket = |there: bool| server.set_bucket_exists(there);
    let credentials = |good: bool| server.set(|manners| &manners.session_expired, !good);
    let troubles: [&dyn Fn(bool); 2] = [&bucket, &credentials];
    for (round, trouble) in troubles.into_iter().enumerate() {
        trouble(false);
        rig.database.commit(&[(round as u64, 70 + round as u8)], 4);
        let is_told = |state: &ReplicaState| matches!(state, ReplicaState::Unreachable(_));
        replicator.status().wait_for(|status| is_told(&status.replicas[0].state)).await;
        assert_eq!(replicator.status().snapshot().replicas[0].shipped, before);
        trouble(true);
        let after = replicator.sync(LONG).await.expect("synced");
        assert_eq!((after.generation, after.txid.0), (before.generation, before.txid.0 + 1));
        let restored = restore(&Replica::new(store.clone()), after.generation, after.txid).await;
        assert_eq!(restored, rig.database.content());
        before = after;
    }
    assert_eq!(server.overwrites(), 0);
    replicator.stop(LONG).await;
}
