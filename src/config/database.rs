//! One database of the configuration: its settings and its replicas.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml_ng::Value;

use super::fields::{Fields, ShareOrSize};
use super::group::fill_in;
use super::include::IncludeSettings;
use super::proofs::{self, DrillSettings, VerifySettings};
use super::{Config, ConfigError, Retention, Schedule, include, limits, schedule};
use crate::error::Error;
use crate::replicator::due::{Rules, WayLimit};
use crate::retention::Policy;
use crate::status::{Aims, MAX_LAG};
use crate::store::{Limits, Secret, StoreOptions};

/// The keys of `defaults`, and of every database beside its own.
pub const SETTINGS_KEYS: [&str; 19] = [
    "sync-interval",
    "segment-size",
    "poll-interval",
    "never-lock",
    "snapshot-interval",
    "snapshot-after",
    "snapshot-spacing",
    "spool-limit",
    "retention",
    "limits",
    "schedule",
    "verify",
    "drill",
    "max-lag",
    "rpo",
    "rto",
    include::KEYS[0],
    include::KEYS[1],
    include::KEYS[2],
];
const DATABASE_KEYS: [&str; 3] = ["path", "state-dir", "replicas"];
const REPLICA_KEYS: [&str; 15] = [
    "url",
    "retention",
    "limits",
    "endpoint",
    "region",
    "access-key-id",
    "secret-access-key",
    "session-token",
    "path-style",
    "sse",
    "kms-key-id",
    "checksum",
    "connect-timeout",
    "request-timeout",
    "max-retries",
];

const HOUR: Duration = Duration::from_secs(3600);
pub(super) const SYNC_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
const SEGMENT_SIZE: RangeInclusive<u64> = (64 << 10)..=(1 << 30);
pub(super) const POLL_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;
const AIM: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(365 * 24 * 3600);
pub(super) const SNAPSHOT_INTERVAL: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600);
const SNAPSHOT_SPACING: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(365 * 24 * 3600);
const SNAPSHOT_PERCENT: RangeInclusive<u32> = 1..=10_000;
const SNAPSHOT_AFTER: RangeInclusive<u64> = (1 << 20)..=(1 << 50);
const SPOOL_LIMIT: RangeInclusive<u64> = (16 << 20)..=(1 << 50);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
const MAX_REPLICAS: usize = 16;

/// What can be set for every database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A segment is sealed at this age …
    pub sync_interval: Duration,
    /// … or this size in bytes, whichever is first.
    pub segment_size: u64,
    /// Fallback when no file event arrives.
    pub poll_interval: Duration,
    /// No writer may ever wait for a lock of ours.
    pub never_lock: bool,
    pub snapshots: Rules,
    /// Bytes that the spool may hold while a store is down.
    pub spool_limit: u64,
    /// Of every replica that does not say otherwise.
    pub retention: Retention,
    /// Of every store that does not say otherwise.
    pub limits: Limits,
    /// What is done by the clock.
    pub schedule: Schedule,
    pub verify: VerifySettings,
    pub drill: DrillSettings,
    /// Of any replica, with which the database still counts as replicated. `None`: as `aims` says.
    pub max_lag: Option<Duration>,
    pub rpo: Option<Duration>,
    pub rto: Option<Duration>,
    /// Which files beside the database are kept with it.
    pub include: IncludeSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sync_interval: Duration::from_secs(1),
            segment_size: 4 << 20,
            poll_interval: Duration::from_secs(1),
            never_lock: false,
            snapshots: Rules::default(),
            spool_limit: 10 << 30,
            retention: Retention::Inherited,
            limits: Limits::default(),
            schedule: Schedule::default(),
            verify: VerifySettings::default(),
            drill: DrillSettings::default(),
            max_lag: None,
            rpo: None,
            rto: None,
            include: IncludeSettings::default(),
        }
    }
}

