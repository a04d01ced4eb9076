//! The parts of every snapshot: whole, what their names say, and what the snapshot's page map says.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt, stream};

use super::{Known, Verifier};
use crate::checksum::page_hash;
use crate::extent::{FileId, PageGrid};
use crate::inventory::Inventory;
use crate::layout::{ObjectName, PartHash};
use crate::position::Generation;
use crate::restore::{Fault, Reading, RestoreError, in_background, no_object, prove_part};
use crate::segment::{PageRun, PartRef};

/// The hashes of the pages that a part holds, first page first. Empty when it could not be read.
type Hashes = HashMap<PartHash, Vec<u64>>;

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
            // Its page map is read where there is something to compare, or where it is this object's own turn.
            if !hashes.is_empty() || self.is_chosen(&ObjectName::Snapshot(known.snapshot.name).key()) {
                self.compare(inventory, known, &hashes).await?;
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

    /// A page that no commit touched while the copy was made must be what the page map says.
    async fn compare(&mut self, inventory: &Inventory, known: &Known, hashes: &Hashes) -> Result<(), RestoreError> {
        let generation = inventory.generation;
        let manifest_key = ObjectName::Snapshot(known.snapshot.name).key();
        let (manifest, map) = match self.reading.page_map(&known.snapshot).await {
            Ok(read) => read,
            Err(fault) => return self.fault(Some(generation), fault).await,
        };
        self.report.read_bytes += known.snapshot.size;
        let Some(touched) = self.touched(inventory, known).await? else { return Ok(()) };
        let grid = manifest.grid();
        for part in manifest.parts.iter().filter(|part| part.file == FileId::Main) {
            let first = grid.page_at(part.offset);
            let Some(found) = hashes.get(&part.hash) else { continue };
            for (page, &hash) in (first..map.len()).zip(found) {
                let differs = map.get(page) != hash;
                if differs && !touched.iter().any(|run| run.contains(page)) {
                    let key = ObjectName::Part { generation, hash: part.hash }.key();
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
        Ok(page_hashes(grid, &part, &content))
    })
    .await
}

/// Empty when the part does not begin with a page.
fn page_hashes(grid: PageGrid, part: &PartRef, content: &[u8]) -> Vec<u64> {
    let mut page = grid.page_at(part.offset);
    let (mut hashes, mut rest) = (Vec::new(), content);
    if part.file != FileId::Main || grid.offset(page) != part.offset {
        return hashes;
    }
    while !rest.is_empty() {
        let (data, more) = rest.split_at(rest.len().min(grid.len(page) as usize));
        hashes.push(page_hash(page, data));
        rest = more;
        page += 1;
    }
    hashes
}
