//! Files beside the database on their way to replicas: idle, down, killed, taken over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use replicate::fileset::{FileSet, FileSets, living};
use replicate::include::{Include, Patterns};
use replicate::layout::{BlobHash, ObjectName};
use replicate::position::{Generation, TimeMs};
use replicate::prune::spare_blobs;
use replicate::replica::Replica;
use replicate::replicator::Final;
use replicate::retention::Mark;
use replicate::status::ReplicaState;

use super::rig::{LONG, Rig, TestStore, newest};

fn keep(rig: &mut Rig, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let patterns = Patterns::new(&names, &[], &rig.settings.path).expect("patterns");
    rig.settings.include = Some(Include { patterns, interval: Duration::from_millis(20) });
}

fn write(rig: &Rig, name: &str, content: &str) {
    // As programs do that do not want half a file to be seen.
    let path = rig.directory.path().join(name);
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, content).expect("written");
    std::fs::rename(unfinished, path).expect("renamed");
}

async fn generation(store: &TestStore) -> Generation {
    *Replica::new(Arc::new(store.clone())).generations().await.expect("listed").last().expect("a generation")
}

/// The sets that count, oldest first, each as names and contents.
async fn sets(store: &TestStore) -> Vec<Vec<(String, String)>> {
    let (sets, replica) = (FileSets::new(Arc::new(store.clone())), Replica::new(Arc::new(store.clone())));
    let generation = generation(store).await;
    let inventory = replica.inventory(generation).await.expect("listed");
    let mut found = Vec::new();
    for listed in living(&sets.list(generation).await.expect("listed").0, &inventory) {
        let FileSet { files } = sets.read(listed.name).await.expect("a set");
        let mut contents = Vec::new();
        for file in files {
            let content = sets.content(generation, &file).await.expect("a blob");
            contents.push((file.path.to_string(), String::from_utf8(content).expect("a text")));
        }
        found.push(contents);
    }
    found
}

async fn blobs(store: &TestStore) -> BTreeSet<BlobHash> {
    let sets = FileSets::new(Arc::new(store.clone()));
    let (blobs, unknown) = sets.blobs(generation(store).await).await.expect("listed");
    assert!(unknown.is_empty(), "{unknown:?}");
    blobs.into_iter().map(|blob| blob.name).collect()
}

fn one(name: &str, content: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), content.to_owned())]
}

/// Waits until the newest set of a replica is this one.
async fn wait_for(store: &TestStore, expected: &[(String, String)]) {
    let deadline = std::time::Instant::now() + LONG;
    while sets(store).await.last().is_none_or(|newest| newest != expected) {
        assert!(std::time::Instant::now() < deadline, "{:?}", sets(store).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Files that do not change cause no request, however often they are looked at; one that changes is there without a commit, and what did
/// not change is not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_at_rest_cause_no_request() {
    let mut rig = Rig::new(1);
    keep(&mut rig, &["*.yml"]);
    write(&rig, "a.yml", "1");
    write(&rig, "b.yml", "same");
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    assert_eq!(sets(&rig.stores[0]).await.len(), 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = rig.stores[0].requests.total();
    // Many looks, with a file that is only touched among them.
    write(&rig, "b.yml", "same");
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(rig.stores[0].requests.total(), before);
    let puts = rig.stores[0].puts();
    write(&rig, "a.yml", "2");
    let two = [one("a.yml", "2"), one("b.yml", "same")].concat();
    wait_for(&rig.stores[0], &two).await;
    assert_eq!(rig.stores[0].puts(), puts + 2, "a blob and a set");
    std::fs::remove_file(rig.directory.path().join("b.yml")).expect("removed");
    wait_for(&rig.stores[0], &one("a.yml", "2")).await;
    assert_eq!(rig.stores[0].puts(), puts + 3, "a set");
    assert!(replicator.stop(LONG).await.is_complete());
    // The same again after a restart.
    rig.once().await;
    assert_eq!(sets(&rig.stores[0]).await.len(), 3);
}

/// A replica that is down gets the files when it is back, the other one meanwhile, and commits go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_replica_gets_its_own() {
    let mut rig = Rig::new(2);
    keep(&mut rig, &["a.yml"]);
    write(&rig, "a.yml", "1");
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    rig.stores[1].set_down(true);
    write(&rig, "a.yml", "2");
    wait_for(&rig.stores[0], &one("a.yml", "2")).await;
    rig.database.commit(&[(1, 77)], 4);
    replicator.status().wait_for(|status| status.replicas[0].shipped.txid.0 == 2).await;
    assert!(replicator.status().snapshot().errors.contains_key("store-unavailable"));
    rig.stores[1].set_down(false);
    wait_for(&rig.stores[1], &one("a.yml", "2")).await;
    assert!(replicator.stop(LONG).await.is_complete());
    assert_eq!(newest(&rig.stores[1]).await.1, rig.database.content());
}

/// Killed between a blob and the set that names it: nothing is broken, the database goes on meanwhile, and the next start makes the set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_blob_and_set_breaks_nothing() {
    let mut rig = Rig::new(1);
    keep(&mut rig, &["a.yml"]);
    write(&rig, "a.yml", "1");
    rig.once().await;
    let replicator = rig.start();
    rig.stores[0].refuse("/files/");
    write(&rig, "a.yml", "2");
    let deadline = std::time::Instant::now() + LONG;
    while blobs(&rig.stores[0]).await.len() < 2 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.database.commit(&[(1, 78)], 4);
    replicator.status().wait_for(|status| status.replicas[0].shipped.txid.0 == 2).await;
    // The set cannot get there in time: what is under way ends where it is.
    replicator.stop(Duration::from_secs(1)).await;
    assert_eq!(sets(&rig.stores[0]).await, [one("a.yml", "1")]);
    super::compaction::nothing_is_found(Arc::new(rig.stores[0].clone()), TimeMs(9_000_000)).await;
    rig.stores[0].refuse("nothing");
    // The file goes back to what it was and on again: the blob that is there is named after all.
    rig.once().await;
    assert_eq!(sets(&rig.stores[0]).await, [one("a.yml", "1"), one("a.yml", "2")]);
    assert_eq!(blobs(&rig.stores[0]).await.len(), 2);
    super::compaction::nothing_is_found(Arc::new(rig.stores[0].clone()), TimeMs(9_000_000)).await;
}

/// Whoever was replaced puts no set any more, also when only a file changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_writer_keeps_no_files() {
    let mut rig = Rig::new(1);
    keep(&mut rig, &["a.yml"]);
    write(&rig, "a.yml", "1");
    let first = rig.start();
    first.settle(LONG).await.expect("settled");
    let mut other = Rig::new(0);
    other.stores = rig.stores.clone();
    keep(&mut other, &["a.yml"]);
    write(&other, "a.yml", "theirs");
    let second = other.start();
    second.settle(LONG).await.expect("settled");
    write(&rig, "a.yml", "2");
    let end = tokio::time::timeout(LONG, first.failed()).await.expect("noticed");
    assert!(matches!(end, Final::Fenced(_)), "{end:?}");
    assert!(matches!(first.status().snapshot().replicas[0].state, ReplicaState::Fenced(_)));
    assert_eq!(sets(&rig.stores[0]).await.last(), Some(&one("a.yml", "theirs")));
    first.stop(LONG).await;
    assert!(second.stop(LONG).await.is_complete());
}

