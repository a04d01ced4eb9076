//! Typed reading of a replica: every object is read within the bounds of its listing and compared with its name.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::engine::EngineKind;
use crate::inventory::{Inventory, Listed};
use crate::layout::{self, Level, ObjectName, SegmentName, SnapshotName};
use crate::position::Generation;
use crate::restore::error::Fault;
use crate::segment::{Index, Manifest, SegmentError, TAIL_READ_BYTES, Tail};
use crate::store::{Key, Outcome, Store};

/// Version of the layout of a replica that this reader understands.
pub const READER: u32 = 1;

/// Bytes of a marker that are read; ours has some two hundred.
const MAX_MARKER_BYTES: usize = 64 * 1024;

/// What `replicate.json` says. Fields that this version does not know are left alone: `min_reader` decides.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Marker {
    pub format: u32,
    pub min_reader: u32,
    pub engine: String,
    /// File name of the database.
    #[serde(default)]
    pub name: Option<String>,
}

/// A replica being read.
#[derive(Debug, Clone)]
pub struct Reading {
    store: Arc<dyn Store>,
}

impl Reading {
    pub fn new(store: Arc<dyn Store>) -> Reading {
        Reading { store }
    }

    pub fn describe(&self) -> String {
        self.store.describe()
    }

    /// The marker, or `None` where there is none.
    pub async fn marker(&self) -> Result<Option<Marker>, Fault> {
        let key = ObjectName::Marker.key();
        let bytes = match self.store.get(&key, None).await {
            Ok(bytes) => bytes,
            Err(error) if error.outcome == Outcome::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if bytes.len() > MAX_MARKER_BYTES {
            return Err(Fault::object(&key, "is too long for what it is"));
        }
        let marker: Marker = serde_json::from_slice(&bytes)
            .map_err(|error| Fault::object(&key, format_args!("is not a marker of replicate: {error}")))?;
        if marker.min_reader > READER || marker.engine.parse::<EngineKind>().is_err() {
            let found = u16::try_from(marker.format).unwrap_or(u16::MAX);
            let min_reader = u16::try_from(marker.min_reader).unwrap_or(u16::MAX);
            let source = SegmentError::UnsupportedVersion { version: found, min_reader };
            return Err(Fault::Newer { object: key, source });
        }
        Ok(Some(marker))
    }

    /// Generations, oldest first. Folders with other names are none of ours.
    pub async fn generations(&self) -> Result<Vec<Generation>, Fault> {
        let folders = self.store.list_folders("").await?;
        let mut generations: Vec<Generation> =
            folders.iter().filter_map(|folder| folder.trim_end_matches('/').parse().ok()).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// What a generation holds: snapshots first, so that every segment that one of them needs is in the listings that
    /// follow; levels from below, so that what is merged and then pruned meanwhile is seen in one of them.
    pub async fn inventory(&self, generation: Generation) -> Result<Inventory, Fault> {
        let mut objects = self.store.list(&layout::snapshot_folder(generation), None).await?;
        for level in 0..=Level::MAX.0 {
            objects.extend(self.store.list(&layout::level_folder(generation, Level(level)), None).await?);
        }
        objects.extend(self.store.list(&layout::term_folder(generation), None).await?);
        Ok(Inventory::new(generation, objects))
    }

    /// A snapshot's manifest without its page map: mostly one small read.
    pub async fn manifest(&self, snapshot: &Listed<SnapshotName>) -> Result<Manifest, Fault> {
        let key = ObjectName::Snapshot(snapshot.name).key();
        let manifest = self.read_tail(&key, snapshot.size, Manifest::from_tail).await?;
        manifest.check_name(&snapshot.name).map_err(|error| Fault::segment(&key, error))?;
        Ok(manifest)
    }

    /// A segment's index: mostly one small read.
    pub async fn index(&self, segment: &Listed<SegmentName>) -> Result<Index, Fault> {
        let key = ObjectName::Segment(segment.name).key();
        let index = self.read_tail(&key, segment.size, Index::from_tail).await?;
        index.check_name(&segment.name).map_err(|error| Fault::segment(&key, error))?;
        Ok(index)
    }

    async fn read_tail<T>(
        &self,
        key: &Key,
        size: u64,
        read: impl Fn(&[u8], u64) -> Result<Tail<T>, SegmentError>,
    ) -> Result<T, Fault> {
        let tail = self.range(key, size.saturating_sub(TAIL_READ_BYTES)..size).await?;
        let offset = match read(&tail, size).map_err(|error| Fault::segment(key, error))? {
            Tail::Whole(value) => return Ok(value),
            Tail::ReadFrom(offset) => offset,
        };
        let tail = self.range(key, offset..size).await?;
        match read(&tail, size).map_err(|error| Fault::segment(key, error))? {
            Tail::Whole(value) => Ok(value),
            Tail::ReadFrom(_) => Err(Fault::object(key, "its index cannot be found")),
        }
    }

    pub async fn range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, Fault> {
        let wanted = range.end.saturating_sub(range.start);
        let bytes = self.store.get(key, Some(range)).await.map_err(|error| Fault::request(key, error))?;
        self.expect_length(key, bytes, wanted)
    }

    /// A whole object, which a listing or a manifest says is `size` bytes long.
    pub async fn whole(&self, key: &Key, size: u64) -> Result<Bytes, Fault> {
        let bytes = self.store.get(key, None).await.map_err(|error| Fault::request(key, error))?;
        self.expect_length(key, bytes, size)
    }

    fn expect_length(&self, key: &Key, bytes: Bytes, wanted: u64) -> Result<Bytes, Fault> {
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Fault::object(key, format_args!("{} bytes came where {wanted} were expected", bytes.len())))
    }
}
