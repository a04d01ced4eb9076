//! What a restart does, with local state, without it, and with that of another time.

use replicate::position::RepairReason;
use replicate::status::State;

use super::rig::{LONG, Rig, newest};

/// A restart goes on where the last process ended: same generation, nothing uploaded again, nothing repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_14_a_restart_uploads_nothing_again() {
    let rig = Rig::new(2);
    let first = rig.once().await;
    let puts: Vec<u64> = rig.stores.iter().map(|store| store.puts()).collect();
    let second = rig.once().await;
    assert_eq!(first, second);
    for (store, before) in rig.stores.iter().zip(puts) {
        // The claim of a new term.
        assert_eq!(store.puts(), before + 1);
    }
    rig.database.commit(&[(1, 44)], 4);
    let third = rig.once().await;
    assert_eq!((third.generation, third.txid.0), (first.generation, first.txid.0 + 1));
    assert_eq!(rig.restore(0).await, rig.database.content());
}

/// Without local state, the replica tells where to go on; the database is not uploaded again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_local_state_is_taken_from_the_replica() {
    let rig = Rig::new(2);
    let first = rig.once().await;
    rig.database.commit(&[(3, 9)], 6);
    let second = rig.once().await;
    std::fs::remove_dir_all(rig.state_dir()).expect("removed");
    rig.database.commit(&[(0, 10)], 6);
    let puts = rig.stores[0].puts();
    let third = rig.once().await;
    assert_eq!((third.generation, third.txid.0), (first.generation, second.txid.0 + 1));
    // A claim and a segment.
    assert_eq!(rig.stores[0].puts(), puts + 2);
    for n in 0..2 {
        assert_eq!(newest(&rig.stores[n]).await, (third, rig.database.content()));
    }
}

/// An old disk put back does not overwrite the newer replica: what it holds stays, and a repair goes on behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_15_an_old_disk_goes_on_behind_the_replica() {
    let rig = Rig::new(1);
    let first = rig.once().await;
    let old_content = rig.database.content();
    let old_state = rig.directory.path().join("old");
    copy(&rig.state_dir(), &old_state);
    rig.database.commit(&[(2, 33)], 5);
    let newer = rig.once().await;
    let newer_content = rig.database.content();
    std::fs::remove_dir_all(rig.state_dir()).expect("removed");
    copy(&old_state, &rig.state_dir());
    rig.database.roll_back(&old_content);
    let last = rig.once().await;
    assert_eq!((last.generation, last.txid.0), (first.generation, newer.txid.0 + 1));
    assert_eq!(newest(&rig.stores[0]).await, (last, old_content));
    let replica = replicate::replica::Replica::new(std::sync::Arc::new(rig.stores[0].clone()));
    assert_eq!(super::rig::restore(&replica, newer.generation, newer.txid).await, newer_content);
    let repair = rig.database.lock().opened.last().copied().flatten().and_then(|(_, repair)| repair);
    assert_eq!(repair, Some(RepairReason::ReplicaAhead));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// With local state, an outage at start holds nothing up: commits wait in the spool and get there later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_at_start_loses_nothing_and_forks_nothing() {
    let rig = Rig::new(1);
    let first = rig.once().await;
    rig.stores[0].set_down(true);
    let replicator = rig.start();
    replicator.wait_until_running().await.expect("running");
    rig.database.commit(&[(1, 71)], 4);
    replicator.status().wait_for(|status| status.captured.0 == first.txid.0 + 1).await;
    let report = replicator.stop(std::time::Duration::from_millis(200)).await;
    assert!(!report.is_complete());
    let again = rig.start();
    again.wait_until_running().await.expect("running");
    rig.stores[0].set_down(false);
    let last = again.sync(LONG).await.expect("synced");
    assert_eq!(last.generation, first.generation);
    assert_eq!(newest(&rig.stores[0]).await, (last, rig.database.content()));
    assert_eq!(again.status().state(), State::Running);
    again.stop(LONG).await;
}

/// A replica added later, and one that was dead while the other went on, both get everything that can be restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_begins_with_a_snapshot() {
    let mut rig = Rig::new(1);
    rig.once().await;
    rig.database.commit(&[(1, 5)], 4);
    rig.once().await;
    rig.stores.push(super::rig::TestStore::new());
    let last = rig.once().await;
    assert_eq!(newest(&rig.stores[1]).await, (last, rig.database.content()));
}
