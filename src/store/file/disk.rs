//! Writing, reading and deleting objects in a directory. Blocking.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{TEMPORARY, errors, sync_directory};
use crate::store::{Body, Key, Outcome, PutMode, StoreError, check_range};

/// A file is copied in pieces of this many bytes.
const COPY_BYTES: usize = 256 * 1024;
/// An unfinished file that nobody has written to for so long belongs to a process that is gone.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Folders remembered; beyond it all are forgotten, which costs a few system calls once more.
const KNOWN_MAX: usize = 1024;
/// A directory that another process removes as empty while we are about to write into it is created again, so often.
const VANISHED_MAX: u32 = 8;

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    /// Folders that this process has written to: their names are durable, and stale unfinished files in them are gone.
    known: Mutex<HashSet<PathBuf>>,
}

impl Disk {
    pub(super) fn new(root: PathBuf) -> Disk {
        Disk { root, known: Mutex::default() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn put(&self, key: &Key, body: &Body, mode: PutMode) -> Result<(), StoreError> {
        let target = self.path("put", key)?;
        let folder = target.parent().expect("a key has at least one part below the root");
        let mut tries = 0;
        loop {
            let done = self.try_put(&target, folder, body, mode);
            tries += 1;
            match done {
                Err(Failed { error, .. }) if error.kind() == io::ErrorKind::NotFound && tries < VANISHED_MAX => {
                    // An unfinished body is not found for good; a directory is created again.
                    if folder.exists() && matches!(body, Body::File { path, .. } if !path.exists()) {
                        return Err(StoreError::new(
                            Outcome::Invalid,
                            "put",
                            key,
                            format!("reading the file: {error}"),
                        ));
                    }
                }
                Err(Failed { error, .. })
                    if error.kind() == io::ErrorKind::AlreadyExists && mode == PutMode::Create =>
                {
                    // Whoever created it may have died before its name was durable; a caller may count on it now.
                    sync_directory(folder)
                        .map_err(|e| errors::error("put", key.as_str(), "syncing the directory", &e))?;
                    return Err(StoreError::new(Outcome::AlreadyExists, "put", key, "something has that name"));
                }
                Err(Failed { doing, error }) => {
                    let mut failed = errors::error("put", key.as_str(), doing, &error);
                    if failed.outcome == Outcome::NotFound {
                        // The folder keeps being removed as empty under us: somebody is pruning.
                        failed.outcome = Outcome::Unavailable;
                    }
                    return Err(failed);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    fn try_put(&self, target: &Path, folder: &Path, body: &Body, mode: PutMode) -> Result<(), Failed> {
        create_folder(folder).map_err(Failed::doing("creating the directory"))?;
        let known = self.known().contains(folder);
        if !known {
            // Whoever created it may have died before its name, or those above it, were durable.
            self.sync_above(folder).map_err(Failed::doing("syncing the directories above"))?;
        }
        let temporary = Temporary::create(folder).map_err(Failed::doing("creating a temporary file"))?;
        write_body(&temporary.file, body)?;
        temporary.file.sync_all().map_err(Failed::doing("syncing the file"))?;
        match mode {
            PutMode::Create => link_new(&temporary.path, target).map_err(Failed::doing("naming the file"))?,
            PutMode::Replace => fs::rename(&temporary.path, target).map_err(Failed::doing("naming the file"))?,
        }
        if !known {
            sweep(folder, &temporary.file);
        }
        drop(temporary);
        sync_directory(folder).map_err(Failed::doing("syncing the directory"))?;
        if !known {
            let mut known = self.known();
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(folder.to_owned());
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let path = self.path("get", key)?;
        let failed = |doing| move |e: io::Error| errors::error("get", key.as_str(), doing, &e);
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = match opened {
            // A file stands where the key has a folder.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(StoreError::new(Outcome::NotFound, "get", key, "no such object"));
            }
            opened => opened.map_err(failed("opening"))?,
        };
        let metadata = file.metadata().map_err(failed("reading its length"))?;
        if !metadata.is_file() {
            return Err(StoreError::new(Outcome::NotFound, "get", key, "no file, so no object"));
        }
        let range = range.unwrap_or(0..metadata.len());
        check_range(key, &range, metadata.len())?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        // The length was that of the file a moment ago; less now is a damaged replica or a network file system at odds.
        file.read_exact_at(&mut bytes, range.start).map_err(failed("reading"))?;
        Ok(bytes.into())
    }

    pub(super) fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        for key in keys {
            let path = self.path("delete", key)?;
            match fs::remove_file(&path) {
                Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Err(errors::error("delete", key.as_str(), "deleting", &e));
                }
                _ => self.remove_empty_folders(&path),
            }
        }
        Ok(())
    }

    /// A folder is there as long as something is in it, as in any other store.
    fn remove_empty_folders(&self, path: &Path) {
        for folder in path.ancestors().skip(1).take_while(|folder| *folder != self.root) {
            // Not empty, or not ours to remove: it stays, which harms nobody.
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }

    /// The path of an object, once no directory on the way is a symbolic link that could lead out of the root.
    fn path(&self, operation: &'static str, key: &Key) -> Result<PathBuf, StoreError> {
        if key.as_str().split('/').any(|part| part.starts_with(TEMPORARY)) {
            let detail = format!("names that begin with {TEMPORARY} are unfinished files in a directory");
            return Err(StoreError::new(Outcome::Invalid, operation, key, detail));
        }
        let mut path = self.root.clone();
        for part in key.as_str().split('/') {
            path.push(part);
            if fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
                let detail = format!("{} is a symbolic link, which is not followed: remove it", path.display());
                return Err(StoreError::new(Outcome::Denied, operation, key, detail));
            }
        }
        Ok(path)
    }

    fn known(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs the directories that hold the names from `folder` up to the root's own.
    fn sync_above(&self, folder: &Path) -> io::Result<()> {
        for path in folder.ancestors().take_while(|path| path.starts_with(&self.root)) {
            match path.parent() {
                Some(above) if above != Path::new("") => match sync_directory(above) {
                    // What holds the root may be closed to us, and then is not ours to vouch for.
                    Err(e) if path == self.root && e.kind() == io::ErrorKind::PermissionDenied => {}
                    synced => synced?,
                },
                _ => {}
            }
        }
        Ok(())
    }
}

/// Removes what dead processes left unfinished in `folder`. Ages are told by the file system's own clock: that of a file
/// just written.
fn sweep(folder: &Path, now: &File) {
    let (Ok(now), Ok(entries)) = (now.metadata().and_then(|m| m.modified()), fs::read_dir(folder)) else { return };
    for entry in entries.flatten() {
        let unfinished = entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes());
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|then| now.duration_since(then).ok());
        if unfinished && age.is_some_and(|age| age > STALE) {
            match fs::remove_file(entry.path()) {
                Ok(()) => tracing::info!(file = %entry.path().display(), "removed a stale unfinished file"),
                Err(e) => tracing::warn!(file = %entry.path().display(), error = %e, "a stale unfinished file stays"),
            }
        }
    }
}

/// What failed, and in doing what.
struct Failed {
    doing: &'static str,
    error: io::Error,
}

impl Failed {
    fn doing(doing: &'static str) -> impl FnOnce(io::Error) -> Failed {
        move |error| Failed { doing, error }
    }
}

/// Creates a directory and what is missing above it, each name made durable in the directory that holds it.
fn create_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = folder.parent().ok_or(e)?;
            create_folder(above)?;
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        other => other?,
    }
    match folder.parent() {
        Some(above) if above != Path::new("") => sync_directory(above),
        _ => Ok(()),
    }
}

/// An unfinished file, removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn create(folder: &Path) -> io::Result<Temporary> {
        // Unique in this process by the counter; against others and earlier lives of this pid by trying the next one.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => return opened.map(|file| Temporary { path, file }),
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.path.display(), error = %e, "an unfinished file stays until it is swept");
            }
            _ => {}
        }
    }
}

