//! Compaction killed at any step, over failing stores, with inputs that are missing or damaged, by a writer that was replaced.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use replicate::inventory::Listed;
use replicate::layout::{ObjectName, SegmentName};
use replicate::position::Txid;
use replicate::replicator::{Crew, Final, Replicator};
use replicate::spool::Disk;
use replicate::status::ReplicaState;
use replicate::store::{Body, PutMode, Store};

use super::super::rig::{LONG, TestStore, newest};
use super::*;

/// Stopped at any step on its disk, and killed, a compaction leaves a replica from which everything can be restored, and the
/// next process finishes the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_nothing_is_lost() {
    for stop_at in (0..40u64).step_by(3) {
        let rig = rig();
        let place = {
            let mut settings = rig.settings.clone();
            settings.compaction.join_segments = 1000;
            let engine = rig.engine();
            let replicator = Replicator::start(settings, engine, rig.replicas(), rig.clock()).expect("started");
            replicator.settle(LONG).await.expect("settled");
            for n in 0..9 {
                commit(&rig, &replicator, n).await;
            }
            let place = replicator.sync(LONG).await.expect("synced");
            replicator.stop(LONG).await;
            place
        };
        let (steps, is_armed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let disk = {
            let (steps, is_armed) = (steps.clone(), is_armed.clone());
            Disk::with_hook(move |step| {
                let is_ours = format!("{step:?}").contains("compact");
                if is_ours && steps.fetch_add(1, Ordering::SeqCst) >= stop_at {
                    is_armed.store(true, Ordering::SeqCst);
                }
                if is_armed.load(Ordering::SeqCst) { Err(io::Error::other("stopped")) } else { Ok(()) }
            })
        };
        let replicator = Replicator::start_on(
            disk,
            Crew::unlimited(),
            rig.settings.clone(),
            rig.engine(),
            rig.replicas(),
            rig.clock(),
        );
        let replicator = replicator.expect("started");
        let has_come_far = |status: &replicate::status::StatusSnapshot| {
            status.errors.contains_key("compaction") || status.replicas[0].compacted[0].1 >= place.txid
        };
        // Either the crash comes, or all of the work fits before it.
        tokio::time::timeout(Duration::from_secs(2), replicator.status().wait_for(has_come_far)).await.ok();
        drop(replicator);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let held = inventory(&rig.stores[0], place.generation).await;
        assert_eq!(held.gaps(), [], "stopped at {stop_at}");
        every_commit_is_exact(&rig, place.generation, 1, place.txid.0).await;
        let replicator = rig.start();
        replicator.wait_until_running().await.expect("running");
        let last = commit(&rig, &replicator, 100).await;
        let joined_to = |held: &Inventory| of_level(held, 1).last().map_or(0, |segment| segment.name.last.0);
        while joined_to(&inventory(&rig.stores[0], place.generation).await) + 4 <= last.txid.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        replicator.stop(LONG).await;
        let left = std::fs::read_dir(rig.state_dir().join("compact")).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "nothing is left behind");
        is_sound(&rig.stores[0]).await;
        every_commit_is_exact(&rig, place.generation, 1, last.txid.0).await;
    }
}

/// An answer that is lost, a store that is down for a while: the compaction is done in the end, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_delays_it_only() {
    let rig = rig();
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    for n in 0..20 {
        // Of each few commits, one put's answer is lost: of a segment, or of a join.
        rig.stores[0].lost_answers.store(u64::from(n % 3 == 0), Ordering::SeqCst);
        commit(&rig, &replicator, n).await;
    }
    let place = replicator.sync(LONG).await.expect("synced");
    replicator.stop(LONG).await;
    let held = inventory(&rig.stores[0], place.generation).await;
    let joined: BTreeMap<Txid, Txid> = of_level(&held, 1).iter().map(|s| (s.name.first, s.name.last)).collect();
    assert_eq!(joined.len(), of_level(&held, 1).len());
    every_commit_is_exact(&rig, place.generation, 1, place.txid.0).await;
    is_sound(&rig.stores[0]).await;
}

/// How an object is spoilt.
#[derive(Debug, Clone, Copy)]
enum Spoil {
    Removed,
    Flipped,
    Cut,
}

async fn spoil(store: &TestStore, segment: &Listed<SegmentName>, how: Spoil) {
    let key = ObjectName::Segment(segment.name).key();
    let mut bytes = store.get(&key, None).await.expect("read").to_vec();
    match how {
        Spoil::Removed => return store.delete(&[key]).await.expect("deleted"),
        Spoil::Flipped => {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        }
        Spoil::Cut => bytes.truncate(segment.size as usize / 2),
    }
    store.put(&key, Body::Bytes(bytes.into()), PutMode::Replace).await.expect("put");
}

