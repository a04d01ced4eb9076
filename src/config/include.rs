//! What `include` says: which files beside a database are kept with it.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde_yaml_ng::Value;

use super::ConfigError;
use super::fields::Fields;
use super::units::show_duration;
use crate::include::{Include, Patterns};

pub const KEYS: [&str; 3] = ["include", "exclude", "include-interval"];
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// A name that patterns are tried with where no database is known yet.
const EXAMPLE: &str = "example.db";

/// As it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncludeSettings {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub interval: Duration,
}

impl Default for IncludeSettings {
    fn default() -> Self {
        IncludeSettings { include: Vec::new(), exclude: Vec::new(), interval: Duration::from_secs(10) }
    }
}

impl IncludeSettings {
    /// Takes its keys out of `fields`; what is missing is as in `defaults`.
    pub(super) fn read(fields: &mut Fields, defaults: &IncludeSettings) -> Result<IncludeSettings, ConfigError> {
        let settings = IncludeSettings {
            include: texts(fields, "include")?.unwrap_or_else(|| defaults.include.clone()),
            exclude: texts(fields, "exclude")?.unwrap_or_else(|| defaults.exclude.clone()),
            interval: fields.duration("include-interval", INTERVAL)?.unwrap_or(defaults.interval),
        };
        let tried = |key: &str, include: &[String], exclude: &[String]| {
            Patterns::new(include, exclude, Path::new(EXAMPLE)).map_err(|problem| fields.error(key, problem))
        };
        tried("include", &settings.include, &[])?;
        tried("exclude", &[], &settings.exclude)?;
        Ok(settings)
    }

    /// What it means for one database; `None`: no file is kept with it.
    pub fn of(&self, database: &Path) -> Result<Option<Include>, String> {
        if self.include.is_empty() {
            return Ok(None);
        }
        let patterns = Patterns::new(&self.include, &self.exclude, database)?;
        Ok(Some(Include { patterns, interval: self.interval }))
    }

    pub fn show(&self) -> String {
        if self.include.is_empty() {
            return "nothing".to_owned();
        }
        format!("{}, every {}", self.include.join(", "), show_duration(self.interval))
    }
}

fn texts(fields: &mut Fields, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(items) = fields.list(key)? else { return Ok(None) };
    let text = |item: Value| match item {
        Value::String(text) => Ok(text),
        _ => Err(fields.error(key, "is not a list of texts; put a name in quotes")),
    };
    items.into_iter().map(text).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, &|_| None).map_err(|error| error.to_string())
    }

    /// The nearest list says everything, and the name of each database stands where it is asked for.
    #[test]
    fn lists_are_inherited_whole() {
        let text = "
            defaults: {include: [config.yml, '{stem}.json'], exclude: ['*.tmp']}
            databases:
              - {path: /d/a.db}
              - {path: /d/b.db, include: [], include-interval: 1m}
              - {glob: '/d/tenants/*.db', include: ['{name}.d/**/*']}";
        let config = parse(text).unwrap();
        let [a, b] = config.databases.as_slice() else { panic!("two") };
        assert_eq!(a.settings.include.include, ["config.yml", "{stem}.json"]);
        assert!(a.settings.include.of(&a.path).unwrap().is_some());
        assert!(b.settings.include.of(&b.path).unwrap().is_none());
        assert_eq!(b.settings.include.interval.as_secs(), 60);
        let path = std::path::Path::new("/d/tenants/x.db");
        let tenant = config.groups[0].database(path, &config).unwrap();
        assert_eq!((tenant.settings.include.include.len(), tenant.settings.include.exclude.len()), (1, 1));
    }

    /// What would lead out of the folder, and what is no list, is refused with the way to it.
    #[test]
    fn what_leads_elsewhere_is_refused() {
        for (entry, part) in [
            ("include: [/etc/passwd]", "databases[0].include"),
            ("include: ['../x']", "databases[0].include"),
            ("include: ['a/../../x*']", "databases[0].include"),
            ("include: config.yml", "databases[0].include"),
            ("include: [1]", "databases[0].include"),
            ("exclude: ['[']", "databases[0].exclude"),
            ("include-interval: 10ms", "databases[0].include-interval"),
            ("includes: [a]", "include"),
        ] {
            let error = parse(&format!("databases: [{{path: /d/a.db, {entry}}}]")).unwrap_err();
            assert!(error.contains(part), "{entry}: {error}");
        }
    }
}
