//! The replicator over a fake database and stores in memory: outages, restarts, crashes, other writers.

pub mod compaction;
mod crashes;
mod deltas;
mod fake;
mod files;
mod losses;
mod parking;
mod pruning;
mod real;
mod resuming;
mod rig;
mod snapshots;

use std::time::Duration;

use replicate::position::{RepairReason, Txid};
use replicate::replicator::Final;
use replicate::status::{ReplicaState, State};
use rig::{LONG, Rig, newest};

/// What is committed is in every replica after a sync, and the newest state can be restored from each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_get_into_every_replica() {
    let rig = Rig::new(2);
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    for n in 0..20u64 {
        rig.database.commit(&[(n % 5, n as u8 + 10)], 5 + n % 3);
        if n % 7 == 0 {
            replicator.sync(LONG).await.expect("synced");
        }
    }
    replicator.settle(LONG).await.expect("settled");
    let status = replicator.status().snapshot();
    assert_eq!(status.captured, Txid(21));
    assert_eq!(status.state, State::Running);
    for (n, replica) in status.replicas.iter().enumerate() {
        assert_eq!((replica.shipped.txid, replica.lag), (Txid(21), Duration::ZERO));
        assert_eq!(rig.restore(n).await, rig.database.content());
    }
    assert!(replicator.stop(LONG).await.is_complete());
}

/// An idle database causes no request and leaves nothing in the spool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_causes_no_request() {
    let rig = Rig::new(1);
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = rig.stores[0].requests.total();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rig.stores[0].requests.total(), before);
    replicator.stop(LONG).await;
}

/// While a store is down, capture goes on and the lag grows; afterwards nothing is missing and nothing was put twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_loses_and_doubles_nothing() {
    let rig = Rig::new(2);
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    rig.stores[1].set_down(true);
    for n in 0..10u64 {
        rig.database.commit(&[(n % 3, n as u8 + 50)], 4);
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    assert!(replicator.sync(Duration::from_millis(300)).await.is_err());
    let status = replicator.status().snapshot();
    assert_eq!((status.captured, status.replicas[0].shipped.txid), (Txid(11), Txid(11)));
    assert!(status.replicas[1].shipped.txid < Txid(11));
    assert!(status.replicas[1].lag > Duration::ZERO && status.replicas[1].lag_bytes > 0);
    assert!(matches!(status.replicas[1].state, ReplicaState::Unreachable(_)));
    rig.stores[1].set_down(false);
    replicator.sync(LONG).await.expect("synced");
    assert_eq!(rig.restore(1).await, rig.database.content());
    assert_eq!(rig.stores[0].puts(), rig.stores[1].puts());
    replicator.stop(LONG).await;
}

/// A create whose answer was lost is recognised by its content; it is no conflict and no second object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_13_a_lost_answer_is_no_conflict() {
    let rig = Rig::new(1);
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    rig.stores[0].lost_answers.store(1, std::sync::atomic::Ordering::SeqCst);
    rig.database.commit(&[(2, 77)], 4);
    let place = replicator.sync(LONG).await.expect("synced");
    assert_eq!(newest(&rig.stores[0]).await, (place, rig.database.content()));
    assert_eq!(replicator.status().snapshot().replicas[0].state, ReplicaState::Connected);
    replicator.stop(LONG).await;
}

/// Log that was discarded under the capture is bridged by one repairing commit in the same generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_repaired_within_the_generation() {
    let rig = Rig::new(1);
    let replicator = rig.start();
    let before = replicator.settle(LONG).await.expect("settled");
    rig.database.roll_back(&rig.database.content());
    rig.database.commit(&[(1, 99), (3, 98)], 6);
    let after = replicator.sync(LONG).await.expect("synced");
    assert_eq!(before.generation, after.generation);
    let status = replicator.status().snapshot();
    assert_eq!((status.gaps_total, status.generations_total), (1, 1));
    assert_eq!(rig.restore(0).await, rig.database.content());
    assert_eq!(
        rig.database.lock().opened.last().copied().flatten().map(|o| o.1),
        Some(Some(RepairReason::LogDiscarded))
    );
    replicator.stop(LONG).await;
}

