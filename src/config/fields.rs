//! Typed, strict reading of one mapping of the configuration: every key is known, every value is checked once.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_yaml_ng::{Mapping, Value};

use super::ConfigError;
use super::units::{parse_duration, parse_size, show_duration, show_size};

/// The way to a key, as it is written in messages.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A mapping whose keys are all known; values are taken out one by one.
#[derive(Debug)]
pub struct Fields {
    path: String,
    entries: Mapping,
}

impl Fields {
    /// Refuses a value that is no mapping and any key that is not in `known`.
    pub fn new(value: Value, path: &str, known: &[&str]) -> Result<Fields, ConfigError> {
        let entries = match value {
            Value::Mapping(entries) => entries,
            Value::Null => Mapping::new(),
            _ => return Err(ConfigError::at(path, "is not a mapping of keys to values")),
        };
        for key in entries.keys() {
            let Some(key) = key.as_str() else {
                return Err(ConfigError::at(path, format!("the key {key:?} is not a text")));
            };
            if !known.contains(&key) {
                return Err(unknown_key(path, key, known));
            }
        }
        Ok(Fields { path: path.to_owned(), entries })
    }

    pub fn path_to(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// An error about the value of `key`.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::at(&self.path_to(key), problem)
    }

    /// The value as it stands; `None` where the key is missing or its value is null.
    pub fn value(&mut self, key: &str) -> Option<Value> {
        self.entries.remove(key).filter(|value| !value.is_null())
    }

    pub fn list(&mut self, key: &str) -> Result<Option<Vec<Value>>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Sequence(items)) => Ok(Some(items)),
            Some(_) => Err(self.error(key, "is not a list")),
        }
    }

    /// A text; a number stands for its digits, so that a numeric name needs no quotes.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Err(self.error(key, "is empty")),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.error(key, "is not a text")),
        }
    }

    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            // What came out of a variable is a text.
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(_) => Err(self.error(key, "is neither true nor false")),
        }
    }

    pub fn number(&mut self, key: &str, bounds: RangeInclusive<u32>) -> Result<Option<u32>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => Err(self.error(key, format!("{text:?} is not a number from {} to {}", bounds.start(), bounds.end()))),
        }
    }

    pub fn duration(&mut self, key: &str, bounds: RangeInclusive<Duration>) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let duration = parse_duration(&text).map_err(|problem| self.error(key, problem))?;
        if bounds.contains(&duration) {
            return Ok(Some(duration));
        }
        let (low, high) = (show_duration(*bounds.start()), show_duration(*bounds.end()));
        Err(self.error(key, format!("{text} is out of bounds: {low} to {high}")))
    }

    pub fn size(&mut self, key: &str, bounds: RangeInclusive<u64>) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let size = parse_size(&text).map_err(|problem| self.error(key, problem))?;
        if bounds.contains(&size) {
            return Ok(Some(size));
        }
        let (low, high) = (show_size(*bounds.start()), show_size(*bounds.end()));
        Err(self.error(key, format!("{text} is out of bounds: {low} to {high}")))
    }

    /// A percentage, a size, or `never`, which is the inner `None`.
    pub fn share_or_size(
        &mut self,
        key: &str,
        percents: RangeInclusive<u32>,
        sizes: RangeInclusive<u64>,
    ) -> Result<Option<Option<ShareOrSize>>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if text == "never" {
            return Ok(Some(None));
        }
        let (low, high) = (show_size(*sizes.start()), show_size(*sizes.end()));
        let bounds = format!("{}% to {}%, {low} to {high}, or never", percents.start(), percents.end());
        let limit = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse().ok().filter(|p| percents.contains(p)).map(ShareOrSize::Percent),
            None => parse_size(&text).ok().filter(|size| sizes.contains(size)).map(ShareOrSize::Bytes),
        };
        limit.map(|limit| Some(Some(limit))).ok_or_else(|| self.error(key, format!("{text:?} is none of {bounds}")))
    }
}

/// A limit that is written as a percentage or as a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareOrSize {
    Percent(u32),
    Bytes(u64),
}

fn unknown_key(path: &str, key: &str, known: &[&str]) -> ConfigError {
    let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, key));
    let near = nearest.filter(|near| strsim::damerau_levenshtein(near, key) <= 3.max(key.len() / 3));
    let hint = match near {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known here: {}", known.join(", ")),
    };
    ConfigError::at(&join(path, key), format!("unknown key; {hint}"))
}
