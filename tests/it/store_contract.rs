//! What every store must do, run against each of them.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use replicate::store::memory::MemoryStore;
use replicate::store::retry::{RealPace, RetryPolicy, Retrying};
use replicate::store::{self, Body, CreateOnly, Key, Outcome, PutMode, Store, StoreError, StoreOptions};

use crate::s3_server::S3Server;

type Shared = Arc<dyn Store>;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn body(text: impl Into<Bytes>) -> Body {
    Body::Bytes(text.into())
}

async fn create(store: &Shared, name: &str, text: impl Into<Bytes>) -> Result<(), StoreError> {
    store.put(&key(name), body(text), PutMode::Create).await
}

async fn names(store: &Shared, prefix: &str, after: Option<&str>) -> Vec<String> {
    store.list(prefix, after).await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect()
}

fn outcome<T: std::fmt::Debug>(done: Result<T, StoreError>) -> Outcome {
    done.unwrap_err().outcome
}

/// Every behaviour; each uses names of its own.
pub async fn whole_contract(store: &Shared) {
    create_only(store).await;
    one_winner_of_a_race(store).await;
    replace(store).await;
    ranges(store).await;
    empty_object(store).await;
    large_file(store).await;
    listings(store).await;
    folders(store).await;
    deleting(store).await;
    hidden_names(store).await;
    assert_eq!(store::probe(&**store, &key("probe/create")).await.unwrap(), CreateOnly::Atomic);
    assert_eq!(names(store, "probe/", None).await, Vec::<String>::new());
}

/// A second create is told so and changes nothing.
async fn create_only(store: &Shared) {
    create(store, "create/a", "first").await.unwrap();
    assert_eq!(outcome(create(store, "create/a", "second").await), Outcome::AlreadyExists);
    // The same bytes are no excuse: only the caller knows whether it meant to write them twice.
    assert_eq!(outcome(create(store, "create/a", "first").await), Outcome::AlreadyExists);
    assert_eq!(store.get(&key("create/a"), None).await.unwrap(), "first");
}

/// Of many that create one name at once, exactly one is told that it did, and its bytes are the ones stored.
async fn one_winner_of_a_race(store: &Shared) {
    let racers = (0..16).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { (n, create(&store, "race/a", format!("racer {n}")).await) })
    });
    let mut winners = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            (n, Ok(())) => winners.push(n),
            (_, Err(e)) => assert_eq!(e.outcome, Outcome::AlreadyExists, "{e}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(store.get(&key("race/a"), None).await.unwrap(), format!("racer {}", winners[0]));
}

/// Replace creates, and replaces the whole of what was there.
async fn replace(store: &Shared) {
    for text in ["a longer first text", "short"] {
        store.put(&key("replace/a"), body(text), PutMode::Replace).await.unwrap();
        assert_eq!(store.get(&key("replace/a"), None).await.unwrap(), text);
    }
}

/// A range is exactly its bytes; one that is not within the object is an error and no shorter answer.
async fn ranges(store: &Shared) {
    create(store, "range/a", "0123456789").await.unwrap();
    let get = |range| async move { store.get(&key("range/a"), Some(range)).await };
    assert_eq!(get(0..10).await.unwrap(), "0123456789");
    assert_eq!(get(3..7).await.unwrap(), "3456");
    assert_eq!(get(9..10).await.unwrap(), "9");
    assert_eq!(get(4..4).await.unwrap(), "");
    assert_eq!(get(10..10).await.unwrap(), "");
    #[allow(clippy::reversed_empty_ranges, reason = "that is what must be refused")]
    for bad in [5..11, 10..11, 20..30, 11..11, 7..3] {
        assert_eq!(outcome(get(bad.clone()).await), Outcome::Invalid, "{bad:?}");
    }
    assert_eq!(outcome(store.get(&key("range/b"), Some(0..1)).await), Outcome::NotFound);
    assert_eq!(outcome(store.get(&key("range/b"), None).await), Outcome::NotFound);
}

/// An object may have no bytes.
async fn empty_object(store: &Shared) {
    create(store, "empty/a", "").await.unwrap();
    assert_eq!(store.get(&key("empty/a"), None).await.unwrap(), "");
    assert_eq!(store.list("empty/", None).await.unwrap()[0].size, 0);
    assert_eq!(outcome(create(store, "empty/a", "").await), Outcome::AlreadyExists);
}

