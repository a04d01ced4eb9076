//! `replicate check --litestream FILE`: a configuration of Litestream's as one of ours.

use std::path::Path;

use super::print;
use crate::config::litestream::convert;
use crate::config::{Environment, read_text};
use crate::error::Error;

/// The configuration on stdout, what to know about it on stderr.
pub fn execute(file: &Path, environment: Environment<'_>) -> Result<(), Error> {
    let text = read_text(file)?;
    let converted =
        convert(&text, environment).map_err(|error| error.context(format!("cannot convert {}", file.display())))?;
    for note in &converted.notes {
        eprintln!("note: {note}");
    }
    print(&converted.yaml)
}
