//! One database's copy in one store: typed reading and writing of what the names in `layout.rs` stand for.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::document::{self, Document, DocumentError};
use crate::engine::EngineKind;
use crate::inventory::{Inventory, Listed};
use crate::layout::{self, Level, MARKER, ObjectName, PartHash, SegmentName, SnapshotName};
use crate::position::{Generation, Term, Txid};
use crate::segment::{Index, MAX_INDEX_BYTES, Manifest, SegmentError, SegmentReader, TAIL_READ_BYTES, Tail};
use crate::store::{self, Body, CreateOnly, Key, ObjectMeta, Outcome, PutMode, Store, StoreError, same_content};

mod marks;

pub use marks::Marked;

/// What a replica is, in `replicate.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The oldest version of a reader that understands it.
    pub min_reader: u32,
    pub engine: String,
    /// File name of the database: what a restore without a target writes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The oldest reader that understands a replica that this version begins.
pub const MIN_READER: u32 = 1;
/// The newest `min_reader` that this version reads.
pub const READER_VERSION: u32 = 2;
/// Bytes of a marker or of a claim; more is not ours.
pub const MAX_SMALL_BYTES: usize = 64 * 1024;

/// Whether a claim is ours.
pub type IsOurs = bool;

/// The claim of a writer, in its term's object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Random, one per process: tells our own claim, whose answer was lost, from another writer's.
    pub writer: String,
    pub claimed_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{name} is damaged: {source}")]
    Damaged { name: String, source: SegmentError },
    /// Written by a newer version, for another engine, or not by us.
    #[error("{what}; {next_step}")]
    Refused { what: String, next_step: &'static str },
    /// An object of that name is there and holds something else.
    #[error("{name} exists and holds something else: another writer is at work in this replica")]
    Conflict { name: String },
    #[error("cannot read the spool: {0}")]
    Local(#[from] std::io::Error),
}

impl ReplicaError {
    /// May it work later, with nothing changed on our side? Local errors count: the disk may recover.
    pub fn is_retryable(&self) -> bool {
        match self {
            ReplicaError::Store(error) => error.outcome != Outcome::AlreadyExists,
            ReplicaError::Local(_) => true,
            ReplicaError::Damaged { .. } | ReplicaError::Refused { .. } | ReplicaError::Conflict { .. } => false,
        }
    }

    /// For counting.
    pub fn kind(&self) -> &'static str {
        match self {
            ReplicaError::Store(error) => match error.outcome {
                Outcome::NotFound => "store-not-found",
                Outcome::AlreadyExists => "store-exists",
                Outcome::Denied => "store-denied",
                Outcome::Unavailable => "store-unavailable",
                Outcome::Invalid => "store-invalid",
            },
            ReplicaError::Damaged { .. } => "replica-damaged",
            ReplicaError::Refused { .. } => "replica-refused",
            ReplicaError::Conflict { .. } => "replica-conflict",
            ReplicaError::Local(_) => "spool",
        }
    }
}

/// One database's copy in one store.
#[derive(Debug, Clone)]
pub struct Replica {
    store: Arc<dyn Store>,
}

