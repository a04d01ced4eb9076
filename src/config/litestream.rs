//! What a configuration of Litestream (0.3 and 0.5) says, as one of ours.
//!
//! Variables stay as they are written, so that no secret is read here; what has no counterpart is told with what to do instead.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_yaml_ng::{Mapping, Value};

use super::database::{POLL_INTERVAL, SNAPSHOT_INTERVAL};
use super::fields::join;
use super::units::show_duration;
use super::{Config, Environment, MAX_SHUTDOWN_TIMEOUT};
use crate::error::Error;

mod advice;
mod replica;
mod values;

/// Said on top of what was made.
const HEADER: &str = "# Converted from a configuration of Litestream. What has no counterpart was told on stderr; see docs/litestream.md.\n";

/// A configuration of ours, and what to know about it.
#[derive(Debug)]
pub struct Converted {
    pub yaml: String,
    /// What has no counterpart or another meaning, each with the way to its key.
    pub notes: Vec<String>,
}

/// What was found on the way.
#[derive(Debug, Default)]
struct Findings {
    notes: Vec<String>,
    /// What must not be left out silently: there is no result with any of these.
    problems: Vec<String>,
}

impl Findings {
    fn note(&mut self, at: &str, text: impl AsRef<str>) {
        self.notes.push(format!("{at}: {}", text.as_ref()));
    }

    fn problem(&mut self, at: &str, text: impl AsRef<str>) {
        self.problems.push(format!("{at}: {}", text.as_ref()));
    }
}

/// Converts the text of a file. `environment` is only asked to check the result.
pub fn convert(text: &str, environment: Environment<'_>) -> Result<Converted, Error> {
    let tree: Value = serde_yaml_ng::from_str(text).map_err(|error| {
        Error::usage(format!("this is no YAML: {error}")).next_step("put quotes around texts with ${…} between { and }")
    })?;
    let Value::Mapping(top) = tree else { return Err(Error::usage("this is not a mapping of keys to values")) };
    if !top.contains_key("dbs") {
        let step = "give the file that `litestream replicate -config` reads";
        return Err(Error::usage("there is no key `dbs`: this is no configuration of Litestream").next_step(step));
    }
    let mut findings = Findings::default();
    let ours = top_level(Part::new(top, ""), &mut findings);
    if !findings.problems.is_empty() {
        let message = format!("this cannot be converted:\n  {}", findings.problems.join("\n  "));
        return Err(Error::usage(message).next_step("change these in a copy of the file, and convert that"));
    }
    let yaml = serde_yaml_ng::to_string(&ours).map_err(|error| Error::failed("cannot write YAML").because(error))?;
    check(&yaml, environment, &mut findings)?;
    Ok(Converted { yaml: format!("{HEADER}{yaml}"), notes: findings.notes })
}

/// What was made must be understood; where a variable is not set here, that can only be found out elsewhere.
fn check(yaml: &str, environment: Environment<'_>, findings: &mut Findings) -> Result<(), Error> {
    let unset = std::cell::RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        environment(name).or_else(|| {
            unset.borrow_mut().insert(name.to_owned());
            Some("placeholder".to_owned())
        })
    };
    let parsed = Config::parse(yaml, &lookup);
    let unset: Vec<String> = unset.into_inner().into_iter().collect();
    match parsed {
        Err(error) if unset.is_empty() => {
            let message = format!("what it says is not possible here: {error}");
            Err(Error::usage(message).next_step("change that in a copy of the file, and convert that"))
        }
        _ if unset.is_empty() => Ok(()),
        _ => {
            let text =
                format!("not set here: {}; where it runs, try `replicate check --config FILE`", unset.join(", "));
            findings.note("variables", text);
            Ok(())
        }
    }
}

/// A mapping whose entries are taken out one by one, and where it stands.
#[derive(Debug)]
struct Part {
    at: String,
    entries: Mapping,
}

impl Part {
    fn new(entries: Mapping, at: &str) -> Part {
        Part { at: at.to_owned(), entries }
    }