/// A file of 20 MiB, which goes up to S3 in parts, comes back byte for byte, in whole and in ranges.
async fn large_file(store: &Shared) {
    let bytes: Vec<u8> = (0..5u32 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let body = Body::File { path: file.path().into(), len: bytes.len() as u64 };
    store.put(&key("large/a"), body.clone(), PutMode::Create).await.unwrap();
    assert!(store.get(&key("large/a"), None).await.unwrap() == bytes, "the bytes differ");
    let range = (8 << 20) - 5..(8 << 20) + 5;
    assert_eq!(
        store.get(&key("large/a"), Some(range.start..range.end)).await.unwrap(),
        bytes[range.start as usize..range.end as usize]
    );
    assert_eq!(outcome(store.put(&key("large/a"), body.clone(), PutMode::Create).await), Outcome::AlreadyExists);
    assert!(store::same_content(&**store, &key("large/a"), &body).await.unwrap());
    store.delete(&[key("large/a")]).await.unwrap();
}

/// Listings are complete over any number of pages, in order, and begin where they are told.
async fn listings(store: &Shared) {
    let mut expected: Vec<String> = (0..1203).map(|n| format!("list/deep/{n:04}")).collect();
    expected.extend(["list/deep.x", "list/a", "list/deepe", "list/deep-"].map(str::to_owned));
    let puts = expected.iter().map(|name| create(store, name, "x"));
    for done in futures_util::future::join_all(puts).await {
        done.unwrap();
    }
    expected.sort();
    assert_eq!(names(store, "list/", None).await, expected);
    // A prefix is a text, not a folder.
    let beginning = |prefix: &str| expected.iter().filter(|n| n.starts_with(prefix)).cloned().collect::<Vec<_>>();
    for prefix in
        ["list/deep", "list/deep/", "list/deep/00", "list/deep/0042", "list/deep-", "nothing/", "list/deep/0042/"]
    {
        assert_eq!(names(store, prefix, None).await, beginning(prefix), "{prefix}");
    }
    for after in ["list/deep/0999", "list/deep/", "list/deep", "list/deep/zzz", "list/", "a", "z"] {
        let behind: Vec<_> = expected.iter().filter(|n| n.as_str() > after).cloned().collect();
        assert_eq!(names(store, "list/", Some(after)).await, behind, "{after}");
    }
    let all: Vec<Key> = expected.iter().map(|name| key(name)).collect();
    store.delete(&all).await.unwrap();
    assert_eq!(names(store, "list/", None).await, Vec::<String>::new());
}

/// Folders are the distinct next parts that have something below them.
async fn folders(store: &Shared) {
    for name in ["folder/b/1", "folder/b/2/3", "folder/a/1", "folder/file", "folder/b.c/1"] {
        create(store, name, "x").await.unwrap();
    }
    assert_eq!(store.list_folders("folder/").await.unwrap(), ["a", "b", "b.c"]);
    assert_eq!(store.list_folders("folder/b/").await.unwrap(), ["2"]);
    assert_eq!(store.list_folders("folder/a/").await.unwrap(), Vec::<String>::new());
    assert_eq!(store.list_folders("nothing/").await.unwrap(), Vec::<String>::new());
    assert!(store.list_folders("").await.unwrap().contains(&"folder".to_owned()));
    store.delete(&[key("folder/a/1")]).await.unwrap();
    assert_eq!(store.list_folders("folder/").await.unwrap(), ["b", "b.c"]);
}

/// What is deleted is gone, what was not there is no error, and nothing else goes.
async fn deleting(store: &Shared) {
    create(store, "delete/a", "x").await.unwrap();
    create(store, "delete/b", "x").await.unwrap();
    store.delete(&[key("delete/a"), key("delete/none"), key("none/none")]).await.unwrap();
    store.delete(&[]).await.unwrap();
    assert_eq!(names(store, "delete/", None).await, ["delete/b"]);
    assert_eq!(outcome(store.get(&key("delete/a"), None).await), Outcome::NotFound);
    create(store, "delete/a", "again").await.unwrap();
}

/// Names that could leave the prefix or that not every store tells apart are not made at all.
async fn hidden_names(store: &Shared) {
    for bad in ["", "/", "a//b", "/a", "a/", "..", "a/../b", "./a", "A", "a b", "ä", "a\\b", "a\0"] {
        assert!(Key::new(bad).is_err(), "{bad:?}");
    }
    // Odd, but allowed.
    for odd in ["odd/...", "odd/-", "odd/_", "odd/.a", "odd/a.b-c_d"] {
        create(store, odd, odd).await.unwrap();
        assert_eq!(store.get(&key(odd), None).await.unwrap(), odd);
    }
    assert_eq!(names(store, "odd/", None).await.len(), 5);
}

#[tokio::test]
async fn memory() {
    whole_contract(&(Arc::new(MemoryStore::new()) as Shared)).await;
}

#[tokio::test]
async fn directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("not/there/yet");
    whole_contract(&store::open(root.to_str().unwrap(), &StoreOptions::default()).unwrap()).await;
    let url = format!("file://{}/second", dir.path().display());
    whole_contract(&store::open(&url, &StoreOptions::default()).unwrap()).await;
}

#[tokio::test]
async fn retried_memory() {
    let inner = Arc::new(MemoryStore::new());
    let store = Retrying::new(inner, RetryPolicy::default(), Arc::new(RealPace::default()));
    whole_contract(&(Arc::new(store) as Shared)).await;
}

#[tokio::test]
async fn shared_memory_by_url() {
    let store = store::open("memory://contract", &StoreOptions::default()).unwrap();
    whole_contract(&store).await;
    let same = store::open("memory://contract", &StoreOptions::default()).unwrap();
    assert!(!same.list("", None).await.unwrap().is_empty());
}

#[tokio::test]
async fn s3() {
    let server = S3Server::start(1);
    server.manners().page_size.store(100, Ordering::SeqCst);
    whole_contract(&store::open(&server.url("some/prefix"), &server.options()).unwrap()).await;
    assert!(server.names().iter().all(|name| name.starts_with("some/prefix/")));
    assert_eq!((server.unfinished_uploads(), server.overwrites()), (0, 1), "the one replacement of the contract");
    // A bucket without a prefix, with checksums on everything.
    let with_checksums = format!("{}&checksum=when-supported", server.url(""));
    server.names().iter().for_each(|name| server.remove_raw(name));
    whole_contract(&store::open(&with_checksums, &server.options()).unwrap()).await;
}
