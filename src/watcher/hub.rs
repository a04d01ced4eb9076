//! One watch of the system for all databases of a process: a system gives out few of them, and one for each directory is enough.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::Bell;

/// Who is told of what in one directory, by the name of the main file.
type Names = HashMap<OsString, Vec<Arc<Bell>>>;

/// The directories that are watched. Read where events arrive: nobody may wait for the system while holding it.
static WATCHED: RwLock<Option<HashMap<PathBuf, Names>>> = RwLock::new(None);
/// The system's watch, made for the first directory. Whoever changes what is watched holds it for as long as that takes.
static SYSTEM: Mutex<Option<RecommendedWatcher>> = Mutex::new(None);

fn system() -> MutexGuard<'static, Option<RecommendedWatcher>> {
    SYSTEM.lock().unwrap_or_else(PoisonError::into_inner)
}

fn change<T>(change: impl FnOnce(&mut HashMap<PathBuf, Names>) -> T) -> T {
    let mut watched = WATCHED.write().unwrap_or_else(PoisonError::into_inner);
    change(watched.get_or_insert_default())
}

/// From now on, `bell` is rung for files in `directory` whose names begin with `name`.
pub(super) fn add(directory: &Path, name: &OsStr, bell: &Arc<Bell>) -> notify::Result<()> {
    let mut system = system();
    change(|watched| {
        watched.entry(directory.to_owned()).or_default().entry(name.to_owned()).or_default().push(bell.clone());
    });
    // For each again: a directory that was removed and made anew has lost its watch.
    let result = watch(&mut system, directory);
    if result.is_err() {
        take_out(directory, name, bell);
    }
    result
}

fn watch(system: &mut Option<RecommendedWatcher>, directory: &Path) -> notify::Result<()> {
    let watcher = match system {
        Some(watcher) => watcher,
        None => system.insert(notify::recommended_watcher(told)?),
    };
    watcher.watch(directory, RecursiveMode::NonRecursive)
}

/// `bell` is not rung any more for these files.
pub(super) fn remove(directory: &Path, name: &OsStr, bell: &Arc<Bell>) -> notify::Result<()> {
    let mut system = system();
    if !take_out(directory, name, bell) {
        return Ok(());
    }
    match &mut *system {
        Some(watcher) => watcher.unwatch(directory),
        None => Ok(()),
    }
}

/// Is nobody told of anything in the directory any more?
fn take_out(directory: &Path, name: &OsStr, bell: &Arc<Bell>) -> bool {
    change(|watched| {
        let Some(names) = watched.get_mut(directory) else { return false };
        if let Some(bells) = names.get_mut(name) {
            bells.retain(|other| !Arc::ptr_eq(other, bell));
            if bells.is_empty() {
                names.remove(name);
            }
        }
        let is_last = names.is_empty();
        if is_last {
            watched.remove(directory);
        }
        is_last
    })
}

/// Opening and reading a file is no news; everything else that happens to one of a database's files is. An event about nothing,
/// or an error, is a lost one (an overflowing queue): looking is the answer to that too, for everybody.
fn told(event: notify::Result<Event>) {
    let watched = WATCHED.read().unwrap_or_else(PoisonError::into_inner);
    let Some(watched) = &*watched else { return };
    match event {
        Ok(event) if matches!(event.kind, EventKind::Access(_)) => {}
        Ok(event) if !event.paths.is_empty() => event.paths.iter().for_each(|path| tell(watched, path)),
        _ => watched.values().flat_map(HashMap::values).flatten().for_each(|bell| bell.ring()),
    }
}

/// A file's name begins with its database's.
fn tell(watched: &HashMap<PathBuf, Names>, path: &Path) {
    let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else { return };
    // The directory itself: it was moved or removed.
    if let Some(names) = watched.get(path) {
        names.values().flatten().for_each(|bell| bell.ring());
    }
    let Some(names) = watched.get(directory) else { return };
    let file = file.as_bytes();
    for length in 1..=file.len() {
        if let Some(bells) = names.get(OsStr::from_bytes(&file[..length])) {
            bells.iter().for_each(|bell| bell.ring());
        }
    }
}