    fn path_to(&self, key: &str) -> String {
        join(&self.at, key)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key).filter(|value| !value.is_null())
    }

    /// A text with its variables in our form; a number or a boolean stands for itself.
    fn text(&mut self, key: &str, findings: &mut Findings) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(values::variables(&text)),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => {
                findings.problem(&self.path_to(key), "is not a text");
                None
            }
        }
    }

    fn is_true(&mut self, key: &str) -> bool {
        self.take(key).is_some_and(|value| value == Value::Bool(true) || value.as_str() == Some("true"))
    }

    /// A duration in our form, moved into `bounds`.
    fn duration(&mut self, key: &str, bounds: &RangeInclusive<Duration>, findings: &mut Findings) -> Option<Duration> {
        let text = self.text(key, findings)?;
        let at = self.path_to(key);
        let Some(duration) = values::duration(&text) else {
            findings.problem(&at, format!("{text:?} is not a duration such as 10s or 1h30m; write it out"));
            return None;
        };
        let within = duration.clamp(*bounds.start(), *bounds.end());
        if within != duration {
            let (low, high) = (show_duration(*bounds.start()), show_duration(*bounds.end()));
            findings
                .note(&at, format!("is {text} and becomes {}: {low} to {high} are possible", show_duration(within)));
        }
        Some(within)
    }

    fn part(&mut self, key: &str, findings: &mut Findings) -> Option<Part> {
        let at = self.path_to(key);
        match self.take(key)? {
            Value::Mapping(entries) => Some(Part { at, entries }),
            _ => {
                findings.problem(&at, "is not a mapping of keys to values");
                None
            }
        }
    }

    fn parts(&mut self, key: &str, findings: &mut Findings) -> Vec<Part> {
        let at = self.path_to(key);
        let items = match self.take(key) {
            None => Vec::new(),
            Some(Value::Sequence(items)) => items,
            Some(_) => {
                findings.problem(&at, "is not a list");
                Vec::new()
            }
        };
        let mut parts = Vec::new();
        for (number, item) in items.into_iter().enumerate() {
            let at = format!("{at}[{number}]");
            match item {
                Value::Mapping(entries) => parts.push(Part { at, entries }),
                _ => findings.problem(&at, "is not a mapping of keys to values"),
            }
        }
        parts
    }

    /// Tells of what is left: keys without a counterpart with the advice for each, the others as unknown.
    fn tell_rest(self, advice: &[(&str, &str)], findings: &mut Findings) {
        for key in self.entries.keys() {
            let key = key.as_str().unwrap_or("?");
            let known = advice.iter().find(|(known, _)| *known == key);
            let text = known.map_or("no key of Litestream that is known here; left out", |(_, advice)| advice);
            findings.note(&join(&self.at, key), text);
        }
    }
}

fn top_level(mut top: Part, findings: &mut Findings) -> Mapping {
    let mut ours = Mapping::new();
    if let Some(address) = top.text("addr", findings) {
        let address = values::address(&address);
        if address.starts_with("0.0.0.0") {
            findings.note("addr", "is open to every network; 127.0.0.1 in `listen` keeps it on this machine");
        }
        ours.insert("listen".into(), address.into());
    }
    let timeouts = Duration::ZERO..=MAX_SHUTDOWN_TIMEOUT;
    if let Some(timeout) = top.duration("shutdown-sync-timeout", &timeouts, findings) {
        ours.insert("shutdown-timeout".into(), show_duration(timeout).into());
    }
    let mut defaults = Mapping::new();
    if let Some(mut snapshot) = top.part("snapshot", findings) {
        if let Some(interval) = snapshot.duration("interval", &SNAPSHOT_INTERVAL, findings) {
            defaults.insert("snapshot-interval".into(), show_duration(interval).into());
        }
        if let Some(rules) = replica::retention(&mut snapshot, findings) {
            defaults.insert("retention".into(), rules);
        }
        snapshot.tell_rest(&[], findings);
    }
    if let Some(mut retention) = top.part("retention", findings) {
        if retention.take("enabled") == Some(Value::Bool(false)) {
            defaults.insert("retention".into(), "forever".into());
        }
        retention.tell_rest(&[], findings);
    }
    if !defaults.is_empty() {
        ours.insert("defaults".into(), defaults.into());
    }
    let shared = replica::Shared::take(&mut top);
    let databases = top.parts("dbs", findings);
    if databases.is_empty() {
        findings.problem("dbs", "names no database");
    }
    let databases: Vec<Value> = databases.into_iter().map(|part| database(part, &shared, findings).into()).collect();
    ours.insert("databases".into(), databases.into());
    top.tell_rest(advice::TOP, findings);
    ours
}

fn database(mut part: Part, shared: &replica::Shared, findings: &mut Findings) -> Mapping {
    let mut ours = Mapping::new();
    let (path, directory) = (part.text("path", findings), part.text("dir", findings));
    let (pattern, recursive) = (part.text("pattern", findings), part.is_true("recursive"));
    let placeholder = match (path, directory) {
        (Some(path), None) => {
            ours.insert("path".into(), values::home(&path).into());
            ""
        }
        (None, Some(directory)) => {
            let between = if recursive { "/**" } else { "" };
            let directory = values::home(directory.trim_end_matches('/'));
            let pattern = pattern.unwrap_or_else(|| "*".to_owned());
            ours.insert("glob".into(), format!("{directory}{between}/{pattern}").into());
            if !part.is_true("watch") {
                findings.note(&part.path_to("dir"), "databases that appear later are replicated, too, without `watch`");
            }
            if recursive { "/{path}" } else { "/{name}" }
        }
        _ => {
            findings.problem(&part.at, "needs one of `path` and `dir`");
            ""
        }
    };
    if let Some(interval) = part.duration("monitor-interval", &POLL_INTERVAL, findings) {
        ours.insert("poll-interval".into(), show_duration(interval).into());
    }
    let mut replicas = part.parts("replicas", findings);
    replicas.extend(part.part("replica", findings));
    if replicas.is_empty() {
        findings.problem(&part.at, "names no replica");
    }
    let name = ours.values().next().and_then(Value::as_str).unwrap_or_default().to_owned();
    replica::convert_all(replicas, shared, replica::Of { name: &name, placeholder }, &mut ours, findings);
    part.tell_rest(advice::DATABASE, findings);
    ours
}

#[cfg(test)]
mod tests;
