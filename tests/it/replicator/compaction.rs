//! Compaction in a running replicator: every level, killed anywhere, with inputs that are missing or damaged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use replicate::checksum::page_hash;
use replicate::compaction::Policy;
use replicate::inventory::{Inventory, Listed};
use replicate::layout::{Level, ObjectName, SegmentName};
use replicate::position::{Generation, Txid};
use replicate::replica::Replica;
use replicate::replicator::{Final, Replicator};
use replicate::restore::Reading;
use replicate::segment::SegmentReader;
use replicate::spool::Disk;
use replicate::status::{Place, ReplicaState};
use replicate::store::{Body, PutMode, Store};
use replicate::verify::{Verification, verify};

use super::rig::{LONG, Rig, TestStore, newest, restore};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// Levels after a few commits instead of after many.
pub fn rig() -> Rig {
    let mut rig = Rig::new(1);
    rig.settings.compaction = Policy { join_segments: 4, ..Policy::default() };
    // One at the beginning: the way from it is what is compacted.
    rig.settings.snapshot_interval = Duration::from_secs(1 << 30);
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
    let how = Verification {
        deep: true,
        max_age: None,
        shipped: None,
        jobs: 2,
        now: replicate::position::TimeMs(0),
        progress: Arc::new(replicate::restore::Silent),
    };
    let report = verify(&Reading::new(Arc::new(store.clone())), &how).await.expect("verified");
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
        let replicator = Replicator::start_on(disk, rig.settings.clone(), rig.engine(), rig.replicas(), rig.clock());
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
    assert!(replica(&rig.stores[0]).claim(place.generation, term, &claim).await.expect("claimed"));
    rig.database.commit(&[(1, 99)], 5);
    let end = tokio::time::timeout(LONG, replicator.failed()).await.expect("noticed");
    assert!(matches!(end, Final::Fenced(_)), "{end:?}");
    let held = inventory(&rig.stores[0], place.generation).await;
    assert_eq!(of_level(&held, 1), []);
    assert_eq!(of_level(&held, 0).len(), 5);
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
