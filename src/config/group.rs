//! Databases that a pattern names: each file that matches is one, with the settings and the replicas of the entry.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use serde_yaml_ng::{Mapping, Value};

use super::fields::join;
use super::{Config, ConfigError, DatabaseConfig};

/// What a replica's URL must name, so that two databases are never written to one place.
const PLACEHOLDERS: [&str; 2] = ["{name}", "{path}"];
/// A star does not cross a slash, and a name that begins with a dot must be named so: state directories do.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
/// What belongs to a database and is none itself.
const COMPANIONS: [&str; 4] = ["-wal", "-shm", "-journal", ".wal"];
/// A name that every pattern's entry is tried with when the configuration is read.
const EXAMPLE: &str = "example.db";

/// One entry with `glob`.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Absolute.
    pattern: Pattern,
    /// Where it stands in the configuration.
    at: String,
    /// The entry without `glob`.
    entry: Mapping,
}

impl Group {
    /// An entry that has the key `glob`.
    pub(super) fn read(mut entry: Mapping, at: &str, config: &Config) -> Result<Group, ConfigError> {
        let at_glob = join(at, "glob");
        for other in ["path", "state-dir"] {
            if entry.contains_key(other) {
                let problem = format!(
                    "cannot stand beside `glob`, which names many; give that database an entry with `path`, which counts before `{at_glob}`"
                );
                return Err(ConfigError::at(&join(at, other), problem));
            }
        }
        let Some(Value::String(written)) = entry.remove("glob") else {
            return Err(ConfigError::at(&at_glob, "is not a text"));
        };
        let absolute = std::path::absolute(&written).map_err(|error| ConfigError::at(&at_glob, error.to_string()))?;
        let pattern = absolute.to_str().ok_or_else(|| ConfigError::at(&at_glob, "is not Unicode"))?;
        let pattern = Pattern::new(pattern).map_err(|error| ConfigError::at(&at_glob, error.to_string()))?;
        let group = Group { pattern, at: at.to_owned(), entry };
        group.check_placeholders()?;
        group.database(&group.base().join(EXAMPLE), config)?;
        Ok(group)
    }

    /// Without a placeholder, all databases would be written to one place.
    fn check_placeholders(&self) -> Result<(), ConfigError> {
        let Some(Value::Sequence(replicas)) = self.entry.get("replicas") else { return Ok(()) };
        for (number, replica) in replicas.iter().enumerate() {
            let url = replica.as_str().or_else(|| replica.get("url").and_then(Value::as_str));
            if url.is_some_and(|url| !PLACEHOLDERS.iter().any(|placeholder| url.contains(placeholder))) {
                let at = format!("{}[{number}]", join(&self.at, "replicas"));
                return Err(ConfigError::at(&at, "needs {name} or {path} in its URL: each database has its own place"));
            }
        }
        Ok(())
    }

    pub fn pattern(&self) -> &str {
        self.pattern.as_str()
    }

    pub fn matches(&self, path: &Path) -> bool {
        let is_companion = |name: &str| COMPANIONS.iter().any(|ending| name.ends_with(ending));
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| !is_companion(name)) && self.pattern.matches_path_with(path, MATCHING)
    }

    /// The database at `path`.
    pub fn database(&self, path: &Path, config: &Config) -> Result<DatabaseConfig, ConfigError> {
        let text =
            path.to_str().ok_or_else(|| ConfigError::at(&self.at, format!("{} is not Unicode", path.display())))?;
        let mut entry = self.entry.clone();
        entry.insert("path".into(), text.into());
        if let Some(base) = &config.state_dir {
            // Files of different directories may have one name.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let state_dir = base.join(place_of(path)).with_file_name(format!(".{name}-replicate"));
            entry.insert("state-dir".into(), state_dir.to_string_lossy().into_owned().into());
        }
        DatabaseConfig::read(Value::Mapping(entry), &self.at, config)
    }

    /// The deepest directory that is named without a pattern.
    fn base(&self) -> PathBuf {
        let plain = |part: &std::path::Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
        let path = Path::new(self.pattern.as_str());
        path.parent().unwrap_or(path).components().take_while(plain).collect()
    }

    /// The regular files that match now, and the directories that any file has to be made in to match, as far as they exist.
    pub fn look(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let found = glob::glob_with(self.pattern.as_str(), MATCHING).into_iter().flatten();
        // A directory that cannot be read now is read again with the next look.
        let files = found.flatten().filter(|path| self.matches(path) && path.is_file()).collect();
        let parent = Path::new(self.pattern.as_str()).parent().and_then(Path::to_str).unwrap_or("/");
        let mut directories: Vec<PathBuf> =
            glob::glob_with(parent, MATCHING).into_iter().flatten().flatten().filter(|path| path.is_dir()).collect();
        directories.push(self.base());
        (files, directories)
    }
}

