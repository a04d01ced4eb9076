//! What SOURCE means: a replica's URL, or the path or name of a configured database.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::SourceArgs;
use crate::config::{Config, DatabaseConfig, Environment, ReplicaConfig};
use crate::drill::Assertion;
use crate::error::Error;
use crate::position::{Generation, TimeMs, Txid};
use crate::replicator::{shipped, verified};
use crate::retention::Policy;
use crate::store::{self, Opened, Store, StoreOptions};

/// Replicas of one database, and where it lives.
#[derive(Debug)]
pub struct Source {
    /// In the order in which they are asked.
    pub replicas: Vec<ReplicaConfig>,
    /// Where a restore without `-o` writes.
    pub target: PathBuf,
    /// The database as configured, and the number in it of the first of `replicas`.
    database: Option<(DatabaseConfig, usize)>,
}

impl Source {
    pub fn resolve(args: &SourceArgs, environment: Environment<'_>) -> Result<Source, Error> {
        let config = Config::load(args.config.file.as_deref(), environment)?;
        Source::of(&args.source, &config)
    }

    /// A URL is a URL. Anything else is a configured database, or a database with the default replica beside it, or the
    /// directory of a replica; in this order.
    pub fn of(source: &str, config: &Config) -> Result<Source, Error> {
        let path = Path::new(source);
        if !source.contains("://") {
            if let Some(database) = config.find(path)? {
                return Ok(Source::configured(&database));
            }
            let beside = DatabaseConfig::new(path, config).ok().filter(|d| Path::new(&d.replicas[0].url).is_dir());
            if let Some(database) = beside
                && !path.is_dir()
            {
                return Ok(Source::configured(&database));
            }
        }
        let known = config.databases.iter().flat_map(|d| d.replicas.iter().enumerate().map(move |(n, r)| (d, n, r)));
        let mut same =
            known.filter(|(_, _, replica)| replica.url.trim_end_matches('/') == source.trim_end_matches('/'));
        // A URL from the configuration brings the credentials that stand there with it.
        if let Some((database, number, replica)) = same.next() {
            let found = Some((database.clone(), number));
            return Ok(Source { replicas: vec![replica.clone()], target: database.path.clone(), database: found });
        }
        let replica = ReplicaConfig::new(source.to_owned(), StoreOptions::default())?;
        let target = PathBuf::from(last_part(replica.shown_url()));
        Ok(Source { replicas: vec![replica], target, database: None })
    }

    fn configured(database: &DatabaseConfig) -> Source {
        let (replicas, target) = (database.replicas.clone(), database.path.clone());
        Source { replicas, target, database: Some((database.clone(), 0)) }
    }

    /// What is kept in each of `replicas`, where that is configured.
    pub fn policies(&self) -> Vec<Option<Policy>> {
        let policy = |replica| self.database.as_ref().and_then(|(database, _)| database.policy(replica));
        self.replicas.iter().map(policy).collect()
    }

    /// What a drill asserts of this database.
    pub fn assertions(&self) -> Vec<Assertion> {
        self.database.as_ref().map_or_else(Vec::new, |(database, _)| database.settings.drill.assertions.clone())
    }

    /// Where a database is restored to for a while: where this database's state is, or else where the system keeps such things.
    pub fn scratch(&self) -> PathBuf {
        let known = self.database.as_ref().map(|(database, _)| database);
        let known = known.filter(|database| database.settings.drill.scratch.is_some() || database.state_dir.is_dir());
        known.map_or_else(std::env::temp_dir, DatabaseConfig::scratch)
    }

    /// What the replica at this place of `replicas` is known to have, on this machine.
    pub fn shipped(&self, number: usize) -> Option<(Generation, Txid)> {
        let (database, first) = self.database.as_ref()?;
        shipped::read(&database.state_dir, first + number)
    }

    /// Notes that the replica at this place of `replicas` was found whole, for the metrics of `run`, where that is known here.
    pub fn note_verified(&self, number: usize, now: TimeMs) {
        let Some((database, first)) = &self.database else { return };
        if !database.state_dir.is_dir() {
            return;
        }
        if let Err(error) = verified::write(&database.state_dir, first + number, now) {
            tracing::warn!("cannot note in {} that the replica is whole: {error}", database.state_dir.display());
        }
    }

    /// The live database that SOURCE names: for what a replica alone cannot do.
    pub fn live(source: &SourceArgs, environment: Environment<'_>) -> Result<DatabaseConfig, Error> {
        let config = Config::load(source.config.file.as_deref(), environment)?;
        let found = Source::of(&source.source, &config).ok().and_then(|found| found.database);
        match found {
            Some((database, _)) => Ok(database),
            None if source.source.contains("://") => {
                Err(Error::usage(format!("{} is a replica, not a live database", source.source))
                    .next_step("give the database's path, or its name in the configuration"))
            }
            // Replicated to places that only its replicator knows.
            None => {
                DatabaseConfig::new(Path::new(&source.source), &config).map_err(|error| Error::usage(error.to_string()))
            }
        }
    }
}

/// The name that a URL ends with, without the ending of a default replica.
fn last_part(url: &str) -> &str {
    let last = url.trim_end_matches('/').rsplit('/').next().unwrap_or(url);
    match last.strip_suffix(".replica") {
        Some(name) if !name.is_empty() => name,
        _ => last,
    }
}

/// Opens the store of a replica; sends nothing.
pub fn open(replica: &ReplicaConfig) -> Result<Arc<dyn Store>, Error> {
    open_counted(replica).map(|opened| opened.store)
}

/// The same, with what it is asked.
pub fn open_counted(replica: &ReplicaConfig) -> Result<Opened, Error> {
    store::open_counted(&replica.url, &replica.options).map_err(|error| Error::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to name a source leads to its replica, and to the place that a restore writes to.
    #[test]
    fn sources() {
        let yaml = "databases: [{path: /data/app.db, replicas: ['s3://b/app', /mnt/app]}, {path: /data/other.db}]";
        let config = Config::parse(yaml, &|_| None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("x.db");
        std::fs::create_dir(folder.path().join("x.db.replica")).unwrap();
        let beside = folder.path().join("x.db.replica").display().to_string();
        for (source, url, count, target) in [
            ("app.db", "s3://b/app", 2, "/data/app.db"),
            ("/data/app.db", "s3://b/app", 2, "/data/app.db"),
            ("/mnt/app/", "/mnt/app", 1, "/data/app.db"),
            ("other.db", "/data/other.db.replica", 1, "/data/other.db"),
            ("s3://b/some/where?region=eu", "s3://b/some/where?region=eu", 1, "where"),
            (database.to_str().unwrap(), beside.as_str(), 1, database.to_str().unwrap()),
            (beside.as_str(), beside.as_str(), 1, "x.db"),
        ] {
            let found = Source::of(source, &config).unwrap();
            assert_eq!((found.replicas[0].url.as_str(), found.replicas.len()), (url, count), "{source}");
            assert_eq!(found.target, Path::new(target), "{source}");
        }
        assert_eq!(Source::of("gs://x/y", &config).unwrap_err().exit().code(), 2);
    }
}
