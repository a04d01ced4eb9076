//! Databases that patterns name: found when they appear, let go when they vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::config::{Claims, Config, DatabaseConfig};
use crate::engine::choice::Choice;
use crate::error::Error;

use super::super::engine_of;

/// How often directories are asked whether something in them was made, renamed or removed.
const LOOK: Duration = Duration::from_secs(1);
/// So often everything is looked at whatever the directories say …
const WHOLE_LOOK: Duration = Duration::from_secs(5);
/// … but a look at many thousand files costs: the pause after it is so many times as long as it took …
const WHOLE_LOOK_PAUSE: u32 = 300;
/// … or so many times where directories change all the time.
const LOOK_PAUSE: u32 = 20;
/// A directory that changed so lately may change again within the same tick of the file system's clock.
const SETTLED: Duration = Duration::from_secs(1);
/// A file that was missing in so many looks is gone; one look may fall between two steps of a replacement.
const GONE_AFTER: u32 = 2;
/// Bound for the databases of one process.
const MAX_FOUND: usize = 20_000;

/// What changed since the last look.
#[derive(Debug, Default)]
pub struct Changes {
    pub appeared: Vec<(Arc<DatabaseConfig>, Choice)>,
    pub vanished: Vec<Arc<DatabaseConfig>>,
}

#[derive(Debug)]
struct Known {
    config: Arc<DatabaseConfig>,
    /// Looks in which it was missing.
    missing: u32,
}

/// The files that the patterns of a configuration match.
#[derive(Debug)]
pub struct Discovery {
    config: Config,
    claims: Claims,
    known: BTreeMap<PathBuf, Known>,
    /// Files that are at work already, by an earlier configuration: they must not be looked into.
    held: BTreeMap<PathBuf, Choice>,
    /// Files that are no database, or cannot be one, and why: told once.
    refused: BTreeMap<PathBuf, String>,
    /// Matching files that are no database yet, as they were: they may become one without any change of names.
    unripe: BTreeMap<PathBuf, Shape>,
    /// The directories that matching files are in, or would be.
    directories: BTreeMap<PathBuf, Seen>,
    /// When the last look ended, and what it took.
    looked: Option<(Instant, Duration)>,
}

/// When something was last made, renamed or removed in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Missing,
    At(SystemTime),
    /// So lately that it is to be looked at again.
    Young,
}

/// Length, and time of the last change.
type Shape = Option<(u64, SystemTime)>;

impl Discovery {
    /// `None` where there is no pattern. `held` are databases at work already, with their engines.
    pub fn new(config: &Config, held: BTreeMap<PathBuf, Choice>) -> Result<Option<Discovery>, Error> {
        if config.groups.is_empty() {
            return Ok(None);
        }
        let claims = config.claims().map_err(|error| Error::usage(error.to_string()))?;
        Ok(Some(Discovery {
            config: config.clone(),
            claims,
            known: BTreeMap::new(),
            held,
            refused: BTreeMap::new(),
            unripe: BTreeMap::new(),
            directories: BTreeMap::new(),
            looked: None,
        }))
    }

    /// Waits until something changed. Nothing is lost when the wait is given up.
    pub async fn changed(&mut self) -> Changes {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.is_due() {
                let changes = self.look();
                if !changes.appeared.is_empty() || !changes.vanished.is_empty() {
                    return changes;
                }
            }
        }
    }

    fn is_due(&self) -> bool {
        let Some((at, took)) = self.looked else { return true };
        let since = at.elapsed();
        if since < took * LOOK_PAUSE {
            return false;
        }
        since >= WHOLE_LOOK.max(took * WHOLE_LOOK_PAUSE)
            || self.known.values().any(|known| known.missing > 0)
            || self.directories.iter().any(|(path, last)| *last == Seen::Young || seen(path) != *last)
            || self.unripe.iter().any(|(path, shape)| shape_of(path) != *shape)
    }

    /// Looks at every pattern now.
    pub fn look(&mut self) -> Changes {
        let began = Instant::now();
        // As they were before they are read: what is made meanwhile is seen by the next look.
        let before: BTreeMap<PathBuf, Seen> =
            std::mem::take(&mut self.directories).into_keys().map(|path| (path.clone(), seen(&path))).collect();
        self.unripe.clear();
        let (mut found, mut changes) = (BTreeSet::new(), Changes::default());
        for number in 0..self.config.groups.len() {
            let (files, directories) = self.config.groups[number].look();
            let seen = |path: PathBuf| (path.clone(), before.get(&path).copied().unwrap_or(Seen::Young));
            self.directories.extend(directories.into_iter().map(seen));
            for path in files {
                if !found.insert(path.clone()) {
                    continue;
                }
                match self.known.get_mut(&path) {
                    Some(known) => known.missing = 0,
                    // It has an entry of its own.
                    None if self.config.databases.iter().any(|named| named.path == path) => {}
                    None => changes.appeared.extend(self.meet(number, path)),
                }
            }
        }
        self.refused.retain(|path, _| found.contains(path));
        let mut gone = Vec::new();
        for (path, known) in self.known.iter_mut().filter(|(path, _)| !found.contains(*path)) {
            known.missing += 1;
            if known.missing >= GONE_AFTER {
                gone.push(path.clone());
            }
        }
        changes.vanished = gone.iter().filter_map(|path| self.forget(path)).collect();
        self.looked = Some((Instant::now(), began.elapsed()));
        changes
    }

    /// A file that is not at work. Only such a file may be looked into: closing it would drop the locks of one that is.
    fn meet(&mut self, group: usize, path: PathBuf) -> Option<(Arc<DatabaseConfig>, Choice)> {
        let shape = shape_of(&path);
        let choice = self.held.remove(&path).unwrap_or(Choice::ByContent(engine_of));
        let refusal = match choice.look(&path) {
            // Empty: whatever it becomes, a later look sees it.
            Ok(None) => {
                self.unripe.insert(path, shape);
                return None;
            }
            Ok(Some(_)) if self.known.len() >= MAX_FOUND => format!("more than {MAX_FOUND} databases in one process"),
            Ok(Some(engine)) => {
                let database = self.config.groups[group].database(&path, &self.config);
                match database
                    .and_then(|database| self.claims.claim(&database, &path.display().to_string()).map(|()| database))
                {
                    Ok(config) => {
                        let config = Arc::new(config);
                        self.refused.remove(&path);
                        self.known.insert(path, Known { config: config.clone(), missing: 0 });
                        return Some((config, Choice::Known(engine)));
                    }
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        self.unripe.insert(path.clone(), shape);
        if self.refused.get(&path) != Some(&refusal) {
            tracing::warn!(file = %path.display(), "matches a pattern and is NOT REPLICATED: {refusal}");
            self.refused.insert(path, refusal);
        }
        None
    }

    /// Not at work any more, or never was: a later look may meet it again.
    pub fn forget(&mut self, path: &Path) -> Option<Arc<DatabaseConfig>> {
        let known = self.known.remove(path)?;
        self.claims.release(&known.config);
        Some(known.config)
    }
}

fn seen(directory: &Path) -> Seen {
    match std::fs::metadata(directory).and_then(|metadata| metadata.modified()) {
        Err(_) => Seen::Missing,
        // A clock that was set back makes it look young for long: then it is looked at more often.
        Ok(time) if time.elapsed().is_ok_and(|age| age >= SETTLED) => Seen::At(time),
        Ok(_) => Seen::Young,
    }
}

fn shape_of(path: &Path) -> Shape {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}
