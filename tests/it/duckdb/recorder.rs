//! Takes captured transactions as the spool would, and puts the database back together from them as a restore would.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use replicate::checksum::{PageMap, WalHash, page_hash};
use replicate::engine::{EngineError, ExtentSink, NewCommit, Progress, Resume, SinkError, Source, TransactionSink};
use replicate::extent::{Extent, FileId, PageGrid};
use replicate::position::{CommitKind, Lengths, Txid};

#[derive(Debug, Clone)]
struct Stored {
    file: FileId,
    offset: u64,
    at: u64,
    len: usize,
}

/// A commit as it was recorded.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub txid: Txid,
    pub lengths: Lengths,
    pub checksum: u64,
    pub kind: CommitKind,
    pub position: Vec<u8>,
    /// Monotonic seconds, as Python's `time.monotonic` has them.
    pub seen: f64,
    pub main_bytes: u64,
    pub wal_bytes: u64,
    extents: Vec<Stored>,
    pages: Vec<(u64, u64)>,
    grid: PageGrid,
}

/// A full copy: a file, the commit from which on transactions are laid over it, and the one where it is exact.
#[derive(Debug, Clone)]
pub struct Copied {
    pub path: PathBuf,
    pub base: Txid,
    pub exact: Txid,
}

pub struct Recorder {
    data: File,
    len: u64,
    open: Option<Recorded>,
    pub commits: Vec<Recorded>,
    pub copies: Vec<Copied>,
    pub persisted: u64,
    dir: PathBuf,
}

pub fn monotonic() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer to a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

impl Recorder {
    pub fn new(dir: &Path) -> Recorder {
        std::fs::create_dir_all(dir).unwrap();
        let data = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(dir.join("extents"));
        let (data, dir) = (data.unwrap(), dir.to_owned());
        Recorder { data, len: 0, open: None, commits: Vec::new(), copies: Vec::new(), persisted: 0, dir }
    }

    pub fn last(&self) -> Txid {
        self.commits.last().map_or(Txid::ZERO, |commit| commit.txid)
    }

    /// What a replicator that starts now would hand to the engine.
    pub fn resume(&self) -> Option<Resume> {
        let last = self.commits.last()?;
        Some(Resume {
            rested: None,
            txid: last.txid,
            lengths: last.lengths,
            position: last.position.clone(),
            page_map: self.page_map_at_end(),
            repair: None,
        })
    }

    /// The page map rebuilt from the first copy and all pages since, as a replicator that lost its cache does.
    fn page_map_at_end(&self) -> PageMap {
        let copy = self.copies.first().expect("a copy was taken");
        let last = self.commits.last().expect("a commit");
        let main = File::open(&copy.path).unwrap();
        let exact = &self.commits[copy.exact.0 as usize - 1];
        let dir = self.dir.join("map");
        std::fs::create_dir_all(&dir).unwrap();
        drop(main);
        let mut assembly = self.assemble(copy, &dir);
        assembly.advance(self, copy.exact);
        let mut map = assembly.hash_main(exact.grid);
        for commit in &self.commits[copy.exact.0 as usize..] {
            map.set_len(commit.grid.pages(commit.lengths.main));
            for &(page, hash) in &commit.pages {
                map.set(page, hash);
            }
        }
        assert_eq!(map.len(), last.grid.pages(last.lengths.main));
        map
    }

    /// Takes a full copy while capture goes on, one poll between two slices.
    pub fn copy(&mut self, source: &mut dyn Source) -> Copied {
        let path = self.dir.join(format!("copy-{}", self.copies.len()));
        let mut file = CopyFile(File::create(&path).unwrap());
        let start = source.snapshot_start().unwrap();
        let mut tries = 0;
        loop {
            match source.snapshot_slice(&mut file) {
                Ok(Progress::Done) => break,
                Ok(Progress::Slice { end, .. }) => {
                    tries = 0;
                    if file.0.metadata().unwrap().len() < end {
                        file.0.set_len(end).unwrap();
                    }
                }
                Err(EngineError::Busy(why)) => {
                    tries += 1;
                    assert!(tries < 3000, "the copy does not come on: {why}");
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Err(error) => panic!("{error}"),
            }
            poll(source, self);
        }
        let copied = Copied { path, base: start.base.expect("DuckDB always says"), exact: self.last() };
        self.copies.push(copied.clone());
        copied
    }

    /// The beginning of a restore from `copy` into `dir`.
    pub fn assemble(&self, copy: &Copied, dir: &Path) -> Assembly {
        std::fs::create_dir_all(dir).unwrap();
        let (main, wal) = (dir.join("r.db"), dir.join("r.db.wal"));
        std::fs::copy(&copy.path, &main).unwrap();
        let open = |path| OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap();
        let assembly = Assembly { main: open(&main), wal: open(&wal), dir: dir.to_owned(), at: copy.base };
        assembly.wal.set_len(0).unwrap();
        assembly
    }

    fn write(&self, commit: &Recorded, main: &File, wal: &File) {
        let mut buffer = Vec::new();
        for stored in &commit.extents {
            buffer.resize(stored.len, 0);
            self.data.read_exact_at(&mut buffer, stored.at).unwrap();
            let file = if stored.file == FileId::Main { main } else { wal };
            file.write_all_at(&buffer, stored.offset).unwrap();
        }
        main.set_len(commit.lengths.main).unwrap();
        wal.set_len(commit.lengths.wal).unwrap();
    }
}

/// One poll; a gap or a lack of the file is handed back.
pub fn poll(source: &mut dyn Source, recorder: &mut Recorder) -> replicate::engine::Poll {
    source.poll(recorder).unwrap_or_else(|error| panic!("poll: {error}"))
}

struct CopyFile(File);

impl ExtentSink for CopyFile {
    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        assert_eq!(extent.file, FileId::Main);
        Ok(self.0.write_all_at(extent.data, extent.offset)?)
    }
}

