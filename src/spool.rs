//! The bounded, durable queue of finished segments: what capture puts in on one side, shipping takes out on the other.
//!
//! In the state directory:
//!
//! | name | holds |
//! |---|---|
//! | `lock` | locked by the one process that works here |
//! | `open.seg` | the segment being written (`open.rs`) |
//! | `spool/<name as in the store>` | finished segments that are not in every replica, or not in the page map yet |
//! | `recent/` | the newest segments that every replica has, for compaction (`recent.rs`) |
//! | `compact/` | what a compaction works with; nothing between two of them |
//! | `pagemap` | the page map as of one finished segment (`pagemap.rs`) |
//! | `term` | the last term that was claimed from here |
//!
//! All of it is a cache of what the replicas hold, but for the segments that are not in a replica yet.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::layout::{ObjectName, SegmentName};
use crate::position::{TimeMs, Txid};
use crate::segment::{Index, SegmentError};
use crate::status::{Place, Status};
use recent::Recent;

pub mod disk;
mod open;
mod pagemap;
mod recent;
mod roll;

pub use disk::{Disk, DiskFile};
pub use open::{OpenSegment, Origin};
pub use pagemap::{Changes, PageMapFile, ResumePoint, roll_forward};
pub use roll::{apply_block, apply_file};

/// A finished segment in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub name: SegmentName,
    pub path: PathBuf,
    pub len: u64,
    pub first_time: TimeMs,
    /// The database checksum after the commit before its first, and after its last.
    pub checksum_before: u64,
    pub checksum: u64,
}

impl Object {
    pub fn first(&self) -> Place {
        Place { generation: self.name.generation, txid: self.name.first }
    }

    pub fn last(&self) -> Place {
        Place { generation: self.name.generation, txid: self.name.last }
    }

    fn describe(path: PathBuf, len: u64, index: &Index) -> Object {
        Object {
            name: index.name(),
            path,
            len,
            first_time: index.commits.first().map_or(TimeMs(0), |entry| entry.commit.time),
            checksum_before: index.header.checksum_before,
            checksum: index.last().checksum,
        }
    }
}

#[derive(Debug)]
struct Inner {
    /// By first commit.
    objects: BTreeMap<Place, Object>,
    object_bytes: u64,
    /// Bytes of the open segment.
    open_bytes: u64,
    /// Per replica: everything up to here is in it; `None` when it takes nothing any more.
    shipped: Vec<Option<Place>>,
    /// The page map file holds everything up to here.
    in_page_map: Place,
}

/// Shared by the capturing thread and the shipping tasks.
#[derive(Debug)]
pub struct Spool {
    state_dir: PathBuf,
    disk: Disk,
    limit_bytes: u64,
    status: Status,
    recent: Recent,
    inner: Mutex<Inner>,
}

impl Spool {
    /// Reads what is there. A file that is no whole segment is moved aside and logged: shipping records the hole.
    pub fn open(state_dir: &Path, limit_bytes: u64, replicas: usize, disk: Disk, status: Status) -> io::Result<Spool> {
        disk.create_dirs(&state_dir.join("spool"))?;
        let spool = Spool {
            recent: Recent::open(state_dir.join("recent"), limit_bytes, disk.clone())?,
            state_dir: state_dir.to_owned(),
            disk,
            limit_bytes,
            status,
            inner: Mutex::new(Inner {
                objects: BTreeMap::new(),
                object_bytes: 0,
                open_bytes: 0,
                shipped: vec![Some(Place::ZERO); replicas],
                in_page_map: Place::ZERO,
            }),
        };
        let mut files = Vec::new();
        list_files(&spool.folder(), &mut files)?;
        for path in files {
            spool.take_in(&path)?;
        }
        let objects: Vec<Object> = spool.lock().objects.values().cloned().collect();
        for object in &objects {
            spool.status.found(object.last(), object.first_time, object.len);
        }
        spool.report();
        Ok(spool)
    }