impl Settings {
    /// Takes its keys out of `fields`; what is missing is as in `defaults`.
    pub fn read(fields: &mut Fields, defaults: &Settings) -> Result<Settings, ConfigError> {
        let settings = Settings {
            sync_interval: fields.duration("sync-interval", SYNC_INTERVAL)?.unwrap_or(defaults.sync_interval),
            segment_size: fields.size("segment-size", SEGMENT_SIZE)?.unwrap_or(defaults.segment_size),
            poll_interval: fields.duration("poll-interval", POLL_INTERVAL)?.unwrap_or(defaults.poll_interval),
            never_lock: fields.boolean("never-lock")?.unwrap_or(defaults.never_lock),
            snapshots: read_rules(fields, &defaults.snapshots)?,
            spool_limit: fields.size("spool-limit", SPOOL_LIMIT)?.unwrap_or(defaults.spool_limit),
            retention: Retention::read(fields)?.or(defaults.retention),
            limits: limits::read(fields)?.unwrap_or_else(|| defaults.limits.clone()),
            schedule: schedule::read(fields)?.unwrap_or_else(|| defaults.schedule.clone()),
            verify: proofs::read_verify(fields)?.unwrap_or_else(|| defaults.verify.clone()),
            drill: proofs::read_drill(fields)?.unwrap_or_else(|| defaults.drill.clone()),
            max_lag: fields.duration("max-lag", AIM)?.or(defaults.max_lag),
            rpo: fields.duration("rpo", AIM)?.or(defaults.rpo),
            rto: fields.duration("rto", AIM)?.or(defaults.rto),
            include: IncludeSettings::read(fields, &defaults.include)?,
        };
        // Commits wait for so long before they are shipped: the bound would be broken by a replica that is well.
        if settings.max_lag.is_some_and(|max_lag| max_lag <= settings.sync_interval) {
            return Err(fields.error("max-lag", "must be longer than sync-interval"));
        }
        if settings.spool_limit < settings.segment_size.saturating_mul(2) {
            return Err(fields.error("spool-limit", "must hold two segments: raise it, or lower segment-size"));
        }
        Ok(settings)
    }

    /// What is aimed at. Without `max-lag`, a minute, or three times `sync-interval` where that is longer.
    pub fn aims(&self) -> Aims {
        let max_lag = self.max_lag.unwrap_or(MAX_LAG.max(self.sync_interval * 3));
        Aims { max_lag, rpo: self.rpo, rto: self.rto }
    }
}

fn read_rules(fields: &mut Fields, defaults: &Rules) -> Result<Rules, ConfigError> {
    Ok(Rules {
        interval: fields.duration("snapshot-interval", SNAPSHOT_INTERVAL)?.unwrap_or(defaults.interval),
        way: fields.share_or_size("snapshot-after", SNAPSHOT_PERCENT, SNAPSHOT_AFTER)?.map_or(defaults.way, |limit| {
            match limit {
                None => WayLimit::Never,
                Some(ShareOrSize::Percent(percent)) => WayLimit::Percent(percent),
                Some(ShareOrSize::Bytes(bytes)) => WayLimit::Bytes(bytes),
            }
        }),
        spacing: fields.duration("snapshot-spacing", SNAPSHOT_SPACING)?.unwrap_or(defaults.spacing),
    })
}

/// One database.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    pub path: PathBuf,
    /// Its file name.
    pub name: String,
    /// Where its spool and its page map are kept.
    pub state_dir: PathBuf,
    pub settings: Settings,
    pub replicas: Vec<ReplicaConfig>,
    /// No replica was named, so that it is the directory beside the database.
    pub default_replica: bool,
}

impl DatabaseConfig {
    /// A database of which only the path is known.
    pub fn new(path: &Path, config: &Config) -> Result<DatabaseConfig, ConfigError> {
        Self::with_path(path.to_owned(), "", config)
    }

    fn with_path(path: PathBuf, at: &str, config: &Config) -> Result<DatabaseConfig, ConfigError> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            let problem = format!("{} is not the path of a file with a Unicode name", path.display());
            return Err(ConfigError::at(at, problem));
        };
        let state_name = format!(".{name}-replicate");
        let state_dir = match &config.state_dir {
            Some(base) => base.join(state_name),
            None => path.with_file_name(state_name),
        };
        let beside = path.with_file_name(format!("{name}.replica"));
        let Some(url) = beside.to_str().map(str::to_owned) else {
            return Err(ConfigError::at(at, format!("{} is not Unicode", path.display())));
        };
        let settings = config.defaults.clone();
        let options = StoreOptions { limits: settings.limits.clone(), ..StoreOptions::default() };
        let replicas = vec![ReplicaConfig { url, options, retention: Retention::Inherited }];
        Ok(DatabaseConfig { path, name, state_dir, settings, replicas, default_replica: true })
    }

    pub(super) fn read(entry: Value, at: &str, config: &Config) -> Result<DatabaseConfig, ConfigError> {
        let known: Vec<&str> = DATABASE_KEYS.into_iter().chain(SETTINGS_KEYS).collect();
        let mut fields = Fields::new(entry, at, &known)?;
        let path = fields.text("path")?.ok_or_else(|| ConfigError::at(at, "needs the key `path`"))?;
        let mut database = DatabaseConfig::with_path(PathBuf::from(path), &fields.path_to("path"), config)?;
        if let Some(state_dir) = fields.text("state-dir")? {
            database.state_dir = PathBuf::from(state_dir);
        }
        database.settings = Settings::read(&mut fields, &config.defaults)?;
        database.replicas.iter_mut().for_each(|replica| replica.options.limits = database.settings.limits.clone());
        if let Some(items) = fields.list("replicas")? {
            if items.is_empty() || items.len() > MAX_REPLICAS {
                let problem = format!("has {} entries; 1 to {MAX_REPLICAS} are possible", items.len());
                return Err(fields.error("replicas", problem));
            }
            let at = fields.path_to("replicas");
            let each = items.into_iter().enumerate();
            let replicas = each.map(|(i, item)| ReplicaConfig::read(item, &format!("{at}[{i}]"), &database));
            database.replicas = replicas.collect::<Result<_, _>>()?;
            database.default_replica = false;
        }
        Ok(database)
    }

    /// Where this database is restored to for a while: where that is configured, or where its state is.
    pub fn scratch(&self) -> PathBuf {
        self.settings.drill.scratch.clone().unwrap_or_else(|| self.state_dir.join("scratch"))
    }

    /// What is kept in one of its replicas; `None`: everything.
    pub fn policy(&self, replica: &ReplicaConfig) -> Option<Policy> {
        replica.retention.or(self.settings.retention).policy()
    }
}