impl Replica {
    pub fn new(store: Arc<dyn Store>) -> Replica {
        Replica { store }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The URL for messages, without secrets.
    pub fn describe(&self) -> String {
        self.store.describe()
    }

    /// What this replica is; `None` when nothing was ever written here. Refuses what this version must not touch.
    pub async fn engine(&self) -> Result<Option<EngineKind>, ReplicaError> {
        let key = ObjectName::Marker.key();
        match document::read(&*self.store, &key, MAX_SMALL_BYTES).await {
            Err(error) if error.outcome == Outcome::NotFound => Ok(None),
            read => self.judge_marker(read?).map(Some),
        }
    }

    fn judge_marker(&self, read: Result<Document<Marker>, DocumentError>) -> Result<EngineKind, ReplicaError> {
        let refused = |what: String, next_step| ReplicaError::Refused { what, next_step };
        let marker = match read {
            Ok(document) => document.value,
            Err(problem @ (DocumentError::Changed { .. } | DocumentError::NoChecksum { .. })) => {
                let next_step = "if it is the replica of this database, remove that object: it is written anew";
                return Err(refused(format!("{MARKER} in {} {problem}", self.describe()), next_step));
            }
            Err(_) => {
                let what = format!("{MARKER} in {} was not written by replicate", self.describe());
                return Err(refused(what, "use an empty prefix"));
            }
        };
        if marker.min_reader > READER_VERSION {
            let what = format!("{} needs a reader of version {} or newer", self.describe(), marker.min_reader);
            return Err(refused(what, "use a newer replicate"));
        }
        marker.engine.parse().map_err(|_| {
            refused(
                format!("{} is a replica for the engine {:?}", self.describe(), marker.engine),
                "use a newer replicate",
            )
        })
    }

    /// Every generation, oldest first.
    pub async fn generations(&self) -> Result<Vec<Generation>, ReplicaError> {
        let folders = self.store.list_folders("").await?;
        let mut generations: Vec<Generation> = folders.iter().filter_map(|folder| folder.parse().ok()).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// The claims in a generation, lowest first.
    pub async fn terms(&self, generation: Generation) -> Result<Vec<Term>, ReplicaError> {
        let listing = self.store.list(&layout::term_folder(generation), None).await?;
        let term = |object: &ObjectMeta| match ObjectName::parse(object.key.as_str()) {
            Some(ObjectName::Term { term, .. }) => Some(term),
            _ => None,
        };
        Ok(listing.iter().filter_map(term).collect())
    }

    /// Who holds a term.
    pub async fn claimant(
        &self,
        generation: Generation,
        term: Term,
    ) -> Result<Result<Document<Claim>, DocumentError>, StoreError> {
        document::read(&*self.store, &ObjectName::Term { generation, term }.key(), MAX_SMALL_BYTES).await
    }

    /// What a generation holds: claims, segments of all levels and snapshots, without its parts.
    pub async fn inventory(&self, generation: Generation) -> Result<Inventory, ReplicaError> {
        let mut listing = self.store.list(&layout::term_folder(generation), None).await?;
        for level in 0..=Level::MAX.0 {
            listing.extend(self.store.list(&layout::level_folder(generation, Level(level)), None).await?);
        }
        listing.extend(self.store.list(&layout::snapshot_folder(generation), None).await?);
        Ok(Inventory::new(generation, listing))
    }

    /// The snapshots of a generation, oldest first.
    pub async fn snapshots(&self, generation: Generation) -> Result<Vec<Listed<SnapshotName>>, ReplicaError> {
        let listing = self.store.list(&layout::snapshot_folder(generation), None).await?;
        let name = |object: &ObjectMeta| match ObjectName::parse(object.key.as_str()) {
            Some(ObjectName::Snapshot(name)) => Some(Listed { name, size: object.size }),
            _ => None,
        };
        Ok(listing.iter().filter_map(name).collect())
    }

    /// The index of a segment, in one or two ranged reads.
    pub async fn read_index(&self, listed: Listed<SegmentName>) -> Result<Index, ReplicaError> {
        let key = ObjectName::Segment(listed.name).key();
        let damaged = |source| ReplicaError::Damaged { name: key.to_string(), source };
        let tail = self.read_tail(&key, listed.size, TAIL_READ_BYTES).await?;
        let index = match Index::from_tail(&tail, listed.size).map_err(damaged)? {
            Tail::Whole(index) => index,
            Tail::ReadFrom(offset) => {
                let tail = self.read_tail(&key, listed.size, listed.size - offset.min(listed.size)).await?;
                match Index::from_tail(&tail, listed.size).map_err(damaged)? {
                    Tail::Whole(index) => index,
                    Tail::ReadFrom(offset) => {
                        return Err(damaged(SegmentError::Corrupt { what: "place of the index", offset }));
                    }
                }
            }
        };
        index.check_name(&listed.name).map_err(damaged)?;
        Ok(index)
    }

    async fn read_tail(&self, key: &Key, size: u64, bytes: u64) -> Result<Bytes, ReplicaError> {
        let bytes = bytes.min(u64::from(MAX_INDEX_BYTES) + TAIL_READ_BYTES).min(size);
        Ok(self.store.get(key, Some(size - bytes..size)).await?)
    }

    /// A whole segment, proven but for its blocks, which are proven as they are read. Holds it in memory: for a large one
    /// use `read_index` and ranges.
    pub async fn read_segment(&self, name: SegmentName) -> Result<SegmentReader, ReplicaError> {
        let key = ObjectName::Segment(name).key();
        let damaged = |source| ReplicaError::Damaged { name: key.to_string(), source };
        let reader = SegmentReader::open(self.store.get(&key, None).await?).map_err(damaged)?;
        reader.index().check_name(&name).map_err(damaged)?;
        Ok(reader)
    }

    /// A snapshot's manifest, and the page hashes as of its commit.
    pub async fn read_manifest(&self, name: SnapshotName) -> Result<(Manifest, Vec<u64>), ReplicaError> {
        let key = ObjectName::Snapshot(name).key();
        let damaged = |source| ReplicaError::Damaged { name: key.to_string(), source };
        let (manifest, hashes) = Manifest::decode(&self.store.get(&key, None).await?).map_err(damaged)?;
        manifest.check_name(&name).map_err(damaged)?;
        Ok((manifest, hashes))
    }

    /// Every part and every patch of a generation.
    pub async fn parts(&self, generation: Generation) -> Result<Vec<Listed<PartHash>>, ReplicaError> {
        let listing = self.store.list(&layout::part_folder(generation), None).await?;
        let hash = |object: &ObjectMeta| match ObjectName::parse(object.key.as_str()) {
            Some(ObjectName::Part { hash, .. }) => Some(Listed { name: hash, size: object.size }),
            _ => None,
        };
        Ok(listing.iter().filter_map(hash).collect())
    }

    /// The object of a part or a patch as stored.
    pub async fn read_part(&self, generation: Generation, hash: PartHash) -> Result<Bytes, ReplicaError> {
        Ok(self.store.get(&ObjectName::Part { generation, hash }.key(), None).await?)
    }

    /// Makes this a replica for `engine`, or refuses when it is one for another.
    pub async fn ensure_marker(&self, engine: EngineKind, name: &str) -> Result<(), ReplicaError> {
        let found = match self.engine().await? {
            Some(found) => found,
            None => {
                let (engine_name, name) = (engine.to_string(), Some(name.to_owned()));
                let bytes =
                    Bytes::from(document::encode(&Marker { min_reader: MIN_READER, engine: engine_name, name }));
                match self.store.put(&ObjectName::Marker.key(), Body::Bytes(bytes), PutMode::Create).await {
                    Err(error) if error.outcome == Outcome::AlreadyExists => self.engine().await?.unwrap_or(engine),
                    result => {
                        result?;
                        engine
                    }
                }
            }
        };
        if found == engine {
            return Ok(());
        }
        let what = format!("{} is a replica of a {found} database, this is a {engine} database", self.describe());
        Err(ReplicaError::Refused { what, next_step: "give each database its own prefix" })
    }

    /// Claims exactly `term`, `racers` times at once: with more than one, it shows whether the store keeps writers apart. Not ours: another
    /// writer has it. A claim that cannot be read may be ours or another's, and is refused: the next term is there for whoever starts next.
    pub async fn claim(
        &self,
        generation: Generation,
        term: Term,
        claim: &Claim,
        racers: u64,
    ) -> Result<(IsOurs, CreateOnly), ReplicaError> {
        let body = |racer| {
            let claimed_ms = claim.claimed_ms.saturating_add(racer);
            Bytes::from(document::encode(&Claim { claimed_ms, ..claim.clone() }))
        };
        let bodies: Vec<Bytes> = (0..racers.max(1)).map(body).collect();
        let key = ObjectName::Term { generation, term }.key();
        let seen = store::race(&*self.store, &key, &bodies).await?;
        if seen == CreateOnly::Atomic {
            return Ok((true, seen));
        }
        let holder = self.claimant(generation, term).await?.map_err(|problem| ReplicaError::Refused {
            what: format!("nobody can tell who holds a term of {}: {key} {problem}", self.describe()),
            next_step: "start again: every start claims the next term",
        })?;
        Ok((holder.value.writer == claim.writer, seen))
    }

    /// Creates a segment from its finished file.
    pub async fn put_segment(&self, name: SegmentName, path: &Path, len: u64) -> Result<(), ReplicaError> {
        self.create(&ObjectName::Segment(name).key(), Body::File { path: path.to_owned(), len }).await
    }

    /// Creates an object. One that is there with the same content was created by us, and the answer was lost.
    async fn create(&self, key: &Key, body: Body) -> Result<(), ReplicaError> {
        match self.store.put(key, body.clone(), PutMode::Create).await {
            Err(error) if error.outcome == Outcome::AlreadyExists => {}
            result => return Ok(result?),
        }
        if same_content(&*self.store, key, &body).await? {
            return Ok(());
        }
        Err(ReplicaError::Conflict { name: key.to_string() })
    }

    /// Creates a part or a patch. One that is there already has this content: its name says so.
    pub async fn put_part(&self, generation: Generation, hash: PartHash, object: Bytes) -> Result<(), ReplicaError> {
        let key = ObjectName::Part { generation, hash }.key();
        match self.store.put(&key, Body::Bytes(object), PutMode::Create).await {
            Err(error) if error.outcome != Outcome::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Creates a snapshot. Everything that it lists must be there already.
    pub async fn put_manifest(&self, name: SnapshotName, object: Bytes) -> Result<(), ReplicaError> {
        self.create(&ObjectName::Snapshot(name).key(), Body::Bytes(object)).await
    }
}

/// The newest commit that a generation's segments hold and that a resuming writer continues from; of several that end there
/// the one as shipped, because its term is that of who captured it.
pub fn newest_segment(inventory: &Inventory) -> Option<Listed<SegmentName>> {
    let newest = |listed: &Listed<SegmentName>| {
        let name = listed.name;
        (name.last, std::cmp::Reverse(name.level), name.term, name.first)
    };
    inventory.segments.iter().copied().max_by_key(newest)
}

/// The newest snapshot at or before `txid`.
pub fn newest_snapshot(inventory: &Inventory, txid: Txid) -> Option<Listed<SnapshotName>> {
    inventory.snapshots.iter().copied().filter(|listed| listed.name.txid <= txid).max_by_key(|listed| listed.name.txid)
}
