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
pub mod proofs;
pub mod retention;
pub mod schedule;
pub mod units;

pub use database::{DatabaseConfig, ReplicaConfig, Settings};
pub use expand::Environment;
use fields::Fields;
pub use retention::Retention;
pub use schedule::Schedule;
use units::parse_address;

/// Keys that a later version knows. Refused by name, because an option that is accepted and ignored loses data.
const LATER: [(&str, &str); 1] = [("glob", "write one entry with `path` per database")];

const TOP_KEYS: [&str; 5] = ["listen", "state-dir", "shutdown-timeout", "defaults", "databases"];
/// Default of `shutdown-timeout`.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Bound for the file: far above any real one, far below what would hurt.
const MAX_FILE_BYTES: u64 = 4 << 20;
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

/// Everything that was configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How long a stop may take to ship what is captured.
    pub shutdown_timeout: Duration,
    /// Where /metrics and the others are served.
    pub listen: Option<SocketAddr>,
    /// The directory that holds the state directories, where it is not beside each database.
    pub state_dir: Option<PathBuf>,
    pub defaults: Settings,
    pub databases: Vec<DatabaseConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let defaults = Settings::default();
        Config { shutdown_timeout: SHUTDOWN_TIMEOUT, listen: None, state_dir: None, defaults, databases: Vec::new() }
    }
}

impl Config {
    /// Reads a file; without one, everything has its default and there is no database.
    pub fn load(file: Option<&Path>, environment: Environment<'_>) -> Result<Config, Error> {
        let Some(file) = file else { return Ok(Config::default()) };
        let failed = |problem: &str| Error::usage(format!("cannot read the configuration {}{problem}", file.display()));
        let length = std::fs::metadata(file).map_err(|error| failed("").because(error))?.len();
        if length > MAX_FILE_BYTES {
            return Err(failed(&format!(": it has {length} bytes, more than {MAX_FILE_BYTES}")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| failed("").because(error))?;
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
        let mut config = Config { shutdown_timeout, listen, state_dir, defaults, databases: Vec::new() };
        for (index, entry) in entries.into_iter().enumerate() {
            let database = DatabaseConfig::read(entry, &format!("databases[{index}]"), &config)?;
            config.databases.push(database);
        }
        config.check_distinct()?;
        Ok(config)
    }

    /// Two writers to one place would destroy each other's work; refused before anything starts.
    pub fn check_distinct(&self) -> Result<(), ConfigError> {
        let mut seen = BTreeMap::new();
        let mut claim =
            |what: &str, place: String, path: String| match seen.insert((what.to_owned(), place), path.clone()) {
                None => Ok(()),
                Some(first) => Err(ConfigError::at(&path, format!("the same {what} as `{first}`"))),
            };
        for (d, database) in self.databases.iter().enumerate() {
            let path = format!("databases[{d}]");
            let absolute = std::path::absolute(&database.path).unwrap_or_else(|_| database.path.clone());
            claim("database", absolute.display().to_string(), format!("{path}.path"))?;
            claim("state directory", database.state_dir.display().to_string(), format!("{path}.state-dir"))?;
            for (r, replica) in database.replicas.iter().enumerate() {
                let place = replica.url.trim_end_matches('/').to_owned();
                claim("replica", place, format!("{path}.replicas[{r}].url"))?;
            }
        }
        Ok(())
    }

    /// The configured database with this path or this name.
    pub fn find(&self, path_or_name: &Path) -> Result<Option<&DatabaseConfig>, Error> {
        let same_path = |d: &&DatabaseConfig| d.path == path_or_name || same_file_name(&d.path, path_or_name);
        if let Some(found) = self.databases.iter().find(same_path) {
            return Ok(Some(found));
        }
        let named: Vec<_> = self.databases.iter().filter(|d| Path::new(&d.name) == path_or_name).collect();
        match named.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only)),
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
        Ok(self)
    }

    /// What `run DATABASE URL…` means: that one database, with its own settings where it is configured, and with the given
    /// replicas where any are given.
    pub fn only(mut self, path: &Path, urls: &[String]) -> Result<Config, Error> {
        let mut database = match self.find(path)? {
            Some(found) => found.clone(),
            None => DatabaseConfig::new(path, &self).map_err(|error| Error::usage(error.to_string()))?,
        };
        if !urls.is_empty() {
            let replica = |url: &String| ReplicaConfig::new(url.clone(), StoreOptions::default());
            database.replicas = urls.iter().map(replica).collect::<Result<_, _>>()?;
            database.default_replica = false;
        }
        self.databases = vec![database];
        self.check_distinct().map_err(|error| Error::usage(error.to_string()))?;
        Ok(self)
    }
}

/// Do two ways of writing a path mean the same place? Nothing is opened.
fn same_file_name(a: &Path, b: &Path) -> bool {
    matches!((std::path::absolute(a), std::path::absolute(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests;
