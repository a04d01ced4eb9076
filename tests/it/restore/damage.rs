//! A damaged replica ends in an error that says what is lost, or in the right bytes from another way; never in wrong bytes.

use bytes::Bytes;
use replicate::document;
use replicate::error::ExitCode;
use replicate::layout::ObjectName;
use replicate::replica::Marker;
use replicate::store::memory::MemoryStore;
use replicate::store::{Body, Key, PutMode};

use super::*;

pub async fn keys(store: &dyn Store) -> Vec<Key> {
    store.list("", None).await.expect("listed").into_iter().map(|object| object.key).collect()
}

/// The same objects in another store, where they can be damaged.
pub async fn copy(from: &dyn Store) -> Arc<MemoryStore> {
    let to = Arc::new(MemoryStore::new());
    for key in keys(from).await {
        let bytes = from.get(&key, None).await.expect("read");
        to.put(&key, Body::Bytes(bytes), PutMode::Create).await.expect("put");
    }
    to
}

async fn replace(store: &dyn Store, key: &Key, bytes: Vec<u8>) {
    store.put(key, Body::Bytes(Bytes::from(bytes)), PutMode::Replace).await.expect("put");
}

/// Restores every state of the newest generation that is asked for and allows only the right bytes or exit code 5 (3 when the
/// point itself is in what is missing).
async fn check_points(store: Arc<dyn Store>, writer: &Writer, what: &str) -> (usize, usize) {
    let (folder, model) = (scratch(), writer.model());
    let (mut right, mut refused) = (0, 0);
    for state in &model.states {
        let at = format!("{}/{}", model.generation, state.commit.txid.0);
        match bytes_at(&store, folder.path(), &at).await {
            Ok(bytes) => {
                assert!(bytes == state.content, "{what}, {at}: wrong bytes");
                right += 1;
            }
            Err(error) => {
                let exit = error.exit();
                assert!(matches!(exit, ExitCode::Damaged | ExitCode::NothingToRestore), "{what}: {}", error.report());
                refused += 1;
            }
        }
    }
    (right, refused)
}

/// With any one object missing, every commit restores exactly or is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_missing_object_is_seen() {
    let writer = history(21, 1, 40).await;
    for key in keys(&*writer.store).await {
        let store = copy(&*writer.store).await;
        store.delete(std::slice::from_ref(&key)).await.expect("deleted");
        let (right, refused) = check_points(store.clone(), &writer, key.as_str()).await;
        match ObjectName::parse(key.as_str()) {
            Some(ObjectName::Term { .. }) => assert_eq!(refused, 0, "{key}"),
            // What the first snapshot holds already needs no segment.
            Some(ObjectName::Segment(name)) => assert_eq!(refused > 0, name.last > oldest(writer.model()), "{key}"),
            _ => {}
        }
        assert_eq!(right + refused, writer.model().states.len());
    }
}

/// With any one object cut, emptied, longer or with some byte changed, every commit restores exactly or is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_26_any_damaged_object_is_seen() {
    let mut writer = history(22, 1, 14).await;
    let replica = copy(&*writer.store).await;
    for key in keys(&*replica).await {
        let good = replica.get(&key, None).await.expect("read").to_vec();
        for way in 0..5 {
            let mut bytes = good.clone();
            let at = writer.random.below(good.len() as u64) as usize;
            match way {
                0 => bytes.truncate(at),
                1 => bytes.clear(),
                2 => bytes.push(0),
                _ => bytes[at] ^= 1 << writer.random.below(8),
            }
            let store = copy(&*replica).await;
            replace(&*store, &key, bytes).await;
            check_points(store, &writer, &format!("{key}, way {way}")).await;
        }
    }
}

/// A restore of the newest commit says which object is broken, what is lost and what can still be restored.
#[tokio::test]
async fn damage_is_reported_with_what_is_left() {
    let writer = history(23, 1, 60).await;
    let model = writer.model();
    let store = copy(&*writer.store).await;
    let segments: Vec<_> = keys(&*store)
        .await
        .into_iter()
        .filter_map(|key| match ObjectName::parse(key.as_str()) {
            Some(ObjectName::Segment(name)) => Some((key, name)),
            _ => None,
        })
        .collect();
    let last_snapshot = *model.snapshots.last().expect("a snapshot");
    let (key, name) = segments.iter().find(|(_, name)| name.first > last_snapshot).expect("a segment after it");
    let mut bytes = store.get(key, None).await.expect("read").to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xFF;
    replace(&*store, key, bytes).await;
    let folder = scratch();
    let error = bytes_at(&(store as Arc<dyn Store>), folder.path(), "now").await.expect_err("damaged");
    assert_eq!(error.exit(), ExitCode::Damaged);
    let report = error.report();
    assert!(report.contains(key.as_str()), "{report}");
    assert!(
        report.contains(&format!("lost: txid:{} to txid:{}", name.first.0, model.newest().commit.txid.0)),
        "{report}"
    );
    assert!(report.contains(&format!("to txid:{} (", name.first.0 - 1)), "{report}");
}

