//! What snapshots after the first one send, and that what comes of it is exact.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replicate::checksum::page_hash;
use replicate::position::TimeMs;
use replicate::prune::{Pruning, Surveyor, look};
use replicate::replica::Replica;
use replicate::replicator::Replicator;
use replicate::restore::{Reading, Silent};
use replicate::retention::{Count, Policy};
use replicate::segment::Manifest;
use replicate::status::Place;
use replicate::verify::{Verification, verify};

use super::rig::{LONG, Rig, restore};
use crate::ledger::rig::seed;

/// Three parts of a full copy, and a bit.
const PAGES: u64 = 25_000;

fn filled(replicas: usize) -> Rig {
    let rig = Rig::new(replicas);
    let fill: Vec<(u64, u8)> = (0..PAGES).map(|page| (page, (page % 250) as u8 + 1)).collect();
    rig.database.commit(&fill, PAGES);
    rig
}

fn replica(rig: &Rig) -> Replica {
    Replica::new(Arc::new(rig.stores[0].clone()))
}

async fn snapshot(replicator: &Replicator) -> Place {
    let place = replicator.sync(LONG).await.expect("synced");
    replicator.snapshot_now();
    let is_there = |status: &replicate::status::StatusSnapshot| {
        status.replicas.iter().all(|r| r.snapshot.is_some_and(|(txid, _)| txid >= place.txid))
    };
    tokio::time::timeout(LONG, replicator.status().wait_for(is_there)).await.expect("a snapshot");
    place
}

async fn newest_manifest(rig: &Rig, place: Place) -> Manifest {
    let snapshots = replica(rig).snapshots(place.generation).await.expect("listed");
    replica(rig).read_manifest(snapshots.last().expect("a snapshot").name).await.expect("a manifest").0
}

async fn prove(rig: &Rig) {
    let reading = Reading::new(Arc::new(rig.stores[0].clone()));
    let (sample, max_age, shipped, now, progress) = (None, None, None, TimeMs(1), Arc::new(Silent));
    let how = Verification { deep: true, sample, max_age, shipped, jobs: 4, now, progress };
    let report = verify(&reading, &how).await.expect("verified");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// Pages that changed anywhere cost one patch, not the parts that they are in; what is restored is exact, and verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scattered_pages_cost_a_patch() {
    let rig = filled(1);
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    let scattered: Vec<(u64, u8)> = (0..PAGES / 100).map(|n| (n * 100 + 7, 251)).collect();
    rig.database.commit(&scattered, PAGES);
    let puts = rig.stores[0].puts();
    let place = snapshot(&replicator).await;
    // The segment, a patch and the manifest.
    assert_eq!(rig.stores[0].puts(), puts + 3);
    let manifest = newest_manifest(&rig, place).await;
    assert_eq!(manifest.layers.patches.len(), 1);
    assert_eq!(manifest.layers.differing, Some(Vec::new()));
    assert_eq!(restore(&replica(&rig), place.generation, place.txid).await, rig.database.content());
    // Every page of a part: that part is sent, and the patch goes on counting for the others.
    let one: Vec<(u64, u8)> = (0..8192).map(|page| (page, 252)).collect();
    rig.database.commit(&one, PAGES);
    let place = snapshot(&replicator).await;
    let manifest = newest_manifest(&rig, place).await;
    let over: Vec<bool> = manifest.layers.over.iter().map(|over| over.bytes > 0).collect();
    assert_eq!((manifest.layers.patches.len(), over), (1, vec![false, true, true, true]));
    assert_eq!(restore(&replica(&rig), place.generation, place.txid).await, rig.database.content());
    prove(&rig).await;
    replicator.stop(LONG).await;
}

