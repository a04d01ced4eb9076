//! A configuration that is read again while databases are at work: what is the same goes on untouched, what changed stops and
//! starts again where it was, and what cannot be understood changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::discovery::Discovery;
use super::engine_for;
use super::fleet::Fleet;
use crate::config::{Config, DatabaseConfig};
use crate::engine::choice::Choice;
use crate::error::Error;

/// What becomes of each database.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    added: BTreeSet<PathBuf>,
    changed: BTreeSet<PathBuf>,
    removed: BTreeSet<PathBuf>,
    unchanged: usize,
}

type Databases = BTreeMap<PathBuf, Arc<DatabaseConfig>>;

fn plan(at_work: &Databases, wanted: &Databases) -> Plan {
    let mut plan = Plan::default();
    for (path, database) in wanted {
        match at_work.get(path) {
            None => _ = plan.added.insert(path.clone()),
            Some(now) if now != database => _ = plan.changed.insert(path.clone()),
            Some(_) => plan.unchanged += 1,
        }
    }
    plan.removed = at_work.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
    plan
}

impl Fleet {
    /// Goes over to `config`. An error: nothing was changed.
    pub fn reload(&mut self, config: &Config) -> Result<Value, Error> {
        let held: BTreeMap<PathBuf, Choice> =
            self.all.iter().map(|working| (working.path.clone(), working.engine.clone())).collect();
        let mut wanted = BTreeMap::new();
        for database in &config.databases {
            // What is held must not be looked into.
            let engine = match held.get(&database.path) {
                Some(engine) => engine.clone(),
                None => engine_for(&database.path)?,
            };
            wanted.insert(database.path.clone(), (Arc::new(database.clone()), engine));
        }
        let mut discovery = Discovery::new(config, held)?;
        let found = discovery.as_mut().map(Discovery::look).unwrap_or_default();
        wanted.extend(found.appeared.into_iter().map(|(database, engine)| (database.path.clone(), (database, engine))));

        let of = |one: &Arc<DatabaseConfig>| (one.path.clone(), one.clone());
        let mut at_work: Databases = self.all.iter().map(|working| of(&working.config)).collect();
        // What waits for its own stop is as good as started.
        at_work.extend(self.waiting.iter().map(|(one, _)| of(one)));
        let plan = plan(&at_work, &wanted.iter().map(|(path, (one, _))| (path.clone(), one.clone())).collect());
        for path in plan.changed.iter().chain(&plan.removed) {
            self.put_to_rest(path);
            self.waiting.retain(|(one, _)| one.path != *path);
        }
        for path in plan.added.iter().chain(&plan.changed) {
            self.waiting.extend(wanted.remove(path));
        }
        (self.discovery, self.shutdown_timeout) = (discovery, config.shutdown_timeout);
        self.show();
        tracing::info!(
            added = plan.added.len(),
            changed = plan.changed.len(),
            removed = plan.removed.len(),
            unchanged = plan.unchanged,
            "the configuration was read again"
        );
        Ok(json!({
            "added": plan.added,
            "changed": plan.changed,
            "removed": plan.removed,
            "unchanged": plan.unchanged,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is the same is left alone, whatever its place in the file.
    #[test]
    fn only_what_differs_is_touched() {
        let of = |yaml: &str| -> Databases {
            let databases = Config::parse(yaml, &|_| None).unwrap().databases;
            databases.into_iter().map(|one| (one.path.clone(), Arc::new(one))).collect()
        };
        let before = of("databases: [{path: /a}, {path: /b, replicas: [/r/b]}, {path: /c}]");
        let after = of("databases: [{path: /d}, {path: /c}, {path: /b, replicas: [/r/other]}]");
        let set = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        let expected = Plan { added: set(&["/d"]), changed: set(&["/b"]), removed: set(&["/a"]), unchanged: 1 };
        assert_eq!(plan(&before, &after), expected);
        assert_eq!(plan(&before, &before), Plan { unchanged: 3, ..Plan::default() });
    }
}
