//! File sets: small files beside a database as they were at one moment, kept with its history.
//!
//! A set is one object that lists paths, sizes, modes and hashes; the content of each file is a blob, named by its SHA-256, so that
//! a file that did not change is not sent again. Blobs are put first, the set that makes them visible last.
//!
//! | file | holds |
//! |---|---|
//! | `path.rs` | a path that cannot lead anywhere else |
//! | `set.rs` | a set as data, and as it is stored |
//! | `blob.rs` | the content of a file as it is stored |

use std::sync::Arc;

use bytes::Bytes;

use crate::inventory::{Inventory, Listed};
use crate::layout::{self, BlobHash, FileSetName, ObjectName};
use crate::position::{Generation, Term, TimeMs, Txid};
use crate::segment::MAX_PART_OBJECT_BYTES;
use crate::store::{Body, Key, ObjectMeta, Outcome, PutMode, Store, StoreError};

mod blob;
mod path;
mod set;

pub use blob::{MAX_FILE_BYTES, decode_blob, encode_blob};
pub use path::RelativePath;
pub use set::{FileSet, IncludedFile, MAX_FILES, MAX_SET_BYTES};

/// Bytes of a set's object that are read: a thousand files with the longest paths take less.
const MAX_OBJECT_BYTES: usize = 4 << 20;

/// Why something of a file set was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileSetError {
    #[error("{key}: {problem}")]
    Damaged { key: Key, problem: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The file sets of one replica.
#[derive(Debug, Clone)]
pub struct FileSets {
    store: Arc<dyn Store>,
}

impl FileSets {
    pub fn new(store: Arc<dyn Store>) -> FileSets {
        FileSets { store }
    }

    /// Everything in the folder of a generation's sets, in the order in which they count; and names that are none of ours.
    pub async fn list(&self, generation: Generation) -> Result<(Vec<Listed<FileSetName>>, Vec<Key>), StoreError> {
        let listing = self.store.list(&layout::file_set_folder(generation), None).await?;
        Ok(sort(listing, |name| if let ObjectName::FileSet(name) = name { Some(name) } else { None }))
    }

    /// The same for blobs.
    pub async fn blobs(&self, generation: Generation) -> Result<(Vec<Listed<BlobHash>>, Vec<Key>), StoreError> {
        let listing = self.store.list(&layout::blob_folder(generation), None).await?;
        Ok(sort(listing, |name| if let ObjectName::Blob { hash, .. } = name { Some(hash) } else { None }))
    }

    pub async fn read(&self, name: FileSetName) -> Result<FileSet, FileSetError> {
        let key = ObjectName::FileSet(name).key();
        let bytes = self.get(&key).await?;
        if bytes.len() > MAX_OBJECT_BYTES || crate::checksum::content_hash(&bytes) != name.hash {
            return Err(FileSetError::Damaged { key, problem: "its content is not what its name says".to_owned() });
        }
        FileSet::decode(&bytes).map_err(|problem| FileSetError::Damaged { key, problem })
    }

    /// The content of a file, proven against its hash.
    pub async fn content(&self, generation: Generation, file: &IncludedFile) -> Result<Vec<u8>, FileSetError> {
        if file.bytes == 0 {
            return Ok(Vec::new());
        }
        let content = self.blob(generation, file.hash).await?;
        if content.len() as u64 == file.bytes {
            return Ok(content);
        }
        let key = ObjectName::Blob { generation, hash: file.hash }.key();
        let problem = format!("{} bytes came where {} were expected", content.len(), file.bytes);
        Err(FileSetError::Damaged { key, problem })
    }

    /// The content of a blob, proven against its name.
    pub async fn blob(&self, generation: Generation, hash: BlobHash) -> Result<Vec<u8>, FileSetError> {
        let key = ObjectName::Blob { generation, hash }.key();
        let object = self.get(&key).await?;
        if object.len() as u64 > MAX_PART_OBJECT_BYTES {
            let problem = format!("has {} bytes, more than any blob", object.len());
            return Err(FileSetError::Damaged { key, problem });
        }
        // Half a second of work for the largest ones.
        let decoded = tokio::task::spawn_blocking(move || decode_blob(&object, hash)).await;
        match decoded {
            Ok(decoded) => decoded.map_err(|problem| FileSetError::Damaged { key, problem }),
            Err(error) => Err(FileSetError::Damaged { key, problem: format!("could not be read: {error}") }),
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes, FileSetError> {
        match self.store.get(key, None).await {
            Err(error) if error.outcome == Outcome::NotFound => {
                Err(FileSetError::Damaged { key: key.clone(), problem: "is missing".to_owned() })
            }
            bytes => Ok(bytes?),
        }
    }

    /// Creates a blob. One that is there already has this content: its name says so.
    pub async fn put_blob(&self, generation: Generation, hash: BlobHash, object: Bytes) -> Result<(), StoreError> {
        self.create(&ObjectName::Blob { generation, hash }.key(), object).await
    }

    /// Creates a set. Every blob that it names must be there already.
    pub async fn put(&self, moment: Moment, set: &FileSet) -> Result<FileSetName, StoreError> {
        let object = set.encode();
        let Moment { generation, txid, term, time } = moment;
        let name = FileSetName { generation, txid, term, time, hash: crate::checksum::content_hash(&object) };
        self.create(&ObjectName::FileSet(name).key(), object.into()).await?;
        Ok(name)
    }

    async fn create(&self, key: &Key, object: Bytes) -> Result<(), StoreError> {
        match self.store.put(key, Body::Bytes(object), PutMode::Create).await {
            // The answer to an attempt before was lost, or the same was needed before.
            Err(error) if error.outcome != Outcome::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

fn sort<N: Copy + Ord>(listing: Vec<ObjectMeta>, of: impl Fn(ObjectName) -> Option<N>) -> (Vec<Listed<N>>, Vec<Key>) {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for ObjectMeta { key, size } in listing {
        match ObjectName::parse(key.as_str()).and_then(&of) {
            Some(name) => known.push(Listed { name, size }),
            None => unknown.push(key),
        }
    }
    known.sort_unstable();
    (known, unknown)
}

/// When the files of a set were looked at, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub generation: Generation,
    pub txid: Txid,
    pub term: Term,
    pub time: TimeMs,
}

/// The sets that count: what a dead term wrote over what another writer has shipped is left out.
pub fn living(sets: &[Listed<FileSetName>], inventory: &Inventory) -> Vec<Listed<FileSetName>> {
    let is_dead = |set: &&Listed<FileSetName>| inventory.is_taken_over(set.name.term, set.name.txid);
    sets.iter().filter(|set| !is_dead(set)).copied().collect()
}

/// The set that tells the files as they were at a commit. Where somebody asked for a moment, nothing that changed after it counts, as
/// long as there is anything older.
pub fn current(sets: &[Listed<FileSetName>], txid: Txid, until: Option<TimeMs>) -> Option<FileSetName> {
    let by_then = sets.iter().map(|set| set.name).filter(|name| name.txid <= txid);
    let in_time = by_then.clone().filter(|name| until.is_none_or(|until| name.time <= until)).max();
    in_time.or_else(|| by_then.min())
}

#[cfg(test)]
mod tests;
