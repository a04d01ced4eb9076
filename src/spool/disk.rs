//! Every change that is made to the state directory, one step at a time: the only place that writes there.
//!
//! A test puts a hook in, which sees each step before it is made and can stop everything there, as a crash would.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::segment::SegmentFile;

/// One change to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    Create(&'a Path),
    Write(&'a Path),
    SetLen(&'a Path),
    Sync(&'a Path),
    Rename { from: &'a Path, to: &'a Path },
    Remove(&'a Path),
    CreateDir(&'a Path),
    SyncDir(&'a Path),
}

type Hook = dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync;

/// The way to the disk.
#[derive(Clone, Default)]
pub struct Disk {
    hook: Option<Arc<Hook>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("hooked", &self.hook.is_some()).finish()
    }
}

impl Disk {
    /// `hook` is asked before every step; a step that it refuses is not made.
    pub fn with_hook(hook: impl Fn(Step<'_>) -> io::Result<()> + Send + Sync + 'static) -> Disk {
        Disk { hook: Some(Arc::new(hook)) }
    }

    fn step(&self, step: Step<'_>) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step))
    }

    /// An empty file for reading and writing, in place of one that may be there.
    pub fn create(&self, path: &Path) -> io::Result<DiskFile> {
        self.step(Step::Create(path))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(DiskFile { file: Arc::new(file), path: path.to_owned(), disk: self.clone() })
    }

    /// A file that is there, for reading and writing.
    pub fn open(&self, path: &Path) -> io::Result<DiskFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(DiskFile { file: Arc::new(file), path: path.to_owned(), disk: self.clone() })
    }

    /// Replaces what is at `to`. Durable only after `sync_dir` of its directory.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Rename { from, to })?;
        fs::rename(from, to)
    }

    /// A second name for a file that never changes: whoever removes the first one takes nothing from the second.
    pub fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Create(to))?;
        fs::hard_link(from, to)
    }

    /// Removes a directory of ours with the files in it. Absent is success.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Step::Remove(path))?;
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Absent is success.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Step::Remove(path))?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Step::SyncDir(path))?;
        File::open(path)?.sync_all()
    }

    /// Makes `path` and what is missing above it, durably.
    pub fn create_dirs(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dirs(parent)?;
        }
        self.step(Step::CreateDir(path))?;
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// Puts a small file in place as a whole, durably.
    pub fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = self.create(&temporary)?;
        file.write_all(content)?;
        file.sync()?;
        self.rename(&temporary, path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new(".")))
    }
}

/// A file whose changes go through the disk's steps. Clones are the same open file, with one position.
#[derive(Debug, Clone)]
pub struct DiskFile {
    file: Arc<File>,
    path: PathBuf,
    disk: Disk,
}

impl DiskFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Content and length survive a power cut when this returns.
    pub fn sync(&self) -> io::Result<()> {
        self.disk.step(Step::Sync(&self.path))?;
        self.file.sync_data()
    }

    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.step(Step::Write(&self.path))?;
        self.file.write_all_at(data, offset)
    }

    pub fn cut(&self, len: u64) -> io::Result<()> {
        self.disk.step(Step::SetLen(&self.path))?;
        self.file.set_len(len)
    }
}

impl Read for DiskFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.file).read(buffer)
    }
}

impl Write for DiskFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.disk.step(Step::Write(&self.path))?;
        (&*self.file).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.file).flush()
    }
}

impl Seek for DiskFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self.file).seek(to)
    }
}

impl SegmentFile for DiskFile {
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.cut(len)
    }
}

/// Does this error say that there is no room?
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
