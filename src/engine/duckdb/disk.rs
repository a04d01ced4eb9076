//! The database's files, opened for reading only. No lock is taken, nothing is ever written.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::file::{FileError, HEAD_BYTES, HEADER_BYTES, Head, is_sound};
use super::iteration::Iteration;
use super::wal::ReadAt;
use crate::engine::EngineError;
use crate::extent::PageGrid;

/// How often something that is being written is looked at again before it counts as damaged, and the pause between.
const TORN_RETRIES: u32 = 300;
const TORN_PAUSE: Duration = Duration::from_millis(1);
/// From this try on the pause is longer: the writer may have lost its processor in the middle of a block.
const TORN_PATIENCE_FROM: u32 = 200;
const TORN_LONG_PAUSE: Duration = Duration::from_millis(25);
/// Bytes at a block's beginning that its key is taken of: its stored checksum and the first of its content.
const KEY_BYTES: usize = 4096;
/// In an encrypted file every smaller block may begin anew at these distances, with a fresh nonce.
const SAMPLE_STRIDE: u64 = super::file::MIN_BLOCK_BYTES as u64;
const SAMPLE_BYTES: usize = 64;

pub(super) fn io_error(context: impl Into<String>) -> impl FnOnce(io::Error) -> EngineError {
    let context = context.into();
    move |source| EngineError::Io { context, source }
}

impl From<FileError> for EngineError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Version(_) | FileError::Compat(_) => EngineError::NotCapturable {
                reason: error.to_string(),
                next_step: "use a release of replicate that lists this DuckDB version as supported",
            },
            FileError::Short | FileError::Magic => EngineError::NotCapturable {
                reason: error.to_string(),
                next_step: "capture begins when DuckDB has created the database",
            },
            FileError::Torn { .. } | FileError::Impossible { .. } => EngineError::Damaged(error.to_string()),
        }
    }
}

/// Names a file on this machine, so that a replaced one is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKey {
    pub device: u64,
    pub inode: u64,
}

