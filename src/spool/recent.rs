//! The newest segments that every replica has: compaction reads them here before it asks a store. A cache with a bound.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use super::Disk;
use crate::layout::{ObjectName, SegmentName};

/// Bytes that are kept: two joins of level 1 with their inputs. A small spool keeps less.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Of the spool's limit, at most one part in so many is kept besides.
const SHARE_OF_SPOOL: u64 = 16;

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first, with their sizes.
    files: VecDeque<(SegmentName, u64)>,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Recent {
    folder: PathBuf,
    disk: Disk,
    limit_bytes: u64,
    kept: Mutex<Kept>,
}

/// One folder holds them all: the name as in the store, on one line.
fn file_name(name: &SegmentName) -> String {
    ObjectName::Segment(*name).key().as_str().replace('/', "_")
}

impl Recent {
    /// Takes in what an earlier process kept.
    pub fn open(folder: PathBuf, spool_limit_bytes: u64, disk: Disk) -> io::Result<Recent> {
        disk.create_dirs(&folder)?;
        let limit_bytes = MAX_BYTES.min(spool_limit_bytes / SHARE_OF_SPOOL);
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().replace('_', "/");
            if let Some(ObjectName::Segment(name)) = ObjectName::parse(&name) {
                found.push((name, entry.metadata()?.len()));
            }
        }
        found.sort_unstable_by_key(|(name, _)| (name.generation, name.last, name.level));
        let bytes = found.iter().map(|(_, len)| len).sum();
        let recent = Recent { folder, disk, limit_bytes, kept: Mutex::new(Kept { files: found.into(), bytes }) };
        recent.shrink(limit_bytes);
        Ok(recent)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes a file over that nobody else needs any more, or removes it.
    pub fn keep(&self, name: SegmentName, path: &Path, len: u64) -> io::Result<()> {
        if len > self.limit_bytes / 2 {
            return self.disk.remove(path);
        }
        if let Err(error) = self.disk.rename(path, &self.folder.join(file_name(&name))) {
            // A cache is no reason to keep what nobody needs.
            tracing::debug!("{} is not kept: {error}", path.display());
            return self.disk.remove(path);
        }
        let mut kept = self.lock();
        kept.files.push_back((name, len));
        kept.bytes += len;
        drop(kept);
        self.shrink(self.limit_bytes);
        Ok(())
    }

    pub fn path(&self, name: &SegmentName) -> PathBuf {
        self.folder.join(file_name(name))
    }

    /// Removes the oldest files until there are at most `most_bytes`.
    pub fn shrink(&self, most_bytes: u64) {
        loop {
            let mut kept = self.lock();
            if kept.bytes <= most_bytes {
                return;
            }
            let Some((name, len)) = kept.files.pop_front() else { return };
            kept.bytes -= len;
            drop(kept);
            if let Err(error) = self.disk.remove(&self.path(&name)) {
                // The next start finds it again.
                tracing::debug!("cannot remove {}: {error}", self.path(&name).display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Level;
    use crate::position::{Generation, Term, TimeMs, Txid};

    fn name(n: u64) -> SegmentName {
        let (generation, term) = (Generation(1), Term(1));
        SegmentName { generation, level: Level(0), first: Txid(n), last: Txid(n), term, time: TimeMs(n) }
    }

    /// The newest files stay within the bound, also over a restart; one that is too large is not kept.
    #[test]
    fn the_newest_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || Recent::open(directory.path().join("recent"), 1600, Disk::default()).expect("opened");
        let recent = open();
        let keep = |n, len: usize| {
            let path = directory.path().join("file");
            fs::write(&path, vec![0; len]).expect("written");
            recent.keep(name(n), &path, len as u64).expect("kept");
            assert!(!path.exists());
        };
        for n in 1..=5 {
            keep(n, 30);
        }
        keep(6, 51);
        let is_there = |recent: &Recent, n| recent.path(&name(n)).exists();
        assert_eq!((1..=6).filter(|&n| is_there(&recent, n)).collect::<Vec<_>>(), [3, 4, 5]);
        let again = open();
        assert_eq!(again.lock().bytes, 90);
        again.shrink(40);
        assert_eq!((1..=6).filter(|&n| is_there(&again, n)).collect::<Vec<_>>(), [5]);
    }
}
