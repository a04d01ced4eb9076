//! Compaction in a running replicator: every level, killed anywhere, with inputs that are missing or damaged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replicate::checksum::page_hash;
use replicate::compaction::Policy;
use replicate::inventory::{Inventory, Listed};
use replicate::layout::{Level, ObjectName, SegmentName};
use replicate::position::{Generation, TimeMs, Txid};
use replicate::replica::Replica;
use replicate::replicator::Replicator;
use replicate::restore::Reading;
use replicate::segment::SegmentReader;
use replicate::status::Place;
use replicate::store::Store;
use replicate::verify::{Verification, verify};

mod faults;

use super::rig::{LONG, Rig, TestStore, restore};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// Levels after a few commits instead of after many.
pub fn rig() -> Rig {
    let mut rig = Rig::new(1);
    rig.settings.compaction = Policy { join_segments: 4, ..Policy::default() };
    // One at the beginning: the way from it is what is compacted.
    rig.settings.snapshots.interval = Duration::from_secs(1 << 30);
    rig
}

fn replica(store: &TestStore) -> Replica {
    Replica::new(Arc::new(store.clone()))
}

async fn inventory(store: &TestStore, generation: Generation) -> Inventory {
    replica(store).inventory(generation).await.expect("listed")
}

fn of_level(inventory: &Inventory, level: u8) -> Vec<Listed<SegmentName>> {
    inventory.segments.iter().filter(|segment| segment.name.level == Level(level)).copied().collect()
}

/// One commit of its own segment.
async fn commit(rig: &Rig, replicator: &Replicator, n: u64) -> Place {
    rig.database.commit(&[(n % 5, n as u8 | 1), (n % 7, n as u8 | 2)], 5 + n % 4);
    replicator.sync(LONG).await.expect("synced")
}

/// The end of a level, when it is there.
async fn compacted_to(replicator: &Replicator, level: usize, txid: Txid) {
    let is_there = |status: &replicate::status::StatusSnapshot| status.replicas[0].compacted[level - 1].1 >= txid;
    tokio::time::timeout(LONG, replicator.status().wait_for(is_there)).await.expect("compacted in time");
}

async fn remove(store: &TestStore, segments: &[Listed<SegmentName>]) {
    let keys: Vec<_> = segments.iter().map(|segment| ObjectName::Segment(segment.name).key()).collect();
    store.delete(&keys).await.expect("deleted");
}

async fn is_sound(store: &TestStore) {
    nothing_is_found(Arc::new(store.clone()), TimeMs(0)).await;
}

/// Reading everything finds nothing wrong.
pub async fn nothing_is_found(store: Arc<dyn Store>, now: TimeMs) {
    let how = Verification {
        deep: true,
        sample: None,
        max_age: None,
        shipped: None,
        jobs: 2,
        now,
        progress: Arc::new(replicate::restore::Silent),
    };
    let report = verify(&Reading::new(store), &how).await.expect("verified");
    assert_eq!(report.findings, []);
}

/// The content of commit n is that of the n + 1st state in the ledger: the first was there before.
async fn every_commit_is_exact(rig: &Rig, generation: Generation, from: u64, to: u64) {
    let ledger = rig.database.lock().ledger.clone();
    for txid in from..=to {
        let content = restore(&replica(&rig.stores[0]), generation, Txid(txid)).await;
        assert_eq!(page_hash(0, &content), ledger[txid as usize - 1], "commit {txid}");
    }
}

