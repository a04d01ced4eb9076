//! A database of 512-byte pages with a log, in memory, and an engine for it: everything that a replicator meets can be
//! made to happen at a chosen moment. Nothing here is special to any real format.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use replicate::checksum::{PageMap, page_hash};
use replicate::engine::{
    Answer, Engine, EngineError, EngineKind, ExtentSink, NewCommit, Poll, Progress, Resume, SNAPSHOT_SLICE_BYTES,
    SnapshotStart, Source, TransactionSink,
};
use replicate::extent::{Extent, FileId, PageGrid};
use replicate::position::{CommitKind, Lengths, RepairReason};

pub const PAGE: usize = 512;

#[derive(Debug, Clone)]
struct Transaction {
    pages: BTreeMap<u64, Vec<u8>>,
    length: u64,
}

/// The application's side.
#[derive(Debug, Default)]
pub struct Data {
    pub pages: Vec<Vec<u8>>,
    /// Transactions whose numbers begin at `log_start`.
    log: Vec<Transaction>,
    log_start: u64,
    /// Changes when the file is replaced.
    pub identity: u64,
    /// A hash of every state that was ever committed.
    pub ledger: Vec<u64>,
    /// Sources opened, and what they were resumed with.
    pub opened: Vec<Option<(u64, Option<RepairReason>)>>,
}

impl Data {
    fn content(&self) -> Vec<u8> {
        self.pages.concat()
    }

    fn end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }
}

#[derive(Debug, Clone, Default)]
pub struct FakeDatabase(Arc<Mutex<Data>>);

impl FakeDatabase {
    pub fn lock(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Commits a change of some pages: (page, what to fill it with).
    pub fn commit(&self, changes: &[(u64, u8)], length: u64) {
        let mut data = self.lock();
        let mut pages = BTreeMap::new();
        data.pages.resize(length as usize, vec![0; PAGE]);
        for &(page, fill) in changes.iter().filter(|(page, _)| *page < length) {
            let content = vec![fill; PAGE];
            data.pages[page as usize] = content.clone();
            pages.insert(page, content);
        }
        data.log.push(Transaction { pages, length });
        let hash = page_hash(0, &data.content());
        data.ledger.push(hash);
    }

    /// Puts an older state in place.
    pub fn roll_back(&self, to: &[u8]) {
        let mut data = self.lock();
        data.pages = to.chunks(PAGE).map(<[u8]>::to_vec).collect();
        data.identity += 1;
        data.log_start = data.end();
        data.log.clear();
    }

    pub fn content(&self) -> Vec<u8> {
        self.lock().content()
    }
}

pub struct FakeEngine(pub FakeDatabase);

impl Engine for FakeEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Sqlite
    }

    fn recognises(&self, _head: &[u8]) -> bool {
        true
    }

    fn open(&self, path: &Path, resume: Option<Resume>) -> Result<Box<dyn Source>, EngineError> {
        if !path.exists() {
            return Err(EngineError::Absent { path: path.to_owned() });
        }
        let mut data = self.0.lock();
        data.opened.push(resume.as_ref().map(|resume| (resume.txid.0, resume.repair)));
        let mut source = FakeSource {
            database: self.0.clone(),
            map: PageMap::new(grid()),
            next: data.end(),
            identity: data.identity,
            first: None,
            copied: 0,
        };
        match resume {
            None => source.first = Some(CommitKind::Initial),
            Some(resume) => {
                let position: [u8; 16] = resume.position.as_slice().try_into().expect("our own position");
                let position = u128::from_le_bytes(position);
                let (identity, next) = ((position >> 64) as u64, position as u64);
                source.map = resume.page_map;
                let connects = identity == data.identity && next >= data.log_start && next <= data.end();
                if resume.repair.is_none() && connects {
                    source.next = next;
                } else {
                    source.first = Some(CommitKind::Repair(resume.repair.unwrap_or(RepairReason::Away)));
                }
            }
        }
        Ok(Box::new(source))
    }

    fn fold(&self, _database: &Path) -> Result<bool, EngineError> {
        Ok(false)
    }

    fn check(&self, _database: &Path) -> Result<(), EngineError> {
        Ok(())
    }

    fn ask(&self, _database: &Path, questions: &[String]) -> Result<Vec<Answer>, EngineError> {
        Ok(questions.iter().map(|_| Answer::Other("this engine answers nothing".to_owned())).collect())
    }
}

