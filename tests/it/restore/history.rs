//! A model of a database's history, and the replica that tells it: what every restore is compared with.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use replicate::checksum::{PageMap, page_hash};
use replicate::engine::EngineKind;
use replicate::extent::{Extent, FileId, PageGrid};
use replicate::layout::{Level, ObjectName, SnapshotName};
use replicate::position::{Commit, CommitKind, Generation, Lengths, RepairReason, Term, TimeMs, Txid};
use replicate::replica::{Claim, Replica};
use replicate::segment::{Codec, Layers, Manifest, PartRef, PartWriter, SegmentHeader, SegmentWriter};
use replicate::store::memory::MemoryStore;
use replicate::store::{Body, Key, PutMode, Store};

/// A small generator whose numbers never change with a library's version (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One commit with the whole content of the database after it.
#[derive(Debug, Clone)]
pub struct State {
    pub commit: Commit,
    pub content: Vec<u8>,
}

/// One generation: `states[i]` is commit `i + 1`.
#[derive(Debug, Clone)]
pub struct GenerationModel {
    pub generation: Generation,
    pub states: Vec<State>,
    /// Commits at which snapshots are exact.
    pub snapshots: Vec<Txid>,
}

impl GenerationModel {
    pub fn at(&self, txid: u64) -> &State {
        &self.states[usize::try_from(txid).expect("fits") - 1]
    }

    pub fn newest(&self) -> &State {
        self.states.last().expect("a generation has commits")
    }
}

/// Writes a history into a store.
pub struct Writer {
    pub random: Random,
    pub store: Arc<MemoryStore>,
    pub now: u64,
    pub term: Term,
    pub models: Vec<GenerationModel>,
    segment: Option<SegmentWriter<Cursor<Vec<u8>>>>,
}

pub async fn put(store: &dyn Store, key: &Key, bytes: impl Into<Bytes>) {
    store.put(key, Body::Bytes(bytes.into()), PutMode::Create).await.expect("put");
}

impl Writer {
    pub async fn new(seed: u64) -> Writer {
        let store = Arc::new(MemoryStore::new());
        Replica::new(store.clone()).ensure_marker(EngineKind::Sqlite, "model.db").await.expect("a marker");
        let now = 1_700_000_000_000;
        Writer { random: Random(seed), store, now, term: Term(1), models: Vec::new(), segment: None }
    }

    pub fn model(&self) -> &GenerationModel {
        self.models.last().expect("a generation was begun")
    }

    /// Time passes, or not at all: commits may share a millisecond.
    fn tick(&mut self) -> TimeMs {
        self.now += self.random.below(4) * self.random.below(700);
        TimeMs(self.now)
    }

    /// A new generation with its initial commit, of random pages.
    pub async fn begin_generation(&mut self, grid: PageGrid) {
        let pages = 3 + self.random.below(20);
        let mut content = Vec::new();
        for page in 0..pages {
            content.extend(self.page_content(grid, page));
        }
        self.begin_with(grid, content).await;
    }

    /// A new generation whose initial commit has this content.
    pub async fn begin_with(&mut self, grid: PageGrid, content: Vec<u8>) {
        self.seal().await;
        self.now += 1000;
        let generation = Generation::new(TimeMs(self.now), self.random.next() as u32);
        self.claim(generation, self.term).await;
        let commit = self.commit_of(&content, grid, Txid(1), CommitKind::Initial);
        self.models.push(GenerationModel { generation, states: Vec::new(), snapshots: Vec::new() });
        self.write_commit(&content.clone(), State { commit, content }).await;
    }

    fn page_content(&mut self, grid: PageGrid, _page: u64) -> Vec<u8> {
        let size = grid.size as usize;
        let mut data = vec![0; size];
        if !self.random.one_in(5) {
            // Few distinct bytes, so that contents repeat and compress as real pages do.
            for chunk in data.chunks_mut(16) {
                chunk.fill((self.random.next() % 5 * 50) as u8);
            }
        }
        data
    }

    fn commit_of(&mut self, content: &[u8], grid: PageGrid, txid: Txid, kind: CommitKind) -> Commit {
        let checksum = page_map(content, grid).sum();
        let lengths = Lengths { main: content.len() as u64, wal: 0 };
        Commit { txid, time: self.tick(), lengths, checksum, kind, grid }
    }

