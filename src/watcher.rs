//! File events become wake-ups. They carry no data: whoever is woken looks at the database itself.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

mod hub;

/// What is done when the bell rings and nobody waits for it.
pub type OnRing = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Rope {
    is_rung: bool,
    left_with: Option<OnRing>,
}

/// Wakes one waiting thread. Ringing twice before it wakes is ringing once.
#[derive(Default)]
pub struct Bell {
    rope: Mutex<Rope>,
    condition: Condvar,
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("is_rung", &self.lock().is_rung).finish_non_exhaustive()
    }
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Rope> {
        self.rope.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn ring(&self) {
        let mut rope = self.lock();
        match rope.left_with.take() {
            Some(wake) => {
                drop(rope);
                wake();
            }
            None => {
                rope.is_rung = true;
                self.condition.notify_one();
            }
        }
    }

    /// Instead of waiting: `wake` is done once, when the bell rings next. Given back where it was rung already.
    pub fn leave(&self, wake: OnRing) -> Option<OnRing> {
        let mut rope = self.lock();
        if rope.is_rung {
            return Some(wake);
        }
        rope.left_with = Some(wake);
        None
    }

    /// Waits until the bell was rung since the last call, or until `deadline`. Was it rung?
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut rope = self.lock();
        while !rope.is_rung {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            rope = match self.condition.wait_timeout(rope, left) {
                Ok((rope, _)) => rope,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        std::mem::take(&mut rope.is_rung)
    }
}

/// Rings a bell when something happens to a database's files, for as long as it lives.
///
/// The directory is watched and not the files: a watch on a file dies with it, and a WAL is deleted and created again.
///
/// Every event costs the writer time, so a busy database is better looked at by a timer, with the watch disarmed.
#[derive(Debug)]
pub struct Watcher {
    directory: PathBuf,
    name: OsString,
    bell: Arc<Bell>,
    is_armed: bool,
}

impl Watcher {
    /// Watches the files in the directory of `database` whose names begin with its name: its WAL, journal and the like.
    pub fn start(database: &Path, bell: Arc<Bell>) -> notify::Result<Watcher> {
        let (directory, name) = directory_and_name(database);
        let mut watcher = Watcher { directory, name, bell, is_armed: false };
        watcher.set_armed(true)?;
        Ok(watcher)
    }

    pub fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// Arms or disarms the watch. What happened while it was disarmed rings no bell: look after arming it.
    pub fn set_armed(&mut self, armed: bool) -> notify::Result<()> {
        match (self.is_armed, armed) {
            (false, true) => hub::add(&self.directory, &self.name, &self.bell)?,
            (true, false) => hub::remove(&self.directory, &self.name, &self.bell)?,
            _ => {}
        }
        self.is_armed = armed;
        Ok(())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Err(error) = self.set_armed(false) {
            tracing::debug!("cannot end the watch on {}: {error}", self.directory.display());
        }
    }
}

/// The directory that holds the file itself: engines put their WAL beside the target of a symbolic link.
fn directory_and_name(database: &Path) -> (PathBuf, OsString) {
    let real = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let directory = match real.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    (directory, real.file_name().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// A write to the database or its WAL rings, and so does a WAL created after the watch began; other files do not.
    #[test]
    fn the_databases_files_ring_and_others_do_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let database = directory.path().join("app.db");
        let bell = Arc::new(Bell::default());
        let watcher = Watcher::start(&database, bell.clone()).expect("a watch");
        std::fs::write(directory.path().join("other.db"), b"x").expect("written");
        for file in ["app.db", "app.db-wal", "app.db-wal"] {
            std::fs::write(directory.path().join(file), b"x").expect("written");
            assert!(bell.wait_until(soon()), "{file}");
        }
        drop(watcher);
    }

    /// A disarmed watch rings for nothing, and rings again once it is armed.
    #[test]
    fn a_disarmed_watch_is_silent() {
        let directory = tempfile::tempdir().expect("a directory");
        let database = directory.path().join("app.db");
        let bell = Arc::new(Bell::default());
        let mut watcher = Watcher::start(&database, bell.clone()).expect("a watch");
        watcher.set_armed(false).expect("disarmed");
        std::fs::write(&database, b"x").expect("written");
        assert!(!bell.wait_until(Instant::now() + Duration::from_millis(100)));
        watcher.set_armed(true).expect("armed");
        std::fs::write(&database, b"y").expect("written");
        assert!(bell.wait_until(soon()));
    }

    /// What was left with a bell is done once, when it rings; not at all where it was rung before.
    #[test]
    fn a_bell_that_nobody_waits_for_does_what_was_left() {
        let bell = Bell::default();
        let (tell, told) = std::sync::mpsc::channel();
        let left: OnRing = Box::new(move || tell.send(()).expect("heard"));
        bell.ring();
        let left = bell.leave(left).expect("rung before");
        assert!(bell.wait_until(Instant::now()));
        assert!(bell.leave(left).is_none());
        bell.ring();
        assert!(told.try_recv().is_ok());
        bell.ring();
        assert!(told.try_recv().is_err() && bell.wait_until(Instant::now()));
    }

    /// Databases in one directory share its watch: each hears of its own files, and the last one ends it.
    #[test]
    fn databases_share_a_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let start = |name: &str| {
            let bell = Arc::new(Bell::default());
            (Watcher::start(&directory.path().join(name), bell.clone()).expect("a watch"), bell)
        };
        let ((one, at_one), (other, at_other)) = (start("a.db"), start("b.db"));
        std::fs::write(directory.path().join("b.db-wal"), b"x").expect("written");
        assert!(at_other.wait_until(soon()));
        assert!(!at_one.wait_until(Instant::now()));
        drop(one);
        std::fs::write(directory.path().join("b.db"), b"x").expect("written");
        assert!(at_other.wait_until(soon()));
        drop(other);
        assert_eq!((Arc::strong_count(&at_one), Arc::strong_count(&at_other)), (1, 1), "nobody rings them any more");
    }

    /// A bell rung before anybody waited is heard, once.
    #[test]
    fn a_bell_is_heard_once() {
        let bell = Bell::default();
        bell.ring();
        bell.ring();
        assert!(bell.wait_until(soon()));
        assert!(!bell.wait_until(Instant::now()));
    }
}
