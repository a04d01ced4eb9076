//! Which files beside a database would be kept with it now.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::config::DatabaseConfig;
use crate::error::Error;
use crate::include::{self, Place};

/// `null` where none is asked for. Nothing is opened for reading.
pub fn found(database: &DatabaseConfig, text: &mut String) -> Result<Value, Error> {
    let include = database.settings.include.of(&database.path).map_err(Error::usage)?;
    let Some(include) = include else { return Ok(Value::Null) };
    let place = Place { database: database.path.clone(), state_dir: database.state_dir.clone() };
    let look = match include::look(&place, &include) {
        Ok(look) => look,
        Err(error) => {
            writeln!(text, "  files: the folder cannot be looked at: {error}").ok();
            return Ok(json!({ "error": error.to_string() }));
        }
    };
    let bytes: u64 = look.files.iter().map(|seen| seen.facts.bytes).sum();
    writeln!(text, "  files now: {}, {bytes} bytes", look.files.len()).ok();
    for seen in &look.files {
        writeln!(text, "    {}  {} bytes", seen.path, seen.facts.bytes).ok();
    }
    for left_out in &look.left_out {
        writeln!(text, "    NOT KEPT: {left_out}").ok();
    }
    let taken = look.files.iter().map(|seen| json!({ "path": seen.path.as_str(), "bytes": seen.facts.bytes }));
    let left_out = look.left_out.iter().map(|one| json!({ "path": one.what, "why": one.why.to_string() }));
    Ok(json!({ "taken": taken.collect::<Vec<_>>(), "left_out": left_out.collect::<Vec<_>>() }))
}