/// A full spool lets go of the database and says so; with room again, one repairing commit bridges what was missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_18_a_full_spool_pauses_capture_and_repairs() {
    let mut rig = Rig::new(1);
    rig.settings.spool_limit = 8 * 1024;
    let replicator = rig.start();
    let before = replicator.settle(LONG).await.expect("settled");
    rig.stores[0].set_down(true);
    let mut n = 0u64;
    while !matches!(replicator.status().state(), State::SpoolFull { .. }) {
        n += 1;
        rig.database.commit(&[(n % 4, n as u8 | 1)], 4);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let status = replicator.status().snapshot();
    assert!(status.spool_bytes <= 2 * rig.settings.spool_limit, "{}", status.spool_bytes);
    rig.database.commit(&[(2, 201)], 5);
    rig.stores[0].set_down(false);
    replicator.status().wait_for(|status| status.state == State::Running).await;
    let after = replicator.sync(LONG).await.expect("synced");
    assert_eq!(before.generation, after.generation);
    assert_eq!(rig.restore(0).await, rig.database.content());
    assert!(replicator.status().snapshot().gaps.iter().any(|gap| gap.reason.contains("spool was full")));
    replicator.stop(LONG).await;
}

/// A second writer that takes a replica over ends the first one's shipping for good, and its history is what is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_16_a_second_writer_fences_the_first() {
    let mut rig = Rig::new(1);
    rig.settings.fence_interval = Duration::ZERO;
    let first = rig.start();
    first.settle(LONG).await.expect("settled");
    let mut other = Rig::new(0);
    other.stores = rig.stores.clone();
    other.database.commit(&[(0, 123)], 4);
    let second = other.start();
    second.settle(LONG).await.expect("settled");
    other.database.commit(&[(1, 124)], 4);
    let place = second.sync(LONG).await.expect("synced");
    assert!(second.stop(LONG).await.is_complete());
    // The first one finds the higher claim before it ships again.
    rig.database.commit(&[(2, 50)], 4);
    let end = tokio::time::timeout(LONG, first.failed()).await.expect("noticed");
    assert!(matches!(end, Final::Fenced(_)), "{end:?}");
    assert!(!first.stop(LONG).await.is_complete());
    assert_eq!(newest(&rig.stores[0]).await, (place, other.database.content()));
}

/// A replica that is down for longer than the spool can hold does not stop the other one: it records a gap, and a new
/// snapshot bridges it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_replica_does_not_hold_up_the_other() {
    let mut rig = Rig::new(2);
    rig.settings.spool_limit = 16 * 1024;
    let replicator = rig.start();
    let first = replicator.settle(LONG).await.expect("settled");
    rig.stores[1].set_down(true);
    for n in 0..100u64 {
        rig.database.commit(&[(n % 4, n as u8 | 1)], 4);
        replicator.status().wait_for(|status| status.replicas[0].shipped.txid.0 > first.txid.0 + n).await;
    }
    assert_eq!(replicator.status().state(), State::Running);
    rig.stores[1].set_down(false);
    let last = replicator.sync(LONG).await.expect("synced");
    replicator.status().wait_for(|s| s.replicas[1].snapshot.is_some_and(|(txid, _)| txid > first.txid)).await;
    assert_eq!((last.generation, last.txid.0), (first.generation, first.txid.0 + 100));
    assert_eq!(newest(&rig.stores[0]).await, (last, rig.database.content()));
    assert_eq!(newest(&rig.stores[1]).await, (last, rig.database.content()));
    let status = replicator.status().snapshot();
    // One, or several where what is next to ship was removed again and again before the store was back.
    assert!(status.gaps_total >= 1 && status.gaps.iter().all(|gap| gap.replica.as_deref() == Some("replica 1")));
    replicator.stop(LONG).await;
}

/// A replica that answers late and holds another history makes a new generation begin; both histories stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_contradiction_begins_a_new_generation() {
    let rig = Rig::new(1);
    let first = rig.once().await;
    let mut other = Rig::new(0);
    other.stores = rig.stores.clone();
    other.database.commit(&[(0, 123)], 4);
    let theirs = other.once().await;
    assert_eq!(theirs.generation, first.generation);
    rig.stores[0].set_down(true);
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    rig.database.commit(&[(3, 55)], 4);
    replicator.status().wait_for(|status| status.captured.0 > first.txid.0).await;
    rig.stores[0].set_down(false);
    replicator.status().wait_for(|status| status.generation > Some(first.generation)).await;
    let ours = replicator.settle(LONG).await.expect("settled");
    assert!(ours.generation > first.generation);
    assert_eq!(newest(&rig.stores[0]).await, (ours, rig.database.content()));
    let replica = replicate::replica::Replica::new(std::sync::Arc::new(rig.stores[0].clone()));
    assert_eq!(rig::restore(&replica, theirs.generation, theirs.txid).await, other.database.content());
    replicator.stop(LONG).await;
}
