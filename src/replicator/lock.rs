//! One process per state directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::StartError;
use super::crew::Crew;

/// Bytes of a lock file that are read; ours has less.
const MAX_OWNER_BYTES: u64 = 256;

/// The lock on a state directory. The file says who had it last, so that a database that was parked without it sees whether
/// anybody else was there meanwhile.
#[derive(Debug)]
pub(super) struct StateLock {
    path: PathBuf,
    owner: String,
    crew: Arc<Crew>,
    held: Mutex<Held>,
}

/// Why a lock was not to be had again.
#[derive(Debug)]
pub(super) enum NotAgain {
    /// Somebody was there, and has changed local state.
    ForGood(String),
    /// The system refuses just now, for lack of descriptors as a rule.
    Yet(String),
}

#[derive(Debug)]
enum Held {
    Yes(Flock<File>),
    /// While parked, because there is room for its descriptor.
    Kept(Flock<File>),
    No,
}

impl StateLock {
    pub fn take(state_dir: &Path, crew: Arc<Crew>) -> Result<StateLock, StartError> {
        let path = state_dir.join("lock");
        let owner = format!("{} {:032x}", std::process::id(), rand::random::<u128>());
        let unusable = |source| StartError::StateDir { path: path.clone(), source };
        let Some(mut file) = lock(&path).map_err(unusable)? else { return Err(StartError::Locked { path }) };
        let written = file.set_len(0).and_then(|()| file.write_all(owner.as_bytes()));
        written.map_err(unusable)?;
        Ok(StateLock { path, owner, crew, held: Mutex::new(Held::Yes(file)) })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database is parked, or was looked at for the last time.
    pub fn rest(&self) {
        let mut held = self.held();
        if let Held::Yes(file) = std::mem::replace(&mut *held, Held::No)
            && self.crew.may_keep_lock()
        {
            *held = Held::Kept(file);
        }
    }

    /// It is to be worked on again.
    pub fn take_again(&self) -> Result<(), NotAgain> {
        let mut held = self.held();
        match std::mem::replace(&mut *held, Held::No) {
            Held::Yes(file) => *held = Held::Yes(file),
            Held::Kept(file) => {
                self.crew.lock_is_taken_again();
                *held = Held::Yes(file);
            }
            Held::No => {
                let (path, other) =
                    (self.path.display(), "another process replicated this database while it was parked");
                let mut file = match lock(&self.path) {
                    Ok(Some(file)) => file,
                    Ok(None) => return Err(NotAgain::ForGood(format!("{other}: {path} is locked"))),
                    Err(error) => return Err(NotAgain::Yet(format!("cannot lock {path}: {error}"))),
                };
                let mut owner = String::new();
                let read = file.seek(SeekFrom::Start(0));
                let read = read.and_then(|_| (&mut *file).take(MAX_OWNER_BYTES).read_to_string(&mut owner));
                if let Err(error) = read {
                    return Err(NotAgain::Yet(format!("cannot read {path}: {error}")));
                }
                if owner != self.owner {
                    return Err(NotAgain::ForGood(format!("{other}: {path} says so")));
                }
                *held = Held::Yes(file);
            }
        }
        Ok(())
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        if matches!(*self.held(), Held::Kept(_)) {
            self.crew.lock_is_taken_again();
        }
    }
}

/// `None`: somebody else has it.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::options().create(true).read(true).write(true).truncate(false).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parked database that has no descriptor for its lock gets it back, unless somebody was there meanwhile.
    #[test]
    fn who_was_there_meanwhile_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let crew = Crew::new(1, 0, 0);
        let ours = StateLock::take(folder.path(), crew.clone()).unwrap();
        let take = || StateLock::take(folder.path(), crew.clone());
        assert!(matches!(take(), Err(StartError::Locked { .. })));
        ours.rest();
        ours.take_again().unwrap();
        assert!(take().is_err());
        ours.rest();
        let theirs = take().unwrap();
        let why = |again: Result<(), NotAgain>| match again {
            Err(NotAgain::ForGood(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(ours.take_again()).contains("is locked"));
        drop(theirs);
        assert!(why(ours.take_again()).contains("another process replicated this database"));
    }

    /// What the system refuses may be had later.
    #[test]
    fn a_refusal_of_the_system_is_not_final() {
        let folder = tempfile::tempdir().unwrap();
        let (state, away) = (folder.path().join("state"), folder.path().join("away"));
        std::fs::create_dir(&state).unwrap();
        let ours = StateLock::take(&state, Crew::new(1, 0, 0)).unwrap();
        ours.rest();
        std::fs::rename(&state, &away).unwrap();
        assert!(matches!(ours.take_again(), Err(NotAgain::Yet(_))));
        std::fs::rename(&away, &state).unwrap();
        ours.take_again().unwrap();
    }

    /// As long as there is room, the lock is kept.
    #[test]
    fn a_lock_is_kept_where_there_is_room() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let crew = Crew::new(1, 0, 1);
        let locks = folders.each_ref().map(|folder| StateLock::take(folder.path(), crew.clone()).unwrap());
        locks.iter().for_each(StateLock::rest);
        let is_free = folders.each_ref().map(|folder| lock(&folder.path().join("lock")).unwrap().is_some());
        assert_eq!(is_free, [false, true]);
        locks.iter().for_each(|lock| lock.take_again().unwrap());
        let [first, second] = &locks;
        second.rest();
        first.rest();
        let is_free = folders.each_ref().map(|folder| lock(&folder.path().join("lock")).unwrap().is_some());
        assert_eq!(is_free, [true, false]);
        locks.iter().for_each(|lock| lock.take_again().unwrap());
        // Room that is kept by one that is gone is there for others.
        let crew_of_one = Crew::new(1, 0, 1);
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let one = StateLock::take(folder.path(), crew_of_one.clone()).unwrap();
            one.rest();
            assert!(lock(&folder.path().join("lock")).unwrap().is_none(), "kept");
        }
        assert!(folders.iter().all(|folder| lock(&folder.path().join("lock")).unwrap().is_none()));
    }
}
