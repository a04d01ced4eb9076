//! The databases that this process has open. To open and close one of their files once more would drop its locks on them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Endings of the names of what engines keep beside a database, and of the database itself.
const ENDINGS: [&str; 7] = ["", "-wal", "-shm", "-journal", ".wal", ".wal.checkpoint", ".wal.recovery"];

/// Their real paths, and how often each is held.
static LIVE: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

fn live() -> MutexGuard<'static, BTreeMap<PathBuf, usize>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held for as long as a database may be open in this process.
#[derive(Debug)]
pub struct Live(PathBuf);

impl Live {
    pub fn new(database: &Path) -> Live {
        let database = real_path(database);
        *live().entry(database.clone()).or_default() += 1;
        Live(database)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut live = live();
        if let Some(count) = live.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.0);
            }
        }
    }
}

/// Without links; also of a file that is not there yet.
fn real_path(path: &Path) -> PathBuf {
    let of_folder = || {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let (folder, name) = (absolute.parent()?, absolute.file_name()?);
        Some(fs::canonicalize(folder).ok()?.join(name))
    };
    fs::canonicalize(path).ok().or_else(of_folder).unwrap_or_else(|| path.to_owned())
}

/// Does this file belong to a database that is open now? `real` is its path without links.
pub(super) fn is_live(real: &Path, found: &Metadata) -> bool {
    let live = live();
    let shown = real.as_os_str().as_bytes();
    let named = |ending: &str| {
        let database = shown.strip_suffix(ending.as_bytes());
        database.is_some_and(|database| live.contains_key(Path::new(OsStr::from_bytes(database))))
    };
    // A file with one name has no other under which it could be a database's.
    let has_other_names = || {
        let inode = (found.dev(), found.ino());
        found.nlink() != 1 && live.keys().any(|database| inodes_of(database).contains(&inode))
    };
    ENDINGS.iter().any(|ending| named(ending)) || has_other_names()
}

/// Device and number of a file: the same for all of its names.
pub(super) type Inode = (u64, u64);

/// The files of one database, as far as they exist.
pub(super) fn inodes_of(database: &Path) -> Vec<Inode> {
    let name = |ending: &str| {
        let mut name = database.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    ENDINGS
        .iter()
        .filter_map(|ending| fs::metadata(name(ending)).ok())
        .map(|found| (found.dev(), found.ino()))
        .collect()
}

/// Is this the name of a file of that database, whether it exists now or not?
pub(super) fn belongs_to(database: &Path, name: &str) -> bool {
    let own = database.file_name().and_then(|own| own.to_str());
    own.and_then(|own| name.strip_prefix(own)).is_some_and(|ending| ENDINGS.contains(&ending))
}