/// An input that is missing or damaged is told, counted as an error and recorded as a gap; shipping goes on, a snapshot that
/// does without it is taken, and compaction goes on behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_input_heals() {
    for how in [Spoil::Removed, Spoil::Flipped, Spoil::Cut] {
        let mut rig = rig();
        rig.settings.compaction.join_segments = 6;
        let replicator = rig.start();
        let first = replicator.settle(LONG).await.expect("settled");
        for n in 0..3 {
            commit(&rig, &replicator, n).await;
        }
        replicator.stop(LONG).await;
        let held = inventory(&rig.stores[0], first.generation).await;
        let victim = of_level(&held, 0)[2];
        spoil(&rig.stores[0], &victim, how).await;
        // What is kept at hand would serve instead.
        for copies in ["recent", "spool"] {
            std::fs::remove_dir_all(rig.state_dir().join(copies)).expect("removed");
        }
        let replicator = rig.start();
        replicator.wait_until_running().await.expect("running");
        for n in 10..13 {
            commit(&rig, &replicator, n).await;
        }
        let is_healed = |status: &replicate::status::StatusSnapshot| {
            status.errors.contains_key("compaction-input")
                && status.replicas[0].snapshot.is_some_and(|(txid, _)| txid >= victim.name.last)
        };
        tokio::time::timeout(LONG, replicator.status().wait_for(is_healed))
            .await
            .unwrap_or_else(|_| panic!("{how:?}: {:?}", replicator.status().snapshot()));
        let status = replicator.status().snapshot();
        assert_eq!(status.replicas[0].state, ReplicaState::Connected, "{how:?}");
        assert!(status.gaps.iter().any(|gap| gap.at == victim.name.last.next()), "{how:?}: {:?}", status.gaps);
        let mut last = first;
        for n in 20..30 {
            last = commit(&rig, &replicator, n).await;
        }
        compacted_to(&replicator, 1, Txid(last.txid.0 - 6)).await;
        replicator.stop(LONG).await;
        assert_eq!(newest(&rig.stores[0]).await, (last, rig.database.content()), "{how:?}");
        let held = inventory(&rig.stores[0], first.generation).await;
        let snapshot = held.snapshots.last().expect("a snapshot").name.txid;
        every_commit_is_exact(&rig, first.generation, snapshot.0, last.txid.0).await;
    }
}

/// A damaged copy at hand costs nothing: what the replica holds is fetched instead. And a copy that is whole saves the fetch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_copies_are_used_and_not_trusted() {
    for is_damaged in [false, true] {
        let rig = rig();
        let replicator = rig.start();
        replicator.settle(LONG).await.expect("settled");
        commit(&rig, &replicator, 0).await;
        let recent = rig.state_dir().join("recent");
        let mut damaged = 0;
        while is_damaged && damaged == 0 {
            // A segment is kept once the page map has it, which is a moment after it was shipped.
            for entry in std::fs::read_dir(&recent).expect("listed").flatten() {
                let mut bytes = std::fs::read(entry.path()).expect("read");
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
                std::fs::write(entry.path(), bytes).expect("written");
                damaged += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for n in 1..9 {
            commit(&rig, &replicator, n).await;
        }
        compacted_to(&replicator, 1, Txid(8)).await;
        let errors = replicator.status().snapshot().errors;
        assert_eq!(errors.get("compaction-input"), None);
        let place = replicator.sync(LONG).await.expect("synced");
        replicator.stop(LONG).await;
        is_sound(&rig.stores[0]).await;
        every_commit_is_exact(&rig, place.generation, 1, place.txid.0).await;
    }
}

/// A damaged segment of any higher level is avoided: the lower ones lead to the same commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_level_is_gone_around() {
    let rig = rig();
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    for n in 0..20 {
        if n == 10 {
            rig.clock.fetch_add(25 * HOUR_MS, Ordering::SeqCst);
        }
        commit(&rig, &replicator, n).await;
    }
    compacted_to(&replicator, 3, Txid(5)).await;
    let place = replicator.sync(LONG).await.expect("synced");
    replicator.stop(LONG).await;
    for level in [3, 2, 1] {
        let held = inventory(&rig.stores[0], place.generation).await;
        for segment in of_level(&held, level) {
            spoil(&rig.stores[0], &segment, Spoil::Flipped).await;
        }
        let store: Arc<dyn Store> = Arc::new(rig.stores[0].clone());
        let folder = tempfile::tempdir().expect("a directory");
        let bytes = crate::restore::bytes_at(&store, folder.path(), "now").await;
        let bytes = bytes.unwrap_or_else(|error| panic!("level {level}: {}", error.report()));
        assert!(bytes == rig.database.content(), "level {level}");
    }
}

/// A writer that was replaced puts no compacted segment: the higher claim is seen right before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_16_a_fenced_writer_compacts_nothing() {
    let mut rig = rig();
    rig.settings.compaction.join_segments = 5;
    rig.settings.fence_interval = Duration::from_secs(3600);
    let replicator = rig.start();
    let place = replicator.settle(LONG).await.expect("settled");
    for n in 0..3 {
        commit(&rig, &replicator, n).await;
    }
    let claim = replicate::replica::Claim { writer: "another".to_owned(), claimed_ms: 0 };
    let term = replicate::position::Term(9);
    assert!(replica(&rig.stores[0]).claim(place.generation, term, &claim, 1).await.expect("claimed").0);
    rig.database.commit(&[(1, 99)], 5);
    let end = tokio::time::timeout(LONG, replicator.failed()).await.expect("noticed");
    assert!(matches!(end, Final::Fenced(_)), "{end:?}");
    let held = inventory(&rig.stores[0], place.generation).await;
    assert_eq!(of_level(&held, 1), []);
    assert_eq!(of_level(&held, 0).len(), 5);
}