    /// One more commit: changed runs of pages, whole pages, growth, shrinking; sometimes a repair with another page size.
    pub async fn commit(&mut self) {
        let State { commit: last, content: old } = self.model().newest().clone();
        let repair = self.random.one_in(12);
        let mut grid = last.grid;
        if repair && self.random.one_in(3) {
            let size = if grid.size == 512 { 1024 } else { 512 };
            grid = PageGrid::new(0, size).expect("a grid");
            self.seal().await;
        }
        let size = grid.size as usize;
        let mut content = old.clone();
        match self.random.below(6) {
            0 => {
                let pages = 1 + self.random.below((content.len() / size) as u64) as usize;
                content.truncate(pages * size);
            }
            1 => {
                for _ in 0..1 + self.random.below(6) {
                    let page = self.page_content(grid, 0);
                    content.extend(page);
                }
            }
            _ => {}
        }
        content.resize(content.len().next_multiple_of(size), 0);
        for _ in 0..self.random.below(5) {
            let page = self.random.below((content.len() / size) as u64) as usize;
            let start = page * size;
            if self.random.one_in(2) {
                let data = self.page_content(grid, page as u64);
                content[start..start + size].copy_from_slice(&data);
            } else {
                let at = start + self.random.below(size as u64) as usize;
                let end = (at + 1 + self.random.below(60) as usize).min(start + size);
                content[at..end].fill(self.random.next() as u8);
            }
        }
        let reasons = [RepairReason::Away, RepairReason::LogDiscarded, RepairReason::SpoolFull];
        let reason =
            if grid == last.grid { reasons[self.random.below(3) as usize] } else { RepairReason::FileReplaced };
        let kind = if repair { CommitKind::Repair(reason) } else { CommitKind::Captured };
        let commit = self.commit_of(&content, grid, last.txid.next(), kind);
        self.write_commit(&old, State { commit, content }).await;
        if self.random.one_in(4) {
            self.seal().await;
        }
    }

    /// One commit that changes `pages` pages to bytes that do not compress.
    pub async fn bulk(&mut self, pages: usize) {
        let State { commit: last, mut content } = self.model().newest().clone();
        let old = content.clone();
        let size = last.grid.size as usize;
        content.resize(content.len().max(pages * size), 0);
        for chunk in content[..pages * size].chunks_mut(8) {
            chunk.copy_from_slice(&self.random.next().to_le_bytes());
        }
        let commit = self.commit_of(&content, last.grid, last.txid.next(), CommitKind::Captured);
        self.write_commit(&old, State { commit, content }).await;
    }

    /// One commit after which the database has this content.
    pub async fn commit_content(&mut self, content: Vec<u8>) {
        let State { commit: last, content: old } = self.model().newest().clone();
        let commit = self.commit_of(&content, last.grid, last.txid.next(), CommitKind::Captured);
        self.write_commit(&old, State { commit, content }).await;
    }

    /// Writes what differs from `old` into the open segment.
    async fn write_commit(&mut self, old: &[u8], state: State) {
        let State { commit, content } = &state;
        let grid = commit.grid;
        if self.segment.is_none() {
            let model = self.model();
            let header = SegmentHeader {
                generation: model.generation,
                term: self.term,
                engine: EngineKind::Sqlite,
                level: Level(0),
                grid,
                first: commit.txid,
                checksum_before: model.states.last().map_or(0, |state| state.commit.checksum),
            };
            let codec = if self.random.one_in(2) { Codec::Lz4 } else { Codec::Stored };
            self.segment = Some(SegmentWriter::new(Cursor::new(Vec::new()), header, codec).expect("a segment"));
        }
        let flush = self.random.one_in(5);
        let whole_file = self.model().states.last().is_some_and(|before| before.commit.grid != grid);
        let writer = self.segment.as_mut().expect("just made");
        writer.begin_transaction().expect("begin");
        let size = grid.size as usize;
        for page in 0..content.len() / size {
            let range = page * size..(page + 1) * size;
            let new = &content[range.clone()];
            let zeros = vec![0; size];
            let old = old.get(range.clone()).unwrap_or(&zeros);
            if old == new && !whole_file {
                continue;
            }
            writer.page(page as u64, page_hash(page as u64, new)).expect("page");
            let sparse = !matches!(commit.kind, CommitKind::Repair(_)) && page % 2 == 0;
            let (from, to) = if sparse { changed(old, new) } else { (0, size) };
            let extent = Extent { file: FileId::Main, offset: (range.start + from) as u64, data: &new[from..to] };
            writer.extent(extent).expect("extent");
        }
        writer.commit(commit, b"position").expect("commit");
        if flush {
            writer.flush().expect("flush");
        }
        self.models.last_mut().expect("a model").states.push(state);
    }

    async fn claim(&self, generation: Generation, term: Term) {
        let claim = Claim { writer: "model".to_owned(), claimed_ms: self.now };
        assert!(Replica::new(self.store.clone()).claim(generation, term, &claim, 1).await.expect("claimed").0);
    }