impl From<&std::fs::Metadata> for FileKey {
    fn from(metadata: &std::fs::Metadata) -> Self {
        FileKey { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The main file.
pub struct MainFile {
    path: PathBuf,
    file: File,
    pub key: FileKey,
}

/// What reading a used block came to.
#[derive(Debug, PartialEq, Eq)]
pub enum BlockRead {
    Sound,
    /// The headers changed while it was unreadable: look at the new iteration.
    Flipped,
}

impl MainFile {
    pub fn open(path: &Path) -> Result<MainFile, EngineError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => EngineError::Absent { path: path.to_owned() },
            _ => EngineError::Io { context: format!("cannot open {}", path.display()), source },
        })?;
        let metadata = file.metadata().map_err(io_error(format!("cannot look at {}", path.display())))?;
        // Keys are read all over the file; read-ahead would drag in what nobody asked for. Advice only: no harm if refused.
        _ = nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM);
        Ok(MainFile { path: path.to_owned(), key: FileKey::from(&metadata), file })
    }

    /// Is the file at the path still this one?
    pub fn is_at_path(&self) -> Result<bool, EngineError> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(FileKey::from(&metadata) == self.key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(EngineError::Absent { path: self.path.clone() })
            }
            Err(source) => Err(EngineError::Io { context: format!("cannot look at {}", self.path.display()), source }),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, EngineError> {
        read_full(&self.file, offset, buffer).map_err(io_error(format!("cannot read {}", self.path.display())))
    }

    /// The three header pages, with every checksum proven. A header that is being written right now is waited for.
    pub fn head(&self) -> Result<Head, EngineError> {
        let mut raw = vec![0; HEAD_BYTES];
        let mut last = None;
        for _ in 0..TORN_RETRIES {
            let len = self.read(0, &mut raw)?;
            match Head::parse(&raw[..len]) {
                // Encrypted headers show no tear, so two equal looks stand for a whole one.
                Ok(head) if head.encryption.is_none() || self.slots_are(&head)? => return Ok(head),
                Ok(_) => last = Some(FileError::Torn { page: 1 }),
                Err(error @ FileError::Torn { .. }) => last = Some(error),
                Err(error) => return Err(error.into()),
            }
            std::thread::sleep(TORN_PAUSE);
        }
        // A header page may take long to be written on a busy machine, but only while somebody has the file open.
        if self.is_held()? {
            return Err(EngineError::Busy("its header pages are being written".into()));
        }
        Err(last.unwrap_or(FileError::Short).into())
    }

    /// Are the database headers still these? The seqlock of every read.
    pub fn slots_are(&self, head: &Head) -> Result<bool, EngineError> {
        let mut slots = vec![0; HEAD_BYTES - HEADER_BYTES];
        let len = self.read(HEADER_BYTES as u64, &mut slots)?;
        Ok(len == slots.len() && slots == head.slots())
    }

    /// The whole block as it is now; `false` when the file ends before its end.
    pub fn block(&self, grid: PageGrid, block: u64, buffer: &mut Vec<u8>) -> Result<bool, EngineError> {
        buffer.resize(grid.size as usize, 0);
        let len = self.read(grid.offset(block + 1), buffer)?;
        buffer[len..].fill(0);
        Ok(len == buffer.len())
    }

    /// The first header pages as they are now.
    pub fn raw_head(&self, buffer: &mut Vec<u8>) -> Result<(), EngineError> {
        buffer.resize(HEAD_BYTES, 0);
        let len = self.read(0, buffer)?;
        buffer[len..].fill(0);
        Ok(())
    }

    /// A block that belongs to `head`'s iteration, proven by its checksum. Metadata may be under rewriting for a moment.
    pub fn used_block(&self, head: &Head, block: u64, buffer: &mut Vec<u8>) -> Result<BlockRead, EngineError> {
        let mut before = Vec::new();
        for attempt in 0..TORN_RETRIES {
            let whole = self.block(head.grid(), block, buffer)?;
            if head.encryption.is_some() {
                // Without the key no checksum can be proven: two equal reads with a pause between stand for a whole block.
                if attempt > 0 && before == *buffer {
                    return Ok(BlockRead::Sound);
                }
                std::mem::swap(&mut before, buffer);
                std::thread::sleep(TORN_PAUSE / 4);
                continue;
            }
            if whole && is_sound(buffer) {
                return Ok(BlockRead::Sound);
            }
            if !self.slots_are(head)? {
                return Ok(BlockRead::Flipped);
            }
            std::thread::sleep(if attempt < TORN_PATIENCE_FROM { TORN_PAUSE } else { TORN_LONG_PAUSE });
        }
        if head.encryption.is_some() {
            return Ok(BlockRead::Flipped);
        }
        Err(EngineError::Damaged(format!("block {block} is in use and its checksum does not match its content")))
    }

    /// A key that changes with the block's content, from its first bytes; `None` when the file ends before.
    pub fn block_key(&self, head: &Head, block: u64) -> Result<Option<u64>, EngineError> {
        let offset = head.grid().offset(block + 1);
        if head.encryption.is_none() {
            let mut first = [0; KEY_BYTES];
            let whole = self.read(offset, &mut first)? == KEY_BYTES;
            return Ok(whole.then(|| plain_key(&first)));
        }
        let mut samples = Vec::new();
        for start in (0..u64::from(head.grid().size)).step_by(SAMPLE_STRIDE as usize) {
            let mut sample = [0; SAMPLE_BYTES];
            self.read(offset + start, &mut sample)?;
            samples.extend_from_slice(&sample);
        }
        Ok(Some(nonzero(xxh3_64(&samples))))
    }

    /// Runs of blocks from `from` on that the file system holds data for: the sparse reserve of mmap mode is skipped.
    pub fn allocated(&self, grid: PageGrid, from: u64) -> Result<Vec<std::ops::Range<u64>>, EngineError> {
        let context = || format!("cannot look for data in {}", self.path.display());
        let size = self.file.metadata().map_err(io_error(context()))?.len();
        let (mut runs, mut at): (Vec<std::ops::Range<u64>>, u64) = (Vec::new(), grid.offset(from + 1));
        while at < size {
            let Some(data) = seek(&self.file, at, libc::SEEK_DATA).map_err(io_error(context()))? else { break };
            let hole = seek(&self.file, data, libc::SEEK_HOLE).map_err(io_error(context()))?.unwrap_or(size);
            let (first, last) = (grid.page_at(data).max(from + 1), grid.page_at(hole.max(data + 1) - 1).max(from + 1));
            let start = runs.last().map_or(first, |run| first.max(run.end + 1));
            if start <= last {
                runs.push(start - 1..last);
            }
            at = grid.offset(last + 1);
        }
        Ok(runs)
    }

    /// Does a process hold the lock that every DuckDB takes? Without one nothing in the files can change. Takes no lock.
    pub fn is_held(&self) -> Result<bool, EngineError> {
        let mut lock: libc::flock = {
            // SAFETY: `flock` is plain old data, for which all zeros is a valid value.
            unsafe { std::mem::zeroed() }
        };
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: the descriptor is open and `lock` is a valid flock for the call's length. F_GETLK only asks.
        let result = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLK, &mut lock) };
        if result == -1 {
            return Err(io_error(format!("cannot ask for locks of {}", self.path.display()))(
                io::Error::last_os_error(),
            ));
        }
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    }

    /// Bytes of the file.
    pub fn len(&self) -> Result<u64, EngineError> {
        let context = || format!("cannot look at {}", self.path.display());
        Ok(self.file.metadata().map_err(io_error(context()))?.len())
    }

    /// When the file was last written to, in nanoseconds; does not move in mmap mode.
    pub fn modified(&self) -> Result<(i64, i64), EngineError> {
        let metadata = self.file.metadata().map_err(io_error(format!("cannot look at {}", self.path.display())))?;
        Ok((metadata.mtime(), metadata.mtime_nsec()))
    }

    /// The iteration that `head` begins, with its free list; `None` when another one began meanwhile.
    pub fn iteration(&self, head: Head) -> Result<Option<Iteration>, EngineError> {
        Iteration::read(self, head)
    }
}

