//! What a file set takes for itself, and what it refuses.

use std::sync::Arc;

use super::*;
use crate::store::memory::MemoryStore;

const GENERATION: Generation = Generation(7 << 20);

fn file(path: &str, content: &[u8]) -> IncludedFile {
    IncludedFile::new(path.parse().unwrap(), 0o640, TimeMs(5), content)
}

fn moment(txid: u64, time: u64) -> Moment {
    Moment { generation: GENERATION, txid: Txid(txid), term: Term(1), time: TimeMs(time) }
}

/// A set and its blobs come back as they were put; every flipped byte of either is found.
#[tokio::test]
async fn what_is_read_is_what_was_written() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let sets = FileSets::new(store.clone());
    let contents: [&[u8]; 3] = [b"a: 1\n", b"", &[7; 100_000]];
    let set = FileSet::new(vec![file("z.yml", contents[0]), file("a/empty", contents[1]), file("big", contents[2])]);
    for content in [contents[0], contents[2]] {
        let hash = BlobHash(crate::checksum::Sha256::of(content));
        sets.put_blob(GENERATION, hash, encode_blob(content).unwrap()).await.unwrap();
    }
    let name = sets.put(moment(3, 10), &set).await.unwrap();
    assert_eq!(sets.list(GENERATION).await.unwrap().0[0].name, name);
    let read = sets.read(name).await.unwrap();
    assert_eq!(read, set);
    let blobs = sets.blobs(GENERATION).await.unwrap().0;
    assert_eq!(blobs.iter().map(|blob| blob.name).collect::<std::collections::BTreeSet<_>>(), set.blobs());
    for (path, content) in [("z.yml", contents[0]), ("a/empty", contents[1]), ("big", contents[2])] {
        let one = read.find(&path.parse().unwrap()).unwrap();
        assert_eq!(sets.content(GENERATION, one).await.unwrap(), content);
    }
    let blob = ObjectName::Blob { generation: GENERATION, hash: read.files[2].hash }.key();
    for key in [ObjectName::FileSet(name).key(), blob] {
        let whole = store.get(&key, None).await.unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.to_vec();
            broken[at] ^= 4;
            store.put(&key, Body::Bytes(broken.into()), PutMode::Replace).await.unwrap();
            let result = match sets.read(name).await {
                Ok(set) => sets.content(GENERATION, &set.files[2]).await.map(drop),
                Err(error) => Err(error),
            };
            assert!(matches!(result, Err(FileSetError::Damaged { .. })), "{key} at {at}: {result:?}");
        }
        store.put(&key, Body::Bytes(whole), PutMode::Replace).await.unwrap();
    }
}

/// A set that names what it must not is refused as a whole, however well it is framed.
#[test]
fn hostile_sets_are_refused() {
    let sha = BlobHash(crate::checksum::Sha256::of(b"x")).to_string();
    let entry = |path: &str, bytes: u64, mode: u32| {
        format!(
            r#"{{"path":{},"bytes":{bytes},"mode":{mode},"modified_ms":1,"sha256":"{sha}"}}"#,
            serde_json::to_string(path).unwrap()
        )
    };
    let set = |entries: &[String]| format!(r#"{{"format":1,"files":[{}]}}"#, entries.join(","));
    assert!(FileSet::decode(set(&[entry("a", 1, 0o644), entry("b/c", 1, 0o600)]).as_bytes()).is_ok());
    let long = "x/".repeat(300) + "x";
    for path in
        ["/etc/passwd", "../x", "a/../../x", "..", ".", "", "a//b", "a/", "a/./b", "a\nb", "a\0b", long.as_str()]
    {
        assert!(FileSet::decode(set(&[entry(path, 1, 0o644)]).as_bytes()).is_err(), "{path:?}");
    }
    for entries in [
        vec![entry("a", 1, 0o644), entry("a", 1, 0o644)],
        vec![entry("b", 1, 0o644), entry("a", 1, 0o644)],
        vec![entry("a", 1, 0o644), entry("a/b", 1, 0o644)],
        vec![entry("a", 1, 0o644), entry("a-b", 1, 0o644), entry("a/b/c", 1, 0o644)],
        vec![entry("a", 1, 0o4755)],
        vec![entry("a", u64::MAX, 0o644)],
        vec![entry("a", 0, 0o644)],
        (0..5).map(|n| entry(&format!("{n}"), MAX_FILE_BYTES, 0o644)).collect(),
        (0..1001).map(|n| entry(&format!("{n:04}"), 1, 0o644)).collect(),
    ] {
        assert!(FileSet::decode(set(&entries).as_bytes()).is_err(), "{:.200}", entries[0]);
    }
    for text in ["", "{}", "[]", r#"{"format":2,"files":[]}"#, r#"{"format":1}"#] {
        assert!(FileSet::decode(text.as_bytes()).is_err(), "{text}");
    }
}

/// The set of a commit is the newest one at or before it, and for a moment nothing that came after it.
#[test]
fn the_set_of_a_commit() {
    let name = |txid, term, time| Listed {
        name: FileSetName { generation: GENERATION, txid: Txid(txid), term: Term(term), time: TimeMs(time), hash: 0 },
        size: 1,
    };
    let sets = [name(3, 1, 30), name(5, 1, 50), name(5, 1, 55), name(5, 2, 52), name(9, 2, 90)];
    let time = |txid, until: Option<u64>| current(&sets, Txid(txid), until.map(TimeMs)).map(|name| name.time.0);
    assert_eq!([time(2, None), time(3, None), time(4, None), time(8, None)], [None, Some(30), Some(30), Some(52)]);
    assert_eq!([time(9, None), time(5, Some(51)), time(5, Some(49))], [Some(90), Some(50), Some(30)]);
    // Nothing is that old: the first one that there is.
    assert_eq!(time(5, Some(1)), Some(30));
}
