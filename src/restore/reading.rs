//! Reading a replica for a restore: every failure is told apart by what it means there, see `Fault`.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::checksum::PageMap;
use crate::document;
use crate::engine::EngineKind;
use crate::extent::Extent;
use crate::inventory::{Inventory, Listed};
use crate::layout::{self, Level, ObjectName, SegmentName, SnapshotName};
use crate::position::Generation;
use crate::replica::{MAX_SMALL_BYTES, Marker, READER_VERSION, Replica, ReplicaError};
use crate::restore::error::Fault;
use crate::retention::Gaps;
use crate::segment::{
    Index, MAX_PART_OBJECT_BYTES, Manifest, PartRef, PatchRef, SegmentError, TAIL_READ_BYTES, Tail, decode_part,
    decode_patch,
};
use crate::store::{Key, ObjectMeta, Outcome, Store};

/// A replica being read.
#[derive(Debug, Clone)]
pub struct Reading {
    replica: Replica,
}

impl Reading {
    pub fn new(store: Arc<dyn Store>) -> Reading {
        Reading { replica: Replica::new(store) }
    }

    pub fn describe(&self) -> String {
        self.replica.describe()
    }

    /// The engine that the marker names, or `None` where there is no marker.
    pub async fn marker(&self) -> Result<Option<EngineKind>, Fault> {
        Ok(self.proven_marker().await?.map(|(engine, _)| engine))
    }

    /// The same, and whether the marker is proven by a checksum of its own.
    pub async fn proven_marker(&self) -> Result<Option<(EngineKind, bool)>, Fault> {
        let key = ObjectName::Marker.key();
        let read = match document::read::<Marker>(&**self.replica.store(), &key, MAX_SMALL_BYTES).await {
            Err(error) if error.outcome == Outcome::NotFound => return Ok(None),
            read => read?.map_err(|problem| Fault::object(&key, problem))?,
        };
        let marker = read.value;
        match marker.engine.parse() {
            Ok(engine) if marker.min_reader <= READER_VERSION => Ok(Some((engine, read.is_proven))),
            _ => {
                let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                let (version, min_reader) = (number(read.format), number(marker.min_reader));
                Err(Fault::Newer { object: key, source: SegmentError::UnsupportedVersion { version, min_reader } })
            }
        }
    }

    /// Generations, oldest first. Folders with other names are none of ours.
    pub async fn generations(&self) -> Result<Vec<Generation>, Fault> {
        self.replica.generations().await.map_err(|error| from_replica(&ObjectName::Marker.key(), error))
    }

    /// What a generation holds: snapshots first, so that every segment that one of them needs is in the listings that
    /// follow; levels from below, so that what is merged and then pruned meanwhile is seen in one of them.
    pub async fn inventory(&self, generation: Generation) -> Result<Inventory, Fault> {
        let store = self.replica.store();
        let mut objects = store.list(&layout::snapshot_folder(generation), None).await?;
        for level in 0..=Level::MAX.0 {
            objects.extend(store.list(&layout::level_folder(generation, Level(level)), None).await?);
        }
        objects.extend(store.list(&layout::term_folder(generation), None).await?);
        Ok(Inventory::new(generation, objects))
    }

    /// The replica itself, for what is not only read.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The gaps of a history, those that were pruned apart. Asks for marks only where there are gaps.
    pub async fn gaps(&self, inventory: &Inventory) -> Result<Gaps, Fault> {
        let generation = inventory.generation;
        let pruned = match inventory.gaps().is_empty() {
            true => Vec::new(),
            false => {
                self.replica.pruned(generation).await.map_err(|error| from_replica(&ObjectName::Marker.key(), error))?
            }
        };
        Ok(Gaps::new(inventory, &pruned))
    }

    /// Every part and every patch of a generation.
    pub async fn parts(&self, generation: Generation) -> Result<Vec<ObjectMeta>, Fault> {
        Ok(self.replica.store().list(&layout::part_folder(generation), None).await?)
    }

    /// Is an object of this name still listed? What was pruned meanwhile is not.
    pub async fn is_listed(&self, key: &Key) -> Result<bool, Fault> {
        let found = self.replica.store().list(key.as_str(), None).await?;
        Ok(found.iter().any(|object| object.key == *key))
    }