/// What is shipped is joined, hours and days are merged, every commit stays exact all the while; and when each level is
/// alone in the replica, everything that it is to hold can still be restored from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_level_is_made_and_restores() {
    let rig = rig();
    let replicator = rig.start();
    let first = replicator.settle(LONG).await.expect("settled");
    for n in 2..=60u64 {
        if n % 10 == 0 {
            // Commits 10, 20, … begin an hour, and 40 the next day.
            rig.clock.fetch_add(if n == 40 { 24 * HOUR_MS } else { HOUR_MS }, Ordering::SeqCst);
        }
        commit(&rig, &replicator, n).await;
        if n % 13 == 0 {
            every_commit_is_exact(&rig, first.generation, first.txid.0, n).await;
        }
    }
    compacted_to(&replicator, 3, Txid(30)).await;
    compacted_to(&replicator, 2, Txid(45)).await;
    compacted_to(&replicator, 1, Txid(57)).await;
    assert!(replicator.stop(LONG).await.is_complete());
    let store = &rig.stores[0];
    let held = inventory(store, first.generation).await;
    assert_eq!((held.gaps(), held.newest.map(|newest| newest.txid)), (vec![], Some(Txid(60))));
    every_commit_is_exact(&rig, first.generation, 1, 60).await;
    is_sound(store).await;
    // Where a level ends, the one below it goes on.
    let end = |level| of_level(&held, level).last().map_or(Txid::ZERO, |segment| segment.name.last);
    let covered = |level: u8| of_level(&held, level).into_iter().filter(move |s| s.name.last <= end(level + 1));
    remove(store, &covered(0).collect::<Vec<_>>()).await;
    every_commit_is_exact(&rig, first.generation, 1, 60).await;
    is_sound(store).await;
    for level in [1, 2] {
        remove(store, &covered(level).collect::<Vec<_>>()).await;
        let left = inventory(store, first.generation).await;
        assert_eq!(left.gaps(), [], "without level {level}");
        for segment in left.segments.iter().filter(|segment| segment.name.level.0 > 1) {
            let last = segment.name.last.0;
            every_commit_is_exact(&rig, first.generation, last, last).await;
        }
        every_commit_is_exact(&rig, first.generation, end(2).0, 60).await;
        is_sound(store).await;
    }
    // The way to the newest commit is short.
    let left = inventory(store, first.generation).await;
    let chain = left.chain(Txid(1), Txid(60)).expect("no gap");
    assert!(chain.len() <= 20 && chain.iter().any(|s| s.name.level == Level(3)), "{chain:?}");
}

/// A process that goes on where another one stopped compacts what that one left, under its own term, and what it finds
/// compacted already is not made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_goes_on() {
    let rig = rig();
    let mut generation = Generation(0);
    for round in 0..4u64 {
        let replicator = rig.start();
        replicator.settle(LONG).await.expect("settled");
        for n in 0..5 {
            generation = commit(&rig, &replicator, round * 5 + n).await.generation;
        }
        let at_least = Txid((round * 5 + 1).saturating_sub(3));
        compacted_to(&replicator, 1, at_least).await;
        replicator.stop(LONG).await;
    }
    let held = inventory(&rig.stores[0], generation).await;
    let joined = of_level(&held, 1);
    for pair in joined.windows(2) {
        assert_eq!(pair[0].name.last.next(), pair[1].name.first, "joined once, without a hole");
        assert!(pair[0].name.term <= pair[1].name.term);
    }
    assert_eq!((held.dead_segments.len(), held.gaps()), (0, vec![]));
    let newest = held.newest.expect("commits").txid.0;
    every_commit_is_exact(&rig, generation, 1, newest).await;
    is_sound(&rig.stores[0]).await;
}

/// After the work there is quiet: an idle database causes no request, however much time passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_is_not_compacted() {
    let rig = rig();
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    for n in 0..11 {
        commit(&rig, &replicator, n).await;
    }
    compacted_to(&replicator, 1, Txid(12)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = rig.stores[0].requests.total();
    rig.clock.fetch_add(100 * HOUR_MS, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rig.stores[0].requests.total(), before);
    replicator.stop(LONG).await;
}

/// A joined segment says of every commit what the segments said from which it was made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_says_the_same_of_every_commit() {
    let rig = rig();
    let replicator = rig.start();
    let place = replicator.settle(LONG).await.expect("settled");
    for n in 0..8 {
        commit(&rig, &replicator, n).await;
    }
    compacted_to(&replicator, 1, Txid(8)).await;
    replicator.stop(LONG).await;
    let held = inventory(&rig.stores[0], place.generation).await;
    let mut told: BTreeMap<u8, Vec<replicate::position::Commit>> = BTreeMap::new();
    for segment in &held.segments {
        let key = ObjectName::Segment(segment.name).key();
        let bytes = rig.stores[0].get(&key, None).await.expect("read");
        let reader = SegmentReader::open(bytes).expect("a segment");
        let commits = reader.index().commits.iter().map(|entry| entry.commit.clone());
        told.entry(segment.name.level.0).or_default().extend(commits);
    }
    let (shipped, joined) = (&told[&0], &told[&1]);
    assert_eq!(joined[..], shipped[..joined.len()]);
}