/// One replica of a database.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaConfig {
    pub url: String,
    pub options: StoreOptions,
    pub retention: Retention,
}

impl ReplicaConfig {
    /// Refuses a URL that no store can be opened with.
    pub fn new(url: String, options: StoreOptions) -> Result<ReplicaConfig, Error> {
        crate::store::url::parse(&url, &options).map_err(|error| Error::usage(error.to_string()))?;
        Ok(ReplicaConfig { url, options, retention: Retention::Inherited })
    }

    /// The options with those of the URL's parameters laid over them.
    pub fn all_options(&self) -> StoreOptions {
        crate::store::url::parse(&self.url, &self.options).map_or_else(|_| self.options.clone(), |(_, options)| options)
    }

    /// Its URL for people: without parameters, so that nothing secret that someone wrote there is repeated.
    pub fn shown_url(&self) -> &str {
        match self.url.contains("://") {
            true => self.url.split_once('?').map_or(&self.url, |(base, _)| base),
            false => &self.url,
        }
    }

    /// As fast as can be: for whoever waits for a restore.
    #[must_use]
    pub fn unlimited(&self) -> ReplicaConfig {
        let options = StoreOptions { limits: Limits::default(), ..self.options.clone() };
        ReplicaConfig { options, ..self.clone() }
    }

    /// One of `database`.
    fn read(item: Value, at: &str, database: &DatabaseConfig) -> Result<ReplicaConfig, ConfigError> {
        let mut fields = match item {
            // A URL alone is enough.
            Value::String(url) => {
                let entry = [(Value::from("url"), Value::from(url))];
                Fields::new(Value::Mapping(entry.into_iter().collect()), at, &REPLICA_KEYS)?
            }
            item => Fields::new(item, at, &REPLICA_KEYS)?,
        };
        let url = fields.text("url")?.ok_or_else(|| ConfigError::at(at, "needs the key `url`"))?;
        let url = fill_in(&url, &database.path).map_err(|problem| fields.error("url", problem))?;
        let mut options = StoreOptions {
            endpoint: fields.text("endpoint")?,
            region: fields.text("region")?,
            access_key_id: fields.text("access-key-id")?,
            secret_access_key: fields.text("secret-access-key")?.map(Secret::new),
            session_token: fields.text("session-token")?.map(Secret::new),
            path_style: fields.boolean("path-style")?,
            kms_key_id: fields.text("kms-key-id")?,
            connect_timeout: fields.duration("connect-timeout", TIMEOUT)?,
            request_timeout: fields.duration("request-timeout", TIMEOUT)?,
            max_retries: fields.number("max-retries", 0..=1000)?,
            limits: limits::read(&mut fields)?.unwrap_or_else(|| database.settings.limits.clone()),
            ..StoreOptions::default()
        };
        for key in ["sse", "checksum"] {
            if let Some(text) = fields.text(key)? {
                options.set(key, &text).map_err(|error| fields.error(key, error.to_string()))?;
            }
        }
        crate::store::url::parse(&url, &options).map_err(|error| fields.error("url", error.to_string()))?;
        Ok(ReplicaConfig { url, options, retention: Retention::read(&mut fields)? })
    }
}
