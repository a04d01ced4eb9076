//! Snapshots while everything goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use replicate::checksum::page_hash;
use replicate::cron::{Cron, Zone};
use replicate::position::Txid;
use replicate::replica::Replica;
use replicate::replicator::Replicator;
use replicate::replicator::due::{Rules, WayLimit};
use replicate::status::SnapshotReason;

use super::rig::{LONG, Rig, newest, restore};

/// The newest snapshot, and why it was taken.
fn of(replicator: &Replicator) -> (Option<Txid>, Option<SnapshotReason>) {
    let replica = replicator.status().snapshot().replicas.swap_remove(0);
    (replica.snapshot.map(|(txid, _)| txid), replica.snapshot_reason)
}

/// Commits during the copy are laid over it: every commit from the snapshot on is restored as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_under_load_is_exact() {
    let rig = Rig::new(1);
    // Three slices of a full copy.
    let pages = 20_000u64;
    let fill: Vec<(u64, u8)> = (0..pages).map(|page| (page, (page % 250) as u8 + 1)).collect();
    rig.database.commit(&fill, pages);
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    let mut n = 0u64;
    while replicator.status().snapshot().replicas[0].snapshot.is_none() {
        n += 1;
        rig.database.commit(&[(n * 37 % pages, n as u8 | 1)], pages - n % 3);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    replicator.sync(LONG).await.expect("synced");
    let (place, content) = newest(&rig.stores[0]).await;
    assert!(content == rig.database.content());
    let replica = Replica::new(Arc::new(rig.stores[0].clone()));
    let snapshot = replica.snapshots(place.generation).await.expect("listed")[0].name;
    // Commit 1 is the state in which the database was first seen, which is the second that the ledger holds.
    let content = restore(&replica, place.generation, snapshot.txid).await;
    assert_eq!(page_hash(0, &content), rig.database.lock().ledger[snapshot.txid.0 as usize]);
    replicator.stop(LONG).await;
}

/// A second snapshot sends only the parts that changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_part_is_not_sent_again() {
    let rig = Rig::new(1);
    let pages = 20_000u64;
    let fill: Vec<(u64, u8)> = (0..pages).map(|page| (page, (page % 250) as u8 + 1)).collect();
    rig.database.commit(&fill, pages);
    let replicator = rig.start();
    let first = replicator.settle(LONG).await.expect("settled");
    rig.database.commit(&[(0, 77)], pages);
    replicator.sync(LONG).await.expect("synced");
    let puts = rig.stores[0].puts();
    replicator.snapshot_now();
    replicator.status().wait_for(|s| s.replicas[0].snapshot.is_some_and(|(txid, _)| txid > first.txid)).await;
    // One part and the manifest.
    assert_eq!(rig.stores[0].puts(), puts + 2);
    replicator.stop(LONG).await;
}

/// A snapshot that was cut off by the end of the process leaves nothing that a reader takes for whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_22_an_interrupted_snapshot_is_no_snapshot() {
    let rig = Rig::new(1);
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    let place = replicator.sync(LONG).await.expect("synced");
    rig.stores[0].set_down(true);
    replicator.snapshot_now();
    replicator.stop(Duration::from_millis(100)).await;
    rig.stores[0].set_down(false);
    let replica = Replica::new(Arc::new(rig.stores[0].clone()));
    let inventory = replica.inventory(place.generation).await.expect("listed");
    assert!(inventory.snapshots.len() <= 1);
    rig.once().await;
    assert_eq!(newest(&rig.stores[0]).await.1, rig.database.content());
}

/// A way that became too long is ended by a snapshot that says so, but not before the spacing is over; also after a restart,
/// when how large the last snapshot is has to be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_way_ends_with_a_snapshot() {
    let mut rig = Rig::new(1);
    let spacing = Duration::from_secs(3600);
    rig.settings.snapshots = Rules { interval: 1000 * spacing, way: WayLimit::Bytes(1), spacing };
    let replicator = rig.start();
    let first = replicator.settle(LONG).await.expect("settled");
    assert_eq!(of(&replicator), (Some(first.txid), Some(SnapshotReason::First)));
    rig.database.commit(&[(0, 77)], 4);
    replicator.sync(LONG).await.expect("synced");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(of(&replicator), (Some(first.txid), Some(SnapshotReason::First)));
    replicator.stop(LONG).await;

    // Everything up to here is found by listing the replica.
    rig.settings.snapshots.way = WayLimit::Percent(1);
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    assert_eq!(of(&replicator), (Some(first.txid), None));
    replicator.stop(LONG).await;
    rig.settings.snapshots.way = WayLimit::Bytes(1);
    rig.clock.fetch_add(3_600_000, std::sync::atomic::Ordering::SeqCst);
    let replicator = rig.start();
    replicator.status().wait_for(|s| s.replicas[0].snapshot.is_some_and(|(txid, _)| txid > first.txid)).await;
    assert!(
        matches!(of(&replicator).1, Some(SnapshotReason::Way { bytes: 1.., limit_bytes: 1 })),
        "{:?}",
        of(&replicator)
    );
    replicator.stop(LONG).await;
}

/// What the schedule names is taken by the injected clock, once, and what it named while nothing ran is made up for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_kept() {
    let mut rig = Rig::new(1);
    rig.settings.snapshots = Rules { interval: Duration::from_secs(1 << 30), way: WayLimit::Never, ..Rules::default() };
    rig.settings.snapshot_schedule = Some(Cron::parse("@hourly", &Zone::UTC).expect("a schedule"));
    let first = rig.once().await;
    // The clock begins within the first hour.
    rig.clock.store(3_600_000, std::sync::atomic::Ordering::SeqCst);
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    rig.database.commit(&[(0, 77)], 4);
    replicator.status().wait_for(|s| s.replicas[0].snapshot.is_some_and(|(txid, _)| txid > first.txid)).await;
    let (taken, reason) = of(&replicator);
    assert_eq!(reason, Some(SnapshotReason::Schedule));
    rig.database.commit(&[(0, 78)], 4);
    replicator.sync(LONG).await.expect("synced");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(of(&replicator).0, taken);
    replicator.stop(LONG).await;
}

/// Who asks for a snapshot while an earlier one is on its way gets one that has everything from before the question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_while_one_is_on_its_way() {
    let rig = Rig::new(1);
    let store = &rig.stores[0];
    let held = store.snapshots.clone().write_owned().await;
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    while store.snapshots_begun.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.database.commit(&[(0, 77)], 4);
    let place = replicator.sync(LONG).await.expect("synced");
    let mut asked = Box::pin(replicator.snapshot(LONG));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut asked).await.is_err(), "the first one is held up");
    drop(held);
    let taken = asked.as_mut().await.expect("taken");
    drop(asked);
    assert!(taken[0].1 >= place, "{taken:?}");
    assert_eq!(of(&replicator), (Some(place.txid), Some(SnapshotReason::Asked)));
    replicator.stop(LONG).await;
}
