//! Every segment read and decoded, in order, and the page map followed from commit to commit: its checksum must be the one that
//! each commit states.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{Known, Verifier};
use crate::checksum::{PageMap, page_hash};
use crate::extent::{Extent, FileId};
use crate::inventory::{Inventory, Listed};
use crate::layout::{Level, ObjectName, SegmentName};
use crate::position::{Commit, Generation, Txid};
use crate::restore::{Fault, PIECE_BYTES, Reading, RestoreError, in_background};
use crate::segment::{Block, Index, Op, SegmentReader};
use crate::store::Key;

/// Pages of a map that is followed in memory, at 8 bytes each: 1 TiB of pages of 4 KiB.
const MAX_MAP_PAGES: u64 = 1 << 28;

/// The page map after one commit.
#[derive(Debug)]
struct Running {
    txid: Txid,
    checksum: u64,
    map: PageMap,
}

/// What is known while segments are read one after the other.
#[derive(Debug)]
struct Walk {
    generation: Generation,
    running: Option<Running>,
    /// Without a page map: what is known of the checksum of the commit before the segment that is read.
    before: Option<(Txid, u64)>,
    /// The commits at which snapshots are exact.
    snapshots: BTreeMap<Txid, (Key, Commit)>,
    /// Of the transaction that is being read: the hashes it states, and those of whole pages in it.
    stated: Vec<(u64, u64)>,
    whole: HashMap<u64, u64>,
    findings: Vec<(Key, String)>,
    notes: Vec<String>,
    commits: u64,
    /// Commits of levels that were read before: first and last of each segment. They are not counted twice.
    seen: Vec<BTreeMap<Txid, Txid>>,
}

/// A segment as it was fetched: small ones whole, of large ones the index.
enum Fetched {
    Whole(Bytes),
    Large(Box<Index>),
}

impl Verifier<'_> {
    /// Reads all segments of a generation: each level by itself, because they say the same of the same commits.
    pub(super) async fn walk(&mut self, inventory: &Inventory, snapshots: &[Known]) -> Result<(), RestoreError> {
        let mut seen = Vec::new();
        for level in 0..=Level::MAX.0 {
            let of_level = |listed: &&Listed<SegmentName>| listed.name.level == Level(level);
            let all: Vec<_> = inventory.segments.iter().filter(of_level).copied().collect();
            let is_chosen = |listed: &&Listed<SegmentName>| self.is_chosen(&ObjectName::Segment(listed.name).key());
            let segments: Vec<_> = all.iter().filter(is_chosen).copied().collect();
            if !segments.is_empty() {
                let ranges = segments.iter().map(|s| (s.name.first, s.name.last)).collect();
                seen = self.walk_level(inventory.generation, segments, &all, snapshots, seen).await?;
                seen.push(ranges);
            }
        }
        Ok(())
    }

    async fn walk_level(
        &mut self,
        generation: Generation,
        segments: Vec<Listed<SegmentName>>,
        all: &[Listed<SegmentName>],
        snapshots: &[Known],
        seen: Vec<BTreeMap<Txid, Txid>>,
    ) -> Result<Vec<BTreeMap<Txid, Txid>>, RestoreError> {
        let total = segments.iter().map(|s| s.size).fold(0, u64::saturating_add);
        self.how.progress.begin("reading segments", total);
        let mut walk = Walk { seen, ..Walk::new(generation, snapshots) };
        let reading = self.reading.clone();
        let fetched = stream::iter(segments).map(|segment| {
            let task = tokio::spawn(fetch(reading.clone(), segment));
            async move {
                let joined = task.await.unwrap_or_else(|e| Err(Fault::Result(format!("a task ended early: {e}"))));
                (segment, joined)
            }
        });
        let mut fetched = std::pin::pin!(fetched.buffered(self.how.jobs.max(1)));
        while let Some((segment, result)) = fetched.next().await {
            if let Some(anchor) = walk.anchor(&segment, snapshots) {
                match self.reading.page_map(&anchor.snapshot).await {
                    Ok((manifest, map)) => walk.start(&manifest.commit, map),
                    Err(fault) => self.fault(Some(generation), fault).await?,
                }
            }
            walk.before = match walk.running {
                // What was not read itself still says of its last commit what this one must say of it.
                None => self.stated_before(all, &segment).await?,
                Some(_) => None,
            };
            let key = ObjectName::Segment(segment.name).key();
            let result = match result {
                Ok(Fetched::Whole(bytes)) => {
                    let key = key.clone();
                    in_background(move || Ok(walk.whole_segment(&key, &segment, bytes))).await
                }
                Ok(Fetched::Large(index)) => self.large_segment(walk, &key, Arc::new(*index)).await,
                Err(fault) => Ok((walk, Err(fault))),
            };
            let (back, read) = result.map_err(crate::restore::no_object)?;
            walk = back;
            if let Err(fault) = read {
                // What comes after it has nothing to begin with, until the next snapshot.
                walk.running = None;
                self.fault(Some(generation), fault).await?;
            }
            for (key, problem) in std::mem::take(&mut walk.findings) {
                self.find(Some(generation), Some(key), problem);
            }
            self.report.read_bytes += segment.size;
            self.how.progress.advance(segment.size);
        }
        self.report.commits += walk.commits;
        self.report.notes.append(&mut walk.notes);
        Ok(walk.seen)
    }

    /// What the segment that ends where this one begins states of its last commit. Only asked where a sample left it out: what is read
    /// tells by itself.
    async fn stated_before(
        &mut self,
        all: &[Listed<SegmentName>],
        segment: &Listed<SegmentName>,
    ) -> Result<Option<(Txid, u64)>, RestoreError> {
        let before = all.iter().find(|listed| listed.name.last.0 == segment.name.first.0 - 1);
        let Some(before) = before.filter(|_| self.how.sample.is_some()) else { return Ok(None) };
        match self.reading.index(before).await {
            Ok(index) => Ok(index.commit(before.name.last).map(|entry| (before.name.last, entry.commit.checksum))),
            Err(fault) => self.fault(Some(segment.name.generation), fault).await.map(|()| None),
        }
    }

    async fn large_segment(
        &self,
        mut walk: Walk,
        key: &Key,
        index: Arc<Index>,
    ) -> Result<(Walk, Result<(), Fault>), Fault> {
        walk.begin(key, &index);
        let mut start = 0;
        while start < index.blocks.len() {
            let limit = index.blocks[start].offset.saturating_add(PIECE_BYTES);
            let fits = index.blocks[start..].iter().take_while(|block| block.range().end <= limit).count();
            let end = start + fits.max(1);
            let from = index.blocks[start].offset;
            let bytes = match self.reading.range(key, from..index.blocks[end - 1].range().end).await {
                Ok(bytes) => bytes,
                Err(fault) => return Ok((walk, Err(fault))),
            };
            let (index, key) = (index.clone(), key.clone());
            let (back, read) = in_background(move || Ok(walk.piece(&key, &index, start..end, &bytes))).await?;
            walk = back;
            if read.is_err() {
                return Ok((walk, read));
            }
            start = end;
        }
        Ok((walk, Ok(())))
    }
}