/// With a damaged or a missing marker a restore is refused, with what its return brings back.
#[tokio::test]
async fn without_a_marker_nothing_is_guessed() {
    let writer = history(24, 1, 20).await;
    let (key, folder) = (ObjectName::Marker.key(), scratch());
    let store = copy(&*writer.store).await;
    let good = store.get(&key, None).await.expect("read");
    for damaged in [Some(&good[..good.len() - 1]), None] {
        store.delete(std::slice::from_ref(&key)).await.expect("deleted");
        if let Some(bytes) = damaged {
            replace(&*store, &key, bytes.to_vec()).await;
        }
        let shared: Arc<dyn Store> = store.clone();
        let error = bytes_at(&shared, folder.path(), "now").await.expect_err("damaged");
        assert_eq!(error.exit(), ExitCode::Damaged);
        let (report, newest) = (error.report(), writer.model().newest().commit.txid.0);
        assert!(report.contains("replicate.json") && report.contains("put it back"), "{report}");
        assert!(
            report.contains("still restorable: txid:") && report.contains(&format!("to txid:{newest} (")),
            "{report}"
        );
    }
    replace(&*store, &key, good.to_vec()).await;
    assert!(bytes_at(&(store as Arc<dyn Store>), folder.path(), "now").await.is_ok());
}

/// Without a manifest there is no snapshot: what an interrupted one left is not restored from.
#[tokio::test]
async fn loss_22_an_unfinished_snapshot_is_none() {
    let mut writer = Writer::new(9).await;
    writer.begin_generation(replicate::extent::PageGrid::new(0, 512).expect("a grid")).await;
    writer.snapshot(0).await;
    let store = copy(&*writer.store).await;
    let snapshot = keys(&*store).await.into_iter().find(|key| key.as_str().contains("/snapshot/")).expect("one");
    store.delete(&[snapshot]).await.expect("deleted");
    let folder = scratch();
    let error = bytes_at(&(store as Arc<dyn Store>), folder.path(), "now").await.expect_err("nothing");
    assert_eq!(error.exit(), ExitCode::NothingToRestore);
    assert!(error.report().contains("no whole snapshot yet"), "{}", error.report());
}

/// A segment of another database or generation, put under a name that fits, is refused.
#[tokio::test]
async fn loss_25_a_foreign_segment_is_refused() {
    let (writer, other) = (history(31, 1, 30).await, history(32, 1, 30).await);
    let store = copy(&*writer.store).await;
    let parse = |key: &Key| match ObjectName::parse(key.as_str()) {
        Some(ObjectName::Segment(name)) => Some(name),
        _ => None,
    };
    let ours = keys(&*store).await.into_iter().filter(|key| parse(key).is_some()).nth(2).expect("a segment");
    let theirs = keys(&*other.store).await.into_iter().filter(|key| parse(key).is_some()).nth(2).expect("a segment");
    replace(&*store, &ours, other.store.get(&theirs, None).await.expect("read").to_vec()).await;
    let (_, refused) = check_points(store, &writer, "a foreign segment").await;
    assert!(refused > 0);
}

/// A replica or an object of a newer version is refused in words, and nothing is written.
#[tokio::test]
async fn loss_29_a_newer_format_is_refused() {
    let writer = history(33, 1, 10).await;
    let folder = scratch();
    let store = copy(&*writer.store).await;
    let marker = |min_reader, engine: &str| Marker { min_reader, engine: engine.to_owned(), name: None };
    replace(&*store, &ObjectName::Marker.key(), document::encode(&marker(7, "sqlite"))).await;
    let error = bytes_at(&(store.clone() as Arc<dyn Store>), folder.path(), "now").await.expect_err("newer");
    assert!(error.report().contains("use a newer replicate"), "{}", error.report());
    replace(&*store, &ObjectName::Marker.key(), document::encode(&marker(1, "oracle"))).await;
    let error = bytes_at(&(store.clone() as Arc<dyn Store>), folder.path(), "now").await.expect_err("unknown");
    assert!(error.report().contains("use a newer replicate"), "{}", error.report());
    store.delete(&[ObjectName::Marker.key()]).await.expect("deleted");
    let error = bytes_at(&(store as Arc<dyn Store>), folder.path(), "now").await.expect_err("no marker");
    assert!(error.report().contains("replicate.json"), "{}", error.report());
}

/// Restoring from nothing is an error with its own code, and never makes a file.
#[tokio::test]
async fn loss_31_nothing_is_not_an_empty_database() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let folder = scratch();
    let error = bytes_at(&store, folder.path(), "now").await.expect_err("nothing");
    assert_eq!(error.exit(), ExitCode::NothingToRestore);
    let target = folder.path().join("a.db");
    let lenient = RestoreOptions { if_replica_exists: true, ..options(&target) };
    let said = restore(store, &lenient).await.expect("done");
    assert_eq!(said["restored"], false);
    assert_eq!(files(folder.path()), [""; 0]);
}