/// What is left out, and a folder that is full of it, is counted, and neither the database nor the other files wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_is_counted() {
    let mut rig = Rig::new(1);
    keep(&mut rig, &["*.yml", "missing", "x.key"]);
    write(&rig, "a.yml", "1");
    write(&rig, "x.key", "secret");
    let large = std::fs::File::create(rig.directory.path().join("large.yml")).expect("made");
    large.set_len((16 << 20) + 1).expect("grown");
    let replicator = rig.start();
    replicator.settle(LONG).await.expect("settled");
    let status = replicator.status().snapshot();
    assert_eq!(status.errors.get("include"), Some(&2), "told once: {:?}", status.last_error);
    assert_eq!((status.replicas[0].files_left_out, status.replicas[0].files.map(|files| files.2)), (3, Some(1)));
    large.set_len(3).expect("cut");
    let is_there = |status: &replicate::status::StatusSnapshot| status.replicas[0].files_left_out == 2;
    tokio::time::timeout(LONG, replicator.status().wait_for(is_there)).await.expect("taken");
    assert_eq!(sets(&rig.stores[0]).await.last().map(Vec::len), Some(2));
    assert!(replicator.stop(LONG).await.is_complete());
}

/// Before a set is made visible, a mark that names one of its blobs is taken back; what was deleted already is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_that_are_needed_again_are_spared() {
    let mut rig = Rig::new(1);
    keep(&mut rig, &["a.yml"]);
    write(&rig, "a.yml", "1");
    rig.once().await;
    let (replica, generation) = (Replica::new(Arc::new(rig.stores[0].clone())), generation(&rig.stores[0]).await);
    let needed = blobs(&rig.stores[0]).await;
    let delete = |hash| ObjectName::Blob { generation, hash }.key().to_string();
    let other = BlobHash([7; 32]);
    let mark = Mark { pruned: Vec::new(), delete: needed.iter().copied().chain([other]).map(delete).collect() };
    replica.put_mark(generation, TimeMs(5), &mark).await.expect("marked");
    let spared = spare_blobs(&replica, generation, &needed, TimeMs(6), Duration::ZERO).await.expect("answered");
    assert!(spared);
    let left: Vec<_> = replica.marks(generation).await.expect("read").into_iter().flat_map(|m| m.mark.delete).collect();
    assert_eq!(left, [delete(other)]);
    let mark = Mark { pruned: Vec::new(), delete: BTreeSet::from([delete(other)]) };
    replica.put_mark(generation, TimeMs(7), &mark).await.expect("marked");
    let gone = spare_blobs(&replica, generation, &BTreeSet::from([other]), TimeMs(8), Duration::ZERO).await;
    assert!(!gone.expect("answered"));
}
