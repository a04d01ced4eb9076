//! A path that stays where it belongs: below a folder, whatever that folder is.

use std::fmt;
use std::str::FromStr;

/// Bytes of a path, a bound for names that come from elsewhere.
const MAX_BYTES: usize = 512;
/// Bytes of a name, as in every file system.
const MAX_NAME_BYTES: usize = 255;

/// A path of one or more names, none of them empty, `.` or `..`, without control characters, not beginning with a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(String);

impl RelativePath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders that it leads through, from the outermost on.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }

    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why something is no path below a folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} {problem}")]
pub struct BadPath {
    found: String,
    problem: &'static str,
}

impl FromStr for RelativePath {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<RelativePath, BadPath> {
        let refused = |problem| Err(BadPath { found: text.chars().take(100).collect(), problem });
        if text.len() > MAX_BYTES || text.split('/').any(|name| name.len() > MAX_NAME_BYTES) {
            return refused("is longer than 512 bytes, or a name in it longer than 255");
        }
        if text.starts_with('/') {
            return refused("is an absolute path; paths are relative to the folder of the database");
        }
        if text.split('/').any(|name| name == "..") {
            return refused("leads out of the folder of the database");
        }
        if text.split('/').any(|name| name.is_empty() || name == ".") {
            return refused("has a name in it that is empty or a dot");
        }
        if text.chars().any(char::is_control) {
            return refused("has control characters in it");
        }
        Ok(RelativePath(text.to_owned()))
    }
}