async fn fetch(reading: Reading, segment: Listed<SegmentName>) -> Result<Fetched, Fault> {
    if segment.size > PIECE_BYTES {
        return Ok(Fetched::Large(Box::new(reading.index(&segment).await?)));
    }
    let key = ObjectName::Segment(segment.name).key();
    reading.whole(&key, segment.size).await.map(Fetched::Whole)
}

impl Walk {
    fn new(generation: Generation, snapshots: &[Known]) -> Walk {
        let commit = |known: &Known| {
            let key = ObjectName::Snapshot(known.snapshot.name).key();
            (known.manifest.commit.txid, (key, known.manifest.commit.clone()))
        };
        Walk {
            generation,
            running: None,
            before: None,
            snapshots: snapshots.iter().map(commit).collect(),
            stated: Vec::new(),
            whole: HashMap::new(),
            findings: Vec::new(),
            notes: Vec::new(),
            commits: 0,
            seen: Vec::new(),
        }
    }

    /// The snapshot to begin with, where this segment does not join what was read before it.
    fn anchor<'a>(&mut self, segment: &Listed<SegmentName>, snapshots: &'a [Known]) -> Option<&'a Known> {
        let before = Txid(segment.name.first.0 - 1);
        if self.running.as_ref().is_some_and(|running| running.txid >= before) {
            return None;
        }
        self.running = None;
        snapshots.iter().find(|known| (before..segment.name.last).contains(&known.snapshot.name.txid))
    }

    fn start(&mut self, commit: &Commit, map: PageMap) {
        self.running = Some(Running { txid: commit.txid, checksum: commit.checksum, map });
    }

    fn find(&mut self, key: &Key, problem: String) {
        self.findings.push((key.clone(), problem));
    }

    fn whole_segment(mut self, key: &Key, segment: &Listed<SegmentName>, bytes: Bytes) -> (Walk, Result<(), Fault>) {
        let read = (|| {
            let reader = SegmentReader::open(bytes).map_err(|error| Fault::segment(key, error))?;
            let index = reader.index();
            index.check_name(&segment.name).map_err(|error| Fault::segment(key, error))?;
            self.begin(key, index);
            for number in 0..index.blocks.len() {
                let block = reader.block(number).map_err(|error| Fault::segment(key, error))?;
                self.block(key, index, number, &block)?;
            }
            Ok(())
        })();
        (self, read)
    }

    fn piece(
        mut self,
        key: &Key,
        index: &Index,
        blocks: std::ops::Range<usize>,
        bytes: &[u8],
    ) -> (Walk, Result<(), Fault>) {
        let start = index.blocks[blocks.start].offset;
        let at = |offset: u64| usize::try_from(offset - start).expect("blocks of one piece fit in memory");
        for number in blocks {
            let range = index.blocks[number].range();
            let block = index.decode_block(number, &bytes[at(range.start)..at(range.end)]);
            let read = block.map_err(|error| Fault::segment(key, error));
            if let Err(fault) = read.and_then(|block| self.block(key, index, number, &block)) {
                return (self, Err(fault));
            }
        }
        (self, Ok(()))
    }

    /// A segment begins: does it say of the commit before it what is known of that?
    fn begin(&mut self, key: &Key, index: &Index) {
        self.stated.clear();
        self.whole.clear();
        if index.header.generation != self.generation {
            self.find(key, "belongs to another generation".to_owned());
            self.running = None;
        }
        let running = self.running.as_ref().map(|running| (running.txid, running.checksum));
        let Some((txid, known)) = running.or(self.before) else { return };
        let told = match index.commit(txid) {
            Some(entry) => Some(entry.commit.checksum),
            None => (index.header.first.0 - 1 == txid.0).then_some(index.header.checksum_before),
        };
        if let Some(told) = told.filter(|&told| told != known) {
            let txid = txid.0;
            self.find(
                key,
                format!("its checksum of commit {txid} is {told:016x}; what comes before says {known:016x}"),
            );
            self.running = None;
        }
    }

    fn block(&mut self, key: &Key, index: &Index, number: usize, block: &Block<'_>) -> Result<(), Fault> {
        let grid = index.header.grid;
        let runs = index.page_runs(number);
        for op in block.ops() {
            match op.map_err(|error| Fault::segment(key, error))? {
                Op::Page { page, hash } => {
                    if !runs.iter().any(|run| run.contains(page)) {
                        self.find(key, format!("its index does not know that block {number} touches page {page}"));
                    }
                    self.stated.push((page, hash));
                }
                Op::Extent(extent) => self.extent(grid, &extent),
                Op::Commit(txid) => {
                    let entry =
                        index.commit(txid).ok_or_else(|| Fault::object(key, "has a commit that its index lacks"))?;
                    self.commit(key, index, &entry.commit);
                }
            }
        }
        Ok(())
    }

    /// Hashes the pages that an extent holds whole.
    fn extent(&mut self, grid: crate::extent::PageGrid, extent: &Extent<'_>) {
        if extent.file != FileId::Main {
            return;
        }
        let end = extent.offset + extent.data.len() as u64;
        let mut page = grid.page_at(extent.offset);
        while grid.offset(page) < end {
            let (from, to) = (grid.offset(page), grid.offset(page) + u64::from(grid.len(page)));
            if from >= extent.offset && to <= end {
                let start = (from - extent.offset) as usize;
                let data = &extent.data[start..start + (to - from) as usize];
                self.whole.insert(page, page_hash(page, data));
            } else {
                self.whole.remove(&page);
            }
            page += 1;
        }
    }

    fn commit(&mut self, key: &Key, index: &Index, commit: &Commit) {
        let holds = |ranges: &BTreeMap<Txid, Txid>| {
            ranges.range(..=commit.txid).next_back().is_some_and(|(_, &last)| last >= commit.txid)
        };
        self.commits += u64::from(!self.seen.iter().any(holds));
        let stated = std::mem::take(&mut self.stated);
        let whole = std::mem::take(&mut self.whole);
        for (page, hash) in &stated {
            if whole.get(page).is_some_and(|found| found != hash) {
                self.find(key, format!("the content of page {page} is not what commit {} states", commit.txid.0));
            }
        }
        if let Some((snapshot, expected)) = self.snapshots.get(&commit.txid)
            && expected != commit
        {
            let problem = format!("its commit {} is not that of {snapshot}", commit.txid.0);
            self.find(key, problem);
        }
        self.follow(key, index, commit, &stated);
    }

    /// Moves the page map to `commit` and compares the checksums.
    fn follow(&mut self, key: &Key, index: &Index, commit: &Commit, stated: &[(u64, u64)]) {
        let Some(mut running) = self.running.take() else { return };
        let joins = index.header.first.0 <= running.txid.0.saturating_add(1);
        if commit.txid <= running.txid || !joins {
            self.running = Some(running);
            return;
        }
        let pages = commit.grid.pages(commit.lengths.main);
        if pages > MAX_MAP_PAGES {
            self.notes
                .push(format!("from commit {} on, the database is too large to follow its checksum", commit.txid.0));
            return;
        }
        if running.map.grid() != commit.grid {
            running.map = PageMap::new(commit.grid);
        }
        running.map.set_len(pages);
        for &(page, hash) in stated.iter().filter(|&&(page, _)| page < pages) {
            running.map.set(page, hash);
        }
        // With a WAL of its own, the checksum covers that too.
        if commit.lengths.wal == 0 && running.map.sum() != commit.checksum {
            let (txid, sum, expected) = (commit.txid.0, running.map.sum(), commit.checksum);
            self.find(key, format!("commit {txid} states the checksum {expected:016x}; its pages give {sum:016x}"));
            return;
        }
        (running.txid, running.checksum) = (commit.txid, commit.checksum);
        self.running = Some(running);
    }
}