fn grid() -> PageGrid {
    PageGrid::new(0, PAGE as u32).expect("a valid grid")
}

struct FakeSource {
    database: FakeDatabase,
    map: PageMap,
    /// Number of the next transaction in the log.
    next: u64,
    identity: u64,
    /// The commit that opening owes.
    first: Option<CommitKind>,
    copied: u64,
}

impl FakeSource {
    fn hand_over(
        &mut self,
        pages: &BTreeMap<u64, Vec<u8>>,
        length: u64,
        kind: CommitKind,
        sink: &mut dyn TransactionSink,
    ) -> Result<(), EngineError> {
        sink.begin(grid())?;
        for (&page, content) in pages.iter().filter(|(page, _)| **page < length) {
            sink.extent(Extent { file: FileId::Main, offset: page * PAGE as u64, data: content })?;
            sink.page(page, page_hash(page, content))?;
        }
        self.map.set_len(length);
        for (&page, content) in pages.iter().filter(|(page, _)| **page < length) {
            self.map.set(page, page_hash(page, content));
        }
        let position = ((u128::from(self.identity) << 64) | u128::from(self.next)).to_le_bytes();
        let lengths = Lengths { main: length * PAGE as u64, wal: 0 };
        sink.commit(NewCommit { lengths, checksum: self.map.sum(), kind, position: &position })?;
        Ok(())
    }
}

impl Source for FakeSource {
    fn poll(&mut self, sink: &mut dyn TransactionSink) -> Result<Poll, EngineError> {
        let mut commits = 0;
        let database = self.database.clone();
        let data = database.lock();
        if let Some(kind) = self.first {
            let mut changed = BTreeMap::new();
            for (page, content) in (0u64..).zip(&data.pages) {
                if page_hash(page, content) != self.map.get(page) {
                    changed.insert(page, content.clone());
                }
            }
            (self.next, self.identity) = (data.end(), data.identity);
            if kind == CommitKind::Initial {
                self.map.set_len(data.pages.len() as u64);
                for (&page, content) in &changed {
                    self.map.set(page, page_hash(page, content));
                }
                changed.clear();
            }
            self.hand_over(&changed, data.pages.len() as u64, kind, sink)?;
            self.first = None;
            commits += 1;
        }
        if self.next < data.log_start || self.identity != data.identity {
            return Err(EngineError::Gap { reason: RepairReason::LogDiscarded, detail: "the log is gone".into() });
        }
        let from = (self.next - data.log_start) as usize;
        for transaction in &data.log[from..] {
            self.next += 1;
            let handed = self.hand_over(&transaction.pages, transaction.length, CommitKind::Captured, sink);
            if handed.is_err() {
                self.next -= 1;
            }
            handed?;
            commits += 1;
        }
        sink.persist()?;
        Ok(Poll { commits, again_in: None, first_read: None, is_level: true, wal_bytes: 0, checkpoints: 0 })
    }

    fn snapshot_start(&mut self) -> Result<SnapshotStart, EngineError> {
        self.copied = 0;
        Ok(SnapshotStart { total: (self.database.lock().pages.len() * PAGE) as u64, grid: grid(), base: None })
    }

    fn snapshot_slice(&mut self, sink: &mut dyn ExtentSink) -> Result<Progress, EngineError> {
        let content = self.database.content();
        let (start, total) = (self.copied, content.len() as u64);
        if start >= total {
            return Ok(Progress::Done);
        }
        let end = (start + SNAPSHOT_SLICE_BYTES).min(total);
        for offset in (start..end).step_by(PAGE) {
            let data = &content[offset as usize..(offset as usize + PAGE)];
            if data.iter().any(|&byte| byte != 0) {
                sink.extent(Extent { file: FileId::Main, offset, data })?;
            }
        }
        self.copied = end;
        Ok(Progress::Slice { start, end, total })
    }

    fn page_map(&self) -> Option<&PageMap> {
        Some(&self.map)
    }
}
