//! Files beside a database that are to be kept with it: which they are, and what is in them, without being led astray.
//!
//! | file | holds |
//! |---|---|
//! | `patterns.rs` | what is wanted, and what is never taken |
//! | `look.rs` | which files there are now, by their names and facts alone |
//! | `open.rs` | opening what is below a folder and nothing else |
//! | `live.rs` | files that must not be opened, because this process has them open as databases |
//!
//! A path never leads out of the database's folder: the system itself refuses to follow one that does. Only regular files are opened.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fileset::{MAX_FILE_BYTES, RelativePath};

mod live;
mod look;
mod open;
mod patterns;

pub use live::Live;
pub use look::{LeftOut, Look, Seen, Why};
pub use open::Facts;
pub use patterns::{DEFAULT_EXCLUDES, Patterns};

/// A file that changes while it is read is read again so often.
const TRIES: u32 = 3;
/// Between two of these.
const PAUSE: Duration = Duration::from_millis(50);

/// What of the folder of one database is kept with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    pub patterns: Patterns,
    /// How often it is looked whether anything changed.
    pub interval: Duration,
}

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The database's main file.
    pub database: PathBuf,
    pub state_dir: PathBuf,
}

impl Place {
    /// The folder that paths are relative to.
    pub fn folder(&self) -> &Path {
        let folder = self.database.parent().unwrap_or(Path::new("."));
        if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
    }
}

/// The content of a file at one moment, and the facts that it had then.
#[derive(Debug)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub facts: Facts,
}

/// Reads a file that a look has found. The outer error is what keeps it out of the set.
pub fn read(place: &Place, path: &RelativePath) -> Result<Content, Why> {
    let folder = open::folder(place.folder()).map_err(|error| Why::Unreadable(error.to_string()))?;
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let (file, facts) = open::to_read(&folder, path, &live::inodes_of(&place.database))?;
        if facts.bytes > MAX_FILE_BYTES {
            return Err(Why::TooLarge(facts.bytes));
        }
        let mut bytes = Vec::new();
        let read = (&file).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| Why::Unreadable(error.to_string()))?;
        let after = Facts::of(&file.metadata().map_err(|error| Why::Unreadable(error.to_string()))?);
        if after == facts && bytes.len() as u64 == facts.bytes {
            return Ok(Content { bytes, facts });
        }
    }
    Err(Why::Changing)
}

/// What is there now. Opens nothing for reading.
pub fn look(place: &Place, include: &Include) -> io::Result<Look> {
    look::look(place, &include.patterns)
}

#[cfg(test)]
mod tests;