/// The key of a plain block, from its content.
pub fn plain_key(block: &[u8]) -> u64 {
    nonzero(xxh3_64(&block[..KEY_BYTES.min(block.len())]))
}

/// The key of an encrypted block, from its content.
pub fn sampled_key(block: &[u8]) -> u64 {
    let samples: Vec<u8> =
        block.chunks(SAMPLE_STRIDE as usize).flat_map(|sub| &sub[..SAMPLE_BYTES.min(sub.len())]).copied().collect();
    nonzero(xxh3_64(&samples))
}

/// 0 stands for an unknown key.
fn nonzero(key: u64) -> u64 {
    key.max(1)
}

/// The next offset of data or of a hole from `at` on; `None` beyond the last.
fn seek(file: &File, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the descriptor is open; the file position that this moves is used by nothing (all reads are positioned).
    let found = unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    match found {
        -1 => {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ENXIO) { Ok(None) } else { Err(error) }
        }
        found => Ok(Some(found as u64)),
    }
}

fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A WAL that is held open: it stays readable after DuckDB unlinked it or renamed another one over it.
#[derive(Debug)]
pub struct WalFile {
    file: File,
    pub key: FileKey,
}

impl WalFile {
    /// `None` when there is no file of this name.
    pub fn open(path: &Path) -> Result<Option<WalFile>, EngineError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EngineError::Io { context: format!("cannot open {}", path.display()), source }),
        };
        let metadata = file.metadata().map_err(io_error(format!("cannot look at {}", path.display())))?;
        Ok(Some(WalFile { key: FileKey::from(&metadata), file }))
    }

    pub fn size(&self) -> Result<u64, EngineError> {
        Ok(self.file.metadata().map_err(io_error("cannot look at the WAL"))?.len())
    }

    pub fn modified(&self) -> Result<(i64, i64), EngineError> {
        let metadata = self.file.metadata().map_err(io_error("cannot look at the WAL"))?;
        Ok((metadata.mtime(), metadata.mtime_nsec()))
    }
}

impl ReadAt for WalFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.file, offset, buffer)
    }
}

/// The path of the WAL, and of the one that DuckDB writes while a checkpoint runs.
pub fn wal_path(main: &Path) -> PathBuf {
    suffixed(main, ".wal")
}

pub fn side_wal_path(main: &Path) -> PathBuf {
    suffixed(main, ".wal.checkpoint")
}

fn suffixed(main: &Path, suffix: &str) -> PathBuf {
    let mut name = main.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
