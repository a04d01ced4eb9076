//! What `retention` says: a policy, or that everything is kept.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_yaml_ng::{Mapping, Value};

use super::ConfigError;
use super::fields::Fields;
use super::units::show_duration;
use crate::retention::{Calendar, Count, Policy};

const KEYS: [&str; 10] =
    ["commits", "keep-within", "snapshots", "keep-last", "keep-min", "hourly", "daily", "weekly", "monthly", "yearly"];
const SPAN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(100 * 365 * 24 * 3600);
const COUNT: RangeInclusive<u32> = 1..=1_000_000;

/// What is kept where nobody says otherwise: every commit of a day, and a month in which restores stay short.
pub const DEFAULT: Policy = Policy {
    commits: Some(Duration::from_secs(24 * 3600)),
    keep_within: Some(Duration::from_secs(30 * 24 * 3600)),
    keep_last: Some(Count::Number(2)),
    keep_min: None,
    calendar: [None; 5],
};

/// What is deleted from a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retention {
    /// As the database, or the defaults, say; without them [`DEFAULT`].
    #[default]
    Inherited,
    /// Nothing, ever.
    Forever,
    /// Whatever no rule keeps.
    Policy(Policy),
}

impl Retention {
    /// Takes the key `retention` out of `fields`.
    pub(super) fn read(fields: &mut Fields) -> Result<Retention, ConfigError> {
        let path = fields.path_to("retention");
        match fields.value("retention") {
            None => Ok(Retention::Inherited),
            Some(Value::String(text)) if text == "forever" => Ok(Retention::Forever),
            Some(value @ Value::Mapping(_)) => policy(value, &path).map(Retention::Policy),
            Some(_) => Err(ConfigError::at(&path, "is neither `forever` nor a mapping of rules")),
        }
    }

    pub fn or(self, outer: Retention) -> Retention {
        if self == Retention::Inherited { outer } else { self }
    }

    /// `None`: everything is kept.
    pub fn policy(self) -> Option<Policy> {
        match self {
            Retention::Inherited => Some(DEFAULT),
            Retention::Forever => None,
            Retention::Policy(policy) => Some(policy),
        }
    }
}

/// The policy that rules on the command line make; `None` without any.
pub fn from_flags(flags: &[(&str, Option<&str>)]) -> Result<Option<Policy>, ConfigError> {
    let given = flags.iter().filter_map(|(key, value)| Some((Value::from(*key), Value::from((*value)?))));
    let rules: Mapping = given.collect();
    if rules.is_empty() { Ok(None) } else { policy(Value::Mapping(rules), "").map(Some) }
}

fn policy(value: Value, path: &str) -> Result<Policy, ConfigError> {
    let mut fields = Fields::new(value, path, &KEYS)?;
    let (within, snapshots) = (fields.duration("keep-within", SPAN)?, fields.duration("snapshots", SPAN)?);
    if within.is_some() && snapshots.is_some() {
        return Err(fields.error("snapshots", "is another word for keep-within; write one of them"));
    }
    let mut calendar = [None; 5];
    for unit in Calendar::ALL {
        calendar[unit as usize] = count(&mut fields, unit.key())?;
    }
    let policy = Policy {
        commits: fields.duration("commits", SPAN)?,
        keep_within: within.or(snapshots),
        keep_last: count(&mut fields, "keep-last")?,
        keep_min: count(&mut fields, "keep-min")?,
        calendar,
    };
    if policy.is_empty() {
        let problem = "has no rule, so that nothing would be kept; write what to keep, such as `keep-within: 30d`, or \
                       `retention: forever`";
        return Err(ConfigError::at(path, problem));
    }
    Ok(policy)
}

fn count(fields: &mut Fields, key: &str) -> Result<Option<Count>, ConfigError> {
    let Some(text) = fields.text(key)? else { return Ok(None) };
    if text == "forever" {
        return Ok(Some(Count::Forever));
    }
    match text.parse() {
        Ok(number) if COUNT.contains(&number) => Ok(Some(Count::Number(number))),
        _ => {
            let (low, high) = (COUNT.start(), COUNT.end());
            Err(fields.error(key, format!("{text:?} is neither `forever` nor a number from {low} to {high}")))
        }
    }
}

/// A policy as it is written, for people.
pub fn show(policy: Option<&Policy>) -> String {
    let Some(policy) = policy else { return "forever".to_owned() };
    let rules: Vec<String> =
        policy.rules(show_duration).into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
    rules.join(", ")
}
