//! File events become wake-ups. They carry no data: whoever is woken looks at the database itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use notify::{Event, EventKind, RecursiveMode, Watcher as _};

/// Wakes one waiting thread. Ringing twice before it wakes is ringing once.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    condition: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn ring(&self) {
        *self.lock() = true;
        self.condition.notify_one();
    }

    /// Waits until the bell was rung since the last call, or until `deadline`. Was it rung?
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut rung = self.lock();
        while !*rung {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            rung = match self.condition.wait_timeout(rung, left) {
                Ok((rung, _)) => rung,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        std::mem::take(&mut *rung)
    }
}

/// Rings a bell when something happens to a database's files, for as long as it lives.
///
/// The directory is watched and not the files: a watch on a file dies with it, and a WAL is deleted and created again.
///
/// Every event costs the writer time, so a busy database is better looked at by a timer, with the watch disarmed.
#[derive(Debug)]
pub struct Watcher {
    watcher: notify::RecommendedWatcher,
    directory: PathBuf,
    is_armed: bool,
}

impl Watcher {
    /// Watches the files in the directory of `database` whose names begin with its name: its WAL, journal and the like.
    pub fn start(database: &Path, bell: Arc<Bell>) -> notify::Result<Watcher> {
        let (directory, name) = directory_and_name(database);
        let ring = move |event: notify::Result<Event>| {
            // An error here is a lost event (an overflowing queue): looking is the answer to that too.
            if event.map_or(true, |event| is_news(&event, &name)) {
                bell.ring();
            }
        };
        let mut watcher = notify::recommended_watcher(ring)?;
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
        Ok(Watcher { watcher, directory, is_armed: true })
    }

    pub fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// Arms or disarms the watch. What happened while it was disarmed rings no bell: look after arming it.
    pub fn set_armed(&mut self, armed: bool) -> notify::Result<()> {
        match armed {
            true => self.watcher.watch(&self.directory, RecursiveMode::NonRecursive)?,
            false => self.watcher.unwatch(&self.directory)?,
        }
        self.is_armed = armed;
        Ok(())
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

/// Opening and reading a file is no news; everything else that happens to one of the database's files is.
fn is_news(event: &Event, name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is_ours = |path: &PathBuf| path.file_name().is_some_and(|file| file.as_encoded_bytes().starts_with(name));
    let is_about_nothing = event.paths.is_empty();
    !matches!(event.kind, EventKind::Access(_)) && (is_about_nothing || event.paths.iter().any(is_ours))
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
