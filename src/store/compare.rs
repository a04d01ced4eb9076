//! Is what the store has under a name what we meant to put there?
//!
//! The answer to a create may be lost although the store has the object: the next try is then told that the name is
//! taken. Only the bytes can tell whether by us.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::{Body, Key, Outcome, Store, StoreError};

/// Read and compared at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// Reads of one thing at most, until two of them agree.
const READS: u32 = 8;

/// Compares an object with a body byte for byte, in bounded pieces. `false` also when there is no such object.
pub async fn same_content(store: &dyn Store, key: &Key, body: &Body) -> Result<bool, StoreError> {
    let listed = store.list(key.as_str(), None).await?;
    match listed.iter().find(|meta| meta.key == *key) {
        Some(meta) if meta.size == body.len() => {}
        _ => return Ok(false),
    }
    let mut start = 0;
    while start < body.len() {
        let end = body.len().min(start + PIECE_BYTES);
        if !same_piece(store, key, body, start..end).await? {
            return Ok(false);
        }
        start = end;
    }
    Ok(true)
}

/// A difference counts only when it is read twice: bytes that were garbled on their way must not look like another writer.
async fn same_piece(store: &dyn Store, key: &Key, body: &Body, range: Range<u64>) -> Result<bool, StoreError> {
    let mut before: Option<Bytes> = None;
    for _ in 0..READS {
        let theirs = match store.get(key, Some(range.clone())).await {
            Err(e) if matches!(e.outcome, Outcome::NotFound) => return Ok(false),
            theirs => theirs?,
        };
        let same = equals(body, range.start, &theirs);
        if same.map_err(|e| StoreError::new(Outcome::Invalid, "put", key, e.to_string()))? {
            return Ok(true);
        }
        if before.as_ref() == Some(&theirs) {
            return Ok(false);
        }
        before = Some(theirs);
    }
    Err(unsteady(key))
}

/// Reads a small object until two reads agree: for what must not be misread, where nothing in it proves it.
pub async fn read_surely(store: &dyn Store, key: &Key) -> Result<Bytes, StoreError> {
    let mut before = store.get(key, None).await?;
    for _ in 1..READS {
        let again = store.get(key, None).await?;
        if again == before {
            return Ok(again);
        }
        before = again;
    }
    Err(unsteady(key))
}

fn unsteady(key: &Key) -> StoreError {
    StoreError::new(Outcome::Unavailable, "get", key, "every read brings other bytes".to_owned())
}

fn equals(body: &Body, start: u64, theirs: &[u8]) -> std::io::Result<bool> {
    match body {
        Body::Bytes(ours) => Ok(ours[start as usize..].starts_with(theirs)),
        Body::File { path, .. } => {
            let mut ours = vec![0; theirs.len()];
            std::fs::File::open(path)?.read_exact_at(&mut ours, start)?;
            Ok(ours == theirs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::PutMode;
    use crate::store::memory::MemoryStore;

    /// A store whose reads are wrong now and then.
    #[derive(Debug)]
    struct Garbling(MemoryStore, std::sync::Mutex<u32>);

    #[async_trait::async_trait]
    impl Store for Garbling {
        async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
            let mut bytes = self.0.get(key, range).await?.to_vec();
            let mut reads = self.1.lock().unwrap();
            *reads += 1;
            if !reads.is_multiple_of(3) {
                bytes[0] ^= *reads as u8;
            }
            Ok(bytes.into())
        }
        async fn put(&self, key: &Key, body: Body, mode: PutMode) -> Result<(), StoreError> {
            self.0.put(key, body, mode).await
        }
        async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<crate::store::ObjectMeta>, StoreError> {
            self.0.list(prefix, after).await
        }
        async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
            self.0.list_folders(prefix).await
        }
        async fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
            self.0.delete(keys).await
        }
        fn describe(&self) -> String {
            self.0.describe()
        }
    }

    /// Bytes that were garbled on their way are no other writer's; and what differs from read to read is no answer.
    #[tokio::test]
    async fn a_garbled_read_is_no_difference() {
        let store = Garbling(MemoryStore::new(), std::sync::Mutex::new(0));
        let key = Key::new("a").unwrap();
        store.put(&key, Body::Bytes(vec![7; 100].into()), PutMode::Create).await.unwrap();
        assert!(same_content(&store, &key, &Body::Bytes(vec![7; 100].into())).await.unwrap());
        let other = same_content(&store, &key, &Body::Bytes(vec![8; 100].into())).await;
        assert!(!matches!(other, Ok(true)));
        let garbled = read_surely(&store, &key).await;
        assert_eq!(garbled.unwrap_err().outcome, Outcome::Unavailable);
    }

    /// Equal only when every byte is, in one piece or several, from memory or from a file.
    #[tokio::test]
    async fn every_byte_counts() {
        let store = MemoryStore::new();
        let key = Key::new("a").unwrap();
        let long: Vec<u8> = (0..PIECE_BYTES as usize + 10).map(|i| i as u8).collect();
        store.put(&key, Body::Bytes(long.clone().into()), PutMode::Create).await.unwrap();
        let mut other = long.clone();
        *other.last_mut().unwrap() ^= 1;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &long).unwrap();
        let from_file = Body::File { path: file.path().into(), len: long.len() as u64 };
        assert!(same_content(&store, &key, &from_file).await.unwrap());
        let shorter = long[..9].to_vec();
        for (bytes, same) in [(long, true), (other, false), (shorter, false), (vec![], false)] {
            assert_eq!(same_content(&store, &key, &Body::Bytes(bytes.into())).await.unwrap(), same);
        }
        assert!(!same_content(&store, &Key::new("b").unwrap(), &from_file).await.unwrap());
    }
}