/// An absolute path as one below something else.
fn place_of(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Writes name and path of a database where a URL asks for them.
pub(super) fn fill_in(url: &str, path: &Path) -> Result<String, String> {
    if !PLACEHOLDERS.iter().any(|placeholder| url.contains(placeholder)) {
        return Ok(url.to_owned());
    }
    let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
    let (name, place) = (absolute.file_name().and_then(|name| name.to_str()), place_of(&absolute).to_str());
    let (Some(name), Some(place)) = (name, place) else { return Err(format!("{} is not Unicode", path.display())) };
    if let Some(odd) = place.chars().find(|c| "?#%{}".contains(*c) || c.is_control()) {
        return Err(format!(
            "{} cannot be a part of a URL because of {odd:?}; rename it or write the URL out",
            path.display()
        ));
    }
    Ok(url.replace("{name}", name).replace("{path}", place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, &|_| None)
    }

    fn one(config: &Config, path: &str) -> DatabaseConfig {
        config.groups[0].database(Path::new(path), config).unwrap()
    }

    /// Every database of a pattern has its own place in each replica, its own state, and the settings of the entry.
    #[test]
    fn each_file_is_a_database_of_its_own() {
        let text = "
            state-dir: /state
            defaults: {sync-interval: 3s}
            databases:
              - glob: /data/*/x*.db
                poll-interval: 2s
                replicas: ['s3://b/{path}', {url: 'file:///mnt/{name}'}]
              - {path: /data/a/x1.db}";
        let config = parse(text).unwrap();
        let database = one(&config, "/data/a/x2.db");
        let urls: Vec<&str> = database.replicas.iter().map(|replica| replica.url.as_str()).collect();
        assert_eq!(urls, ["s3://b/data/a/x2.db", "file:///mnt/x2.db"]);
        assert_eq!(database.state_dir, Path::new("/state/data/a/.x2.db-replicate"));
        assert_eq!((database.settings.sync_interval.as_secs(), database.settings.poll_interval.as_secs()), (3, 2));
        assert!(config.groups[0].matches(Path::new("/data/a/x2.db")));
        for other in ["/data/x2.db", "/data/a/b/x2.db", "/data/a/y.db", "/data/a/x2.db-wal", "/data/.a/x.db"] {
            assert!(!config.groups[0].matches(Path::new(other)), "{other}");
        }
        assert!(one(&parse("databases: [{glob: '/d/*.db'}]").unwrap(), "/d/a.db").default_replica);
    }

    /// What would write two databases to one place, or says two things at once, is refused with the way to it.
    #[test]
    fn loss_30_what_a_pattern_cannot_mean_is_refused() {
        for (entry, part) in [
            ("{glob: '/d/*', replicas: ['s3://b/x']}", "databases[0].replicas[0]"),
            ("{glob: '/d/*', path: /d/a}", "databases[0].path"),
            ("{glob: '/d/*', state-dir: /s}", "databases[0].state-dir"),
            ("{glob: '/d/***'}", "databases[0].glob"),
            ("{glob: [a]}", "databases[0].glob"),
            ("{glob: '/d/*', sync-intervall: 1s}", "sync-interval"),
            ("{glob: '/d/*', replicas: ['gs://b/{name}']}", "databases[0].replicas[0]"),
        ] {
            let error = parse(&format!("databases: [{entry}]")).unwrap_err().to_string();
            assert!(error.contains(part), "{entry}: {error}");
        }
        let config = parse("databases: [{glob: '/d/*', replicas: ['s3://b/{name}']}]").unwrap();
        let odd = config.groups[0].database(Path::new("/d/a?b"), &config).unwrap_err().to_string();
        assert!(odd.contains("rename it"), "{odd}");
    }

    /// Files are found, directories and companions are not taken for databases, and where a new one may appear is told.
    #[test]
    fn a_look_finds_files_and_where_they_may_appear() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["a", "b", "b/dir.db"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        for name in ["a/1.db", "a/1.db-wal", "a/2.db", "a/.3.db", "b/4.txt", "5.db"] {
            std::fs::write(root.join(name), "x").unwrap();
        }
        let config = parse(&format!("databases: [{{glob: '{}/*/*.db'}}]", root.display())).unwrap();
        let (files, mut directories) = config.groups[0].look();
        assert_eq!(files, [root.join("a/1.db"), root.join("a/2.db")]);
        directories.sort();
        assert_eq!(directories, [root.clone(), root.join("a"), root.join("b")]);
    }
}
