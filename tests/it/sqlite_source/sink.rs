//! A sink that keeps the database as an image and proves every commit against it.

use replicate::checksum::{PageMap, page_hash};
use replicate::engine::{ExtentSink, NewCommit, Resume, SinkError, TransactionSink};
use replicate::extent::{Extent, FileId, PageGrid};
use replicate::position::{CommitKind, Lengths, RepairReason, Txid};

/// One commit as it arrived.
#[derive(Debug, Clone)]
pub struct Taken {
    pub kind: CommitKind,
    pub lengths: Lengths,
    pub checksum: u64,
    /// Bytes of all extents.
    pub bytes: u64,
}

/// Offsets and bytes.
type Extents = Vec<(u64, Vec<u8>)>;

#[derive(Default)]
pub struct ImageSink {
    pub image: Vec<u8>,
    pub map: Option<PageMap>,
    pub commits: Vec<Taken>,
    pub position: Vec<u8>,
    /// Commits that were durable when the engine last demanded it.
    pub persisted: usize,
    /// What the source said of the files when it was let go of.
    pub rested: Option<Vec<u8>>,
    pub persists: u32,
    /// The first commit came and the image was not copied yet.
    pub needs_copy: bool,
    /// The source was opened anew and has demanded nothing yet: what happened to the WAL meanwhile is not its doing.
    pub reopened: bool,
    /// The test takes our locks away, so that nothing can be promised of the WAL.
    pub locks_vanish: bool,
    /// Fails the next `commit` or `persist` like a full disk.
    pub full: bool,
    /// While a copy goes on: length and extents of each transaction.
    pub log: Option<Vec<(usize, Extents)>>,
    grid: Option<PageGrid>,
    open: bool,
    extents: Extents,
    pages: Vec<(u64, u64)>,
}

impl ImageSink {
    pub fn resume(&self, repair: Option<RepairReason>) -> Option<Resume> {
        let last = self.commits.last()?;
        Some(Resume {
            rested: self.rested.clone(),
            txid: Txid(self.commits.len() as u64),
            lengths: last.lengths,
            position: self.position.clone(),
            page_map: self.map.clone().expect("a map since the first commit"),
            repair,
        })
    }

    pub fn repairs(&self) -> Vec<RepairReason> {
        let reason = |taken: &Taken| match taken.kind {
            CommitKind::Repair(reason) => Some(reason),
            _ => None,
        };
        self.commits.iter().filter_map(reason).collect()
    }

    pub fn captured(&self) -> usize {
        self.commits.iter().filter(|taken| taken.kind == CommitKind::Captured).count()
    }

    /// Every page of the image has the hash in the map, and the map the checksum of the last commit.
    pub fn prove_image(&self) {
        let map = self.map.as_ref().expect("a map");
        let size = map.grid().size as usize;
        assert_eq!(self.image.len() as u64, self.commits.last().expect("a commit").lengths.main);
        let hashes = self.image.chunks(size).zip(0..).map(|(page, number)| page_hash(number, page)).collect();
        let rebuilt = PageMap::from_hashes(map.grid(), hashes);
        assert_eq!(rebuilt.sum(), self.commits.last().expect("a commit").checksum, "the image has another checksum");
        assert_eq!(&rebuilt, map);
    }

    fn apply(&mut self, length: usize) {
        let grid = self.grid.expect("a transaction began");
        if let Some(log) = &mut self.log {
            log.push((length, self.extents.clone()));
        }
        self.image.resize(length, 0);
        for (offset, data) in std::mem::take(&mut self.extents) {
            let start = offset as usize;
            assert!(start + data.len() <= length, "an extent beyond the end");
            self.image[start..start + data.len()].copy_from_slice(&data);
        }
        let map = self.map.get_or_insert_with(|| PageMap::new(grid));
        if map.grid() != grid {
            *map = PageMap::new(grid);
        }
        map.set_len(grid.pages(length as u64));
        let mut seen = std::collections::HashSet::new();
        for (page, hash) in std::mem::take(&mut self.pages) {
            assert!(seen.insert(page), "page {page} came twice");
            map.set(page, hash);
            let start = grid.offset(page) as usize;
            let found = page_hash(page, &self.image[start..start + grid.size as usize]);
            assert!(self.needs_copy || found == hash, "page {page} is not what its hash says");
        }
    }
}

impl TransactionSink for ImageSink {
    fn begin(&mut self, grid: PageGrid) -> Result<(), SinkError> {
        assert!(!self.open, "a transaction within a transaction");
        self.open = true;
        self.grid = Some(grid);
        Ok(())
    }

    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        assert!(self.open && extent.file == FileId::Main && !extent.data.is_empty());
        self.extents.push((extent.offset, extent.data.to_vec()));
        Ok(())
    }

    fn page(&mut self, page: u64, hash: u64) -> Result<(), SinkError> {
        assert!(self.open);
        self.pages.push((page, hash));
        Ok(())
    }

    fn commit(&mut self, commit: NewCommit<'_>) -> Result<Txid, SinkError> {
        assert!(self.open);
        if self.full {
            return Err(SinkError::Full { used_bytes: 1, limit_bytes: 1 });
        }
        self.open = false;
        let salts = |position: &[u8]| position.get(20..28).map(<[u8]>::to_vec);
        if commit.kind == CommitKind::Captured && !self.reopened && salts(&self.position) != salts(commit.position) {
            assert_eq!(self.persisted, self.commits.len(), "the WAL started over before its commits were durable");
        }
        let bytes = self.extents.iter().map(|(_, data)| data.len() as u64).sum();
        self.commits.push(Taken { kind: commit.kind, lengths: commit.lengths, checksum: commit.checksum, bytes });
        self.position = commit.position.to_vec();
        if commit.kind == CommitKind::Initial {
            assert!(self.commits.len() == 1 && self.extents.is_empty());
            self.needs_copy = true;
        }
        self.apply(commit.lengths.main as usize);
        let sum = self.map.as_ref().expect("a map").sum();
        assert!(self.needs_copy || sum == commit.checksum, "commit {} has another checksum", self.commits.len());
        Ok(Txid(self.commits.len() as u64))
    }

    fn abandon(&mut self) {
        self.open = false;
        self.extents.clear();
        self.pages.clear();
    }

    fn persist(&mut self) -> Result<(), SinkError> {
        assert!(!self.open);
        if self.full {
            return Err(SinkError::Full { used_bytes: 1, limit_bytes: 1 });
        }
        self.persisted = self.commits.len();
        self.reopened = self.locks_vanish;
        self.persists += 1;
        Ok(())
    }
}

/// Lays a copy into a file's image.
#[derive(Default)]
pub struct CopySink {
    pub image: Vec<u8>,
    last: u64,
}

impl ExtentSink for CopySink {
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        assert!(extent.offset >= self.last, "ascending");
        self.last = extent.offset + extent.data.len() as u64;
        if self.image.len() < self.last as usize {
            self.image.resize(self.last as usize, 0);
        }
        self.image[extent.offset as usize..self.last as usize].copy_from_slice(extent.data);
        Ok(())
    }
}
