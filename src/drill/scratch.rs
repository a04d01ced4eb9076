//! A directory of our own, removed with everything in it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::restore::RestoreError;

const PREFIX: &str = "replicate-scratch-";
const LOCK: &str = ".lock";

/// A directory that is removed when this is dropped, however the work in it ended. One that a killed process left behind is
/// removed by the next that is made beside it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Held as long as the directory is in use.
    _lock: Flock<File>,
}

fn cannot(path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    RestoreError::io("cannot make the scratch directory", path)
}

impl Scratch {
    /// Makes one in `folder`, and `folder` itself where it is missing. Only this user can look into it.
    pub fn new(folder: &Path, random: u32) -> Result<Scratch, RestoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot(folder))?;
        remove_left_behind(folder);
        let path = folder.join(format!("{PREFIX}{}-{random:08x}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).map_err(cannot(&path))?;
        match lock(&path, true) {
            Ok(lock) => Ok(Scratch { path, _lock: lock }),
            Err(error) => {
                // It is empty, and the error tells of it.
                fs::remove_dir_all(&path).ok();
                Err(cannot(&path)(error))
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the scratch directory could not be removed");
        }
    }
}

fn lock(path: &Path, create: bool) -> std::io::Result<Flock<File>> {
    let file = File::options().create(create).read(true).write(true).truncate(false).open(path.join(LOCK))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Removes what nobody holds any more. What cannot be looked at or removed is somebody else's.
fn remove_left_behind(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for path in names.filter(|name| name.starts_with(PREFIX)).map(|name| folder.join(name)) {
        // Without its lock it has just been made, or is none of ours.
        let Ok(_lock) = lock(&path, false) else { continue };
        match fs::remove_dir_all(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed a scratch directory that was left behind"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "a scratch directory could not be removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scratch directory goes when its work ends; one in use stays whoever comes, and one left behind goes with the next.
    #[test]
    fn nothing_stays() {
        let folder = tempfile::tempdir().expect("a directory");
        let base = folder.path().join("state/scratch");
        let first = Scratch::new(&base, 1).expect("made");
        fs::write(first.path().join("database"), b"x").expect("written");
        let left = base.join(format!("{PREFIX}1-00000009"));
        fs::create_dir(&left).expect("made");
        fs::write(left.join(LOCK), b"").expect("written");
        let second = Scratch::new(&base, 2).expect("made");
        assert!(first.path().join("database").exists() && second.path().exists() && !left.exists());
        drop((first, second));
        assert_eq!(fs::read_dir(&base).expect("listed").count(), 0);
    }
}
