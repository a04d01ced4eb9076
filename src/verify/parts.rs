//! The parts of every snapshot: whole, what their names say, and what the snapshot's page map says.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt, stream};

use super::{Known, Verifier};
use crate::checksum::page_hashes;
use crate::extent::{Extent, FileId, PageGrid};
use crate::inventory::Inventory;
use crate::layout::{ObjectName, PartHash};
use crate::position::Generation;
use crate::restore::{Fault, Reading, RestoreError, in_background, no_object, prove_part, prove_patch};
use crate::segment::{Layers, Manifest, PageRun, PartRef, PatchRef, pieces_over};

/// The hashes of the pages that a part holds, first page first. Empty when it could not be read.
type Hashes = HashMap<PartHash, Vec<u64>>;
/// What patches lay over parts.
struct Patched {
    /// By page: the newest patch that it is in, and its hash there.
    pages: HashMap<u64, (PartHash, u64)>,
    /// Every patch was read; otherwise nothing is known of the parts under patches.
    is_whole: bool,
}

impl Verifier<'_> {
    pub(super) async fn parts(&mut self, inventory: &Inventory, snapshots: &[Known]) -> Result<(), RestoreError> {
        let (mut hashes, mut last_grid) = (Hashes::new(), None);
        for known in snapshots {
            let grid = known.manifest.grid();
            if last_grid.replace(grid) != Some(grid) {
                // The same content has other pages now.
                hashes.clear();
            }
            let mut needed: Vec<PartRef> = known.manifest.parts.clone();
            // Only what the snapshot before it shares with this one is kept, so that memory is bounded by one page map.
            let own: BTreeSet<PartHash> = needed.iter().map(|part| part.hash).collect();
            hashes.retain(|hash, _| own.contains(hash));
            let generation = inventory.generation;
            needed.retain(|part| !hashes.contains_key(&part.hash));
            needed.retain(|part| self.is_chosen(&ObjectName::Part { generation, hash: part.hash }.key()));
            self.read_parts(known, grid, needed, &mut hashes).await?;
            let Some(patched) = self.read_patches(known).await? else { continue };
            // Its page map is read where there is something to compare, or where it is this object's own turn.
            if !hashes.is_empty() || self.is_chosen(&ObjectName::Snapshot(known.snapshot.name).key()) {
                self.compare(inventory, known, &hashes, &patched).await?;
            }
        }
        Ok(())
    }

    async fn read_parts(
        &mut self,
        known: &Known,
        grid: PageGrid,
        parts: Vec<PartRef>,
        hashes: &mut Hashes,
    ) -> Result<(), RestoreError> {
        let total = parts.iter().map(|part| part.stored_len).fold(0, u64::saturating_add);
        self.how.progress.begin("reading parts", total);
        let generation = known.snapshot.name.generation;
        let reading = self.reading.clone();
        let read = stream::iter(parts).map(|part| {
            let task = tokio::spawn(read_part(reading.clone(), generation, part, grid));
            async move {
                let joined = task.await.unwrap_or_else(|e| Err(Fault::Result(format!("a task ended early: {e}"))));
                (part, joined)
            }
        });
        let mut read = std::pin::pin!(read.buffer_unordered(self.how.jobs.max(1)));
        while let Some((part, result)) = read.next().await {
            match result {
                Ok(found) => _ = hashes.insert(part.hash, found),
                Err(fault) => {
                    let manifest = ObjectName::Snapshot(known.snapshot.name).key();
                    if !self.reading.is_listed(&manifest).await.map_err(no_object)? {
                        self.report.notes.push(format!("{manifest} was removed meanwhile"));
                        return Ok(());
                    }
                    hashes.insert(part.hash, Vec::new());
                    self.fault(Some(generation), fault).await?;
                }
            }
            self.report.read_bytes += part.stored_len;
            self.how.progress.advance(part.stored_len);
        }
        Ok(())
    }

    /// The pages that patches lay over the parts; `None` when one cannot be read, which is told then.
    async fn read_patches(&mut self, known: &Known) -> Result<Option<Patched>, RestoreError> {
        let manifest = &known.manifest;
        let generation = manifest.generation;
        let is_chosen = |patch: &PatchRef| self.is_chosen(&ObjectName::Part { generation, hash: patch.hash }.key());
        let chosen: Vec<(usize, PatchRef)> =
            manifest.layers.patches.iter().copied().enumerate().filter(|(_, patch)| is_chosen(patch)).collect();
        let mut patched = Patched { pages: HashMap::new(), is_whole: chosen.len() == manifest.layers.patches.len() };
        let read = |(number, patch): (usize, PatchRef)| {
            let reading = self.reading.clone();
            async move { (number, patch, read_patch(reading, generation, patch).await) }
        };
        let reads: Vec<_> = chosen.into_iter().map(read).collect();
        let mut reads = std::pin::pin!(stream::iter(reads).buffered(self.how.jobs.max(1)));
        while let Some((number, patch, result)) = reads.next().await {
            self.report.read_bytes += patch.stored_len;
            let extents = match result {
                Ok(extents) => extents,
                Err(fault) => {
                    self.fault(Some(generation), fault).await?;
                    return Ok(None);
                }
            };
            lay_over(manifest, number, &extents, &mut patched);
        }
        Ok(Some(patched))
    }

    /// A page that no commit touched while the copy was made must be what the page map says.
    async fn compare(
        &mut self,
        inventory: &Inventory,
        known: &Known,
        hashes: &Hashes,
        patched: &Patched,
    ) -> Result<(), RestoreError> {
        let generation = inventory.generation;
        let manifest_key = ObjectName::Snapshot(known.snapshot.name).key();
        let (manifest, map) = match self.reading.page_map(&known.snapshot).await {
            Ok(read) => read,
            Err(fault) => return self.fault(Some(generation), fault).await,
        };
        self.report.read_bytes += known.snapshot.size;
        let Some(touched) = self.touched(inventory, known).await? else { return Ok(()) };
        let grid = manifest.grid();
        for (number, part) in manifest.main_parts().iter().enumerate() {
            let is_patched = manifest.layers.over.get(number).is_some_and(|over| over.bytes > 0);
            if is_patched && !patched.is_whole {
                continue;
            }
            let first = grid.page_at(part.offset);
            let Some(found) = hashes.get(&part.hash) else { continue };
            for (page, &hash) in (first..map.len()).zip(found) {
                let (object, hash) = patched.pages.get(&page).copied().unwrap_or((part.hash, hash));
                let differs = map.get(page) != hash;
                if differs && !touched.iter().any(|run| run.contains(page)) {
                    let key = ObjectName::Part { generation, hash: object }.key();
                    let problem = format!("its page {page} is not what {manifest_key} says");
                    self.find(Some(generation), Some(key), problem);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Pages that the commits after a snapshot's base and up to its own may have changed, those that were cut off for a while
    /// among them. `None` when a segment of them cannot
    /// be read or has another grid, which is told elsewhere.
    async fn touched(&self, inventory: &Inventory, known: &Known) -> Result<Option<Vec<PageRun>>, RestoreError> {
        if let Some(differing) = &known.manifest.layers.differing {
            return Ok(Some(differing.clone()));
        }
        let (base, txid) = (known.manifest.base, known.manifest.commit.txid);
        let Ok(chain) = inventory.chain(base, txid) else { return Ok(None) };
        let mut touched = Vec::new();
        for segment in &chain {
            let Ok(index) = self.reading.index(segment).await else { return Ok(None) };
            if index.header.grid != known.manifest.grid() {
                return Ok(None);
            }
            let since = index.commits.iter().filter(|entry| entry.commit.txid > base && entry.commit.txid <= txid);
            if let Some(shortest) = since.map(|entry| entry.commit.lengths.main).min() {
                let first = index.header.grid.pages(shortest);
                touched.push(PageRun { first, count: u64::MAX - first });
            }
            for number in crate::restore::needed_blocks(&index, base, txid) {
                touched.extend_from_slice(index.page_runs(number));
            }
        }
        Ok(Some(touched))
    }
}

/// Reads a part, proves it and hashes its pages.
pub(super) async fn read_part(
    reading: Reading,
    generation: Generation,
    part: PartRef,
    grid: PageGrid,
) -> Result<Vec<u64>, Fault> {
    let key = ObjectName::Part { generation, hash: part.hash }.key();
    let object = reading.part(&key).await?;
    in_background(move || {
        let length = usize::try_from(part.len).map_err(|_| Fault::object(&key, "is too long"))?;
        let mut content = vec![0; length];
        prove_part(&key, &object, &part, |extent| {
            // The decoder has checked that extents lie within the part.
            let start = (extent.offset - part.offset) as usize;
            content[start..start + extent.data.len()].copy_from_slice(extent.data);
            Ok(())
        })?;
        let hashes = if part.file == FileId::Main { page_hashes(grid, part.offset, &content) } else { None };
        Ok(hashes.unwrap_or_default())
    })
    .await
}

type Extents = Vec<(u64, Vec<u8>)>;

/// Reads a patch and proves it.
async fn read_patch(reading: Reading, generation: Generation, patch: PatchRef) -> Result<Extents, Fault> {
    let key = ObjectName::Part { generation, hash: patch.hash }.key();
    let object = reading.part(&key).await?;
    in_background(move || {
        let mut extents = Extents::new();
        prove_patch(&key, &object, &patch, |extent| {
            extents.push((extent.offset, extent.data.to_vec()));
            Ok(())
        })?;
        Ok(extents)
    })
    .await
}

/// The pages of patch `number` that count.
fn lay_over(manifest: &Manifest, number: usize, extents: &Extents, patched: &mut Patched) {
    let (grid, parts, Layers { patches, over, .. }) = (manifest.grid(), manifest.main_parts(), &manifest.layers);
    for (offset, data) in extents {
        let extent = Extent { file: FileId::Main, offset: *offset, data };
        let taken = pieces_over(parts, over, number, extent, |piece| {
            let first = grid.page_at(piece.offset);
            // What does not begin with a page has no hash to compare; what came of it shows in the database's checksum.
            let hashes = page_hashes(grid, piece.offset, piece.data).unwrap_or_default();
            patched.pages.extend((first..).zip(hashes).map(|(page, hash)| (page, (patches[number].hash, hash))));
            Ok(())
        });
        taken.expect("nothing is written here");
    }
}

/// Reads the part or the patch of this name and proves it.
pub(super) async fn prove_object(reading: &Reading, manifest: &Manifest, hash: PartHash) -> Result<(), Fault> {
    let generation = manifest.generation;
    if let Some(part) = manifest.parts.iter().find(|part| part.hash == hash) {
        read_part(reading.clone(), generation, *part, manifest.grid()).await?;
    }
    if let Some(patch) = manifest.layers.patches.iter().find(|patch| patch.hash == hash) {
        read_patch(reading.clone(), generation, *patch).await?;
    }
    Ok(())
}
