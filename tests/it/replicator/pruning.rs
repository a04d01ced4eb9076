//! Retention while a database is replicated.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use replicate::replica::Replica;
use replicate::retention::{Count, Policy};

use super::rig::{LONG, Rig, newest};

async fn snapshots(rig: &Rig, store: usize) -> usize {
    let replica = Replica::new(Arc::new(rig.stores[store].clone()));
    let generation = *replica.generations().await.expect("listed").last().expect("a generation");
    replica.snapshots(generation).await.expect("listed").len()
}

/// Each replica keeps what its own policy says; what goes is marked, and deleted when two clocks say that its time has come; a
/// database at rest causes no request after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_replica_is_pruned_by_its_own_policy() {
    let mut rig = Rig::new(2);
    let policy = Policy { keep_last: Some(Count::Number(1)), ..Policy::default() };
    rig.settings.retention = vec![Some(policy), None];
    rig.settings.prune_grace = Duration::from_millis(100);
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    for n in 1..6u64 {
        rig.database.commit(&[(n % 3, n as u8 + 10)], 4);
        let place = replicator.sync(LONG).await.expect("synced");
        replicator.snapshot_now();
        let is_there = |status: &replicate::status::StatusSnapshot| {
            status.replicas.iter().all(|r| r.snapshot.is_some_and(|(txid, _)| txid == place.txid))
        };
        tokio::time::timeout(LONG, replicator.status().wait_for(is_there)).await.expect("a snapshot each");
    }
    let deadline = Instant::now() + LONG;
    let mut requests = 0;
    // The other clock goes on as well, by a second a round.
    while snapshots(&rig, 0).await > 1 {
        assert!(Instant::now() < deadline, "{:?}", replicator.status().snapshot());
        rig.clock.fetch_add(1000, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What the last looks still have to do comes to an end.
    while requests != rig.stores[0].requests.total() {
        assert!(Instant::now() < deadline, "it goes on asking");
        requests = rig.stores[0].requests.total();
        rig.clock.fetch_add(1000, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!((snapshots(&rig, 0).await, snapshots(&rig, 1).await), (1, 6));
    for store in 0..2 {
        assert_eq!(newest(&rig.stores[store]).await.1, rig.database.content());
    }
    // And it goes on: a restart resumes from what is left.
    assert!(replicator.stop(LONG).await.is_complete());
    rig.database.commit(&[(0, 200)], 4);
    rig.once().await;
    assert_eq!(rig.restore(0).await, rig.database.content());
}