fn write_body(mut to: &File, body: &Body) -> Result<(), Failed> {
    match body {
        Body::Bytes(bytes) => to.write_all(bytes).map_err(Failed::doing("writing")),
        Body::File { path, len } => {
            let mut from = File::open(path).map_err(Failed::doing("opening the file to copy"))?;
            let mut piece = vec![0; COPY_BYTES.min(usize::try_from(*len).unwrap_or(COPY_BYTES)).max(1)];
            let mut left = *len;
            while left > 0 {
                let wanted = left.min(piece.len() as u64) as usize;
                from.read_exact(&mut piece[..wanted]).map_err(Failed::doing("reading the file to copy"))?;
                to.write_all(&piece[..wanted]).map_err(Failed::doing("writing"))?;
                left -= wanted as u64;
            }
            Ok(())
        }
    }
}

/// Gives a finished file its name unless something has it: by a hard link, or by a rename that refuses to replace on
/// file systems without hard links. There is no third way that neither replaces nor shows half an object.
fn link_new(temporary: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, target) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOTSUP | libc::EMLINK | libc::ENOSYS)) => {
            rename_new(temporary, target)
        }
        other => other,
    }
}

#[cfg(target_os = "linux")]
pub(super) fn rename_new(temporary: &Path, target: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, temporary, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn rename_new(_temporary: &Path, _target: &Path) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the file system of the replica has no hard links"))
}