impl TransactionSink for Recorder {
    fn begin(&mut self, grid: PageGrid) -> Result<(), SinkError> {
        assert!(self.open.is_none(), "a transaction inside another one");
        self.open = Some(Recorded {
            txid: self.last().next(),
            lengths: Lengths::default(),
            checksum: 0,
            kind: CommitKind::Captured,
            position: Vec::new(),
            seen: 0.0,
            main_bytes: 0,
            wal_bytes: 0,
            extents: Vec::new(),
            pages: Vec::new(),
            grid,
        });
        Ok(())
    }

    fn extent(&mut self, extent: Extent<'_>) -> Result<(), SinkError> {
        let open = self.open.as_mut().expect("inside a transaction");
        self.data.write_all_at(extent.data, self.len)?;
        open.extents.push(Stored { file: extent.file, offset: extent.offset, at: self.len, len: extent.data.len() });
        self.len += extent.data.len() as u64;
        match extent.file {
            FileId::Main => open.main_bytes += extent.data.len() as u64,
            FileId::Wal => open.wal_bytes += extent.data.len() as u64,
        }
        Ok(())
    }

    fn page(&mut self, page: u64, hash: u64) -> Result<(), SinkError> {
        self.open.as_mut().expect("inside a transaction").pages.push((page, hash));
        Ok(())
    }

    fn commit(&mut self, commit: NewCommit<'_>) -> Result<Txid, SinkError> {
        let mut open = self.open.take().expect("inside a transaction");
        (open.lengths, open.checksum, open.kind) = (commit.lengths, commit.checksum, commit.kind);
        (open.position, open.seen) = (commit.position.to_vec(), monotonic());
        for extent in &open.extents {
            let length = if extent.file == FileId::Main { open.lengths.main } else { open.lengths.wal };
            assert!(extent.offset + extent.len as u64 <= length, "an extent beyond the commit's length");
        }
        let txid = open.txid;
        self.commits.push(open);
        Ok(txid)
    }

    fn abandon(&mut self) {
        self.open = None;
    }

    fn persist(&mut self) -> Result<(), SinkError> {
        self.persisted += 1;
        Ok(())
    }
}

/// A database that is being put together, commit by commit.
pub struct Assembly {
    main: File,
    wal: File,
    dir: PathBuf,
    at: Txid,
}

impl Assembly {
    /// Applies every transaction up to `txid`.
    pub fn advance(&mut self, recorder: &Recorder, txid: Txid) {
        while self.at < txid {
            self.at = self.at.next();
            recorder.write(&recorder.commits[self.at.0 as usize - 1], &self.main, &self.wal);
        }
    }

    pub fn hash_main(&self, grid: PageGrid) -> PageMap {
        let len = self.main.metadata().unwrap().len();
        let mut map = PageMap::new(grid);
        map.set_len(grid.pages(len));
        let mut buffer = Vec::new();
        for page in 0..grid.pages(len) {
            buffer.resize(grid.len(page) as usize, 0);
            self.main.read_exact_at(&mut buffer, grid.offset(page)).unwrap();
            map.set(page, page_hash(page, &buffer));
        }
        map
    }

    /// The files' database checksum must be the one that the commit states.
    pub fn prove(&self, commit: &Recorded) {
        let mut hash = WalHash::default();
        hash.append(&std::fs::read(self.dir.join("r.db.wal")).unwrap());
        let found = self.hash_main(commit.grid).sum() ^ hash.value();
        assert_eq!(found, commit.checksum, "the restored files of {:?} are not those of the commit", commit.txid);
    }

    /// Copies the pair as it is now to `target`.
    pub fn copy_to(&self, target: &Path) {
        std::fs::copy(self.dir.join("r.db"), target).unwrap();
        let wal = PathBuf::from(format!("{}.wal", target.display()));
        match self.wal.metadata().unwrap().len() {
            0 => _ = std::fs::remove_file(wal),
            _ => _ = std::fs::copy(self.dir.join("r.db.wal"), wal).unwrap(),
        }
    }
}
