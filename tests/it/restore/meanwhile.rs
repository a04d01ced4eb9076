//! Restores while retention deletes: a kept commit is exact, and one that is not kept is refused as such. Neither is damage.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use replicate::error::ExitCode;
use replicate::layout::{Level, ObjectName};
use replicate::replica::Replica;
use replicate::store::{Body, Key, ObjectMeta, PutMode, StoreError};

use super::compaction::{inventory, is_needed, of_level, raise};
use super::damage::copy;
use super::history::Random;
use super::*;

/// Deletes one object more at every so many requests, from some request on.
#[derive(Debug)]
struct Pruned {
    inner: Arc<dyn Store>,
    doomed: Mutex<Vec<Key>>,
    requests: AtomicU64,
    from: u64,
    every: u64,
}

impl Pruned {
    /// `doomed` from its end on.
    fn new(inner: Arc<dyn Store>, doomed: Vec<Key>, from: u64, every: u64) -> Pruned {
        Pruned { inner, doomed: Mutex::new(doomed), requests: AtomicU64::new(0), from, every }
    }

    async fn tick(&self) {
        let request = self.requests.fetch_add(1, Ordering::SeqCst);
        if request >= self.from && (request - self.from).is_multiple_of(self.every) {
            let key = self.doomed.lock().expect("no test panicked").pop();
            self.inner.delete(key.as_slice()).await.expect("deleted");
        }
    }
}

#[async_trait]
impl Store for Pruned {
    async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.tick().await;
        self.inner.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        self.tick().await;
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

/// Restores these points in turn: each is exact, or refused because nothing keeps it.
async fn exact_or_gone(store: &Arc<dyn Store>, model: &GenerationModel, points: &[(String, u64)], what: &str) -> usize {
    let (folder, mut right) = (scratch(), 0);
    for (at, txid) in points {
        match bytes_at(store, folder.path(), at).await {
            Ok(bytes) => {
                assert!(bytes == model.at(*txid).content, "{what}, {at}: wrong bytes");
                right += 1;
            }
            Err(error) => assert_eq!(error.exit(), ExitCode::NothingToRestore, "{what}, {at}: {}", error.report()),
        }
    }
    right
}

/// Every commit by its name, and every one by its moment where no later one shares it.
fn points(model: &GenerationModel) -> Vec<(String, u64)> {
    let names =
        model.states.iter().map(|state| (format!("{}/{}", model.generation, state.commit.txid.0), state.commit.txid.0));
    let moments = model
        .states
        .windows(2)
        .filter(|two| two[0].commit.time < two[1].commit.time)
        .map(|two| (replicate::restore::point::format_time(two[0].commit.time), two[0].commit.txid.0));
    names.chain(moments).collect()
}

/// However far the deletion of what was merged has come, and wherever it was interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_28_what_is_half_pruned_is_not_damaged() {
    let (mut right, mut all) = (0, 0);
    for seed in 720..724 {
        let writer = history(seed, 1, 60).await;
        let (store, model, mut random) = (store_of(&writer), writer.model(), Random(seed));
        for level in 1..=2 {
            raise(&store, model.generation, level, &mut random).await;
        }
        let held = inventory(&store, model.generation).await;
        let merged = of_level(&held, 2).last().map_or(Txid::ZERO, |segment| segment.name.last);
        let covered = held.segments.iter().map(|s| s.name).filter(|name| name.level < Level(2) && name.last <= merged);
        let covered = covered.filter(|name| !is_needed(model, name));
        let mut doomed: Vec<Key> = covered.map(|name| ObjectName::Segment(name).key()).collect();
        while let Some(key) = doomed.pop() {
            // From either end, so that what is left lies before and after what is gone.
            let key = if random.one_in(2) && !doomed.is_empty() { std::mem::replace(&mut doomed[0], key) } else { key };
            store.delete(&[key]).await.expect("deleted");
            let points = points(model);
            right += exact_or_gone(&store, model, &points, &format!("seed {seed}, {} left", doomed.len())).await;
            all += points.len();
        }
    }
    assert!(right > all / 4 && right < all, "{right} of {all}");
}

/// Snapshots, and the segments before those that are left, vanish in the middle of planning and of restoring.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_28_what_vanishes_meanwhile_is_not_damage() {
    let (mut right, mut all) = (0, 0);
    for seed in 730..734 {
        let writer = history(seed, 1, 40).await;
        let model = writer.model();
        let held = inventory(&store_of(&writer), model.generation).await;
        let snapshots = Replica::new(store_of(&writer)).snapshots(model.generation).await.expect("listed");
        let Some(kept) = snapshots.last() else { continue };
        let gone =
            snapshots.iter().filter(|s| s.name.txid < kept.name.txid).map(|s| ObjectName::Snapshot(s.name).key());
        let before = held.segments.iter().map(|s| s.name).filter(|name| name.last.0 + 5 < kept.name.txid.0);
        // Taken from the end: snapshots first, as retention does.
        let mut doomed: Vec<Key> = before.rev().map(|name| ObjectName::Segment(name).key()).collect();
        doomed.extend(gone);
        for from in 0..24 {
            for point in points(model).into_iter().step_by(5) {
                let copied: Arc<dyn Store> = copy(&*writer.store).await;
                let store: Arc<dyn Store> = Arc::new(Pruned::new(copied, doomed.clone(), from, 1 + from % 2));
                let what = format!("seed {seed}, from request {from}");
                right += exact_or_gone(&store, model, std::slice::from_ref(&point), &what).await;
                all += 1;
            }
        }
    }
    assert!(right > all / 4 && right < all, "{right} of {all}");
}
