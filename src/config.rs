//! The configuration: what was written in the file, the environment and the arguments -> what it means, checked once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml_ng::Value;

use crate::error::Error;
use crate::store::StoreOptions;

pub mod database;
mod expand;
mod fields;
mod group;
pub mod include;
pub mod limits;
pub mod litestream;
pub mod panel;
pub mod proofs;
pub mod retention;
pub mod schedule;
pub mod units;

pub use database::{DatabaseConfig, ReplicaConfig, Settings};
pub use expand::Environment;
use fields::Fields;
pub use group::Group;
pub use panel::PanelConfig;
pub use retention::Retention;
pub use schedule::Schedule;
use units::parse_address;

const TOP_KEYS: [&str; 9] = [
    "listen",
    "panel",
    "state-dir",
    "shutdown-timeout",
    "on-error",
    "kill-after",
    "active-databases",
    "defaults",
    "databases",
];
/// Default of `shutdown-timeout`.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Bound for the file: far above any real one, far below what would hurt.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Default of `active-databases`.
pub const ACTIVE_DATABASES: usize = 256;
const MAX_ACTIVE_DATABASES: usize = 100_000;
/// Bound for databases in one process.
const MAX_DATABASES: usize = 1000;

/// What is wrong with the configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if path.is_empty() { String::new() } else { format!("`{path}`: ") })]
pub struct ConfigError {
    /// The way to the key, such as `databases[0].replicas[1].url`.
    path: String,
    problem: String,
}

impl ConfigError {
    fn at(path: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError { path: path.to_owned(), problem: problem.into() }
    }
}

/// What becomes of an application whose databases are not replicated any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It is worth more than its replica.
    KeepRunning,
    /// It gets TERM: what it would commit from now on would be on this machine only.
    Stop,
}

/// Everything that was configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How long a stop may take to ship what is captured.
    pub shutdown_timeout: Duration,
    /// What becomes of the command of `run -- COMMAND` when nothing is replicated any more.
    pub on_error: OnError,
    /// How long after TERM or INT the command of `run -- COMMAND` gets KILL; `None`: never.
    pub kill_after: Option<Duration>,
    /// Databases that are held open at the same time; beyond that, those at rest are parked.
    pub active_databases: usize,
    /// Where /metrics and the others are served.
    pub listen: Option<SocketAddr>,
    /// Who may see and use the panel that is served there.
    pub panel: PanelConfig,
    /// The directory that holds the state directories, where it is not beside each database.
    pub state_dir: Option<PathBuf>,
    pub defaults: Settings,
    pub databases: Vec<DatabaseConfig>,
    /// Databases that patterns name, and that come and go.
    pub groups: Vec<Group>,
}

