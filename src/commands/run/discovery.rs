//! Databases that patterns name: found when they appear, let go when they vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::config::{Claims, Config, DatabaseConfig};
use crate::engine::choice::Choice;
use crate::error::Error;

use super::super::engine_of;

/// How often directories are asked whether something in them was made, renamed or removed.
const LOOK: Duration = Duration::from_secs(1);
/// So often everything is looked at whatever the directories say: a file may become a database without any change of names.
const WHOLE_LOOK: Duration = Duration::from_secs(5);
/// A file that was missing in so many looks is gone; one look may fall between two steps of a replacement.
const GONE_AFTER: u32 = 2;
/// Bound for the databases of one process.
const MAX_FOUND: usize = 20_000;

/// What changed since the last look.
#[derive(Debug, Default)]
pub struct Changes {
    pub appeared: Vec<(DatabaseConfig, Choice)>,
    pub vanished: Vec<DatabaseConfig>,
}

#[derive(Debug)]
struct Known {
    config: DatabaseConfig,
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
    /// When something was last made, renamed or removed in the directories.
    directories: BTreeMap<PathBuf, Option<SystemTime>>,
    looked: Option<Instant>,
}

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
            directories: BTreeMap::new(),
            looked: None,
        }))
    }

    /// Waits until something changed. Nothing is lost when the wait is given up.
    pub async fn changed(&mut self) -> Changes {
        loop {
            tokio::time::sleep(LOOK).await;
            let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= WHOLE_LOOK);
            let is_pending = self.known.values().any(|known| known.missing > 0);
            if is_due || is_pending || self.directories.iter().any(|(path, time)| changed_at(path) != *time) {
                let changes = self.look();
                if !changes.appeared.is_empty() || !changes.vanished.is_empty() {
                    return changes;
                }
            }
        }
    }

    /// Looks at every pattern now.
    pub fn look(&mut self) -> Changes {
        self.looked = Some(Instant::now());
        self.directories.clear();
        let (mut found, mut changes) = (BTreeSet::new(), Changes::default());
        for number in 0..self.config.groups.len() {
            let (files, directories) = self.config.groups[number].look();
            // What is made between the two is seen by the next whole look.
            self.directories.extend(directories.into_iter().map(|path| (path.clone(), changed_at(&path))));
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
        changes
    }

    /// A file that is not at work. Only such a file may be looked into: closing it would drop the locks of one that is.
    fn meet(&mut self, group: usize, path: PathBuf) -> Option<(DatabaseConfig, Choice)> {
        let choice = self.held.remove(&path).unwrap_or(Choice::ByContent(engine_of));
        let refusal = match choice.look(&path) {
            // Empty: whatever it becomes, a later look sees it.
            Ok(None) => return None,
            Ok(Some(_)) if self.known.len() >= MAX_FOUND => format!("more than {MAX_FOUND} databases in one process"),
            Ok(Some(engine)) => {
                let database = self.config.groups[group].database(&path, &self.config);
                match database
                    .and_then(|database| self.claims.claim(&database, &path.display().to_string()).map(|()| database))
                {
                    Ok(config) => {
                        self.refused.remove(&path);
                        self.known.insert(path, Known { config: config.clone(), missing: 0 });
                        return Some((config, Choice::Known(engine)));
                    }
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        if self.refused.get(&path) != Some(&refusal) {
            tracing::warn!(file = %path.display(), "matches a pattern and is NOT REPLICATED: {refusal}");
            self.refused.insert(path, refusal);
        }
        None
    }

    /// Not at work any more, or never was: a later look may meet it again.
    pub fn forget(&mut self, path: &Path) -> Option<DatabaseConfig> {
        let known = self.known.remove(path)?;
        self.claims.release(&known.config);
        Some(known.config)
    }
}

fn changed_at(directory: &Path) -> Option<SystemTime> {
    std::fs::metadata(directory).and_then(|metadata| metadata.modified()).ok()
}