    /// A snapshot's manifest without its page map: mostly one small read.
    pub async fn manifest(&self, snapshot: &Listed<SnapshotName>) -> Result<Manifest, Fault> {
        let key = ObjectName::Snapshot(snapshot.name).key();
        let mut from = snapshot.size.saturating_sub(TAIL_READ_BYTES);
        // The second answer is final: it was read from where the first one said.
        for _ in 0..2 {
            let tail = self.range(&key, from..snapshot.size).await?;
            match Manifest::from_tail(&tail, snapshot.size).map_err(|error| Fault::segment(&key, error))? {
                Tail::Whole(manifest) => {
                    manifest.check_name(&snapshot.name).map_err(|error| Fault::segment(&key, error))?;
                    return Ok(manifest);
                }
                Tail::ReadFrom(offset) => from = offset,
            }
        }
        Err(Fault::object(&key, "its index cannot be found"))
    }

    /// A snapshot's manifest and the page map at its commit.
    pub async fn page_map(&self, snapshot: &Listed<SnapshotName>) -> Result<(Manifest, PageMap), Fault> {
        let key = ObjectName::Snapshot(snapshot.name).key();
        let bytes = self.whole(&key, snapshot.size).await?;
        let (manifest, hashes) = Manifest::decode(&bytes).map_err(|error| Fault::segment(&key, error))?;
        manifest.check_name(&snapshot.name).map_err(|error| Fault::segment(&key, error))?;
        let map = PageMap::from_hashes(manifest.grid(), hashes);
        Ok((manifest, map))
    }

    /// A segment's index: mostly one small read.
    pub async fn index(&self, segment: &Listed<SegmentName>) -> Result<Index, Fault> {
        let key = ObjectName::Segment(segment.name).key();
        self.replica.read_index(*segment).await.map_err(|error| from_replica(&key, error))
    }

    /// The object of a part or a patch. A part is named by its content: an earlier snapshot may have put the same content compressed in
    /// another way, so its size is not what the manifest says for certain.
    pub async fn part(&self, key: &Key) -> Result<Bytes, Fault> {
        let bytes = self.replica.store().get(key, None).await.map_err(|error| Fault::request(key, error))?;
        match bytes.len() as u64 {
            0..=MAX_PART_OBJECT_BYTES => Ok(bytes),
            bytes => Err(Fault::object(key, format_args!("has {bytes} bytes, more than any part"))),
        }
    }

    pub async fn range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, Fault> {
        let wanted = range.end.saturating_sub(range.start);
        let bytes = self.replica.store().get(key, Some(range)).await.map_err(|error| Fault::request(key, error))?;
        expect_length(key, bytes, wanted)
    }

    /// A whole object, which a listing or a manifest says is `size` bytes long.
    pub async fn whole(&self, key: &Key, size: u64) -> Result<Bytes, Fault> {
        let bytes = self.replica.store().get(key, None).await.map_err(|error| Fault::request(key, error))?;
        expect_length(key, bytes, size)
    }
}

/// Proves a part's object, whatever its size as stored, and hands its extents to `take`.
pub fn prove_part(
    key: &Key,
    object: &[u8],
    part: &PartRef,
    take: impl FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<(), Fault> {
    let part = PartRef { stored_len: object.len() as u64, ..*part };
    decode_part(object, &part, take).map_err(|error| content_fault(key, error))
}

/// The same for a patch.
pub fn prove_patch(
    key: &Key,
    object: &[u8],
    patch: &PatchRef,
    take: impl FnMut(Extent<'_>) -> io::Result<()>,
) -> Result<(), Fault> {
    let patch = PatchRef { stored_len: object.len() as u64, ..*patch };
    decode_patch(object, &patch, take).map_err(|error| content_fault(key, error))
}

fn content_fault(key: &Key, error: SegmentError) -> Fault {
    match error {
        // The object is in memory: what failed is who takes the extents, and the object is no worse for it.
        SegmentError::Io(source) => Fault::io("cannot write the content of", Path::new(key.as_str()))(source),
        error => Fault::segment(key, error),
    }
}

fn expect_length(key: &Key, bytes: Bytes, wanted: u64) -> Result<Bytes, Fault> {
    if bytes.len() as u64 == wanted {
        return Ok(bytes);
    }
    Err(Fault::object(key, format_args!("{} bytes came where {wanted} were expected", bytes.len())))
}

fn from_replica(key: &Key, error: ReplicaError) -> Fault {
    match error {
        ReplicaError::Store(error) => Fault::request(key, error),
        ReplicaError::Damaged { source, .. } => Fault::segment(key, source),
        other => Fault::object(key, other),
    }
}