impl Default for Config {
    fn default() -> Self {
        let defaults = Settings::default();
        Config {
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            on_error: OnError::KeepRunning,
            kill_after: None,
            active_databases: ACTIVE_DATABASES,
            listen: None,
            panel: PanelConfig::default(),
            state_dir: None,
            defaults,
            databases: Vec::new(),
            groups: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a file; without one, everything has its default and there is no database.
    pub fn load(file: Option<&Path>, environment: Environment<'_>) -> Result<Config, Error> {
        let Some(file) = file else { return Ok(Config::default()) };
        let text = read_text(file)?;
        Config::parse(&text, environment).map_err(|error| {
            let all = "`replicate check` shows the configuration as understood; every key is in docs/operations.md";
            Error::usage(format!("{}: {error}", file.display())).next_step(all)
        })
    }

    /// Reads the text of a file.
    pub fn parse(text: &str, environment: Environment<'_>) -> Result<Config, ConfigError> {
        let tree: Value = serde_yaml_ng::from_str(text).map_err(|error| ConfigError::at("", error.to_string()))?;
        let tree = expand::expand_tree(tree, "", environment)?;
        let mut top = Fields::new(tree, "", &TOP_KEYS)?;
        let state_dir = top.text("state-dir")?.map(PathBuf::from);
        let shutdown_timeout =
            top.duration("shutdown-timeout", Duration::ZERO..=MAX_SHUTDOWN_TIMEOUT)?.unwrap_or(SHUTDOWN_TIMEOUT);
        let mut defaults = Settings::default();
        if let Some(value) = top.value("defaults") {
            let mut fields = Fields::new(value, "defaults", &database::SETTINGS_KEYS)?;
            defaults = Settings::read(&mut fields, &defaults)?;
        }
        let entries = top.list("databases")?.unwrap_or_default();
        if entries.len() > MAX_DATABASES {
            return Err(ConfigError::at("databases", format!("has more than {MAX_DATABASES} entries")));
        }
        let listen = top.text("listen")?;
        let listen = listen.map(|text| parse_address(&text).map_err(|problem| top.error("listen", problem)));
        let listen = listen.transpose()?;
        let on_error = match top.text("on-error")?.as_deref() {
            None | Some("keep-running") => OnError::KeepRunning,
            Some("stop") => OnError::Stop,
            Some(_) => return Err(top.error("on-error", "is neither keep-running nor stop")),
        };
        let kill_after = top.duration("kill-after", Duration::ZERO..=MAX_SHUTDOWN_TIMEOUT)?;
        let active_databases = match top.text("active-databases")? {
            None => ACTIVE_DATABASES,
            Some(text) => {
                text.parse().ok().filter(|number| (1..=MAX_ACTIVE_DATABASES).contains(number)).ok_or_else(|| {
                    top.error("active-databases", format!("is not a number from 1 to {MAX_ACTIVE_DATABASES}"))
                })?
            }
        };
        let panel = PanelConfig::read(&mut top)?;
        let mut config = Config {
            shutdown_timeout,
            on_error,
            kill_after,
            active_databases,
            listen,
            panel,
            state_dir,
            defaults,
            ..Config::default()
        };
        for (index, entry) in entries.into_iter().enumerate() {
            let at = format!("databases[{index}]");
            match entry {
                Value::Mapping(entry) if entry.contains_key("glob") => {
                    config.groups.push(Group::read(entry, &at, &config)?);
                }
                entry => config.databases.push(DatabaseConfig::read(entry, &at, &config)?),
            }
        }
        config.check_distinct()?;
        Ok(config)
    }

    /// Two writers to one place would destroy each other's work; refused before anything starts.
    pub fn check_distinct(&self) -> Result<(), ConfigError> {
        self.claims().map(|_| ())
    }

    /// The places of everything that is configured by name.
    pub fn claims(&self) -> Result<Claims, ConfigError> {
        let mut claims = Claims::default();
        let mut each = self.databases.iter().enumerate();
        each.try_for_each(|(d, database)| claims.claim(database, &format!("databases[{d}]")))?;
        Ok(claims)
    }

    /// The configured database with this path or this name: by name also one that exists and that a pattern matches.
    pub fn find(&self, path_or_name: &Path) -> Result<Option<DatabaseConfig>, Error> {
        let same_path = |d: &&DatabaseConfig| d.path == path_or_name || same_file_name(&d.path, path_or_name);
        if let Some(found) = self.databases.iter().find(same_path) {
            return Ok(Some(found.clone()));
        }
        let usage = |error: ConfigError| Error::usage(error.to_string());
        let absolute = std::path::absolute(path_or_name).unwrap_or_else(|_| path_or_name.to_owned());
        if let Some(group) = self.groups.iter().find(|group| group.matches(&absolute)) {
            return group.database(&absolute, self).map(Some).map_err(usage);
        }
        let mut named: Vec<_> = self.databases.iter().filter(|d| Path::new(&d.name) == path_or_name).cloned().collect();
        for group in &self.groups {
            let files = group.look().0.into_iter().filter(|file| file.file_name() == Some(path_or_name.as_os_str()));
            let found: Result<Vec<_>, _> = files.map(|file| group.database(&file, self)).collect();
            named.extend(found.map_err(usage)?);
        }
        match named.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only.clone())),
            many => {
                let paths: Vec<_> = many.iter().map(|d| d.path.display().to_string()).collect();
                let name = path_or_name.display();
                let message = format!("{name} is the name of {} databases: {}", many.len(), paths.join(", "));
                Err(Error::usage(message).next_step("give the path of the one you mean"))
            }
        }
    }

    /// Lays over it what the environment says.
    pub fn with_environment(mut self, environment: Environment<'_>) -> Result<Config, Error> {
        if let Some(text) = environment("REPLICATE_LISTEN").filter(|text| !text.is_empty()) {
            let problem = |problem| Error::usage(format!("REPLICATE_LISTEN: {problem}"));
            self.listen = Some(parse_address(&text).map_err(problem)?);
        }
        self.panel.overlay(environment)?;
        Ok(self)
    }

    /// What `run DATABASE URL…` means: that one database, with its own settings where it is configured, and with the given
    /// replicas where any are given.
    pub fn only(mut self, path: &Path, urls: &[String]) -> Result<Config, Error> {
        let mut database = match self.find(path)? {
            Some(found) => found,
            None => DatabaseConfig::new(path, &self).map_err(|error| Error::usage(error.to_string()))?,
        };
        if !urls.is_empty() {
            let options = StoreOptions { limits: database.settings.limits.clone(), ..StoreOptions::default() };
            let replica = |url: &String| ReplicaConfig::new(url.clone(), options.clone());
            database.replicas = urls.iter().map(replica).collect::<Result<_, _>>()?;
            database.default_replica = false;
        }
        (self.databases, self.groups) = (vec![database], Vec::new());
        self.check_distinct().map_err(|error| Error::usage(error.to_string()))?;
        Ok(self)
    }
}

