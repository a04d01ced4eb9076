//! Is what the store has under a name what we meant to put there?
//!
//! The answer to a create may be lost although the store has the object: the next try is then told that the name is
//! taken. Only the bytes can tell whether by us.

use std::os::unix::fs::FileExt;

use super::{Body, Key, Outcome, Store, StoreError};

/// Read and compared at a time.
const PIECE_BYTES: u64 = 4 << 20;

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
        let theirs = match store.get(key, Some(start..end)).await {
            Err(e) if matches!(e.outcome, Outcome::NotFound) => return Ok(false),
            theirs => theirs?,
        };
        if !equals(body, start, &theirs).map_err(|e| StoreError::new(Outcome::Invalid, "put", key, e.to_string()))? {
            return Ok(false);
        }
        start = end;
    }
    Ok(true)
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