    fn take_in(&self, path: &Path) -> io::Result<()> {
        let relative = path.strip_prefix(self.folder()).ok().and_then(Path::to_str);
        let Some(ObjectName::Segment(name)) = relative.and_then(ObjectName::parse) else {
            tracing::warn!(path = %path.display(), "a file in the spool that is no segment; left alone");
            return Ok(());
        };
        match read_index(path).and_then(|index| index.check_name(&name).map(|()| index)) {
            Ok(index) => {
                let object = Object::describe(path.to_owned(), fs::metadata(path)?.len(), &index);
                let mut inner = self.lock();
                inner.object_bytes += object.len;
                inner.objects.insert(object.first(), object);
                Ok(())
            }
            Err(SegmentError::Io(error)) => Err(error),
            Err(error) => {
                let aside = path.with_extension("damaged");
                tracing::error!(path = %path.display(), aside = %aside.display(), "a segment in the spool is unreadable and was moved aside: {error}");
                self.status.error("spool", format!("{}: {error}", path.display()));
                self.disk.rename(path, &aside)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    fn folder(&self) -> PathBuf {
        self.state_dir.join("spool")
    }

    fn path(&self, name: &SegmentName) -> PathBuf {
        self.folder().join(ObjectName::Segment(*name).key().as_str())
    }

    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Bytes of everything that the limit bounds.
    pub fn used_bytes(&self) -> u64 {
        let inner = self.lock();
        inner.object_bytes + inner.open_bytes
    }

    pub fn objects(&self) -> Vec<Object> {
        self.lock().objects.values().cloned().collect()
    }

    /// The oldest segment that ends behind `place`.
    pub fn next_after(&self, place: Place) -> Option<Object> {
        self.lock().objects.values().find(|object| object.last() > place).cloned()
    }

    /// Is there room for the open segment to be this large?
    fn set_open_bytes(&self, bytes: u64) -> bool {
        let mut inner = self.lock();
        inner.open_bytes = bytes;
        let fits = inner.object_bytes + bytes <= self.limit_bytes;
        drop(inner);
        fits || self.evict()
    }

    /// Adds a finished segment whose file is in place.
    fn push(&self, object: Object) {
        let (last, first_time, len) = (object.last(), object.first_time, object.len);
        let mut inner = self.lock();
        inner.open_bytes = 0;
        inner.object_bytes += object.len;
        inner.objects.insert(object.first(), object);
        drop(inner);
        self.report();
        self.status.sealed(last, first_time, len);
    }

    /// A replica has everything up to `place`; `None`: it takes nothing any more.
    pub fn set_shipped(&self, replica: usize, place: Option<Place>) {
        self.lock().shipped[replica] = place;
        self.prune();
    }

    /// The page map file holds everything up to `place`.
    pub fn set_in_page_map(&self, place: Place) {
        self.lock().in_page_map = place;
        self.prune();
    }

    /// Removes what is in every replica and in the page map.
    fn prune(&self) {
        let inner = self.lock();
        let everywhere = inner.shipped.iter().flatten().min().copied().unwrap_or(Place::ZERO);
        let until = everywhere.min(inner.in_page_map);
        drop(inner);
        self.remove_until(until, 0);
    }

    /// Removes what is in every replica, whether or not the page map file has it.
    pub fn forget_shipped(&self) {
        let everywhere = self.lock().shipped.iter().flatten().min().copied().unwrap_or(Place::ZERO);
        self.remove_until(everywhere, 0);
        self.recent.shrink(0);
    }

    /// Makes room at the cost of replicas that lag: removes what at least one replica has, oldest first. The others
    /// record a gap and take a new snapshot. Is there room now?
    pub fn evict(&self) -> bool {
        let inner = self.lock();
        let somewhere = inner.shipped.iter().flatten().max().copied().unwrap_or(Place::ZERO);
        let until = somewhere.min(inner.in_page_map);
        drop(inner);
        let removed = self.remove_until(until, self.limit_bytes / 10 * 9);
        if self.used_bytes() > self.limit_bytes / 10 * 9 {
            // Every byte counts now.
            self.recent.shrink(0);
        }
        if removed > 0 {
            tracing::warn!(
                removed,
                "the spool is full: removed segments that a lagging replica still needed; it will record a gap and take a new snapshot"
            );
        }
        self.used_bytes() <= self.limit_bytes
    }

    /// Removes segments up to `until`, oldest first, while more than `target_bytes` are used.
    fn remove_until(&self, until: Place, target_bytes: u64) -> usize {
        let mut removed = 0;
        loop {
            let mut inner = self.lock();
            let used = inner.object_bytes + inner.open_bytes;
            let Some(entry) = inner.objects.first_entry() else { break };
            if entry.get().last() > until || used <= target_bytes {
                break;
            }
            let object = entry.remove();
            inner.object_bytes -= object.len;
            drop(inner);
            removed += 1;
            if let Err(error) = self.recent.keep(object.name, &object.path, object.len) {
                // It is taken in again at the next start and shipped again, which is harmless.
                tracing::warn!(path = %object.path.display(), "cannot remove a shipped segment from the spool: {error}");
                self.status.error("spool", format!("{}: {error}", object.path.display()));
            }
        }
        if removed > 0 {
            self.report();
        }
        removed
    }

    /// Files that may hold this segment: one that is not shipped everywhere yet, and one that was kept.
    pub fn copies(&self, name: &SegmentName) -> [PathBuf; 2] {
        [self.path(name), self.recent.path(name)]
    }

    /// Keeps a file of ours for a compaction to come, or removes it.
    pub fn keep_recent(&self, name: SegmentName, path: &Path, len: u64) -> io::Result<()> {
        self.recent.keep(name, path, len)
    }

    /// Removes segments that contradict what the replicas hold: everything behind `place`.
    pub fn discard_after(&self, place: Place) -> io::Result<usize> {
        let discarded: Vec<Object> = self.objects().into_iter().filter(|object| object.last() > place).collect();
        for object in &discarded {
            self.disk.rename(&object.path, &object.path.with_extension("discarded"))?;
            let mut inner = self.lock();
            inner.objects.remove(&object.first());
            inner.object_bytes -= object.len;
        }
        self.report();
        Ok(discarded.len())
    }

    fn report(&self) {
        self.status.spool_bytes(self.used_bytes());
    }

    /// The last segment of a generation's unbroken end in the spool, if there is any.
    pub fn last(&self) -> Option<Object> {
        self.lock().objects.values().next_back().cloned()
    }

    /// Does the spool hold every commit behind `place` of that generation, up to its end?
    pub fn connects(&self, place: Place, checksum: u64) -> bool {
        let inner = self.lock();
        let mut next: Option<Txid> = place.txid.checked_next();
        let mut sum = checksum;
        for object in inner.objects.values().filter(|o| o.name.generation == place.generation && o.last() > place) {
            if Some(object.name.first) != next || object.checksum_before != sum {
                return false;
            }
            (next, sum) = (object.name.last.checked_next(), object.checksum);
        }
        true
    }
}

/// The index of a finished segment in a file.
pub fn read_index(path: &Path) -> Result<Index, SegmentError> {
    Index::from_file(&mut fs::File::open(path)?)
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "seg") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