/// The text of a configuration file.
pub fn read_text(file: &Path) -> Result<String, Error> {
    let failed = |problem: &str| Error::usage(format!("cannot read the configuration {}{problem}", file.display()));
    let length = std::fs::metadata(file).map_err(|error| failed("").because(error))?.len();
    if length > MAX_FILE_BYTES {
        return Err(failed(&format!(": it has {length} bytes, more than {MAX_FILE_BYTES}")));
    }
    std::fs::read_to_string(file).map_err(|error| failed("").because(error))
}

/// The places that databases are read from and written to, each with where it was configured.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<(&'static str, String), String>);

impl Claims {
    /// Takes the places of `database`, or none of them: two writers to one place would destroy each other's work.
    pub fn claim(&mut self, database: &DatabaseConfig, at: &str) -> Result<(), ConfigError> {
        let mut taken = Vec::new();
        for (place, key) in places(database) {
            let at = format!("{at}.{key}");
            if let Some(first) = self.0.get(&place) {
                let error = ConfigError::at(&at, format!("the same {} as `{first}`", place.0));
                taken.iter().for_each(|place| _ = self.0.remove(place));
                return Err(error);
            }
            self.0.insert(place.clone(), at);
            taken.push(place);
        }
        Ok(())
    }

    pub fn release(&mut self, database: &DatabaseConfig) {
        places(database).iter().for_each(|(place, _)| _ = self.0.remove(place));
    }
}

/// Its places, each with its kind and its key.
fn places(database: &DatabaseConfig) -> Vec<((&'static str, String), String)> {
    let absolute = std::path::absolute(&database.path).unwrap_or_else(|_| database.path.clone());
    let mut places = vec![
        (("database", absolute.display().to_string()), "path".to_owned()),
        (("state directory", database.state_dir.display().to_string()), "state-dir".to_owned()),
    ];
    let replicas = database.replicas.iter().enumerate();
    places.extend(
        replicas.map(|(r, replica)| {
            (("replica", replica.url.trim_end_matches('/').to_owned()), format!("replicas[{r}].url"))
        }),
    );
    places
}

/// Do two ways of writing a path mean the same place? Nothing is opened.
fn same_file_name(a: &Path, b: &Path) -> bool {
    matches!((std::path::absolute(a), std::path::absolute(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests;