    /// Ends the open segment and puts it.
    pub async fn seal(&mut self) {
        let Some(mut writer) = self.segment.take() else { return };
        let summary = writer.finish().expect("finish");
        self.claim(summary.name.generation, summary.name.term).await;
        let key = ObjectName::Segment(summary.name).key();
        put(&*self.store, &key, writer.into_file().into_inner()).await;
    }

    /// A snapshot of a copy that went on while up to `behind` commits were captured.
    pub async fn snapshot(&mut self, behind: u64) {
        self.seal().await;
        self.claim(self.model().generation, self.term).await;
        let model = self.model().clone();
        let end = model.newest().clone();
        let grid = end.commit.grid;
        let oldest = (end.commit.txid.0.saturating_sub(behind)).max(1);
        // One copy is made in one grid.
        let same_grid = |base: &u64| (*base..=end.commit.txid.0).all(|txid| model.at(txid).commit.grid == grid);
        let base = (oldest..=end.commit.txid.0).find(same_grid).expect("the last one at least");
        let longest = (base..=end.commit.txid.0).map(|txid| model.at(txid).content.len()).max().expect("some");
        let seen_length = if self.random.one_in(2) { longest } else { end.content.len() };
        let mut parts = Vec::new();
        let part_len = grid.size as usize * (1 + self.random.below(8) as usize);
        for start in (0..seen_length).step_by(part_len) {
            let stop = (start + part_len).min(seen_length);
            parts.push(self.part(&model, base, start, stop, grid.size as usize).await);
        }
        let hashes = page_map(&end.content, grid).hashes().to_vec();
        let name = SnapshotName {
            generation: model.generation,
            txid: end.commit.txid,
            term: self.term,
            time: end.commit.time,
        };
        let manifest = Manifest {
            generation: model.generation,
            term: self.term,
            engine: EngineKind::Sqlite,
            base: Txid(base),
            commit: end.commit,
            parts,
            position: b"position".to_vec(),
            layers: Layers::default(),
        };
        let key = ObjectName::Snapshot(name).key();
        if self.store.get(&key, None).await.is_err() {
            put(&*self.store, &key, manifest.encode(&hashes).expect("a manifest")).await;
            self.models.last_mut().expect("a model").snapshots.push(name.txid);
        }
    }

    /// A part whose pages are as of commits chosen at random between the beginning and the end of the copy.
    async fn part(&mut self, model: &GenerationModel, base: u64, start: usize, stop: usize, size: usize) -> PartRef {
        let mut writer = PartWriter::new(FileId::Main, start as u64, Codec::for_parts()).expect("a part");
        for at in (start..stop).step_by(size) {
            let as_of = base + self.random.below(model.newest().commit.txid.0 - base + 1);
            let Some(data) = model.at(as_of).content.get(at..at + size) else { continue };
            if data.iter().any(|&byte| byte != 0) {
                writer.extent(Extent { file: FileId::Main, offset: at as u64, data }).expect("extent");
            }
        }
        let (part, object) = writer.finish(stop as u64).expect("a part");
        let key = ObjectName::Part { generation: model.generation, hash: part.hash }.key();
        // As a writer does: content that is there already stays as it was put, however it was compressed.
        let put = self.store.put(&key, Body::Bytes(object), PutMode::Create).await;
        assert!(put.is_ok() || self.store.get(&key, None).await.is_ok());
        part
    }
}

fn changed(old: &[u8], new: &[u8]) -> (usize, usize) {
    let differs = |(a, b): (&u8, &u8)| a != b;
    let from = old.iter().zip(new).position(differs).unwrap_or(0);
    let to = old.iter().zip(new).rposition(differs).map_or(new.len(), |at| at + 1);
    (from, to)
}

pub fn page_map(content: &[u8], grid: PageGrid) -> PageMap {
    let pages = content.chunks(grid.size as usize).enumerate();
    PageMap::from_hashes(grid, pages.map(|(page, data)| page_hash(page as u64, data)).collect())
}

/// A history of some generations with snapshots here and there.
pub async fn history(seed: u64, generations: u64, commits: u64) -> Writer {
    let mut writer = Writer::new(seed).await;
    for _ in 0..generations {
        writer.begin_generation(PageGrid::new(0, 512).expect("a grid")).await;
        writer.snapshot(0).await;
        for _ in 0..commits {
            writer.commit().await;
            if writer.random.one_in(15) {
                let behind = writer.random.below(6);
                writer.snapshot(behind).await;
            }
            if writer.random.one_in(20) {
                writer.seal().await;
                writer.term = writer.term.next().expect("few terms");
            }
        }
        writer.seal().await;
    }
    writer
}