/// Twenty snapshots while pages change, the file shrinks and grows, also across restarts: each restores the state of its commit,
/// and everything verifies; also after pruning to the last two, which rely on what older ones had put. Prints its seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_over_snapshots_are_exact() {
    let mut state = seed("snapshots_over_snapshots_are_exact");
    let mut below = |most: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    let rig = filled(1);
    let mut replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    let (mut patched, mut pages) = (0, PAGES);
    for _ in 0..20 {
        pages = (pages + below(3) * 700).saturating_sub(below(3) * 700).clamp(9000, PAGES + 4000);
        let most = if below(3) == 0 { 9000 } else { 300 };
        let changed = 1 + below(most);
        let first = below(pages);
        let spread = 1 + below(40);
        let change = |n: u64, value: u64| ((first + n * spread) % pages, value as u8 | 1);
        let changes: Vec<(u64, u8)> = (0..changed).map(|n| change(n, below(256))).collect();
        rig.database.commit(&changes, pages);
        replicator.sync(LONG).await.expect("synced");
        replicator.snapshot_now();
        // While the copy is made, too.
        for _ in 0..below(30) {
            rig.database.commit(&[(below(pages), below(256) as u8 | 1)], pages);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let place = snapshot(&replicator).await;
        patched += newest_manifest(&rig, place).await.layers.patches.len();
        prove_newest(&rig, place, 1).await;
        if below(4) == 0 {
            replicator.stop(LONG).await;
            replicator = rig.start();
            replicator.wait_until_running().await.expect("running");
        }
    }
    assert!(patched > 0);
    let place = replicator.sync(LONG).await.expect("synced");
    replicator.stop(LONG).await;
    prove(&rig).await;
    prove_newest(&rig, place, usize::MAX).await;
    let mut surveyor = Surveyor::new(Arc::new(rig.stores[0].clone()));
    let (policy, too_young) = (Policy { keep_last: Some(Count::Number(2)), ..Policy::default() }, BTreeSet::new());
    for now in [10_000_000, 10_000_001] {
        let (now, grace) = (TimeMs(now), Duration::ZERO);
        look(&mut surveyor, &Pruning { policy: &policy, grace, now, too_young: &too_young }).await.expect("pruned");
    }
    assert_eq!(replica(&rig).snapshots(place.generation).await.expect("listed").len(), 2);
    prove(&rig).await;
    prove_newest(&rig, place, 2).await;
}

/// Restores the newest snapshots and compares with what the database was.
async fn prove_newest(rig: &Rig, place: Place, count: usize) {
    for listed in replica(rig).snapshots(place.generation).await.expect("listed").into_iter().rev().take(count) {
        let content = restore(&replica(rig), place.generation, listed.name.txid).await;
        // Commit 1 is the state in which the database was first seen, which is the second that the ledger holds.
        let expected = rig.database.lock().ledger[listed.name.txid.0 as usize];
        assert_eq!(page_hash(0, &content), expected, "{:?}", listed.name);
    }
}

/// A snapshot that was cut off goes on with what it had put: no part is sent twice, by the next process either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_22_an_interrupted_snapshot_resumes() {
    let rig = filled(1);
    rig.stores[0].parts_left.store(2, Ordering::SeqCst);
    let replicator = rig.start();
    let is_down = || rig.stores[0].is_down.load(Ordering::SeqCst);
    let waited = async {
        while !is_down() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waited).await.expect("cut off");
    replicator.stop(Duration::from_millis(100)).await;
    rig.stores[0].parts_left.store(u64::MAX, Ordering::SeqCst);
    rig.stores[0].set_down(false);
    let generation = *replica(&rig).generations().await.expect("listed").last().expect("a generation");
    let there = replica(&rig).parts(generation).await.expect("listed");
    assert!(!there.is_empty() && there.len() < 4, "{there:?}");
    let before = rig.stores[0].parts_left.load(Ordering::SeqCst);
    let place = rig.once().await;
    let sent = before - rig.stores[0].parts_left.load(Ordering::SeqCst);
    let names: BTreeSet<_> = newest_manifest(&rig, place).await.parts.iter().map(|part| part.hash).collect();
    assert_eq!(sent as usize + there.len(), names.len(), "nothing is sent twice");
    assert_eq!(restore(&replica(&rig), place.generation, place.txid).await, rig.database.content());
}
