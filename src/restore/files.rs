//! The files of a database while they are being restored: beside the target, under names of their own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::extent::{Extent, FileId};
use crate::position::Lengths;
use crate::segment::PartRef;

/// Unfinished files, removed when dropped unless they were put in place.
#[derive(Debug)]
pub struct Unfinished {
    pub main: PathBuf,
    pub wal: PathBuf,
    /// Endings of the names of what an engine may leave beside the main file.
    companions: &'static [&'static str],
}

impl Unfinished {
    pub fn new(main: PathBuf, wal: PathBuf, companions: &'static [&'static str]) -> Unfinished {
        Unfinished { main, wal, companions }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let companions = self.companions.iter().map(|ending| with_ending(&self.main, ending));
        for path in companions.chain([self.wal.clone(), self.main.clone()]) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an unfinished file could not be removed");
                }
                _ => {}
            }
        }
    }
}

/// The name of `path` with more behind it: `app.db` and `-wal` give `app.db-wal`.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Open files that take extents at any offset. What is not written reads as zeros.
#[derive(Debug, Clone)]
pub struct Files {
    main: Arc<File>,
    wal: Arc<File>,
    /// No byte stands behind these lengths.
    written: Lengths,
}

impl Files {
    /// Creates both files. They must not exist.
    pub fn create(at: &Unfinished) -> io::Result<Files> {
        let create = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path).map(Arc::new);
        Ok(Files { main: create(&at.main)?, wal: create(&at.wal)?, written: Lengths::default() })
    }

    pub fn main(&self) -> &Arc<File> {
        &self.main
    }

    pub fn wal(&self) -> &Arc<File> {
        &self.wal
    }

    /// A writer of parts, which arrive in any order and may be written at the same time.
    pub fn part_writer(&self) -> impl Fn(Extent<'_>) -> io::Result<()> + Send + 'static {
        let files = self.clone();
        move |extent| files.file(extent.file).write_all_at(extent.data, extent.offset)
    }

    /// All parts are written.
    pub fn parts_written(&mut self, parts: &[PartRef]) {
        let end = |file| parts.iter().filter(|part| part.file == file).map(PartRef::end).max().unwrap_or(0);
        self.written = Lengths { main: end(FileId::Main), wal: end(FileId::Wal) };
    }

    fn file(&self, file: FileId) -> &File {
        match file {
            FileId::Main => &self.main,
            FileId::Wal => &self.wal,
        }
    }

    /// Writes what of `extent` lies within `lengths`: the rest vanishes with the commit that states them.
    pub fn write(&mut self, extent: Extent<'_>, lengths: Lengths) -> io::Result<()> {
        let (limit, written) = match extent.file {
            FileId::Main => (lengths.main, &mut self.written.main),
            FileId::Wal => (lengths.wal, &mut self.written.wal),
        };
        let room = usize::try_from(limit.saturating_sub(extent.offset)).unwrap_or(usize::MAX);
        let data = &extent.data[..extent.data.len().min(room)];
        if data.is_empty() {
            return Ok(());
        }
        *written = (*written).max(extent.offset + data.len() as u64);
        self.file(extent.file).write_all_at(data, extent.offset)
    }

    /// A commit states the lengths: bytes behind them are gone for good, and a file that grows again reads zeros there.
    pub fn cut(&mut self, lengths: Lengths) -> io::Result<()> {
        if self.written.main > lengths.main {
            self.main.set_len(lengths.main)?;
            self.written.main = lengths.main;
        }
        if self.written.wal > lengths.wal {
            self.wal.set_len(lengths.wal)?;
            self.written.wal = lengths.wal;
        }
        Ok(())
    }

    /// The last commit is applied: the files take its lengths.
    pub fn finish(&mut self, lengths: Lengths) -> io::Result<()> {
        self.main.set_len(lengths.main)?;
        self.wal.set_len(lengths.wal)
    }
}

/// Sends a file's bytes to the disk while it is still being written, so that the last sync has little left to do.
#[derive(Debug)]
pub struct EarlySync {
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Between two rounds, so that a slow disk is not flooded by small ones.
const EARLY_SYNC_PAUSE: Duration = Duration::from_millis(20);

impl EarlySync {
    pub fn start(file: &Arc<File>) -> EarlySync {
        let (stop, stopped) = mpsc::channel();
        let file = file.clone();
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(EARLY_SYNC_PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                // The system reports a failure once: it must not be lost here.
                file.sync_data()?;
            }
            Ok(())
        });
        EarlySync { stop, thread: Some(thread) }
    }

    /// What the rounds ended with.
    pub fn finish(mut self) -> io::Result<()> {
        // It has ended by itself if a sync failed.
        self.stop.send(()).ok();
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::Error::other("a thread of the restore ended early")))
    }
}
